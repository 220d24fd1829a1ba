"""Wrappers that make a Gymnasium task harder: masked velocities, delayed rewards, shifted dynamics.

Each records its arguments, so that ``env.spec`` can be saved and rebuilt, and keeps all its state in plain
attributes.
"""

from typing import Any, SupportsFloat

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco.inverted_double_pendulum_v5 import InvertedDoublePendulumEnv
from gymnasium.utils import RecordConstructorArgs


def velocity_indices(env: gym.Env) -> np.ndarray:
    """Find the velocities in the observation of a MuJoCo v5 task.

    Args:
        env: A task that describes its observation in ``observation_structure`` (Ant, HalfCheetah, Hopper,
            Humanoid, HumanoidStandup, InvertedPendulum, Swimmer, Walker2d), or InvertedDoublePendulum.

    Returns:
        Indices into the observation, int64 of shape (n,): joint velocities and, in the Humanoid tasks, the
        velocities of the bodies (``cvel``).

    Raises:
        ValueError: If the layout of the observation is not known.
    """
    task: Any = env.unwrapped
    if isinstance(task, InvertedDoublePendulumEnv):  # position, sines and cosines of the angles, qvel, force
        layout = {"qpos": 2 * task.model.nq - 1, "qvel": task.model.nv, "qfrc_constraint": 1}
    else:
        layout = dict(getattr(task, "observation_structure", {}))
        layout.pop("skipped_qpos", None)  # the coordinates left out of the observation
    if env.observation_space.shape != (sum(layout.values()),):
        raise ValueError(f"cannot tell which observations of {env} are velocities")
    names = np.repeat(list(layout), list(layout.values()))
    return np.flatnonzero(np.isin(names, ["qvel", "cvel"]))


class MaskVelocity(gym.ObservationWrapper, RecordConstructorArgs):
    """Sets the velocities in the observation to zero; the task becomes partially observed.

    The observation space is that of the task, so that a teacher with full observations and a student without velocities
    have the same shapes.
    """

    def __init__(self, env: gym.Env) -> None:
        """Wrap a MuJoCo v5 task.

        Args:
            env: The task; see `velocity_indices`.
        """
        RecordConstructorArgs.__init__(self)
        gym.ObservationWrapper.__init__(self, env)
        self.masked = velocity_indices(env)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return a copy of the observation, shape (obs,), with zero velocities."""
        observation = observation.copy()
        observation[self.masked] = 0.0
        return observation


class SelectObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Selects columns of the observation; ``full_observation`` and ``info`` keep the full observation.

    A student reads the wrapper's output, a teacher ``full_observation``.
    """

    def __init__(self, env: gym.Env, columns: tuple[int, ...]) -> None:
        """Wrap a task.

        Args:
            env: A task whose observation is a vector.
            columns: Columns to select, in this order.

        Raises:
            ValueError: If a column does not exist, or none is given.
        """
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"observations must be a vector, not {space}")
        if not columns or min(columns) < 0 or max(columns) >= space.shape[0]:
            raise ValueError(f"columns must lie between 0 and {space.shape[0] - 1}, got {list(columns)}")
        RecordConstructorArgs.__init__(self, columns=tuple(columns))
        gym.ObservationWrapper.__init__(self, env)
        self.columns = np.array(columns)
        self.full_observation = np.zeros(space.shape, space.dtype)
        self.observation_space = gym.spaces.Box(space.low[self.columns], space.high[self.columns], dtype=space.dtype)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict]:
        """Take a step; ``info["full_observation"]`` is the full observation."""
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, reward, terminated, truncated, {**info, "full_observation": self.full_observation}

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Keep the full observation and return the selected columns, shape (n,)."""
        self.full_observation = observation
        return observation[self.columns]


class StackObservation(gym.ObservationWrapper, RecordConstructorArgs):
    """Stacks the last ``n`` observations in one vector, oldest first; at the start of an episode the first is repeated.

    As Gymnasium's ``FlattenObservation(FrameStackObservation(env, n))``, without its deep copies.
    """

    def __init__(self, env: gym.Env, n: int) -> None:
        """Wrap a task.

        Args:
            env: A task whose observation is a vector.
            n: Number of stacked observations, at least 1.

        Raises:
            ValueError: If ``n`` is below 1, or observations are not vectors.
        """
        space = env.observation_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise ValueError(f"observations must be a vector, not {space}")
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        RecordConstructorArgs.__init__(self, n=n)
        gym.ObservationWrapper.__init__(self, env)
        self.observation_space = gym.spaces.Box(np.tile(space.low, n), np.tile(space.high, n), dtype=space.dtype)
        self.stack = np.zeros((n, *space.shape), space.dtype)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Start an episode with a fresh stack."""
        observation, info = self.env.reset(seed=seed, options=options)
        self.stack[:] = observation
        return self.stack.flatten(), info

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Return the last ``n`` observations, shape (n * obs,)."""
        self.stack[:-1] = self.stack[1:]
        self.stack[-1] = observation
        return self.stack.flatten()


class DelayedReward(gym.Wrapper, RecordConstructorArgs):
    """Pays the sum of rewards every ``n`` steps and at the end of the episode, as in P3S's delayed tasks.

    It belongs outside ``TimeLimit``; otherwise rewards pending at truncation are lost.
    """

    def __init__(self, env: gym.Env, n: int = 20) -> None:
        """Wrap a task.

        Args:
            env: The task, with its time limit.
            n: Steps between payments, at least 1.

        Raises:
            ValueError: If ``n`` is below 1.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, got {n}")
        RecordConstructorArgs.__init__(self, n=n)
        gym.Wrapper.__init__(self, env)
        self.n = n
        self._owed = 0.0
        self._steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """Start an episode, with no pending reward."""
        self._owed, self._steps = 0.0, 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict]:
        """Take a step; the reward is zero except in steps that pay the sum."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._owed += float(reward)
        self._steps += 1
        paid = 0.0
        if terminated or truncated or self._steps % self.n == 0:
            paid, self._owed = self._owed, 0.0
        return observation, paid, terminated, truncated, info


class ShiftedDynamics(gym.Wrapper, RecordConstructorArgs):
    """Scales physical constants of a MuJoCo task once, at construction; a factor of 1 changes nothing."""

    def __init__(
        self,
        env: gym.Env,
        torso_mass: float = 1.0,
        gravity: float = 1.0,
        friction: float = 1.0,
        actuator_strength: float = 1.0,
    ) -> None:
        """Wrap a task and change its model for good.

        Args:
            env: A task of Gymnasium's MuJoCo family.
            torso_mass: Factor on the mass and inertia of the body "torso": a denser torso of the same shape.
            gravity: Factor on the gravity vector.
            friction: Factor on the friction coefficients of every geom.
            actuator_strength: Factor on the gear of every motor, and so on its torque at a given action.
        """
        RecordConstructorArgs.__init__(
            self,
            torso_mass=torso_mass,
            gravity=gravity,
            friction=friction,
            actuator_strength=actuator_strength,
        )
        gym.Wrapper.__init__(self, env)
        model = env.unwrapped.model  # type: ignore[attr-defined]
        if torso_mass != 1.0:  # not every task has a body of that name
            torso = model.body("torso").id
            model.body_mass[torso] *= torso_mass
            model.body_inertia[torso] *= torso_mass
        model.opt.gravity *= gravity
        model.geom_friction *= friction
        model.actuator_gear *= actuator_strength
        # Recompute constants that MuJoCo derives from those above, in a scratch MjData.
        mujoco.mj_setConst(model, mujoco.MjData(model))
