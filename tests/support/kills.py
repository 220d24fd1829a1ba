"""Kill whole command lines at random, go on with --resume, and see that they end as if nothing had happened.

    python tests/support/kills.py --kills 200 --out results/kills
    python tests/support/kills.py --kills 20 --cases train-td3 classify

Every command is a process of its own, forked from this one, which has imported everything: start-up would take most of
the time. It dies by SIGKILL or SIGTERM at a random time; or by its own hand in the middle of a write: half of a file is
there, or all of it but not its name, or a row of a log stops in the middle. Writes one row per kill; the exit status is
1 where a run did not go on or did not end bit-identical to the one that nobody disturbed.
"""

from __future__ import annotations

import csv
import gc
import importlib
import io
import itertools
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
import tyro
import yaml
from tiny import CLOCK, POINT, TINY, differences
from tiny_benchmark import TINY as BENCHMARK

from policykd import TeacherStudent
from policykd.cli import main
from policykd.core import checkpoint
from policykd.core.files import CHECKPOINT, versions, write_text
from policykd.core.interrupts import REQUEUE
from policykd.training import progress_csv

CLOCKS = {"elapsed", "evaluation_seconds", "t_start", "episode_times", "t", "log_sizes"}
"""What of a state tells the time."""
OFF_POLICY = {**TINY, "eval_freq": 70, "checkpoint_freq": 100}
ON_POLICY = {
    **{"net_arch": (8, 8), "n_steps": 32, "batch_size": 16, "n_epochs": 2, "distill_batch_size": 8},
    **{"n_eval_episodes": 1, "log_freq": 50, "eval_freq": 96, "checkpoint_freq": 128},
}
TAUGHT_ALONE = {
    **{"net_arch": (8, 8), "eval_freq": 0, "n_eval_episodes": 1, "log_freq": 20, "teacher_episodes": 2},
    **{"round_steps": 40, "round_updates": 20, "distill_batch_size": 32, "dataset_size": 5000},
}
TAUGHT = {**TAUGHT_ALONE, "n_steps": 16, "n_envs": 2, "batch_size": 16, "n_epochs": 1, "checkpoint_freq": 40}
CLASSIFIER = {"examples": 200, "teacher_widths": 16, "student_widths": 8, "teacher_epochs": 3, "epochs": 4}


def expert(observation: np.ndarray) -> np.ndarray:
    """The proportional controller of PointReach."""
    return np.clip(10 * observation[2:4], -1, 1)


def words(settings: dict[str, Any]) -> list[str]:
    """Settings as flags."""
    listed: list[str] = []
    for name, value in settings.items():
        values = value if isinstance(value, tuple) else (value,)
        listed += [f"--{name.replace('_', '-')}", *map(str, values)]
    return listed


def cases(folder: Path) -> dict[str, list[str]]:
    """Command lines by name; a folder of their run is to be added."""
    teacher = folder / "teacher.safetensors"
    TeacherStudent(POINT, expert, config={**TAUGHT_ALONE, "round_updates": 100}).learn(400).save(teacher)
    spec = {**BENCHMARK, "methods": ["sb3", "dpd"], "settings": {**BENCHMARK["settings"]}}
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))
    train = ["train", "--env", POINT, "--seeds", "0", "3"]
    distill = ["distill", "--env", POINT, "--teacher", str(teacher), "--final-episodes", "3", *words(TAUGHT)]
    settings = {"ddpg": OFF_POLICY, "td3": OFF_POLICY, "sac": OFF_POLICY, "ppo": ON_POLICY}
    return {
        **{f"train-{b}": [*train, "--backbone", b, "--total-timesteps", "320", *words(s)] for b, s in settings.items()},
        "distill": [*distill, "--seeds", "0", "1", "--total-timesteps", "160"],
        "fine_tune": [*distill, "--total-timesteps", "80", "--fine-tune", "128"],
        "classify": ["classify", "--data", "digits", "--device", "cpu", *words(CLASSIFIER)],
        "benchmark": ["benchmark", str(folder / "spec.yaml"), "--jobs", "1"],
    }


