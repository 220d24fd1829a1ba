"""All kernels of a step on a GPU, started at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("policykd")


class CudaGraph:
    """A step that is recorded at its second call and started as a whole from then on (a CUDA graph).

    One by one, the hundred kernels of an update of small networks take longer to start than to run. Torch's compiler
    records no step that changes tensors in place. This class may, as nothing moves: the step reads and writes learners'
    tensors where they stay, and its arguments from copies that stay as well. The first call compiles what is recorded.

    Args:
        step: what is recorded: the same kernels for all arguments of this form. It returns a tensor, or diagnostics
            ``(K,)`` by name.
        args: arguments of this form: tensors, None, flags, and tuples of them.
        device: the GPU.
        pool: memory that the graphs of one method share, as they never run at once (``torch.cuda.graph_pool_handle``).
    """

    def __init__(self, step: Callable[..., Any], args: Sequence[Any], device: torch.device, pool: Any) -> None:
        self.step, self.device, self.pool = step, device, pool
        self.args = _copied(tuple(args), device)
        self.inputs = list(_tensors(self.args))
        self._run = self._first

    def __call__(self, *args: Any) -> Any:
        """What the step returns for these arguments, in memory of its own."""
        torch._foreach_copy_(self.inputs, list(_tensors(args)))
        return self._run()

    def _first(self) -> Any:
        self._run = self._record
        return self._as_it_is()

    def _as_it_is(self) -> Any:
        return self.step(*self.args)

    def _record(self) -> Any:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.device)
        try:  # other threads may use the GPU meanwhile: simulators
            with torch.cuda.graph(graph, pool=self.pool, stream=stream, capture_error_mode="thread_local"):
                result = self.step(*self.args)
                self.names = list(result) if isinstance(result, dict) else None
                if isinstance(result, dict):
                    result = torch.stack(list(result.values())) if result else torch.empty(0, device=self.device)
                self.result = result
        except RuntimeError as error:
            why = str(error).strip().split("\n", 1)[0]
            log.warning("compile: no CUDA graph (%s): kernels are launched one by one, which is slower", why)
            self._run = self._as_it_is
            return self._run()
        self.graph, self._run = graph, self._replay
        return self._run()

    def _replay(self) -> Any:
        self.graph.replay()
        result = self.result.clone()
        return result if self.names is None else dict(zip(self.names, result, strict=True))


def _tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _tensors(part)


def _copied(value: Any, device: torch.device) -> Any:
    """Nested tuples with dense tensors on the device in place of their own."""
    if isinstance(value, Tensor):
        return torch.empty(value.shape, dtype=value.dtype, device=device)
    if not isinstance(value, tuple):
        return value
    parts = [_copied(part, device) for part in value]
    return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
