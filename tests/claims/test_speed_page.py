"""What docs/speed.md says of threads, calls, many learners and the first use is what the committed rows say."""

import re
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/speed.md").read_text(encoding="utf-8")


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


def test_what_compiled_acting_gains():
    spent = rows("acting").set_index(["backbone", "learners", "round", "acting"]).microseconds.unstack()
    gains = (spent.eager / spent.compiled).groupby(["backbone", "learners"]).median().unstack()
    two, twenty = (f"{gains[count].min():.2f} to {gains[count].max():.2f}" for count in (2, 20))
    said = f"gains {two} times with two learners, and {twenty} with twenty"
    assert said in " ".join(PAGE.split())


def test_shares_of_the_peak():
    rates = rows("peak").pivot(index="round", columns="who", values="gflops")
    for width in (64, 256):
        shares = [
            (rates[f"{who} {width}"] / rates.peak).median()
            for who in ("hidden layer", "forward", "backward", "torch.mm")
        ]
        figures = " | ".join(f"{share:.2f}" for share in shares)
        assert f"| 2 networks, {width}x{width}, batch {width} | {figures} |" in PAGE
    narrow = [(rates[f"{who} 64"] / rates.peak).median() for who in ("forward", "backward")]
    assert f"reach {narrow[0]:.2f} to {narrow[1]:.2f} of the processor's peak" in " ".join(PAGE.split())


def test_what_joined_passes_gain():
    spent = rows("joined").groupby(["passes", "learners", "width", "how"]).microseconds.median().unstack()
    said, two = " ".join(PAGE.split()), spent.loc["critics", 2, 64]
    twenty, wide = spent.loc["critics", 20, 64], spent.loc["critics", 2, 256]
    assert f"take {two['one call']:.0f} us as one call instead of {two['two calls']:.0f} with two learners" in said
    assert f"and {twenty['one call']:.0f} instead of {twenty['two calls']:.0f} with twenty" in said
    assert f"nothing is gained ({wide['one call']:,.0f} and {wide['two calls']:,.0f} us" in said
    update = re.search(r"(\d+), acting 43", PAGE)
    saved = (spent["two calls"] - spent["one call"]).xs(2, level="learners").xs(64, level="width").sum()
    assert f"{saved:.0f} of its {2 * int(update[1])} us" in said


def test_what_the_whole_machine_does():
    measured = rows("machine").set_index(["width", "round"])
    sides = {side: group.steps_per_second for side, group in measured.groupby("side")}
    rivals, alone = sides["SB3, a process per core"], sides["ours, one thread"]
    figures = " | ".join(f"{steps:,.0f}" for steps in rivals.groupby("width").median())
    assert f"| SB3, 2 agents, a process per core | {figures} |" in PAGE
    for line in ("one thread", "two threads", "a process per core"):
        ours = sides[f"ours, {line.removeprefix('two ')}"]
        steps, ratios = (figure.groupby("width").median() for figure in (ours, ours / rivals))
        cells = " | ".join(f"{steps[width]:,.0f}, {ratios[width]:.1f}x" for width in (64, 256))
        assert f"| 20 learners, {line} | {cells} |" in PAGE
    gains = (sides["ours, a process per core"] / alone).groupby("width").median()
    assert f"Two processes make {gains[64]:.1f} times (64x64) and {gains[256]:.1f} times (256x256)" in PAGE
    assert (gains >= 1.6).all()


def test_what_many_learners_cost():
    medians = rows("scale").groupby(["gradient_steps", "learners", "width"]).microseconds.median()
    for learners in (2, 20, 200):
        figures = " | ".join(f"{medians[1, learners, width]:,.0f}" for width in (32, 64, 256, 512))
        assert f"| {learners} | {figures} |" in PAGE
    limits = rows("limits").groupby("what").value.median()
    assert f"a step of the physics, {limits['physics_us']:.0f} us;" in PAGE
    assert f"peak rate of {limits['gflop_per_second']:.0f} GFLOP/s;" in PAGE
    assert f"{limits['gb_per_second']:.0f} GB/s of a copy" in PAGE
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
            assert repaid < PAYS["cpu"]


def test_what_bfloat16_saves_and_that_returns_stay():
    ratios = []
    for name in ("kernels_64_k2", "kernels_64_k20", "kernels_256_k2"):
        medians = rows(name).groupby("who").microseconds.median()
        ratios.append(f"{medians['relu'] / medians['relu bfloat16']:.2f}")
    assert f"| float32 over bfloat16 | {' | '.join(ratios)} |" in PAGE
    sides = []
    for name in ("float32", "bfloat16"):
        found = pd.read_csv(ROOT / f"results/bfloat16/HalfCheetah-v5/{name}.csv")
        final = found[found.phase == "final"]
        assert final.seed.nunique() == 10
        sides.append(f"{final['return'].mean():,.0f}")
    assert f"{sides[0]} in float32 and {sides[1]} in bfloat16" in PAGE


