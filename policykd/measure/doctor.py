"""Why does my distillation not work? A one-page diagnosis of a teacher, its task and a student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from policykd.core.errors import PolicyKDError
from policykd.core.fields import as_type, change, require
from policykd.core.registry import find
from policykd.core.seeding import stream
from policykd.distillation.teaching_config import TAUGHT_CONFIGS
from policykd.measure import doctor_checks as checks
from policykd.measure.doctor_checks import Finding
from policykd.measure.doctor_fit import Fit, Student, clone
from policykd.measure.doctor_play import Act, Play, play
from policykd.memory.logged import starts_of
from policykd.tasks.contract import TaskError
from policykd.tasks.spaces import EnvFactory, find_task
from policykd.tasks.views import Choice, View, views_of
from policykd.teachers import Teacher, TeacherScore
from policykd.teachers.observation_map import ObservationMap

WIDE = (128, 128)
"""Hidden layers of the reference student, which shows what can be learnt at all."""
RATE = 1e-3
"""Learning rate of the reference, and of the comparison of widths."""
REPEATED_STATES = 256
TRIED = 8
"""Episodes to play with rescaled outputs, if these may be in other units."""
REMEMBERED = 4
"""History to try for a student with memory."""


@dataclass(frozen=True)
class Diagnosis:
    """All findings, in the order in which to fix them."""

    title: str
    findings: list[Finding]

    @property
    def wrong(self) -> list[Finding]:
        """Findings that must be fixed."""
        return [finding for finding in self.findings if finding.state == "wrong"]

    def __str__(self) -> str:
        """The page as text."""
        lines = [self.title]
        for finding in self.findings:
            lines.append(f"{finding.state:8}{finding.check:23}{finding.measured}")
            if finding.advice:
                lines.append(f"{'':31}-> {finding.advice}")
        names = ", ".join(finding.check for finding in self.wrong)
        lines.append(
            f"{len(self.wrong)} of {len(self.findings)} wrong: {names}" if names else "nothing wrong was found"
        )
        return "\n".join(lines)


def diagnose(
    teacher: Any,
    env: str | gym.Env | EnvFactory,
    *,
    student_observations: Choice = None,
    teacher_observations: Choice = None,
    observation_groups: Mapping[str, Sequence[int]] | None = None,
    history: int = 1,
    backbone: str = "ppo",
    net_arch: tuple[int, ...] | None = None,
    learning_rate: float | None = None,
    normalize: bool | None = None,
    n_episodes: int = 20,
    updates: int = 5_000,
    seed: int = 0,
    trust: bool = False,
) -> Diagnosis:
    """Play the teacher, clone it on the states it visits, and diagnose what is wrong.

    Args:
        teacher: a ``Teacher``, or anything that ``Teacher.load`` takes.
        env: the task.
        student_observations: the student's part of the observation, as in a student's settings (docs/groups.md).
        teacher_observations: the teacher's part, likewise; None is all, or the part it was loaded with.
        observation_groups: named columns, in addition to the task's own groups.
        history: number of stacked observations that the student sees.
        backbone: "ppo", "td3", "ddpg" or "sac"; sets the student's defaults where the next three are None.
        net_arch: the student's hidden layers.
        learning_rate: of its cloning (``distill_learning_rate``).
        normalize: whether it normalises observations.
        n_episodes: episodes of the teacher, and of random actions from the same initial states.
        updates: gradient steps of each cloned student; 0 checks the teacher only.
        seed: of episodes, weights and minibatches.
        trust: run code in the teacher's file, as in ``Teacher.load``.

    Raises:
        PolicyKDError: the teacher cannot be loaded, does not fit or has memory; the task raised or returned values that
            are not finite; or a column or number is invalid.
    """
    task, student = find_task(env), _student(backbone, net_arch, learning_rate, normalize)
    require(history >= 1, "history", history, "must be positive")
    view, read = views_of(task.make, student_observations, teacher_observations, observation_groups or {}, history)
    teacher = _load(teacher, env, read.map, trust)
    if teacher.remembers:
        raise PolicyKDError(f"doctor: teacher {teacher.source} has memory: it cannot label single states")
    asked = {"n_episodes": n_episodes, "updates": updates, "seed": seed}
    n_episodes, updates, seed = (as_type(name, number, int) for name, number in asked.items())
    require(n_episodes >= 4, "n_episodes", n_episodes, "must be at least 4")
    require(updates >= 0, "updates", updates, "must not be negative (0: the teacher alone)")
    require(seed >= 0, "seed", seed, "must not be negative")
    sees = f"all {view.size}" if view.is_full else f"{view.part_size} of {view.size}"
    widths, latest = "x".join(map(str, student.net_arch)), f", the latest {history} together" if history > 1 else ""
    title = f"doctor: teacher {teacher.source} on {task.env_id}; student {widths} sees {sees} observations{latest}"
    try:
        taught = play(task.make, _act(teacher), n_episodes, seed)
    except TaskError:
        raise
    except PolicyKDError as error:  # an output is not finite
        return Diagnosis(title, [Finding("answers", "wrong", str(error), "nothing can be learnt from such a teacher")])
    findings = _check_teacher(teacher, task.make, task.env_id, taught, seed)
    if updates:
        student = replace(student, bounds=_own_units(student, teacher), discrete=teacher.discrete)
        findings += _check_student(taught, student, view, updates, seed)
    return Diagnosis(title, findings)


def _check_teacher(teacher: Teacher, make: EnvFactory, env_id: str, taught: Play, seed: int) -> list[Finding]:
    generator, n, size = stream(seed, 0, "exploration"), len(taught.returns), taught.actions.shape[1]
    random = play(make, lambda _: generator.uniform(-1, 1, (size,)), n, seed).returns
    score = TeacherScore(teacher.source, env_id, taught.returns, random)
    acted = (
        [checks.choices(taught.actions)]
        if teacher.discrete
        else [_action_scale(teacher, make, taught, random, seed), checks.at_bounds(taught.actions)]
    )
    return [
        checks.time_limits(taught),
        checks.against_random(taught.returns, random, score.better_than_random),
        checks.against_record(taught.returns, random, teacher.policy.recorded),
        checks.normaliser(teacher.missing_normaliser, _clipped(teacher, taught)),
        *acted,
        checks.noise(*_repeated_outputs(teacher, taught, seed)),
    ]


def _action_scale(teacher: Teacher, make: EnvFactory, taught: Play, random: np.ndarray, seed: int) -> Finding:
    """Check a program's outputs before clipping; if they may be in [-1, 1], play with them rescaled."""
    low, high, said = teacher.low, teacher.high, teacher.policy.answer

    def answer(observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        if said is None:
            return (high + low) / 2 + actions * (high - low) / 2
        with torch.no_grad():
            return said(teacher.map(torch.from_numpy(observations).to(teacher.device))).cpu().numpy()

    answers = answer(taught.observations, taught.actions)
    unit = checks.maybe_unit_scaled(answers, low, high)
    if not unit.any():
        return checks.action_scale(taught.actions, answers, low, high)
    act = _act(teacher)

    def scaled(observation: np.ndarray) -> np.ndarray:
        action = act(observation)
        return np.where(unit, answer(observation[None], action[None])[0].clip(-1, 1), action)

    count = min(TRIED, len(taught.returns))
    returns = play(make, scaled, count, seed).returns
    rescaled = checks.Rescaled(taught.returns[:count], returns, random)
    return checks.action_scale(taught.actions, answers, low, high, rescaled)


def _check_student(taught: Play, student: Student, view: View, updates: int, seed: int) -> list[Finding]:
    held_out = taught.episodes % 4 == 3
    starts = starts_of(taught.episodes)
    own = view.stack_history(taught.observations, starts)

    scaled = replace(student, bounds=None)
    """Checks of the student, with actions in [-1, 1] except where the task's bounds matter."""

    @cache
    def fit(asked: Student) -> Fit:
        return clone(own, taught.actions, held_out, asked, updates, seed)

    def reference(inputs: np.ndarray) -> Fit:
        wide = replace(scaled, net_arch=WIDE, learning_rate=RATE, normalize=True)
        return clone(inputs, taught.actions, held_out, wide, updates, seed)

    seen = remembered = None
    if not view.is_full:
        seen = reference(own)
        if view.history == 1:
            longer = replace(view, history=REMEMBERED)
            remembered = reference(longer.stack_history(taught.observations, starts))
    sizes = sorted({student.net_arch, (64, 64), WIDE}, key=lambda widths: (sum(widths), widths))
    rates = sorted({RATE, *(student.learning_rate * factor for factor in (0.1, 1.0, 10.0))})
    return [
        checks.observations(own, student),
        *([] if student.discrete else [checks.action_bounds(student, fit(student), fit(scaled))]),
        checks.sight(reference(taught.observations), seen, remembered, missed_columns(taught, own, view)),
        checks.capacity(
            {widths: fit(replace(scaled, net_arch=widths, learning_rate=RATE)) for widths in sizes}, student
        ),
        checks.learning_rate({rate: fit(replace(scaled, learning_rate=rate)) for rate in rates}, student),
        checks.gradients(fit(scaled)),
    ]


def _own_units(student: Student, teacher: Teacher) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """The task's bounds, if the student's network outputs actions in the task's units and these are not [-1, 1]."""
    if student.backbone != "ppo" or teacher.discrete or ((teacher.low == -1) & (teacher.high == 1)).all():
        return None
    return tuple(teacher.low.tolist()), tuple(teacher.high.tolist())


def missed_columns(taught: Play, own: np.ndarray, view: View) -> list[int]:
    """The three hidden columns that best explain what linear regression on the student's inputs leaves of the actions.

    Args:
        taught: the teacher's episodes.
        own: the student's inputs in them ``(n, I)``.
        view: the student's view.
    """
    if view.is_full:
        return []
    hidden = [column for column in range(view.size) if column not in (view.columns or ())]
    seen = np.column_stack((own, np.ones(len(own)))).astype(np.float64)

    def residual(values: np.ndarray) -> np.ndarray:
        return values - seen @ np.linalg.lstsq(seen, values, rcond=None)[0]

    actions, others = residual(taught.actions), residual(taught.observations[:, hidden])
    others = others / np.maximum(others.std(0), 1e-8)  # a column's squared covariance is then what it alone explains
    explained = np.square(others.T @ actions / len(actions)).sum(1)
    return [hidden[i] for i in np.argsort(-explained)[:3]]


def _clipped(teacher: Teacher, taught: Play) -> float | None:
    """Fraction of the teacher's inputs clipped by its normaliser; None without one."""
    first = teacher.policy.normalisers[0] if teacher.policy.normalisers else None
    if first is None or first.mean is None or first.std is None:
        return None
    inputs = teacher.map(torch.from_numpy(taught.observations).to(teacher.device))
    return float((((inputs - first.mean) / first.std).abs() >= first.clip).double().mean())


def _repeated_outputs(teacher: Teacher, taught: Play, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Outputs at some states ``(n, A)``, again at the same states in another order, and the standard deviations."""
    states = torch.from_numpy(taught.observations[:: max(1, len(taught.observations) // REPEATED_STATES)])
    order = torch.from_numpy(stream(seed, 1, "exploration").permutation(len(states)))
    again = torch.empty(len(states), taught.actions.shape[1])
    again[order] = teacher.actions(states[order]).cpu()
    std = teacher.distribution(states)[1]
    return teacher.actions(states).cpu().numpy(), again.numpy(), None if std is None else std.cpu().numpy()


def _act(teacher: Teacher) -> Act:
    def act(observation: np.ndarray) -> np.ndarray:
        return teacher.actions(torch.from_numpy(observation).unsqueeze(0))[0].cpu().numpy()

    return act


def _load(teacher: Any, env: str | gym.Env | EnvFactory, read: ObservationMap | None, trust: bool) -> Teacher:
    if isinstance(teacher, list | tuple):
        if len(teacher) != 1:
            raise PolicyKDError(f"doctor: takes one teacher at a time, got {len(teacher)}: run it for each of them")
        teacher = teacher[0]
    if isinstance(teacher, Teacher) and read is None:
        return teacher
    return Teacher.load(teacher, env, observation_map=read, trust=trust)


def _student(
    backbone: str, net_arch: tuple[int, ...] | None, learning_rate: float | None, normalize: bool | None
) -> Student:
    """The student with the given settings, or else its backbone's defaults."""
    config: Any = find("backbone", backbone, TAUGHT_CONFIGS)()
    if learning_rate is not None:
        config = change(config, {"distill_learning_rate": learning_rate})  # checked as in a run
    return Student(
        tuple(net_arch or config.net_arch),
        getattr(config, "activation_fn", "relu"),
        config.distill_learning_rate,
        getattr(config, "normalize_observation", False) if normalize is None else normalize,
        backbone,
    )
