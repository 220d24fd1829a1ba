"""The frozen teacher: one network or an ensemble, in eval mode at every step, its outputs kept where they repeat."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from policykd.classification.adaptor import call
from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import ensemble_logits
from policykd.distillation.supervised.method import Outputs


class Ensemble(nn.Module):
    """Several teachers as one: its logits are the log of the mean of their probabilities (Stanton et al. 2021).

    Args:
        members: networks of the same classes; features are named below ``members.0``, ``members.1``, ...
    """

    def __init__(self, members: Sequence[nn.Module]) -> None:
        super().__init__()
        if not members:
            raise PolicyKDError("teacher: an ensemble needs at least one network")
        self.members = nn.ModuleList(members)

    def forward(self, *arguments: Any, **named: Any) -> Tensor:
        """Logits ``(B, C)``."""
        logits = [call(member, named or arguments) for member in self.members]
        if len({each.shape for each in logits}) > 1:
            raise PolicyKDError(f"teacher: members of the ensemble differ in classes: {[x.shape[1] for x in logits]}")
        return ensemble_logits(torch.stack(logits))


def as_teacher(teacher: nn.Module | Sequence[nn.Module] | None) -> nn.Module | None:
    """One network from what a user may give: a network, several, or none."""
    if teacher is None or isinstance(teacher, nn.Module):
        return teacher
    if isinstance(teacher, Sequence) and all(isinstance(member, nn.Module) for member in teacher):
        return Ensemble(teacher)
    raise PolicyKDError(f"teacher: expected a torch module, a list of them or None, got {type(teacher).__name__}")


class OutputCache:
    """The teacher's outputs for every row of a data set, so that it runs once per row instead of once per pass.

    Args:
        rows: length of the data set.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.columns: list[Tensor] = []

    def fill(self, batches: Iterable[tuple[Tensor, Outputs]], limit: int) -> bool:
        """Keep ``(rows, outputs)`` batches; False, and nothing kept, where all would take over ``limit`` bytes."""
        for index, outputs in batches:
            members = (outputs.logits, *outputs.features)
            if not self.columns:
                row_bytes = sum(member[0].numel() * member.element_size() for member in members)
                if row_bytes * self.rows > limit:
                    return False
                self.columns = [member.new_empty((self.rows, *member.shape[1:])) for member in members]
            for column, member in zip(self.columns, members, strict=True):
                column[index] = member
        return True

    def take(self, rows: Tensor) -> Outputs:
        """The outputs of some rows."""
        logits, *features = (column[rows] for column in self.columns)
        return Outputs(logits, tuple(features))
