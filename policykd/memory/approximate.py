"""FAISS indices of a knowledge base: an 8-bit scan and an HNSW graph, both on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from policykd.core.extras import import_extra

LINKS, BUILD_EFFORT = 32, 80
"""HNSW's M and efConstruction."""
CANDIDATES = 2
"""The 8-bit scan returns this many times the requested neighbours, plus ten, for re-ranking."""
ROWS = 2**16
"""Keys quantised at a time."""


class Scan:
    """A scan over keys quantised to 8 bits, a quarter of the memory traffic that bounds a search for one query.

    The best candidates are re-ranked by the exact keys. Keys closer together than a quantisation step, as in a
    collapsed class, may be confused: those found are as near, to within about a step.

    Args:
        keys: ``(M, d)`` of length 1.
    """

    def __init__(self, keys: Tensor) -> None:
        faiss = import_extra("faiss", "retrieval")
        self.codes = faiss.IndexScalarQuantizer(
            keys.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        largest = keys.abs().max()
        for part in keys.split(ROWS):
            self.codes.add(_eight_bits(part, largest))

    def search(self, keys: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Similarities and rows ``(B, K)``.

        Args:
            keys: the keys given to the constructor.
            queries: ``(B, d)`` of length 1.
            k: number of neighbours K.
        """
        count = min(len(keys), CANDIDATES * k + 10)
        _, found = self.codes.search(_eight_bits(queries, queries.abs().amax(1, keepdim=True)), count)
        rows = torch.from_numpy(found).to(keys.device)
        similarities, places = torch.bmm(keys[rows], queries[:, :, None])[:, :, 0].topk(k)
        return similarities, rows.gather(1, places)


def _eight_bits(vectors: Tensor, largest: Tensor) -> np.ndarray:
    """Quantise to -127 to 127 for FAISS's 8-bit codes; scaling does not change the ranking."""
    return (vectors * (127 / largest.clamp_min(1e-12))).round().cpu().numpy()


class Graph:
    """A hierarchical navigable small-world graph (HNSW, Malkov & Yashunin 2018).

    Args:
        keys: ``(M, d)`` of length 1.
    """

    def __init__(self, keys: Tensor) -> None:
        faiss = import_extra("faiss", "retrieval")
        self.index = faiss.IndexHNSWFlat(keys.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = BUILD_EFFORT
        self.add(keys)

    def add(self, keys: Tensor) -> None:
        """Append keys."""
        self.index.add(keys.cpu().numpy())

    def search(self, queries: Tensor, k: int, effort: int) -> tuple[Tensor, Tensor]:
        """Similarities and rows ``(B, K)``; -inf and row 0 for neighbours not found."""
        self.index.hnsw.efSearch = max(effort, 2 * k)
        found = self.index.search(queries.cpu().numpy(), k)
        similarities, rows = (torch.from_numpy(part).to(queries.device) for part in found)
        return similarities.masked_fill(rows < 0, -torch.inf), rows.clamp_min(0)
