"""The training loop: collect, improve; then log, evaluate and checkpoint when due."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from stable_baselines3.common.callbacks import BaseCallback
from torch import Tensor
from tqdm import tqdm

from policykd.core.interrupts import Interrupts
from policykd.training.progress import Progress
from policykd.training.progress_lines import ProgressLines
from policykd.training.recipes import Recipe


@dataclass(frozen=True)
class Hooks:
    """What the loop calls besides learning, and how often, in environment steps of a group."""

    log: Callable[[dict[str, Tensor]], None]
    evaluate: Callable[[], None]
    checkpoint: Callable[[], None]
    log_freq: int
    eval_freq: int
    checkpoint_freq: int
    callback: BaseCallback | None
    """SB3's callback; called after every step, before the update, and at the start and end of rollouts."""
    bar: tqdm | ProgressLines | None
    interrupts: Interrupts
    """Signals that ask to stop after this step."""


def train(recipe: Recipe, run: Progress, hooks: Hooks, end: int) -> None:
    """Collect and improve until the run has ``end`` steps, a callback says stop, or it is interrupted."""
    go_on, in_rollout = True, False
    if run.num_timesteps and run.due(hooks.eval_freq) and not run.evaluated and not run.pending:
        hooks.evaluate()  # a signal interrupted this evaluation, and the run was saved without it
    while run.pending or (go_on and run.num_timesteps < end and hooks.interrupts.number is None):
        started, episodes = time.perf_counter(), run.n_episodes
        if not run.pending:
            if hooks.callback is not None and not in_rollout:
                hooks.callback.on_rollout_start()
                in_rollout = True
            step = recipe.collect()
            run.pending = True
            if hooks.callback is not None:
                hooks.callback.update_locals({**step._asdict(), "new_obs": step.observations})
                go_on = hooks.callback.on_step()
            if hooks.bar is not None:
                hooks.bar.update(run.steps_at_once)
        if hooks.callback is not None and in_rollout and go_on and recipe.rollout_over:
            hooks.callback.on_rollout_end()
            in_rollout = False
        diagnose = run.due(hooks.log_freq)
        info = recipe.improve(run.fraction, diagnose)
        run.pending = False
        run.elapsed += time.perf_counter() - started  # evaluations and checkpoints do not count as training
        if diagnose:
            hooks.log(info)
        if run.due(hooks.eval_freq):
            hooks.evaluate()
        if run.due(hooks.checkpoint_freq):
            hooks.checkpoint()
        if hooks.bar is not None and run.n_episodes > episodes:
            hooks.bar.set_postfix_str(_latest_returns(run), refresh=False)


def _latest_returns(run: Progress) -> str:
    shown = [f"{episodes[-1]['r']:.0f}" if episodes else "-" for episodes in run.episodes[:6]]
    return f"last returns {' '.join(shown)}{' ...' if len(run.episodes) > 6 else ''}"
