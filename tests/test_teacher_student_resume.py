"""A student that was saved goes on exactly as if nothing had happened, bit by bit."""

import shutil
from types import SimpleNamespace

import gymnasium as gym
import numpy as np
import pytest
import torch
from test_teacher_student import COPY, REPLAY, ROLL, expert
from tiny import POINT, contents, differences

from policykd import TeacherStudent
from policykd.cli import main
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.distillation.labels import Labels

CASES = {
    "dagger": ("dagger", "ppo", {**COPY, "collect_noise_std": 0.1}),
    "student driven, SAC": ("student_driven", "sac", {**COPY, "n_envs": 2}),
    "n-distill": ("n_distill", "ppo", ROLL),
    "ADVISOR": ("advisor", "ppo", ROLL),
    "held KL": ("kickstarting", "ppo", {**ROLL, "distill_schedule": "held_kl"}),
    "QDagger, TD3": ("qdagger", "td3", REPLAY),
    "kickstarting, SAC": ("kickstarting", "sac", {**REPLAY, "teacher_std": 0.2}),
    "partial observation": ("dagger", "ppo", {**COPY, "student_observations": (2, 3)}),
    "history": ("dagger", "ppo", {**COPY, "student_observations": (2, 3), "history": 3}),
    "GRU": ("dagger", "ppo", {**COPY, "gru": 6, "bptt_steps": 5, "burn_in": 2, "n_envs": 2}),
    "GRU of a history, SAC": ("student_driven", "sac", {**COPY, "gru": 6, "bptt_steps": 5, "history": 2}),
    "kickstarting, GRU": ("kickstarting", "ppo", {**ROLL, "gru": 6, "bptt_steps": 5}),
    "n-distill, GRU": ("n_distill", "ppo", {**ROLL, "gru": 6, "bptt_steps": 5}),
    "history, QDagger, TD3": ("qdagger", "td3", {**REPLAY, "history": 2}),
}
OWN = {"elapsed", "evaluation_seconds", "t_start", "episode_times", "t", "log_sizes"}
OWN |= {"evaluations", "evaluation_steps", "span"}  # each call of learn ends in an evaluation and has its own span


@pytest.mark.parametrize("case", CASES)
def test_a_saved_student_goes_on_exactly(tmp_path, case):
    method, backbone, config = CASES[case]

    def agent():
        return TeacherStudent(POINT, expert, method=method, backbone=backbone, seeds=(2, 5), config=config)

    # The first call of learn is told the whole budget, so that schedules agree: it is stopped half way.
    whole = agent().learn(240)
    half = agent()
    half.learn(240, callback=lambda local_variables, _: half.num_timesteps < 130)
    half.save(tmp_path / "half", include_replay=True)
    again = TeacherStudent.load(tmp_path / "half.safetensors", teacher=expert)
    assert again.num_timesteps == half.num_timesteps < 140
    again.learn(240 - again.num_timesteps)
    whole.save(tmp_path / "whole", include_replay=True)
    again.save(tmp_path / "again", include_replay=True)
    states = [checkpoint.load(tmp_path / f"{name}.safetensors") for name in ("whole", "again")]
    assert [path for path in differences(*states) if not OWN & set(path.split("/"))] == []


@pytest.mark.parametrize("memory", [{}, {"gru": 6, "bptt_steps": 5}], ids=["single states", "GRU"])
def test_fine_tuning_goes_on_exactly_and_without_the_teacher(tmp_path, memory):
    config = {**COPY, **memory, **{k: ROLL[k] for k in ("n_steps", "n_envs", "n_epochs", "batch_size")}}
    changes = {"critic_steps": 60, "fixed_std_steps": 110}

    def tuned(stop):
        agent = TeacherStudent(POINT, expert, seeds=(0, 3), config=config).learn(100)
        agent.fine_tune(300, config=changes, callback=lambda local_variables, _: agent.num_timesteps < stop)
        return agent

    whole, half = tuned(400), tuned(220)
    half.save(tmp_path / "half", include_replay=True)
    again = TeacherStudent.load(tmp_path / "half.safetensors")
    assert again.method_name == "fine_tune"
    assert again.fine_tuned_steps == half.fine_tuned_steps == 120
    again.learn(180)
    assert torch.equal(again.learner.parameters, whole.learner.parameters)
    assert torch.equal(again.recipe.anchor.actor, whole.recipe.anchor.actor)
    if memory:
        assert torch.equal(again.recipe.anchor.hidden.state, whole.recipe.anchor.hidden.state)
        assert torch.equal(again.rollout_buffer.hidden, whole.rollout_buffer.hidden)


