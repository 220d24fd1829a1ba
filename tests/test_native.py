"""The C kernels against torch, in float32 and float64; building, caching and doing without them."""

import importlib.util
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from policykd import native
from policykd.core.networks import MLP, Adam, gradient
from policykd.core.recurrent import GRU
from policykd.native import build, kernels


def forget():
    """Let the kernels be looked for anew."""
    for cached in (kernels._load, kernels.available, kernels.library):
        cached.cache_clear()


needs_kernels = pytest.mark.skipif(not kernels.available(), reason=f"no kernels: {native.reason()}")
needs_posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX only")

SIZES = [(17, 64, 64, 6), (23, 64, 64, 1), (348, 256, 17), (105, 33, 1), (5, 1, 7, 3), (1, 16, 80, 2), (9, 4), (3, 1)]


@pytest.fixture
def fresh(monkeypatch):
    """Forget and afterwards reload the kernels."""
    monkeypatch.delenv("POLICYKD_NATIVE", raising=False)
    forget()
    yield monkeypatch
    monkeypatch.undo()
    forget()


def with_torch(rows, inputs, sizes):
    hidden = inputs
    for index, (weight, bias) in enumerate(MLP(sizes).unpack(rows)):
        hidden = torch.baddbmm(bias, hidden if index == 0 else hidden.relu(), weight)
    return hidden


def draw(sizes, networks, samples, seed=0, network=None):
    generator = torch.Generator().manual_seed(seed)
    count = (network or MLP(sizes)).parameter_count
    rows = torch.randn(networks, count, generator=generator) / max(sizes) ** 0.5
    inputs = torch.randn(networks, samples, sizes[0], generator=generator)
    weights = torch.randn(networks, samples, sizes[-1], generator=generator)
    return rows, inputs, weights


def results(function, rows, inputs, weights, sizes):
    """Outputs and the gradients of their weighted sum."""
    rows, inputs = rows.detach().requires_grad_(), inputs.detach().requires_grad_()
    outputs = function(rows, inputs, sizes)
    return outputs.detach(), *torch.autograd.grad(outputs, (rows, inputs), weights)


def check(rows, inputs, weights, sizes):
    """Compare with torch in float64, within what rounding explains, and with torch in float32, within twice that.

    Sums of products err by a few units of rounding times the sum of absolute products, whatever cancels in it. That
    sum is what absolute parameters, inputs and weights give: no ReLU is then closed, and nothing cancels.
    """
    doubles = [tensor.double() for tensor in (rows, inputs, weights)]
    measured = results(native.mlp, rows, inputs, weights, sizes)
    exact = results(with_torch, *doubles, sizes)
    magnitudes = results(with_torch, *(tensor.abs() for tensor in doubles), sizes)
    reference = results(with_torch, rows, inputs, weights, sizes)
    for mine, true, magnitude, torchs in zip(measured, exact, magnitudes, reference, strict=True):
        assert mine.shape == true.shape
        allowed = 8 * torch.finfo(torch.float32).eps * magnitude
        assert ((mine - true).abs() <= allowed).all()
        assert ((mine - torchs).abs() <= 2 * allowed).all()


@needs_kernels
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize(("networks", "samples"), [(1, 1), (4, 64), (2, 7), (3, 101)])
def test_outputs_and_gradients(sizes, networks, samples):
    check(*draw(sizes, networks, samples), sizes)


@needs_kernels
@pytest.mark.parametrize("sizes", SIZES, ids=str)
@pytest.mark.parametrize("layer_norm", [False, True], ids=["plain", "normalised"])
@pytest.mark.parametrize("activation", ["relu", "tanh", "elu"])
def test_activations_and_normalisation(sizes, activation, layer_norm):
    network = MLP(sizes, activation=activation, layer_norm=layer_norm)
    rows, inputs, weights = draw(sizes, 3, 37, network=network)
    doubles = rows.double(), inputs.double(), weights.double()
    measured, torchs = (
        results(function, rows, inputs, weights, sizes)
        for function in (lambda r, i, _: network(r, i), lambda r, i, _: network.activations(r, i)[-1])
    )
    exact = results(lambda r, i, _: network(r, i), *doubles, sizes)
    for mine, theirs, true in zip(measured, torchs, exact, strict=True):
        # Sums of up to 348 products, and units of a narrow layer that lie close together, which normalising spreads.
        allowed = 1e-5 + 1e-5 * true.abs().amax() + 4 * (theirs - true).abs().amax()
        assert ((mine - true).abs() <= allowed).all()


