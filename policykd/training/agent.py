"""The base of both agents: train, predict, evaluate and save, with SB3's interface."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.type_aliases import MaybeCallback
from torch import Tensor
from tqdm import tqdm

from policykd import export, native
from policykd.core import checkpoint
from policykd.core.compute import check_autograd, check_defaults, find_device, one_thread
from policykd.core.errors import PolicyKDError, reraise
from policykd.core.fields import change
from policykd.core.interrupts import Interrupts, Stopped, interruptible
from policykd.core.seeding import env_seed, stream
from policykd.learners import Learner
from policykd.learners.config import Config
from policykd.memory import Rollout, SharedReplay
from policykd.tasks import Evaluator
from policykd.tasks.batched import BatchedEnvs, find_vector
from policykd.tasks.contract import try_out
from policykd.tasks.partial import PartialEnvs
from policykd.tasks.spaces import AnyEnv, action_scale, check_spaces, find_task, short_id
from policykd.tasks.vector import LearnerEnvs
from policykd.tasks.views import view_of
from policykd.teachers import TeacherScore
from policykd.training import compiling, snapshot
from policykd.training.arguments import advise_device, check_int, check_precision, check_threads
from policykd.training.collector import Collector
from policykd.training.faults import save_on_failure
from policykd.training.loop import Hooks, train
from policykd.training.progress import Progress
from policykd.training.progress_lines import ProgressLines, make_bar
from policykd.training.records import Records
from policykd.training.run_folder import RunFolder, resume_advice
from policykd.training.saving import Saving
from policykd.training.sb3_interface import SB3Interface, as_callback, explains_arguments

A = TypeVar("A", bound="Agent")


class Agent(Saving, SB3Interface):
    """K learners of one task on one learner axis; ``DualStudent`` and ``TeacherStudent`` say how they learn."""

    config: Config
    threads: native.Threads
    """Threads of the native kernels. Results do not depend on it, so it may change at any time and is not saved."""
    rollout_buffer: Rollout
    """The current rollout of on-policy learners."""
    replay_buffer: SharedReplay
    """The replay of off-policy learners."""

    def _set_task(self, env: AnyEnv, device: str) -> None:
        """Find the task and look at its spaces."""
        check_defaults()
        task = find_vector(env) or find_task(env)  # type: ignore[arg-type]
        self.env_id, self.factory, self.made_by_id, self.vector, self.plays_alone = task
        self.device = find_device(device)
        with self.factory() as probe:
            self.observation_space, self.action_space = check_spaces(probe)
            if self.plays_alone:
                try_out(probe)
            self.view = view_of("env", probe)
        self.action_scale = action_scale(self.action_space)

    def _share_out(self) -> None:
        """Divide a user's ``VectorEnv`` evenly among the learners, which sets ``n_envs``.

        Raises:
            PolicyKDError: it cannot be divided evenly, or there is nothing to evaluate on.
        """
        if self.vector is None or self.vector.num_envs is None:
            return
        each, left = divmod(self.vector.num_envs, self.n_learners)
        if left or not each:
            raise PolicyKDError(
                f"environment: the {self.vector.num_envs} environments of {self.env_id} cannot be divided evenly "
                f"among {self.n_learners} learners (seeds x peers)"
            )
        if not self.plays_alone and self.config.n_eval_episodes:
            raise PolicyKDError(
                f"environment: a single {self.env_id} cannot serve both training and evaluation: pass a function of "
                f"num_envs that makes it (lambda num_envs: {self.env_id}(num_envs)), or set n_eval_episodes=0"
            )
        self.config = change(self.config, {"n_envs": each})

    def _build(self, learner_type: type[Learner]) -> None:
        """Make networks and generators. Environments and logs open at first use."""
        self.learner_type = learner_type
        self.run = Progress(self.learners, self.steps_at_once)
        self.collector = Collector(self.env_id, self.n_envs, self.run)
        streams = {p: [stream(*who, p) for who in self.learners] for p in ("learner", "exploration", "replay")}
        self.streams: snapshot.Streams = streams
        self.learner = self._new_learner(self.config)
        self.folder: RunFolder | None = None
        self.evaluator: Evaluator | None = None
        self.envs: LearnerEnvs | BatchedEnvs | None = None
        self._logger: Logger | None = None
        self._resumed: dict[str, Any] | None = None

    def _new_learner(self, config: Config) -> Learner:
        """Learners with new networks."""
        bounds = self.action_scale.bounds
        return self.learner_type.make(*self.sizes, config, self.streams["learner"], self.device, *bounds)

    def write_into(self, run_dir: str | Path | None) -> None:
        """Create the run folder; called last, so that a run that cannot start leaves none behind.

        Raises:
            PolicyKDError: it is not empty or cannot be made, or this machine lacks the requested precision.
        """
        if run_dir is not None:
            check_precision(self.config, self.device)
            self.folder = self._folder(run_dir)
            self.check_disk(self.folder.path)
            self.folder.create(self.settings)

    def _folder(self, path: str | Path) -> RunFolder:
        algorithm = f"{self.taught_by}-{self.backbone}".replace(":", "_")
        return RunFolder(path, algorithm, short_id(self.env_id), self.n_learners)

    @property
    def logger(self) -> Logger:
        """The run's SB3 logger, with means over the learners and whatever callbacks record."""
        if self._logger is None:
            if self._resumed is not None and self.folder is not None:
                self.get_env()  # cuts the logs back to the checkpoint before they are opened
            self._logger = Logger(folder=None, output_formats=[]) if self.folder is None else self.folder.open_loggers()
        return self._logger

    @property
    def score(self) -> TeacherScore | None:
        """The teacher's returns on the task; None without a teacher, or before they are measured."""
        return None

    @property
    def records(self) -> Records:
        """Writes into the run's logs."""
        return Records(self.run, self.folder, lambda: self.logger, len(self.seeds), self.score)

    def get_env(self) -> LearnerEnvs | BatchedEnvs:
        """The training environments, N per learner, learner by learner: an SB3 ``VecEnv``, or the user's vector."""
        if self.envs is None:
            folders = None if self.folder is None else self.folder.learner_folders
            resumed = self._resumed
            if resumed is not None and self.folder is not None:
                with checkpoint.content_errors(self.folder.checkpoint):
                    self.folder.rewind(resumed["log_sizes"], self.num_timesteps)
            self.envs = self._open(folders, resumed is not None)
            seeds = [env_seed(*who, "environment", n) for who in self.learners for n in range(self.n_envs)]
            if resumed is None:
                observations, starts, new = self.envs.start(seeds), np.ones(len(seeds), bool), True
            else:
                latest = resumed["last_observations"]
                starts = np.array(resumed.get("episode_starts", np.zeros(len(latest))), bool)
                observations, new = snapshot.restore_envs(self.envs, resumed["envs"], latest, self.env_id, seeds)
            if new:
                starts |= True
                snapshot.cut(self.memories, self.learner, getattr(self.recipe, "teaching", None))
            self.collector.attach(self.envs, observations, starts)
        return self.envs

    def _open(self, folders: list[Path] | None, append: bool) -> LearnerEnvs | BatchedEnvs:
        """Open the training environments: the user's vector, or one by one."""
        if self.vector is not None:
            vector = self.vector.make(self.n_learners * self.n_envs)
            if self.view.is_full and self.view.history == 1:
                return BatchedEnvs(vector, self.n_learners, folders, append)
            return PartialEnvs(vector, self.view, self.n_learners, folders, append)
        return LearnerEnvs(self.factory, self.n_learners, folders, append, self.n_envs)

    @explains_arguments
    def learn(self: A, total_timesteps: int, callback: MaybeCallback = None, progress_bar: bool = False) -> A:
        """Train for ``total_timesteps`` more environment steps per group, all of its peers counted together.

        Args:
            total_timesteps: the budget of this call.
            callback: an SB3 callback, several, or a function of ``(locals, globals)``; ``num_timesteps`` is that of
                one group.
            progress_bar: show a live progress bar with the latest returns.

        Raises:
            PolicyKDError: the environment returned a NaN or raised, a file could not be written, or another process
                writes into the run's folder; the line says what was saved.
        """
        with save_on_failure(self.folder, self.save, lambda: self.num_timesteps):
            self._learn(check_int("total_timesteps", total_timesteps, 0), as_callback(callback), progress_bar)
        return self

    def _learn(self, total_timesteps: int, callbacks: BaseCallback, progress_bar: bool) -> None:
        run, end = self.run, self.num_timesteps + total_timesteps
        run.set_end(end)
        self.ready(total_timesteps)
        with reraise(f"callback: {type(callbacks).__name__} cannot begin here (", ")"):
            callbacks.init_callback(self)  # type: ignore[arg-type]
            callbacks.on_training_start({"self": self, "total_timesteps": end}, {})
        bar = make_bar(end, self.num_timesteps, progress_bar)
        with bar, self.computing(), interruptible() as interrupts:
            train(self.recipe, run, self.hooks(callbacks, bar, interrupts), end)
            if not run.evaluated:
                self._evaluate(interrupts)
            self._checkpoint()
        callbacks.on_training_end()
        if interrupts.number is not None:
            load = f"{type(self).__name__}.load({str(self.folder.path)!r})" if self.folder else ""
            how = f", saved to {self.folder.checkpoint}; resume with {resume_advice(load)}" if self.folder else ""
            print(f"\ninterrupted at {self.num_timesteps:,} steps{how}", flush=True)
            interrupts.check()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Context with the agent's threads and precision, for the kernels and for stepping open environments.

        Raises:
            PolicyKDError: this machine lacks the requested precision.
        """
        threads, precision = check_threads(self.threads), check_precision(self.config, self.device)
        envs = self.envs
        stepping = envs.in_threads(native.count(threads)) if isinstance(envs, LearnerEnvs) else nullcontext()
        with stepping, native.threads(threads, self.n_learners), native.precision(precision), one_thread():
            yield

    def ready(self, total_timesteps: int) -> None:
        """Open the environments, and decide once whether to compile, now that the length of training is known."""
        check_autograd(self.learner.actor)
        self.recipe.expect(self.num_timesteps + total_timesteps)
        self.get_env()
        self.collector.check()
        if self.compile == "auto":
            pays = compiling.is_worth_compiling(self.gradient_steps_in(total_timesteps // self.peers), self.device)
            self.compile = "later" if pays else False
        self._compile()
        if not self.compile and isinstance(self.collector.observations, np.ndarray):
            advise_device(self.device, self.n_learners)

    def _compile(self) -> None:
        """Compile the update, if asked to and not done yet."""
        if self.compile is True and not self.recipe.compiled:
            with interruptible() as interrupts:  # half-imported, torch's compiler stays broken
                self.recipe.compile()
            interrupts.check()

    def hooks(
        self,
        callback: BaseCallback | None = None,
        bar: tqdm | ProgressLines | None = None,
        interrupts: Interrupts | None = None,
    ) -> Hooks:
        """Hooks of the training loop: logging, evaluation, checkpoints, callback and progress bar."""
        config = self.config
        interrupts = interrupts or Interrupts()
        return Hooks(
            log=self._log,
            evaluate=lambda: self._evaluate(interrupts),
            checkpoint=self._checkpoint,
            log_freq=config.log_freq,
            eval_freq=config.eval_freq,
            checkpoint_freq=config.checkpoint_freq,
            callback=callback,
            bar=bar,
            interrupts=interrupts,
        )

    def gradient_steps_in(self, steps: int) -> int:
        """Approximate gradient steps that ``steps`` environment steps of each learner lead to."""
        return self.learner.gradient_steps_in(steps)

    def _log(self, info: dict[str, Tensor]) -> None:
        """Log the latest diagnostics; "auto" compiles after the first row with updates, so as not to delay it."""
        self.records.log(info, self.recipe.n_updates)
        if self.compile == "later" and self.recipe.n_updates > 0:
            self.compile = True
            self.recipe.compile()

    def _evaluate(self, interrupts: Interrupts) -> None:
        """Evaluate all learners and record the result, unless switched off; a signal postpones it to the next run."""
        if self.config.n_eval_episodes == 0:
            return
        try:
            with interrupts.raising():
                result = self.evaluate()
        except Stopped:
            return
        self.records.evaluated(result, self._save_best)

    def _save_best(self, k: int) -> None:
        assert self.folder is not None
        if export.no_twin(self):
            self.save(self.folder.learner_folders[k] / "best_model.safetensors")
        else:
            self.folder.save_model(k, self.twin(k), export.zoo_settings(self, k))