@pytest.mark.slow
def test_the_command_trains_compares_sizes_and_resumes(tmp_path, capsys):
    TeacherStudent(POINT, expert, config={**COPY, "round_updates": 100}).learn(400).save(tmp_path / "teacher")
    flags = [
        word
        for name, value in COPY.items()
        if name != "net_arch"
        for word in (f"--{name.replace('_', '-')}", f"{value}")
    ]
    common = [*f"distill --final-episodes 3 --env {POINT} --teacher {tmp_path}/teacher.safetensors".split(), *flags]
    common += ["--total-timesteps", "80", "--run-dir"]
    main([*common, str(tmp_path / "sweep"), "--student", "2", "4x4", "--seeds", "0", "1"])
    output = capsys.readouterr().out
    assert "| 2 | 16 |" in output  # 16 parameters: (4 + 1) * 2 + (2 + 1) * 2
    files = {"students.csv", "students.md", "students.png"}
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"2", "4x4", *files}
    rows = (tmp_path / "sweep" / "students.csv").read_text(encoding="utf-8").splitlines()
    assert len(rows) == 5
    main([*common, str(tmp_path / "one"), "--student", "4x4"])
    assert f"picture {tmp_path / 'one' / 'learning_curves.png'}" in capsys.readouterr().out
    (tmp_path / "one" / ".theirs.1.tmp").write_text("of a run that is refused")
    before = contents(tmp_path / "one")
    with pytest.raises(SystemExit):
        main([*common, str(tmp_path / "one"), "--student", "4x4"])  # nothing is overwritten
    assert "exists and is not empty" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*common, str(tmp_path / "one"), "--student", "8", "--resume"])
    assert "net_arch was [4, 4], now [8]" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*common, str(tmp_path / "one"), "--student", "4x4", "8", "--resume"])  # no sweep
    assert "exists and is not empty" in capsys.readouterr().err
    other = shutil.copy(tmp_path / "teacher.safetensors", tmp_path / "other.safetensors")
    with pytest.raises(SystemExit):
        main([*common, str(tmp_path / "one"), "--student", "4x4", "--resume", "--teacher", str(other)])
    assert "other settings: teacher was" in capsys.readouterr().err
    assert contents(tmp_path / "one") == before
    longer = [*common[:-2], "160", "--run-dir"]
    main([*longer, str(tmp_path / "one"), "--student", "4x4", "--resume"])
    assert "resuming from 80 steps" in capsys.readouterr().out
    assert TeacherStudent.load(tmp_path / "one").num_timesteps == 160


