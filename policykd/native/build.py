"""Builds and loads the C kernels and their operators, once per machine and source, in the user's cache folder."""

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

import torch

HERE = Path(__file__).parent
SOURCES = sorted(HERE.glob("*.c"))
HEADERS = sorted(HERE.glob("*.h"))
OPERATORS = HERE / "ops.cpp"
COMMON_FLAGS = [
    "-std=gnu11",
    "-O3",
    "-fPIC",
    "-shared",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-pthread",
]
# The first flags that compile are used: for x86 and most others, for older ARM compilers, for any compiler.
CPU_FLAGS = [["-march=native"], ["-mcpu=native"], []]


class Unavailable(Exception):
    """The kernels are unavailable; the message says why."""


def find_compiler(language: str = "C") -> list[str]:
    """Find a compiler for C or C++, as the first words of its command: ``$CC`` or ``$CXX``, else the usual names.

    Raises:
        Unavailable: there is none, or the variable is not a command.
    """
    usual = {"C": ["cc", "gcc", "clang"], "C++": ["c++", "g++", "clang++"]}[language]
    variable = "CC" if language == "C" else "CXX"
    for command in [os.environ.get(variable, ""), *usual]:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise Unavailable(f"{variable}={command} is no command: {error}") from None
        if words and shutil.which(words[0]):
            return words
    raise Unavailable(f"no {language} compiler found")


def cache_folder() -> Path:
    """Find or create the folder of built libraries; only the user may write there, since code is loaded from it.

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
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)


def _processor() -> str:
    """Describe the processor: home folders may be shared, and a library built for one may crash on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = ("model name", "flags", "Features", "CPU part")
    described = sorted({line for line in lines if line.startswith(names)})
    return "\n".join([platform.machine(), platform.processor(), *described])


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:24]


def build() -> Path:
    """Compile the kernels, unless this compiler already has on this processor, and return the library.

    Raises:
        Unavailable: no compiler, no safe folder, or the source does not compile.
    """
    choices = [[*COMMON_FLAGS, *flags] for flags in CPU_FLAGS]
    return _compile("kernels", find_compiler(), SOURCES, choices, ["-lm"])


def build_operators() -> Path:
    """Compile the kernels' operators for this version of torch, and return the library.

    Raises:
        Unavailable: no compiler, no safe folder, or the source does not compile.
    """
    root = Path(torch.__file__).parent
    folders = [root / "include", root / "include/torch/csrc/api/include"]
    flags = ["-std=c++20", "-O2", "-fPIC", "-shared", "-w", *(f"-I{folder}" for folder in (HERE, *folders))]
    flags += [f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}", f"-DTORCH={torch.__version__}"]
    libraries = [str(build()), f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-ltorch_cpu", "-lc10"]
    return _compile("ops", find_compiler("C++"), [OPERATORS], [flags], libraries)


def _compile(
    name: str, compiler: list[str], sources: list[Path], choices: list[list[str]], libraries: list[str]
) -> Path:
    """Compile ``sources`` with the first flags that work, unless done before.

    Safe in concurrent processes: each writes its own file and renames it once complete. The name contains a digest of
    the content, since loading a file truncated by a full disk or a power failure would crash the process.
    """
    folder = cache_folder()
    version = _run([*compiler, "--version"]).stdout
    texts = [path.read_text(encoding="utf-8") for path in (*sources, *HEADERS)]
    key = "\0".join([*texts, repr((compiler, choices, libraries)), version, _processor()])
    stem = f"{name}-{_digest(key.encode())}"
    for library in folder.glob(f"{stem}-*.so"):
        if library.stem == f"{stem}-{_digest(library.read_bytes())}":
            return library
    handle, temporary = tempfile.mkstemp(dir=folder, suffix=".tmp")
    os.close(handle)
    try:
        for flags in choices:
            result = _run([*compiler, *flags, "-o", temporary, *map(str, sources), *libraries])
            if result.returncode == 0:
                library = folder / f"{stem}-{_digest(Path(temporary).read_bytes())}.so"
                os.replace(temporary, library)
                return library
        raise Unavailable(f"{shlex.join(compiler)} failed: {' '.join(result.stderr.split())[:500]}")
    finally:
        Path(temporary).unlink(missing_ok=True)


class Network(ctypes.Structure):
    """The struct ``Network`` of mlp.h."""

    _fields_ = (
        ("sizes", ctypes.POINTER(ctypes.c_ssize_t)),
        *((name, ctypes.c_ssize_t) for name in ("layers", "widest", "length", "kept")),
        ("activation", ctypes.c_int),
        ("norm", ctypes.c_int),
    )


def load() -> ctypes.CDLL:
    """Load the kernels, building them if necessary, and declare their argument types.

    Raises:
        Unavailable: they are disabled by ``POLICYKD_NATIVE=0``, or cannot be built or loaded.
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
    rows: tuple[Any, ...] = (ctypes.POINTER(Network), integer, integer, pointer, integer)
    batch: tuple[Any, ...] = (pointer, integer, integer, integer)  # with its strides
    library.forward.argtypes = (*rows, *batch, pointer, pointer)
    library.backward.argtypes = (*rows, *batch, pointer, *batch, pointer, pointer)
    library.adam.argtypes = (*[integer] * 3, *[pointer] * 5, integer, *[real] * 4, ctypes.c_double, real)
    library.gather.argtypes = (*[integer] * 4, pointer, *[integer] * 6, *[pointer] * 4)
    library.adam.restype = None
    library.gru_forward.argtypes = (*[integer] * 5, pointer, integer, *[pointer] * 5)
    library.gru_backward.argtypes = (*[integer] * 5, pointer, integer, *[pointer] * 7)
    return library
