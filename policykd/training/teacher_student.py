"""Students that learn one task from a frozen teacher: the agent that a user trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from policykd_envs.wrappers import SelectObservation
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor

from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.distillation.labels import Labels
from policykd.distillation.methods import METHODS, TEACHER_METHODS, Method
from policykd.distillation.teaching_config import TAUGHT_CONFIGS, TeachingConfig
from policykd.learners import LEARNERS, PPO
from policykd.learners.config import Config, OffPolicyConfig, PPOConfig
from policykd.learners.presets import teaching_preset
from policykd.memory import LabelledStates, Rollout, SharedReplay
from policykd.tasks.spaces import EnvFactory, check_spaces, short_id
from policykd.teachers import TeacherScore
from policykd.teachers.panel import Panel, TaskOf, as_teachers, check_method, choose_divergence
from policykd.training import arguments
from policykd.training.agent import Agent, LearnerChoice, Memory
from policykd.training.arguments import check_seeds, known
from policykd.training.loop import write_log
from policykd.training.recipes import fine_tune, imitation, taught_replay, taught_rollouts
from policykd.training.recipes.imitation import ImitationUpdate
from policykd.training.run_folder import RunFolder

__all__ = ["LearnerChoice", "TeacherStudent"]


class TeacherStudent(Agent):
    """Students of a frozen teacher, one per seed, all in one batched update.

    Args:
        env: id of a registered environment, an instance made from one, or a function that makes an instance.
        teacher: a ``Teacher``, or anything that ``Teacher.load`` takes; a list of several teach as one
            (``config.several_teachers``).
        method: a row of ``policykd.distillation.methods.TEACHER_METHODS``.
        backbone: what a student is: "ppo" (Gaussian; the default), "td3" or "ddpg" (deterministic) or "sac" (squashed
            Gaussian). Methods without RL train its policy alone; the others also learn with that algorithm.
        seeds: one student per seed.
        config: changed settings as a dict, a preset's name, or the whole dataclass (``teaching_config``).
        device: "auto" is CUDA where there is one.
        compile: ``torch.compile`` the update; "auto" where it pays for the length of the run.
        run_dir: a new folder for logs, evaluations and checkpoints; None writes nothing.
        task_of: which of several teachers is right, observations ``(B, O)`` to numbers ``(B,)``, for "by_task".

    Raises:
        PolicyKDError: anything of this cannot work; the text is one line.
    """

    peers = 1

    def __init__(
        self,
        env: str | gym.Env | EnvFactory,
        teacher: Any,
        *,
        method: str = "dagger",
        backbone: str | None = None,
        seeds: Sequence[int] = (0,),
        config: str | dict[str, Any] | Config | None = None,
        device: str = "auto",
        compile: bool | Literal["auto"] = "auto",
        run_dir: str | Path | None = None,
        task_of: TaskOf | None = None,
    ) -> None:
        if method in METHODS and method not in TEACHER_METHODS:
            raise PolicyKDError(f"method: {method} is for peers: use DualStudent (policykd train)")
        self.method_name = known("method", method, TEACHER_METHODS)
        if method == "fine_tune" and teacher is not None:
            raise PolicyKDError("method: fine_tune is begun by fine_tune(), after distillation with another method")
        self.backbone = known("backbone", backbone or "ppo", LEARNERS)
        self.seeds = check_seeds(seeds)
        self._set_task(env, device)
        self.config = arguments.resolve_config(config, TAUGHT_CONFIGS[self.backbone], self.backbone, teaching_preset)
        self.full_factory = self.factory
        if self.teaching.student_observations is not None:
            self._blindfold(self.teaching.student_observations)
        self.compile = compile
        self.panel: Panel | None = None
        self.teacher_source = ""
        self.answers: Tensor | None = None
        self.taught_by, self.fine_tune_start, self.fine_tune_span = method, 0, 0
        self.score: TeacherScore | None = None
        if teacher is not None:
            self._set_teacher(teacher, task_of)
        check_method(method, self.teaching, self.backbone, self.panel)
        self._build()
        self._create_folder(run_dir)

    @property
    def method(self) -> Method:
        """The row of the table."""
        return METHODS[self.method_name]

    @property
    def teaching(self) -> TeachingConfig:
        """The settings of teaching, which are part of ``config``."""
        assert isinstance(self.config, TeachingConfig)
        return self.config

    @property
    def on_policy(self) -> bool:
        """Whether students learn with RL from rollouts of their own."""
        return isinstance(self.config, PPOConfig) and self.method.coupling != "alone"

    @property
    def environment_reward(self) -> bool:  # type: ignore[override]
        """Whether the task's rewards count."""
        asked = self.teaching.environment_reward
        return self.method.environment_reward if asked is None else asked

    @property
    def n_envs(self) -> int:
        """Training environments N of each learner."""
        return self.teaching.n_envs

    @property
    def learning(self) -> ModuleType:
        """How a step is collected and learnt from."""
        if self.method.coupling == "alone":
            return imitation
        return taught_rollouts if self.on_policy else taught_replay

    @property
    def divergence(self) -> str | None:
        """How far apart student and teacher are, by name; None where the teacher speaks through rewards alone."""
        return choose_divergence(self.method, self.teaching, self.backbone, self.panel)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes this run what it is, as plain values."""
        return {**super().settings, "teacher": self.teacher_source}

    def make_memories(self, observation_size: int, action_size: int) -> dict[str, Memory]:
        """The data set of answered states; or a rollout with answers; or the data set beside a replay."""
        config, sizes, learners = self.config, (observation_size, action_size), self.n_learners
        labels = Labels.width(action_size)
        if self.on_policy:
            assert isinstance(config, PPOConfig)
            self.rollout_buffer = Rollout(config.n_steps, config.n_envs, *sizes, learners, labels)
            return {"rollout": self.rollout_buffer}
        self.dataset = LabelledStates(self.teaching.dataset_size, sizes[0], labels, learners, self.device)
        memories: dict[str, Memory] = {"dataset": self.dataset}
        if self.method.coupling != "alone":
            assert isinstance(config, OffPolicyConfig)
            self.replay_buffer = SharedReplay(config.buffer_size, *sizes, learners, 1, self.device)
            memories["replay"] = self.replay_buffer
        return memories

    def make_update(self, compiled: bool) -> Any:
        """Put students, method and memory together for training."""
        learner, common = self.learner, (self.sampling, compiled)
        if self.method.coupling == "alone":
            assert self.divergence is not None
            method, teaching = self.method, self.teaching
            self.update = ImitationUpdate(learner, method, teaching, self.dataset, self.divergence, *common)
        elif isinstance(learner, PPO):
            self.update = taught_rollouts.TaughtRolloutUpdate(self, learner, *common)
        else:
            self.update = taught_replay.TaughtUpdate(self, learner, *common)
        return self.update

    def prepare_update(self, total_timesteps: int) -> None:
        """Score the teacher, once, before anything is learnt; then decide whether to compile."""
        if self.panel is None and self.method.source == "teacher":
            raise PolicyKDError(f"teacher: give the teacher ({self.teacher_source}) to go on: load(path, teacher=...)")
        if self.score is None and (score := self.score_teacher()) is not None:
            row = {"teacher/mean_reward": score.mean, "teacher/random_reward": score.random_mean}
            write_log(self, [row] * self.n_learners, {})
        super().prepare_update(total_timesteps)

    def gradient_steps_in(self, steps: int) -> int:
        """About how many gradient steps follow from so many environment steps of each learner."""
        if self.method.coupling == "alone":
            return steps // self.teaching.round_steps * self.teaching.round_updates
        return super().gradient_steps_in(steps)

    def score_teacher(self) -> TeacherScore | None:
        """The teacher's returns on the task, without noise, measured once.

        Raises:
            PolicyKDError: it is no better than random actions, and ``allow_weak_teacher`` is not set.
        """
        if self.score is not None or self.panel is None:
            return self.score
        score = self.panel.score(self.full_factory, self.teaching.teacher_episodes, seed=self.seeds[0])
        if not (score.better_than_random or self.teaching.allow_weak_teacher):
            raise PolicyKDError(
                f"teacher: {self.teacher_source} returns {score.mean:,.1f} on {self.env_id}, random actions "
                f"{score.random_mean:,.1f}: it has nothing to teach; allow_weak_teacher learns from it all the same"
            )
        self.score = score
        return score

    def ask(self, observations: Tensor) -> Tensor:
        """The teacher's packed answers at the latest states, of which students see ``observations (K, N, O)``."""
        if self.method.source == "itself":
            return self.update.answer_as_before(observations)
        assert self.panel is not None
        full = self.last_full_observations
        if full is not None:
            observations = torch.from_numpy(full).to(self.device).view(self.n_learners, self.n_envs, -1)
        return self.panel.answer(observations)

    def latest_answers(self) -> Tensor:
        """The teacher's packed answers ``(K, N, W)`` at the latest states, asked for once."""
        if self.answers is None:
            assert self.last_observations is not None
            shape = self.n_learners, self.n_envs, -1
            self.answers = self.ask(torch.from_numpy(self.last_observations).to(self.device).view(shape))
        return self.answers

    def teacher_value(self, info: dict[str, Any]) -> float:
        """The teacher's value of the state that ended an episode, from the ``info`` of its last step."""
        assert self.panel is not None
        observation = np.asarray(info.get("full_observation", info["terminal_observation"]), np.float32)
        return float(Labels.unpack(self.panel.answer(torch.from_numpy(observation).view(1, 1, -1))).value)

    @property
    def last_full_observations(self) -> np.ndarray | None:
        """What the teacher sees of the latest states, where the student sees only a part of it: ``(K * N, O)``."""
        if self.teaching.student_observations is None:
            return None
        envs = self.get_env().envs
        return np.stack([env.get_wrapper_attr("full_observation") for env in envs]).astype(np.float32)

    def view(self, observation: np.ndarray) -> np.ndarray:
        """What students see of the task's observations ``(..., O)``."""
        columns = self.teaching.student_observations
        return observation if columns is None else observation[..., list(columns)]

    def fine_tune(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        progress_bar: bool = False,
        config: dict[str, Any] | None = None,
    ) -> TeacherStudent:
        """Go on from a distilled student with PPO on the task's reward, without losing what it has learnt.

        See ``policykd.training.recipes.fine_tune`` for how.

        Args:
            total_timesteps: environment steps of each student.
            callback: as in ``learn``.
            progress_bar: as in ``learn``.
            config: settings to change, such as critic_steps, fine_tune_std, fixed_std_steps, anchor_steps.

        Raises:
            PolicyKDError: the student has not PPO's Gaussian policy.
        """
        fine_tune.begin(self, total_timesteps, config or {})
        return self.learn(total_timesteps, callback, progress_bar)

    @property
    def fine_tuned_steps(self) -> int:
        """Environment steps since fine-tuning began; 0 before."""
        return self.num_timesteps - self.fine_tune_start if self.method_name == "fine_tune" else 0

    def _folder(self, path: str | Path) -> RunFolder:
        return RunFolder(path, f"{self.taught_by}-{self.backbone}", short_id(self.env_id), self.n_learners)

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the learners."""
        names = ("taught_by", "fine_tune_start", "fine_tune_span")
        score = self.score and {"returns": self.score.returns, "random_returns": self.score.random_returns}
        return {**{name: getattr(self, name) for name in names}, "score": score}

    @classmethod
    def load(
        cls,
        path: str | Path,
        env: str | gym.Env | EnvFactory | None = None,
        device: str = "auto",
        *,
        teacher: Any = None,
        task_of: TaskOf | None = None,
    ) -> TeacherStudent:
        """Read an agent back. A run's own checkpoint goes on writing into its run folder.

        Args:
            path: a file that ``save`` wrote, or a run folder.
            env: the environment, where it is not a registered id.
            device: where to put it.
            teacher: needed to go on learning from it; to act, evaluate and fine-tune no teacher is needed.
            task_of: as when it was made.

        Raises:
            PolicyKDError: the file is missing, damaged or foreign; nothing of it is run.
        """
        with checkpoint.understood(path):
            return cls.from_state(*cls.read(path, env), env, device, teacher, task_of)

    @classmethod
    def from_state(
        cls,
        path: Path,
        loaded: dict[str, Any],
        env: str | gym.Env | EnvFactory | None,
        device: str,
        teacher: Any = None,
        task_of: TaskOf | None = None,
    ) -> TeacherStudent:
        """The agent of a checkpoint's content (``Agent.read``)."""
        settings = loaded["settings"]
        tuned = settings["method"] == "fine_tune"
        agent = cls(
            settings["env"] if env is None else env,
            None if tuned else teacher,
            method=settings["method"],
            backbone=settings["backbone"],
            seeds=settings["seeds"],
            config=settings["config"],
            device=device,
            compile=loaded["compile"],
            task_of=task_of,
        )
        if tuned and teacher is not None:  # not needed to go on, but to compare
            agent._set_teacher(teacher, task_of)
        agent.teacher_source = settings["teacher"]
        score = loaded["extra"].pop("score")
        agent.score = score and TeacherScore(settings["teacher"], settings["env"], **score)
        for name, value in loaded["extra"].items():
            setattr(agent, name, value)
        return agent._restore(path, loaded)

    @property
    def memory(self) -> str:
        """What each student remembers, in some words."""
        if self.on_policy:
            assert isinstance(self.config, PPOConfig)
            return f"rollouts of {self.n_envs} x {self.config.n_steps:,} steps each"
        return f"data set of up to {self.dataset.capacity:,} states each"

    def _set_teacher(self, teacher: Any, task_of: TaskOf | None) -> None:
        teachers = as_teachers(teacher, self.full_factory, self.env_id)
        self.panel = Panel(teachers, self.teaching, self.backbone == "sac", task_of)
        self.teacher_source = self.panel.source

    def _blindfold(self, columns: tuple[int, ...]) -> None:
        """Show students some columns of the observation only; the teacher goes on seeing all of them."""
        make = self.full_factory

        def partial() -> gym.Env:
            return SelectObservation(make(), columns)

        self.factory = partial
        try:
            probe = partial()
        except ValueError as error:
            raise PolicyKDError(f"student_observations: {error}") from None
        self.observation_space = check_spaces(probe)[0]
        probe.close()
