"""A benchmark small enough for tests, made-up results of a larger one, and its numbers recomputed by hand."""

import csv
from pathlib import Path

import numpy as np
import yaml
from tiny import POINT

HERE = Path(__file__).parent
SLOW = "faulty_tasks:Slow-v0"
REFERENCE = {"low": -53.0, "high": -5.2, "source": "measured"}
TINY = {
    "name": "tiny",
    "total_timesteps": 200,
    "seeds": 2,
    "evaluations": 2,
    "n_eval_episodes": 2,
    "final_episodes": 3,
    "settings": {"net_arch": [8, 8], "batch_size": 8, "buffer_size": 200, "learning_starts": 20},
    "tasks": {POINT: {"backbones": ["td3"], "reference": REFERENCE}},
    "methods": ["sb3", "single", "independent", "dpd"],
}
TASKS = {
    POINT: {"backbones": ["td3", "ddpg"], "reference": REFERENCE},
    "HalfCheetah-v5": {"backbones": ["td3"], "reference": {"low": -300, "high": 5000, "source": "x"}},
    "Hopper-v5": {"backbones": ["td3"], "reference": {"low": 0, "high": 3600, "source": "x"}, "without": ["single"]},
}


def changed(**changes):
    return yaml.safe_dump({**TINY, **changes}, sort_keys=False)


MADE_UP = changed(tasks=TASKS, seeds=5, total_timesteps=800, evaluations=4, summary="Made up.")
"""The spec of the made-up results, as text."""


def write(name="spec.yaml", **changes):
    Path(name).write_text(changed(**changes), encoding="utf-8")
    return Path(name)


def rows(method, task="PolicyKD-PointReach-v0", results="results/tiny"):
    """Raw rows but their seconds, which no two runs share."""
    with open(Path(results, task, f"{method}.csv"), encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def raw(folder, task, method, backbone="td3"):
    with open(folder / task / f"{method}.csv", encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["backbone"] == backbone]


def by_hand(folder, task, method, backbone="td3"):
    """Final returns of the peers selected by the last evaluation on the way, and of all peers, seed by seed."""
    rows = raw(folder, task, method, backbone)
    selected, mean = [], []
    for seed in sorted({int(row["seed"]) for row in rows}):
        mine = [row for row in rows if int(row["seed"]) == seed]
        last = max(int(row["steps"]) for row in mine)
        at_end = [row for row in mine if row["phase"] == "curve" and int(row["steps"]) == last]
        best = max(at_end, key=lambda row: float(row["return"]))["learner"]
        final = {row["learner"]: float(row["return"]) for row in mine if row["phase"] == "final"}
        selected.append(final[best])
        mean.append(sum(final.values()) / len(final))
    return np.array(selected), np.array(mean)
