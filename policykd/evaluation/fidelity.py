"""How alike a student acts to its teacher, at the student's own states and at the teacher's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import gymnasium as gym
import numpy as np
import torch

from policykd.agents.learner_envs import ActionScale, check_spaces
from policykd.agents.teacher_student import TeacherStudent
from policykd.distillation.divergences import gaussian_kl
from policykd.distillation.teaching import Labels
from policykd.errors import PolicyKDError
from policykd.networks import PolicyOutput
from policykd.seeding import env_seed

TOLERANCE = 0.1
"""Two actions agree where no dimension differs by more, in actions scaled to [-1, 1]."""


@dataclass(frozen=True)
class Fidelity:
    """How alike two policies act over some states."""

    action_distance: float
    """Mean Euclidean distance of deterministic actions, scaled to [-1, 1]."""
    agreement: float
    """Share of states where no dimension of the actions differs by more than the tolerance."""
    kl: float
    """Mean KL(teacher || student); NaN where one of the two is no Gaussian."""


def fidelity(
    agent: TeacherStudent, learner: int, *, steps: int = 1_000, seed: int = 2_000_000, tolerance: float = TOLERANCE
) -> dict[str, Fidelity]:
    """Compare a student with its teacher at the states of both.

    Args:
        agent: it must have its teacher.
        learner: which student.
        steps: environment steps that each of the two takes.
        seed: seed of their episodes.
        tolerance: see ``TOLERANCE``.

    Returns:
        "student_states" and "teacher_states".

    Raises:
        PolicyKDError: the agent was loaded without its teacher.
    """
    if agent.panel is None:
        raise PolicyKDError("fidelity: the agent has no teacher: load(path, teacher=...)")
    drivers: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "student_states": lambda full: student_actions(agent, learner, full),
        "teacher_states": lambda full: _labels(agent, full).policy.actions[0].numpy(),
    }
    results = {}
    for name, act in drivers.items():
        states = visited(agent.full_factory, act, steps, seed)
        labels, own = _labels(agent, states), _outputs(agent, learner, states)
        gap = own.actions.clamp(-1, 1)[0] - labels.policy.actions[0]
        kl = float("nan")
        if own.mean is not None and own.std is not None and agent.panel.has_std:
            assert labels.policy.mean is not None and labels.policy.std is not None
            kl = float(gaussian_kl(own.mean, own.std, labels.policy.mean, labels.policy.std).mean())
        agree = (gap.abs() <= tolerance).all(-1).double().mean()
        results[name] = Fidelity(float(gap.norm(dim=-1).mean()), float(agree), kl)
    return results


def visited(
    factory: Callable[[], gym.Env], act: Callable[[np.ndarray], np.ndarray], steps: int, seed: int
) -> np.ndarray:
    """Observations ``(steps, O)`` before each step of a policy ``(1, O)`` to ``(1, A)`` in [-1, 1]."""
    env = factory()
    to_env, states = ActionScale(check_spaces(env)[1]).to_env, []
    try:
        episode = 0
        observation, _ = env.reset(seed=env_seed(seed, 0, "evaluation", episode))
        for _ in range(steps):
            states.append(np.asarray(observation, np.float32))
            observation, _, terminated, truncated, _ = env.step(to_env(act(states[-1][None]))[0])
            if terminated or truncated:
                episode += 1
                observation, _ = env.reset(seed=env_seed(seed, 0, "evaluation", episode))
    finally:
        env.close()
    return np.stack(states)


def student_actions(agent: TeacherStudent, learner: int, full: np.ndarray) -> np.ndarray:
    """A student's deterministic actions ``(n, A)`` in [-1, 1] at whole observations ``(n, O)`` of the task."""
    return _outputs(agent, learner, full).actions[0].clamp(-1, 1).numpy()


@torch.no_grad()
def _outputs(agent: TeacherStudent, learner: int, full: np.ndarray) -> PolicyOutput:
    """What one student answers, ``(1, n, ...)``: all learners are asked, for each has a normaliser of its own."""
    inputs = torch.from_numpy(agent.view(full)).to(agent.device).unsqueeze(0).expand(agent.n_learners, -1, -1)
    answers = agent.learner.outputs(agent.learner.actor, inputs)
    return answers.map(lambda part: part[learner : learner + 1].cpu())


def _labels(agent: TeacherStudent, full: np.ndarray) -> Labels:
    assert agent.panel is not None
    return Labels.unpack(agent.panel.answer(torch.from_numpy(full).unsqueeze(0)))
