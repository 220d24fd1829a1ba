"""Supervised distillation of one student: the entry point of the classification mode."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from copy import copy
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from policykd.classification.data.augment import Augment
from policykd.classification.data.batches import Adaptor, loader, split_batch
from policykd.classification.measures.evaluation import Evaluation, examples
from policykd.classification.models import check_names, name_classes, save_pretrained
from policykd.classification.outputs import call, check_numbers, evaluating, try_call
from policykd.classification.processes import autocast, make_accelerator
from policykd.classification.settings import plain, resolve_config
from policykd.classification.state import Training
from policykd.classification.teacher import Teachers, as_teacher, named_classes
from policykd.classification.trainer import Trainer
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.core.files import CHECKPOINT, as_path, checkpoint_path, write_bytes
from policykd.core.interrupts import Interrupts, Stopped, interruptible
from policykd.core.lock import locked
from policykd.distillation.supervised import find_method
from policykd.distillation.supervised.method import Method
from policykd.distillation.supervised.training_config import TrainingConfig
from policykd.training.run_folder import RunFolder, resume_advice
from policykd.training.snapshot import with_own_parts

BEST = "best_model.safetensors"
Callback = Callable[["Distiller"], None]
"""Called with the distiller after every pass over the data."""


class Distiller(Training):
    """Distils a frozen teacher into a student classifier.

    Args:
        student: the network, trained in place; it returns logits ``(B, C)``, directly or as ``.logits``.
        teacher: a network with the same classes, a ``Teacher`` with as many discrete actions, several of them (an
            ensemble that averages probabilities), or None for methods that learn from labels only.
        method: a name in ``policykd.distillation.supervised.METHODS``, or a method of your own: a subclass of
            ``policykd.distillation.supervised.method.Method``.
        config: the method's config dataclass, or a dict of fields to change. Settings that take a name, such as
            ``optimizer``, ``learning_rate_schedule`` and ``divergence``, also take a function of your own.
        classes: class names of the data, in order; networks with class names (``config.id2label``) must agree.
        device: "auto", "cpu" or "cuda"; processes started by ``accelerate launch`` share every batch.
        run_dir: a new folder for logs, checkpoints and the best student; None writes nothing.
        adaptor: splits a batch of another structure into inputs and labels.

    Raises:
        PolicyKDError: an argument or setting is invalid, or does not fit the others; one line says which.
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: Teachers | None,
        *,
        method: str | type[Method] = "hinton",
        config: dict[str, Any] | TrainingConfig | None = None,
        classes: Sequence[str] | None = None,
        device: str = "auto",
        run_dir: str | Path | None = None,
        adaptor: Adaptor = split_batch,
    ) -> None:
        name, kind = find_method(method)
        settings = resolve_config(kind, config)
        if not isinstance(student, nn.Module):
            raise PolicyKDError(f"student: expected a torch module, got {type(student).__name__}")
        if not callable(adaptor):
            raise PolicyKDError(f"adaptor: expected a function, got {type(adaptor).__name__}")
        frozen = as_teacher(teacher, settings.teacher_outputs)
        if frozen is None and kind.uses_teacher:
            raise PolicyKDError(f"teacher: missing: {name} needs one (cross_entropy learns from labels alone)")
        learns = {id(parameter) for parameter in student.parameters() if parameter.requires_grad}
        if frozen is not None and any(id(parameter) in learns for parameter in frozen.parameters()):
            raise PolicyKDError("teacher: shares weights with the student, which is trained: pass a copy as teacher")
        names = None if classes is None else list(map(str, classes))
        check_names({"the data": names, **named_classes(student, frozen)})
        accelerator = make_accelerator(device, settings.mixed_precision, settings.seed)
        if settings.batch_size % accelerator.num_processes:
            raise PolicyKDError(
                f"batch_size: {settings.batch_size} examples cannot be divided among "
                f"{accelerator.num_processes} processes: choose a multiple"
            )
        super().__init__(student, frozen, name, kind, settings, adaptor, accelerator, names)
        for network in (self.student, self.teacher):
            if network is not None:
                network.to(self.device)
        self._logger: Logger | None = None
        self.folder: RunFolder | None = None
        if run_dir is not None:
            self.folder = RunFolder(run_dir, name, "classification", 0)
            if accelerator.is_main_process:
                self.folder.create(self.settings)

    def __repr__(self) -> str:
        names = (type(network).__name__ for network in (self.student, self.teacher) if network is not None)
        return f"Distiller(method={self.method_name}, {' taught by '.join(names)}, {self.n_updates:,} steps)"

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that defines this run, as plain values."""
        names = {} if self.classes is None else {"classes": self.classes}
        return {"method": self.method_name, "config": plain(self.config), **names}

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
        """Train the student, and keep the weights that were best on the validation data (``keep_best``).

        Args:
            train: arrays or data frames (inputs, labels), ``LoggedStates``, a map-style data set or a ``DataLoader``.
            validation: validation data of any of these kinds; None keeps the last weights.
            augment: augments the training inputs of every batch; the teacher sees the same inputs.
            callback: called with this distiller after every pass over the data, whether of the student or of helpers.
            progress_bar: show a progress bar.

        Returns:
            This distiller. A resumed run gives the same result as one that was never interrupted.

        Raises:
            PolicyKDError: the data, features or classes do not fit, or the loss is not finite.
        """
        batches = loader(train, self.config.batch_size, self.config.seed, "training", self.accelerator.num_processes)
        judge = None if validation is None else Evaluation(self, validation, "validation")
        self.note_data(training=batches, validation=None if judge is None else judge.source)

        def after_pass() -> None:
            self._checkpoint()
            if callback is not None:
                callback(self)

        writes = self.folder is not None and self.accelerator.is_main_process
        with (
            locked(self.folder.path) if self.folder and writes else nullcontext(),
            closing(Trainer(self, batches, augment, self.logger)) as trainer,
            self._signals() as interrupts,
        ):
            if self.classes is not None:
                name_classes(self.student, self.classes)
            if judge is not None and self.passes == 0:
                judge.measure()  # refuses unfit data before training
            trainer.run(judge, after_pass, interrupts, progress_bar)
        if judge is not None and self.config.keep_best and self.best is not None:
            self.student.load_state_dict(self.best)
            self._checkpoint()
        return self

    @contextmanager
    def _signals(self) -> Iterator[Interrupts]:
        """Catch signals, and report the one that ends training."""
        try:
            with interruptible() as interrupts:
                yield interrupts
        except Stopped:
            if self.folder is not None and self.accelerator.is_main_process:
                saved = self.folder.checkpoint
                there = f"{saved} is from the last full pass" if saved.exists() else "nothing saved"
                passes = f"interrupted in pass {self.passes + 1}"
                print(f"\n{passes}: {there}; resume with {resume_advice()}", flush=True)
            raise

    def check(self, train: Any) -> None:
        """Check that data, networks and method fit together; nothing is trained, written or changed.

        Raises:
            PolicyKDError: they do not.
        """
        batches = loader(train, self.config.batch_size, self.config.seed, "training", self.accelerator.num_processes)
        Trainer(copy(self), batches, None, Logger(None, []), fill_cache=False).close()

    def evaluate(self, data: Any) -> dict[str, float]:
        """Quality and fidelity of the student (see ``policykd.classification.measures.metrics``)."""
        return Evaluation(self, data, "evaluation").measure()

    @torch.no_grad()
    def predict_proba(self, inputs: Any) -> Tensor:
        """The student's probabilities ``(n, C)`` on the CPU, for inputs or anything that ``evaluate`` takes."""
        parts = []
        with evaluating(self.student):
            for x, _, _ in examples(inputs, self.adaptor, self.device, "prediction"):
                with autocast(self.device, self.config.mixed_precision), try_call("prediction data", self.student, x):
                    parts.append(call(self.student, x).float().softmax(1).cpu())
        found = torch.cat(parts)
        check_numbers(found, "student")
        return found

    def predict(self, inputs: Any) -> Tensor:
        """The most likely class ``(n,)`` of each input."""
        return self.predict_proba(inputs).argmax(1)

    def score(self, inputs: Any, labels: Any) -> float:
        """Accuracy of the student."""
        found = self.evaluate((inputs, labels))
        if "accuracy" not in found:
            raise PolicyKDError("score: none of the labels names a class: give labels, or use evaluate")
        return found["accuracy"]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the student as a Hugging Face model folder: ``config.json`` and ``model.safetensors``.

        Load policykd's networks with ``policykd.classification.models.from_pretrained``, Hugging Face's with their own
        ``from_pretrained``.

        Raises:
            PolicyKDError: the student is neither.
        """
        save_pretrained(self.student, folder, self.classes)

    def save(self, path: str | Path) -> None:
        """Save everything to ``path`` (with suffix ``.safetensors`` if it has none), atomically."""
        sizes = {} if self.folder is None else self.folder.log_sizes()
        content = {"settings": self.settings, **self.state(), "log_sizes": sizes}
        checkpoint.save(checkpoint_path(path), content)

    def _checkpoint(self) -> None:
        """Save the state, and the best student's state dict, to the run folder."""
        if self.folder is None or not self.accelerator.is_main_process:
            return
        self.folder.check()
        if self.best is not None and self.history[-1]["passes"] == self.passes:
            weights = {name: tensor.cpu().contiguous() for name, tensor in self.best.items()}
            write_bytes(self.folder.path / BEST, safetensors.torch.save(weights, {"classes": json.dumps(self.classes)}))
        self.save(self.folder.checkpoint)

    @classmethod
    def load(
        cls,
        path: str | Path,
        student: nn.Module,
        teacher: Teachers | None = None,
        device: str = "auto",
        adaptor: Adaptor = split_batch,
        *,
        method: type[Method] | None = None,
        config: dict[str, Any] | None = None,
    ) -> Distiller:
        """Load a distiller; ``fit`` on the same data continues where it stopped, bit for bit.

        Args:
            path: a file written by ``save``, or a run folder, to which the run goes on writing.
            student: a network of the saved student's architecture; its weights are replaced.
            teacher: the teacher it was made with.
            device: "auto", "cpu" or "cuda".
            adaptor: as in the constructor.
            method: the custom method it was made with, if any.
            config: custom functions it was made with, by setting.

        Raises:
            PolicyKDError: the file is missing, damaged or foreign, or student or teacher differs from the saved one.
        """
        path = as_path("load", path)
        path = path / CHECKPOINT if path.is_dir() else path
        loaded = checkpoint.load(path)
        if "student" not in loaded:
            raise PolicyKDError(f"checkpoint: {path} is not a distiller")
        with checkpoint.content_errors(path):
            settings = loaded["settings"]
            name = settings["method"]
            if method is not None and method.__name__ != name:
                raise PolicyKDError(f"resume: the run's method is {name}, not {method.__name__}")
            distiller = cls(
                student,
                teacher,
                method=method or name,
                config=with_own_parts(settings["config"], config),
                classes=settings.get("classes"),
                device=device,
                adaptor=adaptor,
            )
            distiller.restore(loaded)
        if path.name == CHECKPOINT:
            distiller.folder = RunFolder(path.parent, name, "classification", 0)
            if distiller.accelerator.is_main_process:
                distiller.folder.rewind(loaded["log_sizes"], distiller.n_updates)
        return distiller
