"""The answers about peers in BENCHMARK.md are those of the rows."""

import functools
import re
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


def text(name):
    """A page of which a line may be broken anywhere."""
    return " ".join((ROOT / name).read_text(encoding="utf-8").split())


def interval_of(estimate):
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"


def asked(question):
    return {(answer.ours, answer.theirs): answer for answer in answers() if answer.question == question}


def test_what_is_said_of_optuna():
    answer = asked("Q2")["four_mutual, best in training", "optuna"]
    chance = interval_of(answer.better)
    half = "half of the group's return on HalfCheetah and Hopper"
    assert f"| Optuna at the same steps | {chance} | {half} |" in text("BENCHMARK.md")
    assert f"| peers | Optuna at the same steps | 3, 50,000, 10 | {chance} |" in text("README.md")
    assert f"| Optuna at the same steps | {chance} |" in text("docs/peers.md")
    assert answer.tasks[:2] == ("HalfCheetah-v5", "Hopper-v5") and len(answer.tasks) == 3
    assert all(0.45 < theirs / ours < 0.55 for ours, theirs in answer.iqms[:2])


def test_what_is_said_of_sb3s_default():
    trained, student = (asked("Q2")[f"four_mutual, {way}", "sb3"] for way in ("best in training", "student"))
    page = text("BENCHMARK.md")
    where = "above on HalfCheetah and Hopper; on Walker2d not shown"
    assert trained.tasks == student.tasks == tuple(f"{task}-v5" for task in ("HalfCheetah", "Hopper", "Walker2d"))
    assert f"| SB3 at its default rate, 3e-4 | {interval_of(trained.better)} | {where} |" in page
    assert f"| the same, against the group's shipped student | {interval_of(student.better)} | {where} |" in page
    lows = [[chance.low > 0.5 for chance in by_task("Q2", "four_mutual", way, "sb3").values()] for way in WAYS]
    assert lows == [[True, True, False]] * 2
    for name, returns in (
        ("the group, best in training", [ours for ours, _ in trained.iqms]),
        ("its shipped student", [ours for ours, _ in student.iqms]),
        ("SB3 at its default rate", [theirs for _, theirs in trained.iqms]),
    ):
        assert f"| {name} | {' | '.join(f'{value:,.0f}' for value in returns)} |" in page
    assert f"| peers | SB3 at its default rate | 3, 50,000, 10 | {interval_of(trained.better)} |" in text("README.md")
    assert f"| SB3 at its default rate | {interval_of(trained.better)} |" in text("docs/peers.md")


def test_what_is_said_of_distillation_on_top_of_sharing():
    page, readme, peers = (text(name) for name in ("BENCHMARK.md", "README.md", "docs/peers.md"))
    for way, who, verdict, better in (
        ("mean of peers", "their mean", "better with distillation", True),
        ("student", "their shipped student", "better with distillation", True),
        ("best in training", "their best peer", "**no difference shown**", False),
    ):
        chance = asked("Q3")[f"four_mutual, {way}", f"four_share, {way}"].better
        assert (chance.low > 0.5) == better and chance.high > 0.5
        shown = {"mean of peers": "mean of the peers", "student": "shipped student"}.get(way, way)
        assert f"| {shown} | {interval_of(chance)} | {'better' if better else verdict} |" in page
        assert (
            f"| {who} | the same without distillation | 3, 50,000, 10 | {interval_of(chance)} | {verdict} |" in readme
        )
        assert f"| {who} | the same without distillation | {interval_of(chance)} |" in peers


def test_holms_correction_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03]), [0.03, 0.06, 0.06])
    np.testing.assert_allclose(holm([0.5, 0.9]), [1.0, 1.0])


def test_what_a_step_of_the_group_costs():
    rows = pd.read_csv(ROOT / "results" / "peers_seconds.csv")
    by_round = rows.pivot(index="round", columns=["method", "groups"], values="microseconds")
    group, alone = ((by_round[method, 1] / by_round["sb3", 1]).median() for method in ("four_mutual_2", "single_4"))
    page = text("BENCHMARK.md")
    assert f"it takes {group:.2f} of its time" in page and f"`single_4` takes {alone:.2f} of SB3's time." in page
    assert f"eight times its updates, {group:.2f} of its time (HalfCheetah) |" in text("README.md")
    assert f"in {group:.2f} of its time" in text("docs/peers.md")


