"""A benchmark: tasks x methods x backbones x seeds x budget, checked whole before anything runs.

A cell is one (task, method, backbone) with all its seeds. Nothing but its fields decides what a cell computes, so a
cell is also what a worker gets and what its results are checked against.
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
"""What peers are compared with, beside the rows of ``PEER_METHODS``."""

OWN = ("eval_freq", "n_eval_episodes", "log_freq", "checkpoint_freq")
"""Settings that follow from the spec's own keys."""

MOST = {"seeds": 10_000, "peers": 1_000, "evaluations": 100_000, "n_eval_episodes": 100_000, "final_episodes": 100_000}
"""What is beyond is a slip, and would fill the memory before it is noticed."""

CHECKPOINTS = 5
"""Checkpoints of a cell over its run: what a kill can cost is a fifth of the cell."""


@dataclass(frozen=True)
class Reference:
    """Returns between which scores are normalised."""

    low: float
    """The return that counts as 0, such as that of random actions."""
    high: float
    """The return that counts as 1."""
    source: str
    """Where both come from."""

    def __post_init__(self) -> None:
        """Refuse references that normalise nothing."""
        require(math.isfinite(self.high - self.low), "high", self.high, f"and low={self.low!r} must be finite")
        require(self.high > self.low, "high", self.high, f"must be above low={self.low!r}")


@dataclass(frozen=True)
class Task:
    """One task of a benchmark."""

    backbones: tuple[str, ...]
    """Algorithms that run on it."""
    reference: Reference
    """How its returns are normalised."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of this task, for all methods alike."""
    without: tuple[str, ...] = ()
    """Methods of the benchmark that do not run on this task."""


@dataclass(frozen=True)
class Entry:
    """One method of a benchmark."""

    method: str = ""
    """The row of ``PEER_METHODS`` or the baseline; left out, it is the entry's own name."""
    seeds: int | None = None
    """Seeds of this method where they differ from the benchmark's."""
    peers: int | None = None
    """Learners per group where they differ from the benchmark's."""
    utd: Updates = None
    """Gradient steps per learner and group step where they differ from the benchmark's: one number, or one per peer."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of this method alone, e.g. its alpha."""

    def __post_init__(self) -> None:
        """Refuse numbers that cannot work."""
        _counts(self, "seeds", "peers", "utd")


