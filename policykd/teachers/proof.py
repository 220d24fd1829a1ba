"""Whether a rebuilt policy is the live one, asked on observations: never another policy without a word."""

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
from policykd.tasks.flat import is_laid_out
from policykd.tasks.groups import flatten, unflatten
from policykd.teachers.policy import Policy, to_unit

TOLERANCE = 1e-5
TIE = 1e-6
"""How far a choice may be from the best one, in units of the largest score that was seen."""
ROWS = 32
"""Observations of each size that are asked."""
SIZES = (0.1, 1.0, 10.0)
USUAL = 1 + len(SIZES) * ROWS
"""How many of the observations are of usual size: zeros first, then ``ROWS`` of each of ``SIZES``."""
WIDE = 1000.0
"""How far the others go, within the space's bounds."""
LIBRARIES = ("torch.nn.", "stable_baselines3.", "sb3_contrib.")
"""Modules whose code is known."""
STEPS = 4
"""Steps of an episode that a policy with memory is asked."""


class Truth(NamedTuple):
    """What SB3's own classes say at some inputs; None where they have no such thing."""

    mean: Tensor
    """Means; or logits (of sum 1), or Q-values."""
    std: Tensor | None
    value: Tensor | None


class Asked:
    """The ``predict`` of SB3, asked by flat observations ``(n, O)``, where it may read dicts or boxes of several axes.

    Args:
        predict: of a model or policy.
        space: its observations.
    """

    def __init__(self, predict: Any, space: gym.Space) -> None:
        self.predict, self.space = predict, space if is_laid_out(space) else None
        self.examples = inputs(space)
        """Observations to ask at, ``(n, O)``."""
        if self.space is not None:
            self.examples = flatten(self.space, unflatten(self.space, self.examples))  # one-hot where it must be

    def as_read(self, observations: np.ndarray) -> Any:
        """As it reads them."""
        return observations if self.space is None else unflatten(self.space, observations)

    def __call__(self, observations: np.ndarray, **options: Any) -> Any:
        """What it answers."""
        return self.predict(self.as_read(observations), **options)


def inputs(space: gym.Space) -> np.ndarray:
    """Observations ``(n, O)`` to ask at: ``USUAL`` ones, and as many as ``ROWS`` from all of the space."""
    size, generator = gym.spaces.flatdim(space), np.random.default_rng(0)
    flat = gym.spaces.flatten_space(space)
    assert isinstance(flat, gym.spaces.Box)
    low, high = (np.clip(bound.astype(np.float64), -WIDE, WIDE) for bound in (flat.low, flat.high))
    rows = [np.zeros((1, size))] + [scale * generator.standard_normal((ROWS, size)) for scale in SIZES]
    rows.append(low + generator.random((ROWS, size)) * (high - low))
    return np.concatenate(rows).astype(np.float32)


def own_code(live: nn.Module) -> str | None:
    """The first part of a live policy that acts by code of no library, None where there is none.

    What such code does to some observations can show that a rebuilt policy is another, and not that it is the same.
    """
    for part in live.modules():
        kind = type(part)
        for held in map(type, vars(part).values()):
            if issubclass(held, Distribution) and not is_known(held):  # which is no module
                return held.__name__
        replaced = any(isinstance(getattr(kind, name, None), FunctionType) for name in vars(part))
        if not is_known(kind) or replaced or part._forward_hooks or part._forward_pre_hooks:
            return kind.__name__
    return None


def is_known(code: Any) -> bool:
    """Whether a class or function is of a library."""
    return str(getattr(code, "__module__", "")).startswith(LIBRARIES)


@torch.no_grad()
def acts_alike(policy: Policy, asked: Asked, device: torch.device) -> bool:
    """Whether a policy's deterministic actions are those of SB3's ``predict``, in the task's units."""
    examples = asked.examples
    if policy.step is None:
        mean = policy.gaussian(torch.from_numpy(examples).to(device))[0]
        size = np.abs(examples).max(1).clip(SIZES[-1])[:, None] / SIZES[-1]  # with which rounding grows
        return _same(policy, mean, asked(examples, deterministic=True)[0], size)
    memory, state, examples = None, None, examples[:USUAL]
    starts = np.ones(len(examples), bool)
    for _ in range(STEPS):
        inputs = torch.from_numpy(examples).to(device), memory, torch.from_numpy(starts).to(device)
        mean, _, memory = policy.step(*inputs)
        theirs, state = asked(examples, state=state, episode_start=starts, deterministic=True)
        if not _same(policy, mean, theirs):
            return False
        starts, examples = np.arange(len(examples)) % 5 == 0, examples[::-1].copy()
    return True


