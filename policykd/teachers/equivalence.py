"""Checks on observations that a rebuilt policy is equal to the live one, so that they never differ silently."""

from __future__ import annotations

from types import FunctionType
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.tasks.flat import needs_flattening
from policykd.tasks.groups import flatten, unflatten
from policykd.teachers.policy import Policy, to_unit

TOLERANCE = 1e-5
TIE = 1e-6
"""Maximum distance of an action's score from the best one, relative to the largest score."""
ROWS = 32
"""Number of observations of each size."""
SIZES = (0.1, 1.0, 10.0)
USUAL = 1 + len(SIZES) * ROWS
"""Number of observations of usual size: zeros first, then ``ROWS`` of each of ``SIZES``."""
WIDE = 1000.0
"""Range of the others, within the space's bounds."""
LIBRARIES = ("torch.nn.", "stable_baselines3.", "sb3_contrib.")
"""Libraries whose code is known."""
STEPS = 4
"""Steps of an episode to compare for a policy with memory."""


class Expected(NamedTuple):
    """Outputs of SB3's own classes at some inputs; None where they have none."""

    mean: Tensor
    """Means; or logits (of sum 1), or Q-values."""
    std: Tensor | None
    value: Tensor | None


class FlatPredict:
    """SB3's ``predict`` on flat observations ``(n, O)``, also for spaces that are dicts or boxes of several axes.

    Args:
        predict: of a model or policy.
        space: its observation space.
    """

    def __init__(self, predict: Any, space: gym.Space) -> None:
        self.predict, self.space = predict, space if needs_flattening(space) else None
        self.examples = inputs(space)
        """Observations to compare at, ``(n, O)``."""
        if self.space is not None:
            self.examples = flatten(self.space, unflatten(self.space, self.examples))  # one-hot where it must be

    def as_read(self, observations: np.ndarray) -> Any:
        """Observations in the form of its space."""
        return observations if self.space is None else unflatten(self.space, observations)

    def __call__(self, observations: np.ndarray, **options: Any) -> Any:
        """Output of ``predict``."""
        return self.predict(self.as_read(observations), **options)


def inputs(space: gym.Space) -> np.ndarray:
    """Observations ``(n, O)`` to compare at: ``USUAL`` ones, and ``ROWS`` from the whole space."""
    size, generator = gym.spaces.flatdim(space), np.random.default_rng(0)
    flat = gym.spaces.flatten_space(space)
    assert isinstance(flat, gym.spaces.Box)
    low, high = (np.clip(bound.astype(np.float64), -WIDE, WIDE) for bound in (flat.low, flat.high))
    rows = [np.zeros((1, size))] + [scale * generator.standard_normal((ROWS, size)) for scale in SIZES]
    rows.append(low + generator.random((ROWS, size)) * (high - low))
    return np.concatenate(rows).astype(np.float32)


def own_code(live: nn.Module) -> str | None:
    """The first part of a live policy whose code is from no known library; None if there is none.

    Comparing such code on some observations can show that a rebuilt policy differs, but not that it is equal.
    """
    for part in live.modules():
        kind = type(part)
        for held in map(type, vars(part).values()):
            if issubclass(held, Distribution) and not is_known(held):  # distributions are not modules
                return held.__name__
        replaced = any(isinstance(getattr(kind, name, None), FunctionType) for name in vars(part))
        if not is_known(kind) or replaced or part._forward_hooks or part._forward_pre_hooks:
            return kind.__name__
    return None


def is_known(code: Any) -> bool:
    """Whether a class or function is from a known library."""
    return str(getattr(code, "__module__", "")).startswith(LIBRARIES)


@torch.no_grad()
def same_actions(policy: Policy, predict: FlatPredict, device: torch.device) -> bool:
    """Whether a policy's deterministic actions equal those of SB3's ``predict``, in the task's units."""
    examples = predict.examples
    if policy.step is None:
        mean = policy.gaussian(torch.from_numpy(examples).to(device))[0]
        size = np.abs(examples).max(1).clip(SIZES[-1])[:, None] / SIZES[-1]  # rounding grows with it
        return _same(policy, mean, predict(examples, deterministic=True)[0], size)
    memory, state, examples = None, None, examples[:USUAL]
    starts = np.ones(len(examples), bool)
    for _ in range(STEPS):
        inputs = torch.from_numpy(examples).to(device), memory, torch.from_numpy(starts).to(device)
        mean, _, memory = policy.step(*inputs)
        theirs, state = predict(examples, state=state, episode_start=starts, deterministic=True)
        if not _same(policy, mean, theirs):
            return False
        starts, examples = np.arange(len(examples)) % 5 == 0, examples[::-1].copy()
    return True


