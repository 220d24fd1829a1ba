"""Gymnasium's ``VectorEnv`` as the environments of all learners: batched simulators, or copies in processes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from torch import Tensor

from policykd.core.arrays import Array, as_numpy
from policykd.core.errors import PolicyKDError
from policykd.tasks.contract import build, checked, note_success, task_name
from policykd.tasks.env_state import get_env_state, set_env_state, unsaved_state
from policykd.tasks.flat import FlatVector, needs_flattening
from policykd.tasks.groups import Groups, groups_of
from policykd.tasks.spaces import Task, Vector, action_scale, check_spaces, find_task, refuse_moving_scales
from policykd.tasks.vector import EpisodeLog, Step
from policykd.tasks.vector_contract import autoreset_mode, call, check_mode, final, numbers, with_final

NOTHING: dict[str, Any] = {}
"""The ``info`` of an environment whose episode continues."""


def find_vector(env: Any) -> Task | None:
    """The task of a user's ``VectorEnv``, or of a function of ``num_envs`` that makes one; None for anything else.

    Raises:
        PolicyKDError: the function makes something else, or its autoreset mode is not supported.
    """
    if isinstance(env, VectorEnv):
        flat = _checked(env)
        vector = Vector(lambda count: flat, env.num_envs)
        if isinstance(env, SyncVectorEnv | AsyncVectorEnv):  # a single copy can be played alone
            return find_task(env.env_fns[0])._replace(vector=vector)
        return Task(
            task_name(env), checked(lambda: SingleEnv(flat, playable=False), task_name(env)), False, vector, False
        )
    if not callable(env) or next(iter(_parameters(env)), None) != "num_envs":
        return None
    called = getattr(env, "__name__", type(env).__name__)

    def make(count: int) -> VectorEnv:
        made = build(lambda: env(count), f"{called}({count})")
        if not isinstance(made, VectorEnv) or made.num_envs != count:
            raise PolicyKDError(
                f"environment: {called}({count}) must return a gymnasium VectorEnv of {count} environments"
            )
        return _checked(made)

    with closing(make(1)) as probe:
        if isinstance(probe, SyncVectorEnv | AsyncVectorEnv):  # a single copy needs no process
            return find_task(probe.env_fns[0])._replace(vector=Vector(make, None))
        name = task_name(probe)
    return Task(name, checked(lambda: SingleEnv(make(1)), name), False, Vector(make, None))


class SingleEnv(gym.Env):
    """A ``VectorEnv`` with one environment, as a plain ``Env``.

    Args:
        vector: has one environment.
        playable: False if it is the training vector, which cannot be played separately: only its spaces may be used.
    """

    def __init__(self, vector: VectorEnv, playable: bool = True) -> None:
        self.vector, self.playable = vector, playable
        self.device: torch.device | None = None
        self.observation_space, self.action_space = vector.single_observation_space, vector.single_action_space

    @property
    def unwrapped(self) -> Any:
        """The vector, which holds the task's name."""
        return self.vector.unwrapped

    @property
    def observation_groups(self) -> Groups:
        """Named columns of the observation."""
        return groups_of(self.vector)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Start an episode."""
        if not self.playable:
            raise PolicyKDError(
                "environment: a single VectorEnv cannot serve both training and evaluation: pass a function of num_envs"
            )
        observations, _ = call(self.vector, "reset", seed=seed)
        self.device = observations.device if isinstance(observations, Tensor) else None
        return as_numpy(observations)[0], {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Take one step; the observation belongs to the current episode, even if the vector has started the next."""
        actions = action[None] if self.device is None else torch.as_tensor(action[None], device=self.device)
        observations, *values, infos = call(self.vector, "step", actions)
        name, kinds = task_name(self.vector), ("rewards", "flags", "flags")
        reward, terminated, truncated = (
            numbers(part, (1,), "float64", None, f"environment: {name} returned {kind}").item()
            for part, kind in zip(values, kinds, strict=True)
        )
        if (terminated or truncated) and autoreset_mode(self.vector) == AutoresetMode.SAME_STEP:
            observations = final(infos, name)
        return as_numpy(observations[0]), reward, bool(terminated), bool(truncated), {}

    def close(self) -> None:
        """Close the vector, unless it is the training vector."""
        if self.playable:
            self.vector.close()


