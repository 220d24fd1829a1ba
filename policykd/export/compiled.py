"""Compiles a policy's C code with the system's compiler: as a fast Python function, and to measure its size."""

from __future__ import annotations

import ctypes
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from policykd.export import c_code
from policykd.export.plain import PlainPolicy
from policykd.native.build import Unavailable, find_compiler

FLAGS = ["-std=c99", "-O3", "-fPIC", "-shared"]
"""c99 rather than gnu99: no fused multiply-add, so that every machine computes the same."""


class CompiledPolicy:
    """One raw observation ``(O,)`` to its action ``(A,)``, in about a microsecond. One thread at a time.

    Args:
        policy: the policy to compile, which takes some tenths of a second.

    Raises:
        Unavailable: there is no compiler, or it fails.
    """

    def __init__(self, policy: PlainPolicy) -> None:
        flags = [*FLAGS, *(["-march=native"] if platform.machine() in ("x86_64", "AMD64") else [])]
        with tempfile.TemporaryDirectory() as folder:
            library = _load(_compile(policy, Path(folder), flags, "policy.so"))
        self._observation = np.zeros(policy.observation_size, np.float32)
        self._action = np.zeros(policy.sizes[-1], np.float32)
        self._state = np.zeros(policy.state_size, np.float32)
        self._act = library.policy_act
        self._act.restype = None
        buffers = self._observation, self._action
        self._pointers = tuple(ctypes.c_void_p(buffer.ctypes.data) for buffer in buffers)
        self._memory = ctypes.c_void_p(self._state.ctypes.data)

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """The action ``(A,)`` in the task's units at one raw observation ``(O,)``."""
        self._observation[:] = observation
        self._act(*self._pointers)
        return self._action.copy()

    def step(self, observation: np.ndarray, start: bool, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """As ``PlainPolicy.step``, for one episode of a policy with memory."""
        self._observation[:], self._state[:] = observation, state
        seen, action = self._pointers
        self._act(seen, int(start), self._memory, action)
        return self._action.copy(), self._state.copy()


def code_bytes(policy: PlainPolicy) -> int | None:
    """Bytes of instructions on this CPU with ``-Os``, without constants; None if they cannot be measured."""
    if shutil.which("size") is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        try:
            object_file = _compile(policy, Path(folder), ["-std=c99", "-Os", "-c"], "policy.o")
        except Unavailable:
            return None
        sections = subprocess.run(["size", "-A", str(object_file)], capture_output=True, text=True, timeout=60).stdout
    found = re.findall(r"^(?:\.text\S*|__text) +(\d+)", sections, re.MULTILINE)
    return sum(map(int, found)) if found else None


def _compile(policy: PlainPolicy, folder: Path, flags: list[str], name: str) -> Path:
    compiler = find_compiler()
    command = [*compiler, *flags, "-o", str(folder / name), str(folder / "policy.c")]
    try:
        (folder / "policy.h").write_text(c_code.header(policy, ["policy"]))
        (folder / "policy.c").write_text(c_code.source(policy), encoding="utf-8")
        result = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"{compiler[0]}: {error}") from None
    if result.returncode:
        raise Unavailable(f"{compiler[0]} failed: {' '.join(result.stderr.split())[:300]}")
    return folder / name


def _load(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as error:  # the temporary folder may not allow execution
        raise Unavailable(str(error)) from None
