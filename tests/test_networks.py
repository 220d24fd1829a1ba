"""MLPs as rows against stacks of torch's modules: values, gradients, initialisation, export and refusals."""

import itertools

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from policykd import PolicyKDError
from policykd.core.networks import MLP
from policykd.export.deployed import DeployedPolicy
from policykd.tasks.spaces import ActionScale

MODULES = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
CHOICES = list(itertools.product(MODULES, [False, True]))


def draw(network, networks=3, samples=7, dtype=torch.float64):
    """Rows with a scale and a shift of their own in every normalisation, and inputs."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.stack([network.initialise(np.random.default_rng(seed)) for seed in range(networks)]).to(dtype)
    rows = rows + 0.1 * torch.randn(rows.shape, generator=generator, dtype=dtype)
    return rows, torch.randn(networks, samples, network.sizes[0], generator=generator, dtype=dtype)


def with_modules(network, row):
    """The network of one row as torch's modules, and their parameters."""
    modules = []
    for weight, bias, *norm in network.unpack(row.detach().unsqueeze(0)):
        modules.append(nn.Linear(*weight.shape[1:], dtype=row.dtype))
        modules[-1].weight, modules[-1].bias = nn.Parameter(weight[0].t().clone()), nn.Parameter(bias[0, 0].clone())
        if norm:
            modules.append(nn.LayerNorm(weight.shape[2], dtype=row.dtype))
            modules[-1].weight, modules[-1].bias = (nn.Parameter(part[0, 0].clone()) for part in norm)
        modules.append(MODULES[network.activation]())
    return nn.Sequential(*modules[:-1])


@pytest.mark.parametrize(("activation", "layer_norm"), CHOICES)
@pytest.mark.parametrize("sizes", [(4, 9, 6, 2), (3, 5, 1), (4, 2)], ids=str)
def test_outputs_and_gradients_are_those_of_torchs_modules(sizes, activation, layer_norm):
    network = MLP(sizes, activation=activation, layer_norm=layer_norm)
    rows, inputs = (tensor.requires_grad_() for tensor in draw(network))
    outputs = network(rows, inputs)
    weights = torch.randn(outputs.shape, dtype=outputs.dtype, generator=torch.Generator().manual_seed(1))
    to_rows, to_inputs = torch.autograd.grad(outputs, (rows, inputs), weights)
    for r in range(len(rows)):
        theirs = with_modules(network, rows[r])
        own_inputs = inputs[r].detach().requires_grad_()
        expected = theirs(own_inputs)
        torch.testing.assert_close(outputs[r], expected, rtol=1e-12, atol=1e-12)
        expected.backward(weights[r])
        flat = [parameter.grad.t().reshape(-1) for parameter in theirs.parameters()]
        torch.testing.assert_close(to_rows[r], torch.cat(flat), rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(to_inputs[r], own_inputs.grad, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("activation", "layer_norm"), CHOICES)
def test_gradients_are_the_slopes(activation, layer_norm):
    network = MLP((3, 5, 4, 2), squash=True, activation=activation, layer_norm=layer_norm)
    rows, inputs = (tensor.requires_grad_() for tensor in draw(network, networks=2, samples=4))
    assert torch.autograd.gradcheck(network, (rows, inputs))


def test_a_normalisation_starts_as_the_identity_and_draws_nothing():
    plain, normalised = MLP((4, 8, 6, 2)), MLP((4, 8, 6, 2), layer_norm=True)
    first, second = (network.initialise(np.random.default_rng(0)) for network in (plain, normalised))
    assert first.shape == (plain.parameter_count,) and second.shape == (normalised.parameter_count,)
    for layer, (weight, bias) in zip(
        normalised.unpack(second.unsqueeze(0)), plain.unpack(first.unsqueeze(0)), strict=True
    ):
        assert torch.equal(layer[0], weight) and torch.equal(layer[1], bias)
        for part, value in zip(layer[2:], (1, 0), strict=False):
            assert (part == value).all()
    orthogonal = normalised.initialise_orthogonal(np.random.default_rng(0), [2.0, 1.0, 0.5])
    weight, bias, scale, shift = normalised.unpack(orthogonal.unsqueeze(0))[0]
    torch.testing.assert_close(weight[0] @ weight[0].t(), 4 * torch.eye(4), atol=1e-5, rtol=0)
    drawn = np.random.default_rng(0).standard_normal((8, 4))
    # Of its factors Q and R, where R has a positive diagonal: so all rotations are as likely.
    q = np.linalg.solve(np.linalg.cholesky(drawn.T @ drawn), drawn.T)
    np.testing.assert_allclose(weight[0], 2 * q, atol=1e-6)
    assert not bias.any() and not shift.any() and (scale == 1).all()


@pytest.mark.parametrize(("activation", "layer_norm"), CHOICES)
def test_an_exported_policy_acts_alike(activation, layer_norm):
    network = MLP((4, 8, 6, 2), squash=True, activation=activation, layer_norm=layer_norm)
    rows, inputs = draw(network, networks=1, dtype=torch.float32)
    deployed = DeployedPolicy(network, rows[0], ActionScale(spaces.Box(-1, 1, (2,))), squash=True)
    torch.testing.assert_close(deployed(inputs[0]), network(rows, inputs)[0])


def test_what_is_no_network_is_refused_in_one_line():
    with pytest.raises(PolicyKDError, match=r"activation='gelu' is unknown: use one of relu, tanh, elu"):
        MLP((3, 4, 1), activation="gelu")
    for sizes in [(3,), (), (3, 0, 1)]:
        with pytest.raises(PolicyKDError, match="at least two positive widths"):
            MLP(sizes)
    assert MLP([3, 4, 1]) == MLP((3, 4, 1))
