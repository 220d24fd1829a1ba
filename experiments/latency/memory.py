"""What int8 saves and costs a student with gated recurrent units: results/latency/memory.{csv,md}.

Pendulum without its velocity, students of rl-baselines3-zoo's SAC agent by DAgger. Flash, RAM and time of one action in
C, and returns in float32 and int8 from the same starts. Time is taken in turns, as in ``run.py``.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np

from experiments.latency.run import measure
from experiments.measurements import Measurements
from policykd.benchmark.documents import publish
from policykd.cli import guarded
from policykd.core.compute import one_thread
from policykd.core.files import write_text
from policykd.export import c_code
from policykd.export.calibration import check_on_episodes, quantise_stateful
from policykd.export.compiled import CompiledPolicy, code_bytes
from policykd.export.plain import PlainPolicy
from policykd.export.stateful import Episodes, over_episodes
from policykd.training.teacher_student import TeacherStudent

TASK, SEEDS, START = "Pendulum-v1", (0, 1, 2), 5_000_000
KEYS = ("seed", "precision")
VALUES = ("constants", "code", "buffers", "state", "median_us", "worst", "mean_difference", "return", "std")
CONFIG = {
    **{"student_observations": (0, 1), "gru": 32, "net_arch": (32, 32), "beta_rounds": 5},
    **{"eval_freq": 0, "n_eval_episodes": 0, "checkpoint_freq": 0},
}


def play(policy: CompiledPolicy, size: int, episodes: int) -> np.ndarray:
    """Returns of ``episodes``, the state of ``size`` numbers handed on from step to step."""
    env, returns = gym.make(TASK), np.zeros(episodes)
    for e in range(episodes):
        observation, _ = env.reset(seed=START + e)
        start, ended, state = True, False, np.zeros(size, np.float32)
        while not ended:
            action, state = policy.step(observation[:2], start, state)
            observation, reward, terminated, truncated, _ = env.step(action)
            returns[e] += float(reward)
            start, ended = False, terminated or truncated
    return returns


def sizes(policy: PlainPolicy) -> dict[str, object]:
    """Bytes of flash and RAM."""
    code, buffers = code_bytes(policy), c_code.buffer_bytes(policy)
    kept = 4 * policy.state_size
    return {"constants": c_code.constant_bytes(policy), "code": code, "buffers": buffers, "state": kept}


def main() -> None:
    """Train, quantise, play."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--teacher", type=Path, required=True)
    parser.add_argument("--total-timesteps", type=int, default=10_000)
    parser.add_argument("--episodes", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("results/latency"))
    parser.add_argument("--page", type=Path, default=Path("docs/export.md"))
    options = parser.parse_args()
    rows = Measurements(options.out / "memory.csv", KEYS, VALUES)
    if not rows.has():
        agent = TeacherStudent(TASK, options.teacher, seeds=SEEDS, config=CONFIG, compile=False)
        agent.learn(options.total_timesteps)
        for k, seed in enumerate(SEEDS):
            rows.add(*compared(agent, k, seed, options.episodes))
    text = table(rows)
    write_text(options.out / "memory.md", text)
    publish(text, options.page, "memory in int8")
    print(text)


def compared(agent: TeacherStudent, k: int, seed: int, episodes: int) -> list[dict[str, object]]:
    """A row of one student in float32 and in int8."""
    learner = Episodes(agent, k, "own")
    small, met = quantise_stateful(learner, None)
    policies = {"float32": learner.plain(), "int8": small}
    compiled = {name: CompiledPolicy(policy) for name, policy in policies.items()}
    state = np.zeros(small.state_size, np.float32)
    with one_thread():
        ways = {name: partial(one.step, start=False, state=state) for name, one in compiled.items()}
        times = measure(ways, met.observations, 20, 1_000).groupby("format").median_us.median()
    found = []
    for name, policy in policies.items():
        play_in_c = over_episodes(compiled[name].step)
        worst, mean, _ = check_on_episodes(learner, play_in_c, [(small.state_size,)], met, name)
        returns = play(compiled[name], small.state_size, episodes)
        row = {"seed": seed, "precision": name, **sizes(policy), "median_us": float(times[name])}
        row |= {"worst": worst, "mean_difference": mean, "return": float(returns.mean()), "std": float(returns.std())}
        found.append(row)
    return found


def table(rows: Measurements) -> str:
    """A line per student and precision."""
    lines = ["| seed | in | constants | code | buffers, state | median | mean and largest distance | return |"]
    lines.append("|---" * 8 + "|")
    for row in rows.where().to_dict("records"):
        cells = (
            *(row["seed"], row["precision"], f"{row['constants']:,}", row["code"]),
            *(f"{row['buffers']}, {row['state']}", f"{row['median_us']:.2f}"),
            *(f"{row['mean_difference']:.1e}, {row['worst']:.1e}", f"{row['return']:.0f} +/- {row['std']:.0f}"),
        )
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    guarded(main)
