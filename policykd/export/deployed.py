"""A learner as a plain torch module."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.core.networks import MLP
from policykd.core.normaliser import CLIP
from policykd.core.recurrent import GRU
from policykd.export.equivalence import as_act, check, from_learner_inputs
from policykd.export.exportable import Exportable, Inputs
from policykd.learners import PPO, Learner, OffPolicyLearner
from policykd.tasks.spaces import ActionScale, DiscreteActions

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "elu": nn.ELU}
Statistics = tuple[Tensor, Tensor]
"""Mean and standard deviation ``(I,)``."""


class DeployedPolicy(nn.Module):
    """Raw observations ``(B, O)`` to actions ``(B, A)`` in the task's units: normalise, MLP, squash, scale, clip.

    Discrete actions are indices ``(B,)``, int64: normalise, MLP, argmax.

    Args:
        network: the learner's policy network.
        row: its parameters ``(P,)``.
        actions: scale of the task's actions.
        squash: whether actions are tanh of the network, scaled to the task's bounds; otherwise its outputs are in the
            task's units.
        statistics: mean and standard deviation ``(I,)`` of the inputs in float64, if these are normalised.
        columns: columns of the observation to read; None reads all.
    """

    low: Tensor
    high: Tensor
    middle: Tensor
    half_range: Tensor
    observation_mean: Tensor
    observation_std: Tensor

    def __init__(
        self,
        network: MLP,
        row: Tensor,
        actions: ActionScale | DiscreteActions,
        squash: bool,
        statistics: Statistics | None = None,
        columns: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.columns = None if columns is None else list(columns)
        self.choices = actions if isinstance(actions, DiscreteActions) else None
        layers: list[nn.Module] = []
        for weight, bias, *norm in network.unpack(row.detach().cpu().unsqueeze(0)):
            layer = nn.Linear(weight.shape[1], weight.shape[2])
            layer.weight, layer.bias = nn.Parameter(weight[0].t().contiguous()), nn.Parameter(bias[0, 0].clone())
            layers.append(layer)
            if norm:
                layers.append(nn.LayerNorm(weight.shape[2]))
                layers[-1].weight, layers[-1].bias = (nn.Parameter(part[0, 0].clone()) for part in norm)
            layers.append(ACTIVATIONS[network.activation]())
        last = layers[-2]
        assert isinstance(last, nn.Linear)
        last.weight = nn.Parameter(last.weight[: actions.size])  # the second half of SAC's outputs is log_std
        last.bias = nn.Parameter(last.bias[: actions.size])
        last.out_features = actions.size
        self.network = nn.Sequential(*layers[:-1])
        self.squash, self.normalises = squash, statistics is not None
        if statistics is not None:
            self.register_buffer("observation_mean", statistics[0].clone())
            self.register_buffer("observation_std", statistics[1].clone())
        if isinstance(actions, ActionScale):
            low, high = (torch.from_numpy(bound) for bound in _within(actions))
            self.register_buffer("low", low)
            self.register_buffer("high", high)
            self.register_buffer("middle", (high + low) / 2)
            self.register_buffer("half_range", (high - low) / 2)
        self.requires_grad_(False).eval()

    def forward(self, observations: Tensor) -> Tensor:
        """Deterministic actions ``(B, A)``, or discrete ones ``(B,)``, at raw observations ``(B, O)``."""
        inputs = observations if self.columns is None else observations[:, self.columns]
        return self.act(self.network(self.normalise(inputs)))

    def normalise(self, inputs: Tensor) -> Tensor:
        """Normalise inputs ``(B, I)`` for the network."""
        if not self.normalises:
            return inputs
        deviations = (inputs.double() - self.observation_mean) / self.observation_std  # as in training
        return deviations.clamp(-CLIP, CLIP).float()

    def act(self, outputs: Tensor) -> Tensor:
        """Actions ``(B, A)``, or discrete ones ``(B,)``, from the network's outputs."""
        if self.choices is not None:
            return outputs.argmax(-1) + self.choices.start
        if self.squash:
            outputs = outputs.tanh() * self.half_range + self.middle
        return torch.minimum(torch.maximum(outputs, self.low), self.high)


def deploy(agent: Exportable, k: int, inputs: Inputs = "own") -> DeployedPolicy:
    """Learner ``k`` of an agent as a module on the CPU, including its normaliser and action scale.

    Args:
        agent: the agent.
        k: index of the learner.
        inputs: whether it reads the learner's own part of the observation, or the task's full one.

    Raises:
        PolicyKDError: the module does not act like the learner, or cannot read full observations.
    """
    learner, view = agent.learner, agent.view
    network = getattr(learner, "actor_network", None)
    if isinstance(network, GRU):
        raise PolicyKDError(
            "export: students with gru leave as onnx, torchscript and c, also in int8, which carry their state"
        )
    if not isinstance(network, MLP) or not isinstance(learner, OffPolicyLearner | PPO):
        raise PolicyKDError(f"export: {agent.backbone} with a network of its own: only MLPs can be exported")
    agent.check_finite("export", k)
    row, statistics = learner.actor[k, : network.parameter_count], normaliser(learner, k)
    picks = inputs == "full" and not (view.is_full and view.history == 1)
    if picks and (view.columns is None or view.history > 1):
        what = "a history" if view.history > 1 else "a function of the observation"
        raise PolicyKDError(
            f"export: this student sees {what}: use inputs=own, or onnx, torchscript or c for a history"
        )
    columns = view.columns if picks else None
    policy = DeployedPolicy(network, row, agent.action_scale, squashes(learner), statistics, columns)
    check(agent, k, from_learner_inputs(agent, inputs, as_act(policy)), "the torch module")
    return policy


def _within(scale: ActionScale) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest action ``(A,)`` in float32, within the task's bounds even if these are float64."""
    low, high = scale.bounds
    up, down = np.nextafter(low, np.float32(np.inf)), np.nextafter(high, np.float32(-np.inf))
    least, most = np.where(low < scale.low, up, low), np.where(high > scale.high, down, high)
    moves = least <= most  # else no float32 is between them
    return np.where(moves, least, low), np.where(moves, most, high)


def squashes(learner: Learner) -> bool:
    """Whether actions are tanh of the network's outputs; otherwise these are in the task's units."""
    return not isinstance(learner, PPO)


def normaliser(learner: Learner, k: int) -> Statistics | None:
    """Mean and standard deviation ``(I,)`` of learner k's inputs; None if it does not normalise them."""
    if not isinstance(learner, PPO) or not learner.config.normalize_observation:
        return None
    return learner.observation_stats.mean[k].cpu(), learner.observation_stats.std[k].cpu()


def description(agent: Exportable, inputs: Inputs) -> str:
    """The description stored in a file, as JSON: with it ``Teacher.load`` needs no task."""
    scale = agent.action_scale
    if isinstance(scale, DiscreteActions):
        actions: dict[str, Any] = {"choices": scale.size, "first": scale.start}
    else:
        actions = {"low": scale.low.tolist(), "high": scale.high.tolist()}
    return json.dumps({"task": agent.env_id, "observation_size": input_size(agent, inputs), **actions})


def input_size(agent: Exportable, inputs: Inputs) -> int:
    """Input length of a file without state."""
    return agent.view.size if inputs == "full" else agent.observation_space.shape[0]
