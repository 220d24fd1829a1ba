"""What docs/speed.md says of threads, calls, many learners and the first use is what the committed rows say."""

from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/speed.md").read_text()


def rows(name):
    return pd.read_csv(ROOT / f"results/speed/{name}.csv")


def test_calls_of_an_iteration():
    calls = rows("calls")
    for package, who in (
        ("policykd", "two learners with distillation, not compiled"),
        ("stable_baselines3", "one SB3 learner"),
    ):
        mine = calls[(calls.package == package)]
        own = mine[mine.file.notna()]
        everything = int(mine[mine.file.isna()].calls.iloc[0])
        assert f"| {who} | {own.calls.sum()} | {own.file.nunique()} | {everything:,} |" in PAGE


def test_what_threads_gain():
    for width, bursts in rows("threads").groupby("width"):
        one, two = (bursts[bursts.threads == count].set_index("round").microseconds for count in (1, 2))
        assert f"| {width}x{width}, {width} | {(one / two).median():.2f}x |" in PAGE


def test_what_many_learners_cost():
    medians = rows("scale").groupby(["gradient_steps", "learners", "width"]).microseconds.median()
    for learners in (2, 20, 200):
        figures = " | ".join(f"{medians[1, learners, width]:,.0f}" for width in (32, 64, 256, 512))
        assert f"| {learners} | {figures} |" in PAGE
    several = [f"{medians[steps, 2, 32]:,.0f}" for steps in (2, 4, 8)]
    assert f"take {several[0]}, {several[1]} and {several[2]} us" in PAGE


def test_what_the_first_use_costs_and_that_compiling_repays_within_the_run():
    from policykd.training.compiling import PAYS

    values = rows("cold_start").set_index(["what", "figure"]).value
    for what in ("kernels", "operators"):
        assert f"| {values[what, 'seconds of the processor']:.1f} | |" in PAGE
        assert values[what, "seconds of the processor"] < 10
    for backbone in ("ddpg", "sac"):
        for state, when in (("cold", "first time"), ("kept", "later runs")):
            case = f"{backbone}, {state}"
            cost, repaid = (values[case, name] for name in ("cost, s", "repaid after updates"))
            assert f"| compiling {backbone.upper()}, {when} | {cost:.0f} | {round(repaid, -2):,.0f} updates |" in PAGE
            assert repaid < PAYS


def test_layer_norm_of_relu_networks_costs_at_most_fifteen_percent():
    for name in ("kernels_64_k2", "kernels_64_k20", "kernels_256_k2"):
        medians = rows(name).groupby("who").microseconds.median()
        assert medians["relu norm"] / medians["relu"] <= 1.15
