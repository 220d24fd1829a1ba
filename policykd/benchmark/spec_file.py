"""Reads a benchmark's file, YAML or JSON, into a ``Spec``, and validates it before anything runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policykd.benchmark.spec import Entry, Reference, Spec, Task
from policykd.core.errors import PolicyKDError
from policykd.core.fields import build, require
from policykd.core.parsing import MOST_YAML, parse_yaml, read_text
from policykd.tasks.spaces import check_named, find_task
from policykd.training.peer_checks import views_of_peers


def load_spec(path: Path, env: Sequence[str] = ()) -> Spec:
    """Read a benchmark from a YAML or JSON file.

    Args:
        path: the file.
        env: tasks ``module:id`` that the file may use; their modules are imported.

    Raises:
        PolicyKDError: the file is invalid; one line says what and where.
    """
    if path.is_fifo():
        raise PolicyKDError(f"benchmark: {path} is a pipe, but results refer to a file: save it to one")
    for task in env:
        find_task(task)
    try:
        spec = parse_spec(read_text(path, MOST_YAML))
        for task in spec.tasks:
            check_named(task, path)
        for cell in spec.cells:
            views_of_peers(cell.settings, find_task(cell.task).make)
        return spec
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyKDError(f"benchmark: cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    except PolicyKDError as error:
        raise PolicyKDError(f"benchmark: {path}: {str(error).removeprefix('config: ')}") from None
    except ValueError as error:
        raise PolicyKDError(f"benchmark: cannot read {path}: {error}") from None


def parse_spec(text: str) -> Spec:
    """Parse the text of a benchmark's file, and validate all of its cells.

    Raises:
        PolicyKDError: the file is invalid; one line says what and where.
    """
    content = _parse(text)
    tasks, methods = content.get("tasks"), content.get("methods")
    if isinstance(methods, list):
        names = all(isinstance(name, str) for name in methods)
        require(names, "methods", methods, "must be names; methods with settings are keys: {dpd: {peers: 3}, sb3: {}}")
        require(len(set(methods)) == len(methods), "methods", methods, "must name each method once")
        methods = {name: {} for name in methods}
    require(isinstance(tasks, dict), "tasks", tasks, "must map names of tasks to what they need")
    require(isinstance(methods, dict), "methods", methods, "must be a list of methods, or map names to settings")
    assert isinstance(tasks, dict) and isinstance(methods, dict)
    content["tasks"] = {str(name): _build(Task, f"task {name}", value) for name, value in tasks.items()}
    content["methods"] = {
        str(name): _build(Entry, f"method {name}", {} if value is None else value) for name, value in methods.items()
    }
    spec = build(Spec, content)
    assert spec.cells
    return spec


def _parse(text: str) -> dict[str, Any]:
    try:
        content = parse_yaml(text)
    except PolicyKDError:
        raise
    except ValueError as error:
        raise PolicyKDError(f"is not YAML: {error}") from None
    if not isinstance(content, dict):
        raise PolicyKDError("must hold keys and values; see docs/benchmark.md")
    return content


def _build(kind: type[Any], where: str, values: Any) -> Any:
    """Build a part of the spec, which errors name."""
    if not isinstance(values, dict):
        raise PolicyKDError(f"{where}: must hold keys and values, not {values!r}")
    try:
        values = dict(values)
        if kind is Task and "reference" in values:
            values["reference"] = _build(Reference, "reference", values["reference"])
        return build(kind, values)
    except PolicyKDError as error:
        raise PolicyKDError(f"{where}: {str(error).removeprefix('config: ')}") from None