def test_the_command_fine_tunes_and_resumes(tmp_path, capsys):
    TeacherStudent(POINT, expert, config={**COPY, "round_updates": 100}).learn(400).save(tmp_path / "teacher")
    settings = {**COPY, "n_steps": 16, "n_envs": 2, "batch_size": 16, "n_epochs": 1, "critic_steps": 32}
    flags = [w for name, v in settings.items() if name != "net_arch" for w in (f"--{name.replace('_', '-')}", f"{v}")]
    common = [
        *f"distill --final-episodes 3 --student 4 --env {POINT} --teacher {tmp_path}/teacher.safetensors".split(),
        *flags,
    ]
    common += ["--total-timesteps", "80", "--run-dir", str(tmp_path / "run"), "--fine-tune"]
    main([*common, "64"])
    assert "fine-tuning with the task's own reward" in capsys.readouterr().out
    main([*common, "128", "--resume"])
    assert "resuming from 144 steps" in capsys.readouterr().out
    agent = TeacherStudent.load(tmp_path / "run")
    assert (agent.method_name, agent.num_timesteps, agent.fine_tuned_steps) == ("fine_tune", 208, 128)
    assert (tmp_path / "run" / "dagger-ppo").is_dir()
    before = contents(tmp_path / "run")
    changes = ["--learning-rate", "0.5", "--seeds", "7", "--method", "bc"]
    for more, said in (
        (changes, ("learning_rate was", "now 0.5", "seeds was [0], now [7]", "method was 'dagger', now 'bc'")),
        (["--total-timesteps", "90"], ("fine-tuning began after 80 steps",)),
    ):
        with pytest.raises(SystemExit):
            main([*common, "128", "--resume", *more])
        line = capsys.readouterr().err
        assert line.count("\n") == 1 and all(part in line for part in said)
    assert contents(tmp_path / "run") == before


def test_bad_input_on_the_command_line_is_one_line(capsys):
    for words, message in (
        (["--env", POINT], "name it with --teacher"),
        (["--env", POINT, "--teacher", "nowhere.zip"], "there is no file nowhere.zip"),
        (["--env", POINT, "--teacher", "x", "--student", "64by64"], "is not a list of widths"),
        (["--backbone", "pro"], "'pro' is unknown; nearest: ppo"),
    ):
        with pytest.raises(SystemExit) as error:
            main(["distill", *words])
        assert error.value.code == 2
        line = capsys.readouterr().err
        assert message in line
        assert line.count("\n") == 1


def test_a_checkpoint_of_a_student_says_which_teacher_it_had(tmp_path):
    agent = TeacherStudent(POINT, expert, config=COPY, run_dir=tmp_path / "run").learn(80)
    loaded = TeacherStudent.load(tmp_path / "run")
    assert loaded.settings == agent.settings
    assert loaded.settings["teacher"] == "function expert"
    assert loaded.score_teacher().mean == agent.score_teacher().mean
    with pytest.raises(PolicyKDError, match=r"pass the teacher \(function expert\)"):
        loaded.learn(10)


def contrary(observation):
    return -expert(observation)


def test_another_teacher_is_scored_and_named_and_what_the_data_set_holds_is_said(tmp_path, caplog):
    TeacherStudent(POINT, expert, config=COPY, seeds=(0, 3)).learn(80).save(tmp_path / "first", include_replay=True)
    agent = TeacherStudent.load(tmp_path / "first.safetensors", teacher=contrary)
    assert (agent.score, agent.teacher_source, caplog.text) == (None, "function contrary", "")
    with pytest.raises(PolicyKDError, match=r"function contrary returns .* it is too weak to teach"):
        agent.learn(10)
    assert TeacherStudent.load(tmp_path / "first.safetensors", teacher=expert).score is not None
    assert TeacherStudent.load(tmp_path / "first.safetensors").score is not None and caplog.text == ""
    elsewhere = "PolicyKD/PointReachSparse-v0"  # on another task a teacher returns something else
    assert TeacherStudent.load(tmp_path / "first.safetensors", elsewhere, teacher=expert).score is None


def slower(observation):
    return 0.5 * expert(observation)


def moved(observation):
    return expert(observation)


@pytest.mark.parametrize(("teacher", "said"), [(slower, 1), (moved, 0), (expert, 0)])
def test_whose_answers_the_data_set_holds_is_said_once_where_learning_goes_on(tmp_path, caplog, teacher, said):
    TeacherStudent(POINT, expert, config=COPY).learn(80).save(tmp_path / "first", include_replay=True)
    agent = TeacherStudent.load(tmp_path / "first.safetensors", teacher=teacher)
    assert (agent.label_mismatch() > 0.5) == said
    for _ in range(2):
        agent.learn(40)
    line = (
        "function slower is the teacher from now on, but 80 states of the data set keep the labels of function expert"
    )
    assert caplog.text.count("is the teacher from now on") == caplog.text.count(line) == said


