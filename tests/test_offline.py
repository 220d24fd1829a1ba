"""Offline distillation: students learn from logged states, without a step of an environment."""

import re

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch
from choosing import LENGTH, Largest, agent, expert, observations
from classifiers import FAST
from stable_baselines3 import DQN, TD3
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer
from tiny import POINT

from policykd import Distiller, LoggedStates, PolicyKDError, Teacher, TeacherStudent
from policykd.distillation.labels import Labels
from policykd.teachers.demonstrations import demonstrate

CONFIG = {"net_arch": (16, 16), "n_eval_episodes": 2, "eval_freq": 0}
ROWS = observations(1_200)
CHOSEN = np.array([expert(row) for row in ROWS])


def students(teacher=expert, env=Largest, **options):
    return TeacherStudent(env, teacher, config=CONFIG, seeds=(0, 1), compile=False, **options)


@pytest.mark.parametrize("teacher", [expert, None], ids=["asked", "what was done"])
def test_students_learn_from_logged_states_without_a_step(teacher, tmp_path):
    np.savez(tmp_path / "log.npz", obs=ROWS, acts=CHOSEN)
    learnt = students(teacher, run_dir=tmp_path / "run").learn_from(tmp_path / "log.npz", 600)
    assert learnt.num_timesteps == 0 and learnt.recipe.n_updates == 600 and learnt.dataset.size == len(ROWS)
    assert (learnt.evaluations[-1].returns.shape, learnt.evaluation_steps) == ((2, 2), [0])
    assert (learnt.evaluate(10).returns.mean(1) > 0.75 * LENGTH).all()  # a third of it by chance
    again = TeacherStudent.load(tmp_path / "run", env=Largest, teacher=teacher)
    assert torch.equal(again.learner.parameters, learnt.learner.parameters) and again.dataset.size == len(ROWS)


def test_gradient_steps_on_logged_states_compile_where_they_repay_it(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "policykd.training.recipes.imitation.compile_step", lambda step, device: asked.append(step) or step
    )
    monkeypatch.setattr("policykd.training.compiling.PAYS", {"cpu": 20})
    logged = {"observations": ROWS, "actions": CHOSEN}
    for compile, updates, compiled in (("auto", 10, False), ("auto", 20, True), (True, 5, True), (False, 50, False)):
        student = TeacherStudent(Largest, None, config=CONFIG, compile=compile).learn_from(logged, updates)
        assert (student.recipe.compiled, bool(asked)) == (compiled, compiled)
        assert student.compile == (compile if compile != "auto" or not compiled else True)
        asked.clear()


@pytest.mark.parametrize("changes", [{}, {"gru": 8}], ids=str)
def test_gradient_steps_on_logged_states_are_logged_and_shown(tmp_path, capsys, monkeypatch, changes):
    monkeypatch.setattr("policykd.training.progress_lines.FIRST", 0.0)
    logged = {"observations": ROWS, "actions": CHOSEN, "episodes": np.zeros(len(ROWS), int)}
    config = {**CONFIG, **changes, "log_freq": 20}
    students = TeacherStudent(Largest, None, config=config, seeds=(0, 1), run_dir=tmp_path / "run")
    students.learn_from(logged, 50, progress_bar=True)
    rows = pd.read_csv(tmp_path / "run" / "progress.csv").dropna(subset="offline/loss")
    assert rows["train/n_updates"].tolist() == [20, 40, 50] and (rows["time/total_timesteps"] == 0).all()
    of_each = [pd.read_csv(file) for file in sorted((tmp_path / "run").glob("*/*/progress.csv"))]
    assert len(of_each) == 2
    each = np.mean([rows["offline/loss"].dropna() for rows in of_each], axis=0)
    np.testing.assert_allclose(rows["offline/loss"], each, rtol=1e-5)
    line = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(r"20 of 50 gradient steps \(40%\), .* gradient steps/s, 0 min left.*", line)


