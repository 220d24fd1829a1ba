"""The learners of an agent as policies: predict, evaluate, and convert to an SB3 model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from policykd import export
from policykd.core.arrays import where_episodes_start
from policykd.core.errors import PolicyKDError
from policykd.core.fields import as_int
from policykd.core.recurrent import GRU, SequenceNetwork
from policykd.core.registry import name_of
from policykd.learners import LEARNERS, Learner
from policykd.learners.sequence_actor import with_actor
from policykd.tasks import Evaluation, Evaluator
from policykd.tasks.spaces import ActionScale, ActionSpace, DiscreteActions
from policykd.tasks.views import View
from policykd.training.arguments import check_episodes
from policykd.training.collector import Collector
from policykd.training.learner_choice import LearnerChoice
from policykd.training.progress import Progress
from policykd.training.recipes import Recipe
from policykd.training.run_folder import RunFolder

Observation = np.ndarray | Mapping[str, Any]
"""One observation of a task or several, as the task gives them."""


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
    memories: dict[str, Any]
    run: Progress
    collector: Collector
    folder: RunFolder | None
    observation_space: spaces.Box
    action_space: ActionSpace
    action_scale: ActionScale | DiscreteActions
    evaluator: Evaluator | None
    view: View
    """What learners see of the task's observations."""

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
        """Length of an observation, and of an action in the learners' own format."""
        return self.observation_space.shape[0], self.action_scale.size

    @property
    def learners(self) -> list[tuple[int, int]]:
        """(seed, peer) of every learner, in the order of the learner axis."""
        return [(seed, peer) for seed in self.seeds for peer in range(self.peers)]

    @property
    def n_learners(self) -> int:
        """Length K of the learner axis."""
        return len(self.seeds) * self.peers

    def check_finite(self, command: str, only: int | None = None) -> None:
        """Raise if the actor of a learner, or of the one with index ``only``, has weights that are not finite.

        Raises:
            PolicyKDError: names them.
        """
        finite = torch.isfinite(self.learner.actor).all(-1).tolist()
        if k := [i for i, fine in enumerate(finite) if not fine and only in (None, i)]:
            which = f"learner {k[0]} has" if len(k) == 1 else f"learners {', '.join(map(str, k))} have"
            again = "take an earlier checkpoint, or train again with a lower learning rate"
            raise PolicyKDError(f"{command}: {which} weights that are not finite: training diverged; {again}")

    @property
    def n_envs(self) -> int:
        """Training environments N of each learner."""
        return int(self.config.n_envs)

    @property
    def steps_at_once(self) -> int:
        """Environment steps that one step of all environments counts for a group."""
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
        """Environment steps of a group at each evaluation."""
        return self.run.evaluation_steps

    def predict(
        self,
        observation: Observation,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        learner: LearnerChoice = "best",
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions for one observation of the task or several, with the signature of SB3's ``predict``.

        Args:
            observation: raw observations of the task, ``(O,)`` or ``(n, O)``, or dicts where it gives dicts; learners
                select the part they see. Observations of ``get_env()``, which are that part already, work too.
            state: of learners with memory, what the last call returned; None at first. Otherwise passed through.
            episode_start: where an episode starts ``(n,)``: learners with memory reset their state there.
            deterministic: False acts as in training, with noise (SAC: a sample).
            learner: which learner acts: its index, or "best", the one with the best last evaluation.

        Returns:
            the actions ``(A,)`` or ``(n, A)``, and the state for the next call.

        Raises:
            PolicyKDError: the observation is not the task's, or state and starts have different numbers of episodes.
        """
        k, array = self.learner_index(learner), self.view.flat(observation)
        rows = array.reshape(-1, array.shape[-1])
        starts = where_episodes_start(episode_start, len(rows))
        inputs, stack = self._network_inputs(rows, state, starts)
        if self.network is None:
            actions, state = self.actions_at(inputs, k, deterministic), stack or state
        else:
            actions, hidden = self._recall(inputs, (state or ())[len(stack) :], starts, k, deterministic)
            state = *stack, hidden
        return actions.reshape((*array.shape[:-1], *self.action_scale.shape)), state

    def player(self, learner: LearnerChoice = "best") -> Callable[[Observation], np.ndarray]:
        """A function that plays one episode: called with each observation in turn, it returns actions ``(A,)``."""
        state: tuple[np.ndarray, ...] | None = None

        def act(observation: Observation) -> np.ndarray:
            nonlocal state
            action, state = self.predict(observation, state, learner=learner)
            return action

        return act

    def _network_inputs(
        self, rows: np.ndarray, state: tuple[np.ndarray, ...] | None, starts: np.ndarray
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Network inputs ``(n, I)`` at the task's observations ``(n, O)``, and the stack of past ones, if any.

        In the state that ``predict`` passes on, the stack comes first and a recurrent network's state last.
        """
        view = self.view
        if rows.shape[1] != view.size:
            return rows, ()  # picked and stacked already
        parts = view(rows)
        if view.history == 1:
            return parts, ()
        stack = view.push(parts, state[0] if state else None, starts)
        return stack.reshape(len(stack), -1), (stack,)

    @property
    def remembers(self) -> bool:
        """Whether actions depend on earlier observations of the episode."""
        return self.view.history > 1 or self.network is not None

    @property
    def network(self) -> GRU | None:
        """The learners' recurrent network, where they have one."""
        network = getattr(self.learner, "actor_network", None)
        return network if isinstance(network, GRU) else None

    def _recall(
        self, inputs: np.ndarray, state: tuple[np.ndarray, ...], starts: np.ndarray, k: int, deterministic: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """As ``actions_at`` for a recurrent learner k; returns actions and its next hidden state."""
        assert self.network is not None
        shape = len(inputs), self.network.width
        hidden = state[-1] if state else np.zeros(shape, np.float32)
        if hidden.shape != shape:
            raise PolicyKDError(f"predict: the state has shape {hidden.shape}, and {shape} is needed")
        sequences = SequenceNetwork(self.network)
        every = torch.as_tensor(hidden, device=self.device).expand(self.n_learners, *shape)
        sequences.set_starts(torch.as_tensor(starts, device=self.device).expand(self.n_learners, 1, len(inputs)), every)
        actions = self.actions_at(inputs, k, deterministic, with_actor(self.learner, sequences))
        return actions, sequences.after[k].cpu().numpy()

    def actions_at(
        self, inputs: np.ndarray, k: int, deterministic: bool = True, learner: Learner | None = None
    ) -> np.ndarray:
        """Actions ``(n, A)`` of learner k, in units of the environment, at network inputs ``(n, I)``.

        Args:
            inputs: network inputs.
            k: index of the learner.
            deterministic: act without noise.
            learner: recurrent learners, placed in their episodes; None for the agent's own.
        """
        learner = learner or self.learner
        # All learners act and one row is kept, since each may normalise observations by its own statistics.
        observations = torch.as_tensor(inputs, dtype=torch.float32, device=self.device)
        observations = observations.expand(self.n_learners, *inputs.shape)
        with torch.no_grad():
            if deterministic:
                actions = learner.policy(learner.actor, observations)
            else:
                noise = np.random.standard_normal((len(inputs), self.action_scale.size))
                noises = torch.from_numpy(noise).to(observations).expand(self.n_learners, -1, -1)
                actions = learner.explore(learner.actor, observations, noises)
        return self.action_scale.to_env(actions[k].cpu().numpy())

    def learner_index(self, learner: LearnerChoice) -> int:
        """Index of a learner; "best" is the one with the best last evaluation, the first if there was none."""
        if learner == "best":
            return int(self.evaluations[-1].means.argmax()) if self.evaluations else 0
        k = as_int(learner)
        if k is None or not 0 <= k < self.n_learners:
            raise PolicyKDError(f"learner {learner!r} does not exist: take 0 to {self.n_learners - 1}, or 'best'")
        return k

    def policies(self, observations: np.ndarray, learner: Learner | None = None) -> np.ndarray:
        """Every learner's deterministic action ``(K, A)``, in [-1, 1] or one-hot, at its row of ``(K, O)``."""
        learner, inputs = learner or self.learner, torch.from_numpy(observations).to(self.device).unsqueeze(1)
        with torch.no_grad():
            return learner.policy(learner.actor, inputs).squeeze(1).cpu().numpy()

    def evaluate(self, n_eval_episodes: int | None = None, seed: int | None = None) -> Evaluation:
        """Evaluate all learners now on separate environments; the result is returned, not recorded.

        Args:
            n_eval_episodes: episodes per learner; None is the config's.
            seed: seed of the initial states, the same for all groups; None takes each group's own seed, and new initial
                states as training goes on.
        """
        if self.evaluator is None:
            self.evaluator = Evaluator(self.factory, self.n_learners, self.action_scale.to_env)
        asked = self.config.n_eval_episodes if n_eval_episodes is None else n_eval_episodes
        episodes, start = check_episodes(asked, 0 if seed is None else seed)
        seeds = [group_seed if seed is None else start for group_seed, _ in self.learners]
        act = self.policies if self.network is None else self._playing(self.network, self.evaluator)
        return self.evaluator.run(act, episodes, seeds, self.num_timesteps if seed is None else 0)

    def _playing(self, network: GRU, evaluator: Evaluator) -> Callable[[np.ndarray], np.ndarray]:
        """As ``policies`` for recurrent learners, which carry their state through the episodes of an evaluation."""
        sequences, state = SequenceNetwork(network), torch.zeros(self.n_learners, 1, network.width, device=self.device)
        learner = with_actor(self.learner, sequences)

        def act(observations: np.ndarray) -> np.ndarray:
            nonlocal state
            sequences.set_starts(torch.from_numpy(evaluator.starts.copy()).to(self.device).view(-1, 1, 1), state)
            actions = self.policies(observations, learner)
            state = sequences.after
            return actions

        return act

    def to_sb3(self, learner: LearnerChoice = "best") -> BaseAlgorithm:
        """One learner as a real SB3 model: networks, targets and optimisers, ready to predict, train, save and load.

        With PPO's ``normalize_observation`` it expects observations normalised by its ``get_vec_normalize_env()``. SB3
        does not save that in its zip: ``policykd.export.zoo.to_zip`` writes both.

        Raises:
            PolicyKDError: SB3 has no counterpart of its algorithm or of its actions.
        """
        model = self.twin(learner)
        export.warn_of_normaliser(model)
        return model

    def twin(self, learner: LearnerChoice = "best") -> BaseAlgorithm:
        """As ``to_sb3``, without the warning about the normaliser, for callers that handle it."""
        return export.to_sb3(self, self.learner_index(learner))
