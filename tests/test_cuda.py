"""On a GPU: the numbers of the processor, runs that go on there, and simulators whose tensors stay there."""

from functools import partial

import numpy as np
import pytest
import torch
from classifiers import make, net, problem, trained_teacher
from helpers import SMALL_PEERS
from test_discrete import TAUGHT, Largest
from test_discrete import expert as chooser
from test_teacher_student import COPY, REPLAY, ROLL, expert
from tiny import POINT, TINY
from vectors import Points

from policykd import DualStudent, PolicyKDError, TeacherStudent
from policykd.core.networks import state_tensors
from policykd.distillation.methods import PEER_METHODS, TEACHER_METHODS
from policykd.distillation.supervised import METHODS
from policykd.measure.doctor import diagnose
from policykd.measure.fidelity import fidelity
from policykd.memory.replay import SharedReplay
from policykd.training.loading import load_agent

DEVICE = "cuda"
BACKBONES = ("ddpg", "td3", "sac", "ppo")
ROLLOUT = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "distill_batch_size": 8, "distill_gradient_steps": 2}

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")


def peers(backbone, device=DEVICE, method="dpd", compile=False, env=POINT, **config):
    small = {**ROLLOUT, "net_arch": (16, 16), "n_eval_episodes": 1} if backbone == "ppo" else TINY
    return DualStudent(
        env, method=method, backbone=backbone, seeds=(0, 3), config={**small, **config}, device=device, compile=compile
    )


def assert_close(first, second, atol=1e-4):
    expected = state_tensors(second.learner)
    for name, tensor in state_tensors(first.learner).items():
        torch.testing.assert_close(tensor.cpu(), expected[name].cpu(), atol=atol, rtol=1e-3, msg=name)


def assert_recorded(step, caplog):
    """Every form of a step that came more than once is one CUDA graph."""
    ways = [graph._run.__name__ for graph in step.graphs.values()]
    assert "_replay" in ways and set(ways) <= {"_replay", "_record"}  # _record: it came once
    assert "no CUDA graph" not in caplog.text


def assert_equal(first, second):
    expected = state_tensors(second.learner)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state_tensors(first.learner).items())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_numbers_are_the_processors(backbone):
    steps = 4 * (64 if backbone == "ppo" else 30)
    there, here = (peers(backbone, device).learn(steps) for device in (DEVICE, "cpu"))
    assert all(tensor.device.type == DEVICE for tensor in state_tensors(there.learner).values())
    assert there.recipe.n_updates == here.recipe.n_updates > 0
    assert_close(there, here)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_compiled_update_is_the_eager_one(backbone, caplog):
    steps = 4 * (64 if backbone == "ppo" else 40)
    eager, compiled = (peers(backbone, compile=compile).learn(steps) for compile in (False, True))
    assert compiled.recipe.compiled
    assert_recorded(compiled.recipe._learn, caplog)
    if backbone != "ppo":
        assert_recorded(compiled.recipe._acted, caplog)
    assert_close(compiled, eager)
    logged, expected = (agent.recipe.info for agent in (compiled, eager))
    for name in ("train/critic_loss", "train/actor_loss") if backbone != "ppo" else ("train/value_loss",):
        torch.testing.assert_close(logged[name], expected[name], atol=1e-3, rtol=1e-2, msg=name)


@pytest.mark.parametrize(("method", "backbone"), [("dagger", "ppo"), ("kickstarting", "sac"), ("kickstarting", "ppo")])
def test_the_compiled_update_of_students_is_the_eager_one(method, backbone, caplog):
    config = COPY if method == "dagger" else ROLL if backbone == "ppo" else REPLAY
    config = {**config, "teacher_std": 0.2, "net_arch": (16, 16)}
    eager, compiled = (
        TeacherStudent(
            POINT, expert, method=method, backbone=backbone, config=config, device=DEVICE, compile=compile
        ).learn(160)
        for compile in (False, True)
    )
    recipe = compiled.recipe
    assert_recorded(getattr(recipe, "_teach", None) or recipe._learn, caplog)
    assert_close(compiled, eager, atol=1e-3)


@pytest.mark.parametrize("method", PEER_METHODS)
@pytest.mark.parametrize("backbone", ["sac", "ppo"])
def test_every_way_of_learning_from_peers_works(backbone, method):
    try:
        agent = peers(backbone, method=method).learn(4 * (64 if backbone == "ppo" else 40))
    except PolicyKDError as error:  # of rows that say what they need
        pytest.skip(str(error))
    assert torch.isfinite(agent.learner.actor).all()


def test_peers_with_settings_steps_dealt_and_rebirth_go_on_bit_by_bit(tmp_path):
    config = {"vary": {"learning_rate": (1e-3, 3e-4)}, "allocation": "best", "rebirth_freq": 100, "layer_norm": True}
    whole, half = (peers("sac", method="mutual_shared", **config) for _ in range(2))
    whole.learn(800)
    half.learn(800, callback=lambda local_variables, _: half.num_timesteps < 400)
    half.save(tmp_path / "half", include_replay=True)
    again = DualStudent.load(tmp_path / "half.safetensors", device=DEVICE)
    again.learn(800 - again.num_timesteps)
    assert again.learner.actor.is_cuda
    assert_equal(again, whole)
    shown = np.zeros((5, 4), np.float32)
    np.testing.assert_array_equal(again.predict(shown, learner="group")[0], whole.predict(shown, learner="group")[0])


