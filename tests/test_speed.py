"""What an iteration costs, in numbers that do not depend on the machine."""

from pathlib import Path

import numpy as np
import pytest

from experiments.speed import guard
from experiments.speed.calls import both, own
from policykd import native


@pytest.mark.skipif(bool(native.reason()), reason=f"no native kernels: {native.reason()}")
def test_two_learners_with_distillation_make_no_more_calls_in_no_more_files_than_one_of_sb3():
    calls = both("sac")
    ours, theirs = (own(calls[package], package) for package in ("policykd", "stable_baselines3"))
    assert 0 < sum(ours.values()) <= sum(theirs.values())
    assert len({file for file, _ in ours}) <= len({file for file, _ in theirs})
    assert sum(calls["policykd"].values()) < sum(calls["stable_baselines3"].values()) / 4


def ratios(median, count=4_000):
    """Ratios that scatter by 20 % around their median."""
    draws = np.random.default_rng(0).normal(median, 0.2 * median, count)
    return iter(draws.tolist())


@pytest.mark.parametrize(("now", "status"), [(4.0, 0), (3.95, 0), (3.5, 1), (8.0, 0)])
def test_the_guard_fails_where_a_build_is_slower_than_the_committed_ratio(tmp_path, monkeypatch, capsys, now, status):
    committed = tmp_path / "guard.csv"
    options = {"backbones": ("sac",), "compile": (False,), "committed": committed, "most": 4_000}
    monkeypatch.setattr(guard, "bursts", lambda backbone, compiled: ratios(4.0))
    assert guard.main(guard.GuardOptions(**options, update=True, rounds=1_000)) == 0
    monkeypatch.setattr(guard, "bursts", lambda backbone, compiled: ratios(now))
    assert guard.main(guard.GuardOptions(**options)) == status
    assert ("slower" if status else "fast enough") in capsys.readouterr().out


def test_the_guard_says_where_it_cannot_tell():
    assert guard.judge([3.0, 4.5] * 20, committed=4.0) == "undecided"
    assert guard.judge([3.9] * 40, committed=4.0) == "fast enough"
    assert guard.judge([3.7] * 40, committed=4.0) == "slower"


def test_committed_ratios_are_there_for_every_case_that_the_guard_measures():
    options = guard.GuardOptions()
    committed = guard.read(Path(__file__).parents[1] / options.committed)
    assert {(backbone, compiled) for backbone in options.backbones for compiled in options.compile} <= committed.keys()
    assert min(committed.values()) > 1
