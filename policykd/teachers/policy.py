"""The common form of all teachers: a policy on raw observations, whatever file or object it came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.tasks.groups import OwnSpace
from policykd.teachers.vecnormalize import Normaliser

Memory = tuple[Any, ...]
"""Hidden state of a policy in B episodes: tensors ``(layers, B, H)``, one column per environment; or B controllers,
one per environment."""


Scores = Literal["logits", "q_values", "choice"]
"""Logits; Q-values in the task's units of reward; or a one-hot vector of the action."""


class Recorded(NamedTuple):
    """A return recorded in a teacher's folder."""

    mean: float
    file: str


@dataclass(frozen=True)
class Policy:
    """A frozen policy on raw observations, with its normaliser inside if it has one."""

    source: str
    """Name of its file or object."""
    observation_size: int | None
    """Length O of an observation; None if only the task tells."""
    action_size: int
    """Length A of an action."""
    gaussian: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    """Raw observations ``(B, O)`` to means ``(B, A)`` and standard deviations ``(B, A)`` or None, in [-1, 1] units and
    before tanh if ``squashed``; for discrete actions to its ``scores`` and None."""
    scores: Scores | None = None
    """What the output of a policy with discrete actions is; None if actions are continuous."""
    squashed: bool = False
    """Whether an action is tanh of the Gaussian (SAC, TQC)."""
    value: Callable[[Tensor], Tensor] | None = None
    """Raw observations ``(B, O)`` to values ``(B,)`` in the task's units of reward."""
    low: np.ndarray | None = None
    """Smallest action ``(A,)`` of the task it was trained on, if known and actions are continuous."""
    high: np.ndarray | None = None
    """Largest action ``(A,)``."""
    first: int = 0
    """Index of the first discrete action."""
    network: nn.Module | None = None
    """Module with its parameters, if torch can see them."""
    missing_normaliser: bool = False
    """Whether it was trained on normalised observations and the statistics are missing."""
    step: Callable[[Tensor, Memory | None, Tensor], tuple[Tensor, Tensor | None, Memory]] | None = None
    """For a policy with memory: observations ``(B, O)``, memory (None at first) and whether an episode starts ``(B,)``
    to mean, standard deviation and memory. ``gaussian`` then raises."""
    keep: Callable[[Memory], Any] | None = None
    """Converts a memory that is not tensors to tensors, arrays and plain values, for a checkpoint."""
    restore: Callable[[Any], Memory] | None = None
    """Inverse of ``keep``."""
    normalisers: tuple[Normaliser, ...] = ()
    """Normalisers it applies to observations, in order."""
    space: OwnSpace | None = None
    """Its observation space, if that is a dict or a box of several axes, which it reads flat (``tasks.groups``)."""
    groups: tuple[str, ...] = ()
    """Names of the groups of its observation, in the order in which it reads them."""
    answer: Callable[[Tensor], Tensor] | None = None
    """Output of a program at raw observations ``(B, O)``, in the task's units before clipping: ``(B, A)``."""
    recorded: Recorded | None = None
    """Its return after training, if recorded in its folder."""

    def changed(self, **changes: object) -> Policy:
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def normalised(policy: Policy, normalisers: Sequence[Normaliser], device: torch.device) -> Policy:
    """The policy with its ``VecNormalize`` wrappers, innermost first: takes raw observations, returns unscaled values.

    Raises:
        PolicyKDError: the statistics do not fit the policy's observations.
    """
    chain = tuple(normaliser.to(device) for normaliser in normalisers)
    for normaliser in chain:
        size = None if normaliser.mean is None else len(normaliser.mean)
        if size is not None and policy.observation_size is not None and size != policy.observation_size:
            frames, left = divmod(policy.observation_size, size)
            stacked = f", or {frames} are stacked after it (VecFrameStack): then give the live model in its environment"
            raise PolicyKDError(
                f"teacher: {policy.source} reads {policy.observation_size} observations and its VecNormalize has "
                f"statistics of {size}: they are from different runs" + ("" if left or not frames else stacked)
            )
        if normaliser.groups and policy.groups and normaliser.groups != policy.groups:
            raise PolicyKDError(
                f"teacher: {policy.source} reads {', '.join(policy.groups)} and its VecNormalize has "
                f"{', '.join(normaliser.groups)}; it must have all of them in that order: give a function"
            )
    reward_std = float(np.prod([normaliser.reward_std for normaliser in chain]))

    def look(observations: Tensor) -> Tensor:
        for normaliser in chain:
            observations = normaliser(observations)
        return observations

    return preprocessed(policy, look, reward_std).changed(normalisers=chain) if chain else policy


def preprocessed(policy: Policy, look: Callable[[Tensor], Tensor], scale: float = 1.0) -> Policy:
    """The policy applied to ``look(observations)``, with its values times ``scale``."""
    step, value, answer = policy.step, policy.value, policy.answer
    return policy.changed(
        gaussian=lambda observations: policy.gaussian(look(observations)),
        step=None if step is None else lambda observations, *memory: step(look(observations), *memory),
        value=None if value is None else lambda observations: value(look(observations)) * scale,
        answer=None if answer is None else lambda observations: answer(look(observations)),
    )


def needs_memory(source: str) -> Callable[[Tensor], tuple[Tensor, Tensor | None]]:
    """The ``gaussian`` of a policy with memory, which raises.

    Args:
        source: the policy, for the error.
    """

    def gaussian(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        raise PolicyKDError(
            f"teacher: {source} has memory, so it cannot label single states: use "
            "predict(observation, state=..., episode_start=...), score(...) or TeacherStudent"
        )

    return gaussian


def as_state(memory: Memory) -> tuple[Any, ...]:
    """A memory as the state that SB3's ``predict`` returns: NumPy arrays; objects as they are."""
    return tuple(part.cpu().numpy() if isinstance(part, Tensor) else part for part in memory)


def of_state(state: Sequence[Any], device: torch.device) -> Memory:
    """The memory of a state passed to ``predict``."""
    return tuple(torch.as_tensor(part, device=device) if isinstance(part, np.ndarray) else part for part in state)


def freeze(network: nn.Module) -> nn.Module:
    """Freeze a network: no gradients, no dropout, no updates of running statistics."""
    for parameter in network.parameters():  # a TorchScript module has no requires_grad_ of its own
        parameter.requires_grad_(False)
    return network.eval()


Bounds = tuple[np.ndarray, np.ndarray]
"""Smallest and largest action ``(A,)``."""


def to_unit(low: np.ndarray, high: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Midpoint and half range ``(A,)`` that scale actions of a task to [-1, 1]."""
    if (high < low).any():
        raise PolicyKDError(f"teacher: action bounds {low} to {high} are empty")
    half = np.where(high > low, (high - low) / 2, 1)  # an action of one value is 0 in [-1, 1]
    return tuple(torch.from_numpy(part.astype(np.float32)).to(device) for part in ((high + low) / 2, half))  # type: ignore[return-value]
