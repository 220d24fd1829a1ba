"""Imitation without rewards (BC, DAgger): someone acts, the teacher labels the states, the students copy it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.draws import standard_normal
from policykd.core.networks import load_state_tensors, state_tensors
from policykd.core.seeding import Generators
from policykd.distillation.divergences import Divergence
from policykd.distillation.labels import Labels
from policykd.distillation.methods import TeacherMethod
from policykd.distillation.schedules import beta_exponential, beta_linear, schedule_of
from policykd.distillation.teaching_config import TeachingConfig
from policykd.distillation.teaching_step import TeachingStep
from policykd.learners import DDPG, PPO, OffPolicyLearner
from policykd.memory.labelled import LabelledStates
from policykd.memory.sequences import LabelledSequences
from policykd.training.collector import Collector, Step
from policykd.training.compiling import compile_step
from policykd.training.tutor import Tutor

log = logging.getLogger("policykd")


class Imitation:
    """After each round of steps, gradient steps of every student on states with the teacher's answers.

    Args:
        learner: the students.
        method: from which states they learn.
        config: settings.
        dataset: where the states go.
        tutor: gives the labels.
        divergence: distance ``(K, B)`` of a student from its teacher.
        collector: the environments.
        exploration: one generator per student, for who acts and with what noise.
        sampling: one generator per student, for its batches.
    """

    compiled = False
    follows = False
    """Whether students must be evaluated at every step even if the teacher acts, because they are recurrent."""

    def __init__(
        self,
        learner: OffPolicyLearner | PPO,
        method: TeacherMethod,
        config: TeachingConfig,
        dataset: LabelledStates | LabelledSequences,
        tutor: Tutor,
        divergence: Divergence,
        collector: Collector,
        exploration: Generators,
        sampling: Generators,
    ) -> None:
        self.learner, self.method, self.config, self.dataset = learner, method, config, dataset
        self.tutor, self.collector, self.exploration, self.sampling = tutor, collector, exploration, sampling
        self.distillation = self.towards(divergence)
        self.schedule = schedule_of(method.schedule if config.distill_schedule == "auto" else config.distill_schedule)
        self.learning_rate = torch.zeros((), device=learner.actor.device)
        self.n_updates = 0
        self.info: dict[str, Tensor] = {}
        self._teach = self.distillation.teach

    def towards(self, divergence: Divergence) -> TeachingStep:
        """The gradient step towards the teacher."""
        return TeachingStep(self.method, self.config, self.learner, divergence)

    def compile(self) -> None:
        """From now on compute with ``torch.compile``."""
        self.compiled, self._teach = True, compile_step(self.distillation.teach, self.learner.actor.device)

    @torch.no_grad()
    def collect(self) -> Step:
        """Step all environments once and add the labelled states to the data set."""
        answers, collector = self.tutor.answers(), self.collector
        observations = torch.as_tensor(collector.observations, device=answers.device).view(*answers.shape[:2], -1)
        self.take(observations, answers)
        actions = self.act(observations, Labels.unpack(answers, self.learner.discrete).policy.actions)
        return collector.step(actions.flatten(0, 1))

    def take(self, observations: Tensor, answers: Tensor) -> None:
        """Add labelled states to the data set and to the students' observation statistics."""
        self.store(observations, answers)
        if isinstance(self.learner, PPO):
            self.learner.observe(observations)

    def store(self, observations: Tensor, answers: Tensor) -> None:
        """Keep states ``(K, N, O)`` with their answers ``(K, N, W)``."""
        assert isinstance(self.dataset, LabelledStates)
        self.dataset.add(observations, answers)

    def student_actions(self, observations: Tensor) -> Tensor:
        """The students' actions ``(K, N, A)``."""
        return self.learner.policy(self.learner.actor, observations)

    def act(self, observations: Tensor, teacher: Tensor) -> Tensor:
        """Actions ``(K, N, A)``, in [-1, 1] or choices: the teacher's with probability beta, else the student's."""
        share, shape = self.beta(), teacher.shape
        actions, own = teacher, self.student_actions(observations) if share < 1 or self.follows else teacher
        if share < 1:
            uniform = np.stack([generator.random(shape[1], np.float32) for generator in self.exploration])
            mine = torch.from_numpy(uniform >= share).to(teacher.device).unsqueeze(-1)
            actions = torch.where(mine, own, teacher)
        if (std := self.config.collect_noise_std) > 0:
            noise = standard_normal(self.exploration, *shape[1:])
            actions = actions + std * torch.from_numpy(noise).to(teacher.device)
        return actions.clamp(-1, 1)

    def beta(self) -> float:
        """The probability that the teacher acts, in this round."""
        states, config = self.method.states, self.config
        if states != "mixed":
            return float(states == "teacher")
        number = self.collector.run.num_timesteps // config.round_steps
        if config.beta_schedule == "linear":
            return beta_linear(number, config.beta_rounds)
        return beta_exponential(number, config.beta_decay)

    def expect(self, end: int) -> None:
        """Warn if no round that could train the students is complete by ``end`` steps: short calls learn nothing."""
        run, every, n_envs = self.collector.run, self.config.round_steps, self.collector.n_envs
        now, (start, stop) = run.num_timesteps, run.span
        last = now + -(-(end - now) // n_envs) * n_envs
        over = range(now // every + 1, last // every + 1)
        if end > now and not any(self.schedule(min(1.0, (n * every - start) / (stop - start))) > 0 for n in over):
            log.warning(
                "learn: these %s steps train nothing: no round of round_steps=%s ends before the last step, where "
                "the learning rate is 0: call learn with more steps, or lower round_steps",
                *(f"{end - now:,}", f"{every:,}"),
            )

    @property
    def rollout_over(self) -> bool:
        """Whether a round is over."""
        return self.collector.run.due(self.config.round_steps)

    def improve(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """Make the updates if a round is over; returns the diagnostics of the last one."""
        if self.rollout_over:
            self.step(progress)
            ones = torch.ones(len(self.sampling))
            self.info |= {"distill/beta": self.beta() * ones, "distill/dataset_size": self.dataset.size * ones}
        return self.info

    @torch.no_grad()
    def step(self, progress: float) -> None:
        """Train on all states so far, or only on those of the latest round."""
        self.learning_rate.fill_(self.config.distill_learning_rate * self.schedule(progress))
        recent = None if self.method.aggregate else self.config.round_steps
        for i in range(self.config.round_updates):
            self._update(i == self.config.round_updates - 1, recent)
        self._sync_targets()

    @torch.no_grad()
    def fit(self, updates: int, log_freq: int, log: Callable[[dict[str, Tensor], int], None]) -> None:
        """Gradient steps on all data, outside of rounds, over which the learning rate decays as over a whole run.

        Args:
            updates: how many.
            log_freq: gradient steps from one call of ``log`` to the next; the last one calls it, too.
            log: takes diagnostics ``(K,)`` of the latest gradient step, and how many there were since its last call.
        """
        for i in range(updates):
            if i % self.config.round_updates == 0:
                self.renew()
            self.learning_rate.fill_(self.config.distill_learning_rate * self.schedule(i / updates))
            shown = i == updates - 1 or (i + 1) % log_freq == 0
            info = self._update(shown, None)
            if shown:
                log(info, i % log_freq + 1)
        self._sync_targets()

    def _sync_targets(self) -> None:
        """Bring target networks in line, since exported students may be trained further elsewhere."""
        if isinstance(self.learner, DDPG):
            self.learner.renew_target()

    def renew(self) -> None:
        """Hook after the updates of a round, for what depends on the students; does nothing here."""

    def _update(self, diagnose: bool, recent: int | None) -> dict[str, Tensor]:
        info = self.teach(self.learning_rate, diagnose, recent)
        self.n_updates += 1
        if diagnose:
            self.info = {**self.info, **info}
        return info

    def teach(self, learning_rate: Tensor, diagnose: bool, recent: int | None) -> dict[str, Tensor]:
        """One gradient step of every student, on the ``recent`` states alone or on all; diagnostics ``(K,)``."""
        assert isinstance(self.dataset, LabelledStates)
        states, answers = self.dataset.sample(self.config.distill_batch_size, self.sampling, recent)
        return self._teach(states, answers, learning_rate, diagnose)

    def state(self) -> dict[str, Any]:
        """The number of gradient steps, the optimiser, and what rows of the log say until the next round."""
        return {
            "n_updates": self.n_updates,
            "distillation": state_tensors(self.distillation),
            "last_update": self.info,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.n_updates = state["n_updates"]
        self.info = {key: value.to(self.dataset.storage.device) for key, value in state.get("last_update", {}).items()}
        if "distillation" in state:
            load_state_tensors(self.distillation, state["distillation"])
