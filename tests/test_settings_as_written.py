"""Numbers and names of settings as SB3, its zoo and NumPy write them; and on the command line."""

import dataclasses
import json
import re
import sys

import numpy as np
import pytest
import torch
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from tiny import POINT, TINY, flags

from policykd import DualStudent, PolicyKDError, Teacher, TeacherStudent
from policykd.cli import main
from policykd.cli.train import read as train_options
from policykd.cooperation.config import SearchConfig
from policykd.core.fields import Linear, as_type, change, split_linear
from policykd.distillation.methods import PEER_METHODS
from policykd.distillation.schedules import schedule_of
from policykd.distillation.supervised.config import HintonConfig
from policykd.distillation.supervised.training_config import TrainingConfig
from policykd.distillation.teaching_config import TAUGHT_CONFIGS
from policykd.learners.config import DDPGConfig, PPOConfig, SACConfig, TD3Config
from policykd.learners.settings import Settings
from policykd.measure.fidelity import visited
from policykd.training.arguments import advise_device, check_episodes, check_seeds, check_threads
from policykd.training.peer_checks import check_peers
from policykd.training.recipes.rollout import at


@pytest.mark.parametrize(
    ("name", "written", "meant"),
    [
        ("buffer_size", 1e6, 1_000_000),
        ("buffer_size", np.float64(1e4), 10_000),
        ("batch_size", np.int64(64), 64),
        ("batch_size", np.uint8(64), 64),
        ("distill_recent", 1e3, 1000),
        ("gamma", np.float32(0.5), 0.5),
        ("tau", 1, 1.0),
        ("tau", np.int32(1), 1.0),
        ("scale_free", np.bool_(False), False),
        ("net_arch", [np.int64(8), 8.0], (8, 8)),
        ("ent_coef", np.float64(0.5), 0.5),
        ("ent_coef", np.str_("auto_0.1"), "auto_0.1"),
    ],
)
@pytest.mark.parametrize("make", [SACConfig, lambda **given: change(SACConfig(), given)])
def test_a_number_is_a_number_whoever_made_it(make, name, written, meant):
    value = getattr(make(**{name: written}), name)
    assert value == meant and type(value) is type(meant)
    if name == "net_arch":
        assert [type(width) for width in value] == [int, int]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("buffer_size", 1.5),
        ("buffer_size", float("nan")),
        ("buffer_size", float("inf")),
        ("buffer_size", "1e6"),
        ("buffer_size", True),
        ("buffer_size", np.bool_(True)),
        ("gamma", np.bool_(True)),
        ("scale_free", np.int64(1)),
        ("net_arch", [8.5]),
        ("net_arch", 64),
        ("net_arch", {"pi": [8], "vf": [8]}),
        ("train_freq", (1, "epoch")),
        ("train_freq", (True, "step")),
        ("train_freq", (1, 2)),
        ("batch_size", np.array([64, 64])),
    ],
)
@pytest.mark.parametrize("make", [SACConfig, lambda **given: change(SACConfig(), given)])
def test_what_is_no_such_number_is_refused_in_one_line(make, name, written):
    with pytest.raises(PolicyKDError, match=f"config: {name}=") as error:
        make(**{name: written})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("written", [4, (4, "step"), [4.0, "step"], TrainFreq(4, TrainFrequencyUnit.STEP)])
def test_steps_between_updates_are_written_as_sb3_takes_and_keeps_them(written):
    agent = DualStudent(POINT, backbone="sac", config={**TINY, "train_freq": written})
    assert agent.settings["config"]["train_freq"] == 4
    kept = agent.to_sb3().train_freq
    assert kept == TrainFreq(4, TrainFrequencyUnit.STEP)
    assert DualStudent(POINT, backbone="sac", config={**TINY, "train_freq": kept}).config == agent.config
    taught = TeacherStudent(POINT, None, backbone="td3", config={"net_arch": (4,), "train_freq": written})
    assert taught.config.train_freq == 4


@pytest.mark.parametrize("written", [(2, "episode"), TrainFreq(2, TrainFrequencyUnit.EPISODE)])
def test_episodes_between_updates_are_refused_with_the_reason(written):
    with pytest.raises(PolicyKDError, match=r"config: train_freq=\(2, 'episode'\) counts episodes, .*number of steps$"):
        change(SACConfig(), {"train_freq": written})


