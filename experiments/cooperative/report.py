"""Tables and picture of ``cooperative_tables.py``, from its raw rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.measurements import Measurements, interval, mean_and_half
from policykd.benchmark.documents import publish
from policykd.cli.output import say
from policykd.core.files import write_text
from policykd.measure.plots import COLOURS, INK, save_figure

UCI = (
    *("wdbc", "vehicle", "segment", "phoneme", "german", "pima", "adult", "satimage", "australian", "spambase"),
    *("vowel", "texture", "letter"),
)
"""Two to 26 classes, 569 to 48,842 rows; german and adult have nominal features."""
EVEN = tuple(f"{name}, even" for name in UCI)
"""The same sets with rows that are split at random."""
TITLES = {
    "alone": "alone",
    "counterfactuals": "counterfactuals",
    "instances": "raw rows",
    "teacher_labels": "unfocused",
    "distilled": "plain KD",
}
"""Ways of learning, as the tables call them."""


def write_report(rows: Measurements, out: Path, page: Path) -> None:
    """Tables into the document, and the picture of all gains."""
    frame = rows.where()
    if frame.empty:
        return
    arms = frame.groupby(["data", "seed"])["arm"].transform("nunique")
    frame = frame[arms == len(TITLES)]  # a seed that is half done compares unlike things
    parts = {
        "experts": experts_table(frame[frame["data"] == "experts"]),
        "halves": halves_table(frame[frame["data"] == "halves"]),
        "uci": uci_table(frame, UCI),
        "even": uci_table(frame, EVEN),
    }
    for name, table in parts.items():
        if table:
            publish(table, page, f"{name} table")
            say(f"{name}\n{table}")
    write_text(out / "tables.md", "\n".join(table for table in parts.values() if table))
    draw(frame, out / "gains.png")


def experts_table(frame: pd.DataFrame) -> str:
    """Median, worst and number of improved among the ten, means over seeds."""
    if frame.empty:
        return ""
    by_seed = frame.pivot_table(index=["seed", "learner"], columns="arm", values="accuracy")
    lines = [
        "| | seeds | median of ten, % | worst of ten, % | improved, fewest of ten in any seed |",
        "|---|" + "---:|" * 4,
    ]
    for arm in [arm for arm in TITLES if arm in by_seed]:
        table = by_seed[arm].unstack("seed").dropna(axis=1)
        gained = table > by_seed["alone"].unstack("seed")[table.columns]
        improved = "" if arm == "alone" else str(int(gained.sum().min()))
        median, worst = interval(100 * table.median(), 1), interval(100 * table.min(), 1)
        lines.append(f"| {TITLES[arm]} | {table.shape[1]} | {median} | {worst} | {improved} |")
    return "\n".join(lines) + "\n\n" + sent_line(frame)


def halves_table(frame: pd.DataFrame) -> str:
    """Accuracy of either learner."""
    if frame.empty:
        return ""
    lines = ["| | seeds | MLP, % | tree, % | seeds in which both improved |", "|---|" + "---:|" * 4]
    by_seed = frame.pivot_table(index="seed", columns=["arm", "learner"], values="accuracy")
    for arm in [arm for arm in TITLES if arm in by_seed]:
        table = by_seed[arm].dropna()
        both = int((table > by_seed["alone"].loc[table.index]).all(axis=1).sum())
        cells = [interval(100 * table[learner], 1) for learner in ("mlp", "tree")]
        lines.append(f"| {TITLES[arm]} | {len(table)} | {' | '.join(cells)} | {'' if arm == 'alone' else both} |")
    return "\n".join(lines) + "\n\n" + sent_line(frame)


def uci_table(frame: pd.DataFrame, sets: tuple[str, ...]) -> str:
    """Accuracy alone, and gains paired by seed, means over the four learners."""
    frame = frame[frame["data"].isin(sets)]
    if frame.empty:
        return ""
    arms = [arm for arm in TITLES if arm != "alone"]
    heads = [f"{TITLES[arm]}, points" for arm in arms]
    lines = [
        f"| data | seeds | alone, % | {' | '.join(heads)} | counterfactuals minus raw rows |",
        "|---|" + "---:|" * 7,
    ]
    gained = gains(frame)
    for name in [name for name in sets if name in set(frame["data"])]:
        alone = frame[(frame["data"] == name) & (frame["arm"] == "alone")].groupby("seed")["accuracy"].mean()
        own = gained.loc[name]
        cells = [interval(100 * own[arm], 1) if arm in own else "-" for arm in arms]
        less = interval(100 * (own["counterfactuals"] - own["instances"]), 1) if "instances" in own else "-"
        shown = [name.removesuffix(", even"), str(len(own)), interval(100 * alone, 1), *cells, less]
        lines.append(f"| {' | '.join(shown)} |")
    means = gained.groupby("data").mean()
    cells = [interval(100 * means[arm], 1) for arm in arms]
    less = interval(100 * (means["counterfactuals"] - means["instances"]), 1)
    lines.append(f"| mean over the sets (interval over sets) | | | {' | '.join(cells)} | {less} |")
    return "\n".join(lines) + "\n\n" + kinds_line(frame) + losers_line(frame) + sent_line(frame)


def gains(frame: pd.DataFrame) -> pd.DataFrame:
    """Accuracy minus that of the same learner alone: rows (data, seed), columns arms, means over the learners."""
    by_learner = frame.pivot_table(index=["data", "seed", "learner"], columns="arm", values="accuracy")
    arms = by_learner.drop(columns="alone").sub(by_learner["alone"], axis=0)
    return arms.groupby(["data", "seed"]).mean().dropna(how="all")


def kinds_line(frame: pd.DataFrame) -> str:
    """The gain of every kind of learner by counterfactuals."""
    by_learner = frame.pivot_table(index=["data", "learner"], columns="arm", values="accuracy")
    gain = (by_learner["counterfactuals"] - by_learner["alone"]).unstack("learner")
    words = ", ".join(f"{kind} {interval(100 * gain[kind], 1)}" for kind in gain)
    return f"Gain by counterfactuals of each kind of learner, points, over the sets: {words}.\n"


def losers_line(frame: pd.DataFrame) -> str:
    """How many learners are worse for the counterfactuals that they received, by kind."""
    by_learner = frame.pivot_table(index=["data", "seed", "learner"], columns="arm", values="accuracy")
    lost = (by_learner["counterfactuals"] < by_learner["alone"]).groupby("learner").agg(["sum", "size"])
    words = ", ".join(f"{kind} {row['sum']} of {row['size']}" for kind, row in lost.iterrows())
    total = lost.sum()
    return (
        f"Learners that lose by counterfactuals (sets, seeds and kinds): {total['sum']} of {total['size']}; {words}.\n"
    )


def sent_line(frame: pd.DataFrame) -> str:
    """How much was sent."""
    own = frame[frame["arm"] == "counterfactuals"]
    rows, raw = own["sent"].mean(), frame.loc[frame["arm"] == "instances", "sent"].mean()
    distance = (own["distance"] * own["sent"]).sum() / max(own["sent"].sum(), 1)  # rows differ in number by student
    return (
        f"A student received {rows:,.0f} counterfactuals, or {raw:,.0f} raw rows, on average; a counterfactual is "
        f"{distance:.2f} widths of the teacher's data (L1) away from its original.\n"
    )


def draw(frame: pd.DataFrame, path: Path) -> None:
    """Gain by data set and arm: mean over seeds with its interval."""
    gained = gains(frame)
    names = [name for name in ("experts", "halves", *UCI, *EVEN) if name in gained.index]
    figure = Figure(figsize=(7.6, 0.9 + 0.42 * len(names)), dpi=150, facecolor="white", layout="constrained")
    axes = figure.subplots()
    arms = [arm for arm in TITLES if arm in gained]
    for index, arm in enumerate(arms):
        points = np.array([mean_and_half(100 * gained.loc[name][arm]) for name in names]).T
        place = np.arange(len(names)) + 0.16 * (index - (len(arms) - 1) / 2)
        colour = COLOURS[index]
        axes.errorbar(
            points[0], place, xerr=points[1], fmt="o", markersize=4, capsize=2, color=colour, label=TITLES[arm]
        )
    axes.axvline(0, color="#b0b0b0", linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xscale("symlog", linthresh=10)
    axes.set_xticks([-10, -5, 0, 5, 10, 30], ["-10", "-5", "0", "5", "10", "30"])
    axes.set_xlabel(
        "points of test accuracy above the learners alone (mean, 95 % interval; log beyond 10)",
        color=INK,
    )
    axes.grid(axis="x", color="#e6e6e6", linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(colors=INK, length=0, labelsize=9)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=4, frameon=False, fontsize=8)
    save_figure(figure, path, metadata={"Software": None})