def test_logged_states_open_no_environment_without_a_run_folder(tmp_path):
    logged = {"observations": ROWS, "actions": CHOSEN}
    students(None).learn_from(logged, 1).save(tmp_path / "students", include_replay=True)
    again = TeacherStudent.load(tmp_path / "students.safetensors", env=Largest)
    assert again.learn_from(logged, 1).envs is None and again.recipe.n_updates == 2


def test_a_teacher_answers_at_logged_states_as_in_its_environment():
    model = agent("PPO")
    student = students(model).learn_from({"observations": ROWS[:50]}, 1)
    kept, answers = student.dataset.storage[1, :50].split(student.dataset.sections, dim=-1)
    assert torch.equal(kept, torch.from_numpy(ROWS[:50]))
    with torch.no_grad():
        logits = model.policy.get_distribution(kept).distribution.logits
    torch.testing.assert_close(Labels.unpack(answers, True).policy.logits.log_softmax(-1), logits)
    stats = student.learner.observation_stats
    torch.testing.assert_close(stats.mean[0], torch.from_numpy(ROWS[:50]).double().mean(0), atol=1e-4, rtol=0)


def test_continuous_actions_are_brought_to_the_students_units():
    states = np.zeros((3, 3), np.float32)
    actions = np.array([[-2.0], [0.5], [9.0]])  # Pendulum's bounds are -2 and 2
    student = students(None, "Pendulum-v1").learn_from({"observations": states, "actions": actions}, 1)
    labels = Labels.unpack(student.dataset.storage[:1, :3, 3:])
    assert labels.policy.actions.flatten().tolist() == [-1.0, 0.25, 1.0]
    with pytest.raises(PolicyKDError, match="without one, only learn_from"):
        student.learn(10)


STATES = np.random.default_rng(0).uniform(-1, 1, (600, 3)).astype(np.float32)
CLEAR = np.abs(STATES[:, 1]) > 0.3
BANG = np.where(STATES[:, 1:2] > 0, 2.0, -2.0).astype(np.float32)  # Pendulum's bounds


def of_sac(teacher, divergence, states, **config):
    settings = {"net_arch": (16,), "distill_batch_size": 64, "divergence": divergence, **config}
    student = TeacherStudent("Pendulum-v1", teacher, method="bc", backbone="sac", config=settings, compile=False)
    return student.learn_from(states, 400)


@pytest.mark.parametrize("divergence", ["gaussian_nll", "kl_forward"])
def test_squashed_students_copy_logged_actions_in_their_own_units(divergence):
    student = of_sac(None, divergence, {"observations": STATES, "actions": 0.8 * BANG}, distill_learning_rate=5e-3)
    assert np.abs(student.predict(STATES)[0] - 0.8 * BANG)[CLEAR].mean() < 0.2


def test_squashed_students_follow_a_gaussian_teacher_at_the_bounds():
    def teacher(observation):
        return np.where(observation[..., 1:2] > 0, 2.0, -2.0).astype(np.float32)

    student = of_sac(teacher, "kl_forward", {"observations": STATES}, teacher_std=0.2, distill_learning_rate=5e-3)
    for deterministic in (True, False):
        right = np.sign(student.predict(STATES, deterministic=deterministic)[0]) == np.sign(BANG)
        assert right[CLEAR].mean() > (0.99 if deterministic else 0.94)


def test_students_loaded_without_their_teacher_do_not_clone_what_was_done_instead(tmp_path):
    students().save(tmp_path / "agent.safetensors")
    loaded = TeacherStudent.load(tmp_path / "agent.safetensors", env=Largest)
    with pytest.raises(PolicyKDError, match=r"teacher: pass the teacher .* to continue: load.path, teacher="):
        loaded.learn_from({"observations": ROWS, "actions": CHOSEN}, 1)


