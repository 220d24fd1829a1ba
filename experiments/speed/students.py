"""What a step costs for students of every kind: feed-forward, with a history, with a GRU, discrete, many environments.

    python -m experiments.speed.students --out results/speed/students.csv

Microseconds of the thread's CPU time per environment step and student: the task, the teacher (an untrained MLP of
64x64, asked once per state), DAgger's updates, one per two environment steps with batches of 64 (GRU: of windows),
networks of 64x64, one thread, not compiled. Medians of a few bursts.
"""

from __future__ import annotations

import csv
import itertools
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
import tyro

from policykd import TeacherStudent
from policykd.cli import guarded

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "feed-forward": ("HalfCheetah-v5", {}),
    "history of 4": ("HalfCheetah-v5", {"history": 4}),
    "GRU of 64": ("HalfCheetah-v5", {"gru": 64}),
    "8 environments each": ("HalfCheetah-v5", {"n_envs": 8}),
    "discrete": ("CartPole-v1", {}),
}
"""Task and settings of each."""


@dataclass(frozen=True)
class StudentOptions:
    """What to measure."""

    students: tuple[int, ...] = (2, 20)
    """Numbers of students K that learn at once."""
    steps: int = 400
    """Environment steps of each student in a burst."""
    bursts: int = 5
    """Measurements of each case."""
    out: Path | None = None
    """File for the raw rows."""


class Untrained(torch.nn.Module):
    """A teacher of the usual size, whatever it teaches."""

    def __init__(self, task: str) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            env = gym.make(task)
            actions = env.action_space
            outputs = int(actions.n) if isinstance(actions, gym.spaces.Discrete) else sum(actions.shape or ())
            sizes = sum(env.observation_space.shape or ()), 64, 64, outputs
            env.close()
            layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise(sizes)]
            self.network = torch.nn.Sequential(layers[0], torch.nn.Tanh(), layers[1], torch.nn.Tanh(), layers[2])

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        """Logits, or actions within their bounds."""
        return self.network(observations).tanh()


def burst_times(options: StudentOptions, name: str, students: int) -> list[float]:
    """Microseconds per environment step and student, a number per burst."""
    task, changed = CASES[name]
    config = {"net_arch": (64, 64), "round_steps": 200, "round_updates": 100, "distill_batch_size": 64}
    config |= {"dataset_size": 20_000, "allow_weak_teacher": True, "teacher_episodes": 1, "n_eval_episodes": 0}
    config |= {"log_freq": 10**9, "eval_freq": 0, "checkpoint_freq": 0, **changed}
    seeds = range(students)
    agent = TeacherStudent(task, Untrained(task), seeds=seeds, config=config, compile=False, device="cpu", threads=1)
    agent.learn(options.steps)
    found = []
    for _ in range(options.bursts):
        started = time.thread_time()
        agent.learn(options.steps)
        found.append((time.thread_time() - started) / options.steps / students * 1e6)
    return found


def main(options: StudentOptions) -> None:
    """Measure, print and keep."""
    rows: list[tuple[object, ...]] = []
    for name in CASES:
        for students in options.students:
            found = burst_times(options, name, students)
            rows += [(name, students, number, round(us, 1)) for number, us in enumerate(found)]
            print(f"{name}, {students} students: {statistics.median(found):,.0f} us per step of each", flush=True)
    if options.out:
        with options.out.open("w", newline="") as file:
            csv.writer(file).writerows([("case", "students", "burst", "microseconds"), *rows])


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(StudentOptions, description=__doc__)))
