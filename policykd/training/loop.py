"""The one training loop: collect, improve; then log, evaluate and save when it is time."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from tqdm import tqdm

from policykd.training.progress import Progress
from policykd.training.recipes import Recipe


@dataclass(frozen=True)
class Hooks:
    """What happens beside learning, and how often, in environment steps of a group."""

    log: Callable[[dict[str, Tensor]], None]
    evaluate: Callable[[], None]
    checkpoint: Callable[[], None]
    log_freq: int
    eval_freq: int
    checkpoint_freq: int
    callback: BaseCallback | None = None
    """SB3's callbacks; asked after every step of the environments, before the update."""
    bar: tqdm | None = None
    interrupted: Callable[[], bool] = lambda: False
    """Whether to stop after this step."""


def train(recipe: Recipe, run: Progress, hooks: Hooks, end: int) -> None:
    """Collect and improve until the run has ``end`` steps, a callback says stop, or it is interrupted."""
    go_on = True
    while go_on and run.num_timesteps < end and not hooks.interrupted():
        started, episodes = time.perf_counter(), run.n_episodes
        step = recipe.collect()
        if hooks.callback is not None:
            hooks.callback.update_locals({**step._asdict(), "new_obs": step.observations})
            go_on = hooks.callback.on_step()
        diagnose = run.due(hooks.log_freq)
        info = recipe.improve(run.fraction, diagnose)
        run.elapsed += time.perf_counter() - started  # evaluations and checkpoints do not count as training
        if diagnose:
            hooks.log(info)
        if run.due(hooks.eval_freq):
            hooks.evaluate()
        if run.due(hooks.checkpoint_freq):
            hooks.checkpoint()
        if hooks.bar is not None:
            hooks.bar.update(run.steps_at_once)
            if run.n_episodes > episodes:
                hooks.bar.set_postfix_str(_latest_returns(run), refresh=False)


def _latest_returns(run: Progress) -> str:
    shown = [f"{episodes[-1]['r']:.0f}" if episodes else "-" for episodes in run.episodes[:6]]
    return f"last returns {' '.join(shown)}{' ...' if len(run.episodes) > 6 else ''}"


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
def interruptible() -> Iterator[threading.Event]:
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
