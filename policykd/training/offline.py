"""What students learn at logged states: the teacher's answers to them, or what was done there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from policykd.core.compute import check_autograd
from policykd.core.errors import PolicyKDError
from policykd.core.fields import require
from policykd.core.interrupts import Interrupts
from policykd.core.networks import state_tensors
from policykd.distillation.labels import Labels
from policykd.memory.labelled import LabelledStates
from policykd.memory.logged import LoggedStates
from policykd.tasks.spaces import ActionScale, DiscreteActions, EnvFactory
from policykd.teachers.panel import Panel
from policykd.teachers.task import TaskSpaces, inspect_task
from policykd.training import compiling
from policykd.training.agent import Agent
from policykd.training.arguments import check_int
from policykd.training.faults import save_on_failure
from policykd.training.progress_lines import make_bar
from policykd.training.recipes.imitation import Imitation
from policykd.training.recipes.recurrent_imitation import RecurrentImitation

if TYPE_CHECKING:
    from policykd.distillation.teaching_config import TeachingConfig
    from policykd.training.recipes.fine_tune import Span
    from policykd.training.tutor import FrozenTeacher

log = logging.getLogger("policykd")
S = TypeVar("S", bound="OfflineLearning")
CHUNK = 4_096
"""States that a teacher is asked at once."""
SAME = 0.01
"""Share of answers in which a teacher may differ from what was kept of it: it is computed in another order."""
STD = 0.1
"""Standard deviation that logged continuous actions are taken to have, in actions scaled to [-1, 1]."""


def read(source: Any, task: TaskSpaces, most: int) -> LoggedStates:
    """Logged states of a task.

    Args:
        source: whatever ``LoggedStates.read`` takes.
        task: whose they must be.
        most: how many states can be kept.

    Raises:
        PolicyKDError: they cannot be read, are of another task, or are too many.
    """
    logged, size = LoggedStates.read(source, task.space), task.observation_size
    count, width = logged.observations.shape
    if width != size:
        raise PolicyKDError(f"states: {logged.source} has {width} observations, and {task.env_id} has {size}")
    require(count <= most, "dataset_size", most, f"keeps fewer than {count:,} states")
    return logged


def answers(
    states: LoggedStates,
    panel: Panel | None,
    scale: ActionScale | DiscreteActions,
    std: float | None,
    squashed: bool = False,
) -> Tensor:
    """Packed answers ``(n, W)`` at logged states.

    Args:
        states: whole observations of the task.
        panel: the teachers; None: the actions in the data are the answers.
        scale: the task's actions.
        std: of actions without a teacher.
        squashed: whether students' Gaussians are before tanh.

    Raises:
        PolicyKDError: there is neither a teacher nor an action that could stand for one; or a teacher remembers, and
            which states are of one episode is not known.
    """
    if panel is not None:
        rows = torch.from_numpy(states.observations).unsqueeze(0)
        if panel.remembers:
            return _episode_answers(panel, rows, states.starts())
        return torch.cat([panel.answer(part) for part in rows.split(CHUNK, dim=1)], dim=1).squeeze(0)
    actions = torch.from_numpy(states.as_learner_actions(scale))
    return Labels.of_actions(actions, isinstance(scale, DiscreteActions), STD if std is None else std, squashed).pack()


def _episode_answers(panel: Panel, rows: Tensor, starts: np.ndarray) -> Tensor:
    """Packed answers ``(n, W)`` of teachers that remember, who follow all episodes of ``rows (1, n, O)`` together."""
    begins = np.flatnonzero(starts)
    lengths = np.diff(begins, append=len(starts))
    memories, given = None, None
    for t in range(lengths.max()):
        places, running = begins + np.minimum(t, lengths - 1), t < lengths
        said, memories = panel.recall(rows[:, places], memories, torch.full((1, len(begins)), float(t == 0)))
        given = torch.empty(len(starts), said.shape[-1]) if given is None else given
        given[places[running]] = said[0, np.flatnonzero(running)]
    assert given is not None
    return given


class OfflineLearning(Agent):
    """Learning from logged states, of an agent of students."""

    if TYPE_CHECKING:
        full_factory: EnvFactory
        tutor: FrozenTeacher
        tuning: Span | None

        @property
        def panel(self) -> Panel | None: ...  # noqa: D102

        @property
        def teaching(self) -> TeachingConfig: ...  # noqa: D102

    def learn_from(self: S, states: Any, gradient_steps: int = 10_000, progress_bar: bool = False) -> S:
        """Copy the teacher at logged states, without a step of an environment (offline distillation).

        The states join the data set; the learning rate falls over these gradient steps. Without a teacher (None) what
        was done at the states is copied (behaviour cloning). Every ``log_freq`` gradient steps the logs get a row
        (``offline/``); in a run folder an evaluation and a checkpoint follow.

        Args:
            states: whatever ``LoggedStates.read`` takes: an ``.npz`` or HDF5 file (D4RL, Minari), a replay buffer of
                SB3, ``Demonstrations``, a mapping of arrays; whole observations of the task, or its dicts of them.
                Students with a memory, and teachers that remember, need those that know their episodes.
            gradient_steps: of every student.
            progress_bar: show a live progress bar with the latest loss.

        Raises:
            PolicyKDError: the method needs environments, or the states are of another task or more than
                ``dataset_size``; or the agent was loaded without its teacher, or should copy values without one; or
                training diverged, a file could not be written, or another process writes into the run's folder.
        """
        check_autograd(self.learner.actor)
        recipe = self.recipe
        if not isinstance(recipe, Imitation):
            raise PolicyKDError(
                f"learn_from: {self.method_name} has to act in environments: use dagger, bc or student_driven"
            )
        gradient_steps = check_int("gradient_steps", gradient_steps)
        if self.tutor.source:  # loaded without the teacher, whom logged actions must not stand for
            self.tutor.check()
        values = 0.0 if self.panel is not None else self.teaching.distill_value_coef
        require(values == 0, "distill_value_coef", values, "needs a teacher with a value: logged actions have none")
        logged = read(states, inspect_task(self.full_factory), recipe.dataset.capacity)
        squashed = self.learner_type.gaussian and self.learner_type.memory == "replay"
        given = answers(logged, self.panel, self.action_scale, self.teaching.teacher_std, squashed)
        self.warn_of_answers()
        starts = logged.starts() if self.remembers else np.ones(len(logged.observations), bool)
        inputs = torch.from_numpy(self.view.stack_history(logged.observations, starts))
        seen, given = (part.to(self.device).expand(self.n_learners, -1, -1) for part in (inputs, given))
        with save_on_failure(self.folder, self.save, lambda: recipe.n_updates):
            if self.folder is not None:
                self.get_env()  # what cannot be gone on with ends here, before the work
            if isinstance(recipe, RecurrentImitation):
                recipe.take_episodes(seen, given, torch.from_numpy(starts).to(self.device, torch.float32))
            else:
                recipe.take(seen, given)
            self._fit(recipe, gradient_steps, progress_bar)
        return self

    def warn_of_answers(self) -> None:
        """Say once, where learning goes on, that the data set holds answers of others than those who teach now."""
        before, self.tutor.before = self.tutor.before, None
        held = getattr(self.memories.get("dataset"), "size", 0)
        if before is None or not held or getattr(self.recipe, "tutor", None) is not self.tutor:
            return
        if (gap := self.label_mismatch()) is None or gap > SAME:
            whose = f"the labels of {before}" if before else "the logged actions"
            log.warning(
                "%s is the teacher from now on, but %s states of the data set keep %s: start a new run to learn from "
                "it alone",
                *(self.tutor.source, f"{held:,}", whose),
            )

    @torch.no_grad()
    def label_mismatch(self, states: int = 256) -> float | None:
        """Share of states at which the teacher's action is not the one that the data set keeps; None where it is open.

        Args:
            states: the first so many of the first student's are asked.
        """
        dataset, panel = self.memories.get("dataset"), self.panel
        if panel is None or panel.remembers or not isinstance(dataset, LabelledStates) or self.tuning is not None:
            return None  # fine-tuned: the answers may be those of the students before
        if not self.view.is_full or self.view.history > 1 or not dataset.size:
            return None
        observations, kept = dataset.storage[:1, : min(states, dataset.size)].cpu().split(dataset.sections, dim=-1)
        given, before = (Labels.unpack(x, self.learner.discrete).policy for x in (panel.answer(observations), kept))
        return float(((given.actions - before.actions).abs() > 1e-3).any(-1).double().mean())

    def _fit(self, recipe: Imitation, gradient_steps: int, progress_bar: bool) -> None:
        """The gradient steps, and in a run folder an evaluation and a checkpoint."""
        with self.computing(), make_bar(gradient_steps, 0, progress_bar, "gradient steps") as bar:

            def log(info: dict[str, Tensor], updates: int) -> None:
                self.records.fitted(info, recipe.n_updates)
                bar.set_postfix_str(f"loss {info['distill/loss'].mean():.3g}", refresh=False)
                bar.update(updates)

            if self.compile in ("auto", "later") and compiling.is_worth_compiling(gradient_steps, self.device):
                self.compile = True
            self._compile()
            recipe.fit(gradient_steps, self.config.log_freq, log)
        if not all(values.isfinite().all() for values in state_tensors(self.learner).values()):
            raise PolicyKDError(
                f"learn_from: weights are not finite after {gradient_steps:,} gradient steps: training diverged; train "
                "again with a lower distill_learning_rate, or check the states"
            )
        if self.folder is not None:
            self._evaluate(Interrupts())
            self._checkpoint()
