"""One pass over the training data: the step that every method shares."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from policykd.classification import snapshot
from policykd.classification.adaptor import Inputs, call, checked_labels
from policykd.classification.evaluation import BATCH, check_classes, evaluating
from policykd.classification.features import FeatureReader
from policykd.classification.loading import Batch, Rows, read, seeded
from policykd.classification.processes import autocast, average_gradients, on_device, share_state
from policykd.classification.progress import Progress
from policykd.classification.teacher import OutputCache
from policykd.core.checkpoint import understood
from policykd.core.errors import PolicyKDError
from policykd.distillation.categorical import hard_loss
from policykd.distillation.schedules import SCHEDULES
from policykd.distillation.supervised import METHODS
from policykd.distillation.supervised.method import WARM_UP, Method, Outputs, Phase, Step, Terms, TrainingConfig

if TYPE_CHECKING:
    from policykd.classification.distiller import Augment, Distiller

log = logging.getLogger("policykd")


class Trainer:
    """Teacher, features, method and optimisers of a distiller, put together for some training data.

    Args:
        distiller: whose student learns.
        batches: the training data.
        augment: changes the inputs of every batch.
        asks: whether to ask the teacher about all rows beforehand, where that pays.

    Raises:
        PolicyKDError: data, networks, features and method do not fit together.
    """

    def __init__(self, distiller: Distiller, batches: DataLoader, augment: Augment | None, asks: bool = True) -> None:
        self.distiller, self.augment = distiller, augment
        self.config, self.accelerator = distiller.config, distiller.accelerator
        self.progress = Progress(distiller)
        self.cache: OutputCache | None = None
        self.check_labels = True
        if distiller.method is not None and distiller.resumed is None:  # fit is called again: go on
            distiller.resumed = snapshot.state(distiller)
        student_paths, teacher_paths = self.config.feature_paths
        with ExitStack() as stack:
            self.student_features = stack.enter_context(FeatureReader(distiller.student, student_paths, "student"))
            teacher = distiller.teacher or nn.Identity()
            self.teacher_features = stack.enter_context(FeatureReader(teacher, teacher_paths, "teacher"))
            self.method = distiller.method = self._make_method(batches)
            self._make_optimizers(batches)
            if asks:
                self._fill_cache(batches)
            self.close = stack.pop_all().close  # hooks stay until the end of the run, or go with an error here
        self.batches = self.accelerator.prepare_data_loader(batches)

    def one_pass(self, phase: Phase, bar: tqdm) -> None:
        """Go over the training data once."""
        distiller, learning = self.distiller, self._set_modes(phase)
        optimizer, scheduler = distiller.optimizers[phase.trains], distiller.schedulers[phase.trains]
        started = time.perf_counter()
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(distiller.passes)
        with seeded(self.config.seed, distiller.passes, self.accelerator.process_index):
            for batch in on_device(self.batches, distiller.device):
                loss, terms = self._loss(phase, read(batch))
                optimizer.zero_grad()
                self.accelerator.backward(loss)
                average_gradients(self.accelerator, learning)
                if self.config.max_grad_norm is not None:
                    self.accelerator.clip_grad_norm_(learning, self.config.max_grad_norm)
                optimizer.step()
                distiller.n_updates += 1
                self.progress.add(phase, {"loss": loss.detach(), **terms}, float(scheduler.get_last_lr()[0]))
                scheduler.step()
                bar.update()
        optimizer.zero_grad()  # a trained network carries no gradients along
        self.progress.flush()
        share_state(self.accelerator, distiller.student, self.method)
        self.check_labels = False  # all were seen
        distiller.elapsed += time.perf_counter() - started

    def _loss(self, phase: Phase, batch: Batch) -> tuple[Tensor, Terms]:
        inputs, labels = self.distiller.adaptor(batch.content)
        inputs = self._augmented(inputs)
        student = teacher = Outputs(torch.empty(0))
        if phase.student:
            with torch.set_grad_enabled(phase.trains == "student"):
                student = self._student_outputs(inputs)
        if phase.teacher:
            teacher = self._teacher_outputs(inputs, batch.rows)
        known = self._labels(labels, student.logits if phase.student else teacher.logits)
        if phase == WARM_UP:
            loss = hard_loss(student.logits, known)
            return loss, {"ce_loss": loss.detach()}
        return self.method.loss(Step(phase.name, student, teacher, known, self._progress()))

    def _labels(self, labels: Any, logits: Tensor) -> Tensor:
        if self.check_labels or labels is None:
            return checked_labels(labels, logits)
        return labels.long()

    def _progress(self) -> float:
        """Share of the student's passes that are done."""
        done = sum(phase.trains == "student" for phase in self.distiller.plan[: self.distiller.passes])
        return done / self.config.epochs

    def _augmented(self, inputs: Inputs) -> Inputs:
        if self.augment is None and self.config.mixup == 0:
            return inputs
        if not isinstance(inputs, Tensor):
            raise PolicyKDError(
                f"augment: mixup and augment= need inputs that are one tensor, got {type(inputs).__name__}"
            )
        if self.augment is not None:
            inputs = self.augment(inputs)
        if self.config.mixup > 0:
            share = float(torch.distributions.Beta(self.config.mixup, self.config.mixup).sample())
            inputs = share * inputs + (1 - share) * inputs[torch.randperm(len(inputs), device=inputs.device)]
        return inputs

    def _student_outputs(self, inputs: Inputs) -> Outputs:
        with autocast(self.distiller.device, self.config.mixed_precision):
            logits = call(self.distiller.student, inputs)
        return Outputs(logits.float(), tuple(feature.float() for feature in self.student_features.take()))

    @torch.no_grad()
    def _teacher_outputs(self, inputs: Inputs, rows: Tensor | None = None) -> Outputs:
        """What the teacher says, from the cache where the rows are in it."""
        if self.cache is not None and rows is not None:
            return self.cache.take(rows)
        teacher = self.distiller.teacher
        if teacher is None:
            return Outputs(torch.empty(0))
        teacher.eval()  # at every step: a callback or a parent module may have set it to train
        with autocast(self.distiller.device, self.config.mixed_precision):
            logits = call(teacher, inputs)
        return Outputs(logits.float(), tuple(feature.float() for feature in self.teacher_features.take()))

    def _make_method(self, batches: DataLoader) -> Method:
        """The method, built by the shapes of a first batch; its helpers' weights are drawn by the seed."""
        config = self.config
        with seeded(config.seed), evaluating(self.distiller.student), torch.no_grad():
            first = next(on_device(batches, self.distiller.device), None)
            if first is None:
                raise PolicyKDError("data: the training data are empty")
            inputs, labels = self.distiller.adaptor(read(first).content)
            student, teacher = self._student_outputs(inputs), self._teacher_outputs(inputs)
            if self.distiller.teacher is not None:
                check_classes(student.logits, teacher.logits)
            method = METHODS[self.distiller.method_name](config, student, teacher).to(self.distiller.device)
        if config.mixup > 0 and (method.uses_labels or config.warm_up_epochs > 0):
            raise PolicyKDError(
                f"mixup: only the teacher can label a mixture, and this {self.distiller.method_name} looks at labels: "
                "use hinton with alpha=1 and no warm_up_epochs, or mixup=0"
            )
        if labels is None and (method.uses_labels or config.warm_up_epochs > 0):
            raise PolicyKDError(
                f"labels: the training data have none, and this {self.distiller.method_name} looks at them: "
                "use hinton with alpha=1 and no warm_up_epochs"
            )
        share_state(self.accelerator, self.distiller.student, method)
        return method

    def _make_optimizers(self, batches: DataLoader) -> None:
        """One optimiser and one schedule for every group of modules that the plan trains."""
        distiller, config = self.distiller, self.config
        distiller.plan = self.method.plan(config)
        self.steps_per_pass = self._length(batches)
        for group in dict.fromkeys(phase.trains for phase in distiller.plan):
            steps = self.steps_per_pass * sum(phase.trains == group for phase in distiller.plan)
            members = [p for module in self._members(group) for p in module.parameters()]
            optimizer = _optimizer(config, members, self.method.learning_rate(config, group))
            distiller.schedulers[group] = torch.optim.lr_scheduler.LambdaLR(
                optimizer, _factor(config.learning_rate_schedule, steps)
            )
            distiller.optimizers[group] = self.accelerator.prepare_optimizer(optimizer)
        with understood("the run's checkpoint"):
            snapshot.restore_training(distiller)

    def _length(self, batches: DataLoader) -> int:
        """Steps of one pass; 0 where the user's loader cannot say, which only a constant learning rate can do with."""
        try:
            return len(batches)
        except TypeError:
            if self.config.learning_rate_schedule != "constant":
                raise PolicyKDError(
                    "data: the loader has no length, which learning_rate_schedule="
                    f"{self.config.learning_rate_schedule!r} needs: give one of known length, or use 'constant'"
                ) from None
            return 0

    def _members(self, group: str) -> list[nn.Module]:
        student = [self.distiller.student] if group == "student" else []
        return student + self.method.helpers(group)

    def _set_modes(self, phase: Phase) -> list[nn.Parameter]:
        """Train mode and gradients for what learns in this phase, neither for the rest; returns what learns."""
        self.distiller.student.train(phase.trains == "student")
        self.method.eval().requires_grad_(False)
        for helper in self.method.helpers(phase.trains):
            helper.train().requires_grad_(True)
        return [p for module in self._members(phase.trains) for p in module.parameters() if p.requires_grad]

    def _fill_cache(self, batches: DataLoader) -> None:
        """Ask the teacher once about every row, where the answers repeat and fit into memory."""
        rows, megabytes = batches.dataset, self.config.cache_megabytes
        fixed = isinstance(rows, Rows) and rows.arrays is not None and self.augment is None and self.config.mixup == 0
        wanted = any(phase.teacher for phase in self.distiller.plan[self.distiller.passes :])
        if not (fixed and wanted and megabytes) or self.distiller.teacher is None:
            return
        assert isinstance(rows, Rows)
        cache = OutputCache(len(rows))
        if cache.fill(self._teacher_batches(rows), megabytes * 10**6):
            self.cache = cache
        else:
            log.warning("the teacher's outputs take more than cache_megabytes=%d: it runs at every step", megabytes)

    def _teacher_batches(self, rows: Rows) -> Iterator[tuple[Tensor, Outputs]]:
        every = range(len(rows))
        batches = (rows.__getitems__(list(every[start : start + BATCH])) for start in every[::BATCH])
        for content, index in on_device(batches, self.distiller.device):
            inputs, _ = self.distiller.adaptor(content)
            yield index, self._teacher_outputs(inputs)


def _factor(schedule: str, steps: int) -> Callable[[int], float]:
    """What the learning rate is multiplied by at every step."""
    return lambda step: SCHEDULES[schedule](step / max(1, steps))


def _optimizer(config: TrainingConfig, parameters: list[nn.Parameter], rate: float) -> torch.optim.Optimizer:
    decay = config.weight_decay
    if config.optimizer == "sgd":
        return torch.optim.SGD(parameters, rate, momentum=0.9, nesterov=True, weight_decay=decay)
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    return kind(parameters, rate, weight_decay=decay)
