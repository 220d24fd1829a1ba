"""Fine-tuning by PPO: RL on the task's reward after distillation, without forgetting what was distilled.

PPO as it stands can destroy a distilled policy: its value network knows nothing yet, so its advantages are noise, and
a standard deviation that was never trained shakes its actions. So: a fresh optimiser; a small standard deviation, fixed
at first; the critic is fitted while the actor is frozen; and a KL divergence from what the student was, which fades.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from policykd.core.networks import Adam, PolicyOutput
from policykd.distillation.divergences import at_temperature, divergence_of
from policykd.distillation.labels import Labels
from policykd.distillation.methods import TeacherMethod
from policykd.distillation.teaching_config import TaughtPPOConfig
from policykd.learners import PPO, Learner
from policykd.memory import Rollout
from policykd.teachers import TeacherScore
from policykd.training.collector import Collector
from policykd.training.recipes.taught_rollouts import TaughtOnRollouts

METHOD = TeacherMethod(
    "fine_tune",
    "RL from a distilled student, held by an anchor at first (begun by fine_tune())",
    divergence="kl_forward",
    schedule="linear",
    environment_reward=True,
)
"""RL with an extra loss towards an anchor: the distilled student itself, or its teacher."""


class Span(NamedTuple):
    """The environment steps at which fine-tuning starts, and its length."""

    start: int
    length: int


class Anchor:
    """Gives the answers of the students before fine-tuning.

    Args:
        learner: the students, of any backbone.
        collector: the environments.
    """

    score: TeacherScore | None = None

    def __init__(self, learner: Learner, collector: Collector) -> None:
        self.learner, self.collector, self.actor = learner, collector, learner.actor.clone()

    def answers(self) -> Tensor:
        """Packed answers ``(K, N, W)`` at the latest states."""
        observations = torch.as_tensor(self.collector.observations, device=self.actor.device)
        policy = self.learner.outputs(self.actor, observations.view(len(self.actor), self.collector.n_envs, -1))
        if policy.std is None and policy.logits is None:  # deterministic: of no meaning but the actions
            policy = PolicyOutput(policy.actions, policy.actions, torch.zeros_like(policy.actions))
        return Labels(policy, torch.zeros_like(policy.actions[..., 0])).pack()

    def value_at_end(self, info: dict[str, Any], env: int) -> float:
        """Not used: an anchor has no values to distil."""
        raise AssertionError("no reward of fine-tuning asks for values")


class FineTune(TaughtOnRollouts):
    """PPO of distilled students: trains first the critic, then also the actor, and last its standard deviation.

    Args:
        learner: the distilled students.
        config: settings.
        rollout: where their steps go.
        collector: the environments.
        exploration: one generator per student, for its noise.
        sampling: one generator per student, for the order of minibatches.
        span: the steps of fine-tuning.
        fresh: whether it begins now, with a new optimiser and the small standard deviation.
    """

    mask: Tensor
    anchors: type[Anchor] = Anchor
    """A frozen copy of the students before fine-tuning."""

    def __init__(
        self,
        learner: PPO,
        config: TaughtPPOConfig,
        rollout: Rollout,
        collector: Collector,
        exploration: list[np.random.Generator],
        sampling: list[np.random.Generator],
        span: Span,
        fresh: bool,
    ) -> None:
        if fresh and not learner.discrete:
            learner.log_std.copy_((config.fine_tune_std * learner.half).log().expand_as(learner.log_std))
        if fresh:
            learner.adam = Adam(learner.parameters, eps=learner.adam.eps)
        learner.config, learner.frozen_statistics = config, True
        anchor = self.anchors(learner, collector)
        name = config.divergence if config.divergence != "auto" else METHOD.divergence
        assert name is not None
        divergence = at_temperature(divergence_of(name, taught=True), config.temperature)
        super().__init__(learner, METHOD, config, rollout, anchor, divergence, collector, exploration, sampling)
        self.anchor, self.span = anchor, span
        self.mask = torch.ones(learner.parameters.shape[1], device=self.device)

    def step(self, progress: float) -> None:
        """Train on the full rollout with the parameters unfrozen so far, and empty it."""
        steps = self.collector.run.num_timesteps - self.span.start
        self.freeze(steps)
        self.fading = min(1.0, steps / (self.config.anchor_steps or max(1, self.span.length)))
        super().step(progress)

    def fade(self, progress: float) -> None:
        """Fade the anchor's weight over ``anchor_steps``, not over the run."""
        super().fade(self.fading)

    def freeze(self, steps: int) -> None:
        """Unfreeze parameters by ``steps``: the critic; then the actor; then its standard deviation."""
        learner, config, mask = self.learner, self.config, self.mask
        actor, std, _ = learner.sizes
        was_frozen = float(mask[0]) == 0.0
        mask.fill_(1.0)
        if steps <= config.critic_steps:
            mask[:actor] = 0.0
        elif was_frozen:  # the actor's first steps must not be scaled by moments that have counted zeros
            for tensor in (learner.adam.exp_avg, learner.adam.exp_avg_sq, learner.adam.steps):
                tensor.zero_()
        if steps <= max(config.critic_steps, config.fixed_std_steps):
            mask[actor : actor + std] = 0.0

    def state(self) -> dict[str, Any]:
        """As every recipe with a teacher, with the mask of frozen parameters and the anchor."""
        state = super().state()
        state["distillation"] |= {"mask": self.mask, "anchor": self.anchor.actor}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        kept = dict(state["distillation"])
        self.mask.copy_(kept.pop("mask"))
        self.anchor.actor.copy_(kept.pop("anchor"))
        super().restore({**state, "distillation": kept})
