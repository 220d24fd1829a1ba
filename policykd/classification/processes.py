"""Device, precision and processes through ``accelerate``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from policykd.core.errors import PolicyKDError, one_line
from policykd.core.extras import import_extra


def make_accelerator(device: str, mixed_precision: str, seed: int) -> Any:
    """Make an ``accelerate.Accelerator`` for "auto", "cpu" or "cuda".

    A batch is split among the processes, so that their number does not change training. Loaders shuffle by ``seed`` and
    epoch.
    """
    accelerate, state = import_extra("accelerate"), import_extra("accelerate.state")
    check_device(device)
    _reset_accelerate(state, "cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda", mixed_precision)
    try:
        return accelerate.Accelerator(
            cpu=device == "cpu",
            device_placement=False,
            mixed_precision=mixed_precision,
            dataloader_config=accelerate.DataLoaderConfiguration(
                split_batches=True, use_seedable_sampler=True, data_seed=seed
            ),
        )
    except (ValueError, RuntimeError) as error:
        raise PolicyKDError(f"device: {device} with precision {mixed_precision} cannot be used: {error}") from None


def check_device(device: str) -> None:
    """Refuse a device that does not exist.

    Raises:
        PolicyKDError: the device is unknown or unavailable.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise PolicyKDError(f'device: {device!r} is unknown: use "auto", "cpu" or "cuda"')
    if device == "cuda" and not torch.cuda.is_available():
        raise PolicyKDError("device: 'cuda' cannot be used: torch sees no CUDA device here")


def _reset_accelerate(state: Any, device: str, mixed_precision: str) -> None:
    """Reset accelerate's global state if it has another device or precision.

    accelerate fixes both per process. Here every distiller has its own device and precision, and uses its accelerator
    only for what is common to all: processes, order and gradients.
    """
    shared = state.AcceleratorState._shared_state
    if shared and (shared["device"].type, shared["_mixed_precision"]) != (device, mixed_precision):
        state.AcceleratorState._reset_state(reset_partial_state=shared["num_processes"] == 1)


def shared(accelerator: Any, batches: DataLoader) -> Any:
    """Wrap a loader to yield this process's share of every batch, shuffled by epoch.

    Raises:
        PolicyKDError: the batch size is unknown.
    """
    try:
        return accelerator.prepare_data_loader(batches)
    except ValueError as error:
        raise PolicyKDError(
            f"data: the loader cannot be used for training, a batch_sampler needs a batch_size: {one_line(error)}"
        ) from None


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """Iterate over this process's share of the batches, moved to a device."""
    send = import_extra("accelerate.utils").send_to_device
    for batch in batches:
        yield send(batch, device)


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """Autocast of forward passes; accelerate's own would use the precision of the process's latest Accelerator."""
    kind = torch.float16 if mixed_precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=mixed_precision != "no")


def average_gradients(accelerator: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Average gradients over all processes in one all-reduce.

    DistributedDataParallel wraps one module for good; here the trained modules change between phases, and losses use
    features that hooks record inside them.
    """
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    mean = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def share_state(accelerator: Any, *modules: nn.Module) -> None:
    """Broadcast the first process's weights and buffers: initial weights and batch statistics may differ."""
    if accelerator.num_processes == 1:
        return
    utils = import_extra("accelerate.utils")
    for module in modules:
        for tensor in module.state_dict().values():
            if isinstance(tensor, Tensor):
                tensor.copy_(utils.broadcast(tensor.clone(), from_process=0))
