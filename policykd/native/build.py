"""Build and load the C kernels: once per machine and source, into a folder of the user's cache."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).with_name("mlp.c")
COMMON_FLAGS = ["-std=gnu11", "-O3", "-fPIC", "-shared", "-fno-math-errno", "-fno-trapping-math"]
# The first that compile are used: for x86 and most others, for older ARM compilers, for any compiler.
CPU_FLAGS = [["-march=native"], ["-mcpu=native"], []]


class Unavailable(Exception):
    """The kernels cannot be had here; the message says why."""


def find_compiler() -> list[str]:
    """Find a C compiler: ``$CC``, else ``cc``, ``gcc`` or ``clang``, as the first words of its command.

    Raises:
        Unavailable: there is none.
    """
    for command in [os.environ.get("CC", ""), "cc", "gcc", "clang"]:
        words = shlex.split(command)
        if words and shutil.which(words[0]):
            return words
    raise Unavailable("no C compiler found")


def cache_folder() -> Path:
    """Find or make the folder of built libraries; code is loaded from it, so only its user may write there.

    Raises:
        Unavailable: the folder belongs to someone else, or others may write to it.
    """
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    folder = Path(base) / "policykd"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise Unavailable(f"{folder} is not a folder that only this user may write to")
    return folder


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def _processor() -> str:
    """Describe the processor: homes travel, and a library built for one processor may crash on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = ("model name", "flags", "Features", "CPU part")
    described = sorted({line for line in lines if line.startswith(names)})
    return "\n".join([platform.machine(), platform.processor(), *described])


def build() -> Path:
    """Compile the kernels, unless this compiler did so before on this processor, and return the library.

    Safe in several processes at once: each writes a file of its own and renames it when it is complete.

    Raises:
        Unavailable: no compiler, no safe folder, or the source does not compile.
    """
    compiler = find_compiler()
    folder = cache_folder()
    version = _run([*compiler, "--version"]).stdout
    key = "\0".join([SOURCE.read_text(), repr((compiler, COMMON_FLAGS, CPU_FLAGS)), version, _processor()])
    library = folder / f"mlp-{hashlib.sha256(key.encode()).hexdigest()[:24]}.so"
    if library.exists():
        return library
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    os.close(handle)
    try:
        for flags in CPU_FLAGS:
            result = _run([*compiler, *COMMON_FLAGS, *flags, "-o", temporary, str(SOURCE), "-lm"])
            if result.returncode == 0:
                os.replace(temporary, library)
                return library
        raise Unavailable(f"{shlex.join(compiler)} failed: {result.stderr.strip()[:500]}")
    finally:
        Path(temporary).unlink(missing_ok=True)


def load() -> ctypes.CDLL:
    """Build if need be and load the kernels, with the types of their arguments declared.

    Raises:
        Unavailable: they are switched off by ``POLICYKD_NATIVE=0``, or cannot be built or loaded.
    """
    if os.environ.get("POLICYKD_NATIVE", "1") == "0":
        raise Unavailable("switched off by POLICYKD_NATIVE=0")
    if not hasattr(os, "getuid"):
        raise Unavailable("only for POSIX systems")
    try:
        library = ctypes.CDLL(str(build()))
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(str(error)) from error
    integer, real, pointer = ctypes.c_ssize_t, ctypes.c_float, ctypes.c_void_p
    counts = (integer, integer, integer)
    network: tuple[Any, ...] = (
        *counts,
        pointer,
        integer,
        ctypes.c_int,
        pointer,
        integer,
    )  # widths, widest, tanh, rows, stride
    batch: tuple[Any, ...] = (pointer, integer, integer, integer)  # with its strides
    library.forward.argtypes = (*network, *batch, pointer, pointer)
    library.backward.argtypes = (*network, *batch, pointer, *batch, pointer, pointer)
    library.adam.argtypes = (integer, *[pointer] * 4, *[real] * 6)
    library.adam.restype = None
    return library
