"""What callbacks of SB3 and its ecosystem ask of a model, answered by agents of both kinds or refused in one line."""

import copy
import io
import pickle
import re
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from policykd_envs import PointReach
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common import callbacks as sb3
from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from tiny import POINT, TINY, differences

from policykd import DualStudent, PolicyKDError, Teacher, TeacherStudent
from policykd.export.zoo import to_zip
from policykd.measure.plots import Curve, learning_curves
from policykd.memory.knowledge_base import KnowledgeBase
from policykd.training import progress_lines
from policykd.training.progress_lines import ProgressLines, make_bar

ROLLOUTS = {"net_arch": (8, 8), "n_steps": 32, "batch_size": 16, "n_epochs": 1, "distill_batch_size": 8}
QUIET = {"eval_freq": 0, "n_eval_episodes": 0}


def dual(**options):
    return DualStudent(POINT, backbone="td3", config={**TINY, **QUIET}, **options)


def taught(**options):
    teacher = Teacher.load(lambda o: np.clip(10 * o[..., 2:], -1, 1), env=POINT)
    config = {**ROLLOUTS, **QUIET, "round_steps": 50, "round_updates": 2, "teacher_episodes": 3}
    return TeacherStudent(POINT, teacher, config=config, **options)


AGENTS = pytest.mark.parametrize("make", [dual, taught])


def evaluation(**options):
    made = Monitor(gym.make(POINT))
    return sb3.EvalCallback(made, eval_freq=25, n_eval_episodes=1, verbose=0, best_model_save_path="o", **options)


class Curious(sb3.BaseCallback):
    """Asks what W&B's, the zoo's and users' own callbacks ask."""

    def _on_step(self):
        model = self.model
        assert {type(model.__dict__[name]).__name__ for name in model.__dict__}  # W&B's walks through it
        assert all(map(str, model.__dict__.values()))
        assert model.get_vec_normalize_env() is None and model._vec_normalize_env is None and model.verbose == 0
        assert len(model.ep_info_buffer) <= 100 * model.n_learners and len(model.ep_success_buffer) == 0
        envs = model.n_learners * model.n_envs
        assert self.training_env.num_envs == envs == len(self.locals["infos"])
        assert self.locals["dones"].shape == self.locals["rewards"].shape == (envs,)
        self.logger.record("mine/value", 1.0)
        return True


CALLBACKS = {
    "EvalCallback": evaluation,
    "new best": lambda: evaluation(callback_on_new_best=sb3.StopTrainingOnRewardThreshold(1e9, verbose=0)),
    "no improvement": lambda: evaluation(callback_after_eval=sb3.StopTrainingOnNoModelImprovement(9, 9, verbose=0)),
    "EvalCallback on VecNormalize": lambda: sb3.EvalCallback(
        VecNormalize(DummyVecEnv([lambda: Monitor(gym.make(POINT))]), training=False), eval_freq=30, n_eval_episodes=1
    ),
    "CheckpointCallback": lambda: sb3.CheckpointCallback(20, "o", save_vecnormalize=True),
    "StopTrainingOnMaxEpisodes": lambda: sb3.StopTrainingOnMaxEpisodes(99),
    "EveryNTimesteps": lambda: sb3.EveryNTimesteps(50, sb3.CheckpointCallback(1, "o")),
    "LogEveryNTimesteps": lambda: sb3.LogEveryNTimesteps(40),
    "ProgressBarCallback": sb3.ProgressBarCallback,
    "ConvertCallback": lambda: sb3.ConvertCallback(lambda local, other: True),
    "function": lambda: lambda local, other: True,
    "CallbackList": lambda: sb3.CallbackList([Curious(), sb3.CheckpointCallback(40, "o")]),
    "tuple with a function": lambda: (Curious(), lambda local, other: True),
    "list": lambda: [Curious(), sb3.StopTrainingOnMaxEpisodes(99)],
}


