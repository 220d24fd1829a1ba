"""One student network learns from labels and from a frozen teacher: what a user of the classification mode calls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from policykd.classification import loop, snapshot
from policykd.classification.adaptor import Adaptor, split_batch
from policykd.classification.evaluation import Evaluation
from policykd.classification.processes import make_accelerator
from policykd.classification.teacher import as_teacher
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError, nearest
from policykd.core.fields import change
from policykd.core.files import CHECKPOINT, write_bytes
from policykd.distillation.supervised import METHODS
from policykd.distillation.supervised.method import Method, Phase, TrainingConfig
from policykd.training.run_folder import RunFolder

BEST = "best_model.safetensors"
Augment = Callable[[Tensor], Tensor]
"""Changes a batch of inputs; draws from torch's global generator, which every pass seeds anew."""
Callback = Callable[["Distiller"], None]
"""Looks at a distiller between two passes over the data."""


class Distiller:
    """Distils a frozen teacher into a student that classifies.

    Args:
        student: the network to train; it is trained in place and returns logits ``(B, C)``, alone or as ``.logits``.
        teacher: a network of the same classes, several (the mean of their probabilities teaches), or None where the
            method learns from labels alone.
        method: a name in ``policykd.distillation.supervised.METHODS``.
        config: the method's dataclass of settings, or changed fields as a dict.
        device: "auto", "cpu" or "cuda"; several processes, as ``accelerate launch`` starts them, share the batches.
        run_dir: a new folder for logs, checkpoints and the best student; None writes nothing.
        adaptor: splits a batch of another structure into inputs and labels.

    Raises:
        PolicyKDError: anything of this cannot work; the text is one line.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | Sequence[nn.Module] | None,
        *,
        method: str = "hinton",
        config: dict[str, Any] | TrainingConfig | None = None,
        device: str = "auto",
        run_dir: str | Path | None = None,
        adaptor: Adaptor = split_batch,
    ) -> None:
        if method not in METHODS:
            raise PolicyKDError(
                f"method: {method!r} is unknown{nearest(method, METHODS)}; there are {', '.join(METHODS)}"
            )
        self.method_name = method
        self.config = resolve_config(method, config)
        self.student, self.teacher, self.adaptor = student, as_teacher(teacher), adaptor
        if self.teacher is None and METHODS[method].uses_teacher:
            raise PolicyKDError(f"teacher: {method} needs one; cross_entropy learns from labels alone")
        self.accelerator = make_accelerator(device, self.config.mixed_precision, self.config.seed)
        self.device: torch.device = self.accelerator.device
        if self.config.batch_size % self.accelerator.num_processes:
            raise PolicyKDError(
                f"batch_size: {self.config.batch_size} examples cannot be shared by "
                f"{self.accelerator.num_processes} processes: choose a multiple"
            )
        for network in (self.student, self.teacher):
            if network is not None:
                network.to(self.device)
        self.method: Method | None = None  # built at the first batch, which tells the shapes
        self.optimizers: dict[str, torch.optim.Optimizer] = {}
        self.schedulers: dict[str, torch.optim.lr_scheduler.LRScheduler] = {}
        self.plan: list[Phase] = []
        self.passes = 0
        self.n_updates = 0
        self.elapsed = 0.0
        self.history: list[dict[str, float]] = []
        self.best: dict[str, Tensor] | None = None
        self.resumed: dict[str, Any] | None = None
        self._logger: Logger | None = None
        self.folder: RunFolder | None = None
        if run_dir is not None:
            self.folder = RunFolder(run_dir, method, "classification", 0)
            if self.accelerator.is_main_process:
                self.folder.create(self.settings)

    @property
    def settings(self) -> dict[str, Any]:
        """What makes this run what it is, as plain values."""
        return {"method": self.method_name, "config": snapshot.plain(self.config)}

    @property
    def logger(self) -> Logger:
        """The run's SB3 logger."""
        if self._logger is None:
            writes = self.folder is not None and self.accelerator.is_main_process
            self._logger = self.folder.open_loggers() if self.folder and writes else Logger(None, [])
        return self._logger

    def fit(
        self,
        train: Any,
        validation: Any = None,
        *,
        augment: Augment | None = None,
        callback: Callback | None = None,
        progress_bar: bool = False,
    ) -> Distiller:
        """Train the student; end with the one that was best on the validation data (``keep_best``).

        Args:
            train: arrays (inputs, labels), a map-style data set or a ``DataLoader``.
            validation: the same kinds; None keeps the last student.
            augment: changes the training inputs of every batch; the teacher sees what the student sees.
            callback: called after every pass, of the student or of a method's helpers, with this distiller.
            progress_bar: show a live progress bar.

        Returns:
            itself; after a resumed run, as if it had never stopped.

        Raises:
            PolicyKDError: the data, features or classes do not fit, or the loss is not finite.
        """
        loop.fit(self, train, validation, augment, callback, progress_bar)
        return self

    def check(self, train: Any) -> None:
        """Find out whether data, networks and method fit together, before anything is trained or written.

        Raises:
            PolicyKDError: they do not.
        """
        loop.check(self, train)

    def evaluate(self, data: Any) -> dict[str, float]:
        """Quality and fidelity of the student on some data (see ``policykd.classification.metrics.metrics``)."""
        return Evaluation(self, data, "evaluation").measure()

    def save(self, path: str | Path) -> None:
        """Write everything to ``path`` (``.safetensors`` if it has no ending), whole or not at all."""
        path = Path(path)
        checkpoint.save(path if path.suffix else path.with_suffix(".safetensors"), snapshot.state(self))

    def write_best(self) -> None:
        """Keep the best student so far as ``best_model.safetensors`` in the run folder: weights by their names."""
        if self.folder is not None and self.best is not None and self.accelerator.is_main_process:
            weights = {name: tensor.cpu().contiguous() for name, tensor in self.best.items()}
            write_bytes(self.folder.path / BEST, safetensors.torch.save(weights))

    @classmethod
    def load(
        cls,
        path: str | Path,
        student: nn.Module,
        teacher: nn.Module | Sequence[nn.Module] | None = None,
        device: str = "auto",
        adaptor: Adaptor = split_batch,
    ) -> Distiller:
        """Read a distiller back; ``fit`` on the same data goes on where it stopped, bit by bit.

        Args:
            path: a file that ``save`` wrote, or a run folder, into which the run goes on writing.
            student: a network of the saved student's shape; its weights are replaced.
            teacher: the teacher of before.
            device: where to put them.
            adaptor: as in the constructor.

        Raises:
            PolicyKDError: the file is missing, damaged or foreign, or these are other networks.
        """
        path = Path(path) / CHECKPOINT if Path(path).is_dir() else Path(path)
        loaded = checkpoint.load(path)
        if "student" not in loaded:
            raise PolicyKDError(f"checkpoint: {path} holds no distiller")
        with checkpoint.understood(path):
            method, config = loaded["settings"]["method"], loaded["settings"]["config"]
            distiller = cls(student, teacher, method=method, config=config, device=device, adaptor=adaptor)
            snapshot.restore(distiller, loaded)
        if path.name == CHECKPOINT:
            distiller.folder = RunFolder(path.parent, method, "classification", 0)
            if distiller.accelerator.is_main_process:
                distiller.folder.rewind(loaded["log_sizes"], distiller.n_updates)
        return distiller


def resolve_config(method: str, config: dict[str, Any] | TrainingConfig | None) -> TrainingConfig:
    """The whole settings of a method from changed fields or themselves."""
    kind = METHODS[method].config_type
    if config is None or isinstance(config, dict):
        return change(kind(), config or {})
    if type(config) is not kind:
        raise PolicyKDError(f"config: {method} takes a {kind.__name__}, not a {type(config).__name__}")
    return config
