"""Combines the teachers of an agent into one, and converts their outputs to the students' units."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.core.networks import PolicyOutput
from policykd.distillation.categorical import ensemble_logits
from policykd.distillation.labels import Labels, squashed_gaussian, unsquashed_gaussian
from policykd.distillation.teaching_config import TeachingConfig
from policykd.tasks.spaces import EnvFactory
from policykd.teachers import Teacher, TeacherScore
from policykd.teachers.checks import as_indices
from policykd.teachers.observation_map import ObservationMap
from policykd.teachers.policy import Memory
from policykd.teachers.score import score
from policykd.teachers.task import check_fits, inspect_task

TaskOf = Callable[[Tensor], Tensor]
"""Selects a teacher for each state: maps observations ``(B, O)`` to indices ``(B,)`` from 0."""
Memories = list[Memory | None]
"""Hidden state of each teacher in its episodes."""


class Panel:
    """One or several frozen teachers combined into one.

    Args:
        teachers: read the task's full observation.
        config: the standard deviation to assume for them, and how to combine several.
        squashed: whether students' Gaussians are before tanh (SAC).
        task_of: for ``several_teachers="by_task"``.

    Raises:
        PolicyKDError: the rule that selects among several teachers is missing, or would not be used.
    """

    def __init__(
        self, teachers: Sequence[Teacher], config: TeachingConfig, squashed: bool, task_of: TaskOf | None
    ) -> None:
        self.teachers, self.config, self.squashed, self.task_of = list(teachers), config, squashed, task_of
        # Any state shows what kind of output they have.
        example = torch.zeros(1, self.teachers[0].observation_size)
        self.discrete = self.teachers[0].discrete
        self.copies_q_values = config.divergence == "mse" and all(t.policy.scores == "q_values" for t in self.teachers)
        """Whether they output Q-values, which are copied unchanged."""
        says = [
            t.policy.scores != "choice" if t.discrete else t.step(example, None, torch.ones(1))[1] is not None
            for t in self.teachers
        ]
        self.has_std = all(says) or (config.teacher_std is not None and not self.discrete)
        """Whether they output a probability for each action."""
        self.has_value = all(teacher.value(example) is not None for teacher in self.teachers)
        if len(self.teachers) > 1 and config.several_teachers == "best_value" and not self.has_value:
            raise PolicyKDError(
                "several_teachers: best_value needs teachers with a value: use mean or by_task, which do not"
            )
        if len(self.teachers) > 1 and config.several_teachers == "by_task" and task_of is None:
            raise PolicyKDError(
                "several_teachers: by_task needs task_of=, a function: observations (B, O) to teachers' numbers (B,)"
            )
        if self.by_environment:
            least = len(self.teachers)
            rule = f"must be at least {least}, one for each of {least} teachers by_environment"
            for name in ("n_envs", "teacher_episodes"):
                require(getattr(config, name) >= least, name, getattr(config, name), rule)
        if task_of is not None and config.several_teachers != "by_task":
            raise PolicyKDError(
                f'task_of: has no effect with several_teachers="{config.several_teachers}": use "by_task"'
            )

    @property
    def by_environment(self) -> bool:
        """Whether the environment selects among several teachers."""
        return len(self.teachers) > 1 and self.config.several_teachers == "by_environment"

    @property
    def is_stateless(self) -> bool:
        """Whether they can act at single states, without the rest of the episode."""
        return not (self.remembers or self.by_environment)

    @property
    def source(self) -> str:
        """Names of the teachers' files or objects."""
        return " + ".join(teacher.source for teacher in self.teachers)

    def score(self, env: str | EnvFactory, n_episodes: int, seed: int) -> TeacherScore:
        """Returns of the combined teachers, and of random actions from the same initial states."""
        if len(self.teachers) == 1:
            return self.teachers[0].score(env, n_episodes, seed)
        return score(self.source, env, self.player(), n_episodes, seed)

    @property
    def remembers(self) -> bool:
        """Whether any teacher depends on earlier observations of the episode."""
        return any(teacher.remembers for teacher in self.teachers)

    def keep(self, memories: Memories | None) -> list[Any] | None:
        """The teachers' memories for a checkpoint; ``restore`` restores them."""
        if memories is None:
            return None
        return [
            memory if memory is None or teacher.policy.keep is None else teacher.policy.keep(memory)
            for teacher, memory in zip(self.teachers, memories, strict=True)
        ]

    def restore(self, saved: list[Any] | None) -> Memories | None:
        """Restore the teachers' memories from a checkpoint."""
        if saved is None:
            return None
        restorers = [teacher.policy.restore or tuple for teacher in self.teachers]
        return [None if kept is None else restore(kept) for restore, kept in zip(restorers, saved, strict=True)]

    def player(self, starts: Callable[[], np.ndarray] | None = None) -> Callable[[np.ndarray], np.ndarray]:
        """A function that plays B episodes: raw observations ``(B, O)`` to actions ``(B, A)`` in [-1, 1], noise-free.

        Args:
            starts: returns where an episode starts at the current step, ``(B,)``; None: all at the first call.
        """
        memories: Memories | None = None

        def act(observations: np.ndarray) -> np.ndarray:
            nonlocal memories
            begun = np.zeros(len(observations)) if starts is None else starts().astype(np.float32)
            rows, envs = torch.from_numpy(observations).unsqueeze(0), torch.arange(len(observations))
            packed, memories = self.recall(rows, memories, torch.from_numpy(begun).unsqueeze(0), envs)
            return Labels.unpack(packed, self.discrete).policy.actions[0].numpy()

        return act

    def answer(self, observations: Tensor, envs: Tensor | None = None) -> Tensor:
        """Their outputs at raw observations of the task ``(K, B, O)``, packed: ``(K, B, W)`` (``Labels``).

        Raises:
            PolicyKDError: one of them has memory and cannot act at single states; or as for ``recall``.
        """
        for teacher in self.teachers:
            if teacher.remembers:
                teacher.distribution(observations[0, :1])  # which refuses
        return self.recall(observations, None, torch.ones(observations.shape[:-1]), envs)[0]

    @torch.no_grad()
    def recall(
        self, observations: Tensor, memories: Memories | None, starts: Tensor, envs: Tensor | None = None
    ) -> tuple[Tensor, Memories]:
        """Their packed outputs at the next observations ``(K, B, O)`` of K x B episodes, and their next memories.

        Args:
            observations: raw observations.
            memories: what the last call returned; None at first.
            starts: 1 where an episode starts ``(K, B)``.
            envs: index of each state's environment among a student's ``(B,)``; None if they come from no environment.

        Raises:
            PolicyKDError: the environment selects the teacher, and ``envs`` is None.
        """
        if self.by_environment and envs is None:
            raise PolicyKDError(
                "several_teachers: by_environment needs environments, but these states have none: use mean or by_task"
            )
        flat, begun = observations.reshape(-1, observations.shape[-1]), starts.reshape(-1)
        answers, kept = [], []
        for teacher, memory in zip(self.teachers, memories or [None] * len(self.teachers), strict=True):
            mean, std, memory = teacher.step(flat, memory, begun)
            kept.append(memory)
            answers.append(self._to_student_units(teacher, flat, mean, std))
        policy, value = answers[0] if len(answers) == 1 else self._decide(answers, flat, envs)
        labels = Labels(policy, value).pack()
        return labels.view(*observations.shape[:-1], -1).to(observations.device), kept

    def _to_student_units(self, teacher: Teacher, observations: Tensor, mean: Tensor, std: Tensor | None) -> Labels:
        """One teacher's output: its Gaussian in the students' units, or logits."""
        value = teacher.value(observations) if self.has_value else None
        if teacher.discrete:
            sharpened = teacher.policy.scores == "q_values" and not self.copies_q_values
            logits = mean / self.config.q_temperature if sharpened else mean
            return Labels(PolicyOutput.categorical(logits), torch.zeros(len(mean)).to(mean) if value is None else value)
        actions, squashed = (mean.tanh() if teacher.squashed else mean.clamp(-1, 1)), teacher.squashed
        if std is None:
            std, mean, squashed = torch.full_like(mean, self.config.teacher_std or 0.0), actions, False
        std = std * self.config.variance_scale**0.5
        if squashed and not self.squashed:
            mean, std = squashed_gaussian(mean, std)
        elif self.squashed and not squashed:
            mean, std = unsquashed_gaussian(mean, std)
        return Labels(PolicyOutput(actions, mean, std), torch.zeros(len(mean)).to(mean) if value is None else value)

    def _decide(self, answers: list[Labels], observations: Tensor, envs: Tensor | None) -> Labels:
        values = torch.stack([answer.value for answer in answers])
        several = [torch.stack(parts) for parts in zip(*(parts_of(a.policy) for a in answers), strict=True)]
        if self.config.several_teachers == "mean":
            if self.discrete:
                mean = several[0].mean(0) if self.copies_q_values else ensemble_logits(several[0])
                return Labels(PolicyOutput.categorical(mean), values.mean(0))
            actions, means, stds = several
            # The Gaussian of the mixture's mean and variance.
            spread = (stds.square() + means.square()).mean(0) - means.mean(0).square()
            return Labels(PolicyOutput(actions.mean(0), means.mean(0), spread.clamp_min(0).sqrt()), values.mean(0))
        if self.config.several_teachers == "best_value":
            best = values.argmax(0)
        elif self.config.several_teachers == "by_environment":
            assert envs is not None
            best = (envs % len(values)).repeat(len(observations) // len(envs)).to(values.device)
        else:
            assert self.task_of is not None
            best = as_indices(self.task_of(observations.clone()), len(observations), len(several[0]))
        rows = torch.arange(len(best), device=best.device)
        chosen = [part[best, rows] for part in several]
        policy = PolicyOutput.categorical(*chosen) if self.discrete else PolicyOutput(*chosen)
        return Labels(policy, values[best, rows])


def parts_of(policy: PolicyOutput) -> list[Tensor]:
    """The parts of an output that are present; logits alone, if any, since the action follows from them."""
    return [part for part in (policy[:3] if policy.logits is None else (policy.logits,)) if part is not None]


def as_teachers(teacher: Any, env: EnvFactory, env_id: str, observation_map: ObservationMap | None) -> list[Teacher]:
    """Load one teacher, or a list of them, and check them against the task.

    Args:
        teacher: one or several.
        env: makes the task.
        env_id: its name.
        observation_map: the part of the observation they read (``Teacher.load``); None keeps each teacher's own.
    """
    several = list(teacher) if isinstance(teacher, list | tuple) else [teacher]
    if not several:
        raise PolicyKDError("teacher: the list of teachers is empty")
    teachers = [
        one
        if isinstance(one, Teacher) and observation_map is None
        else Teacher.load(one, env, observation_map=observation_map)
        for one in several
    ]
    sizes = inspect_task(env).sizes
    for one in teachers:
        check_fits(one.source, one.sizes, sizes, env_id)
    return teachers
