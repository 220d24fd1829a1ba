"""Files that a crash cut or a disk changed: each is one line that names the file, and no other policy than it was."""

import io
import json
import struct
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
from sb3_agents import Lopsided, agent
from tiny import POINT, TINY

from policykd import DualStudent, LoggedStates, PolicyKDError, Teacher
from policykd.classification.models import from_pretrained, make_model, save_pretrained
from policykd.cli import export_run
from policykd.cli.classify_run import read_teacher
from policykd.core import checkpoint
from policykd.core.archives import Archive
from policykd.export.int8 import check_states
from policykd.measure import peers
from policykd.teachers import zoo
from policykd.training import progress_csv

LAYERS = {"fc1": (8, 5), "fc2": (8, 8), "fc_mu": (2, 8)}


def refused(call, *words):
    with pytest.raises(PolicyKDError) as error:
        call()
    assert "\n" not in str(error.value) and all(str(word) in str(error.value) for word in words), str(error.value)


def packed(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return path


def npy(shape, header="{{'descr': '<f4', 'fortran_order': False, 'shape': {}}}"):
    text = header.format(shape).encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(80)


@pytest.fixture
def zipped(tmp_path):
    """Arrays, deflated."""
    np.savez_compressed(tmp_path / "log.npz", observations=np.random.default_rng(0).normal(size=(50, 3)))
    return tmp_path / "log.npz"


@pytest.mark.parametrize("kind", ["deflated", "version", "header", "twice", "folder"])
def test_a_damaged_npz_is_one_line(zipped, kind):
    content = bytearray(zipped.read_bytes())
    if kind == "deflated":
        content[60:200] = b"\xff" * 140
    elif kind == "version":  # of zip, that it needs
        content[content.rfind(b"PK\x01\x02") + 6] = 99
    zipped.write_bytes(content)
    if kind == "header":
        packed(zipped, [("observations.npy", npy("(2,", header="{{'descr': '<f4', 'shape': ((({}"))])
    elif kind == "twice":
        with pytest.warns(UserWarning, match="Duplicate name"):
            packed(zipped, [("observations.npy", npy((10, 2))), ("observations.npy", npy((5, 4)))])
    elif kind == "folder":
        zipped.unlink()
        zipped.mkdir()
    refused(lambda: LoggedStates.read(zipped), zipped)


def test_a_pipe_is_no_zip_and_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "evaluations.npz")
    os.mkfifo(tmp_path / "results.json")
    with pytest.raises(zipfile.BadZipFile):
        Archive(tmp_path / "evaluations.npz")
    assert zoo.recorded(tmp_path / "agent.zip") is None


def test_hdf5_is_read_as_far_as_its_bytes_go(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "log.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("observations", (2**28, 5), "f4", chunks=(1024, 5))
    refused(lambda: LoggedStates.read(path), path, "more than allowed")
    with h5py.File(path, "w") as file:
        file["observations"] = 3.0
    refused(lambda: LoggedStates.read(path), path, "no array")


@pytest.mark.parametrize("content", [npy((2**40,)), npy("((("), b"", npy((5, 4))[:100]])
def test_states_to_calibrate_on_are_as_large_as_their_file(tmp_path, content):
    (tmp_path / "states.npy").write_bytes(content)
    refused(lambda: export_run._read_states(tmp_path / "states.npy"), tmp_path / "states.npy")
    refused(lambda: check_states(np.full((5, 4), "x"), 4), "calibration")


@pytest.mark.parametrize("text", ["[[1, 2]]", "[[[1], 2]]"])
def test_settings_of_the_zoo_that_are_no_pairs_are_refused(tmp_path, text):
    (tmp_path / "config.yml").write_text(text)
    refused(lambda: zoo.training(tmp_path / "agent.zip"), tmp_path / "config.yml")


def test_a_recorded_return_without_bound_is_none(tmp_path):
    (tmp_path / "results.json").write_text(f'{{"mean_reward": {10**400}}}')
    assert zoo.recorded(tmp_path / "agent.zip") is None


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("actor", lambda tensor: tensor.view(torch.int32)),
        ("actor", lambda tensor: tensor.new_ones(())),
        ("actor_adam.steps", lambda tensor: tensor.view(torch.int32)),
    ],
)
def test_tensors_of_another_type_or_shape_are_not_a_learners(tmp_path, part, change):
    DualStudent(POINT, config=TINY).save(tmp_path / "agent")
    path = tmp_path / "agent.safetensors"
    state = checkpoint.load(path)
    state["learner"][part] = change(state["learner"][part])
    checkpoint.save(path, state)
    refused(lambda: DualStudent.load(path), "do not fit")


def test_settings_that_a_checkpoint_cannot_have_name_it(tmp_path):
    DualStudent(POINT, config=TINY).save(tmp_path / "agent")
    state = checkpoint.load(tmp_path / "agent.safetensors")
    state["settings"]["config"]["gamma"] = "x" * 10_000
    checkpoint.save(tmp_path / "agent.safetensors", state)
    refused(lambda: DualStudent.load(tmp_path / "agent.safetensors"), tmp_path / "agent.safetensors", "gamma")


def cleanrl(**changes):
    torch.manual_seed(0)
    state = {f"{name}.weight": torch.randn(*size) for name, size in LAYERS.items()}
    state |= {f"{name}.bias": torch.randn(size[0]) for name, size in LAYERS.items()}
    state |= {"action_scale": torch.tensor([1.25, 2.0]), "action_bias": torch.tensor([-0.75, 1.0])}
    return {name: value for name, value in {**state, **changes}.items() if value is not None}


