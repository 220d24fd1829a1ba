"""The one training loop: collect, improve; then log, evaluate and save when it is time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from tqdm import tqdm

from policykd.training.failure import saved_on_failure
from policykd.training.progress_lines import ProgressLines, make_bar
from policykd.training.recipes.stepping import check_finite

if TYPE_CHECKING:
    from policykd.training.agent import Agent

COMPILE_PAYS = 100_000
"""Updates from which ``compile="auto"`` compiles: below, compiling takes longer than it saves."""


def train(
    agent: Agent,
    total_timesteps: int,
    callback: BaseCallback | list[BaseCallback] | None,
    progress_bar: bool,
) -> None:
    """Train for ``total_timesteps`` more environment steps per group (see ``Agent.learn``)."""
    end = agent.num_timesteps + total_timesteps
    if agent.span[1] != end:  # else an interrupted call goes on: its schedules run from where it began
        agent.span = (agent.num_timesteps, end)
    agent.get_env()
    agent.prepare_update(total_timesteps)
    callbacks = _callbacks(callback)
    callbacks.init_callback(agent)  # type: ignore[arg-type]
    callbacks.on_training_start({"self": agent, "total_timesteps": end}, {})
    bar = make_bar(end, agent.num_timesteps, progress_bar)
    with bar, one_thread(), _interruptible() as interrupted, saved_on_failure(agent):
        callbacks.on_rollout_start()
        loop(agent, end, callbacks, bar, interrupted)
        callbacks.on_rollout_end()
        if not interrupted.is_set() and agent.evaluation_steps[-1:] != [agent.num_timesteps]:
            _evaluate(agent)
        _checkpoint(agent)
    callbacks.on_training_end()
    if interrupted.is_set():
        where = "" if agent.folder is None else f", saved to {agent.folder.checkpoint}; go on with --resume"
        print(f"\ninterrupted at {agent.num_timesteps:,} steps{where}", flush=True)
        raise KeyboardInterrupt


def loop(
    agent: Agent,
    end: int,
    callbacks: BaseCallback | None = None,
    bar: tqdm | ProgressLines | None = None,
    interrupted: threading.Event | None = None,
) -> None:
    """Step and improve until ``num_timesteps`` is ``end``, a callback says stop, or ``interrupted`` is set."""
    agent.get_env()
    agent.prepare_update(end - agent.num_timesteps)
    assert agent.last_observations is not None
    check_finite(agent, np.zeros(len(agent.last_observations)), agent.last_observations)
    learning = agent.learning
    go_on = True
    while go_on and agent.num_timesteps < end and not (interrupted and interrupted.is_set()):
        started, episodes = time.perf_counter(), agent.n_episodes
        seen = learning.collect(agent)
        if callbacks is not None:
            callbacks.update_locals(seen)
            go_on = callbacks.on_step()
        diagnose = _due(agent, agent.config.log_freq)
        info = learning.improve(agent, diagnose)
        agent.elapsed += time.perf_counter() - started  # evaluations and checkpoints do not count as training
        if diagnose:
            _log(agent, info)
        if _due(agent, agent.config.eval_freq):
            _evaluate(agent)
        if _due(agent, agent.config.checkpoint_freq):
            _checkpoint(agent)
        if bar is not None:
            bar.update(agent.steps_at_once)
            if agent.n_episodes > episodes:
                bar.set_postfix_str(_latest_returns(agent), refresh=False)


def _due(agent: Agent, every: int) -> bool:
    """Whether the last step crossed a multiple of ``every`` (never for 0)."""
    return every > 0 and agent.num_timesteps % every < agent.steps_at_once


def _log(agent: Agent, info: dict[str, torch.Tensor]) -> None:
    """Write one row of progress per learner, and their means into the run's own log."""
    values = {key: tensor.detach().cpu().numpy() for key, tensor in info.items()}
    rows = []
    for k, episodes in enumerate(agent.episodes):
        row = {key: float(value[k]) for key, value in values.items()}
        if episodes:
            row["rollout/ep_rew_mean"] = float(np.mean([episode["r"] for episode in episodes]))
            row["rollout/ep_len_mean"] = float(np.mean([episode["l"] for episode in episodes]))
        rows.append(row)
    assert agent.update is not None
    common = {
        "time/fps": int(agent.num_timesteps * len(agent.seeds) / max(agent.elapsed, 1e-9)),
        "time/time_elapsed": int(agent.elapsed),
        "time/episodes": agent.n_episodes,
        "train/n_updates": agent.update.n_updates,
    }
    write_log(agent, rows, common)


def write_log(agent: Agent, rows: list[dict[str, float]], common: dict[str, Any]) -> None:
    """Dump ``rows`` (one per learner) to the learners' logs and their means to the run's."""
    mean = {key: float(np.mean([row[key] for row in rows if key in row])) for key in {k: 0 for r in rows for k in r}}
    loggers = [agent.logger] + ([] if agent.folder is None else agent.folder.loggers)
    for logger, row in zip(loggers, [mean, *rows][: len(loggers)], strict=True):
        for key, value in {**row, **common, "time/total_timesteps": agent.num_timesteps}.items():
            logger.record(key, value)
        logger.dump(agent.num_timesteps)


def _evaluate(agent: Agent) -> None:
    """Evaluate all learners, log it, and keep each learner's best model so far; unless that is switched off."""
    if agent.config.n_eval_episodes == 0:
        return
    before = [evaluation.returns.mean(1) for evaluation in agent.evaluations]
    result = agent.evaluate()
    agent.evaluation_steps.append(agent.num_timesteps)
    agent.evaluation_seconds.append(agent.elapsed)
    agent.evaluations.append(result)
    means, lengths = result.returns.mean(1), result.lengths.mean(1)
    rows = [
        {"eval/mean_reward": float(m), "eval/mean_ep_length": float(n)} for m, n in zip(means, lengths, strict=True)
    ]
    write_log(agent, rows, {})
    if agent.folder is None:
        return
    for k in range(agent.n_learners):
        returns = np.stack([evaluation.returns[k] for evaluation in agent.evaluations])
        episode_lengths = np.stack([evaluation.lengths[k] for evaluation in agent.evaluations])
        agent.folder.write_evaluations(k, agent.evaluation_steps, returns, episode_lengths)
        if all(means[k] > earlier[k] for earlier in before):
            agent.folder.save_model(k, agent.to_sb3(k), agent.zoo_settings(k))


def _checkpoint(agent: Agent) -> None:
    if agent.folder is not None:
        agent.save(agent.folder.checkpoint, include_replay=True)


def _latest_returns(agent: Agent) -> str:
    shown = [f"{episodes[-1]['r']:.0f}" if episodes else "-" for episodes in list(agent.episodes)[:6]]
    return f"last returns {' '.join(shown)}{' ...' if agent.n_learners > 6 else ''}"


def _callbacks(callback: BaseCallback | list[BaseCallback] | None) -> BaseCallback:
    if isinstance(callback, BaseCallback):
        return callback
    return CallbackList(list(callback or []))


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread: at these sizes handing work to others costs more than it saves."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Turn the first Ctrl-C into a flag that the loop reads between steps; a second one interrupts at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag
        return

    def on_interrupt(number: int, frame: object) -> None:
        flag.set()
        signal.signal(signal.SIGINT, previous)

    previous = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag
    finally:
        signal.signal(signal.SIGINT, previous)
