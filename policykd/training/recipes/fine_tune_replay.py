"""After distillation, off policy: first the critics learn, on steps of the students as they are; then the actors, too.

A critic that knows nothing pulls a distilled actor anywhere. So: new critics and optimisers, fitted while the actor is
frozen and acts with little noise; then the actor learns slowly, by L_RL / mean |Q| + lambda |a - anchor|^2, on a leash:
lambda is large at first, and falls and rises so that the distance stays below a bound which grows. (What lambda must be
depends on how wrong the slopes of the critics are, which no schedule knows.) The anchor is the teacher where it is
there, else the student as it was. And no policy is handed out that has not returned more than the one before it
(``trials``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.arrays import Array
from policykd.distillation.divergences import divergence_of
from policykd.distillation.schedules import dual_ascent
from policykd.distillation.teaching_config import TeachingConfig
from policykd.learners import DDPG, SAC, OffPolicyLearner
from policykd.learners.config import Config, DDPGConfig, OffPolicyConfig, SACConfig
from policykd.memory import LabelledStates, SharedReplay
from policykd.training.collector import Collector, Step
from policykd.training.recipes.fine_tune import METHOD, Anchor, Span
from policykd.training.recipes.taught_replay import TaughtOnReplay
from policykd.training.recipes.trials import Trials
from policykd.training.tutor import Tutor

FIRST_ENT_COEF = "auto_0.01"
"""Initial temperature of SAC: suits a policy that is already good, which 1 would randomise."""


def settings(config: Config, asked: Mapping[str, Any], by_teacher: bool, begins: bool) -> dict[str, Any]:
    """What fine-tuning chooses where it was not ``asked`` for: the anchor; as it begins, little noise and temperature.

    Later calls keep those of before, which may have been asked for.
    """
    assert isinstance(config, TeachingConfig)
    chosen: dict[str, Any] = {}
    if config.anchor == "auto":
        chosen["anchor"] = "teacher" if by_teacher else "student"
    quiet = begins or "fine_tune_std" in asked
    if isinstance(config, DDPGConfig) and "action_noise_std" not in asked and quiet:
        chosen["action_noise_std"] = config.fine_tune_std
    if isinstance(config, SACConfig) and str(config.ent_coef) == "auto" and "ent_coef" not in asked and begins:
        chosen["ent_coef"] = FIRST_ENT_COEF
    return chosen


def copy_students(learner: OffPolicyLearner, students: OffPolicyLearner, std: float) -> None:
    """Give new learners the policies of distilled students, and their critics where these are of the same shape.

    Args:
        learner: as they were just made.
        students: the distilled ones.
        std: standard deviation of a Gaussian before tanh, from now on the same at all states.
    """
    learner.actor.copy_(students.actor)
    if isinstance(learner, SAC):
        learner.set_std(std)
    if isinstance(learner, DDPG):
        learner.renew_target()
    if learner.critic.shape == students.critic.shape:
        learner.critic.copy_(students.critic)
        learner.critic_target.copy_(students.critic_target)


STRONGEST = 5.0
"""Initial log weight of the anchor, also its bound (``schedules.dual_ascent``)."""
SHORTEST = 0.01
"""Initial length of the leash, as a fraction of its final length."""


class FineTuneOnReplay(TaughtOnReplay):
    """DDPG, TD3 or SAC of distilled students: first the critics, then also the actors, held by an anchor that fades.

    With trials, ``learner.actor`` is the best policy so far; the one that is being trained replaces it only during
    gradient steps.

    Args:
        learner: the students.
        config: settings of learners and teaching.
        replay: where their transitions go.
        dataset: where states with the anchor's answers go.
        tutor: the anchor.
        collector: the environments.
        exploration: one generator per student, for its noise.
        sampling: one generator per student, for its batches.
        span: the steps of fine-tuning.
    """

    def __init__(
        self,
        learner: OffPolicyLearner,
        config: OffPolicyConfig,
        replay: SharedReplay,
        dataset: LabelledStates,
        tutor: Tutor,
        collector: Collector,
        exploration: list[np.random.Generator],
        sampling: list[np.random.Generator],
        span: Span,
    ) -> None:
        assert isinstance(config, TeachingConfig)
        divergence = divergence_of("action_mse" if config.divergence == "auto" else config.divergence, taught=True)
        streams = exploration, sampling
        super().__init__(learner, METHOD, config, replay, dataset, tutor, divergence, collector, *streams)
        self.span, learner.learning_rate = span, config.fine_tune_learning_rate
        self.trials: Trials | None = None
        if config.trial_episodes:
            self.trials = Trials(learner.actor, config.trial_episodes, collector.n_envs)
        self.leashed = config.distill_schedule == "auto"
        if self.leashed:
            self.teaching.held = divergence_of("action_mse", taught=True)  # whatever pulls, the leash is of actions
            self.teaching.log_coefficient.fill_(STRONGEST)
            self.teaching.lambdas.fill_(config.distill_coef * math.exp(STRONGEST))

    @property
    def own_steps(self) -> int:
        """Environment steps of each student since fine-tuning began."""
        return super().own_steps - self.span.start

    def act(self, observations: Array) -> Array:
        """Actions ``(K, A)`` in [-1, 1] of the students with their noise, from the first step."""
        return self.act_with_noise(observations)

    def explore(self, inputs: Tensor, noise: Tensor) -> Tensor:
        """Actions ``(K, N, A)`` at ``inputs (K, N, O)`` of the policies that are on trial, else of the students."""
        if self.trials is None:
            return super().explore(inputs, noise)
        return self.learner.explore(self.trials.tried, inputs, noise)

    def collect(self) -> Step:
        """One environment step of every student, by which the policies on trial may be judged."""
        step = super().collect()
        if self.trials is not None and step.dones.any():
            self.trials.stepped(step.ended_returns, self.critics_fitted)
            self.learner.actor.copy_(self.trials.kept)
        return step

    @property
    def critics_fitted(self) -> bool:
        """Whether the critics have trained for ``critic_steps``, so that actors may follow them."""
        return self.own_steps > self.teaching.config.critic_steps

    def updates_actor(self) -> bool:
        """Whether this gradient step also moves the actors: not before the critics are fitted."""
        return self.critics_fitted and super().updates_actor()

    @property
    def progress(self) -> float:
        """From 0 to 1 over the anchor's steps."""
        return min(1.0, self.own_steps / (self.teaching.config.anchor_steps or max(1, self.span.length)))

    def fade(self, progress: float) -> None:
        """Set the pull's weight by the schedule that was asked for; a leash sets it after every step of the actors."""
        if not self.leashed:
            super().fade(self.progress)

    def step(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """One gradient step of every student; the anchor fades over its own number of steps."""
        actor, trials = self.learner.actor, self.trials
        if trials is None:
            info = super().step(progress, diagnose)
        else:
            actor.copy_(trials.learning)
            info = super().step(progress, diagnose)
            trials.learning.copy_(actor)
            actor.copy_(trials.kept)
            if diagnose:
                info["fine_tune/replaced"] = torch.from_numpy(trials.replaced).to(actor)
        if self.leashed and "distill/held" in info:
            self.adapt_weight(info["distill/held"])
        return info

    def adapt_weight(self, distance: Tensor) -> None:
        """Raise the anchor's weight where the squared distance of actions from it, ``(K,)``, exceeds the leash."""
        teaching = self.teaching
        length = teaching.config.anchor_distance * max(self.progress, SHORTEST)
        target = self.learner.action_size * length**2
        teaching.log_coefficient.copy_(dual_ascent(teaching.log_coefficient, distance, target))
        teaching.lambdas.copy_(teaching.config.distill_coef * teaching.log_coefficient.exp())

    def state(self) -> dict[str, Any]:
        """Beside what every taught recipe keeps: what the students were where they hold themselves, and the trials."""
        state = super().state()
        if self.trials is not None:
            state["trials"] = self.trials.state()
        if isinstance(self.tutor, Anchor):
            state["distillation"] |= {"anchor": self.tutor.actor}
        return state

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; runs of before there were trials go on without."""
        if self.trials is not None and "trials" in state:
            self.trials.restore(state["trials"])
        else:
            self.trials = None
        kept = dict(state["distillation"])
        if isinstance(self.tutor, Anchor):
            self.tutor.actor.copy_(kept.pop("anchor"))
        super().restore({**state, "distillation": kept})
