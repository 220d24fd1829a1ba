"""Students that learn one task from a frozen teacher."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from policykd import native
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.fields import change
from policykd.core.registry import find, name_of
from policykd.distillation.divergences import at_temperature, divergence_of
from policykd.distillation.methods import PEER_METHODS, TEACHER_METHODS, TeacherMethod
from policykd.distillation.teaching_config import TeachingConfig, taught_config
from policykd.distillation.weights import weight_of
from policykd.learners import LEARNERS, PPO, Learner, OffPolicyLearner, presets
from policykd.learners.config import Config
from policykd.memory import LabelledStates
from policykd.tasks.saved import read
from policykd.tasks.spaces import AnyEnv, DiscreteActions
from policykd.tasks.views import space_of, views_of
from policykd.teachers import TeacherScore
from policykd.teachers.observation_map import ObservationMap
from policykd.teachers.panel import Panel, TaskOf, as_teachers
from policykd.training.arguments import check_compile, check_seeds, check_threads
from policykd.training.fine_tuning import FineTuning
from policykd.training.function_checks import try_divergence, try_weight
from policykd.training.learner_choice import LearnerChoice
from policykd.training.offline import OfflineLearning
from policykd.training.recipes import fine_tune
from policykd.training.recipes.fine_tune import Span
from policykd.training.saving import OwnParts
from policykd.training.sb3_interface import explains_arguments
from policykd.training.students import RecipeAndMemories, Students
from policykd.training.teacher_checks import check_method, choose_divergence
from policykd.training.tutor import FrozenTeacher

__all__ = ["LearnerChoice", "TeacherStudent"]


class TeacherStudent(OfflineLearning, FineTuning):
    """Students of a frozen teacher, one per seed, all in one batched update.

    Args:
        env: id of a registered environment, an instance made from one, or a function that makes an instance; or a
            Gymnasium ``VectorEnv``, or a function of ``num_envs`` that makes one.
        teacher: a ``Teacher``, or anything that ``Teacher.load`` takes; a list is combined into one teacher
            (``config.several_teachers``). None: behaviour cloning of logged actions (``learn_from``).
        method: a row of ``policykd.distillation.methods.TEACHER_METHODS``, by name or as an object of your own.
        backbone: the student's policy: "ppo" (Gaussian or categorical; the default), "td3" or "ddpg" (deterministic)
            or "sac" (squashed Gaussian), or a ``Learner`` class of your own. Methods without RL train only the
            policy; the others also learn with that algorithm.
        seeds: one student per seed.
        config: settings to change as a dict, a preset's name, or the config dataclass (``teaching_config``).
        device: "auto" is CUDA where there is one.
        compile: ``torch.compile`` the update; "auto" does so if the run is long enough to repay it.
        threads: maximum number of threads of the native kernels; results do not depend on it. "auto" is torch's own
            number of threads.
        run_dir: a new folder for logs, evaluations and checkpoints; None writes nothing.
        task_of: for ``several_teachers="by_task"``: maps observations ``(B, O)`` to the index of a teacher ``(B,)``.

    Raises:
        PolicyKDError: an argument or setting is invalid, or does not fit the others; one line says which.
    """

    peers = 1

    @explains_arguments
    def __init__(
        self,
        env: AnyEnv,
        teacher: Any,
        *,
        method: str | TeacherMethod = "dagger",
        backbone: str | type[Learner] | None = None,
        seeds: Sequence[int] = (0,),
        config: str | dict[str, Any] | Config | None = None,
        device: str = "auto",
        compile: bool | Literal["auto"] = "auto",
        threads: native.Threads = "auto",
        run_dir: str | Path | None = None,
        task_of: TaskOf | None = None,
    ) -> None:
        if isinstance(method, str) and method in PEER_METHODS:
            raise PolicyKDError(f"method: {method} is for peers: use DualStudent (policykd train)")
        if method == fine_tune.METHOD.name:
            raise PolicyKDError("method: fine_tune cannot be chosen: distil with another method, then call fine_tune()")
        self.method: TeacherMethod = find("method", method, TEACHER_METHODS, TeacherMethod)
        learner_type: type[Learner] = find("backbone", backbone or "ppo", LEARNERS, (OffPolicyLearner, PPO))
        self.seeds, self.compile, self.threads = check_seeds(seeds), check_compile(compile), check_threads(threads)
        self._set_task(env, device)
        self.config = _resolve(config, learner_type)
        self._share_out()
        self.full_factory = self.factory
        observation_map = self._set_views()
        self.tuning, panel = None, None
        if teacher is not None:
            teachers = as_teachers(teacher, self.full_factory, self.env_id, observation_map)
            panel = Panel(teachers, self.teaching, learner_type is not PPO and learner_type.gaussian, task_of)
        check_method(self.method, self.teaching, learner_type, panel, isinstance(self.action_scale, DiscreteActions))
        self._build(learner_type)
        self._make_recipe(panel)
        self.write_into(run_dir)

    @property
    def method_name(self) -> str:
        """Name of the method in saved files; "fine_tune" once fine-tuning has begun."""
        return fine_tune.METHOD.name if self.tuning else name_of(self.method, TEACHER_METHODS)

    @property
    def taught_by(self) -> str:
        """The distillation method, which names the run's folders."""
        return name_of(self.method, TEACHER_METHODS)

    @property
    def teaching(self) -> TeachingConfig:
        """``config``, typed as settings of a student."""
        assert isinstance(self.config, TeachingConfig)
        return self.config

    @property
    def panel(self) -> Panel | None:
        """The teachers; None where the agent was loaded without them."""
        return self.tutor.panel

    @property
    def score(self) -> TeacherScore | None:
        """The teacher's returns on the task, once measured."""
        return self.tutor.score

    @property
    def teacher_source(self) -> str:
        """Where the teachers came from, known even if the agent was loaded without them; empty without teachers."""
        return self.tutor.source

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that identify this run, as plain values."""
        return {**super().settings, "teacher": self.teacher_source}

    def _make_recipe(self, panel: Panel | None) -> None:
        """Make the recipe by which students learn from these teachers."""
        teaching, learners = self.teaching, self.n_learners
        partial = self.factory is not self.full_factory
        self.tutor = FrozenTeacher(panel, self.collector, learners, partial, self.device)
        name = choose_divergence(self.method, teaching, self.learner_type.gaussian, panel, self.learner.discrete)
        divergence = None if name is None else at_temperature(divergence_of(name, taught=True), teaching.temperature)
        if divergence is not None and not isinstance(name, str):
            try_divergence(divergence, self.learner, learners, target_std=True)
        try_weight(weight_of(self.method.weight), self.learner, learners)
        self._take(self._students.learn(self.learner, self.method, teaching, divergence))

    @property
    def _students(self) -> Students:
        """Factory of the students' memories and recipes."""
        streams = self.streams["exploration"], self.streams["replay"]
        return Students(self.sizes, self.device, self.tutor, self.collector, *streams, self.buffer_folder)

    def _take(self, made: RecipeAndMemories) -> None:
        """Switch to this recipe and its memories."""
        self.recipe, self.memories = made.recipe, made.memories
        if isinstance(made.dataset, LabelledStates):
            self.dataset = made.dataset
        if made.rollout is not None:
            self.rollout_buffer = made.rollout
        if made.replay is not None:
            self.replay_buffer = made.replay

    def ready(self, total_timesteps: int) -> None:
        """Score the teacher once before training, then get ready as every agent does."""
        if self.tuning is None or self.teaching.anchor == "teacher":
            self.tutor.check()
            if (score := self.score_teacher()) is not None and not self.tutor.score_logged:
                self.records.scored(score)
                self.tutor.score_logged = True
        self.warn_of_answers()
        super().ready(total_timesteps)

    def gradient_steps_in(self, steps: int) -> int:
        """Approximate gradient steps that ``steps`` environment steps of each learner lead to."""
        if self.method.coupling == "alone" and self.tuning is None:
            return steps // self.teaching.round_steps * self.teaching.round_updates
        return super().gradient_steps_in(steps)

    def score_teacher(self) -> TeacherScore | None:
        """The teacher's returns on the task, acting without noise, measured once; None without a teacher.

        Raises:
            PolicyKDError: it is no better than random actions, and ``allow_weak_teacher`` is not set.
        """
        if self.score is None and self.panel is not None:
            score = self.panel.score(self.full_factory, self.teaching.teacher_episodes, self.seeds[0])
            if not (score.better_than_random or self.teaching.allow_weak_teacher):
                close = score.mean > score.random_mean
                few = f"{len(score.returns)} episodes (teacher_episodes) do not show that it is better"
                raise PolicyKDError(
                    f"teacher: {self.teacher_source} returns {score.mean:,.1f} on {self.env_id}, random actions "
                    f"{score.random_mean:,.1f}: {few if close else 'it is too weak to teach'}; to use it anyway, "
                    "set allow_weak_teacher"
                )
            self.tutor.score = score
        return self.score

    def extra_state(self) -> dict[str, Any]:
        """State of the teachers and of fine-tuning, saved in a checkpoint besides the learners."""
        score = self.score and {"returns": self.score.returns, "random_returns": self.score.random_returns}
        start, length = self.tuning or Span(0, 0)
        state = {"taught_by": self.taught_by, "fine_tune_start": start, "fine_tune_span": length, "score": score}
        return state | ({} if (kept := self.tutor.memories()) is None else {"memories": kept})

    @classmethod
    @explains_arguments
    def load(
        cls,
        path: str | Path,
        env: AnyEnv | None = None,
        device: str = "auto",
        *,
        teacher: Any = None,
        task_of: TaskOf | None = None,
        method: TeacherMethod | None = None,
        backbone: type[Learner] | None = None,
        config: dict[str, Any] | None = None,
    ) -> TeacherStudent:
        """Load an agent. One from a run folder goes on writing into that folder.

        Args:
            path: a file that ``save`` wrote, or a run folder.
            env: the environment, where it is not a registered id.
            device: where to put it.
            teacher: needed only to go on learning from it, not to act, evaluate or fine-tune. A different one than
                before is scored again, and a warning says that the data set keeps the former one's labels.
            task_of: as when it was made.
            method: the custom method it was made with, if any.
            backbone: the custom learner class it was made with, if any.
            config: custom functions it was made with, by setting.

        Raises:
            PolicyKDError: the file is missing, damaged or foreign, or a custom part is missing. No code in it is run.
        """
        own = OwnParts(method, backbone, config)
        with checkpoint.content_errors(path):
            return cls.from_state(*read(path, env), env, device, own, teacher, task_of)

    @classmethod
    def from_state(
        cls,
        path: Path,
        loaded: dict[str, Any],
        env: AnyEnv | None,
        device: str,
        own: OwnParts,
        teacher: Any = None,
        task_of: TaskOf | None = None,
    ) -> TeacherStudent:
        """Rebuild an agent from a checkpoint's content (``read``); arguments as in ``load``."""
        settings, extra = loaded["settings"], loaded["extra"]
        tuned = settings["method"] == fine_tune.METHOD.name
        parts = own.resolve({**settings, "method": extra["taught_by"] if tuned else settings["method"]})
        task = settings["env"] if env is None else env
        # These are of fine-tuning's anchor and need not fit the distillation method:
        asked = {name: parts["config"].pop(name) for name in ("divergence", "distill_schedule") if tuned}
        agent = cls(task, teacher, device=device, compile=loaded["compile"], task_of=task_of, **parts)
        score = extra["score"] and TeacherScore(settings["teacher"], settings["env"], **extra["score"])
        agent.tutor.restore(settings["teacher"], score, extra.get("memories"))
        if tuned:
            agent._tune(change(agent.config, asked), Span(extra["fine_tune_start"], extra["fine_tune_span"]), False)
        return agent._restore(path, loaded)

    @property
    def memory(self) -> str:
        """Short description of each student's memory, for the command line."""
        if "rollout" in self.memories:
            return f"rollouts of {self.n_envs} x {self.rollout_buffer.steps:,} steps each"
        return f"data set of up to {self.teaching.dataset_size:,} states each"

    def _set_views(self) -> ObservationMap | None:
        """Set what students see of the observation; returns what the teacher sees of it."""
        teaching, make = self.teaching, self.full_factory
        chosen = teaching.student_observations, teaching.teacher_observations
        view, taught = views_of(make, *chosen, teaching.observation_groups or {}, teaching.history)
        self.view = view
        if not view.is_full or view.history > 1:
            self.factory = lambda: view.wrap(make())
            self.observation_space = space_of(self.factory)
        return taught.map


def _resolve(config: str | dict[str, Any] | Config | None, learner: type[Learner]) -> Config:
    """The config dataclass of a student: its backbone's settings and those of distillation."""
    kind = taught_config(learner.name, learner.config_type)
    kept: Config = presets.resolve_config(config, kind, learner.name, presets.teaching_preset)
    return kept