@pytest.mark.filterwarnings("ignore:.*rich is experimental", "ignore:Training and eval env are not of the same type")
@pytest.mark.parametrize("name", CALLBACKS)
@AGENTS
def test_sb3s_callbacks_work(make, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert make().learn(120, callback=CALLBACKS[name]()).num_timesteps == 120


class Rollouts(sb3.BaseCallback):
    """Notes when rollouts begin and end, and stops at some step."""

    def __init__(self, last):
        super().__init__()
        self.heard, self.last = [], last

    def _on_rollout_start(self):
        self.heard.append("start")

    def _on_rollout_end(self):
        self.heard.append("end")

    def _on_step(self):
        self.heard.append(self.num_timesteps)
        return self.num_timesteps < self.last


@pytest.mark.parametrize("last", [1_000, 40])
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [(PPO, {"n_steps": 16, "batch_size": 8, "n_epochs": 1}), (SAC, {"learning_starts": 20, "train_freq": 3})],
)
def test_callbacks_hear_of_every_rollout_as_in_sb3(algorithm, settings, last):
    theirs, ours = Rollouts(last), Rollouts(last)
    algorithm("MlpPolicy", POINT, policy_kwargs={"net_arch": [8]}, **settings).learn(48, callback=theirs)
    single = {"backbone": algorithm.__name__.lower(), "method": "independent", "peers": 1}
    DualStudent(POINT, **single, config={"net_arch": (8,), **settings, **QUIET}).learn(48, callback=ours)
    assert ours.heard == theirs.heard


def test_a_call_of_learn_without_a_whole_rollout_says_that_nothing_is_learnt(caplog):
    agent = DualStudent(POINT, backbone="ppo", config={**ROLLOUTS, **QUIET})
    said = "these 62 steps train nothing: a rollout of n_steps=32 takes 64 "
    agent.learn(62)
    assert said in caplog.text and agent.recipe.n_updates == 0
    caplog.clear()
    agent.learn(2).learn(64)  # the rollout goes on
    assert not caplog.text and agent.recipe.n_updates == 2


def test_a_round_of_a_student_is_a_rollout():
    callback = Rollouts(1_000)
    agent = taught().learn(120, callback=callback)
    heard = [event for event in callback.heard if isinstance(event, str)]
    assert agent.teaching.round_steps == 50 and heard == ["start", "end", "start", "end", "start"]


class Unwilling(sb3.BaseCallback):
    """As the zoo's ParallelTrainCallback."""

    def _on_step(self):
        return True

    def _init_callback(self):
        raise AssertionError("it is not supported")


@pytest.mark.parametrize(
    ("callback", "said"),
    [
        ("EvalCallback", "callback: must be an SB3 callback, a function of"),
        (sb3.CheckpointCallback, "got the class CheckpointCallback: pass an instance"),
        ([None], "a list of these, got a NoneType"),
        (3, "a list of these, got a int"),
        (Unwilling(), "callback: Unwilling cannot begin here (AssertionError: it is not supported)"),
        (
            MaskableEvalCallback(DummyVecEnv([lambda: gym.make(POINT)]), verbose=0),
            "callback: MaskableEvalCallback needs an agent that takes action_masks: use EvalCallback",
        ),
    ],
)
def test_what_is_no_callback_here_is_refused_before_a_step(callback, said):
    agent = dual()
    with pytest.raises(PolicyKDError) as error:
        agent.learn(120, callback=callback)
    assert said in str(error.value) and "\n" not in str(error.value) and agent.num_timesteps == 0


