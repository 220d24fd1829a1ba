"""Checks that method, backbone and settings of peers fit; each raises a one-line error."""

from __future__ import annotations

import logging

from policykd.core.errors import PolicyKDError, plural
from policykd.core.fields import as_int, require
from policykd.core.registry import find
from policykd.distillation.divergences import divergence_of
from policykd.distillation.methods import PeerMethod
from policykd.distillation.schedules import schedule_of
from policykd.learners import Learner
from policykd.learners.config import Config, OffPolicyConfig, SACConfig
from policykd.learners.settings import NETWORKS
from policykd.tasks.spaces import EnvFactory
from policykd.tasks.views import View, view_of
from policykd.training.progress import KEPT_EPISODES

MOST_PEERS = 1_000
log = logging.getLogger("policykd")


def check_peers(method: PeerMethod, peers: int) -> int:
    """The number of learners per group, where the method can work with so many."""
    least = 2 if method.source is not None else 1
    number = as_int(peers)
    if number is None or number < least:
        broken = ", not an integer" if number is None else ""
        raise PolicyKDError(f"peers: {method.name} needs at least {least} learners per group, got {peers!r}{broken}")
    if number > MOST_PEERS:
        raise PolicyKDError(f"peers: a group holds at most {MOST_PEERS:,} learners, got {number:,}")
    return number


def views_of_peers(config: Config, make: EnvFactory) -> list[View]:
    """What each peer of a group sees, where peers vary in it; else none, and the task is not made.

    Raises:
        PolicyKDError: the task has no such columns or groups.
    """
    parts = getattr(config, "vary", {}).get("observations")
    if parts is None:
        return []
    with make() as probe:
        views = [view_of("vary.observations", probe, None if part == "all" else part) for part in parts]
    return views


def check_method(method: PeerMethod, learner: type[Learner], config: Config, peers: int, discrete: bool) -> None:
    """Refuse a method that a backbone cannot run, or settings that name no part or contradict it, group or actions."""
    divergence_of(config.divergence)
    schedule_of(config.distill_schedule)
    for setting in ("network", "critic_network"):
        if (made_by := getattr(config, setting)) is not None:
            find(setting, made_by, NETWORKS)
    if config.temperature != 1 and not discrete:
        raise PolicyKDError(
            f"temperature: {config.temperature} softens logits, but continuous actions have none: leave it 1"
        )
    if isinstance(config, OffPolicyConfig):
        _check_group(method, config, peers)
        _check_vary(method, config, peers)
    if learner.memory != "replay":
        _check_rollouts(method, learner)
    elif method.coupling == "joint" and (steps := config.distill_gradient_steps) != 1:
        log.warning("distill_gradient_steps=%s has no effect: %s distils within the RL step", steps, method.name)


def _check_group(method: PeerMethod, config: OffPolicyConfig, peers: int) -> None:
    """Refuse to choose who acts, or to let learners begin anew, where peers have no replay in common."""
    name, pooled, best = method.name, method.replay == "pooled", config.allocation == "best"
    if best and not pooled:
        raise PolicyKDError(
            f"allocation: best needs a pooled replay; {name} has none, so peers that do not act would learn nothing: "
            "use a method such as mutual_shared"
        )
    if best and method.acting == "advised":
        raise PolicyKDError(
            f"allocation: best picks one peer to act, but in {name} all peers propose actions: use one or the other"
        )
    if config.rebirth_freq and not pooled:
        advice = "use a method such as mutual_shared"
        raise PolicyKDError(f"rebirth_freq: needs a pooled replay to teach from; {name} has none: {advice}")
    rule = f"must be at most {KEPT_EPISODES}, the number of returns kept per peer"
    require(config.allocation_episodes <= KEPT_EPISODES, "allocation_episodes", config.allocation_episodes, rule)
    for setting, asked in (("allocation=best", best), (f"rebirth_freq={config.rebirth_freq}", config.rebirth_freq)):
        if asked and peers == 1:
            log.warning("%s has no effect: the group has only 1 peer", setting)


def _check_vary(method: PeerMethod, config: OffPolicyConfig, peers: int) -> None:
    """Refuse settings of their own that are not one for each peer, or that the method cannot compare."""
    for setting, values in config.vary.items():
        if len(values) != peers:
            raise PolicyKDError(
                f"vary: {setting} has {plural(len(values), 'value')} for {plural(peers, 'peer')}: give one each"
            )
    if "gamma" in config.vary:
        _check_discounts(method)
    if "target_entropy" in config.vary and isinstance(config, SACConfig) and not config.learns_ent_coef:
        log.warning("vary.target_entropy has no effect: ent_coef=%s is fixed", config.ent_coef)
    if "distill_learning_rate" in config.vary and (method.source is None or method.coupling == "joint"):
        log.warning("vary.distill_learning_rate has no effect: %s has no separate distillation step", method.name)


def _check_rollouts(method: PeerMethod, learner: type[Learner]) -> None:
    """Refuse a method that needs a replay, or critics Q(s, a), of a learner that has neither."""
    if method.replay == "pooled":
        raise PolicyKDError(
            f"method: {method.name} pools the replays of a group, but {learner.name} does not use a replay"
        )
    if method.states == "pooled":
        raise PolicyKDError(f"method: {method.name} distils on states of the whole group, but rollouts are not shared")
    if method.copies == "policy and critics":
        raise PolicyKDError(f"method: {method.name} copies critics Q(s, a), but {learner.name} has none")
    if method.compares == "actions" or method.target != "own" or method.acting == "advised":
        raise PolicyKDError(f"method: {method.name} needs critics Q(s, a), but {learner.name} has none")
    if method.coupling == "joint" or method.source == "best":
        raise PolicyKDError(f"method: {method.name} learns from a replay, but {learner.name} from rollouts")


def _check_discounts(method: PeerMethod) -> None:
    """Refuse methods that take a value of one discount for one of another, where peers vary in gamma.

    A reward of 1 for ever is worth 2 at gamma 0.5 and 20 at 0.95. Values may be compared, brought to one discount
    (``weights.by_values``), and actions: every critic then judges both by its own.
    """
    if method.target == "group":
        what = "computes targets from the critics of the whole group"
    elif method.copies == "policy and critics":
        what = "copies critics"
    else:
        return
    reason = "critics of different discounts are not comparable"
    raise PolicyKDError(f"vary.gamma: {method.name} {what}, and {reason}: vary another setting, or use mutual_shared")
