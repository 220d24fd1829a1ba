"""PPO with a teacher, which may label the states of rollouts, add rewards and add a loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.draws import standard_normal
from policykd.core.networks import PolicyOutput, load_state_tensors, state_tensors
from policykd.distillation.divergences import Divergence, cross_entropy_reverse
from policykd.distillation.labels import Labels, from_next, proximal_weight, shaping
from policykd.distillation.methods import TeacherMethod
from policykd.distillation.teacher_loss import JointTeaching
from policykd.distillation.teaching_config import TaughtPPOConfig
from policykd.distillation.teaching_step import value_error
from policykd.learners.ppo import PPO, Minibatch
from policykd.memory import Rollout
from policykd.training.collector import Collector, Step
from policykd.training.recipes.rollout import LearnFromRollouts
from policykd.training.tutor import Tutor


class TaughtOnRollouts(LearnFromRollouts):
    """Trains all students on each full rollout by PPO's epochs, with the teacher in the rewards and in the loss.

    Args:
        learner: the students.
        method: how the teacher teaches.
        config: settings.
        rollout: where their steps go, with the teacher's answers.
        tutor: gives the labels.
        divergence: distance ``(K, B)`` of a student from its teacher; None: it only gives rewards.
        collector: the environments.
        exploration: one generator per student, for its noise.
        sampling: one generator per student, for the order of minibatches.
    """

    config: TaughtPPOConfig
    mask: Tensor | None = None
    """1 for trainable parameters and 0 for frozen ones, ``(P,)``; None trains all."""

    def __init__(
        self,
        learner: PPO,
        method: TeacherMethod,
        config: TaughtPPOConfig,
        rollout: Rollout,
        tutor: Tutor,
        divergence: Divergence | None,
        collector: Collector,
        exploration: list[np.random.Generator],
        sampling: list[np.random.Generator],
    ) -> None:
        super().__init__(learner, config, rollout, collector, exploration, sampling)
        self.method, self.tutor, self.divergence = method, tutor, divergence
        asked = config.environment_reward
        self.pays = method.environment_reward if asked is None else asked
        self.rewarded = self.pays or method.reward is not None
        self.teaching = JointTeaching(method, config, learner.actor, divergence, config.n_envs)

    @torch.no_grad()
    def collect(self) -> Step:
        """Step all environments once into the rollout, with the teacher's answers."""
        rollout, t = self.rollout, self.rollout.position
        rollout.labels[:, t] = self.tutor.answers()
        step = super().collect()
        if self.method.reward == "value":
            values = self.unpack(self.tutor.answers()).value.reshape(-1).clone()
            for e in np.flatnonzero(step.dones):
                values[e] = self.tutor.value_at_end(step.infos[e], int(e)) if step.truncated[e] else 0.0
            rollout.next_values[:, t] = values.view(len(self.sampling), -1)
        return step

    def act(self, inputs: Tensor) -> Tensor:
        """Actions ``(K, N, A)`` in units of the environment: the student's, or samples of the teacher's policy."""
        if self.method.states != "teacher":
            return super().act(inputs)
        learner, policy = self.learner, self.unpack(self.tutor.answers()).policy
        noise = torch.from_numpy(standard_normal(self.exploration, inputs.shape[1], learner.action_size))
        if policy.logits is not None:
            return learner.head.sample(policy.logits, policy.logits[:, 0, :0], noise.to(inputs.device))
        assert policy.mean is not None and policy.std is not None
        return learner.middle + learner.half * (policy.mean + policy.std * noise.to(inputs.device))

    def unpack(self, answers: Tensor) -> Labels:
        """The teacher's packed answers ``(K, B, W)``."""
        return Labels.unpack(answers, self.learner.discrete)

    def step(self, progress: float) -> None:
        """Learn from the full rollout and empty it."""
        self.fade(progress)
        super().step(progress)
        self.info["distill/coefficient"] = self.teaching.lambdas.clone()

    def fade(self, progress: float) -> None:
        """Set the teacher's weight relative to RL."""
        self.teaching.fade(progress, self.collector.run.returns(), self.tutor.score)

    def rewards(self, distributions: tuple[Tensor, Tensor]) -> Tensor:
        """The rollout's rewards ``(K, T, N)``, plus the teacher's where the method has some."""
        if self.method.reward is None:
            return super().rewards(distributions)
        return super().rewards(distributions) + self.config.teacher_reward_coef * self.teacher_rewards(distributions)

    def teacher_rewards(self, distributions: tuple[Tensor, Tensor]) -> Tensor:
        """The teacher's rewards for the rollout ``(K, T, N)``, in units of the value network."""
        rollout, learner, kind = self.rollout, self.learner, self.method.reward
        dones, flat = rollout.dones, rollout.labels
        labels = self.unpack(flat.view(len(flat), -1, flat.shape[-1]))
        if kind == "value":
            rewards = shaping(labels.value.view(dones.shape), rollout.next_values, self.config.gamma)
            return rewards / learner.return_scale.unsqueeze(2).to(rewards.dtype)
        last_labels = self.unpack(self.tutor.answers())
        last_own = self.latest()
        if kind == "next_distance":
            assert self.divergence is not None
            distances = self.divergence(learner.head.answer(*distributions), labels.policy).view(dones.shape)
            rewards = from_next(-distances, -self.divergence(last_own, last_labels.policy), dones)
        else:
            actions = rollout.actions.view(len(flat), -1, learner.action_size)
            scaled = actions if learner.discrete else (actions - learner.middle) / learner.half
            rewards = labels.log_prob(scaled).view(dones.shape)
            if kind == "next_log_prob":  # in expectation at the last state, whose action is not sampled yet
                rewards = from_next(rewards, -cross_entropy_reverse(last_own, last_labels.policy), dones)
        if not self.config.normalize_reward:
            return rewards
        return self.teaching.scale_rewards(rewards, dones, self.config.gamma)

    def latest(self) -> PolicyOutput:
        """The policies' answers at the latest observations."""
        return self.learner.outputs(self.learner.actor, self.observed(self.collector.observations))

    def descend(  # type: ignore[override]
        self, batch: Minibatch, learning_rate: Tensor, clip_range: Tensor, answers: Tensor
    ) -> dict[str, Tensor]:
        """One gradient step of every student on PPO's loss and the teacher's; diagnostics ``(K,)``.

        Args:
            batch: steps of rollouts.
            learning_rate: a scalar tensor.
            clip_range: a scalar tensor.
            answers: the teacher's packed answers ``(K, B, W)`` at the same steps.
        """
        learner, config, teaching = self.learner, self.config, self.teaching
        labels, trust = self.unpack(answers), None
        if self.method.confident:

            def outputs(actor: Tensor) -> PolicyOutput:
                return learner.head.answer(*learner.distribution(actor, batch.inputs))

            trust = teaching.imitate(outputs, labels, learning_rate)

        def loss(parameters: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            terms = learner.terms(parameters, batch, clip_range)
            info, losses = terms.info, torch.zeros_like(terms.entropy)
            if self.rewarded:
                policy_losses = terms.policy_losses if trust is None else (1 - trust) * terms.policy_losses
                losses = policy_losses.mean(1) - config.ent_coef * terms.entropy
                losses = losses + config.vf_coef * terms.value_losses.mean(1)
            if self.divergence is not None:
                own = learner.head.answer(*terms.distribution)
                weight = proximal_weight(terms.ratio, clip_range) if self.method.coupling == "proximal" else trust
                values = terms.values * learner.return_scale.to(terms.values.dtype)
                weighted, teacher_info = teaching.losses(own, labels, lambda: values, weight)
                losses, info = losses + teaching.lambdas * weighted.mean(1), info | teacher_info
            if config.distill_value_coef > 0:
                critic = parameters[:, learner.sizes[0] + learner.sizes[1] :]
                errors = value_error(learner, critic, batch.inputs, labels, normalised=True).mean(1)
                losses, info = (
                    losses + config.distill_value_coef * errors,
                    info | {"distill/value_loss": errors.detach()},
                )
            return losses, info | {"train/loss": losses.detach()}

        return learner.descend(loss, learning_rate, self.mask)

    def finish(self, progress: float) -> dict[str, Tensor]:
        """Adapt the teacher's weight, for methods that hold a target distance from it."""
        if "distill/held" in self.last:
            self.teaching.adapt(self.last["distill/held"])
        return {}

    def learn(self, steps: Minibatch, progress: float, *more: Tensor) -> dict[str, Tensor]:
        """PPO's epochs of ``steps``, each with the teacher's answer; mean diagnostics."""
        answers = self.rollout.labels
        self.last = super().learn(steps, progress, answers.view(len(answers), -1, answers.shape[-1]))
        return self.last

    def state(self) -> dict[str, Any]:
        """The number of epochs, the latest diagnostics, and what the teacher's weight remembers."""
        return super().state() | {"distillation": state_tensors(self.teaching)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().restore(state)
        if "distillation" in state:
            load_state_tensors(self.teaching, state["distillation"])
