"""Device, precision and processes, by way of ``accelerate``; the little of it that phases of training need apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from policykd.core.errors import PolicyKDError, one_line
from policykd.core.extras import needs


def make_accelerator(device: str, mixed_precision: str, seed: int) -> Any:
    """An ``accelerate.Accelerator`` for "auto", "cpu" or "cuda".

    A batch is that of all processes together, so that their number does not change training, and a loader that
    shuffles does so by ``seed`` and the number of the pass.
    """
    accelerate, state = needs("accelerate"), needs("accelerate.state")
    check_device(device)
    _make_room(state, "cpu" if device == "cpu" or not torch.cuda.is_available() else "cuda", mixed_precision)
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
        PolicyKDError: it is unknown, or torch has none.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise PolicyKDError(f'device: {device!r} is unknown: use "auto", "cpu" or "cuda"')
    if device == "cuda" and not torch.cuda.is_available():
        raise PolicyKDError("device: 'cuda' cannot be used: torch sees no CUDA device here")


def _make_room(state: Any, device: str, mixed_precision: str) -> None:
    """Clear accelerate's state where it is of another device or precision.

    accelerate has one of each per process, for good. Every distiller here has its own, and asks its accelerator only
    for what all share: processes, order and gradients.
    """
    shared = state.AcceleratorState._shared_state
    if shared and (shared["device"].type, shared["_mixed_precision"]) != (device, mixed_precision):
        state.AcceleratorState._reset_state(reset_partial_state=shared["num_processes"] == 1)


def shared(accelerator: Any, batches: DataLoader) -> Any:
    """A loader of this process's share of every batch, whose order is that of the pass.

    Raises:
        PolicyKDError: the size of a batch is not known.
    """
    try:
        return accelerator.prepare_data_loader(batches)
    except ValueError as error:
        raise PolicyKDError(
            f"data: the loader cannot be trained with, a batch_sampler needs a batch_size: {one_line(error)}"
        ) from None


def on_device(batches: Iterable[Any], device: torch.device) -> Iterator[Any]:
    """This process's share of the batches, on a device."""
    send = needs("accelerate.utils").send_to_device
    for batch in batches:
        yield send(batch, device)


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """The precision of forward passes; accelerate's own would be that of the process's latest Accelerator."""
    kind = torch.float16 if mixed_precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=mixed_precision != "no")


def average_gradients(accelerator: Any, parameters: Iterable[nn.Parameter]) -> None:
    """Bring every process to the mean gradient, in one message.

    DistributedDataParallel wraps one module once; here the modules that learn change from pass to pass, and losses
    look at features that hooks took from inside.
    """
    if accelerator.num_processes == 1:
        return
    gradients = [p.grad for p in parameters if p.grad is not None]
    mean = accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "mean")
    for gradient, part in zip(gradients, mean.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view_as(gradient))


def share_state(accelerator: Any, *modules: nn.Module) -> None:
    """Bring every process to the first one's weights and buffers: first weights and batch statistics may differ."""
    if accelerator.num_processes == 1:
        return
    utils = needs("accelerate.utils")
    for module in modules:
        for tensor in module.state_dict().values():
            if isinstance(tensor, Tensor):
                tensor.copy_(utils.broadcast(tensor.clone(), from_process=0))
