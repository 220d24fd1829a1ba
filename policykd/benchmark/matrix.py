"""Runs a benchmark: plan what is missing, run it with an engine, save every result as it arrives."""

from __future__ import annotations

import fnmatch
import json
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from policykd.benchmark import local
from policykd.benchmark.display import Display
from policykd.benchmark.engine import Event, Failed, Finished
from policykd.benchmark.options import MatrixOptions as MatrixOptions
from policykd.benchmark.results import Results
from policykd.benchmark.rows import CellResult, from_json
from policykd.benchmark.spec import Cell, Spec, task_folder
from policykd.benchmark.spec_file import load_spec
from policykd.benchmark.worker import CELL, RESULT
from policykd.core import plugins
from policykd.core.errors import PolicyKDError, nearest
from policykd.core.files import CHECKPOINT
from policykd.core.lock import locked


@dataclass(frozen=True)
class Plan:
    """Cells of a benchmark, and which are done."""

    cells: tuple[Cell, ...]
    """All selected cells."""
    done: frozenset[str]
    """Names of cells with results."""

    @property
    def missing(self) -> list[Cell]:
        """Cells to run."""
        return [cell for cell in self.cells if cell.name not in self.done]


def plan(spec: Spec, results: Results, only: Sequence[str] = ()) -> Plan:
    """Find out which cells of a benchmark are done and which are missing.

    Raises:
        PolicyKDError: results belong to another spec, a file is damaged, or a pattern matches no cell.
    """
    done = results.done(spec.cells)
    names = [cell.name for cell in spec.cells]
    for task in spec.tasks:  # the spec's name of a task; cell names have - for /
        only = [f"{task_folder(task)}{p.removeprefix(task)}" if p.startswith(f"{task}/") else p for p in only]
    for pattern in only:
        if not fnmatch.filter(names, pattern):
            raise PolicyKDError(f"benchmark: --only {pattern!r} matches no cell{nearest(pattern, names)}")
    chosen = [c for c in spec.cells if not only or any(fnmatch.fnmatchcase(c.name, pattern) for pattern in only)]
    return Plan(tuple(chosen), frozenset(done & {cell.name for cell in chosen}))


def run_matrix(path: Path, options: MatrixOptions) -> list[str]:
    """Run a benchmark: skip finished cells and resume interrupted ones.

    Args:
        path: the benchmark's file.
        options: how to run it.

    Returns:
        Names of the cells that failed; the reasons are saved with the results.

    Raises:
        PolicyKDError: the input is invalid, or a result could not be saved (after all others were).
    """
    spec = load_spec(path, options.env)
    work = options.work or Path("runs/benchmark") / spec.name
    results = Results(options.out or Path("results") / spec.name)
    plan(spec, results, options.only)  # refuses invalid input before anything is written
    if options.engine == "ray" and (options.jobs is not None or options.threads > 1):
        raise PolicyKDError("benchmark: --jobs and --threads need the local engine: Ray fills the cluster's cores")
    if options.engine == "local" and options.address is not None:
        raise PolicyKDError("benchmark: --address names a Ray cluster: it needs --engine ray")
    workers = local.check_jobs(options.jobs, options.threads)
    work.mkdir(parents=True, exist_ok=True)
    with locked(work):
        planned = plan(spec, results, options.only)
        results.begin(spec, path.read_text(encoding="utf-8"))
        command = _command(path, spec, options)
        failed: list[str] = []
        unkept: list[str] = []
        missing = planned.missing
        with Display(
            len(planned.cells), len(planned.done), missing, workers, _known_rates(planned, results)
        ) as display:
            for event in _events(missing, work, options):
                try:
                    failed += _keep(event, results, work, command)
                except (OSError, PolicyKDError) as error:  # a full disk must not take the other cells with it
                    unkept.append(f"{event.cell.name}: {error}")
                    why = f"{event.text.splitlines()[0]}; " if isinstance(event, Failed) else ""
                    event = Failed(event.cell, f"{why}cannot write its result: {error}")
                display.see(event)
    if unkept:
        raise PolicyKDError(
            f"benchmark: results could not be written: {'; '.join(unkept)}; free some space and run it again"
        )
    return failed


def _events(missing: list[Cell], work: Path, options: MatrixOptions) -> Iterator[Event]:
    """Yield results that a killed driver left unread, then the engine's events."""
    left = []
    for cell in missing:
        if (result := _leftover_result(cell, work / cell.name)) is not None:
            yield Finished(cell, result)
        else:
            left.append(cell)
    if options.engine == "ray":
        from policykd.benchmark.ray_engine import run as run_on_ray

        yield from run_on_ray(left, work, options.address)
    elif left:
        yield from local.run(left, work, options.jobs, options.threads)


def _keep(event: Event, results: Results, work: Path, command: str) -> list[str]:
    """Save an event's result; returns the cell's name if it failed."""
    if isinstance(event, Finished):
        provenance = {"command": f"{command} --only {shlex.quote(event.cell.name)}", **event.result.provenance}
        results.save(event.cell, CellResult(event.result.rows, provenance))
        for kept in (RESULT, f"run/{CHECKPOINT}"):  # else the cell would not rerun once its results are deleted
            (work / event.cell.name / kept).unlink(missing_ok=True)
    elif isinstance(event, Failed):
        results.save_failure(event.cell, event.text)
        return [event.cell.name]
    return []


def _leftover_result(cell: Cell, folder: Path) -> CellResult | None:
    try:
        if json.loads((folder / CELL).read_text(encoding="utf-8")) == cell.plain():
            return from_json((folder / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None


def _command(path: Path, spec: Spec, options: MatrixOptions) -> str:
    """The command that reproduces these results, without local paths."""
    shown = path if not path.is_absolute() else Path(path.name)
    default = options.out in (None, f"results/{spec.name}")
    out = "" if default or Path(options.out or "").is_absolute() else f" --out {shlex.quote(str(options.out))}"
    env = f" --env {shlex.join(options.env)}" if options.env else ""
    return plugins.command(f"benchmark {shlex.quote(shown.as_posix())}{out}{env}")


def _known_rates(planned: Plan, results: Results) -> dict[bool, float]:
    """Seconds per step of finished cells, for ours and for SB3's."""
    sums: dict[bool, list[float]] = {}
    for cell in planned.cells:
        if cell.name in planned.done:
            seconds = float(results.provenance(cell).get("seconds", 0.0))
            total = sums.setdefault(cell.is_sb3, [0.0, 0.0])
            total[0], total[1] = total[0] + seconds, total[1] + cell.steps
    return {kind: seconds / steps for kind, (seconds, steps) in sums.items()}
