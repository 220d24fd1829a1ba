"""A learner as a TorchScript file, for C++ (libtorch) or Python without policykd."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch

from policykd.export.deployed import Act, as_act, deploy, description, write_checked
from policykd.export.exportable import Exportable
from policykd.teachers.programs import METADATA


def to_torchscript(agent: Exportable, k: int, path: Path) -> float:
    """Write learner ``k`` as TorchScript; raw observations ``(B, O)`` to actions ``(B, A)`` in the task's units.

    Returns:
        The largest distance from the learner, in actions scaled to [-1, 1].

    Raises:
        PolicyKDError: the file acts otherwise, or exists (nothing is written).
    """
    policy = deploy(agent, k)

    def write(temporary: Path) -> None:
        with warnings.catch_warnings():  # torch calls TorchScript deprecated, and people deploy it
            warnings.simplefilter("ignore", DeprecationWarning)
            program = torch.jit.trace(policy, torch.zeros(2, agent.observation_space.shape[0]))
            torch.jit.save(program, str(temporary), _extra_files={METADATA: description(agent)})

    return write_checked(agent, k, path, write, _read)


def _read(path: Path) -> Act:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return as_act(torch.jit.load(str(path)))
