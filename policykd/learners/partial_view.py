"""Peers that see parts of the observation: what a peer does not see has no weight in its networks, and gets none."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.networks import MLP, Network
from policykd.learners.off_policy import OffPolicyLearner


def mask_unseen_inputs(learner: OffPolicyLearner, size: int, columns: Sequence[Sequence[int] | None]) -> None:
    """Take from actors and critics, for good, the weights of observations that their peer does not see.

    Networks keep their inputs, so that peers are one tensor still, answer at each other's states, and are exported as
    any other.

    Args:
        learner: newly initialised.
        size: length O of an observation.
        columns: what each peer of a group sees; None is everything.

    Raises:
        PolicyKDError: the networks are not MLPs.
    """
    peers = len(columns)
    sees = torch.ones(peers, size, dtype=torch.bool)
    for peer, seen in enumerate(columns):
        if seen is not None:
            sees[peer] = torch.isin(torch.arange(size), torch.tensor(list(seen)))
    sees = sees.repeat(len(learner.actor) // peers, 1)
    for name, adam, network, each in (
        ("actor", learner.actor_adam, learner.actor_network, 1),
        ("critic", learner.critic_adam, learner.critic_network, learner.critics),
    ):
        rows = getattr(learner, name)
        adam.mask = _mask(network, rows, sees.repeat_interleave(each, dim=0))
        rows.mul_(adam.mask)
        if (target := getattr(learner, f"{name}_target", None)) is not None:
            target.mul_(adam.mask)


def _mask(network: Network, rows: Tensor, sees: Tensor) -> Tensor:
    """1 for every parameter ``(R, P)`` but the first layer's weights of observations that are not seen ``(R, O)``."""
    if not isinstance(network, MLP):
        raise PolicyKDError("vary: observations needs MLPs, but these networks are custom")
    mask = torch.ones_like(rows)
    network.unpack(mask)[0][0][:, : sees.shape[1]] = sees.to(mask).unsqueeze(2)
    return mask
