"""Diagnose why a distillation fails: first a student that does not see the goal, then one that does."""

from collections.abc import Sequence

import numpy as np

from policykd.measure.doctor import Diagnosis, diagnose


def teacher(observation: np.ndarray) -> np.ndarray:
    """Move towards the goal; the last two observations are the vector to it."""
    return np.clip(5 * observation[..., 2:], -1, 1)


def ask(student_observations: Sequence[int] | None, updates: int) -> Diagnosis:
    """Diagnose a 32x32 student of the teacher above that sees part of the observation."""
    return diagnose(
        teacher,
        "PolicyKD/PointReach-v0",
        student_observations=student_observations,
        net_arch=(32, 32),
        learning_rate=3e-3,
        n_episodes=40,
        updates=updates,
    )


def main(updates: int = 1_000) -> None:
    """Show the fault, the remedy, and the diagnosis after it."""
    blind = ask((0, 1), updates)
    print(blind)
    for finding in blind.wrong:
        print(f"\nwrong: {finding.check}. To do: {finding.advice}")
    print(f"\nand with all observations:\n\n{ask(None, updates)}")


if __name__ == "__main__":
    main()
