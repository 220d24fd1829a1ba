"""What PolicyKD's learners are compared with: Stable-Baselines3's own single agents, and random actions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import policykd_envs
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from policykd import export
from policykd.core.compute import one_thread
from policykd.core.errors import PolicyKDError
from policykd.learners import LEARNERS
from policykd.learners.config import Config

EVAL_SEED_OFFSET = 1_000_003
"""Added to the seed for the environment that evaluates, so that it never repeats what training saw."""


@dataclass(frozen=True)
class BaselineResult:
    """How well and how fast a single agent of SB3 learnt."""

    timesteps: np.ndarray
    """Environment steps at each evaluation, ``(E,)``."""
    returns: np.ndarray
    """Undiscounted return of each evaluation episode, played without noise, ``(E, n_eval_episodes)``."""
    wall_seconds: float
    """Seconds of training, without set-up, evaluations and progress reports."""
    steps_per_second: float
    """Environment steps per second of ``wall_seconds``."""


def run_sb3(
    backbone: str,
    env_id: str,
    config: Config,
    *,
    total_timesteps: int,
    seed: int,
    eval_freq: int,
    n_eval_episodes: int,
    run_dir: Path,
    progress: Callable[[int], None] | None = None,
) -> BaselineResult:
    """Train one agent of SB3 on one thread of the CPU, evaluate it on the way, and time it.

    ``run_dir`` gets SB3's own files: ``0.monitor.csv`` with every training episode, and ``evaluations.npz``.
    What our settings do not name has SB3's default. PPO sees observations and rewards through ``VecNormalize`` where
    ours normalises. SB3 seeds the global generators of NumPy, PyTorch and ``random``, and adds the exploration noise
    to the random first steps too.

    Args:
        backbone: "ddpg", "td3", "sac" or "ppo".
        env_id: an environment with box observations ``(O,)`` and actions ``(A,)``.
        config: our settings of this backbone; SB3 gets the same.
        total_timesteps: environment steps to train for; SB3 finishes the rollout it is in.
        seed: seed of the agent and its environments; evaluation has an environment and a seed of its own.
        eval_freq: environment steps between evaluations; a multiple of ``n_envs``.
        n_eval_episodes: episodes of each evaluation.
        run_dir: folder for the files; made where missing, and otherwise empty.
        progress: called about a hundred times with the environment steps so far.

    Returns:
        The curve, whose last point is at the last multiple of ``eval_freq``, and the speed.

    Raises:
        PolicyKDError: an unknown backbone, no evaluation in ``total_timesteps``, or a ``run_dir`` that is not empty.
    """
    if backbone not in LEARNERS:
        raise PolicyKDError(f"backbone: {backbone!r} has no model of SB3; there are {', '.join(LEARNERS)}")
    n_envs = config.n_envs
    if not n_envs <= eval_freq <= total_timesteps or eval_freq % n_envs:
        raise PolicyKDError(f"eval_freq {eval_freq}: must be a multiple of n_envs ({n_envs}), up to {total_timesteps}")
    run_dir = _empty_folder(run_dir)
    env = training_env(env_id, config, run_dir)
    eval_env = export.vec_env(DummyVecEnv([lambda: Monitor(policykd_envs.make(env_id))]), config)
    if isinstance(eval_env, VecNormalize):  # with the statistics of training, and the task's own rewards
        eval_env.training = eval_env.norm_reward = False
    eval_env.seed(seed + EVAL_SEED_OFFSET)
    try:
        model = export.make_model(backbone, config, env, seed)
        return _train(model, eval_env, total_timesteps, eval_freq // n_envs, n_eval_episodes, run_dir, progress)
    finally:
        env.close()
        eval_env.close()


def training_env(env_id: str, config: Config, run_dir: Path) -> VecEnv:
    """The environments of one agent, monitored in ``run_dir`` and normalised where the settings say so."""

    def monitored(n: int) -> Callable[[], Monitor]:
        return lambda: Monitor(policykd_envs.make(env_id), str(run_dir / str(n)))

    return export.vec_env(DummyVecEnv([monitored(n) for n in range(config.n_envs)]), config)


def _train(
    model: BaseAlgorithm,
    eval_env: VecEnv,
    total_timesteps: int,
    eval_freq: int,
    n_eval_episodes: int,
    run_dir: Path,
    progress: Callable[[int], None] | None,
) -> BaselineResult:
    """Train, evaluating every ``eval_freq`` calls of the environments, and time it."""
    callback = _Evaluation(eval_env, eval_freq, n_eval_episodes, run_dir, total_timesteps, progress)
    started = time.perf_counter()
    with one_thread():  # as ours; torch's default of all cores is slower at these sizes
        model.learn(total_timesteps, callback=callback)
    seconds = time.perf_counter() - started - callback.seconds
    return BaselineResult(
        timesteps=np.array(callback.evaluations_timesteps),
        returns=np.array(callback.evaluations_results),
        wall_seconds=seconds,
        steps_per_second=model.num_timesteps / seconds,
    )


def random_policy_returns(env_id: str, n_episodes: int, seed: int) -> np.ndarray:
    """Undiscounted returns ``(n_episodes,)`` of actions drawn uniformly from the action space.

    Args:
        env_id: Gymnasium's name of the environment.
        n_episodes: episodes to play, each to its end.
        seed: seed of the environment and of the actions.
    """
    env = policykd_envs.make(env_id)
    env.action_space.seed(seed)
    returns = np.zeros(n_episodes)
    try:
        for episode in range(n_episodes):
            env.reset(seed=seed if episode == 0 else None)
            done = False
            while not done:
                _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                returns[episode] += float(reward)
                done = terminated or truncated
    finally:
        env.close()
    return returns


class _Evaluation(EvalCallback):
    """SB3's evaluation, which also reports progress and knows how long it kept training waiting."""

    def __init__(
        self,
        eval_env: VecEnv,
        eval_freq: int,
        n_eval_episodes: int,
        run_dir: Path,
        total_timesteps: int,
        progress: Callable[[int], None] | None,
    ) -> None:
        super().__init__(
            eval_env, eval_freq=eval_freq, n_eval_episodes=n_eval_episodes, log_path=str(run_dir), verbose=0
        )
        self.seconds = 0.0
        self._progress = progress
        self._total_timesteps = total_timesteps
        self._progress_freq = max(1, total_timesteps // 100)

    def _on_step(self) -> bool:
        started = time.perf_counter()
        go_on = super()._on_step()
        steps = self.num_timesteps
        due = steps % self._progress_freq < self.training_env.num_envs or steps == self._total_timesteps
        if due and self._progress is not None:
            self._progress(steps)
        self.seconds += time.perf_counter() - started
        return go_on


def _empty_folder(folder: Path) -> Path:
    """Make the folder, and refuse one in which another run's files could be overwritten."""
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise PolicyKDError(f"{folder}: holds files already; choose a new folder for this run")
    return folder
