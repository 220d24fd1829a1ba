"""Bad input gives one clear line and a nonzero exit; nothing is lost and nothing overwritten."""

import json
import shutil

import gymnasium as gym
import numpy as np
import pytest
import torch
from tiny import POINT, TINY, contents, flags

from policykd.cli import main
from policykd.core.errors import PolicyKDError
from policykd.training.dual_student import DualStudent


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    """Commands run in a folder of their own, where what they leave is seen."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def refused(capfd):
    """Run a command that must fail; returns what it says. Usage errors are tyro's: short, but of several lines."""

    def run(*arguments, usage=False):
        with pytest.raises(SystemExit) as error:
            main([str(argument) for argument in arguments])
        said = capfd.readouterr().err
        assert error.value.code == 2
        assert "Traceback" not in said
        assert said.count("\n") <= 25 if usage else said.startswith("policykd: error: ")
        assert usage or said.count("\n") == 1, said
        return " ".join(said.replace("│", " ").split())

    return run


def _train(*changes):
    return ["train", "--env", POINT, "--run-dir", "run", "--total-timesteps", "40", *flags(), *changes]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--env", "HalfCheeta-v5"], "'HalfCheeta-v5' is not registered; nearest: HalfCheetah-v5"),
        (["--env", "HalfCheetah-v9"], "'HalfCheetah-v9' is not registered; nearest: HalfCheetah-v5"),
        (["--env", "no_such_module:Task-v0"], "cannot be made: No module named 'no_such_module'"),
        (["--env", "CartPole-v1"], "backbone: ddpg has continuous actions only; for discrete actions use ppo"),
        (["--env", "CliffWalking-v1"], "observations in a Discrete"),
        (["--method", "dpdd"], "method: 'dpdd' is unknown; nearest: dpd"),
        (["--backbone", "tdd3"], "backbone: 'tdd3' is unknown; nearest: td3"),
        (["--backbone", "TD3"], "backbone: 'TD3' is unknown; nearest: td3"),
        (["--env", "halfcheetah-v5"], "'halfcheetah-v5' is not registered; nearest: HalfCheetah-v5"),
        (["--preset", "quik"], "there is no preset 'quik'; nearest: quick"),
        (["--device", "gpu"], "device: 'gpu' is unknown: use auto, cpu, cuda"),
        (["--peers", "0"], "peers: dpd needs at least 2 learners per group, got 0"),
        (["--peers", "1"], "peers: dpd needs at least 2 learners per group, got 1"),
        (["--peers", "-2"], "got -2"),
        (["--method", "independent", "--peers", "0"], "peers: independent needs at least 1"),
        (["--seeds"], "seeds: must be one or more integers >= 0, got ()"),
        (["--seeds", "3", "3"], "seeds: must be distinct, one per group, got [3, 3]"),
        (["--seeds", "0", "-1"], "seeds: must be one or more integers >= 0, got (0, -1)"),
        (["--total-timesteps", "0"], "total_timesteps=0 must be positive"),
        (["--total-timesteps", "-5"], "total_timesteps=-5 must be positive"),
        (["--buffer-size", str(10**13)], "lower buffer_size"),
        (["--config-file", "missing.json"], "config file: cannot read missing.json"),
        (["--config_file", "missing.json"], "config file: cannot read missing.json"),
    ],
)
def test_a_command_that_cannot_work_says_why(refused, tmp_path, changes, said):
    assert said in refused(*_train(*changes))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["--alpha", "-1"], "alpha=-1.0 must not be negative"),
        (["--alpha", "inf"], "alpha=inf must be finite"),
        (["--alpha", "nan"], "alpha=nan"),
        (["--alpha", "much"], "could not convert string to float: 'much'"),
        (["--buffer-size", "5"], "buffer_size=5 is smaller than a batch (8)"),
        (["--distill-batch-size", "300"], "buffer_size=200 is smaller than a batch (300)"),
        (["--peers", "2.5"], "--peers"),
        (["--alpah", "1"], "--alpha"),
        (["--batch-sizes", "1"], "--batch-size"),
    ],
)
def test_a_flag_that_cannot_work_is_named(refused, tmp_path, changes, said):
    assert said in refused(*_train(*changes), usage=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"config": {"alpah": 1.0}}, "unknown key 'alpah' for DDPGConfig; nearest: alpha"),
        ({"methd": "dpd"}, "unknown key 'methd' in file.json; nearest: method"),
        ({"config": {"policy_delay": 2}}, "unknown key 'policy_delay' for DDPGConfig"),
        ({"config": {"batch_size": "big"}}, "batch_size='big' must be int"),
        ({"config": {"batch_size": 2.5}}, "batch_size=2.5 must be int"),
        ({"config": {"scale_free": 1}}, "scale_free=1 must be bool"),
        ({"config": {"distill_schedule": "sawtooth"}}, "distill_schedule: 'sawtooth' is unknown"),
        ({"config": {"alpha": -1}}, "alpha=-1.0 must not be negative"),
        ({"config": 3}, "settings by name"),
        ([1, 2], "options by name"),
        ({"peers": "two"}, "peers='two' must be int"),
        ({"seeds": "abc"}, "seeds='abc' must be tuple[int, ...]"),
        ({"backbone": ["td3"]}, "backbone=['td3'] must be"),
        ({"backbone": "sca"}, "backbone: 'sca' is unknown"),
        ({"preset": "quik"}, "no preset 'quik'; nearest: quick"),
    ],
)
def test_a_config_file_that_cannot_work_says_why(refused, tmp_path, content, said):
    (tmp_path / "file.json").write_text(json.dumps(content))
    short = "--total-timesteps", "60"  # where it is not refused after all
    assert said in refused("train", "--env", POINT, "--config-file", "file.json", "--run-dir", "run", *short)
    assert [path.name for path in tmp_path.iterdir()] == ["file.json"]


