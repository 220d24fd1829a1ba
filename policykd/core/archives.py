"""Safe reading of untrusted zips and the arrays in them: no code is run, and the unpacked size is bounded."""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

import numpy as np

from policykd.core.errors import type_and_text

RATIO, SPARE = 100, 16_000_000
"""A zip may unpack to ``RATIO`` times its size plus ``SPARE`` bytes; zip bombs reach a thousand times and more."""


class Archive:
    """A zip file, whose members are read into memory.

    Args:
        source: a path, or the file's content.

    Raises:
        OSError, zipfile.BadZipFile: the file is missing or not a zip.
    """

    def __init__(self, source: Path | bytes) -> None:
        if isinstance(source, Path) and source.is_fifo():  # opening it would wait for a writer
            raise zipfile.BadZipFile("File is not a zip file")
        with _damaged():
            self._zip = zipfile.ZipFile(io.BytesIO(source) if isinstance(source, bytes) else source)
        self._left = SPARE + RATIO * (len(source) if isinstance(source, bytes) else source.stat().st_size)
        self.names = self._zip.namelist()
        if len({*self.names}) < len(self.names):
            raise zipfile.BadZipFile("it has two members with the same name")

    def __enter__(self) -> Archive:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._zip.close()

    def read(self, name: str, most: int | None = None) -> bytes:
        """Read a member.

        Args:
            name: its name.
            most: maximum size in bytes.

        Raises:
            KeyError: there is no such member.
            ValueError: it is too large, or compressed in a way that NumPy, torch and SB3 do not use.
            zipfile.BadZipFile: it is damaged.
        """
        info = self._zip.getinfo(name)
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.flag_bits & 1:
            raise ValueError(f"{name} is encrypted, or compressed other than by deflate")
        if info.file_size > (self._left if most is None else min(most, self._left)):
            raise ValueError(f"{name} unpacks to {info.file_size:,} bytes, more than allowed")
        self._left -= info.file_size
        with _damaged():
            return self._zip.read(info)  # zipfile reads at most file_size


@contextmanager
def _damaged() -> Iterator[None]:
    """Convert the various errors of ``zipfile``, ``zlib`` and NumPy on damaged bytes to one class."""
    try:
        yield
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        raise
    except Exception as error:
        raise zipfile.BadZipFile(f"it is damaged ({type_and_text(error)})") from None


def read_npz(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Read arrays of numbers, bools and strings, never objects, from an ``.npz`` file.

    Raises:
        OSError, KeyError, ValueError, zipfile.BadZipFile: the file cannot be read, or lacks an array.
    """
    with Archive(path) as archive, _damaged():
        return [_array(archive.read(f"{name}.npy"), name) for name in names]


def read_npy(path: Path) -> np.ndarray:
    """Read an ``.npy`` file, as ``read_npz``."""
    with _damaged():
        return _array(path.read_bytes(), path.name).copy()  # writable


def _array(content: bytes, name: str) -> np.ndarray:
    """Parse an ``.npy`` file, after checking that it has as many bytes as its header says."""
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
    shape, fortran, dtype = read_header(file)
    if dtype.kind not in "fiubU":
        raise ValueError(f"{name} is of type {dtype}, neither numbers nor text")
    data = content[file.tell() :]
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
        raise ValueError(f"the size of {name} does not fit its shape {shape}")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
