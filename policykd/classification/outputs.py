"""Outputs of networks: logits in the usual formats, features of inner modules, and eval mode.

An output is a tensor of logits, a tuple that starts with one, or a dict or object with ``logits``, as Hugging Face's
models return.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from policykd.classification.data.batches import Inputs
from policykd.core.errors import PolicyKDError, nearest


def call(model: nn.Module, inputs: Inputs) -> Tensor:
    """Compute a model's logits ``(B, C)``; floats and uint8 are converted to the model's dtype first.

    Raises:
        PolicyKDError: the output has no logits ``(B, C)``, or only one per example.
    """
    kind = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    if isinstance(inputs, Mapping):
        output = model(**{name: _readable(part, kind) for name, part in inputs.items()})
    elif isinstance(inputs, list | tuple):
        output = model(*[_readable(part, kind) for part in inputs])
    else:
        output = model(_readable(inputs, kind))
    if isinstance(output, Mapping):
        output = output.get("logits", output)
    elif not isinstance(output, Tensor):
        first = output[0] if isinstance(output, list | tuple) and output else None
        output = getattr(output, "logits", first)
    if not isinstance(output, Tensor) or output.ndim != 2:
        shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise PolicyKDError(
            f"model: {type(model).__name__} must return logits (B, C), alone or as .logits; got {shape}"
        )
    if output.shape[1] == 1:  # its softmax is always 1: nothing would be learned or compared
        raise PolicyKDError(
            f"model: {type(model).__name__} returns one logit per example; two classes need two: "
            "torch.cat((torch.zeros_like(z), z), 1) of one logit z"
        )
    return output


def _readable(part: Any, kind: torch.dtype) -> Any:
    """Convert floats and uint8 pixels to the model's dtype; leave token ids and anything else unchanged."""
    numbers = isinstance(part, Tensor) and (part.dtype == torch.uint8 or part.is_floating_point())
    return part.to(kind) if numbers else part


@contextmanager
def try_call(whose: str, model: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Report errors of a network's first forward pass in one line.

    Raises:
        PolicyKDError: the network raised an error.
    """
    try:
        yield
    except PolicyKDError:
        raise
    except (RuntimeError, TypeError, IndexError, ValueError, AttributeError) as error:
        parts = (
            inputs.values() if isinstance(inputs, Mapping) else inputs if isinstance(inputs, list | tuple) else [inputs]
        )
        shapes = ", ".join(f"{tuple(p.shape)} {p.dtype}" if isinstance(p, Tensor) else type(p).__name__ for p in parts)
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise PolicyKDError(f"{whose}: {type(model).__name__} cannot read inputs {shapes}: {why}") from None


def check_classes(logits: Tensor, teacher_logits: Tensor, names: Sequence[str] | None = None) -> None:
    """Refuse a teacher or class names whose number of classes is not the student's.

    Raises:
        PolicyKDError: the numbers of classes differ.
    """
    if names is not None and len(names) != logits.shape[1]:
        raise PolicyKDError(
            f"classes: {len(names)} names, but the student answers {tuple(logits.shape)}: give one for each output"
        )
    if logits.shape != teacher_logits.shape:
        raise PolicyKDError(
            f"classes: the student answers {tuple(logits.shape)} and the teacher {tuple(teacher_logits.shape)}: "
            "both need logits (B, C) over the same classes"
        )


def check_numbers(answers: Tensor, whose: str) -> None:
    """Refuse NaN in outputs ``(n, C)``, since argmax would return its class.

    Raises:
        PolicyKDError: an output is NaN.
    """
    wrong = int(answers.isnan().any(1).sum())
    if wrong:
        raise PolicyKDError(
            f"data: the {whose}'s answers to {wrong} of {len(answers)} examples are NaN: check these inputs, and "
            "its weights"
        )


@contextmanager
def evaluating(*modules: nn.Module | None) -> Iterator[None]:
    """Put networks into eval mode, and restore their modes afterwards."""
    present = [module for network in modules if network is not None for module in network.modules()]
    modes = [module.training for module in present]
    for network in modules:
        if network is not None:
            network.eval()
    try:
        yield
    finally:
        for module, mode in zip(present, modes, strict=True):
            module.training = mode


class FeatureReader:
    """Records the outputs of named modules while it is open.

    Args:
        model: the network.
        paths: module paths as in ``model.named_modules()``, such as ``"layer2.0"``.
        whose: "student" or "teacher", for errors.

    Raises:
        PolicyKDError: a module does not exist; the error suggests similar paths.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str], whose: str) -> None:
        self.paths, self.whose = tuple(paths), whose
        self.seen: dict[str, Tensor] = {}
        modules = [self._module(model, path) for path in self.paths]
        self.handles = [
            module.register_forward_hook(self._make_hook(path))
            for path, module in zip(self.paths, modules, strict=True)
        ]

    def _module(self, model: nn.Module, path: str) -> nn.Module:
        try:
            module = model.get_submodule(path)
        except AttributeError:
            module = model
        if module is model:
            known = [name for name, _ in model.named_modules() if name]
            raise PolicyKDError(f"features: the {self.whose} has no module {path!r}{nearest(path, known)}")
        return module

    def _make_hook(self, path: str) -> Any:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            found = _first_tensor(output)
            # A copy, since later layers may work in place, as torchvision's ReLUs and residual sums do.
            self.seen[path] = found.clone() if isinstance(found, Tensor) else found

        return keep

    def take(self) -> tuple[Tensor, ...]:
        """Return the outputs of the last forward pass and forget them, so that no graph outlives its step.

        Raises:
            PolicyKDError: a module was not called, or returned no tensor.
        """
        for path in self.paths:
            if not isinstance(self.seen.get(path), Tensor):
                why = "does not return a tensor" if path in self.seen else "is not called in its forward pass"
                raise PolicyKDError(f"features: module {path!r} of the {self.whose} {why}: name another one")
        taken = tuple(self.seen[path] for path in self.paths)
        self.seen = {}
        return taken

    def close(self) -> None:
        """Remove the hooks from the model."""
        for handle in self.handles:
            handle.remove()
        self.seen = {}

    def __enter__(self) -> FeatureReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _first_tensor(output: Any) -> Any:
    """A module's output, or its first element (recurrent and Hugging Face's layers return several)."""
    while isinstance(output, list | tuple) and output:
        output = output[0]
    return getattr(output, "last_hidden_state", output)
