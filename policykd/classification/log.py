"""The training log: loss terms are collected on the device and read once per row."""

from __future__ import annotations

import time

import torch
from stable_baselines3.common.logger import Logger

from policykd.classification.state import Training
from policykd.core.errors import PolicyKDError
from policykd.core.files import STEPS
from policykd.distillation.supervised.method import Phase, Terms


class TrainingLog:
    """The log of one training run.

    Reading a number synchronises with the device, so the terms of ``log_freq`` steps are read together. The first
    one that is not finite ends the run before anything is saved.
    """

    def __init__(self, training: Training, logger: Logger) -> None:
        self.training, self.logger = training, logger
        self.phase: Phase | None = None
        self.names: list[str] = []
        self.waiting: list[torch.Tensor] = []
        self.since = time.perf_counter()

    def add(self, phase: Phase, terms: Terms, learning_rate: float) -> None:
        """Add the loss terms of one step."""
        if not self.waiting:
            self.phase, self.names = phase, list(terms)
        self.waiting.append(torch.stack([term.detach() for term in terms.values()]))
        self.learning_rate = learning_rate
        if len(self.waiting) == self.training.config.log_freq:
            self.flush()

    def flush(self) -> None:
        """Write the means over the steps since the last row.

        Raises:
            PolicyKDError: a term is not finite; the error names it and the step.
        """
        if not self.waiting or self.phase is None:
            return
        terms, self.waiting = torch.stack(self.waiting), []
        self._check(terms)
        means = self.training.accelerator.reduce(terms.mean(0), "mean").tolist()
        seconds, self.since = time.perf_counter() - self.since, time.perf_counter()
        prefix = "train" if self.phase.trains == "student" else self.phase.name
        row = {f"{prefix}/{name}": mean for name, mean in zip(self.names, means, strict=True)}
        row |= {f"{prefix}/learning_rate": self.learning_rate, "time/passes": self.training.passes}
        self.write(row | {"time/fps": int(len(terms) * self.training.config.batch_size / max(seconds, 1e-9))})

    def write(self, row: dict[str, float]) -> None:
        """Write one row at the current step."""
        for name, value in row.items():
            self.logger.record(name, value)
        self.logger.record(STEPS, self.training.n_updates)
        self.logger.dump(self.training.n_updates)

    def _check(self, terms: torch.Tensor) -> None:
        """Refuse terms ``(steps, terms)`` that are not finite; the error names a part rather than the total loss."""
        bad = ~terms.isfinite()
        if not bad.any():
            return
        first = int(bad.any(1).nonzero()[0])
        names = [name for name, is_bad in zip(self.names, bad[first].tolist(), strict=True) if is_bad]
        step = self.training.n_updates - len(terms) + first + 1
        raise PolicyKDError(
            f"training: {names[-1]} is {terms[first, self.names.index(names[-1])].item()} at step {step} "
            f"({self.phase.name if self.phase else ''}): look at the inputs, or lower learning_rate"
        )
