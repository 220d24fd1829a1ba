"""The tasks of ``policykd_envs``: API, hidden velocities, late rewards, other dynamics, thresholds."""

import warnings
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import policykd_envs
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from policykd_envs import DelayedReward, MaskVelocity, PointReach, ShiftedDynamics
from policykd_envs.registration import HAVE_VELOCITIES, VARIANTS, readme_table
from policykd_envs.wrappers import velocity_indices
from stable_baselines3.common.env_checker import check_env as sb3_check_env

# What the checkers say of the v5 tasks themselves, and of any wrapped environment.
ACCEPTED = ("is different from the unwrapped version", "symmetric and normalized", "infinity")


def unaccepted(caught):
    return [str(w.message) for w in caught if not any(text in str(w.message) for text in ACCEPTED)]


@pytest.mark.parametrize("env_id", policykd_envs.TASKS)
def test_checkers_find_nothing(env_id):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with policykd_envs.make(env_id) as env:
            check_env(env, skip_render_check=True, skip_close_check=True)
            sb3_check_env(env, skip_render_check=True)
    assert unaccepted(caught) == []


@pytest.mark.parametrize("env_id", policykd_envs.TASKS)
def test_spec_survives_json(env_id):
    env = policykd_envs.make(env_id)
    spec = EnvSpec.from_json(env.spec.to_json())
    copy = policykd_envs.make(spec)
    assert str(copy) == str(env) and copy.spec == env.spec
    assert spec.max_episode_steps == gym.spec(env_id).max_episode_steps
    assert env.reset(seed=1)[0].tobytes() == copy.reset(seed=1)[0].tobytes()


def test_readme_table_is_current():
    readme = (Path(policykd_envs.__file__).parent / "README.md").read_text(encoding="utf-8")
    assert readme_table() in readme, "run `python -m policykd_envs` and paste its table"
    assert {i for i in gym.registry if i.startswith("PolicyKD/")} == set(policykd_envs.TASKS)


def test_module_prefix():
    assert isinstance(gym.make("policykd_envs:PolicyKD/PointReach-v0").unwrapped, PointReach)


# Quiet construction


