"""Small students that learn side by side: networks in one stack ``(R, ...)``, a row per setting and seed.

Steps, order of the examples, guides and losses are those of ``policykd.Distiller``, computed for all rows at once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call, stack_module_state
from torch.nn import functional as F

from experiments.classification.search_defaults import answers
from policykd.classification.data.batches import Batches, Shuffled, seeded
from policykd.distillation.categorical import categorical_kl
from policykd.distillation.schedules import cosine
from policykd.distillation.supervised.config import DiSKConfig
from policykd.distillation.supervised.disk import (
    GUIDE,
    DiSK,
    budget_hinge,
    helped_classes,
    scaffolded_loss,
)
from policykd.distillation.supervised.method import STUDENT, Outputs, Phase

BATCH, RATE, EVAL_EVERY = 128, 5e-3, 3
CONFIG = DiSKConfig(warm_up_epochs=0, top_k=3, teacher_features=("hidden.0",))
"""DiSK's settings; temperatures and budget are those of each row."""
SCAFFOLDED: Callable[..., Tensor] = torch.vmap(scaffolded_loss)
BEYOND: Callable[..., Tensor] = torch.vmap(partial(budget_hinge, largest=CONFIG.largest_cross_entropy))
"""Both losses of every row ``(R,)``, of arguments that begin with R."""


class Data(NamedTuple):
    """What the students of S seeds learn from and are chosen by."""

    seeds: tuple[int, ...]
    inputs: Tensor
    """``(S, N, F)``."""
    labels: Tensor
    """``(S, N)``."""
    validation: tuple[Tensor, Tensor]
    """Inputs ``(S, M, F)`` and labels ``(S, M)``."""
    teacher: Outputs
    """The teachers' logits ``(S, N, C)`` and features ``(S, N, D)`` of the inputs."""


class Learner:
    """Adam on a stack, whose learning rate falls on half a cosine; the rows do not touch one another."""

    def __init__(self, parameters: list[Tensor], steps: int) -> None:
        self.optimizer = torch.optim.Adam(parameters, lr=RATE)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: cosine(step / max(1, steps)))

    def step(self, loss: Tensor) -> None:
        """One step on the sum of the rows' losses."""
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()


class Students:
    """They learn from labels alone.

    Args:
        data: of all seeds.
        start: first parameters, a row per seed ``(S, ...)``.
        settings: how many students a seed has; row ``k * S + s`` is setting k of seed s.
        epochs: passes over the data.
    """

    def __init__(self, data: Data, start: list[Tensor], settings: int, epochs: int) -> None:
        self.data, self.epochs, self.done = data, epochs, 0
        self.of = torch.arange(len(data.seeds)).repeat(settings)
        self.parameters = [p[self.of].clone().requires_grad_() for p in start]
        self.steps = len(Batches(Shuffled(data.labels.shape[1], 0), BATCH, 1))
        self.learner = Learner(self.parameters, epochs * self.steps)
        self.best = [p.detach().clone() for p in self.parameters]
        self.score = torch.full((len(self.of),), -torch.inf, dtype=torch.float64)

    def plan(self) -> list[Phase]:
        """What every pass trains."""
        return [STUDENT] * self.epochs

    def fit(self) -> Tensor:
        """Train, keep in ``best`` each row as it was when best on the validation data, and return that accuracy."""
        plan = self.plan()
        for number, phase in enumerate(plan):
            if phase == GUIDE:
                self.guide_pass(number)
                continue
            self.student_pass(number)
            self.done += 1
            if self.done % EVAL_EVERY == 0 or self.done == self.epochs:
                self._keep_best()
        return self.score

    def student_pass(self, number: int) -> None:
        """Once over the data."""
        for rows in self.batches(number):
            self.learner.step(self.loss(answers(self.parameters, self.take(self.data.inputs, rows)), rows))

    def guide_pass(self, number: int) -> None:
        """Only DiSK has them."""
        raise NotImplementedError

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Sum over the rows of the loss for logits ``(R, B, C)``."""
        return self.hard(logits, rows)

    def hard(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Sum over the rows of the mean cross-entropy with the labels."""
        labels = self.take(self.data.labels, rows)
        return len(logits) * F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def batches(self, number: int) -> list[Tensor]:
        """The examples of every step of a pass ``(R, B)``, in the order that a ``Distiller`` of that seed has."""
        samplers = [Batches(Shuffled(self.data.labels.shape[1], seed), BATCH, 1) for seed in self.data.seeds]
        for sampler in samplers:
            sampler.set_epoch(number)
        return [torch.tensor(rows)[self.of] for rows in zip(*samplers, strict=True)]

    def take(self, values: Tensor, rows: Tensor) -> Tensor:
        """Of values ``(S, N, ...)`` those of a batch ``(R, B, ...)``."""
        return values[self.of[:, None], rows]

    @torch.no_grad()
    def accuracy(self, parameters: list[Tensor], examples: tuple[Tensor, Tensor]) -> Tensor:
        """Of every row ``(R,)`` on its seed's examples."""
        found = [
            (answers([p[row : row + 1] for p in parameters], examples[0][seed])[0].argmax(-1) == examples[1][seed])
            for row, seed in enumerate(self.of.tolist())
        ]
        return torch.stack(found).double().mean(1)

    def _keep_best(self) -> None:
        score = self.accuracy(self.parameters, self.data.validation)
        better = score > self.score
        self.score = torch.where(better, score, self.score)
        for kept, now in zip(self.best, self.parameters, strict=True):
            kept[better] = now.detach()[better]


