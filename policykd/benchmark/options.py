"""Options of a benchmark, and of a comparison with SB3."""

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
    """Address of a Ray cluster, e.g. auto or ray://head:10001. Default: start one on this machine."""
    out: str | None = None
    """Location of the results: a folder, or anything that fsspec supports. Default: results/NAME."""
    work: Path | None = None
    """Folder for logs and checkpoints. Default: runs/benchmark/NAME."""
    jobs: int | None = None
    """Parallel processes of the local engine. Default: as many as the cores allow."""
    threads: int = 1
    """Threads per process of the local engine, for the kernels of our learners. Results do not depend on it."""
    env: tuple[str, ...] = ()
    """Tasks in the spec that need a module, such as my_tasks:Task-v0; their modules are imported."""
    only: tuple[str, ...] = ()
    """Run only cells whose names match one of these patterns, e.g. 'HalfCheetah-v5/*' '*/dpd-td3'."""


@dataclass(frozen=True)
class CompareOptions:
    """Train peers and one SB3 agent for the same number of environment steps, and compare them."""

    env: str = "HalfCheetah-v5"
    """Task: a registered environment with continuous or discrete actions."""
    method: str = "dpd"
    """Method by which peers distil from one another (a row of the methods table)."""
    backbone: Literal["ddpg", "td3", "sac", "ppo"] = "ddpg"
    """RL algorithm of both sides."""
    peers: int = 2
    """Learners per group; the budget counts all of them."""
    seed: int = 0
    """First seed of both sides."""
    seeds: int = 1
    """Number of repetitions, with consecutive seeds from --seed."""
    total_timesteps: int = 40_000
    """Environment steps of a whole group of peers, and of SB3's agent. Rounded up to whole rollouts."""
    learning_rates: tuple[float, ...] = ()
    """Learning rates, one per peer. Environment steps then go to the best peers, which needs a method that pools
    replays, such as mutual_shared. SB3's agent uses the preset's."""
    updates: int | None = None
    """Gradient steps of each peer per environment step of its group. Default: from the preset, per own step."""
    random_steps: int | None = None
    """Initial environment steps with random actions, of a group and of SB3's agent. Default: from the preset."""
    preset: str = "quick"
    """Settings by task, the same for both sides."""
    evaluations: int = 8
    """Number of evaluations, the last at the end."""
    n_eval_episodes: int = 5
    """Episodes per evaluation and learner."""
    final_episodes: int = 20
    """Episodes of the final evaluation, which is compared, from initial states that no other evaluation used."""
    jobs: int | None = None
    """Parallel processes. Default: the number of cores."""
    out: Path = Path("runs/compare")
    """Folder for figure, table, raw results and both runs; repeating the command resumes an interrupted run."""
