"""A benchmark: tasks x methods x backbones x seeds x budget, validated before anything runs.

A cell is one (task, method, backbone) with all its seeds. Its fields fully determine what it computes, so a cell is
also what a worker receives and what results are checked against.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from policykd import export
from policykd.benchmark.budgets import Updates, group_budgets, steps_at_once
from policykd.core.errors import PolicyKDError
from policykd.core.fields import build, not_negative, require
from policykd.core.parsing import check_file_name
from policykd.core.registry import find
from policykd.distillation.methods import PEER_METHODS
from policykd.learners import LEARNERS
from policykd.learners.config import Config
from policykd.tasks.spaces import find_task, foreign_module, short_id
from policykd.training import snapshot
from policykd.training.dual_student import resolve_config
from policykd.training.peer_checks import check_method, check_peers

BASELINES = {
    "sb3": "One agent of Stable-Baselines3 with the whole budget",
    "sb3_double": "The same with twice the parameters",
    "single": "One learner of ours with the whole budget",
}
"""Baselines besides the rows of ``PEER_METHODS``."""

OWN = ("eval_freq", "n_eval_episodes", "log_freq", "checkpoint_freq")
"""Settings derived from the spec's own keys."""

MOST = {"seeds": 10_000, "peers": 1_000, "evaluations": 100_000, "n_eval_episodes": 100_000, "final_episodes": 100_000}
"""Upper limits: a larger number is a mistake, and would fill the memory before it is noticed."""

CHECKPOINTS = 5
"""Checkpoints per run of a cell: a kill costs at most a fifth of it."""


@dataclass(frozen=True)
class Reference:
    """Reference returns that define normalised scores."""

    low: float
    """The return that counts as 0, such as that of random actions."""
    high: float
    """The return that counts as 1."""
    source: str
    """Source of both values."""

    def __post_init__(self) -> None:
        """Refuse references that cannot normalise scores."""
        require(math.isfinite(self.high - self.low), "high", self.high, f"and low={self.low!r} must be finite")
        require(self.high > self.low, "high", self.high, f"must be above low={self.low!r}")


@dataclass(frozen=True)
class Task:
    """One task of a benchmark."""

    backbones: tuple[str, ...]
    """Algorithms to run on it."""
    reference: Reference
    """Normalisation of its returns."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of this task, for all methods."""
    without: tuple[str, ...] = ()
    """Methods of the benchmark not to run on this task."""


@dataclass(frozen=True)
class Entry:
    """One method of a benchmark."""

    method: str = ""
    """A row of ``PEER_METHODS`` or a baseline; by default the entry's name."""
    seeds: int | None = None
    """Number of seeds of this method, if it differs from the benchmark's."""
    peers: int | None = None
    """Learners per group, if they differ from the benchmark's."""
    utd: Updates = None
    """Gradient steps per learner and group step, if they differ from the benchmark's: one number, or one per peer."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of this method only, such as its alpha."""

    def __post_init__(self) -> None:
        """Refuse invalid numbers."""
        _check_counts(self, "seeds", "peers", "utd")


