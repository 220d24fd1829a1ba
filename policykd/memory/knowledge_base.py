"""What a teacher said of the examples it has seen, looked up by similarity: the memory of a student that retrieves.

Zhang et al. 2023 (ReAugKD): the teacher's embeddings are keys, its soft labels are values. Search is exact, by blocks
of a matrix product, or approximate by FAISS's HNSW graph (Malkov & Yashunin 2018).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from policykd import checkpoint
from policykd.errors import PolicyKDError
from policykd.extras import needs

QUERIES, CELLS = 1024, 2**24
"""Exact search looks at so many queries and at so many similarities at a time (64 MB)."""
LINKS, BUILD_EFFORT, SEARCH_EFFORT = 32, 80, 128
"""HNSW's M, efConstruction and efSearch (at least twice the neighbours asked for)."""


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
        index: "exact", or "hnsw" (needs ``policykd[retrieval]``). The graph is built at the first search after
            loading or removing rows, and takes the keys' size again.
        device: where it lives; "hnsw" searches on the CPU.
    """

    def __init__(
        self,
        width: int,
        classes: int,
        teacher: str,
        *,
        index: Literal["exact", "hnsw"] = "exact",
        device: torch.device | str = "cpu",
    ) -> None:
        if index not in ("exact", "hnsw"):
            raise PolicyKDError(f'knowledge base: index={index!r} is unknown: use "exact" or "hnsw"')
        if index == "hnsw":
            needs("faiss", "retrieval")
        self.teacher, self.index = teacher, index
        self.keys = torch.empty(0, width, device=device)
        """``(M, d)`` float32, each of length 1."""
        self.values = torch.empty(0, classes, device=device)
        """``(M, C)`` float32, the teacher's probabilities."""
        self._graph: Any = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, in memory as on disk; an HNSW graph comes on top."""
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
        if self._graph is not None:
            self._graph.add(unit.numpy())
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
        self.keys, self.values, self._graph = self.keys[keep], self.values[keep], None

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
        search = self._search_graph if self.index == "hnsw" else self._search_all
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
        cls, path: str | Path, teacher: str | None = None, *, index: Literal["exact", "hnsw"] = "exact"
    ) -> KnowledgeBase:
        """Map a saved memory: the file's pages are read as a search needs them.

        Args:
            path: what ``save`` wrote.
            teacher: the fingerprint that it must have; None takes any.
            index: as in the constructor.

        Raises:
            PolicyKDError: no such file, a foreign one, or a memory of another teacher.
        """
        loaded = checkpoint.load(Path(path))
        if not {"keys", "values", "teacher"} <= loaded.keys():
            raise PolicyKDError(f"knowledge base: {path} holds none")
        memory = cls(loaded["keys"].shape[1], loaded["values"].shape[1], loaded["teacher"], index=index)
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

    def _search_graph(self, queries: Tensor, k: int) -> Neighbours:
        faiss = needs("faiss", "retrieval")
        if self._graph is None:
            self._graph = faiss.IndexHNSWFlat(self.keys.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
            self._graph.hnsw.efConstruction = BUILD_EFFORT
            self._graph.add(self.keys.numpy())
        self._graph.hnsw.efSearch = max(SEARCH_EFFORT, 2 * k)
        similarities, rows = (torch.from_numpy(found) for found in self._graph.search(queries.numpy(), k))
        return Neighbours(similarities.masked_fill(rows < 0, -torch.inf), rows.clamp_min(0))


def _unit(vectors: Tensor, what: str) -> Tensor:
    """Vectors ``(N, d)`` divided by their lengths; zero stays zero."""
    lengths = vectors.norm(dim=1, keepdim=True)
    bad = (~lengths.isfinite()).sum()
    if bad:
        raise PolicyKDError(f"knowledge base: {int(bad)} of {len(vectors)} {what} hold NaN or infinity")
    return vectors / lengths.clamp_min(1e-12)
