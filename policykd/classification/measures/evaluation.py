"""Evaluates a student on a data set; the teacher's outputs are computed once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from policykd.classification.data.batches import Adaptor, Inputs, Rows, checked_labels, loader, read
from policykd.classification.data.checks import split
from policykd.classification.measures.metrics import metrics
from policykd.classification.outputs import call, check_classes, evaluating, try_call
from policykd.classification.processes import autocast, on_device, shared
from policykd.classification.state import Training
from policykd.core.errors import PolicyKDError

BATCH = 500
"""Examples per batch for forward passes without gradients."""


def examples(
    data: Any, adaptor: Adaptor, device: torch.device, what: str
) -> Iterator[tuple[Inputs, Tensor | None, Tensor | None]]:
    """Iterate in order over inputs, labels ``(B,)`` and row indices ``(B,)``; the last two are None if unknown.

    Args:
        data: arrays, a map-style data set or a ``DataLoader``.
        adaptor: splits a batch into inputs and labels.
        device: device to move batches to.
        what: name of the data in errors.

    Raises:
        PolicyKDError: the data are empty.
    """
    seen = False
    for batch in on_device(loader(data, BATCH, None, what), device):
        seen, (content, rows) = True, read(batch)
        yield *split(adaptor, content), rows
    if not seen:
        raise PolicyKDError(f"data: the {what} data are empty")


class Evaluation:
    """A data set on which a student is evaluated repeatedly.

    Args:
        training: the training whose student is evaluated.
        data: arrays, a map-style data set or a ``DataLoader``.
        what: name of the data in errors.
    """

    def __init__(self, training: Training, data: Any, what: str) -> None:
        self.training, processes = training, training.accelerator.num_processes
        self.source = source = loader(data, BATCH - BATCH % processes, None, what, processes)
        rows = source.dataset
        self.repeats = source is not data and isinstance(rows, Rows) and rows.arrays is not None
        """Whether every epoch yields the same rows: a user's loader may shuffle, a data set may augment on reading."""
        self.batches = source if processes == 1 else shared(training.accelerator, source)
        self.what = what
        self.teacher_logits: Tensor | None = None

    def measure(self) -> dict[str, float]:
        """Quality and fidelity of the current student (see ``metrics.metrics``).

        Raises:
            PolicyKDError: the data do not fit, or there are neither labels nor a teacher.
        """
        logits, teacher_logits, labels = self.outputs()
        found = metrics(logits, labels, teacher_logits)
        if not found:
            raise PolicyKDError(
                f"labels: the {self.what} data have none, and there is no teacher: give labels or a teacher"
            )
        return found

    @torch.no_grad()
    def outputs(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """Logits ``(n, C)`` of student and teacher, and labels ``(n,)``, gathered from all processes."""
        training, parts = self.training, []
        teacher = training.teacher if self.teacher_logits is None else None
        with evaluating(training.student, teacher):
            for batch in on_device(self.batches, training.device):
                inputs, labels = split(training.adaptor, read(batch).content)
                with (
                    autocast(training.device, training.config.mixed_precision),
                    try_call(f"{self.what} data", training.student, inputs),
                ):
                    logits = call(training.student, inputs).float()
                    own = logits if teacher is None else training.teacher_logits(inputs)
                check_classes(logits, own)
                known = checked_labels(labels, logits)
                parts.append(self._gathered((logits, own, known)))
        if not parts:
            raise PolicyKDError(f"data: the {self.what} data are empty")
        logits, own, known = (torch.cat(column) for column in zip(*parts, strict=True))
        taught = self.teacher_logits if teacher is None else own
        if self.repeats:
            self.teacher_logits = taught
        return logits, taught, known

    def _gathered(self, answers: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Gather a batch's outputs from all processes, without the padding of the last batch.

        A single process pads nothing; there accelerate would truncate the last batch by the length of the data set,
        even if a sampler yields another number of rows.
        """
        accelerator = self.training.accelerator
        return answers if accelerator.num_processes == 1 else accelerator.gather_for_metrics(answers)
