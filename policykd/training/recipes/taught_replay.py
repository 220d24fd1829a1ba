"""Off-policy RL with a teacher: steps go into the replay, and states with the teacher's answers into a data set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.networks import load_state_tensors, state_tensors
from policykd.distillation.divergences import Divergence
from policykd.distillation.labels import Labels
from policykd.distillation.methods import TeacherMethod
from policykd.distillation.teacher_loss import JointTeaching
from policykd.distillation.teaching_config import TeachingConfig
from policykd.distillation.teaching_step import value_error
from policykd.learners import OffPolicyLearner
from policykd.learners.config import OffPolicyConfig
from policykd.memory import Batch, LabelledStates, SharedReplay
from policykd.training.collector import Collector, Step
from policykd.training.compiling import compile_step
from policykd.training.recipes.replay import LearnFromReplay
from policykd.training.tutor import Tutor

FADE_EVERY = 100
"""Updates between two adjustments of the teacher's weight."""


class TaughtOnReplay(LearnFromReplay):
    """Gradient steps on the RL loss, with the teacher's loss added to that of the actor.

    L = L_RL / mean |Q| + lambda E_s [w(s) D(teacher(s), student(s))]: normalised as in TD3+BC (Fujimoto &
    Gu 2021, equation 5), so that one lambda suits every scale of rewards. ``distill_value_coef`` adds the squared
    distance of Q from the teacher's value to the critics' loss.

    Args:
        learner: the students.
        method: how the teacher teaches.
        config: settings of learners and teaching.
        replay: where their transitions go.
        dataset: where states with the teacher's answers go.
        tutor: gives the labels.
        divergence: distance ``(K, B)`` of a student from its teacher.
        collector: the environments.
        exploration: one generator per student, for its noise.
        sampling: one generator per student, for its batches.
    """

    def __init__(
        self,
        learner: OffPolicyLearner,
        method: TeacherMethod,
        config: OffPolicyConfig,
        replay: SharedReplay,
        dataset: LabelledStates,
        tutor: Tutor,
        divergence: Divergence,
        collector: Collector,
        exploration: list[np.random.Generator],
        sampling: list[np.random.Generator],
    ) -> None:
        super().__init__(learner, config, replay, collector, exploration, sampling)
        assert isinstance(config, TeachingConfig)
        self.dataset, self.tutor = dataset, tutor
        self.teaching = JointTeaching(method, config, learner.actor, divergence, 1)
        self._teach: Callable[..., dict[str, Tensor]] = self.teach

    def compile(self) -> None:
        """From now on compute with ``torch.compile``."""
        super().compile()
        self._teach = compile_step(self.teach, self.learner.actor.device)

    @torch.no_grad()
    def collect(self) -> Step:
        """Step every student's environments once into the replay and the data set."""
        answers = self.tutor.answers()
        observations = torch.as_tensor(self.collector.observations, device=answers.device)
        self.dataset.add(observations.view(*answers.shape[:2], -1), answers)
        return super().collect()

    def step(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """One gradient step of every student; diagnostics by log key, ``(K,)``."""
        config, learner, teaching = self.config, self.learner, self.teaching
        if self.n_updates % FADE_EVERY == 0:
            self.fade(progress)
        self.n_updates += 1
        flags = self.updates_actor(), learner.updates_targets(self.n_updates)
        batch = self.sample()
        noise = learner.draw_noise(config.batch_size)
        states, answers = self.dataset.sample(config.distill_batch_size, self.sampling)
        with torch.no_grad():
            info = self._teach(batch, noise, states, answers, *flags)
        delay = getattr(config, "policy_delay", 1)
        if self.n_updates % FADE_EVERY < delay and "distill/held" in info:  # at the actors' next update
            teaching.adapt(info["distill/held"])
        return info | {"distill/coefficient": teaching.lambdas}

    def fade(self, progress: float) -> None:
        """Set the teacher's weight relative to RL."""
        self.teaching.fade(progress, self.collector.run.returns(), self.tutor.score)

    def updates_actor(self) -> bool:
        """Whether this gradient step also moves the actors."""
        return self.learner.updates_actor(self.n_updates)

    def teach(
        self,
        batch: Batch,
        noise: Tensor | None,
        states: Tensor,
        answers: Tensor,
        update_actor: bool,
        update_targets: bool,
    ) -> dict[str, Tensor]:
        """The gradient step on a batch, and the teacher's packed ``answers (K, B, W)`` at ``states``."""
        learner, teaching, labels = self.learner, self.teaching, Labels.unpack(answers, self.learner.discrete)

        def teacher(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            own = learner.outputs(actor, states)
            weighted, info = teaching.losses(own, labels, lambda: learner.value(states, own.map(Tensor.detach)))
            return teaching.lambdas * weighted.mean(1), info

        def values(critic: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            errors = value_error(learner, critic, states, labels).mean(1)
            return value_coef * errors, {"distill/value_loss": errors.detach()}

        value_coef = teaching.config.distill_value_coef
        more = {"values": values} if value_coef > 0 else {}
        return learner.update(batch, noise, update_actor, update_targets, teacher, **more)

    def state(self) -> dict[str, Any]:
        """The number of gradient steps, and what the teacher's weight remembers."""
        return super().state() | {"distillation": state_tensors(self.teaching)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().restore(state)
        if "distillation" in state:
            load_state_tensors(self.teaching, state["distillation"])
