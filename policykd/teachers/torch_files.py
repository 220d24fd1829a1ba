"""Files of tensors written by ``torch.save`` (CleanRL, rsl_rl, skrl), read without running code in them.

Such a file holds weights by name, but neither the network nor its activations. Networks recognised by these names are
built (``torch_names``); others must be given: ``Teacher.load(file, env, network=MyNetwork())``.
"""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError, one_line
from policykd.teachers import torch_names
from policykd.teachers.modules import copied, from_module
from policykd.teachers.policy import Policy
from policykd.teachers.task import TaskSpaces
from policykd.teachers.torch_names import State
from policykd.teachers.vecnormalize import Normaliser

log = logging.getLogger("policykd")
STATISTICS = re.compile(r"(.*[._])?(running_)?(mean|var|variance|std)")
"""Names of observation statistics, which CleanRL's files do not have."""
SKRL_EPSILON, SKRL_CLIP = 1e-8, 5.0
"""Of skrl's RunningStandardScaler."""
SKRL = ("observation_preprocessor", "state_preprocessor")
"""skrl's names of the normaliser of a policy's observations: from version 2 on, and before."""
OF_OTHERS = ("state_preprocessor", "value_preprocessor", "amp_observation_preprocessor", "critic_obs_norm_state_dict")
"""Normalisers in files of skrl and rsl_rl that are not for a policy's observations."""


class Part(NamedTuple):
    """A dict of tensors in a file."""

    state: State
    name: str
    """Its key; empty for the file as a whole."""
    beside: dict[str, Any]
    """The dict that contains it."""


def load(
    path: Path,
    task: TaskSpaces | None,
    device: torch.device,
    network: nn.Module | None = None,
    activation: str | None = None,
    given: bool = False,
) -> tuple[Policy, tuple[Normaliser, ...]]:
    """The policy in a file of tensors, and the normaliser in the file.

    Args:
        path: the file.
        task: provides sizes and bounds that the file does not.
        device: where it computes.
        network: module to load the weights into, if their names are not recognised.
        activation: hidden activation, if the file does not say.
        given: whether the user gives the normaliser.

    Raises:
        PolicyKDError: it cannot be read without running it, or its weights are not recognised.
    """
    parts = sorted(_parts(_read(path)), key=lambda part: "target" in part.name)  # target networks lag behind: last
    if network is not None:  # what is part of the network is its own business
        part = _fitting(network, parts, path)
        filled = copied(network)
        filled.load_state_dict(part.state)
        policy = from_module(filled, str(path), task, device)
        return policy, () if given else _normaliser(part, path, task)
    for part in parts:
        policy_or_none = torch_names.cleanrl(part.state, path, activation, device) or torch_names.cleanrl_ppo(
            part.state, path, task, activation, device
        )
        if policy_or_none is not None:
            torch_names.refuse(path, [name for other in parts for name in other.state if STATISTICS.fullmatch(name)])
            _alike(_shapes(part.state), parts, path)
            return policy_or_none, ()
        if names := torch_names.rsl_rl_names(part.state, part.name, part.beside):
            policy = torch_names.rsl_rl(part.state, names, path, task, activation, device)
            return policy, torch_names.rsl_rl_normaliser(part.state, names, part.beside)
    if any(name.startswith(("mlp_extractor.", "actor.mu", "actor.latent_pi")) for part in parts for name in part.state):
        raise PolicyKDError(
            f"teacher: {path} has the tensors of an SB3 policy without its settings, such as the activation: give "
            "the zip that model.save() wrote, or the live model"
        )
    raise PolicyKDError(
        f"teacher: {path} holds tensors ({_names(parts)}) but not their network; {torch_names.lines(path)}"
    )


