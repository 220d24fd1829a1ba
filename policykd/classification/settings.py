"""Resolve and check a distiller's settings, and convert them to plain values."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.optim import Optimizer

from policykd.core import registry
from policykd.core.errors import PolicyKDError, reraise
from policykd.core.fields import change, check_schedule
from policykd.distillation.divergences import DIVERGENCES
from policykd.distillation.schedules import SCHEDULES
from policykd.distillation.supervised.config import HintonConfig
from policykd.distillation.supervised.hinton import WEIGHTS
from policykd.distillation.supervised.method import OPTIMIZERS, Method
from policykd.distillation.supervised.training_config import TrainingConfig

TABLES: dict[str, Mapping[str, Any]] = {
    "optimizer": OPTIMIZERS,
    "learning_rate_schedule": SCHEDULES,
    "alpha_schedule": SCHEDULES,
    "divergence": DIVERGENCES,
    "example_weight": WEIGHTS,
}
"""What each setting selects, for errors."""
OF_ALL = "optimizer", "learning_rate_schedule"
"""Settings common to all methods."""


def resolve_config(kind: type[Method], config: dict[str, Any] | TrainingConfig | None) -> TrainingConfig:
    """A method's complete config from a dict of changed fields or a config; names in it are checked."""
    expected = kind.config_type
    if config is None or isinstance(config, dict):
        config = change(expected(), config or {})
    if type(config) is not expected:
        raise PolicyKDError(f"config: {kind.__name__} takes a {expected.__name__}, not a {type(config).__name__}")
    for name in TABLES if isinstance(config, HintonConfig) else OF_ALL:
        part = registry.find(name, getattr(config, name), TABLES[name])
        if name.endswith("_schedule"):
            check_schedule(name, part)
    return config


def plain(config: TrainingConfig) -> dict[str, Any]:
    """A config as plain values (``registry.plain``)."""
    return registry.plain(config, TABLES)


def make_optimizer(config: TrainingConfig, parameters: list[nn.Parameter], rate: float) -> Optimizer:
    """Make the optimiser; a user's function sets its own learning rate and weight decay.

    Raises:
        PolicyKDError: the user's function fails, or does not return an optimiser.
    """
    make = registry.find("optimizer", config.optimizer, OPTIMIZERS)
    if not callable(config.optimizer):
        return make(parameters, lr=rate, weight_decay=config.weight_decay)
    with reraise("optimizer: must give a torch optimiser of the parameters: "):
        made = make(parameters)
    if not isinstance(made, Optimizer):
        raise PolicyKDError(f"optimizer: must give a torch optimiser of the parameters, not {made!r:.200}")
    return made
