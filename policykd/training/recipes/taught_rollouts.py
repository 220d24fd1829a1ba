"""Learning on policy beside a teacher: PPO's rollouts with the teacher's answers, its rewards and its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.networks import PolicyOutput
from policykd.core.seeding import standard_normal
from policykd.distillation.divergences import TEACHER_DIVERGENCES, cross_entropy
from policykd.distillation.labels import Labels, from_next, proximal_weight, shaping
from policykd.distillation.teacher_loss import JointTeaching
from policykd.distillation.teaching_config import TaughtPPOConfig
from policykd.distillation.teaching_step import value_error
from policykd.learners.ppo import PPO, Minibatch
from policykd.training.agent import Agent
from policykd.training.recipes import fine_tune, rollout
from policykd.training.recipes.rollout import RolloutUpdate
from policykd.training.recipes.update import compile_step

if TYPE_CHECKING:
    from policykd.training.teacher_student import TeacherStudent

improve = rollout.improve


@torch.no_grad()
def collect(agent: TeacherStudent) -> dict[str, Any]:
    """One step of all environments into the rollout, with the teacher's answers; what SB3's callbacks look at."""
    steps, t = agent.rollout_buffer, agent.rollout_buffer.position
    answers = agent.latest_answers()
    steps.labels[:, t] = answers.cpu().numpy()
    seen = rollout.collect(agent, teacher_acts if agent.method.states == "teacher" else rollout.act)
    agent.answers = None  # of the states that are past
    if agent.method.reward == "value":
        values = Labels.unpack(agent.latest_answers()).value.reshape(-1).cpu().numpy().copy()
        for e in np.flatnonzero(seen["dones"]):
            info = seen["infos"][e]
            ended_by_task = not info["TimeLimit.truncated"]
            values[e] = 0.0 if ended_by_task else agent.teacher_value(info)
        steps.next_values[:, t] = values.reshape(agent.n_learners, -1)
    return seen


def teacher_acts(agent: Agent, learner: PPO, inputs: Tensor) -> np.ndarray:
    """The teacher's actions ``(K, N, A)`` in units of the environment, sampled where it has a standard deviation."""
    labels = Labels.unpack(agent.latest_answers())  # type: ignore[attr-defined]
    noise = torch.from_numpy(standard_normal(agent.exploration, agent.n_envs, learner.action_size)).to(inputs.device)
    assert labels.policy.mean is not None and labels.policy.std is not None
    actions = labels.policy.mean + labels.policy.std * noise
    return (learner.middle + learner.half * actions).cpu().numpy()


