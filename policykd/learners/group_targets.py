"""Targets that a whole group of peers makes; row k is learner k, and learners of one group are neighbours."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Judge = Callable[[Tensor, Tensor], Tensor]
"""Every learner's own least target critic of observations ``(K, B, O)`` and actions ``(K, B, A)``: ``(K, B)``."""

Propose = Callable[[Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""Every learner's own next actions ``(K, B, A)`` at observations with noise, and their log-probabilities ``(K, B)``."""


def by_all_critics(judge: Judge, observations: Tensor, actions: Tensor, count: int) -> Tensor:
    """The mean of what the critics of each of ``count`` peers say of a learner's own actions, ``(K, B)``."""
    batch = observations.shape[1]
    judged = judge(to_all_peers(observations, count), to_all_peers(actions, count))
    return judged.view(-1, count, count, batch).mean(1).view(-1, batch)


def by_all_actors(
    judge: Judge,
    propose: Propose,
    observations: Tensor,
    noise: Tensor | None,
    temperature: Tensor | None,
    count: int,
    least: float,
) -> Tensor:
    """What a learner's own critics say between the worst and the best action of its group's actors, ``(K, B)``.

    least * min_i v_i + (1 - least) * max_i v_i, where v_i values the action of peer i at the learner's states: the
    target of DARC (Lyu et al. 2022) without its regulariser of critics.

    Args:
        judge: the learners' target critics.
        propose: the learners' policies.
        observations: next observations ``(K, B, O)``.
        noise: the learners' noise there, which all peers share at a state; its second dimension is B.
        temperature: SAC's, ``(K, 1)``.
        count: peers per group.
        least: weight of the worst.
    """
    batch = observations.shape[1]
    actions, log_prob = propose(
        to_all_peers(observations, count), None if noise is None else to_all_peers(noise, count)
    )
    values = judge(observations.repeat(1, count, 1), to_sender(actions, count))
    if log_prob is not None and temperature is not None:
        values = values - temperature * to_sender(log_prob.unsqueeze(-1), count).squeeze(-1)
    proposals = values.view(-1, count, batch)
    return least * proposals.amin(1) + (1 - least) * proposals.amax(1)


def to_all_peers(rows: Tensor, count: int) -> Tensor:
    """What each learner has ``(K, B, W)`` given to all of its group: ``(K, count * B, W)``, learner by learner."""
    whole_group = rows.reshape(-1, count * rows.shape[1], rows.shape[2])
    return whole_group.repeat_interleave(count, dim=0)


def to_sender(answers: Tensor, count: int) -> Tensor:
    """Answers of row i to all of its group ``(K, count * B, W)`` as those of all to row k: same shape, peer by peer."""
    apart = answers.unflatten(1, (count, -1)).unflatten(0, (-1, count))  # (G, who answers, who asks, B, W)
    swapped: Tensor = apart.transpose(1, 2).flatten(0, 1).flatten(1, 2)
    return swapped
