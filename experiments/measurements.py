"""Raw measurements in a CSV file that only grows, so that an interrupted experiment goes on where it stopped."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from policykd.core.errors import PolicyKDError
from policykd.core.files import versions, write_text
from policykd.core.registry import find


class Measurements:
    """Rows of one experiment; what the latest were made with stands beside it, and the commits of those before.

    Args:
        path: the CSV file.
        keys: columns that tell one run from another.
        values: columns that were measured.
        added: columns that the first rows lack, with what they held then.

    Raises:
        PolicyKDError: the file holds another experiment.
    """

    def __init__(
        self, path: Path, keys: Sequence[str], values: Sequence[str], added: Mapping[str, str] | None = None
    ) -> None:
        self.path, self.keys, self.columns = path, tuple(keys), (*keys, *values)
        self.rows: list[dict[str, str]] = []
        if path.exists():
            with open(path, encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                self.rows = [{**(added or {}), **row} for row in reader]
            first = tuple(name for name in self.columns if name not in (added or {}))
            if tuple(reader.fieldnames or ()) not in (self.columns, first):
                raise PolicyKDError(f"measurements: {path} has other columns: move it away, or choose another folder")

    def has(self, **key: object) -> bool:
        """Whether there are rows whose columns are these."""
        return any(all(row[name] == _text(value) for name, value in key.items()) for row in self.rows)

    def missing(self, seeds: Iterable[int], **key: object) -> tuple[int, ...]:
        """The seeds without rows whose other columns are these."""
        return tuple(seed for seed in seeds if not self.has(seed=seed, **key))

    def add(self, *rows: Mapping[str, object]) -> None:
        """Add the rows of one run, all of them or none."""
        self.rows += [{name: _text(row[name]) for name in self.columns} for row in rows]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_text(self.path, text.getvalue())
        write_versions(self.path.with_suffix(".versions.json"))

    def where(self, **key: object) -> pd.DataFrame:
        """The rows whose columns are these, numbers as numbers."""
        chosen = [row for row in self.rows if all(row[name] == _text(value) for name, value in key.items())]
        frame = pd.DataFrame(chosen, columns=list(self.columns))
        return frame.apply(lambda column: pd.to_numeric(column, errors="coerce") if _numeric(column) else column)

    def values(self, name: str, **key: object) -> np.ndarray:
        """One column of the rows whose columns are these ``(n,)``, in the order of their seeds."""
        frame = self.where(**key)
        return frame.sort_values("seed")[name].to_numpy(float)


def write_versions(path: Path) -> None:
    """Say what the latest rows were made with; ``earlier_commits`` are those that the file named before."""
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    now = versions()
    commits = [*before.get("earlier_commits", []), before.get("git_commit")]
    earlier = [commit for commit in dict.fromkeys(commits) if commit not in (None, now["git_commit"])]
    write_text(path, json.dumps(now | ({"earlier_commits": earlier} if earlier else {}), indent=2) + "\n")


def check_names(option: str, names: Iterable[str], known: Mapping[str, Any]) -> None:
    """Refuse names that an option does not know, before anything runs.

    Raises:
        PolicyKDError: names the nearest.
    """
    for name in names:
        find(option, name, known)


def mean_std(values: np.ndarray, digits: int = 3) -> str:
    """``mean (standard deviation)`` over seeds, or a dash where there are none."""
    if not len(values):
        return "-"
    spread = f" ({values.std(ddof=1):.{digits}f})" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def mean_and_half(values: pd.Series) -> tuple[float, float]:
    """Mean and half width of its 95 % t-interval, which is NaN for fewer than two values."""
    known = values.dropna()
    if len(known) < 2:
        return float(known.mean()), float("nan")
    half = stats.t.ppf(0.975, len(known) - 1) * known.std(ddof=1) / np.sqrt(len(known))
    return float(known.mean()), float(half)


def interval(values: pd.Series, digits: int = 2) -> str:
    """``mean ± half width`` of the 95 % t-interval, or the mean alone."""
    mean, half = mean_and_half(values)
    return f"{mean:.{digits}f}" + ("" if np.isnan(half) else f" ± {half:.{digits}f}")


def _numeric(column: pd.Series) -> bool:
    return bool(pd.to_numeric(column, errors="coerce").notna().all())


def _text(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
