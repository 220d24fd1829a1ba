"""Running a matrix: what is done is skipped, what was interrupted goes on, and one fault does not stop the others."""

import dataclasses
import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partialmethod
from pathlib import Path

import numpy as np
import pytest
import yaml
from filelock import FileLock
from tiny import POINT, contents, start
from tiny_benchmark import HERE, REFERENCE, SLOW, TINY, changed, rows, write

from experiments.benchmark_size.simulated import simulate_cell
from policykd.benchmark import local
from policykd.benchmark.cell import run_cell
from policykd.benchmark.display import TimeLeft, duration
from policykd.benchmark.engine import Failed, Finished, Progressed, Started
from policykd.benchmark.matrix import MatrixOptions, _command, run_matrix
from policykd.benchmark.results import Results
from policykd.benchmark.rows import Row, gradient_updates, to_json
from policykd.benchmark.sb3_cell import double_width, parameters
from policykd.benchmark.spec_file import load_spec, parse_spec
from policykd.benchmark.statistics import summarise
from policykd.benchmark.tables import benchmark_tables
from policykd.benchmark.worker import CELL, RESULT
from policykd.cli import main
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.training.dual_student import DualStudent


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of the test's own; workers find the tasks that go wrong."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return tmp_path


def wait_for(condition, process, seconds=180):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.005)


@pytest.mark.slow
def test_a_whole_matrix_then_nothing_is_left_to_do(capsys):
    file = write(methods=["sb3", "dpd"])
    main(["benchmark", str(file), "--jobs", "1"])
    said = capsys.readouterr().out
    assert "PolicyKD-PointReach-v0/dpd-td3: done   (2 of 2 cells" in said
    before = contents(Path("results"))
    curve = [row for row in rows("dpd") if row["phase"] == "curve"]
    assert [(r["seed"], r["learner"], r["steps"], r["updates"]) for r in curve] == [
        (seed, peer, steps, updates)
        for steps, updates in (("100", "60"), ("200", "160"))  # two peers, 20 steps each without updates
        for seed in "01"
        for peer in "01"
    ]
    assert {(r["steps"], r["updates"], r["episodes"]) for r in rows("sb3") if r["phase"] == "final"} == {
        ("200", "180", "3")
    }
    made = json.loads(Path("results/tiny/PolicyKD-PointReach-v0/dpd-td3.json").read_text(encoding="utf-8"))
    assert made["command"] == "policykd benchmark spec.yaml --only PolicyKD-PointReach-v0/dpd-td3"
    assert made["cell"]["config"]["batch_size"] == 8 and made["packages"]["torch"] and made["learners_at_once"] == 4
    assert not list(Path("runs").rglob("checkpoint.safetensors"))
    assert list(Path("runs").rglob("agent.safetensors"))
    main(["benchmark", str(file), "--jobs", "1"])
    main(["benchmark", str(file), "--plan"])
    assert "2 of 2 cells done" in capsys.readouterr().out
    assert contents(Path("results")) == before


def test_sb3_is_judged_on_the_same_starts_as_ours():
    """An SB3 model and one of our learners with its weights get the same returns from the same evaluation."""
    from policykd.benchmark.sb3_cell import SameEvaluation

    spec = parse_spec(changed())
    cell = next(c for c in spec.cells if c.method == "sb3")
    agent = DualStudent(POINT, method="independent", backbone="td3", peers=1, config=cell.settings)
    ours = agent.evaluate(3).returns  # number 0, which is the steps so far
    theirs = SameEvaluation(cell, 0).play(agent.to_sb3(0), 3, 0).returns
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    assert not np.allclose(SameEvaluation(cell, 0).play(agent.to_sb3(0), 3, 1).returns, ours)


