"""A run's logs as files that survive what machines do: ``progress.csv`` row by row, TensorBoard's events at once."""

from __future__ import annotations

import csv
import io
import itertools
import os
import socket
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import CSVOutputFormat, Logger, TensorBoardOutputFormat
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import FileWriter, SummaryWriter

from policykd.core.errors import reraise
from policykd.core.files import STEPS, add_filename, csv_text, write_text

_number = itertools.count()
"""Keeps apart event files of one process."""


def open_logger(folder: Path) -> Logger:
    """The logger of one folder."""
    return Logger(folder=str(folder), output_formats=[ProgressCSV(folder / "progress.csv"), Events(str(folder))])


class ProgressCSV(CSVOutputFormat):
    """SB3's ``progress.csv``, which goes on from the rows that are there.

    A row is appended by one write; new columns rewrite the file, whole or not at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.row = io.StringIO()
        self.file = self.row  # type: ignore[assignment]  # where SB3 formats one row
        self.separator, self.quotechar = ",", '"'
        self.keys = _read(path)[0]

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write one row; new columns come last, in an order that does not depend on Python's hashes.

        Raises:
            OSError: the file cannot be written, or is there no more.
        """
        new = [key for key in sorted(key_values) if key not in self.keys]
        if new or not self.path.exists():
            rows = _read(self.path)[1]
            self.keys += new
            _write(self.path, self.keys, [row + [""] * len(new) for row in rows])
        super().write(key_values, key_excluded, step)
        row = self.row.getvalue()
        self.row.seek(0)
        self.row.truncate()
        _append(self.path, row.encode())


def lines(path: Path) -> int:
    """Lines below the header, to come back to by ``rewind``: columns may be added to them meanwhile."""
    return max(0, path.read_bytes().count(b"\n") - 1) if path.exists() else 0


def rewind(path: Path, num_timesteps: int, kept: int | None) -> None:
    """Take back rows that came later.

    Args:
        path: the file.
        num_timesteps: rows of later steps go, and a last one that was not written to its end.
        kept: ``lines`` at that time: an evaluation after the checkpoint of the last step has its steps, too. None
            where a checkpoint of an earlier version does not know it.
    """
    if not path.exists():
        return
    header, rows = _read(path, kept)
    column = header.index(STEPS) if STEPS in header else 0
    with _readable(path):
        rows = [row for row in rows if row[column] and int(float(row[column])) <= num_timesteps]
    _write(path, header, rows)


def _read(path: Path, lines: int | None = None) -> tuple[list[str], list[list[str]]]:
    """Columns and whole rows of a file, of its first lines below the header; none where there is no file or no row.

    Raises:
        PolicyKDError: it cannot be read.
    """
    with _readable(path):
        text = path.read_text(encoding="utf-8") if path.exists() and lines != 0 else ""
        whole = "".join(f"{line}\n" for line in text.split("\n")[:-1][: None if lines is None else lines + 1])
        header, *rows = list(csv.reader(io.StringIO(whole))) or [[]]
    return header, [row for row in rows if len(row) == len(header)]


def _readable(path: Path) -> AbstractContextManager[None]:
    return reraise(f"run folder: {path} cannot be read (", "): restore it, or move it away to start a new one")


def _write(path: Path, header: list[str], rows: list[list[str]]) -> None:
    write_text(path, csv_text([header, *rows] if header else []))


class Events(TensorBoardOutputFormat):
    """TensorBoard's events, written at once by the thread that trains: an error is an error of the run."""

    def __init__(self, folder: str) -> None:
        self.writer = _Summaries(log_dir=folder)
        self._is_closed = False


class _Summaries(SummaryWriter):
    file_writer: Any
    all_writers: Any

    def _get_file_writer(self) -> FileWriter:
        if self.file_writer is None:
            self.file_writer = _EventFile(self.log_dir)
            self.all_writers = {self.log_dir: self.file_writer}
        writer: FileWriter = self.file_writer
        return writer


class _EventFile(FileWriter):
    """One file of events without the thread and the queue of TensorBoard's own."""

    def __init__(self, folder: str) -> None:
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_number)}"
        self.path = Path(folder, name)
        self.waiting = io.BytesIO()
        self.records = RecordWriter(self.waiting)
        self.add_event(Event(file_version="brain.Event:2"))
        self.flush()

    def get_logdir(self) -> str:
        """Its folder."""
        return str(self.path.parent)

    def add_event(self, event: Event, step: int | None = None, walltime: float | None = None) -> None:
        """Note an event until the next ``flush``."""
        event.wall_time = time.time() if walltime is None else walltime
        if step is not None:
            event.step = int(step)
        self.records.write(event.SerializeToString())

    def flush(self) -> None:
        """Append what was noted.

        Raises:
            OSError: it cannot be written.
        """
        content = self.waiting.getvalue()
        self.waiting.seek(0)
        self.waiting.truncate()
        _append(self.path, content)

    def close(self) -> None:
        """Append the rest."""
        self.flush()

    def reopen(self) -> None:
        """Nothing: every flush opens the file."""


def _append(path: Path, content: bytes) -> None:
    with add_filename(path), open(path, "ab", buffering=0) as file:
        end, left = file.tell(), memoryview(content)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError:
            with suppress(OSError):  # the first error is the one to tell
                file.truncate(end)  # the next row must not follow half of this one
            raise