TASKS = "Ant", "HalfCheetah", "Hopper", "InvertedDoublePendulum", "Swimmer", "Walker2d"
AGAINST = {"sb3": "SB3's agent", **{f"single_{n}": f"`single_{n}`" for n in (2, 4, 8)}}


def test_the_table_of_chances_at_100000_steps():
    page, readme, peers = (text(name) for name in ("BENCHMARK.md", "README.md", "docs/peers.md"))
    controls = "SB3 at the good rate, one update", *(f"one agent, {n} updates" for n in ("two", "four", "all eight"))
    for (name, shown), control in zip(AGAINST.items(), controls, strict=True):
        answer = asked("Q1")["four_mutual_2, best in training", name]
        assert answer.tasks == tuple(f"{task}-v5" for task in TASKS)
        each = {task[:-3]: chance for task, chance in by_task("Q1", "four_mutual_2", "trained", name).items()}
        above = ", ".join(f"{task} {chance.value:.2f}" for task, chance in each.items() if chance.low > 0.5)
        below = ", ".join(f"{task} {chance.value:.2f}" for task, chance in each.items() if chance.high < 0.5)
        over_all = interval_of(answer.better)
        in_bold = f"**{over_all}**" if name == "single_8" else over_all
        assert f"| {shown} | {in_bold} | {answer.p:.3f} | {above} | {below or '-'} |" in page
        assert f"| peers, two updates each | {control} | 6, 100,000, 10 | {over_all} |" in readme
        assert f"| {control} | {over_all} | {answer.p:.3f} |" in peers


def test_what_is_said_of_single_tasks():
    pole = by_task("Q1", "four_mutual_2", "trained", "sb3")["InvertedDoublePendulum-v5"]
    assert f"The sixth is InvertedDoublePendulum (P {interval_of(pole)})" in text("BENCHMARK.md")
    rest = by_task("Q1", "four_mutual_2", "trained", "single_2")
    values = [rest[f"{task}-v5"] for task in TASKS if task not in ("Ant", "Hopper")]
    assert all(chance.low < 0.5 < chance.high for chance in values)
    least, most = min(chance.value for chance in values), max(chance.value for chance in values)
    assert f"on the other four tasks**, P is {least:.2f} to {most:.2f} and every interval" in text("BENCHMARK.md")


def test_what_the_chances_show():
    answer = {name: asked("Q1")["four_mutual_2, best in training", name] for name in AGAINST}
    readme, peers = text("README.md"), text("docs/peers.md")
    first = {"sb3": "eight times its updates", "single_4": "**no difference shown**"}
    notes = {
        "single_2": f"**no difference shown**, corrected p {answer['single_2'].p:.2f}",
        "single_8": f"**the agent ends above**, corrected p {answer['single_8'].p:.3f}",
    }
    for name, note in (first | notes).items():
        assert f"{interval_of(answer[name].better)} | {note}" in readme
    assert f"{interval_of(answer['single_8'].better)} | {answer['single_8'].p:.3f} | **the agent ends above**" in peers
    assert answer["sb3"].better.low > 0.5 and answer["sb3"].p < 0.05
    assert min(answer["single_2"].p, answer["single_4"].p) > 0.05
    assert answer["single_4"].better.low < 0.5 < answer["single_4"].better.high
    assert answer["single_8"].better.high < 0.5 and answer["single_8"].p < 0.05
    chance = answer["sb3"].better
    assert f"over six tasks**, P {interval_of(chance)}. The aim was 0.8." in text("BENCHMARK.md") and chance.value < 0.8
    updates = [
        pd.read_csv(ROOT / f"results/peers_small/HalfCheetah-v5/{method}.csv")
        .query("backbone == 'sac'")["updates"]
        .max()
        for method in ("four_mutual_2", "sb3")
    ]
    assert updates[0] == 8 * updates[1]
    assert all("eight times its updates" in page for page in (text("BENCHMARK.md"), readme, peers))
    on_ant = [answer[f"single_{n}"].iqms[0][1] for n in (2, 4, 8)]
    on_cheetah = [answer[f"single_{n}"].iqms[1][1] for n in (2, 4, 8)]
    assert on_ant == sorted(on_ant, reverse=True) and on_ant[-1] < 10 and on_cheetah == sorted(on_cheetah)
    assert "Every doubling costs one agent return on Ant, and gains return on HalfCheetah." in text("BENCHMARK.md")
    for page in (text("BENCHMARK.md"), readme, peers):
        assert "learns nothing on Ant" in page


