"""Files that mean harm, over all loaders; run as a program it loads each and says what came of it.

``python tests/crafted_files.py FOLDER`` prints a JSON line per file: its name, the outcome ("loaded", or the error's
class), the error's text, seconds of the processor, and what was opened, started or imported that should not have been.
"""

import contextlib
import gzip
import importlib
import io
import json
import lzma
import os
import pickle
import shutil
import struct
import sys
import time
import warnings
import zipfile
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
import yaml
from crafted_pickles import calls, normaliser, of_bytes
from sb3_agents import Lopsided, agent
from tiny import POINT, TINY
from tiny_benchmark import TINY as SPEC

from policykd import Distiller, DualStudent, PolicyKDError, Teacher
from policykd.benchmark.results import Results
from policykd.benchmark.spec_file import load_spec
from policykd.benchmark.statistics import summarise
from policykd.classification.data import sets as data
from policykd.classification.data.mnist_5k import load_mnist_5k
from policykd.classification.data.text import read_texts
from policykd.cli import classify_run, cooperate_run, fidelity_run, train
from policykd.core import checkpoint
from policykd.memory import KnowledgeBase
from policykd.training.loading import load_agent

CANARY = "canary_module"
"""A module that writes a file when it is imported."""


def net():
    return torch.nn.Linear(4, 3)


LOADERS = {
    "teacher": lambda path: Teacher.load(path, Lopsided),
    "onnx": lambda path: Teacher.load(path, Lopsided),
    "agent": load_agent,
    "run": lambda path: DualStudent.load(path).get_env(),
    "distiller": lambda path: Distiller.load(path, net(), net(), device="cpu"),
    "memory": KnowledgeBase.load,
    "weights": lambda path: classify_run.read_teacher([net()], [path]),
    "spec": load_spec,
    "results": lambda path: summarise(Results(path)),
    "config": train._from_file,
    "options": fidelity_run._run_options,
    "data": lambda path: data.load(str(path)),
    "idx": lambda path: data.load("mnist", path),
    "digits": load_mnist_5k,
    "texts": read_texts,
    "table": lambda path: cooperate_run._read_csv(path, "label"),
}


