"""Checks of a distillation: each is a function of measurements that returns a one-line finding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from policykd.core.errors import plural
from policykd.measure.doctor_fit import STILL, Fit, Student
from policykd.measure.doctor_play import LONGEST, Play
from policykd.teachers.policy import Recorded

KEPT = 0.8
"""Fraction of the recorded return, above random actions, that a teacher must reach."""
BOUND, MANY_AT_BOUNDS = 0.99, 0.9
"""Actions in [-1, 1] of larger magnitude than the first are at a bound; a larger fraction than the second is wrong."""
STOPS, EDGE, CLIPPED = 1.001, 1e-5, 0.05
"""Outputs may be in [-1, 1] if all are below the first; they are clipped if beyond a bound by the second, which
matters for a larger fraction than the third."""
SAME = 1e-4
"""Outputs at the same state that differ by more do not come from a function of the state."""
SMALL_STD = 1e-3
LOST = 0.05
"""Loss of R^2 by hidden columns, a small network or a learning rate that matters."""
LOST_OF_REST = 0.2
"""Plus this fraction of what the best leaves unexplained, since low values of R^2 are less certain."""
SPIKE = 100.0
"""Ratio of a gradient's norm to the median of its neighbours that counts as a spike."""


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    state: Literal["ok", "wrong", "unknown"]
    measured: str
    advice: str = ""
    """What to change if it is wrong."""


def time_limits(play: Play) -> Finding:
    """Whether the task distinguishes failures (terminated) from time limits (truncated)."""
    lengths, limit = play.lengths, play.limit
    shown = f"{play.terminated.sum()} of {len(lengths)} episodes terminated, {play.truncated.sum()} truncated"
    shown += f"; {lengths.min():,} to {lengths.max():,} steps, time limit {limit or 'unknown'}"

    def wrong(advice: str) -> Finding:
        return Finding("time limits", "wrong", shown, advice)

    if not (play.terminated | play.truncated).all():
        return wrong(f"no end within {LONGEST:,} steps: give the task a time limit (gymnasium's TimeLimit)")
    same = len(lengths) > 2 and len(set(lengths)) == 1 and lengths[0] > 1
    if (play.terminated & ~play.truncated & (lengths == limit)).any() or (same and play.terminated.all()):
        return wrong("ends by time limit are reported as terminated: return truncated=True, or values are wrong there")
    early = play.truncated & ~play.terminated & (lengths < (limit or lengths.max()))
    if early.any():
        return wrong(f"{early.sum()} truncated before the time limit: report failures as terminated=True")
    return Finding("time limits", "ok", shown)


def against_random(returns: np.ndarray, random: np.ndarray, better: bool) -> Finding:
    """Whether the teacher is better than random actions."""
    shown = f"{returns.mean():,.1f} +/- {returns.std():,.1f}, random actions {random.mean():,.1f}, "
    shown += plural(len(returns), "episode")
    if better:
        return Finding("return", "ok", shown)
    advice = "no better than random actions: another teacher, its normaliser, the units of its actions, or the task"
    return Finding("return", "wrong", shown, advice)


def against_record(returns: np.ndarray, random: np.ndarray, recorded: Recorded | None) -> Finding:
    """Whether the teacher reaches the return recorded in its folder."""
    if recorded is None:
        return Finding("recorded return", "unknown", "nothing recorded beside the teacher")
    kept = (returns.mean() - random.mean()) / max(recorded.mean - random.mean(), 1e-12)
    shown = f"{returns.mean():,.1f}, recorded {recorded.mean:,.1f} ({recorded.file})"
    error = math.sqrt((returns.var(ddof=1) + random.var(ddof=1)) / len(returns))
    if kept < KEPT and recorded.mean - returns.mean() > 2 * error:
        advice = "not the task, the version or the normaliser it was trained with: make the task as it was then"
        return Finding("recorded return", "wrong", shown, advice)
    return Finding("recorded return", "ok", shown)


def normaliser(missing: bool, clipped: float | None) -> Finding:
    """Whether the teacher's normaliser is present and fits the task; ``clipped`` is the fraction of clipped inputs."""
    if missing:
        advice = "put its vecnormalize.pkl beside it, or give vecnormalize="
        return Finding("normaliser", "wrong", "it was trained on normalised observations, statistics missing", advice)
    if clipped is None:
        return Finding("normaliser", "ok", "none, and nothing beside the teacher says that it had one")
    shown = f"{clipped:.1%} of its inputs at the normaliser's limits"
    if clipped > 0.05:
        return Finding("normaliser", "wrong", shown, "statistics of another run or task: find the teacher's own")
    return Finding("normaliser", "ok", shown)


