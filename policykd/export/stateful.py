"""A learner with memory as a torch module that takes and returns its state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.core.files import atomic_path
from policykd.core.networks import MLP
from policykd.core.recurrent import GRU
from policykd.export.deployed import DeployedPolicy, normaliser, squashes
from policykd.export.equivalence import Difference, action_distances, check_distances, require_free
from policykd.export.exportable import Exportable, Inputs
from policykd.export.plain import GRUCell, PlainPolicy, as_columns, as_layer, flatten
from policykd.learners import PPO, OffPolicyLearner

STEPS, BATCH = 12, 8
"""Number of steps and episodes in which a written file is compared with its learner."""
Play = Callable[..., tuple[np.ndarray, ...]]
"""Maps observations ``(B, O)``, starts ``(B,)`` and the state to actions and the next state."""


class StatefulPolicy(nn.Module):
    """Maps raw observations, starts of episodes and the state to actions in the task's units and the next state.

    Args:
        policy: the policy after the memory.
        columns: columns of the observation to read; None reads all.
        history: number of stacked parts.
        units: gated recurrent units before the policy's network, or None.
    """

    def __init__(
        self, policy: DeployedPolicy, columns: tuple[int, ...] | None, history: int, units: nn.GRUCell | None
    ) -> None:
        super().__init__()
        self.policy, self.history, self.units = policy, history, units
        self.columns = None if columns is None else list(columns)
        self.requires_grad_(False).eval()

    def forward(self, observations: Tensor, starts: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        """Actions and next state from observations ``(B, O)``, 1 where an episode starts ``(B,)``, and the state."""
        parts, kept, begun = list(state), [], starts.unsqueeze(1)
        inputs = observations if self.columns is None else observations[:, self.columns]
        if self.history > 1:
            first, later = inputs.unsqueeze(1).repeat(1, self.history, 1), inputs.unsqueeze(1)
            stack = torch.where(begun.unsqueeze(2) > 0, first, torch.cat((parts.pop(0)[:, 1:], later), dim=1))
            kept.append(stack)
            inputs = stack.flatten(1)
        if self.units is None:
            return self.policy(inputs), *kept
        seen = self.policy.normalise(inputs)
        before = parts.pop(0)
        hidden = self.units(seen, torch.where(begun > 0, torch.zeros_like(before), before))  # resets NaN, too
        return self.policy.act(self.policy.network(torch.cat((hidden, seen), dim=1))), *kept, hidden


class Episodes:
    """Learner ``k`` of an agent as a ``StatefulPolicy``, with the shapes of its inputs and state.

    Args:
        agent: the agent.
        k: index of the learner.
        inputs: whether it reads the student's own part of each observation, or the task's full one.

    Raises:
        PolicyKDError: it sees a function of the observation, or has a custom network.
    """

    def __init__(self, agent: Exportable, k: int, inputs: Inputs) -> None:
        learner, view, network = agent.learner, agent.view, getattr(agent.learner, "actor_network", None)
        if view.function is not None and inputs == "full":
            raise PolicyKDError("export: this student sees a function of the observation: use inputs=own")
        agent.check_finite("export", k)
        self.agent, self.k, self.inputs = agent, k, inputs
        self.picks = inputs == "full" and view.columns is not None
        self.size = view.size if inputs == "full" else view.part_size
        row, units = learner.actor[k], None
        shapes: list[tuple[str, tuple[int, ...]]] = []
        if view.history > 1:
            shapes.append(("history", (view.history, view.part_size)))
        if isinstance(network, GRU):
            *parameters, row = row[: network.parameter_count].cpu().split(network.sections)
            units = nn.GRUCell(network.inputs, network.width)
            for own, part in zip(units.parameters(), parameters, strict=True):
                own.data.copy_(part if own.ndim == 1 else part.view(own.shape[::-1]).t())
            shapes.append(("hidden", (network.width,)))
            network = network.head
        if not isinstance(network, MLP) or not isinstance(learner, OffPolicyLearner | PPO):
            raise PolicyKDError(f"export: {agent.backbone} with a custom network: only MLPs can be exported")
        row, statistics = row[: network.parameter_count], normaliser(learner, k)
        policy = DeployedPolicy(network, row, agent.action_scale, squash=squashes(learner), statistics=statistics)
        self.module = StatefulPolicy(policy, view.columns if self.picks else None, view.history, units)
        self.names = [name for name, _ in shapes]
        """Names of the parts of the state."""
        self.shapes = [shape for _, shape in shapes]

    def examples(self, batch: int = 2) -> tuple[Tensor, ...]:
        """Zero inputs."""
        return torch.zeros(batch, self.size), torch.zeros(batch), *(torch.zeros(batch, *s) for s in self.shapes)

    def plain(self) -> PlainPolicy:
        """The policy as arrays.

        Raises:
            PolicyKDError: as for ``flatten``.
        """
        cell, columns = self.module.units, self.module.columns
        units = None
        if cell is not None:
            units = GRUCell(as_layer(cell.weight_ih, cell.bias_ih), as_layer(cell.weight_hh, cell.bias_hh))
        return replace(
            flatten(self.module.policy, self.size),
            columns=as_columns(columns),
            history=self.module.history,
            units=units,
        )

    def play(self, *inputs: np.ndarray) -> tuple[np.ndarray, ...]:
        """The learner itself as a ``Play``."""
        with torch.no_grad():
            return tuple(out.numpy() for out in self.module(*map(torch.from_numpy, inputs)))

    def check(self, play: Play, what: str) -> Difference:
        """Measure the distance of ``play`` from the learner over some steps.

        Raises:
            PolicyKDError: it exceeds ``TOLERANCE``.
        """
        agent, generator = self.agent, np.random.default_rng(0)
        state: tuple[np.ndarray, ...] = tuple(np.zeros((BATCH, *shape), np.float32) for shape in self.shapes)
        own: Any = None
        distances = []
        for step in range(STEPS):
            starts = np.ones(BATCH) if step == 0 else generator.random(BATCH) < 0.2
            whole = self._observations(generator)
            asked = whole if self.inputs == "full" else agent.view(whole)
            actions, *rest = play(asked, starts.astype(np.float32), *state)
            state = tuple(rest)
            wanted, own = agent.predict(whole, own, starts.astype(bool), learner=self.k)
            distances.append(action_distances(agent, actions, wanted))
        return check_distances(agent, np.concatenate(distances), what)

    def _observations(self, generator: np.random.Generator) -> np.ndarray:
        """Random observations of the task ``(B, O)``, in the learner's range if it normalises."""
        view, statistics = self.agent.view, normaliser(self.agent.learner, self.k)
        whole = generator.standard_normal((BATCH, view.size))
        if statistics is not None and view.function is None:
            columns = list(view.columns or range(view.size))
            mean, std = (part[-view.part_size :].numpy() for part in statistics)
            whole[:, columns] = mean + std * whole[:, columns]
        return whole.astype(np.float32)


