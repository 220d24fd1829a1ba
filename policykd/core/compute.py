"""Device, defaults and threads of torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from policykd.core.errors import PolicyKDError, one_line


def find_device(name: str) -> torch.device:
    """Find a device by name; "auto" is CUDA if available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError):  # its text lists all backends of torch
        raise PolicyKDError(f"device: {name!r} is unknown: use auto, cpu, cuda or, with several GPUs, cuda:1") from None
    try:
        torch.zeros((), device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA fails an assertion
        raise PolicyKDError(f"device: {name!r} cannot be used: {one_line(error)}") from None
    return device


def check_defaults() -> None:
    """Refuse defaults of torch that would make learners mix dtypes or devices.

    Raises:
        PolicyKDError: a default was changed; the error names it and how to reset it.
    """
    dtype, device = torch.get_default_dtype(), torch.get_default_device()
    if dtype != torch.float32:
        raise PolicyKDError(
            f"torch: its default dtype is {dtype}, but learners compute in float32: call "
            "torch.set_default_dtype(torch.float32), and request float64 explicitly where you need it"
        )
    if device.type != "cpu":
        raise PolicyKDError(
            f"torch: its default device is {device}, but agents place their tensors themselves: call "
            f'torch.set_default_device("cpu"), and give the agent device="{device}"'
        )


def check_autograd(parameters: torch.Tensor) -> None:
    """Refuse to train if torch cannot compute gradients as expected.

    Raises:
        PolicyKDError: torch's defaults were changed, or ``torch.inference_mode`` is on, or was when the parameters were
            made.
    """
    check_defaults()
    if torch.is_inference_mode_enabled() or parameters.is_inference():
        raise PolicyKDError("torch: agents can neither be made nor trained in torch.inference_mode: leave it for both")


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch use one thread: for networks of this size, more threads cost more than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
