"""Fidelity: how closely a student matches its teacher, as opposed to how accurate it is.

Stanton et al., *Does Knowledge Distillation Really Work?*, NeurIPS 2021 (arXiv 2106.05945). High agreement alone
proves little, since any two accurate classifiers often agree. The control is a student of *another* teacher trained in
the same way: only agreement above the control was learned from this teacher.
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
from policykd.classification.outputs import FeatureReader, call, evaluating, try_call
from policykd.classification.teacher import Teachers, as_log_probabilities, as_teacher, sum_to_one
from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import UNLABELLED
from policykd.distillation.supervised.feature_maps import as_map
from policykd.measure.fidelity_report import Row, Who, write

MEASURES = ("accuracy", "nll", "ece", "agreement", "kl", "distance", "cka")
"""Columns of a report. The last four compare with the teacher. KL and NLL are in nats, distance is the mean total
variation of the predictions, and CKA compares logits, or features if any are named."""
UNITS = {
    "agreement": "share of examples",
    "kl": "nats",
    "distance": "total variation",
    "accuracy": "share of examples",
}
"""Measures shown in the figure, with their axis labels."""


class Answers(NamedTuple):
    """Outputs of a network for some examples."""

    logits: Tensor
    """``(N, C)``."""
    labels: Tensor
    """``(N,)``, ``UNLABELLED`` for missing labels."""
    features: dict[str, Tensor]
    """Outputs of the named modules, each ``(N, D)``, ``(N, L, D)`` or ``(N, D, H, W)``."""


@torch.no_grad()
def answers(
    model: Teachers,
    data: Any,
    features: tuple[str, ...] = (),
    *,
    adaptor: Adaptor = split_batch,
    whose: str = "student",
) -> Answers:
    """Run a network over some data in eval mode, and restore its mode.

    Args:
        model: a network that returns logits or probabilities, directly or as ``.logits``, or a ``Teacher`` with
            discrete actions; several are an ensemble.
        data: arrays (inputs, labels), a map-style data set or a ``DataLoader`` in fixed order.
        features: paths of the modules whose outputs to record.
        adaptor: splits a batch of another structure into inputs and labels.
        whose: name of the model in errors.

    Raises:
        PolicyKDError: the data are empty, the output has no logits, or a module does not exist.
    """
    network = as_teacher(model, whose=whose)
    assert network is not None
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    collected: list[tuple[Tensor, ...]] = []
    with evaluating(network), FeatureReader(network, features, whose) as reader:
        for inputs, labels, _ in examples(data, adaptor, device, "fidelity"):
            with try_call("fidelity data", network, inputs):
                logits = call(network, inputs).float()
            collected.append((logits, checked_labels(labels, logits), *reader.take()))
    logits, labels, *kept = (torch.cat(column).cpu() for column in zip(*collected, strict=True))
    logits = as_log_probabilities(logits) if sum_to_one(logits) else logits  # as ``Distiller`` does for a teacher
    return Answers(logits, labels, dict(zip(features, kept, strict=True)))


def distance(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Mean total variation of the predictions, 0 to 1: half the L1 distance of the softmax of logits ``(N, C)``."""
    return (logits.softmax(1) - teacher_logits.softmax(1)).abs().sum(1).mean() / 2


def cka(features: Tensor, teacher_features: Tensor, examples: int = 2000) -> Tensor:
    """Centred kernel alignment of two representations with RBF kernels, 0 to 1 (Kornblith et al. 2019).

    It is invariant under rotation, translation and isotropic scaling, and widths may differ. The bandwidth of each
    kernel is the median distance; maps are averaged over space, sequences over positions.

    Args:
        features: vectors ``(N, D)``, sequences ``(N, L, D)`` or maps ``(N, D, H, W)``.
        teacher_features: any of these of width E, for the same examples.
        examples: maximum number of examples compared, since the kernels are (N, N).
    """
    x, y = (_centred_kernel(side[:examples].double()) for side in (features, teacher_features))
    return (x * y).sum() / (x.norm() * y.norm()).clamp(min=1e-300)


def _centred_kernel(features: Tensor) -> Tensor:
    rows = as_map(features).mean(2)
    squared = torch.cdist(rows, rows).square()
    kernel = torch.exp(-squared / (2 * squared.median()).clamp(min=1e-300))
    return kernel - kernel.mean(0, keepdim=True) - kernel.mean(1, keepdim=True) + kernel.mean()


def compare(student: Answers, teacher: Answers) -> dict[str, float]:
    """All ``MEASURES`` of a student against its teacher, given both outputs for the same examples."""
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
    """Measure a student against its teacher, and a control student of another teacher if given.

    Args:
        student: the distilled network.
        teacher: its teacher or teachers, as for ``Distiller``.
        splits: data by name, such as ``{"train": ..., "test": ...}``.
        control: a network of the student's architecture, distilled in the same way from another teacher.
        student_features: modules of student and control for CKA; empty compares the logits.
        teacher_features: the corresponding modules of the teacher, in the same order.
        out: folder for ``fidelity.csv``, ``fidelity.md`` and ``fidelity.png``; None writes nothing.
        adaptor: splits a batch of another structure into inputs and labels.

    Raises:
        PolicyKDError: networks, features or data do not fit together.
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
    outputs: dict[Who, Answers] = {}
    for split, data in splits.items():
        truth = answers(teacher, data, teacher_features, adaptor=adaptor, whose="teacher")
        outputs = {
            who: answers(network, data, student_features, adaptor=adaptor, whose=who)
            for who, network in networks.items()
        }
        outputs["teacher"] = truth
        rows += [Row(split, who, compare(own, truth)) for who, own in outputs.items()]
    if out is not None:  # with the reliability diagram of the last split
        write(rows, Path(out), UNITS, {who: _reliability(own) for who, own in outputs.items()})
    return rows


def _reliability(outputs: Answers) -> tuple[np.ndarray, np.ndarray]:
    """Confidence and correctness, each ``(n,)``, of the labelled examples."""
    known = outputs.labels != UNLABELLED
    confidence, named = outputs.logits[known].softmax(1).max(1)
    return confidence.numpy(), (named == outputs.labels[known]).numpy()
