"""Records videos of a policy, with or without a display."""

from __future__ import annotations

import functools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import policykd_envs
from tqdm import tqdm

from policykd.core.errors import PolicyKDError, one_line, reraise
from policykd.core.files import atomic_path
from policykd.tasks.contract import task_name

logger = logging.getLogger(__name__)

DEFAULT_FPS = 30
QUALITY = 7
"""Quality on imageio-ffmpeg's scale from 1 to 10."""
PROBE = """
import mujoco
context = mujoco.GLContext(16, 16)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
context.free()
"""
"""A program that exits with 0 if MuJoCo can render with the ``MUJOCO_GL`` of its environment."""


def record_video(
    env_id: str,
    policy: Callable[[np.ndarray], np.ndarray],
    path: str | os.PathLike[str],
    *,
    seed: int,
    steps: int = 1000,
    env_kwargs: Mapping[str, Any] | None = None,
) -> Path | None:
    """Play one episode and write it as an MP4 (H.264, yuv420p) at the environment's own speed.

    A run must not fail over its video: if the environment cannot be rendered, this logs one warning with the reason and
    writes nothing. MuJoCo renders with the OpenGL backend in ``MUJOCO_GL``. If that is unset, the display, EGL and
    OSMesa are tried in turn, and it is set to the first that works until this call returns.

    Args:
        env_id: Gymnasium's name of the environment.
        policy: maps an observation ``(O,)`` to an action ``(A,)`` in the environment's own units.
        path: the file, ending in ``.mp4``. Its folder is created if missing, and an existing file is replaced
            atomically.
        seed: seed of the initial state.
        steps: maximum number of environment steps.
        env_kwargs: more settings for ``gymnasium.make``, such as ``{"width": 640}``.

    Returns:
        ``path``, or None if the environment cannot be rendered.

    Raises:
        PolicyKDError: ``path`` does not end in ``.mp4``, the environment fails or changes the size of its pictures in
            the middle of the episode, or the written video is incomplete, as on a full disk.
        gymnasium.error.Error: Gymnasium knows no such environment.
        OSError: the file cannot be written.
    """
    path = Path(path)
    check_name(path)
    gym.spec(env_id.split(":")[-1])
    with ExitStack() as stack:
        try:
            imageio_ffmpeg.get_ffmpeg_exe()
            env = policykd_envs.make(env_id, render_mode="rgb_array", **dict(env_kwargs or {}))
            stack.callback(env.close)
            # MuJoCo chooses its OpenGL at the first frame, not when the environment is made.
            if hasattr(env.unwrapped, "mujoco_renderer"):
                stack.enter_context(_opengl())
            observation, _ = env.reset(seed=seed)
            first = _picture(env)
        except Exception as error:  # each graphics library fails in its own way
            logger.warning("no video of %s: %s", env_id, one_line(error))
            return None
        fps = env.metadata.get("render_fps") or DEFAULT_FPS
        return _write(_play(env, policy, observation, steps), first, path, fps)


def check_name(path: Path) -> None:
    """Refuse a file name without the suffix of an MP4.

    Raises:
        PolicyKDError: it does not end in ``.mp4``.
    """
    if path.suffix.lower() != ".mp4":
        raise PolicyKDError(f"video: {path} must end in .mp4")


@contextmanager
def _opengl() -> Iterator[None]:
    """Context in which ``MUJOCO_GL`` names a working OpenGL backend.

    Raises:
        RuntimeError: none works; says how to get one.
    """
    given = os.environ.get("MUJOCO_GL")
    chosen = next(filter(_can_draw, [given] if given else _backends()), None)
    if chosen is None:
        raise RuntimeError(
            f"MuJoCo cannot render with MUJOCO_GL={given}; unset it, or try egl or osmesa"
            if given
            else "MuJoCo finds no OpenGL (no display, EGL or OSMesa works); install EGL or OSMesa "
            "(Debian and Ubuntu: apt install libegl1, or libosmesa6)"
        )
    os.environ["MUJOCO_GL"] = chosen
    try:
        yield
    finally:
        if given is None:
            del os.environ["MUJOCO_GL"]
        else:
            os.environ["MUJOCO_GL"] = given


def _backends() -> list[str]:
    """Candidates for ``MUJOCO_GL`` on this machine; only GLFW needs a display."""
    if not sys.platform.startswith("linux"):
        return ["glfw"]
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return ["glfw", "egl", "osmesa"] if display else ["egl", "osmesa"]


@functools.cache
def _can_draw(backend: str) -> bool:
    """Whether MuJoCo renders with a backend; tried in a subprocess, since a broken one can abort its process."""
    try:
        subprocess.run(
            [sys.executable, "-c", PROBE],
            env={**os.environ, "MUJOCO_GL": backend},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return False
    return True


def _picture(env: gym.Env) -> np.ndarray:
    """The environment's frame ``(H, W, 3)``, uint8, with even sides as yuv420p requires."""
    picture = env.render()
    if not isinstance(picture, np.ndarray) or picture.ndim != 3 or picture.shape[2] != 3:
        raise RuntimeError("the environment does not render RGB images (H, W, 3)")
    height, width = picture.shape[:2]
    even = np.pad(picture, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(even, dtype=np.uint8)


def _play(
    env: gym.Env, policy: Callable[[np.ndarray], np.ndarray], observation: np.ndarray, steps: int
) -> Iterator[np.ndarray]:
    """The frames after each step, until the episode ends or ``steps`` are done.

    Raises:
        PolicyKDError: the environment raised, or draws no RGB picture any more.
    """
    for step in tqdm(range(1, steps + 1), "video", leave=False, unit="frame", disable=None):  # only on a terminal
        action = policy(observation)
        with reraise(f"video: {task_name(env)} failed at step {step} of its episode: "):
            observation, _, terminated, truncated, _ = env.step(action)
            picture = _picture(env)
        yield picture
        if terminated or truncated:
            return


def _write(pictures: Iterable[np.ndarray], first: np.ndarray, path: Path, fps: float) -> Path:
    """Encode to a temporary file and move it into place, so that no reader ever sees half a video."""
    height, width = first.shape[:2]
    with atomic_path(path) as temporary:
        writer = imageio_ffmpeg.write_frames(
            temporary,
            (width, height),
            fps=fps,
            quality=QUALITY,
            pix_fmt_out="yuv420p",
            macro_block_size=1,  # even sides suffice; the default of 16 would stretch the frames
            output_params=["-movflags", "+faststart"],
        )
        writer.send(None)
        sent = 0
        try:
            for picture in chain((first,), pictures):
                if picture.shape != first.shape:
                    shown = " and ".join(f"{shape[1]}x{shape[0]}" for shape in (first.shape, picture.shape))
                    raise PolicyKDError(f"video: frames of {shown} in one episode: render the task in one size")
                writer.send(picture)
                sent += 1
        finally:
            writer.close()
        with reraise(f"video: {path} cannot be read back; is the disk full? (", ")"):  # ffmpeg's exit status is hidden
            written, _ = imageio_ffmpeg.count_frames_and_secs(str(temporary))
        if written != sent:
            raise PolicyKDError(f"video: {path} has {written} of {sent} frames: is the disk full?")
    return path
