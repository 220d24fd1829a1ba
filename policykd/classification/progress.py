"""What the steps of training report: collected on the device, read once per row of the log."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import torch

from policykd.core.errors import PolicyKDError
from policykd.core.files import STEPS
from policykd.distillation.supervised.method import Phase, Terms

if TYPE_CHECKING:
    from policykd.classification.distiller import Distiller


class Progress:
    """Rows of the log of one distiller.

    Reading a number waits for the device, so the terms of ``log_freq`` steps are read together; the first of them
    that is not finite ends the run, before anything of it is saved.
    """

    def __init__(self, distiller: Distiller) -> None:
        self.distiller = distiller
        self.phase: Phase | None = None
        self.names: list[str] = []
        self.waiting: list[torch.Tensor] = []
        self.since = time.perf_counter()

    def add(self, phase: Phase, terms: Terms, learning_rate: float) -> None:
        """Note the terms of one step."""
        if not self.waiting:
            self.phase, self.names = phase, list(terms)
        self.waiting.append(torch.stack([term.detach() for term in terms.values()]))
        self.learning_rate = learning_rate
        if len(self.waiting) == self.distiller.config.log_freq:
            self.flush()

    def flush(self) -> None:
        """Write the steps since the last row as one row of means.

        Raises:
            PolicyKDError: a term is not finite; the line names it and the step.
        """
        if not self.waiting or self.phase is None:
            return
        terms, self.waiting = torch.stack(self.waiting), []
        self._check(terms)
        means = self.distiller.accelerator.reduce(terms.mean(0), "mean").tolist()
        seconds, self.since = time.perf_counter() - self.since, time.perf_counter()
        logger, prefix = self.distiller.logger, "train" if self.phase.trains == "student" else self.phase.name
        for name, mean in zip(self.names, means, strict=True):
            logger.record(f"{prefix}/{name}", mean)
        logger.record(f"{prefix}/learning_rate", self.learning_rate)
        logger.record("time/passes", self.distiller.passes)
        logger.record("time/fps", int(len(terms) * self.distiller.config.batch_size / max(seconds, 1e-9)))
        logger.record(STEPS, self.distiller.n_updates)
        logger.dump(self.distiller.n_updates)

    def _check(self, terms: torch.Tensor) -> None:
        """Refuse ``(steps, terms)`` that are not all finite; the parts are named before their sum."""
        bad = ~terms.isfinite()
        if not bad.any():
            return
        first = int(bad.any(1).nonzero()[0])
        names = [name for name, is_bad in zip(self.names, bad[first].tolist(), strict=True) if is_bad]
        step = self.distiller.n_updates - len(terms) + first + 1
        raise PolicyKDError(
            f"training: {names[-1]} is {terms[first, self.names.index(names[-1])].item()} at step {step} "
            f"({self.phase.name if self.phase else ''}): look at the inputs, or lower learning_rate"
        )
