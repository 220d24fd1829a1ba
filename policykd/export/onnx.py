"""A learner as an ONNX file: one input ``observations`` (batch, O), one output ``actions`` (batch, A)."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from policykd.errors import PolicyKDError
from policykd.export.deployed import Act, deploy, description, write_checked
from policykd.teachers.programs import METADATA, onnx_session

if TYPE_CHECKING:
    from policykd.agents.dual_student import DualStudent


def to_onnx(agent: DualStudent, k: int, path: Path) -> float:
    """Write learner ``k`` as ONNX, checked with onnxruntime.

    Returns:
        The largest distance from the learner, in actions scaled to [-1, 1].

    Raises:
        PolicyKDError: the file acts otherwise or exists (nothing is written), or a package is missing.
    """
    try:
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError:
        raise PolicyKDError('export: ONNX needs more packages: pip install "policykd[export]"') from None
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


def _read(path: Path) -> Act:
    session = onnx_session(path)
    return lambda observations: session.run(None, {"observations": observations})[0]
