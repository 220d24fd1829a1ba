"""A run meets a full disk, a deleted folder, a second writer, a broken task: one line, and how to go on."""

import builtins
import csv
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from full_disk import full_disk
from policykd_envs import PointReach
from tiny import POINT, TINY, contents, flags, logged_steps, progress, start

from policykd.cli import main
from policykd.core import checkpoint, lock
from policykd.core.errors import PolicyKDError
from policykd.core.files import STEPS, write_text
from policykd.core.interrupts import REQUEUE, Stopped, interruptible, terminating
from policykd.core.lock import LOCK, locked
from policykd.training import progress_csv
from policykd.training.dual_student import DualStudent
from policykd.training.progress_csv import ProgressCSV
from policykd.training.teacher_student import TeacherStudent


def test_a_row_that_a_full_disk_cuts_leaves_nothing_of_it(tmp_path):
    log = ProgressCSV(tmp_path / "progress.csv")
    log.write({STEPS: 1, "x": 0.5}, {STEPS: (), "x": ()})
    whole = log.path.read_bytes()
    with full_disk(len(whole) + 3), pytest.raises(OSError, match=r"progress\.csv"):
        log.write({STEPS: 2, "x": 0.25}, {STEPS: (), "x": ()})
    assert log.path.read_bytes() == whole
    log.write({STEPS: 3, "x": 0.125}, {STEPS: (), "x": ()})
    assert log.path.read_bytes() == whole + b"3,0.125\n"


def refused(capsys, *words):
    """What a command says that is refused, in one line."""
    with pytest.raises(SystemExit) as error:
        main([str(word) for word in words])
    assert error.value.code == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1, line
    return line


def train(run, *more, **settings):
    return ["train", "--env", POINT, "--total-timesteps", "100", "--run-dir", str(run), *flags(**settings), *more]


# Before the first checkpoint


def test_resume_begins_where_nothing_is_there_and_anew_where_there_is_no_checkpoint(tmp_path, capsys):
    main(train(tmp_path / "whole"))
    run = tmp_path / "run"
    main(train(run, "--resume"))  # the first start of a job that is always told to resume
    assert list(progress(run)[STEPS]) == list(progress(tmp_path / "whole")[STEPS])
    (run / "checkpoint.safetensors").unlink()
    (run / ".checkpoint.safetensors.77.tmp").write_text("killed in its first checkpoint")
    main(train(run, "--resume"))
    assert progress(run).equals(progress(tmp_path / "whole"))
    assert not [path for path in run.rglob(".*")]
    run = tmp_path / "empty"
    (run / "dpd-ddpg").mkdir(parents=True)
    main(train(run, "--resume"))
    assert "resuming" not in capsys.readouterr().out
    assert progress(run).equals(progress(tmp_path / "whole"))