def test_twice_the_parameters_is_what_sb3_really_gets():
    from stable_baselines3.common.vec_env import DummyVecEnv

    from policykd import export
    from policykd.core.fields import change
    from policykd.tasks.spaces import find_task

    for backbone in ("ddpg", "td3", "sac"):
        tasks = {"HalfCheetah-v5": {"backbones": [backbone], "reference": REFERENCE}}
        settings = {"net_arch": [64, 48], "buffer_size": 300}
        cell = parse_spec(changed(tasks=tasks, settings=settings, methods=["sb3_double"])).cells[0]
        env = DummyVecEnv([find_task("HalfCheetah-v5").make])
        spaces = env.observation_space, env.action_space
        counted = []
        for widths in (cell.settings.net_arch, double_width(cell, *spaces)):
            model = export.make_model(backbone, change(cell.settings, {"net_arch": widths}), env)
            counted.append(sum(p.numel() for net in (model.actor, model.critic) for p in net.parameters()))
            assert counted[-1] == parameters(cell, widths, *spaces)
        assert counted[1] / counted[0] == pytest.approx(2, rel=0.02)
        env.close()


def test_gradient_updates_are_counted_as_they_are_made():
    from policykd.learners.config import PPOConfig, TD3Config

    def td3(**changes):
        return TD3Config(**{"learning_starts": 100, "train_freq": 1, "gradient_steps": 1, **changes})

    assert gradient_updates(td3(), 40) == gradient_updates(td3(), 100) == 0 and gradient_updates(td3(), 250) == 150
    assert gradient_updates(td3(train_freq=4, gradient_steps=2), 250) == 74  # 104, 108, ..., 248
    assert gradient_updates(PPOConfig(n_steps=100, batch_size=30, n_epochs=3), 250) == 2 * 3 * 4


@pytest.mark.slow
def test_a_cell_that_raises_leaves_the_others_alone_and_its_traceback_in_the_report(capsys):
    reference = {"backbones": ["td3"], "reference": REFERENCE}
    tasks = {"faulty_tasks:Raises-v0": reference, POINT: reference}
    sys.path.insert(0, str(HERE))
    file = write(tasks=tasks, methods=["single"])
    with pytest.raises(SystemExit) as left:
        main(["benchmark", str(file), "--jobs", "1", "--env", "faulty_tasks:Raises-v0"])
    assert left.value.code == 1
    said = capsys.readouterr().out
    assert "Raises-v0/single-td3: FAILED: PolicyKDError: environment: Raises-v0: reset raised RuntimeError" in said
    assert "PolicyKD-PointReach-v0/single-td3: done" in said
    summary = summarise(Results("results/tiny"))
    assert 'raise RuntimeError("the simulator fell over")' in summary.failures["Raises-v0/single-td3"]
    assert "* `Raises-v0/single-td3`: PolicyKDError: environment: Raises-v0" in benchmark_tables(summary)


@pytest.mark.nightly  # beside the two hundred kills, which hold this case, too
def test_kill_9_of_a_cell_goes_on_from_its_checkpoint_with_the_same_numbers():
    tasks = {SLOW: {"backbones": ["td3"], "reference": REFERENCE}}
    sys.path.insert(0, str(HERE))
    spec = load_spec(write(tasks=tasks, methods=["single"], total_timesteps=400), [SLOW])
    cell, killed = spec.cells[0], []
    for event in local.run([cell], Path("work"), 1):
        saved = Path("work", cell.name, "run", "checkpoint.safetensors")
        if isinstance(event, Started) and not killed:
            worker = _child(Path("work", cell.name))
            end = time.monotonic() + 180
            while not saved.exists() and time.monotonic() < end:
                time.sleep(0.01)
            assert saved.exists()
            os.kill(worker, signal.SIGKILL)
            killed.append(worker)
        last = event
    assert killed and isinstance(last, Finished)
    whole = run_cell(cell, Path("whole"), lambda steps: None)
    assert [(r.steps, r.mean) for r in last.result.rows] == [(r.steps, r.mean) for r in whole.rows]


