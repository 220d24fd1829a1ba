"""A torch module as a scikit-learn classifier that is differentiable in its inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_array, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn
from torch.nn import functional

from policykd.classification.models import make_model
from policykd.core.arrays import mean_and_scale


class TorchClassifier(ClassifierMixin, BaseEstimator):
    """A network with scikit-learn's estimator interface: standardised inputs, cross-entropy, Adam.

    Args:
        network: makes the module from (number of features, number of classes); it maps ``(B, F)`` to logits
            ``(B, C)``. None is an MLP of ``widths``.
        widths: widths of the hidden layers of that MLP.
        epochs: training epochs.
        batch_size: rows per step.
        learning_rate: Adam's learning rate.
        weight_decay: Adam's weight decay.
        random_state: seed of the initial weights and of shuffling; an int, a RandomState or None.
    """

    def __init__(
        self,
        network: Callable[[int, int], nn.Module] | None = None,
        widths: tuple[int, ...] = (64, 64),
        *,
        epochs: int = 40,
        batch_size: int = 64,
        learning_rate: float = 2e-3,
        weight_decay: float = 0.0,
        random_state: Any = None,
    ) -> None:
        self.network = network
        self.widths = widths
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.random_state = random_state

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> TorchClassifier:
        """Train a new network.

        Args:
            X: features ``(n, F)``, finite.
            y: labels ``(n,)`` of any type.
            sample_weight: weight ``(n,)`` of each row in the loss.
        """
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        if isinstance(self.network, nn.Module):
            raise TypeError("network: got a module: pass a function of (features, classes) that makes a new one")
        self.classes_, codes = np.unique(y, return_inverse=True)
        self.mean_, self.std_ = map(torch.tensor, mean_and_scale(X))
        inputs = self._standard(torch.tensor(X))
        weight = np.ones(len(X)) if sample_weight is None else check_array(sample_weight, ensure_2d=False)
        if weight.shape != (len(X),) or weight.min() < 0 or not weight.any():
            raise ValueError(
                f"sample_weight: needs {len(X)} weights, none negative, not all zero (Sample weights must be 1D)"
            )
        self._train(inputs, torch.tensor(codes), torch.tensor(weight / weight.mean(), dtype=torch.float32))
        return self

    def _train(self, inputs: Tensor, codes: Tensor, weight: Tensor) -> None:
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        features, classes = inputs.shape[1], len(self.classes_)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # for dropout too
            if self.network is None:
                self.network_ = make_model("mlp", self.widths, (features,), classes, seed)
            else:
                self.network_ = self.network(features, classes)
                if not isinstance(self.network_, nn.Module):
                    raise TypeError(f"network: must give a torch module, not {self.network_!r:.200}")
            self.network_.train()
            adam = torch.optim.Adam(
                self.network_.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True
            )
            for _ in range(self.epochs):
                for rows in torch.randperm(len(inputs)).split(self.batch_size):
                    loss = functional.cross_entropy(self.network_(inputs[rows]), codes[rows], reduction="none")
                    adam.zero_grad(set_to_none=True)
                    (loss * weight[rows]).mean().backward()
                    adam.step()
        self.network_.eval().requires_grad_(False)

    def logits(self, inputs: Tensor) -> Tensor:
        """Logits ``(B, C)`` of raw inputs ``(B, F)``, differentiable in them."""
        return self.network_(self._standard(inputs))

    def _standard(self, inputs: Tensor) -> Tensor:
        """Standardise in float64, so that large values of little spread keep their precision."""
        return ((inputs.double() - self.mean_) / self.std_).float()

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities ``(n, C)``, in the order of ``classes_``."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            return self.logits(torch.tensor(X)).double().softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """The most likely class of each row."""
        proba = self.predict_proba(X)
        return self.classes_[proba.argmax(1)]