def test_the_table_of_returns_at_100000_steps():
    page = text("BENCHMARK.md")
    trained, student = (asked("Q1")[f"four_mutual_2, {way}", "sb3"] for way in ("best in training", "student"))
    returns = {
        "the group, best in training | 2 per peer": [ours for ours, _ in trained.iqms],
        "its shipped student | 2 per peer": [ours for ours, _ in student.iqms],
        "SB3's agent | 1": [theirs for _, theirs in trained.iqms],
    }
    for n in (2, 4, 8):
        alone = asked("Q1")["four_mutual_2, best in training", f"single_{n}"]
        returns[f"`single_{n}` | {n}"] = [theirs for _, theirs in alone.iqms]
    for name, values in returns.items():
        assert f"| {name} | {' | '.join(f'{value:,.0f}' for value in values)} |" in page
    behind = [task for task, (group, sb3) in zip(TASKS, trained.iqms, strict=True) if group < sb3]
    assert behind == ["InvertedDoublePendulum"] and "is higher on five of six tasks" in page
    each = by_task("Q1", "four_mutual_2", "trained", "sb3")
    assert all(each[f"{task}-v5"].low < 0.5 < each[f"{task}-v5"].high for task in ("Swimmer", "Walker2d"))


def test_what_is_said_of_the_shipped_student():
    page, student = text("BENCHMARK.md"), asked("Q1")["four_mutual_2, student", "sb3"]
    assert f"P {interval_of(student.better)}, corrected p {student.p:.3f}." in page and student.better.low > 0.5
    assert f"| its shipped student | SB3's agent | {interval_of(student.better)} |" in text("docs/peers.md")
    below = " and ".join(task for task, (own, sb3) in zip(TASKS, student.iqms, strict=True) if own < sb3)
    assert f"It is below by interquartile mean on {below}; on the latter two of ten students drop" in page
    poles = pd.read_csv(ROOT / "results/peers_small/InvertedDoublePendulum-v5/four_mutual_2.csv")
    assert (poles.loc[poles["phase"] == "student", "return"] < 500).sum() == 2
    over_best = by_task("Q1", "four_mutual_2", "student", "four_mutual_2", "trained")
    cheetah = over_best.pop("HalfCheetah-v5")
    assert f"below on HalfCheetah alone (P {interval_of(cheetah)}), and above nowhere." in page and cheetah.high < 0.5
    assert all(chance.low < 0.5 < chance.high for chance in over_best.values())


def test_what_is_said_of_updates_alone():
    alone, page, peers = asked("Q1")["single_4", "sb3"], text("BENCHMARK.md"), text("docs/peers.md")
    assert f"less on Ant; over all P is {interval_of(alone.better)}." in page
    assert alone.better.low < 0.5 < alone.better.high
    ant, cheetah = (alone.iqms[alone.tasks.index(task)] for task in ("Ant-v5", "HalfCheetah-v5"))
    assert ant[0] < ant[1] and cheetah[0] > cheetah[1]
    assert f"{cheetah[0]:,.0f} on HalfCheetah and {ant[0]:,.0f} on Ant." in peers
    assert f"SB3's agent with one returns {cheetah[1]:,.0f} and {ant[1]:,.0f}." in peers


def by_task(question, ours, way, theirs, their_way="final"):
    """P(better) with its interval, task by task."""
    rows = questions.question_rows(QUESTIONS[question])
    first, second = (questions._scores(rows, *side) for side in ((ours, way), (theirs, their_way)))
    return {
        task: interval([first[task][:, None], second[task][:, None]], chance, questions.RESAMPLES) for task in first
    }


def chance(x, y):
    return probability_of_improvement(x, y).item()


def test_what_is_said_of_the_rates():
    page = text("BENCHMARK.md")
    for rate, shown in (("1e-4", ""), ("3e-4", ""), ("1e-3", "no difference shown"), ("3e-3", "no difference shown")):
        better = asked("Q2")["four_mutual, best in training", f"single_{rate}"].better
        assert " ".join(f"| one agent at {rate} | {interval_of(better)} | {shown} |".split()) in page
        assert better.low < 0.5 < better.high if shown else better.low > 0.5


