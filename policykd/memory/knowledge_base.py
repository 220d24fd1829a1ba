"""What a teacher said of the examples it has seen, looked up by similarity: the memory of a student that retrieves.

Zhang et al. 2023 (ReAugKD): the teacher's embeddings are keys, its soft labels are values. Search is exact, by blocks
of a matrix product; or FAISS scans a copy of the keys in 8 bits, and the best of these are ranked by the keys
themselves; or FAISS follows an HNSW graph (Malkov & Yashunin 2018).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.extras import needs
from policykd.core.fields import require
from policykd.core.files import as_path, checkpoint_path
from policykd.memory.approximate import Graph, Scan

QUERIES, CELLS = 1024, 2**24
"""A search looks at so many queries, and an exact one at so many similarities at a time (64 MB)."""
Index = Literal["exact", "int8", "hnsw"]
Metric = Literal["cosine", "euclidean"]


class Neighbours(NamedTuple):
    """The keys most like some queries, the most similar first."""

    similarities: Tensor
    """Cosines, or Euclidean distances times -1, ``(B, K)``; -inf where an approximate search found fewer."""
    rows: Tensor
    """Rows of the memory ``(B, K)``."""


class KnowledgeBase:
    """Keys and their values, one row per example: embeddings and probabilities, or states and actions.

    Args:
        width: length d of a key.
        classes: length C of a value.
        teacher: fingerprint of what made the keys; a memory of another teacher is refused where it is used.
        index: "exact"; "int8", for few queries several times faster, finds the same rows, or others as near to about
            0.001, and takes a quarter of the keys' size again; or "hnsw", for very many keys that lie in clusters,
            which takes half more than their size again. Both need ``policykd[retrieval]`` and are built at the first
            search after rows have changed ("hnsw" takes new rows as they come).
        device: where it lives; "int8" and "hnsw" search on the CPU.
        effort: HNSW's efSearch, candidates it follows; at least twice the neighbours asked for. More is slower and
            misses less.
        metric: what is near: "cosine", where keys are kept at length 1; or "euclidean", with the index "exact" alone.
            Distances come from a matrix product, so keys should lie around 0.
        probabilities: whether values must be probabilities; else finite numbers will do, such as actions.

    Raises:
        PolicyKDError: an index or a metric that there is not, or not together.
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
            needs("faiss", "retrieval")
        require(effort > 0, "effort", effort, "must be positive")
        self.teacher, self.index, self.effort = teacher, index, effort
        self.metric, self.probabilities = metric, probabilities
        self.keys = torch.empty(0, width, device=device)
        """``(M, d)`` float32, each of length 1 where the metric is the cosine."""
        self.values = torch.empty(0, classes, device=device)
        """``(M, C)`` float32, what the teacher said."""
        self._scan: Scan | None = None
        self._graph: Graph | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, in memory as on disk; what FAISS builds comes on top."""
        return self.keys.nbytes + self.values.nbytes

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Append rows.

        Args:
            keys: ``(N, d)`` of any length; for the cosine they are divided by it.
            values: probabilities, or finite numbers, ``(N, C)``.

        Raises:
            PolicyKDError: other widths, a key that is not finite, or values that are not what they must be.
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
        # Without a copy of the first rows: they may be most of the memory there is.
        self.keys, self.values = (
            torch.cat((old, new)) if len(old) else new for old, new in ((self.keys, ready), (self.values, values))
        )

    def remove(self, rows: Tensor) -> None:
        """Forget some rows ``(N,)``; those after them move up.

        Raises:
            PolicyKDError: there is no such row.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise PolicyKDError(f"knowledge base: rows to remove must lie in [0, {len(self)})")
        keep = torch.ones(len(self), dtype=torch.bool, device=self.keys.device)
        keep[rows.to(keep.device)] = False
        self.keys, self.values = self.keys[keep], self.values[keep]
        self._scan = self._graph = None

    def search(self, queries: Tensor, k: int, exclude: Tensor | None = None) -> Neighbours:
        """The K most similar rows of every query.

        Args:
            queries: ``(B, d)`` of any length.
            k: K.
            exclude: one row ``(B,)`` per query that it shall not find: itself, where the query is an example in the
                memory.

        Raises:
            PolicyKDError: K is larger than the memory, another width, or a query that is not finite.
        """
        room = len(self) - (exclude is not None)
        if not 1 <= k <= room:
            raise PolicyKDError(f"knowledge base: k={k} neighbours of {room} rows: choose k from 1 to {room}")
        if queries.ndim != 2 or queries.shape[1] != self.keys.shape[1]:
            raise PolicyKDError(
                f"knowledge base: queries must be (B, {self.keys.shape[1]}), as its keys, got {tuple(queries.shape)}"
            )
        with torch.autocast(self.keys.device.type, enabled=False):  # ranks in float32 wherever it is called
            queries = self._ready(queries, "queries")
            parts = [self._search(part, k + (exclude is not None)) for part in queries.split(QUERIES)]
        similarities, rows = (torch.cat(column) for column in zip(*parts, strict=True))
        if exclude is not None:
            own = rows == exclude.to(rows)[:, None]
            similarities, places = similarities.masked_fill(own, -torch.inf).topk(k)
            rows = rows.gather(1, places)
        return Neighbours(similarities, rows)

    def save(self, path: str | Path) -> None:
        """Write keys, values, the teacher's fingerprint and the metric to ``path``, whole or not at all.

        It ends in ``.safetensors`` if it has no ending.
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
        """Map a saved memory: on the CPU the file's pages are read as a search needs them.

        Args:
            path: what ``save`` wrote.
            teacher: the fingerprint that it must have; None takes any.
            index: as in the constructor.
            device: as in the constructor.
            effort: as in the constructor.

        Raises:
            PolicyKDError: no such file, a foreign or damaged one, or a memory of another teacher.
        """
        found = checkpoint.load(as_path("load", path))
        keys, values = (_table(found.get(part)) for part in ("keys", "values"))
        name = found.get("teacher")
        if keys is None or values is None or len(keys) != len(values) or not isinstance(name, str):
            raise PolicyKDError(f"knowledge base: {path} holds none, or a damaged one")
        memory = cls(
            keys.shape[1],
            values.shape[1],
            name,
            index=index,
            device=device,
            effort=effort,
            metric=found.get("metric", "cosine"),  # older files do not say, and hold probabilities
            probabilities=found.get("probabilities", True) is True,
        )
        memory.keys, memory.values = keys.to(device), values.to(device)
        if teacher is not None:
            memory.check_teacher(teacher)
        return memory

    def check_teacher(self, teacher: str) -> None:
        """Refuse to answer for another teacher.

        Raises:
            PolicyKDError: the fingerprint differs.
        """
        if self.teacher != teacher:
            raise PolicyKDError(
                f"knowledge base: it is of another teacher (fingerprint {self.teacher[:8]}, needed {teacher[:8]}): "
                "build it again with this one"
            )

    def _ready(self, vectors: Tensor, what: str) -> Tensor:
        """A copy of keys or queries ``(N, d)`` as they are compared."""
        vectors = vectors.detach().to(self.keys)
        unit = _unit(vectors, what)
        return unit if self.metric == "cosine" else vectors.clone()

    def _similarities(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Of every query with every key, ``(B, M)``."""
        return queries @ keys.T if self.metric == "cosine" else -torch.cdist(queries, keys)

    def _search(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Similarities and rows ``(B, K)`` for at most ``QUERIES`` queries of length 1."""
        if self.index == "hnsw":
            self._graph = self._graph or Graph(self.keys)
            return self._graph.search(queries, k, self.effort)
        if self.index == "exact":
            return self._search_all(queries, k)
        self._scan = self._scan or Scan(self.keys)
        return self._scan.search(self.keys, queries, k)

    def _search_all(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The best of every block of keys, merged as they come."""
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
    """A float32 matrix as it is, nothing else."""
    return value if isinstance(value, Tensor) and value.ndim == 2 and value.dtype == torch.float32 else None


def _unit(vectors: Tensor, what: str) -> Tensor:
    """Vectors ``(N, d)`` divided by their lengths; zero stays zero."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    if len(lengths) and not math.isfinite(lengths.amax()):  # NaN is the largest, too
        bad = int((~lengths.isfinite()).sum())
        raise PolicyKDError(f"knowledge base: {bad} of {len(vectors)} {what} hold NaN or infinity")
    return vectors / lengths.clamp_min(1e-12)
