"""One task with its data: what learns there, and how it is played and counted."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from experiments.state_students.data import collect
from experiments.state_students.methods import METHODS
from experiments.state_students.spec import LOOKS_UP, MEMORIES, MIXED, Protocol
from experiments.state_students.train import train
from policykd.cli.output import say
from policykd.core.seeding import env_seed
from policykd.distillation.supervised.reaugkd import mixed
from policykd.memory import NearestStates
from policykd.tasks import Evaluator
from policykd.tasks.spaces import EnvFactory, action_scale, check_spaces, find_task
from policykd.teachers.teacher import Teacher

START = 1_000_000
"""Seed of the measurement's initial states."""
HALF = 0.5
"""Weight of a student's own action beside that of its neighbours, where they are mixed (``Lookup.beta``)."""
Act = Callable[[Tensor], Tensor]
"""Observations ``(K, B, O)`` to actions ``(K, B, A)`` in [-1, 1]."""


class Made(NamedTuple):
    """Policies of all seeds, K = seeds times weights; the weights of a seed are neighbours."""

    method: str
    weights: tuple[float, ...]
    act: Act
    error: np.ndarray
    """Squared distance to the teacher's action at the states that each learnt from ``(K,)``."""
    numbers: int
    """How many numbers one keeps."""
    steps: int
    """Gradient steps of the students."""


class Lab:
    """A task, states of its teacher for every seed, and the memories of all seeds."""

    def __init__(
        self, env: str | gym.Env | EnvFactory, teacher: Teacher, seeds: Sequence[int], protocol: Protocol
    ) -> None:
        self.env, self.seeds, self.p = env, seeds, protocol
        self.data = collect(env, teacher, seeds, protocol)
        self.score = teacher.score(env, protocol.episodes, START)
        states, actions = self.data.observations, self.data.actions
        self.mean, self.std = states.mean(1, keepdim=True), states.std(1, keepdim=True).clamp_min(1e-6)
        self.near = {
            name: [NearestStates(*pair, k) for pair in zip(states, actions, strict=True)]
            for name, k in MEMORIES.items()
        }
        self.own_rows = torch.arange(states.shape[1]).expand(len(seeds), -1)
        self.kept = states[0].numel() + actions[0].numel()

    def make(self, name: str, width: int) -> list[Made]:
        """The policies of one cell."""
        if name in MEMORIES:
            answers = self.look_up(name, self.data.observations, self.own_rows)
            return [Made(name, (0.0,), lambda o: self.look_up(name, o), self.error(answers), self.kept, 0)]
        return self.students(name, width)

    def students(self, name: str, width: int) -> list[Made]:
        """Students of one kind; plain ones a second time, with half the word of their neighbours."""
        method, looks_up = METHODS[name], name == "retrieval"
        inputs = self.read(self.data.observations, self.words if looks_up else None)
        network, rows = train(inputs, self.data.actions, self.data.features, width, method, self.seeds, self.p)
        count, steps = len(method.weights), self.p.epochs * (inputs.shape[1] // self.p.batch_size)

        def act(observations: Tensor) -> Tensor:
            seen = observations.reshape(len(self.seeds), -1, observations.shape[2])
            read = self.read(seen, self.look_up(LOOKS_UP, seen) if looks_up else None)
            return network(rows, read.view(len(rows), -1, read.shape[2]))

        answers = network(rows, inputs.repeat_interleave(count, 0))
        numbers = network.parameter_count + looks_up * self.kept
        made = [Made(name, method.weights, act, self.error(answers), numbers, steps)]
        if name == "plain":
            error = self.error(mixed(answers, self.words, HALF))
            both = network.parameter_count + self.kept
            made.append(
                Made(MIXED, (0.0,), lambda o: mixed(act(o), self.look_up(LOOKS_UP, o), HALF), error, both, steps)
            )
        return made

    def read(self, observations: Tensor, words: Tensor | None) -> Tensor:
        """What students read: standardised observations ``(S, B, O)``, and the word of their neighbours where given."""
        standardised = (observations - self.mean) / self.std
        return standardised if words is None else torch.cat((standardised, words), 2)

    @functools.cached_property
    def words(self) -> Tensor:
        """What the neighbours of all states say ``(S, n, A)``, none of which is the state itself."""
        return self.look_up(LOOKS_UP, self.data.observations, self.own_rows)

    def look_up(self, name: str, observations: Tensor, own_rows: Tensor | None = None) -> Tensor:
        """Mean actions ``(S, B, A)`` of the neighbours of observations ``(S, B, O)``, each in the states of its seed.

        Args:
            name: which memory.
            observations: raw.
            own_rows: which row ``(S, B)`` each is, where it is in the memory: it does not find itself.
        """
        excluded = own_rows if own_rows is not None else [None] * len(observations)
        return torch.stack(
            [near(o, rows) for near, o, rows in zip(self.near[name], observations, excluded, strict=True)]
        )

    def error(self, answers: Tensor) -> np.ndarray:
        """Mean squared distance ``(K,)`` of answers ``(K, n, A)`` to the teacher's."""
        target = self.data.actions.repeat_interleave(len(answers) // len(self.seeds), 0)
        return (answers - target).square().sum(2).mean(1).numpy()

    def returns(self, act: Act, count: int) -> np.ndarray:
        """Mean returns ``(count,)`` of policies, each on the starts that the teacher was scored on."""
        task, episodes = find_task(self.env), self.p.episodes
        starts = [env_seed(START, episode, "evaluation") for episode in range(episodes)] * count
        probe = task.make()
        scale = action_scale(check_spaces(probe)[1])
        probe.close()
        evaluator = Evaluator(task.make, len(starts), scale.to_env)

        def answer(observations: np.ndarray) -> np.ndarray:
            return act(torch.from_numpy(observations).view(count, episodes, -1)).flatten(0, 1).numpy()

        try:
            found = evaluator.run(answer, 1, starts, 0).returns
        finally:
            evaluator.close()
        return found.reshape(count, episodes).mean(1)

    def rows(self, task: str, name: str, width: int) -> list[dict[str, Any]]:
        """The rows of one cell, one per method, seed and weight."""
        begun, found = time.process_time(), []
        for made in self.make(name, width):
            count = len(made.weights)
            returns = self.returns(made.act, len(self.seeds) * count)
            seconds = round(time.process_time() - begun, 1)
            common = {"task": task, "method": made.method, "width": width, "numbers": made.numbers}
            common |= {"teacher_return": round(self.score.mean, 1), "random_return": round(self.score.random_mean, 1)}
            common |= {"states": self.p.states, "explained": round(self.data.explained, 3), "cpu_seconds": seconds}
            common |= {"gradient_steps": made.steps, "episodes": self.p.episodes}
            for index, (value, error) in enumerate(zip(returns, made.error, strict=True)):
                own = {"seed": self.seeds[index // count], "weight": made.weights[index % count]}
                found.append(common | own | {"return": round(float(value), 1), "error": round(float(error), 4)})
            shown = returns.reshape(-1, count).mean(0).round()
            say(f"{task}, {made.method}, width {width}: {shown} ({seconds} s)")
        return found