def zipped(path, members, method=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def teachers(folder, mark, secret):
    """Normalisers, zips of SB3 and programs."""
    agent("PPO").save(folder / "good.zip")
    with zipfile.ZipFile(folder / "good.zip") as archive:
        good = {name: archive.read(name) for name in archive.namelist()}

    def beside(name, content):
        place = folder / name
        place.mkdir()
        zipped(place / "agent.zip", good)
        (place / "vecnormalize.pkl").write_bytes(content)
        return place / "agent.zip"

    evil = calls(mark, secret)
    for kind, call in evil.items():
        for protocol in (2, 5):
            yield (
                f"statistics, {kind}, {protocol}",
                beside(f"s{kind}{protocol}", pickle.dumps(normaliser(call), protocol)),
            )
        yield f"epsilon, {kind}", beside(f"e{kind}", pickle.dumps(normaliser(np.zeros(5), call)))
        yield f"whole, {kind}", beside(f"w{kind}", pickle.dumps(call))
    for kind, content in of_bytes().items():
        yield f"bytes, {kind}", beside(f"b{kind}", content)

    def with_weights(name, content, method=zipfile.ZIP_STORED):
        return zipped(folder / f"{name}.zip", {**good, "policy.pth": content}, method)

    for kind in ("system", "exec", "import", "ndarray of objects"):
        for new in (True, False):
            buffer = io.BytesIO()
            torch.save({"log_std": evil[kind]}, buffer, _use_new_zipfile_serialization=new)
            yield f"weights, {kind}, {new}", with_weights(f"p{kind}{new}", buffer.getvalue())
            (folder / f"{kind}{new}.pth").write_bytes(buffer.getvalue())
            yield f"tensors, {kind}, {new}", folder / f"{kind}{new}.pth"
    for kind, content in of_bytes().items():
        inner = zipped(folder / "inner", {"archive/data.pkl": content}).read_bytes()
        yield f"weights by bytes, {kind}", with_weights(f"q{kind}", inner)
        yield f"old weights by bytes, {kind}", with_weights(f"o{kind}", content)
    for kind, change in FORGED.items():
        yield f"weights, {kind}", with_weights(f"f{kind}", forged(good["policy.pth"], *change))
    yield "weights, bomb", with_weights("bomb", bytes(10**8), zipfile.ZIP_DEFLATED)
    inner = zipped(folder / "inner", {"archive/data.pkl": bytes(5 * 10**7)}, zipfile.ZIP_DEFLATED).read_bytes()
    yield "weights, inner bomb", with_weights("inner_bomb", inner)
    yield "weights, lzma", with_weights("lzma", good["policy.pth"], zipfile.ZIP_LZMA)
    yield "weights, cut", with_weights("cut", good["policy.pth"][:3000])
    for kind, content in {
        "deep": "[" * 200_000,
        "list": "[1]",
        "no JSON": "hello",
        "bomb": " " * 10**8,
        "kwargs": json.dumps({"policy_kwargs": 3, "action_space": [1]}),
        "bounds": json.dumps({"action_space": {":type:": "Box", "low": "[nan]", "high": "x" * 10**6}}),
        "activation": json.dumps({"policy_kwargs": {"activation_fn": "<class 'os.system'>"}}),
    }.items():
        content = {**good, "data": content}
        yield f"JSON, {kind}", zipped(folder / f"j{kind}.zip", content, zipfile.ZIP_DEFLATED)
    program = f"def forward(self, x):\n  torch.save(x, '{mark}')\n  return x\n"
    for name in ("policy/code/__torch__.py", "policy/CODE/__torch__.py", "code/__torch__.py", "/code/x"):
        members = {name: program, "policy/data.pkl": b"\x80\x02}.", "policy/constants.pkl": b"\x80\x02)."}
        yield f"program, {name}", zipped(folder / f"t{name.replace('/', '_')}.pt", members)


FORGED = {  # parts of a tensor's description in a pickle, and what stands there instead
    "shape": (b"K\x08K\x05\x86", b"K\x08K\xff\x86"),
    "stride": (b"K\x05K\x01\x86", b"K\x00K\x00\x86"),
    "offset": (b"QK\x00", b"QK\xff"),
    "type": (b"FloatStorage", b"QUInt8Storage"[:12]),
    "function": (b"_rebuild_tensor_v2", b"_rebuild_qtensor_v"),
    "key": (b"X\x01\x00\x00\x000", b"X\x01\x00\x00\x00/"),
}


def forged(content, old, new):
    """A file of ``torch.save`` whose pickle says something else."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in members if name.endswith("data.pkl"))
    assert old in members[name]
    members[name] = members[name].replace(old, new)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, part in members.items():
            archive.writestr(member, part)
    return buffer.getvalue()


def graphs(folder, secret):
    """ONNX."""
    try:
        from onnx import TensorProto, helper
    except ImportError:
        return

    def save(name, nodes, weights=()):
        size, values = [5, 2], helper.make_tensor_value_info
        graph = helper.make_graph(nodes, "g", [values("x", 1, ["b", 5])], [values("y", 1, ["b", 2])], list(weights))
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        assert size
        (folder / f"{name}.onnx").write_bytes(model.SerializeToString())
        return folder / f"{name}.onnx"

    os.symlink(secret, folder / "link.bin")
    for name, place in {"absolute": secret, "up": "../secret", "link": "link.bin", "none": "none.bin"}.items():
        tensor = TensorProto(name="w", data_type=1, dims=[5, 2], data_location=TensorProto.EXTERNAL)
        for key, value in {"location": place, "offset": "0", "length": "40"}.items():
            entry = tensor.external_data.add()
            entry.key, entry.value = key, value
        yield f"data, {name}", save(name, [helper.make_node("MatMul", ["x", "w"], ["y"])], [tensor])
    yield (
        "loop",
        save("loop", [helper.make_node("Loop", ["", "", "x"], ["y"], body=helper.make_graph([], "b", [], []))]),
    )
    yield "custom operator", save("custom", [helper.make_node("Shell", ["x"], ["y"], domain="evil")])
    yield (
        "wide",
        save("wide", [helper.make_node("Tile", ["x", "n"], ["y"])], [helper.make_tensor("n", 7, [2], [1, 10**12])]),
    )
    (folder / "text.onnx").write_bytes(b"hello" * 1000)
    yield "text", folder / "text.onnx"
    (folder / "deep.onnx").write_bytes(deep_message(2_000))
    yield "deep", folder / "deep.onnx"


def deep_message(depth):
    """Graphs in attributes of nodes of graphs."""
    content = b""
    for field in (1, 5, 6) * (depth // 3):
        length, digits = len(content), b""
        while length > 127:
            digits, length = digits + bytes([length & 127 | 128]), length >> 7
        content = bytes([field << 3 | 2]) + digits + bytes([length]) + content
    return content


def changed(source, target, change):
    """A checkpoint with another state."""
    with checkpoint.safe_open(source, "pt") as file:
        state, tensors = (
            json.loads(file.metadata()["state"]),
            {name: file.get_tensor(name) for name in list(file.keys())},
        )
    new = change(state)
    state = state if new is None else new
    metadata = {"format": checkpoint.FORMAT, "state": json.dumps(state)}
    safetensors.torch.save_file(tensors, target, metadata)
    return target


def setting(**changes):
    return lambda state: state["settings"].update(changes)


def config(**changes):
    return lambda state: state["settings"]["config"].update(changes)


AGENTS = {
    "module": setting(env=f"{CANARY}:Task-v0"),
    "env, path": setting(env="../../etc/passwd"),
    "env, number": setting(env=3),
    "env, none": setting(env=None),
    "method, path": setting(method="../../up"),
    "method, own": setting(method="own:mine"),
    "method, list": setting(method=["dpd"]),
    "backbone": setting(backbone="os"),
    "backbone, list": setting(backbone=[]),
    "peers": setting(peers=10**9),
    "no peers": setting(peers=0),
    "peers, text": setting(peers="2"),
    "seeds": setting(seeds=list(range(10**5))),
    "no seeds": setting(seeds=[]),
    "seeds, text": setting(seeds="01"),
    "wide": config(net_arch=[10**9, 10**9]),
    "net_arch, text": config(net_arch="8x8"),
    "net_arch, nested": config(net_arch=[[8, 8]]),
    "replay": config(buffer_size=10**15),
    "batch": config(batch_size=-1),
    "unknown setting": config(os="system"),
    "config, list": setting(config=[1]),
    "settings, list": lambda state: {**state, "settings": [1]},
    "no settings": lambda state: {},
    "list": lambda state: [1, 2],
    "no origin": lambda state: state.pop("made_by_id") and None,
    "no generators": lambda state: state.update(generators={}),
    "generators": lambda state: state.update(generators={"learner": [1, 2], "exploration": [{}], "replay": 3}),
    "no learner": lambda state: state.update(learner={}),
    "learner, text": lambda state: state.update(learner="x"),
    "missing tensor": lambda state: state["learner"].update(actor={"__array__": ["tensor", "99/none"]}),
    "strange reference": lambda state: state["learner"].update(actor={"__array__": 3}),
    "other tensor": lambda state: state["learner"].update(actor=state["learner"]["critic"]),
    "evaluations": lambda state: state.update(evaluations=[1], evaluation_steps="x"),
    "compile": lambda state: state.update(compile={"a": 1}),
    "numbers": lambda state: state.update(num_timesteps="many", elapsed=None),
}


def run_state(change):
    """Change the attributes of the environment itself in a run's checkpoint."""

    def whole(state):
        attributes = state["envs"][0]["layers"][-1]["attributes"]
        return change(attributes, state)

    return whole


RUNS = {
    "bit generator": run_state(
        lambda a, s: (
            a["_np_random"]["state"]["items"].__setitem__(0, ["bit_generator", "test"])
            or a["_np_random"].update(state={"type": "dict", "items": [["bit_generator", "test"]]})
        )
    ),
    "layers": run_state(lambda a, s: s.update(envs=[{"layers": []}] * 2)),
    "envs": run_state(lambda a, s: s.update(envs=[1, 2])),
    "no envs": run_state(lambda a, s: s.update(envs=[])),
    "type": run_state(lambda a, s: a.update(position={"type": "exec"})),
    "observations": run_state(lambda a, s: s.update(last_observations=[["x"]])),
    "logs": run_state(lambda a, s: s.update(log_sizes={"../../up": 0}) or s.update(log_sizes=3)),
    "replay position": run_state(lambda a, s: s["replay"].update(position=10**9)),
    "replay": run_state(lambda a, s: s.update(replay={})),
}


def checkpoints(folder):
    DualStudent(POINT, config=TINY).save(folder / "good")
    good = folder / "good.safetensors"
    for kind, change in AGENTS.items():
        yield "agent", kind, changed(good, folder / f"a{kind}.safetensors", change)
    content = good.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    for kind, part in {
        "empty": b"",
        "short": b"\x01",
        "long header": struct.pack("<Q", 2**62) + b"{}",
        "header beyond the file": struct.pack("<Q", 10**7) + b"{}",
        "deep header": struct.pack("<Q", 10**6) + b"[" * 10**6,
        "deep state": with_header({"__metadata__": {"format": checkpoint.FORMAT, "state": "[" * 10**6}}),
        "huge number": with_header({"__metadata__": {"format": checkpoint.FORMAT, "state": "1" * 10**5}}),
        "no state": with_header({"__metadata__": {"format": checkpoint.FORMAT}}),
        "other format": with_header({"__metadata__": {"format": "pt"}}),
        "huge tensor": with_header({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}),
        "overlap": with_header({n: {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]} for n in "ab"}) + bytes(4),
        "cut": content[: len(content) // 2],
        "text": b"hello" * 100,
        "pickle": pickle.dumps(header),
    }.items():
        path = folder / f"raw{kind}.safetensors"
        path.write_bytes(part)
        for loader in ("agent", "teacher", "weights", "memory"):
            yield loader, f"raw, {kind}", path
    DualStudent(POINT, config=TINY, run_dir=folder / "run").learn(40)
    for kind, change in RUNS.items():
        place = folder / f"run {kind}"
        shutil.copytree(folder / "run", place)
        yield "run", kind, changed(folder / "run/checkpoint.safetensors", place / "checkpoint.safetensors", change)
    Distiller(net(), net(), device="cpu").save(folder / "distiller.safetensors")
    for kind, change in {
        "method": setting(method="../up"),
        "no method": lambda state: state["settings"].pop("method") and None,
        "epochs": config(epochs=-1),
        "config": setting(config=[1]),
        "student": lambda state: state.update(student={"weight": 3}),
        "no student": lambda state: state.update(student=None),
        "history": lambda state: state.pop("history") and None,
        "an agent": lambda state: {"settings": {}, "student": {}},
    }.items():
        yield "distiller", kind, changed(folder / "distiller.safetensors", folder / f"d{kind}.safetensors", change)
    for kind, state in {
        "text": {"keys": "x", "values": torch.zeros(2, 2), "teacher": "t"},
        "lengths": {"keys": torch.zeros(3, 2), "values": torch.zeros(2, 2), "teacher": "t"},
        "vector": {"keys": torch.zeros(3), "values": torch.zeros(3, 1), "teacher": "t"},
        "whole numbers": {"keys": torch.zeros(3, 2).long(), "values": torch.zeros(3, 1), "teacher": "t"},
        "no teacher": {"keys": torch.zeros(3, 2), "values": torch.zeros(3, 1)},
    }.items():
        checkpoint.save(folder / f"m{kind}.safetensors", state)
        yield "memory", kind, folder / f"m{kind}.safetensors"


def with_header(header):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


TASK = SPEC["tasks"][POINT]
LAUGHS = "a0: &a0 [x, x]\n" + "".join(f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]\n" for k in range(1, 40))
MERGES = "a0: &a0 {k: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}\n" for k in range(1, 30))
SPECS = {
    "laughs": LAUGHS,
    "merges": MERGES,
    "itself": "a: &a [*a]\n",
    "deep list": "[" * 100_000,
    "deep mapping": "{a: " * 20_000,
    "deep block": "".join(" " * k + "a:\n" for k in range(500)),
    "dashes": "- " * 50_000,
    "long": "a: b\n" * 200_000,
    "huge number": f"total_timesteps: {'9' * 50_000}",
    "date": "name: 2001-99-99",
    "key": "? [1, 2]\n: 3",
    "binary": "name: !!binary '*'",
    "python": "name: !!python/object/apply:os.system ['touch MARK']",
    "control": "name: \0",
    "empty": "",
    "text": "hello",
    **{
        f"spec, {kind}": yaml.safe_dump({**SPEC, **changes})
        for kind, changes in {
            "name": {"name": "../../up"},
            "absolute name": {"name": "/tmp/up"},
            "device": {"name": "CON"},
            "name, number": {"name": 3},
            "name, list": {"name": ["a"]},
            "module": {"tasks": {f"{CANARY}:Task-v0": TASK}},
            "task, path": {"tasks": {"../../up": TASK}},
            "task, number": {"tasks": {3: TASK}},
            "method, path": {"methods": {"../up": {"method": "dpd"}}},
            "method, absolute": {"methods": {"/up": {"method": "dpd"}}},
            "method, null": {"methods": {"a\0b": {"method": "dpd"}}},
            "method, device": {"methods": {"nul": {"method": "dpd"}}},
            "method, number": {"methods": [3]},
            "methods, nested": {"methods": [["dpd"]]},
            "method, list": {"methods": {"dpd": [1]}},
            "method of a method": {"methods": {"dpd": {"method": ["dpd"]}}},
            "twice": {"methods": {"dpd": {}, "DPD": {"method": "dpd"}}},
            "backbones": {"tasks": {POINT: {**TASK, "backbones": "td3"}}},
            "reference": {"tasks": {POINT: {**TASK, "reference": {"low": "a", "high": [], "source": 3}}}},
            "seeds": {"seeds": 10**12},
            "method's seeds": {"methods": {"dpd": {"seeds": 10**12}}},
            "negative seeds": {"methods": {"dpd": {"seeds": -3}}},
            "peers": {"peers": 10**9},
            "evaluations": {"total_timesteps": 10**15, "evaluations": 10**15},
            "net_arch": {"settings": {"net_arch": "wide"}},
            "infinity": {"settings": {"gamma": float("inf")}},
            "settings": {"settings": {3: 4}},
        }.items()
    },
}