@pytest.mark.parametrize("content", [b"{not json", bytes(range(256)), b""])
def test_a_config_file_that_is_no_json_says_so(refused, tmp_path, content):
    (tmp_path / "file.json").write_bytes(content)
    assert "config file: cannot read file.json" in refused("train", "--config-file", "file.json")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"config": {"alpah": 1.0}}, "unknown key 'alpah' for DDPGConfig; nearest: alpha"),
        ({"config": {"alpha": "1"}}, "alpha='1' must be float"),
        ({"config": {"alpha": True}}, "alpha=True must be float"),
        ({"config": {"net_arch": (8, 0)}}, r"net_arch=\(8, 0\) needs positive widths"),
        ({"config": {"gamma": 1.5}}, r"gamma=1.5 must lie in \[0, 1\]"),
        ({"config": "quik"}, "no preset 'quik'; nearest: quick"),
        ({"peers": 2.5}, "got 2.5"),
        ({"peers": True}, "got True"),
        ({"seeds": ()}, r"got \(\)"),
        ({"seeds": "12"}, "got '12'"),
        ({"seeds": [0.5]}, r"got \[0.5\]"),
        ({"method": "DPD"}, "'DPD' is unknown"),
    ],
)
def test_an_agent_that_cannot_work_says_why(arguments, said):
    with pytest.raises(PolicyKDError, match=said) as error:
        DualStudent(POINT, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        (gym.spaces.Box(-np.inf, np.inf, (2,)), "unbounded actions"),
        (gym.spaces.MultiDiscrete([2, 3]), "MultiDiscrete actions"),
    ],
)
def test_other_action_spaces_are_refused(space, said):
    def make():
        env = gym.make(POINT, disable_env_checker=True)
        env.action_space = space
        return env

    with pytest.raises(PolicyKDError, match=said):
        DualStudent(make)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "run"
    DualStudent(POINT, config=TINY, run_dir=folder).learn(40)
    return folder


def test_a_run_folder_in_use_is_not_touched(refused, tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    before = contents(tmp_path)
    assert "run exists and is not empty: choose another one, or resume with load() in Python" in refused(*_train())
    (tmp_path / "run" / "checkpoint.safetensors").unlink()  # a folder of something else
    assert "run exists and is not empty" in refused(*_train())
    (tmp_path / "file").write_text("mine")
    assert "file exists and is not empty" in refused(*_train("--run-dir", "file"))
    del before["run/checkpoint.safetensors"]
    assert contents(tmp_path) == {**before, "file": b"mine"}


def test_only_a_run_can_be_resumed(refused, tmp_path, finished):
    shutil.copytree(finished, tmp_path / "run")
    before = contents(tmp_path)
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    (tmp_path / "run" / "config.json").unlink()
    assert "run is not a run of policykd (it has no config.json)" in refused(*_train("--resume"))
    (tmp_path / "run" / "config.json").write_bytes(before["run/config.json"])
    assert "alpha was 1.0, now 2.0" in refused(*_train("--resume", "--alpha", "2"))
    assert "file is not a run folder" in refused(*_train("--resume", "--run-dir", str(_file(tmp_path / "file"))))
    (tmp_path / "file").unlink()
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"damaged")
    assert "checkpoint.safetensors is damaged" in refused(*_train("--resume"))
    assert contents(tmp_path) == {**before, "run/checkpoint.safetensors": b"damaged"}


def _file(path):
    path.write_text("mine")
    return path


