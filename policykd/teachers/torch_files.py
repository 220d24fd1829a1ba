"""Files of tensors that ``torch.save`` wrote: CleanRL, rsl_rl, skrl. They are read without running anything in them.

Such a file holds weights by name, and neither the network nor its activations. What is known by its names is built; the
rest needs the network: ``Teacher.load(file, env, network=MyNetwork())``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError, one_line
from policykd.core.registry import find
from policykd.teachers.modules import copied, from_module
from policykd.teachers.policy import Policy, freeze, to_unit
from policykd.teachers.sb3_networks import ACTIVATIONS, linear
from policykd.teachers.task import TaskSpaces
from policykd.teachers.vecnormalize import Normaliser

log = logging.getLogger("policykd")
State = dict[str, Tensor]
CLEANRL_LOG_STD = (-5.0, 2.0)
"""Bounds between which CleanRL's SAC squashes the log standard deviation."""
RSL_EPSILON = 1e-2
"""Added by rsl_rl's EmpiricalNormalization to the standard deviation."""
SKRL_EPSILON, SKRL_CLIP = 1e-8, 5.0
"""Of skrl's RunningStandardScaler."""
BESIDE = (
    *("critic", "qf", "std", "log_std", "actor_logstd", "action_scale", "action_bias"),
    *("actor_obs_normalizer._", "actor_obs_normalizer.count"),
)
"""How names of tensors begin that are no layers of an actor: read apart, or of no use for it."""
STATISTICS = re.compile(r"(.*[._])?(running_)?(mean|var|variance)")
"""Names of statistics of observations, which files of CleanRL's do not have."""


def load(
    path: Path,
    task: TaskSpaces | None,
    device: torch.device,
    network: nn.Module | None = None,
    activation: str | None = None,
) -> tuple[Policy, tuple[Normaliser, ...]]:
    """The policy in a file of tensors, and the normaliser that the file holds.

    Args:
        path: the file.
        task: sizes and bounds, where the file does not say.
        device: where it computes.
        network: takes the weights, where their names do not tell what they are.
        activation: between the layers, where the file does not say.

    Raises:
        PolicyKDError: it cannot be read without running it, or nothing tells what its weights are.
    """
    content = _read(path)
    states = list(_states(content))
    if network is not None:  # what is part of the network is its own business
        return _into(network, states, path, task, device), _normaliser(content, {})
    for state in states:
        if {"fc1.weight", "action_scale", "action_bias"} <= set(state) and {"fc_mu.weight", "fc_mean.weight"} & set(
            state
        ):
            _refuse(path, [name for part in states for name in part if STATISTICS.fullmatch(name)])
            return _cleanrl(state, path, activation, device), ()
        if "actor_logstd" in state and any(name.startswith("actor_mean.") for name in state):
            _refuse(path, [name for part in states for name in part if STATISTICS.fullmatch(name)])
            policy = _mlp(state, "actor_mean", activation or "Tanh", state["actor_logstd"].exp(), path, task, device)
            said = f"CleanRL's ppo_continuous_action, {activation or 'Tanh'} between its layers"
            log.warning("teacher %s is taken for %s", path, said)
            # CleanRL normalises observations in the environment, and its file does not hold the statistics.
            return policy.changed(missing_normaliser=True), ()
        if any(re.fullmatch(r"actor\.\d+\.weight", name) for name in state) and {"std", "log_std"} & set(state):
            if activation is None:
                raise PolicyKDError(
                    f"teacher: {path} looks like rsl_rl's, which does not say the activation of its layers: give "
                    'activation="ELU" (its default)'
                )
            std = state["std"] if "std" in state else state["log_std"].exp()
            return _mlp(state, "actor", activation, std, path, task, device), _normaliser(content, state)
    if any(name.startswith(("mlp_extractor.", "actor.mu", "actor.latent_pi")) for state in states for name in state):
        raise PolicyKDError(
            f"teacher: {path} holds the tensors of a policy of SB3 without its settings, such as the activation: give "
            "the zip that model.save() wrote, or the live model"
        )
    raise PolicyKDError(
        f"teacher: {path} holds tensors ({_names(states)}) but not the network they are of; {_lines(path)}"
    )


def _lines(path: Path) -> str:
    """What makes such a file a teacher."""
    return f'give it: Teacher.load("{path.name}", env, network=MyNetwork()), raw observations (B, O) to actions (B, A)'


def _read(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch fails in many ways, and on purpose on pickles that are more than tensors
        text = str(error)
        if "weights_only" in text or "Unsupported" in text:
            raise PolicyKDError(
                f"teacher: {path} holds more than tensors and would have to be run: it was not loaded; where it is "
                "yours, load it yourself (torch.load(FILE, weights_only=False), SB3's policy.load) and give what acts"
            ) from None
        raise PolicyKDError(f"teacher: {path} cannot be read as tensors: {one_line(error, 120)}") from None


def _states(content: Any) -> Iterator[State]:
    """All dicts of tensors in a file, the outermost first."""
    if isinstance(content, dict):
        tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors:
            yield tensors
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list | tuple) else ()
    for part in parts:
        yield from _states(part)


def _names(states: list[State]) -> str:
    names = [name for state in states for name in state]
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "") if names else "none"


def _into(network: nn.Module, states: list[State], path: Path, task: TaskSpaces | None, device: torch.device) -> Policy:
    """The user's network with the file's weights."""
    wanted = {name: tensor.shape for name, tensor in network.state_dict().items()}
    fitting = [state for state in states if {name: tensor.shape for name, tensor in state.items()} == wanted]
    if not fitting:
        first = ", ".join(f"{name} {tuple(size)}" for name, size in list(wanted.items())[:2])
        raise PolicyKDError(
            f"teacher: the network has {first}, ... and {path} has {_names(states)}: no part of it has "
            "just the network's names and shapes"
        )
    if len(fitting) > 1:
        log.warning("teacher %s holds %d networks like this one; the first is the teacher", path, len(fitting))
    filled = copied(network)
    filled.load_state_dict(fitting[0])
    return from_module(filled, str(path), task, device)


