"""What a CUDA graph asks of a step, shown without a GPU: arguments copied, answers kept, tensors that stay in place."""

import contextlib
import types

import pytest
import torch
from test_teacher_student import COPY, REPLAY, ROLL, expert
from tiny import POINT, TINY

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.distillation.methods import PEER_METHODS, TEACHER_METHODS
from policykd.memory import Batch
from policykd.training import cuda_graph
from policykd.training.compiling import PerSignature, record
from policykd.training.cuda_graph import CudaGraph

CPU = torch.device("cpu")
ROLLOUT = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "net_arch": (16, 16), "n_eval_episodes": 1}
ASIDE = {"replay", "dataset", "rollout", "collector", "tutor", "batch", "distil_batch", "info", "last"}
"""What a step is given from, or gives; it reads nothing there itself."""


class Recorded:
    """Stands for a GPU: what is "recorded" is called again at every replay, and writes where it wrote."""

    def __init__(self, monkeypatch, fails=False):
        self.recorded, self.fails = 0, fails
        cuda = types.SimpleNamespace(CUDAGraph=lambda: types.SimpleNamespace(), Stream=lambda device: None, graph=self)
        monkeypatch.setattr(cuda_graph.torch, "cuda", cuda)

    @contextlib.contextmanager
    def __call__(self, graph, **_):
        self.recorded += 1
        yield
        if self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nand much more")

    def replays(self, graph):
        """From now on the graph's replay computes into the memory of the recorded answer."""

        def replay():
            told = graph.step(*graph.args)
            if not isinstance(told, dict):
                graph.result.copy_(told)
            elif told:
                graph.result.copy_(torch.stack(list(told.values())))

        graph.graph.replay = replay


def batch(learners=2, size=3):
    numbers = torch.rand(learners, size)
    vectors = torch.rand(learners, size, 9).split((4, 1, 4), dim=-1)
    return Batch(*vectors, *[numbers + i for i in range(3)])


def test_a_recorded_step_is_told_its_arguments_and_keeps_no_answer(monkeypatch):
    machine = Recorded(monkeypatch)

    def step(batch, noise, flag, pair):
        assert noise is None and flag is True and isinstance(batch, Batch)
        return {"sum": batch.observations.sum((1, 2)) + pair[0], "reward": batch.rewards.mean(1)}

    batches, pairs = [batch() for _ in range(6)], [(torch.rand(2), "a name") for _ in range(6)]
    graph = CudaGraph(step, (batches[0], None, True, pairs[0]), CPU, None)
    answers = []
    for i, given in enumerate(zip(batches, pairs, strict=True)):
        if i == 1:
            monkeypatch.setattr(graph, "_replay", lambda: (machine.replays(graph), CudaGraph._replay(graph))[1])
        answers.append(graph(given[0], None, True, given[1]))
    assert machine.recorded == 1
    for answer, given in zip(answers, zip(batches, pairs, strict=True), strict=True):
        expected = step(given[0], None, True, given[1])
        assert answer.keys() == expected.keys()
        assert all(torch.allclose(answer[key], expected[key]) for key in expected)
    storages = {value.untyped_storage().data_ptr() for answer in answers for value in answer.values()}
    assert graph.result.untyped_storage().data_ptr() not in storages and len(storages) >= len(answers)


def test_a_recorded_answer_may_be_one_tensor(monkeypatch):
    machine = Recorded(monkeypatch)
    graph = CudaGraph(lambda x: 2 * x, (torch.zeros(2, 3),), CPU, None)
    monkeypatch.setattr(graph, "_replay", lambda: (machine.replays(graph), CudaGraph._replay(graph))[1])
    for value in (1.0, 2.0, 3.0, 4.0):
        assert torch.equal(graph(torch.full((2, 3), value)), torch.full((2, 3), 2 * value))


def test_a_recorded_step_may_have_nothing_to_say(monkeypatch):
    machine, moved = Recorded(monkeypatch), torch.zeros(2)
    graph = CudaGraph(lambda x: (moved.add_(x), {})[1], (torch.zeros(2),), CPU, None)
    monkeypatch.setattr(graph, "_replay", lambda: (machine.replays(graph), CudaGraph._replay(graph))[1])
    for _ in range(3):
        assert graph(torch.ones(2)) == {}


def test_where_nothing_can_be_recorded_the_step_goes_on_and_says_so_once(monkeypatch, caplog):
    machine, calls = Recorded(monkeypatch, fails=True), []

    def step(x):
        calls.append(float(x[0]))
        return {"twice": 2 * x}

    graph = CudaGraph(step, (torch.zeros(2),), CPU, None)
    for i in range(5):
        assert float(graph(torch.full((2,), float(i)))["twice"][0]) == 2 * i
    assert machine.recorded == 1
    assert calls == [0, 1, 1, 2, 3, 4]  # the second one was to be recorded, which computes nothing on a GPU
    assert caplog.text.count("no CUDA graph (operation not permitted when stream is capturing)") == 1


