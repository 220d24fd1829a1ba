"""A run or checkpoint of policykd as a teacher: reads one learner's rows without building the agent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.fields import build
from policykd.core.files import CHECKPOINT
from policykd.core.networks import load_state_tensors, state_tensors
from policykd.core.recurrent import GRU, SequenceNetwork
from policykd.core.registry import OWN, find
from policykd.distillation.teaching_config import taught_config
from policykd.learners import LEARNERS, Learner
from policykd.learners.sequence_actor import with_actor
from policykd.tasks import Evaluation, saved
from policykd.tasks.spaces import ActionScale, DiscreteActions, action_scale, check_spaces, find_task
from policykd.tasks.views import view_of
from policykd.teachers.observation_map import through
from policykd.teachers.policy import Memory, Policy, needs_memory


def read(path: Path, env: Any, device: torch.device) -> Policy:
    """The learner of a checkpoint with the best last evaluation, on the task's full observation.

    Args:
        path: a file that an agent's ``save`` wrote.
        env: the task, if the run was not made from a registered id.
        device: where to compute.

    Raises:
        PolicyKDError: the file is damaged or foreign, or was trained with custom parts.
    """
    with checkpoint.content_errors(path):
        path, loaded = saved.read(path, env)
        return _read(path, loaded, env, device)


def _read(path: Path, loaded: dict[str, Any], env: Any, device: torch.device) -> Policy:
    settings = loaded["settings"]
    config = settings["config"]
    part, history = config.get("student_observations"), config.get("history", 1)
    if isinstance(part, str) and part.startswith(OWN):
        raise PolicyKDError(
            f"teacher: {path} sees its observations through a function: load the agent, and give the agent itself"
        )
    with find_task(settings["env"] if env is None else env).make() as probe:
        scale = action_scale(check_spaces(probe)[1])
        view = view_of("student_observations", probe, part, config.get("observation_groups"), history)
    k, size = _best(loaded), view.input_size
    learner = _learner(settings, (size, scale.size), scale, device)
    own = state_tensors(learner)
    rows = _rows(loaded["learner"], own, k) if own.keys() <= loaded["learner"].keys() else {}
    if not rows or any(row.ndim and row.shape != own[name].shape for name, row in rows.items()):
        raise PolicyKDError(f"teacher: {path} was trained on {settings['env']}, and does not fit another kind of task")
    load_state_tensors(learner, rows)
    source = path.parent if path.name == CHECKPOINT else path
    policy = _policy(learner, str(source), size, scale)
    return with_value_if_learnt(through(policy, view), learner, settings["config"])


def of_agent(agent: Any, device: torch.device) -> Policy:
    """The best learner of a live agent that has no counterpart in SB3, as it is now."""
    config = replace(agent.config, vary={}) if getattr(agent.config, "vary", None) else agent.config  # as in a file
    learner = type(agent.learner).make(
        *agent.sizes, config, [np.random.default_rng(0)], device, *agent.action_scale.bounds
    )
    kept = {name: tensor.to(device) for name, tensor in state_tensors(agent.learner).items()}
    load_state_tensors(learner, _rows(kept, state_tensors(learner), agent.learner_index("best")))
    policy = through(_policy(learner, "a live agent", agent.sizes[0], agent.action_scale), agent.view)
    return with_value_if_learnt(policy, learner, agent.settings["config"])


def with_value_if_learnt(policy: Policy, learner: Any, config: dict[str, Any]) -> Policy:
    """The policy of a learner, without its value if the critic is untrained.

    Critics are untrained in students without RL and in shipped ones before fine-tuning, unless the teacher's values
    were distilled (``distill_value_coef``).
    """
    adam = learner.critic_adam if hasattr(learner, "critic_adam") else learner.adam
    untrained = not adam.steps.any() and not config.get("distill_value_coef")
    return policy.changed(value=None) if untrained else policy


def _best(loaded: dict[str, Any]) -> int:
    evaluations = loaded["evaluations"]
    if not evaluations:
        return 0
    returns, lengths = (np.asarray(evaluations[-1][name]) for name in ("returns", "lengths"))
    return int(Evaluation(returns, lengths).means.argmax())  # a learner that has diverged returns NaN


def _learner(
    settings: dict[str, Any], sizes: tuple[int, int], scale: ActionScale | DiscreteActions, device: torch.device
) -> Learner:
    """A newly initialised learner of the run's backbone."""
    kind: type[Learner] = find("backbone", settings["backbone"], LEARNERS)
    config_type = taught_config(kind.name, kind.config_type) if "teacher" in settings else kind.config_type
    values = {name: value for name, value in settings["config"].items() if name != "vary"}
    generators = [np.random.default_rng(0)]
    return kind.make(*sizes, build(config_type, values), generators, device, *scale.bounds)


def _rows(kept: dict[str, Tensor], own: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Row ``k`` (rows, for critics) of every per-learner tensor; shared tensors, such as bounds, as they are.

    A frozen policy needs no settings that differ between peers; of Adam's steps it needs whether there were any.
    """

    def of(kept: Tensor, one: Tensor) -> Tensor:
        if kept.shape == one.shape:
            return kept
        return kept[k * len(one) : (k + 1) * len(one)] if one.ndim else kept.amax()

    return {name: of(kept[name], one) for name, one in own.items()}


@torch.no_grad()
def _policy(learner: Learner, source: str, size: int, scale: ActionScale | DiscreteActions) -> Policy:
    def gaussian(observations: Tensor) -> tuple[Tensor, Tensor | None]:
        answer = learner.outputs(learner.actor, observations.unsqueeze(0))
        if answer.logits is not None:
            return answer.logits.squeeze(0), None
        mean = answer.actions if answer.mean is None else answer.mean
        return mean.squeeze(0), None if answer.std is None else answer.std.squeeze(0)

    def value(observations: Tensor) -> Tensor:
        inputs = observations.unsqueeze(0)
        return learner.value(inputs, learner.outputs(learner.actor, inputs)).squeeze(0)

    told: dict[str, Any] = {"squashed": learner.gaussian and learner.memory == "replay", "low": scale.bounds[0]}
    told |= {"high": scale.bounds[1]}
    if isinstance(scale, DiscreteActions):
        told = {"scores": "logits", "first": scale.start}
    policy = Policy(source, size, learner.action_size, gaussian, value=value, **told)
    network = getattr(learner, "actor_network", None)
    return policy if not isinstance(network, GRU) else _recurrent(policy, learner, network)


def _recurrent(policy: Policy, learner: Learner, network: GRU) -> Policy:
    """The recurrent policy of a learner with a GRU."""
    sequences = SequenceNetwork(network)
    reader = with_actor(learner, sequences)

    def step(observations: Tensor, memory: Memory | None, starts: Tensor) -> tuple[Tensor, Tensor | None, Memory]:
        hidden = observations.new_zeros(len(observations), network.width) if memory is None else memory[0]
        sequences.set_starts(starts.view(1, 1, -1), hidden.unsqueeze(0))
        answer = reader.outputs(reader.actor, observations.unsqueeze(0))
        mean = next(part for part in (answer.logits, answer.mean, answer.actions) if part is not None)
        return mean.squeeze(0), None if answer.std is None else answer.std.squeeze(0), (sequences.after.squeeze(0),)

    return policy.changed(gaussian=needs_memory(policy.source), step=step, value=None)
