"""What many environments change: the page shows the table of the rows, and its sentences hold."""

from pathlib import Path

from experiments.measurements import Measurements
from experiments.n_envs.run import ENVS, KEYS, VALUES, at, table

ROOT = Path(__file__).parents[2]
ROWS = Measurements(ROOT / "results" / "n_envs" / "rows.csv", KEYS, VALUES)
PAGE = (ROOT / "docs" / "many_environments.md").read_text(encoding="utf-8")
TEXT = " ".join(PAGE.split())


def test_the_page_shows_the_table_of_the_rows():
    assert table(ROWS) + "\n" == (ROOT / "results" / "n_envs" / "table.md").read_text(encoding="utf-8")
    assert table(ROWS) in PAGE


def test_returns_of_sac_follow_gradient_steps():
    last = [at(ROWS, n_envs, 1, last=True).mean() for n_envs in ENVS["sac"]]
    ends = [ROWS.where(learner="sac", n_envs=n_envs, gradient_steps=1).steps.max() for n_envs in (1, 16)]
    assert f"they lie between {min(last):.0f} and {max(last):.0f}, whether a learner had {ends[0]:,} " in TEXT
    assert f"environment steps or {ends[1]:,}" in TEXT
    one, sixteen = (at(ROWS, n_envs, 1, last=False).mean() for n_envs in (1, 16))
    assert f"sixteen environments are at {sixteen:.0f}, one at {one:.0f}." in TEXT
    kept = [at(ROWS, n_envs, -1, last=False) for n_envs in ENVS["sac"][1:]]
    up_to_eight = [values.mean() for values in kept[:-1]]
    assert f"up to eight environments ({max(up_to_eight):.0f} to {min(up_to_eight):.0f})" in TEXT
    assert f"with seeds from {kept[-1].min():.0f} to {kept[-1].max():.0f}," in TEXT


def test_students_with_more_environments_return_no_less_than_seeds_differ():
    returns = [ROWS.values("return", learner="dagger", n_envs=n_envs) for n_envs in ENVS["dagger"]]
    one, four, sixteen, most = (f"{values.mean():,.0f}" for values in returns)
    said = f"return {one} with one environment, {four} with 4, {sixteen} with 16 and {most} with 64."
    assert said in TEXT
    spread = [values.std(ddof=1) for values in returns]
    assert f"(standard deviations of {min(spread):,.0f} to {max(spread):,.0f})" in TEXT
    assert returns[0].mean() - returns[-1].mean() < max(spread)
    assert {len(values) for values in returns} == {5}
