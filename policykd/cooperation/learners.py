"""Learners by name, for the command line and the experiments; any other classifier will do as well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from policykd.cooperation.owners import numbered
from policykd.cooperation.torch_classifier import TorchClassifier
from policykd.core.errors import PolicyKDError, nearest

LEARNERS: dict[str, Callable[[], Any]] = {
    "mlp": TorchClassifier,
    "tree": DecisionTreeClassifier,
    "forest": RandomForestClassifier,
    "boosting": HistGradientBoostingClassifier,
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
}
"""Makes a new learner of each kind."""


def make_learners(kinds: Sequence[str]) -> dict[str, Any]:
    """New learners, named by their kind, with a number where a kind comes twice.

    Raises:
        PolicyKDError: an unknown kind.
    """
    for kind in kinds:
        if kind not in LEARNERS:
            raise PolicyKDError(
                f"learners: {kind!r} is unknown{nearest(kind, LEARNERS)}; there are {', '.join(LEARNERS)}"
            )
    return {name: LEARNERS[kind]() for name, kind in zip(numbered(kinds), kinds, strict=True)}