def test_logged_actions_have_no_value_to_distil():
    student = TeacherStudent("Pendulum-v1", None, config={"distill_value_coef": 1.0, "net_arch": (4,)})
    with pytest.raises(PolicyKDError, match=r"distill_value_coef=1.0 needs a teacher with a value"):
        student.learn_from({"observations": np.zeros((4, 3)), "actions": np.zeros((4, 1))}, gradient_steps=1)


def test_student_driven_learns_from_all_logged_states():
    drawn = []
    student = TeacherStudent(Largest, expert, method="student_driven", config={**CONFIG, "round_steps": 10})
    sample = student.dataset.sample
    student.dataset.sample = lambda *options: drawn.append(options[2]) or sample(*options)
    student.learn_from({"observations": ROWS}, 1)
    student.recipe.step(0.0)
    assert drawn[:2] == [None, 10]  # a round of learn() keeps to its own states


def test_replay_buffers_of_sb3_are_data():
    model = DQN(
        "MlpPolicy", Largest(), learning_starts=40, buffer_size=100, policy_kwargs={"net_arch": [4]}, device="cpu"
    )
    model.learn(60)
    found = LoggedStates.read(model)
    assert found.observations.shape == (60, 4) and not found.scaled
    assert students(None).learn_from(model, 1).dataset.size == 60
    model = TD3("MlpPolicy", POINT, learning_starts=10, buffer_size=30, policy_kwargs={"net_arch": [4]}, device="cpu")
    model.learn(40)
    found = LoggedStates.read(model.replay_buffer)
    assert found.scaled and found.observations.shape == (30, 4) and np.abs(found.actions).max() <= 1


class Groups(gym.Env):
    """Dicts of observations, and an action of two."""

    action_space = gym.spaces.Box(-2, 2, (2,))
    observation_space = gym.spaces.Dict({"mode": gym.spaces.Discrete(3, start=1), "pos": gym.spaces.Box(-9, 9, (2, 1))})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.step(None)[0], {}

    def step(self, action):
        seen = {"mode": self.np_random.integers(1, 4), "pos": self.np_random.normal(size=(2, 1)).astype(np.float32)}
        return seen, 0.0, False, False, {}


def test_dicts_of_observations_are_laid_out_by_the_tasks_space():
    task = lambda: gym.wrappers.TimeLimit(Groups(), 20)  # noqa: E731
    model = TD3("MultiInputPolicy", task(), learning_starts=99, buffer_size=30, policy_kwargs={"net_arch": [4]})
    model.learn(20)
    modes, places = np.array([1, 3]), np.array([[[4], [5]], [[6], [7]]], np.float32)
    arrays = {"observations": {"pos": places, "mode": modes}, "actions": np.ones((2, 2))}
    student = TeacherStudent(task, None, method="bc", config=CONFIG).learn_from(model, 1)
    assert student.dataset.size == 20
    np.testing.assert_array_equal(
        student.dataset.storage[0, :20, :5], LoggedStates.read(model.replay_buffer, Groups.observation_space)[0]
    )
    kept = student.learn_from(arrays, 1).dataset.storage[0, 20:22, :5]
    assert kept.tolist() == [[1, 0, 0, 4, 5], [0, 0, 1, 6, 7]]
    for wrong, said in (
        ({"mode": modes}, "has no group pos"),
        ({"mode": modes, "pos": places[..., 0]}, "has shape"),
    ):
        with pytest.raises(PolicyKDError, match=said):
            student.learn_from({**arrays, "observations": wrong}, 1)
    with pytest.raises(PolicyKDError, match="the task has vectors"):
        students(None).learn_from(arrays, 1)


def test_demonstrations_are_data():
    data = demonstrate(expert, Largest, 3)
    learnt = students(None).learn_from(data, 1)
    answers = learnt.dataset.storage[0, : 3 * LENGTH, 4:]
    chosen = Labels.unpack(answers, True).policy.actions.argmax(-1)
    assert chosen.tolist() == [expert(row) for row in data.observations]
    beside = students()
    data.fill(beside)
    assert torch.equal(beside.dataset.storage[0, : 3 * LENGTH], learnt.dataset.storage[0, : 3 * LENGTH])