def specs(folder):
    for kind, text in SPECS.items():
        path = folder / f"{kind}.yaml"
        path.write_text(text)
        yield "spec", kind, path
        if not kind.endswith(", module"):  # a report of such results imports nothing, and needs nothing
            place = folder / f"results {kind}"
            place.mkdir()
            (place / "spec.yaml").write_text(text)
            yield "results", f"spec, {kind}", place
    cell = "PolicyKD-PointReach-v0/dpd-td3"
    for kind, content in {
        "list": "[1]",
        "deep": "[" * 10**6,
        "cell": '{"cell": 3, "rows_sha256": "a"}',
        "config": '{"cell": {"config": 3}, "rows_sha256": "a"}',
        "checksum": '{"cell": {"config": {}}, "rows_sha256": [1]}',
        "empty": "",
    }.items():
        place = folder / f"provenance {kind}"
        (place / cell).parent.mkdir(parents=True)
        (place / "spec.yaml").write_text(yaml.safe_dump(SPEC))
        (place / f"{cell}.json").write_text(content)
        yield "results", f"provenance, {kind}", place
    place = folder / "link"
    place.mkdir()
    os.symlink(folder.parent / "secret", place / "spec.yaml")
    yield "results", "link", place


def settings(folder):
    for kind, text in {
        "deep": "[" * 10**6,
        "list": "[1]",
        "number": "3",
        "unknown": '{"os": "system"}',
        "config": '{"config": [1]}',
        "peers": '{"peers": []}',
        "huge": '{"peers": ' + "9" * 10**5 + "}",
        "no JSON": "{",
        "bytes": "\udcff",
    }.items():
        path = folder / f"c{kind}"
        path.mkdir()
        (path / "options.json").write_bytes(text.encode(errors="surrogateescape"))
        yield "config", kind, path / "options.json"
        if kind in ("deep", "huge", "no JSON", "bytes"):
            yield "options", kind, path


