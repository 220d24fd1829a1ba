"""Imitation by students with a state (GRU): truncated back-propagation through time, on windows of their episodes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from policykd.core.networks import PolicyOutput
from policykd.distillation.divergences import Divergence
from policykd.distillation.teaching_step import TeachingStep
from policykd.learners import PPO, OffPolicyLearner
from policykd.memory.sequences import LabelledSequences
from policykd.training.recipes.hidden_state import HiddenState
from policykd.training.recipes.imitation import Imitation


class RecurrentImitation(Imitation):
    """As ``Imitation``; a gradient step is on windows of ``bptt_steps``, which begin with the state that was there.

    That state is of an older student (Kapturowski et al. 2019): the loss leaves out the first ``burn_in`` steps of a
    window, in which it is renewed, but for those of an episode that starts in the window.

    Arguments: ``Imitation``; the actors are ``GRU``s, and the data set has windows.
    """

    follows = True
    dataset: LabelledSequences

    def towards(self, divergence: Divergence) -> TeachingStep:
        """The gradient step that copies, on the steps that count."""
        self.hidden: HiddenState[OffPolicyLearner | PPO] = HiddenState(self.learner, self.collector)
        self.counts = torch.ones(())

        def counted(own: PolicyOutput, teacher: PolicyOutput) -> Tensor:
            return divergence(own, teacher) * self.counts

        return TeachingStep(self.method, self.config, self.hidden.reader, counted)

    def compile(self) -> None:
        """Computed as before: a loop over steps is not compiled."""
        self.compiled = True

    def store(self, observations: Tensor, answers: Tensor) -> None:
        """Keep a step with its answers and the state before it."""
        self.dataset.add(observations, answers, self.hidden.starts(), self.hidden.state)

    def take_episodes(self, observations: Tensor, answers: Tensor, starts: Tensor) -> None:
        """Keep logged states ``(K, n, O)`` with their answers ``(K, n, W)``, episode after episode.

        They are cut into as many pieces as there are environments; the first states follow the last where that fills
        them up. What a student would know at the cuts is not known: it is the burn-in that makes it good.
        """
        count, envs = len(starts), self.dataset.envs
        length = -(-count // envs)
        unknown = torch.zeros_like(self.hidden.state)
        self.dataset.cut()
        for t in range(length):
            places = (torch.arange(envs) * length + t) % count
            begun = starts[places].expand(len(observations), -1)
            self.dataset.add(observations[:, places], answers[:, places], begun, unknown)
        self.dataset.cut()
        if isinstance(self.learner, PPO):
            self.learner.observe(observations)

    def renew(self) -> None:
        """Let the students follow all steps, so that windows begin with what they remember now."""

        def say(observations: Tensor, starts: Tensor, state: Tensor) -> Tensor:
            self.hidden.sequences.set_starts(starts.unsqueeze(1), state)
            self.hidden.reader.policy(self.learner.actor, observations)
            return self.hidden.sequences.after

        self.dataset.recompute_states(say)

    def student_actions(self, observations: Tensor) -> Tensor:
        """The students' actions ``(K, N, A)``; they see every step, whoever acts."""
        self.hidden.set_starts()
        actions = self.hidden.reader.policy(self.learner.actor, observations)
        self.hidden.advance()
        return actions

    def teach(self, learning_rate: Tensor, diagnose: bool, recent: int | None) -> dict[str, Tensor]:
        """One gradient step of every student, on all steps or, if more than a window, the ``recent``; diagnostics."""
        config = self.config
        length = config.burn_in + config.bptt_steps
        windows = max(1, config.distill_batch_size // config.bptt_steps)
        if recent is not None:  # many environments: a round is a few steps of each, and none would count
            recent = max(recent, length * self.dataset.envs)
        drawn = self.dataset.sample(windows, length, self.sampling, recent)
        self.hidden.sequences.set_starts(drawn.starts, drawn.state)
        self.counts = counted_steps(drawn.starts, config.burn_in).flatten(1)
        flat = drawn.observations.flatten(1, 2), drawn.answers.flatten(1, 2)
        return self.distillation.teach(*flat, learning_rate, diagnose)

    def state(self) -> dict[str, Any]:
        """Beside what imitation keeps: what the students remember."""
        return super().state() | {"hidden": self.hidden.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().restore(state)
        self.hidden.restore(state["hidden"])


def counted_steps(starts: Tensor, burn_in: int) -> Tensor:
    """How much each step ``(K, L, B)`` of windows counts: none before ``burn_in``, unless its episode starts in it.

    The mean over a learner's steps is 1.
    """
    late = (torch.arange(starts.shape[1], device=starts.device) >= burn_in).view(1, -1, 1)
    counts = (late | ((starts > 0).cumsum(1) > 0)).to(starts)
    return counts / counts.mean((1, 2), keepdim=True).clamp_min(1e-6)