class Rescaled(NamedTuple):
    """Returns of the same episodes ``(E,)``, for outputs that may be in [-1, 1] while the task's bounds differ."""

    own: np.ndarray
    """With unchanged outputs."""
    scaled: np.ndarray
    """With outputs scaled from [-1, 1] to the bounds."""
    random: np.ndarray
    """With random actions."""

    @property
    def better(self) -> bool:
        """Whether the teacher is much better with its outputs scaled to the bounds."""
        return self._loses(self.own, self.scaled)

    @property
    def worse(self) -> bool:
        """Whether it is much worse with its outputs scaled to the bounds."""
        return self._loses(self.scaled, self.own)

    def _loses(self, low: np.ndarray, high: np.ndarray) -> bool:
        gain, best = high - low, high.mean() - self.random.mean()
        return bool(best > 0 and gain.mean() > max((1 - KEPT) * best, 2 * gain.std(ddof=1) / math.sqrt(len(gain))))


def maybe_unit_scaled(answers: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which dimensions ``(A,)`` of the outputs ``(n, A)`` may be in [-1, 1] rather than in the task's units.

    All outputs lie within [-1, 1], and the bounds are wider, or so narrow that outputs are clipped.
    """
    wider, clipped = np.maximum(-low, high) > 1.5, _beyond(answers, low, high).mean(0) > CLIPPED
    inside = np.abs(answers).max(0) < STOPS
    return inside & (wider | clipped) if inside.all() else np.zeros_like(inside)


def action_scale(
    actions: np.ndarray, answers: np.ndarray, low: np.ndarray, high: np.ndarray, rescaled: Rescaled | None = None
) -> Finding:
    """Whether a teacher's outputs are in the task's units and depend on the state.

    Args:
        actions: executed actions ``(n, A)``, in [-1, 1].
        answers: the teacher's outputs ``(n, A)`` in the task's units, before clipping.
        low: smallest action ``(A,)`` of the task.
        high: largest action.
        rescaled: returns with rescaled outputs, if these may be in [-1, 1] (``maybe_unit_scaled``).
    """
    shown = f"{answers.min():.3g} to {answers.max():.3g} of {low.min():.3g} to {high.max():.3g}, "
    shown += f"standard deviation {actions.std(0).mean():.3f} of half the range"
    clipped = float(_beyond(answers, low, high).mean())
    if clipped:
        shown += f", {clipped:.1%} clipped"
    if rescaled is not None:
        shown += f"; with -1 to 1 brought to the bounds it returns {rescaled.scaled.mean():,.1f}, "
        shown += f"else {rescaled.own.mean():,.1f}"
        stops = clipped > CLIPPED or np.abs(answers).max() > BOUND
        if rescaled.better or (stops and not rescaled.worse):
            advice = "its answers are of -1 to 1, not of the task's bounds: scale them to the task's units"
            return Finding("action scale", "wrong", shown, advice)
    if actions.std(0).max() < STILL:
        return Finding("action scale", "wrong", shown, "its actions do not depend on the state: is it saturated?")
    if np.abs(actions).max() < 0.02:
        return Finding("action scale", "wrong", shown, "it uses a hundredth of the range: check its units")
    return Finding("action scale", "ok", shown)


def _beyond(answers: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Which outputs are clipped, beyond rounding."""
    return (answers < low - EDGE) | (answers > high + EDGE)


def at_bounds(actions: np.ndarray) -> Finding:
    """Whether too many actions are at a bound."""
    share = float((np.abs(actions) >= BOUND).mean())
    shown = f"{share:.1%} of its actions"
    if share > MANY_AT_BOUNDS:
        advice = "units too large, a missing normaliser, or bang-bang: then action_mse with td3 and no Gaussian"
        return Finding("actions at bounds", "wrong", shown, advice)
    return Finding("actions at bounds", "ok", shown)


def choices(actions: np.ndarray) -> Finding:
    """Whether discrete actions ``(n, A)``, one-hot, depend on the state."""
    shares = actions.mean(0)
    shown = f"of {len(shares)} actions it chooses " + ", ".join(f"{share:.1%}" for share in shares)
    if shares.max() == 1:
        advice = "it always chooses the same action: is it of this task, and its normaliser there?"
        return Finding("choices", "wrong", shown, advice)
    return Finding("choices", "ok", shown)


def noise(first: np.ndarray, again: np.ndarray, std: np.ndarray | None) -> Finding:
    """Whether its outputs ``(n, A)`` at the same states are equal, and how large its standard deviation is."""
    differ = float(np.abs(first - again).max())
    sure = "no standard deviation" if std is None else f"standard deviation {np.median(std):.2g}"
    shown = f"asked twice it differs by at most {differ:.1e}; {sure}"
    if differ > SAME:
        advice = "it samples, or keeps state between calls: make it deterministic in the observation"
        return Finding("noise", "wrong", shown, advice)
    if std is not None and np.median(std) < SMALL_STD:
        advice = "so sure that a Gaussian divergence explodes: raise variance_scale, or use action_mse"
        return Finding("noise", "wrong", shown, advice)
    return Finding("noise", "ok", shown)


def observations(seen: np.ndarray, student: Student) -> Finding:
    """Whether the student's observations ``(n, O)`` are scaled for a network."""
    spread = seen.std(0)
    moving = spread[spread > 1e-8]
    if not len(moving):
        return Finding("observations", "wrong", "nothing that the student sees ever changes", "other columns")
    shown = (
        f"standard deviations {moving.min():.2g} to {moving.max():.2g}, {len(spread) - len(moving)} constant columns"
    )
    shown += ", normalised" if student.normalize else ", not normalised"
    if not student.normalize and (moving.max() / moving.min() > 1e3 or np.abs(seen).max() > 1e2):
        return Finding("observations", "wrong", shown, "normalise them (normalize_observation), or rescale the task's")
    return Finding("observations", "ok", shown)


def action_bounds(student: Student, own: Fit, scaled: Fit) -> Finding:
    """Whether the student's network learns as well in the task's units as with actions in [-1, 1]."""
    if student.bounds is None:
        return Finding("action bounds", "ok", "the student's network answers in -1 to 1")
    (low, high), units = student.bounds, "its network answers in these units"
    shown = f"{min(low):.3g} to {max(high):.3g}, {units}: R^2 {own.r2:.3f}, in -1 to 1 {scaled.r2:.3f}"
    if _loses(own, scaled):
        advice = "too far from -1 to 1 for ppo: wrap the task in RescaleAction(env, -1, 1), or use td3, ddpg or sac"
        return Finding("action bounds", "wrong", shown, advice)
    return Finding("action bounds", "ok", shown)


def sight(full: Fit, seen: Fit | None, remembered: Fit | None, missed: list[int]) -> Finding:
    """Whether the student's observation explains the teacher's actions."""
    if seen is None:
        state: Literal["ok", "unknown"] = "ok" if full.r2 > KEPT else "unknown"
        return Finding("what the student sees", state, f"all of it, which explains R^2 {full.r2:.3f} of the actions")
    shown = f"R^2 {seen.r2:.3f} of the actions, all observations {full.r2:.3f}"
    if remembered is not None:
        shown += f", the last 4 of its own {remembered.r2:.3f}"
    if not _loses(seen, full):
        return Finding("what the student sees", "ok", shown)
    columns = ", ".join(map(str, missed))
    advice = f"show it more (most is missed of column {columns})"
    if remembered is not None and remembered.explained > (full.explained + seen.explained) / 2:
        advice = f"give it memory, which brings back most; or show it column {columns}"
    return Finding("what the student sees", "wrong", shown, advice)


def capacity(fits: dict[tuple[int, ...], Fit], student: Student) -> Finding:
    """Whether a wider student would learn more: clones of several widths, narrow ones first, on fixed states."""
    shown = ", ".join(f"{'x'.join(map(str, widths))} R^2 {fit.r2:.3f}" for widths, fit in fits.items())
    best = max(fits.values(), key=lambda fit: fit.r2)
    if _loses(fits[student.net_arch], best):
        enough = next(widths for widths, fit in fits.items() if not _loses(fit, best))
        return Finding("capacity", "wrong", shown, f"too small: try {'x'.join(map(str, enough))}")
    return Finding("capacity", "ok", shown)


def learning_rate(fits: dict[float, Fit], student: Student) -> Finding:
    """Whether another learning rate would have learnt more in the same number of steps."""
    own = fits[student.learning_rate]
    shown = ", ".join(f"{rate:.0e} R^2 {fit.r2:.3f}" for rate, fit in sorted(fits.items()))
    shown += f", after {len(own.losses):,} steps"
    best = max(fits, key=lambda rate: fits[rate].r2)
    if _loses(own, fits[best]):
        size = "small" if best > student.learning_rate else "large"
        return Finding("learning rate", "wrong", shown, f"too {size}: try {best:.0e}")
    return Finding("learning rate", "ok", shown)


def _loses(fit: Fit, best: Fit) -> bool:
    return best.explained - fit.explained > LOST + LOST_OF_REST * (1 - best.explained)


def gradients(fit: Fit) -> Finding:
    """Whether gradients stay finite, do not vanish and have no spikes."""
    norms = fit.gradient_norms
    if not np.isfinite(norms).all():
        step = int(np.argmin(np.isfinite(norms)))
        return Finding("gradients", "wrong", f"not finite from step {step:,}", "lower the learning rate, normalise")
    tail = norms[len(norms) // 10 :]
    shown = (
        f"norm {norms[: len(norms) // 10 + 1].mean():.2g} at first, {tail.mean():.2g} later, at most {norms.max():.2g}"
    )
    if tail.max() > SPIKE * max(float(np.median(tail)), 1e-8):
        return Finding("gradients", "wrong", shown, "they spike: lower the learning rate, normalise observations")
    if float(np.median(tail)) < 1e-6 and fit.r2 < KEPT:
        return Finding("gradients", "wrong", shown, "they vanish: normalise observations, another activation")
    return Finding("gradients", "ok", shown)
