"""The answers about peers in BENCHMARK.md are those of the rows."""

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.peers import answers as questions
from experiments.peers.answers import holm, inserted, table
from experiments.peers.questions import QUESTIONS
from policykd.benchmark.bootstrap import interval, probability_of_improvement

ROOT = Path(__file__).parents[2]
WAYS = "trained", "student"
answers = functools.cache(questions.answers)


def test_the_page_leads_with_the_answers_that_the_rows_give():
    page = (ROOT / "BENCHMARK.md").read_text(encoding="utf-8")
    assert inserted(page, table(answers())) == page


def test_what_is_said_of_optuna():
    (answer,) = (answer for answer in answers() if answer.theirs == "optuna")
    chance = "0.84 [0.73, 0.94]"
    assert f"{answer.better.value:.2f} [{answer.better.low:.2f}, {answer.better.high:.2f}]" == chance
    for page in ("BENCHMARK.md", "README.md", "docs/peers.md"):
        assert chance in (ROOT / page).read_text(encoding="utf-8")
    assert answer.tasks[:2] == ("HalfCheetah-v5", "Hopper-v5")
    assert all(0.45 < theirs / ours < 0.55 for ours, theirs in answer.iqms[:2])


def test_what_is_said_of_sb3s_default():
    ours = {answer.ours: answer for answer in answers() if answer.question == "Q2" and answer.theirs == "sb3"}
    text = " ".join((ROOT / "BENCHMARK.md").read_text(encoding="utf-8").split())
    trained, student = (ours[f"four_mutual, {way}"] for way in ("best in training", "student"))
    chances = [f"P {a.better.value:.2f} [{a.better.low:.2f}, {a.better.high:.2f}]" for a in (trained, student)]
    shown = "{:,.0f} on HalfCheetah, {:,.0f} on Hopper and {:,.0f} on Walker2d".format(
        *(sb3 for _, sb3 in trained.iqms)
    )
    assert f"SB3 at its default rate, 3e-4, returns {shown}" in text
    assert f"the group is above it ({chances[0]})" in text
    above = "task by task both are on HalfCheetah and Hopper, and neither is shown to be on Walker2d."
    assert above in text and trained.tasks[:2] == ("HalfCheetah-v5", "Hopper-v5")
    lows = [[chance.low > 0.5 for chance in by_task("Q2", "four_mutual", way, "sb3").values()] for way in WAYS]
    assert lows == [[True, True, False]] * 2
    assert (
        "its shipped student ({:,.0f}, {:,.0f} and {:,.0f};".format(*(shipped for shipped, _ in student.iqms)) in text
    )
    assert f"; {chances[1]})" in text
    for page in ("README.md", "docs/peers.md"):
        assert chances[0][2:] in (ROOT / page).read_text(encoding="utf-8")


def test_holms_correction_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])


def test_what_a_step_of_the_group_costs():
    rows = pd.read_csv(ROOT / "results" / "peers_seconds.csv")
    by_round = rows.pivot(index="round", columns=["method", "groups"], values="microseconds")
    ratio = (by_round["four_mutual_2", 1] / by_round["sb3", 1]).median()
    for page in ("BENCHMARK.md", "README.md"):
        assert f"in {ratio:.2f} of its" in " ".join((ROOT / page).read_text(encoding="utf-8").split())


