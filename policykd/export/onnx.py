"""A learner as an ONNX file: one input ``observations`` (batch, O), one output ``actions`` (batch, A)."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from pathlib import Path

import torch

from policykd.core.errors import PolicyKDError
from policykd.export.deployed import Act, deploy, description, write_checked
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
    policy = deploy(agent, k)

    def write(temporary: Path) -> None:
        examples = torch.zeros(2, agent.observation_space.shape[0])
        noisy = logging.getLogger("torch.onnx._internal.exporter._registration")  # tells that there is no torchvision
        level = noisy.level
        noisy.setLevel(logging.ERROR)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                program = torch.onnx.export(
                    policy,
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
        program.save(str(temporary))

    return write_checked(agent, k, path, write, _read)


def require_packages() -> None:
    """Refuse where torch's exporter, or the runtime that checks it, would miss a package."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        raise PolicyKDError('export: ONNX needs more packages: pip install "policykd[export]"')


def _read(path: Path) -> Act:
    session = onnx_session(path)
    return lambda observations: session.run(None, {"observations": observations})[0]
