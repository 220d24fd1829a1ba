"""The committed table of fine-tuning is that of the committed rows, and the page says what they say."""

from pathlib import Path

import pandas as pd

from experiments.fine_tune.report import KEYS, VALUES, summary, table
from experiments.measurements import Measurements

ROOT = Path(__file__).parents[2]


def test_the_table_is_that_of_the_rows_and_the_page_says_no_more():
    measured = Measurements(ROOT / "results/fine_tune/rows.csv", KEYS, VALUES)
    page = (ROOT / "docs/teacher_student.md").read_text()
    assert table(measured) + "\n" == (ROOT / "results/fine_tune/table.md").read_text()
    assert table(measured) in page
    runs = summary(measured)

    def lowest(protocol, env, backbone, way="fine_tune()"):
        cell = {"protocol": protocol, "env": env, "backbone": backbone, "way": way}
        found = runs[(runs[list(cell)] == pd.Series(cell)).all(axis=1)]
        assert len(found) == 3
        return found.lowest

    assert (lowest("full", "HalfCheetah-v5", "td3") >= 0.9).all() and (lowest("full", "Hopper-v5", "td3") < 0.9).all()
    own = "held by themselves"
    assert (lowest("full", "Hopper-v5", "td3", own) >= 0.9).all()
    assert (lowest("full", "HalfCheetah-v5", "td3", own) < 0.9).all() and lowest(
        "full", "Hopper-v5", "sac", own
    ).min() < 0.9
    assert all((lowest("short", "Pendulum-v1", backbone) >= 0.9).all() for backbone in ("td3", "sac"))
    assert f"{lowest('short', 'Hopper-v5', 'td3').min():.2f}" == "0.32"
    assert (runs[runs.way == "naive"].lowest < 0).all()
    at_half = measured.where(protocol="full", env="Hopper-v5", backbone="sac", way=own, steps=30_000)
    assert f"all three of SAC were at {at_half['return'].min():,.0f} and more" in page
    tried = pd.read_csv(ROOT / "results/fine_tune/search_full.csv")
    shares = (tried["return"] / tried.student_as_it_was).groupby([tried.anchor, tried.anchor_distance]).min().round(2)
    assert (
        shares["student", 0.1] == 0.92
        and shares["teacher", 0.1] == 0.91
        and "keep 0.91 and more with either anchor" in page
    )
    assert f"({shares['student', 0.05]:.2f} at the lowest)" in page
