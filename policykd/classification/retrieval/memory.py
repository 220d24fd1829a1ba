"""The knowledge base of a ReAugKD student, and the choice of its lookup settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from policykd.classification.data.batches import Adaptor, checked_labels, split_batch
from policykd.classification.distiller import Distiller
from policykd.classification.measures.evaluation import examples
from policykd.classification.measures.metrics import metrics
from policykd.classification.outputs import FeatureReader, evaluating, try_call
from policykd.classification.retrieval.student import Lookup, Retrieval
from policykd.classification.state import fingerprint
from policykd.core.errors import PolicyKDError
from policykd.distillation.supervised.method import Outputs
from policykd.distillation.supervised.reaugkd import ReAugKD, mixed, neighbours_mean
from policykd.memory.knowledge_base import KnowledgeBase

Score = Callable[[Tensor, Tensor], float]
"""Score of probabilities ``(n, C)`` for labels ``(n,)``; higher is better."""


@torch.no_grad()
def build_memory(distiller: Distiller, data: Any, **options: Any) -> KnowledgeBase:
    """Store the teacher's projected embeddings and probabilities of every example, computed in eval mode.

    Args:
        distiller: a trained distiller with the method ``reaugkd``.
        data: its training data, or other examples; the memory's rows are in the order of the data set.
        options: options of ``KnowledgeBase``: ``index``, ``device``, ``effort``.

    Raises:
        PolicyKDError: the distiller uses another method or is not trained, or the data are empty.
    """
    method, teacher = _trained(distiller)
    paths = distiller.config.feature_paths[1]
    keys, values, order = [], [], []
    with evaluating(teacher, method), FeatureReader(teacher, paths, "teacher") as reader:
        for inputs, _, rows in examples(data, distiller.adaptor, distiller.device, "knowledge base's"):
            with try_call("knowledge base's data", teacher, inputs):
                logits = distiller.teacher_logits(inputs)
            keys.append(method.keys(Outputs(logits, tuple(f.float() for f in reader.take()))).cpu())
            values.append(logits.softmax(1).cpu())
            order.append(rows)
    memory = KnowledgeBase(keys[0].shape[1], values[0].shape[1], memory_fingerprint(distiller), **options)
    known = [rows for rows in order if rows is not None]
    places = torch.cat(known).argsort().cpu() if len(known) == len(order) else slice(None)  # a loader may shuffle
    memory.add(torch.cat(keys)[places], torch.cat(values)[places])
    return memory


def memory_fingerprint(distiller: Distiller) -> str:
    """Digest of teacher and projection, which a memory must match."""
    method, teacher = _trained(distiller)
    return fingerprint(nn.ModuleList([teacher, method.projection])) or ""


def with_memory(distiller: Distiller, memory: KnowledgeBase, lookup: Lookup | None = None) -> Retrieval:
    """Combine a distiller's student with a memory.

    Raises:
        PolicyKDError: the memory is from another teacher or projection.
    """
    memory.check_teacher(memory_fingerprint(distiller))
    return Retrieval(distiller.student, memory, distiller.config.feature_paths[0][0], lookup)


def with_retrieval(distiller: Distiller, train: Any, validation: Any, **options: Any) -> Retrieval:
    """Combine a student with a memory of the training data, with lookup settings chosen on the validation data."""
    retrieval = with_memory(distiller, build_memory(distiller, train, **options))
    return choose(retrieval, validation, distiller.adaptor)


def mean_log_likelihood(probabilities: Tensor, labels: Tensor) -> float:
    """Mean log-probability of the label; smoother than accuracy on few examples."""
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
    """Choose the K, temperature and beta that score best on validation data.

    The student runs once and the memory is searched once. Ties go to the larger beta.

    Raises:
        PolicyKDError: the validation data have no labels.
    """
    device, answers = next(retrieval.student.parameters()).device, []
    with evaluating(retrieval.student):
        for inputs, labels, _ in examples(validation, adaptor, device, "validation"):
            with try_call("validation data", retrieval.student, inputs):
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
            mean = neighbours_mean(found.similarities[:, :k], values[:, :k], temperature).to(own)
            for beta in betas:
                value = score(mixed(own, mean, beta), labels)
                if (value, beta) > most:
                    best, most = Lookup(k, temperature, beta), (value, beta)
    return Retrieval(retrieval.student, memory, retrieval.embedding, best)


def _trained(distiller: Distiller) -> tuple[ReAugKD, nn.Module]:
    """The distiller's method and teacher; refuses untrained distillers."""
    if not isinstance(distiller.method, ReAugKD) or distiller.teacher is None:
        raise PolicyKDError(
            f"retrieval: needs a distiller with method reaugkd after fit(), this one has {distiller.method_name}"
        )
    return distiller.method, distiller.teacher