@pytest.mark.parametrize("kind", [TrainingConfig, HintonConfig, SearchConfig, *TAUGHT_CONFIGS.values()])
def test_settings_that_a_program_makes_are_read_like_others(kind):
    names = {field.name for field in dataclasses.fields(kind)}
    whole, number = ("search_steps", "sparsity") if kind is SearchConfig else ("batch_size", "learning_rate")
    assert {whole, number} <= names
    made = kind(**{whole: 32.0, number: 1})
    assert type(getattr(made, whole)) is int and type(getattr(made, number)) is float
    for name in (whole, number):
        with pytest.raises(PolicyKDError, match=f"config: {name}='many' must be "):
            kind(**{name: "many"})


def test_a_linear_schedule_is_understood_where_there_is_one():
    assert TD3Config(learning_rate="lin_3e-4").learning_rate == Linear("3e-4")
    made = PPOConfig(clip_range="lin_0.2")
    assert (made.clip_range, made.clip_range_schedule) == (0.2, "linear")
    config = change(PPOConfig(), {"learning_rate": "lin_3e-4", "clip_range": "lin_0.2"})
    assert (config.learning_rate, config.learning_rate_schedule) == (3e-4, "linear")
    assert (config.clip_range, config.clip_range_schedule) == (0.2, "linear")
    rate = change(TD3Config(), {"learning_rate": "lin_1e-3"}).learning_rate
    assert rate(1.0) == 1e-3 and rate(0.25) == 2.5e-4


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tau", "lin_0.1", "TD3Config has no schedule for tau: give a number"),
        ("batch_size", "lin_64", "no schedule for batch_size"),
        ("learning_rate", "lin_fast", "must be lin_ and a number"),
        ("layer_norm", "lin_1", "layer_norm='lin_1' must be bool"),
    ],
)
def test_a_linear_schedule_elsewhere_is_refused(name, value, said):
    with pytest.raises(PolicyKDError, match=said):
        change(TD3Config(), {name: value})


@pytest.mark.parametrize("name", ["network", "critic_network", "divergence", "distill_schedule"])
def test_a_name_may_begin_as_a_linear_schedule_does(name):
    with pytest.raises(PolicyKDError, match=f"{name}: 'lin_0.1' is unknown"):
        DualStudent(POINT, backbone="sac", config={**TINY, name: "lin_0.1"})


def test_a_group_of_the_observation_may_begin_as_a_linear_schedule_does():
    config = change(TAUGHT_CONFIGS["sac"](), {"student_observations": "lin_vel"})
    assert config.student_observations == "lin_vel"


@pytest.mark.parametrize("said", ["false", "no", "0"])
def test_a_word_is_no_truth(said, tmp_path):
    """Python takes "false" for True."""
    agent = DualStudent(POINT, backbone="sac", config=TINY)
    with pytest.raises(PolicyKDError, match=f"DualStudent.learn: progress_bar='{said}' must be True or False"):
        agent.learn(0, progress_bar=said)
    with pytest.raises(PolicyKDError, match=f"DualStudent.save: include_replay='{said}' must be True or False"):
        agent.save(tmp_path / "agent", said)
    with pytest.raises(PolicyKDError, match=f"trust='{said}' must be bool"):
        Teacher.load(tmp_path / "program.pt", trust=said)
    with pytest.raises(PolicyKDError, match=f"layer_norm='{said}' must be bool"):
        SACConfig(layer_norm=said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("start", "said"), [("-1e-3", "must be positive"), ("0", "must be positive"), ("inf", "must be finite")]
)
@pytest.mark.parametrize("kind", [TD3Config, PPOConfig])
def test_a_linear_learning_rate_starts_where_a_number_may_be(kind, start, said):
    with pytest.raises(PolicyKDError, match=f"learning_rate=.* {said}"):
        change(kind(), {"learning_rate": f"lin_{start}"})


@pytest.mark.parametrize("given", [-1, np.nan, np.inf, "1e-3", None])
def test_what_a_function_gives_for_a_setting_is_a_number_from_0_up(given):
    for name, ask in (
        ("learning_rate", lambda function: at(function, 0.75)),
        ("learning_rate", lambda function: Settings(TD3Config(learning_rate=function), 1, "cpu").advance(0.75)),
        ("distill_schedule", lambda function: schedule_of(function)(0.25)),
    ):
        with pytest.raises(
            PolicyKDError, match=rf"config: {name}\(0.25\) returned {given!r}, but must return a finite"
        ):
            ask(lambda point: given if point == 0.25 else 1e-3)
    assert at(lambda remaining: np.float32(remaining), 0.25) == 0.75


