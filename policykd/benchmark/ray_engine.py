"""The engine of a cluster: one Ray task of one core per cell, begun again where its worker or its node dies."""

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
from policykd.core.extras import needs

POLL_SECONDS = 0.5


def run(cells: Sequence[Cell], folder: Path, address: str | None) -> Iterator[Event]:
    """Compute cells on a Ray cluster, and tell what happens.

    Args:
        cells: in the order in which to begin them.
        folder: for logs and checkpoints, on every node. Where all nodes see the same folder, a cell goes on from its
            checkpoint on another node; without one it starts again, with the same numbers.
        address: of the cluster; None starts one on this machine, unless one is connected already.

    Raises:
        PolicyKDError: Ray is not installed, or there is no such cluster.
    """
    ray = _connect(address)
    progress = ray.remote(num_cpus=0)(_Progress).options(scheduling_strategy=_on_this_node(ray)).remote()
    task = ray.remote(num_cpus=1, max_retries=ATTEMPTS - 1)(_work)
    # A parameter of its own, so that Ray sends the path as text: its object is of this machine's kind.
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
    """How far cells are; nothing where that was lost with a node: no result depends on it."""
    try:
        steps: dict[str, int] = ray.get(progress.all.remote())
    except ray.exceptions.RayError:
        return {}
    return steps


def _connect(address: str | None) -> Any:
    ray = needs("ray", "ray")
    if not ray.is_initialized():
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about GPUs that we do not use
        try:
            ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise PolicyKDError(f"benchmark: cannot reach Ray's cluster {address}: {one_line(error)}") from None
    return ray


def _on_this_node(ray: Any) -> Any:
    """Progress lives beside the driver, so that no other node's death takes it away."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)


def _outcome(ray: Any, reference: Any, cell: Cell) -> Event:
    try:
        result, why = ray.get(reference)
    except ray.exceptions.RayError as error:
        return Failed(cell, f"{type(error).__name__}, after {ATTEMPTS} attempts: {one_line(error)}\n\n{error}")
    return Finished(cell, from_json(result)) if result else Failed(cell, why)


def _work(cell: dict[str, Any], folder: str, progress: Any, modules: str) -> tuple[str, str]:
    """What a worker does: the result as JSON, or why there is none. It inherits no variable of the driver's."""
    asked = Cell.from_plain(cell)
    report: Callable[[int], None] = lambda steps: progress.see.remote(asked.name, steps)  # noqa: E731
    try:
        plugins.load(plugins.names_in(modules))
        return work(asked, Path(folder), report), ""
    except Exception as error:
        return "", failure(error)


class _Progress:
    """How far every cell is."""

    def __init__(self) -> None:
        self.steps: dict[str, int] = {}

    def see(self, name: str, steps: int) -> None:
        self.steps[name] = steps

    def all(self) -> dict[str, int]:
        return self.steps
