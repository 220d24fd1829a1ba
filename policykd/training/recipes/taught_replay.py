"""Learning off policy beside a teacher: steps go into the replay, and states with the teacher's answers beside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from policykd.distillation.divergences import TEACHER_DIVERGENCES
from policykd.distillation.labels import Labels
from policykd.distillation.teacher_loss import JointTeaching
from policykd.learners import OffPolicyLearner
from policykd.learners.config import OffPolicyConfig
from policykd.memory import Batch
from policykd.training.recipes import replay
from policykd.training.recipes.update import Update, compile_step

if TYPE_CHECKING:
    from policykd.training.teacher_student import TeacherStudent

FADE_EVERY = 100
"""Updates between two looks at the teacher's weight."""

improve = replay.improve


@torch.no_grad()
def collect(agent: TeacherStudent) -> dict[str, Any]:
    """One environment step of every student into replay and data set; what SB3's callbacks look at."""
    assert agent.last_observations is not None
    observations = torch.from_numpy(agent.last_observations).to(agent.device).unsqueeze(1)
    agent.dataset.add(observations, agent.ask(observations))
    return replay.collect(agent)


class TaughtUpdate(Update):
    """One gradient step of every student on its RL loss and, in the actor's, the teacher's.

    L = L_RL / mean |Q| + lambda E_s [w(s) D(teacher(s), student(s))]: brought to one scale as in TD3+BC (Fujimoto &
    Gu 2021, equation 5), so that one lambda suits every scale of rewards.

    Args:
        agent: the students, their teacher and method.
        learner: the students' networks.
        generators: one per student, for sampling.
        compiled: compile the step with ``torch.compile``.
    """

    def __init__(
        self,
        agent: TeacherStudent,
        learner: OffPolicyLearner,
        generators: list[np.random.Generator],
        compiled: bool,
    ) -> None:
        config, name = agent.config, agent.divergence
        assert isinstance(config, OffPolicyConfig) and name is not None
        super().__init__(learner, agent.method, config, agent.replay_buffer, generators, 1, False)
        self.agent, self.dataset, self.compiled = agent, agent.dataset, compiled
        self.teaching = JointTeaching(agent.method, agent.teaching, learner.actor, TEACHER_DIVERGENCES[name], 1)
        self.distillation = self.teaching  # type: ignore[assignment]
        self._teach = compile_step(self.teach, learner.actor.device) if compiled else self.teach

    def step(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """One gradient step of every student; diagnostics by log key, ``(K,)``."""
        agent, config, learner, teaching = self.agent, self.config, self.learner, self.teaching
        if self.n_updates % FADE_EVERY == 0:
            returns = [[episode["r"] for episode in episodes] for episodes in agent.episodes]
            teaching.fade(progress, returns, agent.score)
        self.n_updates += 1
        flags = learner.updates_actor(self.n_updates), learner.updates_targets(self.n_updates)
        batch = self.replay.sample(config.batch_size, self.generators)
        noise = learner.draw_noise(config.batch_size)
        states, answers = self.dataset.sample(config.distill_batch_size, self.generators)
        with torch.no_grad():
            info = self._teach(batch, noise, states, answers, *flags)
        if self.n_updates % FADE_EVERY == 0 and "distill/distance" in info:
            teaching.adapt(info["distill/distance"])
        return info | {"distill/coefficient": teaching.lambdas}

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
        learner, teaching, labels = self.learner, self.teaching, Labels.unpack(answers)

        def teacher(actor: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            own = learner.outputs(actor, states)
            weighted, info = teaching.losses(own, labels, lambda: learner.value(states, own.map(Tensor.detach)))
            return teaching.lambdas * weighted.mean(1), info

        return learner.update(batch, noise, update_actor, update_targets, teacher)