def test_a_callback_that_stops_stops(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stop = evaluation(callback_on_new_best=sb3.StopTrainingOnRewardThreshold(-1e9, verbose=0))
    assert dual().learn(120, callback=stop).num_timesteps == 50
    assert dual().learn(400, callback=sb3.StopTrainingOnMaxEpisodes(2)).num_timesteps == 200


def test_a_checkpoint_callback_keeps_the_replay_and_it_comes_back(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent = dual().learn(80, callback=sb3.CheckpointCallback(40, "o", save_replay_buffer=True))
    kept = tmp_path / "o" / "rl_model_replay_buffer_80_steps.pkl"
    other = dual()
    other.load_replay_buffer(kept)
    assert not list(differences(other.replay_buffer.state(), agent.replay_buffer.state()))
    with pytest.raises(pickle.UnpicklingError):
        pickle.load(io.BytesIO(kept.read_bytes()))
    with pytest.raises(PolicyKDError, match="is not a replay"):
        other.load_replay_buffer(tmp_path / "o" / "rl_model_80_steps.zip")
    with pytest.raises(PolicyKDError, match="there is no file"):
        other.load_replay_buffer(tmp_path / "missing.pkl")
    with pytest.raises(PolicyKDError, match="save_replay_buffer: ppo with dagger has no replay"):
        taught().save_replay_buffer(tmp_path / "x.pkl")


@pytest.mark.parametrize("name", ["x", "x.zip", "x.y", "o/x.safetensors"])
def test_what_is_saved_under_a_name_is_loaded_under_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    agent = dual().learn(60)
    agent.save(name)
    assert (DualStudent.load(name).learner.actor == agent.learner.actor).all()


@pytest.mark.parametrize("given", [3, b"agent", ["agent"], ""], ids=str)
def test_what_is_no_path_is_refused_in_one_line(given):
    agent = dual()
    calls = agent.save, agent.save_replay_buffer, agent.load_replay_buffer, DualStudent.load
    for call in (*calls, lambda given: dual(run_dir=given)):
        with pytest.raises(PolicyKDError, match=r"^\w+: .* is not a path: give a str or a pathlib.Path$"):
            call(given)


def test_a_folder_is_no_file_to_write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    memory = KnowledgeBase(3, 2, "t")
    for write in (dual().save_replay_buffer, memory.save, lambda path: to_zip(dual(), 0, path), _draw):
        for path in (".", Path(), "..", "/"):
            with pytest.raises(PolicyKDError, match=r"^\w+: \S+ is a folder: name a file, such as "):
                write(path)
        with pytest.raises(PolicyKDError, match=r"^\w+: ('' is not a path|\. is a folder)"):
            write("")
    assert not list(tmp_path.iterdir())


def _draw(path):
    learning_curves([Curve("a", np.arange(3), np.ones((3, 1)))], path, title="t")


def test_a_file_called_zip_is_read_by_policykd_and_is_no_agent_of_sb3(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    agent = dual().learn(60, callback=sb3.CheckpointCallback(30, "o"))
    file = "o/rl_model_60_steps.zip"
    assert not zipfile.is_zipfile(file)
    with pytest.raises(ValueError, match="wasn't a zip-file"):
        TD3.load(file)
    observations = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    loaded = DualStudent.load(file)
    acts = Teacher.load(file, env=POINT).predict(observations)[0]
    np.testing.assert_allclose(acts, loaded.predict(observations)[0], atol=1e-6)
    assert loaded.num_timesteps == 60 and agent.num_timesteps == 60


class Reaches(PointReach):
    """Says in its last step whether it came near."""

    def step(self, action):
        observation, reward, ended, cut, info = super().step(action)
        return observation, reward, ended, cut, {**info, "is_success": info["distance"] < 100}


def test_buffers_parameters_and_logs_are_there(tmp_path):
    make = lambda: gym.wrappers.TimeLimit(Reaches(), 50)  # noqa: E731
    agent = DualStudent(make, backbone="td3", config={**TINY, **QUIET}, run_dir=tmp_path / "run").learn(200)
    assert len(agent.ep_info_buffer) == 4 and {"r", "l", "t"} <= agent.ep_info_buffer[0].keys()
    assert list(agent.ep_success_buffer) == [1.0] * 4
    assert agent.tensorboard_log == str(tmp_path / "run") and dual().tensorboard_log is None
    parameters = agent.get_parameters()
    assert (parameters["actor"] == agent.learner.actor).all() and parameters["actor"].shape[0] == 2
    observation = np.zeros((1, 4), np.float32)
    with torch.no_grad():
        shown = agent.policy.predict(observation, deterministic=True)[0]
    np.testing.assert_allclose(shown, agent.predict(observation)[0], atol=1e-6)
    assert any(isinstance(writer, TensorBoardOutputFormat) for writer in agent.logger.output_formats)
    with pytest.raises(PolicyKDError, match=r"set_env: an agent's task, .*: save it without its replay, and load"):
        agent.set_env(gym.make(POINT))


def test_settings_are_attributes_as_sb3s_and_cannot_be_assigned():
    agent = dual()
    assert (agent.gamma, agent.learning_rate) == (agent.config.gamma, agent.config.learning_rate)
    rates = (1e-3, 1e-4)
    peers = DualStudent(POINT, backbone="td3", config={**TINY, "vary": {"learning_rate": rates}})
    assert peers.learning_rate == rates and taught().n_epochs == 1
    for name in ("gamma", "learning_rate", "n_epochs", "n_envs"):  # SB3's agents would learn with it from then on
        with pytest.raises(
            PolicyKDError, match=rf"{name}: an agent's settings cannot change.*make a new agent with config=\{{"
        ):
            setattr(agent, name, 1)
    agent.mine = 3  # W&B's callback and users keep things of their own there
    assert agent.mine == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("env", "DualStudent has no env; get_env() gives"),
        ("set_parameters", "has no set_parameters; load() reads"),
        ("set_random_seed", "has no set_random_seed; seeds=(...) is"),
        ("nothing", "'DualStudent' object has no attribute 'nothing'"),
    ],
)
def test_what_sb3s_agents_have_beside_is_told_where_it_is(name, said):
    assert not hasattr(dual(), name)
    with pytest.raises(AttributeError, match=re.escape(said)):
        getattr(dual(), name)


def test_a_logger_that_is_set_hears_what_is_logged():
    class Heard(Logger):
        rows = 0

        def dump(self, step=0):
            self.rows += 1

    agent, logger = dual(), Heard(None, [])
    agent.set_logger(logger)
    agent.learn(120)
    assert agent.logger is logger and logger.rows > 0


def test_agents_teachers_and_distillers_say_what_they_are():
    from policykd import Distiller

    assert repr(dual(seeds=(0, 1))) == (
        "DualStudent(PolicyKD/PointReach-v0, method=dpd, backbone=td3, 2 peers x 2 seeds, 0 steps)"
    )
    assert repr(taught()).startswith("TeacherStudent(PolicyKD/PointReach-v0, method=dagger, backbone=ppo, 1 seed, 0")
    assert repr(Teacher.load(dual())).endswith(", 4 observations, 2 actions)")
    distiller = Distiller(torch.nn.Linear(2, 3), torch.nn.Sequential())
    assert repr(distiller) == "Distiller(method=hinton, Linear taught by Sequential, 0 steps)"


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: DualStudent("MlpPolicy", POINT), "'MlpPolicy' is SB3's first argument; here the task comes first"),
        (lambda: TeacherStudent("MlpPolicy", POINT), "here the task comes first: TeacherStudent(env)"),
        (lambda: DualStudent(POINT, "dpd"), "pass all but the first arguments by name"),
        (lambda: DualStudent(), "missing a required argument: 'env'"),
        (lambda: DualStudent(POINT, learning_rate=1e-3), "it is a setting: config={'learning_rate': ...}"),
        (lambda: TeacherStudent(POINT, 1, round_steps=3), "it is a setting: config={'round_steps': ...}"),
        (lambda: DualStudent(POINT, policy_kwargs={}), "unknown argument 'policy_kwargs'; its entries are settings"),
        (lambda: DualStudent(POINT, tensorboard_log="x"), "run_dir= is an argument of the agent"),
        (lambda: DualStudent(POINT, verbose=1), "learn(progress_bar=True) shows progress"),
        (
            lambda: TeacherStudent(POINT, 1, vecnormalize="v"),
            "belongs to the teacher: Teacher.load(..., vecnormalize=...)",
        ),
        (lambda: DualStudent(POINT, methd="dpd"), "unknown argument 'methd'; nearest: method"),
        (
            lambda: dual().learn(40, log_interval=4),
            "DualStudent.learn: unknown argument 'log_interval'; it is called",
        ),
        (lambda: taught().learn(40, tb_log_name="x"), "TeacherStudent.learn: unknown argument 'tb_log_name'; run_dir="),
        (
            lambda: dual().learn(40, reset_num_timesteps=False),
            "learn() continues the count; make a new agent to start over",
        ),
        (lambda: dual().learn(total_timestep=40), "unknown argument 'total_timestep'; nearest: total_timesteps"),
        (lambda: dual().learn(), "DualStudent.learn: missing a required argument: 'total_timesteps'"),
        (lambda: taught().fine_tune(40, log_interval=4), "TeacherStudent.fine_tune: unknown argument 'log_interval'"),
        (lambda: dual().save("x", exclude=["env"]), "DualStudent.save: unknown argument 'exclude'; all of an agent"),
        (
            lambda: DualStudent.load("x", custom_objects={}),
            "DualStudent.load: unknown argument 'custom_objects'; files of",
        ),
        (lambda: TeacherStudent.load("x", print_system_info=True), "records what it was computed by; leave it out"),
        (lambda: DualStudent.load("x", learning_rate=1e-3), "an agent's settings cannot change"),
        (lambda: DualStudent.load("x", teecher=1, env=POINT), "unknown argument 'teecher'"),
        (lambda: DualStudent.load(), "missing a required argument: 'path'"),
        (lambda: DualStudent.load("MlpPolicy"), "checkpoint: there is no file MlpPolicy"),
    ],
)
def test_a_misplaced_argument_is_told_where_it_goes(call, said):
    with pytest.raises(PolicyKDError) as error:
        call()
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, pickle.dumps])
def test_an_agent_that_is_copied_or_pickled_says_what_to_do(copied):
    agent = DualStudent(POINT, config={"net_arch": (4, 4)})
    with pytest.raises(PolicyKDError, match=r"^DualStudent: an agent cannot be pickled or copied: use save\(path\)"):
        copied(agent)