def test_to_resume_needs_to_know_which_run(refused):
    assert "name the run with --run-dir" in refused("train", "--env", POINT, "--resume")


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["trian"], "'trian' is unknown; nearest: train"),
        (["evaluate", "missing"], "there is no file missing"),
        (["evaluate", "RUN", "--n-eval-episodes", "0"], "needs at least 1 episode"),
        (["evaluate", "RUN", "--seed", "-1"], "a seed >= 0"),
        (["video", "missing"], "there is no file missing"),
        (["video", "RUN", "--out", "there.mp4"], "there.mp4 exists: choose another --out, or --overwrite"),
        (["video", "RUN", "--out", "x.avi"], "must end in .mp4"),
        (["video", "RUN", "--learner", "9"], "learner 9 does not exist: take 0 to 1"),
        (["video", "RUN", "--learner", "good"], "--learner: 'good' is no INT|{best}"),
        (["video", "RUN", "--steps", "0"], "steps=0 must be positive"),
        (["video", "RUN", "--seed", "-1"], "seed=-1 must not be negative"),
        (["compare", "--env", POINT, "--out", "."], ". is not empty: choose another folder with --out"),
        (["compare", "--env", POINT, "--total-timesteps", "0"], "total_timesteps=0 must be positive"),
        (["compare", "--env", "HalfCheeta-v5"], "nearest: HalfCheetah-v5"),
        (["compare", "--env", POINT, "--preset", "quik"], "nearest: quick"),
        (["compare", "--env", POINT, "--seed", "-1"], "first_seed=-1 must not be negative"),
    ],
)
def test_other_commands_say_why_they_cannot_work(refused, tmp_path, finished, command, said):
    (tmp_path / "there.mp4").write_text("mine")
    before = contents(finished)
    assert said in refused(*[finished if word == "RUN" else word for word in command])
    assert contents(tmp_path) == {"there.mp4": b"mine"}
    assert contents(finished) == before


class Broken(gym.Wrapper):
    """PointReach of which the third made (the probe is the first: so learner 1's) breaks at its 70th step."""

    made = 0

    def __init__(self, what):
        super().__init__(gym.make(POINT))
        Broken.made += 1
        self.number, self.what, self.steps = Broken.made, what, 0

    def reset(self, **options):
        observation, info = self.env.reset(**options)
        if self.what == "reset" and self.number == 3 and self.steps > 0:
            observation[1] = np.nan
        return observation, info

    def step(self, action):
        observation, reward, terminated, truncated, info = self.env.step(action)
        self.steps += 1
        if self.number == 3 and self.steps == 70:
            if self.what == "reward":
                reward = np.nan
            elif self.what == "infinite reward":
                reward = -np.inf
            elif self.what == "observation":
                observation[2] = np.nan
        return observation, reward, terminated, truncated, info


@pytest.fixture
def broken():
    """The id of an environment that breaks as told."""
    Broken.made = 0

    def register(what):
        gym.register("PolicyKDTest/Broken-v0", entry_point=lambda: Broken(what))
        return "PolicyKDTest/Broken-v0"

    yield register
    gym.registry.pop("PolicyKDTest/Broken-v0")


@pytest.mark.parametrize("what", ["reward", "infinite reward", "observation"])
def test_a_number_that_is_not_finite_stops_training_and_is_named(refused, tmp_path, broken, what):
    said = refused(*_train("--env", broken(what), "--checkpoint-freq", "100", "--total-timesteps", "400"))
    named = "an observation" if what == "observation" else "a reward"
    assert f"returned {named} that is not finite at step 70 of learner 1 (seed 0, peer 1)" in said
    assert "resume from the last checkpoint with load() in Python, or --resume of the command policykd" in said
    kept = DualStudent.load(tmp_path / "run", env=POINT)
    assert kept.num_timesteps == 100
    assert all(torch.isfinite(tensor).all() for tensor in (kept.replay_buffer.storage, kept.learner.actor))


def test_a_run_that_diverged_is_not_blamed_on_its_task():
    agent = DualStudent(POINT, backbone="td3")
    agent.get_env()
    actions = np.zeros((2, agent.action_space.shape[0]), np.float32)
    actions[1] = np.nan
    said = (
        r"learn: actions are not finite at step 1 of learner 1 \(seed 0, peer 1\): training diverged; take an earlier"
    )
    with pytest.raises(PolicyKDError, match=said):
        agent.collector.step(actions)


def test_a_reset_that_is_not_finite_stops_training_and_is_named(refused, broken):
    said = refused(*_train("--env", broken("reset"), "--checkpoint-freq", "100", "--total-timesteps", "400"))
    assert "observation that is not finite" in said
    assert "of learner 1 (seed 0, peer 1)" in said
