"""Training K students on K data sets, all in one loop."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from experiments.state_students.methods import Plain, Seen, Sizes
from experiments.state_students.spec import Protocol
from policykd.core.networks import MLP
from policykd.core.seeding import stream
from policykd.distillation.schedules import cosine
from policykd.distillation.supervised.method import STUDENT
from policykd.memory import LabelledStates


def train(
    inputs: Tensor,
    actions: Tensor,
    features: Tensor,
    width: int,
    method: type[Plain],
    seeds: Sequence[int],
    p: Protocol,
) -> tuple[MLP, Tensor]:
    """Students of every seed and weight of a method.

    Args:
        inputs: what each reads ``(S, n, I)``.
        actions: the teacher's ``(S, n, A)``.
        features: its hidden layer ``(S, n, C)``.
        width: units of each of their two hidden layers.
        method: what they learn.
        seeds: of their first parameters, batches and helpers ``(S,)``.
        p: how long and how much.

    Returns:
        their network and their parameters ``(S * W, P)``: the W weights of a seed are neighbours.
    """
    count, size = len(method.weights), actions.shape[2]
    network = MLP((inputs.shape[2], width, width, size), squash=True)
    repeated = [seed for seed in seeds for _ in range(count)]
    rows = torch.stack([network.initialise(stream(seed, 0, "learner")) for seed in repeated]).requires_grad_()
    labels = torch.cat((actions, features), 2)
    states = LabelledStates(inputs.shape[1], inputs.shape[2], labels.shape[2], len(repeated))
    states.add(inputs.repeat_interleave(count, 0), labels.repeat_interleave(count, 0))
    weight = torch.tensor(method.weights).repeat(len(seeds))
    learnt = method(Sizes(width, features.shape[2], size), repeated, weight, p)
    _train(network, rows, states, learnt, [stream(seed, 0, "replay") for seed in repeated], p)
    return network, rows.detach()


class Learning:
    """What one kind of pass trains, by Adam at a rate that falls to 0 over these passes."""

    def __init__(self, parameters: list[Tensor], steps: int, rate: float) -> None:
        self.adam = torch.optim.Adam(parameters, rate)
        self.schedule = LambdaLR(self.adam, lambda step: cosine(step / steps))

    def step(self, losses: Tensor) -> None:
        """One step on the sum of losses ``(K,)``, whose parameters never mix."""
        self.adam.zero_grad()
        losses.sum().backward()
        self.adam.step()
        self.schedule.step()


def _train(
    network: MLP,
    rows: Tensor,
    states: LabelledStates,
    method: Plain,
    generators: Sequence[np.random.Generator],
    p: Protocol,
) -> None:
    """Change the rows and the method's modules in place, by the method's plan."""
    plan, steps = method.plan(p.epochs), max(1, states.size // p.batch_size)
    modules = {True: method.helpers, False: method.others}  # by whether they learn with the students
    learning = {}
    for own, parts in modules.items():
        parameters = [rows] * own + [tensor for part in parts for tensor in part.parameters.values()]
        total = steps * sum((phase.trains == STUDENT.trains) == own for phase in plan)
        if parameters and total:
            learning[own] = Learning(parameters, total, p.learning_rate)
    done = 0
    for phase in plan:
        own = phase.trains == STUDENT.trains
        for kind, parts in modules.items():
            for part in parts:
                part.train(kind == own)
        for _ in range(steps):
            inputs, labels = states.sample(p.batch_size, generators)
            target, features = labels.split((method.sizes.actions, method.sizes.features), -1)
            with torch.set_grad_enabled(own):
                *_, hidden, actions = network.activations(rows, inputs)
            seen = Seen(actions, hidden, target, features, done / p.epochs)
            learning[own].step(method.loss(phase, seen))
        done += own
