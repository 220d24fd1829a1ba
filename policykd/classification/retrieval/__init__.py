"""Retrieval-augmented students, which look up their teacher's outputs in a knowledge base (ReAugKD).

distiller = Distiller(student, teacher, method="reaugkd", config={...}).fit(train, validation)
retrieval = with_retrieval(distiller, train, validation)
retrieval.evaluate(test)
"""

from __future__ import annotations

from policykd.classification.retrieval.memory import (
    build_memory,
    choose,
    memory_fingerprint,
    with_memory,
    with_retrieval,
)
from policykd.classification.retrieval.student import Lookup, Retrieval

__all__ = ["Lookup", "Retrieval", "build_memory", "choose", "memory_fingerprint", "with_memory", "with_retrieval"]
