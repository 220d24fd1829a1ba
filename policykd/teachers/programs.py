"""Teachers that are files of programs: TorchScript and ONNX.

They give actions in the task's units, as a policy is deployed.
"""

from __future__ import annotations

import json
import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policykd.core.errors import PolicyKDError
from policykd.teachers.modules import acting, from_module, shape, through_numpy
from policykd.teachers.policy import Policy
from policykd.teachers.task import TaskSpaces

METADATA = "policykd.json"
"""Under this name an exported policy says its sizes and bounds."""
BEYOND_TENSORS = re.compile(r"\b(?:save|from_file|classes)\b|\bops\b(?!\s*\.\s*(?:aten|prim)\b)")
"""Words without which a TorchScript program reaches no file and no operator of another library."""


def _program(path: Path) -> str:
    """The text of a TorchScript file's program."""
    with zipfile.ZipFile(path) as archive:
        files = [archive.read(member) for member in archive.infolist() if "/code/" in member.filename]
    return "\n".join(file.decode(errors="replace") for file in files)


def from_torchscript(path: Path, task: TaskSpaces | None, device: torch.device, trust: bool) -> Policy:
    """A TorchScript file.

    Loading it runs its program, which is TorchScript and cannot run Python. TorchScript has a few operators that read
    and write files; a program that names one of them is not loaded.

    Raises:
        PolicyKDError: it is damaged, or its program reaches beyond tensors.
    """
    extra = {METADATA: ""}
    try:
        if not trust and (found := BEYOND_TENSORS.search(_program(path))):
            raise PolicyKDError(
                f"teacher: the program in {path} uses {found[0]}, which reaches beyond tensors: it was not loaded "
                "(trust=True loads and runs it)"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            module = torch.jit.load(str(path), map_location=device, _extra_files=extra)
    except PolicyKDError:
        raise
    except Exception as error:  # torch and zipfile fail in many ways on damaged files
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
        return np.concatenate([session.run(None, {inputs[0].name: part})[0] for part in parts])

    described = session.get_modelmeta().custom_metadata_map.get(METADATA, "")
    size, bounds = shape(str(path), _described(described), task)
    if isinstance(inputs[0].shape[-1], int):
        size = inputs[0].shape[-1]
    return acting(str(path), through_numpy(act, device), size, bounds, device)


def onnx_session(path: Path) -> Any:
    """The file in onnxruntime, on one thread.

    Raises:
        PolicyKDError: it is damaged, or onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise PolicyKDError('teacher: ONNX files need onnxruntime: pip install "policykd[export]"') from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no class in common
        raise PolicyKDError(f"teacher: {path} cannot be read as ONNX: {str(error).partition(chr(10))[0]}") from None


def _described(text: str) -> dict[str, Any] | None:
    """What an exported policy says of itself; None where there is nothing."""
    try:
        found = json.loads(text)
        return {"observation_size": int(found["observation_size"]), **{n: list(found[n]) for n in ("low", "high")}}
    except (ValueError, KeyError, TypeError):
        return None
