"""What a user says of a benchmark, and of a comparison with SB3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class MatrixOptions:
    """How to run a benchmark."""

    engine: Literal["local", "ray"] = "local"
    """local: processes on this machine; ray: a cluster (needs policykd[ray])."""
    address: str | None = None
    """Ray's cluster, e.g. auto or ray://head:10001. Default: one of its own on this machine."""
    out: str | None = None
    """Where results go: a folder, or any place that fsspec reaches. Default: results/NAME."""
    work: Path | None = None
    """Folder of logs and checkpoints. Default: runs/benchmark/NAME."""
    jobs: int | None = None
    """Processes at a time of the local engine. Default: as many as there are cores for."""
    threads: int = 1
    """Threads of each process of the local engine, for the kernels of our own learners. No result depends on it."""
    env: tuple[str, ...] = ()
    """Tasks of modules that the spec names, such as my_tasks:Task-v0; these modules are imported."""
    only: tuple[str, ...] = ()
    """Only cells whose name fits one of these patterns, e.g. 'HalfCheetah-v5/*' '*/dpd-td3'."""


@dataclass(frozen=True)
class CompareOptions:
    """Train peers and one SB3 agent on the same number of environment steps, and show both."""

    env: str = "HalfCheetah-v5"
    """Task: a registered environment, with continuous actions or a choice of one."""
    method: str = "dpd"
    """How the peers learn from one another (a row of the methods table)."""
    backbone: Literal["ddpg", "td3", "sac", "ppo"] = "ddpg"
    """Algorithm on both sides."""
    peers: int = 2
    """Learners per group; the budget counts all of them."""
    seed: int = 0
    """First seed of both sides."""
    seeds: int = 1
    """Repetitions, with the seeds from --seed on."""
    total_timesteps: int = 40_000
    """Environment steps: of all peers of a group together, and of SB3's agent. Rounded up to whole rollouts."""
    learning_rates: tuple[float, ...] = ()
    """A learning rate of each peer; environment steps then go to those that do best, which needs a method that pools
    replays, such as mutual_shared. SB3's agent has the preset's."""
    updates: int | None = None
    """Gradient steps of each peer per environment step of its group. Left out: as the preset says, per own step."""
    random_steps: int | None = None
    """Environment steps with random actions at first, of a group and of SB3's agent. Left out: as the preset says."""
    preset: str = "quick"
    """Settings by task, the same for both sides."""
    evaluations: int = 8
    """Evaluations over the run, the last at its end."""
    n_eval_episodes: int = 5
    """Episodes per evaluation and learner."""
    final_episodes: int = 20
    """Episodes of the final evaluation, from initial states that no other evaluation had: these are compared."""
    jobs: int | None = None
    """Processes at a time. Default: the number of cores."""
    out: Path = Path("runs/compare")
    """Folder for picture, table, raw results and both runs; the same command goes on where it stopped."""