def _linear(state: State, name: str) -> nn.Linear:
    return linear(state.get(f"{name}.weight"), state.get(f"{name}.bias"), f"it has no linear layer {name}")


def _layers(
    state: State, prefix: str, places: Sequence[int], heads: Sequence[str], activation: str, path: Path
) -> list[nn.Module]:
    """Linear layers, each with an activation after it.

    Args:
        state: the actor's tensors.
        prefix: of the layers' names, before their numbers.
        places: the numbers, of as many layers as there may be.
        heads: names of the actor's other layers.
        activation: the name of torch's.
        path: where they are from.

    Raises:
        PolicyKDError: the actor has other parts, too, or numbers between which a part without tensors may lie.
    """
    found = (re.fullmatch(rf"{re.escape(prefix)}(\d+)\.weight", name) for name in state)
    numbers = sorted(int(name[1]) for name in found if name)
    names = [f"{prefix}{number}" for number in numbers]
    tensors = {f"{name}.{part}" for name in (*names, *heads) for part in ("weight", "bias")}
    _refuse(path, [name for name in state if name not in tensors and not name.startswith(BESIDE)])
    if numbers != list(places[: len(numbers)]):
        _refuse(path, names)
    return [part for name in names for part in (_linear(state, name), find("activation", activation, ACTIVATIONS)())]


def _refuse(path: Path, names: Sequence[str]) -> None:
    """Refuse what has parts of these names, if any, as another network than is known by its other names."""
    if names:
        parts = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise PolicyKDError(
            f"teacher: {path} has parts ({parts}) that make it no network of known layers; {_lines(path)}"
        )


def _mlp(
    state: State, prefix: str, activation: str, std: Tensor, path: Path, task: TaskSpaces | None, device: torch.device
) -> Policy:
    """A Gaussian policy whose mean is an MLP in the task's units."""
    if task is None:
        raise PolicyKDError(f"teacher: {path} does not say its action bounds: give env=")
    layers = _layers(state, f"{prefix}.", range(0, 2 * len(state), 2), (), activation, path)
    network = freeze(nn.Sequential(*layers[:-1]).to(device))
    low, high = task.bounds(str(path))
    middle, half = to_unit(low, high, device)
    noise = std.float().reshape(1, -1).to(device)
    first, last = layers[0], layers[-2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)

    def gaussian(inputs: Tensor) -> tuple[Tensor, Tensor]:
        mean = network(inputs)
        return (mean - middle) / half, (noise / half).expand_as(mean)

    if last.out_features != len(low):
        return Policy(str(path), first.in_features, last.out_features, gaussian, network=network)
    return Policy(str(path), first.in_features, last.out_features, gaussian, low=low, high=high, network=network)


def _cleanrl(state: State, path: Path, activation: str | None, device: torch.device) -> Policy:
    """CleanRL's actors of DDPG, TD3 and SAC, which know their action bounds."""
    squashed = "fc_mean.weight" in state
    heads = ("fc_mean", "fc_logstd") if squashed else ("fc_mu",)
    layers = _layers(state, "fc", range(1, len(state)), heads, activation or "ReLU", path)
    features = nn.Sequential(*layers)
    mean = _linear(state, "fc_mean" if squashed else "fc_mu")
    log_std = _linear(state, "fc_logstd") if squashed else None
    network = freeze(nn.ModuleList([features, mean, *([] if log_std is None else [log_std])]).to(device))
    scale, bias = (state[name].float().reshape(-1).numpy() for name in ("action_scale", "action_bias"))
    said = (
        f"CleanRL's {'sac' if squashed else 'td3 or ddpg'}_continuous_action, {activation or 'ReLU'} between its layers"
    )
    log.warning("teacher %s is taken for %s", path, said)
    least, most = CLEANRL_LOG_STD

    def gaussian(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        hidden = features(inputs)
        if log_std is None:
            return mean(hidden).tanh(), None
        return mean(hidden), (least + (most - least) * (log_std(hidden).tanh() + 1) / 2).exp()

    low, high = bias - scale, bias + scale
    size = layers[0].in_features
    assert isinstance(size, int)
    return Policy(str(path), size, mean.out_features, gaussian, squashed=squashed, low=low, high=high, network=network)


def _normaliser(content: Any, state: State) -> tuple[Normaliser, ...]:
    """The normaliser of rsl_rl or skrl beside or among an actor's weights."""
    parts = content if isinstance(content, dict) else {}
    beside, scaler = parts.get("obs_norm_state_dict"), parts.get("state_preprocessor")
    rsl = {name.removeprefix("actor_obs_normalizer."): tensor for name, tensor in state.items()}
    for found in (beside if isinstance(beside, dict) else {}, rsl):
        if "_mean" in found and "_std" in found:
            mean, std = (found[name].double().reshape(-1) for name in ("_mean", "_std"))
            return (Normaliser(mean, std + RSL_EPSILON, clip=float("inf"), reward_std=1.0),)
    if isinstance(scaler, dict) and "running_mean" in scaler:
        mean, variance = (scaler[name].double().reshape(-1) for name in ("running_mean", "running_variance"))
        return (Normaliser(mean, variance.sqrt() + SKRL_EPSILON, clip=SKRL_CLIP, reward_std=1.0),)
    return ()