@needs_kernels
def test_elu_is_exact_to_some_units_in_the_last_place():
    inputs = torch.cat((torch.linspace(-30, 30, 100_001), -torch.logspace(-20, 1, 10_001))).view(1, -1, 1)
    identity = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    measured, exact = native.mlp(identity, inputs, (1, 1, 1), "elu"), torch.nn.functional.elu(inputs.double())
    assert ((measured - exact).abs() <= 2 * torch.finfo(torch.float32).eps * exact.abs()).all()
    special = torch.tensor([0.0, torch.inf, -torch.inf, torch.nan]).view(1, 4, 1)
    found = native.mlp(identity, special, (1, 1, 1), "elu")
    torch.testing.assert_close(found, torch.nn.functional.elu(special), rtol=0, atol=0, equal_nan=True)


@needs_kernels
def test_tanh_is_exact_to_some_units_in_the_last_place():
    inputs = torch.cat((torch.linspace(-12, 12, 100_001), torch.logspace(-20, 1, 10_001))).view(1, -1, 1)
    identity = torch.tensor([[1.0, 0.0, 1.0, 0.0]])
    measured, exact = native.mlp(identity, inputs, (1, 1, 1), "tanh"), inputs.double().tanh()
    assert ((measured - exact).abs() <= 3 * torch.finfo(torch.float32).eps * exact.abs()).all()
    special = torch.tensor([0.0, torch.inf, -torch.inf, torch.nan]).view(1, 4, 1)
    found = native.mlp(identity, special, (1, 1, 1), "tanh")
    torch.testing.assert_close(found, special.tanh(), rtol=3e-7, atol=0, equal_nan=True)


@needs_kernels
def test_any_strides():
    sizes = (17, 64, 64, 6)
    rows, inputs, weights = draw(sizes, 4, 32)
    wide = torch.zeros(4, rows.shape[1] + 5)
    wide[:, 3:-2] = rows
    batch = torch.randn(4, 32, 40)
    for strided_rows, strided_inputs, strided_weights in [
        (wide[:, 3:-2], inputs, weights),
        (rows[::2].expand(2, -1), batch[::2, :, 5:22], weights[::2]),
        (rows[:1].expand(4, -1), inputs[:1].expand(4, -1, -1), weights.mT.contiguous().mT),
        (rows, inputs.mT.contiguous().mT, weights[:, :1].expand(4, 32, 6)),
    ]:
        assert native.usable(strided_rows, strided_inputs)
        check(strided_rows, strided_inputs, strided_weights, sizes)
    assert not native.usable(rows.mT.contiguous().mT, inputs)


@needs_kernels
def test_nothing_is_computed_or_kept_unasked(monkeypatch):
    sizes = (5, 32, 32, 3)
    rows, inputs, weights = draw(sizes, 2, 8)
    _, to_rows, to_inputs = results(with_torch, rows, inputs, weights, sizes)
    asked = []
    backward, forward = kernels.backward, kernels.forward

    def record(*arguments):
        asked.append(arguments[-2:])
        return backward(*arguments)

    monkeypatch.setattr(kernels, "backward", record)
    leaf = inputs.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(native.mlp(rows, leaf, sizes), leaf, weights)[0], to_inputs)
    leaf = rows.clone().requires_grad_()
    torch.testing.assert_close(torch.autograd.grad(native.mlp(leaf, inputs, sizes), leaf, weights)[0], to_rows)
    assert asked == [(False, True), (True, False)]

    kept = []
    monkeypatch.setattr(kernels, "forward", lambda *arguments: kept.append(arguments[-1]) or forward(*arguments))
    with torch.no_grad():
        assert not native.mlp(leaf, inputs, sizes).requires_grad
    native.mlp(rows, inputs, sizes)
    assert kept == [False, False]


