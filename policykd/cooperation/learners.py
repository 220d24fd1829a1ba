"""Learners by name, for the command line and the experiments; any other classifier works too."""

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
from policykd.core.registry import find

LEARNERS: dict[str, Callable[[], Any]] = {
    "mlp": TorchClassifier,
    "tree": DecisionTreeClassifier,
    "forest": RandomForestClassifier,
    "boosting": HistGradientBoostingClassifier,
    "logistic": lambda: make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)),
}
"""Factories of new learners, by kind."""


def make_learners(kinds: Sequence[str]) -> dict[str, Any]:
    """Make new learners, named by kind and numbered if a kind occurs twice.

    Raises:
        PolicyKDError: a kind is unknown.
    """
    makers = [find("learners", kind, LEARNERS) for kind in kinds]
    return {name: make() for name, make in zip(numbered(kinds), makers, strict=True)}
