"""Measures a student on a data set; what the teacher says of it is computed once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from policykd.classification.adaptor import call, checked_labels
from policykd.classification.loading import loader, read
from policykd.classification.metrics import metrics
from policykd.classification.processes import autocast, on_device
from policykd.core.errors import PolicyKDError

if TYPE_CHECKING:
    from policykd.classification.distiller import Distiller

BATCH = 500
"""Examples per batch where only forward passes are made."""


class Evaluation:
    """A data set to measure a distiller's student on, as often as wanted.

    Args:
        distiller: whose student.
        data: arrays, a map-style data set or a ``DataLoader``.
        what: the data's name in errors.
    """

    def __init__(self, distiller: Distiller, data: Any, what: str) -> None:
        self.distiller = distiller
        batches = BATCH - BATCH % distiller.accelerator.num_processes
        self.batches = distiller.accelerator.prepare_data_loader(loader(data, batches, None, what))
        self.what = what
        self.teacher_logits: Tensor | None = None

    def measure(self) -> dict[str, float]:
        """Quality and fidelity of the student as it is now (see ``metrics.metrics``)."""
        logits, teacher_logits, labels = self.outputs()
        return metrics(logits, labels, teacher_logits)

    @torch.no_grad()
    def outputs(self) -> tuple[Tensor, Tensor | None, Tensor]:
        """The student's logits ``(n, C)``, the teacher's, and the labels ``(n,)``, from all processes."""
        distiller, parts = self.distiller, []
        teacher = distiller.teacher if self.teacher_logits is None else None
        in_order = True
        with evaluating(distiller.student, teacher):
            for batch in on_device(self.batches, distiller.device):
                content, rows = read(batch)
                in_order &= rows is not None  # a user's loader may shuffle
                inputs, labels = distiller.adaptor(content)
                with autocast(distiller.device, distiller.config.mixed_precision):
                    logits = call(distiller.student, inputs).float()
                    own = logits if teacher is None else call(teacher, inputs).float()
                check_classes(logits, own)
                known = checked_labels(labels, logits)
                parts.append(distiller.accelerator.gather_for_metrics((logits, own, known)))
        if not parts:
            raise PolicyKDError(f"data: the {self.what} data are empty")
        logits, own, known = (torch.cat(column) for column in zip(*parts, strict=True))
        taught = self.teacher_logits if teacher is None else own
        if in_order:
            self.teacher_logits = taught
        return logits, taught, known


def check_classes(logits: Tensor, teacher_logits: Tensor) -> None:
    """Refuse a teacher of other classes.

    Raises:
        PolicyKDError: the number of classes differs.
    """
    if logits.shape != teacher_logits.shape:
        raise PolicyKDError(
            f"classes: the student answers {tuple(logits.shape)} and the teacher {tuple(teacher_logits.shape)}: "
            "both need logits (B, C) over the same classes"
        )


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Put networks into eval mode, and back into the modes in which they were."""
    present = [module for network in modules if network is not None for module in network.modules()]
    modes = [module.training for module in present]
    for network in modules:
        if network is not None:
            network.eval()
    try:
        yield
    finally:
        for module, mode in zip(present, modes, strict=True):
            module.training = mode
