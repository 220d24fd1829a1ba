"""What lies beside a teacher: the returns that were recorded of it, and the statistics of its normaliser."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from policykd.measure.doctor_checks import Recorded
from policykd.teachers import vecnormalize

STATISTICS = ("vecnormalize.pkl", "vec_normalize.pkl")


def recorded(source: Path) -> Recorded | None:
    """The return that a teacher's folder says: of the Hub's ``results.json``, or of SB3's ``evaluations.npz``.

    Of ``evaluations.npz`` the last evaluation counts, and of ``best_model`` the best.
    """
    for folder in _places(source):
        try:
            found = json.loads((folder / "results.json").read_text())
            return Recorded(
                float(found["mean_reward"]), float(found["std_reward"]), int(found["n_eval_episodes"]), "results.json"
            )
        except (OSError, ValueError, KeyError, TypeError):
            pass
        try:
            with np.load(folder / "evaluations.npz", allow_pickle=False) as evaluations:
                results = np.asarray(evaluations["results"], np.float64)
        except (OSError, ValueError, KeyError):
            continue
        results = results.reshape(len(results), -1)
        row = results[results.mean(1).argmax() if source.stem == "best_model" else -1]
        return Recorded(float(row.mean()), float(row.std()), len(row), "evaluations.npz")
    return None


def clipped_share(source: Path, observations: np.ndarray) -> float | None:
    """Share of a teacher's inputs at its normaliser's limits, at raw observations ``(n, O)``; None without one."""
    files = [folder / name for folder in _places(source) for name in STATISTICS]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        return None
    statistics = vecnormalize.read(file)
    if statistics.mean is None or statistics.std is None or len(statistics.mean) != observations.shape[1]:
        return None
    inputs = (torch.from_numpy(observations) - statistics.mean) / statistics.std
    return float((inputs.abs() >= statistics.clip).double().mean())


def _places(source: Path) -> list[Path]:
    """Folders where the zoo, the Hub and SB3's callbacks keep what belongs to an agent."""
    if source.is_dir():
        return [source, *sorted(folder for folder in source.iterdir() if folder.is_dir())]
    return [source.parent / source.stem, source.parent] if source.is_file() else []