class TaughtRolloutUpdate(RolloutUpdate):
    """Improves all students by a full rollout: PPO's epochs, with the teacher in the rewards and in the loss.

    Args:
        agent: the students, their teacher and method.
        learner: the students' networks.
        generators: one per student, for the order of minibatches.
        compiled: compile the gradient step with ``torch.compile``.
    """

    config: TaughtPPOConfig

    def __init__(
        self, agent: TeacherStudent, learner: PPO, generators: list[np.random.Generator], compiled: bool
    ) -> None:
        config, method = agent.config, agent.method
        assert isinstance(config, TaughtPPOConfig)
        super().__init__(learner, method, config, agent.rollout_buffer, generators, 1, False)
        self.agent, self.compiled = agent, compiled
        name = agent.divergence
        self.divergence = None if name is None else TEACHER_DIVERGENCES[name]
        self.teaching = JointTeaching(method, config, learner.actor, self.divergence, config.n_envs)
        self.distillation = self.teaching  # type: ignore[assignment]
        self.rewarded = agent.environment_reward or method.reward is not None
        if method.source == "itself":
            self.teaching.mask = torch.ones(learner.parameters.shape[1], device=self.device)
        learner.frozen_statistics = method.source == "itself"
        self._learn = compile_step(self.teach, self.device) if compiled else self.teach

    @torch.no_grad()
    def step(self, progress: float, last_observations: np.ndarray) -> None:
        """Learn from the rollout and empty it.

        Args:
            progress: from 0 to 1 over the run, for schedules.
            last_observations: raw observations after the rollout, ``(K * N, O)``.
        """
        agent = self.agent
        returns = [[episode["r"] for episode in episodes] for episodes in agent.episodes]
        if self.method.source == "itself":
            fine_tune.freeze(self, agent.fine_tuned_steps)
            progress = fine_tune.anchor_progress(self, agent)
        self.teaching.fade(progress, returns, agent.score)
        super().step(agent.progress, last_observations)
        self.info["distill/coefficient"] = self.teaching.lambdas.clone()

    def estimate(self, last_observations: np.ndarray) -> tuple[Minibatch, Tensor]:
        """All steps of the rollout with the teacher's rewards, and how much of the returns the values explain."""
        if self.method.reward is not None:
            paid = self.config.teacher_reward_coef * self.pay(last_observations)
            self.rollout.rewards[:] += paid.cpu().numpy()
        return super().estimate(last_observations)

    def pay(self, last_observations: np.ndarray) -> Tensor:
        """The teacher's rewards of the rollout ``(K, T, N)``, in units of the value network."""
        rollout, learner, kind = self.rollout, self.learner, self.method.reward
        dones = torch.from_numpy(rollout.dones).to(self.device)
        flat = torch.from_numpy(rollout.labels).to(self.device)
        labels = Labels.unpack(flat.view(len(flat), -1, flat.shape[-1]))
        if kind == "value":
            next_values = torch.from_numpy(rollout.next_values).to(self.device)
            paid = shaping(labels.value.view(dones.shape), next_values, self.config.gamma)
            return paid / learner.return_scale.unsqueeze(2).to(paid.dtype)
        last_labels = Labels.unpack(self.agent.latest_answers())
        last = torch.from_numpy(last_observations).to(self.device).view(*dones.shape[::2], -1)
        last_own = learner.outputs(learner.actor, last)
        if kind == "next_distance":
            assert self.divergence is not None
            inputs = torch.from_numpy(rollout.inputs).to(self.device).view(len(flat), -1, last.shape[-1])
            own = learner.gaussian(learner.means(learner.actor, inputs), learner.log_std)
            distances = self.divergence(own, labels.policy).view(dones.shape)
            paid = from_next(-distances, -self.divergence(last_own, last_labels.policy), dones)
        else:
            actions = torch.from_numpy(rollout.actions).to(self.device).view(len(flat), -1, learner.action_size)
            assert labels.policy.mean is not None and labels.policy.std is not None
            teacher = torch.distributions.Normal(labels.policy.mean, labels.policy.std, validate_args=False)
            paid = teacher.log_prob((actions - learner.middle) / learner.half).sum(-1).view(dones.shape)
            if kind == "next_log_prob":  # the expectation where the next action is not drawn yet
                gaussians = *last_own[1:3], *last_labels.policy[1:3]
                paid = from_next(paid, -cross_entropy(*gaussians, "reverse"), dones)  # type: ignore[arg-type]
        if not self.config.normalize_reward:
            return paid
        return self.teaching.scale_rewards(paid, dones, self.config.gamma)

    def teach(self, batch: Minibatch, learning_rate: Tensor, clip_range: Tensor, answers: Tensor) -> dict[str, Tensor]:
        """One gradient step of every student on PPO's loss and the teacher's; diagnostics ``(K,)``.

        Args:
            batch: steps of rollouts.
            learning_rate: a scalar tensor.
            clip_range: a scalar tensor.
            answers: the teacher's packed answers ``(K, B, W)`` at the same steps.
        """
        learner, config, teaching = self.learner, self.config, self.teaching
        labels, trust = Labels.unpack(answers), None
        if self.method.confident:

            def outputs(actor: Tensor) -> PolicyOutput:
                return learner.gaussian(learner.means(actor, batch.inputs), actor[:, learner.sizes[0] :])

            trust = teaching.imitate(outputs, labels, learning_rate)

        def loss(parameters: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            terms = learner.terms(parameters, batch, clip_range)
            info, losses = terms.info, torch.zeros_like(terms.entropy)
            if self.rewarded:
                policy_losses = terms.policy_losses if trust is None else (1 - trust) * terms.policy_losses
                losses = policy_losses.mean(1) - config.ent_coef * terms.entropy
                losses = losses + config.vf_coef * terms.value_losses.mean(1)
            if self.divergence is not None:
                own = learner.gaussian(terms.means, terms.log_std)
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

        return learner.descend(loss, learning_rate, teaching.mask)

    def distil(self, distillation: object, progress: float) -> dict[str, Tensor]:
        """After the epochs: adapt the teacher's weight, where it holds a distance."""
        if "distill/distance" in self.last:
            self.teaching.adapt(self.last["distill/distance"])
        return {}

    def learn(self, steps: Minibatch, progress: float, *more: Tensor) -> dict[str, Tensor]:
        """PPO's passes over ``steps``, each with the teacher's answer; mean diagnostics."""
        answers = torch.from_numpy(self.rollout.labels).to(self.device)
        self.last = super().learn(steps, progress, answers.view(len(answers), -1, answers.shape[-1]))
        return self.last

    def answer_as_before(self, observations: Tensor) -> Tensor:
        """What the students answered at raw observations ``(K, N, O)`` before fine-tuning, packed: ``(K, N, W)``."""
        policy = self.learner.outputs(self.teaching.anchor, observations)
        return Labels(policy, torch.zeros_like(policy.actions[..., 0])).pack()