def test_what_threads_of_environments_gain():
    for (task, count), bursts in rows("environments").groupby(["task", "environments"]):
        one, two = (bursts[bursts.threads == threads].set_index("round").us for threads in (1, 2))
        assert f"| {task} | {count} | {one.median():.0f} us | {(one / two).median():.2f}x |" in PAGE


def test_what_students_of_every_kind_cost():
    medians = rows("students").groupby(["case", "students"]).microseconds.median()
    for case in medians.index.get_level_values(0).unique():
        assert f"| {case} | {medians[case, 2]:,.0f} | {medians[case, 20]:,.0f} |" in PAGE
    before = rows("students_before_gru_kernel").query("case == 'GRU of 64'").groupby("students").microseconds.median()
    times = [f"{before[k] / medians['GRU of 64', k]:.1f}" for k in (2, 20)]
    assert f"{before[2]:,.0f} and {before[20]:,.0f}: {times[0]} and {times[1]} times as much." in PAGE


def test_what_many_learners_cost_on_a_gpu():
    medians = rows("gpu").groupby(["learners", "part", "side"]).microseconds.median()
    for learners, part in medians.index.droplevel(2).unique():
        of = medians[learners, part]
        cells = [f"{of[side]:,.0f}" if side in of else "-" for side in ("cpu", "cpu compiled", "cuda", "cuda compiled")]
        assert f"| {learners}, {part} | {' | '.join(cells)} |" in PAGE


def test_the_tables_of_one_thread():
    for backbone in ("ddpg", "td3", "sac", "ppo"):
        ratios = rows(backbone).groupby(["width", "who"]).ratio.median()
        for line, width, who in (
            ("two learners, compiled, over one SB3 learner", 64, "2 learners, compiled"),
            ("two learners, eager", 64, "2 learners, eager"),
            ("two learners, compiled, over one SB3 learner", 256, "2 learners, compiled"),
            ("the same, products in bfloat16", 256, "2 learners, compiled, bfloat16"),
        ):
            if backbone != "ppo" or width == 64:
                lines = [row for row in PAGE.splitlines() if row.startswith(f"| {line} |")]
                assert any(f"{ratios[width, who]:.1f}x" in row for row in lines), (backbone, line)


def test_layer_norm_of_relu_networks_costs_at_most_fifteen_percent():
    for name in ("kernels_64_k2", "kernels_64_k20", "kernels_256_k2"):
        medians = rows(name).groupby("who").microseconds.median()
        assert medians["relu norm"] / medians["relu"] <= 1.15


def test_a_smaller_replay():
    for (capacity, width), case in rows("replay").groupby(["capacity", "width"]):
        cells = []
        for kind in ("float32", "float16", "disk"):
            mine = case[case.kind == kind]
            us = mine.groupby("what").us.median()
            cells.append(f"{mine.own_mb.iloc[0]:,.0f} MB, {us['draw']:.0f} us, {us['add']:.0f} us")
        assert f"| {capacity:,} x {width} | {' | '.join(cells)} |" in PAGE


def test_wide_networks_on_a_gpu():
    both = pd.concat([rows("gpu"), rows("gpu_wide")]).query("part == 'update'")
    median = both.groupby(["learners", "width", "side"]).microseconds.median()
    for learners in (2, 20, 200):
        cells = [f"{median[learners, width, side]:,.0f}" for width in (64, 256) for side in ("cuda", "cuda compiled")]
        named = f"{learners} learners" if learners == 2 else str(learners)
        assert f"| {named} | {' | '.join(cells)} |" in PAGE
    assert 0.9 < median[2, 256, "cuda compiled"] / median[2, 64, "cuda compiled"] < 1.1  # "as long"
    assert median[200, 256, "cuda compiled"] >= median[200, 256, "cuda"]  # "saves nothing"


def test_when_compiling_pays_on_a_gpu():
    from policykd.training.compiling import PAYS

    update = rows("gpu").query("part == 'update' and learners == 2").groupby("side").microseconds.median()
    saved = 2 * (update["cuda"] - update["cuda compiled"]) / 1e6
    assert 19 / saved < PAYS["cuda"] / 4 and "after some 2,000 updates" in PAGE and round(19 / saved, -3) == 2000
    step = rows("gpu").query("part == 'step'").groupby(["learners", "side"]).microseconds.median()
    assert 0.9 < step[2, "cuda compiled"] / step[2, "cpu compiled"] < 1.1
    assert 0.45 < step[20, "cuda compiled"] / step[20, "cpu compiled"] < 0.55