def test_what_is_kept_of_the_best_rate_in_hindsight():
    (kept,) = re.findall(r"keeps (\d\.\d\d \[[^]]+\]) where that is chosen for every task anew", table(answers()))
    assert f"Of the best rate in hindsight the group keeps {kept}." in text("BENCHMARK.md")
    assert f"| peers | one agent, best rate in hindsight | 3, 50,000, 10 | | reach {kept} of it |" in text("README.md")
    rates = [
        asked("Q2")["four_mutual, best in training", f"single_{rate}"] for rate in ("1e-4", "3e-4", "1e-3", "3e-3")
    ]
    best = [max(answer.iqms[task][1] for answer in rates) for task in range(3)]
    shown = " | ".join(f"{value:,.0f}" for value in best)
    assert f"| best rate in hindsight | {shown} |" in text("BENCHMARK.md")
    assert f"On HalfCheetah it keeps {rates[0].iqms[0][0] / best[0]:.2f} of the return." in text("BENCHMARK.md")


def test_what_is_said_of_td3():
    trained, student = (asked("Q1 with TD3")[f"four_mutual_2, {way}", "sb3"] for way in ("best in training", "student"))
    table = [
        f"| {task.removesuffix('-v5')} | {group:,.0f} | {shipped:,.0f} | {sb3:,.0f} |"
        for task, (group, sb3), (shipped, _) in zip(trained.tasks, trained.iqms, student.iqms, strict=True)
    ]
    assert " ".join(table) in text("BENCHMARK.md")
    assert f"P {interval_of(trained.better)}, corrected p {trained.p:.3f}" in text("BENCHMARK.md")
    assert f"of its student no difference is shown (P {interval_of(student.better)})" in text("BENCHMARK.md")
    assert trained.p < 0.05 < student.p and student.better.low < 0.5 < student.better.high


def test_what_is_said_of_sparse_rewards():
    lines = (ROOT / "results/peers_sparse/table.md").read_text(encoding="utf-8").splitlines()
    rows = {cells[2]: cells for line in lines if len(cells := line.split(" | ")) > 8 and cells[1] == "sac"}
    distil, share = (
        sorted(number(rows[name][5]) for name in names)
        for names in (("mutual", "paired", "four_mutual"), ("share", "four_share"))
    )
    assert (
        f"groups that distil return {distil[0]:.0f} to {distil[-1]:.0f}, groups that share {share[0]:.0f} to "
        f"{share[-1]:.0f}, and one agent with as many updates {rows['single_2'][4]}." in text("BENCHMARK.md")
    )
    assert all(a.better.low < 0.5 < a.better.high for a in answers() if a.question.startswith(("Q3 in", "Q3 sparse")))


def test_what_is_said_of_beginning_anew():
    students = {key: cells[7] for key, cells in groups_of("peers_gate").items()}
    page = text("BENCHMARK.md")
    cheetah, hopper = (
        [students[task, way] for way in ("four_rebirth", "four_mutual", "four_staggered", "four_share")]
        for task in ("HalfCheetah-v5", "Hopper-v5")
    )
    for name, *returns in zip(
        ("`four_rebirth`", "nobody begins anew", "`four_staggered`"), cheetah, hopper, strict=False
    ):
        assert f"| {name} | {returns[0]} | {returns[1]} |" in page

    worst, stay, turns, control = ([number(cell) for cell in pair] for pair in zip(cheetah, hopper, strict=True))
    errors = [number(pair[3].split()[-1]) for pair in (cheetah, hopper)]
    assert worst[1] < control[1] - errors[1] and turns[0] < control[0] - errors[0]
    losses = [1 - worst[0] / stay[0], 1 - worst[1] / stay[1], 1 - turns[0] / stay[0], 1 - turns[1] / stay[1]]
    assert 0.3 < losses[0] < 0.35 < losses[1] and 0.45 < losses[2] < 0.5 and losses[3] < losses[1]
    assert "cost a third of the return on HalfCheetah and more on Hopper" in text("docs/peers.md")