@needs_kernels
def test_gradients_are_not_differentiable_again():
    sizes = (3, 8, 1)
    rows, inputs, _ = draw(sizes, 1, 4)
    leaf = rows.requires_grad_()
    (first,) = torch.autograd.grad(native.mlp(leaf, inputs, sizes).square().sum(), leaf, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@needs_kernels
def test_not_a_number_stays_visible():
    sizes = (3, 20, 20, 2)
    rows, inputs, weights = draw(sizes, 2, 15)
    inputs[0, 4, 1] = torch.nan
    outputs, to_rows, _ = results(native.mlp, rows, inputs, weights, sizes)
    assert outputs[0, 4].isnan().all() and not outputs[0, :4].isnan().any() and not outputs[1].isnan().any()
    assert to_rows[0].isnan().any() and not to_rows[1].isnan().any()


@needs_kernels
def test_empty_batch():
    sizes = (3, 20, 2)
    rows, inputs, weights = draw(sizes, 2, 0)
    outputs, to_rows, to_inputs = results(native.mlp, rows, inputs, weights, sizes)
    assert (outputs.shape, to_inputs.shape, to_rows.shape) == ((2, 0, 2), (2, 0, 3), rows.shape)
    assert not to_rows.any()


@needs_kernels
def test_shapes_that_do_not_fit_are_refused():
    rows, inputs, _ = draw((3, 8, 1), 2, 4)
    for bad_rows, bad_inputs, sizes in [
        (rows[:, 1:], inputs, (3, 8, 1)),
        (rows[:1], inputs, (3, 8, 1)),
        (rows, inputs[..., :2], (3, 8, 1)),
        (rows, inputs, (3,)),
        (rows, inputs, (3, 0, 1)),
    ]:
        with pytest.raises(ValueError, match=r"fit|widths"):
            native.mlp(bad_rows, bad_inputs, sizes)


@needs_kernels
def test_usable_only_for_what_the_kernels_can_do():
    rows, inputs, _ = draw((3, 8, 1), 2, 4)
    assert native.usable(rows, inputs) and native.mlp(rows, inputs, (3, 8, 1)) is not None
    wrong = [(rows.double(), inputs.double()), (rows, inputs.double()), (rows.to("meta"), inputs.to("meta"))]
    for others in [*wrong, (rows.mT.contiguous().mT, inputs)]:
        assert not native.usable(*others) and native.mlp(*others, (3, 8, 1)) is None
    torch.set_num_threads(2)
    assert not native.usable(rows, inputs) and native.mlp(rows, inputs, (3, 8, 1)) is None


@needs_kernels
def test_adam_follows_torch():
    rows = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    theirs = rows.clone().requires_grad_()
    mine, optimiser = rows.clone(), Adam(rows)
    other = torch.optim.Adam([theirs], lr=1e-2)
    for seed in range(10):
        theirs.grad = torch.randn(3, 1000, generator=torch.Generator().manual_seed(seed))
        other.step()
        version = mine._version
        optimiser.step(mine, theirs.grad, torch.tensor(1e-2) if seed % 2 else 1e-2)
        assert mine._version > version  # else autograd would miss the write
    # A step is about 1e-2 long and exact to some 1e-7 of that; each sum is rounded to 1e-7 of a parameter of about 1.
    torch.testing.assert_close(mine, theirs.detach(), rtol=5e-7, atol=5e-8)


def steps_of_adam(step, rows, gradients, rates):
    """Rows and moments after some steps."""
    rows, adam = rows.clone(), Adam(rows)
    for gradient_ in gradients:
        step(adam, rows, gradient_, rates)
    return rows, adam.exp_avg, adam.exp_avg_sq


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_learning_rate_per_row_is_as_many_separate_runs(path, dtype):
    generator = torch.Generator().manual_seed(0)
    # Torch's loops round the ragged end of a tensor differently; the kernels treat every row alike.
    length = 1003 if path == "native" and dtype is torch.float32 else 1024
    rows = torch.randn(3, length, generator=generator, dtype=dtype)
    gradients = [torch.randn(rows.shape, generator=generator, dtype=dtype) for _ in range(5)]
    rates = torch.tensor([[1e-2], [3e-4], [0.0]], dtype=dtype)
    together = steps_of_adam(Adam.step, rows, gradients, rates)
    assert torch.equal(together[0][2], rows[2]) and not torch.equal(together[0][1], rows[1])
    for r in range(3):
        for rate in (float(rates[r]), rates[r, 0]):
            alone = steps_of_adam(Adam.step, rows[r : r + 1], [g[r : r + 1] for g in gradients], rate)
            assert all(torch.equal(one[r], other[0]) for one, other in zip(together, alone, strict=True))
    columns = torch.cat((rates, rates), 1)[:, 1:]  # with strides
    assert all(map(torch.equal, steps_of_adam(Adam.step, rows, gradients, columns), together))


@pytest.mark.usefixtures("path")
def test_actors_that_are_parts_of_longer_rows_make_the_same_steps():
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(3, 100, generator=generator)
    gradients = [torch.randn(3, 64, generator=generator) for _ in range(3)]
    part, alone = whole.clone()[:, :64], whole[:, :64].contiguous()
    adams = Adam(part), Adam(alone)
    for gradient_ in gradients:
        for rows, adam in zip((part, alone), adams, strict=True):
            adam.step(rows, gradient_, 1e-2)
    assert torch.equal(part, alone) and not torch.equal(alone, whole[:, :64])


@needs_kernels
def test_the_kernels_serve_parts_of_longer_rows():
    rows, moments = torch.zeros(2, 10)[:, :4], torch.zeros(2, 2, 4)
    options = {"steps": 1.0, "learning_rate": 0.1, "betas": (0.9, 0.999), "eps": 1e-8}
    assert native.adam_(rows, *moments, torch.ones(2, 4), **options)
    torch.testing.assert_close(rows, torch.full((2, 4), -0.1))


def test_the_paths_of_tests_are_two(path):
    outputs = native.mlp(*draw((3, 8, 1), 2, 4)[:2], (3, 8, 1))
    assert (outputs is None) == (path == "torch")


def test_a_learning_rate_per_row_compiles():
    rows = torch.randn(3, 40, generator=torch.Generator().manual_seed(0))
    gradients, rates = [rows.sin(), rows.cos()], torch.tensor([[1e-2], [3e-4], [0.0]])
    torch.compiler.reset()
    compiled = torch.compile(Adam.step, fullgraph=True, dynamic=False, backend="aot_eager")
    found, expected = (steps_of_adam(step, rows, gradients, rates) for step in (compiled, Adam.step))
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_learning_rates_of_another_shape_are_refused():
    rows = torch.zeros(3, 3)
    for rates in (torch.zeros(3), torch.zeros(1, 3), torch.zeros(2, 1)):
        with pytest.raises(ValueError, match=r"learning rates must be one number or \(3, 1\)"):
            Adam(rows).step(rows, rows, rates)


@needs_kernels
def test_adam_refuses_what_it_cannot_write():
    rows = torch.zeros(2, 10)
    options = {"steps": 1.0, "learning_rate": 0.1, "betas": (0.9, 0.999), "eps": 1e-8}
    with pytest.raises(ValueError, match="contiguous"):
        native.adam_(torch.zeros(2, 20)[:, ::2], rows.clone(), rows.clone(), rows, **options)
    with pytest.raises(ValueError, match="shape"):
        native.adam_(rows, rows, rows, rows[:1], **options)


def everything(threads):
    """Outputs, gradients and a step of Adam for networks that are large enough to be shared out."""
    found = []
    for sizes, networks, samples, layer_norm in [((17, 64, 64, 6), 20, 64, True), ((23, 256, 256, 1), 3, 64, False)]:
        network = MLP(sizes, layer_norm=layer_norm)
        rows, inputs, weights = draw(sizes, networks, samples, network=network)
        with native.threads(threads):
            outputs, *gradients = results(lambda r, i, _, network=network: network(r, i), rows, inputs, weights, sizes)
            rows, adam = rows.repeat(4, 1), Adam(rows.repeat(4, 1))
            adam.step(rows, gradients[0].repeat(4, 1), torch.linspace(0, 1e-2, len(rows)).unsqueeze(1))
        found += [outputs, *gradients, rows, adam.exp_avg_sq]
    with native.threads(threads):
        found += through_time(native.gru, *sequences(7, 64, 20, 16, 5))
    return found


def sequences(width, units, length, batch, networks, dtype=torch.float32):
    """Parameters, inputs, where episodes go on and the first state of a GRU."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(networks, 3 * units * (width + units + 2) + 9, generator=generator, dtype=dtype) / units**0.5
    inputs = torch.randn(networks, length, batch, width, generator=generator, dtype=dtype)
    continues = torch.rand(networks, length, batch, generator=generator) > 0.2
    return rows[:, :-9], inputs, continues, torch.randn(networks, batch, units, generator=generator, dtype=dtype)


def through_time(function, rows, inputs, continues, state):
    """States and the gradients of a weighted sum of them."""
    leaves = [tensor.detach().requires_grad_() for tensor in (rows, inputs, state)]
    states = function(leaves[0], leaves[1], continues, leaves[2])
    weights = torch.arange(states[0].numel(), dtype=states.dtype).view(states[:1].shape).sin()
    return [states.detach(), *torch.autograd.grad(states, leaves, weights.expand(states.shape))]


@needs_kernels
@pytest.mark.parametrize(
    "shape", [(17, 64, 20, 16, 5), (1, 1, 1, 1, 2), (3, 5, 4, 7, 2), (9, 130, 3, 40, 2), (2, 16, 6, 1, 3)]
)
def test_units_along_sequences_are_torchs(shape):
    arguments = sequences(*shape)
    found = through_time(native.gru, *arguments)
    network = GRU(*shape[:2], MLP((sum(shape[:2]), 1)))
    exact = through_time(network._states, *(x.double() if x.is_floating_point() else x for x in arguments))
    for mine, theirs in zip(found, exact, strict=True):
        scale = max(1.0, float(theirs.abs().max()))
        torch.testing.assert_close(mine.double(), theirs, rtol=0, atol=3e-6 * scale)
    with torch.no_grad():
        assert torch.equal(native.gru(*arguments), found[0])
    alone = through_time(native.gru, *(x[1:2] for x in arguments))
    assert all(torch.equal(one[1:2], other) for one, other in zip(found, alone, strict=True))


@needs_kernels
def test_an_episode_forgets_what_is_no_number_and_sends_nothing_back():
    rows, inputs, continues, state = sequences(3, 16, 4, 2, 1)
    state[0, 0], continues[0, 0] = float("nan"), torch.tensor([False, True])
    states, to_rows, _, to_state = through_time(native.gru, rows, inputs, continues, state)
    assert all(part.isfinite().all() for part in (states, to_rows, to_state))
    assert not to_state[0, 0].any() and to_state[0, 1].all()


@needs_kernels
def test_units_refuse_what_does_not_fit_and_leave_other_numbers_to_torch():
    rows, inputs, continues, state = sequences(3, 16, 4, 2, 1)
    with pytest.raises(ValueError, match="do not fit"):
        native.gru(rows, inputs[..., 1:], continues, state)
    with pytest.raises(ValueError, match="do not fit"):
        native.gru(rows, inputs, continues[:, 1:], state)
    assert native.gru(rows.double(), inputs.double(), continues, state.double()) is None


@needs_kernels
def test_numbers_do_not_depend_on_the_number_of_threads():
    expected = everything(1)
    for threads in (2, 3, 5):
        for _ in range(3):
            assert all(map(torch.equal, everything(threads), expected))


@needs_kernels
def test_threads_are_used_and_given_back(monkeypatch):
    before = kernels.set_threads(1)
    assert before == 1
    with native.threads(3) as most, native.threads("auto", learners=1) as inner:
        assert (most, inner, kernels.set_threads(1)) == (3, 1, 1)
    assert kernels.set_threads(1) == 1
    torch.set_num_threads(3)  # "auto" is as many as torch has, at most one per core and learner
    with native.threads() as most, native.threads("auto", learners=1) as inner:
        assert (most, inner) == (min(3, native.cores()), 1)
    monkeypatch.setenv("POLICYKD_THREADS", "5")
    with native.threads() as most, native.threads("auto", learners=4) as inner:
        assert (most, inner) == (5, 4)
    for wrong in (0, True, "two"):
        with pytest.raises(ValueError, match=r'must be a positive number or "auto"'), native.threads(wrong):
            pass


@needs_kernels
@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="needs Linux to count threads")
def test_small_calls_stay_on_one_thread():
    program = (
        "import os, torch; from policykd import native; from policykd.core.networks import MLP\n"
        "torch.set_num_threads(1)\n"
        "count = lambda: len(os.listdir('/proc/self/task'))\n"
        "call = lambda net, r, b: net(torch.zeros(r, net.parameter_count), torch.zeros(r, b, net.sizes[0]))\n"
        "with native.threads(3):\n"
        "    call(MLP((17, 64, 64, 6)), 2, 64); before = count()\n"
        "    call(MLP((17, 64, 64, 6)), 20, 256); print(count() - before)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.split() == ["2"], result.stderr


@needs_kernels
def test_threads_survive_a_fork_and_callers_on_several_threads():
    if torch.cuda.is_initialized():  # by the tests of the GPU, in the same process
        pytest.skip("torch's autograd has threads for GPUs, which do not survive a fork")
    expected = everything(1)
    everything(3)  # the pool is there
    child = os.fork()
    if child == 0:
        os._exit(0 if all(map(torch.equal, everything(3), expected)) else 1)
    assert os.waitpid(child, 0)[1] == 0
    with ThreadPoolExecutor(3) as executor:
        for found in executor.map(everything, [3] * 6):
            assert all(map(torch.equal, found, expected))


@needs_kernels
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_inside_compiled_functions(backend):
    if backend == "inductor" and not shutil.which(os.environ.get("CXX", "g++")):
        pytest.skip("inductor needs a C++ compiler")
    policy = MLP((3, 16, 2), squash=True, activation="elu", layer_norm=True)
    critic = MLP((5, 16, 1), activation="tanh")
    (rows, observations, _), critics = draw(policy.sizes, 2, 8, network=policy), draw(critic.sizes, 2, 8)[0]

    def ascend(rows, critics, observations):  # the gradient of rows passes through the inputs of the critic
        def loss(parameters):
            actions = policy(parameters, observations)
            values = critic(critics, torch.cat([observations, actions], -1))
            return -values.mean((1, 2)), {"value": values.detach().mean((1, 2))}

        with torch.no_grad():
            before = policy(rows, observations)
        return *gradient(loss, rows), before

    expected_gradient, expected_info, expected_before = ascend(rows, critics, observations)
    native.prepare_to_compile()
    torch.compiler.reset()
    with torch.no_grad():
        compiled = torch.compile(ascend, fullgraph=True, dynamic=False, backend=backend)
        found, info, before = compiled(rows, critics, observations)
    assert expected_gradient.abs().max() > 0
    torch.testing.assert_close(found, expected_gradient)
    torch.testing.assert_close(info["value"], expected_info["value"])
    torch.testing.assert_close(before, expected_before)


def test_importing_the_kernels_does_not_import_the_compiler():
    program = "import sys, policykd.core.networks; print('torch._dynamo' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout.split() == ["False"], result.stderr


OPERATORS = """
import torch
from policykd.native import kernels, prepare_to_compile
prepare_to_compile()
inputs, gradient, ops, sizes = torch.randn(2, 5, 3), torch.randn(2, 5, 2), torch.ops.policykd, (3, 4, 2)
for activation, norm in ("relu", False), ("tanh", False), ("elu", False), ("relu", True), ("elu", True):
    shape = sizes, activation, norm
    rows = torch.randn(2, 3 * 4 + 4 + 8 * norm + 4 * 2 + 2)
    outputs, hidden = kernels.forward(rows, inputs, *shape, True)
    assert torch.equal(ops.mlp(rows, inputs, *shape), outputs)
    kept = kernels.layout(*shape).kept
    assert all(map(torch.equal, ops.mlp_kept(rows, inputs, *shape, kept), (outputs, hidden)))
    expected = kernels.backward(gradient, rows, inputs, hidden, *shape, True, True)
    for ask in (True, True), (True, False), (False, True):
        found = ops.mlp_backward(gradient, rows, inputs, hidden, *shape, *ask)
        assert all(torch.equal(f, e) if asked else f.numel() == 0 for f, e, asked in zip(found, expected, ask))
try:
    ops.mlp(rows[:, 1:], inputs, *shape)
except ValueError as error:
    print("do not fit" in str(error), [path for path in open("/proc/self/maps") if "/ops-" in path] != [])
"""


@needs_kernels
@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux to see which library is loaded")
@pytest.mark.parametrize("compiler", ["works", "fails"])
def test_operators_in_cpp_and_through_python(compiler):
    if compiler == "works" and not shutil.which(os.environ.get("CXX", "c++")):
        pytest.skip("needs a C++ compiler")
    environment = {**os.environ, **({"CXX": "false"} if compiler == "fails" else {})}
    result = subprocess.run([sys.executable, "-c", OPERATORS], env=environment, capture_output=True, text=True)
    assert result.stdout.split() == ["True", str(compiler == "works")], result.stderr


def assert_torch_takes_over(expected_reason):
    rows, inputs, _ = draw((3, 8, 1), 2, 4)
    assert not native.usable(rows, inputs)
    assert expected_reason in native.reason()
    torch.testing.assert_close(MLP((3, 8, 1))(rows, inputs), with_torch(rows, inputs, (3, 8, 1)))
    assert native.mlp(rows, inputs, (3, 8, 1)) is None


def test_without_a_compiler(fresh):
    fresh.setattr(build.shutil, "which", lambda name: None)
    assert_torch_takes_over("no C compiler")


@needs_posix
def test_with_a_compiler_that_fails(fresh, tmp_path):
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    fresh.setenv("CC", "false")
    assert_torch_takes_over("false failed")
    assert not list((tmp_path / "policykd").iterdir())


@needs_kernels
@needs_posix
@pytest.mark.parametrize("damage", ["cut", "zeroed"])
def test_a_damaged_library_in_the_cache_is_built_again(damage, monkeypatch, tmp_path):
    """Where the loader maps it, the process would end by a signal."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(build, "COMMON_FLAGS", [*build.COMMON_FLAGS, "-O0"])
    library = build.build()
    whole = library.read_bytes()
    library.write_bytes(whole[:8192] + bytes(len(whole) - 8192 if damage == "zeroed" else 0))
    again = build.build()
    assert again.read_bytes() == whole and [*again.parent.iterdir()] == [again]
    stamp = again.stat().st_mtime_ns
    assert build.build() == again and again.stat().st_mtime_ns == stamp  # what is whole is kept


@needs_posix
@pytest.mark.parametrize("lines", ["f\\344hig", "one\\ntwo"])
def test_what_a_failing_compiler_says_is_one_line_in_any_encoding(fresh, tmp_path, lines):
    compiler = tmp_path / "cc"
    compiler.write_text(f"#!/bin/sh\nprintf '{lines}' >&2\nprintf '{lines}'\nexit 1\n")
    compiler.chmod(0o755)
    fresh.setenv("XDG_CACHE_HOME", str(tmp_path))
    fresh.setenv("CC", str(compiler))
    assert_torch_takes_over("cc failed")
    assert "\n" not in native.reason()


def test_a_compiler_that_is_no_command(fresh):
    fresh.setenv("CC", "cc 'open")
    assert_torch_takes_over("CC=cc 'open is no command")


def test_switched_off(fresh):
    fresh.setenv("POLICYKD_NATIVE", "0")
    assert_torch_takes_over("POLICYKD_NATIVE=0")


@needs_posix
def test_cache_folder_is_private(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = build.cache_folder()
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o770)
    with pytest.raises(build.Unavailable, match="only this user"):
        build.cache_folder()
    folder.chmod(0o700)
    with monkeypatch.context() as other_user:
        other_user.setattr(os, "getuid", lambda: folder.stat().st_uid + 1)
        with pytest.raises(build.Unavailable, match="only this user"):
            build.cache_folder()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(build.Unavailable, match="only this user"):
        build.cache_folder()


@needs_kernels
def test_two_processes_build_at_once(tmp_path):
    # The file alone, as importing the package would import torch twice more.
    program = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('build', sys.argv[1]);"
        "m = u.module_from_spec(s); s.loader.exec_module(m); m.COMMON_FLAGS.append('-O0'); m.load(); print(m.build())"
    )
    command = [sys.executable, "-c", program, importlib.util.find_spec("policykd.native.build").origin]
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    processes = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    printed = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0, 0]
    assert [str(path) for path in (tmp_path / "policykd").iterdir()] == list(printed)  # one, nothing left over
