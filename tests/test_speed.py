"""What an iteration costs, in numbers that do not depend on the machine."""

from experiments.speed.calls import both, own


def test_two_learners_with_distillation_make_no_more_calls_of_their_own_than_one_of_sb3():
    calls = both("sac")
    ours, theirs = (sum(own(calls[package], package).values()) for package in ("policykd", "stable_baselines3"))
    assert 0 < ours <= theirs
    assert sum(calls["policykd"].values()) < sum(calls["stable_baselines3"].values()) / 4
