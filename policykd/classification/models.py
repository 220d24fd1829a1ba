"""Small networks for images and vectors, by name; any other ``torch.nn.Module`` works too."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from policykd.core.checkpoint import read_weights
from policykd.core.errors import PolicyKDError
from policykd.core.files import as_path, write_bytes, write_text
from policykd.core.memory import require_memory
from policykd.core.parsing import parse_json, read_text

CONFIG, WEIGHTS = "config.json", "model.safetensors"
UNNAMED = "LABEL_"
"""Prefix of Hugging Face's placeholder class names."""


class MLP(nn.Module):
    """A multilayer perceptron with ReLU; features are ``hidden.0``, ``hidden.1``, ... (each after its ReLU).

    Args:
        inputs: number of input values per example, of any shape.
        widths: widths of the hidden layers.
        classes: number of classes C.
    """

    gives = "logits"

    def __init__(self, inputs: int, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.shape, self.widths, self.classes = (inputs,), tuple(widths), classes
        self.config = SimpleNamespace(id2label=None)
        sizes = [inputs, *widths]
        self.hidden = nn.Sequential(*[nn.Sequential(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)])
        self.classifier = nn.Linear(sizes[-1], classes)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits ``(B, C)``."""
        return self.classifier(self.hidden(inputs.flatten(1)))


class CNN(nn.Module):
    """Blocks of 3x3 convolution, ReLU and 2x2 pooling, followed by one hidden layer.

    Features are ``blocks.0``, ``blocks.1``, ... (each after pooling) and ``hidden``.

    Args:
        shape: (channels, height, width) of the images.
        widths: channels of each block, and last the width of the hidden layer.
        classes: number of classes C.
    """

    gives = "logits"

    def __init__(self, shape: Sequence[int], widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.shape, self.widths, self.classes = tuple(shape), tuple(widths), classes
        self.config = SimpleNamespace(id2label=None)
        *channels, hidden = widths
        sizes = [shape[0], *channels]
        self.blocks = nn.Sequential(
            *[nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)) for a, b in pairwise(sizes)]
        )
        with torch.no_grad():
            flat = self.blocks(torch.zeros(1, *shape)).numel()
        self.hidden = nn.Sequential(nn.Flatten(), nn.Linear(flat, hidden), nn.ReLU())
        self.classifier = nn.Linear(hidden, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(B, C)``."""
        return self.classifier(self.hidden(self.blocks(images)))


def make_model(kind: str, widths: Sequence[int], shape: Sequence[int], classes: int, seed: int) -> nn.Module:
    """Make a network with seeded initial weights.

    Args:
        kind: "mlp" or "cnn".
        widths: see ``MLP`` and ``CNN``.
        shape: shape of one example.
        classes: number of classes C.
        seed: seed of the initial weights.

    Raises:
        PolicyKDError: the kind is unknown, there are too few widths, or inputs of a CNN are not images.
    """
    if kind not in ("mlp", "cnn"):
        raise PolicyKDError(f'model: {kind!r} is unknown: use "mlp" or "cnn"')
    if not widths or min(widths) < 1:
        raise PolicyKDError(f"model: {kind} needs one or more positive widths, got {list(widths)}")
    sizes = (math.prod(shape), *widths, classes)
    numbers = sum(a * b for a, b in pairwise(sizes if kind == "mlp" else sizes[1:]))
    require_memory(4 * 5 * numbers, f"a {kind} of widths {list(widths)} and what trains it", "its widths")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if kind == "mlp":
            return MLP(sizes[0], widths, classes)
        if len(shape) != 3 or min(shape[1:]) < 2 ** (len(widths) - 1):
            raise PolicyKDError(f"model: a cnn of widths {list(widths)} cannot read examples of shape {tuple(shape)}")
        return CNN(shape, widths, classes)


def parameters(model: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def save_pretrained(network: nn.Module, folder: str | Path, classes: Sequence[str] | None = None) -> None:
    """Write a network as a Hugging Face model folder: ``config.json`` and ``model.safetensors``.

    Args:
        network: a network of this module or of Hugging Face.
        folder: created if missing.
        classes: class names, in order; None keeps the network's own.

    Raises:
        PolicyKDError: the network is of another kind, or the number of names is not that of its outputs.
    """
    if not isinstance(network, MLP | CNN) and not hasattr(network, "save_pretrained"):
        raise PolicyKDError(
            f"save_pretrained: a {type(network).__name__} does not have it: save its state_dict, or use MLP and CNN of "
            "policykd.classification.models"
        )
    if classes:
        name_classes(network, classes)
    if not isinstance(network, MLP | CNN):
        network.save_pretrained(folder)  # type: ignore[operator]
        return
    folder = as_path("save_pretrained", folder)
    folder.mkdir(parents=True, exist_ok=True)
    names = dict(enumerate(class_names(network) or (f"{UNNAMED}{number}" for number in range(network.classes))))
    content = {
        "model_type": type(network).__name__.lower(),
        "shape": network.shape,
        "widths": network.widths,
        "id2label": names,
        "label2id": {name: number for number, name in names.items()},
    }
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_bytes(folder / WEIGHTS, safetensors.torch.save(weights, {"format": "pt"}))
    write_text(folder / CONFIG, json.dumps(content, indent=2) + "\n")


def from_pretrained(folder: str | Path) -> tuple[nn.Module, tuple[str, ...]]:
    """Load a network that ``save_pretrained`` wrote, and its class names; no code in the files is run.

    Unnamed classes are named by their index.

    Raises:
        PolicyKDError: the folder holds no such network.
    """
    try:
        content, weights = parse_json(read_text(Path(folder) / CONFIG)), read_weights(Path(folder) / WEIGHTS)
        count, names = len(content["id2label"]), names_in(content)
        with torch.device("meta"):  # no memory yet: the settings may ask for more than the file holds
            network = make_model(content["model_type"], content["widths"], content["shape"], count, 0)
        if {key: part.shape for key, part in network.state_dict().items()} != {k: t.shape for k, t in weights.items()}:
            raise ValueError("the shapes of its weights do not match its settings")
        load_weights(network.to_empty(device="cpu"), weights, f"network in {folder}")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise PolicyKDError(f"model: {folder} is not a network of policykd: {why}") from None
    if names is not None:
        name_classes(network, names)
    return network, names or tuple(map(str, range(count)))


def load_weights(module: nn.Module, weights: dict[str, Tensor], whose: str) -> None:
    """Load a state dict that must match exactly.

    Raises:
        PolicyKDError: names, shapes or dtypes differ.
    """
    for name, own in module.state_dict().items():
        if name in weights and weights[name].is_floating_point() != own.is_floating_point():
            raise PolicyKDError(f"load: the {whose} has {name} as {weights[name].dtype}, not as {own.dtype}")
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()[1:]] or [str(error)]
        raise PolicyKDError(f"load: the {whose} differs in shape from the saved one: {lines[0]}") from None


def name_classes(network: nn.Module, names: Sequence[str]) -> None:
    """Set a network's class names in ``config.id2label``, as Hugging Face does.

    Networks that are neither Hugging Face's nor of this module have no place for names and stay unchanged.

    Raises:
        PolicyKDError: the number of names is not that of the outputs.
    """
    config = _config(network)
    if not hasattr(config, "id2label"):
        return
    outputs = getattr(network, "classes", None) or getattr(config, "num_labels", len(names))
    if len(names) != outputs:
        raise PolicyKDError(f"classes: {len(names)} names for a network of {outputs} outputs: give one for each")
    config.id2label = dict(enumerate(names))
    config.label2id = {name: number for number, name in enumerate(names)}


def class_names(network: Any) -> tuple[str, ...] | None:
    """Class names of a network from ``config.id2label``, as in Hugging Face's models; None if it has none."""
    return names_in({"id2label": getattr(_config(network), "id2label", None)})


def names_in(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Class names in the content of a ``config.json``, in order; None if it has none, or only placeholders."""
    names = config.get("id2label")
    if not isinstance(names, Mapping) or all(str(name) in (f"{UNNAMED}{k}", str(k)) for k, name in names.items()):
        return None
    return tuple(str(names[number]) for number in sorted(names, key=int))


def _config(network: Any) -> Any:
    return getattr(network, "config", None) or getattr(getattr(network, "model", None), "config", None)


def check_names(names: Mapping[str, Sequence[str] | None]) -> None:
    """Refuse class names that differ, or differ in order, between their owners.

    Args:
        names: class names in order, by owner; None if unknown.

    Raises:
        PolicyKDError: two differ.
    """
    known = {who: tuple(map(str, classes)) for who, classes in names.items() if classes is not None}
    (first, expected), *others = known.items() or [("", ())]
    for who, classes in others:
        if classes != expected:
            place = next((i for i, pair in enumerate(zip(expected, classes, strict=False)) if pair[0] != pair[1]), None)
            if place is None:
                told = f"{first} has {len(expected)} classes, {who} {len(classes)}"
            else:
                told = f"class {place} is {expected[place]!r} for {first} and {classes[place]!r} for {who}"
            raise PolicyKDError(f"classes: {told}: both must have the same ones in the same order")
