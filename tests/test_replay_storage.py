"""The replay in half precision, and on disk: the same transitions as in memory, in less of it."""

import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from full_disk import full_disk
from test_teacher_student import REPLAY, expert
from tiny import POINT, TINY, flags, logged_steps, start, unlike

from policykd import DualStudent, PolicyKDError, SharedReplay, TeacherStudent, native
from policykd.cli import main
from policykd.core import draws, memory
from policykd.memory.storage import on_disk, packed, unpacked

HALF, DISK = {"buffer_dtype": "float16"}, {"buffer_on_disk": True}
KINDS = {"float16": HALF, "disk": DISK, "float16 on disk": HALF | DISK}
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def generators(learners=4):
    return [np.random.default_rng(k) for k in range(learners)]


def filled(steps, seed=0, capacity=50, **storage):
    """Replays of two environments each; observations and actions are exact in half precision, rewards are not."""
    replay, rng = SharedReplay(capacity, 3, 2, 4, 2, n_envs=2, **storage), np.random.default_rng(seed)
    for _ in range(steps):
        states, beyond = rng.normal(size=(2, 8, 3)).astype(np.float16).astype(np.float32)
        actions = rng.uniform(-1, 1, (8, 2)).astype(np.float16).astype(np.float32)
        ends = rng.random((2, 8)) < 0.1
        replay.add(states, actions, beyond, rng.normal(0, 1e6, 8).astype(np.float32), *ends)
    return replay


def everything_drawn(replay):
    """Every way to sample, in a row by the same generators."""
    own, n_steps, gamma = generators(), torch.tensor([[1], [3], [2], [4]]), 0.9
    peer_of = np.array([1, 0, 3, 2])
    drawn = [replay.sample(size, own, peer_of=peer_of, source=s) for s in ("own", "peer", "pooled") for size in (1, 33)]
    drawn += [replay.sample(40, own, source="peer", peer_of=peer_of, recent=count) for count in (1, 7, 1000)]
    drawn += [replay.sample_ahead(40, own, source, n_steps, gamma) for source in ("own", "pooled")]
    tensors = [part for batch in drawn for part in batch if part is not None]
    return [*tensors, replay.latest(5), replay.observations.float()]