def _read(path: Path) -> Any:
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if sum(info.file_size for info in archive.infolist()) > path.stat().st_size:  # torch packs nothing
                    raise ValueError("it unpacks to more than its size")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch fails in many ways, and on purpose on pickles that are more than tensors
        text = str(error)
        if "weights_only" in text or "Unsupported" in text:
            raise PolicyKDError(
                f"teacher: {path} holds more than tensors, and loading it would run code: it was not loaded; if you "
                "trust it, load it (torch.load(FILE, weights_only=False), SB3's policy.load) and give the policy"
            ) from None
        raise PolicyKDError(f"teacher: {path} cannot be read as tensors: {one_line(error, 120)}") from None


def _parts(content: Any, name: str = "", beside: dict[str, Any] | None = None) -> Iterator[Part]:
    """All dicts of tensors in a file, the outermost first."""
    inside: list[tuple[str, Any]] = []
    if isinstance(content, dict):
        tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            yield Part(tensors, name, beside or {})
        inside = [(str(key), value) for key, value in content.items()]
    elif isinstance(content, list | tuple):
        inside = [("", value) for value in content]
    for key, value in inside:
        yield from _parts(value, key, content if isinstance(content, dict) else None)


def _names(parts: list[Part]) -> str:
    names = [name for part in parts for name in part.state]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def _fitting(network: nn.Module, parts: list[Part], path: Path) -> Part:
    """The part with the weights of the user's network."""
    wanted = _shapes(network.state_dict())
    fitting = _alike(wanted, parts, path)
    if not fitting:
        first = ", ".join(f"{name} {tuple(size)}" for name, size in list(wanted.items())[:2])
        raise PolicyKDError(
            f"teacher: the network has {first}, ... and {path} has {_names(parts)}: no part of it matches "
            "the network's names and shapes"
        )
    return fitting[0]


def _shapes(state: State) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


def _alike(wanted: dict[str, torch.Size], parts: list[Part], path: Path) -> list[Part]:
    """The parts with exactly these names and shapes; warns about several, except for targets beside their networks."""
    found = [part for part in parts if _shapes(part.state) == wanted]
    if sum("target" not in part.name for part in found) > 1:
        log.warning("teacher %s holds %d networks like this one; the first is the teacher", path, len(found))
    return found


def _normaliser(part: Part, path: Path, task: TaskSpaces | None) -> tuple[Normaliser, ...]:
    """The normaliser of rsl_rl or skrl beside a policy's weights, in the file or in one of its own.

    Raises:
        PolicyKDError: there are unknown statistics of the size of its observation.
    """
    beside = {name: value for name, value in {**_stored_beside(path), **part.beside}.items() if isinstance(value, dict)}
    size = None if task is None else task.examples.shape[1]
    if found := torch_names.empirical_normalization(beside.get("obs_norm_state_dict", {})):
        return found
    for name in SKRL:
        scaler = beside.get(name, {})
        if "running_mean" in scaler and (name == SKRL[0] or size in (None, len(scaler["running_mean"]))):
            if name != SKRL[0]:
                log.warning(
                    "teacher %s: its %s is taken as that of its observations, as in skrl 1; if skrl 2 wrote it, give "
                    "vecnormalize=False",
                    *(path, name),
                )
            mean, variance = (scaler[name].double().reshape(-1) for name in ("running_mean", "running_variance"))
            return (Normaliser(mean, variance.sqrt() + SKRL_EPSILON, clip=SKRL_CLIP, reward_std=1.0),)
    for name, value in beside.items():
        sizes = [len(tensor.flatten()) for key, tensor in value.items() if STATISTICS.fullmatch(str(key))]
        if len(sizes) > 1 and size in sizes and len(value) <= len(sizes) + 1 and name not in OF_OTHERS:
            raise PolicyKDError(
                f"teacher: {path} has statistics beside its networks ({name}: {', '.join(map(str, value))}): if they "
                "normalise its observations, do that in the network; in either case give vecnormalize=False"
            )
    return ()


def _stored_beside(path: Path) -> dict[str, Any]:
    """The normalisers that skrl wrote into separate files beside a policy's (``store_separately``)."""
    files = {name: path.with_name(path.name.replace("policy", name)) for name in SKRL if "policy" in path.name}
    return {name: _read(file) for name, file in files.items() if file.is_file()}
