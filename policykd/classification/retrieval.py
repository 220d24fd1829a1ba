"""A student with its teacher's memory: ReAugKD's inference, the memory it needs, and the choice of its settings.

distiller = Distiller(student, teacher, method="reaugkd", config={...}).fit(train, validation)
retrieval = with_retrieval(distiller, train, validation)
retrieval.evaluate(test)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from policykd.classification.adaptor import Adaptor, Inputs, call, checked_labels, split_batch
from policykd.classification.distiller import Distiller
from policykd.classification.evaluation import BATCH, evaluating
from policykd.classification.features import FeatureReader
from policykd.classification.loading import loader, read
from policykd.classification.metrics import metrics
from policykd.classification.processes import on_device
from policykd.classification.snapshot import fingerprint
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.distillation.supervised.method import Outputs
from policykd.distillation.supervised.reaugkd import ReAugKD, as_embedding, mixed, neighbours_word
from policykd.memory.knowledge_base import KnowledgeBase

Score = Callable[[Tensor, Tensor], float]
"""How good probabilities ``(n, C)`` are for labels ``(n,)``; more is better."""


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
        word = neighbours_word(found.similarities, self.memory.values[found.rows], self.lookup.temperature)
        return mixed(logits.softmax(1), word.to(logits), self.lookup.beta).log()

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
            for batch in on_device(loader(data, BATCH, None, "evaluation"), device):
                content, rows = read(batch)
                if own_rows and rows is None:
                    raise PolicyKDError("data: own_rows needs arrays or a data set, whose order is known")
                inputs, labels = adaptor(content)
                logits = self.answer(inputs, rows if own_rows else None)
                parts.append((logits, checked_labels(labels, logits)))
        if not parts:
            raise PolicyKDError("data: the evaluation data are empty")
        logits, labels = (torch.cat(column) for column in zip(*parts, strict=True))
        if own_rows and len(logits) != len(self.memory):
            raise PolicyKDError(
                f"data: own_rows says that these {len(logits)} examples are the {len(self.memory)} of the memory"
            )
        return logits, labels


@torch.no_grad()
def build_memory(distiller: Distiller, data: Any, **options: Any) -> KnowledgeBase:
    """Ask the teacher once, in eval mode, about every example: projected embeddings and probabilities.

    Args:
        distiller: a trained distiller of the method ``reaugkd``.
        data: its training data, or other examples; rows of the memory are in the order of the data set.
        options: of ``KnowledgeBase``: ``index``, ``device``, ``effort``.

    Raises:
        PolicyKDError: it is a distiller of another method, or has not been trained, or there are no data.
    """
    method, teacher = _trained(distiller)
    paths = distiller.config.feature_paths[1]
    keys, values, order = [], [], []
    with evaluating(teacher, method), FeatureReader(teacher, paths, "teacher") as reader:
        for batch in on_device(loader(data, BATCH, None, "knowledge base"), distiller.device):
            content, rows = read(batch)
            inputs, _ = distiller.adaptor(content)
            logits = call(teacher, inputs).float()
            keys.append(method.keys(Outputs(logits, tuple(f.float() for f in reader.take()))).cpu())
            values.append(logits.softmax(1).cpu())
            order.append(rows)
    if not keys:
        raise PolicyKDError("data: the knowledge base's data are empty")
    memory = KnowledgeBase(keys[0].shape[1], values[0].shape[1], memory_fingerprint(distiller), **options)
    known = [rows for rows in order if rows is not None]
    places = torch.cat(known).argsort().cpu() if len(known) == len(order) else slice(None)  # a loader may shuffle
    memory.add(torch.cat(keys)[places], torch.cat(values)[places])
    return memory


def memory_fingerprint(distiller: Distiller) -> str:
    """What a memory must carry to be this student's: a digest of teacher and projection."""
    method, teacher = _trained(distiller)
    return fingerprint(nn.ModuleList([teacher, method.projection])) or ""


def with_memory(distiller: Distiller, memory: KnowledgeBase, lookup: Lookup | None = None) -> Retrieval:
    """A distiller's student with its memory.

    Raises:
        PolicyKDError: the memory is of another teacher, or of another projection.
    """
    memory.check_teacher(memory_fingerprint(distiller))
    return Retrieval(distiller.student, memory, distiller.config.feature_paths[0][0], lookup)


def with_retrieval(distiller: Distiller, train: Any, validation: Any, **options: Any) -> Retrieval:
    """A distiller's student with a memory of the training data, used as is best on the validation data."""
    retrieval = with_memory(distiller, build_memory(distiller, train, **options))
    return choose(retrieval, validation, distiller.adaptor)


def mean_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Mean log-probability of the label: smoother on few examples than accuracy."""
    return -metrics(probabilities.log(), labels)["nll"]


@torch.no_grad()
def choose(
    retrieval: Retrieval,
    validation: Any,
    adaptor: Adaptor = split_batch,
    *,
    ks: Sequence[int] = (1, 5, 10, 20, 50),
    temperatures: Sequence[float] = (0.05, 0.1, 0.2),
    betas: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    score: Score = mean_log_likelihood,
) -> Retrieval:
    """The same student and memory with the K, temperature and beta that score best on validation data.

    The student runs once and the memory is searched once. Among equals the larger beta wins.

    Raises:
        PolicyKDError: there are no labelled validation data.
    """
    device, answers = next(retrieval.student.parameters()).device, []
    with evaluating(retrieval.student):
        for batch in on_device(loader(validation, BATCH, None, "validation"), device):
            inputs, labels = adaptor(read(batch).content)
            logits, queries = retrieval.own_answer(inputs)
            answers.append((logits, queries, checked_labels(labels, logits)))
    logits, queries, labels = (torch.cat(column) for column in zip(*answers, strict=True))
    known, memory = labels >= 0, retrieval.memory
    if not known.any():
        raise PolicyKDError("retrieval: beta, K and temperature are chosen on labelled validation data")
    own, queries, labels = logits[known].softmax(1), queries[known], labels[known]
    counts = [k for k in ks if k <= len(memory)] or [len(memory)]
    found = memory.search(queries, max(counts))
    values = memory.values[found.rows]
    best, most = Lookup(counts[0], temperatures[0], 1.0), (float("-inf"), 1.0)
    for k in counts:
        for temperature in temperatures:
            word = neighbours_word(found.similarities[:, :k], values[:, :k], temperature).to(own)
            for beta in betas:
                value = score(mixed(own, word, beta), labels)
                if (value, beta) > most:
                    best, most = Lookup(k, temperature, beta), (value, beta)
    return Retrieval(retrieval.student, memory, retrieval.embedding, best)


def _trained(distiller: Distiller) -> tuple[ReAugKD, nn.Module]:
    """The method, built by now, and the teacher."""
    if not isinstance(distiller.method, ReAugKD) or distiller.teacher is None:
        raise PolicyKDError(
            f"retrieval: needs a distiller of the method reaugkd after fit(), this one is of {distiller.method_name}"
        )
    return distiller.method, distiller.teacher
