"""The cluster engine: one single-core Ray task per cell, restarted if its worker or node dies."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from policykd.benchmark.engine import ATTEMPTS, Event, Failed, Finished, Progressed, Started
from policykd.benchmark.rows import from_json
from policykd.benchmark.spec import Cell
from policykd.benchmark.worker import failure, work
from policykd.core import plugins
from policykd.core.errors import PolicyKDError, one_line
from policykd.core.extras import import_extra

POLL_SECONDS = 0.5


def run(cells: Sequence[Cell], folder: Path, address: str | None) -> Iterator[Event]:
    """Run cells on a Ray cluster, and yield events.

    Args:
        cells: cells, in the order in which they start.
        folder: folder of logs and checkpoints on every node. If nodes share it, a cell resumes from its checkpoint on
            another node; otherwise it starts again, with the same results.
        address: address of the cluster; None starts one on this machine unless already connected.

    Raises:
        PolicyKDError: Ray is not installed, or the cluster is not found.
    """
    ray = _connect(address)
    progress = ray.remote(num_cpus=0)(_Progress).options(scheduling_strategy=_on_this_node(ray)).remote()
    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_work)
    # The path is sent as text, since a Path object is specific to this machine's system.
    place, modules = str(folder.absolute()), os.environ.get(plugins.VARIABLE, "")
    pending = {task.remote(cell.plain(), f"{place}/{cell.name}", progress, modules): cell for cell in cells}
    shown: dict[str, int] = {}
    try:
        while pending:
            ready, _ = ray.wait(list(pending), timeout=POLL_SECONDS)
            for name, steps in _known(ray, progress).items():
                cell = next((cell for cell in pending.values() if cell.name == name), None)
                if cell is not None and shown.get(name) != steps:
                    if name not in shown:
                        yield Started(cell)
                    shown[name] = steps
                    yield Progressed(cell, steps)
            for reference in ready:
                yield _outcome(ray, reference, pending.pop(reference))
    finally:
        for reference in pending:
            ray.cancel(reference, recursive=True)


def _known(ray: Any, progress: Any) -> dict[str, int]:
    """Progress of the cells; empty if it was lost with a node, since no result depends on it."""
    try:
        steps: dict[str, int] = ray.get(progress.all.remote())
    except ray.exceptions.RayError:
        return {}
    return steps


def _connect(address: str | None) -> Any:
    ray = import_extra("ray", "ray")
    if not ray.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # no warning about unused GPUs
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise PolicyKDError(f"benchmark: cannot reach Ray's cluster {address}: {one_line(error)}") from None
    return ray


def _on_this_node(ray: Any) -> Any:
    """Keep the progress actor on the driver's node, so that it survives other nodes."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def _outcome(ray: Any, reference: Any, cell: Cell) -> Event:
    try:
        result, why = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Failed(cell, f"{type(error).__name__}, after {ATTEMPTS} attempts: {one_line(error)}\n\n{error}")
    return Finished(cell, from_json(result)) if result else Failed(cell, why)


def _work(cell: dict[str, Any], folder: str, progress: Any, modules: str) -> tuple[str, str]:
    """Run a cell on a worker, which inherits no environment variables; returns the result as JSON, or the failure."""
    asked = Cell.from_plain(cell)
    report: Callable[[int], None] = lambda steps: progress.see.remote(asked.name, steps)  # noqa: E731
    try:
        plugins.load(plugins.names_in(modules))
        return work(asked, Path(folder), report), ""
    except Exception as error:
        return "", failure(error)


class _Progress:
    """Progress of every cell."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}

    def see(self, name: str, steps: int) -> None:
        self.steps[name] = steps

    def all(self) -> dict[str, int]:
        return self.steps
