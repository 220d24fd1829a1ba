"""ReAugKD's inference: a student with a memory of its teacher's outputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from policykd.classification.data.batches import Adaptor, Inputs, checked_labels, split_batch
from policykd.classification.measures.evaluation import examples
from policykd.classification.measures.metrics import metrics
from policykd.classification.outputs import FeatureReader, call, evaluating, try_call
from policykd.classification.teacher import as_log_probabilities
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.distillation.supervised.reaugkd import as_embedding, mixed, neighbours_mean
from policykd.memory.knowledge_base import KnowledgeBase


class Lookup(NamedTuple):
    """Settings of the lookup."""

    k: int = 10
    """Number of neighbours."""
    temperature: float = 0.1
    """Temperature tau of the neighbours' weights."""
    beta: float = 0.5
    """Weight in [0, 1] of the student's own probabilities; 1 disables the lookup."""


class Retrieval(nn.Module):
    """A student that mixes its probabilities with its teacher's for the most similar stored examples.

    It returns logits and can be used wherever a classifier can: with ``beta=1`` the student's own, bit for bit,
    otherwise the log of the mixed probabilities.

    Args:
        student: a student trained with ReAugKD.
        memory: memory of its teacher's outputs.
        embedding: path of the student's module that outputs the embedding (its ``student_features`` in training).
        lookup: settings of the lookup; None uses the defaults.

    Raises:
        PolicyKDError: the module does not exist, or ``lookup`` is invalid.
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
        """Logits ``(B, C)``; ``exclude`` gives for each example the row ``(B,)`` of the memory to skip."""
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
        """Probabilities ``(n, C)``; arguments as for ``evaluate``."""
        return self._answers(data, adaptor, own_rows)[0].softmax(1)

    def evaluate(self, data: Any, adaptor: Adaptor = split_batch, *, own_rows: bool = False) -> dict[str, float]:
        """Compute accuracy, ECE and NLL.

        Args:
            data: arrays, a map-style data set or a ``DataLoader``.
            adaptor: splits a batch of another structure.
            own_rows: whether the memory was built from these data; no example then retrieves itself.

        Raises:
            PolicyKDError: the data are empty, or with ``own_rows`` not as many as the memory has rows.
        """
        return metrics(*self._answers(data, adaptor, own_rows))

    @torch.no_grad()
    def _answers(self, data: Any, adaptor: Adaptor, own_rows: bool) -> tuple[Tensor, Tensor]:
        """Logits and labels of all data, in eval mode."""
        device = next((p.device for p in self.student.parameters()), torch.device("cpu"))
        parts = []
        with evaluating(self.student):
            for inputs, labels, rows in examples(data, adaptor, device, "evaluation"):
                if own_rows and rows is None:
                    raise PolicyKDError("data: own_rows needs arrays or a data set, whose order is known")
                with try_call("evaluation data", self.student, inputs):
                    logits = self.answer(inputs, rows if own_rows else None)
                parts.append((logits, checked_labels(labels, logits)))
        logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        if own_rows and len(logits) != len(self.memory):
            raise PolicyKDError(
                f"data: own_rows needs the {len(self.memory)} examples of the memory, got {len(logits)}"
            )
        return logits, labels