@pytest.mark.parametrize("writes", [lambda model: model.save("agent.zip"), lambda model: torch.save({}, "agent.zip")])
def test_a_zip_of_sb3_or_torch_is_no_agent_and_the_line_says_who_reads_it(tmp_path, monkeypatch, writes):
    monkeypatch.chdir(tmp_path)
    writes(TD3("MlpPolicy", "Pendulum-v1", policy_kwargs={"net_arch": [4]}))
    with pytest.raises(PolicyKDError, match=r"agent.zip is a zip, as SB3 and torch write them, .* load it with what"):
        DualStudent.load("agent.zip")


def test_a_replay_that_sb3_saved_is_refused_and_the_line_says_who_learns_from_it(tmp_path):
    SAC("MlpPolicy", POINT, buffer_size=100).save_replay_buffer(tmp_path / "replay.pkl")
    with pytest.raises(PolicyKDError, match=r"replay.pkl is a pickle, .*TeacherStudent.learn_from"):
        dual().load_replay_buffer(tmp_path / "replay.pkl")


SINGLE = {"method": "independent", "peers": 1}


def test_an_activation_is_read_as_sb3s_policy_kwargs_write_it():
    for backbone, of_torch, name in (("ppo", torch.nn.ReLU, "relu"), ("sac", torch.nn.ELU, "elu")):
        agent = DualStudent(POINT, backbone=backbone, **SINGLE, config={"activation_fn": of_torch})
        assert agent.config.activation_fn == name


