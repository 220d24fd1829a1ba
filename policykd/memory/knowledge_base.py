"""What a teacher said of the examples it has seen, looked up by similarity: the memory of a student that retrieves.

Zhang et al. 2023 (ReAugKD): the teacher's embeddings are keys, its soft labels are values. Search is exact, by blocks
of a matrix product; or FAISS scans a copy of the keys in 8 bits, and the best of these are ranked by the keys
themselves; or FAISS follows an HNSW graph (Malkov & Yashunin 2018).
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from policykd import checkpoint
from policykd.errors import PolicyKDError
from policykd.extras import needs
from policykd.settings import require

QUERIES, CELLS = 1024, 2**24
"""Exact search looks at so many queries and at so many similarities at a time (64 MB)."""
LINKS, BUILD_EFFORT = 32, 80
"""HNSW's M and efConstruction."""
CANDIDATES = 2
"""The scan in 8 bits hands on so many times the neighbours asked for, and ten more."""
ROWS = 2**16
"""Keys that are made 8 bits long at a time."""
Index = Literal["exact", "int8", "hnsw"]


class Neighbours(NamedTuple):
    """The keys most like some queries, the most similar first."""

    similarities: Tensor
    """Cosines ``(B, K)``; -inf where an approximate search found fewer."""
    rows: Tensor
    """Rows of the memory ``(B, K)``."""


