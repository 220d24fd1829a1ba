"""Learning without rewards: someone acts, the teacher says what it would do, and the students copy (BC, DAgger)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.seeding import standard_normal
from policykd.distillation.divergences import TEACHER_DIVERGENCES
from policykd.distillation.labels import Labels
from policykd.distillation.methods import Method
from policykd.distillation.schedules import SCHEDULES, beta_exponential, beta_linear
from policykd.distillation.teaching_config import TeachingConfig
from policykd.distillation.teaching_step import TeachingStep
from policykd.learners import PPO, OffPolicyLearner
from policykd.memory.labelled import LabelledStates
from policykd.training.recipes.stepping import after_step, seen
from policykd.training.recipes.update import compile_step

if TYPE_CHECKING:
    from policykd.training.teacher_student import TeacherStudent


@torch.no_grad()
def collect(agent: TeacherStudent) -> dict[str, Any]:
    """One step of all environments into the data set; returns what SB3's callbacks look at."""
    assert agent.last_observations is not None
    observations = torch.from_numpy(agent.last_observations).to(agent.device).view(agent.n_learners, agent.n_envs, -1)
    answers = agent.ask(observations)
    agent.dataset.add(observations, answers)
    if isinstance(agent.learner, PPO):
        agent.learner.observe(observations)
    actions = behave(agent, observations, Labels.unpack(answers).policy.actions).cpu().numpy()
    stepped = agent.get_env().step_learners(actions.reshape(-1, actions.shape[-1]))
    after_step(agent, stepped)
    return seen(actions, stepped)


def behave(agent: TeacherStudent, observations: Tensor, teacher: Tensor) -> Tensor:
    """Actions ``(K, N, A)`` in [-1, 1]: the teacher's with probability beta, else the student's; with some noise."""
    share, shape, learner = beta(agent), teacher.shape, agent.learner
    actions = teacher
    if share < 1:
        uniform = np.stack([generator.random(agent.n_envs, np.float32) for generator in agent.exploration])
        mine = torch.from_numpy(uniform >= share).to(teacher.device).unsqueeze(-1)
        actions = torch.where(mine, learner.policy(learner.actor, observations), teacher)
    if (std := agent.teaching.collect_noise_std) > 0:
        noise = standard_normal(agent.exploration, *shape[1:])
        actions = actions + std * torch.from_numpy(noise).to(teacher.device)
    return actions.clamp(-1, 1)


def beta(agent: TeacherStudent) -> float:
    """The probability that the teacher acts, in this round."""
    states, config = agent.method.states, agent.teaching
    if states != "mixed":
        return float(states == "teacher")
    number = agent.num_timesteps // config.round_steps
    if config.beta_schedule == "linear":
        return beta_linear(number, config.beta_rounds)
    return beta_exponential(number, config.beta_decay)


def improve(agent: TeacherStudent, diagnose: bool) -> dict[str, Tensor]:
    """The updates where a round is over; returns the diagnostics of the last one."""
    update = agent.update
    assert isinstance(update, ImitationUpdate)
    if agent.num_timesteps % agent.teaching.round_steps < agent.n_envs:
        update.step(agent.progress)
        update.info["distill/beta"] = torch.full((agent.n_learners,), beta(agent))
        update.info["distill/dataset_size"] = torch.full((agent.n_learners,), float(agent.dataset.size))
    return update.info


class ImitationUpdate:
    """After each round, gradient steps of every student on the data set.

    Args:
        learner: the students.
        method: from which states they learn.
        config: settings.
        dataset: where the states are.
        divergence: how far apart student and teacher are, by name.
        generators: one per student, for sampling.
        compiled: compile the step with ``torch.compile``.
    """

    def __init__(
        self,
        learner: OffPolicyLearner | PPO,
        method: Method,
        config: TeachingConfig,
        dataset: LabelledStates,
        divergence: str,
        generators: list[np.random.Generator],
        compiled: bool,
    ) -> None:
        self.learner, self.method, self.config = learner, method, config
        self.dataset, self.generators = dataset, generators
        self.distillation = TeachingStep(method, config, learner, TEACHER_DIVERGENCES[divergence])
        schedule = method.schedule if config.distill_schedule == "auto" else config.distill_schedule
        self.schedule = SCHEDULES[schedule]
        self.learning_rate = torch.zeros((), device=learner.actor.device)
        self.n_updates = 0
        self.info: dict[str, Tensor] = {}
        teach = self.distillation.teach
        self._teach = compile_step(teach, learner.actor.device) if compiled else teach

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """Learn from all states so far, or from those of the latest round only."""
        config = self.config
        self.learning_rate.fill_(config.distill_learning_rate * self.schedule(progress))
        recent = None if self.method.aggregate else config.round_steps
        for i in range(config.round_updates):
            states, answers = self.dataset.sample(config.distill_batch_size, self.generators, recent)
            info = self._teach(states, answers, self.learning_rate, i == config.round_updates - 1)
        self.n_updates += config.round_updates
        self.info = {**self.info, **info}