@pytest.mark.parametrize("backbone", ["td3", "sac", "ppo"])
def test_a_linear_learning_rate_falls_is_saved_and_comes_back(tmp_path, backbone):
    tiny = {"net_arch": (8,), "n_steps": 16, "batch_size": 8} if backbone == "ppo" else TINY
    config = {**tiny, "distill_batch_size": 8, "n_eval_episodes": 0, "learning_rate": "lin_1e-3"}
    agent = DualStudent(POINT, backbone=backbone, config=config).learn(80)
    agent.save(tmp_path / "agent")
    loaded = DualStudent.load(tmp_path / "agent")
    assert loaded.config == agent.config and loaded.settings == agent.settings
    json.dumps(agent.settings)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("n_timesteps", "total_timesteps of learn"),
        ("policy_kwargs", "settings of their own: net_arch"),
        ("normalize", "normalize_observation and normalize_reward"),
        ("noise_std", "action_noise_std"),
        ("use_sde", "leave it out"),
        ("seed", "seeds="),
        ("env_wrapper", "a function that makes the wrapped environment"),
        ("alpah", "nearest: alpha"),
    ],
)
def test_a_setting_that_is_elsewhere_says_where(name, said):
    with pytest.raises(PolicyKDError, match=f"unknown key '{name}' for DDPGConfig; .*{said}"):
        change(DDPGConfig(), {name: 1})


def test_budgets_may_be_written_as_floats():
    agent = DualStudent(POINT, peers=np.int64(2), seeds=np.arange(1).tolist(), config={**TINY, "n_eval_episodes": 0})
    assert agent.learn(4e1).num_timesteps == 40 and type(agent.run.span[1]) is int
    with pytest.raises(PolicyKDError, match="total_timesteps='many' must be int"):
        agent.learn("many")


def test_counts_may_be_written_as_floats():
    agent = DualStudent(POINT, peers=2.0, seeds=np.array([0.0, 1e0]), threads=1.0, config=TINY)
    assert (agent.peers, agent.seeds, agent.n_learners) == (2, (0, 1), 4)
    assert agent.evaluate(1e0, seed=np.float64(3)).returns.shape == (4, 1)
    assert agent.evaluate_group(2e0).returns.shape == (2, 2) and agent.learner_index(3.0) == 3
    student = TeacherStudent(POINT, None, config={"net_arch": (4,)})
    student.learn_from({"observations": np.zeros((4, 4)), "actions": np.zeros((4, 2))}, 2e0)
    assert visited(agent.factory, lambda o: np.zeros((1, 2)), 3e0, 0).shape == (3, 4)


@pytest.mark.parametrize("count", [1.5, True, "2", None, np.nan, np.inf])
def test_a_count_that_is_none_is_not_taken_for_one_that_is_too_small(count):
    for ask, said in (
        (lambda: check_peers(PEER_METHODS["dpd"], count), f"got {count!r}, not an integer"),
        (lambda: check_episodes(count, 0), f"got {count!r} and 0; both must be integers"),
        (lambda: check_seeds((0, count)), "seeds: must be one or more integers >= 0"),
        (lambda: check_threads(count), f"threads={count!r} must be a positive number"),
    ):
        with pytest.raises(PolicyKDError, match=re.escape(said)):
            ask()


def test_a_budget_of_fine_tuning_that_is_none_leaves_the_students_as_they_were():
    student = TeacherStudent(POINT, None, config={"net_arch": (4,)})
    with pytest.raises(PolicyKDError, match="total_timesteps='many' must be int"):
        student.fine_tune("many")
    assert student.tuning is None


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"n_envs": 3}, "n_envs=3 cannot change once fine-tuning has begun"),
        ({"net_arch": (8,)}, "net_arch=(8,) cannot change once fine-tuning has begun"),
        ({"anchor": "teacher"}, "is not available with ppo"),  # with or without a teacher
        ({"matmul_precision": "bfloat16"}, "matmul_precision: bfloat16 is not for this machine"),
    ],
)
def test_settings_that_fine_tuning_cannot_change_leave_the_students_as_they_were(changed, said, monkeypatch):
    monkeypatch.setattr("policykd.native.supports", lambda precision: "is not for this machine")
    student = TeacherStudent(POINT, None, backbone="ppo", config={"net_arch": (4,)})
    with pytest.raises(PolicyKDError, match=re.escape(said)):
        student.fine_tune(64, config=changed)
    assert student.tuning is None


