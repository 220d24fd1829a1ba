"""Teachers that are programs: functions, torch modules, TorchScript and ONNX files.

They give actions in the task's units, as a policy is deployed.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.teachers.policy import Policy, freeze, to_unit
from policykd.teachers.task import TaskSpaces

METADATA = "policykd.json"
"""Under this name an exported policy says its sizes and bounds."""


def from_callable(source: Any, task: TaskSpaces | None, device: torch.device) -> Policy:
    """A function ``observation (O,) -> action (A,)``, or an object with SB3's ``predict``.

    It is called once per observation, unless it answers the task's first observations alike one by one and together.

    Raises:
        PolicyKDError: there is no task to know sizes from.
    """
    name = getattr(source, "__name__", type(source).__name__)
    if task is None:
        raise PolicyKDError(f"teacher: a function ({name}) does not say what it reads and gives: give env=")
    function: Callable[[np.ndarray], Any] = source
    if hasattr(source, "predict"):

        def function(observations: np.ndarray) -> Any:
            return source.predict(observations, deterministic=True)[0]

    def one_by_one(observations: np.ndarray) -> np.ndarray:
        return np.stack([np.asarray(function(observation), np.float32) for observation in observations])

    act, examples = one_by_one, task.examples
    apart = one_by_one(examples)
    try:
        together = np.asarray(function(examples), np.float32)
        if together.shape == apart.shape and np.allclose(together, apart, atol=1e-5):
            act = function  # type: ignore[assignment]
    except Exception:  # a function of one observation may fail on several in any way
        pass
    return _policy(f"function {name}", _through_numpy(act, device), None, (task.low, task.high), device)


def from_module(
    module: nn.Module,
    source: str,
    task: TaskSpaces | None,
    device: torch.device,
    described: dict[str, Any] | None = None,
) -> Policy:
    """A torch module, raw observations ``(B, O)`` to actions ``(B, A)`` in the task's units.

    Raises:
        PolicyKDError: nothing says its sizes and bounds.
    """
    size, bounds = _shape(source, described, task)
    network = freeze(module.to(device))
    return _policy(source, network, size, bounds, device).changed(network=network)


def copied(module: nn.Module) -> nn.Module:
    """The module as it is now; the original may go on learning."""
    return copy.deepcopy(module)


def from_torchscript(path: Path, task: TaskSpaces | None, device: torch.device, trust: bool) -> Policy:
    """A TorchScript file: a program, which has operators that write and map files.

    What such a program does cannot be told from its text, so without ``trust`` it is not even opened.

    Raises:
        PolicyKDError: ``trust`` is not given, or it is damaged.
    """
    if not trust:
        raise PolicyKDError(
            f"teacher: {path} is a TorchScript program, which can write files when it is loaded: give trust=True "
            "(--trust) if you know who made it, or use ONNX or an agent of SB3"
        )
    extra = {METADATA: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location=device, _extra_files=extra)
    except Exception as error:  # torch fails in many ways on damaged files
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise PolicyKDError(f"teacher: {path} cannot be read as TorchScript: {reason}") from None
    return from_module(module, str(path), task, device, _described(extra[METADATA]))


def from_onnx(path: Path, task: TaskSpaces | None, device: torch.device) -> Policy:
    """An ONNX file of one input, observations ``(B, O)``, and one output, actions ``(B, A)`` in the task's units.

    Raises:
        PolicyKDError: it is damaged or has other inputs or outputs, or onnxruntime is not installed.
    """
    session = onnx_session(path)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs) != 1:
        names = ([i.name for i in inputs], [o.name for o in outputs])
        raise PolicyKDError(
            f"teacher: {path} has {len(inputs)} inputs {names[0]} and {len(outputs)} outputs {names[1]}; a teacher has "
            "one of each, observations (B, O) and actions (B, A)"
        )
    kind = np.float64 if inputs[0].type == "tensor(double)" else np.float32
    batch = inputs[0].shape[0] if inputs[0].shape else None

    def act(observations: np.ndarray) -> np.ndarray:
        rows = observations.astype(kind)
        parts = [rows] if not isinstance(batch, int) or batch == len(rows) else np.split(rows, len(rows) // batch)
        try:
            return np.concatenate([session.run(None, {inputs[0].name: part})[0] for part in parts])
        except Exception as error:  # onnxruntime's errors have no class in common
            reason = str(error).partition("\n")[0][:300]
            raise PolicyKDError(f"teacher: {path} cannot answer observations {rows.shape}: {reason}") from None

    described = session.get_modelmeta().custom_metadata_map.get(METADATA, "")
    size, bounds = _shape(str(path), _described(described), task)
    if isinstance(inputs[0].shape[-1], int):
        size = inputs[0].shape[-1]
    return _policy(str(path), _through_numpy(act, device), size, bounds, device)


def onnx_session(path: Path) -> Any:
    """The file in onnxruntime, on one thread.

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
    try:
        _check_onnx(path, onnx.load_model_from_string(path.read_bytes()))
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except PolicyKDError:
        raise
    except Exception as error:  # errors of onnxruntime and protobuf have no class in common
        raise PolicyKDError(f"teacher: {path} cannot be read as ONNX: {str(error).partition(chr(10))[0]}") from None


