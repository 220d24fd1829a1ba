"""A restored environment continues bit for bit, in a fresh instance and in a fresh process."""

import json
import subprocess
import sys
import time
from collections import deque

import gymnasium as gym
import mujoco
import numpy as np
import policykd_envs
import pytest
import torch
from stable_baselines3.common.monitor import Monitor

from policykd.tasks.env_state import get_env_state, set_env_state, unsaved_state

MUJOCO = "Ant HalfCheetah Hopper Walker2d Humanoid HumanoidStandup Swimmer Reacher Pusher InvertedPendulum"
TASKS = [
    *(f"{name}-v5" for name in (*MUJOCO.split(), "InvertedDoublePendulum")),
    *("Pendulum-v1", "MountainCarContinuous-v0"),
    *policykd_envs.TASKS,
]


def build(env_id):
    # A short limit, so that 200 steps hold some truncations; terminations come by themselves.
    return Monitor(policykd_envs.make(env_id, max_episode_steps=90))


def start(env_id, steps=73):
    env = build(env_id)
    env.reset(seed=3)
    env.action_space.seed(4)
    roll(env, steps)
    return env


def roll(env, steps):
    """Act at random; return everything that came back, as bytes and repr (wall times apart)."""
    trace = []
    for _ in range(steps):
        obs, reward, terminated, truncated, info = env.step(env.action_space.sample())
        episode = info.pop("episode", {"r": None, "l": None})
        info = {key: np.asarray(value).tobytes() for key, value in info.items()}
        trace.append((obs.tobytes(), repr(reward), terminated, truncated, info, episode["r"], episode["l"]))
        if terminated or truncated:
            obs, _ = env.reset()
            trace.append(obs.tobytes())
    return trace


def to_text(state):
    """Write a state as JSON text alone: arrays as dtype, shape and bytes in hexadecimal."""
    return json.dumps(state, default=lambda a: {"array": [a.dtype.str, a.shape, a.tobytes().hex()]})


def from_text(text):
    def hook(entry):
        if "array" not in entry:
            return entry
        dtype, shape, data = entry["array"]
        return np.frombuffer(bytes.fromhex(data), dtype).reshape(shape)

    return json.loads(text, object_hook=hook)


@pytest.mark.parametrize("env_id", TASKS)
def test_continues_bit_for_bit(env_id):
    env = start(env_id)
    text = to_text(get_env_state(env))
    expected = roll(env, 200)
    assert sum(isinstance(entry, bytes) for entry in expected) >= 2  # resets

    fresh = build(env_id)  # never reset
    set_env_state(fresh, from_text(text))
    assert roll(fresh, 200) == expected
    assert (fresh.total_steps, fresh.rewards, fresh.episode_returns, fresh.episode_lengths) == (
        *(env.total_steps, env.rewards, env.episode_returns, env.episode_lengths),
    )
    assert unsaved_state(env) == []


@pytest.mark.parametrize("env_id", ["Humanoid-v5", "PolicyKD/AntDelayed-v0", "Pendulum-v1"])
def test_restores_an_environment_in_use(env_id):
    env = start(env_id)
    state = get_env_state(env)
    expected = roll(env, 100)  # the copy must not follow the live environment
    roll(env, 57)
    set_env_state(env, state)
    assert roll(env, 100) == expected


@pytest.mark.parametrize("steps", [0, 1, 2, 20])
def test_any_moment_of_an_episode(steps):
    env = start("PolicyKD/HopperDelayed-v0", steps)
    state = get_env_state(env)
    expected = roll(env, 50)
    fresh = build("PolicyKD/HopperDelayed-v0")
    set_env_state(fresh, state)
    assert roll(fresh, 50) == expected


def test_fresh_process():
    env = start("Humanoid-v5")
    text = to_text(get_env_state(env))
    expected = roll(env, 100)
    code = (
        "import sys, pathlib; sys.path[:0] = sys.argv[1:]\n"
        "from test_env_state import *\n"
        "env = build('Humanoid-v5'); set_env_state(env, from_text(sys.stdin.read())); print(roll(env, 100))"
    )
    command = [sys.executable, "-c", code, *sys.path]
    run = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == repr(expected)


def test_mujocos_own_state_is_not_enough():
    """Why derived quantities are saved: Humanoid's reward reads the centre of mass of the step before."""
    env = start("Humanoid-v5")
    state, kind = get_env_state(env), mujoco.mjtState.mjSTATE_INTEGRATION
    own = np.zeros(mujoco.mj_stateSize(env.unwrapped.model, kind))
    mujoco.mj_getState(env.unwrapped.model, env.unwrapped.data, own, kind)
    action, time = env.action_space.sample(), env.unwrapped.data.time
    reward = env.step(action)[1]

    fresh = build("Humanoid-v5")
    set_env_state(fresh, state)
    assert fresh.unwrapped.data.time == time > 0.0
    assert fresh.step(action)[1] == reward
    set_env_state(fresh, state)
    mujoco.mj_setState(fresh.unwrapped.model, fresh.unwrapped.data, own, kind)
    mujoco.mj_forward(fresh.unwrapped.model, fresh.unwrapped.data)
    assert fresh.step(action)[1] != reward