@pytest.mark.parametrize("steps", [1, 20, 43])  # 43: wrapped around
@pytest.mark.parametrize("native_kernels", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_drawn_is_what_memory_in_float32_gives(kind, native_kernels, steps, monkeypatch, tmp_path):
    if not native_kernels:
        monkeypatch.setattr(draws, "can_gather", lambda storage: False)
    storage = {"dtype": KINDS[kind].get("buffer_dtype", "float32")}
    storage |= {"folder": lambda: tmp_path} if "disk" in kind else {}
    expected, found = (everything_drawn(filled(steps, **changes)) for changes in ({}, storage))
    assert len(found) == len(expected)
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.dtype == theirs.dtype and torch.equal(mine, theirs)
    strides = [[part.stride() for part in drawn[:6]] for drawn in (found, expected)]
    assert strides[0] == strides[1]  # compiled code counts on them


@pytest.mark.parametrize("shape", [(1, 1, 5), (2, 1, 5), (7, 5), (1, 6)])
def test_packing_keeps_rewards_and_rounds_what_is_seen(shape):
    rows = torch.from_numpy(np.random.default_rng(0).normal(0, 100, shape).astype(np.float32))
    rows[..., -2:] = (rows[..., -2:] > 0).float()
    halves = packed(rows.view(-1, shape[-1])).view(*shape[:-1], shape[-1] + 3)
    again = unpacked(halves)
    assert halves.dtype == torch.float16 and again.dtype == torch.float32
    assert torch.equal(again[..., -3:], rows[..., -3:])
    seen = rows[..., :-3].numpy().astype(np.float16).astype(np.float32)
    assert np.array_equal(again[..., :-3].numpy(), seen) and not np.array_equal(seen, rows[..., :-3].numpy())


def test_the_kernel_reads_every_finite_half_as_torch_does():
    if native.reason():
        pytest.skip(f"no native kernels: {native.reason()}")
    patterns = np.arange(2**16, dtype=np.uint16)
    finite = patterns[np.isfinite(patterns.view(np.float16))]
    assert len(finite) == 2 * 31 * 1024
    replay = SharedReplay(1, len(finite), 1, dtype="float16")
    row = np.concatenate([finite, finite[:1], finite[::-1], np.array([0xDEAD, 0x7FC0, 0, 0x3F80, 0, 0], np.uint16)])
    replay.storage[0, 0] = torch.from_numpy(row.view(np.float16))
    replay.size = 1
    whole = replay.sample(1, generators(1)).observations._base
    expected = unpacked(replay.storage)
    assert np.array_equal(whole.numpy().view(np.uint32), expected.numpy().view(np.uint32))  # also -0, NaN as a reward
    assert np.array_equal(expected[0, 0, : len(finite)].numpy(), finite.view(np.float16).astype(np.float32))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("place", [0, 1])
def test_what_half_precision_cannot_hold_is_refused_and_never_becomes_infinity(sign, place):
    replay = SharedReplay(10, 1, 1, dtype="float16")

    def add(number):
        states = [np.zeros((1, 1), np.float32) for _ in range(2)]
        states[place][:] = sign * number
        replay.add(states[0], np.zeros((1, 1), np.float32), states[1], np.float32([1e30]), *np.zeros((2, 1), bool))

    for fits in (65504.0, 65519.0):
        add(fits)
        batch = replay.sample(30, generators(1), recent=1)
        assert (batch[0], batch[2])[place].unique().tolist() == [sign * 65504.0]
        assert batch.rewards.unique().tolist() == [float(np.float32(1e30))]
    with pytest.raises(
        PolicyKDError, match=r'observation of 65520 exceeds the maximum of float16.*buffer_dtype="float32"'
    ):
        add(65520.0)
    assert replay.size == 2


def test_memory_is_counted_as_it_is_taken(monkeypatch):
    full, half = SharedReplay(1000, 17, 6, 4), SharedReplay(1000, 17, 6, 4, dtype="float16")
    assert (full.nbytes, half.nbytes) == (4 * 1000 * 43 * 4, 4 * 1000 * 46 * 2)
    assert half.storage.nbytes == half.nbytes
    monkeypatch.setattr(memory, "memory_limit", lambda: 500_000)
    SharedReplay(1000, 17, 6, 4, dtype="float16")
    SharedReplay(1000, 17, 6, 4, folder=Path)
    with pytest.raises(PolicyKDError, match="lower buffer_size"):
        SharedReplay(1000, 17, 6, 4)
    with pytest.raises(PolicyKDError, match="buffer_on_disk needs learners on the CPU"):
        SharedReplay(1000, 17, 6, 4, device="cuda", folder=Path)


def status(what):
    line = next(
        line for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if line.startswith(what)
    )
    return 1024 * int(line.split()[1])


@linux
def test_a_replay_on_disk_takes_no_memory_of_its_own_and_leaves_no_file(tmp_path):
    before, room = status("RssAnon"), os.statvfs(tmp_path).f_bavail
    replay = SharedReplay(500_000, 17, 6, folder=lambda: tmp_path)  # 86 MB
    assert not maps(tmp_path)  # nothing to keep yet
    replay.storage.fill_(1)
    assert status("RssAnon") - before < 0.1 * replay.nbytes
    assert maps(tmp_path) and list(tmp_path.iterdir()) == []
    assert room - os.statvfs(tmp_path).f_bavail > 0.5 * replay.nbytes / os.statvfs(tmp_path).f_frsize
    del replay
    assert not maps(tmp_path)


def maps(folder, process="self"):
    """Files without a name in a folder that a process has mapped: their room is free when it ends, however it does."""
    lines = Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if str(folder) in line and line.endswith("(deleted)")]


def test_a_disk_without_room_is_one_line_before_anything_is_lost(tmp_path):
    with full_disk(2**20):
        config = {**TINY, "buffer_size": 100_000, "buffer_on_disk": True}
        agent = DualStudent(POINT, config=config, run_dir=tmp_path / "run")
        with pytest.raises(PolicyKDError, match=r"run cannot hold 0\.0 GB of transitions \(File too large\)") as error:
            agent.learn(20)
    assert "\n" not in str(error.value) and "stopped.safetensors" in str(error.value)


