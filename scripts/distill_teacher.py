"""Distil a teacher into students of several sizes, and see how much of its return each size retains.

    python scripts/distill_teacher.py --teacher path/to/sac/HalfCheetah-v3_1

The teacher is an SB3 zip, a folder of rl-baselines3-zoo, ONNX, TorchScript, or a run of policykd.
"""

from pathlib import Path

import tyro

from policykd import Teacher, TeacherStudent
from policykd.cli import guarded
from policykd.export.zoo import to_zip


def main(
    teacher: Path,
    env: str = "HalfCheetah-v5",
    method: str = "dagger",
    sizes: tuple[int, ...] = (8, 16, 64),
    steps: int = 100_000,
    seeds: tuple[int, ...] = (0, 1, 2),
    out: Path = Path("runs/distill_teacher"),
) -> None:
    frozen = Teacher.load(teacher, env)  # runs no code from the file
    for size in sizes:
        students = TeacherStudent(
            env,
            frozen,
            method=method,  # how students learn: dagger, bc, kickstarting, ppd, ...
            backbone="ppo",  # the student's kind of policy: here Gaussian
            seeds=seeds,  # one student per seed, all trained together
            config={"net_arch": (size, size), "eval_freq": max(1, steps // 10)},
        )
        score = students.score_teacher()  # refuses a useless teacher before a folder is made
        assert score is not None
        students.write_into(out / f"{size}x{size}")
        students.learn(steps, progress_bar=True)
        returns = students.evaluate(20, seed=1_000_000).returns.mean(1)  # per student
        parameters = students.learner.actor.shape[1]
        print(f"{size}x{size}, {parameters:,} parameters: {returns.mean():,.1f} of the teacher's {score.mean:,.1f}")
        best = students.learner_index("best")
        to_zip(students, best, out / f"student_{size}x{size}.zip")  # for plain SB3; its normaliser is a second file


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