DAMAGED = {
    "no bias": {"fc2.bias": None},
    "a text": {"fc2.bias": "x"},
    "a number": {"fc2.bias": torch.zeros(())},
    "whole numbers": {"fc1.weight": torch.ones(8, 5).long()},
    "sparse": {"fc_mu.weight": torch.ones(2, 8).to_sparse()},
    "other layers": {"fc2.weight": torch.ones(8, 7)},
    "bounds": {"action_bias": torch.zeros(2, 0)},
}


@pytest.mark.parametrize("changes", DAMAGED.values(), ids=DAMAGED)
@pytest.mark.parametrize("env", [None, Lopsided])
def test_a_file_of_tensors_with_a_damaged_layer_is_no_teacher(tmp_path, changes, env):
    torch.save(cleanrl(), tmp_path / "actor.pt")
    Teacher.load(tmp_path / "actor.pt", env)
    torch.save(cleanrl(**changes), tmp_path / "actor.pt")
    refused(lambda: Teacher.load(tmp_path / "actor.pt", env), tmp_path / "actor.pt")


def test_a_file_of_tensors_that_unpacks_to_more_than_itself_is_no_teacher(tmp_path):
    torch.save(cleanrl(), tmp_path / "actor.pt")
    with zipfile.ZipFile(tmp_path / "actor.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    packed(tmp_path / "actor.pt", {**members, "actor/version": bytes(10**6)}.items(), zipfile.ZIP_DEFLATED)
    refused(lambda: Teacher.load(tmp_path / "actor.pt", Lopsided), tmp_path / "actor.pt", "more than its size")


@pytest.mark.parametrize("statistics", [{"_mean": torch.zeros(1, 5)}, {"_mean": None, "_std": None}, 3])
def test_half_a_normaliser_of_rsl_rl_is_not_none(tmp_path, statistics):
    sizes = {0: (8, 5), 2: (2, 8)}
    state = {f"actor.{place}.weight": torch.ones(*size) for place, size in sizes.items()}
    state |= {f"actor.{place}.bias": torch.ones(size[0]) for place, size in sizes.items()}
    torch.save(
        {"model_state_dict": {**state, "std": torch.ones(2)}, "obs_norm_state_dict": statistics, "iter": 1},
        tmp_path / "model.pt",
    )
    refused(lambda: Teacher.load(tmp_path / "model.pt", Lopsided, activation="ELU"), tmp_path / "model.pt")


def test_an_agent_of_sb3_without_a_bias_is_no_teacher(tmp_path):
    agent("PPO").save(tmp_path / "agent.zip")
    with zipfile.ZipFile(tmp_path / "agent.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    state = torch.load(io.BytesIO(members["policy.pth"]))
    del state["mlp_extractor.policy_net.2.bias"]
    buffer = io.BytesIO()
    torch.save(state, buffer)
    packed(tmp_path / "agent.zip", {**members, "policy.pth": buffer.getvalue()}.items())
    refused(lambda: Teacher.load(tmp_path / "agent.zip", Lopsided), tmp_path / "agent.zip", "policy_net.2")


def test_a_damaged_log_is_named_not_the_checkpoint(tmp_path):
    file = tmp_path / "progress.csv"
    for content in (b"time/total_timesteps\n\xff\n", b"time/total_timesteps\nx\n", b"time/total_timesteps\ninf\n"):
        file.write_bytes(content)
        refused(lambda: progress_csv.rewind(file, 10, None), file)
        assert file.read_bytes() == content
    for content in (b"a,peers/action_distance\n1,\xff\n", b"time/total_timesteps,peers/action_distance\n1,x\n"):
        file.write_bytes(content)
        refused(lambda: peers.logged({"peers": tmp_path}), file)
    file.write_bytes(b"")
    assert peers.logged({"peers": tmp_path}) == {}


@pytest.fixture
def network(tmp_path):
    save_pretrained(make_model("mlp", (8,), (4,), 3, 0), tmp_path, ("a", "b", "c"))
    return tmp_path


def test_a_network_of_a_file_is_no_larger_than_the_file(network):
    expected = make_model("mlp", (8,), (4,), 3, 0)(torch.ones(2, 4))
    assert torch.equal(from_pretrained(network)[0](torch.ones(2, 4)), expected)
    content = json.loads((network / "config.json").read_text(encoding="utf-8"))
    for text in (json.dumps({**content, "widths": [20_000, 20_000]}), "[" * 10_000):
        (network / "config.json").write_text(text)
        refused(lambda: from_pretrained(network), network)


def test_weights_of_a_classifier_are_of_its_type_and_its_names_a_list(network):
    path = network / "model.safetensors"
    weights = safetensors.torch.load_file(path)
    read = lambda: read_teacher([make_model("mlp", (8,), (4,), 3, 0)], [path], ("a", "b", "c"))  # noqa: E731
    read()
    for names in ("3", "[" * 10_000):
        safetensors.torch.save_file(weights, path, {"classes": names})
        refused(read, path)
    safetensors.torch.save_file({**weights, "classifier.bias": torch.ones(3, dtype=torch.int32)}, path)
    refused(read, path, "classifier.bias")
    refused(lambda: from_pretrained(network), network, "classifier.bias")
