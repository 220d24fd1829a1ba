"""Teachers in program files: TorchScript and ONNX.

Like deployed policies, they return actions in the task's units.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.spaces import Discrete

from policykd.core.errors import PolicyKDError, one_line, reraise
from policykd.tasks.spaces import DiscreteActions
from policykd.teachers.modules import acting, from_module, shape, through_numpy
from policykd.teachers.policy import Policy
from policykd.teachers.task import TaskSpaces

METADATA = "policykd.json"
"""Name under which an exported policy stores its sizes and bounds."""


def from_torchscript(path: Path, task: TaskSpaces | None, device: torch.device, trust: bool) -> Policy:
    """The policy in a TorchScript file: a program, with operators that can write and map files.

    What such a program does cannot be seen from its text, so without ``trust`` it is not even opened.

    Raises:
        PolicyKDError: ``trust`` is not given, or it is damaged.
    """
    if not trust:
        raise PolicyKDError(
            f"teacher: {path} is a TorchScript program, which can write files when it is loaded: give trust=True "
            "(--trust) if you trust its source, or use ONNX or an SB3 agent"
        )
    extra = {METADATA: ""}
    with reraise(f"teacher: {path} cannot be read as TorchScript: ", text=one_line), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(str(path), map_location=device, _extra_files=extra)
    return from_module(module, str(path), task, device, _described(extra[METADATA]))


def from_onnx(path: Path, task: TaskSpaces | None, device: torch.device) -> Policy:
    """The policy in an ONNX file: input observations ``(B, O)``, output actions ``(B, A)`` in the task's units.

    For discrete actions the output is indices ``(B,)`` or logits ``(B, A)``.

    Raises:
        PolicyKDError: it is damaged or has other inputs or outputs, or onnxruntime is not installed.
    """
    session = onnx_session(path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        names = ([i.name for i in inputs], [o.name for o in outputs])
        raise PolicyKDError(
            f"teacher: {path} has {len(inputs)} inputs {names[0]} and {len(outputs)} outputs {names[1]}; a teacher "
            "needs one of each, observations (B, O) and actions (B, A)"
        )
    kind = np.float64 if inputs[0].type == "tensor(double)" else np.float32
    batch = inputs[0].shape[0] if inputs[0].shape else None

    def act(observations: np.ndarray) -> np.ndarray:
        rows = observations.astype(kind)
        parts = [rows] if not isinstance(batch, int) or batch == len(rows) else np.split(rows, len(rows) // batch)
        with reraise(f"teacher: {path} cannot answer observations {rows.shape}: ", text=one_line):
            return np.concatenate([session.run(None, {inputs[0].name: part})[0] for part in parts])

    described = session.get_modelmeta().custom_metadata_map.get(METADATA, "")
    size, actions = shape(str(path), _described(described), task)
    if isinstance(inputs[0].shape[-1], int):
        size = inputs[0].shape[-1]
    output_shape = () if task is None else np.shape(act(task.examples))
    return acting(str(path), through_numpy(act, device), size, actions, device, output_shape)


def onnx_session(path: Path) -> Any:
    """Open the file in onnxruntime, on one thread.

    Raises:
        PolicyKDError: it is damaged, or onnxruntime is not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ImportError:
        raise PolicyKDError('teacher: ONNX files need onnx and onnxruntime: pip install "policykd[export]"') from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    with reraise(f"teacher: {path} cannot be read as ONNX: ", text=one_line):
        _check_onnx(path, onnx.load_model_from_string(path.read_bytes()))
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _check_onnx(path: Path, model: Any) -> None:
    """Refuse a graph that reads files other than one beside it, or may never end.

    onnxruntime runs no code but its own operators; the only files it reads are those that tensors name as their data.
    """
    parts = [model.graph, *model.functions]
    while parts:
        part = parts.pop()
        for field, value in part.ListFields():
            if field.type == field.TYPE_MESSAGE:
                parts += value if field.is_repeated else [value]
        if (kind := part.DESCRIPTOR.name) == "NodeProto" and part.op_type in ("Loop", "Scan"):
            raise PolicyKDError(f"teacher: {path} contains a {part.op_type}, which may never end: it was not loaded")
        for entry in part.external_data if kind == "TensorProto" else ():
            beside = path.parent / entry.value
            if entry.key == "location" and (beside.parent != path.parent or beside.is_symlink()):
                raise PolicyKDError(f"teacher: {path} refers to another file, {entry.value[:100]!r}: it was not loaded")


def _described(text: str) -> dict[str, Any] | None:
    """The description that an exported policy stores; None if there is none."""
    try:
        found = json.loads(text)
        size = found["observation_size"]
        if "choices" in found:
            numbers = size, found["choices"], found["first"]
            fits = all(type(number) is int for number in numbers) and size > 0 and found["choices"] > 0
            actions: Any = DiscreteActions(Discrete(found["choices"], start=found["first"])) if fits else None
            return {"observation_size": size, "actions": actions} if fits else None
        low, high = (np.array(found[name], np.float32) for name in ("low", "high"))
        fits = type(size) is int and size > 0 and low.ndim == 1 and low.shape == high.shape and (low <= high).all()
        return {"observation_size": size, "actions": (low, high)} if fits else None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None