class Pushes:
    """A controller that counts what it has seen of an episode."""

    def reset(self):
        self.seen = 0

    def __call__(self, observation):
        self.seen += 1
        return np.full(2, self.seen / 1_000)


class Shoves(Pushes):
    """Another one, with the same memory."""


def test_what_another_teacher_remembers_is_not_this_ones(tmp_path):
    config = {**COPY, "allow_weak_teacher": True, "n_envs": 1}
    TeacherStudent(POINT, Pushes(), config=config).learn(7).save(tmp_path / "first", include_replay=True)
    for teacher, seen in ((Pushes(), 8), (Shoves(), 1)):
        agent = TeacherStudent.load(tmp_path / "first.safetensors", teacher=teacher)
        agent.get_env()
        answers = Labels.unpack(agent.tutor.answers(), discrete=False)
        assert answers.policy.actions.flatten().tolist() == pytest.approx([seen / 1_000] * 2)


def test_logged_actions_do_not_stand_for_a_teacher_that_was_handed_in_later(tmp_path, caplog):
    states = np.random.default_rng(0).uniform(-1, 1, (60, 4)).astype(np.float32)
    logged = {"observations": states, "actions": np.zeros((60, 2))}
    TeacherStudent(POINT, None, config=COPY).learn_from(logged, 5).save(tmp_path / "first", include_replay=True)
    agent = TeacherStudent.load(tmp_path / "first.safetensors", teacher=expert)
    agent.learn(40).save(tmp_path / "second", include_replay=True)
    assert "60 states of the data set keep the logged actions" in caplog.text
    with pytest.raises(PolicyKDError, match=r"pass the teacher \(function expert\)"):
        TeacherStudent.load(tmp_path / "second.safetensors").learn_from(logged, 5)


class Held(gym.Env):
    """Keeps its position where no checkpoint looks, in an object that it makes as late as in reset."""

    observation_space, action_space = gym.spaces.Box(-9, 9, (1,)), gym.spaces.Box(-1, 1, (1,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.simulator = SimpleNamespace(x=self.np_random.uniform(3, 4, 1))
        return self.simulator.x.astype(np.float32), {}

    def step(self, action):
        self.simulator.x = self.simulator.x * 0.9
        return self.simulator.x.astype(np.float32), 0.0, False, bool(self.simulator.x < 0.03), {}


def test_a_task_with_a_simulator_of_its_own_begins_a_new_episode(tmp_path, caplog):
    config = {**COPY, "n_eval_episodes": 0, "teacher_episodes": 1, "n_envs": 1, "allow_weak_teacher": True}
    teacher = {"teacher": lambda observation: np.zeros(1)}
    first = TeacherStudent(Held, **teacher, config=config).learn(60)
    assert first.collector.observations.max() < 2
    first.save(tmp_path / "held", include_replay=True)
    again = TeacherStudent.load(tmp_path / "held.safetensors", env=Held, **teacher)
    again.get_env()
    assert "Held.simulator): new episodes begin" in caplog.text
    assert again.collector.observations.min() >= 3 and again.collector.starts.all()
    assert again.learn(20).num_timesteps == 80


def test_returns_that_scale_rewards_do_not_run_into_the_episodes_of_a_saved_agent(tmp_path):
    """Saved without its environments it begins new ones."""
    config = {"n_envs": 2, "n_steps": 8, "batch_size": 8, "normalize_reward": True, "n_eval_episodes": 0}
    config |= {"teacher_std": 0.2, "allow_weak_teacher": True, "teacher_episodes": 1}
    agent = TeacherStudent(POINT, expert, method="n_distill", config=config).learn(40)
    agent.save(tmp_path / "agent")
    loaded = TeacherStudent.load(tmp_path / "agent", teacher=expert)
    for part in (loaded.learner, loaded.recipe.teaching):
        assert part.discounted_rewards.any()
    loaded.get_env()
    for part in (loaded.learner, loaded.recipe.teaching):
        assert not part.discounted_rewards.any()
