"""Exports a learner as an ONNX file: input ``observations`` (batch, O), output ``actions`` (batch, A)."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.core.files import as_path, atomic_path
from policykd.export import stateful
from policykd.export.calibration import calibration_episodes, check_int8, check_on_episodes, split
from policykd.export.deployed import deploy, description, input_size
from policykd.export.equivalence import Act, Difference, from_learner_inputs, full_inputs, require_free, write_compared
from policykd.export.exportable import Exportable, Inputs, Which
from policykd.teachers.programs import METADATA, onnx_session


def to_onnx(agent: Exportable, k: Which, path: str | Path, inputs: Inputs = "own") -> float:
    """Write learner ``k`` as ONNX, checked with onnxruntime.

    A policy with memory has the inputs ``observations``, ``starts`` (1 where an episode starts), and ``history`` or
    ``hidden`` or both; the outputs are ``actions`` and ``next_history``, ``next_hidden``.

    Args:
        agent: whose learner.
        k: its index, or "best".
        path: the file.
        inputs: whether it reads the student's own part of the observation, or all of the task's.

    Returns:
        The largest distance from the learner, in actions scaled to [-1, 1].

    Raises:
        PolicyKDError: the file does not act like the learner or exists (nothing is written), or a package is missing.
    """
    require_packages()
    k, path = agent.learner_index(k), as_path("export", path)
    if stateful.needs_state(agent, inputs):
        return stateful.write(agent, k, path, inputs, _export_episodes, _play)
    return write_compared(
        agent,
        k,
        path,
        lambda file: _export(agent, k, file, inputs),
        lambda file: from_learner_inputs(agent, inputs, _read(file)),
    ).worst


def to_onnx_int8(
    agent: Exportable, k: Which, path: str | Path, states: np.ndarray | None = None, inputs: Inputs = "own"
) -> Difference:
    """Write learner ``k`` as ONNX with int8 weights and activations (onnxruntime's static quantisation).

    Args:
        agent: whose learner.
        k: its index, or "best".
        path: the file.
        states: observations ``(n, O)``, in the format of ``inputs``: every second one calibrates, the others test; None
            plays the task. For a policy with memory one episode in order, whose first half calibrates.
        inputs: whether it reads the student's own part of the observation, or all of the task's.

    Returns:
        The distance from the learner at held-out states.

    Raises:
        PolicyKDError: its mean distance exceeds ``calibration.TOLERANCE``, or as for ``to_onnx``.
    """
    require_packages()
    k, path = agent.learner_index(k), require_free(path)
    if stateful.needs_state(agent, inputs):
        return _episodes_in_int8(stateful.Episodes(agent, k, inputs), path, states)
    calibrated, measured = split(agent, k, states, inputs)

    def write(temporary: Path) -> None:
        float32 = temporary.with_name("float32.onnx")
        _export(agent, k, float32, inputs)
        quantise(float32, temporary, {"observations": full_inputs(agent, inputs, calibrated)})

    return write_compared(
        agent, k, path, write, lambda file: from_learner_inputs(agent, inputs, _read(file)), check_int8(measured)
    )


def _episodes_in_int8(episodes: stateful.Episodes, path: Path, states: np.ndarray | None) -> Difference:
    """``to_onnx_int8`` for a learner with memory, whose state stays float32 between steps."""
    calibrated, measured = calibration_episodes(episodes, states)
    after = stateful.unroll(episodes.play, episodes.shapes, *calibrated)[1:]
    before = (np.concatenate((np.zeros_like(part[:1]), part[:-1])) for part in after)
    fed = {"observations": calibrated.observations, "starts": calibrated.starts.astype(np.float32)}
    with atomic_path(path) as temporary:
        float32 = temporary.with_name("float32.onnx")
        _export_episodes(episodes, float32)
        quantise(float32, temporary, {**fed, **dict(zip(episodes.names, before, strict=True))})
        return check_on_episodes(episodes, _play(temporary), episodes.shapes, measured, str(path))


def quantise(source: Path, target: Path, inputs: Mapping[str, np.ndarray]) -> None:
    """Quantise the ONNX file ``source``: weights per output, activations by their ranges at ``inputs (n, .)``."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class States(CalibrationDataReader):
        def __init__(self) -> None:
            split = (np.array_split(values, 8) for values in inputs.values())
            self.batches = (dict(zip(inputs, parts, strict=True)) for parts in zip(*split, strict=True))

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    with _quiet(None):  # it recommends a pre-processing that MLPs do not need
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


def _export(agent: Exportable, k: int, path: Path, inputs: Inputs) -> None:
    examples = (torch.zeros(2, input_size(agent, inputs)),)
    _save(deploy(agent, k, inputs), examples, ["observations"], ["actions"], path, description(agent, inputs))


def _export_episodes(episodes: stateful.Episodes, path: Path) -> None:
    names, outputs = ["observations", "starts", *episodes.names], [f"next_{name}" for name in episodes.names]
    _save(episodes.module, episodes.examples(), names, ["actions", *outputs], path, "")


def _save(
    module: nn.Module, examples: tuple[Tensor, ...], names: list[str], outputs: list[str], path: Path, about: str
) -> None:
    batch = {0: torch.export.Dim("batch")}
    state = (tuple(batch for _ in examples[2:]),) if len(examples) > 2 else ()
    # The logger reports that torchvision is missing.
    with _quiet("torch.onnx._internal.exporter._registration"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            examples,
            dynamo=True,
            dynamic_shapes=(*(batch for _ in examples[:2]), *state),
            input_names=names,
            output_names=outputs,
            verbose=False,
        )
    assert program is not None
    if about:
        program.model.metadata_props[METADATA] = about
    program.save(str(path))


@contextmanager
def _quiet(name: str | None) -> Iterator[None]:
    """Context that silences all but errors of a logger; None is the root logger."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def require_packages() -> None:
    """Raise if packages are missing that torch's exporter or the runtime that checks it needs."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime")):
        raise PolicyKDError('export: ONNX needs more packages: pip install "policykd[export]"')


def _read(path: Path) -> Act:
    session = onnx_session(path)
    return lambda observations: session.run(None, {"observations": observations})[0]


def _play(path: Path) -> stateful.Play:
    session = onnx_session(path)
    names = [one.name for one in session.get_inputs()]
    return lambda *arrays: tuple(session.run(None, dict(zip(names, arrays, strict=True))))
