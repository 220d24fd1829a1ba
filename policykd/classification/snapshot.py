"""The whole state of a distiller as nested plain values and tensors, and back again."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from policykd.core.errors import PolicyKDError
from policykd.distillation.supervised.method import TrainingConfig

if TYPE_CHECKING:
    from policykd.classification.distiller import Distiller


def plain(config: TrainingConfig) -> dict[str, Any]:
    """A config as JSON reads it back."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(config).items()}


def state(distiller: Distiller) -> dict[str, Any]:
    """Everything that a run needs to go on from the end of a pass."""
    result: dict[str, Any] = {
        "settings": distiller.settings,
        "teacher": fingerprint(distiller.teacher),
        "passes": distiller.passes,
        "n_updates": distiller.n_updates,
        "elapsed": distiller.elapsed,
        "history": distiller.history,
        "student": distiller.student.state_dict(),
        "best": distiller.best,
        "log_sizes": {} if distiller.folder is None else distiller.folder.log_sizes(),
    }
    if distiller.method is not None:
        result["method"] = distiller.method.state_dict()
        result["optimizers"] = {name: _listed(o.state_dict()) for name, o in distiller.optimizers.items()}
        result["schedulers"] = {name: s.last_epoch for name, s in distiller.schedulers.items()}
        scaler = distiller.accelerator.scaler
        result["scaler"] = None if scaler is None else scaler.state_dict()
    elif distiller.resumed is not None:
        result |= {name: distiller.resumed[name] for name in ("method", "optimizers", "schedulers")}
        result["scaler"] = distiller.resumed.get("scaler")
    return result


def restore(distiller: Distiller, loaded: dict[str, Any]) -> None:
    """Put a saved state into a distiller of the same settings; what needs the data's shapes waits for ``fit``."""
    if distiller.teacher is not None and loaded["teacher"] not in (None, fingerprint(distiller.teacher)):
        raise PolicyKDError("resume: the teacher is not the one that the run began with: load its weights first")
    load_weights(distiller.student, loaded["student"], "student")
    for name in ("passes", "n_updates", "elapsed", "history", "best"):
        setattr(distiller, name, loaded[name])
    if "method" in loaded:
        distiller.resumed = loaded


def restore_training(distiller: Distiller) -> None:
    """Put back optimisers and a method's helpers, now that they are built."""
    loaded, distiller.resumed = distiller.resumed, None
    if loaded is None:
        return
    assert distiller.method is not None
    load_weights(distiller.method, loaded["method"], "method")
    for name, optimizer in distiller.optimizers.items():
        optimizer.load_state_dict(_keyed(loaded["optimizers"][name]))
    if loaded.get("scaler") is not None:  # checkpoints made before it was saved have none
        distiller.accelerator.scaler.load_state_dict(loaded["scaler"])
    for name, scheduler in distiller.schedulers.items():
        scheduler.last_epoch = loaded["schedulers"][name]
        scheduler._last_lr = [group["lr"] for group in scheduler.optimizer.param_groups]


def load_weights(module: nn.Module, weights: dict[str, torch.Tensor], whose: str) -> None:
    """Load a state dict that must fit.

    Raises:
        PolicyKDError: names or shapes differ.
    """
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise PolicyKDError(f"load: the {whose} has another shape than the saved one: {lines[0]}") from None


def fingerprint(module: nn.Module | None) -> str | None:
    """A digest of a network's weights, to know the same one again."""
    if module is None:
        return None
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _listed(optimizer: dict[str, Any]) -> dict[str, Any]:
    """An optimiser's state with text for keys, as JSON has them."""
    return {**optimizer, "state": {str(index): values for index, values in optimizer["state"].items()}}


def _keyed(optimizer: dict[str, Any]) -> dict[str, Any]:
    groups = [{**g, "betas": tuple(g["betas"])} if "betas" in g else g for g in optimizer["param_groups"]]
    return {"state": {int(index): values for index, values in optimizer["state"].items()}, "param_groups": groups}