class KnowledgeBase:
    """Keys of length 1 and their values, one row per example.

    Args:
        width: length d of a key.
        classes: length C of a value.
        teacher: fingerprint of what made the keys; a memory of another teacher is refused where it is used.
        index: "exact"; "int8", which finds the same rows in a fraction of the time for few queries, and takes a quarter
            of the keys' size again; or "hnsw", for millions of keys that lie in clusters, which takes their size again.
            Both need ``policykd[retrieval]`` and are built at the first search after rows have changed ("hnsw" takes
            new rows as they come).
        device: where it lives; "int8" and "hnsw" search on the CPU.
        effort: HNSW's efSearch, candidates it follows; at least twice the neighbours asked for. More is slower and
            misses less.
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
    ) -> None:
        if index not in get_args(Index):
            raise PolicyKDError(f'knowledge base: index={index!r} is unknown: use "exact", "int8" or "hnsw"')
        if index != "exact":
            needs("faiss", "retrieval")
        require(effort > 0, "effort", effort, "must be positive")
        self.teacher, self.index, self.effort = teacher, index, effort
        self.keys = torch.empty(0, width, device=device)
        """``(M, d)`` float32, each of length 1."""
        self.values = torch.empty(0, classes, device=device)
        """``(M, C)`` float32, the teacher's probabilities."""
        self._faiss: Any = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, in memory as on disk; what FAISS builds comes on top."""
        return self.keys.nbytes + self.values.nbytes

    def add(self, keys: Tensor, values: Tensor) -> None:
        """Append rows.

        Args:
            keys: ``(N, d)`` of any length; they are divided by it.
            values: probabilities ``(N, C)``.

        Raises:
            PolicyKDError: other widths, or a number that is not finite.
        """
        width, classes = self.keys.shape[1], self.values.shape[1]
        if keys.shape != (len(values), width) or values.shape != (len(keys), classes):
            raise PolicyKDError(
                f"knowledge base: needs keys (N, {width}) and values (N, {classes}), "
                f"got {tuple(keys.shape)} and {tuple(values.shape)}"
            )
        unit = _unit(keys.detach().to(self.keys), "keys")
        values = values.detach().to(self.values)
        if not values.sum(1).isfinite().all():
            raise PolicyKDError("knowledge base: the values hold NaN or infinity: look at the teacher's outputs")
        if self._faiss is not None and self.index == "hnsw":
            self._faiss.add(unit.cpu().numpy())
        else:
            self._faiss = None
        # Without a copy of the first rows: they may be most of the memory there is.
        self.keys, self.values = (
            torch.cat((old, new)) if len(old) else new for old, new in ((self.keys, unit), (self.values, values))
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
        self.keys, self.values, self._faiss = self.keys[keep], self.values[keep], None

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
        queries = _unit(queries.detach().to(self.keys), "queries")
        search = {"exact": self._search_all, "int8": self._search_scan, "hnsw": self._search_graph}[self.index]
        if exclude is None:
            return search(queries, k)
        found = search(queries, k + 1)
        own = found.rows == exclude.to(found.rows)[:, None]
        similarities, places = found.similarities.masked_fill(own, -torch.inf).topk(k)
        return Neighbours(similarities, found.rows.gather(1, places))

    def save(self, path: str | Path) -> None:
        """Write keys, values and the teacher's fingerprint as safetensors, whole or not at all."""
        checkpoint.save(Path(path), {"keys": self.keys, "values": self.values, "teacher": self.teacher})

    @classmethod
    def load(
        cls, path: str | Path, teacher: str | None = None, *, index: Index = "exact", effort: int = 128
    ) -> KnowledgeBase:
        """Map a saved memory: the file's pages are read as a search needs them.

        Args:
            path: what ``save`` wrote.
            teacher: the fingerprint that it must have; None takes any.
            index: as in the constructor.
            effort: as in the constructor.

        Raises:
            PolicyKDError: no such file, a foreign one, or a memory of another teacher.
        """
        loaded = checkpoint.load(Path(path))
        if not {"keys", "values", "teacher"} <= loaded.keys():
            raise PolicyKDError(f"knowledge base: {path} holds none")
        memory = cls(loaded["keys"].shape[1], loaded["values"].shape[1], loaded["teacher"], index=index, effort=effort)
        memory.keys, memory.values = loaded["keys"], loaded["values"]
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

    def _search_all(self, queries: Tensor, k: int) -> Neighbours:
        parts = [self._search_blocks(part, k) for part in queries.split(QUERIES)]
        return Neighbours(*(torch.cat(column) for column in zip(*parts, strict=True)))

    def _search_blocks(self, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """The best of every block of keys, merged as they come."""
        best = queries.new_empty(len(queries), 0)
        rows = best.long()
        block = max(1, CELLS // len(queries))
        for start in range(0, len(self), block):
            similarities = queries @ self.keys[start : start + block].T
            top, places = similarities.topk(min(k, similarities.shape[1]))
            best, rows = torch.cat((best, top), 1), torch.cat((rows, places + start), 1)
            if start:
                best, places = best.topk(min(k, best.shape[1]))
                rows = rows.gather(1, places)
        return best, rows

    def _search_scan(self, queries: Tensor, k: int) -> Neighbours:
        """The best of a scan in 8 bits, ranked by their keys."""
        if self._faiss is None:
            faiss = needs("faiss", "retrieval")
            kind = faiss.ScalarQuantizer.QT_8bit_direct_signed
            self._faiss = faiss.IndexScalarQuantizer(self.keys.shape[1], kind, faiss.METRIC_INNER_PRODUCT)
            largest = self.keys.abs().max()
            for part in self.keys.split(ROWS):
                self._faiss.add(_eight_bits(part, largest))
        count = min(len(self), CANDIDATES * k + 10)
        _, candidates = self._faiss.search(_eight_bits(queries, queries.abs().amax(1, keepdim=True)), count)
        rows = torch.from_numpy(candidates).to(self.keys.device)
        similarities, places = torch.bmm(self.keys[rows], queries[:, :, None])[:, :, 0].topk(k)
        return Neighbours(similarities, rows.gather(1, places))

    def _search_graph(self, queries: Tensor, k: int) -> Neighbours:
        if self._faiss is None:
            faiss = needs("faiss", "retrieval")
            self._faiss = faiss.IndexHNSWFlat(self.keys.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
            self._faiss.hnsw.efConstruction = BUILD_EFFORT
            self._faiss.add(self.keys.cpu().numpy())
        self._faiss.hnsw.efSearch = max(self.effort, 2 * k)
        found = self._faiss.search(queries.cpu().numpy(), k)
        similarities, rows = (torch.from_numpy(part).to(self.keys.device) for part in found)
        return Neighbours(similarities.masked_fill(rows < 0, -torch.inf), rows.clamp_min(0))


def _eight_bits(vectors: Tensor, largest: Tensor) -> np.ndarray:
    """Numbers from -127 to 127, as FAISS's 8-bit codes take them: a scale does not change who is nearest."""
    return (vectors * (127 / largest.clamp_min(1e-12))).round().cpu().numpy()


def _unit(vectors: Tensor, what: str) -> Tensor:
    """Vectors ``(N, d)`` divided by their lengths; zero stays zero."""
    lengths = torch.linalg.vector_norm(vectors, dim=1, keepdim=True)
    if len(lengths) and not math.isfinite(lengths.amax()):  # NaN is the largest, too
        bad = int((~lengths.isfinite()).sum())
        raise PolicyKDError(f"knowledge base: {bad} of {len(vectors)} {what} hold NaN or infinity")
    return vectors / lengths.clamp_min(1e-12)
