"""The supervised step of all students at once: towards what the teacher answered, and towards its values."""

from __future__ import annotations

from torch import Tensor

from policykd.core.networks import Adam, gradient
from policykd.distillation.divergences import Divergence
from policykd.distillation.labels import Labels
from policykd.distillation.methods import TeacherMethod
from policykd.distillation.peer_step import DistillationStep
from policykd.distillation.teaching_config import TeachingConfig
from policykd.distillation.weights import EMPTY, Comparison, weight_of
from policykd.learners import PPO, OffPolicyLearner


class TeachingStep(DistillationStep):
    """One gradient step on E_s D(teacher(s), student(s)) and, if asked, on E_s (V_student(s) - V_teacher(s))^2.

    Args:
        method: how much each state counts.
        config: settings.
        learner: the students.
        divergence: distance ``(K, B)`` of a student from its teacher.
    """

    def __init__(
        self, method: TeacherMethod, config: TeachingConfig, learner: OffPolicyLearner | PPO, divergence: Divergence
    ) -> None:
        super().__init__(weight_of(method.weight), config, learner, divergence)  # type: ignore[arg-type]
        self.student = learner
        self.value_coef = config.distill_value_coef
        if self.value_coef > 0:
            self.critic_adam = Adam(learner.critic)

    def teach(self, states: Tensor, answers: Tensor, learning_rate: Tensor, diagnose: bool) -> dict[str, Tensor]:
        """Move every student towards the teacher's packed ``answers (K, B, W)``; diagnostics ``(K,)``."""
        labels = Labels.unpack(answers, self.student.discrete)
        info = self.copy(
            states,
            labels.policy,
            lambda own: Comparison(labels.value, self.student.value(states, own), EMPTY),
            None,
            learning_rate,
            diagnose,
        )
        return info | self.teach_value(states, labels, learning_rate) if self.value_coef > 0 else info

    def teach_value(self, states: Tensor, labels: Labels, learning_rate: Tensor) -> dict[str, Tensor]:
        """Move every critic towards the teacher's value of the states; Q(s, a) at the teacher's action."""
        critic = self.student.critic

        def loss(rows: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            losses = value_error(self.student, rows, states, labels).mean(1)
            return self.value_coef * losses, {"distill/value_loss": losses.detach()}

        gradients, info = gradient(loss, critic)
        self.critic_adam.step(critic, gradients, learning_rate)
        return info


def value_error(
    learner: OffPolicyLearner | PPO, critic: Tensor, states: Tensor, labels: Labels, *, normalised: bool = False
) -> Tensor:
    """Squared distance of V_student, or Q_student at the teacher's action, from V_teacher: ``(K, B)``.

    Args:
        learner: the students.
        critic: their critics' parameters.
        states: observations ``(K, B, O)``.
        labels: the teacher's answers there.
        normalised: whether PPO's normaliser has seen the observations already.
    """
    if isinstance(learner, PPO):
        target = labels.value / learner.return_scale.to(labels.value.dtype)
        inputs = states if normalised else learner.normalise(states)
        return (learner.critic_network(critic, inputs).squeeze(-1) - target).square()
    values = learner.q_values(critic, states, labels.policy.actions)
    return (values - labels.value.unsqueeze(1)).square().sum(1)