def test_what_is_said_of_sb3_at_equal_steps():
    ours = {answer.ours: answer for answer in answers() if answer.question == "Q1" and answer.theirs == "sb3"}
    trained, student = (ours[f"four_mutual_2, {way}"] for way in ("best in training", "student"))
    chances = [f"{a.better.value:.2f} [{a.better.low:.2f}, {a.better.high:.2f}]" for a in (trained, student)]
    returns = [f"{group:,.0f} to {sb3:,.0f}" for group, sb3 in trained.iqms]
    tasks = "Ant", "HalfCheetah", "Hopper", "InvertedDoublePendulum", "Swimmer", "Walker2d"
    *first, last = returns
    pairs = f"{', '.join(first)} and {last}"
    *first, last = (f"{group:,.0f}" for group, _ in student.iqms)
    shipped = f"{', '.join(first)} and {last}"
    page, readme = (
        " ".join((ROOT / name).read_text(encoding="utf-8").split()) for name in ("BENCHMARK.md", "README.md")
    )
    assert trained.tasks == student.tasks == tuple(f"{task}-v5" for task in tasks)
    behind = [task for task, (group, sb3) in zip(tasks, trained.iqms, strict=True) if group < sb3]
    assert behind == ["InvertedDoublePendulum"] and "on five of six tasks" in page
    assert f"({pairs}), and over all with P {chances[0]}, where 0.8 was aimed at" in page and trained.better.low > 0.5
    assert (
        f"above it over all, P(better) {chances[0]}, and with its whole interval on Ant, HalfCheetah and Hopper"
        in readme
    )
    each = by_task("Q1", "four_mutual_2", "trained", "sb3")
    assert [task for task, chance in each.items() if chance.low > 0.5] == ["Ant-v5", "HalfCheetah-v5", "Hopper-v5"]
    assert all(each[f"{task}-v5"].high > 0.5 for task in ("Swimmer", "Walker2d"))
    assert f"InvertedDoublePendulum ({said(each['InvertedDoublePendulum-v5'])})" in page
    over_best = by_task("Q1", "four_mutual_2", "student", "four_mutual_2", "trained")
    cheetah = over_best.pop("HalfCheetah-v5")
    assert f"shown to be on HalfCheetah alone ({said(cheetah)}), above it nowhere." in page
    assert all(chance.low < 0.5 < chance.high for chance in over_best.values())
    updates = [
        pd.read_csv(ROOT / f"results/peers_small/HalfCheetah-v5/{method}.csv")
        .query("backbone == 'sac'")["updates"]
        .max()
        for method in ("four_mutual_2", "sb3")
    ]
    assert updates[0] == 8 * updates[1] and all("eight times its updates" in text for text in (page, readme))
    assert f"({shipped}, P {chances[1]}, corrected p {student.p:.3f})" in page and student.better.low > 0.5
    below = " and ".join(task for task, (own, sb3) in zip(tasks, student.iqms, strict=True) if own < sb3)
    assert f"though not on {below}, where two of ten students drop" in page
    poles = pd.read_csv(ROOT / "results/peers_small/InvertedDoublePendulum-v5/four_mutual_2.csv")
    assert (poles.loc[poles["phase"] == "student", "return"] < 500).sum() == 2
    assert all(
        f"(P {chance})" in " ".join((ROOT / "docs/peers.md").read_text(encoding="utf-8").split()) for chance in chances
    )