def test_small_and_fast():
    env = start("HalfCheetah-v5")
    get_env_state(env)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        state = get_env_state(env)
        times.append(time.perf_counter() - begin)
    assert min(times) < 1e-3
    assert len(to_text(state)) < 50_000  # hexadecimal; about half of it in bytes


class Odd(gym.Wrapper):
    """Holds one value of each kind."""

    def __init__(self, env):
        super().__init__(env)
        self.values = [1 << 100, float("inf"), -0.0, None, True, "text", (1, [2.5]), deque([1, 2], maxlen=2)]
        self.table = {1: np.float32(0.1), (0, "key"): np.arange(3), "array": np.array(2.0)}
        self.rng = np.random.Generator(np.random.MT19937(0))
        self.engine = object()


def test_plain_values_and_honesty():
    env, fresh = Odd(start("Pendulum-v1")), Odd(build("Pendulum-v1"))
    env.rng.random(7)
    state = from_text(to_text(get_env_state(env)))
    fresh.values, fresh.table, engine, rng = None, None, fresh.engine, fresh.rng
    set_env_state(fresh, state)
    assert repr(fresh.values) == repr(env.values)
    assert repr(fresh.table) == repr(env.table)
    assert fresh.rng is rng and rng.random() == env.rng.random()
    assert fresh.engine is engine
    assert unsaved_state(env) == ["Odd.engine"]
    assert unsaved_state(gym.wrappers.NormalizeObservation(env.env)) == ["NormalizeObservation.obs_rms"]


class Views(gym.Env):
    """Its attributes are views into one another, also into the simulator's arrays."""

    observation_space, action_space = gym.spaces.Box(-9, 9, (4,)), gym.spaces.Box(-1, 1, (2,))
    table = np.arange(1e6)

    def __init__(self):
        self.state = np.zeros((2, 2)).T
        self.position, self.velocity = self.state
        self.seen = [0]
        self.book = {"seen": self.seen, "rows": [self.table[:2], self.table[1:3]]}
        self.torques = torch.zeros(2, 2)
        self.first = self.torques[:, 0]
        self.parts = [gym.spaces.Discrete(9), torch.zeros(1), self.torques]
        self.model = mujoco.MjModel.from_xml_string(
            "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
        )
        self.data = mujoco.MjData(self.model)
        self.height = self.data.qpos[2:3]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state[:] = self.np_random.normal(size=(2, 2))
        return self.state.ravel(), {}

    def step(self, action):
        self.velocity += action
        self.position += self.velocity
        self.torques += torch.as_tensor(action)
        self.seen.append(self.parts[0].sample())
        self.height += 0.5
        mujoco.mj_step(self.model, self.data)
        told = self.first.sum().item(), sum(self.book["seen"]), self.data.qpos.sum(), self.height.item()
        return self.state.ravel(), float(sum(told)), False, False, {}


def test_views_and_what_two_attributes_hold_stay_one():
    def play(env, steps):
        return [repr(env.step(np.array([0.1, n]))[:2]) for n in range(steps)]

    env, other = Views(), Views()
    env.reset(seed=0)
    env.parts[0].seed(0)
    play(env, 5)
    text = to_text(get_env_state(env))
    assert len(text) < 1e5  # two rows of a table are not the table
    other.reset(seed=1)
    set_env_state(other, from_text(text))
    assert unsaved_state(other) == []
    assert play(other, 5) == play(env, 5)


def test_what_holds_itself_is_named():
    env = Views()
    env.seen.append(env.seen)
    assert unsaved_state(env) == ["Views.seen", "Views.book"]
    other = Views()
    set_env_state(other, from_text(to_text(get_env_state(env))))
    assert other.seen == [0] and other.book["seen"] is other.seen


def test_monitor_keeps_its_file(tmp_path):
    env = Monitor(policykd_envs.make("Pendulum-v1"), str(tmp_path / "a"))
    fresh = Monitor(policykd_envs.make("Pendulum-v1"), str(tmp_path / "b"))
    env.reset(seed=0)
    writer = fresh.results_writer
    set_env_state(fresh, get_env_state(env))
    assert fresh.results_writer is writer
    env.close(), fresh.close()


def test_a_state_goes_on_without_gymnasiums_checker():
    checked, plain = gym.make("Pendulum-v1"), gym.make("Pendulum-v1", disable_env_checker=True)
    checked.reset(seed=3)
    set_env_state(plain, get_env_state(checked))
    np.testing.assert_array_equal(checked.step(np.zeros(1))[0], plain.step(np.zeros(1))[0])


def test_refuses_another_environment():
    state = get_env_state(start("Hopper-v5"))
    with pytest.raises(ValueError, match="HopperEnv, not of"):
        set_env_state(build("Walker2d-v5"), state)
    with pytest.raises(ValueError, match=r"the state is of Monitor .*: wrap the task in the same wrappers"):
        set_env_state(policykd_envs.make("Hopper-v5"), state)
    state["layers"][-1]["attributes"]["data"]["fields"]["qpos"] = np.zeros(2)
    with pytest.raises(ValueError, match="another MuJoCo model"):
        set_env_state(build("Hopper-v5"), state)