class HintonStudents(Students):
    """They learn as DiSK's with no help and all classes: 0.9 of the teacher, 0.1 of the labels.

    Args:
        temperatures: T of every setting.
    """

    def __init__(self, data: Data, start: list[Tensor], epochs: int, temperatures: list[float]) -> None:
        super().__init__(data, start, len(temperatures), epochs)
        self.temperature = torch.tensor(temperatures).repeat_interleave(len(data.seeds))

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """Hinton's loss."""
        wide = self.temperature[:, None, None]
        kl = categorical_kl(logits / wide, self.take(self.data.teacher.logits, rows) / wide)
        soft = (self.temperature**2 * kl.mean(1)).sum()
        return CONFIG.soft_weight * soft + CONFIG.hard_weight * self.hard(logits, rows)


class DiSKStudents(Students):
    """They have guides.

    Args:
        temperatures: of student and teacher, by setting.
        budgets: first and last one, by setting.
    """

    def __init__(
        self,
        data: Data,
        start: list[Tensor],
        epochs: int,
        temperatures: list[float],
        budgets: list[tuple[float, float]],
    ) -> None:
        super().__init__(data, start, len(temperatures), epochs)
        seeds, teacher = len(data.seeds), data.teacher
        self.temperature = torch.tensor(temperatures).repeat_interleave(seeds)
        self.budgets = torch.tensor(budgets).repeat_interleave(seeds, 0)
        flat = helped_classes(teacher.logits.flatten(0, 1), data.labels.flatten(), CONFIG.top_k)
        self.mask = flat.view_as(teacher.logits)
        methods = [self._method(seed) for seed in data.seeds]
        self.passes, self.guide = methods[0].passes(epochs), methods[0].guide
        self.guides, self.buffers = stack_module_state([methods[seed].guide for seed in self.of.tolist()])
        guide_steps = self.steps * self.passes.count(GUIDE)
        self.guide_learner = Learner([*self.guides.values()], guide_steps)
        self.given: Tensor | None = None

    def _method(self, seed: int) -> DiSK:
        first = Outputs(self.data.teacher.logits[0], (self.data.teacher.features[0][0],))
        with seeded(seed):
            return DiSK(CONFIG, first, first)

    def plan(self) -> list[Phase]:
        """Guide and student in turns."""
        return self.passes

    def loss(self, logits: Tensor, rows: Tensor) -> Tensor:
        """The students' part, with the guides' answers fixed."""
        if self.given is None:
            self.given = self.help()
        soft = self._soft(logits, self.given.gather(1, rows), rows)
        return CONFIG.soft_weight * soft + CONFIG.hard_weight * self.hard(logits, rows)

    def guide_pass(self, number: int) -> None:
        """The guides' part, with the students' answers fixed."""
        self.given, share = None, cosine(self.done / self.epochs)
        budget = self.budgets[:, 1] + (self.budgets[:, 0] - self.budgets[:, 1]) * share
        penalty = CONFIG.penalty[1] + (CONFIG.penalty[0] - CONFIG.penalty[1]) * share
        with torch.no_grad():
            known = answers(self.parameters, self.data.inputs[self.of])
        self.guide.train()
        for rows in self.batches(number):
            logits = known.gather(1, rows[:, :, None].expand(-1, -1, known.shape[2]))
            help = self._help(self.take(self.data.teacher.features[0], rows))
            beyond = BEYOND(logits, self.take(self.data.labels, rows), help, budget).sum()
            self.guide_learner.step(CONFIG.soft_weight * self._soft(logits, help, rows) + penalty * beyond)

    @torch.no_grad()
    def help(self) -> Tensor:
        """Help g of all examples ``(R, N)``."""
        self.guide.eval()
        return self._help(self.data.teacher.features[0][self.of])

    def _help(self, features: Tensor) -> Tensor:
        """Help g ``(R, B)`` of features ``(R, B, D)``; in train mode the guides' normalisation learns, too."""
        return torch.vmap(lambda *row: functional_call(self.guide, row[:2], row[2]))(
            self.guides, self.buffers, features
        )

    def _soft(self, logits: Tensor, help: Tensor, rows: Tensor) -> Tensor:
        target, mask = self.take(self.data.teacher.logits, rows), self.take(self.mask, rows)
        return SCAFFOLDED(logits, target, help, mask, self.temperature, self.temperature).sum()


class UnhelpedStudents(DiSKStudents):
    """They have no help: Hinton's distillation on the few classes that DiSK compares."""

    def plan(self) -> list[Phase]:
        """Guides do not learn."""
        return [STUDENT] * self.epochs

    @torch.no_grad()
    def help(self) -> Tensor:
        """No help ``(R, N)``."""
        return torch.zeros(self.data.labels.shape)[self.of]
