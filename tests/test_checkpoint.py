"""Checkpoints are written whole or not at all, come back exactly, and run nothing that is in a file."""

import json
import math
import os
import pickle
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import POINT, TINY, contents, differences

from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.training.dual_student import DualStudent

STATE = {
    "float32": torch.tensor([[0.1, math.inf], [-0.0, math.nan]]),
    "float64": torch.tensor(1e-300, dtype=torch.float64),
    "int64": torch.tensor([2**62, -1]),
    "bool": torch.tensor([True, False]),
    "empty": torch.zeros(0, 3),
    "view": torch.arange(12.0).view(3, 4)[:, 1:3],
    "transposed": torch.arange(6.0).view(2, 3).t(),
    "one number that was expanded": torch.tensor(0.1).expand(1),
    "array": np.arange(6, dtype=np.float64).reshape(2, 3),
    "array uint8": np.arange(3, dtype=np.uint8),
    "array uint32": np.array([2**32 - 1], np.uint32),
    "array uint64": np.array([2**64 - 1], np.uint64),
    "array without axes": np.array(3.5),
    "empty array": np.zeros((2, 0), np.int32),
    "reversed": np.arange(5.0)[::-1],
    "read-only": np.broadcast_to(np.float32(2.0), (3,)),
    "big": 2**127 + 1,  # generators keep integers of 128 bits
    "numbers": [math.pi, math.nan, math.inf, -math.inf, -0.0, 5e-324, True, None, 7],
    "text": 'a "quoted" line\nand ü',
    "nested": {"list": [{"deep": torch.ones(1)}, [], {}], "a/b": torch.zeros(1)},
    "nested/a": {"b": torch.ones(2)},  # its path could be mistaken for the one above
}


def test_a_state_comes_back_exactly(tmp_path):
    checkpoint.save(tmp_path / "state", STATE)
    loaded = checkpoint.load(tmp_path / "state")
    assert list(differences(loaded, STATE)) == []
    assert list(loaded) == list(STATE)


@pytest.mark.parametrize("chunk", [16, 40])
def test_a_state_is_written_in_pieces_and_the_library_reads_it(tmp_path, monkeypatch, chunk):
    monkeypatch.setattr(checkpoint, "CHUNK", chunk)
    numbers = torch.arange(2 * 7 * 3.0).view(2, 7, 3)
    state = {
        **STATE,
        "a part of a ring": numbers[:, :5],
        "every other": numbers[:, ::2, 1:],
        "columns": numbers.permute(2, 0, 1),
        "complex": torch.tensor([1 + 2j]),
        "bfloat16": torch.tensor([1.5, 2.5], dtype=torch.bfloat16).half(),
    }
    checkpoint.save(tmp_path / "state", state)
    assert list(differences(checkpoint.load(tmp_path / "state"), state)) == []
    library = load_file(tmp_path / "state")
    assert all(tensor.data_ptr() % tensor.element_size() == 0 for tensor in library.values())
    save_file(library, tmp_path / "again")
    assert (tmp_path / "state").stat().st_size > (tmp_path / "again").stat().st_size  # the same, less the state


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="the kernel does not tell the peak of memory")
def test_saving_takes_no_second_copy_of_the_replay(tmp_path):
    replay = torch.zeros(2, 2_000_000, 2)[:, :1_900_000]  # 30 MB
    replay += 1
    checkpoint.save(tmp_path / "state", {"small": torch.zeros(1)})

    def peak():
        with open("/proc/self/status", encoding="utf-8") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    with open("/proc/self/clear_refs", "w", encoding="utf-8") as file:
        file.write("5")
    before = peak()
    checkpoint.save(tmp_path / "state", {"replay": replay})
    assert 1024 * (peak() - before) < 0.5 * replay.nbytes


@pytest.mark.parametrize("backbone", ["td3", "sac"])
def test_one_learner_alone_is_saved(tmp_path, backbone):
    agent = DualStudent(POINT, method="independent", backbone=backbone, peers=1, seeds=(0,), config=TINY)
    agent.learn(60)
    assert agent.recipe.n_updates > 0
    agent.save(tmp_path / "one")
    assert DualStudent.load(tmp_path / "one").recipe.n_updates == agent.recipe.n_updates


def test_tuples_and_numpy_scalars_come_back_as_plain_values(tmp_path):
    checkpoint.save(tmp_path / "state", {"tuple": (1, (2.5, "x")), "scalars": [np.float64(0.1), np.int64(3), np.True_]})
    loaded = checkpoint.load(tmp_path / "state")
    assert repr(loaded) == "{'tuple': [1, [2.5, 'x']], 'scalars': [0.1, 3, True]}"


def test_what_was_saved_does_not_change_with_the_tensors(tmp_path):
    tensor = torch.zeros(3)
    checkpoint.save(tmp_path / "state", {"tensor": tensor})
    loaded = checkpoint.load(tmp_path / "state")
    loaded["tensor"] += 1
    assert checkpoint.load(tmp_path / "state")["tensor"].tolist() == [0, 0, 0]
    assert tensor.tolist() == [0, 0, 0]