def test_what_is_said_of_peers_that_differ_in_their_updates():
    found = returns_of("peers_paces")
    page, protocol = text("BENCHMARK.md"), text("experiments/peers/protocol.md")
    for shown, row in (
        ("one agent, one update", "single"),
        ("one agent, eight updates", "single_8"),
        ("two peers that share a replay (`paces_share`)", "paces_share"),
    ):
        assert f"| {shown} | {found['HalfCheetah-v5', row]} | {found['Hopper-v5', row]} |" in page
    assert f"(`paces_rates`) | {found['HalfCheetah-v5', 'paces_rates']} | not run |" in page
    control, share, rates = (found["HalfCheetah-v5", row] for row in ("single_8", "paces_share", "paces_rates"))
    mean, error = map(number, control.split(" +- "))
    assert max(number(own.split()[0]) for own in (share, rates)) < mean - error, "neither passes the gate"
    assert f"{share.split()[0]} on HalfCheetah, where `single_8` has {control}" in " ".join(protocol.split())
    assert f"({rates.split()[0]} by `trained`" in protocol


def test_what_is_said_of_peers_that_differ_in_their_discount():
    returns, page = returns_of("peers_gammas"), text("BENCHMARK.md")
    found = {row: cell for (task, row), cell in returns.items() if task == "Swimmer-v5"}
    for row, shown, updates in (
        ("single_2", "one agent, 0.99", 2),
        ("single_2_9999", "one agent, 0.9999", 2),
        ("pair_share", "two peers with one discount each that share a replay (`pair_share`)", 8),
        ("gammas_share", "most steps for the best (`gammas_share`)", 8),
        ("gammas_mutual", "the same with uniform distillation (`gammas_mutual`)", 8),
        ("gammas_best", "the same, all others copy the best (`gammas_best`)", 8),
    ):
        rows = pd.read_csv(ROOT / f"results/peers_gammas/Swimmer-v5/{row}.csv")
        solved = (rows[rows.phase == ("final" if "single" in row else "trained")]["return"] > 200).sum()
        assert f"{shown} | {updates} | {found[row]} | {solved} |" in page
    means, errors = ({row: number(cell.split()[part]) for row, cell in found.items()} for part in (0, 2))
    groups = [row for row in means if not row.startswith("single")]
    assert all(means["single_2"] + errors["single_2"] < means[row] < means["single_2_9999"] for row in groups)
    pair, one = (returns["HalfCheetah-v5", row] for row in ("pair_share", "single_2"))
    assert f"`pair_share` returns {pair}, one agent with 0.99 and two updates {one}." in page
    assert number(pair) > number(one) - number(one.split()[2]), "it passes"
    assert f"such a pair returns {pair}" in text("docs/peers.md")
    for row in ("single_2", "single_2_9999", "pair_share"):
        assert found[row] in text("docs/peers.md")
    times = [means[row] / means["single_2"] for row in groups]
    assert min(times) >= 2 and max(times) < 4.2 and "return two to four times what one agent" in page
    assert max(groups, key=means.get) == "pair_share"
    assert abs(means["gammas_mutual"] - means["gammas_share"]) < errors["gammas_share"], "no difference shown"


def regimes():
    """The cells of the regimes' table, by task and row, from the mean of the peers on."""
    return {key: cells[4:8] for key, cells in groups_of("peers_regimes").items()}


def test_what_is_said_of_partial_views():
    rows, page = regimes(), text("BENCHMARK.md")
    for shown, row, column in (
        ("one agent that sees positions", "single_qpos", 0),
        ("two peers that share (`parts_share`)", "parts_share", 1),
    ):
        returns = (rows[task, row][column] for task in ("HalfCheetah-v5", "Hopper-v5"))
        assert f"| {shown} | {' | '.join(returns)} |" in page


