"""A knowledge base of a teacher's outputs, searched by similarity: the memory of retrieval-augmented students.

In ReAugKD (Zhang et al. 2023) the teacher's embeddings are keys and its soft labels are values. Search is exact, by
blockwise matrix products; or FAISS scans an 8-bit copy of the keys, and the best are re-ranked exactly; or FAISS
follows an HNSW graph (Malkov & Yashunin 2018).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.extras import import_extra
from policykd.core.fields import require
from policykd.core.files import as_path, checkpoint_path
from policykd.memory.approximate import Graph, Scan

QUERIES, CELLS = 1024, 2**24
"""Queries per block of a search, and similarities per block of an exact one (64 MB)."""
Index = Literal["exact", "int8", "hnsw"]
Metric = Literal["cosine", "euclidean"]


class Neighbours(NamedTuple):
    """Nearest keys of each query, the most similar first."""

    similarities: Tensor
    """Cosines, or negative Euclidean distances, ``(B, K)``; -inf where an approximate search found fewer."""
    rows: Tensor
    """Row indices in the memory ``(B, K)``."""


class KnowledgeBase:
    """Keys and values, one row per example: embeddings and probabilities, or states and actions.

    Args:
        width: length d of a key.
        classes: length C of a value.
        teacher: fingerprint of the teacher; a memory of another teacher is refused in use.
        index: "exact"; "int8", several times faster for few queries, finds the same rows, or others as near to within
            about 0.001, and takes a quarter of the keys' size in addition; "hnsw", for very many clustered keys, takes
            one and a half times their size in addition. Both need ``policykd[retrieval]`` and are built at the first
            search after rows have changed ("hnsw" adds new rows incrementally).
        device: device of keys and values; "int8" and "hnsw" search on the CPU.
        effort: HNSW's efSearch, the number of candidates, at least twice the neighbours requested. A higher value is
            slower and more accurate.
        metric: "cosine", with keys normalised to length 1; or "euclidean", only with the index "exact". Distances are
            computed by a matrix product, so keys should be centred around 0.
        probabilities: whether values must be probabilities, or any finite numbers such as actions.

    Raises:
        PolicyKDError: the index or metric is unknown, or they cannot be combined.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        teacher: str,
        *,
        index: Index = "exact",
        device: torch.device | str = "cpu",
        effort: int = 128,
        metric: Metric = "cosine",
        probabilities: bool = True,
    ) -> None:
        if index not in get_args(Index):
            raise PolicyKDError(f'knowledge base: index={index!r} is unknown: use "exact", "int8" or "hnsw"')
        if metric not in get_args(Metric) or (metric == "euclidean" and index != "exact"):
            raise PolicyKDError(
                f'knowledge base: metric={metric!r} with index={index!r}: use "cosine", or "euclidean" with "exact"'
            )
        if index != "exact":
            import_extra("faiss", "retrieval")
        require(effort > 0, "effort", effort, "must be positive")
        self.teacher, self.index, self.effort = teacher, index, effort
        self.metric, self.probabilities = metric, probabilities
        self.keys = torch.empty(0, width, device=device)
        """``(M, d)`` float32, normalised to length 1 for the cosine metric."""
        self.values = torch.empty(0, classes, device=device)
        """``(M, C)`` float32, the teacher's outputs."""
        self._scan: Scan | None = None
        self._graph: Graph | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, in memory and on disk, without FAISS's index."""
        return self.keys.nbytes + self.values.nbytes

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Append rows.

        Args:
            keys: ``(N, d)``; normalised here for the cosine metric.
            values: probabilities, or finite numbers, ``(N, C)``.

        Raises:
            PolicyKDError: widths differ, a key is not finite, or values are invalid.
        """
        width, classes = self.keys.shape[1], self.values.shape[1]
        if keys.shape != (len(values), width) or values.shape != (len(keys), classes):
            raise PolicyKDError(
                f"knowledge base: needs keys (N, {width}) and values (N, {classes}), "
                f"got {tuple(keys.shape)} and {tuple(values.shape)}"
            )
        ready = self._ready(keys, "keys")
        values = values.detach().to(self.values, copy=True)
        if not self.probabilities and not values.isfinite().all():
            raise PolicyKDError("knowledge base: the values hold NaN or infinity")
        if self.probabilities and not ((values >= 0).all() and ((values.sum(1) - 1).abs() < 1e-3).all()):
            raise PolicyKDError("knowledge base: the values must be probabilities: no NaN, none below 0, rows of sum 1")
        self._scan = None
        if self._graph is not None:
            self._graph.add(ready)
        # The first rows are not copied, since they may take most of the machine's memory.
        self.keys, self.values = (
            torch.cat((old, new)) if len(old) else new for old, new in ((self.keys, ready), (self.values, values))
        )

    def remove(self, rows: Tensor) -> None:
        """Delete rows ``(N,)``; later rows move up.

        Raises:
            PolicyKDError: a row does not exist.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise PolicyKDError(f"knowledge base: rows to remove must lie in [0, {len(self)})")
        keep = torch.ones(len(self), dtype=torch.bool, device=self.keys.device)
        keep[rows.to(keep.device)] = False
        self.keys, self.values = self.keys[keep], self.values[keep]
        self._scan = self._graph = None

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> Neighbours:
        """Find the K most similar rows of every query.

        Args:
            queries: ``(B, d)``; normalised here for the cosine metric.
            k: number of neighbours K.
            exclude: one row ``(B,)`` per query to skip, such as the query's own if it is in the memory.

        Raises:
            PolicyKDError: K exceeds the size of the memory, the width differs, or a query is not finite.
        """
        room = len(self) - (exclude is not None)
        if not 1 <= k <= room:
            raise PolicyKDError(
                f"knowledge base: k={k} neighbours, but there are {room} rows: choose k from 1 to {room}"
            )
        if queries.ndim != 2 or queries.shape[1] != self.keys.shape[1]:
            raise PolicyKDError(
                f"knowledge base: queries must be (B, {self.keys.shape[1]}), as its keys, got {tuple(queries.shape)}"
            )
        with torch.autocast(self.keys.device.type, enabled=False):  # ranks in float32 even inside autocast
            queries = self._ready(queries, "queries")
            parts = [self._search(part, k + (exclude is not None)) for part in queries.split(QUERIES)]
        similarities, rows = (torch.cat(column) for column in zip(*parts, strict=True))
        if exclude is not None:
            own = rows == exclude.to(rows)[:, None]
            similarities, places = similarities.masked_fill(own, -torch.inf).topk(k)
            rows = rows.gather(1, places)
        return Neighbours(similarities, rows)

    def save(self, path: str | Path) -> None:
        """Save keys, values, the teacher's fingerprint and the metric to ``path``, atomically.

        The suffix ``.safetensors`` is added if it has none.
        """
        kind = {"teacher": self.teacher, "metric": self.metric, "probabilities": self.probabilities}
        checkpoint.save(checkpoint_path(path), {"keys": self.keys, "values": self.values, **kind})

    @classmethod
    def load(
        cls,
        path: str | Path,
        teacher: str | None = None,
        *,
        index: Index = "exact",
        device: torch.device | str = "cpu",
        effort: int = 128,
    ) -> KnowledgeBase:
        """Load a saved memory; on the CPU the file is memory-mapped.

        Args:
            path: a file written by ``save``.
            teacher: the fingerprint it must have; None accepts any.
            index: as in the constructor.
            device: as in the constructor.
            effort: as in the constructor.

        Raises:
            PolicyKDError: the file is missing, foreign or damaged, or the memory is of another teacher.
        """
        found = checkpoint.load(as_path("load", path))
        keys, values = (_table(found.get(part)) for part in ("keys", "values"))
        name = found.get("teacher")
        if keys is None or values is None or len(keys) != len(values) or not isinstance(name, str):
            raise PolicyKDError(f"knowledge base: {path} is not a knowledge base, or damaged")
        memory = cls(
            keys.shape[1],
            values.shape[1],
            name,
            index=index,
            device=device,
            effort=effort,
            metric=found.get("metric", "cosine"),  # missing in older files, which hold probabilities
            probabilities=found.get("probabilities", True) is True,
        )
        memory.keys, memory.values = keys.to(device), values.to(device)
        if teacher is not None:
            memory.check_teacher(teacher)
        return memory

    def check_teacher(self, teacher: str) -> None:
        """Refuse a memory of another teacher.

        Raises:
            PolicyKDError: the fingerprint differs.
        """
        if self.teacher != teacher:
            raise PolicyKDError(
                f"knowledge base: belongs to another teacher (fingerprint {self.teacher[:8]}, needed {teacher[:8]}): "
                "build it again with this one"
            )

    def _ready(self, vectors: Tensor, what: str) -> Tensor:
        """Copy of keys or queries ``(N, d)`` in the form that is compared."""
        vectors = vectors.detach().to(self.keys)
        unit = _unit(vectors, what)
        return unit if self.metric == "cosine" else vectors.clone()

    def _similarities(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Similarities of every query with every key, ``(B, M)``."""
        return queries @ keys.T if self.metric == "cosine" else -torch.cdist(queries, keys)

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Similarities and rows ``(B, K)`` of at most ``QUERIES`` queries."""
        if self.index == "hnsw":
            self._graph = self._graph or Graph(self.keys)
            return self._graph.search(queries, k, self.effort)
        if self.index == "exact":
            return self._search_all(queries, k)
        self._scan = self._scan or Scan(self.keys)
        return self._scan.search(self.keys, queries, k)

    def _search_all(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Exact search over blocks of keys, merging their best rows."""
        best = queries.new_empty(len(queries), 0)
        rows = best.long()
        block = max(1, CELLS // max(1, len(queries)))
        for start in range(0, len(self), block):
            similarities = self._similarities(queries, self.keys[start : start + block])
            top, places = similarities.topk(min(k, similarities.shape[1]))
            best, rows = torch.cat((best, top), 1), torch.cat((rows, places + start), 1)
            if start:
                best, places = best.topk(min(k, best.shape[1]))
                rows = rows.gather(1, places)
        return best, rows


def _table(value: Any) -> Tensor | None:
    """The value if it is a float32 matrix, else None."""
    return value if isinstance(value, Tensor) and value.ndim == 2 and value.dtype == torch.float32 else None


def _unit(vectors: Tensor, what: str) -> Tensor:
    """Normalise vectors ``(N, d)`` to length 1; zero vectors stay zero."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    if len(lengths) and not math.isfinite(lengths.amax()):  # NaN is the largest, too
        bad = int((~lengths.isfinite()).sum())
        raise PolicyKDError(f"knowledge base: {bad} of {len(vectors)} {what} hold NaN or infinity")
    return vectors / lengths.clamp_min(1e-12)