@torch.no_grad()
def same_outputs(policy: Policy, live: Any, predict: FlatPredict, device: torch.device) -> bool:
    """Whether distribution and value also equal those of the live policy, if it has them."""
    examples = predict.examples[:USUAL]
    inputs = torch.from_numpy(examples).to(device)
    read = obs_as_tensor(predict.as_read(examples), live.device)
    if policy.step is not None:  # besides actions it has a value, if its critic has no memory
        return policy.value is None or _close(policy.value(inputs), live.predict_values(read, None, None).squeeze(1))
    live_outputs = _expected(live, read)
    if live_outputs is None:
        return False
    mean, std = policy.gaussian(inputs)
    if policy.scores in ("logits", "q_values"):
        own = mean.log_softmax(-1) if policy.scores == "logits" else mean
        if not _close(own, live_outputs.mean):
            return False
    if live_outputs.std is not None:
        expected = live_outputs.mean, live_outputs.std
        if getattr(policy.network, "in_task_units", False):
            assert policy.low is not None and policy.high is not None
            middle, half = to_unit(policy.low, policy.high, live_outputs.mean.device)
            expected = (live_outputs.mean - middle) / half, live_outputs.std / half
        if std is None or not (_close(mean, expected[0]) and _close(std.expand_as(mean), expected[1])):
            return False
    return live_outputs.value is None or policy.value is None or _close(policy.value(inputs), live_outputs.value)


def check_deterministic(predict: Any, examples: np.ndarray, source: str) -> None:
    """Refuse a policy whose actions differ between two calls, or that fails.

    Raises:
        PolicyKDError: it samples, has memory, or fails.
    """
    try:
        first, second = (np.asarray(predict(examples, deterministic=True)[0]) for _ in range(2))
    except Exception as error:  # own code may fail in any way, and SB3's does where weights are NaN
        said = "gives actions that are not finite" if "invalid values" in str(error) else "fails in its own predict()"
        reason = " ".join(str(error).split())[:100]
        raise PolicyKDError(f"teacher: {source} {said} ({type(error).__name__}: {reason})") from None
    if not np.allclose(first, second, equal_nan=True):
        raise PolicyKDError(
            f"teacher: {source} gives different answers to the same observation: it samples or keeps state; give one "
            "that acts deterministically on the observation alone"
        )


def _same(policy: Policy, mean: Tensor, theirs: np.ndarray, size: np.ndarray | float = 1.0) -> bool:
    """Whether actions equal SB3's up to rounding, which grows with ``size (n, 1)``."""
    answer = mean.detach().cpu()
    if policy.scores is not None:  # rounding decides between actions of equal score
        chosen = answer.gather(1, torch.from_numpy(theirs - policy.first).long().unsqueeze(1))
        return bool((answer.amax(1, keepdim=True) - chosen <= TIE * answer.abs().max()).all())
    assert policy.low is not None and policy.high is not None
    scaled = (answer.tanh() if policy.squashed else answer.clamp(-1, 1)).numpy()
    half, step = (policy.high - policy.low) / 2, np.spacing(np.maximum(np.abs(policy.low), np.abs(policy.high)))
    apart = np.abs((policy.high + policy.low) / 2 + scaled * half - theirs)
    return bool((apart <= np.maximum(TOLERANCE * half * size, 2 * step)).all())  # a step of float32 may be as coarse


def _close(one: Tensor, other: Tensor) -> bool:
    return one.detach().cpu().allclose(other.cpu(), atol=1e-4, rtol=1e-4, equal_nan=True)


@torch.no_grad()
def _expected(live: Any, observations: Any) -> Expected | None:
    """Distribution and value from SB3's own methods; None if these fail."""
    try:
        if hasattr(live, "q_net"):
            return Expected(live.q_net(observations), None, None)
        if hasattr(live, "quantile_net"):
            return Expected(live.quantile_net(observations).mean(1), None, None)
        if hasattr(live, "predict_values"):
            gaussian = live.get_distribution(observations).distribution
            if isinstance(gaussian, torch.distributions.Categorical):
                return Expected(gaussian.logits, None, live.predict_values(observations).squeeze(1))
            return Expected(gaussian.mean, gaussian.stddev, live.predict_values(observations).squeeze(1))
        if not hasattr(live, "critic"):
            return Expected(torch.empty(0), None, None)
        scaled = live._predict(observations, deterministic=True)
        q = live.critic(observations, scaled)
        value = q.mean((1, 2)) if isinstance(q, Tensor) else torch.cat(tuple(q), 1).amin(1)
        if not hasattr(live.actor, "action_dist"):
            return Expected(scaled, None, value)
        mean, log_std, extra = live.actor.get_action_dist_params(observations)
        gaussian = live.actor.action_dist.proba_distribution(mean, log_std, **extra).distribution
        return Expected(gaussian.mean, gaussian.stddev, value)
    except Exception:  # a custom policy may lack or change any of these
        return None
