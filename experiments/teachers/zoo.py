"""Read and play every agent of rl-baselines3-zoo: results/teachers/zoo.csv.

The agents are not part of this project: say where they are with --agents or the variable POLICYKD_ZOO.
"""

import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import tyro

from policykd import Teacher
from policykd.benchmark import students
from policykd.cli import guarded
from policykd.cli.output import say
from policykd.core.errors import PolicyKDError
from policykd.teachers import versions
from policykd.teachers.task import base_name, inspect_task

COLUMNS = (
    *("agent", "task", "outcome", "algorithm", "observations", "actions", "normalised", "observation_map"),
    *("episodes", "return", "return_std", "return_min", "random_return", "recorded_return", "words"),
)


@dataclass
class Options:
    """The zoo's agents as teachers."""

    agents: Path = Path(os.environ.get("POLICYKD_ZOO", "rl-trained-agents"))
    """Folder of the zoo's agents: sac/HalfCheetah-v3_1 and so on."""
    out: Path = Path("results/teachers")
    """Where the numbers go."""
    episodes: int = 20
    """Episodes that each agent plays, from seed 0; 0 only reads it."""


class _Warnings(logging.Handler):
    """Keeps what was warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def folders(root: Path) -> list[Path]:
    """The agents below a folder of the zoo, as ``algorithm/Task-v0_1``."""
    return sorted(path for path in root.glob("*/*_[0-9]*") if path.is_dir())


def examine(folder: Path, episodes: int) -> dict[str, Any]:
    """One row: whether an agent of the zoo can teach the newest version of its task, and what it returns."""
    name, root = f"{folder.parent.name}/{folder.name}", folder.parent.parent
    base = re.sub(r"-v\d+_\d+$", "", folder.name)
    row: dict[str, Any] = dict.fromkeys(COLUMNS, "")
    row |= {"agent": name, "task": base, "outcome": "refused"}
    words, logger = _Warnings(), logging.getLogger("policykd")
    logger.addHandler(words)
    try:
        task = inspect_task(base)
        row["task"] = task.env_id
        teacher, used = _load(folder, task.env_id, task.observation_size)
        network = teacher.policy.network
        row |= {
            "outcome": "read",
            "algorithm": getattr(network, "algorithm", type(network).__name__),
            "observations": teacher.observation_size,
            "actions": teacher.action_size,
            "normalised": bool(teacher.policy.normalisers),
            "observation_map": used,
        }
        if (recorded := teacher.policy.recorded) is not None:
            row["recorded_return"] = round(recorded.mean, 1)
        if episodes > 0:
            score = teacher.score(task.env_id, episodes, seed=0)
            spread = (score.mean, score.returns.std(), score.returns.min(), score.random_mean)
            names = ("return", "return_std", "return_min", "random_return")
            row |= {"episodes": episodes, **{key: round(float(v), 1) for key, v in zip(names, spread, strict=True)}}
    except PolicyKDError as error:
        words.lines.append(str(error))
    finally:
        logger.removeHandler(words)
    row["words"] = " | ".join(words.lines).replace(f"{root}/", "")
    return row


def _load(folder: Path, task: str, size: int) -> tuple[Teacher, str]:
    """The teacher, and the map of versions that it needed."""
    try:
        return Teacher.load(folder, task), ""
    except PolicyKDError:
        alone = Teacher.load(folder)  # without a task nothing is compared
        advice = versions.advice(base_name(task), (alone.observation_size, size))
        if advice is None:
            raise
        if "range" in advice:
            return Teacher.load(folder, task, observation_map=range(27)), "range(27)"
        version = "v3" if '"v3"' in advice else "v4"
        return Teacher.load(folder, task, observation_map=version), version


def run(options: Options) -> None:
    found = folders(options.agents)
    if not found:
        raise PolicyKDError(f"agents: {options.agents} holds no folders like sac/HalfCheetah-v3_1")
    gym.logger.min_level = gym.logger.ERROR
    rows = []
    for folder in found:
        rows.append(examine(folder, options.episodes))
        say(" ".join(str(rows[-1][key]) for key in ("agent", "outcome", "return", "recorded_return", "words")))
        students.write_csv(rows, options.out / "zoo.csv")


if __name__ == "__main__":
    guarded(lambda: run(tyro.cli(Options, description=__doc__)))
