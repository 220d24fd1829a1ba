"""The frozen teacher: a network or an ensemble, of logits or probabilities, with a cache of its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from policykd.classification.data.batches import Inputs
from policykd.classification.models import class_names
from policykd.classification.outputs import call
from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import ensemble_logits
from policykd.distillation.supervised.method import Outputs
from policykd.distillation.teaching_config import TeachingConfig
from policykd.teachers.teacher import Teacher

Gives = Literal["auto", "logits", "probabilities"]
Teachers = nn.Module | Teacher | Sequence[nn.Module | Teacher]
FEW = 20
"""This few logits may all lie in [0, 1] by chance."""


class Ensemble(nn.Module):
    """An ensemble of teachers: its logits are the log of the mean of their probabilities (Stanton et al. 2021).

    Args:
        members: networks with the same classes; paths of features start with ``members.0``, ``members.1``, ...
        gives: what the members return; "auto" detects it from each one's first output.
    """

    def __init__(self, members: Sequence[nn.Module], gives: Gives = "auto") -> None:
        super().__init__()
        if not members:
            raise PolicyKDError("teacher: an ensemble needs at least one network")
        self.members = nn.ModuleList(members)
        self.gives: Gives = gives
        self.probabilities: list[bool] | None = None
        """Which members return probabilities; None until the first output."""

    def forward(self, *arguments: Any, **named: Any) -> Tensor:
        """Logits ``(B, C)``."""
        answers = [call(member, named or arguments) for member in self.members]
        if len({each.shape for each in answers}) > 1:
            raise PolicyKDError(f"teacher: members of the ensemble differ in classes: {[x.shape[1] for x in answers]}")
        if self.probabilities is None:
            self.probabilities = [
                are_probabilities(each, output_kind(member, self.gives))
                for member, each in zip(self.members, answers, strict=True)
            ]
        logits = [as_log_probabilities(x) if p else x for x, p in zip(answers, self.probabilities, strict=True)]
        return ensemble_logits(torch.stack(logits))


class PolicyClassifier(nn.Module):
    """A policy over C discrete actions as a classifier of C classes.

    Q-values become softmax(Q / 0.01), the default for students in RL (docs/discrete.md).
    """

    def __init__(self, policy: Teacher) -> None:
        super().__init__()
        if not policy.discrete:
            raise PolicyKDError(
                f"teacher: {policy.source} has no discrete actions, which a classifier needs as its classes"
            )
        self.policy = policy
        for number, weights in enumerate(policy.parameters()):  # identify it when a run is resumed
            self.register_buffer(f"weights_{number}", weights.detach())

    def forward(self, observations: Tensor) -> Tensor:
        """Log-probabilities ``(B, C)`` at raw observations ``(B, O)``."""
        says, answers = self.policy.policy.scores, self.policy.distribution(observations)[0].to(observations.device)
        if says == "choice":
            return as_log_probabilities(answers)
        return (answers / (TeachingConfig.q_temperature if says == "q_values" else 1)).log_softmax(1)


def as_teacher(teacher: Teachers | None, gives: Gives = "auto", whose: str = "teacher") -> nn.Module | None:
    """Convert a network, a policy of discrete actions, a sequence of these or None to one network."""
    if isinstance(teacher, Teacher):
        return PolicyClassifier(teacher)
    if teacher is None or isinstance(teacher, nn.Module):
        return teacher
    if isinstance(teacher, Sequence) and all(isinstance(member, nn.Module | Teacher) for member in teacher):
        return Ensemble(
            [PolicyClassifier(member) if isinstance(member, Teacher) else member for member in teacher], gives
        )
    raise PolicyKDError(
        f"{whose}: expected a torch module, a Teacher, a list of them or None, got {type(teacher).__name__}"
    )


def named_classes(student: nn.Module, teacher: nn.Module | None) -> dict[str, tuple[str, ...] | None]:
    """Class names (see ``class_names``) by owner: student, teacher, each member of an ensemble."""
    networks: dict[str, Any] = {"the student": student, "the teacher": teacher}
    if isinstance(teacher, Ensemble):
        networks |= {f"member {number} of the teacher": member for number, member in enumerate(teacher.members)}
    return {who: class_names(network) for who, network in networks.items()}


def output_kind(network: nn.Module, gives: Gives) -> Gives:
    """What a network returns, as set by the user or by its class if that is one of the package's."""
    return vars(type(network)).get("gives", "auto") if gives == "auto" else gives  # a subclass may end in a softmax


def are_probabilities(answers: Tensor, gives: Gives) -> bool:
    """Whether a teacher's outputs ``(B, C)`` are probabilities; log-probabilities count as logits.

    Args:
        answers: outputs for some examples.
        gives: what the user declared; "auto" detects it.

    Raises:
        PolicyKDError: all outputs lie in [0, 1] but are not distributions, as those of a sigmoid; or they are declared
            probabilities and do not all lie there.
    """
    if gives == "probabilities" and not in_unit_interval(answers, 1e-3):
        raise PolicyKDError(
            f"teacher: its outputs lie from {float(answers.min()):.3g} to {float(answers.max()):.3g}, which are not "
            'probabilities: leave teacher_outputs="probabilities" out'
        )
    if gives != "auto":
        return gives == "probabilities"
    if sum_to_one(answers):
        return True
    if in_unit_interval(answers) and answers.numel() >= FEW and float(answers.max()) > 0:
        raise PolicyKDError(
            "teacher: its outputs lie in [0, 1] and do not sum to 1, as after a sigmoid: give logits, or probabilities "
            'of exclusive classes; if they are logits, set teacher_outputs="logits"'
        )
    return False


def check_logits(student: nn.Module, inputs: Inputs, logits: Tensor) -> None:
    """Refuse a student that ends in a softmax or a sigmoid, since the losses apply a softmax themselves.

    A sigmoid is recognised by its operation: logits of an untrained student may all lie in [0, 1] by chance.

    Raises:
        PolicyKDError: the student ends in one.
    """
    layer = "softmax" if sum_to_one(logits) else ""
    if not layer and in_unit_interval(logits):
        with torch.enable_grad():
            layer = "sigmoid" if "Sigmoid" in type(call(student, inputs).grad_fn).__name__ else ""
    if layer:
        raise PolicyKDError(f"student: its outputs are probabilities, but losses need logits: remove its {layer}")


def sum_to_one(answers: Tensor) -> bool:
    """Whether every row of ``(B, C)`` is a distribution."""
    return in_unit_interval(answers) and torch.allclose(answers.sum(1), torch.ones_like(answers[:, 0]), atol=1e-3)


def in_unit_interval(answers: Tensor, beyond: float = 0.0) -> bool:
    """Whether all outputs lie in [0, 1], or at most ``beyond`` outside."""
    return bool(((answers >= -beyond) & (answers <= 1 + beyond)).all())


def as_log_probabilities(probabilities: Tensor) -> Tensor:
    """Log of probabilities ``(B, C)``, finite for probability 0 too."""
    return probabilities.clamp_min(torch.finfo(probabilities.dtype).tiny).log()


class OutputCache:
    """Caches the teacher's outputs for every row of a data set, so that it runs once rather than in every epoch.

    Args:
        rows: length of the data set.
    """

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.columns: list[Tensor] = []

    def fill(self, batches: Iterable[tuple[Tensor, Outputs]], limit: int) -> bool:
        """Store batches of ``(rows, outputs)``; if all would exceed ``limit`` bytes, store none and return False."""
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
        """Look up the outputs of rows."""
        logits, *features = (column[rows] for column in self.columns)
        return Outputs(logits, tuple(features))
