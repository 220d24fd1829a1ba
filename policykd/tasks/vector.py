"""One environment per learner, as an SB3 ``VecEnv`` whose actions are those of the learners, in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from policykd.core.files import naming
from policykd.tasks.broken import broken
from policykd.tasks.spaces import ActionScale, EnvFactory, check_spaces

KEPT_EPISODES = 100
"""Episodes that a Monitor remembers; all of them are in its file."""


class EpisodeLog(ResultsWriter):
    """A ``monitor.csv`` whose errors name the file."""

    @classmethod
    def monitor(cls, env: gym.Env, filename: str | None, append: bool) -> Monitor:
        """SB3's ``Monitor`` that writes through one."""
        monitor = Monitor(env)
        if filename is not None:
            header: dict[str, float | str] = {"t_start": monitor.t_start, "env_id": str(env.spec and env.spec.id)}
            with naming(filename):
                monitor.results_writer = cls(filename, header=header, override_existing=not append)
        return monitor

    def write_row(self, epinfo: dict[str, float]) -> None:
        """Append one episode.

        Raises:
            OSError: the file cannot be written.
        """
        with naming(self.file_handler.name):
            super().write_row(epinfo)


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
            return lambda: EpisodeLog.monitor(factory(), filename, append)

        super().__init__([monitored(k, n) for k in range(learners) for n in range(n_envs)])
        self.action_scale = ActionScale(check_spaces(self.envs[0])[1])
        size = check_spaces(self.envs[0])[0].shape[0]
        self.observations = np.zeros((learners * n_envs, size), np.float32)

    def start(self, seeds: list[int]) -> np.ndarray:
        """Begin the first episode of every environment; returns observations ``(K * N, O)``."""
        for k, seed in enumerate(seeds):
            self.observations[k], self.reset_infos[k] = self._reset(k, seed)
        return self.observations.copy()

    def step_wait(self) -> VecEnvStepReturn:
        """Step every environment, as SB3's ``VecEnv``."""
        return self.step_all()

    def step_all(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step with ``actions``; as SB3's, without its deep copies, which cost as much as the physics."""
        rewards, dones, infos = np.zeros(self.num_envs), np.zeros(self.num_envs, bool), []
        for k, env in enumerate(self.envs):
            assert isinstance(env, Monitor)
            try:
                observation, reward, terminated, truncated, info = env.step(self.actions[k])
            except Exception as error:
                raise broken(error, env, k, "of training")  # noqa: B904  (has its cause)
            rewards[k], dones[k] = float(reward), terminated or truncated
            info["TimeLimit.truncated"] = truncated and not terminated
            if dones[k]:
                info["terminal_observation"] = observation
                for history in (env.episode_returns, env.episode_lengths, env.episode_times):
                    del history[:-KEPT_EPISODES]  # the Monitor itself would keep them all
                observation, self.reset_infos[k] = self._reset(k)
            self.observations[k] = observation
            infos.append(info)
        return self.observations.copy(), rewards, dones, infos

    def _reset(self, k: int, seed: int | None = None) -> tuple[np.ndarray, dict[str, Any]]:
        try:
            return self.envs[k].reset(seed=seed)
        except Exception as error:
            raise broken(error, self.envs[k], k, "of training")  # noqa: B904
