"""Partial information decomposition over the course of training, as in figure 5 of Dissanayake et al. 2025."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from policykd.classification.distiller import Distiller
from policykd.classification.measures.fidelity import answers
from policykd.classification.measures.pid import PID, PIDEstimate, estimate
from policykd.core.errors import PolicyKDError
from policykd.core.files import csv_text, write_text
from policykd.measure.pictures import Panel, Series, seed_panels

PARTS = {
    "redundant": "redundant: transferred",
    "unique_teacher": "unique to the teacher: left to transfer",
    "unique_student": "unique to the student",
    "synergistic": "synergistic",
}
"""Legend labels of the parts."""
CHANCE = tuple(f"chance_{part}" for part in PID._fields)
COLUMNS = ("epoch", "accuracy", *PID._fields, *CHANCE)


class PIDCurve:
    """Decomposes what teacher and student know about the labels, every few epochs of the student.

        curve = PIDCurve(teacher, test, "hidden.1", "hidden.1", every=5)
        curve.look(student, 0)
        distiller.fit(train, callback=curve)
        curve.write(folder)

    Args:
        teacher: the frozen teacher.
        data: labelled examples that neither network was trained on, in fixed order.
        teacher_feature: path of the teacher's module whose output is decomposed.
        student_feature: path of the student's module.
        every: epochs of the student between estimates.
        clusters: k of k-means, for either network.
        components: principal components, for either network.
        seeds: seeds of PCA and k-means; one estimate each.
    """

    def __init__(
        self,
        teacher: nn.Module,
        data: Any,
        teacher_feature: str,
        student_feature: str,
        *,
        every: int = 1,
        clusters: int = 10,
        components: int = 10,
        seeds: Sequence[int] = (0, 1, 2),
    ) -> None:
        if every < 1:
            raise PolicyKDError(f"pid: every={every} must be positive")
        self.data, self.feature, self.every = data, student_feature, every
        self.settings: dict[str, Any] = {"clusters": clusters, "components": components, "seeds": seeds}
        self.teacher = answers(teacher, data, (teacher_feature,), whose="teacher").features[teacher_feature].numpy()
        self.estimates: dict[int, PIDEstimate] = {}
        self.accuracy: dict[int, float] = {}

    def __call__(self, distiller: Distiller) -> None:
        """Estimate after a pass over the data, if it was an epoch of the student and one is due."""
        if distiller.epochs % self.every == 0 and distiller.epochs not in self.estimates:
            self.look(distiller.student, distiller.epochs)

    def look(self, student: nn.Module, epoch: int) -> PIDEstimate:
        """Estimate now, and record it for ``epoch`` completed epochs of the student (0: before training)."""
        outputs = answers(student, self.data, (self.feature,))
        found = estimate(outputs.labels.numpy(), self.teacher, outputs.features[self.feature].numpy(), **self.settings)
        self.estimates[epoch] = found
        self.accuracy[epoch] = float((outputs.logits.argmax(1) == outputs.labels).double().mean())
        return found

    def rows(self) -> list[dict[str, float]]:
        """One row of ``COLUMNS`` per estimate, in bits; ``chance_*`` are with shuffled labels."""
        return [
            dict(zip(COLUMNS, (epoch, self.accuracy[epoch], *found.pid, *found.chance), strict=True))
            for epoch, found in sorted(self.estimates.items())
        ]

    def write(self, folder: str | Path) -> None:
        """Write ``pid.csv`` and ``pid.png``."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        rows = self.rows()
        lines = [[f"{row[name]:.6g}" for name in COLUMNS] for row in rows]
        write_text(folder / "pid.csv", csv_text([COLUMNS, *lines]))
        epochs = [row["epoch"] for row in rows]
        series = {label: Series(epochs, np.array([[row[part]] for row in rows])) for part, label in PARTS.items()}
        title = "Information about the label"
        seed_panels([Panel(title, "passes of the student", "bits", series)], folder / "pid.png", "Decomposition")
