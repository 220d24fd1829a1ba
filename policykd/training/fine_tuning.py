"""Fine-tuning: distilled students continue with RL on the task's reward."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from stable_baselines3.common.type_aliases import MaybeCallback

from policykd.core.errors import PolicyKDError
from policykd.core.fields import change, require
from policykd.distillation.teaching_config import TeachingConfig
from policykd.learners import PPO, OffPolicyLearner
from policykd.learners.config import Config
from policykd.training import snapshot
from policykd.training.agent import Agent
from policykd.training.arguments import check_int, check_precision
from policykd.training.faults import save_on_failure
from policykd.training.function_checks import try_divergence
from policykd.training.recipes import fine_tune_replay
from policykd.training.recipes.fine_tune import Anchor, Span
from policykd.training.recipes.fine_tune_replay import FineTuneOnReplay
from policykd.training.recipes.recurrent_imitation import RecurrentImitation
from policykd.training.recipes.recurrent_rollouts import RecurrentRollouts
from policykd.training.sb3_interface import as_callback, explains_arguments
from policykd.training.teacher_checks import check_tunable

if TYPE_CHECKING:
    from policykd.teachers import TeacherScore
    from policykd.teachers.panel import Panel
    from policykd.training.students import RecipeAndMemories, Students
    from policykd.training.tutor import FrozenTeacher

log = logging.getLogger("policykd")
SEEN = "n_envs", "student_observations", "observation_groups", "history"
STUDENTS = *SEEN, "gru", "net_arch", "network", "activation_fn", "layer_norm"
"""Settings that make the students what they are, and cannot change when fine-tuning begins."""
OF_PPO = ("critic_network", "normalize_observation")
"""Beside them, PPO's: its learners stay, where those off policy get new critics."""
TEACHERS = (
    "teacher_observations",
    "several_teachers",
    "teacher_std",
    "variance_scale",
    "q_temperature",
    "dataset_size",
)
"""Settings of what teachers answer, and of the data set that holds their answers."""
S = TypeVar("S", bound="FineTuning")


