import logging
import os
import subprocess
import sys

import gymnasium as gym
import imageio_ffmpeg
import numpy as np
import pytest
from full_disk import full_disk

from policykd.core.errors import PolicyKDError
from policykd.measure import video
from policykd.measure.video import record_video

SCREEN = ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY", "PYOPENGL_PLATFORM")


class Blocks(gym.Env):
    """Shows the last action as a grey picture with odd sides; ends after five steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None, broken=False):
        self.render_mode = render_mode
        self.broken = broken

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.grey = 0, 0
        return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

    def step(self, action):
        self.steps += 1
        self.grey = int(action[0] * 255)
        return np.zeros(2, np.float32), 0.0, self.steps == 5, False, {}

    def render(self):
        if self.broken:
            raise OSError("no screen\nat all")
        return np.full((63, 95, 3), self.grey, np.uint8)


@pytest.fixture(scope="module", autouse=True)
def blocks():
    gym.register("PolicyKDTest/Blocks-v0", entry_point=Blocks)
    yield
    gym.registry.pop("PolicyKDTest/Blocks-v0")


def read(path):
    """The pictures of a video and what its header says."""
    reader = imageio_ffmpeg.read_frames(path)
    header = next(reader)
    width, height = header["size"]
    return np.stack([np.frombuffer(picture, np.uint8).reshape(height, width, 3) for picture in reader]), header


def test_writes_every_picture_of_the_episode(tmp_path):
    path = tmp_path / "new" / "blocks.mp4"
    seen = []

    def policy(observation):
        seen.append(observation)
        return np.array([len(seen) / 5])

    assert record_video("PolicyKDTest/Blocks-v0", policy, path, seed=3) == path
    pictures, header = read(path)
    assert pictures.shape == (6, 64, 96, 3)
    np.testing.assert_allclose(pictures.mean((1, 2, 3)), np.arange(6) * 51, atol=4)
    assert header["fps"] == 10
    assert header["pix_fmt"].startswith("yuv420p")
    assert header["codec"] == "h264"
    np.testing.assert_array_equal(seen[0], gym.make("PolicyKDTest/Blocks-v0").reset(seed=3)[0])
    assert [file.name for file in path.parent.iterdir()] == ["blocks.mp4"]


def test_steps_cut_the_episode(tmp_path):
    path = record_video("PolicyKDTest/Blocks-v0", lambda _: np.zeros(1), tmp_path / "a.mp4", seed=0, steps=2)
    assert len(read(path)[0]) == 3


def test_an_environment_that_cannot_be_drawn_is_one_warning(tmp_path, caplog):
    path = tmp_path / "a.mp4"
    with caplog.at_level(logging.WARNING):
        kwargs = {"broken": True}
        assert record_video("PolicyKDTest/Blocks-v0", lambda _: np.zeros(1), path, seed=0, env_kwargs=kwargs) is None
    assert [record.getMessage() for record in caplog.records] == ["no video of PolicyKDTest/Blocks-v0: no screen"]
    assert not list(tmp_path.iterdir())


def test_an_error_of_the_policy_is_raised_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")

    def policy(observation):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        record_video("PolicyKDTest/Blocks-v0", policy, path, seed=0)
    assert path.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["a.mp4"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ("step", r"^video: PolicyKDTest/Blocks-v0 failed at step 2 of its episode: RuntimeError: motor lost$"),
        ("size", r"^video: frames of 96x64 and 96x66 in one episode: render the task in one size$"),
    ],
)
def test_a_task_that_fails_in_the_middle_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capfd, wrong, words):
    step = Blocks.step

    def stop(self, action):
        if self.steps == 1:
            raise RuntimeError("motor lost")
        return step(self, action)

    if wrong == "step":
        monkeypatch.setattr(Blocks, "step", stop)
    else:
        monkeypatch.setattr(Blocks, "render", lambda self: np.zeros((63 + 2 * (self.steps > 1), 95, 3), np.uint8))
    with pytest.raises(PolicyKDError, match=words):
        record_video("PolicyKDTest/Blocks-v0", lambda _: np.zeros(1), tmp_path / "a.mp4", seed=0)
    assert not list(tmp_path.iterdir()) and not capfd.readouterr().err


def test_refuses_another_suffix_and_an_unknown_environment(tmp_path):
    with pytest.raises(PolicyKDError, match=r"must end in \.mp4"):
        record_video("PolicyKDTest/Blocks-v0", lambda _: np.zeros(1), tmp_path / "a.gif", seed=0)
    with pytest.raises(gym.error.Error):
        record_video("PolicyKDTest/Nothing-v0", lambda _: np.zeros(1), tmp_path / "a.mp4", seed=0)


def test_point_reach_needs_no_opengl(tmp_path, monkeypatch):
    pytest.importorskip("policykd_envs")
    monkeypatch.setenv("MUJOCO_GL", "disable")
    path = record_video("PolicyKD/PointReach-v0", lambda _: np.zeros(2), tmp_path / "p.mp4", seed=0, steps=3)
    assert path is not None
    assert read(path)[0].std() > 0


@pytest.mark.parametrize(("given", "advice"), [(None, "install EGL or OSMesa"), ("glfw", "unset it")])
def test_says_how_to_get_opengl_where_none_works(tmp_path, monkeypatch, caplog, given, advice):
    monkeypatch.setattr(video, "_can_draw", lambda backend: False)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    if given:
        monkeypatch.setenv("MUJOCO_GL", given)
    with caplog.at_level(logging.WARNING):
        assert record_video("Reacher-v5", lambda _: np.zeros(2), tmp_path / "a.mp4", seed=0, steps=2) is None
    assert len(caplog.records) == 1
    assert advice in caplog.text
    assert os.environ.get("MUJOCO_GL") == given


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a choice")
@pytest.mark.parametrize(("display", "tried"), [("", ["egl", "osmesa"]), (":0", ["glfw", "egl", "osmesa"])])
def test_tries_a_display_only_where_there_is_one(monkeypatch, display, tried):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setenv("DISPLAY", display)
    seen = []
    monkeypatch.setattr(video, "_can_draw", lambda backend: seen.append(backend) or backend == "osmesa")
    with video._opengl():
        assert os.environ["MUJOCO_GL"] == "osmesa"
    assert seen == tried
    assert "MUJOCO_GL" not in os.environ


def test_an_opengl_that_cannot_be_loaded_cannot_draw():
    assert not video._can_draw("nonsense")


MUJOCO_VIDEO = """
import os, sys
import numpy as np
from policykd.measure.video import record_video
for _ in range(2):
    written = record_video("Reacher-v5", lambda _: np.zeros(2), sys.argv[1], seed=0, steps=3,
                           env_kwargs={"width": 65, "height": 49})
assert os.environ.get("MUJOCO_GL") is None
print("none" if written is None else "written")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a choice")
def test_mujoco_without_a_display(tmp_path):
    path = tmp_path / "reacher.mp4"
    env = {name: value for name, value in os.environ.items() if name not in SCREEN}
    done = subprocess.run(
        [sys.executable, "-c", MUJOCO_VIDEO, str(path)], env=env, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    if done.stdout.split()[-1] == "none":
        assert "no video of Reacher-v5: " in done.stderr
        pytest.skip("neither EGL nor OSMesa on this machine")
    pictures, _ = read(path)
    assert pictures.shape == (4, 50, 66, 3)
    assert pictures.std() > 5


@pytest.mark.parametrize("left", [0, 1000])
def test_a_video_that_a_full_disk_cuts_short_is_told_and_not_kept(tmp_path, left):
    with full_disk(left), pytest.raises(PolicyKDError, match="is the disk full"):
        record_video("PolicyKDTest/Blocks-v0", lambda _: np.ones(1), tmp_path / "a.mp4", seed=0)
    assert not list(tmp_path.iterdir())
