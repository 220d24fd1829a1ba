"""The whole state of an agent as nested plain values and tensors, and back again."""

from __future__ import annotations

import dataclasses
import itertools
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from policykd.core.errors import PolicyKDError
from policykd.core.networks import load_state_tensors, state_tensors
from policykd.core.seeding import generator_state, set_generator_state
from policykd.learners.config import Config
from policykd.tasks import Evaluation
from policykd.tasks.env_state import get_env_state, set_env_state, unsaved_state
from policykd.training.recipes.rollout import RolloutUpdate

if TYPE_CHECKING:
    from policykd.training.agent import Agent

log = logging.getLogger("policykd")


def settings(agent: Agent) -> dict[str, Any]:
    """What makes a run what it is; two runs of equal settings are the same run."""
    return {
        "env": agent.env_id,
        "method": agent.method_name,
        "backbone": agent.backbone,
        "peers": agent.peers,
        "seeds": list(agent.seeds),
        "config": plain(agent.config),
    }


def plain(config: Config) -> dict[str, Any]:
    """A config as JSON reads it back."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(config).items()}


def state(agent: Agent, include_replay: bool) -> dict[str, Any]:
    """Everything an agent is. With the replay come the environments, so that training goes on bit by bit."""
    result: dict[str, Any] = {
        "settings": agent.settings,
        "made_by_id": agent.made_by_id,
        "compile": agent.compile,
        "computed_by": agent.computed_by,
        "num_timesteps": agent.num_timesteps,
        "n_updates": 0 if agent.update is None else agent.update.n_updates,
        "elapsed": agent.elapsed,
        "learner": state_tensors(agent.learner),
        "generators": {name: [generator_state(g) for g in group] for name, group in _generators(agent).items()},
        "evaluation_steps": agent.evaluation_steps,
        "evaluation_seconds": agent.evaluation_seconds,
        "evaluations": [{"returns": e.returns, "lengths": e.lengths} for e in agent.evaluations],
        "episodes": [list(episodes) for episodes in agent.episodes],
        "n_episodes": agent.n_episodes,
        "extra": agent.extra_state(),
    }
    if agent.update is not None and agent.update.distillation is not None:
        result["distillation"] = state_tensors(agent.update.distillation)
    if include_replay:
        envs = agent.get_env()
        result |= {name: memory.state() for name, memory in agent.memories.items()}
        if isinstance(agent.update, RolloutUpdate):
            result["last_update"] = agent.update.info
        result |= {
            "span": list(agent.span),
            "envs": [get_env_state(env) for env in envs.envs],
            "last_observations": agent.last_observations,
            "log_sizes": {} if agent.folder is None else agent.folder.log_sizes(),
        }
    return result


def check_sizes(loaded: dict[str, Any], path: Path) -> None:
    """Refuse settings that ask for larger networks than a file holds, before they are made.

    Raises:
        PolicyKDError: there are more learners, or wider layers, than numbers in the file.
    """
    settings, numbers = loaded["settings"], sum(tensor.numel() for tensor in loaded["learner"].values())
    widths = settings["config"]["net_arch"]
    learners = len(settings["seeds"]) * settings["peers"]
    if learners * max(1, sum(a * b for a, b in itertools.pairwise(widths))) > numbers:
        raise PolicyKDError(f"checkpoint: {path} is damaged: its settings ask for larger networks than it holds")


def restore(agent: Agent, loaded: dict[str, Any]) -> None:
    """Put a saved state into an agent of the same settings."""
    if loaded["computed_by"] != agent.computed_by:
        log.warning("computed by %s before, by %s now: equal up to rounding", loaded["computed_by"], agent.computed_by)
    agent.num_timesteps, agent.elapsed = loaded["num_timesteps"], loaded["elapsed"]
    load_state_tensors(agent.learner, loaded["learner"])
    for name, group in _generators(agent).items():
        for generator, saved in zip(group, loaded["generators"][name], strict=True):
            set_generator_state(generator, saved)
    agent.evaluation_steps = list(loaded["evaluation_steps"])
    agent.evaluation_seconds = list(loaded["evaluation_seconds"])
    agent.evaluations = [Evaluation(e["returns"], e["lengths"]) for e in loaded["evaluations"]]
    for episodes, saved in zip(agent.episodes, loaded["episodes"], strict=True):
        episodes.extend(saved)
    agent.n_episodes = loaded["n_episodes"]
    if loaded["compile"] != "auto":
        update = agent.make_update(loaded["compile"])
        update.n_updates = loaded["n_updates"]
        if update.distillation is not None and "distillation" in loaded:
            load_state_tensors(update.distillation, loaded["distillation"])
    for name, memory in agent.memories.items():
        if name in loaded:
            memory.restore(loaded[name])
    if isinstance(agent.update, RolloutUpdate) and "last_update" in loaded:
        agent.update.info = {key: value.to(agent.device) for key, value in loaded["last_update"].items()}
    if "envs" in loaded:
        agent.span = tuple(loaded["span"])
        agent.resumed = {name: loaded[name] for name in ("envs", "last_observations", "log_sizes")}


def restore_envs(agent: Agent, resumed: dict[str, Any]) -> None:
    """Put the environments back where the checkpoint left them, in the middle of their episodes."""
    assert agent.envs is not None
    if unsaved := unsaved_state(agent.envs.envs[0]):
        log.warning("not exact: %s keeps state that cannot be saved (%s)", agent.env_id, ", ".join(unsaved))
    for env, saved in zip(agent.envs.envs, resumed["envs"], strict=True):
        set_env_state(env, saved)
    agent.last_observations = np.array(resumed["last_observations"], np.float32)
    agent.envs.observations[:] = agent.last_observations


def check_same(agent: Agent, asked: dict[str, Any]) -> None:
    """Refuse to go on with other settings than the run began with.

    Raises:
        PolicyKDError: names every setting that differs, with both values.
    """
    saved = agent.settings
    flat_saved, flat_asked = ({**s, **s["config"], "config": None} for s in (saved, asked))
    changed = [f"{n} was {flat_saved.get(n)!r}, now {v!r}" for n, v in flat_asked.items() if flat_saved.get(n) != v]
    if changed:
        raise PolicyKDError(f"resume: the run was made with other settings: {'; '.join(changed)}")


def _generators(agent: Agent) -> dict[str, list[np.random.Generator]]:
    return {"learner": agent.learner.generators, "exploration": agent.exploration, "replay": agent.sampling}
