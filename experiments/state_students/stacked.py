"""Helpers of the classifiers' methods on the learner axis: K modules of one shape, called at once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state


class Stacked:
    """K modules, the k-th of which reads the k-th part of every input; batch statistics are each module's own.

    Args:
        make: makes one module.
        seeds: of torch's generator when each is made ``(K,)``.
    """

    def __init__(self, make: Callable[[], nn.Module], seeds: Sequence[int]) -> None:
        modules = []
        with torch.random.fork_rng(devices=()):
            for seed in seeds:
                torch.manual_seed(seed)
                modules.append(make())
        parameters, self.buffers = stack_module_state(modules)
        self.parameters: dict[str, Tensor] = parameters
        self.module = copy.deepcopy(modules[0]).to("meta")  # its shape and mode; tensors are handed in

    def train(self, mode: bool) -> None:
        """Whether batch normalisation takes the batch's statistics, and keeps them, or those it has kept."""
        self.module.train(mode)

    def __call__(self, *inputs: Tensor) -> Any:
        """What the modules give, each with a leading axis K, for inputs ``(K, ...)``."""

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], *own: Tensor) -> Any:
            return functional_call(self.module, (parameters, buffers), own)

        return torch.vmap(one)(self.parameters, self.buffers, *inputs)
