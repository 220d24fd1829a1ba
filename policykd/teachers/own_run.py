"""An own run or checkpoint as a teacher: one learner's rows are read, and no agent is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core import checkpoint
from policykd.core.fields import build
from policykd.core.files import CHECKPOINT
from policykd.core.networks import load_state_tensors, state_tensors
from policykd.core.registry import find
from policykd.distillation.teaching_config import TAUGHT_CONFIGS
from policykd.learners import LEARNERS, Learner
from policykd.tasks import saved
from policykd.tasks.spaces import ActionScale, Choices, action_scale, check_spaces, find_task
from policykd.teachers.policy import Policy, seen_through


def read(path: Path, env: Any, device: torch.device) -> Policy:
    """The learner with the best last evaluation of a checkpoint, on the whole observation of the task.

    Args:
        path: a file that an agent's ``save`` wrote.
        env: the task, where the run was not made from a registered id.
        device: where to compute.

    Raises:
        PolicyKDError: the file is damaged or foreign, or was trained with parts of the user's own.
    """
    with checkpoint.understood(path):
        path, loaded = saved.read(path, env)
        return _read(path, loaded, env, device)


def _read(path: Path, loaded: dict[str, Any], env: Any, device: torch.device) -> Policy:
    settings = loaded["settings"]
    probe = find_task(settings["env"] if env is None else env).make()
    observation_space, action_space = check_spaces(probe)
    probe.close()
    columns = settings["config"].get("student_observations")
    k = _best(loaded)
    size = observation_space.shape[0] if columns is None else len(columns)
    scale = action_scale(action_space)
    learner = _learner(settings, (size, scale.size), scale, device)
    load_state_tensors(learner, _rows(loaded["learner"], state_tensors(learner), k))
    source = path.parent if path.name == CHECKPOINT else path
    policy = _policy(learner, str(source), size, scale)
    if columns is None:
        return policy
    chosen = torch.tensor(columns, device=device)
    return seen_through(policy, lambda observations: observations[..., chosen]).changed(
        observation_size=observation_space.shape[0]
    )


def _best(loaded: dict[str, Any]) -> int:
    evaluations = loaded["evaluations"]
    return int(np.asarray(evaluations[-1]["returns"]).mean(1).argmax()) if evaluations else 0


def _learner(
    settings: dict[str, Any], sizes: tuple[int, int], scale: ActionScale | Choices, device: torch.device
) -> Learner:
    """One learner of the run's kind, its parameters drawn anew."""
    kind: type[Learner] = find("backbone", settings["backbone"], LEARNERS)
    config_type = TAUGHT_CONFIGS[settings["backbone"]] if "teacher" in settings else kind.config_type
    values = {name: value for name, value in settings["config"].items() if name != "vary"}
    generators = [np.random.default_rng(0)]
    return kind.make(*sizes, build(config_type, values), generators, device, *scale.bounds)


def _rows(kept: dict[str, Tensor], own: dict[str, Tensor], k: int) -> dict[str, Tensor]:
    """Row ``k`` (of critics, rows) of every tensor that has learners; what all share, such as bounds, as it is.

    Settings that differ between peers are tensors, too: a policy that only acts has none and needs none.
    """
    return {
        name: kept[name] if kept[name].shape == one.shape else kept[name][k * len(one) : (k + 1) * len(one)]
        for name, one in own.items()
    }


@torch.no_grad()
def _policy(learner: Learner, source: str, size: int, scale: ActionScale | Choices) -> Policy:
    def gaussian(observations: Tensor) -> tuple[Tensor, Tensor | None]:
        answer = learner.outputs(learner.actor, observations.unsqueeze(0))
        if answer.logits is not None:
            return answer.logits.squeeze(0), None
        mean = answer.actions if answer.mean is None else answer.mean
        return mean.squeeze(0), None if answer.std is None else answer.std.squeeze(0)

    def value(observations: Tensor) -> Tensor:
        inputs = observations.unsqueeze(0)
        return learner.value(inputs, learner.outputs(learner.actor, inputs)).squeeze(0)

    if isinstance(scale, Choices):
        return Policy(source, size, scale.size, gaussian, "logits", value=value, first=scale.start)
    return Policy(
        source,
        size,
        learner.action_size,
        gaussian,
        squashed=learner.gaussian and learner.memory == "replay",
        value=value,
        low=scale.low,
        high=scale.high,
    )