def _child(folder):
    """Process id of the worker of a cell, by its command line."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                words = process.read_bytes().split(b"\0")
            except OSError:
                continue
            if b"policykd.benchmark.worker" in words and str(folder).encode() in words:
                return int(process.parent.name)
        time.sleep(0.1)
    raise AssertionError("no worker")


def test_a_cell_that_is_killed_again_and_again_fails_with_the_end_of_its_log(monkeypatch):
    monkeypatch.setattr(local.sys, "executable", str(_script("kill -9 $$")))
    cell = parse_spec(changed(methods=["dpd"])).cells[0]
    events = list(local.run([cell], Path("work"), 1))
    assert [type(event) for event in events] == [Started] * 3 + [Failed]
    assert "its process was killed by signal 9, 3 times" in events[-1].text


def test_a_cell_that_is_killed_and_whose_folder_is_deleted_fails(monkeypatch):
    monkeypatch.setattr(local.sys, "executable", str(_script("rm -r work; kill -9 $$")))
    cell = parse_spec(changed(methods=["dpd"])).cells[0]
    assert "killed by signal 9, 3 times" in list(local.run([cell], Path("work"), 1))[-1].text


def test_a_cell_whose_folder_cannot_be_made_fails_alone():
    Path("work").mkdir()
    Path("work/PolicyKD-PointReach-v0").write_text("in the way", encoding="utf-8")
    cell = parse_spec(changed(methods=["dpd"])).cells[0]
    (failed,) = local.run([cell], Path("work"), 1)
    assert isinstance(failed, Failed) and failed.text.startswith(f"cannot start {cell.name}: ")


def _script(line):
    file = Path("fake.sh").absolute()
    file.write_text(f"#!/bin/sh\necho about to die >&2\n{line}\n")
    file.chmod(0o755)
    return file


@pytest.mark.slow
def test_kill_9_of_the_driver_ends_its_workers_and_a_rerun_completes(capsys):
    tasks = {SLOW: {"backbones": ["td3"], "reference": REFERENCE}}
    file = write(tasks=tasks, methods=["single"], total_timesteps=2000, evaluations=2)
    driver = start("benchmark", str(file), "--jobs", "1", "--env", SLOW)
    cell = Path("runs/benchmark/tiny/Slow-v0/single-td3")
    wait_for((cell / "run" / "checkpoint.safetensors").exists, driver)
    worker = _child(cell)
    driver.kill()
    driver.communicate()
    end = time.monotonic() + 90
    while Path(f"/proc/{worker}").exists() and _state(worker) != "Z" and time.monotonic() < end:
        time.sleep(0.02)
    assert not Path(f"/proc/{worker}").exists() or _state(worker) == "Z"
    assert not (cell / "result.json").exists()
    sys.path.insert(0, str(HERE))
    main(["benchmark", str(file), "--jobs", "1", "--env", SLOW])
    assert "1 of 1 cells" in capsys.readouterr().out and len(rows("single", "Slow-v0")) == 2 * 3


@pytest.mark.nightly
def test_ctrl_c_saves_what_runs_and_a_rerun_goes_on_from_there():
    tasks = {SLOW: {"backbones": ["td3"], "reference": REFERENCE}}
    file = write(tasks=tasks, methods=["single"], total_timesteps=4000, evaluations=1, seeds=1)
    driver = start("benchmark", str(file), "--jobs", "1", "--env", SLOW)
    cell = Path("runs/benchmark/tiny/Slow-v0/single-td3")
    wait_for((cell / "run" / "checkpoint.safetensors").exists, driver)
    time.sleep(0.3)
    driver.send_signal(signal.SIGINT)
    driver.communicate(timeout=60)
    assert driver.returncode == 130
    saved = checkpoint.load(cell / "run" / "checkpoint.safetensors")["num_timesteps"]
    assert 800 < saved < 4000 and saved % 800  # later than the regular checkpoint
    assert not Path("results/tiny/Slow-v0").exists()


def _state(process):
    return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]


def test_a_result_that_a_killed_driver_left_unread_is_kept_without_running_it_again(monkeypatch):
    file = write(methods=["independent"])
    spec = load_spec(file)
    cell = spec.cells[0]
    left = Path("runs/benchmark/tiny", cell.name)
    left.mkdir(parents=True)
    (left / CELL).write_text(json.dumps(cell.plain()))
    (left / RESULT).write_text(to_json(simulate_cell(spec, cell)))
    monkeypatch.setattr(local, "run", None)  # nobody asks it
    assert run_matrix(file, MatrixOptions()) == []
    assert rows("independent")
    Path("results/tiny", f"{cell.name}.json").unlink()  # asks for the cell again: the rows are not taken twice
    with pytest.raises(TypeError):
        run_matrix(file, MatrixOptions())


def test_a_learner_of_sb3_that_has_diverged_is_no_result(monkeypatch):
    from policykd.benchmark import sb3_cell

    cell = parse_spec(changed(methods=["sb3"])).cells[0]
    rows = simulate_cell(parse_spec(changed()), cell).rows
    rows[-1] = dataclasses.replace(rows[-1], mean=float("nan"))
    monkeypatch.setattr(sb3_cell, "_train", lambda cell, seed, *rest: [r for r in rows if r.seed == seed])
    with pytest.raises(PolicyKDError, match=r"sb3-td3: seed 1 has diverged: .* at step 200"):
        run_cell(cell, Path("cell"), lambda steps: None)


FULL_DISK = """
import resource, sys
from policykd.cli import main
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main(sys.argv[1:])
"""


def _limited(limit, *command):
    return subprocess.run([sys.executable, "-c", FULL_DISK, str(limit), *command], capture_output=True, text=True)


@pytest.mark.nightly
def test_a_full_disk_fails_the_cells_that_meet_it_and_a_rerun_completes(folder):
    # The checkpoint of eight learners outgrows the limit, that of four does not.
    settings = {"net_arch": [16, 16], "batch_size": 8, "buffer_size": 200}
    file = write(methods=["dpd", "single"], seeds=4, settings=settings)
    result = _limited(200_000, "benchmark", str(file), "--jobs", "1")
    assert result.returncode == 1, result.stderr
    assert "dpd-td3: FAILED: PolicyKDError: checkpoint: cannot write" in result.stdout
    assert rows("single") and not Path("results/tiny/PolicyKD-PointReach-v0/dpd.csv").exists()
    main(["benchmark", str(file), "--jobs", "1"])
    assert rows("dpd") and not list(Path("results").rglob("*.failed.txt"))


@pytest.fixture
def instant(monkeypatch):
    """An engine that makes results up, at once."""

    def run(cells, work, jobs, threads):
        spec = load_spec(Path("spec.yaml"))
        yield from (Finished(cell, simulate_cell(spec, cell)) for cell in cells)

    monkeypatch.setattr(local, "run", run)


def test_results_that_cannot_be_written_do_not_stop_the_others(instant, monkeypatch, capsys):
    file = write(methods=["independent", "mutual"])
    save = Results.save

    def full(self, cell, result):
        if cell.method == "independent":
            raise OSError(28, "No space left on device")
        save(self, cell, result)

    monkeypatch.setattr(Results, "save", full)
    with pytest.raises(
        PolicyKDError, match=r"independent-td3: .*No space left on device; free some space and run it again"
    ):
        run_matrix(file, MatrixOptions(jobs=1))
    assert rows("mutual") and not Path("results/tiny/PolicyKD-PointReach-v0/independent.csv").exists()
    said = capsys.readouterr().out
    assert "independent-td3: FAILED: cannot write its result: [Errno 28] No space left" in said
    assert "independent-td3: done" not in said and "(1 of 2 cells, 1 failed" in said


def test_two_drivers_do_not_share_a_folder():
    file = write()
    Path("runs/benchmark/tiny").mkdir(parents=True)
    with FileLock("runs/benchmark/tiny/.lock"), pytest.raises(PolicyKDError, match="is in use by another process"):
        run_matrix(file, MatrixOptions())


def test_results_in_a_folder_above_the_work_go_on(instant):
    file, options = write(methods=["independent"]), MatrixOptions(out=".", jobs=1)
    cell = load_spec(file).cells[0]
    left = Path("runs/benchmark/tiny", cell.name)
    left.mkdir(parents=True)
    (left / CELL).write_text(json.dumps(cell.plain()))
    assert run_matrix(file, options) == run_matrix(file, options) == []
    assert Results(".").done((cell,)) == {cell.name}


def test_more_jobs_than_cores_are_refused():
    with pytest.raises(PolicyKDError, match="--jobs 1000 must be from 1 to the"):
        run_matrix(write(), MatrixOptions(jobs=1000))
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_an_interrupted_sb3_cell_keeps_the_seeds_that_are_through(monkeypatch):
    from policykd.benchmark import sb3_cell

    cell = parse_spec(changed(methods=["sb3"])).cells[0]
    trained, train = [], sb3_cell._train

    def interrupted(cell, seed, *rest):
        if seed == 1 and trained == [0]:
            trained.append("interrupted")
            raise KeyboardInterrupt
        trained.append(seed)
        return train(cell, seed, *rest)

    monkeypatch.setattr(sb3_cell, "_train", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, Path("cell"), lambda steps: None)
    result = run_cell(cell, Path("cell"), lambda steps: None)
    assert trained == [0, "interrupted", 1]
    assert {r.seed for r in result.rows} == {0, 1}


def test_seeds_of_sb3_count_for_the_settings_that_they_were_trained_with(monkeypatch):
    from policykd.benchmark import sb3_cell

    trained = []

    def train(cell, seed, net_arch, *rest):
        trained.append((seed, cell.settings.learning_rate))
        return simulate_cell(spec, dataclasses.replace(cell, seeds=(seed,))).rows

    monkeypatch.setattr(sb3_cell, "_train", train)
    spec, other = (
        parse_spec(changed(methods=["sb3"], settings={**TINY["settings"], "learning_rate": rate}))
        for rate in (0.001, 0.1)
    )
    (cell,), (edited,) = spec.cells, other.cells
    run, folder = (lambda cell: run_cell(cell, folder, lambda steps: None).rows), Path("cell")
    rows = run(cell)
    assert run(dataclasses.replace(cell, seeds=(1, 0))) == [*rows[3:], *rows[:3]]
    run(edited)
    assert trained == [(0, 0.001), (1, 0.001), (0, 0.1), (1, 0.1)]
    for seed in cell.seeds:  # as older versions kept them
        file = folder / f"seed_{seed}.json"
        file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8"))["rows"]))
    sb3_cell.name_cell(folder, {**edited.plain(), "seeds": [0]})
    run(edited)
    assert len(trained) == 4
    run(cell)
    assert trained[4:] == [(0, 0.001), (1, 0.001)]


def test_a_seed_of_sb3_that_was_kept_keeps_its_commit(monkeypatch):
    from policykd.benchmark import sb3_cell

    cell = parse_spec(changed(methods=["sb3"])).cells[0]
    made = Row("td3", "final", 0, 0, 200, 180, 3, 0.0, 0.0, 1.0)
    monkeypatch.setattr(sb3_cell, "_train", lambda cell, seed, *_: [dataclasses.replace(made, seed=seed)])
    for commit, seeds in (("a", (0,)), ("b", (0, 1))):
        monkeypatch.setattr(sb3_cell, "versions", lambda commit=commit: {"git_commit": commit})
        result = run_cell(dataclasses.replace(cell, seeds=seeds), Path("cell"), lambda steps: None)
    assert result.provenance["seed_commits"] == ["a", "b"]


def test_an_unfinished_cell_of_ours_begins_anew_once_its_spec_was_edited():
    edited = {**TINY["settings"], "learning_rate": 0.1}
    (cell,), (other,) = (parse_spec(changed(methods=["single"], **c)).cells for c in ({}, {"settings": edited}))
    run_cell(cell, Path("cell"), lambda steps: None)  # leaves its checkpoint
    found = run_cell(other, Path("cell"), lambda steps: None)
    assert found.provenance["cell"]["config"]["learning_rate"] == 0.1
    assert json.loads(Path("cell", "run", "config.json").read_text(encoding="utf-8"))["config"]["learning_rate"] == 0.1


def test_the_cell_that_a_folder_was_used_for_is_noted_before_the_next_one_takes_it(monkeypatch):
    cell = parse_spec(changed(methods=["sb3"])).cells[0]
    Path("cell").mkdir()
    Path("cell", CELL).write_text('{"a": 1}', encoding="utf-8")
    Path("cell", "seed_0.json").write_text("[[2]]", encoding="utf-8")
    monkeypatch.setattr(local.subprocess, "Popen", _refuse)
    with pytest.raises(OSError, match="no process"):
        local._Worker(cell, 1, Path("cell"), None, 1)
    noted = {"cell": {"a": 1}, "rows": [[2]], "git_commit": None}  # files of then do not say by which commit
    assert json.loads(Path("cell", "seed_0.json").read_text(encoding="utf-8")) == noted
    assert json.loads(Path("cell", CELL).read_text(encoding="utf-8")) == cell.plain()


def _refuse(*arguments, **options):
    raise OSError("no process")


def test_the_time_left_is_estimated_from_what_steps_have_cost():
    cells = parse_spec(changed(methods=["sb3", "independent", "dpd"])).cells
    sb3, independent, _ = cells  # 2 seeds x 200 steps, 200 steps, 200 steps
    estimate = TimeLeft(cells, 1, {})
    assert estimate.left() is None
    estimate.see(Progressed(independent, 0), 100.0)
    estimate.see(Progressed(independent, 100), 110.0)
    assert estimate.left() == pytest.approx(0.1 * (100 + 200 + 400))
    estimate.see(Failed(sb3, ""), 120.0)
    assert estimate.left() == pytest.approx(0.1 * (100 + 200))
    assert TimeLeft(cells, 2, {True: 1.0, False: 0.1}).left() == pytest.approx(400)  # the longest cell alone
    assert (duration(5), duration(600), duration(7200)) == ("5 s", "10 min", "2.0 h")


def test_commands_do_not_tell_where_this_machine_keeps_things_but_name_plugins(instant, folder, monkeypatch):
    monkeypatch.setenv("POLICYKD_PLUGINS", "my_parts,more")
    file = write(methods=["independent"]).absolute()
    out = folder / "elsewhere"
    run_matrix(file, MatrixOptions(out=str(out), jobs=1))
    text = (out / "PolicyKD-PointReach-v0" / "independent-td3.json").read_text(encoding="utf-8")
    assert str(folder) not in text
    assert _command(file, load_spec(file), MatrixOptions()) == "policykd --plugins my_parts,more benchmark spec.yaml"
    assert yaml.safe_load((out / "spec.yaml").read_text(encoding="utf-8"))["name"] == "tiny"


@pytest.mark.parametrize("backbone", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("ddpg", "sac")), "ppo"])
def test_every_backbone_runs_on_both_sides(backbone, monkeypatch):
    monkeypatch.setattr(DualStudent, "ship", partialmethod(DualStudent.ship, gradient_steps=20))
    settings = {"net_arch": [8, 8], "batch_size": 8}
    if backbone == "ppo":
        settings |= {"n_steps": 32, "n_envs": 2, "n_epochs": 2, "normalize_observation": True, "normalize_reward": True}
    else:
        settings |= {"buffer_size": 256, "learning_starts": 20}
    tasks = {POINT: {"backbones": [backbone], "reference": REFERENCE}}
    text = changed(tasks=tasks, settings=settings, total_timesteps=256, methods=["sb3", "sb3_double", "single", "dpd"])
    for cell in parse_spec(text).cells:
        result = run_cell(cell, Path(cell.name), lambda steps: None)
        as_one = 0 if cell.peers == 1 or cell.backbone == "ppo" else 2 * 4
        assert len(result.rows) == 2 * cell.peers * 3 + as_one
        final = [row for row in result.rows if row.phase == "final"]
        # PPO: 4 rollouts in all, 2 epochs of 8 minibatches each.
        wanted = 4 * 2 * 8 if backbone == "ppo" else 256 - 20 * cell.peers
        assert {(row.steps, row.updates) for row in final} == {(256, wanted)}
        assert (result.provenance["net_arch"] == [8, 8]) == (cell.method != "sb3_double")