@pytest.mark.parametrize("part", [None, (3, 0)])
def test_a_history_is_that_of_the_episodes_that_were_logged(part):
    data = demonstrate(expert, Largest, 3)
    config = {**CONFIG, "history": 3, "student_observations": part}
    student = TeacherStudent(Largest, None, config=config).learn_from(data, 1)
    look, wanted = None, []
    for i, observation in enumerate(data.observations):
        look = student.view.for_episode() if i == 0 or data.episodes[i] != data.episodes[i - 1] else look
        wanted.append(look(observation))
    kept = student.dataset.storage[0, : len(wanted), : student.view.input_size]
    np.testing.assert_array_equal(kept, np.stack(wanted))
    logged = {"observations": data.observations, "actions": CHOSEN[: len(wanted)], "episodes": data.episodes}
    again = student.learn_from(logged, 1).dataset.storage[0, len(wanted) : 2 * len(wanted), : kept.shape[1]]
    np.testing.assert_array_equal(again, kept)
    with pytest.raises(PolicyKDError, match="does not say which states form an episode"):
        student.learn_from({**logged, "episodes": None}, 1)
    with pytest.raises(PolicyKDError, match="the episodes of a mapping are mixed"):
        student.learn_from({**logged, "episodes": np.arange(len(wanted)) % 2}, 1)
    for other in (np.array(2), data.episodes[1:]):  # something else that is called so: not for who needs episodes
        with pytest.raises(PolicyKDError, match="does not say which states form an episode"):
            student.learn_from({**logged, "episodes": other}, 1)
        assert LoggedStates.read({**logged, "episodes": other}).episodes is None


def test_the_last_observation_of_a_trajectory_of_imitation_has_no_action(tmp_path):
    ends = [3, 5]  # three trajectories of 3, 2 and 4 actions, each with one more observation
    observed = np.arange(12.0)[:, None].repeat(4, 1)
    np.savez(tmp_path / "final.npz", obs=observed, acts=np.zeros(9, int), indices=np.array(ends), terminal=np.ones(3))
    found = LoggedStates.read(tmp_path / "final.npz")
    assert found.observations[:, 0].tolist() == [0, 1, 2, 4, 5, 7, 8, 9, 10]
    assert found.episodes.tolist() == [0, 0, 0, 1, 1, 2, 2, 2, 2]


def test_flags_of_d4rl_tell_episodes_apart_where_both_are_there(tmp_path):
    terminals, timeouts = np.zeros((2, len(ROWS)), bool)
    terminals[[2, 9]], timeouts[[2, 5, 1199]] = True, True
    flags = {"terminals": terminals, "timeouts": timeouts}
    logged = {"observations": ROWS, "actions": CHOSEN}
    np.savez(tmp_path / "log.npz", **logged, **flags)
    columns = {name: torch.from_numpy(ends).float()[:, None] for name, ends in flags.items()}
    for source in (tmp_path / "log.npz", {**logged, **columns}):
        assert np.flatnonzero(LoggedStates.read(source).starts()).tolist() == [0, 3, 6, 10]
    named = {**logged, **flags, "episodes": np.repeat(np.arange(4), 300)}
    assert np.flatnonzero(LoggedStates.read(named).starts()).tolist() == [0, 300, 600, 900]
    for part in ({"terminals": terminals}, {**flags, "timeouts": None}, {**flags, "timeouts": timeouts[1:]}):
        with pytest.raises(PolicyKDError, match=r"D4RL's terminals and timeouts$"):
            LoggedStates.read({**logged, **part}).starts()


