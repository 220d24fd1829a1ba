"""PPO of students with a state (GRU) beside a teacher, and fine-tuning of them: minibatches are windows of rollouts.

As in rsl_rl and CleanRL (Huang et al. 2022) a rollout keeps the state in which the students acted. There gradients flow
back through pieces of episodes, or through whole rollouts; here through windows of equal length, which need no padding,
each from the state that was there. The policy that is improved has just made that state, so there is no burn-in, which
renews older ones (Kapturowski et al. 2019).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from policykd.core.networks import PolicyOutput
from policykd.learners import PPO
from policykd.learners.learner import Learner
from policykd.training.collector import Collector, Step
from policykd.training.recipes.fine_tune import Anchor, FineTune
from policykd.training.recipes.hidden_state import HiddenState
from policykd.training.recipes.taught_rollouts import TaughtOnRollouts


class RecurrentRollouts(TaughtOnRollouts):
    """As ``TaughtOnRollouts``; a minibatch is ``batch_size // bptt_steps`` windows of ``bptt_steps`` steps.

    The rollout has room for the state, and ``bptt_steps`` divides its steps. Losses, advantages and the value network,
    which reads the observation alone, are those of students without a state.
    """

    hidden: HiddenState[PPO]

    def place_in_episodes(self, learner: PPO) -> PPO:
        """The learner, placed in its episodes."""
        self.hidden = HiddenState(learner, self.collector)
        return self.hidden.reader

    def compile(self) -> None:
        """Computed as before: a loop over steps is not compiled."""
        self.compiled = True

    @torch.no_grad()
    def collect(self) -> Step:
        """One step of all environments into the rollout, with the state before it."""
        rollout, t = self.rollout, self.rollout.position
        rollout.starts[:, t], rollout.hidden[:, t] = self.hidden.starts(), self.hidden.state
        return super().collect()

    def act(self, inputs: Tensor) -> Tensor:
        """Actions ``(K, N, A)``; the students see every step, whoever acts."""
        self.hidden.set_starts()
        if self.method.states == "teacher":
            self.learner.distribution(self.learner.actor, inputs)
        actions = super().act(inputs)
        self.hidden.advance()
        return actions

    def distributions(self) -> tuple[Tensor, Tensor]:
        """Distribution parameters at all steps of the rollout, read as one window from first step to last."""
        self.hidden.sequences.set_starts(self.rollout.starts, self.rollout.hidden[:, 0])
        return super().distributions()

    def latest(self) -> PolicyOutput:
        """The policies' answers at the latest observations."""
        self.hidden.set_starts()
        return super().latest()

    def minibatches(self, table: Tensor) -> Iterator[Tensor]:
        """Windows laid out flat ``(K, L * B, W)``, each learner's in its own order; the actor is placed in them."""
        rollout, length = self.rollout, self.config.bptt_steps
        learners, steps, envs = rollout.starts.shape

        def windows(columns: Tensor) -> Tensor:
            """Columns of steps ``(K, T, N, W)`` as a row per window, ``(K, T / L * N, L * W)``."""
            pieces = columns.view(learners, steps // length, length, envs, -1).transpose(2, 3)
            return pieces.reshape(learners, steps // length * envs, -1)

        first = rollout.hidden[:, ::length].flatten(1, 2)
        rows = torch.cat((windows(table), windows(rollout.starts), first), dim=-1)
        widths = [length * table.shape[-1], length, first.shape[-1]]
        for drawn in self.shuffled(rows).split(max(1, self.config.batch_size // length), dim=1):
            parts, starts, state = drawn.split(widths, dim=-1)
            self.hidden.sequences.set_starts(starts.transpose(1, 2), state)
            yield parts.reshape(*parts.shape[:2], length, -1).transpose(1, 2).flatten(1, 2)

    def state(self) -> dict[str, Any]:
        """Beside what every taught recipe keeps: what the students remember."""
        return super().state() | {"hidden": self.hidden.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().restore(state)
        self.resume_episodes(state["hidden"])

    def resume_episodes(self, state: Tensor) -> None:
        """Go on in the middle of episodes of which the students remember ``state (K, N, H)``."""
        self.hidden.restore(state)


class RecurrentAnchor(Anchor):
    """Answers as students with a state did before fine-tuning; it follows the episodes with a state of its own.

    Args:
        learner: the students, whose actor is a ``GRU``.
        collector: the environments.
    """

    def __init__(self, learner: Learner, collector: Collector) -> None:
        assert isinstance(learner, PPO)
        self.hidden = HiddenState(learner, collector)
        super().__init__(self.hidden.reader, collector)

    def answers(self) -> Tensor:
        """Packed answers ``(K, N, W)`` at the latest states, to be asked for once at each."""
        self.hidden.set_starts()
        answers = super().answers()
        self.hidden.advance()
        return answers


class RecurrentFineTune(RecurrentRollouts, FineTune):
    """As ``FineTune``, of students with a state, on windows."""

    anchors = RecurrentAnchor
    anchor: RecurrentAnchor

    def resume_episodes(self, state: Tensor) -> None:
        """Go on in the middle of episodes of which the students and their anchor remember ``state (K, N, H)``."""
        super().resume_episodes(state)
        self.anchor.hidden.restore(state)

    def state(self) -> dict[str, Any]:
        """Beside what fine-tuning keeps: what students and anchor remember."""
        return super().state() | {"anchor_hidden": self.anchor.hidden.state}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        super().restore(state)
        self.anchor.hidden.restore(state["anchor_hidden"])
