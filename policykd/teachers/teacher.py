"""A frozen policy to distil from: one class, whatever it was loaded from."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor, nn

from policykd.core.arrays import where_episodes_start
from policykd.core.errors import PolicyKDError, reraise
from policykd.core.fields import as_type
from policykd.core.networks import one_hot
from policykd.tasks.groups import as_rows
from policykd.tasks.spaces import ActionScale, DiscreteActions, EnvFactory
from policykd.teachers import loading
from policykd.teachers.checks import check_recorded, check_statistics, warn_axes, warn_bounds
from policykd.teachers.observation_map import ObservationMap, as_function, map_of_task
from policykd.teachers.policy import Memory, Policy, as_state, of_state
from policykd.teachers.score import TeacherScore, score
from policykd.teachers.statistics import Given
from policykd.teachers.task import Sizes, TaskSpaces, check_fits, inspect_task, other_task

log = logging.getLogger("policykd")


class Teacher:
    """A frozen policy on raw observations; its normaliser, if any, is inside.

    Made by ``Teacher.load``. Actions are in [-1, 1] everywhere except in ``predict``; discrete actions are one-hot
    vectors.
    """

    observation_size: int
    """Length O of the observations it takes: with an ``observation_map``, the task's."""
    action_size: int
    """Length A of an action, or number A of discrete actions."""
    source: str
    """Name of its file or object, for logs."""
    squashed: bool
    """Whether its actions are tanh of the Gaussian that ``distribution`` returns (SAC, TQC)."""

    def __init__(
        self, policy: Policy, task: TaskSpaces | None, observation_map: ObservationMap | None, device: torch.device
    ) -> None:
        self.policy, self.device, self.map = policy, device, as_function(observation_map, device)
        self.source, self.squashed = policy.source, policy.squashed
        self.missing_normaliser = policy.missing_normaliser
        self.space = policy.space if task is None else task.space
        self.discrete, self.first, self.action_size = policy.scores is not None, policy.first, policy.action_size
        low, high = (policy.low, policy.high) if task is None else task.actions.bounds
        unknown = task is None and not self.discrete and (low is None or high is None)
        if unknown or (policy.observation_size is None and task is None):
            raise PolicyKDError(f"teacher: {self.source} has unknown sizes of observations and actions: give env=")
        if low is not None and high is not None:
            self.low, self.high = np.asarray(low, np.float32), np.asarray(high, np.float32)
            here = None if task is None or isinstance(task.actions, DiscreteActions) else task.actions
            self.scale = here or ActionScale(gym.spaces.Box(self.low, self.high))
        if observation_map is not None and task is None:
            raise PolicyKDError(f"teacher: {self.source} has an observation_map, which needs a task: give env=")
        if task is None:
            assert policy.observation_size is not None
            self.observation_size = policy.observation_size
            if policy.network is not None:  # zeros may be invalid for a user's own program
                self._try(torch.zeros(1, self.observation_size))
            return
        examples = torch.from_numpy(task.examples)
        seen = self.map(examples.to(device)).shape[1]
        read = seen if policy.observation_size is None else policy.observation_size
        wanted = task.sizes._replace(observations=seen)
        check_fits(self.source, Sizes(read, self.action_size, self.discrete), wanted, task.env_id)
        self.observation_size = task.observation_size
        self.first = task.actions.start if isinstance(task.actions, DiscreteActions) else policy.first
        self._try(examples)
        check_statistics(policy, self._policy_inputs(examples), task.env_id)
        warn_bounds(policy, task)
        warn_axes(policy, task)

    def _try(self, examples: Tensor) -> None:
        """Refuse a policy that cannot act, such as one whose layers do not fit."""
        with torch.no_grad(), reraise(f"teacher: {self.source} fails on its observations (", ")"):
            self.step(examples, None, torch.ones(len(examples)))
            if self.policy.network is not None and self.policy.value is not None:
                self.policy.value(self._policy_inputs(examples))

    def __repr__(self) -> str:
        return f"Teacher({self.source}, {self.observation_size} observations, {self.action_size} actions)"

    @classmethod
    def load(
        cls,
        source: Any,
        env: str | gym.Env | EnvFactory | None = None,
        *,
        algorithm: str | None = None,
        activation: str | None = None,
        vecnormalize: Given = None,
        network: nn.Module | None = None,
        trust: bool = False,
        observation_map: ObservationMap | None = None,
        device: str | torch.device = "cpu",
    ) -> Teacher:
        """Load, check and freeze any policy; without ``trust`` no code in a file is run.

        Args:
            source: a zip of SB3 or sb3-contrib (1.0 and later), a folder of rl-baselines3-zoo or the Hugging Face Hub,
                a run folder or checkpoint of policykd, or a TorchScript or ONNX file; or a live agent, a torch module,
                or a function ``observation (O,) -> action (A,)`` in the task's units. A callable with ``reset()`` is
                copied for every environment and reset before each episode.
            env: the task to check the teacher against; required for functions and for files without their sizes.
            algorithm: the algorithm that wrote a zip ("sac"), if not to be recognised by its tensors.
            activation: torch module of a zip's hidden activation ("ELU"), if the zip does not say.
            vecnormalize: the teacher's ``vecnormalize.pkl``, if it is not beside its zip, or a live ``VecNormalize``;
                applies to any kind of teacher. False: it was trained without one.
            network: the module whose weights a file of tensors holds (``torch.save(network.state_dict())``).
            trust: run code in the file: a TorchScript program, or any pickle in an agent's ``policy.pth``.
            observation_map: the columns of the task's observation that the teacher reads, the names of its groups
                (docs/groups.md), or a function ``(B, O) -> (B, O')`` to its input; "v2", "v3" or "v4" makes the
                observation of an older version of a MuJoCo task.
            device: where it computes.

        Raises:
            PolicyKDError: it cannot be loaded safely, or does not fit the task.
        """
        task, device = None if env is None else inspect_task(env), torch.device(device)
        mapped = observation_map is not None and not isinstance(observation_map, str)
        observation_map = map_of_task(observation_map, task)
        options = loading.Options(algorithm, activation, vecnormalize, network, trust, mapped)
        seen = task  # the task as the teacher itself reads it
        if task is not None and observation_map is not None:
            examples = as_function(observation_map, torch.device("cpu"))(torch.from_numpy(task.examples))
            seen = task._replace(observation_size=examples.shape[1], examples=examples.numpy())
        teacher = cls(loading.load_policy(source, env, seen, options, device), task, observation_map, device)
        if task is not None and (other := other_task(teacher.source, task.env_id)):
            log.warning("teacher %s is named after %s but teaches %s", teacher.source, other, task.env_id)
        return teacher

    @property
    def sizes(self) -> Sizes:
        """Sizes that a task must share with it."""
        return Sizes(self.observation_size, self.action_size, self.discrete)

    @property
    def remembers(self) -> bool:
        """Whether its actions depend on earlier observations of the episode (recurrent policies, controllers)."""
        return self.policy.step is not None

    def predict(
        self,
        observation: np.ndarray | Mapping[str, Any],
        deterministic: bool = True,
        *,
        state: tuple[Any, ...] | None = None,
        episode_start: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[Any, ...] | None]:
        """Actions of the task at one raw observation ``(O,)`` or several ``(n, O)``; as SB3's ``predict``.

        Args:
            observation: raw observations, in the task's own format: dicts or several axes also work.
            deterministic: False samples, if the teacher has a standard deviation or logits.
            state: for a teacher with memory, what the last call returned; None at first.
            episode_start: for a teacher with memory, where an episode starts ``(n,)``: its memory is reset there.

        Returns:
            the actions, and the state for the next call (None without memory).
        """
        observation = self._rows(observation)
        inputs = torch.from_numpy(observation).reshape(-1, observation.shape[-1])
        starts = torch.from_numpy(where_episodes_start(episode_start, len(inputs)).astype(np.float32))
        mean, std, memory = self.step(inputs, None if state is None else of_state(state, self.device), starts)
        kept = None if memory is None else as_state(memory)
        if self.discrete:
            drawn = not deterministic and self.policy.scores == "logits"
            chosen = mean.softmax(-1).multinomial(1).squeeze(-1) if drawn else mean.argmax(-1)
            return self.first + chosen.cpu().numpy().reshape(observation.shape[:-1]), kept
        if not deterministic and std is not None:
            mean = mean + std * torch.randn_like(mean)
        actions = self.scale.to_env(self._act(mean).cpu().numpy())
        return actions.reshape(*observation.shape[:-1], self.action_size), kept

    def _rows(self, observation: np.ndarray | Mapping[str, Any]) -> np.ndarray:
        """Raw observations as ``(..., O)``."""
        if isinstance(observation, Mapping) and not isinstance(self.space, gym.spaces.Dict):
            raise PolicyKDError(f"teacher: {self.source} got a dict of observations, but no task with dicts: give env=")
        try:
            return as_rows(self.space, observation)
        except ValueError as error:
            raise PolicyKDError(f"teacher: {error}") from None

    def actions(self, observations: Tensor | np.ndarray) -> Tensor:
        """Deterministic actions ``(B, A)`` in [-1, 1] at raw observations ``(B, O)``, without gradient.

        Raises:
            PolicyKDError: an output is not finite.
        """
        return self._act(self.distribution(observations)[0])

    @torch.no_grad()
    def distribution(self, observations: Tensor | np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Means ``(B, A)`` and standard deviations ``(B, A)`` at raw observations ``(B, O)``, without gradient.

        In [-1, 1] units, and before tanh if ``squashed``. A teacher without a standard deviation returns its action as
        the mean, and None. With discrete actions it returns logits, Q-values or one-hot actions (``policy.scores``),
        and None.

        Raises:
            PolicyKDError: an output is not finite.
        """
        mean, std = self.policy.gaussian(self._policy_inputs(observations))
        self._check_finite("actions", mean)
        return mean, std

    @torch.no_grad()
    def value(self, observations: Tensor | np.ndarray) -> Tensor | None:
        """Values ``(B,)`` at raw observations ``(B, O)``, in the task's units of reward; None without a critic.

        PPO, A2C, TRPO: V(s). SAC, TD3, DDPG: min over the critics of Q(s, pi(s)). TQC: the mean of all quantiles.
        DQN, QRDQN: max over the actions of Q(s, a).
        If the teacher was trained on normalised rewards, its value is multiplied by their scale.

        Raises:
            PolicyKDError: a value is not finite.
        """
        if self.policy.value is None:
            return None
        values = self.policy.value(self._policy_inputs(observations))
        self._check_finite("values", values)
        return values

    def score(self, env_id_or_factory: str | gym.Env | EnvFactory, n_episodes: int = 10, seed: int = 0) -> TeacherScore:
        """Play ``n_episodes`` on the task, and as many with random actions from the same initial states.

        Warns about a teacher trained on normalised observations whose normaliser is missing, with its returns.

        Raises:
            PolicyKDError: ``n_episodes`` or ``seed`` is invalid, or the task has other sizes.
        """
        n_episodes, seed = as_type("n_episodes", n_episodes, int), as_type("seed", seed, int)
        if n_episodes < 1 or seed < 0:
            raise PolicyKDError(f"score: needs at least 1 episode and a seed >= 0, got {n_episodes} and {seed}")
        task = inspect_task(env_id_or_factory)
        check_fits(self.source, self.sizes, task.sizes, task.env_id)
        memory: Memory | None = None

        def act(observations: np.ndarray) -> np.ndarray:  # one episode each, all starting at the first call
            nonlocal memory
            mean, _, memory = self.step(torch.from_numpy(observations), memory, torch.zeros(len(observations)))
            return self._act(mean).cpu().numpy()

        result = score(self.source, env_id_or_factory, act, n_episodes, seed)
        if self.missing_normaliser:
            log.warning("no vecnormalize.pkl, although it was trained on normalised observations: %s", result)
        else:
            check_recorded(self.policy, result)
        return result

    def parameters(self) -> list[Tensor]:
        """Its parameters, if torch can see them (not for functions and ONNX files); none requires a gradient."""
        network = self.policy.network
        return [] if network is None else [*network.parameters(), *network.buffers()]

    @torch.no_grad()
    def step(
        self, observations: Tensor, memory: Memory | None, starts: Tensor
    ) -> tuple[Tensor, Tensor | None, Memory | None]:
        """``distribution`` at the next observations of B episodes, and the next memory of a teacher that has one.

        Args:
            observations: raw observations ``(B, O)``.
            memory: what the last call returned; None at first.
            starts: 1 where an episode starts ``(B,)``: its memory is reset there.
        """
        if self.policy.step is None:
            return *self.distribution(observations), None
        mean, std, memory = self.policy.step(self._policy_inputs(observations), memory, starts.to(self.device))
        self._check_finite("actions", mean)
        return mean, std, memory

    def _act(self, mean: Tensor) -> Tensor:
        if self.discrete:
            return one_hot(mean)
        return mean.tanh() if self.squashed else mean.clamp(-1, 1)

    def _policy_inputs(self, observations: Tensor | np.ndarray) -> Tensor:
        """The teacher's own input at raw observations; a copy, since a user's program may write into it."""
        if observations.ndim != 2 or observations.shape[1] != self.observation_size:
            shape = tuple(observations.shape)
            raise PolicyKDError(f"teacher: {self.source} reads observations (B, {self.observation_size}), not {shape}")
        return self.map(torch.as_tensor(observations, dtype=torch.float32, device=self.device).clone())

    def _check_finite(self, what: str, values: Tensor) -> None:
        if not torch.isfinite(values).all():
            row = int((~torch.isfinite(values.reshape(len(values), -1))).any(1).nonzero()[0, 0])
            raise PolicyKDError(
                f"teacher: {self.source} gives {what} that are not finite (observation {row} of a batch)"
            )
