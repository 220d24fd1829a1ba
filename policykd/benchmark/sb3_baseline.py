"""What PolicyKD's learners are compared with: Stable-Baselines3's own single agents, and random actions."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import policykd_envs
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from policykd import export_ppo
from policykd.agents.training import one_thread
from policykd.config import PPOConfig
from policykd.errors import PolicyKDError
from policykd.export import MODELS

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
    algorithm: Literal["ddpg", "td3", "sac"],
    env_id: str,
    *,
    total_timesteps: int,
    seed: int,
    net_arch: Sequence[int],
    batch_size: int,
    learning_rate: float,
    buffer_size: int,
    learning_starts: int,
    gamma: float,
    tau: float,
    train_freq: int,
    gradient_steps: int,
    action_noise_std: float,
    eval_freq: int,
    n_eval_episodes: int,
    run_dir: Path,
    own_settings: Mapping[str, Any] | None = None,
    progress: Callable[[int], None] | None = None,
) -> BaselineResult:
    """Train one agent of SB3 on one thread of the CPU, evaluate it on the way, and time it.

    ``run_dir`` gets SB3's own files: ``0.monitor.csv`` with every training episode, and ``evaluations.npz``.
    What is no parameter here has SB3's default. SB3 seeds the global generators of NumPy, PyTorch and
    ``random``.

    Args:
        algorithm: ``"ddpg"``, ``"td3"`` or ``"sac"``.
        env_id: Gymnasium's name of an environment with box observations ``(O,)`` and actions ``(A,)``.
        total_timesteps: environment steps to train for; SB3 goes on to the next multiple of ``train_freq``.
        seed: seed of the agent and its environment; evaluation has an environment and a seed of its own.
        net_arch: hidden layers of actor and critic.
        batch_size: transitions per gradient step.
        learning_rate: Adam's learning rate of actor and critic.
        buffer_size: transitions that the replay keeps.
        learning_starts: first steps, with random actions and without updates. SB3 adds noise to these too.
        gamma: discount factor.
        tau: Polyak coefficient of the target networks.
        train_freq: environment steps between updates.
        gradient_steps: gradient steps at every update.
        action_noise_std: standard deviation of the Gaussian exploration noise, in actions scaled to [-1, 1].
            SB3 itself explores with none (SAC by sampling its policy).
        eval_freq: environment steps between evaluations.
        n_eval_episodes: episodes of each evaluation.
        run_dir: folder for the files; made where missing, and otherwise empty.
        own_settings: settings that only this algorithm has, e.g. SAC's ``ent_coef``.
        progress: called about a hundred times with the environment steps so far.

    Returns:
        The curve, whose last point is at the last multiple of ``eval_freq``, and the speed.

    Raises:
        PolicyKDError: an unknown algorithm, no evaluation in ``total_timesteps``, or a ``run_dir`` that is
            not empty.
    """
    if algorithm not in MODELS:
        raise PolicyKDError(f"algorithm {algorithm!r}: SB3's baselines are {', '.join(MODELS)}")
    if not 1 <= eval_freq <= total_timesteps:
        raise PolicyKDError(f"eval_freq {eval_freq}: must be 1 to total_timesteps ({total_timesteps})")
    run_dir = _empty_folder(run_dir)
    env = DummyVecEnv([lambda: Monitor(policykd_envs.make(env_id), str(run_dir / "0"))])
    eval_env = DummyVecEnv([lambda: Monitor(policykd_envs.make(env_id))])
    eval_env.seed(seed + EVAL_SEED_OFFSET)
    size = env.action_space.shape or (1,)
    noise = NormalActionNoise(np.zeros(size), np.full(size, action_noise_std)) if action_noise_std else None
    try:
        model = MODELS[algorithm](
            "MlpPolicy",
            env,
            learning_rate=learning_rate,
            buffer_size=buffer_size,
            learning_starts=learning_starts,
            batch_size=batch_size,
            tau=tau,
            gamma=gamma,
            train_freq=train_freq,
            gradient_steps=gradient_steps,
            action_noise=noise,
            policy_kwargs={"net_arch": list(net_arch)},
            seed=seed,
            device="cpu",
            **(own_settings or {}),
        )
        return _train(model, eval_env, total_timesteps, eval_freq, n_eval_episodes, run_dir, progress)
    finally:
        env.close()
        eval_env.close()


def run_sb3_ppo(
    env_id: str,
    config: PPOConfig,
    *,
    total_timesteps: int,
    seed: int,
    eval_freq: int,
    n_eval_episodes: int,
    run_dir: Path,
    progress: Callable[[int], None] | None = None,
) -> BaselineResult:
    """As ``run_sb3``, with SB3's PPO; it sees observations and rewards through ``VecNormalize`` where ours does.

    Args:
        env_id: Gymnasium's name of an environment with box observations ``(O,)`` and actions ``(A,)``.
        config: the settings of PPO, its environments and its normalisation.
        total_timesteps: environment steps to train for; SB3 goes on to the end of a rollout.
        seed: seed of the agent and its environments.
        eval_freq: environment steps between evaluations; a multiple of ``config.n_envs``.
        n_eval_episodes: episodes of each evaluation.
        run_dir: folder for the files; made where missing, and otherwise empty.
        progress: called about a hundred times with the environment steps so far.

    Raises:
        PolicyKDError: no evaluation in ``total_timesteps``, or a ``run_dir`` that is not empty.
    """
    if not config.n_envs <= eval_freq <= total_timesteps or eval_freq % config.n_envs:
        raise PolicyKDError(f"eval_freq {eval_freq}: must be a multiple of n_envs, up to total_timesteps")
    run_dir = _empty_folder(run_dir)

    def monitored(n: int) -> Callable[[], Monitor]:
        return lambda: Monitor(policykd_envs.make(env_id), str(run_dir / str(n)))

    env = export_ppo.vec_env(DummyVecEnv([monitored(n) for n in range(config.n_envs)]), config)
    eval_env = export_ppo.vec_env(DummyVecEnv([lambda: Monitor(policykd_envs.make(env_id))]), config)
    if isinstance(eval_env, VecNormalize):  # with the statistics of training, and the task's own rewards
        eval_env.training = eval_env.norm_reward = False
    eval_env.seed(seed + EVAL_SEED_OFFSET)
    try:
        model = PPO("MlpPolicy", env, seed=seed, device="cpu", **export_ppo.sb3_settings(config))
        calls = eval_freq // config.n_envs
        return _train(model, eval_env, total_timesteps, calls, n_eval_episodes, run_dir, progress)
    finally:
        env.close()
        eval_env.close()


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