def test_what_is_said_of_one_agent_with_more_updates():
    asked = {(a.ours, a.theirs): a for a in answers() if a.question == "Q1"}
    two, four = (asked["four_mutual_2, best in training", name] for name in ("single_2", "single_4"))
    alone = asked["single_4", "sb3"]
    page, readme, peers = (
        " ".join((ROOT / name).read_text(encoding="utf-8").split())
        for name in ("BENCHMARK.md", "README.md", "docs/peers.md")
    )
    first, second, third = (
        f"{a.better.value:.2f} [{a.better.low:.2f}, {a.better.high:.2f}]" for a in (two, four, alone)
    )
    assert len(two.tasks) == len(four.tasks) == 6 and two.tasks[-1] == "Walker2d-v5"
    assert (
        f"(`single_2`: {listed(two)}, where the group has {two.iqms[-1][0]:,.0f}), is below it on Ant and Hopper"
        in page
    )
    assert f"(`single_4`: {listed(four)}) one agent is far above the group" in page
    assert f"over all the group is better with P {first}, corrected p {two.p:.3f}." in page and two.better.low > 0.5
    assert f"over all neither is shown to be better ({second})." in page and four.better.low < 0.5 < four.better.high
    eight = asked["four_mutual_2, best in training", "single_8"]
    over_all = f"{eight.better.value:.2f} [{eight.better.low:.2f}, {eight.better.high:.2f}], corrected p {eight.p:.3f}"
    assert f"(`single_8`: {listed(eight)}) one agent is above the group over all (P of the group {over_all})" in page
    assert len(eight.tasks) == 6 and eight.better.high < 0.5 and eight.p < 0.05
    of_eight = by_task("Q1", "four_mutual_2", "trained", "single_8")
    above = {task: chance.value for task, chance in of_eight.items() if chance.high < 0.5}
    assert list(above) == ["HalfCheetah-v5", "InvertedDoublePendulum-v5", "Walker2d-v5"]
    first_two, last = [f"{value:.2f}" for value in above.values()][:2], above["Walker2d-v5"]
    assert (
        f"({', '.join(first_two)} and {last:.2f}), and learns nothing on Ant ({of_eight['Ant-v5'].value:.2f})" in page
    )
    on_ant = [
        asked["four_mutual_2, best in training", name].iqms[0][1] for name in ("single_2", "single_4", "single_8")
    ]
    assert on_ant == sorted(on_ant, reverse=True) and on_ant[-1] < 10
    assert f"P of the peers {over_all}, though it learns nothing on Ant" in readme
    assert f"(P of the group {over_all}), though it learns nothing on Ant." in peers
    assert f"(P {third}). The group is" in page and alone.better.low < 0.5 < alone.better.high
    for text in (readme, peers):
        assert (
            f"is shown over all (P {first}, corrected p {two.p:.2f}, and {second}): it is below on Ant and Hopper"
            in text
        )
        assert min(two.p, four.p) > 0.05
    ant, cheetah = (alone.iqms[alone.tasks.index(task)] for task in ("Ant-v5", "HalfCheetah-v5"))
    assert f"{cheetah[0]:,.0f} on HalfCheetah and {ant[0]:,.0f} on Ant, SB3's with one" in peers
    assert f"with one {cheetah[1]:,.0f} and {ant[1]:,.0f}." in peers
    of_two, of_four = (by_task("Q1", "four_mutual_2", "trained", name) for name in ("single_2", "single_4"))
    assert all(of[task].low > 0.5 for of in (of_two, of_four) for task in ("Ant-v5", "Hopper-v5"))
    ant, hopper = of_two.pop("Ant-v5").value, of_two.pop("Hopper-v5").value
    assert f"(P {ant:.2f} and {hopper:.2f}), and on the others not told apart" in page
    values = [chance.value for chance in of_two.values()]
    assert f"({min(values):.2f} to {max(values):.2f}, every interval holds 0.5): over all" in page
    assert all(chance.low < 0.5 < chance.high for chance in of_two.values())
    assert f"HalfCheetah (P of the group {of_four['HalfCheetah-v5'].value:.2f}) and far below it on Ant" in page
    assert f"on Ant ({of_four['Ant-v5'].value:.2f}): over all" in page and of_four["HalfCheetah-v5"].high < 0.5
    seconds = pd.read_csv(ROOT / "results" / "peers_seconds.csv").pivot(
        index="round", columns=["method", "groups"], values="microseconds"
    )
    assert f"in {(seconds['single_4', 1] / seconds['sb3', 1]).median():.2f} of SB3's time" in page


def listed(answer):
    """What the second side returns, task by task."""
    *first, last = (f"{task[:-3]} {theirs:,.0f}" for task, (_, theirs) in zip(answer.tasks, answer.iqms, strict=True))
    return f"{', '.join(first)} and {last}"


def by_task(question, ours, way, theirs, their_way="final"):
    """P(better) with its interval, task by task."""
    rows = questions.question_rows(QUESTIONS[question])
    first, second = (questions._scores(rows, *side) for side in ((ours, way), (theirs, their_way)))
    return {
        task: interval([first[task][:, None], second[task][:, None]], chance, questions.RESAMPLES) for task in first
    }


def chance(x, y):
    return probability_of_improvement(x, y).item()


def said(estimate):
    return f"P {estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def test_what_is_said_of_the_good_rates():
    against = {answer.theirs: answer for answer in answers() if answer.question == "Q2"}
    page = " ".join((ROOT / "BENCHMARK.md").read_text(encoding="utf-8").split())
    first, second = (against[f"single_{rate}"].better for rate in ("1e-3", "3e-3"))
    assert f"not told apart from 1e-3 and 3e-3 ({said(first)} and {said(second)[2:]})" in page
    assert all(better.low < 0.5 < better.high for better in (first, second))