def test_an_agent_is_saved_without_pickle(tmp_path):
    DualStudent(POINT, config=TINY).learn(60).save(tmp_path / "agent.safetensors", include_replay=True)
    content = (tmp_path / "agent.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])  # the layout of safetensors: a length, JSON, numbers
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    assert max(ends) == len(content) - 8 - length  # every byte after the header is a number of a tensor
    assert json.loads(header["__metadata__"]["state"])["settings"]["env"] == POINT


@pytest.fixture
def agent_file(tmp_path):
    DualStudent(POINT, config=TINY).learn(40).save(tmp_path / "agent.safetensors", include_replay=True)
    return tmp_path / "agent.safetensors"


def test_a_write_that_fails_leaves_the_previous_file(agent_file, monkeypatch):
    agent, before = DualStudent.load(agent_file), contents(agent_file.parent)

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(PolicyKDError, match="No space left on device; the previous checkpoint is untouched") as error:
        agent.save(agent_file, include_replay=True)
    assert "\n" not in str(error.value)
    assert contents(agent_file.parent) == before


FULL_DISK = """
import resource, sys
from policykd.training.dual_student import DualStudent
from policykd.cli import main
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
main(sys.argv[1:])
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no limits of file sizes")
def test_a_full_disk_ends_a_run_in_one_line_and_keeps_its_checkpoint(tmp_path):
    run = tmp_path / "run"
    # The replay of 2 x 4 kB per 100 steps outgrows the limit after some checkpoints.
    limit = 60_000
    options = ["--env", POINT, "--total-timesteps", "4000", "--checkpoint-freq", "100", "--run-dir", str(run)]
    small = ["--net-arch", "4", "--batch-size", "4", "--distill-batch-size", "4", "--log-freq", "2000"]
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(limit), "train", *options, *small, "--eval-freq", "0"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2, result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith(f"policykd: error: checkpoint: cannot write {run / 'checkpoint.safetensors'}")
    assert "the previous checkpoint is untouched" in result.stderr
    assert not list(run.rglob("*.tmp"))
    kept = DualStudent.load(run)
    assert kept.num_timesteps > 0
    assert kept.num_timesteps % 100 == 0
    assert (run / "checkpoint.safetensors").stat().st_size <= limit
    assert kept.learn(20).num_timesteps % 100 == 20  # and goes on where there is room


class Marker:
    """Pickled, it makes a file when it is loaded."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def _truncated(path, good):
    path.write_bytes(good[: len(good) * 2 // 3])


def _header_only(path, good):
    path.write_bytes(good[:100])


def _random(path, good):
    path.write_bytes(np.random.default_rng(0).bytes(5000))


def _text(path, good):
    path.write_text("not a checkpoint\n" * 100)


def _foreign(path, good):
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": "pt"})


def _without_an_agent(path, good):
    checkpoint.save(path, {"anything": 1})


def _without_state(path, good):
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": checkpoint.FORMAT})


def _missing_tensor(path, good):
    tree = json.dumps({"settings": {checkpoint.ARRAY: ["tensor", "absent"]}})
    save_file({"weight": torch.zeros(3)}, path, metadata={"format": checkpoint.FORMAT, "state": tree})


def _zip(path, good):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")


def _torch_save(path, good):
    torch.save({"state": Marker(path.with_name("ran"))}, path)


def _pickle(path, good):
    path.write_bytes(pickle.dumps(Marker(path.with_name("ran"))))


def _empty(path, good):
    path.write_bytes(b"")


BAD = [
    *(_truncated, _header_only, _random, _text, _foreign, _without_an_agent, _without_state, _missing_tensor),
    *(_zip, _torch_save, _pickle, _empty),
]


@pytest.mark.parametrize("spoil", BAD, ids=lambda spoil: spoil.__name__.strip("_"))
def test_a_bad_file_gives_one_clear_line_and_runs_nothing(agent_file, spoil):
    path = agent_file.with_name("bad.safetensors")
    spoil(path, agent_file.read_bytes())
    with pytest.raises(PolicyKDError, match="checkpoint: ") as error:
        DualStudent.load(path)
    line = str(error.value)
    assert str(path) in line
    assert "\n" not in line
    assert len(line) < 400
    assert not path.with_name("ran").exists()


def test_the_pickles_of_these_tests_would_have_run_something(tmp_path):
    pickle.loads(pickle.dumps(Marker(tmp_path / "ran"))).close()
    assert (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["missing.safetensors", "missing", "folder"])
def test_a_missing_file_is_said_to_be_missing(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(PolicyKDError, match=f"there is no file .*{name}"):
        DualStudent.load(tmp_path / name)


def test_a_folder_of_runs_says_which_there_are(tmp_path):
    for name in ("8x8", "16x16"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "checkpoint.safetensors").touch()
    with pytest.raises(PolicyKDError, match="runs contains several runs: choose one of 16x16, 8x8"):
        DualStudent.load(tmp_path / "runs")


def test_another_task_of_another_shape_is_named(tmp_path):
    DualStudent(POINT, config=TINY).save(tmp_path / "agent")
    said = f"do not fit this DDPG: it was trained on {POINT}, which Pendulum-v1 is not"
    with pytest.raises(PolicyKDError, match=said):
        DualStudent.load(tmp_path / "agent", env="Pendulum-v1")


def test_networks_of_another_shape_are_refused(agent_file):
    state = checkpoint.load(agent_file)
    state["settings"]["config"]["net_arch"] = [9, 9]
    checkpoint.save(agent_file, state)
    with pytest.raises(PolicyKDError, match="do not fit"):
        DualStudent.load(agent_file)


def test_checkpoints_of_a_run_replace_one_another_and_half_written_ones_are_removed(tmp_path):
    run = tmp_path / "run"
    DualStudent(POINT, config={**TINY, "checkpoint_freq": 20}, run_dir=run).learn(60)
    (run / ".checkpoint.safetensors.123456.tmp").write_bytes(b"of a process that was killed while it wrote")
    DualStudent.load(run).learn(60)
    assert [path.name for path in run.iterdir() if "checkpoint" in path.name] == ["checkpoint.safetensors"]