def test_resume_does_not_touch_a_folder_of_something_else(tmp_path, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("mine")
    assert "is not a run of policykd" in refused(capsys, *train(tmp_path / "mine", "--resume"))
    assert contents(tmp_path) == {"mine/thesis.tex": b"mine"}


def test_a_classifier_that_was_killed_before_its_first_checkpoint_begins_anew(tmp_path):
    words = ["classify", "--device", "cpu", "--examples", "100", "--teacher-widths", "8", "--student-widths", "4"]
    words += ["--teacher-epochs", "1", "--epochs", "2", "--run-dir"]
    main([*words, str(tmp_path / "whole")])
    for killed, kept in (("teacher", []), ("student", ["teacher"])):
        run = tmp_path / killed
        shutil.copytree(tmp_path / "whole", run)
        (run / "result.json").unlink()
        for part in {"teacher", "student"} - set(kept):
            shutil.rmtree(run / part)
        (run / killed).mkdir()
        for name in ("config.json", "progress.csv"):
            shutil.copy(tmp_path / "whole" / killed / name, run / killed)
        main([*words, str(run), "--resume"])
        for name in ("result.json", "teacher/best_model.safetensors", "student/best_model.safetensors"):
            assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_cooperation_begins_anew_where_it_was_killed_and_knows_when_it_is_finished(tmp_path, capsys):
    tables = []
    for name, shift in (("a", 0.0), ("b", 0.5)):
        rows = [{"x": (i * 7 % 11) / 11, "y": (i * 5 % 13) / 13} for i in range(60)]
        tables.append(tmp_path / f"{name}.csv")
        with open(tables[-1], "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["x", "y", "label"])
            writer.writeheader()
            writer.writerows({**row, "label": int(row["x"] + shift > 0.7)} for row in rows)
    words = ["cooperate", "--data", *map(str, tables), "--learners", "tree", "logistic", "--run-dir"]
    main([*words, str(tmp_path / "whole")])
    run = tmp_path / "run"
    (run / "received").mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / "options.json", run)
    main([*words, str(run), "--resume"])
    for name in ("lessons.csv", "accuracy.csv"):
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    before = contents(run)
    main([*words, str(run), "--resume"])
    assert "already finished" in capsys.readouterr().out
    assert contents(run) == before
    assert "seed was 0, now 1" in refused(capsys, *words, run, "--resume", "--seed", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "cuda"], "cuda"),
        (["--teacher-epochs", "0"], "epochs=0"),
        (["--method", "fitnets", "--student-features", "nowhere", "--teacher-features", "hidden.0.0"], "nowhere"),
        (["--method", "rkd", "--student-features", "hidden.0.0", "--teacher-features", "hidden.9"], "hidden.9"),
    ],
)
def test_a_classifier_that_is_refused_leaves_no_half_of_a_teacher(tmp_path, capsys, words, said):
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("CUDA is there")
    common = ["classify", "--device", "cpu", "--examples", "100", "--teacher-widths", "8", "--student-widths", "4"]
    assert said in refused(capsys, *common, *words, "--run-dir", tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_student_of_a_weak_teacher_is_refused_before_anything_is_written(tmp_path, capsys):
    DualStudent(POINT, method="independent", peers=1, config=TINY).save(tmp_path / "weak")
    before = contents(tmp_path)
    words = ["distill", "--env", POINT, "--teacher", tmp_path / "weak.safetensors", "--run-dir", tmp_path / "run"]
    line = refused(capsys, *words)
    assert "do not show that it is better" in line
    assert contents(tmp_path) == before and not (tmp_path / "run").exists()


def test_a_cooperation_that_is_refused_leaves_no_folder(tmp_path, capsys):
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("x,label\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(30)))
    (tmp_path / "b.csv").write_text("y,label\n" + "".join(f"{i % 7},{i % 2}\n" for i in range(30)))
    before = contents(tmp_path)
    words = ["cooperate", "--data", tmp_path / "a.csv", tmp_path / "b.csv", "--run-dir", tmp_path / "run"]
    assert "shares no feature name" in refused(capsys, *words)
    assert contents(tmp_path) == before and not (tmp_path / "run").exists()


# Signals


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise")
def test_sigterm_in_an_evaluation_saves_and_the_resumed_run_evaluates(tmp_path):
    """The evaluation would take minutes; the run is saved before it, and resumed it is the undisturbed run."""
    words = train(tmp_path / "run", "--compile", "no", eval_freq=60, n_eval_episodes=20_000)
    process = start(*words)
    while logged_steps(tmp_path / "run") < 50 and process.poll() is None:
        time.sleep(0.01)
    time.sleep(0.5)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == REQUEUE, errors
    assert "interrupted at 60 steps, saved to" in output and "Traceback" not in errors
    saved = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")
    assert (saved["num_timesteps"], saved["evaluation_steps"]) == (60, [])
    assert not (tmp_path / "run" / LOCK).exists()


def test_an_evaluation_that_a_signal_met_is_made_up_for(tmp_path, monkeypatch):
    settings = {**TINY, "eval_freq": 60, "checkpoint_freq": 0}
    whole = DualStudent(POINT, config=settings, run_dir=tmp_path / "whole").learn(150)
    agent = DualStudent(POINT, config=settings, run_dir=tmp_path / "run")
    evaluate = DualStudent.evaluate

    def met(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)  # the signal ends it
        raise AssertionError

    monkeypatch.setattr(DualStudent, "evaluate", met)
    with pytest.raises(Stopped) as stopped, terminating():
        agent.learn(150)
    assert stopped.value.status == REQUEUE
    monkeypatch.setattr(DualStudent, "evaluate", evaluate)
    again = DualStudent.load(tmp_path / "run")
    assert again.num_timesteps == 60 and again.evaluation_steps == []
    again.learn(90)
    assert again.evaluation_steps == whole.evaluation_steps == [60, 120, 150]
    assert progress(tmp_path / "run").equals(progress(tmp_path / "whole"))


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise")
def test_the_first_signal_is_noted_and_the_second_does_what_it_did_before():
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup ignores it
    try:
        with terminating(), interruptible() as interrupts:
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.number is not None
            with pytest.raises(Stopped):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(1)
    finally:
        signal.signal(signal.SIGHUP, hangup)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # children of a shell's & ignore it
    try:
        with interruptible() as interrupts:
            os.kill(os.getpid(), signal.SIGINT)
            assert interrupts.number is not None
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(1)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise")
def test_a_signal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with terminating(), interruptible() as interrupts, interrupts.raising():
            os.kill(os.getpid(), signal.SIGHUP)
            assert interrupts.number is None
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
def test_a_worker_that_is_forked_meanwhile_ends_by_its_own_signal():
    fork = multiprocessing.get_context("fork")
    begun, before = fork.Event(), signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with terminating(), interruptible() as interrupts, interrupts.raising():
            worker = fork.Process(target=lambda: begun.set() or time.sleep(60))
            worker.start()
            assert begun.wait(60)  # what comes before, Python forgets
            worker.terminate()
            worker.join()
        assert worker.exitcode == -signal.SIGTERM and interrupts.number is None
    finally:
        signal.signal(signal.SIGTERM, before)


# Logs


def test_a_torn_row_is_cut_and_new_columns_replace_the_file_at_once(tmp_path, monkeypatch):
    path = tmp_path / "progress.csv"
    log = ProgressCSV(path)
    for steps in (50, 100, 1500):
        log.write({STEPS: steps, "loss": 0.5}, {STEPS: (), "loss": ()})
    whole = path.read_text(encoding="utf-8")
    for torn in ("0.5,1500", "0.5,150", "0.5,", "0.5", "0", '"0'):
        path.write_text(f"{whole.rpartition('0.5,')[0]}{torn}")
        progress_csv.rewind(path, 10_000, None)
        assert path.read_text(encoding="utf-8") == f"loss,{STEPS}\n0.5,50\n0.5,100\n"
    log = ProgressCSV(path)

    def full(source, target):
        raise OSError(28, "No space left on device")

    before = path.read_bytes()
    with monkeypatch.context() as patch, pytest.raises(OSError, match=r"progress\.csv"):
        patch.setattr(os, "replace", full)
        log.write({STEPS: 150, "new": 1.0}, {STEPS: (), "new": ()})
    assert contents(tmp_path) == {"progress.csv": before}
    ProgressCSV(path).write({STEPS: 150, "new": 1.0}, {STEPS: (), "new": ()})
    assert path.read_text(encoding="utf-8") == f"loss,{STEPS},new\n0.5,50,\n0.5,100,\n,150,1.0\n"


def test_rows_after_a_checkpoint_go_also_where_their_steps_are_those_of_the_checkpoint(tmp_path):
    """The evaluation after the last step comes after the checkpoint that is due at that step."""
    settings = {**TINY, "checkpoint_freq": 50, "log_freq": 50, "eval_freq": 0}
    run = tmp_path / "run"
    agent = DualStudent(POINT, config=settings, run_dir=run)
    save = DualStudent.save

    def killed(self, path, include_replay=False):
        save(self, path, include_replay)
        if self.num_timesteps == 100:
            raise SystemExit  # after the checkpoint in the loop, before the last evaluation

    agent.save = killed.__get__(agent)
    with pytest.raises(SystemExit):
        agent.learn(100)
    left = [contents(run)]
    for _ in range(2):  # the second time with the row of an evaluation whose checkpoint was not written
        again = DualStudent.load(run)
        again.save = killed.__get__(again)
        with pytest.raises(SystemExit):
            again.learn(0)
        left.append(contents(run))
        (run / "checkpoint.safetensors").write_bytes(left[0]["checkpoint.safetensors"])
    DualStudent.load(run).learn(0)
    assert list(progress(run)[STEPS].astype(int)) == [50, 100, 100]
    for folder in agent.folder.learner_folders:
        assert list(progress(folder)[STEPS].astype(int)) == [50, 100, 100]


# One writer


HOLD = """
import sys, time
from pathlib import Path
from policykd.core.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_is_told_who_the_first_one_is_and_its_death_frees_the_folder(tmp_path, capsys):
    run = tmp_path / "run"
    DualStudent(POINT, config=TINY, run_dir=run).learn(40)
    before = contents(run)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(run)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    expected = f"run folder: {run} is in use by process {holder.pid} on "
    assert expected in refused(capsys, *train(run, "--resume"))
    with pytest.raises(PolicyKDError, match="is in use by process"):
        DualStudent.load(run).learn(20)
    assert {name: content for name, content in contents(run).items() if name != LOCK} == before
    holder.kill()
    holder.communicate()
    with locked(run), locked(run):  # whoever holds it may ask for it again
        assert json.loads((run / LOCK).read_text(encoding="utf-8"))["pid"] == os.getpid()
    assert contents(run) == before


def test_a_lock_that_says_nothing_still_locks(tmp_path, monkeypatch):
    with locked(tmp_path):
        (tmp_path / LOCK).write_text("")
        monkeypatch.setattr(lock, "_held", set())
        with pytest.raises(PolicyKDError, match="is in use by another process"), locked(tmp_path):
            pass


# Faults


@pytest.mark.parametrize("how", ["learn", "fine_tune"])
def test_what_is_refused_before_the_first_step_leaves_students_and_folder_as_they_were(tmp_path, how):
    config = {"net_arch": (8,), "round_steps": 20, "round_updates": 1, "distill_batch_size": 8, "n_eval_episodes": 0}
    config |= {"allow_weak_teacher": True, "teacher_episodes": 1, "batch_size": 8}
    student = TeacherStudent(POINT, lambda o: -o[:2], backbone="td3", config=config, run_dir=tmp_path / "run").learn(40)
    if how == "fine_tune":
        student.fine_tune(20, config={"anchor": "teacher", "critic_steps": 10})
    loaded = TeacherStudent.load(tmp_path / "run")
    recipe, files = loaded.recipe, sorted((tmp_path / "run").rglob("*"))
    with pytest.raises(PolicyKDError, match=r"pass the teacher .* to continue: load\(path, teacher=...\)$"):
        getattr(loaded, how)(20)
    assert loaded.recipe is recipe and sorted((tmp_path / "run").rglob("*")) == files


def test_a_task_that_raises_ends_in_one_line_and_keeps_the_learners(tmp_path, capsys):
    import faulty_tasks  # noqa: F401  (registers it)

    run = tmp_path / "run"
    words = train(run, checkpoint_freq=60, eval_freq=0)
    words[words.index(POINT)] = "Raises-v0"
    line = refused(capsys, *words, "--total-timesteps", "400")
    assert "environment: Raises-v0: reset raised RuntimeError: the simulator fell over at step" in line
    assert (
        f"the learners are in {run / 'stopped.safetensors'}; resume from the last checkpoint with load() in Python"
        in line
    )
    assert 'raise RuntimeError("the simulator fell over")' in (run / "error.txt").read_text(encoding="utf-8")
    assert DualStudent.load(run / "stopped.safetensors").num_timesteps > 60
    assert DualStudent.load(run).num_timesteps % 60 == 0


def test_a_task_that_raises_at_its_first_step_leaves_its_traceback_too(tmp_path, monkeypatch):
    def step(env, action):
        raise RuntimeError("no simulator here")

    agent = DualStudent(POINT, config=TINY, run_dir=tmp_path / "run")
    monkeypatch.setattr(PointReach, "step", step)
    with pytest.raises(PolicyKDError, match=r"no simulator here.*; traceback in .*error\.txt; .*start a new run$"):
        agent.learn(20)
    assert "in step\n" in (tmp_path / "run" / "error.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("what", ["progress.csv", "monitor.csv", "evaluations.npz", "tfevents"])
def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path, capsys, monkeypatch, what):
    run, words = tmp_path / "run", train(tmp_path / "run", eval_freq=40, checkpoint_freq=20)

    class Full:
        """A disk that has room for everything but one file."""

        def __init__(self, open):
            self.open = open

        def __call__(self, file, mode="r", *more, **options):
            opened = self.open(file, mode, *more, **options)
            if what in str(file) and set(mode) & set("wa") and late():
                opened.close()
                return self.open("/dev/full", mode, *more, **options)
            return opened

    def late():
        return (run / "checkpoint.safetensors").exists() or what == "monitor.csv"

    monkeypatch.setattr(builtins, "open", Full(builtins.open))
    line = refused(capsys, *words)
    assert what in line and "No space left on device" in line


def test_a_deleted_folder_is_told_and_the_learners_are_kept(tmp_path):
    run = tmp_path / "run"
    agent = DualStudent(POINT, config={**TINY, "checkpoint_freq": 0, "log_freq": 10_000}, run_dir=run)

    def delete(local_variables, _):
        if agent.num_timesteps == 60:
            shutil.rmtree(run)
        return True

    with pytest.raises(PolicyKDError, match=r"run was deleted during.*the learners are in .*stopped.safetensors"):
        agent.learn(100, callback=delete)
    assert DualStudent.load(run / "stopped.safetensors").num_timesteps == 100


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_told_before_anything_begins(tmp_path, capsys):
    run = tmp_path / "run"
    DualStudent(POINT, config=TINY, run_dir=run).learn(40)
    run.chmod(0o500)
    try:
        assert f"cannot write {run}" in refused(capsys, *train(run, "--resume"))
    finally:
        run.chmod(0o700)


def test_a_run_that_cannot_write_its_config_leaves_no_folder(tmp_path, capsys, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert "config.json: No space left on device" in refused(capsys, *train(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named_and_what_was_there_stays(tmp_path, monkeypatch):
    write_text(tmp_path / "file", "before")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device.*file"):
        write_text(tmp_path / "file", "after")
    assert contents(tmp_path) == {"file": b"before"}