def test_what_is_said_of_td3():
    text = " ".join((ROOT / "BENCHMARK.md").read_text(encoding="utf-8").split())
    trained, student = (answer for answer in answers() if answer.question == "Q1 with TD3")
    ((group, sb3),), ((shipped, _),) = trained.iqms, student.iqms
    first, second = (f"{a.better.value:.2f} [{a.better.low:.2f}, {a.better.high:.2f}]" for a in (trained, student))
    assert (
        f"on HalfCheetah so far, the group returns {group:,.0f} and its student {shipped:,.0f} where SB3's agent "
        f"returns {sb3:,.0f} (P {first} and {second}; corrected, neither is significant)" in text
    )
    assert trained.tasks == ("HalfCheetah-v5",) and min(trained.p, student.p) > 0.05


def test_what_is_said_of_sparse_rewards():
    lines = (ROOT / "results/peers_sparse/table.md").read_text(encoding="utf-8").splitlines()
    rows = {cells[2]: cells for line in lines if len(cells := line.split(" | ")) > 8 and cells[1] == "sac"}
    text = " ".join((ROOT / "BENCHMARK.md").read_text(encoding="utf-8").split())
    distil, share = (
        sorted(number(rows[name][5]) for name in names)
        for names in (("mutual", "paired", "four_mutual"), ("share", "four_share"))
    )
    assert f"groups that distil return {distil[0]:.0f} to {distil[-1]:.0f} by their best in training" in text
    said = f"groups that share {share[0]:.0f} to {share[-1]:.0f}, and one agent with as many updates"
    assert f"{said} {rows['single_2'][4]}." in text
    assert all(a.better.low < 0.5 < a.better.high for a in answers() if a.question.startswith(("Q3 in", "Q3 sparse")))


def test_what_is_said_of_beginning_anew():
    students = {key: cells[7] for key, cells in gate().items()}
    page = " ".join((ROOT / "BENCHMARK.md").read_text(encoding="utf-8").split())
    cheetah, hopper = (
        [students[task, way] for way in ("four_rebirth", "four_mutual", "four_staggered", "four_share")]
        for task in ("HalfCheetah-v5", "Hopper-v5")
    )
    assert f"returns {cheetah[0]} instead of {cheetah[1]} on HalfCheetah and {hopper[0]} instead of {hopper[1]}" in page
    assert f"(`four_staggered`) it returns {cheetah[2]} and {hopper[2]}" in page

    worst, stay, turns, control = ([number(text) for text in pair] for pair in zip(cheetah, hopper, strict=True))
    errors = [number(pair[3].split()[-1]) for pair in (cheetah, hopper)]
    assert worst[1] < control[1] - errors[1] and turns[0] < control[0] - errors[0]
    losses = [1 - worst[0] / stay[0], 1 - worst[1] / stay[1], 1 - turns[0] / stay[0], 1 - turns[1] / stay[1]]
    assert 0.3 < losses[0] < 0.35 < losses[1] and 0.45 < losses[2] < 0.5 and losses[3] < losses[1]
    said = "cost a third of the return on HalfCheetah and more on Hopper"
    assert said in (ROOT / "docs/peers.md").read_text(encoding="utf-8")


