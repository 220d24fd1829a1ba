"""A distilled network as a scikit-learn classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from policykd.classification.data.batches import seeded
from policykd.classification.distiller import Distiller
from policykd.classification.models import check_names, make_model
from policykd.classification.settings import resolve_config
from policykd.classification.teacher import as_log_probabilities
from policykd.core.arrays import mean_and_scale
from policykd.core.errors import PolicyKDError
from policykd.core.seeding import seed_learner
from policykd.distillation.supervised import find_method
from policykd.distillation.supervised.method import Method

Make = Callable[[int, int], nn.Module]
DEFAULTS = {"epochs": 30, "batch_size": 64, "learning_rate": 5e-3}
"""The same defaults as ``policykd classify``."""


class DistilledClassifier(ClassifierMixin, BaseEstimator):
    """A scikit-learn classifier: a small network trained on labels of any type and on a teacher.

    Each feature is standardised. After ``fit``, ``network_`` is the student and ``classes_`` the labels in its order.

    Args:
        teacher: a scikit-learn classifier with ``predict_proba``, which predicts the rows of ``fit`` once: fitted (with
            the same classes) or not (a clone is fitted first). Or a function of (number of features, number of classes)
            that makes a network, which is trained first. None is an MLP with two hidden layers of 256 units.
        student: makes the student from (number of features, number of classes); it maps ``(B, F)`` to logits
            ``(B, C)``. None is an MLP.
        widths: widths of the hidden layers of that MLP.
        method: a name in ``policykd.distillation.supervised.METHODS``, or a ``Method`` class.
        config: settings of the method and of training to change.
        teacher_epochs: training epochs of a teacher network.
        device: "auto", "cpu" or "cuda".
        random_state: an int, a RandomState or None; also seeds the fit of a teacher that does not set its own.
    """

    def __init__(
        self,
        teacher: Any = None,
        student: Make | None = None,
        *,
        widths: tuple[int, ...] = (16,),
        method: str | type[Method] = "hinton",
        config: dict[str, Any] | None = None,
        teacher_epochs: int = 20,
        device: str = "auto",
        random_state: Any = None,
    ) -> None:
        self.teacher = teacher
        self.student = student
        self.widths = widths
        self.method = method
        self.config = config
        self.teacher_epochs = teacher_epochs
        self.device = device
        self.random_state = random_state

    def fit(self, X: Any, y: Any) -> DistilledClassifier:
        """Train a new student, and first its teacher unless that is fitted.

        Args:
            X: features ``(n, F)``, finite.
            y: labels ``(n,)`` of any type.

        Raises:
            PolicyKDError: there is only one class, or teacher, student and settings do not fit together.
        """
        given = X
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise PolicyKDError(f"labels: one class only, {self.classes_[0]}: at least two classes are needed")
        if not isinstance(self.config, dict | None):
            raise PolicyKDError(f"config: expected changed settings as a dict, got {type(self.config).__name__}")
        resolve_config(find_method(self.method)[1], self.config)  # fails before a teacher is trained
        self.mean_, self.std_ = mean_and_scale(X)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        sizes, data = (X.shape[1], len(self.classes_)), (self._standard(X), torch.from_numpy(codes))
        student = _make_network(self.student, sizes, self.widths, seed)
        config = {**DEFAULTS, "seed": seed, **(self.config or {})}
        options: dict[str, Any] = {"method": self.method, "config": config, "device": self.device}
        if hasattr(self.teacher, "predict_proba"):
            if config.get("mixup"):
                raise PolicyKDError("mixup: a scikit-learn teacher cannot label mixed rows: leave it out")
            answered = _Answered()
            distiller = Distiller(student, answered, adaptor=answered.split, **options)
            distiller.fit((*data, self._answers(given, y, seed)))
        else:
            distiller = Distiller(student, self._teacher(sizes, data, seed), **options).fit(data)
        self.network_ = distiller.student.cpu().eval()
        return self

    def _answers(self, given: Any, y: np.ndarray, seed: int) -> Tensor:
        """Log-probabilities ``(n, C)`` of a scikit-learn teacher for the user's raw rows.

        They are not scaled: pipelines may select columns by name, and encoders and trees depend on exact values.
        """
        fitted = self.teacher
        try:
            check_is_fitted(fitted)
        except NotFittedError:
            with seeded(seed + 1):
                fitted = seed_learner(clone(fitted), seed + 1).fit(given, y)
        order = np.argsort(fitted.classes_)
        names = {"the labels": self.classes_, "the teacher": np.asarray(fitted.classes_)[order]}
        check_names({who: [str(name) for name in classes] for who, classes in names.items()})
        return as_log_probabilities(torch.from_numpy(np.asarray(fitted.predict_proba(given), np.float64)[:, order]))

    def _teacher(self, sizes: tuple[int, int], data: tuple[Tensor, Tensor], seed: int) -> nn.Module:
        """Make a teacher network and train it on labels."""
        if hasattr(self.teacher, "predict"):
            raise PolicyKDError(
                f"teacher: {type(self.teacher).__name__} has no predict_proba: choose one that does, or calibrate it "
                "(sklearn.calibration.CalibratedClassifierCV)"
            )
        teacher = _make_network(self.teacher, sizes, (256, 256), seed + 1)
        batch = (self.config or {}).get("batch_size", DEFAULTS["batch_size"])
        config = {**DEFAULTS, "batch_size": batch, "epochs": self.teacher_epochs, "seed": seed + 1}
        return Distiller(teacher, None, method="cross_entropy", config=config, device=self.device).fit(data).student

    def _standard(self, X: np.ndarray) -> Tensor:
        """Standardise in float64, so that large values of little spread keep their precision."""
        return torch.from_numpy(((X - self.mean_) / self.std_).astype(np.float32))

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities ``(n, C)``, in the order of ``classes_``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            return self.network_(self._standard(X)).double().softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each row."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(1)]


class _Answered(nn.Module):
    """A teacher whose outputs ``(B, C)`` were computed beforehand and come with each batch."""

    def split(self, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Split a batch into inputs and labels, and keep its outputs for the next call."""
        inputs, labels, self.answers = batch
        return inputs, labels

    def forward(self, inputs: Tensor) -> Tensor:
        return self.answers


def _make_network(make: Make | None, sizes: tuple[int, int], widths: tuple[int, ...], seed: int) -> nn.Module:
    """Make a network with seeded initial weights."""
    if isinstance(make, nn.Module) or not (make is None or callable(make)):
        raise PolicyKDError(
            f"network: expected a function of (features, classes) that makes one, got {type(make).__name__}"
        )
    if make is None:
        return make_model("mlp", widths, (sizes[0],), sizes[1], seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(*sizes)
