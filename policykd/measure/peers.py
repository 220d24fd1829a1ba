"""Fidelity between peers: did the learners of a group converge to one policy?

Measures and report are those of students and teachers (``measure/fidelity.py``): every learner is compared with each of
its peers, at the states it visits and at those the peer visits. Independent learners are the control: two good
policies are somewhat similar even if they have not learned from one another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import astuple
from itertools import permutations
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from policykd.core.errors import PolicyKDError, reraise
from policykd.core.files import STEPS
from policykd.core.networks import PolicyOutput
from policykd.measure.fidelity import TOLERANCE, UNITS, Fidelity, compare, visited
from policykd.measure.fidelity_report import Row, Who, write
from policykd.measure.pictures import Panel, Series, seed_panels
from policykd.training.dual_student import DualStudent

APART = "peers/action_distance"
"""The column of a run's log with the distance of a learner's actions from its peer's."""


def fidelity(
    agent: DualStudent, *, steps: int = 1_000, seed: int = 2_000_000, tolerance: float = TOLERANCE
) -> dict[str, Fidelity]:
    """How similarly each learner of a group and its peers act, averaged over its peers and over the groups.

    It is not averaged over the learners: for a pair, the own states of one are the peer's states of the other, so that
    the mean over both would be the same for own states and peers' states.

    Args:
        agent: peers, at least two per group.
        steps: environment steps of each learner.
        seed: seed of their episodes.
        tolerance: see ``TOLERANCE``.

    Returns:
        For learner i of every group "own_states_i": compared with its peers at its own states; "peer_states_i": at the
        peer's. The KL is KL(peer || learner).

    Raises:
        PolicyKDError: the learners have no peers.
    """
    if agent.peers < 2:
        raise PolicyKDError("fidelity: these learners have no peers (peers=1)")

    def policy(learner: int) -> Callable[[np.ndarray], np.ndarray]:
        return lambda observations: _outputs(agent, observations).actions[learner].clamp(-1, 1).numpy()

    found: dict[str, list[tuple[float, ...]]] = {}
    states = [visited(agent.factory, policy(k), steps, seed) for k in range(agent.n_learners)]
    answers = [_outputs(agent, each) for each in states]
    for first in range(0, agent.n_learners, agent.peers):
        for k, peer in permutations(range(first, first + agent.peers), 2):
            for name, at in (("own_states", answers[k]), ("peer_states", answers[peer])):
                here = found.setdefault(f"{name}_{k - first}", [])
                here.append(astuple(compare(_of(at, k), _of(at, peer), tolerance)))
    return {name: Fidelity(*np.mean(values, axis=0)) for name, values in found.items()}


def report(
    agent: DualStudent,
    *,
    control: DualStudent | None = None,
    steps: int = 1_000,
    seed: int = 2_000_000,
    tolerance: float = TOLERANCE,
    out: str | Path | None = None,
) -> list[Row]:
    """Compare peers with one another, and the independent learners of a control likewise.

    Args:
        agent: the peers.
        control: learners of the same task that do not learn from one another (method "independent").
        steps: environment steps of each learner.
        seed: seed of their episodes.
        tolerance: see ``TOLERANCE``.
        out: a folder for ``fidelity.csv``, ``fidelity.md`` and ``fidelity.png``; None writes nothing.

    Raises:
        PolicyKDError: the learners have no peers, or the control has another task or other groups.
    """
    if control is not None and control.env_id != agent.env_id:
        raise PolicyKDError(f"fidelity: the control is for {control.env_id}, but the peers for {agent.env_id}")
    if control is not None and control.peers != agent.peers:
        raise PolicyKDError(
            f"fidelity: the control has groups of {control.peers}, the run has {agent.peers}: they must be equal"
        )
    asked: dict[Who, DualStudent | None] = {"peers": agent, "control": control}
    measured = {who: fidelity(each, steps=steps, seed=seed, tolerance=tolerance) for who, each in asked.items() if each}
    rows = [Row(split, who, vars(by_split[split])) for split in measured["peers"] for who, by_split in measured.items()]
    if out is not None:
        write(rows, Path(out), UNITS)
    return rows


def logged(runs: dict[str, Path]) -> dict[str, Series]:
    """Distance of peers' actions over the course of training, by label, for the runs that logged it.

    Args:
        runs: run folders by label.

    Raises:
        PolicyKDError: a log cannot be read.
    """
    series = {}
    for label, file in ((label, folder / "progress.csv") for label, folder in runs.items()):
        if not file.is_file() or not file.stat().st_size:
            continue
        with reraise(f"fidelity: {file} cannot be read (", "): restore it, or move it away"):
            log = pd.read_csv(file)
            if APART in log:
                kept = log[[STEPS, APART]].dropna().astype(float)
                series[label] = Series(kept[STEPS].tolist(), kept[[APART]].to_numpy())
    return series


def over_training(series: dict[str, Series], path: Path) -> Path | None:
    """Plot the distance of peers' actions over the course of training; returns None if there are no data.

    Args:
        series: from ``logged``.
        path: the PNG file, replaced whole.
    """
    if not series:
        return None
    panel = Panel("latest states of each learner", "environment steps of a group", UNITS["distance"], series)
    return seed_panels([panel], path, "How far peers act apart", "mean over all learners")


@torch.no_grad()
def _outputs(agent: DualStudent, observations: np.ndarray) -> PolicyOutput:
    """Outputs of all learners ``(K, n, ...)`` at ``(n, O)``."""
    inputs = torch.from_numpy(observations).to(agent.device).unsqueeze(0).expand(agent.n_learners, -1, -1)
    return agent.learner.outputs(agent.learner.actor, inputs).map(torch.Tensor.cpu)


def _of(answers: PolicyOutput, learner: int) -> PolicyOutput:
    return answers.map(lambda part: part[learner : learner + 1])