def test_what_is_said_of_eight_updates_per_step():
    rows = [
        line.split(" | ") for line in (ROOT / "results/peers_regimes/table.md").read_text(encoding="utf-8").splitlines()
    ]
    cheetah, hopper = (
        {row[2]: row[4:8] for row in rows if row[0] == f"| {task}"} for task in ("HalfCheetah-v5", "Hopper-v5")
    )
    page = " ".join((ROOT / "BENCHMARK.md").read_text(encoding="utf-8").split())
    names = "single_8", "share_8", "paired_8"
    (alone, *_), (_, shared, *_), (_, paired, _, student) = (cheetah[name] for name in names)
    assert (
        f"one agent does not fall over on HalfCheetah ({alone})" in page and f"share ({shared} by their best in" in page
    )
    assert f"advantage ({paired}) are not told apart from it" in page and f"far below ({student})" in page
    for row in ("share_8", "paired_8"):
        better = by_task("Q3 in regimes", row, "trained", "single_8")["HalfCheetah-v5"]
        assert better.low < 0.5 < better.high
    assert by_task("Q3 in regimes", "paired_8", "student", "single_8")["HalfCheetah-v5"].high < 0.5
    (alone, *_), (_, shared, *_), (_, paired, *_) = (hopper[name] for name in names)
    assert f"On Hopper one agent returns {alone}, two that share {shared} by their best in training" in page
    assert f"and two that distil {paired}" in page
    errors = [float(text.split()[-1].replace(",", "")) for text in (alone, shared)]
    assert 1 < (number(shared) - number(alone)) / np.hypot(*errors) < 2 and number(paired) < number(shared)
    answer = next(line for line in page.split("| ") if line.startswith("paired_8, best in training"))
    at = page.index(answer)
    assert f"no better than sharing (P {page[at:].split(' | ')[2]})" in page


def number(text: str) -> float:
    return float(text.split()[0].replace(",", ""))


def gate():
    """The cells of the gate's table, by task and row."""
    lines = (ROOT / "results/peers_gate/table.md").read_text(encoding="utf-8").splitlines()
    return {(cells[0][2:], cells[2]): cells for line in lines if len(cells := line.split(" | ")) > 7}


def test_what_is_said_of_four_updates_at_the_gate():
    rows = gate()
    page, protocol = (
        " ".join((ROOT / name).read_text(encoding="utf-8").split())
        for name in ("BENCHMARK.md", "experiments/peers/protocol.md")
    )
    cheetah, hopper = (
        (rows[task, "four_mutual_4"][7], rows[task, "single_4"][4]) for task in ("HalfCheetah-v5", "Hopper-v5")
    )
    before = rows["HalfCheetah-v5", "four_mutual"][7]
    assert f"a student of {cheetah[0]} on HalfCheetah (with one update {before}) where" in page
    assert f"returns {cheetah[1]}; on Hopper {hopper[0]} to {hopper[1]}." in page
    assert f"returns {cheetah[0].split()[0]} and {hopper[0].split()[0]} (HalfCheetah" in protocol
    assert f"`single_4` {cheetah[1]} and {hopper[1]}." in protocol
    assert number(cheetah[0]) < number(cheetah[1])


def test_what_is_said_of_the_trials_of_sparse_rewards():
    folder = ROOT / "results/peers_sparse_trials"
    page = " ".join((ROOT / "BENCHMARK.md").read_text(encoding="utf-8").split())
    alone = pd.read_csv(folder / "PolicyKD-PointReachSparse-v0/single.csv").query("phase == 'curve'")
    early, late = (
        "{:.0f} to {:.0f}".format(*alone.loc[alone["steps"] == steps, "return"].agg(["min", "max"]))
        for steps in (5_000, 10_000)
    )
    assert f"returns {early} after 5,000 steps and {late} after 10,000." in page
    for method in ("single", "four_mutual"):
        assert pd.read_csv(folder / f"MountainCarContinuous-v0/{method}.csv")["return"].between(-1, 0).all()
    assert "every return lies between -1 and 0" in page


def test_what_is_said_of_the_paired_advantage_at_the_gate():
    rows = gate()
    page = " ".join((ROOT / "BENCHMARK.md").read_text(encoding="utf-8").split())
    cheetah, hopper = (rows[task, "four_paired"] for task in ("HalfCheetah-v5", "Hopper-v5"))
    assert f"(`four_paired`: mean of the peers {cheetah[4]}, its student {cheetah[7]})" in page
    assert f"the mean of the peers is {hopper[4]} and their student {hopper[7]}: one point short" in page
    for task, row in (("HalfCheetah-v5", cheetah), ("Hopper-v5", hopper)):
        mean, error = (float(part.replace(",", "")) for part in rows[task, "four_share"][7].split(" +- "))
        assert number(row[7]) <= mean + error
