"""Divergences and weights, which may be a user's own, tried once before training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError, telling
from policykd.core.networks import PolicyOutput
from policykd.distillation.divergences import Divergence
from policykd.distillation.weights import EMPTY, Comparison, Weight
from policykd.learners import Learner

SEE = "docs/extending/functions.md has examples"


def try_divergence(divergence: Divergence, learner: Learner, learners: int, target_std: bool) -> None:
    """Refuse a divergence that gives no finite number, or none with a gradient, for each state of drawn answers.

    Args:
        divergence: of a learner from its target.
        learner: who answers.
        learners: number of learners K.
        target_std: whether Gaussian targets have a standard deviation.

    Raises:
        PolicyKDError: says what it did.
    """
    shape = learners, learner.config.distill_batch_size, learner.action_size
    with torch.inference_mode(False):  # which turns gradients on, too, whatever the caller's mode
        own = _answer(learner, _drawn(shape, 0, learner).requires_grad_(), learner.gaussian)
        target = _answer(learner, _drawn(shape, 1, learner), target_std)
        distances = _asked("divergence", lambda: divergence(own, target), shape[:2])
    if not distances.isfinite().all():
        raise PolicyKDError(f"divergence: returned numbers that are not finite for ordinary answers: {SEE}")
    if not distances.requires_grad:
        raise PolicyKDError(f"divergence: has no gradient in its first argument, the learner's own output: {SEE}")


def try_weight(
    weight: Weight | None, learner: Learner, learners: int, compares: Literal["values", "actions"] = "values"
) -> None:
    """Refuse a weight that gives no number for each state where drawn values or actions are compared.

    Whether they are finite is left to the run: a task's values may all be of one sign.

    Raises:
        PolicyKDError: says what it did.
    """
    if weight is None:
        return
    shape = learners, learner.config.distill_batch_size
    values = _drawn((2 * getattr(learner, "critics", 1), *shape), 0, learner)
    by_critics = values.transpose(0, 1)
    seen = Comparison(EMPTY, EMPTY, by_critics) if compares == "actions" else Comparison(values[0], values[1], EMPTY)
    with torch.no_grad():
        _asked("weight", lambda: weight(seen, learner.config), shape)


def _answer(learner: Learner, drawn: Tensor, std: bool) -> PolicyOutput:
    if learner.discrete:
        return PolicyOutput.choosing(drawn)
    return PolicyOutput(drawn.tanh(), drawn, torch.ones_like(drawn)) if std else PolicyOutput(drawn.tanh())


def _drawn(shape: tuple[int, ...], seed: int, learner: Learner) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(learner.actor.device)


def _asked(what: str, ask: Callable[[], Any], shape: tuple[int, ...]) -> Tensor:
    """The answer of a user's own function, which must have this shape; own random numbers stay as they were."""
    with telling(f"{what}: raised ", f": {SEE}"), torch.random.fork_rng():
        answer = ask()
    if not isinstance(answer, Tensor) or answer.shape != shape:
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise PolicyKDError(f"{what}: must return one number per state, (K, B) = {shape}, and returned {found}: {SEE}")
    return answer
