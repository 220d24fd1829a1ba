"""Groups of peers that act as one policy, and can be shipped as one student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from policykd.core.arrays import as_numpy
from policykd.core.compute import check_autograd, one_thread
from policykd.core.errors import PolicyKDError
from policykd.core.fields import as_type, change, require
from policykd.learners import DDPG
from policykd.learners.config import OffPolicyConfig, SACConfig
from policykd.tasks.evaluate import Evaluation, Evaluator
from policykd.training.agent import Agent
from policykd.training.allocation import Standings
from policykd.training.arguments import check_episodes, check_int
from policykd.training.group import GroupDistillation, group_actions
from policykd.training.learner_choice import Rule

A = TypeVar("A", bound="ActingAsOne")


class ActingAsOne(Agent):
    """Methods of an agent whose learners form groups: evaluate, rank and ship a group."""

    def group_policies(self, observations: np.ndarray, rule: Rule = "mean") -> np.ndarray:
        """Every group's action ``(G, A)`` in [-1, 1] at its row of ``observations (G, O)``."""
        return self._group_policy(rule)(observations)

    def _group_policy(self, rule: Rule) -> Callable[[np.ndarray], np.ndarray]:
        """``group_policies`` of a rule, for many steps: who is best is looked up once."""
        best = self._best(rule)

        def act(observations: np.ndarray) -> np.ndarray:
            inputs = torch.from_numpy(observations).to(self.device).unsqueeze(1)
            with torch.no_grad():
                return group_actions(self.learner, inputs, self.peers, rule, best).squeeze(1).cpu().numpy()

        return act

    def evaluate_group(self, n_eval_episodes: int, seed: int = 0, rule: Rule = "mean") -> Evaluation:
        """Evaluate every group as one policy, without noise, on separate environments: one row per group.

        Args:
            n_eval_episodes: episodes per group.
            seed: seed of the episodes' initial states, the same for all groups; those of ``evaluate`` with it.
            rule: how a group chooses.

        Raises:
            PolicyKDError: these are no episodes, seed or rule, or "greedy" lacks critics.
        """
        n_eval_episodes, seed = check_episodes(n_eval_episodes, seed)
        with closing(Evaluator(self.factory, len(self.seeds), self.action_scale.to_env)) as evaluator:
            return evaluator.run(self._group_policy(rule), n_eval_episodes, [seed] * len(self.seeds), 0)

    def best_by_training(self, episodes: int = 10) -> np.ndarray:
        """Index of each group's learner with the highest mean return in training ``(G,)``, without evaluations.

        Args:
            episodes: how many of the latest episodes are averaged; 100 of each learner are known.
        """
        means = Standings(self.run, self.peers, check_int("episodes", episodes)).means()
        places: np.ndarray = np.nan_to_num(means, nan=-np.inf).argmax(1)
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
        """Distil each group into one student on the later half of the replay, without environment steps.

        The student predicts, evaluates, saves and exports like any agent. It is not meant for further RL: its critics
        are untrained, and its replay holds two batches.

        Args:
            net_arch: widths of its hidden layers; None is the peers'.
            rule: how the group that is copied chooses.
            gradient_steps: steps of Adam.
            batch_size: states per step.
            learning_rate: of Adam; it decays linearly to 0.
            dagger_steps: environment steps per group in which the student acts, so that the group also says what to do
                where the student comes to; they count in the student's ``num_timesteps``.

        Raises:
            PolicyKDError: the learners have no replay, it is empty, an argument cannot work, or some have diverged.
        """
        gradient_steps = check_int("gradient_steps", gradient_steps)
        batch_size = check_int("batch_size", batch_size)
        dagger_steps = check_int("dagger_steps", dagger_steps, 0)
        learning_rate = as_type("learning_rate", learning_rate, float)
        require(learning_rate > 0, "learning_rate", learning_rate, "must be positive")
        check_autograd(self.learner.actor)
        self.check_finite("ship")
        if self.learner_type.memory != "replay":
            raise PolicyKDError(f"ship: {self.backbone} keeps no replay, and the student needs its states")
        if self.replay_buffer.size == 0:
            raise PolicyKDError(
                "ship: the replay is empty, and the student needs its states: save with include_replay=True"
            )
        kind: Any = type(self)
        student: A = kind(
            self.factory if not self.made_by_id else self.env_id,
            method="independent",
            backbone=self.learner_type,
            peers=1,
            seeds=self.seeds,
            config=self._config_of_one(net_arch),
            device=str(self.device),
            compile=False,
        )
        sources = self.learner, self.replay_buffer, student.learner, self.peers, rule, student.streams["replay"]
        distillation = GroupDistillation(*sources, batch_size, learning_rate, self._best(rule))
        with one_thread():
            distillation.run(gradient_steps, student.visit, dagger_steps)
        if isinstance(student.learner, DDPG):
            student.learner.renew_target()
        return student

    def _config_of_one(self, net_arch: Sequence[int] | None) -> OffPolicyConfig:
        """The settings of a shipped student, which has one environment and no peers."""
        config = self.config
        assert isinstance(config, OffPolicyConfig)
        changed: dict[str, Any] = {"vary": {}, "allocation": "equal", "n_envs": 1, "rebirth_freq": 0}
        least = max(2 * config.batch_size, config.n_steps)
        changed |= {"buffer_size": least, "distill_batch_size": min(64, config.batch_size)}
        if net_arch is not None:
            changed["net_arch"] = tuple(net_arch) if isinstance(net_arch, Iterable) else net_arch
        if isinstance(config, SACConfig):  # gradient_steps=-1: with one environment an update has fewer of them
            at_once = config.gradient_steps if config.gradient_steps > 0 else config.train_freq
            changed["target_update_interval"] = min(config.target_update_interval, at_once)
        return change(config, changed)

    def visit(self, steps: int) -> Tensor:
        """Step every learner without noise; returns the states it visited, ``(K, steps, O)``."""
        self.get_env()
        seen = []
        for _ in range(steps):
            seen.append(as_numpy(self.collector.observations))
            self.collector.step(self.policies(seen[-1]))
        return torch.from_numpy(np.stack(seen, axis=1)).to(self.device)
