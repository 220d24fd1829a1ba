"""Measures a student on a data set; what the teacher says of it is computed once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from policykd.classification.data.batches import Adaptor, Inputs, Rows, checked_labels, loader, read
from policykd.classification.data.checks import split
from policykd.classification.measures.metrics import metrics
from policykd.classification.outputs import call, check_classes, evaluating, first_look
from policykd.classification.processes import autocast, on_device, shared
from policykd.classification.state import Training
from policykd.core.errors import PolicyKDError

BATCH = 500
"""Examples per batch where only forward passes are made."""


def examples(
    data: Any, adaptor: Adaptor, device: torch.device, what: str
) -> Iterator[tuple[Inputs, Tensor | None, Tensor | None]]:
    """Inputs, labels and rows ``(B,)`` of some data, batch by batch and in order, on a device; None where not known.

    Args:
        data: arrays, a map-style data set or a ``DataLoader``.
        adaptor: splits a batch into inputs and labels.
        device: where a network computes.
        what: the data's name in errors.

    Raises:
        PolicyKDError: there are none.
    """
    seen = False
    for batch in on_device(loader(data, BATCH, None, what), device):
        seen, (content, rows) = True, read(batch)
        yield *split(adaptor, content), rows
    if not seen:
        raise PolicyKDError(f"data: the {what} data are empty")


class Evaluation:
    """A data set to measure a student on, as often as wanted.

    Args:
        training: whose student.
        data: arrays, a map-style data set or a ``DataLoader``.
        what: the data's name in errors.
    """

    def __init__(self, training: Training, data: Any, what: str) -> None:
        self.training, processes = training, training.accelerator.num_processes
        self.source = source = loader(data, BATCH - BATCH % processes, None, what, processes)
        rows = source.dataset
        self.repeats = source is not data and isinstance(rows, Rows) and rows.arrays is not None
        """Whether every pass has the same rows: a user's loader may shuffle, a data set may augment inside."""
        self.batches = source if processes == 1 else shared(training.accelerator, source)
        self.what = what
        self.teacher_logits: Tensor | None = None

    def measure(self) -> dict[str, float]:
        """Quality and fidelity of the student as it is now (see ``metrics.metrics``).

        Raises:
            PolicyKDError: the data do not fit, or there are neither labels nor a teacher to measure by.
        """
        logits, teacher_logits, labels = self.outputs()
        found = metrics(logits, labels, teacher_logits)
        if not found:
            raise PolicyKDError(f"labels: the {self.what} data have none, and there is no teacher: give one of the two")
        return found

    @torch.no_grad()
    def outputs(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """The student's logits ``(n, C)``, the teacher's, and the labels ``(n,)``, from all processes."""
        training, parts = self.training, []
        teacher = training.teacher if self.teacher_logits is None else None
        with evaluating(training.student, teacher):
            for batch in on_device(self.batches, training.device):
                inputs, labels = split(training.adaptor, read(batch).content)
                with (
                    autocast(training.device, training.config.mixed_precision),
                    first_look(f"{self.what} data", training.student, inputs),
                ):
                    logits = call(training.student, inputs).float()
                    own = logits if teacher is None else training.teacher_logits(inputs)
                check_classes(logits, own)
                known = checked_labels(labels, logits)
                parts.append(self._of_all((logits, own, known)))
        if not parts:
            raise PolicyKDError(f"data: the {self.what} data are empty")
        logits, own, known = (torch.cat(column) for column in zip(*parts, strict=True))
        taught = self.teacher_logits if teacher is None else own
        if self.repeats:
            self.teacher_logits = taught
        return logits, taught, known

    def _of_all(self, answers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """A batch's answers of all processes, less what filled up the last batch.

        One process fills nothing up, and accelerate would cut its last batch by the length of the data set, whatever a
        sampler makes of that.
        """
        accelerator = self.training.accelerator
        return answers if accelerator.num_processes == 1 else accelerator.gather_for_metrics(answers)