# The command line


def test_flags_are_written_as_the_zoo_writes_numbers():
    words = ["--buffer-size", "1e6", "--total-timesteps=2e4", "--seeds", "1e1", "3", "--net-arch", "1e1", "8"]
    options = train_options(["--backbone", "sac", *words])
    assert (options.config.buffer_size, options.total_timesteps, options.seeds) == (1_000_000, 20_000, (10, 3))
    assert options.config.net_arch == (10, 8)
    options = train_options(["--backbone", "ppo", "--learning-rate", "lin_3e-4", "--clip-range=lin_0.2"])
    assert (options.config.learning_rate, options.config.learning_rate_schedule) == (3e-4, "linear")
    assert (options.config.clip_range, options.config.clip_range_schedule) == (0.2, "linear")
    assert train_options(["--backbone", "td3", "--learning-rate", "lin_1e-3"]).config.learning_rate == Linear("1e-3")


def test_a_flag_that_is_no_whole_number_is_refused():
    with pytest.raises(PolicyKDError, match="--buffer-size"):
        train_options(["--buffer-size", "1.5"])


def test_a_json_file_is_written_as_the_zoo_writes_numbers(tmp_path):
    content = {"backbone": "ppo", "total_timesteps": 1e4, "config": {"learning_rate": "lin_3e-4", "n_steps": 1e2}}
    (tmp_path / "file.json").write_text(json.dumps(content))
    options = train_options(["--config-file", str(tmp_path / "file.json")])
    assert (options.total_timesteps, options.config.n_steps) == (10_000, 100)
    assert options.config.learning_rate_schedule == "linear"


def test_words_that_only_look_like_schedules_stay():
    words = ["--run-dir", "lin_1", "--env", "lin_0.1", "lin_3"]
    assert split_linear(words, PPOConfig) == words


def test_as_type_gives_the_value_back_where_it_fits():
    assert as_type("x", 3, int | None) == 3 and as_type("x", None, int | None) is None


def test_the_version_is_told(capsys):
    main(["--version"])
    assert capsys.readouterr().out.startswith("policykd 0.")


TASK = """import gymnasium, policykd_envs
gymnasium.register("MyTask-v0", entry_point=policykd_envs.PointReach, max_episode_steps=20)
"""


def test_a_task_of_a_module_in_the_current_folder_is_found(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [part for part in sys.path if part not in ("", str(tmp_path))])
    (tmp_path / "my_own_env.py").write_text(TASK)
    small = flags(n_eval_episodes=0)
    main(["train", "--env", "my_own_env:MyTask-v0", "--total-timesteps", "40", *small])
    assert "run folder runs/MyTask-v0_dpd-ddpg_1 " in capsys.readouterr().out
    assert (tmp_path / "runs" / "MyTask-v0_dpd-ddpg_1" / "checkpoint.safetensors").exists()
    assert not any(":" in path.name for path in tmp_path.rglob("*"))
    (tmp_path / "my_broken_env.py").write_text("1 / 0")
    with pytest.raises(SystemExit):
        main(["train", "--env", "my_broken_env:MyTask-v0"])
    assert "my_broken_env:MyTask-v0 cannot be made: division by zero" in capsys.readouterr().err


@pytest.mark.parametrize("compile", ["yes", 1, None, np.ones(2)], ids=str)
def test_what_says_neither_yes_nor_no_to_compiling_is_refused(compile):
    message = "compile: must be True, False or 'auto', got "
    for make in (DualStudent, lambda env, **options: TeacherStudent(env, None, **options)):
        with pytest.raises(PolicyKDError, match=f"^{re.escape(message)}") as error:
            make(POINT, compile=compile)
        assert "\n" not in str(error.value)


def test_a_device_that_is_none_is_refused():
    with pytest.raises(PolicyKDError, match=r"^device: None is unknown: use auto, cpu, cuda"):
        DualStudent(POINT, device=None)


def test_few_learners_on_a_gpu_are_told_that_the_processor_is_faster(caplog):
    for device, learners in (("cpu", 2), ("cuda", 200)):
        advise_device(torch.device(device), learners)
    assert not caplog.text
    advise_device(torch.device("cuda"), 2)
    assert "compile=True" in caplog.text
    assert "device='cpu'" in caplog.text