@pytest.mark.parametrize(
    ("backbone", "config", "said"),
    [
        ("td3", {"net_arch": {"pi": [8], "qf": [8]}}, "must be one list of widths, for actor and critics alike"),
        ("td3", {"activation_fn": torch.nn.LeakyReLU}, "'leakyrelu' must be Literal['relu', 'tanh', 'elu']"),
        ("ppo", {"clip_range": lambda left: 0.2 * left}, "clip_range_schedule='linear' lets it fall to 0"),
        ("ppo", {"clip_range_vf": None}, "values are not clipped, as in SB3 by default; leave it out"),
        ("ppo", {"target_kl": 0.01}, "learners share Adam's step count; leave it out"),
        ("ppo", {"rollout_buffer_class": None}, "every learner's rollout is policykd's own"),
        ("td3", {"n_critics": 2}, "td3 and sac have two critics"),
        ("sac", {"use_sde_at_warmup": False}, "there is no state-dependent exploration"),
        ("sac", {"stats_window_size": 10}, "logs average the latest 100 episodes"),
    ],
)
def test_a_setting_of_sb3_that_is_not_here_says_what_to_do(backbone, config, said):
    with pytest.raises(PolicyKDError, match=re.escape(said)):
        DualStudent(POINT, backbone=backbone, **SINGLE, config=config)


def test_what_reset_returns_is_no_observation():
    with pytest.raises(
        PolicyKDError, match=r"predict: got what reset\(\) returns: pass its first element, the observation"
    ):
        dual().predict(gym.make(POINT).reset())


def test_a_saved_agent_is_found_without_its_ending_as_in_sb3(tmp_path):
    agent = dual()
    for name in ("zipped.zip", "ours.safetensors", "steps_1.5_steps.zip"):
        agent.save(tmp_path / name)
        found = DualStudent.load(tmp_path / name.rpartition(".")[0])
        assert torch.equal(found.learner.actor, agent.learner.actor)


# Progress where there is no terminal


def test_a_log_file_gets_whole_lines_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(progress_lines, "FIRST", 0.0)
    monkeypatch.setattr(progress_lines, "EVERY", 1e9)
    dual().learn(200, progress_bar=True)
    said = capsys.readouterr()
    assert said.err == "" and said.out.count("\n") == 1 and "\r" not in said.out
    assert said.out.startswith("2 of 200 steps (1%), ")


def test_lines_end_with_the_latest_returns(monkeypatch, capsys):
    monkeypatch.setattr(progress_lines, "FIRST", 0.0)
    with ProgressLines(1000, 500) as lines:
        lines.set_postfix_str("last returns -5 -6")
        lines.update(100)
    assert capsys.readouterr().out.startswith("600 of 1,000 steps (60%), ")


def test_a_last_step_beyond_the_end_leaves_no_minutes_below_zero(monkeypatch, capsys):
    monkeypatch.setattr(progress_lines, "FIRST", 0.0)
    with ProgressLines(100, 0) as lines:
        lines.update(102)
    assert ", 0 min left" in capsys.readouterr().out


def test_a_terminal_gets_a_bar_and_silence_is_silent(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert not make_bar(10, 0, True).disable
    monkeypatch.setattr("sys.stderr.isatty", lambda: False, raising=False)
    assert isinstance(make_bar(10, 0, True), ProgressLines)
    with make_bar(10, 0, False) as bar:
        bar.update(10)
    assert capsys.readouterr().out == ""
