"""What modules inside a network gave in its last forward pass, read by forward hooks."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Any

from torch import Tensor, nn

from policykd.core.errors import PolicyKDError, nearest


class FeatureReader:
    """Keeps the outputs of named modules while it is open.

    Args:
        model: the network.
        paths: modules by path, as ``model.named_modules()`` names them, such as ``"layer2.0"``.
        whose: "student" or "teacher", for errors.

    Raises:
        PolicyKDError: there is no module of that path; the nearest are named.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str], whose: str) -> None:
        self.paths, self.whose = tuple(paths), whose
        self.seen: dict[str, Tensor] = {}
        modules = [self._module(model, path) for path in self.paths]
        self.handles = [
            module.register_forward_hook(self._keeper(path)) for path, module in zip(self.paths, modules, strict=True)
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

    def _keeper(self, path: str) -> Any:
        def keep(module: nn.Module, arguments: Any, output: Any) -> None:
            self.seen[path] = _first_tensor(output)

        return keep

    def take(self) -> tuple[Tensor, ...]:
        """The outputs of the last forward pass, handed out once, so that no graph outlives its step.

        Raises:
            PolicyKDError: a module was not called, or returned no tensor.
        """
        for path in self.paths:
            if not isinstance(self.seen.get(path), Tensor):
                why = "returned no tensor" if path in self.seen else "is not called in its forward pass"
                raise PolicyKDError(f"features: module {path!r} of the {self.whose} {why}: name another one")
        taken = tuple(self.seen[path] for path in self.paths)
        self.seen = {}
        return taken

    def close(self) -> None:
        """Take the hooks off the model."""
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
    """A module's output, or the first of several (as recurrent and Hugging Face's layers return)."""
    while isinstance(output, list | tuple) and output:
        output = output[0]
    return getattr(output, "last_hidden_state", output)
