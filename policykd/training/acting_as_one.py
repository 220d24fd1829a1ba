"""Groups of peers that act as one and are shipped as one student: what a user asks of an agent of peers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from policykd.core.arrays import as_numpy
from policykd.core.compute import one_thread
from policykd.core.errors import PolicyKDError
from policykd.core.fields import change
from policykd.memory import SharedReplay
from policykd.tasks.evaluate import Evaluation, Evaluator
from policykd.training.agent import Agent
from policykd.training.group import GroupDistillation, Rule, group_actions

A = TypeVar("A", bound="ActingAsOne")
DAGGER_ROUNDS = 5
"""Rounds in which a shipped student acts, each followed by distillation."""


class ActingAsOne(Agent):
    """What an agent of peers can do beside learning; its ``peers`` and ``seeds`` make the groups."""

    peers: int
    replay_buffer: SharedReplay

    def group_policies(self, observations: np.ndarray, rule: Rule = "mean") -> np.ndarray:
        """What every group does as one, ``(G, A)`` in [-1, 1], at its row of ``observations (G, O)``."""
        return self._acting(rule)(observations)

    def _acting(self, rule: Rule) -> Callable[[np.ndarray], np.ndarray]:
        """``group_policies`` of a rule, for many steps: who is best is looked up once."""
        best = self._best(rule)

        def act(observations: np.ndarray) -> np.ndarray:
            inputs = torch.from_numpy(observations).to(self.device).unsqueeze(1)
            with torch.no_grad():
                return group_actions(self.learner, inputs, self.peers, rule, best).squeeze(1).cpu().numpy()

        return act

    def evaluate_group(self, n_eval_episodes: int, seed: int = 0, rule: Rule = "mean") -> Evaluation:
        """Let the peers of every group act as one, without noise, on environments of their own: a row per group.

        Args:
            n_eval_episodes: episodes per group.
            seed: seed of the episodes' initial states, the same for all groups; those of ``evaluate`` with it.
            rule: how a group chooses.
        """
        evaluator = Evaluator(self.factory, len(self.seeds), self.action_scale.to_env)
        try:
            seeds = [seed] * len(self.seeds)
            return evaluator.run(self._acting(rule), n_eval_episodes, seeds, 0)
        finally:
            evaluator.close()

    def best_by_training(self, episodes: int = 10) -> np.ndarray:
        """Index of each group's learner whose latest training episodes returned most, ``(G,)``; no evaluation is used.

        Args:
            episodes: how many of the latest episodes are averaged.
        """
        means = np.array([float(np.mean(r[-episodes:])) if r else -np.inf for r in self.run.returns()])
        places: np.ndarray = means.reshape(-1, self.peers).argmax(1)
        return places + np.arange(len(places)) * self.peers

    def _best(self, rule: Rule) -> Tensor | None:
        return torch.from_numpy(self.best_by_training()).to(self.device) if rule == "best" else None

    def ship(
        self: A,
        *,
        net_arch: Sequence[int] | None = None,
        rule: Rule = "mean",
        gradient_steps: int = 5_000,
        batch_size: int = 256,
        learning_rate: float = 1e-3,
        dagger_steps: int = 0,
    ) -> A:
        """One student per group, distilled from the group as one at the later half of its replay, without a step.

        The student is an agent like any other: it predicts, evaluates, saves and is exported; it has not been trained
        by RL.

        Args:
            net_arch: widths of its hidden layers; None is the peers'.
            rule: how the group that is copied chooses.
            gradient_steps: steps of Adam.
            batch_size: states per step.
            learning_rate: Adam's, which falls to 0 in a straight line.
            dagger_steps: environment steps per group in which the student acts, so that the group also says what to do
                where the student comes to; they count in the student's ``num_timesteps``.

        Raises:
            PolicyKDError: the learners have no replay, or it is empty; or some have diverged.
        """
        self.check_finite("ship")
        if self.learner_type.memory != "replay" or self.replay_buffer.size == 0:
            raise PolicyKDError("ship: needs learners with a replay that is not empty (save with include_replay=True)")
        changed: dict[str, Any] = {"vary": {}, "allocation": "equal", "n_envs": 1, "rebirth_freq": 0}
        changed |= {"buffer_size": self.config.batch_size * 2, "distill_batch_size": min(64, self.config.batch_size)}
        changed |= {} if net_arch is None else {"net_arch": tuple(net_arch)}
        kind: Any = type(self)
        student: A = kind(
            self.factory if not self.made_by_id else self.env_id,
            method="independent",
            backbone=self.learner_type,
            peers=1,
            seeds=self.seeds,
            config=change(self.config, changed),
            device=str(self.device),
            compile=False,
        )
        sources = self.learner, self.replay_buffer, student.learner, self.peers, rule, student.streams["replay"]
        distillation = GroupDistillation(*sources, batch_size, learning_rate, self._best(rule))
        with one_thread():
            if dagger_steps:
                visit = student.visits(max(1, dagger_steps // DAGGER_ROUNDS))
                distillation.run(gradient_steps, visit, DAGGER_ROUNDS)
            else:
                distillation.run(gradient_steps)
        return student

    def visits(self, steps: int) -> Callable[[], Tensor]:
        """A function that lets every learner act for so many more steps, without noise, and returns where it was.

        Returns:
            Raw observations ``(K, steps, O)`` at each call.
        """
        self.get_env()

        def visit() -> Tensor:
            seen = []
            for _ in range(steps):
                seen.append(as_numpy(self.collector.observations))
                self.collector.step(self.policies(seen[-1]))
            return torch.from_numpy(np.stack(seen, axis=1)).to(self.device)

        return visit