class BatchedEnvs:
    """All E environments of K learners in one ``VectorEnv``, learner by learner; episodes reset automatically.

    If it returns tensors, observations, rewards and actions stay on their device. Flags of ended episodes are copied to
    the CPU at every step.

    Args:
        vector: the environments.
        learners: number of learners K.
        folders: one folder per learner for its ``monitor.csv``, or None to write none.
        append: append to an existing ``monitor.csv``.
    """

    def __init__(self, vector: VectorEnv, learners: int, folders: list[Path] | None, append: bool = False) -> None:
        self.vector, self.num_envs, self.name = vector, vector.num_envs, task_name(vector)
        self.mode = autoreset_mode(vector)
        observation_space, action_space = check_spaces(SingleEnv(vector, playable=False))
        self.shape, self.action_scale = (self.num_envs, observation_space.shape[0]), action_scale(action_space)
        self.several_seeds = isinstance(vector.unwrapped, SyncVectorEnv | AsyncVectorEnv)
        self.begun, self.seeds, self.device = time.time(), [0] * self.num_envs, torch.device("cpu")
        self.tensors = False
        """Whether the vector takes and returns tensors."""
        self.returns, self.lengths = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        self.logs = []
        if folders is not None:
            header: dict[str, float | str] = {"t_start": self.begun, "env_id": self.name}
            files = [str(folder / "monitor.csv") for folder in folders]
            self.logs = [EpisodeLog(file, header=header, override_existing=not append) for file in files]
        self.actor_in: Callable[[int], int] = lambda e: e * learners // self.num_envs

    def credit(self, actor_in: Callable[[int], int]) -> None:
        """Log every episode to the learner that acted in it; ``actor_in`` maps an environment to its learner."""
        self.actor_in = actor_in

    def start(self, seeds: list[int]) -> Array:
        """Start the first episode of every environment; returns observations ``(E, O)``.

        Gymnasium's own vectors get a seed per environment; others only the first, from which they derive the rest.
        """
        observations, _ = call(self.vector, "reset", seed=seeds if self.several_seeds else seeds[0])
        self.tensors = not isinstance(observations, np.ndarray)
        if self.tensors and not isinstance(observations, Tensor):
            raise PolicyKDError(
                f"environment: {self.name} gives {type(observations).__name__}: wrap it in "
                "gymnasium.wrappers.vector.JaxToTorch, which passes arrays by DLPack without a copy"
            )
        if isinstance(observations, Tensor):
            self.device = observations.device
            self.returns = torch.zeros(self.num_envs, dtype=torch.float64, device=self.device)  # type: ignore[assignment]
        return self._kept(observations)

    def advance(self, actions: Array, scaled: bool) -> Step:
        """Step every environment with actions ``(E, A)``, in [-1, 1] if ``scaled``.

        Raises:
            TaskError: the vector raised, or returned values of another shape.
        """
        own: Any = torch.as_tensor(actions, device=self.device) if self.tensors else as_numpy(actions)
        sent = self.action_scale.to_env(own) if scaled else self.action_scale.clip(own)
        observations, rewards, *flags, infos = call(self.vector, "step", sent)
        observations = following = self._kept(observations)
        device, source = self.device if self.tensors else None, f"environment: {self.name} returned"
        rewards = numbers(rewards, self.shape[:1], "float64", device, f"{source} rewards")
        ended, cut = (as_numpy(numbers(flag, self.shape[:1], "bool", None, f"{source} flags")) for flag in flags)
        dones, cut = ended | cut, cut & ~ended
        self.returns += rewards
        self.lengths += 1
        episode_infos = [NOTHING] * self.num_envs
        if dones.any():
            which = np.flatnonzero(dones)
            if self.mode == AutoresetMode.SAME_STEP:
                following = with_final(observations, infos, which, self.name)
            else:
                mask = torch.from_numpy(dones).to(self.device) if self.tensors else dones.copy()
                observations = self._kept(call(self.vector, "reset", options={"reset_mask": mask})[0])
            for e in which:
                episode_infos[e] = self._ended(int(e), following, bool(cut[e]), infos)
        return Step(own, observations, rewards, dones, episode_infos, following, cut)

    def _ended(self, e: int, last: Array, cut: bool, infos: dict[str, Any]) -> dict[str, Any]:
        """The ``info`` of an ended episode, with the keys of SB3's Monitor and VecEnvs; resets its counters."""
        taken = round(time.time() - self.begun, 6)
        episode = {"r": round(float(self.returns[e]), 6), "l": int(self.lengths[e]), "t": taken}
        self.returns[e], self.lengths[e] = 0.0, 0
        if self.logs:
            self.logs[self.actor_in(e)].write_row(dict(episode))
        note_success(episode, infos.get("final_info", infos), e)
        return {"episode": episode, "TimeLimit.truncated": cut, "terminal_observation": as_numpy(last[e])}

    def _kept(self, observations: Any) -> Array:
        """A copy ``(E, O)`` in float32."""
        device = self.device if self.tensors else None
        return numbers(observations, self.shape, "float32", device, f"environment: {self.name} returned observations")

    def close(self) -> None:
        """Close the vector and the logs."""
        self.vector.close()
        for log in self.logs:
            log.close()

    def state(self) -> dict[str, Any]:
        """State of the vector in the middle of its episodes, as far as it is plain values, and episode counters."""
        copies = getattr(self.vector.unwrapped, "envs", [])
        return {
            "vector": get_env_state(self.vector),  # type: ignore[arg-type]
            "envs": [get_env_state(env) for env in copies],
            "returns": as_numpy(self.returns),
            "lengths": self.lengths,
        }

    def unsaved(self) -> list[str]:
        """Names of what ``state`` cannot hold; if there are any, a resumed run starts new episodes."""
        copies = getattr(self.vector.unwrapped, "envs", [])
        known = ("env_fns", "envs") if copies else ()
        own = [name for name in unsaved_state(self.vector) if name.split(".")[-1] not in known]  # type: ignore[arg-type]
        return own + [name for env in copies[:1] for name in unsaved_state(env)]

    def restore(self, saved: dict[str, Any], observations: Array) -> Array:
        """Continue from a saved state whose latest observations were ``observations`` ``(E, O)``."""
        set_env_state(self.vector, saved["vector"])  # type: ignore[arg-type]
        for env, state in zip(getattr(self.vector.unwrapped, "envs", []), saved["envs"], strict=True):
            set_env_state(env, state)
        self.lengths[:] = saved["lengths"]
        self.returns[:] = (
            torch.as_tensor(saved["returns"], device=self.device) if self.tensors else as_numpy(saved["returns"])
        )
        return torch.as_tensor(observations, device=self.device) if self.tensors else as_numpy(observations)


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # of a builtin
        return []


def _checked(vector: VectorEnv) -> VectorEnv:
    """Check a vector, and flatten its observations.

    Raises:
        PolicyKDError: it normalises by running statistics, or some steps are not transitions: names the wrapper to
            remove, or the supported modes.
    """
    refuse_moving_scales(vector, task_name(vector))
    check_mode(vector)
    return FlatVector(vector) if needs_flattening(vector.single_observation_space) else vector
