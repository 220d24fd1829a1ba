"""Settings as plain values, and the parts of a checkpoint that need more than their own ``state`` and ``restore``."""

from __future__ import annotations

import logging
from collections import ChainMap
from collections.abc import Mapping
from typing import Any

import numpy as np

from policykd.core import registry
from policykd.core.arrays import Array
from policykd.core.checkpoint import content_errors
from policykd.core.errors import PolicyKDError, differences
from policykd.core.registry import OWN
from policykd.core.seeding import generator_state, set_generator_state
from policykd.distillation.divergences import DIVERGENCES, TEACHER_DIVERGENCES
from policykd.distillation.schedules import SCHEDULES
from policykd.learners.config import Config
from policykd.learners.settings import NETWORKS
from policykd.memory import Rollout, SharedReplay
from policykd.tasks.batched import BatchedEnvs
from policykd.tasks.env_state import get_env_state, set_env_state, unsaved_state
from policykd.tasks.vector import LearnerEnvs

log = logging.getLogger("policykd")
Streams = dict[str, list[np.random.Generator]]


TABLES: dict[str, Mapping[str, Any]] = {
    "divergence": ChainMap(TEACHER_DIVERGENCES, DIVERGENCES),
    "distill_schedule": SCHEDULES,
    "network": NETWORKS,
    "critic_network": NETWORKS,
}
"""The parts that settings refer to by name."""


def plain(config: Config) -> dict[str, Any]:
    """A config as plain values (``registry.plain``)."""
    return registry.plain(config, TABLES)


def with_own_parts(saved: dict[str, Any], handed_in: dict[str, Any] | None) -> dict[str, Any]:
    """A saved config with the user's own functions put back in.

    Raises:
        PolicyKDError: the run was made with own functions that are not handed in, or others are.
    """
    own = {name: value.removeprefix(OWN) for name, value in saved.items() if str(value).startswith(OWN)}
    parts = handed_in or {}
    if missing := [f"{name} ({called})" for name, called in own.items() if name not in parts]:
        raise PolicyKDError(f"load: the run was made with custom parts: pass config={{...}} with {', '.join(missing)}")
    if other := [name for name in parts if name not in own]:
        raise PolicyKDError(f"load: {', '.join(other)} of the run is saved with it: pass its custom parts only")
    return {**saved, **parts}


def streams_state(streams: Streams) -> dict[str, Any]:
    """All random generators."""
    return {name: [generator_state(g) for g in generators] for name, generators in streams.items()}


def restore_streams(streams: Streams, saved: dict[str, Any]) -> None:
    """Put all random generators back."""
    for name, generators in streams.items():
        for generator, state in zip(generators, saved[name], strict=True):
            set_generator_state(generator, state)


def envs_state(envs: LearnerEnvs | BatchedEnvs) -> Any:
    """The state of the environments, in mid-episode."""
    return envs.state() if isinstance(envs, BatchedEnvs) else [get_env_state(env) for env in envs.envs]


def restore_envs(
    envs: LearnerEnvs | BatchedEnvs, saved: Any, observations: Any, env_id: str, seeds: list[int]
) -> tuple[Array, bool]:
    """Put the environments back where the checkpoint left them; returns their observations ``(E, O)``, and if new ones.

    Environments that keep state elsewhere begin new episodes, from ``seeds``.
    """
    first = envs.start(seeds)  # before the question what they keep: some make their simulator in reset
    unsaved = envs.unsaved() if isinstance(envs, BatchedEnvs) else unsaved_state(envs.envs[0])
    if unsaved:
        log.warning(
            "not exact: %s keeps state that cannot be saved (%s): new episodes begin", env_id, ", ".join(unsaved)
        )
        return first, True
    if isinstance(envs, BatchedEnvs):
        return envs.restore(saved, observations), False
    with content_errors(f"the state of {env_id}"):
        for env, state in zip(envs.envs, saved, strict=True):
            set_env_state(env, state)
        envs.observations[:] = np.array(observations, np.float32)
    return envs.observations.copy(), False


def cut(memories: Mapping[str, Any], *scaling: Any) -> None:
    """End the running episodes in memories and reward scaling, because the environments start new ones.

    Args:
        memories: of the learners.
        scaling: learners and their teaching, some of which scale rewards by the returns of running episodes.
    """
    for memory in memories.values():
        if isinstance(memory, SharedReplay | Rollout):
            memory.cut()
    for part in scaling:
        if (returns := getattr(part, "discounted_rewards", None)) is not None:
            returns.zero_()


def check_same(saved: dict[str, Any], asked: dict[str, Any]) -> None:
    """Raise if a run is resumed with different settings.

    Raises:
        PolicyKDError: names every setting that differs, with both values.
    """
    if changed := changes(saved, asked):
        raise PolicyKDError(f"resume: the run was made with other settings: {changed}")


def changes(saved: dict[str, Any], asked: dict[str, Any], *free: str) -> str:
    """What differs in two runs' settings but for ``free``, those of their ``config`` one by one; empty if nothing."""
    was, now = ({**one, **(one.get("config") or {}), "config": None, **dict.fromkeys(free)} for one in (saved, asked))
    return differences(was, now, now)