@dataclass(frozen=True)
class Cell:
    """One (task, method, backbone) with all its seeds: what one worker computes."""

    task: str
    method: str
    backbone: str
    base: str
    """What is trained: a row of ``PEER_METHODS`` or a baseline."""
    peers: int
    seeds: tuple[int, ...]
    total_timesteps: int
    """Environment steps of one group, all of its learners together."""
    evaluations: int
    """Evaluations over the run, equally far apart; the last is at its end."""
    n_eval_episodes: int
    """Episodes of each, per learner."""
    final_episodes: int
    """Episodes of the final evaluation, from new initial states, per learner."""
    config: dict[str, Any]
    """All settings of the backbone, as plain values."""

    @property
    def name(self) -> str:
        """``task/method-backbone``: its name everywhere, and its place on disk."""
        return f"{task_folder(self.task)}/{self.method}-{self.backbone}"

    @property
    def by_sb3(self) -> bool:
        """Whether SB3 trains it, one seed after the other."""
        return self.base in ("sb3", "sb3_double")

    @property
    def eval_freq(self) -> int:
        """Environment steps of a group between evaluations."""
        return self.total_timesteps // self.evaluations

    @property
    def steps(self) -> int:
        """Steps of its progress: of all groups at once, but of SB3's seeds one after the other."""
        return self.total_timesteps * (len(self.seeds) if self.by_sb3 else 1)

    @cached_property
    def settings(self) -> Config:
        """Its config as the backbone's dataclass.

        Raises:
            PolicyKDError: settings that cannot work.
        """
        return resolve_config(self.config, self.backbone, short_id(self.task))

    def plain(self) -> dict[str, Any]:
        """Its fields as JSON reads them back."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}

    @staticmethod
    def from_plain(fields: dict[str, Any]) -> Cell:
        """What ``plain`` gave."""
        return build(Cell, fields)


@dataclass(frozen=True)
class Spec:
    """A benchmark."""

    name: str
    """Names its folders."""
    tasks: dict[str, Task]
    methods: dict[str, Entry]
    total_timesteps: int
    """Environment steps of one group, all of its learners together; the same for every method."""
    seeds: int
    """Groups per cell, with the seeds first_seed, first_seed + 1, ..."""
    evaluations: int
    n_eval_episodes: int
    final_episodes: int
    peers: int = 2
    """Learners per group of the methods of ours."""
    random_steps: int | None = None
    """Environment steps with random actions of one group, all of its learners together; it sets learning_starts."""
    utd: int | None = None
    """Gradient steps of every learner per environment step of its group. Left out: as settings say, per own step."""
    first_seed: int = 0
    """Settings are found on other seeds than those that are reported."""
    summary: str = ""
    """What the benchmark is for."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of all cells; a task's change them, a method's change those."""

    def __post_init__(self) -> None:
        """Refuse values that cannot work, each in one line."""
        _counts(self, "total_timesteps", *MOST, "utd")
        not_negative(self, "first_seed", *(["random_steps"] if self.random_steps is not None else []))
        check_file_name("name", self.name)
        whole = self.total_timesteps % self.evaluations == 0
        require(whole, "evaluations", self.evaluations, f"must divide total_timesteps={self.total_timesteps}")
        for name in ("tasks", "methods"):
            require(bool(getattr(self, name)), name, {}, f"is an empty matrix: name a {name[:-1]}")

    @cached_property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell, task by task. A task of a module that nobody has imported is not looked up.

        Raises:
            PolicyKDError: a task, method, backbone or setting is unknown or cannot work, or a name cannot be a file's.
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
                require(name in self.methods, "without", name, f"is none of methods: {', '.join(self.methods)}")
        pairs = [(t, b, m) for t in self.tasks for b in self.tasks[t].backbones for m in self.methods]
        cells = tuple(self._cell(t, b, m) for t, b, m in pairs if m not in self.tasks[t].without)
        if idle := self.tasks.keys() - {cell.task for cell in cells}:
            raise PolicyKDError(f"config: task {min(idle)}: no method runs on it: leave the task out")
        last = {cell.name.lower(): i for i, cell in enumerate(cells)}  # some file systems know no capitals
        if twice := [cell.name for i, cell in enumerate(cells) if last[cell.name.lower()] > i]:
            raise PolicyKDError(f"config: two cells would be kept as {twice[0]}: rename one, or name a backbone once")
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
        # SB3 finishes the rollout it is in, which would be more steps than the others get.
        total, whole = self.total_timesteps, self.total_timesteps % rollout == 0
        require(whole, "total_timesteps", total, f"must be whole rollouts: a multiple of {rollout}")
        check_peers(row := PEER_METHODS["independent" if alone else base], peers)
        # As its agents will, when others have been computed; only they know whether the task's actions are discrete.
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
        if cell.by_sb3:
            require(cell.seeds[-1] < 2**32, "seed", cell.seeds[-1], "is none for SB3, whose seeds are below 2^32")
            export.check_trained_by_sb3(config)
        return cell


def _counts(settings: Spec | Entry, *names: str) -> None:
    """Refuse numbers below 1, and those that are a slip; None says nothing."""
    for name in names:
        if (value := getattr(settings, name)) is not None:
            counts = value if isinstance(value, tuple) else (value,)
            require(len(counts) > 0 and min(counts) >= 1, name, value, "must be positive")
            require(max(counts) <= MOST.get(name, math.inf), name, value, f"must be at most {MOST.get(name, 0):,}")


def task_folder(task: str) -> str:
    """A task's name as that of a folder."""
    return short_id(task).replace("/", "-")
