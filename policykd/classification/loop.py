"""The training loop of a distiller: pass after pass of its method's plan, with validation and checkpoints between."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from policykd.classification.evaluation import Evaluation
from policykd.classification.loading import loader
from policykd.classification.trainer import Trainer
from policykd.core.files import STEPS
from policykd.core.interrupts import Interrupts, Stopped, interruptible
from policykd.core.lock import alone

if TYPE_CHECKING:
    from policykd.classification.distiller import Augment, Callback, Distiller


def fit(
    distiller: Distiller,
    train: Any,
    validation: Any,
    augment: Augment | None = None,
    callback: Callback | None = None,
    progress_bar: bool = False,
) -> None:
    """Train to the end of the plan (see ``Distiller.fit``)."""
    config, accelerator = distiller.config, distiller.accelerator
    batches = loader(train, config.batch_size, config.seed, "training")
    judge = None if validation is None else Evaluation(distiller, validation, "validation")
    writes = distiller.folder is not None and accelerator.is_main_process
    with (
        alone(distiller.folder.path) if distiller.folder and writes else nullcontext(),
        closing(Trainer(distiller, batches, augment)) as trainer,
        _told(distiller) as interrupts,
    ):
        plan = distiller.plan
        bar = tqdm(
            total=len(plan) * trainer.steps_per_pass or None,
            initial=distiller.passes * trainer.steps_per_pass,
            unit="step",
            desc=distiller.method_name,
            disable=None if progress_bar and accelerator.is_main_process else True,  # None: on a terminal only
        )
        with bar:
            while distiller.passes < len(plan):
                with interrupts.raising():  # a pass that is cut short is gone over again, from the last checkpoint
                    trainer.one_pass(plan[distiller.passes], bar)
                    distiller.passes += 1
                    if judge is not None and _is_due(distiller):
                        _validate(distiller, judge)
                        bar.set_postfix_str(f"validation {_score(distiller.history[-1]):.4f}", refresh=False)
                _checkpoint(distiller)
                if callback is not None:
                    callback(distiller)
    if config.keep_best and distiller.best is not None:
        distiller.student.load_state_dict(distiller.best)
        _checkpoint(distiller)


def check(distiller: Distiller, train: Any) -> None:
    """Put everything together for some training data, as ``fit`` does, train nothing, and take it apart again."""
    batches = loader(train, distiller.config.batch_size, distiller.config.seed, "training")
    with closing(Trainer(distiller, batches, None, asks=False)):
        distiller.method, distiller.plan, distiller.optimizers, distiller.schedulers = None, [], {}, {}


@contextmanager
def _told(distiller: Distiller) -> Iterator[Interrupts]:
    """Note signals; the one that ends training is told."""
    try:
        with interruptible() as interrupts:
            yield interrupts
    except Stopped:
        folder = distiller.folder
        if folder is not None and distiller.accelerator.is_main_process:
            there = f"{folder.checkpoint} is of the last whole pass" if folder.checkpoint.exists() else "nothing saved"
            print(f"\ninterrupted in pass {distiller.passes + 1}: {there}; go on with --resume", flush=True)
        raise


def _is_due(distiller: Distiller) -> bool:
    """Whether the pass before trained the student and is the last of its row, or one of every ``eval_every``."""
    plan, done = distiller.plan, distiller.passes
    if plan[done - 1].trains != "student":
        return False
    ends = done == len(plan) or plan[done].trains != "student"
    return ends or sum(phase.trains == "student" for phase in plan[:done]) % distiller.config.eval_every == 0


def _validate(distiller: Distiller, judge: Evaluation) -> None:
    """Measure the student, log it, and keep it if none was better."""
    result = judge.measure()
    best = max((_score(earlier) for earlier in distiller.history), default=float("-inf"))
    distiller.history.append({"passes": distiller.passes, **result})
    for name, value in result.items():
        distiller.logger.record(f"eval/{name}", value)
    distiller.logger.record(STEPS, distiller.n_updates)
    distiller.logger.dump(distiller.n_updates)
    if _score(result) > best:
        distiller.best = {name: tensor.detach().clone() for name, tensor in distiller.student.state_dict().items()}
        distiller.write_best()


def _checkpoint(distiller: Distiller) -> None:
    if distiller.folder is not None and distiller.accelerator.is_main_process:
        distiller.folder.check()
        distiller.save(distiller.folder.checkpoint)


def _score(result: dict[str, float]) -> float:
    """What the best student has most of: accuracy, or agreement where the validation data have no labels."""
    return result["accuracy"] if "accuracy" in result else result["agreement"]
