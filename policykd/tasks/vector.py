"""The learners' environments, as an SB3 ``VecEnv`` that takes their actions, in [-1, 1]."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import Tensor

from policykd.core.arrays import Array
from policykd.core.files import add_filename
from policykd.tasks.contract import TaskError, note_success
from policykd.tasks.spaces import EnvFactory, action_scale, check_spaces
from policykd.tasks.stepping import Threaded, independent


class Step(NamedTuple):
    """One step of all E environments; an ``Array`` is a tensor if the simulator returns tensors."""

    actions: Array
    """Actions taken, ``(E, A)``."""
    observations: Array
    """Observations ``(E, O)`` for the next action; where an episode ended, the first of the next one."""
    rewards: Array
    """Rewards ``(E,)``."""
    dones: np.ndarray
    """Whether an episode ended, ``(E,)``."""
    infos: list[dict[str, Any]]
    next_observations: Array
    """Next observations ``(E, O)`` of the same episode; where it ended, its last one."""
    truncated: np.ndarray
    """Whether only a time limit ended the episode, ``(E,)``."""

    @property
    def ended_returns(self) -> dict[int, float]:
        """Returns of the ended episodes by environment."""
        return {int(e): float(self.infos[e]["episode"]["r"]) for e in self.dones.nonzero()[0]}


KEPT_EPISODES = 100
"""Episodes that a Monitor keeps in memory; its file has all of them."""


class EpisodeLog(ResultsWriter):
    """A ``monitor.csv`` whose errors name the file."""

    @classmethod
    def monitor(cls, env: gym.Env, filename: str | None, append: bool) -> Monitor:
        """SB3's ``Monitor`` with an ``EpisodeLog`` as its writer."""
        monitor = Monitor(env)
        if filename is not None:
            header: dict[str, float | str] = {"t_start": monitor.t_start, "env_id": str(env.spec and env.spec.id)}
            with add_filename(filename):
                monitor.results_writer = cls(filename, header=header, override_existing=not append)
        return monitor

    def write_row(self, epinfo: dict[str, float]) -> None:
        """Append one episode.

        Raises:
            OSError: the file cannot be written.
        """
        with add_filename(self.file_handler.name):
            super().write_row(epinfo)


class LearnerEnvs(DummyVecEnv):
    """N monitored environments for each of K learners, stepped together and, as in SB3, reset when an episode ends.

    Args:
        factory: makes one environment.
        folders: one folder per learner for its ``monitor.csv``, or None to write none.
        append: append to an existing ``monitor.csv`` (a resumed run).
        n_envs: environments N of each learner; several write ``0.monitor.csv``, ``1.monitor.csv``, ... as in SB3.
    """

    def __init__(
        self, factory: EnvFactory, learners: int, folders: list[Path] | None, append: bool = False, n_envs: int = 1
    ) -> None:
        def monitored(k: int, n: int) -> Callable[[], gym.Env]:
            name = "monitor.csv" if n_envs == 1 else f"{n}.monitor.csv"
            filename = None if folders is None else str(folders[k] / name)
            return lambda: EpisodeLog.monitor(factory(), filename, append)

        super().__init__([monitored(k, n) for k in range(learners) for n in range(n_envs)])
        observation_space, action_space = check_spaces(self.envs[0])
        self.action_scale = action_scale(action_space)
        self.observations = np.zeros((learners * n_envs, observation_space.shape[0]), np.float32)
        self.threaded: Threaded | None = None
        self.logs: list[EpisodeLog] = []
        self.actor_in: Callable[[int], int]

    def credit(self, actor_in: Callable[[int], int]) -> None:
        """Log every episode to the learner that acted in it; ``actor_in`` maps an environment to its learner."""
        monitors = [env for env in self.envs if isinstance(env, Monitor)]
        self.logs = [monitor.results_writer for monitor in monitors if isinstance(monitor.results_writer, EpisodeLog)]
        self.actor_in = actor_in
        for monitor in monitors:
            monitor.results_writer = None

    def close(self) -> None:
        """Close the environments and the logs."""
        super().close()
        for log in self.logs:
            log.close()

    @contextmanager
    def in_threads(self, threads: int) -> Iterator[None]:
        """Context that steps in up to ``threads`` threads if that is faster; results do not depend on it."""
        if min(threads, self.num_envs) > 1 and all(map(independent, self.envs)):
            self.threaded = Threaded(self.num_envs, min(threads, self.num_envs))
        try:
            yield
        finally:
            if self.threaded is not None:
                self.threaded.close()
                self.threaded = None

    def start(self, seeds: list[int]) -> np.ndarray:
        """Start the first episode of every environment; returns observations ``(K * N, O)``.

        Raises:
            TaskError: the task raised or broke the interface; ``env`` says which one.
        """
        try:
            for e, (env, seed) in enumerate(zip(self.envs, seeds, strict=True)):
                self.observations[e], self.reset_infos[e] = env.reset(seed=seed)
        except TaskError as error:
            error.env = e
            raise
        return self.observations.copy()

    def advance(self, actions: Array, scaled: bool) -> Step:
        """Step every environment with actions ``(E, A)``, in [-1, 1] if ``scaled``.

        Raises:
            TaskError: the task raised or broke the interface; ``env`` says which one.
        """
        if isinstance(actions, Tensor):
            actions = actions.numpy(force=True)
        self.actions = self.action_scale.to_env(actions) if scaled else self.action_scale.clip(actions)
        observations, rewards, dones, infos = self.step_wait()
        truncated, next_observations = np.zeros(len(dones), bool), observations
        ended = dones.nonzero()[0]
        if len(ended):
            next_observations = observations.copy()
            for e in ended:
                next_observations[e] = infos[e]["terminal_observation"]
                truncated[e] = infos[e]["TimeLimit.truncated"]
                if self.logs:  # not in the stepping threads, so that rows stay in order
                    self.logs[self.actor_in(int(e))].write_row({name: infos[e]["episode"][name] for name in "rlt"})
        return Step(actions, observations, rewards, dones, infos, next_observations, truncated)

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """As SB3's ``VecEnv``, but without its deep copies, which cost as much as the physics.

        Raises:
            TaskError: the task raised or broke the interface; ``env`` says which one.
        """
        rewards, dones = np.zeros(self.num_envs), np.zeros(self.num_envs, bool)
        infos: list[dict[str, Any]] = [{}] * self.num_envs

        def step(part: range) -> None:
            try:
                for e in part:
                    observation, rewards[e], terminated, truncated, info = self.envs[e].step(self.actions[e])
                    dones[e] = terminated or truncated
                    info["TimeLimit.truncated"] = truncated and not terminated
                    if dones[e]:
                        info["terminal_observation"] = observation
                        observation = self._next_episode(e, info)
                    self.observations[e], infos[e] = observation, info
            except TaskError as error:
                error.env = e
                raise

        if self.threaded is None:
            step(range(self.num_envs))
        else:
            self.threaded.run(step)
        return self.observations.copy(), rewards, dones, infos

    def _next_episode(self, e: int, info: dict[str, Any]) -> np.ndarray:
        """Complete the ``info`` of environment e's episode and start the next; returns its first observation."""
        env = self.envs[e]
        assert isinstance(env, Monitor)
        note_success(info["episode"], info)
        for history in (env.episode_returns, env.episode_lengths, env.episode_times):
            del history[:-KEPT_EPISODES]  # the Monitor would keep them all
        observation, self.reset_infos[e] = env.reset()
        return observation
