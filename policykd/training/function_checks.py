"""Try a user's divergence and weight once before training, so that one that cannot work fails early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError, reraise
from policykd.core.networks import PolicyOutput
from policykd.distillation.divergences import Divergence
from policykd.distillation.weights import EMPTY, Comparison, Weight
from policykd.learners import Learner

SEE = "docs/extending/functions.md has examples"


def try_divergence(divergence: Divergence, learner: Learner, learners: int, target_std: bool) -> None:
    """Raise unless the divergence returns a finite number with a gradient for each state, on random outputs.

    Args:
        divergence: of a learner from its target.
        learner: the learners.
        learners: number of learners K.
        target_std: whether Gaussian targets have a standard deviation.

    Raises:
        PolicyKDError: says what it did.
    """
    shape = learners, learner.config.distill_batch_size, learner.action_size
    with torch.inference_mode(False):  # which turns gradients on, too, whatever the caller's mode
        own = _answer(learner, _random(shape, 0, learner).requires_grad_(), learner.gaussian)
        target = _answer(learner, _random(shape, 1, learner), target_std)
        distances = _call_checked("divergence", lambda: divergence(own, target), shape[:2])
    if not distances.isfinite().all():
        raise PolicyKDError(f"divergence: returned non-finite numbers for ordinary outputs: {SEE}")
    if not distances.requires_grad:
        raise PolicyKDError(f"divergence: has no gradient in its first argument, the learner's own output: {SEE}")


def try_weight(
    weight: Weight | None, learner: Learner, learners: int, compares: Literal["values", "actions"] = "values"
) -> None:
    """Raise unless the weight returns a number for each state, on random values or advantages.

    They need not be finite here: the values of a task may all have the same sign, random ones do not.

    Raises:
        PolicyKDError: says what it did.
    """
    if weight is None:
        return
    shape = learners, learner.config.distill_batch_size
    values = _random((2 * getattr(learner, "critics", 1), *shape), 0, learner)
    by_critics = values.transpose(0, 1)
    seen = Comparison(EMPTY, EMPTY, by_critics) if compares == "actions" else Comparison(values[0], values[1], EMPTY)
    with torch.no_grad():
        _call_checked("weight", lambda: weight(seen, learner.config), shape)


def _answer(learner: Learner, drawn: Tensor, std: bool) -> PolicyOutput:
    if learner.discrete:
        return PolicyOutput.categorical(drawn)
    return PolicyOutput(drawn.tanh(), drawn, torch.ones_like(drawn)) if std else PolicyOutput(drawn.tanh())


def _random(shape: tuple[int, ...], seed: int, learner: Learner) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(learner.actor.device)


def _call_checked(what: str, ask: Callable[[], Any], shape: tuple[int, ...]) -> Tensor:
    """Call a user's function and check the shape of its result, leaving torch's random state as it was."""
    with reraise(f"{what}: raised ", f": {SEE}"), torch.random.fork_rng():
        answer = ask()
    if not isinstance(answer, Tensor) or answer.shape != shape:
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise PolicyKDError(f"{what}: must return one number per state, (K, B) = {shape}, and returned {found}: {SEE}")
    return answer
