"""Exports a learner as ``policy.h`` and ``policy.c`` for microcontrollers: C99, no library, no allocation."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from policykd.core.files import atomic_path, write_text
from policykd.export import c_code
from policykd.export.calibration import check_int8, check_on_episodes, quantise_stateful, split
from policykd.export.compiled import CompiledPolicy, code_bytes
from policykd.export.deployed import deploy
from policykd.export.equivalence import Check, Difference, check, from_learner_inputs, require_free
from policykd.export.exportable import Exportable, Inputs, Which
from policykd.export.int8 import quantise
from policykd.export.plain import PlainPolicy, flatten
from policykd.export.policy import computed
from policykd.export.stateful import Episodes, needs_state, over_episodes

Precision = Literal["float32", "int8"]


class CSize(NamedTuple):
    """Memory and accuracy of a policy in C, as stated in its header."""

    difference: Difference
    constants: int
    """Bytes of flash for weights, biases, scales, normaliser and bounds."""
    code: int | None
    """Bytes of flash for instructions, compiled for this machine with -Os; None if it could not be measured."""
    buffers: int
    """Bytes of RAM for buffers, all on the stack of one call."""
    state: int
    """Bytes of RAM for the state of one episode."""
    compiled: bool
    """Whether the difference was measured on the compiled C rather than on the same arithmetic in NumPy."""

    def lines(self) -> list[str]:
        """Lines of text for the header and the command line."""
        code = "code not measured" if self.code is None else f"about {self.code:,} of code (-Os, {platform.machine()})"
        how = "compiled" if self.compiled else "its arithmetic in NumPy: nothing compiles here"
        kept = f", and a state of {self.state:,} bytes for each episode" if self.state else ""
        worst, mean, count = self.difference
        return [
            f"flash: {self.constants:,} bytes of constants, {code}",
            f"RAM: buffers of {self.buffers:,} bytes on the stack{kept}",
            f"differs by at most {worst:.1e}, on average {mean:.1e} ({count:,} observations; {how})",
        ]


def to_c(
    agent: Exportable,
    k: Which,
    path: str | Path,
    precision: Precision = "float32",
    states: np.ndarray | None = None,
    inputs: Inputs = "own",
) -> CSize:
    """Write learner ``k`` as a folder of one header and one C file.

    A policy with memory takes and updates a state, a few floats that the caller keeps.

    Args:
        agent: the agent.
        k: index of the learner, or "best".
        path: the folder.
        precision: of weights and products; int8 needs a quarter of the flash.
        states: observations ``(n, O)`` for int8, in the format of ``inputs``: every second one calibrates, the others
            test; None plays the task. For a policy with memory one episode in order, whose first half calibrates.
        inputs: whether it reads the student's own part of the observation, or the task's full one.

    Raises:
        PolicyKDError: the C code does not act like the learner, or the folder exists (nothing is written).
    """
    k, path = agent.learner_index(k), require_free(path)
    policy, one, difference = _compared(agent, k, str(path), precision, states, inputs)
    size = CSize(
        difference,
        c_code.constant_bytes(policy),
        code_bytes(policy),
        c_code.buffer_bytes(policy),
        4 * policy.state_size,
        one is not policy,
    )
    with atomic_path(path) as folder:
        folder.mkdir()
        about = [f"{agent.env_id}: a policy in {precision}, exported by policykd {metadata.version('policykd')}."]
        about += [
            "C99 without libraries, allocation or global state. Do not compile it with -ffast-math.",
            *size.lines(),
        ]
        write_text(folder / "policy.h", c_code.header(policy, about))
        write_text(folder / "policy.c", c_code.source(policy))
    return size


def as_arrays(agent: Exportable, k: int, inputs: Inputs) -> PlainPolicy:
    """Learner ``k`` as arrays for C in float32.

    Raises:
        PolicyKDError: C does not support its policy.
    """
    if needs_state(agent, inputs):
        return Episodes(agent, k, inputs).plain()
    return flatten(deploy(agent, k, inputs), agent.view.size)


def _compared(
    agent: Exportable, k: int, what: str, precision: Precision, states: np.ndarray | None, inputs: Inputs
) -> tuple[PlainPolicy, PlainPolicy | CompiledPolicy, Difference]:
    """The policy, the function that computes it, and its distance from the learner."""
    if needs_state(agent, inputs):
        episodes = Episodes(agent, k, inputs)
        if precision == "float32":
            policy = episodes.plain()
            one, _ = computed(policy, "auto")
            return policy, one, episodes.check(over_episodes(one.step), what)
        policy, met = quantise_stateful(episodes, states)
        one, _ = computed(policy, "auto")
        return policy, one, check_on_episodes(episodes, over_episodes(one.step), [(policy.state_size,)], met, what)
    policy = as_arrays(agent, k, inputs)
    near_enough: Check = check
    if precision == "int8":
        calibrated, measured = split(agent, k, states, inputs)
        policy = quantise(policy, calibrated)
        near_enough = check_int8(measured)
    one, _ = computed(policy, "auto")
    act = from_learner_inputs(
        agent, inputs, lambda observations: np.stack([one(observation) for observation in observations])
    )
    return policy, one, near_enough(agent, k, act, what)