def npy(shape, dtype, content):
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(10 + len(header) + 1) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + content


def arrays(folder, mark):
    good = {"train_inputs": np.zeros((9, 4)), "train_labels": np.arange(9) % 3}
    good |= {"test_inputs": np.zeros((3, 4)), "test_labels": np.arange(3)}
    content = {}
    for name, array in good.items():
        buffer = io.BytesIO()
        np.save(buffer, array)
        content[f"{name}.npy"] = buffer.getvalue()
    objects = io.BytesIO()
    np.save(objects, np.array([calls(mark, mark)["exec"]] * 9, dtype=object), allow_pickle=True)
    bad = "train_inputs.npy"
    for kind, change in {
        "objects": {bad: objects.getvalue()},
        "forged objects": {bad: npy((3,), "|O", b"A" * 24)},
        "huge shape": {bad: npy((10**12,), "<f8", b"A" * 8)},
        "overflowing shape": {bad: npy((2**62, 4), "<f8", b"")},
        "negative shape": {bad: npy((-1, -8), "<f8", b"A" * 64)},
        "huge item": {bad: npy((0,), "|S2000000000", b"")},
        "text": {bad: npy((2,), "<U4", b"A" * 32)},
        "strange header": {bad: npy("__import__('os').system('touch MARK')", "<f8", b"")},
        "no array": {bad: b"hello"},
        "bomb": {bad: npy((10**7,), "<f8", bytes(8 * 10**7))},
        "fraction": {"train_labels.npy": npy((9,), "<f8", struct.pack("<9d", *[0.5] * 9))},
        "few labels": {"train_labels.npy": npy((2,), "<i8", bytes(16))},
        "scalar": {bad: npy((), "<f8", bytes(8))},
        "other test": {"test_inputs.npy": npy((3, 7), "<f8", bytes(168))},
    }.items():
        method = zipfile.ZIP_DEFLATED if kind == "bomb" else zipfile.ZIP_STORED
        yield "data", kind, zipped(folder / f"{kind}.npz", {**content, **change}, method)
    yield "data", "lzma", zipped(folder / "lzma.npz", content, zipfile.ZIP_LZMA)
    yield "data", "missing", zipped(folder / "missing.npz", {bad: content[bad]})
    for kind, text in {"pickle": pickle.dumps(calls(mark, mark)["exec"]), "empty": b"", "array": content[bad]}.items():
        (folder / f"{kind}.npz").write_bytes(text)
        yield "data", kind, folder / f"{kind}.npz"
    for kind, text in {
        "bomb": struct.pack(">HBB2I", 0, 8, 2, 10**5, 10**4) + bytes(10**8),
        "short": struct.pack(">HBB2I", 0, 8, 2, 10**5, 10**4),
        "axes": struct.pack(">HBB", 0, 8, 255) + b"\xff" * 1020,
        "kind": struct.pack(">HBBI", 0, 13, 1, 3) + bytes(12),
        "empty": b"",
    }.items():
        place = folder / f"idx {kind}"
        place.mkdir()
        for name in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
            if kind != "bomb" or name.startswith("train-images"):
                packed = gzip.compress(text, 1)
            (place / f"{name}-ubyte.gz").write_bytes(packed)
        yield "idx", kind, place
    for kind, text in {
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(MARK) (w) file\nshowpage\n",
        "bomb": bomb_image(),
        "text": b"hello",
    }.items():
        place = folder / f"images {kind}"
        for split in ("train", "test"):
            (place / split / "a").mkdir(parents=True)
            (place / split / "a" / "one.png").write_bytes(text)
        yield "data", f"images, {kind}", place