def command(name: str, words: list[str], run: Path, resume: bool) -> list[str]:
    """The command line of a run in a folder; a benchmark always goes on."""
    if name == "benchmark":
        return [*words, "--out", str(run / "results"), "--work", str(run / "work")]
    return [*words, "--run-dir", str(run), *(["--resume"] if resume else [])]


@dataclass(frozen=True)
class Writes:
    """How often a command wrote: the places at which it can die by its own hand."""

    syncs: int = 0
    """Files that were whole, and not yet in their place."""
    names: int = 0
    """Files that took their name."""
    rows: int = 0
    """Rows and events that were appended."""


def on_write(hook: Callable[[str, Any], None]) -> None:
    """Call a hook before every write of this process, with what it is and what is written."""
    sync, rename, append = os.fsync, os.replace, progress_csv._append

    def synced(descriptor: int) -> None:
        hook("syncs", descriptor)
        sync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        hook("names", (source, target))
        rename(source, target)

    def appended(path: Path, content: bytes) -> None:
        hook("rows", (path, content))
        append(path, content)

    os.fsync, os.replace, progress_csv._append = synced, renamed, appended  # type: ignore[assignment]


def count_writes(file: Path) -> None:
    """Note how often this process writes."""
    counts = dict.fromkeys(("syncs", "names", "rows"), 0)

    def count(kind: str, what: Any) -> None:
        counts[kind] += 1
        file.write_text(json.dumps(counts), encoding="utf-8")

    on_write(count)


