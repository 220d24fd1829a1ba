"""Who the learners of an agent are, and what they are asked for: actions, returns, an agent of SB3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from policykd import export
from policykd.core.errors import PolicyKDError
from policykd.core.registry import name_of
from policykd.learners import LEARNERS, Learner
from policykd.tasks import Evaluation, Evaluator
from policykd.tasks.spaces import ActionScale, ActionSpace, Choices
from policykd.training.progress import Progress
from policykd.training.recipes import Recipe

LearnerChoice = int | Literal["best", "group", "greedy"]


class Acting:
    """The learners of an agent as policies."""

    peers: int
    seeds: tuple[int, ...]
    env_id: str
    factory: Callable[[], gym.Env]
    made_by_id: bool
    device: torch.device
    config: Any
    learner: Learner
    learner_type: type[Learner]
    recipe: Recipe
    run: Progress
    observation_space: spaces.Box
    action_space: ActionSpace
    action_scale: ActionScale | Choices
    evaluator: Evaluator | None

    @property
    def method_name(self) -> str:
        """Name of the method, as it is saved."""
        raise NotImplementedError

    @property
    def taught_by(self) -> str:
        """The method that names the run's folders."""
        return self.method_name

    @property
    def backbone(self) -> str:
        """Name of the learners' algorithm."""
        return name_of(self.learner_type, LEARNERS)

    @property
    def sizes(self) -> tuple[int, int]:
        """Length of an observation and of an action as learners hold it."""
        return self.observation_space.shape[0], self.action_scale.size

    @property
    def learners(self) -> list[tuple[int, int]]:
        """(seed, peer) of every learner, in the order of the learner axis."""
        return [(seed, peer) for seed in self.seeds for peer in range(self.peers)]

    @property
    def n_learners(self) -> int:
        """Length K of the learner axis."""
        return len(self.seeds) * self.peers

    @property
    def n_envs(self) -> int:
        """Training environments N of each learner."""
        n_envs: int = self.config.n_envs
        return n_envs

    @property
    def steps_at_once(self) -> int:
        """Environment steps of one group in one step of all environments."""
        return self.peers * self.n_envs

    @property
    def num_timesteps(self) -> int:
        """Environment steps of one group so far, all of its peers together."""
        return self.run.num_timesteps

    @property
    def evaluations(self) -> list[Evaluation]:
        """All evaluations of the run."""
        return self.run.evaluations

    @property
    def evaluation_steps(self) -> list[int]:
        """After how many steps of a group they were made."""
        return self.run.evaluation_steps

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        learner: LearnerChoice = "best",
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions of the environment, for one observation ``(O,)`` or several ``(n, O)``.

        Args:
            observation: raw observations.
            state: passed through (policies have no memory).
            episode_start: not used, for SB3's protocol.
            deterministic: False acts as in training, with noise (SAC: a sample).
            learner: which learner acts: its index, or "best", the one with the best last evaluation.
        """
        k = self.learner_index(learner)
        inputs = torch.as_tensor(np.asarray(observation), dtype=torch.float32, device=self.device)
        # All learners answer and one is heard: each may see observations by statistics of its own.
        inputs = inputs.reshape(1, -1, inputs.shape[-1]).expand(self.n_learners, -1, -1)
        with torch.no_grad():
            if deterministic:
                actions = self.learner.policy(self.learner.actor, inputs)
            else:
                noise = np.random.standard_normal((inputs.shape[1], self.action_scale.size))
                noises = torch.from_numpy(noise).to(inputs).expand(self.n_learners, -1, -1)
                actions = self.learner.explore(self.learner.actor, inputs, noises)
        scaled = self.action_scale.to_env(actions[k].cpu().numpy())
        return scaled.reshape((*np.shape(observation)[:-1], *self.action_scale.shape)), state

    def view(self, observation: np.ndarray) -> np.ndarray:
        """What learners see of the task's observations ``(..., O)``: all of it."""
        return observation

    def learner_index(self, learner: LearnerChoice) -> int:
        """Index of a learner; "best" is the one with the best last evaluation, the first if there was none."""
        if learner == "best":
            return int(self.evaluations[-1].returns.mean(1).argmax()) if self.evaluations else 0
        if not isinstance(learner, int | np.integer) or not 0 <= learner < self.n_learners:
            raise PolicyKDError(f"learner {learner!r} does not exist: there are 0 to {self.n_learners - 1}")
        return learner

    def policies(self, observations: np.ndarray) -> np.ndarray:
        """Every learner's deterministic action ``(K, A)``, in [-1, 1] or a choice, at its row of ``(K, O)``."""
        inputs = torch.from_numpy(observations).to(self.device).unsqueeze(1)
        with torch.no_grad():
            return self.learner.policy(self.learner.actor, inputs).squeeze(1).cpu().numpy()

    def evaluate(self, n_eval_episodes: int | None = None, seed: int | None = None) -> Evaluation:
        """Evaluate all learners now, on environments of their own; the result is returned, not recorded.

        Args:
            n_eval_episodes: episodes per learner; None is the config's.
            seed: seed of the episodes' initial states, the same for all groups; None is each group's own, and new
                ones at every number of steps.
        """
        if self.evaluator is None:
            self.evaluator = Evaluator(self.factory, self.n_learners, self.action_scale.to_env)
        episodes = self.config.n_eval_episodes if n_eval_episodes is None else n_eval_episodes
        if episodes < 1 or (seed is not None and seed < 0):
            raise PolicyKDError(f"evaluate: needs episodes from 1 and a seed from 0 up, got {episodes} and {seed}")
        seeds = [group_seed if seed is None else seed for group_seed, _ in self.learners]
        return self.evaluator.run(self.policies, episodes, seeds, self.num_timesteps if seed is None else 0)

    def to_sb3(self, learner: LearnerChoice = "best") -> BaseAlgorithm:
        """One learner as a real SB3 model: networks, targets and optimisers, ready to predict, train, save and load.

        Raises:
            PolicyKDError: its algorithm has no twin in SB3.
        """
        return export.to_sb3(self, self.learner_index(learner))
