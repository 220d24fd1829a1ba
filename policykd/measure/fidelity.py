"""Fidelity of policies: how similarly student and teacher act, at the student's states and at the teacher's.

Measures and report are those of classifiers (``policykd.classification.measures.fidelity``): an action within a
tolerance corresponds to the same class, and the distance of actions to the distance of predictions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
import torch

from policykd.core.errors import PolicyKDError
from policykd.core.networks import PolicyOutput
from policykd.core.seeding import env_seed
from policykd.distillation.divergences import kl_forward
from policykd.distillation.labels import Labels
from policykd.measure.fidelity_report import Row, write
from policykd.tasks.contract import task_name
from policykd.tasks.evaluate import refuse_unless_finite
from policykd.tasks.spaces import action_scale, check_spaces
from policykd.training.arguments import check_int
from policykd.training.teacher_student import TeacherStudent

TOLERANCE = 0.1
"""Two actions agree if no dimension differs by more than this, in actions scaled to [-1, 1]."""
UNITS = {"agreement": "share of states", "kl": "nats", "distance": "Euclidean, actions in [-1, 1]"}
"""The measures, and their units in the plot."""


@dataclass(frozen=True)
class Fidelity:
    """How similarly two policies act at some states."""

    agreement: float
    """Fraction of states at which no dimension differs by more than the tolerance, or discrete actions are equal."""
    kl: float
    """Mean KL(teacher || student), nats; NaN if one of them has no action distribution."""
    distance: float
    """Mean Euclidean distance of deterministic actions, scaled to [-1, 1]; for one-hot actions 2^(1/2) times the
    fraction of states at which they differ."""


def fidelity(
    agent: TeacherStudent, learner: int, *, steps: int = 1_000, seed: int = 2_000_000, tolerance: float = TOLERANCE
) -> dict[str, Fidelity]:
    """Compare a student with its teacher at the states of both.

    Args:
        agent: the students, loaded with their teacher.
        learner: index of the student.
        steps: environment steps of each of the two.
        seed: seed of their episodes.
        tolerance: see ``TOLERANCE``.

    Returns:
        "student_states" and "teacher_states".

    Raises:
        PolicyKDError: the agent was loaded without its teacher.
    """
    return {
        name: _compare(agent, learner, states, teacher, tolerance)
        for name, (states, teacher) in _labelled_states(agent, learner, steps, seed).items()
    }


def report(
    agent: TeacherStudent,
    learner: int,
    *,
    control: TeacherStudent | None = None,
    steps: int = 1_000,
    seed: int = 2_000_000,
    tolerance: float = TOLERANCE,
    out: str | Path | None = None,
) -> list[Row]:
    """Compare a student with its teacher, and a control with the same teacher: a student of another one.

    Args:
        agent: the students, loaded with their teacher.
        learner: index of the student.
        control: students of another teacher, trained with the same settings; the first acts at the same states.
        steps: environment steps of student and teacher each.
        seed: seed of their episodes.
        tolerance: see ``TOLERANCE``.
        out: a folder for ``fidelity.csv``, ``fidelity.md`` and ``fidelity.png``; None writes nothing.

    Raises:
        PolicyKDError: the agent was loaded without its teacher, or the control has another task or backbone, or memory.
    """
    if control is not None:
        for own, other in ((agent.env_id, control.env_id), (agent.backbone, control.backbone)):
            if other != own:  # Gaussians of another backbone may be in other units than the teacher's here
                raise PolicyKDError(f"fidelity: the control is for {other}, but the student for {own}")
        if control.remembers:
            raise PolicyKDError("fidelity: compares at single states, but the control has memory")
    rows = []
    for split, (states, teacher) in _labelled_states(agent, learner, steps, seed).items():
        rows.append(Row(split, "student", asdict(_compare(agent, learner, states, teacher, tolerance))))
        if control is not None:
            rows.append(Row(split, "control", asdict(_compare(control, 0, states, teacher, tolerance))))
    if out is not None:
        write(rows, Path(out), UNITS)
    return rows


def _labelled_states(
    agent: TeacherStudent, learner: int, steps: int, seed: int
) -> dict[str, tuple[np.ndarray, PolicyOutput]]:
    """The states ``(steps, O)`` that student and teacher visit, with the teacher's outputs at them."""
    if agent.panel is None:
        raise PolicyKDError("fidelity: the agent has no teacher: load(path, teacher=...)")
    if agent.remembers or agent.panel.remembers:
        raise PolicyKDError("fidelity: compares at single states, but student or teacher has memory")
    drivers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "student_states": lambda full: student_actions(agent, learner, full),
        "teacher_states": lambda full: _teacher_outputs(agent, full).actions[0].numpy(),
    }
    states = {name: visited(agent.full_factory, act, steps, seed) for name, act in drivers.items()}
    return {name: (full, _teacher_outputs(agent, full)) for name, full in states.items()}


