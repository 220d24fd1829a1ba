"""Products with operands in bfloat16: what is rounded and what is not, and runs that ask for it."""

import itertools

import pytest
import torch
from tiny import POINT, TINY

from policykd import DualStudent, PolicyKDError, native
from policykd.core.networks import MLP, state_tensors
from policykd.native import kernels
from policykd.training import arguments

needs_bfloat16 = pytest.mark.skipif(bool(native.supports("bfloat16")), reason=native.supports("bfloat16"))
SIZES = [(17, 64, 64, 6), (5, 256, 256, 1), (9, 33, 47, 70, 3), (40, 33, 64, 2), (3, 32, 16, 40, 1)]


def rounded(tensor):
    return tensor.bfloat16().float()


class Rounded(torch.autograd.Function):
    """x @ w with rounded operands, also those of its gradients."""

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return rounded(x) @ rounded(w)

    @staticmethod
    def backward(ctx, gradient):
        x, w = ctx.saved_tensors
        gradient = rounded(gradient)
        return gradient @ rounded(w).mT, rounded(x).mT @ gradient


def by_hand(network, rows, inputs):
    """The network in torch, its products between wide hidden layers rounded."""
    layers, hidden = network.unpack(rows), inputs
    for index, (weight, bias, *_) in enumerate(layers):
        inner = 0 < index < len(layers) - 1 and min(weight.shape[1:]) >= 32
        hidden = (Rounded.apply(hidden, weight) if inner else hidden @ weight) + bias
        hidden = hidden if index == len(layers) - 1 else hidden.relu()
    return hidden


@needs_bfloat16
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("samples", [64, 37, 5])
def test_products_between_hidden_layers_are_rounded_and_no_others(sizes, samples):
    network, generator = MLP(sizes), torch.Generator().manual_seed(0)
    rows = torch.randn(3, network.parameter_count, generator=generator) / max(sizes) ** 0.5
    inputs = torch.randn(3, samples, sizes[0], generator=generator)
    weights = torch.randn(3, samples, sizes[-1], generator=generator)

    def results(function):
        parts = rows.clone().requires_grad_(), inputs.clone().requires_grad_()
        outputs = function(*parts)
        return [outputs.detach(), *torch.autograd.grad((outputs * weights).sum(), parts)]

    exact = results(lambda r, i: network(r, i))
    with native.precision("bfloat16"):
        found = results(lambda r, i: network(r, i))
    for mine, expected, plain in zip(found, results(lambda r, i: by_hand(network, r, i)), exact, strict=True):
        scale = expected.abs().max()
        assert (mine - expected).abs().max() < 2e-3 * scale  # a sum that rounds the other way moves an operand
        assert (mine - expected).abs().mean() < 1e-5 * scale and (mine - plain).abs().mean() < 0.01 * scale
    inner = any(min(pair) >= 32 for pair in itertools.pairwise(sizes[1:-1]))
    assert torch.equal(found[0], exact[0]) != inner
    assert all(map(torch.equal, results(lambda r, i: network(r, i)), exact))  # the context is over


@needs_bfloat16
def test_a_run_in_bfloat16_is_another_run_and_goes_on_bit_for_bit(tmp_path):
    settings = {**TINY, "net_arch": (64, 64), "n_eval_episodes": 0}

    def make(**changed):
        return DualStudent(POINT, backbone="td3", config={**settings, **changed}, compile=False, device="cpu")

    def tensors(agent):
        return torch.cat([tensor.flatten().float() for tensor in state_tensors(agent.learner).values()])

    plain, whole = make().learn(120), make(matmul_precision="bfloat16").learn(120)
    assert not torch.equal(tensors(plain), tensors(whole))
    half = make(matmul_precision="bfloat16")
    half.learn(120, callback=lambda local_variables, _: half.num_timesteps < 60)
    half.save(tmp_path / "half", include_replay=True)
    again = DualStudent.load(tmp_path / "half", device="cpu")
    again.learn(120 - again.num_timesteps)
    assert torch.equal(tensors(again), tensors(whole))
    assert kernels.set_bfloat16(False) == 0  # nothing is left switched on


def test_a_machine_that_cannot_says_so_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(kernels, "available", lambda: False)
    monkeypatch.setattr(kernels, "reason", lambda: "no C compiler found")
    config = {**TINY, "matmul_precision": "bfloat16"}
    with pytest.raises(PolicyKDError, match="matmul_precision: bfloat16 needs the native kernels: no C compiler"):
        DualStudent(POINT, config=config, device="cpu", run_dir=tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(PolicyKDError, match="is for the kernels of the CPU"):
        arguments.check_precision(DualStudent(POINT, config=config, device="cpu").config, torch.device("cuda"))
    with native.precision("float32"):
        pass
