"""A student with its teacher's memory: ReAugKD's inference."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from policykd.classification.data.batches import Adaptor, Inputs, checked_labels, split_batch
from policykd.classification.measures.evaluation import examples
from policykd.classification.measures.metrics import metrics
from policykd.classification.outputs import FeatureReader, call, evaluating, first_look
from policykd.classification.teacher import as_log_probabilities
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.distillation.supervised.reaugkd import as_embedding, mixed, neighbours_mean
from policykd.memory.knowledge_base import KnowledgeBase


class Lookup(NamedTuple):
    """How a student looks things up."""

    k: int = 10
    """Neighbours."""
    temperature: float = 0.1
    """tau of their weights."""
    beta: float = 0.5
    """Weight of the student's own probabilities in [0, 1]; 1 looks nothing up."""


class Retrieval(nn.Module):
    """A student that mixes its answer with what its teacher said of the most similar examples.

    It answers with logits as the student does, so whatever takes a classifier takes it. With ``beta=1`` they are the
    student's own, bit for bit; else the logarithms of the mixed probabilities.

    Args:
        student: a student of ReAugKD.
        memory: its teacher's memory.
        embedding: path of the student's module whose output is the embedding (``student_features`` of its training).
        lookup: how many neighbours, how they are weighted, and how much they count.

    Raises:
        PolicyKDError: there is no such module, or ``lookup`` cannot work.
    """

    def __init__(self, student: nn.Module, memory: KnowledgeBase, embedding: str, lookup: Lookup | None = None) -> None:
        super().__init__()
        self.student, self.memory, self.embedding = student, memory, embedding
        self.lookup = lookup or Lookup()
        require(0 <= self.lookup.beta <= 1, "beta", self.lookup.beta, "must lie in [0, 1]")
        require(self.lookup.temperature > 0, "temperature", self.lookup.temperature, "must be positive")
        FeatureReader(student, (embedding,), "student").close()

    def forward(self, *arguments: Any, **named: Any) -> Tensor:
        """Logits ``(B, C)``."""
        return self.answer(named or arguments)

    def answer(self, inputs: Inputs, exclude: Tensor | None = None) -> Tensor:
        """Logits ``(B, C)``; ``exclude`` names the row ``(B,)`` of the memory that each example shall not find."""
        if self.lookup.beta == 1:
            return call(self.student, inputs)
        logits, queries = self.own_answer(inputs)
        found = self.memory.search(queries, self.lookup.k, exclude)
        mean = neighbours_mean(found.similarities, self.memory.values[found.rows], self.lookup.temperature)
        return as_log_probabilities(mixed(logits.softmax(1), mean.to(logits), self.lookup.beta))

    def own_answer(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """The student's logits ``(B, C)`` and its embeddings ``(B, d)``."""
        with FeatureReader(self.student, (self.embedding,), "student") as reader:
            logits = call(self.student, inputs).float()
            (feature,) = reader.take()
        return logits, as_embedding(feature).float()

    @torch.no_grad()
    def predict_proba(self, data: Any, adaptor: Adaptor = split_batch, *, own_rows: bool = False) -> Tensor:
        """Probabilities ``(n, C)`` for some data; arguments as those of ``evaluate``."""
        return self._answers(data, adaptor, own_rows)[0].softmax(1)

    def evaluate(self, data: Any, adaptor: Adaptor = split_batch, *, own_rows: bool = False) -> dict[str, float]:
        """Accuracy, ECE and NLL on some data.

        Args:
            data: arrays, a map-style data set or a ``DataLoader``.
            adaptor: splits a batch of another structure.
            own_rows: the data are those that the memory was built from: an example does not find itself.

        Raises:
            PolicyKDError: there are no data, or ``own_rows`` and not as many as the memory has rows.
        """
        return metrics(*self._answers(data, adaptor, own_rows))

    @torch.no_grad()
    def _answers(self, data: Any, adaptor: Adaptor, own_rows: bool) -> tuple[Tensor, Tensor]:
        """Logits and labels of all the data, in eval mode."""
        device = next((p.device for p in self.student.parameters()), torch.device("cpu"))
        parts = []
        with evaluating(self.student):
            for inputs, labels, rows in examples(data, adaptor, device, "evaluation"):
                if own_rows and rows is None:
                    raise PolicyKDError("data: own_rows needs arrays or a data set, whose order is known")
                with first_look("evaluation data", self.student, inputs):
                    logits = self.answer(inputs, rows if own_rows else None)
                parts.append((logits, checked_labels(labels, logits)))
        logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        if own_rows and len(logits) != len(self.memory):
            raise PolicyKDError(
                f"data: own_rows says that these {len(logits)} examples are the {len(self.memory)} of the memory"
            )
        return logits, labels
