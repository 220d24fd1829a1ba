"""What a frozen teacher says, in the units of its student; and the losses and rewards that are made of it."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from policykd.core.networks import PolicyOutput

STD_FLOOR = 0.05
"""Least standard deviation of a squashed teacher in the units of an unsquashed student: where tanh saturates, that of
its actions goes to 0, and no Gaussian can follow."""
INSIDE = 0.999
"""Actions of an unsquashed teacher come this far within -1 and 1, where the inverse of tanh is finite."""
SURE = 20.0
"""Logit of an expert's choice above the others, so that the KL from it is the negative log-likelihood of the choice."""


class Labels(NamedTuple):
    """A teacher's answers at B states of each of K learners."""

    policy: PolicyOutput
    """Actions, and the Gaussian in the student's units, without std of no meaning but the actions; or logits."""
    value: Tensor
    """Values ``(K, B)`` in the task's units of reward; 0 where the teacher has none."""

    @staticmethod
    def width(action_size: int, discrete: bool = False) -> int:
        """Length W of one packed answer; ``discrete`` where one of A actions is chosen."""
        return action_size + 1 if discrete else 3 * action_size + 1

    def pack(self) -> Tensor:
        """All of it as ``(K, B, W)``."""
        actions, mean, std, logits = self.policy
        if logits is not None:
            return torch.cat((logits, self.value.unsqueeze(-1)), dim=-1)
        assert mean is not None and std is not None
        return torch.cat((actions, mean, std, self.value.unsqueeze(-1)), dim=-1)

    @staticmethod
    def unpack(packed: Tensor, discrete: bool = False) -> Labels:
        """The answers in ``(K, B, W)``; ``discrete`` as in ``width``."""
        if discrete:
            return Labels(PolicyOutput.categorical(packed[..., :-1]), packed[..., -1])
        size = (packed.shape[-1] - 1) // 3
        actions, mean, std, value = packed.split([size, size, size, 1], dim=-1)
        return Labels(PolicyOutput(actions, mean, std), value.squeeze(-1))

    @staticmethod
    def of_actions(actions: Tensor, discrete: bool, std: float, squashed: bool = False) -> Labels:
        """Actions ``(..., A)`` as learners hold them, as answers of an expert of this deviation and without a value.

        ``squashed`` where students' Gaussians are before tanh (SAC).
        """
        gaussian = actions, torch.full_like(actions, std)
        if discrete:
            policy = PolicyOutput.categorical(SURE * actions)
        else:
            policy = PolicyOutput(actions, *(unsquashed_gaussian(*gaussian) if squashed else gaussian))
        return Labels(policy, torch.zeros_like(actions[..., 0]))

    def log_prob(self, actions: Tensor) -> Tensor:
        """How likely the teacher finds actions ``(K, B, A)``, in its student's units or choices: ``(K, B)``."""
        policy = self.policy
        if policy.logits is not None:
            return (policy.logits.log_softmax(-1) * actions).sum(-1)
        assert policy.mean is not None and policy.std is not None
        return torch.distributions.Normal(policy.mean, policy.std, validate_args=False).log_prob(actions).sum(-1)


def squashed_gaussian(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of tanh(u), u ~ N(mean, std), to first order in ``std`` (the delta method).

    For a student whose Gaussian is over actions, of a teacher whose Gaussian is before tanh (SAC, TQC).
    """
    actions = mean.tanh()
    return actions, (std * (1 - actions.square())).clamp_min(STD_FLOOR)


def unsquashed_gaussian(mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation before tanh of an action ~ N(mean, std).

    For a student whose Gaussian is before tanh (SAC), of a teacher whose Gaussian is over actions (PPO). After tanh the
    median is the action and the deviation at most ``std``. To first order the deviation before tanh is
    d = std / (1 - mean^2), which grows without limit near a bound: tanh of so wide a Gaussian lies at both. There
    1 - |tanh(u)| is log-normal, though, and its deviation can be solved for. The curvature of tanh leads from the one
    to the other, so that the result is right to second order everywhere.
    """
    inside = mean.clamp(-INSIDE, INSIDE)
    # 1 at the bounds; below 0, in the middle, the first order errs on the safe side.
    curvature = ((4 * inside.square() - 1) / 3).clamp_min(1e-3)
    x = 16 * curvature * (std / (1 - inside.square())).square()
    return inside.atanh(), ((x / (2 + 2 * (1 + x).sqrt())).log1p() / (4 * curvature)).sqrt()


def proximal_weight(ratio: Tensor, clip_range: Tensor | float) -> Tensor:
    """PPD's max(pi(a | s) / pi_k(a | s), 1 - eps) of each step, ``(K, B)`` (Spigler 2025, equation 3)."""
    return ratio.clamp_min(1 - clip_range)


def confidence(distance: Tensor, alpha: float) -> Tensor:
    """ADVISOR's weight exp(-alpha d) of imitation, ``(K, B)`` in (0, 1] (Weihs et al. 2021, section 3.2).

    In the paper d is 0 between equals, its code takes the cross-entropy with the teacher's choice. Here it is the KL
    divergence of choices, and of Gaussians the squared distance of their actions (``JointTeaching.imitate``).

    Args:
        distance: d >= 0 of an imitator, which learns from the teacher alone, from the teacher, ``(K, B)``.
        alpha: 0 imitates everywhere; large imitates only where the imitator hardly errs.
    """
    return (-alpha * distance.detach()).exp()


def from_next(values: Tensor, last: Tensor, dones: Tensor) -> Tensor:
    """Rewards of what comes after each step: x_{t+1}, and 0 where the episode ended, ``(K, T, N)``.

    N-distill (Czarnecki et al. 2019) pays x = -distance from the teacher at the next state.

    Args:
        values: x of the states of a rollout ``(K, T, N)``.
        last: x of the states after it ``(K, N)``.
        dones: 1 where the episode ended after the step, ``(K, T, N)``; so also where a time limit cut it.
    """
    return torch.cat((values[:, 1:], last.unsqueeze(1)), dim=1) * (1 - dones)


def shaping(values: Tensor, next_values: Tensor, gamma: float) -> Tensor:
    """Potential-based reward gamma V_T(s') - V_T(s) of each step, ``(K, T, N)`` (Ng et al. 1999).

    With gamma = 1 it is Czarnecki's Teacher V reward; only PPO's own gamma leaves the best policies as they are.
    """
    return gamma * next_values - values