def _check_onnx(path: Path, model: Any) -> None:
    """Refuse a graph that reads other files than one beside it, or may never end.

    onnxruntime runs no code but its own operators; of files it reads what a tensor names as its data.
    """
    parts = [model.graph, *model.functions]
    while parts:
        part = parts.pop()
        for field, value in part.ListFields():
            if field.type == field.TYPE_MESSAGE:
                parts += value if field.is_repeated else [value]
        if (kind := part.DESCRIPTOR.name) == "NodeProto" and part.op_type in ("Loop", "Scan"):
            raise PolicyKDError(f"teacher: {path} has a {part.op_type}, which may never end: it was not loaded")
        for entry in part.external_data if kind == "TensorProto" else ():
            beside = path.parent / entry.value
            if entry.key == "location" and (beside.parent != path.parent or beside.is_symlink()):
                raise PolicyKDError(f"teacher: {path} reads another file, {entry.value[:100]!r}: it was not loaded")


def _described(text: str) -> dict[str, Any] | None:
    """What an exported policy says of itself; None where there is nothing."""
    try:
        found = json.loads(text)
        size, low, high = found["observation_size"], *(np.array(found[name], np.float32) for name in ("low", "high"))
        fits = type(size) is int and size > 0 and low.ndim == 1 and low.shape == high.shape and (low < high).all()
        return {"observation_size": size, "low": low, "high": high} if fits else None
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


def _shape(
    source: str, described: dict[str, Any] | None, task: TaskSpaces | None
) -> tuple[int | None, tuple[np.ndarray, np.ndarray]]:
    """Length of an observation and bounds of actions: what the program says itself, or the task's."""
    if described is not None:
        return described["observation_size"], (described["low"], described["high"])
    if task is None:
        raise PolicyKDError(f"teacher: {source} does not say what it reads and gives: give env=")
    return None, (task.low, task.high)


def _through_numpy(act: Callable[[np.ndarray], np.ndarray], device: torch.device) -> Callable[[Tensor], Tensor]:
    def through(observations: Tensor) -> Tensor:
        return torch.as_tensor(np.asarray(act(observations.cpu().numpy()), np.float32), device=device)

    return through


def _policy(
    source: str,
    act: Callable[[Tensor], Any],
    observation_size: int | None,
    bounds: tuple[np.ndarray, np.ndarray],
    device: torch.device,
) -> Policy:
    """A policy of a program that maps raw observations ``(B, O)`` to actions ``(B, A)`` in the task's units."""
    middle, half = to_unit(*bounds, device)

    def gaussian(observations: Tensor) -> tuple[Tensor, None]:
        actions = act(observations)
        if not isinstance(actions, Tensor):
            count = len(actions) if isinstance(actions, tuple | list | dict) else 1
            raise PolicyKDError(
                f"teacher: {source} gives {count} outputs ({type(actions).__name__}); a teacher gives one, actions "
                "(B, A)"
            )
        expected = (len(observations), len(middle))
        if tuple(actions.shape) != expected:
            raise PolicyKDError(f"teacher: {source} gives actions of shape {tuple(actions.shape)}, not {expected}")
        scaled = (actions.float() - middle) / half
        return torch.where(scaled.isfinite(), scaled.clamp(-1, 1), scaled), None  # infinity must stay to be seen

    return Policy(source, observation_size, len(middle), gaussian, low=bounds[0], high=bounds[1])
