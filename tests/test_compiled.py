"""``torch.compile`` over the update of every backbone: the same numbers, and agents that do not disturb each other."""

import gc
import types

import pytest
import torch
from test_teacher_student import COPY, expert
from tiny import POINT, TINY

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.core.networks import state_tensors
from policykd.training.compiling import MOST_FORMS, Direct, PerSignature, can_compile

ROLLOUT = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "distill_batch_size": 8, "distill_gradient_steps": 2}
CONFIGS = {
    "ddpg": TINY,
    "td3": TINY,
    "sac": {**TINY, "soft_value": True},
    "ppo": {**ROLLOUT, "net_arch": (64, 64), "n_eval_episodes": 1, "normalize_observation": True},
}

pytestmark = pytest.mark.skipif(
    not can_compile(torch.device("cpu")), reason="torch.compile needs a C++ compiler or a GPU"
)


def make(backbone, **arguments):
    return DualStudent(POINT, backbone=backbone, config=CONFIGS[backbone], **arguments)


def test_a_graph_belongs_to_the_shapes_of_its_arguments_also_where_tuples_come_again():
    def compiled_for(args):
        raise AssertionError("there is a graph")

    add = PerSignature(compiled_for, compiled_for)
    pairs = [(torch.zeros(2, size), torch.zeros(size)) for size in range(1, 20)]
    for size, pair in enumerate(pairs):
        add.graphs[(tuple((part.shape, part.stride()) for part in pair), True)] = lambda pair, flag, size=size: size
    for _ in range(2):
        assert [add(pair, True) for pair in pairs] == list(range(19))
    assert add((torch.zeros(2, 3), torch.zeros(3)), True) == 2
    assert len(add.forms) <= MOST_FORMS


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["td3", "sac", "ppo"])  # DDPG: the test of two agents
def test_the_compiled_update_is_the_eager_one(backbone):
    steps = 2 * (64 if backbone == "ppo" else 30)
    eager, compiled = (make(backbone, compile=compile).learn(steps) for compile in (False, True))
    assert compiled.recipe.compiled and compiled.recipe.n_updates == eager.recipe.n_updates > 0
    graphs = compiled.recipe._learn.graphs.values()  # called as they are: not through torch's own way
    assert graphs and all(isinstance(graph, Direct) for graph in graphs)
    assert all(isinstance(graph.graph, types.MethodType) for graph in graphs)
    expected = state_tensors(eager.learner)
    for name, tensor in state_tensors(compiled.learner).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=0, msg=name)  # sums in another order


def test_a_long_run_compiles_after_its_first_line_with_updates_and_resumes_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("policykd.training.compiling.PAYS", {"cpu": 20})
    monkeypatch.setattr("policykd.training.recipes.peers_on_replay.compile_step", lambda step, device: step)

    def trained(agent, until=96):
        seen = []
        agent.learn(
            96 - agent.num_timesteps,
            lambda *_: seen.append((agent.num_timesteps, agent.recipe.compiled)) or seen[-1][0] < until,
        )
        return agent, next((steps for steps, compiled in seen if compiled), None)

    def new():
        return DualStudent(POINT, backbone="td3", config={**TINY, "learning_starts": 20, "log_freq": 16})

    assert trained(new().learn(10))[1] is None, "how long the first training was has decided"
    whole, compiled = trained(new())
    assert compiled == 50, "updates begin at 42 steps of the group, and the first line with some is that of 48"
    expected = state_tensors(whole.learner)
    for stop in (10, 44, 48, 60):
        trained(new(), stop)[0].save(tmp_path / "half", include_replay=True)
        again, compiled = trained(DualStudent.load(tmp_path / "half.safetensors"))
        assert compiled == max(50, stop + 2)
        assert all(torch.equal(tensor, expected[name]) for name, tensor in state_tensors(again.learner).items())


@pytest.mark.nightly
def test_peers_at_their_own_pace_compiled():
    config = {**TINY, "vary": {"gradient_steps": (1, 3)}}
    eager, compiled = (
        DualStudent(POINT, backbone="td3", config=config, compile=compile).learn(60) for compile in (False, True)
    )
    expected = state_tensors(eager.learner)
    for name, tensor in state_tensors(compiled.learner).items():
        torch.testing.assert_close(tensor, expected[name], atol=1e-5, rtol=0, msg=name)


@pytest.mark.nightly
@pytest.mark.parametrize("backbone", ["td3", "ppo"])
def test_a_compiled_run_resumes_bit_for_bit(tmp_path, backbone):
    steps, stop = (256, 128) if backbone == "ppo" else (120, 60)
    whole = make(backbone, compile=True).learn(steps)
    half = make(backbone, compile=True)
    half.learn(steps, callback=lambda local_variables, _: half.num_timesteps < stop)
    half.save(tmp_path / "half", include_replay=True)
    again = DualStudent.load(tmp_path / "half.safetensors")
    again.learn(steps - again.num_timesteps)
    assert again.recipe.compiled and again.num_timesteps == steps
    expected = state_tensors(whole.learner)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state_tensors(again.learner).items())


def looking(student, teacher):
    """A divergence that torch cannot compile: it looks at numbers."""
    distance = (student.actions - teacher.actions).square().sum(-1)
    return distance if distance.mean().item() < 1e9 else distance.sqrt()


def misshapen(student, teacher):
    return (student.actions - teacher.actions).square()


def taught(divergence, compile):
    config = {**COPY, "divergence": divergence, "net_arch": (8, 8)}
    return TeacherStudent(POINT, expert, method="dagger", config=config, compile=compile).learn(120)


def test_what_torch_cannot_compile_goes_on_without_and_says_so_once(caplog):
    eager, compiled = (taught(looking, compile) for compile in (False, True))
    assert torch.equal(compiled.learner.actor, eager.learner.actor)
    assert caplog.text.count("torch cannot compile this update") == 1
    assert f"test_compiled.py, line {looking.__code__.co_firstlineno + 3})" in caplog.text


def test_a_fault_of_ones_own_is_reported_as_it_is_without_compiling(caplog):
    told = []
    for compile in (False, True):
        with pytest.raises(PolicyKDError) as refused:
            taught(misshapen, compile)
        told.append(str(refused.value))
    assert told[0] == told[1] and "cannot compile" not in caplog.text


@pytest.mark.slow
def test_compiled_agents_of_one_process_keep_to_themselves():
    alone = make("ddpg", compile=True).learn(2 * 30)
    first, second = make("ddpg", compile=True), make("ddpg", compile=True, seeds=(5, 6))
    for _ in range(2):
        first.learn(2 * 15)
        second.learn(2 * 15)
        gc.collect()  # what was compiled stays, though nothing but its code is kept
    assert torch.equal(first.learner.actor, alone.learner.actor)
    eager = make("ddpg", compile=False, seeds=(5, 6)).learn(2 * 15).learn(2 * 15)
    torch.testing.assert_close(second.learner.actor, eager.learner.actor, atol=1e-5, rtol=0)