@pytest.mark.parametrize("count", [10**13, 10**20])
def test_more_than_any_disk_has_is_one_line(tmp_path, count):
    with pytest.raises(PolicyKDError, match=r"cannot hold .* GB of transitions \(.*\): lower buffer_size$") as error:
        on_disk((count, 10), np.dtype(np.float32), tmp_path)
    assert "\n" not in str(error.value) and list(tmp_path.iterdir()) == []


def test_a_system_that_cannot_reserve_a_file_writes_it(tmp_path, monkeypatch):
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    rows = on_disk((3, 700_000), np.dtype(np.float32), tmp_path)
    rows[2, -1] = 5
    assert rows.sum() == 5 and list(tmp_path.iterdir()) == []


def make(tmp_path=None, **changes):
    config = {**TINY, "n_steps": 2, "eval_freq": 0, "n_eval_episodes": 0, **changes}
    return DualStudent(POINT, backbone="td3", seeds=(2, 5), method="dpd_pooled", config=config, run_dir=tmp_path)


def test_a_run_in_half_precision_is_that_of_rounded_transitions(monkeypatch):
    half = make(**HALF).learn(300)
    add = SharedReplay.add

    def rounded(self, observations, actions, next_observations, *rest):
        seen = (np.asarray(part).astype(np.float16).astype(np.float32) for part in (observations, actions))
        add(self, *seen, next_observations.astype(np.float16).astype(np.float32), *rest)

    plain = make().learn(300)
    monkeypatch.setattr(SharedReplay, "add", rounded)
    whole = make().learn(300)
    assert torch.equal(half.learner.actor, whole.learner.actor) and torch.equal(
        half.learner.critic, whole.learner.critic
    )
    assert not torch.equal(plain.learner.actor, whole.learner.actor)


def test_a_run_on_disk_is_that_in_memory():
    on, off = make(**DISK).learn(300), make().learn(300)
    assert torch.equal(on.learner.actor, off.learner.actor) and torch.equal(on.learner.critic, off.learner.critic)
    assert on.memory.endswith(" MB on disk") and off.memory.endswith(" MB")


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_agent_goes_on_exactly(tmp_path, kind):
    whole = make(**KINDS[kind]).learn(500)
    make(**KINDS[kind]).learn(300).save(tmp_path / "agent", include_replay=True)
    again = DualStudent.load(tmp_path / "agent.safetensors").learn(200)
    assert (again.replay_buffer.storage.dtype == torch.float16) == ("float16" in kind)
    assert (again.replay_buffer.folder is not None) == ("disk" in kind)
    assert unlike(tmp_path, whole, again) == []


@pytest.mark.parametrize("kind", ["float16", "disk"])
def test_a_saved_student_goes_on_exactly(tmp_path, kind):
    def agent():
        config = {**REPLAY, "teacher_std": 0.2, **KINDS[kind]}
        return TeacherStudent(POINT, expert, method="kickstarting", backbone="sac", seeds=(2, 5), config=config)

    whole = agent().learn(160)
    half = agent()
    half.learn(160, callback=lambda local_variables, _: half.num_timesteps < 90)
    half.save(tmp_path / "half", include_replay=True)
    again = TeacherStudent.load(tmp_path / "half.safetensors", teacher=expert)
    again.learn(160 - again.num_timesteps)
    assert (again.replay_buffer.folder is not None) == ("disk" in kind)
    assert unlike(tmp_path, whole, again) == []


@linux
def test_a_killed_run_keeps_its_file_in_its_folder_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: "/nowhere")  # the run folder holds the file
    run, switches = tmp_path / "run", ["--buffer-on-disk", "--buffer-dtype", "float16", "--compile", "no"]
    command = ["train", "--env", POINT, *flags(checkpoint_freq=50, eval_freq=0), *switches, "--run-dir", str(run)]
    process = start(*command, "--total-timesteps", "100000")
    while logged_steps(run) < 150:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    assert maps(run, process.pid)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    saved = DualStudent.load(run)
    assert saved.config.buffer_on_disk and maps(run)
    main([*command, "--resume", "--total-timesteps", str(saved.num_timesteps + 50)])
    assert DualStudent.load(run).num_timesteps == saved.num_timesteps + 50
