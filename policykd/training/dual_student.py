"""Peers that learn one task and distil from one another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from policykd import native
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.fields import change
from policykd.core.registry import find, name_of
from policykd.distillation.divergences import divergence_of
from policykd.distillation.methods import PEER_METHODS, TEACHER_METHODS, PeerMethod
from policykd.distillation.weights import weight_of
from policykd.learners import LEARNERS, PPO, Learner, OffPolicyLearner, presets
from policykd.learners.config import Config, OffPolicyConfig, PPOConfig
from policykd.learners.partial_view import mask_unseen_inputs
from policykd.memory import Rollout, SharedReplay
from policykd.tasks.saved import read
from policykd.tasks.spaces import AnyEnv, DiscreteActions, short_id
from policykd.training import arguments
from policykd.training.acting import Observation
from policykd.training.acting_as_one import ActingAsOne
from policykd.training.function_checks import try_divergence, try_weight
from policykd.training.group import group_actions
from policykd.training.learner_choice import LearnerChoice, Rule
from policykd.training.peer_checks import check_method, check_peers, views_of_peers
from policykd.training.recipes.peers_at_own_pace import PeersAtOwnPace
from policykd.training.recipes.peers_on_replay import PeersOnReplay
from policykd.training.recipes.peers_on_rollouts import PeersOnRollouts
from policykd.training.saving import OwnParts
from policykd.training.sb3_interface import explains_arguments

__all__ = ["DualStudent", "LearnerChoice", "resolve_config"]


class DualStudent(ActingAsOne):
    """Groups of peers that learn a task and distil from one another, all in one batched update.

    Args:
        env: id of a registered environment, an instance made from one, or a function that makes an instance; or a
            Gymnasium ``VectorEnv``, or a function of ``num_envs`` that makes one.
        method: a row of ``policykd.distillation.methods.PEER_METHODS``, by name or as an object of your own.
        backbone: "ddpg", "td3", "sac" or "ppo", or a ``Learner`` class of your own. Discrete actions need "ppo".
        peers: learners per group that learn from one another.
        seeds: one group per seed; groups are independent repetitions.
        config: settings to change as a dict, a preset's name, or the backbone's config dataclass.
        device: "auto" is CUDA where there is one.
        compile: ``torch.compile`` the update; "auto" does so if the run is long enough to repay it.
        threads: maximum number of threads of the native kernels; results do not depend on it. "auto" is torch's own
            number of threads.
        run_dir: a new folder for logs, evaluations and checkpoints; None writes nothing.
        overrides: fields to change in a preset or config.

    Raises:
        PolicyKDError: an argument or setting is invalid, or does not fit the others; one line says which.
    """

    @explains_arguments
    def __init__(
        self,
        env: AnyEnv,
        *,
        method: str | PeerMethod = "dpd",
        backbone: str | type[Learner] = "ddpg",
        peers: int = 2,
        seeds: Sequence[int] = (0,),
        config: str | dict[str, Any] | Config | None = None,
        device: str = "auto",
        compile: bool | Literal["auto"] = "auto",
        threads: native.Threads = "auto",
        run_dir: str | Path | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> None:
        if isinstance(method, str) and method in TEACHER_METHODS:
            raise PolicyKDError(f"method: {method} needs a teacher: use TeacherStudent (policykd distill)")
        self.method: PeerMethod = find("method", method, PEER_METHODS, PeerMethod)
        learner_type: type[Learner] = find("backbone", backbone, LEARNERS, (OffPolicyLearner, PPO))
        self.peers, self.seeds = check_peers(self.method, peers), arguments.check_seeds(seeds)
        self._set_task(env, device)
        self.config = change(resolve_config(config, backbone, short_id(self.env_id)), overrides or {})
        check_method(self.method, learner_type, self.config, self.peers, isinstance(self.action_scale, DiscreteActions))
        self.compile, self.threads = arguments.check_compile(compile), arguments.check_threads(threads)
        self._share_out()
        self._build(learner_type)
        self._limit_views()
        self._make_recipe()
        self.write_into(run_dir)

    @property
    def method_name(self) -> str:
        """Name of the method in saved files."""
        return name_of(self.method, PEER_METHODS)

    def _limit_views(self) -> None:
        """Restrict every peer to its part of the observation, if ``vary`` says so."""
        if views := views_of_peers(self.config, self.factory):
            assert isinstance(self.learner, OffPolicyLearner)
            mask_unseen_inputs(self.learner, self.sizes[0], [view.columns for view in views])

    def _make_recipe(self) -> None:
        """Make the rollout or the shared replay, and the recipe that learns from it."""
        learner, config, sizes = self.learner, self.config, self.sizes
        common = self.collector, self.streams["exploration"], self.streams["replay"], self.peers
        if isinstance(learner, PPO):
            assert isinstance(config, PPOConfig)
            self.rollout_buffer = Rollout(config.n_steps, config.n_envs, *sizes, self.n_learners, 0, self.device)
            self.memories = {"rollout": self.rollout_buffer}
            self.recipe = PeersOnRollouts(learner, self.method, config, self.rollout_buffer, *common)
        else:
            assert isinstance(learner, OffPolicyLearner) and isinstance(config, OffPolicyConfig)
            shape = *sizes, self.n_learners, self.peers, self.device, config.n_envs
            folder = self.buffer_folder if config.buffer_on_disk else None
            self.replay_buffer = SharedReplay(config.buffer_size, *shape, config.buffer_dtype, folder)
            self.memories = {"replay": self.replay_buffer}
            kind = PeersAtOwnPace if "gradient_steps" in config.vary else PeersOnReplay
            self.recipe = kind(learner, self.method, config, self.replay_buffer, *common)
        if self.peers > 1:
            try_divergence(divergence_of(config.divergence), learner, self.n_learners, learner.gaussian)
            try_weight(weight_of(self.method.weight), learner, self.n_learners, self.method.compares)

    def predict(
        self,
        observation: Observation,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        learner: LearnerChoice = "best",
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As ``Agent.predict``, and for a whole group.

        ``learner="group"`` returns the mean action of the best learner's group; "greedy" the action of its peers that
        the group's critics value most. Both act without noise.
        """
        if learner not in ("group", "greedy"):
            return super().predict(observation, state, episode_start, deterministic, learner)
        array = self.view.flat(observation)
        inputs = array.reshape(1, -1, self.sizes[0]).repeat(len(self.seeds), axis=0)
        group = self.learner_index("best") // self.peers
        rule: Rule = "mean" if learner == "group" else "greedy"
        with torch.no_grad():
            observations = torch.from_numpy(inputs).to(self.device)
            actions = group_actions(self.learner, observations, self.peers, rule)[group].cpu().numpy()
        scaled = self.action_scale.to_env(actions).astype(self.action_space.dtype)
        return scaled.reshape((*array.shape[:-1], *self.action_scale.shape)), state

    @classmethod
    @explains_arguments
    def load(
        cls,
        path: str | Path,
        env: AnyEnv | None = None,
        device: str = "auto",
        *,
        method: PeerMethod | None = None,
        backbone: type[Learner] | None = None,
        config: dict[str, Any] | None = None,
    ) -> DualStudent:
        """Load an agent. One from a run folder goes on writing into that folder.

        Args:
            path: a file that ``save`` wrote, or a run folder.
            env: the environment, where it is not a registered id.
            device: where to put it.
            method: the custom method it was made with, if any.
            backbone: the custom learner class it was made with, if any.
            config: custom functions it was made with, by setting.

        Raises:
            PolicyKDError: the file is missing, damaged or foreign, or a custom part is missing. No code in it is run.
        """
        with checkpoint.content_errors(path):
            return cls.from_state(*read(path, env), env, device, OwnParts(method, backbone, config))

    @classmethod
    def from_state(
        cls, path: Path, loaded: dict[str, Any], env: AnyEnv | None, device: str, own: OwnParts
    ) -> DualStudent:
        """Rebuild an agent from a checkpoint's content (``read``); arguments as in ``load``."""
        settings = loaded["settings"]
        task, parts = settings["env"] if env is None else env, own.resolve(settings)
        agent = cls(task, peers=settings["peers"], device=device, compile=loaded["compile"], **parts)
        return agent._restore(path, loaded)

    @property
    def memory(self) -> str:
        """Short description of each learner's memory, for the command line."""
        if self.learner_type.memory == "rollout":
            return f"rollouts of {self.n_envs} x {self.rollout_buffer.steps:,} steps each"
        replay = self.replay_buffer
        where = "" if replay.folder is None else " on disk"
        return f"replay {replay.capacity:,} transitions each, {replay.nbytes / 1e6:,.1f} MB{where}"


def resolve_config(config: str | dict[str, Any] | Config | None, backbone: str | type[Learner], env_id: str) -> Config:
    """The config dataclass of a backbone from a preset's name, a dict of changed fields, or a dataclass."""
    kind: type[Learner] = find("backbone", backbone, LEARNERS, (OffPolicyLearner, PPO))
    name = name_of(kind, LEARNERS)
    kept: Config = presets.resolve_config(
        config, kind.config_type, name, lambda wanted: presets.preset(wanted, env_id, name)
    )
    return kept