class FineTuning(Agent):
    """Adds ``fine_tune`` to an agent whose students are distilled."""

    tuning: Span | None
    """Start and length of fine-tuning; None before it begins."""

    if TYPE_CHECKING:

        @property
        def panel(self) -> Panel | None: ...  # noqa: D102

        @property
        def _students(self) -> Students: ...

        tutor: FrozenTeacher

        def score_teacher(self) -> TeacherScore | None: ...  # noqa: D102

        def _take(self, made: RecipeAndMemories) -> None: ...

    @property
    def fine_tuned_steps(self) -> int:
        """Environment steps since fine-tuning began; 0 before."""
        return 0 if self.tuning is None else self.num_timesteps - self.tuning.start

    @explains_arguments
    def fine_tune(
        self: S,
        total_timesteps: int,
        callback: MaybeCallback = None,
        progress_bar: bool = False,
        config: dict[str, Any] | None = None,
    ) -> S:
        """Continue with RL on the task's reward from the distilled students, without forgetting what was distilled.

        See ``policykd.training.recipes.fine_tune`` (PPO) and ``fine_tune_replay`` (DDPG, TD3, SAC) for how.

        Args:
            total_timesteps: environment steps of each student.
            callback: as in ``learn``.
            progress_bar: as in ``learn``.
            config: settings to change, also for later calls, such as critic_steps, anchor, anchor_steps,
                trial_episodes, fine_tune_std.

        Raises:
            PolicyKDError: a setting cannot change any more or does not fit the anchor, or the teacher is wanted and not
                there, or no better than random actions; or another process writes into the run's folder; nothing has
                changed.
        """
        total_timesteps = check_int("total_timesteps", total_timesteps, 0)
        changed, by_teacher = config or {}, self.panel is not None and not isinstance(self.learner, PPO)
        values = changed.get("distill_value_coef", 0.0)
        require(
            not values,
            "distill_value_coef",
            values,
            "does not apply to fine_tune: its critics learn from rewards alone",
        )
        pays = changed.get("environment_reward") is not False
        require(pays, "environment_reward", False, "does not apply to fine_tune: it learns from the task's reward")
        begins = self.tuning is None
        chosen = fine_tune_replay.settings(change(self.config, changed), changed, by_teacher, begins)
        tuned = change(self.config, {**changed, **chosen})
        assert isinstance(tuned, TeachingConfig)
        for name in (*STUDENTS, *(OF_PPO if isinstance(self.learner, PPO) else ()), *TEACHERS):
            kept = getattr(tuned, name) == getattr(self.config, name)
            require(kept, name, getattr(tuned, name), "cannot change once fine-tuning has begun: leave it as it is")
        check_precision(tuned, self.device)
        if callable(tuned.divergence):
            try_divergence(tuned.divergence, self.learner, self.n_learners, target_std=True)
        with save_on_failure(
            self.folder, self.save, lambda: self.num_timesteps
        ):  # what is refused is before anything changes
            callback = as_callback(callback)
            if tuned.anchor == "teacher" and not isinstance(self.learner, PPO):
                self.tutor.check()
                self.score_teacher()
        self._tune(tuned, Span(self.num_timesteps, total_timesteps), fresh=True)
        self.run.restart_schedules()
        if 0 < total_timesteps <= tuned.critic_steps:
            log.warning(
                "fine_tune: these %s steps train only the critics (critic_steps=%s), so the students do not change: "
                "train for more steps, or lower critic_steps",
                *(f"{total_timesteps:,}", f"{tuned.critic_steps:,}"),
            )
        self.learn(total_timesteps, callback, progress_bar)
        if total_timesteps:
            self.warn_of_unchanged()
        return self

    def warn_of_unchanged(self) -> None:
        """Name the students of whom nothing new is handed out, so that nobody takes them for fine-tuned ones."""
        recipe = self.recipe
        trials = recipe.trials if isinstance(recipe, FineTuneOnReplay) and recipe.critics_fitted else None
        if trials is None:
            return
        if stayed := np.flatnonzero(trials.replaced == 0).tolist():
            whose = f"student {stayed[0]} is" if len(stayed) == 1 else f"students {', '.join(map(str, stayed))} are"
            log.warning(
                "fine_tune: %s unchanged: no later policy had a higher return over %d full episodes (more steps try "
                "more policies; trial_episodes=0 keeps the last one, untested)",
                *(whose, trials.episodes),
            )

    def _tune(self, config: Config, span: Span, fresh: bool) -> None:
        """Replace the recipe by that of fine-tuning; off policy also the learners, by new ones with the same actors."""
        learner, known, before = self.learner, getattr(self, "dataset", None), self.recipe
        assert isinstance(config, TeachingConfig)
        if isinstance(getattr(before, "tutor", None), Anchor):
            known = None  # an earlier fine-tuning's answers: the students' own
        check_tunable(config, self.learner_type, self.panel, learner.discrete)
        drawn = snapshot.streams_state(self.streams)
        try:
            if isinstance(self.learner, OffPolicyLearner):
                learner = self._new_learner(config)
                if fresh:
                    assert isinstance(learner, OffPolicyLearner)
                    fine_tune_replay.copy_students(learner, self.learner, config.fine_tune_std)
            made = self._students.tune(learner, config, span, known, fresh)
        except PolicyKDError:  # new networks were drawn, and there is no room for the replay
            snapshot.restore_streams(self.streams, drawn)
            raise
        if isinstance(before, RecurrentImitation | RecurrentRollouts) and isinstance(made.recipe, RecurrentRollouts):
            made.recipe.resume_episodes(before.hidden.state)  # episodes go on
        if config.anchor != "teacher":
            self.tutor.forget()
        self._take(made)
        self.learner, self.config, self.tuning = learner, config, span