def test_each_form_of_the_arguments_has_a_graph_of_its_own():
    made = []
    step = PerSignature(print, lambda args: made.append(args) or (lambda *given: len(made)))
    for size in (2, 3, 2, 3):
        step(torch.zeros(size), True)
    step(torch.zeros(2), False)
    assert len(made) == 3
    method = "as it is"
    assert record(method, CPU) is method


def tensors_behind(owner, name="", seen=None):
    """Every tensor that an object of this package reaches through its attributes, by its path."""
    seen = set() if seen is None else seen
    if isinstance(owner, torch.Tensor):
        return {name: owner}
    if id(owner) in seen:
        return {}
    seen.add(id(owner))
    if isinstance(owner, dict):
        parts = owner
    elif isinstance(owner, list | tuple):
        parts = dict(enumerate(owner))
    elif type(owner).__module__.startswith("policykd") and hasattr(owner, "__dict__"):
        parts = {key: value for key, value in vars(owner).items() if key not in ASIDE}
    else:
        return {}
    found = {}
    for key, value in parts.items():
        found |= tensors_behind(value, f"{name}.{key}", seen)
    return found


def assert_recordable(agent, steps, again):
    """Train, and look at every gradient step: where its tensors are, and what it returns."""
    agent.learn(steps)
    recipe = agent.recipe
    places = {name: tensor.data_ptr() for name, tensor in tensors_behind(recipe).items()}
    assert any("actor" in name or "parameters" in name for name in places)
    name = "_learn" if hasattr(recipe, "_learn") else "_teach"
    step, told = getattr(recipe, name), []

    def watched(*args):
        told.append(step(*args))
        return told[-1]

    setattr(recipe, name, watched)
    agent.learn(again)
    assert any(told)
    for info in told:
        assert all(value.shape == (agent.n_learners,) and value.dtype == torch.float32 for value in info.values())
    now = {name: tensor.data_ptr() for name, tensor in tensors_behind(recipe).items()}
    assert {name: now.get(name) for name in places} == places


@pytest.mark.parametrize("method", PEER_METHODS)
@pytest.mark.parametrize("backbone", ["td3", "sac", "ppo"])
def test_steps_of_peers_move_no_tensor_and_return_one_number_per_learner(backbone, method):
    steps, config = (128, ROLLOUT) if backbone == "ppo" else (80, TINY)
    try:
        agent = DualStudent(POINT, method=method, backbone=backbone, config=config)
    except PolicyKDError as error:  # of rows that say what they need
        pytest.skip(str(error))
    assert_recordable(agent, steps, steps)


@pytest.mark.parametrize("backbone", ["td3", "sac"])
@pytest.mark.parametrize(
    "config",
    [
        {"vary": {"learning_rate": (1e-3, 3e-4)}, "allocation": "best", "rebirth_freq": 60, "layer_norm": True},
        {"vary": {"gradient_steps": (1, 2)}},
        {"n_steps": 3, "distill_schedule": "linear", "learning_rate": lambda left: 1e-3 * left},
    ],
    ids=["dealt and reborn", "own pace", "schedules"],
)
def test_nor_do_those_whose_settings_change_under_way(backbone, config):
    agent = DualStudent(POINT, method="mutual_shared", backbone=backbone, config={**TINY, **config})
    assert_recordable(agent, 160, 160)


@pytest.mark.parametrize("method", TEACHER_METHODS)
@pytest.mark.parametrize("backbone", ["ppo", "sac"])
def test_steps_of_students_do_not_either(method, backbone):
    config = COPY if TEACHER_METHODS[method].coupling == "alone" else ROLL if backbone == "ppo" else REPLAY
    try:
        agent = TeacherStudent(POINT, expert, method=method, backbone=backbone, config={**config, "teacher_std": 0.2})
    except PolicyKDError as error:
        pytest.skip(str(error))
    assert_recordable(agent, 100, 100)


@pytest.mark.parametrize("trials", [0, 1])
def test_nor_does_fine_tuning(trials, monkeypatch):
    from policykd.training.recipes.fine_tune_replay import FineTuneOnReplay

    student = TeacherStudent(POINT, expert, backbone="sac", config=COPY).learn(120)
    seen = []
    step = FineTuneOnReplay.teach

    def watched(self, *args):
        info = step(self, *args)
        seen.append({name: tensor.data_ptr() for name, tensor in tensors_behind(self).items()})
        assert {(value.shape, value.dtype) for value in info.values()} == {((1,), torch.float32)}
        return info

    monkeypatch.setattr(FineTuneOnReplay, "teach", watched)
    student.fine_tune(160, config={**REPLAY, "trial_episodes": trials, "eval_freq": 0})
    assert len(seen) > 2 and all(places == seen[0] for places in seen)