def test_make_is_quiet(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    policykd_envs.make("HalfCheetah-v5")
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert mujoco.get_mju_user_warning() is None


def test_make_passes_other_warnings_on(monkeypatch):
    def noisy(*_, **__):
        mujoco.get_mju_user_warning()("something else")  # as MuJoCo's C code does

    monkeypatch.setattr(gym, "make", noisy)
    with pytest.warns(RuntimeWarning, match="MuJoCo: something else"):
        policykd_envs.make("any")
    heard = []
    mujoco.set_mju_user_warning(heard.append)
    try:
        policykd_envs.make("any")
    finally:
        mujoco.set_mju_user_warning(None)
    assert heard == ["something else"]


# MaskVelocity


@pytest.mark.parametrize("base", HAVE_VELOCITIES)
def test_mask_hides_velocities_only(base):
    env = policykd_envs.make(f"PolicyKD/{base}NoVelocity-v0")
    task = env.unwrapped
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    qpos = task.data.qpos.copy()
    task.set_state(qpos, np.zeros(task.model.nv))
    still = task._get_obs()
    task.set_state(qpos, rng.normal(size=task.model.nv))
    moving = task._get_obs()
    masked = env.observation(moving)

    indices = velocity_indices(env)
    kept = np.setdiff1d(np.arange(moving.size), indices)
    assert not masked[indices].any()
    np.testing.assert_array_equal(masked[kept], moving[kept])
    np.testing.assert_array_equal(masked, env.observation(still))  # no trace of the velocities is left


def test_mask_refuses_unknown_layouts():
    with pytest.raises(ValueError, match="which observations"):
        MaskVelocity(gym.make("Pendulum-v1"))
    with pytest.raises(ValueError, match="which observations"):
        velocity_indices(gym.make("Reacher-v5"))


def test_mask_follows_the_constructor_arguments():
    env = gym.make("Hopper-v5", exclude_current_positions_from_observation=False)
    np.testing.assert_array_equal(velocity_indices(env), np.arange(6, 12))
    np.testing.assert_array_equal(velocity_indices(gym.make("Hopper-v5")), np.arange(5, 11))


# DelayedReward


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n", [1, 20])
def test_delayed_sums_are_equal(n, seed):
    plain, delayed = gym.make("Hopper-v5"), DelayedReward(gym.make("Hopper-v5"), n)
    plain.reset(seed=seed), delayed.reset(seed=seed)
    plain.action_space.seed(seed)
    done, owed, step = False, 0.0, 0
    while not done:
        action = plain.action_space.sample()
        reward, terminated, truncated = plain.step(action)[1:4]
        paid, step, owed = delayed.step(action)[1], step + 1, owed + float(reward)
        done = terminated or truncated
        if done or step % n == 0:
            assert paid == owed
            owed = 0.0
        else:
            assert paid == 0.0


def test_delayed_pays_at_truncation_and_forgets_at_reset():
    env = gym.make("PolicyKD/HopperDelayed-v0", max_episode_steps=7)
    for _ in range(2):
        env.reset(seed=0)
        rewards = [env.step(np.zeros(3))[1] for _ in range(7)]
        assert rewards[:6] == [0.0] * 6 and 5.0 < rewards[6] < 9.0
        env.reset(seed=0)
        env.step(np.zeros(3))  # left in the middle of an episode
    env = DelayedReward(gym.make("Hopper-v5"), 2)
    for steps in (1, 2):  # the steps until a payment are counted from the reset, too
        env.reset(seed=0)
        rewards = [env.step(np.zeros(3))[1] for _ in range(steps)]
    assert rewards[0] == 0.0 < rewards[1]
    with pytest.raises(ValueError, match="at least 1"):
        DelayedReward(env, 0)


# ShiftedDynamics


@pytest.mark.parametrize(
    ("base", "suffix"),
    [(base, v.suffix) for v in VARIANTS if v.wrapper == "ShiftedDynamics" for base in v.bases],
)
def test_shifted_dynamics_differ(base, suffix):
    plain, shifted = policykd_envs.make(f"{base}-v5"), policykd_envs.make(f"PolicyKD/{base}{suffix}-v0")
    np.testing.assert_array_equal(plain.reset(seed=0)[0], shifted.reset(seed=0)[0])
    plain.action_space.seed(0)
    for _ in range(60):  # long enough to meet the ground
        action = plain.action_space.sample()
        a, b = plain.step(action)[0], shifted.step(action)[0]
    assert np.abs(a - b).max() > 1e-3


def test_shifted_model():
    plain, env = gym.make("Hopper-v5"), gym.make("Hopper-v5")
    ShiftedDynamics(env, torso_mass=2.0, gravity=0.5, friction=0.25, actuator_strength=3.0)
    old, new = plain.unwrapped.model, env.unwrapped.model
    torso = old.body("torso").id
    np.testing.assert_allclose(new.body_mass[1:] / old.body_mass[1:], [2.0] + [1.0] * (old.nbody - 2))
    np.testing.assert_allclose(new.body_inertia[torso], 2.0 * old.body_inertia[torso])
    np.testing.assert_allclose(new.body_subtreemass[torso] - old.body_subtreemass[torso], old.body_mass[torso])
    np.testing.assert_allclose(new.opt.gravity, 0.5 * old.opt.gravity)
    np.testing.assert_allclose(new.geom_friction, 0.25 * old.geom_friction)
    np.testing.assert_allclose(new.actuator_gear, 3.0 * old.actuator_gear)


def test_factors_of_one_change_nothing():
    plain, env = gym.make("Ant-v5"), ShiftedDynamics(gym.make("Ant-v5"))
    plain.reset(seed=0), env.reset(seed=0)
    for _ in range(20):
        action = np.full(8, 0.3)
        assert plain.step(action)[0].tobytes() == env.step(action)[0].tobytes()


# PointReach


def mean_return(policy, episodes=100):
    env = gym.make("PolicyKD/PointReach-v0")
    env.action_space.seed(0)
    total = 0.0
    for episode in range(episodes):
        obs, _ = env.reset(seed=episode)
        truncated = False
        while not truncated:
            obs, reward, terminated, truncated, _ = env.step(policy(env, obs))
            assert not terminated
            total += reward
    return total / episodes


def test_threshold_lies_between_random_and_proportional():
    threshold = gym.spec("PolicyKD/PointReach-v0").reward_threshold
    assert mean_return(lambda env, _: env.action_space.sample()) < 4 * threshold
    assert mean_return(lambda _, obs: np.clip(10 * obs[2:], -1, 1)) > 0.6 * threshold


def test_sparse_reaching_is_paid_within_the_radius_alone():
    env = gym.make("PolicyKD/PointReachSparse-v0")
    obs, _ = env.reset(seed=1)
    seen = set()
    for _ in range(50):
        obs, reward, *_ = env.step(np.clip(10 * obs[2:], -1, 1))
        assert reward == (0.0 if np.linalg.norm(obs[2:]) <= PointReach.RADIUS else -1.0)
        seen.add(reward)
    assert seen == {0.0, -1.0}


def test_walls_and_clipping():
    env = PointReach()
    env.reset(seed=0)
    for _ in range(30):
        obs = env.step(np.array([5.0, -1.0], dtype=np.float32))[0]
    np.testing.assert_array_equal(obs[:2], [1.0, -1.0])
    assert obs in env.observation_space


def test_frames():
    env = gym.make("PolicyKD/PointReach-v0", render_mode="rgb_array")
    check_env(env.unwrapped)
    env.reset(seed=0)
    first = env.render()
    env.step(np.ones(2, dtype=np.float32))
    assert first.shape == (128, 128, 3) and first.dtype == np.uint8
    assert (env.render() != first).any()
    assert PointReach().render() is None
