"""What every agent does, whoever its learners learn from: train, predict, evaluate, save; SB3's protocol."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, Protocol, TypeVar

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, ConvertCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback

from policykd import export, native
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.seeding import env_seed, stream
from policykd.learners import OFF_POLICY, PPO, OffPolicyLearner
from policykd.learners.config import Config, PPOConfig
from policykd.memory import Rollout, SharedReplay
from policykd.tasks import Evaluation, Evaluator
from policykd.tasks.spaces import ActionScale, EnvFactory, check_named, check_spaces, find_task, short_id
from policykd.tasks.vector import LearnerEnvs
from policykd.training import snapshot
from policykd.training.arguments import find_device, one_line
from policykd.training.loop import COMPILE_PAYS, train
from policykd.training.recipes import replay, rollout
from policykd.training.recipes.update import can_compile
from policykd.training.run_folder import CHECKPOINT, RunFolder

LearnerChoice = int | Literal["best"]
A = TypeVar("A", bound="Agent")


class Improver(Protocol):
    """What improves all learners of an agent."""

    n_updates: int
    distillation: Any
    """Holds what distillation must remember as tensors, for checkpoints; or None."""


class Memory(Protocol):
    """What learners remember: it goes into checkpoints."""

    def state(self) -> dict[str, Any]:
        """Its content as arrays and plain values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from such a content."""


class Agent:
    """K learners of one task on one learner axis; ``DualStudent`` and ``TeacherStudent`` say how they learn."""

    environment_reward = True
    """Whether the task's rewards count, for learners on policy."""
    method_name: str
    backbone: str
    peers: int
    seeds: tuple[int, ...]
    config: Config
    compile: bool | Literal["auto"]
    rollout_buffer: Rollout
    """The latest steps of learners on policy."""
    replay_buffer: SharedReplay
    """All steps of learners off policy."""

    def _set_task(self, env: str | gym.Env | EnvFactory, device: str) -> None:
        """Find the task and look at its spaces."""
        self.env_id, self.factory, self.made_by_id = find_task(env)
        self.device = find_device(device)
        probe = self._probe()
        try:
            self.observation_space, self.action_space = check_spaces(probe)
        finally:
            probe.close()
        self.action_scale = ActionScale(self.action_space)
        self.folder: RunFolder | None = None

    def _probe(self) -> gym.Env:
        try:
            return self.factory()
        except (gym.error.Error, ImportError) as error:
            raise PolicyKDError(f"environment: {self.env_id} cannot be made: {one_line(error)}") from None

    def _create_folder(self, run_dir: str | Path | None) -> None:
        """Begin the run folder; last of all, so that a run that cannot start leaves none behind."""
        if run_dir is not None:
            self.folder = self._folder(run_dir)
            self.folder.create(self.settings)

    def _folder(self, path: str | Path) -> RunFolder:
        return RunFolder(path, f"{self.method_name}-{self.backbone}", short_id(self.env_id), self.n_learners)

    def _build(self) -> None:
        """Make networks, memory and generators; environments and logs are opened when first needed."""
        sizes = self.observation_space.shape[0], self.action_space.shape[0]
        streams = {p: [stream(*who, p) for who in self.learners] for p in ("learner", "exploration", "replay")}
        self.exploration, self.sampling = streams["exploration"], streams["replay"]
        config = self.config
        self.learner: OffPolicyLearner | PPO
        if isinstance(config, PPOConfig):
            bounds = self.action_scale.low, self.action_scale.high
            self.learner = PPO(*sizes, config, streams["learner"], self.device, *bounds)
        else:
            self.learner = OFF_POLICY[self.backbone](*sizes, config, streams["learner"], self.device)
        self.memories: dict[str, Memory] = self.make_memories(*sizes)
        self.update: Any = None
        self.envs: LearnerEnvs | None = None
        self.evaluator: Evaluator | None = None
        self._logger: Logger | None = None
        self.resumed: dict[str, Any] | None = None
        self.num_timesteps = 0
        self.span = (0, 0)  # the steps between which the current (or an interrupted) call of learn runs
        self.elapsed = 0.0
        self.last_observations: np.ndarray | None = None
        self.episodes: list[deque[dict[str, float]]] = [deque(maxlen=100) for _ in self.learners]
        self.n_episodes = 0
        self.evaluation_steps: list[int] = []
        self.evaluations: list[Evaluation] = []
        self.evaluation_seconds: list[float] = []

    def make_memories(self, observation_size: int, action_size: int) -> dict[str, Memory]:
        """What learners remember, by name."""
        raise NotImplementedError

    def make_update(self, compiled: bool) -> Improver:
        """Put learners, method and memory together for training."""
        raise NotImplementedError

    @property
    def learning(self) -> ModuleType:
        """How a step is collected and learnt from: a module with ``collect`` and ``improve``."""
        return rollout if self.on_policy else replay

    @property
    def learners(self) -> list[tuple[int, int]]:
        """(seed, peer) of every learner, in the order of the learner axis."""
        return [(seed, peer) for seed in self.seeds for peer in range(self.peers)]

    @property
    def n_learners(self) -> int:
        """Length K of the learner axis."""
        return len(self.seeds) * self.peers

    @property
    def on_policy(self) -> bool:
        """Whether learners learn from rollouts of their own, without a replay."""
        return isinstance(self.config, PPOConfig)

    @property
    def n_envs(self) -> int:
        """Training environments N of each learner."""
        return self.config.n_envs if isinstance(self.config, PPOConfig) else 1

    @property
    def steps_at_once(self) -> int:
        """Environment steps of one group in one step of all environments."""
        return self.peers * self.n_envs

    @property
    def progress(self) -> float:
        """From 0 to 1 over the current call of ``learn``, for schedules."""
        start, end = self.span
        return (self.num_timesteps - start) / max(1, end - start)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes this run what it is, as plain values."""
        return snapshot.settings(self)

    @property
    def logger(self) -> Logger:
        """The run's SB3 logger: means over the learners, and what callbacks record."""
        if self._logger is None:
            if self.resumed is not None:
                self.get_env()  # cuts the logs back to the checkpoint before they are opened
            self._logger = Logger(folder=None, output_formats=[]) if self.folder is None else self.folder.open_loggers()
        return self._logger

    def get_env(self) -> LearnerEnvs:
        """The training environments, N per learner and learner by learner, as an SB3 ``VecEnv``."""
        if self.envs is None:
            folders = None if self.folder is None else self.folder.learner_folders
            if self.resumed is not None and self.folder is not None:
                self.folder.rewind(self.resumed["log_sizes"], self.num_timesteps)
            self.envs = LearnerEnvs(self.factory, self.n_learners, folders, self.resumed is not None, self.n_envs)
            if self.resumed is None:
                seeds = [env_seed(*who, "environment", n) for who in self.learners for n in range(self.n_envs)]
                self.last_observations = self.envs.start(seeds)
            else:
                snapshot.restore_envs(self, self.resumed)
        return self.envs

    def get_vec_normalize_env(self) -> None:
        """None: learners see raw observations (SB3's ``EvalCallback`` asks)."""
        return None

    def dump_logs(self) -> None:
        """Write what was recorded so far as one row (SB3's ``LogEveryNTimesteps`` calls this)."""
        self.logger.record("time/total_timesteps", self.num_timesteps)
        self.logger.dump(self.num_timesteps)

    def prepare_update(self, total_timesteps: int) -> None:
        """Decide whether to compile, once, when it is known how long training will be."""
        if self.compile == "auto":
            updates = self.gradient_steps_in(total_timesteps // self.peers)
            self.compile = updates >= COMPILE_PAYS and can_compile(self.device)
        if self.update is None:
            self.make_update(self.compile)

    def gradient_steps_in(self, steps: int) -> int:
        """About how many gradient steps follow from so many environment steps of each learner."""
        config = self.config
        if isinstance(config, PPOConfig):
            return steps * config.n_epochs // config.batch_size
        return steps // config.train_freq * config.gradient_steps

    def extra_state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside what all agents have."""
        return {}

    def learn(
        self: A,
        total_timesteps: int,
        callback: MaybeCallback = None,
        progress_bar: bool = False,
    ) -> A:
        """Train for ``total_timesteps`` more environment steps per group, all of its peers counted together.

        Args:
            total_timesteps: the budget of this call.
            callback: an SB3 callback, several, or a function of ``(locals, globals)``; ``num_timesteps`` is that of
                one group.
            progress_bar: show a live progress bar with the latest returns.

        Raises:
            PolicyKDError: the environment returned a NaN, or a file could not be written.
        """
        if callback is not None and not isinstance(callback, BaseCallback | list):
            callback = ConvertCallback(callback)
        train(self, total_timesteps, callback, progress_bar)
        return self

    def predict(
        self,
        observation: np.ndarray,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = True,
        learner: LearnerChoice = "best",
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Actions in units of the environment, for one observation ``(O,)`` or several ``(n, O)``.

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
                noise = np.random.standard_normal((inputs.shape[1], self.action_space.shape[0]))
                noises = torch.from_numpy(noise).to(inputs).expand(self.n_learners, -1, -1)
                actions = self.learner.explore(self.learner.actor, inputs, noises)
        scaled = self.action_scale.to_env(actions[k].cpu().numpy()).astype(self.action_space.dtype)
        return scaled.reshape(*np.shape(observation)[:-1], -1), state

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
        """Every learner's deterministic action ``(K, A)`` in [-1, 1] at its row of ``observations (K, O)``."""
        inputs = torch.from_numpy(observations).to(self.device).unsqueeze(1)
        with torch.no_grad():
            return self.learner.policy(self.learner.actor, inputs).squeeze(1).cpu().numpy()

    def evaluate(self, n_eval_episodes: int | None = None, seed: int | None = None) -> Evaluation:
        """Evaluate all learners now, on environments of their own; the result is returned, not recorded.

        Args:
            n_eval_episodes: episodes per learner; None is the config's.
            seed: seed of the episodes' starts, the same for all groups; None is each group's own, and new starts
                at every number of steps.
        """
        if self.evaluator is None:
            self.evaluator = Evaluator(self.factory, self.n_learners, self.action_scale.to_env)
        episodes = self.config.n_eval_episodes if n_eval_episodes is None else n_eval_episodes
        if episodes < 1 or (seed is not None and seed < 0):
            raise PolicyKDError(f"evaluate: needs episodes from 1 and a seed from 0 up, got {episodes} and {seed}")
        seeds = [group_seed if seed is None else seed for group_seed, _ in self.learners]
        return self.evaluator.run(self.policies, episodes, seeds, self.num_timesteps if seed is None else 0)

    def save(self, path: str | Path, include_replay: bool = False) -> None:
        """Write the agent to ``path`` (``.safetensors`` if it has no ending), whole or not at all.

        Args:
            path: the file.
            include_replay: also write the replay and the environments' states, to go on exactly from here.
        """
        path = Path(path)
        path = path if path.suffix else path.with_suffix(".safetensors")
        checkpoint.save(path, snapshot.state(self, include_replay))

    @staticmethod
    def read(path: str | Path, env: object) -> tuple[Path, dict[str, Any]]:
        """A checkpoint's content, where ``env`` is given if it must be."""
        path = Path(path) / CHECKPOINT if Path(path).is_dir() else Path(path)
        loaded = checkpoint.load(path)
        if "settings" not in loaded or "learner" not in loaded:
            raise PolicyKDError(f"checkpoint: {path} holds no agent")
        if env is None and not loaded["made_by_id"]:
            name = loaded["settings"]["env"]
            raise PolicyKDError(f"load: {path} was trained on an instance or a function of {name}: give it as env=")
        if env is None:
            check_named(loaded["settings"]["env"], path)
        snapshot.check_sizes(loaded, path)
        return path, loaded

    def _restore(self: A, path: Path, loaded: dict[str, Any]) -> A:
        """Continue from a checkpoint's content; a run's own one goes on writing into its folder."""
        snapshot.restore(self, loaded)
        if path.name == CHECKPOINT and self.resumed is not None:
            self.folder = self._folder(path.parent)
        return self

    def to_sb3(self, learner: LearnerChoice = "best") -> BaseAlgorithm:
        """One learner as a real SB3 model: networks, targets and optimisers, ready to predict, train, save and load."""
        return export.to_sb3(self, self.learner_index(learner))

    @property
    def computed_by(self) -> str:
        """What does the arithmetic: it must be the same for a run to go on bit by bit."""
        return f"{'native' if not native.reason() else 'torch'}, torch {torch.__version__}, {self.device.type}"
