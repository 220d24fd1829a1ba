"""Every loader gives a result or a one-line ``PolicyKDError``, whatever was done to the bytes of a file."""

import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from crafted_files import LOADERS, net
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sb3_agents import agent, normalised_agent
from tiny import POINT, TINY
from tiny_benchmark import TINY as SPEC

from policykd import Distiller, DualStudent, PolicyKDError
from policykd.core import checkpoint
from policykd.core.parsing import parse_json, parse_yaml
from policykd.memory import KnowledgeBase

EDITS = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=6), st.integers(0, 40)), min_size=1, max_size=4)
"""Where (as a share of the file), what is put there, and how many bytes it replaces."""
FEW = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def edited(content, edits):
    for place, new, length in edits:
        at = int(place * len(content))
        content = content[:at] + new + content[at + length :]
    return content


def zipped(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def unzipped(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A file for each loader: its bytes, and how edited bytes become a file again."""
    folder = tmp_path_factory.mktemp("good")
    agent("SAC").save(folder / "agent.zip")
    members = unzipped((folder / "agent.zip").read_bytes())
    weights = unzipped(members["policy.pth"])
    inner = next(name for name in weights if name.endswith("data.pkl"))
    DualStudent(POINT, config=TINY).save(folder / "agent")
    Distiller(net(), net(), device="cpu").save(folder / "distiller.safetensors")
    memory = KnowledgeBase(2, 3, "teacher")
    memory.add(torch.ones(4, 2), torch.full((4, 3), 1 / 3))
    memory.save(folder / "memory.safetensors")
    np.savez(folder / "data.npz", **{f"{s}_{p}": np.arange(4)[:, None] if p == "inputs" else np.arange(4) % 2
                                     for s in ("train", "test") for p in ("inputs", "labels")})  # fmt: skip
    arrays = unzipped((folder / "data.npz").read_bytes())
    read = {name: (folder / name).read_bytes() for name in ("agent.safetensors", "distiller.safetensors")}

    def state(content):
        with checkpoint.safe_open(folder / "agent.safetensors", "pt") as file:
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        return safetensors.torch.save(tensors, {"format": checkpoint.FORMAT, "state": content.decode(errors="replace")})

    with checkpoint.safe_open(folder / "agent.safetensors", "pt") as file:
        text = file.metadata()["state"].encode()
    whole = lambda content: content  # noqa: E731
    return {
        "statistics": (pickle.dumps(normalised_agent()[1]), None),
        "old statistics": (pickle.dumps(normalised_agent()[1], 0), None),
        "teacher": ((folder / "agent.zip").read_bytes(), whole),
        "JSON": (members["data"], lambda content: zipped({**members, "data": content})),
        "weights": (members["policy.pth"], lambda content: zipped({**members, "policy.pth": content})),
        "tensors": (
            weights[inner],
            lambda content: zipped({**members, "policy.pth": zipped({**weights, inner: content})}),
        ),
        "agent": (read["agent.safetensors"], whole),
        "state": (text, state),
        "distiller": (read["distiller.safetensors"], whole),
        "memory": ((folder / "memory.safetensors").read_bytes(), whole),
        "data": ((folder / "data.npz").read_bytes(), whole),
        "array": (
            arrays["train_inputs.npy"],
            lambda content: zipped({**arrays, "train_inputs.npy": content}),
        ),
        "spec": (yaml.safe_dump(SPEC).encode(), whole),
        "config": (json.dumps({"peers": 2, "config": {"alpha": 1.0}}).encode(), whole),
        "table": (b"label,a,b\n1,2,3\n0,1,word\n", whole),
        "agent.zip": (zipped(members), whole),
    }


FILES = {
    "teacher": ("teacher", "agent.zip"),
    "JSON": ("teacher", "agent.zip"),
    "weights": ("teacher", "agent.zip"),
    "tensors": ("teacher", "agent.zip"),
    "agent": ("agent", "file.safetensors"),
    "state": ("agent", "file.safetensors"),
    "distiller": ("distiller", "file.safetensors"),
    "memory": ("memory", "file.safetensors"),
    "data": ("data", "file.npz"),
    "array": ("data", "file.npz"),
    "spec": ("spec", "file.yaml"),
    "config": ("config", "file.json"),
    "table": ("table", "file.csv"),
    "statistics": ("teacher", "vecnormalize.pkl"),
    "old statistics": ("teacher", "vecnormalize.pkl"),
}
"""What is edited: who reads it, and the file that it is in."""


@pytest.mark.parametrize("kind", FILES)
@FEW
@given(edits=EDITS)
def test_a_damaged_file_is_read_or_refused_in_one_line(tmp_path, good, kind, edits):
    loader, name = FILES[kind]
    content, wrap = good[kind]
    content = edited(content, edits)
    path = tmp_path / name
    path.write_bytes(content if wrap is None else wrap(content))
    if wrap is None:
        path = tmp_path / "agent.zip"
        path.write_bytes(good["agent.zip"][0])
    try:
        LOADERS[loader](path)
    except PolicyKDError as error:
        assert "\n" not in str(error)


def test_a_key_that_is_there_twice_is_not_the_last_one():
    for parse, text in ((parse_json, '{"a": {"b": 1, "b": 2}}'), (parse_yaml, "a: [{b: 1, b: 2}]")):
        with pytest.raises(ValueError, match="the key 'b' twice"):
            parse(text)
    assert parse_yaml("a: &a {b: 1}\nc: {<<: *a, b: 2}") == {"a": {"b": 1}, "c": {"b": 2}}


@FEW
@given(text=st.text(max_size=200) | st.text("{}[]&*a:,- \n'\"!?|>", max_size=200))
def test_any_text_is_a_value_or_a_value_error(text):
    for parse in (parse_yaml, parse_json):
        try:
            parse(text)
        except ValueError as error:
            assert "\n" not in str(error)
