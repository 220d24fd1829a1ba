"""``policykd compare``: a benchmark of two methods on one task."""

from dataclasses import replace
from functools import partialmethod
from pathlib import Path

import pytest
import yaml
from tiny import POINT, contents

from experiments.benchmark_size.simulated import simulate_cell
from policykd.benchmark import local
from policykd.benchmark.cell import run_cell
from policykd.benchmark.compare import CompareOptions, _content, compare
from policykd.benchmark.engine import Failed, Finished
from policykd.benchmark.results import Results
from policykd.benchmark.rows import CellResult
from policykd.benchmark.spec_file import load_spec, parse_spec
from policykd.cli import main
from policykd.core.errors import PolicyKDError
from policykd.training.dual_student import DualStudent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def engine(monkeypatch):
    """Set what stands in for the engine: a function of a cell and the folder of its work that gives an event."""

    def use(event):
        run = lambda cells, work, jobs, threads: (event(cell, work / cell.name) for cell in cells)  # noqa: E731
        monkeypatch.setattr(local, "run", run)

    return use


def made_up(cell, folder):
    return Finished(cell, simulate_cell(load_spec(Path("out/spec.yaml")), cell))


def test_both_sides_are_trained_measured_alike_and_shown(engine, monkeypatch, capsys):
    engine(lambda cell, folder: Finished(cell, run_cell(cell, folder, lambda steps: None)))
    monkeypatch.setattr(DualStudent, "ship", partialmethod(DualStudent.ship, gradient_steps=20))
    command = ["compare", "--env", POINT, "--backbone", "td3", "--total-timesteps", "400", "--evaluations", "2"]
    command += ["--n-eval-episodes", "1", "--final-episodes", "3", "--out", "out"]
    main(command)
    table = Path("out/table.md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    ways = ["the best peer in training", "all peers as one, mean action", "all peers as one, by their critics"]
    who = [*ways, "one student of all peers", "mean of 2 peers"]
    expected = [*(f"dpd: {name}" for name in who), "SB3 TD3", "random actions"]
    assert [line.split("|")[1].strip() for line in table.splitlines()[-7:]] == expected
    assert Path("out/learning_curves.png").read_bytes().startswith(b"\x89PNG")
    results = Results("out/results")
    ours, sb3 = results.spec().cells
    assert (ours.method, sb3.method) == ("dpd", "sb3")
    assert ours.config == sb3.config and ours.seeds == sb3.seeds
    for cell in (ours, sb3):
        rows = [row for row in results.rows(cell) if row.learner == 0 and row.phase in ("curve", "final")]
        assert [(row.steps, row.episodes) for row in rows] == [(200, 1), (400, 1), (400, 3)]
    assert DualStudent.load(Path("out/runs") / ours.name / "run" / "agent.safetensors").num_timesteps == 400

    before = contents(Path("out/results"))
    engine(None)  # nobody asks it
    main(command)
    assert contents(Path("out/results")) == before


def test_the_seconds_of_a_student_hold_those_of_distilling_it(engine):
    def event(cell, folder):
        result = made_up(cell, folder).result
        final = [row for row in result.rows if row.phase == "final" and row.learner == 0]
        as_one = [] if cell.is_sb3 else [("trained", 30.0), ("student", 90.0)]
        rows = [replace(row, phase=way, seconds=seconds) for way, seconds in as_one for row in final]
        return Finished(cell, CellResult([*result.rows, *rows], result.provenance))

    engine(event)
    _, table = compare(CompareOptions(env=POINT, seeds=3, out=Path("out")))
    seconds = {line.split("|")[1].strip(): line.split("|")[4].strip() for line in table.splitlines() if "dpd:" in line}
    assert seconds["dpd: the best peer in training"] == "10" and seconds["dpd: one student of all peers"] == "30"


def test_budgets_are_rounded_up_to_whole_rollouts_and_evaluations(engine):
    engine(made_up)
    spec, _ = compare(CompareOptions(env=POINT, backbone="ppo", evaluations=5, out=Path("out")))
    rollout = spec.cells[0].settings.n_steps * spec.cells[0].peers
    assert spec.total_timesteps >= 40_000 > spec.total_timesteps - 5 * rollout
    assert spec.total_timesteps % rollout == 0 and spec.total_timesteps % 5 == 0


def test_several_seeds_have_a_standard_deviation(engine):
    engine(made_up)
    spec, table = compare(CompareOptions(env=POINT, seed=4, seeds=3, peers=1, method="independent", out=Path("out")))
    assert spec.cells[1].seeds == (4, 5, 6)
    assert "3 seeds from 4 on" in table and table.count("(") == 3  # in the text, and one per side


def test_peers_have_rates_of_their_own_and_sb3_the_presets(engine):
    engine(made_up)
    rates = (1e-4, 1e-3, 1e-2)
    options = {"env": POINT, "backbone": "sac", "peers": 3, "learning_rates": rates, "updates": 2, "random_steps": 600}
    with pytest.raises(PolicyKDError, match="allocation: best needs a pooled replay; dpd has none"):
        compare(CompareOptions(**options, out=Path("out")))
    assert not Path("out").exists()  # nor was SB3's side trained before
    spec, _ = compare(CompareOptions(**options, method="mutual_shared", out=Path("out")))
    ours, sb3 = spec.cells
    assert ours.settings.vary == {"learning_rate": list(rates)} and ours.settings.allocation == "best"
    assert (ours.settings.gradient_steps, ours.settings.learning_starts) == (2 * 3, 200)
    assert sb3.settings.vary == {} and (sb3.settings.gradient_steps, sb3.settings.learning_starts) == (1, 600)
    zoo = _content(CompareOptions(env="Pendulum-v1", backbone="td3", preset="zoo", updates=2))
    ours, sb3 = parse_spec(yaml.safe_dump(zoo)).cells  # this preset says gradient_steps itself
    assert (ours.settings.gradient_steps, sb3.settings.gradient_steps) == (2 * 2, 1)
    with pytest.raises(PolicyKDError, match=r"learning_rates=.* must be one per peer, for 2 peers"):
        compare(CompareOptions(env=POINT, learning_rates=rates, out=Path("other")))


@pytest.mark.parametrize("option", ["updates", "random_steps"])
def test_what_counts_on_a_replay_is_not_for_ppo(option):
    with pytest.raises(PolicyKDError, match=f"{option}=400 needs a backbone with a replay: leave it out for ppo"):
        compare(CompareOptions(env=POINT, backbone="ppo", out=Path("out"), **{option: 400}))
    assert not Path("out").exists()


def test_another_comparison_in_the_folder_is_left_alone(engine):
    engine(made_up)
    compare(CompareOptions(env=POINT, out=Path("out")))
    before = contents(Path("out"))
    with pytest.raises(PolicyKDError, match="out is not empty: choose another folder with --out"):
        compare(CompareOptions(env=POINT, out=Path("out"), seed=1))
    assert contents(Path("out")) == before


def test_a_side_that_fails_is_one_line(engine):
    engine(
        lambda cell, folder: Failed(cell, "RuntimeError: boom\n\nTraceback") if cell.is_sb3 else made_up(cell, folder)
    )
    with pytest.raises(PolicyKDError, match=r"compare: PolicyKD-PointReach-v0/sb3-ddpg failed: RuntimeError: boom \("):
        compare(CompareOptions(env=POINT, out=Path("out")))
    assert not Path("out/table.md").exists()
