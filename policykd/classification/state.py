"""State of a training run, and its conversion to plain values and back."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader

from policykd.classification.data.batches import Adaptor, Inputs
from policykd.classification.data.checks import check_same, data_fingerprint
from policykd.classification.models import load_weights
from policykd.classification.outputs import call
from policykd.classification.teacher import Ensemble, are_probabilities, as_log_probabilities, output_kind
from policykd.core import checkpoint
from policykd.core.errors import PolicyKDError
from policykd.distillation.supervised.method import Method, Phase
from policykd.distillation.supervised.training_config import TrainingConfig


@dataclasses.dataclass
class Training:
    """Student, teacher, method and settings, and the progress of training."""

    student: nn.Module
    teacher: nn.Module | None
    method_name: str
    kind: type[Method]
    config: TrainingConfig
    adaptor: Adaptor
    accelerator: Any
    classes: list[str] | None
    """Class names of the data, in order; None if unknown."""
    method: Method | None = dataclasses.field(default=None, init=False)
    """Built from the shapes of the first batch."""
    optimizers: dict[str, Optimizer] = dataclasses.field(default_factory=dict, init=False)
    """One optimiser per trained group of modules."""
    schedulers: dict[str, LambdaLR] = dataclasses.field(default_factory=dict, init=False)
    plan: list[Phase] = dataclasses.field(default_factory=list, init=False)
    """Phase of every pass over the data."""
    passes: int = dataclasses.field(default=0, init=False)
    """Completed passes over the data, of the student and of helpers."""
    n_updates: int = dataclasses.field(default=0, init=False)
    """Completed optimiser steps."""
    elapsed: float = dataclasses.field(default=0.0, init=False)
    """Seconds of training."""
    history: list[dict[str, float]] = dataclasses.field(default_factory=list, init=False)
    """Results of each validation."""
    best: dict[str, Tensor] | None = dataclasses.field(default=None, init=False)
    """The student's weights with the best validation score."""
    waiting: dict[str, Any] | None = dataclasses.field(default=None, init=False)
    """A loaded state whose optimisers and helpers are restored at the first batch."""
    data: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict, init=False)
    """Outlines of the data of the latest ``fit``, by purpose."""
    probabilities: bool | None = dataclasses.field(default=None, init=False)
    """Whether the teacher returns probabilities rather than logits; None until its first output."""

    @property
    def device(self) -> torch.device:
        """Device of the computation."""
        return self.accelerator.device

    @property
    def epochs(self) -> int:
        """Completed epochs of the student."""
        return sum(phase.trains == "student" for phase in self.plan[: self.passes])

    def teacher_logits(self, inputs: Inputs) -> Tensor:
        """The teacher's logits ``(B, C)``, or the log of its probabilities.

        Raises:
            PolicyKDError: the teacher returns neither logits nor probabilities.
        """
        assert self.teacher is not None
        answer = call(self.teacher, inputs).float()
        if self.probabilities is None:  # an ensemble detects this for each member
            whole = not isinstance(self.teacher, Ensemble)
            kind = output_kind(self.teacher, self.config.teacher_outputs)
            self.probabilities = whole and are_probabilities(answer, kind)
        return as_log_probabilities(answer) if self.probabilities else answer

    def note_data(self, **sources: DataLoader | None) -> None:
        """Record the outlines of the data, after comparing them with those of a loaded run.

        Raises:
            PolicyKDError: the run was started with other data.
        """
        now = {what: data_fingerprint(batches) for what, batches in sources.items() if batches is not None}
        if self.method is None and self.passes:  # read from a file, before its first fit
            with checkpoint.content_errors("the run's checkpoint"):
                for what in (what for what in now if what in self.data):
                    check_same(what, self.data[what], now[what])
        self.data |= now

    def state(self) -> dict[str, Any]:
        """Everything needed to resume from the end of a pass."""
        result: dict[str, Any] = {
            "teacher": fingerprint(self.teacher),
            "student": self.student.state_dict(),
            "data": self.data,
            **{name: getattr(self, name) for name in COUNTERS},
        }
        if self.method is not None:
            result["method"] = self.method.state_dict()
            result["optimizers"] = {name: _listed(o.state_dict()) for name, o in self.optimizers.items()}
            scaler = self.accelerator.scaler
            result["scaler"] = None if scaler is None else scaler.state_dict()
        elif self.waiting is not None:
            result |= {name: self.waiting.get(name) for name in ("method", "optimizers", "scaler")}
        return result

    def restore(self, loaded: dict[str, Any]) -> None:
        """Restore a saved state; parts that need the data's shapes follow at the first batch.

        Raises:
            PolicyKDError: it belongs to another teacher, or to a student of another architecture.
        """
        if self.teacher is not None and loaded["teacher"] not in (None, fingerprint(self.teacher)):
            raise PolicyKDError("resume: the teacher is not the one of the run: load its weights first")
        load_weights(self.student, loaded["student"], "student")
        for name in COUNTERS:
            setattr(self, name, loaded[name])
        self.data = loaded.get("data", {})  # missing in older runs
        self.waiting = loaded if "method" in loaded else None

    def restore_method(self, steps_per_pass: int) -> None:
        """Restore optimisers and a method's helpers once they are built; schedules resume from the completed passes.

        Args:
            steps_per_pass: steps per pass over the current data, which may differ from before; 0 if unknown.
        """
        loaded, self.waiting = self.waiting, None
        if loaded is None:
            return
        assert self.method is not None
        load_weights(self.method, loaded["method"], "method")
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(_keyed(loaded["optimizers"][name]))
        if loaded.get("scaler") is not None:  # older checkpoints have none
            self.accelerator.scaler.load_state_dict(loaded["scaler"])
        for name, scheduler in self.schedulers.items():
            done = steps_per_pass * sum(phase.trains == name for phase in self.plan[: self.passes])
            parts = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
            for group, rate, factor in parts:
                group["lr"] = rate * factor(done)
            scheduler.last_epoch = done
            scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


COUNTERS = ("passes", "n_updates", "elapsed", "history", "best")


def fingerprint(module: nn.Module | None) -> str | None:
    """Digest of a network's weights, which identifies it."""
    if module is None:
        return None
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(checkpoint.as_bytes(tensor).numpy().tobytes())
    return digest.hexdigest()


def _listed(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state with string keys, for JSON."""
    return {**optimizer, "state": {str(index): values for index, values in optimizer["state"].items()}}


def _keyed(optimizer: dict[str, Any]) -> dict[str, Any]:
    groups = [{**g, "betas": tuple(g["betas"])} if "betas" in g else g for g in optimizer["param_groups"]]
    return {"state": {int(index): values for index, values in optimizer["state"].items()}, "param_groups": groups}
