"""FAISS behind a knowledge base: a scan of the keys in 8 bits, and a graph. Both search on the CPU."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from policykd.core.extras import needs

LINKS, BUILD_EFFORT = 32, 80
"""HNSW's M and efConstruction."""
CANDIDATES = 2
"""The scan in 8 bits hands on so many times the neighbours asked for, and ten more."""
ROWS = 2**16
"""Keys that are rounded at a time."""


class Scan:
    """The keys rounded to 8 bits: a quarter of the bytes, which is what a search for one query waits for.

    The best candidates are ranked by the keys themselves. Keys that lie closer together than a step of rounding, as in
    a class that was drawn into a point, may stand for one another: what is found is as near, to about a step.

    Args:
        keys: ``(M, d)`` of length 1.
    """

    def __init__(self, keys: Tensor) -> None:
        faiss = needs("faiss", "retrieval")
        self.codes = faiss.IndexScalarQuantizer(
            keys.shape[1], faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
        )
        largest = keys.abs().max()
        for part in keys.split(ROWS):
            self.codes.add(_eight_bits(part, largest))

    def search(self, keys: Tensor, queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Similarities and rows ``(B, K)``.

        Args:
            keys: those of the constructor.
            queries: ``(B, d)`` of length 1.
            k: K.
        """
        count = min(len(keys), CANDIDATES * k + 10)
        _, found = self.codes.search(_eight_bits(queries, queries.abs().amax(1, keepdim=True)), count)
        rows = torch.from_numpy(found).to(keys.device)
        similarities, places = torch.bmm(keys[rows], queries[:, :, None])[:, :, 0].topk(k)
        return similarities, rows.gather(1, places)


def _eight_bits(vectors: Tensor, largest: Tensor) -> np.ndarray:
    """Numbers from -127 to 127, as FAISS's 8-bit codes take them: a scale does not change who is nearest."""
    return (vectors * (127 / largest.clamp_min(1e-12))).round().cpu().numpy()


class Graph:
    """Malkov & Yashunin 2018, HNSW: neighbours of neighbours.

    Args:
        keys: ``(M, d)`` of length 1.
    """

    def __init__(self, keys: Tensor) -> None:
        faiss = needs("faiss", "retrieval")
        self.index = faiss.IndexHNSWFlat(keys.shape[1], LINKS, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = BUILD_EFFORT
        self.add(keys)

    def add(self, keys: Tensor) -> None:
        """Append keys."""
        self.index.add(keys.cpu().numpy())

    def search(self, queries: Tensor, k: int, effort: int) -> tuple[Tensor, Tensor]:
        """Similarities and rows ``(B, K)``; -inf and row 0 where fewer were found."""
        self.index.hnsw.efSearch = max(effort, 2 * k)
        found = self.index.search(queries.cpu().numpy(), k)
        similarities, rows = (torch.from_numpy(part).to(queries.device) for part in found)
        return similarities.masked_fill(rows < 0, -torch.inf), rows.clamp_min(0)