@pytest.mark.parametrize("backbone", ["td3", "ppo"])
@pytest.mark.parametrize("compile", [False, True])
def test_a_run_goes_on_bit_by_bit(tmp_path, backbone, compile):
    steps, stop = (1024, 512) if backbone == "ppo" else (480, 240)
    whole, half = (peers(backbone, compile=compile) for _ in range(2))
    whole.learn(steps)
    half.learn(steps, callback=lambda local_variables, _: half.num_timesteps < stop)
    half.save(tmp_path / "half", include_replay=True)
    again = DualStudent.load(tmp_path / "half.safetensors", device=DEVICE)
    again.learn(steps - again.num_timesteps)
    assert_equal(again, whole)


def test_a_run_made_there_acts_alike_on_the_processor_and_is_shipped(tmp_path):
    agent = peers("sac", n_steps=3, gradient_steps=2).learn(200)
    agent.save(tmp_path / "agent")
    here = load_agent(tmp_path / "agent.safetensors", device="cpu")
    shown = np.random.default_rng(0).normal(size=(7, 4)).astype(np.float32)
    for learner in range(2):
        np.testing.assert_allclose(
            agent.predict(shown, learner=learner)[0], here.predict(shown, learner=learner)[0], atol=1e-5
        )
    agent.to_sb3().save(tmp_path / "sb3.zip")
    student = agent.ship(net_arch=(8, 8), gradient_steps=20)
    assert student.learner.actor.is_cuda
    assert np.isfinite(student.predict(shown)[0]).all()


@pytest.mark.parametrize("method", TEACHER_METHODS)
@pytest.mark.parametrize("backbone", ["ppo", "sac"])
def test_every_way_of_teaching_works(method, backbone):
    config = COPY if TEACHER_METHODS[method].coupling == "alone" else ROLL if backbone == "ppo" else REPLAY
    try:
        agent = TeacherStudent(
            POINT, expert, method=method, backbone=backbone, config={**config, "teacher_std": 0.2}, device=DEVICE
        )
        agent.learn(160)
    except PolicyKDError as error:  # of rows that say what they need
        pytest.skip(str(error))
    assert agent.learner.actor.is_cuda and torch.isfinite(agent.learner.actor).all()


@pytest.mark.parametrize("config", [{"history": 3}, {"gru": 8}], ids=["history", "gru"])
@pytest.mark.parametrize("method", ["dagger", "kickstarting"])
def test_students_that_remember_learn_there_as_here(method, config):
    config = {
        **(COPY if method == "dagger" else {**ROLL, "n_steps": 32, "batch_size": 32}),
        **config,
        "student_observations": (2, 3),
        "teacher_std": 0.2,
    }
    there, here = (
        TeacherStudent(POINT, expert, method=method, config=config, device=device).learn(160)
        for device in (DEVICE, "cpu")
    )
    assert_close(there, here, atol=1e-3)
    assert np.isfinite(there.evaluate(1).returns).all()


def test_choices_the_doctor_fidelity_and_fine_tuning(tmp_path):
    agent = TeacherStudent(Largest, chooser, config=TAUGHT, device=DEVICE).learn(100)
    assert agent.learner.actor.is_cuda
    student = TeacherStudent(POINT, expert, config=COPY, device=DEVICE, run_dir=tmp_path / "run").learn(160)
    assert all(np.isfinite(said.distance) for said in fidelity(student, 0, steps=50).values())
    assert diagnose(expert, POINT, n_episodes=4, updates=20).findings
    student.fine_tune(64, config={"n_steps": 32, "n_eval_episodes": 1, "eval_freq": 0})
    assert student.learner.actor.is_cuda and torch.isfinite(student.learner.actor).all()


@pytest.mark.parametrize("backbone", ["sac", "ppo"])
def test_a_simulator_there_gives_the_numbers_of_one_here_and_hands_over_nothing(backbone):
    config = {"n_envs": 4, "n_eval_episodes": 1}
    there, here = (
        peers(backbone, device, env=partial(Points, device=device), **config).learn(1600) for device in (DEVICE, "cpu")
    )
    assert there.collector.observations.device.type == DEVICE
    assert_close(there, here, atol=1e-3)
    assert np.isfinite(there.evaluate(1).returns).all()


@pytest.mark.parametrize("method", METHODS)
def test_every_classification_method_works(method):
    teacher = trained_teacher()
    distiller = make(method, net(8), teacher, device=DEVICE, epochs=3).fit(problem(), problem(seed=2))
    assert np.isfinite(distiller.evaluate(problem(400, seed=3))["accuracy"])
    assert len(distiller.predict(problem(10, seed=4)[0])) == 10


def test_a_replay_there_draws_the_rows_of_one_here():
    def drawn(device):
        replay, generator = SharedReplay(50, 3, 2, 4, 2, device), np.random.default_rng(0)
        for _ in range(60):
            rows = [generator.normal(size=(4, size)).astype(np.float32) for size in (3, 2, 3)]
            replay.add(*rows, generator.normal(size=4), *(generator.random((2, 4)) < 0.1))
        generators = [np.random.default_rng(seed) for seed in range(4)]
        batches = [replay.sample(8, generators, source) for source in ("own", "pooled")]
        return [*batches, replay.sample_ahead(8, generators, "own", 3, 0.9)]

    for there, here in zip(drawn(DEVICE), drawn("cpu"), strict=True):
        for mine, other in zip(there, here, strict=True):
            assert mine is other is None or torch.equal(mine.cpu(), other)


def test_more_than_the_gpu_has_is_refused_in_one_line():
    with pytest.raises(PolicyKDError, match=r"need .* GB, this GPU has .* GB: lower buffer_size"):
        SharedReplay(10**11, 17, 6, learners=2, device=DEVICE)


def test_auto_is_the_gpu_and_says_that_few_learners_are_faster_without(caplog):
    agent = DualStudent(POINT, method="council", backbone="td3", config=SMALL_PEERS, device="auto")
    assert agent.learn(100).learner.actor.is_cuda
    assert "train faster with compile=True, or with device='cpu'" in caplog.text
