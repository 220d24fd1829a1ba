"""What int8 costs in return: students of a teacher as float32 and int8: results/latency/returns.{csv,md}."""

from __future__ import annotations

import argparse
from pathlib import Path

import gymnasium as gym
import numpy as np

from experiments.measurements import Measurements
from policykd import Teacher
from policykd.cli import guarded
from policykd.core.files import write_text
from policykd.export import deploy
from policykd.export.calibration import check_int8, split
from policykd.export.compiled import CompiledPolicy
from policykd.export.int8 import quantise
from policykd.export.plain import flatten
from policykd.training.teacher_student import TeacherStudent

KEYS, VALUES = ("student", "seed", "precision"), ("worst", "mean_difference", "return", "std")
SEEDS = (0, 1, 2)


def play(act: CompiledPolicy, env_id: str, episodes: int, seed: int) -> np.ndarray:
    """Returns of ``episodes`` from seeds that depend on ``seed`` alone."""
    env, returns = gym.make(env_id), np.zeros(episodes)
    for e in range(episodes):
        observation, _ = env.reset(seed=seed + e)
        ended = False
        while not ended:
            observation, reward, terminated, truncated, _ = env.step(act(observation))
            returns[e] += float(reward)
            ended = terminated or truncated
    return returns


def main() -> None:
    """Train, quantise, play."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--backbones", nargs="+", default=["ppo", "td3"])
    parser.add_argument("--total-timesteps", type=int, default=60_000)
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("results/latency"))
    options = parser.parse_args()
    rows = Measurements(options.out / "returns.csv", KEYS, VALUES)
    for backbone in options.backbones:
        if not (seeds := rows.missing(SEEDS, student=backbone)):
            continue
        agent = TeacherStudent(
            options.env,
            Teacher.load(options.teacher, options.env),
            backbone=backbone,
            seeds=seeds,
            config={"net_arch": (64, 64), "eval_freq": 0, "teacher_episodes": 3},
        ).learn(options.total_timesteps)
        found = []
        for k, seed in enumerate(agent.seeds):
            plain = flatten(deploy(agent, k))
            calibrated, measured = split(agent, k, None)
            small = quantise(plain, calibrated)
            difference = check_int8(measured)(agent, k, small, "int8")
            for name, policy in (("float32", plain), ("int8", small)):
                returns = play(CompiledPolicy(policy), options.env, options.episodes, seed=5_000_000)
                worst, mean = (0.0, 0.0) if name == "float32" else difference[:2]
                row = (backbone, seed, name, worst, mean, float(returns.mean()), float(returns.std(ddof=1)))
                found.append(dict(zip((*KEYS, *VALUES), row, strict=True)))
        rows.add(*found)
    frame = rows.where()
    lines = ["| student | seed | float32 | int8 | mean and largest distance of int8 |", "|---|---|---|---|---|"]
    for (student, seed), pair in frame.groupby(["student", "seed"], sort=False):
        one = pair.set_index("precision")
        cells = " | ".join(f"{one.loc[p, 'return']:,.0f} +/- {one.loc[p, 'std']:,.0f}" for p in ("float32", "int8"))
        far = one.loc["int8"]
        lines.append(f"| {student} | {seed} | {cells} | {far.mean_difference:.4f}, {far.worst:.3f} |")
    about = (
        f"{options.env}, 64x64 students by DAgger, {options.total_timesteps:,} steps; {options.episodes} episodes\n"
        "from the same starts. Distances in actions scaled to [-1, 1]. By `experiments/latency/returns.py`.\n\n"
    )
    write_text(options.out / "returns.md", about + "\n".join(lines) + "\n")
    print((options.out / "returns.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    guarded(main)