def test_files_of_d4rl_and_minari_are_data(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py")
    with h5py.File(tmp_path / "d4rl.hdf5", "w") as file:
        file["observations"], file["actions"], file["rewards"] = ROWS, CHOSEN, np.zeros(len(ROWS))
    found = LoggedStates.read(tmp_path / "d4rl.hdf5")
    assert (found.observations == ROWS).all() and (found.actions == CHOSEN).all()
    (tmp_path / "minari" / "data").mkdir(parents=True)
    with h5py.File(tmp_path / "minari" / "data" / "main_data.hdf5", "w") as file:
        for number in (0, 2, 10):  # one more observation than actions in each
            file[f"episode_{number}/observations"] = np.full((4, 4), number, np.float32)
            file[f"episode_{number}/actions"] = np.full(3, number % 3)
    found = LoggedStates.read(tmp_path / "minari")
    assert found.observations[:, 0].tolist() == [0, 0, 0, 2, 2, 2, 10, 10, 10]
    assert found.starts().tolist() == [True, False, False] * 3
    with h5py.File(tmp_path / "link.hdf5", "w") as file:
        file["observations"] = h5py.ExternalLink(str(tmp_path / "d4rl.hdf5"), "/observations")
    with pytest.raises(PolicyKDError, match="a link to another file"):
        LoggedStates.read(tmp_path / "link.hdf5")


def test_hdf5_files_say_of_which_episode_each_state_is(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py")
    with h5py.File(tmp_path / "log.hdf5", "w") as file:
        file["observations"], file["actions"], file["episodes"] = ROWS, CHOSEN, np.repeat(np.arange(4), 300)
    assert np.flatnonzero(LoggedStates.read(tmp_path / "log.hdf5").starts()).tolist() == [0, 300, 600, 900]
    with h5py.File(tmp_path / "log.hdf5", "a") as file:
        del file["episodes"]
        file["episodes"] = 4  # their number: something else that is called so
    assert LoggedStates.read(tmp_path / "log.hdf5").episodes is None
    with h5py.File(tmp_path / "log.hdf5", "a") as file:
        del file["episodes"]
        file["terminals"], file["timeouts"] = np.zeros(len(ROWS), bool), np.arange(len(ROWS)) % 400 == 399
    assert np.flatnonzero(LoggedStates.read(tmp_path / "log.hdf5").starts()).tolist() == [0, 400, 800]


def test_numbers_are_read_whatever_holds_them():
    tensors = torch.from_numpy(ROWS).requires_grad_(), torch.from_numpy(CHOSEN).float().requires_grad_()
    named = np.repeat(np.array(["a", "b"], object), 600)
    for rows, actions in (tensors, (ROWS.astype(">f8"), CHOSEN.astype(">i2")), (ROWS.tolist(), [*CHOSEN])):
        found = LoggedStates.read({"observations": rows, "actions": actions, "episodes": named})
        assert (found.observations == ROWS).all() and (found.actions == CHOSEN).all() and found.starts().sum() == 2
    half = torch.from_numpy(ROWS).bfloat16()
    assert (LoggedStates(half).checked().observations == half.float().numpy()).all()


def test_a_full_buffer_of_half_the_memory_has_one_pair_less():
    """Where the next step is written lies what the latest one led to, beside the action of the oldest."""
    spaces = gym.spaces.Box(-9, 9, (1,)), gym.spaces.Box(-1, 1, (1,))
    options = {"optimize_memory_usage": True, "handle_timeout_termination": False, "n_envs": 2}
    buffer = ReplayBuffer(8, *spaces, **options)
    for step in range(7):
        row, following = (np.full((2, 1), float(at)) for at in (step, step + 1))
        buffer.add(row, following, row / 10, np.zeros(2), np.zeros(2), [{}, {}])
        found = LoggedStates.read(buffer)
        np.testing.assert_allclose(found.actions, found.observations / 10, atol=1e-7)
        assert len(found.actions) == 2 * min(step + 1, 3)


def test_actions_that_are_called_scaled_must_be():
    """A buffer that was filled by hand with actions in the task's units would be learnt from wrongly."""
    buffer = ReplayBuffer(8, gym.spaces.Box(-8, 8, (3,)), gym.spaces.Box(-2, 2, (1,)))
    student = TeacherStudent("Pendulum-v1", None, config={**CONFIG, "n_eval_episodes": 0}, compile=False)
    with pytest.raises(PolicyKDError, match="ReplayBuffer is empty"):
        student.learn_from(buffer, 1)
    for row, action in zip(STATES, BANG[:8], strict=False):
        buffer.add(row, row, action, np.zeros(1), np.zeros(1), [{}])
    with pytest.raises(PolicyKDError, match=r"has actions from -2 to 2, but they should be in .-1, 1."):
        student.learn_from(buffer, 1)
    with pytest.raises(PolicyKDError, match="should be one-hot"):
        students(None).learn_from(LoggedStates(ROWS, ROWS[:, :3], scaled=True), 1)
    assert not student.dataset.size


def test_weights_that_are_no_numbers_are_said_and_no_checkpoint_is_made_of_them(tmp_path):
    config = {**CONFIG, "distill_learning_rate": 1e30}
    student = TeacherStudent("Pendulum-v1", None, config=config, compile=False, run_dir=tmp_path / "run")
    said = (
        r"weights are not finite after 50 gradient steps.*stopped.safetensors; there is no checkpoint: start a new run"
    )
    with pytest.raises(PolicyKDError, match=said):
        student.learn_from({"observations": STATES, "actions": BANG}, 50)
    assert not (tmp_path / "run" / "checkpoint.safetensors").exists() and not student.evaluations


def test_a_run_whose_folder_is_gone_or_taken_is_refused_before_the_work(tmp_path):
    student = students(run_dir=tmp_path / "run")
    (tmp_path / "run").rename(tmp_path / "moved")
    for learn in (lambda: student.learn(10), lambda: student.learn_from({"observations": ROWS}, 1)):
        with pytest.raises(PolicyKDError, match=r"run folder: .* was deleted"):
            learn()
    assert not (tmp_path / "run").exists() and student.recipe.n_updates == student.dataset.size == 0


def test_learning_from_data_and_in_the_environment_goes_on_exactly_in_any_order(tmp_path):
    def first(student):
        return student.learn_from({"observations": ROWS[:300]}, 30).learn(24)

    def second(student):
        return student.learn_from({"observations": ROWS[300:500]}, 20).learn(24)

    config = {**CONFIG, "round_steps": 12, "round_updates": 5}
    makes = [
        TeacherStudent(Largest, expert, seeds=(0, 1), config=config, compile=False, run_dir=tmp_path / name)
        for name in ("whole", "half")
    ]
    whole = second(first(makes[0]))
    first(makes[1])
    again = second(TeacherStudent.load(tmp_path / "half", env=Largest, teacher=expert))
    assert torch.equal(again.learner.parameters, whole.learner.parameters)
    assert torch.equal(again.dataset.storage, whole.dataset.storage)
    assert again.evaluation_steps == whole.evaluation_steps == [0, 24, 24, 48]


def classifier():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def test_a_classifier_learns_from_the_same_states():
    states, student = LoggedStates(ROWS, CHOSEN), classifier()
    distiller = Distiller(student, None, method="cross_entropy", config={**FAST, "epochs": 6}, device="cpu")
    distiller.fit(states, states.dataset())
    assert torch.equal(distiller.predict(states), distiller.predict(ROWS))
    assert (student(torch.from_numpy(ROWS)).argmax(1).numpy() == CHOSEN).mean() > 0.7


@pytest.mark.parametrize("count", [1, 2])
def test_a_policy_that_chooses_teaches_a_classifier(count, tmp_path):
    """Of states alone; Q-values as students that act learn them. Another policy is refused on resumption."""
    model = DQN("MlpPolicy", Largest(), buffer_size=10, seed=0, device="cpu")
    teacher, q_values = Teacher.load(model, Largest), model.q_net
    config = {**FAST, "epochs": 1, "alpha": 1.0}
    students = [classifier(), classifier()]
    scaled = torch.nn.Linear(3, 3, bias=False)
    torch.nn.init.eye_(scaled.weight).data.mul_(100)
    network = torch.nn.Sequential(q_values, scaled).requires_grad_(False)
    for student, given in zip(students, (teacher, network), strict=True):
        given = given if count == 1 else [given] * count
        Distiller(student, given, config=config, device="cpu").fit(LoggedStates(ROWS[:64]))
    for mine, other in zip(*(student.parameters() for student in students), strict=True):
        assert torch.allclose(mine, other, atol=1e-5)
    made = Distiller(classifier(), Teacher.load(expert, Largest), config=config, device="cpu")
    assert made.evaluate(LoggedStates(ROWS, CHOSEN))["teacher_accuracy"] == 1
    Distiller(classifier(), teacher, config=config, device="cpu").save(tmp_path / "saved")
    other = Teacher.load(DQN("MlpPolicy", Largest(), buffer_size=10, seed=1, device="cpu"), Largest)
    assert Distiller.load(tmp_path / "saved.safetensors", classifier(), teacher, device="cpu").passes == 0
    with pytest.raises(PolicyKDError, match="resume: the teacher is not the one"):
        Distiller.load(tmp_path / "saved.safetensors", classifier(), other, device="cpu")
    with pytest.raises(PolicyKDError, match=r"teacher: .* has no discrete actions"):
        Distiller(classifier(), Teacher.load(TD3("MlpPolicy", POINT, buffer_size=10, device="cpu"), POINT))


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ("missing.npz", "states: missing.npz cannot be read: "),
        ("buffer.pkl", "load a replay buffer's pickle with SB3"),
        ({"actions": CHOSEN}, "has no array called observations or obs or states"),
        ({"observations": ROWS[:, :2]}, "has 2 observations, and "),
        ({"observations": ROWS[:, 0]}, "of shape .1200,., not .n, O."),
        ({"observations": ROWS * np.nan}, "not finite"),
        ({"observations": ROWS.astype(np.float64) * 1e300}, "not finite in float32"),
        ({"observations": ROWS.astype(str)}, "has observations of type <U"),
        ({"observations": [[1, 2], [3]]}, "has observations that are not an array"),
        ({"observations": 3.0}, r"has observations of shape \(\), not"),
        ({"observations": ROWS, "actions": 1.0}, "needs one finite action for each of 1,200"),
        ({"obs": ROWS, "acts": CHOSEN[:1_198], "indices": [700, 500]}, "indices do not split them into trajectories"),
        ({"observations": ROWS, "actions": CHOSEN.astype(str)}, "has actions of type <U"),
        ({"observations": ROWS, "actions": CHOSEN[:5]}, "needs one finite action for each of 1,200"),
        ({"observations": ROWS}, "has no actions to copy: give a teacher"),
        ({"observations": ROWS, "actions": CHOSEN + 1}, "actions outside 0 to 2"),
        ({"observations": ROWS, "actions": ROWS}, "actions outside 0 to 2"),
        ([1, 2], "a list has no states"),
        (RolloutBuffer(8, gym.spaces.Box(0, 1, (4,)), gym.spaces.Discrete(3)), "is on-policy"),
        (ReplayBuffer(8, gym.spaces.Box(0, 255, (3, 4, 4), np.uint8), gym.spaces.Discrete(3)), "not vectors"),
    ],
)
def test_what_is_no_data_is_one_line(states, message):
    with pytest.raises(PolicyKDError, match=message) as caught:
        students(None).learn_from(states, 1)
    assert "\n" not in str(caught.value)


def test_methods_that_need_environments_say_so():
    with pytest.raises(PolicyKDError, match="learn_from: kickstarting has to act in environments"):
        students(method="kickstarting").learn_from({"observations": ROWS}, 1)
    with pytest.raises(PolicyKDError, match="dataset_size=100 keeps fewer than 1,200"):
        TeacherStudent(Largest, expert, config={**CONFIG, "dataset_size": 100}).learn_from({"observations": ROWS}, 1)