def test_what_is_said_of_eight_updates_per_step():
    rows, page = regimes(), text("BENCHMARK.md")
    for shown, row, column in (
        ("one agent", "single_8", 0),
        ("two peers that share", "share_8", 1),
        ("two peers that distil by the paired advantage", "paired_8", 1),
        ("their shipped student", "paired_8", 3),
    ):
        returns = (rows[task, row][column] for task in ("HalfCheetah-v5", "Hopper-v5"))
        assert f"| {shown} | {' | '.join(returns)} |" in page
    for row in ("share_8", "paired_8"):
        better = by_task("Q3 in regimes", row, "trained", "single_8")["HalfCheetah-v5"]
        assert better.low < 0.5 < better.high
    assert by_task("Q3 in regimes", "paired_8", "student", "single_8")["HalfCheetah-v5"].high < 0.5
    alone, shared, paired = (
        rows["Hopper-v5", row][column] for row, column in (("single_8", 0), ("share_8", 1), ("paired_8", 1))
    )
    errors = [number(cell.split()[-1]) for cell in (alone, shared)]
    assert 1 < (number(shared) - number(alone)) / np.hypot(*errors) < 2 and number(paired) < number(shared)
    answer = asked("Q3 in regimes")["paired_8, best in training", "share_8, best in training"]
    assert f"no better than sharing (P {interval_of(answer.better)})" in page


def number(cell: str) -> float:
    return float(cell.split()[0].replace(",", ""))


def groups_of(name: str):
    """The cells of a matrix's table of every way to use a group, by task and row."""
    lines = (ROOT / f"results/{name}/table.md").read_text(encoding="utf-8").splitlines()
    return {(cells[0][2:], cells[2]): cells for line in lines if len(cells := line.split(" | ")) > 7}


def returns_of(name: str):
    """What a matrix's groups return by their best in training, and its single agents, by task and row."""
    return {key: cells[4] if cells[5] == "-" else cells[5] for key, cells in groups_of(name).items()}


def test_what_is_said_of_equal_settings_and_four_rates_at_the_gate():
    rows, page = groups_of("peers_gate"), text("BENCHMARK.md")
    for shown, row, column in (
        ("one agent", "single_2", 4),
        ("two that share a replay", "share_2", 5),
        ("two with the targets of both", "council_2", 5),
        ("two with the paired advantage", "paired_2", 5),
    ):
        assert f"| {shown} | {rows['HalfCheetah-v5', row][column]} |" in page
    for task, shown, column in (
        ("HalfCheetah", "mean of the peers", 4),
        ("HalfCheetah", "mean action", 6),
        ("HalfCheetah", "shipped student", 7),
        ("HalfCheetah", "best in training", 5),
        ("Hopper", "shipped student", 7),
        ("Hopper", "best in training", 5),
    ):
        returns = (rows[f"{task}-v5", row][column] for row in ("four_share", "four_mutual", "four_dpd"))
        assert f"| {task}, {shown} | {' | '.join(returns)} |" in page


def test_what_is_said_of_four_updates_at_the_gate():
    rows, page, protocol = groups_of("peers_gate"), text("BENCHMARK.md"), text("experiments/peers/protocol.md")
    tasks = "HalfCheetah-v5", "Hopper-v5"
    group, before = ([rows[task, row][7] for task in tasks] for row in ("four_mutual_4", "four_mutual"))
    alone = [rows[task, "single_4"][4] for task in tasks]
    assert f"| `four_mutual_4`, shipped student | {group[0]} | {group[1]} |" in page
    assert f"| `four_mutual`, one update, shipped student | {before[0]} | {before[1]} |" in page
    assert f"| `single_4`, which has the good rate | {alone[0]} | {alone[1]} |" in page
    assert f"returns {group[0].split()[0]} and {group[1].split()[0]} (HalfCheetah" in protocol
    assert f"`single_4` {alone[0]} and {alone[1]}." in protocol
    assert number(group[0]) < number(alone[0])


def test_what_is_said_of_the_trials_of_sparse_rewards():
    folder = ROOT / "results/peers_sparse_trials"
    page = text("BENCHMARK.md")
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
    rows = groups_of("peers_gate")
    page = text("BENCHMARK.md")
    cheetah, hopper = (rows[task, "four_paired"] for task in ("HalfCheetah-v5", "Hopper-v5"))
    assert f"(`four_paired`: mean of the peers {cheetah[4]}, its student {cheetah[7]})" in page
    assert f"the mean of the peers is {hopper[4]} and their student {hopper[7]}: one point short" in page
    for task, row in (("HalfCheetah-v5", cheetah), ("Hopper-v5", hopper)):
        mean, error = (float(part.replace(",", "")) for part in rows[task, "four_share"][7].split(" +- "))
        assert number(row[7]) <= mean + error
