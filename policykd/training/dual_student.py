"""Learners that learn one task together and from one another: the agent that a user trains."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import gymnasium as gym

from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.fields import change
from policykd.distillation.methods import METHODS, PEER_METHODS
from policykd.learners import CONFIGS, LEARNERS, PPO
from policykd.learners.config import Config, OffPolicyConfig, PPOConfig
from policykd.learners.presets import preset
from policykd.memory import Rollout, SharedReplay
from policykd.tasks.spaces import EnvFactory, short_id
from policykd.training import arguments
from policykd.training.agent import Agent, LearnerChoice, Memory
from policykd.training.arguments import check_seeds, known
from policykd.training.recipes.rollout import RolloutUpdate
from policykd.training.recipes.update import Update

__all__ = ["DualStudent", "LearnerChoice", "resolve_config"]

MOST_PEERS = 1_000


class DualStudent(Agent):
    """Groups of peers that learn a continuous-control task, all in one batched update.

    Args:
        env: id of a registered environment, an instance made from one, or a function that makes an instance.
        method: a row of ``policykd.distillation.methods.PEER_METHODS``.
        backbone: "ddpg", "td3", "sac" or "ppo".
        peers: learners per group that learn from one another.
        seeds: one group per seed; groups are independent repetitions.
        config: changed settings as a dict, a preset's name, or the backbone's whole dataclass.
        device: "auto" is CUDA where there is one.
        compile: ``torch.compile`` the update; "auto" where it pays for the length of the run.
        run_dir: a new folder for logs, evaluations and checkpoints; None writes nothing.
        overrides: fields to change in a preset or config.

    Raises:
        PolicyKDError: anything of this cannot work; the text is one line.
    """

    def __init__(
        self,
        env: str | gym.Env | EnvFactory,
        *,
        method: str = "dpd",
        backbone: str = "ddpg",
        peers: int = 2,
        seeds: Sequence[int] = (0,),
        config: str | dict[str, Any] | Config | None = None,
        device: str = "auto",
        compile: bool | Literal["auto"] = "auto",
        run_dir: str | Path | None = None,
        overrides: dict[str, Any] | None = None,
    ) -> None:
        if method in METHODS and method not in PEER_METHODS:
            raise PolicyKDError(f"method: {method} needs a teacher: use TeacherStudent (policykd distill)")
        self.method_name = known("method", method, PEER_METHODS)
        self.backbone = known("backbone", backbone, LEARNERS)
        self.peers, self.seeds = _check_peers(METHODS[method].source is not None, method, peers), check_seeds(seeds)
        self._set_task(env, device)
        self.config = change(resolve_config(config, backbone, short_id(self.env_id)), overrides or {})
        if self.on_policy and METHODS[method].replay == "pooled":
            raise PolicyKDError(f"method: {method} pools the replays of a group, and {backbone} learns from no replay")
        self.compile = compile
        self._build()
        self._create_folder(run_dir)

    def make_memories(self, observation_size: int, action_size: int) -> dict[str, Memory]:
        """A rollout, or the replay that all learners share."""
        config, sizes = self.config, (observation_size, action_size)
        if isinstance(config, PPOConfig):
            self.rollout_buffer = Rollout(config.n_steps, config.n_envs, *sizes, self.n_learners)
            return {"rollout": self.rollout_buffer}
        self.replay_buffer = SharedReplay(config.buffer_size, *sizes, self.n_learners, self.peers, self.device)
        return {"replay": self.replay_buffer}

    def make_update(self, compiled: bool) -> Update | RolloutUpdate:
        """Put learners, method and memory together for training."""
        method, learner, config = METHODS[self.method_name], self.learner, self.config
        common = self.sampling, self.peers, compiled
        if isinstance(learner, PPO):
            assert isinstance(config, PPOConfig)
            self.update = RolloutUpdate(learner, method, config, self.rollout_buffer, *common)
        else:
            assert isinstance(config, OffPolicyConfig)
            self.update = Update(learner, method, config, self.replay_buffer, *common)
        return self.update

    @classmethod
    def load(cls, path: str | Path, env: str | gym.Env | EnvFactory | None = None, device: str = "auto") -> DualStudent:
        """Read an agent back. A run's own checkpoint goes on writing into its run folder.

        Args:
            path: a file that ``save`` wrote, or a run folder.
            env: the environment, where it is not a registered id.
            device: where to put it.

        Raises:
            PolicyKDError: the file is missing, damaged or foreign; nothing of it is run.
        """
        with checkpoint.understood(path):
            return cls.from_state(*cls.read(path, env), env, device)

    @classmethod
    def from_state(
        cls, path: Path, loaded: dict[str, Any], env: str | gym.Env | EnvFactory | None, device: str
    ) -> DualStudent:
        """The agent of a checkpoint's content (``Agent.read``)."""
        settings = loaded["settings"]
        agent = cls(
            settings["env"] if env is None else env,
            method=settings["method"],
            backbone=settings["backbone"],
            peers=settings["peers"],
            seeds=settings["seeds"],
            config=settings["config"],
            device=device,
            compile=loaded["compile"],
        )
        return agent._restore(path, loaded)

    @property
    def memory(self) -> str:
        """What each learner remembers, in some words."""
        if isinstance(self.config, PPOConfig):
            return f"rollouts of {self.n_envs} x {self.config.n_steps:,} steps each"
        replay = self.replay_buffer
        return f"replay {replay.capacity:,} transitions each, {replay.nbytes / 1e6:,.1f} MB"


def resolve_config(config: str | dict[str, Any] | Config | None, backbone: str, env_id: str) -> Config:
    """The whole configuration of a backbone from a preset's name, changed fields or itself."""
    return arguments.resolve_config(config, CONFIGS[backbone], backbone, lambda name: preset(name, env_id, backbone))


def _check_peers(distils: bool, method: str, peers: int) -> int:
    least = 2 if distils else 1
    if isinstance(peers, bool) or not isinstance(peers, int) or peers < least:
        raise PolicyKDError(f"peers: {method} needs at least {least} learners per group, got {peers!r}")
    if peers > MOST_PEERS:
        raise PolicyKDError(f"peers: at most {MOST_PEERS:,} learn in a group, got {peers:,}")
    return peers
