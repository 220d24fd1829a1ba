"""Batch-1 latency of one 64x64 student in every format, side by side: results/latency/{rows.csv,latency.md}.

Formats take turns, some hundred calls each, so that a busy machine slows them alike; the factor over SB3 is that of the
medians of each turn. Weights are untrained: they do not change the time.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnxruntime
import pandas as pd
import torch

from policykd.cli import guarded
from policykd.core.compute import one_thread
from policykd.core.files import write_text
from policykd.export import Policy, deploy, to_sb3
from policykd.export.compiled import CompiledPolicy
from policykd.export.int8 import quantise
from policykd.export.onnx import to_onnx, to_onnx_int8
from policykd.export.plain import flatten
from policykd.training.teacher_student import TeacherStudent

Act = Callable[[np.ndarray], object]
SB3 = "SB3 `predict`"


def actors(agent: TeacherStudent, states: np.ndarray, folder: Path) -> dict[str, Act]:
    """Every way from one observation to one action."""
    model = to_sb3(agent, 0)
    statistics = model.get_vec_normalize_env()
    assert statistics is not None
    normalise = statistics.normalize_obs
    to_onnx(agent, 0, folder / "policy.onnx")
    to_onnx_int8(agent, 0, folder / "int8.onnx", states)
    program = torch.jit.freeze(torch.jit.trace(deploy(agent, 0), torch.zeros(1, states.shape[1])))
    plain = flatten(deploy(agent, 0))

    def onnx(name: str) -> Act:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(folder / name), options)
        return lambda observation: session.run(None, {"observations": observation[None]})

    return {
        SB3: lambda observation: model.predict(observation, deterministic=True),
        "SB3 `predict` and its `VecNormalize`": lambda o: model.predict(normalise(o), deterministic=True),
        "`Agent.predict`": lambda observation: agent.predict(observation, learner=0),
        "TorchScript": lambda observation: program(torch.from_numpy(observation[None])).numpy(),
        "ONNX": onnx("policy.onnx"),
        "ONNX int8": onnx("int8.onnx"),
        "`load_policy`, NumPy": Policy(agent, 0, computed_by="numpy"),
        "`load_policy`, C": Policy(agent, 0, computed_by="c"),
        "C int8 through ctypes": CompiledPolicy(quantise(plain, states)),
    }


@torch.no_grad()
def measure(ways: Mapping[str, Act], states: np.ndarray, turns: int, calls: int) -> pd.DataFrame:
    """A row per turn and format: median, 99.9th percentile and longest of its calls, in microseconds."""
    rows, times = [], np.empty(calls)
    for turn in range(-1, turns):  # turn -1 warms up
        for name, act in ways.items():
            for i in range(calls):
                observation = states[i % len(states)]
                start = time.perf_counter_ns()
                act(observation)
                times[i] = (time.perf_counter_ns() - start) / 1e3
            median, tail = np.percentile(times, [50, 99.9])
            rows.append((name, turn, calls, round(median, 3), round(tail, 3), round(times.max(), 3)))
    frame = pd.DataFrame(rows, columns=["format", "turn", "calls", "median_us", "p99.9_us", "max_us"])
    return frame[frame.turn >= 0]


def table(rows: pd.DataFrame) -> str:
    """Medians over turns; the longest call of all; the factor over SB3 turn by turn."""
    medians = rows.pivot(index="turn", columns="format", values="median_us")
    lines = ["| format | median | p99.9 | longest | times faster than SB3 |", "|---|---|---|---|---|"]
    for name, group in rows.groupby("format", sort=False):
        ratio = medians[SB3] / medians[name]
        factor = f"{ratio.median():.1f} ({ratio.min():.1f} to {ratio.max():.1f})"
        lines.append(
            f"| {name} | {group.median_us.median():.2f} | {group['p99.9_us'].median():.1f} | {group.max_us.max():,.0f} "
            f"| {factor} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, and write rows and table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("results/latency"))
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--turns", type=int, default=40)
    parser.add_argument("--calls", type=int, default=1_000)
    options = parser.parse_args()
    agent = TeacherStudent(options.env, None, backbone="ppo", config={"net_arch": (64, 64)}, device="cpu")
    size = agent.observation_space.shape[0]
    states = np.random.default_rng(0).standard_normal((1_000, size)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder, one_thread():
        rows = measure(actors(agent, states, Path(folder)), states, options.turns, options.calls)
    options.out.mkdir(parents=True, exist_ok=True)
    rows.to_csv(options.out / "rows.csv", index=False)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    about = f"""Microseconds from one observation of {options.env} to its action: a 64x64 student, its normaliser inside
except in SB3's `predict`; one thread, {options.turns} turns of {options.calls:,} calls each.
{platform.system()} {platform.machine()}, load {load}; torch {torch.__version__}, onnxruntime {onnxruntime.__version__}.
By `experiments/latency/run.py`.

Median and p99.9 are medians over turns, longest is the longest call of all; the factor is the ratio of medians within
a turn: its median over turns (least to most).

"""
    write_text(options.out / "latency.md", about + table(rows))
    print((options.out / "latency.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    guarded(main)
