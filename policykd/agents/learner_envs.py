"""One environment per learner, as an SB3 ``VecEnv`` whose actions are those of the learners, in [-1, 1]."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import policykd_envs
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from policykd.errors import PolicyKDError, nearest

EnvFactory = Callable[[], gym.Env]
KEPT_EPISODES = 100
"""Episodes that a Monitor remembers; all of them are in its file."""


class Task(NamedTuple):
    """An environment that can be made again and again."""

    env_id: str
    """Its registered id with its version, ``module:id`` where a module must be imported first."""
    make: EnvFactory
    by_id: bool
    """Whether the id alone says how to make it."""


def find_task(env: str | gym.Env | EnvFactory) -> Task:
    """What a user's ``env`` names.

    Args:
        env: a registered id, an instance made from one (``gym.make``), or a function that makes an instance.

    Raises:
        PolicyKDError: the id is not registered, or the instance cannot be made again.
    """
    if isinstance(env, str):
        env_id = _registered(env)
        # Gymnasium's passive checker costs time at every step; training checks what it must see itself.
        return Task(env_id, lambda: policykd_envs.make(env_id, disable_env_checker=True), True)
    if isinstance(env, gym.Env):
        spec = env.spec
        if spec is None:
            raise PolicyKDError("environment: one instance cannot serve several learners: give its id or a function")
        return Task(spec.id, lambda: policykd_envs.make(spec), spec.kwargs == gym.spec(spec.id).kwargs)
    made = env()
    made.close()
    return Task(made.spec.id if made.spec is not None else type(made.unwrapped).__name__, env, False)


def short_id(env_id: str) -> str:
    """A task's id without the module that registers it."""
    return env_id.split(":")[-1]


def _registered(env_id: str) -> str:
    """The id with its version, its module imported."""
    module, _, name = env_id.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise PolicyKDError(f"environment: {env_id} cannot be made: {error}") from None
    if name not in gym.registry:
        versions = [known for known in gym.registry if known.rsplit("-v", 1)[0] == name]
        if not versions:
            raise PolicyKDError(f"environment: {name!r} is not registered{nearest(name, gym.registry)}")
        name = max(versions, key=lambda known: int(known.rsplit("-v", 1)[1]))
    return f"{module}:{name}" if module else name


def check_spaces(env: gym.Env) -> tuple[spaces.Box, spaces.Box]:
    """The observation and action space, if learners can work on them.

    Raises:
        PolicyKDError: the actions are not a bounded box, or the observations no vector.
    """
    observation_space, action_space = env.observation_space, env.action_space
    name = env.spec.id if env.spec is not None else type(env.unwrapped).__name__
    if not isinstance(action_space, spaces.Box):
        raise PolicyKDError(
            f"environment: {name} has {type(action_space).__name__} actions; policykd trains continuous control (Box)"
        )
    if not (np.isfinite(action_space.low).all() and np.isfinite(action_space.high).all() and action_space.shape):
        raise PolicyKDError(f"environment: {name} has unbounded actions; wrap it in RescaleAction or ClipAction")
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        raise PolicyKDError(
            f"environment: {name} has observations {observation_space}; a vector (Box of one axis) is needed: wrap it "
            "in FlattenObservation"
        )
    return observation_space, action_space


class ActionScale:
    """Maps actions from [-1, 1], where learners live, to the units of the environment."""

    def __init__(self, space: spaces.Box) -> None:
        self.low = space.low.astype(np.float32)
        self.high = space.high.astype(np.float32)
        self.middle = (self.high + self.low) / 2
        self.half_range = (self.high - self.low) / 2

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Actions ``(..., A)`` in [-1, 1] in units of the environment, never beyond its bounds."""
        return np.clip(actions * self.half_range + self.middle, self.low, self.high)


class LearnerEnvs(DummyVecEnv):
    """N monitored environments of each of K learners, stepped together; an ended episode starts anew, as SB3 does.

    Args:
        factory: makes one environment.
        folders: one folder per learner for its ``monitor.csv``, or None to write none.
        append: go on writing an existing ``monitor.csv`` (a resumed run).
        n_envs: environments N of each learner; several write ``0.monitor.csv``, ``1.monitor.csv``, ... as SB3's do.
    """

    def __init__(
        self, factory: EnvFactory, learners: int, folders: list[Path] | None, append: bool = False, n_envs: int = 1
    ) -> None:
        def monitored(k: int, n: int) -> Callable[[], gym.Env]:
            name = "monitor.csv" if n_envs == 1 else f"{n}.monitor.csv"
            filename = None if folders is None else str(folders[k] / name)
            return lambda: Monitor(factory(), filename, override_existing=not append)

        super().__init__([monitored(k, n) for k in range(learners) for n in range(n_envs)])
        self.action_scale = ActionScale(check_spaces(self.envs[0])[1])
        size = check_spaces(self.envs[0])[0].shape[0]
        self.observations = np.zeros((learners * n_envs, size), np.float32)

    def start(self, seeds: list[int]) -> np.ndarray:
        """Begin the first episode of every environment; returns observations ``(K * N, O)``."""
        for k, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
            self.observations[k], self.reset_infos[k] = env.reset(seed=seed)
        return self.observations.copy()

    def step_wait(self) -> VecEnvStepReturn:
        """Step every environment; as SB3's, without its deep copies, which cost as much as the physics."""
        rewards, dones, infos = np.zeros(self.num_envs), np.zeros(self.num_envs, bool), []
        for k, env in enumerate(self.envs):
            assert isinstance(env, Monitor)
            observation, reward, terminated, truncated, info = env.step(self.actions[k])
            rewards[k], dones[k] = float(reward), terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            if dones[k]:
                info["terminal_observation"] = observation
                for history in (env.episode_returns, env.episode_lengths, env.episode_times):
                    del history[:-KEPT_EPISODES]  # the Monitor itself would keep them all
                observation, self.reset_infos[k] = env.reset()
            self.observations[k] = observation
            infos.append(info)
        return self.observations.copy(), rewards, dones, infos

    def step_learners(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step with actions ``(K, A)`` in [-1, 1]; returns observations, rewards, dones and infos."""
        self.step_async(self.action_scale.to_env(actions))
        return self.step_wait()  # type: ignore[return-value]
