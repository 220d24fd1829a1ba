"""Train a small student, export it to C in float32 and int8, and call it as a fast function of one observation."""

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from policykd import TeacherStudent
from policykd.export import Policy
from policykd.export.c import to_c


def teacher(observation: np.ndarray) -> np.ndarray:
    """Move towards the goal; the last two observations are the vector to it."""
    return np.clip(5 * observation[..., 2:], -1, 1)


def main(folder: Path, steps: int = 4_000) -> None:
    """Go from a teacher to a C file for a microcontroller."""
    config = {"net_arch": (32, 32), "round_updates": 200, "eval_freq": 0}
    student = TeacherStudent("PolicyKD/PointReach-v0", teacher, config=config).learn(steps)

    for precision in ("float32", "int8"):
        size = to_c(student, 0, folder / precision, precision)  # int8 is calibrated on states that it visits
        print(precision, *size.lines(), sep="\n  ")
    print((folder / "int8" / "policy.h").read_text(encoding="utf-8"))

    policy = Policy(student, 0)  # load_policy(run) of a folder: the same C, compiled here; NumPy where nothing compiles
    observation = student.observation_space.sample()
    assert np.allclose(policy(observation), student.predict(observation, learner=0)[0], atol=1e-4)
    for name, act in (("Policy", policy), ("predict", lambda o: student.predict(o, learner=0))):
        start = time.perf_counter()
        for _ in range(1_000):
            act(observation)
        print(f"{name} ({policy.computed_by}): {1e3 * (time.perf_counter() - start):.2f} us for one observation")


if __name__ == "__main__":
    with TemporaryDirectory() as temporary:
        main(Path(temporary))