def bomb_image():
    """A PNG that says it has 10^10 pixels."""
    import zlib

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">2I5B", 10**5, 10**5, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    )


def tables(folder):
    for kind, content in {
        "null": b"label\tsentence\n1\t\0\n",
        "bytes": b"\xff\xfe\xfd",
        "long field": b"label\tsentence\n1\t" + b"x" * 10**6 + b"\n",
        "rows": b"label\tsentence\n1\n",
        "no label": b"sentence\nx\n",
        "fractions": b"label\tsentence\n0.5\tx\n",
    }.items():
        place = folder / f"texts {kind}"
        place.mkdir()
        for split in ("train", "dev"):
            (place / f"{split}.tsv").write_bytes(content)
        yield "texts", kind, place
        (folder / f"{kind}.csv").write_bytes(content)
        yield "table", kind, folder / f"{kind}.csv"
    for kind, content in {
        "columns": gzip.compress(b"1,2\n"),
        "text": gzip.compress(b"x\n"),
        "no gzip": b"hello",
        "cut": gzip.compress(bytes(10**4))[:20],
        "lzma": lzma.compress(b"1,2\n"),
    }.items():
        place = folder / f"digits {kind}"
        place.mkdir()
        (place / "mnist_5k.csv.gz").write_bytes(content)
        yield "digits", kind, place