@torch.no_grad()
def says_alike(policy: Policy, live: Any, asking: Asked, device: torch.device) -> bool:
    """Whether the distribution and the value, where the live policy has some, are the same, too."""
    examples = asking.examples[:USUAL]
    asked = torch.from_numpy(examples).to(device)
    if policy.step is not None:  # beside actions at several steps it says a value where the critic has no memory
        read = obs_as_tensor(asking.as_read(examples), live.device)
        return policy.value is None or _close(policy.value(asked), live.predict_values(read, None, None).squeeze(1))
    truth = _truth(live, obs_as_tensor(asking.as_read(examples), live.device))
    if truth is None:
        return False
    mean, std = policy.gaussian(asked)
    if policy.scores in ("logits", "q_values"):
        said = mean.log_softmax(-1) if policy.scores == "logits" else mean
        if not _close(said, truth.mean):
            return False
    if truth.std is not None:
        expected = truth.mean, truth.std
        if getattr(policy.network, "in_task_units", False):
            assert policy.low is not None and policy.high is not None
            middle, half = to_unit(policy.low, policy.high, truth.mean.device)
            expected = (truth.mean - middle) / half, truth.std / half
        if std is None or not (_close(mean, expected[0]) and _close(std.expand_as(mean), expected[1])):
            return False
    return truth.value is None or policy.value is None or _close(policy.value(asked), truth.value)


def same_twice(predict: Any, examples: np.ndarray, source: str) -> None:
    """Refuse what answers differently when asked twice, or not at all.

    Raises:
        PolicyKDError: it samples, or remembers, or fails.
    """
    try:
        first, second = (np.asarray(predict(examples, deterministic=True)[0]) for _ in range(2))
    except Exception as error:  # own code may fail in any way, and SB3's does where weights are NaN
        said = "gives actions that are not finite" if "invalid values" in str(error) else "fails in its own predict"
        reason = " ".join(str(error).split())[:100]
        raise PolicyKDError(f"teacher: {source} {said} ({type(error).__name__}: {reason})") from None
    if not np.allclose(first, second, equal_nan=True):
        raise PolicyKDError(
            f"teacher: {source} answers differently when asked twice: it samples or remembers; give one that acts "
            "deterministically by the observation alone"
        )


def _same(policy: Policy, mean: Tensor, theirs: np.ndarray, size: np.ndarray | float = 1.0) -> bool:
    """Whether actions or choices are those of SB3, but for rounding, which grows with ``size (n, 1)``."""
    answer = mean.detach().cpu()
    if policy.scores is not None:  # of actions that are worth the same to a policy, rounding decides
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
def _truth(live: Any, asked: Any) -> Truth | None:
    """Distribution and value by SB3's own methods; None where these fail."""
    try:
        if hasattr(live, "q_net"):
            return Truth(live.q_net(asked), None, None)
        if hasattr(live, "quantile_net"):
            return Truth(live.quantile_net(asked).mean(1), None, None)
        if hasattr(live, "predict_values"):
            gaussian = live.get_distribution(asked).distribution
            if isinstance(gaussian, torch.distributions.Categorical):
                return Truth(gaussian.logits, None, live.predict_values(asked).squeeze(1))
            return Truth(gaussian.mean, gaussian.stddev, live.predict_values(asked).squeeze(1))
        if not hasattr(live, "critic"):
            return Truth(torch.empty(0), None, None)
        scaled = live._predict(asked, deterministic=True)
        q = live.critic(asked, scaled)
        value = q.mean((1, 2)) if isinstance(q, Tensor) else torch.cat(tuple(q), 1).amin(1)
        if not hasattr(live.actor, "action_dist"):
            return Truth(scaled, None, value)
        mean, log_std, extra = live.actor.get_action_dist_params(asked)
        gaussian = live.actor.action_dist.proba_distribution(mean, log_std, **extra).distribution
        return Truth(gaussian.mean, gaussian.stddev, value)
    except Exception:  # a policy of its own may lack or change any of these
        return None