@dataclass(frozen=True)
class Cell:
    """One (task, method, backbone) with all its seeds: what one worker computes."""

    task: str
    method: str
    backbone: str
    base: str
    """Method: a row of ``PEER_METHODS`` or a baseline."""
    peers: int
    seeds: tuple[int, ...]
    total_timesteps: int
    """Environment steps of one group, over all of its learners."""
    evaluations: int
    """Number of evaluations, at equal intervals; the last is at the end."""
    n_eval_episodes: int
    """Episodes per evaluation and learner."""
    final_episodes: int
    """Episodes of the final evaluation per learner, from new initial states."""
    config: dict[str, Any]
    """All settings of the backbone, as plain values."""

    @property
    def name(self) -> str:
        """``task/method-backbone``: its name and its path on disk."""
        return f"{task_folder(self.task)}/{self.method}-{self.backbone}"

    @property
    def is_sb3(self) -> bool:
        """Whether SB3 trains it, one seed after another."""
        return self.base in ("sb3", "sb3_double")

    @property
    def eval_freq(self) -> int:
        """Environment steps of a group between evaluations."""
        return self.total_timesteps // self.evaluations

    @property
    def steps(self) -> int:
        """Total steps of its progress: of one group if all train at once, of all seeds together for SB3."""
        return self.total_timesteps * (len(self.seeds) if self.is_sb3 else 1)

    @cached_property
    def settings(self) -> Config:
        """The config as the backbone's dataclass.

        Raises:
            PolicyKDError: a setting is invalid.
        """
        return resolve_config(self.config, self.backbone, short_id(self.task))

    def plain(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @staticmethod
    def from_plain(fields: dict[str, Any]) -> Cell:
        """The inverse of ``plain``."""
        return build(Cell, fields)


@dataclass(frozen=True)
class Spec:
    """A benchmark."""

    name: str
    """Name of the benchmark and its folders."""
    tasks: dict[str, Task]
    methods: dict[str, Entry]
    total_timesteps: int
    """Environment steps of one group, over all of its learners; the same for every method."""
    seeds: int
    """Groups per cell, with the seeds first_seed, first_seed + 1, ..."""
    evaluations: int
    n_eval_episodes: int
    final_episodes: int
    peers: int = 2
    """Learners per group of our methods."""
    random_steps: int | None = None
    """Random environment steps of one group, over all of its learners; sets learning_starts."""
    utd: int | None = None
    """Gradient steps of every learner per environment step of its group. Default: from the settings, per own step."""
    first_seed: int = 0
    """Start of the seeds. Tune settings on other seeds than those reported."""
    summary: str = ""
    """Purpose of the benchmark."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of all cells, overridden by a task's, and those by a method's."""

    def __post_init__(self) -> None:
        """Refuse invalid values."""
        _check_counts(self, "total_timesteps", *MOST, "utd")
        not_negative(self, "first_seed", *(["random_steps"] if self.random_steps is not None else []))
        check_file_name("name", self.name)
        whole = self.total_timesteps % self.evaluations == 0
        require(whole, "evaluations", self.evaluations, f"must divide total_timesteps={self.total_timesteps}")
        for name in ("tasks", "methods"):
            require(bool(getattr(self, name)), name, {}, f"is an empty matrix: name a {name[:-1]}")

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, task by task. Tasks of modules that are not imported are not looked up.

        Raises:
            PolicyKDError: a task, method, backbone or setting is unknown or invalid, or a name cannot be a file name.
        """
        for name in self.methods:
            check_file_name("method", name)
        for task_name, task in self.tasks.items():
            check_file_name("task", task_folder(task_name))
            if not foreign_module(task_name):
                find_task(task_name)
            for name in task.backbones:
                find("backbone", name, LEARNERS)
            for name in task.without:
                require(name in self.methods, "without", name, f"is not one of methods: {', '.join(self.methods)}")
        pairs = [(t, b, m) for t in self.tasks for b in self.tasks[t].backbones for m in self.methods]
        cells = tuple(self._cell(t, b, m) for t, b, m in pairs if m not in self.tasks[t].without)
        if idle := self.tasks.keys() - {cell.task for cell in cells}:
            raise PolicyKDError(f"config: task {min(idle)}: no method runs on it: leave the task out")
        last = {cell.name.lower(): i for i, cell in enumerate(cells)}  # some file systems ignore case
        if twice := [cell.name for i, cell in enumerate(cells) if last[cell.name.lower()] > i]:
            raise PolicyKDError(f"config: two cells would be saved as {twice[0]}: rename one, or name a backbone once")
        return cells

    def _cell(self, task: str, backbone: str, method: str) -> Cell:
        try:
            return self._planned(task, backbone, method)
        except PolicyKDError as error:
            raise PolicyKDError(f"{error} ({task_folder(task)}/{method}-{backbone})") from None

    def _planned(self, task: str, backbone: str, method: str) -> Cell:
        base = (entry := self.methods[method]).method or method
        find("method", base, {**BASELINES, **PEER_METHODS})
        alone = base in BASELINES
        require(not alone or entry.peers in (None, 1), "peers", entry.peers, f"is too many for {base}: leave it out")
        peers = 1 if alone else entry.peers or self.peers
        settings = {**self.settings, **self.tasks[task].settings, **entry.settings}
        settings |= group_budgets(settings, self.random_steps, entry.utd or self.utd, peers, backbone)
        for name in OWN:
            require(name not in settings, name, settings.get(name), "follows from the spec's evaluations: leave it out")
        eval_freq = self.total_timesteps // self.evaluations
        settings |= {"eval_freq": eval_freq, "log_freq": eval_freq, "n_eval_episodes": self.n_eval_episodes}
        settings["checkpoint_freq"] = max(1, self.total_timesteps // CHECKPOINTS)
        config = resolve_config(settings, backbone, short_id(task))
        at_once, rollout = steps_at_once(config, peers)
        require(not eval_freq % at_once, "total_timesteps / evaluations", eval_freq, f"must be a multiple of {at_once}")
        # SB3 finishes its rollout, and would take more steps than the others.
        total, whole = self.total_timesteps, self.total_timesteps % rollout == 0
        require(whole, "total_timesteps", total, f"must be whole rollouts: a multiple of {rollout}")
        check_peers(row := PEER_METHODS["independent" if alone else base], peers)
        # The agents check this too, but only once other cells have run; only they know if the task is discrete.
        check_method(row, LEARNERS[backbone], config, peers, discrete=True)
        cell = Cell(
            task=task,
            method=method,
            backbone=backbone,
            base=base,
            peers=peers,
            seeds=tuple(range(self.first_seed, self.first_seed + (entry.seeds or self.seeds))),
            total_timesteps=self.total_timesteps,
            evaluations=self.evaluations,
            n_eval_episodes=self.n_eval_episodes,
            final_episodes=self.final_episodes,
            config=snapshot.plain(config),
        )
        if cell.is_sb3:
            require(cell.seeds[-1] < 2**32, "seed", cell.seeds[-1], "is too large for SB3, whose seeds are below 2^32")
            export.check_trained_by_sb3(config)
        return cell


def _check_counts(settings: Spec | Entry, *names: str) -> None:
    """Refuse numbers below 1 or above their limit; None is unset."""
    for name in names:
        if (value := getattr(settings, name)) is not None:
            counts = value if isinstance(value, tuple) else (value,)
            require(len(counts) > 0 and min(counts) >= 1, name, value, "must be positive")
            require(max(counts) <= MOST.get(name, math.inf), name, value, f"must be at most {MOST.get(name, 0):,}")


def task_folder(task: str) -> str:
    """A task's name as a folder name."""
    return short_id(task).replace("/", "-")
