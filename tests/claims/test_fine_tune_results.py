"""The committed table of fine-tuning is that of the committed rows, and the page says what they say."""

from pathlib import Path

import pandas as pd

from experiments.fine_tune.report import KEYS, VALUES, summary, table
from experiments.measurements import Measurements

ROOT = Path(__file__).parents[2]


def test_the_table_is_that_of_the_rows_and_the_page_says_no_more():
    measured = Measurements(ROOT / "results/fine_tune/rows.csv", KEYS, VALUES)
    page = (ROOT / "docs/fine_tuning.md").read_text(encoding="utf-8")
    assert table(measured) + "\n" == (ROOT / "results/fine_tune/table.md").read_text(encoding="utf-8")
    assert table(measured) in page
    runs = summary(measured)

    def lowest(protocol, env, backbone, way="fine_tune()"):
        cell = {"protocol": protocol, "env": env, "backbone": backbone, "way": way}
        found = runs[(runs[list(cell)] == pd.Series(cell)).all(axis=1)]
        assert len(found) == 3
        return found.lowest

    tuned = runs[(runs.way == "fine_tune()") & (runs.protocol == "full")]
    assert len(tuned) == 18 and tuned.env.nunique() == 3 and tuned.lowest.min() >= 0.9
    assert f"no student of `fine_tune()` is below {tuned.lowest.min():.2f} of where it began" in page
    assert f"they end at {tuned.end.min():.2f} to {tuned.end.max():.2f}" in page
    assert (tuned[(tuned.env == "Hopper-v5") & (tuned.backbone == "td3")].end > 1).all()
    assert (tuned[(tuned.env != "Pendulum-v1") & (tuned.backbone == "sac")].end == 1).all()
    own, teacher = "held by themselves", "held by the teacher"
    assert (lowest("full", "HalfCheetah-v5", "td3", teacher) >= 0.9).all()
    assert (lowest("full", "Hopper-v5", "td3", teacher) < 0.9).all()
    assert (lowest("full", "Hopper-v5", "td3", own) >= 0.9).all()
    assert lowest("full", "Hopper-v5", "sac", own).min() < 0.9
    assert (lowest("full", "HalfCheetah-v5", "td3", own) < 0.9).all()
    short = runs[runs.protocol == "short"].set_index(["way", "env"]).sort_index()
    assert (short.loc["fine_tune()"].lowest >= 0.9).all()
    on_trial = short.loc["fine_tune()", "Pendulum-v1"].end
    risen = on_trial[on_trial > 1]
    assert (len(on_trial), len(risen), f"{risen.min():.2f} to {risen.max():.2f}") == (6, 3, "1.31 to 2.16")
    assert (short.loc["fine_tune()", "Hopper-v5"].end == 1).all()
    for env, ends in (("Pendulum-v1", "1.26 to 2.27"), ("Hopper-v5", "0.92 to 1.43")):
        without = short.loc[teacher, env]
        assert f"{without.end.min():.2f} to {without.end.max():.2f}" == ends and ends in page.replace("\n", " ")
    assert f"after falls to {without.lowest.min():.2f}" in page
    naive = runs[runs.way == "naive"].set_index("protocol")
    assert (naive.loc["short"].lowest < 0).all()
    again = naive.loc["short"].end[naive.loc["short"].end > 1]
    assert f"and end at {again.min():.2f} and {again.max():.2f}" in page and len(again) == 2
    assert naive.loc["full"].lowest.max() < 0.055 and naive.loc["full"].end.max() < 0.175
    trial = "held by themselves, on trial"
    assert min(lowest("full", "Hopper-v5", "td3", way).min() for way in (trial, "fine_tune()")) > 0.945
    tried = pd.read_csv(ROOT / "results/fine_tune/search_full.csv")
    shares = (tried["return"] / tried.student_as_it_was).groupby([tried.anchor, tried.anchor_distance]).min().round(2)
    assert shares["student", 0.1] == 0.92 and shares["teacher", 0.1] == 0.91
    assert "keep 0.91 and more with either anchor" in page
    assert f"with trials {shares['teacher, on trial', 0.1]:.2f}" in page
    assert f"({shares['student', 0.05]:.2f} at the lowest)" in page