def over_episodes(step: Callable[..., tuple[np.ndarray, np.ndarray]]) -> Play:
    """Turn a step of one episode, with a state ``(S,)``, into a ``Play`` of several."""

    def play(observations: np.ndarray, starts: np.ndarray, *state: np.ndarray) -> tuple[np.ndarray, ...]:
        flat = np.concatenate([part.reshape(len(part), -1) for part in state], axis=1)
        answers = [step(*one) for one in zip(observations, starts, flat, strict=True)]
        return tuple(np.stack(part) for part in zip(*answers, strict=True))

    return play


def unroll(
    play: Play, shapes: list[tuple[int, ...]], observations: np.ndarray, starts: np.ndarray
) -> tuple[np.ndarray, ...]:
    """Actions ``(n, A)`` and each part of the state ``(n, *shape)`` after them, step by step.

    Args:
        play: the policy.
        shapes: of the parts of its state.
        observations: of consecutive episodes ``(n, O)``.
        starts: whether each is the first of its episode ``(n,)``.
    """
    state: tuple[np.ndarray, ...] = tuple(np.zeros((1, *shape), np.float32) for shape in shapes)
    found = []
    for observation, start in zip(observations, np.asarray(starts, np.float32), strict=True):
        action, *parts = play(observation[None], start[None], *state)
        state = tuple(parts)
        found.append((action[0], *(part[0] for part in state)))
    return tuple(np.stack(part) for part in zip(*found, strict=True))


def needs_state(agent: Exportable, inputs: Inputs) -> bool:
    """Whether a file needs a state: a GRU's, or a history of full observations."""
    recurrent = isinstance(getattr(agent.learner, "actor_network", None), GRU)
    return recurrent or (inputs == "full" and agent.view.history > 1)


def write(
    agent: Exportable,
    k: int,
    path: Path,
    inputs: Inputs,
    save: Callable[[Episodes, Path], None],
    read: Callable[[Path], Play],
) -> float:
    """Write learner k with its state to ``path`` atomically, unless the file does not act like the learner.

    Args:
        agent: the agent.
        k: index of the learner.
        path: the file.
        inputs: as for ``Episodes``.
        save: writes it.
        read: reads it back.

    Raises:
        PolicyKDError: it does not act like the learner, or ``path`` exists.
    """
    require_free(path)
    episodes = Episodes(agent, k, inputs)
    with atomic_path(path) as temporary:
        save(episodes, temporary)
        difference = episodes.check(read(temporary), str(path))
    return difference.worst