def die_in_write(kind: str, number: int) -> None:
    """End this process in its write of a number (from 1), half of which is done."""
    left = number

    def die(seen: str, what: Any) -> None:
        nonlocal left
        left -= seen == kind
        if left or seen != kind:
            return
        if kind == "syncs":
            os.ftruncate(what, os.fstat(what).st_size // 2)
        elif kind == "rows":
            path, content = what
            with open(path, "ab") as log:
                log.write(content[: len(content) // 2])
        os.kill(os.getpid(), signal.SIGKILL)

    on_write(die)


def fork(words: list[str], log: Path, prepare: Callable[[], None] | None = None) -> int:
    """Begin a command line in a process of its own; returns its number."""
    if child := os.fork():
        return child
    status = 70
    try:
        with open(log, "ab", buffering=0) as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if prepare is not None:
            prepare()
        main(words)
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def wait(process: int) -> int:
    """Its exit status; that of a signal is negative."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def children(process: int) -> list[int]:
    """The processes that a process has begun."""
    try:
        return [
            int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()
        ]
    except (OSError, ValueError):
        return []


@dataclass(frozen=True)
class Kill:
    """One kill and what came of it."""

    case: str
    run: int
    """Which run of the case: some are killed several times."""
    how: str
    """SIGKILL or SIGTERM at a time, SIGKILL of a benchmark's worker; or in which kind of write."""
    at: float
    """Seconds after the beginning, or the number of the write."""
    saved: int
    """Whether there was a checkpoint."""
    status: int
    """Exit status; minus the signal's number."""
    seconds: float
    """From the signal to the end, for SIGTERM."""
    identical: int = 0
    """Whether the run ended bit-identical to the one that nobody disturbed."""


class Victim:
    """A command line, its undisturbed run, and runs that are killed."""

    def __init__(self, name: str, words: list[str], folder: Path) -> None:
        self.name, self.words, self.folder = name, words, folder
        self.whole, self.counts, self.log = (folder / f"{name}.{end}" for end in ("whole", "json", "log"))
        self.started = time.monotonic()
        self.process = fork(command(name, words, self.whole, False), self.log, lambda: count_writes(self.counts))

    def finish(self) -> None:
        """Wait for the undisturbed run."""
        status = wait(self.process)
        assert status == 0, self.log.read_text(encoding="utf-8")
        self.seconds = time.monotonic() - self.started
        self.writes = Writes(**json.loads(self.counts.read_text(encoding="utf-8")))

    def once(self, number: int, kills: int, chance: random.Random) -> list[Kill]:
        """Kill a new run so many times at most, go on to its end, and compare."""
        run, found = self.folder / f"{self.name}.{number}", []
        for _ in range(kills):
            kill = self._kill(run, number, chance)
            if kill is None:  # it was through before
                break
            found.append(kill)
        status = wait(fork(command(self.name, self.words, run, True), self.log))
        wrong = [f"exit status {status}"] if status else list(compare(self.whole, run))
        for line in wrong:
            print(f"{self.name}.{number}: {line}", file=sys.stderr)
        if not wrong:
            shutil.rmtree(run)
        return [Kill(**{**asdict(kill), "identical": int(not wrong)}) for kill in found]

    def _kill(self, run: Path, number: int, chance: random.Random) -> Kill | None:
        how = chance.choice(["SIGKILL", "SIGTERM", *(f.name for f in fields(Writes))])
        words, signalled, seconds = command(self.name, self.words, run, True), how.startswith("SIG"), 0.0
        if signalled:
            at = round(chance.uniform(0, self.seconds), 3)
            process = fork(words, self.log)
            time.sleep(at)
            victim = process
            if how == "SIGKILL" and (workers := children(process)) and chance.random() < 0.5:
                how, victim = "SIGKILL of a worker", chance.choice(workers)
            began = time.monotonic()
            os.kill(victim, signal.SIGTERM if how == "SIGTERM" else signal.SIGKILL)
        else:
            at = chance.randint(1, max(1, getattr(self.writes, how)))
            process = fork(words, self.log, lambda: die_in_write(how, int(at)))
        status = wait(process)
        if how == "SIGTERM":
            seconds = round(time.monotonic() - began, 2)
            early = -signal.SIGTERM  # before the command had begun
            assert status in (0, REQUEUE, early), (
                f"{self.name}: status {status}: {self.log.read_text(encoding='utf-8')}"
            )
        elif how != "SIGKILL of a worker":
            assert status in (0, -signal.SIGKILL), (
                f"{self.name}: status {status}: {self.log.read_text(encoding='utf-8')}"
            )
        if status == 0 and how != "SIGKILL of a worker":
            return None
        saved = int(any(run.rglob(CHECKPOINT)) if run.exists() else 0)
        return Kill(self.name, number, how, at, saved, status, seconds)


def compare(whole: Path, run: Path) -> Iterator[str]:
    """What two finished runs differ in, apart from clocks."""
    names = [{str(f.relative_to(place)) for f in place.rglob("*") if f.is_file()} for place in (whole, run)]
    expected, there = (
        {n for n in each if "tfevents" not in n and "work" not in Path(n).parent.parts} for each in names
    )
    expected, there = ({n for n in each if not n.startswith("work")} for each in (expected, there))
    yield from (f"{name} is missing" for name in sorted(expected - there))
    yield from (f"{name} was left" for name in sorted(there - expected))
    for name in sorted(expected & there):
        if (read := reader(Path(name))) is not None:
            first, second = read(whole / name), read(run / name)
            for path in differences(first, second):
                if not CLOCKS & set(path.split("/")):
                    yield f"{name} differs at {path}"


def reader(file: Path) -> Callable[[Path], Any] | None:
    """How to read a file without its clocks; None where it is of no interest: pictures, commands, measured speed."""
    if file.name in (CHECKPOINT, "stopped.safetensors"):
        return checkpoint.load
    if file.suffix == ".safetensors":
        return lambda path: dict(safetensors.torch.load_file(path))
    if file.name == "progress.csv":
        return lambda path: rows(path, CLOCK)
    if file.name.endswith("monitor.csv"):
        return lambda path: rows(path, ["t"], comment="#")
    if file.suffix == ".csv" and file.name != "students.csv":
        return lambda path: rows(path, ["seconds"])
    if file.suffix == ".npz":
        return lambda path: dict(np.load(path))
    if file.suffix == ".zip":
        return weights
    return (
        (lambda path: json.loads(path.read_text(encoding="utf-8")))
        if file.name in ("result.json", "config.json")
        else None
    )


def rows(path: Path, clocks: list[str], **options: Any) -> dict[str, Any]:
    """A table as the text that is in it."""
    return pd.read_csv(path, dtype=str, **options).drop(columns=clocks, errors="ignore").to_dict("list")


def weights(path: Path) -> dict[str, Any]:
    """Networks and optimisers of an SB3 zip."""
    with zipfile.ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".pth")]
        parts = {name: torch.load(io.BytesIO(archive.read(name)), weights_only=True) for name in names}
    return {name: _plain(part) for name, part in parts.items()}


def _plain(value: Any) -> Any:
    """A state of torch without gradients, with text for keys."""
    if isinstance(value, torch.Tensor):
        return value.detach()
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


@dataclass(frozen=True)
class Options:
    """Kill command lines at random and see that they end as if nothing had happened."""

    kills: int = 20
    """How many."""
    cases: tuple[str, ...] = ()
    """Which command lines; default: all."""
    seed: int = 0
    """Of the times and places."""
    jobs: int = 1
    """Processes that kill."""
    minutes: float = 10_000
    """Stop after so long."""
    in_a_row: int = 3
    """Kills of one run at most."""
    out: Path | None = None
    """Folder for the table of kills."""


def run(options: Options) -> int:
    """Kill; returns the exit status."""
    torch.set_num_threads(1)
    gc.freeze()  # or every child would go through, and so copy, all that was imported
    with tempfile.TemporaryDirectory() as place:
        all_cases = cases(Path(place))
        victims = [Victim(name, all_cases[name], Path(place)) for name in options.cases or all_cases]
        for victim in victims:
            victim.finish()
        shares = [len(range(job, options.kills, options.jobs)) for job in range(options.jobs)]
        workers = [fork_job(victims, options, job, share) for job, share in enumerate(shares)]
        ends = [wait(worker) for worker in workers]
        tables = [Path(place, f"{job}.csv") for job in range(options.jobs)]
        found = pd.concat([pd.read_csv(table) for table in tables if table.exists()], ignore_index=True)
    print(f"{len(found)} kills, {found['identical'].sum()} of them of runs that ended bit-identical")
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        write_text(options.out / "kills.csv", found.to_csv(index=False))
        write_text(options.out / "versions.json", json.dumps(versions(), indent=2) + "\n")
    return int(any(ends) or not found["identical"].all())


def fork_job(victims: list[Victim], options: Options, job: int, kills: int) -> int:
    """A process that kills its share, each victim in turn; returns its number."""
    if child := os.fork():
        return child
    status = 70
    try:
        chance, found = random.Random(options.seed * options.jobs + job), list[Kill]()
        began = time.monotonic()
        for turn in itertools.count():
            if len(found) >= kills or time.monotonic() - began > 60 * options.minutes:
                break
            victim = victims[(turn + job) % len(victims)]
            in_a_row = min(kills - len(found), chance.randint(1, options.in_a_row))
            found += victim.once(turn * options.jobs + job, in_a_row, chance)
            write(found, victim.folder / f"{job}.csv")
            print(f"job {job}: {len(found)} kills, {sum(kill.identical for kill in found)} identical", flush=True)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def write(kills: list[Kill], path: Path) -> None:
    """The table so far."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [f.name for f in fields(Kill)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(kill) for kill in kills)
    write_text(path, text.getvalue())


if __name__ == "__main__":
    commands = (f"policykd.cli.{name}" for name in ("train", "distill", "classify", "benchmark"))
    for name in (*commands, "torch._dynamo", "torchmetrics.functional.classification"):
        importlib.import_module(name)  # once, here; the last two are imported by a run when it needs them
    sys.exit(run(tyro.cli(Options)))