def _compare(
    agent: TeacherStudent, learner: int, states: np.ndarray, teacher: PolicyOutput, tolerance: float
) -> Fidelity:
    return compare(_outputs(agent, learner, states), teacher, tolerance)


def compare(own: PolicyOutput, source: PolicyOutput, tolerance: float) -> Fidelity:
    """Compare a policy's outputs ``(1, n, ...)`` with those of its source at the same states."""
    gap = own.actions.clamp(-1, 1)[0] - source.actions.clamp(-1, 1)[0]
    gaussians = all(part is not None for part in (*own[1:3], *source[1:3]))
    choices = own.logits is not None and source.logits is not None
    kl = float(kl_forward(own, source).mean()) if gaussians or choices else float("nan")
    agree = (gap.abs() <= tolerance).all(-1).double().mean()
    return Fidelity(float(agree), kl, float(gap.norm(dim=-1).mean()))


def visited(
    factory: Callable[[], gym.Env], act: Callable[[np.ndarray], np.ndarray], steps: int, seed: int
) -> np.ndarray:
    """Observations ``(steps, O)`` that a policy visits; ``act`` maps ``(1, O)`` to ``(1, A)`` in [-1, 1].

    Raises:
        PolicyKDError: the task raised, or returned an observation that is not finite.
    """
    steps, seed = check_int("steps", steps), check_int("seed", seed, 0)
    states, episode = [], 0
    with factory() as env:
        to_env, name = action_scale(check_spaces(env)[1]).to_env, task_name(env)
        observation, _ = env.reset(seed=env_seed(seed, 0, "evaluation", episode))
        for _ in range(steps):
            states.append(np.asarray(observation, np.float32))
            refuse_unless_finite(name, f"step {len(states) - 1}", states[-1])
            observation, _, terminated, truncated, _ = env.step(to_env(act(states[-1][None]))[0])
            if terminated or truncated:
                episode += 1
                observation, _ = env.reset(seed=env_seed(seed, 0, "evaluation", episode))
    return np.stack(states)


def student_actions(agent: TeacherStudent, learner: int, full: np.ndarray) -> np.ndarray:
    """A student's deterministic actions ``(n, A)`` in [-1, 1] at full observations ``(n, O)`` of the task."""
    return _outputs(agent, learner, full).actions[0].clamp(-1, 1).numpy()


@torch.no_grad()
def _outputs(agent: TeacherStudent, learner: int, full: np.ndarray) -> PolicyOutput:
    """Outputs of one student ``(1, n, ...)``; all learners are evaluated, since each has its own normaliser."""
    inputs = torch.from_numpy(agent.view(full)).to(agent.device).unsqueeze(0).expand(agent.n_learners, -1, -1)
    answers = agent.learner.outputs(agent.learner.actor, inputs)
    return answers.map(lambda part: part[learner : learner + 1].cpu())


def _teacher_outputs(agent: TeacherStudent, full: np.ndarray) -> PolicyOutput:
    """Outputs of the teacher ``(1, n, ...)``, in the student's units; only the distribution, if it has one."""
    assert agent.panel is not None
    answers = agent.panel.answer(torch.from_numpy(full).unsqueeze(0))
    policy = Labels.unpack(answers, agent.learner.discrete).policy
    return policy if agent.panel.has_std else policy._replace(std=None, logits=None)
