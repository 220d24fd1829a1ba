"""Results of a benchmark on disk: raw rows as CSV, provenance of each cell as JSON, failures as text.

results/dpd_mujoco/
  spec.yaml                              the benchmark
  HalfCheetah-v5/dpd.csv                 every evaluation of every learner (all backbones)
  HalfCheetah-v5/dpd-td3.json            provenance and checksum of the cell's rows, written last
  HalfCheetah-v5/dpd-td3.failed.txt      why the cell failed
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from policykd.benchmark.rows import CellResult, Row
from policykd.benchmark.spec import Cell, Spec, task_folder
from policykd.benchmark.spec_file import parse_spec
from policykd.core.errors import PolicyKDError, differences
from policykd.core.files import csv_text, remove_unfinished, write_bytes
from policykd.core.lock import locked
from policykd.core.parsing import parse_json
from policykd.training import snapshot

COLUMNS = ("backbone", "phase", "seed", "learner", "steps", "updates", "episodes", "return", "return_std", "seconds")
SPEC = "spec.yaml"
FAILED = ".failed.txt"
HELD_SECONDS = 60


class Store:
    """Text files by name in a folder, or in any location that fsspec supports (``s3://bucket/folder``)."""

    def __init__(self, place: str | Path) -> None:
        self.place = str(place).rstrip("/") or "/"
        self._remote: Any = None
        if "://" not in self.place and Path(self.place).exists() and not Path(self.place).is_dir():
            raise PolicyKDError(f"results: {self.place} is a file, not a folder: choose another --out")
        if "://" in self.place:
            try:
                import fsspec

                self._remote, self._root = fsspec.core.url_to_fs(self.place)
            except (ImportError, ValueError) as error:
                raise PolicyKDError(f"results: cannot reach {self.place}: {error}") from None

    def write(self, name: str, text: str) -> None:
        """Write a file atomically."""
        if self._remote is not None:
            self._remote.makedirs(f"{self._root}/{name}".rsplit("/", 1)[0], exist_ok=True)
            self._remote.pipe_file(f"{self._root}/{name}", text.encode())
            return
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, text.encode())

    def read(self, name: str) -> str | None:
        """Read a file; None if it does not exist.

        Raises:
            PolicyKDError: the file is not text.
        """
        try:
            if self._remote is not None:
                return bytes(self._remote.cat_file(f"{self._root}/{name}")).decode()
            return self._path(name).read_bytes().decode()
        except FileNotFoundError:
            return None
        except UnicodeDecodeError:
            raise PolicyKDError(f"results: {self.place}/{name} is damaged: it is not text; restore it") from None

    def remove(self, name: str) -> None:
        """Remove a file if it exists."""
        if self._remote is None:
            self._path(name).unlink(missing_ok=True)
        elif self._remote.exists(f"{self._root}/{name}"):
            self._remote.rm_file(f"{self._root}/{name}")

    def _path(self, name: str) -> Path:
        """Path of a file, which must be inside the folder.

        Raises:
            PolicyKDError: a link leads out of the folder.
        """
        path = Path(self.place, name)
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(self.place)):  # resolve() fails on loops
            raise PolicyKDError(f"results: {path} is a link out of the folder: remove it")
        return path

    def tidy(self, folders: Iterable[str]) -> None:
        """Remove the temporary files of a killed driver, here and in these folders."""
        if self._remote is None:
            remove_unfinished(Path(self.place), *(Path(self.place, name) for name in folders))

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock the folder against other drivers; a remote location cannot be locked."""
        if self._remote is not None:
            yield
            return
        Path(self.place).mkdir(parents=True, exist_ok=True)
        with locked(Path(self.place), timeout=HELD_SECONDS):
            yield

    def names(self) -> list[str]:
        """Names of all files, including those in direct subfolders, sorted.

        Deeper files, such as a benchmark's work, and hidden ones, such as a Mac's ``._dpd-td3.json``, are ignored.
        """
        if self._remote is not None:
            found = [path.removeprefix(f"{self._root}/") for path in self._remote.find(self._root)]
        else:
            root = Path(self.place)
            paths = (*root.glob("*"), *root.glob("*/*"))
            found = [path.relative_to(root).as_posix() for path in paths if path.is_file()]
        return sorted(name for name in found if not any(part.startswith(".") for part in name.split("/")))


class Results:
    """The results of one benchmark.

    Args:
        place: a folder, or any location that fsspec supports.
    """

    def __init__(self, place: str | Path) -> None:
        self.store = Store(place)

    def begin(self, spec: Spec, text: str) -> None:
        """Save the spec before the first result.

        Args:
            spec: the benchmark.
            text: content of its file, which is saved with the results.

        Raises:
            PolicyKDError: the location holds results of another benchmark.
        """
        before = self.store.read(SPEC)
        if before is not None and (name := self.spec().name) != spec.name:
            raise PolicyKDError(f"results: {self.store.place} has results of benchmark {name!r}: choose another --out")
        if before != text:
            self.store.write(SPEC, text)
        self.store.tidy(map(task_folder, spec.tasks))

    def spec(self) -> Spec:
        """Load the benchmark's spec.

        Raises:
            PolicyKDError: there are no results, or their spec is damaged.
        """
        text = self.store.read(SPEC)
        if text is None:
            raise PolicyKDError(f"results: {self.store.place} has no benchmark results (no {SPEC})")
        try:
            return parse_spec(text)
        except PolicyKDError as error:
            message = str(error).removeprefix("config: ")
            raise PolicyKDError(f"results: {self.store.place}/{SPEC}: {message}") from None

    def done(self, cells: tuple[Cell, ...]) -> set[str]:
        """Names of the cells with complete results.

        Raises:
            PolicyKDError: results belong to another spec, or a file was changed or truncated.
        """
        known = {cell.name: cell for cell in cells}
        found = set()
        files: dict[str, dict[str, list[str]]] = {}
        for name in self.store.names():
            if "/" not in name or not name.endswith(".json"):
                continue
            if (cell := known.get(name.removesuffix(".json"))) is None:
                raise PolicyKDError(
                    f"results: {self.store.place}/{name} belongs to a cell that this spec lacks: two specs cannot "
                    "share one folder; choose another --out"
                )
            self._check_cell(cell, self.provenance(cell))
            self._lines(cell, files)
            found.add(cell.name)
        return found

    def provenance(self, cell: Cell) -> dict[str, Any]:
        """Load a cell's provenance.

        Raises:
            PolicyKDError: the file is missing or damaged.
        """
        name = f"{cell.name}.json"
        try:
            content = parse_json(self.store.read(name) or "")
            if not isinstance(content["cell"]["config"], dict) or not isinstance(content["rows_sha256"], str):
                raise ValueError("it was not written by a cell")
            return content
        except (ValueError, KeyError, TypeError) as error:
            raise PolicyKDError(
                f"results: {self.store.place}/{name} is damaged ({error}): restore it, or delete it and run again"
            ) from None

    def rows(self, cell: Cell, files: dict[str, dict[str, list[str]]] | None = None) -> list[Row]:
        """Load the raw rows of a finished cell.

        Args:
            cell: the cell.
            files: cache of files already read, since several cells share a file.

        Raises:
            PolicyKDError: the rows were changed or truncated.
        """
        kinds = [field.type for field in dataclasses.fields(Row)]
        convert = [{"str": str, "int": int, "float": float}[str(kind)] for kind in kinds]
        lines = csv.reader(self._lines(cell, {} if files is None else files))
        try:
            return [Row(*(to(value) for to, value in zip(convert, line, strict=True))) for line in lines]
        except (ValueError, csv.Error) as error:
            raise PolicyKDError(f"results: {self.store.place}/{_csv(cell)} is damaged: {error}") from None

    def save(self, cell: Cell, result: CellResult) -> None:
        """Save a finished cell. Its provenance is written last: without it the cell counts as not done.

        Raises:
            OSError: a file cannot be written; earlier results are unchanged.
            PolicyKDError: another process locks the folder for longer than a minute.
        """
        name = _csv(cell)
        with self.store.locked():  # another driver may add another backbone's rows
            kept = _by_backbone(self.store.read(name) or "")
            kept[cell.backbone] = _format(result.rows)
            text = "\n".join([",".join(COLUMNS), *(line for key in sorted(kept) for line in kept[key])]) + "\n"
            self.store.write(name, text)
            provenance = {**result.provenance, "rows_sha256": _checksum(kept[cell.backbone])}
            self.store.write(f"{cell.name}.json", json.dumps(provenance, indent=1) + "\n")
            self.store.remove(cell.name + FAILED)

    def save_failure(self, cell: Cell, text: str) -> None:
        """Save why a cell failed."""
        self.store.write(cell.name + FAILED, text)

    def failures(self) -> dict[str, str]:
        """Why cells failed, by cell name."""
        names = [name for name in self.store.names() if name.endswith(FAILED)]
        return {name.removesuffix(FAILED): self.store.read(name) or "" for name in names}

    def _check_cell(self, cell: Cell, provenance: dict[str, Any]) -> None:
        known = snapshot.plain(type(cell.settings)())  # a setting missing in an older version had today's default
        was, now = (
            {**fields, **known, **fields["config"], "config": 0} for fields in (provenance["cell"], cell.plain())
        )
        if changed := differences(was, now, was | now):
            raise PolicyKDError(
                f"results: {self.store.place}/{cell.name} was made by another spec: {changed}; choose "
                f"another --out, or delete {cell.name}.json to run it again"
            )

    def _lines(self, cell: Cell, files: dict[str, dict[str, list[str]]]) -> list[str]:
        """Lines of a cell in its CSV file, verified against its provenance."""
        name = _csv(cell)
        if name not in files:
            files[name] = _by_backbone(self.store.read(name) or "")
        lines = files[name].get(cell.backbone, [])
        if _checksum(lines) != self.provenance(cell)["rows_sha256"]:
            raise PolicyKDError(
                f"results: {self.store.place}/{name}: the rows of {cell.backbone} differ from what the cell wrote: "
                f"restore the file, or delete {cell.name}.json to run the cell again"
            )
        return lines


def _csv(cell: Cell) -> str:
    return f"{cell.name.removesuffix(f'-{cell.backbone}')}.csv"


def _by_backbone(text: str) -> dict[str, list[str]]:
    kept: dict[str, list[str]] = {}
    for line in text.splitlines()[1:]:
        kept.setdefault(line.partition(",")[0], []).append(line)
    return kept


def _format(rows: list[Row]) -> list[str]:
    lines = [[f"{value:.6g}" if isinstance(value, float) else value for value in vars(r).values()] for r in rows]
    return csv_text(lines).splitlines()


def _checksum(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
