"""Fidelity: how much a student is like its teacher, which is not how good it is.

Stanton et al., *Does Knowledge Distillation Really Work?*, NeurIPS 2021 (arXiv 2106.05945). A high agreement alone
proves little, since any two accurate classifiers agree often. The control is a student of *another* teacher of the same
recipe: only what lies above the control has been learned from this teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from policykd.classification.data.batches import Adaptor, checked_labels, split_batch
from policykd.classification.measures.evaluation import examples
from policykd.classification.measures.metrics import metrics
from policykd.classification.outputs import FeatureReader, call, evaluating, first_look
from policykd.classification.teacher import Teachers, as_log_probabilities, as_teacher, sum_to_one
from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import UNLABELLED
from policykd.distillation.supervised.feature_maps import as_map
from policykd.measure.fidelity_report import Row, Who, write

MEASURES = ("accuracy", "nll", "ece", "agreement", "kl", "distance", "cka")
"""Columns of a report. The last four are measured against the teacher; KL and NLL are in nats, distance is the mean
total variation of the predictions and CKA compares the logits, or features where such are named."""
UNITS = {
    "agreement": "share of examples",
    "kl": "nats",
    "distance": "total variation",
    "accuracy": "share of examples",
}
"""The measures that the picture shows."""


class Answers(NamedTuple):
    """What a network says of some examples."""

    logits: Tensor
    """``(N, C)``."""
    labels: Tensor
    """``(N,)``, ``UNLABELLED`` where there is none."""
    features: dict[str, Tensor]
    """Outputs of the named modules, ``(N, D)``, ``(N, L, D)`` or ``(N, D, H, W)`` each."""


@torch.no_grad()
def answers(
    model: Teachers,
    data: Any,
    features: tuple[str, ...] = (),
    *,
    adaptor: Adaptor = split_batch,
    whose: str = "student",
) -> Answers:
    """Everything a network says of some data, in eval mode; its mode of before comes back.

    Args:
        model: returns logits or probabilities, alone or as ``.logits``, or chooses; several are an ensemble.
        data: arrays (inputs, labels), a map-style data set or a ``DataLoader`` in fixed order.
        features: paths of modules whose outputs to keep.
        adaptor: splits a batch of another structure into inputs and labels.
        whose: the model's name in errors.

    Raises:
        PolicyKDError: the data are empty, the output holds no logits, or there is no such module.
    """
    network = as_teacher(model, whose=whose)
    assert network is not None
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    collected: list[tuple[Tensor, ...]] = []
    with evaluating(network), FeatureReader(network, features, whose) as reader:
        for inputs, labels, _ in examples(data, adaptor, device, "fidelity"):
            with first_look("fidelity data", network, inputs):
                logits = call(network, inputs).float()
            collected.append((logits, checked_labels(labels, logits), *reader.take()))
    logits, labels, *kept = (torch.cat(column).cpu() for column in zip(*collected, strict=True))
    logits = as_log_probabilities(logits) if sum_to_one(logits) else logits  # as ``Distiller`` takes a teacher's
    return Answers(logits, labels, dict(zip(features, kept, strict=True)))


def distance(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean total variation of the predictions ``(N, C)``: half the L1 distance of the probabilities, 0 to 1."""
    return (logits.softmax(1) - teacher_logits.softmax(1)).abs().sum(1).mean() / 2


def cka(features: Tensor, teacher_features: Tensor, examples: int = 2000) -> Tensor:
    """Centred kernel alignment of two representations with RBF kernels, 0 to 1 (Kornblith et al. 2019).

    It does not change when a representation is turned, shifted or scaled as a whole, and widths may differ. The
    bandwidth is each side's median distance; maps are averaged over space, sequences over their positions.

    Args:
        features: ``(N, D)``, a sequence ``(N, L, D)`` or a map ``(N, D, H, W)``.
        teacher_features: the same of width E, of the same examples.
        examples: only the first so many are compared: the kernels are (N, N).
    """
    x, y = (_centred_kernel(side[:examples].double()) for side in (features, teacher_features))
    return (x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-300)


def _centred_kernel(features: Tensor) -> Tensor:
    rows = as_map(features).mean(2)
    squared = torch.cdist(rows, rows).square()
    kernel = torch.exp(-squared / (2 * squared.median()).clamp(min=1e-300))
    return kernel - kernel.mean(0, keepdim=True) - kernel.mean(1, keepdim=True) + kernel.mean()


def compare(student: Answers, teacher: Answers) -> dict[str, float]:
    """All ``MEASURES`` of a network against a teacher, whose answers are to the same examples."""
    if student.logits.shape != teacher.logits.shape:
        shapes = f"{tuple(student.logits.shape)} and {tuple(teacher.logits.shape)}"
        raise PolicyKDError(f"fidelity: student and teacher differ in examples or classes: logits {shapes}")
    ours = list(student.features.values()) or [student.logits]
    theirs = list(teacher.features.values()) or [teacher.logits]
    found = metrics(student.logits, student.labels, teacher.logits)
    found["distance"] = float(distance(student.logits, teacher.logits))
    found["cka"] = float(torch.stack([cka(x, y) for x, y in zip(ours, theirs, strict=True)]).mean())
    return {name: found.get(name, float("nan")) for name in MEASURES}


def report(
    student: nn.Module,
    teacher: Teachers,
    splits: Mapping[str, Any],
    *,
    control: nn.Module | None = None,
    student_features: tuple[str, ...] = (),
    teacher_features: tuple[str, ...] = (),
    out: str | Path | None = None,
    adaptor: Adaptor = split_batch,
) -> list[Row]:
    """Measure a student beside its teacher, and beside a student of another teacher of the same recipe.

    Args:
        student: the distilled network.
        teacher: its teacher, or several, as ``Distiller`` takes them.
        splits: sets of examples by name, such as ``{"train": ..., "test": ...}``.
        control: a network of the student's architecture, distilled in the same way from another teacher.
        student_features: modules of student and control for CKA; none compares the logits.
        teacher_features: the teacher's modules to compare them with, in the same order.
        out: a folder for ``fidelity.csv``, ``fidelity.md`` and ``fidelity.png``; None writes nothing.
        adaptor: splits a batch of another structure into inputs and labels.

    Raises:
        PolicyKDError: the networks, features or data do not fit.
    """
    if len(student_features) != len(teacher_features):
        numbers = f"{len(student_features)} and {len(teacher_features)}"
        raise PolicyKDError(f"fidelity: student_features and teacher_features must pair up, not {numbers}")
    if not isinstance(splits, Mapping):
        raise PolicyKDError(
            f'fidelity: expected sets by name, {{"test": (inputs, labels)}}, got {type(splits).__name__}'
        )
    networks: dict[Who, nn.Module] = {"student": student}
    if control is not None:
        networks["control"] = control
    rows: list[Row] = []
    said: dict[Who, Answers] = {}
    for split, data in splits.items():
        truth = answers(teacher, data, teacher_features, adaptor=adaptor, whose="teacher")
        said = {
            who: answers(network, data, student_features, adaptor=adaptor, whose=who)
            for who, network in networks.items()
        }
        said["teacher"] = truth
        rows += [Row(split, who, compare(own, truth)) for who, own in said.items()]
    if out is not None:  # the reliability diagram is that of the last split
        write(rows, Path(out), UNITS, {who: _reliability(own) for who, own in said.items()})
    return rows


def _reliability(said: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and whether it was right, ``(n,)`` each, of the labelled examples."""
    known = said.labels != UNLABELLED
    confidence, named = said.logits[known].softmax(1).max(1)
    return confidence.numpy(), (named == said.labels[known]).numpy()
