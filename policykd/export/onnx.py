"""A learner as an ONNX file: one input ``observations`` (batch, O), one output ``actions`` (batch, A)."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import numpy as np
import torch

from policykd.core.errors import PolicyKDError
from policykd.export.calibration import check_int8, split
from policykd.export.deployed import (
    Act,
    Difference,
    deploy,
    description,
    require_free,
    write_checked,
    write_compared,
)
from policykd.export.exportable import Exportable
from policykd.teachers.programs import METADATA, onnx_session


def to_onnx(agent: Exportable, k: int, path: Path) -> float:
    """Write learner ``k`` as ONNX, checked with onnxruntime.

    Returns:
        The largest distance from the learner, in actions scaled to [-1, 1].

    Raises:
        PolicyKDError: the file acts otherwise or exists (nothing is written), or a package is missing.
    """
    require_packages()
    return write_checked(agent, k, path, lambda temporary: _export(agent, k, temporary), _read)


def to_onnx_int8(agent: Exportable, k: int, path: Path, states: np.ndarray | None = None) -> Difference:
    """Write learner ``k`` as ONNX with int8 weights and activations (onnxruntime's static quantisation).

    Args:
        agent: whose learner.
        k: which one.
        path: the file.
        states: raw observations ``(n, O)``: each second one calibrates, the others measure; None plays the task.

    Returns:
        How far it is from the learner at states that it was not calibrated on.

    Raises:
        PolicyKDError: on average by more than ``calibration.TOLERANCE``, or as ``to_onnx``.
    """
    require_packages()
    require_free(path)
    calibrated, measured = split(agent, k, states)

    def write(temporary: Path) -> None:
        whole = temporary.with_name("float32.onnx")
        _export(agent, k, whole)
        quantise(whole, temporary, calibrated)

    return write_compared(agent, k, path, write, _read, check_int8(measured))


def quantise(source: Path, target: Path, states: np.ndarray) -> None:
    """Write the ONNX file ``source`` in int8: weights by output, activations by the ranges met at ``states (n, O)``."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class States(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter(np.array_split(states, 8))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.batches, None)
            return None if batch is None else {"observations": batch}

    noisy = logging.getLogger()  # advises a pre-processing that an MLP has no use for
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        quantize_static(
            str(source),
            str(target),
            States(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Gemm", "MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            activation_type=QuantType.QInt8,
        )
    finally:
        noisy.setLevel(level)


def _export(agent: Exportable, k: int, path: Path) -> None:
    examples = torch.zeros(2, agent.observation_space.shape[0])
    noisy = logging.getLogger("torch.onnx._internal.exporter._registration")  # tells that there is no torchvision
    level = noisy.level
    noisy.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                deploy(agent, k),
                (examples,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["observations"],
                output_names=["actions"],
                verbose=False,
            )
    finally:
        noisy.setLevel(level)
    assert program is not None
    program.model.metadata_props[METADATA] = description(agent)
    program.save(str(path))


def require_packages() -> None:
    """Refuse where torch's exporter, or the runtime that checks it, would miss a package."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        raise PolicyKDError('export: ONNX needs more packages: pip install "policykd[export]"')


def _read(path: Path) -> Act:
    session = onnx_session(path)
    return lambda observations: session.run(None, {"observations": observations})[0]
