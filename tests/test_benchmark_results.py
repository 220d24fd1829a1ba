"""Raw rows on disk: whole or refused; statistics: those of rliable, from exactly these rows."""

import fnmatch
import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from filelock import FileLock
from rliable import library, metrics
from scipy.stats import trim_mean
from tiny import POINT, contents
from tiny_benchmark import MADE_UP, TASKS, TINY, by_hand, changed, raw

from experiments.benchmark_size.simulated import simulate, simulate_cell
from experiments.peers import report as peers_report
from policykd.benchmark import statistics
from policykd.benchmark.bootstrap import interval, iqm, optimality_gap, probability_of_improvement
from policykd.benchmark.documents import insert_section
from policykd.benchmark.matrix import plan
from policykd.benchmark.results import COLUMNS, Results
from policykd.benchmark.rows import CellResult, Row, from_json, to_json
from policykd.benchmark.spec_file import parse_spec
from policykd.benchmark.statistics import read_scores, summarise
from policykd.benchmark.tables import benchmark_tables, number, patterns, shown
from policykd.core.errors import PolicyKDError
from policykd.training.run_folder import is_empty_folder


@pytest.fixture(scope="module")
def spec():
    return parse_spec(MADE_UP)


@pytest.fixture(scope="module")
def folder(spec, tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    results = Results(folder)
    results.begin(spec, MADE_UP)
    simulate(spec, results)
    return folder


@pytest.fixture(scope="module")
def summary(folder):
    return summarise(Results(folder))


def test_files_are_where_they_should_be_with_the_columns_that_were_promised(folder, spec):
    names = set(contents(folder))
    assert {"spec.yaml", "HalfCheetah-v5/dpd.csv", "HalfCheetah-v5/dpd-td3.json"} <= names
    assert "Hopper-v5/single.csv" not in names
    rows = raw(folder, "PolicyKD-PointReach-v0", "dpd", "ddpg")
    assert tuple(rows[0]) == COLUMNS
    assert len(rows) == 5 * 2 * (4 + 1)
    assert len(raw(folder, "PolicyKD-PointReach-v0", "dpd", "td3")) == 50


def test_answers_take_only_rows_that_their_cells_wrote(tmp_path):
    results, spec = Results(tmp_path), parse_spec(text := changed(methods=["single", "dpd"]))
    results.begin(spec, text)
    simulate(spec, results)
    found = peers_report.rows(tmp_path)
    assert list(found["method"].unique()) == ["dpd", "single"] and set(COLUMNS) - {"return_std"} <= set(found)
    file = tmp_path / "PolicyKD-PointReach-v0" / "dpd.csv"
    file.write_text(file.read_text(encoding="utf-8").replace("final", "curve", 1), encoding="utf-8")
    with pytest.raises(PolicyKDError, match="differ from what the cell wrote"):
        peers_report.rows(tmp_path)
    results.store.remove("PolicyKD-PointReach-v0/dpd-td3.json")
    assert list(peers_report.rows(tmp_path)["method"].unique()) == ["single"]
    results.begin(spec, changed(methods=["single", "dpd"], seeds=3))
    with pytest.raises(PolicyKDError, match="made by another spec: seeds"):
        peers_report.rows(tmp_path)


def test_rows_come_back_as_they_were_saved(folder, spec):
    cell = spec.cells[-1]
    saved, read = simulate_cell(spec, cell).rows, Results(folder).rows(cell)
    assert [(r.seed, r.learner, r.steps, r.phase) for r in read] == [
        (r.seed, r.learner, r.steps, r.phase) for r in saved
    ]
    np.testing.assert_allclose([r.mean for r in read], [r.mean for r in saved], rtol=1e-5)
    assert from_json(to_json(CellResult(saved, {}))).rows == saved


def test_one_number_of_every_table_recomputed_from_raw_rows_by_hand(folder, summary):
    selected, mean = by_hand(folder, "HalfCheetah-v5", "dpd")
    assert not np.array_equal(selected, mean)
    iqm = trim_mean(selected, 0.25)
    text = benchmark_tables(summary)
    part = text.split("#### HalfCheetah-v5, TD3")[1].split("####")[0]
    line = next(line for line in part.splitlines() if line.startswith("| dpd |"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "5" and cells[2].startswith(f"{number(iqm)} [") and cells[4:6] == ["800", "800"]
    assert cells[3].startswith(f"{number(trim_mean(mean, 0.25))} [")
    # Normalised by hand, over the three tasks.
    scores = [(by_hand(folder, "PolicyKD-PointReach-v0", "dpd")[0] + 53) / 47.8, (selected + 300) / 5300]
    scores.append(by_hand(folder, "Hopper-v5", "dpd")[0] / 3600)
    whole = text.split("#### TD3, all its tasks")[1]
    line = next(line for line in whole.splitlines() if line.startswith("| dpd |"))
    assert line.split("|")[2].strip().startswith(f"{number(trim_mean(np.stack(scores), 0.25, axis=None))} [")


def test_statistics_are_those_of_rliable_called_directly(folder, summary):
    tasks, low, span = ("PolicyKD-PointReach-v0", "HalfCheetah-v5", "Hopper-v5"), (-53, -300, 0), (47.8, 5300, 3600)
    matrices = {}
    for method in ("dpd", "sb3", "independent"):
        columns = [by_hand(folder, task, method)[0] for task in tasks]
        matrices[method] = (np.stack(columns, 1) - np.array(low)) / np.array(span)
    dpd = summary.backbones["td3"]["dpd"]
    found = dpd.aggregate["selected"]
    functions = (metrics.aggregate_iqm, metrics.aggregate_median, metrics.aggregate_optimality_gap)
    both = np.stack([matrices["dpd"], matrices["dpd"]], 2)  # resampled with the other rule's scores beside them
    for name, function in zip(("IQM", "median", "optimality gap"), functions, strict=True):
        assert found[name].value == pytest.approx(function(matrices["dpd"]), rel=1e-5)
        np.random.seed(0)
        selected = lambda x, function=function: function(x[:, :, 0])  # noqa: E731
        _, limits = library.get_interval_estimates({"x": both}, selected, reps=2000)
        assert (found[name].low, found[name].high) == pytest.approx(tuple(limits["x"][:, 0]), rel=1e-5)
    for other in ("sb3", "independent"):
        direct = metrics.probability_of_improvement(matrices["dpd"], matrices[other])
        assert dpd.better["selected"][other].value == pytest.approx(direct)
    profile = library.score_distributions(matrices["dpd"], summary.taus)
    np.testing.assert_allclose(dpd.profile["selected"].value, profile)
    curves = [np.stack([s.curve.mean(1) for s in [dpd.tasks[t].scores]])[0] for t in TASKS]
    at_end = np.stack([(c[:, -1] - lo) / sp for c, lo, sp in zip(curves, low, span, strict=True)])
    assert dpd.curve.value[-1] == pytest.approx(metrics.aggregate_iqm(at_end))
    for task, curve in zip(TASKS, curves, strict=True):  # of one task in its returns
        np.testing.assert_allclose(dpd.tasks[task].curve.value, trim_mean(curve, 0.25), rtol=1e-5)


def test_interquartile_means_are_scipys_whatever_the_number_of_runs():
    for runs in range(1, 14):
        scores = np.random.default_rng(runs).normal(size=(runs, 3))
        np.testing.assert_allclose(iqm(scores), trim_mean(scores, 0.25))


def test_scores_beyond_1_close_no_gap_and_a_profile_is_strictly_above_its_threshold():
    scores = np.array([[0.5, 2.0], [0.0, 1.0]])
    assert optimality_gap(scores) == metrics.aggregate_optimality_gap(scores) == pytest.approx((0.5 + 1.0) / 4)
    found = statistics._profile(scores, np.array([0.0, 0.5, 2.0])).value
    expected, _ = library.create_performance_profile({"x": scores}, np.array([0.0, 0.5, 2.0]), reps=2)
    np.testing.assert_array_equal(found, expected["x"])
    assert found.tolist() == [0.75, 0.5, 0.0]


def test_improvement_with_ties_and_other_numbers_of_runs():
    generator = np.random.default_rng(0)
    for _ in range(20):
        x, y = generator.integers(0, 4, (5, 3)).astype(float), generator.integers(0, 4, (7, 3)).astype(float)
        assert probability_of_improvement(x, y) == pytest.approx(metrics.probability_of_improvement(x, y))


def test_intervals_are_the_same_at_every_call_and_leave_numpys_generator_alone():
    scores = np.random.default_rng(0).normal(size=(6, 2))
    np.random.seed(5)
    first, second, after = interval(scores, np.mean, 100), interval(scores, np.mean, 100), np.random.random()
    np.random.seed(5)
    assert first == second and after == np.random.random()
    assert first.low < first.value < first.high


def test_one_run_on_either_side_gives_no_interval():
    one, many = np.array([[3.0]]), np.arange(4.0)[:, None]
    assert shown(interval(one, lambda x: np.mean(x), 20)) == "3.00 [-]"
    better = interval([many, one], lambda x, y: np.atleast_1d(probability_of_improvement(x, y)), 20)
    assert better.value == 0.125 and np.isnan([better.low, better.high]).all()


def test_failures_of_cells_that_the_spec_no_longer_has_are_not_told(tmp_path):
    results, fewer = Results(tmp_path), changed(methods=["single"])
    results.begin(both := parse_spec(changed(methods=["single", "dpd"])), "")
    for cell in both.cells:
        results.save_failure(cell, f"RuntimeError: {cell.method}")
    results.store.write("spec.yaml", fewer)
    assert list(summarise(results).failures.values()) == ["RuntimeError: single"]


def test_what_failed_on_another_machine_and_is_done_has_not_failed(tmp_path):
    results, spec = Results(tmp_path), parse_spec(text := changed(methods=["single"]))
    results.begin(spec, text)
    simulate(spec, results)
    results.save_failure(spec.cells[0], "OSError: no space")  # a copied folder brings it back
    assert summarise(results).failures == {}


def test_the_source_of_a_reference_is_one_cell_of_its_table_whatever_it_holds(tmp_path):
    tasks = {POINT: {**TINY["tasks"][POINT], "reference": {"low": 0, "high": 1, "source": "a | b,\n\nand c\n"}}}
    results, spec = Results(tmp_path), parse_spec(text := changed(methods=["single"], tasks=tasks))
    results.begin(spec, text)
    assert benchmark_tables(summarise(results)).count(f"| {POINT} | 0.00 | 1.00 | a \\| b, and c |\n") == 1


def test_hidden_files_are_no_cells(tmp_path):
    results, spec = Results(tmp_path), parse_spec(text := changed(methods=["single"]))
    results.begin(spec, text)
    simulate(spec, results)
    for name in (f"{POINT.replace('/', '-')}/._single-td3.json", ".vscode/settings.json"):  # of a Mac, of an editor
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert results.done(spec.cells) == {spec.cells[0].name}
    assert Results("/").store.place == "/"


def test_what_does_not_cover_all_tasks_has_no_aggregate(summary):
    single = summary.backbones["td3"]["single"]
    assert single.aggregate is None and single.curve is None and set(single.tasks) == {POINT, "HalfCheetah-v5"}
    assert set(summary.backbones["ddpg"]["single"].better["mean"]) == {"sb3", "independent"}
    assert summary.backbones["td3"]["sb3"].better["selected"].keys() == {"independent"}
    assert "| single (2 of 3 tasks) | - | - | - |" in benchmark_tables(summary)


def test_done_cells_are_skipped_and_a_cell_without_provenance_is_not_done(spec, folder, tmp_path):
    results = Results(tmp_path)
    results.begin(spec, MADE_UP)
    for cell in spec.cells[:3]:
        results.save(cell, simulate_cell(spec, cell))
    (tmp_path / f"{spec.cells[1].name}.json").unlink()  # as if killed between the two writes
    planned = plan(spec, results)
    assert planned.done == {spec.cells[0].name, spec.cells[2].name}
    assert len(planned.missing) == len(spec.cells) - 2
    assert not plan(spec, Results(folder)).missing
    partial = summarise(results)
    assert ", `PolicyKD-PointReach-v0/single-td3`, " in benchmark_tables(partial).partition("Not run yet: ")[2]


def test_what_is_missing_is_named_by_patterns_that_fit_it_and_nothing_else(spec):
    names = [cell.name for cell in spec.cells]
    generator = np.random.default_rng(0)
    for share in (0.3, 0.9, 1.0):
        missing = [name for name in names if generator.random() < share]
        fits = [fnmatch.filter(names, pattern) for pattern in patterns(spec, missing)]
        assert sorted(itertools.chain(*fits)) == sorted(missing)
    tasks = {name.partition("/")[0] for name in names}
    assert sorted(patterns(spec, names)) == sorted(f"{task}/*" for task in tasks)


def test_results_of_another_spec_are_refused(spec, folder):
    other = parse_spec(changed(tasks=TASKS, seeds=5, total_timesteps=1600, evaluations=4))
    with pytest.raises(PolicyKDError, match="was made by another spec: total_timesteps was 800, now 1600"):
        plan(other, Results(folder))
    fewer = parse_spec(changed(tasks={POINT: TASKS[POINT]}, seeds=5, total_timesteps=800, evaluations=4))
    with pytest.raises(PolicyKDError, match="a cell that this spec lacks: two specs cannot share one folder"):
        plan(fewer, Results(folder))
    named = changed(name="other")
    with pytest.raises(PolicyKDError, match="has results of benchmark 'tiny'"):
        Results(folder).begin(parse_spec(named), named)


def test_rows_of_a_version_without_a_setting_are_those_of_its_default(tmp_path):
    results, spec = Results(tmp_path), parse_spec(text := changed(methods=["single"]))
    results.begin(spec, text)
    simulate(spec, results)
    made = tmp_path / f"{spec.cells[0].name}.json"
    content = json.loads(made.read_text(encoding="utf-8"))
    del content["cell"]["config"]["matmul_precision"]
    made.write_text(json.dumps(content))
    assert not plan(spec, results).missing
    other = parse_spec(changed(methods=["single"], settings={**TINY["settings"], "matmul_precision": "bfloat16"}))
    with pytest.raises(PolicyKDError, match="matmul_precision was 'float32', now 'bfloat16'"):
        plan(other, results)


def test_what_a_killed_driver_left_is_removed_and_nothing_else(spec, tmp_path):
    ours = [".spec.yaml.12.tmp", "Hopper-v5/.dpd.csv.12.tmp"]
    theirs = [".cache.tmp", ".12.tmp", "Hopper-v5/.a.b.tmp", "mine/.notes.txt.12.tmp", "Hopper-v5/mine/.a.12.tmp"]
    for name in (*ours, *theirs):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    Results(tmp_path).begin(spec, MADE_UP)
    assert set(contents(tmp_path)) == {"spec.yaml", *theirs}


def test_a_folder_with_files_of_others_is_not_empty(tmp_path):
    (tmp_path / ".checkpoint.safetensors.12.tmp").write_text("x")
    assert is_empty_folder(tmp_path)
    (tmp_path / "notes.tmp").write_text("x")
    assert not is_empty_folder(tmp_path)


def test_two_drivers_do_not_write_one_file_at_once(spec, tmp_path, monkeypatch):
    results, cell = Results(tmp_path), spec.cells[0]
    monkeypatch.setattr("policykd.benchmark.results.HELD_SECONDS", 0)
    with FileLock(tmp_path / ".lock"), pytest.raises(PolicyKDError, match="is in use by another process"):
        results.save(cell, simulate_cell(spec, cell))
    results.save(cell, simulate_cell(spec, cell))
    assert set(contents(tmp_path)) == {f"{cell.name}.json", f"{cell.name.removesuffix('-td3')}.csv"}


@pytest.mark.parametrize("damage", ["cut", "edited", "gone", "binary"])
def test_a_damaged_csv_is_one_line(spec, tmp_path, damage):
    results, cell = Results(tmp_path), spec.cells[0]
    results.begin(spec, MADE_UP)
    results.save(cell, simulate_cell(spec, cell))
    file = tmp_path / "PolicyKD-PointReach-v0" / "sb3.csv"
    text = file.read_text(encoding="utf-8")
    if damage == "gone":
        file.unlink()
    elif damage == "binary":
        file.write_bytes(b"\xff\x00\x80")
    else:
        file.write_text(text[:-30] if damage == "cut" else text.replace(",0,0,", ",0,1,", 1))
    for use in (lambda: plan(spec, results), lambda: summarise(results)):
        with pytest.raises(PolicyKDError, match=r"sb3\.csv") as error:
            use()
        assert "\n" not in str(error.value) and "restore" in str(error.value)


def test_a_damaged_provenance_and_a_folder_without_results_are_one_line(spec, tmp_path):
    with pytest.raises(PolicyKDError, match="has no benchmark results"):
        summarise(Results(tmp_path))
    results, cell = Results(tmp_path), spec.cells[0]
    results.begin(spec, MADE_UP)
    results.save(cell, simulate_cell(spec, cell))
    (tmp_path / f"{cell.name}.json").write_text('{"cell": ')
    with pytest.raises(PolicyKDError, match=r"sb3-td3\.json is damaged .*restore it, or delete it"):
        plan(spec, results)


def test_rows_that_are_missing_or_no_number_are_refused(spec):
    cell = spec.cells[0]
    rows = simulate_cell(spec, cell).rows
    with pytest.raises(PolicyKDError, match="has 24 rows, not 25"):
        read_scores(cell, rows[:-1])
    with pytest.raises(PolicyKDError, match="lacks evaluations"):
        read_scores(cell, [*rows[:-1], rows[0]])
    bad = Row(**{**vars(rows[0]), "mean": float("nan")})
    with pytest.raises(PolicyKDError, match=r"not a number: delete .*\.json to run the cell again"):
        read_scores(cell, [bad, *rows[1:]])
    with pytest.raises(PolicyKDError, match="has a row for curve, seed 0, learner 0, step -5"):
        read_scores(cell, [Row(**{**vars(rows[0]), "steps": -5}), *rows[1:]])


def test_seconds_of_a_group_are_a_seeds_share_of_those_of_all(spec):
    """Our rows say how long all seeds took together, SB3's how long each one did."""
    for cell in spec.cells[0], next(cell for cell in spec.cells if not cell.is_sb3):
        rows = simulate_cell(spec, cell).rows
        took = [replace(r, seconds=10.0 * (r.seed + 1) if cell.is_sb3 else 150.0) for r in rows]
        assert read_scores(cell, took).seconds == 30


def test_a_group_that_acts_as_one_is_whole_or_refused(spec):
    cell = spec.cells[-1]
    rows = simulate_cell(spec, cell).rows
    final = {r.seed: r for r in rows if r.phase == "final"}
    group = [Row(**{**vars(r), "phase": "group", "learner": 0}) for r in final.values()]
    assert read_scores(cell, [*rows, *group]).as_one["group"].shape == (5,)
    for change, said in (
        ({"seed": 99}, "has a row for group, seed 99"),
        ({"phase": "grup"}, "has a row for grup"),
        ({"mean": float("inf")}, "not a number"),
        ({"seed": 1}, "lacks evaluations"),
    ):
        with pytest.raises(PolicyKDError, match=said):
            read_scores(cell, [*rows, Row(**{**vars(group[0]), **change}), *group[1:]])
    for wrong in (group[1:], [*group, group[0]]):
        with pytest.raises(PolicyKDError, match=f"has {len(rows) + len(wrong)} rows, not {len(rows) + 5}"):
            read_scores(cell, [*rows, *wrong])


def test_results_can_live_wherever_fsspec_reaches(spec, folder, monkeypatch):
    monkeypatch.setattr(statistics, "RESAMPLES", 50)
    far = Results("memory://some/where")
    far.begin(spec, MADE_UP)
    simulate(spec, far)
    far.save_failure(spec.cells[0], "boom")
    assert far.failures() == {spec.cells[0].name: "boom"}
    far.save(spec.cells[0], simulate_cell(spec, spec.cells[0]))
    assert far.failures() == {}
    assert benchmark_tables(summarise(far)) == benchmark_tables(summarise(Results(folder)))
    with pytest.raises(PolicyKDError, match="cannot reach nowhere://x"):
        Results("nowhere://x")


def test_a_document_keeps_what_is_outside_its_markers():
    document = "before\n<!-- a: begin -->\nold\n<!-- a: end -->\nafter\n"
    assert insert_section(document, "a", "new\n") == document.replace("old", "new")
    assert insert_section("before\n", "a", "x\n") == "before\n<!-- a: begin -->\nx\n<!-- a: end -->"
    assert (number(1234.5), number(-0.001), number(12.34), number(-250.0)) == ("1,234", "-0.00", "12.3", "-250")


def test_intervals_are_shown_with_their_value(summary):
    estimate = summary.backbones["td3"]["dpd"].tasks["HalfCheetah-v5"].iqm["mean"]
    assert shown(estimate) == f"{number(estimate.value)} [{number(estimate.low)}, {number(estimate.high)}]"
    assert json.loads(json.dumps(list(estimate)))[1] <= estimate.value <= estimate.high
    assert TINY["name"] == summary.spec.name