FINE = {"teacher: weights, stride", "texts: null", "texts: long field", "table: fractions"}
"""Harmless, and read as what they are."""


def make(folder):
    """Write every file; yields its loader, its name and its path."""
    mark, secret = str(folder / "MARK"), folder / "secret"
    secret.write_bytes(b"\0\0\x80?" * 100)
    (folder / f"{CANARY}.py").write_text(f"open({mark!r}, 'w').close()\n")
    groups = {
        "teachers": lambda place: (("teacher", *case) for case in teachers(place, mark, str(secret))),
        "graphs": lambda place: (("onnx", *case) for case in graphs(place, str(secret))),
        "checkpoints": checkpoints,
        "specs": specs,
        "settings": settings,
        "arrays": lambda place: arrays(place, mark),
        "tables": tables,
    }
    for name, group in groups.items():
        (folder / name).mkdir()
        yield from group(folder / name)


def watch(folder, seen, case):
    """Note what is opened beyond the files and Python's own, started or unpickled while ``case`` holds a folder.

    In that folder, and nowhere else, files may be written.
    """
    own = [str(folder), *{sys.prefix, sys.base_prefix, str(Path(__file__).parents[1])}, "/proc", "/sys", "/dev/null"]
    own += [str(Path(module).parent) for module in (os.__file__, np.__file__, torch.__file__)]
    started = (
        "subprocess.Popen",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "os.fork",
        "socket.connect",
        "pickle.find_class",
    )
    changes = ("os.remove", "os.rename", "os.mkdir", "os.truncate", "os.symlink", "shutil.rmtree")

    def hook(event, arguments):
        if not case:
            return
        if event in started or (event in changes and not str(arguments[0]).startswith(case[0])):
            seen.append(f"{event} {arguments}"[:200])
        elif event == "open" and isinstance(arguments[0], str | bytes):
            path, flags = os.path.realpath(os.fsdecode(arguments[0])), arguments[2] or 0
            writes = flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            fine = path.startswith(case[0] if writes else tuple(own)) or path == "/dev/null"
            if path.endswith("secret") or not fine:
                seen.append(f"open {path} {arguments[1:]}"[:200])

    sys.addaudithook(hook)


def main(folder):
    warnings.filterwarnings("ignore")
    sys.path.append(str(folder))
    cases = list(make(folder))
    torch.set_num_threads(1)
    seen, case = [], []
    for module in ("onnxruntime", "PIL.Image"):  # what these open and start themselves
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
    watch(folder, seen, case)
    for loader, kind, path in cases:
        seen.clear()
        started, outcome, text = time.process_time(), "loaded", ""
        print(json.dumps({"begins": f"{loader}: {kind}"}), flush=True)
        case.append(str(path.parent) if loader == "run" else "nowhere")  # to go on with a run is to write into it
        try:
            LOADERS[loader](path)
        except PolicyKDError as error:
            outcome, text = "refused", str(error)
        except BaseException as error:
            outcome, text = type(error).__name__, str(error)
        case.clear()
        seconds = time.process_time() - started
        marked = (folder / "MARK").exists()
        result = {"case": f"{loader}: {kind}", "outcome": outcome, "text": text[:500], "seconds": round(seconds, 2)}
        print(json.dumps({**result, "seen": list(seen), "marked": marked}), flush=True)
    import resource

    print(json.dumps({"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
