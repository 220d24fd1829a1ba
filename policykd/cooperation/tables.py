"""Data sets of several owners, and their validation."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import pandas as pd

from policykd.core.errors import PolicyKDError, nearest

RESERVED = ("label", "teacher", "round")
"""Columns of received rows besides the features."""


@dataclass(frozen=True)
class Dataset:
    """Labelled rows of one owner, with more details than a tuple ``(features, labels)``."""

    features: pd.DataFrame | np.ndarray
    """Numbers ``(n, F)``."""
    labels: Sequence[Hashable] | np.ndarray
    """Class of each row ``(n,)``, numbers or strings."""
    names: Sequence[str] | None = None
    """Column names; a DataFrame has its own. Columns with the same name are shared between learners."""
    instances: Sequence[Hashable] | None = None
    """Identifier of each row. Rows of different owners with the same identifier are one instance, which a student
    receives only once. None: every row is a separate instance."""


Data = Dataset | tuple[pd.DataFrame | np.ndarray, Sequence[Hashable] | np.ndarray]


@dataclass
class Table:
    """A validated data set: rows ``(n, F)`` in float64, labels ``(n,)``, names of columns and instances."""

    rows: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    instances: Sequence[Hashable] | None
    is_frame: bool

    @property
    def label_kind(self) -> str:
        """Kind of the labels; labels of different kinds are never equal."""
        return "strings" if self.labels.dtype.kind in "US" else "numbers"

    def columns(self, names: Sequence[str]) -> np.ndarray:
        """Indices of features."""
        return np.array([self.names.index(name) for name in names], int)

    def select(self, names: Sequence[str], who: str) -> Table:
        """Keep only these features.

        Raises:
            PolicyKDError: a feature is missing.
        """
        for name in names:
            if name not in self.names:
                raise PolicyKDError(f"{who}: no feature {name!r}, which its learner has{nearest(name, self.names)}")
        return Table(self.rows[:, self.columns(names)], self.labels, tuple(names), self.instances, self.is_frame)


def read_tables(datasets: Sequence[Data] | Mapping[str, Data], names: Sequence[str], what: str) -> list[Table]:
    """Validate one data set per learner, in the order of their names.

    Raises:
        PolicyKDError: the number of data sets is not that of the learners, or one is invalid; the error says which and
            why.
    """
    if isinstance(datasets, Mapping):
        unknown = sorted(set(datasets) ^ set(names))
        if unknown:
            raise PolicyKDError(f"{what}: needs one data set for each of {', '.join(names)}; differs in {unknown}")
        datasets = [datasets[name] for name in names]
    if isinstance(datasets, Dataset):
        raise PolicyKDError(f"{what}: got one Dataset: give one for each of {', '.join(names)}")
    if len(datasets) != len(names):
        raise PolicyKDError(f"{what}: {len(names)} learners need as many data sets, got {len(datasets)}")
    tables = [_table(data, f"{what} of {name!r}") for data, name in zip(datasets, names, strict=True)]
    if len({table.label_kind for table in tables}) > 1:
        raise PolicyKDError(f"{what}: labels are numbers in one data set but strings in another: use one kind")
    _check_names(tables, datasets, names, what)
    return tables


def _table(data: Data, who: str) -> Table:
    if not isinstance(data, Dataset):
        if not (isinstance(data, tuple) and len(data) == 2):
            got = type(data).__name__
            raise PolicyKDError(f"{who}: needs (features, labels) or a Dataset, got {got}: give one for each learner")
        data = Dataset(*data)
    features, labels = data.features, _labels(data.labels, who)
    # A list, since a pandas Series would be looked up by its index.
    instances = None if data.instances is None else list(data.instances)
    is_frame = isinstance(features, pd.DataFrame)
    names = tuple(map(str, features.columns if isinstance(features, pd.DataFrame) else data.names or ()))
    rows = _numbers(features, names, who)
    names = names or tuple(map(str, range(rows.shape[1])))
    if len(names) != rows.shape[1] or len(set(names)) != len(names):
        raise PolicyKDError(f"{who}: {rows.shape[1]} columns need as many different names, got {len(set(names))}")
    if taken := set(RESERVED) & set(names):
        raise PolicyKDError(f"{who}: {', '.join(sorted(taken))} cannot name a feature: it is a column of the report")
    for what, given in (("labels", labels), ("instances", instances)):
        if given is not None and len(given) != len(rows):
            raise PolicyKDError(f"{who}: {len(rows)} rows but {len(given)} {what}")
    return Table(rows, labels, names, instances, is_frame)


def _labels(given: Sequence[Hashable] | np.ndarray, who: str) -> np.ndarray:
    """Labels ``(n,)`` as numbers or strings; numbers in object arrays stay numbers."""
    labels = np.asarray(given)
    if labels.ndim != 1 or len(labels) == 0:
        raise PolicyKDError(f"{who}: labels must be one per row, and at least one, got {labels.shape}")
    if pd.isna(labels).any():
        raise PolicyKDError(f"{who}: some labels are missing")
    labels = pd.Series(labels).infer_objects().to_numpy()
    return labels.astype(str) if labels.dtype.kind == "O" else labels


def _numbers(features: pd.DataFrame | np.ndarray, names: Sequence[str], who: str) -> np.ndarray:
    """Features as float64 ``(n, F)``; errors name values that are not finite numbers."""
    if isinstance(features, pd.DataFrame):
        for name, kind in features.dtypes.items():
            if not pd.api.types.is_numeric_dtype(kind):
                raise PolicyKDError(f"{who}: feature {name!r} is not numeric: one-hot encode it (pandas.get_dummies)")
    try:
        rows = np.asarray(features, np.float64)
    except (TypeError, ValueError) as error:
        raise PolicyKDError(f"{who}: features must be numbers: {flattened(error)}") from None
    if rows.ndim != 2 or rows.shape[1] == 0:
        raise PolicyKDError(f"{who}: features must be (rows, columns), got {rows.shape}")
    bad = np.flatnonzero(~np.isfinite(rows).all(0))
    if len(bad):
        which = names[bad[0]] if bad[0] < len(names) else bad[0]
        raise PolicyKDError(f"{who}: feature {which!r} has missing or infinite values: fill them in before")
    return rows


def _check_names(tables: Sequence[Table], datasets: Sequence[Data], names: Sequence[str], what: str) -> None:
    """Refuse learners that share no feature with any other, and unnamed columns that could only match by position."""
    unnamed = [
        not table.is_frame and getattr(data, "names", None) is None
        for table, data in zip(tables, datasets, strict=True)
    ]
    widths = {table.rows.shape[1] for table in tables}
    if any(unnamed) and (not all(unnamed) or len(widths) > 1):
        raise PolicyKDError(
            f"{what} of {names[unnamed.index(True)]!r}: columns are matched by name: "
            "give DataFrames, or Dataset(..., names=...)"
        )
    for table, name in zip(tables, names, strict=True):
        others = set(chain.from_iterable(other.names for other in tables if other is not table))
        if not others & set(table.names):
            raise PolicyKDError(f"{what} of {name!r}: shares no feature name with any other learner's data")


def flattened(error: object) -> str:
    """Another library's error message, flattened to the end of one line."""
    return " ".join(str(error).split())[:200]
