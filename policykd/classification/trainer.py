"""The training loop: it runs the phases of a method's plan, validates and takes optimiser steps."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import torch
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from policykd.classification.data.augment import Augment, augmented
from policykd.classification.data.batches import Batch, Inputs, Rows, checked_labels, read, reseeded, seeded
from policykd.classification.data.checks import check_batches, split
from policykd.classification.log import TrainingLog
from policykd.classification.measures.evaluation import BATCH, Evaluation
from policykd.classification.outputs import FeatureReader, call, check_classes, evaluating, try_call
from policykd.classification.processes import autocast, average_gradients, on_device, share_state, shared
from policykd.classification.settings import make_optimizer
from policykd.classification.state import Training
from policykd.classification.teacher import OutputCache, check_logits
from policykd.core.checkpoint import content_errors
from policykd.core.errors import PolicyKDError
from policykd.core.fields import value_at
from policykd.core.interrupts import Interrupts
from policykd.core.registry import find
from policykd.distillation.categorical import hard_loss
from policykd.distillation.schedules import SCHEDULES
from policykd.distillation.supervised.method import WARM_UP, Method, Outputs, Phase, Step, Terms

log = logging.getLogger("policykd")


class Trainer:
    """Combines teacher, features, method and optimisers for given training data.

    Args:
        training: state of the run.
        batches: the training data.
        augment: augments the inputs of every batch.
        logger: logger of the rows.
        fill_cache: whether to precompute the teacher's outputs of all rows, if possible.

    Raises:
        PolicyKDError: data, networks, features and method do not fit together.
    """

    def __init__(
        self, training: Training, batches: DataLoader, augment: Augment | None, logger: Logger, fill_cache: bool = True
    ) -> None:
        self.training, self.augment = training, augment
        self.config, self.accelerator = training.config, training.accelerator
        self.log = TrainingLog(training, logger)
        self.cache: OutputCache | None = None
        self.check_labels = True
        if training.method is not None and training.waiting is None:  # fit was called again: continue
            training.waiting = training.state()
        student_paths, teacher_paths = self.config.feature_paths
        with ExitStack() as stack:
            self.student_features = stack.enter_context(FeatureReader(training.student, student_paths, "student"))
            teacher = training.teacher or nn.Identity()
            self.teacher_features = stack.enter_context(FeatureReader(teacher, teacher_paths, "teacher"))
            self.method = training.method = self._make_method(batches)
            self._make_optimizers(batches)
            if fill_cache:
                self._fill_cache(batches)
            self.close = stack.pop_all().close  # hooks stay until the run ends or an error is raised here
        self.source, self.batches = batches, shared(self.accelerator, batches)

    def run(
        self, judge: Evaluation | None, after_pass: Callable[[], None], interrupts: Interrupts, progress_bar: bool
    ) -> None:
        """Train to the end of the plan.

        Args:
            judge: evaluation on the validation data; None skips validation.
            after_pass: called after every pass and its validation.
            interrupts: signals received.
            progress_bar: whether to show a progress bar.
        """
        training, plan = self.training, self.training.plan
        if training.passes == len(plan):
            over = f"all {training.epochs} epochs are done: nothing was trained"
            log.warning("fit: %s; for more, start a new run (in Python, make a new Distiller)", over)
        with tqdm(
            total=len(plan) * self.steps_per_pass or None,
            initial=training.passes * self.steps_per_pass,
            unit="step",
            desc=training.method_name,
            disable=None if progress_bar and self.accelerator.is_main_process else True,  # None: on a terminal only
        ) as bar:
            while training.passes < len(plan):
                with interrupts.raising():  # an interrupted pass is repeated from the last checkpoint
                    self.one_pass(plan[training.passes], bar)
                    training.passes += 1
                    if judge is not None and self._is_due():
                        bar.set_postfix_str(f"validation {self._validate(judge):.4f}", refresh=False)
                after_pass()

    def _is_due(self) -> bool:
        """Whether to validate: after every ``eval_every`` epochs of the student, and after the last of its phase."""
        plan, done = self.training.plan, self.training.passes
        if plan[done - 1].trains != "student":
            return False
        ends = done == len(plan) or plan[done].trains != "student"
        return ends or self.training.epochs % self.config.eval_every == 0

    def _validate(self, judge: Evaluation) -> float:
        """Evaluate the student, log the result, and keep its weights if they are the best."""
        training, result = self.training, judge.measure()
        best = max((_score(earlier) for earlier in training.history), default=float("-inf"))
        training.history.append({"passes": training.passes, **result})
        self.log.write({f"eval/{name}": value for name, value in result.items()})
        if _score(result) > best:
            training.best = {name: tensor.detach().clone() for name, tensor in training.student.state_dict().items()}
        return _score(result)

    def one_pass(self, phase: Phase, bar: tqdm) -> None:
        """Train for one pass over the data."""
        training, learning = self.training, self._set_modes(phase)
        optimizer, scheduler = training.optimizers[phase.trains], training.schedulers[phase.trains]
        started = time.perf_counter()
        if hasattr(self.batches, "set_epoch"):
            self.batches.set_epoch(training.passes)
        key = self.config.seed, training.passes
        with reseeded(self.source, *key), seeded(*key, self.accelerator.process_index):
            for batch in on_device(self.batches, training.device):
                loss, terms = self._loss(phase, read(batch))
                optimizer.zero_grad()
                self.accelerator.backward(loss)
                average_gradients(self.accelerator, learning)
                if self.config.max_grad_norm is not None:
                    self.accelerator.unscale_gradients(optimizer)  # its clip_grad_norm_ would unscale the others too
                    nn.utils.clip_grad_norm_(learning, self.config.max_grad_norm)
                optimizer.step()
                training.n_updates += 1
                self.log.add(phase, {"loss": loss.detach(), **terms}, float(scheduler.get_last_lr()[0]))
                scheduler.step()
                bar.update()
        optimizer.zero_grad()  # frees the gradients
        self.log.flush()
        share_state(self.accelerator, training.student, self.method)
        self.check_labels = False  # all have been checked
        training.elapsed += time.perf_counter() - started

    def _loss(self, phase: Phase, batch: Batch) -> tuple[Tensor, Terms]:
        inputs, labels = split(self.training.adaptor, batch.content)
        inputs = augmented(inputs, self.augment, self.config.mixup)
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
        found = self.method.loss(Step(phase.name, student, teacher, known, self.training.epochs / self.config.epochs))
        loss, terms = found if isinstance(found, tuple) and len(found) == 2 else (found, None)
        if not isinstance(loss, Tensor) or loss.ndim or not loss.requires_grad or not isinstance(terms, dict):
            asked = f"{self.training.method_name}.loss must give (a scalar with gradient, a dict of its parts)"
            raise PolicyKDError(f"method: {asked}, not {found!r:.200}")
        return loss, terms

    def _labels(self, labels: Any, logits: Tensor) -> Tensor:
        if self.check_labels or labels is None:
            return checked_labels(labels, logits)
        return torch.as_tensor(labels, device=logits.device).long()

    def _student_outputs(self, inputs: Inputs) -> Outputs:
        with autocast(self.training.device, self.config.mixed_precision):
            logits = call(self.training.student, inputs)
        return Outputs(logits.float(), tuple(feature.float() for feature in self.student_features.take()))

    @torch.no_grad()
    def _teacher_outputs(self, inputs: Inputs, rows: Tensor | None = None) -> Outputs:
        """The teacher's outputs, from the cache if it has these rows."""
        if self.cache is not None and rows is not None:
            return self.cache.take(rows)
        teacher = self.training.teacher
        if teacher is None:
            return Outputs(torch.empty(0))
        teacher.eval()  # at every step: a callback or a parent module may have set it to train
        with autocast(self.training.device, self.config.mixed_precision):
            logits = self.training.teacher_logits(inputs)
        return Outputs(logits, tuple(feature.float() for feature in self.teacher_features.take()))

    def _make_method(self, batches: DataLoader) -> Method:
        """Build the method from the shapes of the first batch, with seeded weights of its helpers."""
        training, config, name = self.training, self.config, self.training.method_name
        with seeded(config.seed), evaluating(training.student), torch.no_grad():
            first = next(on_device(batches, training.device), None)
            if first is None:
                raise PolicyKDError("data: the training data are empty")
            inputs, labels = split(training.adaptor, read(first).content)
            with try_call("student", training.student, inputs):
                student = self._student_outputs(inputs)
            with try_call("teacher", training.teacher or training.student, inputs):
                teacher = self._teacher_outputs(inputs)
            compared = student if training.teacher is None else teacher
            check_classes(student.logits, compared.logits, training.classes)
            check_logits(training.student, inputs, student.logits)
            # The length N of sequences (B, N, D) may vary by batch, as with trimmed texts.
            self.sequences = any(feature.ndim == 3 for feature in teacher.features)
            method = training.kind(config, student, teacher).to(training.device)
        looks = method.uses_labels or config.warm_up_epochs > 0
        if config.mixup > 0 and looks:
            raise PolicyKDError(
                f"mixup: only the teacher can label mixed examples, but this {name} uses labels: "
                "use hinton with alpha=1 and no warm_up_epochs, or mixup=0"
            )
        if labels is None and looks:
            raise PolicyKDError(
                f"labels: the training data have none, but this {name} uses them: give fit((inputs, labels)), "
                "or use hinton with alpha=1 and no warm_up_epochs"
            )
        learning = nn.ModuleList([training.student, method])
        import_extra = method.needs_labels or config.warm_up_epochs > 0
        check_batches(batches, training.adaptor, labels, student.logits, learning, looks, import_extra)
        share_state(self.accelerator, training.student, method)
        return method

    def _make_optimizers(self, batches: DataLoader) -> None:
        """Make an optimiser and a schedule for every trained group of modules."""
        training, config = self.training, self.config
        training.plan, training.optimizers, training.schedulers = self.method.plan(config), {}, {}
        self.steps_per_pass = self._length(batches)
        for group in dict.fromkeys(phase.trains for phase in training.plan):
            steps = self.steps_per_pass * sum(phase.trains == group for phase in training.plan)
            members = [p for module in self._members(group) for p in module.parameters()]
            if not any(p.requires_grad for p in members):
                raise PolicyKDError(f"{group}: all its parameters are frozen: set requires_grad")
            optimizer = make_optimizer(config, members, self.method.learning_rate(config, group))
            schedule = find("learning_rate_schedule", config.learning_rate_schedule, SCHEDULES)
            training.schedulers[group] = torch.optim.lr_scheduler.LambdaLR(optimizer, _factor(schedule, steps))
            training.optimizers[group] = self.accelerator.prepare_optimizer(optimizer)
        with content_errors("the run's checkpoint"):
            training.restore_method(self.steps_per_pass)

    def _length(self, batches: DataLoader) -> int:
        """Steps per pass; 0 if the user's loader has no length, which only a constant learning rate allows."""
        try:
            return len(batches)
        except TypeError:
            if self.config.learning_rate_schedule != "constant":
                raise PolicyKDError(
                    "data: the loader has no length, which learning_rate_schedule="
                    f"{self.config.learning_rate_schedule!r} needs: give one with a length, or use 'constant'"
                ) from None
            return 0

    def _members(self, group: str) -> list[nn.Module]:
        return ([self.training.student] if group == "student" else []) + self.method.helpers(group)

    def _set_modes(self, phase: Phase) -> list[nn.Parameter]:
        """Enable train mode and gradients only for the modules trained in this phase; returns their parameters."""
        self.training.student.train(phase.trains == "student")
        self.method.eval().requires_grad_(False)
        for helper in self.method.helpers(phase.trains):
            helper.train().requires_grad_(True)
        return [p for module in self._members(phase.trains) for p in module.parameters() if p.requires_grad]

    def _fill_cache(self, batches: DataLoader) -> None:
        """Precompute the teacher's outputs of every row, if they do not change between epochs and fit into memory."""
        rows, megabytes = batches.dataset, self.config.cache_megabytes
        changed = self.augment is not None or self.config.mixup > 0 or self.sequences
        fixed = isinstance(rows, Rows) and rows.arrays is not None and not changed
        wanted = any(phase.teacher for phase in self.training.plan[self.training.passes :])
        if not (fixed and wanted and megabytes) or self.training.teacher is None:
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
        for content, index in on_device(batches, self.training.device):
            inputs, _ = split(self.training.adaptor, content)
            yield index, self._teacher_outputs(inputs)


def _factor(schedule: Callable[[float], float], steps: int) -> Callable[[int], float]:
    """Multiplier of the learning rate at every step."""
    return lambda step: value_at("learning_rate_schedule", schedule, step / max(1, steps))


def _score(result: dict[str, float]) -> float:
    """Score of the best student: accuracy, or agreement if the validation data have no labels."""
    return result["accuracy"] if "accuracy" in result else result["agreement"]
