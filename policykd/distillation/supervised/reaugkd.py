"""ReAugKD (Zhang et al. 2023, *Retrieval-Augmented Knowledge Distillation for Pre-trained Language Models*).

Stage 1 trains a linear projection of the frozen teacher's embeddings to the student's width with the supervised
contrastive loss. Stage 2 trains the student on the teacher's probabilities, and makes its embeddings as similar to the
teacher's embeddings of a batch as the teacher's own are, so that they can serve as queries. The memory and inference
are in ``policykd.classification.retrieval``.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import UNLABELLED, categorical_kl
from policykd.distillation.supervised.config import ReAugKDConfig
from policykd.distillation.supervised.method import STUDENT, Method, Outputs, Phase, Step, Terms
from policykd.distillation.supervised.training_config import TrainingConfig

PROJECTION = Phase("projection", trains="projection", student=False)


def supervised_contrastive_loss(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Khosla et al. 2020, equation 2: -log softmax over all other examples, averaged over each anchor's positives.

    Args:
        embeddings: z ``(N, d)`` of length 1.
        labels: ``(N,)``; ``UNLABELLED`` rows are skipped.
        temperature: temperature of the similarities.

    Returns:
        Mean over anchors with a positive; 0 without any.
    """
    known = labels != UNLABELLED
    embeddings, labels = embeddings[known], labels[known]
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    similarities = embeddings @ embeddings.T / temperature
    log_shares = similarities.masked_fill(itself, -torch.inf).log_softmax(1)
    positive = (labels[:, None] == labels) & ~itself
    count = positive.sum(1)
    anchors = -log_shares.masked_fill(~positive, 0.0).sum(1) / count.clamp_min(1)
    return anchors.sum() / (count > 0).sum().clamp_min(1)


def relational_loss(student: Tensor, teacher: Tensor, temperature: float, keep_diagonal: bool = True) -> Tensor:
    """Mean over i of KL(q_i || q'_i), with q_ij ~ exp(z_i z_j / tau) and q'_ij ~ exp(x_i z_j / tau).

    Args:
        student: x ``(N, d)`` of length 1.
        teacher: z ``(N, d)`` of length 1.
        temperature: tau.
        keep_diagonal: whether to include j = i.
    """
    own, target = student @ teacher.T, teacher @ teacher.T
    if not keep_diagonal:
        others = ~torch.eye(len(own), dtype=torch.bool, device=own.device)
        own, target = (x[others].view(len(x), -1) for x in (own, target))
    return categorical_kl(own, target, temperature).mean()


def neighbours_mean(similarities: Tensor, values: Tensor, temperature: float) -> Tensor:
    """Weighted mean of the neighbours' values, sum_k w_k y_k, with w the softmax of similarities / tau.

    Args:
        similarities: ``(B, K)``.
        values: the neighbours' probabilities ``(B, K, C)``.
        temperature: tau.

    Returns:
        Probabilities ``(B, C)``.
    """
    weights = (similarities / temperature).softmax(1)
    return (weights[:, :, None] * values).sum(1)


def mixed(own: Tensor, neighbours: Tensor, beta: float) -> Tensor:
    """``beta * own + (1 - beta) * neighbours``, all ``(B, C)``."""
    return beta * own + (1 - beta) * neighbours


def as_embedding(feature: Tensor) -> Tensor:
    """Convert a feature to ``(B, D)``: the first position of a sequence ``(B, N, D)``, the mean of an image."""
    if feature.ndim == 3:
        return feature[:, 0]
    return feature.flatten(2).mean(2) if feature.ndim == 4 else feature


class ReAugKD(Method):
    """Trains the teacher's projection, then the student."""

    config_type: ClassVar[type[TrainingConfig]] = ReAugKDConfig

    def __init__(self, config: ReAugKDConfig, student: Outputs, teacher: Outputs) -> None:
        super().__init__(config, student, teacher)
        self.config = config
        if len(student.features) != 1 or len(teacher.features) != 1:
            raise PolicyKDError(
                "features: reaugkd needs one module in student_features and one in teacher_features, whose outputs are "
                f"the embeddings (now {len(student.features)} and {len(teacher.features)})"
            )
        target, own = (as_embedding(outputs.features[0]) for outputs in (teacher, student))
        self.projection = nn.Linear(target.shape[1], own.shape[1])

    @property
    def uses_labels(self) -> bool:
        """Whether there is a stage 1, the only one to use labels."""
        return self.config.projection_epochs > 0

    @property
    def needs_labels(self) -> bool:
        """Stage 1, if there is one, learns from labels."""
        return self.uses_labels

    def passes(self, epochs: int) -> list[Phase]:
        """Stage 1, then stage 2."""
        return [PROJECTION] * self.config.projection_epochs + [STUDENT] * epochs

    def helpers(self, group: str) -> list[nn.Module]:
        """The projection, trained only in stage 1."""
        return [self.projection] if group == "projection" else []

    def learning_rate(self, config: TrainingConfig, group: str) -> float:
        """Stage 1 has its own learning rate."""
        return self.config.projection_learning_rate if group == "projection" else config.learning_rate

    def keys(self, teacher: Outputs) -> Tensor:
        """The teacher's embeddings z ``(B, d)``, projected and normalised to length 1."""
        return F.normalize(self.projection(as_embedding(teacher.features[0])))

    def loss(self, step: Step) -> tuple[Tensor, Terms]:
        """Stage 1: supervised contrastive loss. Stage 2: soft cross-entropy and relational loss."""
        config, z = self.config, self.keys(step.teacher)
        if step.phase == PROJECTION.name:
            loss = supervised_contrastive_loss(z, step.labels, config.contrastive_temperature)
            return loss, {"contrastive_loss": loss.detach()}
        soft = F.cross_entropy(step.student.logits, step.teacher.logits.softmax(1))
        x = F.normalize(as_embedding(step.student.features[0]))
        relational = relational_loss(x, z, config.temperature, config.keep_diagonal)
        terms = {"kd_loss": soft.detach(), "relational_loss": relational.detach()}
        return soft + config.alpha * relational, terms
