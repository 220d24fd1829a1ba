"""Policies recognised by the names of their tensors: CleanRL's and rsl_rl's."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.core.registry import find
from policykd.teachers import recurrent
from policykd.teachers.policy import Policy, freeze, needs_memory, to_unit
from policykd.teachers.sb3_networks import ACTIVATIONS, linear
from policykd.teachers.task import TaskSpaces
from policykd.teachers.vecnormalize import Normaliser

log = logging.getLogger("policykd")
State = dict[str, Tensor]
CLEANRL_LOG_STD = (-5.0, 2.0)
"""Bounds between which CleanRL's SAC squashes the log standard deviation."""
CLEANRL_BESIDE = ("critic", "qf", "actor_logstd", "action_scale", "action_bias")
"""Prefixes of CleanRL's tensors that are not layers of an actor: read separately, or unused."""
RSL_EPSILON = 1e-2
"""Added by rsl_rl's EmpiricalNormalization to the standard deviation."""
STD = ("std", "distribution.std_param")
"""Names of rsl_rl's standard deviation: until version 4, and of 5."""
LOG_STD = ("log_std", "distribution.log_std_param")


class _Names(NamedTuple):
    """rsl_rl's names of an actor's parts."""

    layers: str
    memory: str
    normaliser: str
    others: tuple[str, ...]
    """Prefixes of the names of other networks."""


RSL_RL = (
    _Names("actor.", "memory_a.rnn.", "actor_obs_normalizer.", ("critic", "memory_c.")),
    _Names("student.", "memory_s.rnn.", "student_obs_normalizer.", ("teacher", "memory_t.")),
    _Names("mlp.", "rnn.rnn.", "obs_normalizer.", ()),
)
"""Until version 3: for PPO, for distillation; from version 4 on every network has its own part of the file."""
RSL_OTHERS = ("critic_state_dict", "teacher_state_dict")
"""Parts of such a file that are not an actor's."""


def lines(path: Path) -> str:
    """How to pass a file of tensors as a teacher, as the end of an error line."""
    return f'give it: Teacher.load("{path.name}", env, network=MyNetwork()), raw observations (B, O) to actions (B, A)'


def refuse(path: Path, names: Sequence[str]) -> None:
    """Refuse a network with unexpected parts of these names, if there are any.

    Raises:
        PolicyKDError: there are such parts.
    """
    if names:
        parts = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
        raise PolicyKDError(f"teacher: {path} has parts ({parts}) that are not known layers; {lines(path)}")


def cleanrl(state: State, path: Path, activation: str | None, device: torch.device) -> Policy | None:
    """CleanRL's actors of DDPG, TD3 and SAC, which hold their action bounds; None if it is none of them."""
    if not ({"fc1.weight", "action_scale", "action_bias"} <= set(state)):
        return None
    if not {"fc_mu.weight", "fc_mean.weight"} & set(state):
        return None
    squashed = "fc_mean.weight" in state
    heads = ("fc_mean", "fc_logstd") if squashed else ("fc_mu",)
    layers = _layers(state, "fc", range(1, len(state)), heads, CLEANRL_BESIDE, activation or "ReLU", path)
    features = nn.Sequential(*layers)
    mean = _linear(state, heads[0], path)
    log_std = _linear(state, "fc_logstd", path) if squashed else None
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


def cleanrl_ppo(
    state: State, path: Path, task: TaskSpaces | None, activation: str | None, device: torch.device
) -> Policy | None:
    """CleanRL's PPO agent; None if it is not one."""
    if "actor_logstd" not in state or not any(name.startswith("actor_mean.") for name in state):
        return None
    policy = _mlp(
        state, "actor_mean.", CLEANRL_BESIDE, activation or "Tanh", state["actor_logstd"].exp(), path, task, device
    )
    log.warning(
        "teacher %s is taken for CleanRL's ppo_continuous_action, %s between its layers", path, activation or "Tanh"
    )
    # CleanRL normalises observations in the environment; its file does not hold the statistics.
    return policy.changed(missing_normaliser=True)


def rsl_rl_names(state: State, under: str, beside: dict[str, Any]) -> _Names | None:
    """rsl_rl's names of the actor's parts in this part of a file; None if it is not an actor of rsl_rl.

    Args:
        state: tensors by name.
        under: the name of the part.
        beside: all parts of the file.
    """
    if under in RSL_OTHERS or not (set(state) & {*STD, *LOG_STD} or {"iter", "infos"} <= set(beside)):
        return None
    layers = {found[1] for name in state if (found := re.fullmatch(r"(\w+\.)\d+\.weight", name))}
    return next((names for names in RSL_RL if names.layers in layers), None)


def rsl_rl(
    state: State, names: _Names, path: Path, task: TaskSpaces | None, activation: str | None, device: torch.device
) -> Policy:
    """An rsl_rl PPO actor or distilled student, with its recurrent network if it has one.

    Raises:
        PolicyKDError: its activation, or the meaning of its last layer, is unknown.
    """
    if activation is None:
        raise PolicyKDError(
            f"teacher: {path} looks like rsl_rl's, which does not store its activation: give "
            'activation="ELU" (its default)'
        )
    if names.layers == "student.":
        log.warning("teacher %s is the student of rsl_rl's distillation, not its teacher", path)
    std = next((state[name] for name in STD if name in state), None)
    std = next((state[name].exp() for name in LOG_STD if name in state), std)
    statistics = [f"{names.normaliser}{part}" for part in ("_mean", "_var", "_std", "count")]
    memory = {
        name.removeprefix(names.memory): tensor for name, tensor in state.items() if name.startswith(names.memory)
    }
    apart = (*STD, *LOG_STD, *statistics, *names.others, *([names.memory] if memory else []))
    head = _mlp(state, names.layers, apart, activation, std, path, task, device)
    if not memory:
        return head
    assert head.network is not None
    rnn = recurrent.rnn(memory, str(path))
    network = nn.ModuleList([freeze(rnn.to(device)), head.network])
    step = recurrent.step(rnn, head.gaussian)
    return head.changed(observation_size=rnn.input_size, gaussian=needs_memory(str(path)), step=step, network=network)


def rsl_rl_normaliser(state: State, names: _Names, beside: dict[str, Any]) -> tuple[Normaliser, ...]:
    """The normaliser of an rsl_rl actor, among its tensors or, until version 2, beside them."""
    inside = {name.removeprefix(names.normaliser): tensor for name, tensor in state.items()}
    return empirical_normalization(inside) or empirical_normalization(beside.get("obs_norm_state_dict", {}))


def empirical_normalization(state: State) -> tuple[Normaliser, ...]:
    """rsl_rl's EmpiricalNormalization from these tensors; empty if they are not one."""
    if not {"_mean", "_std"} & set(state):
        return ()
    mean, std = (state[name].double().reshape(-1) for name in ("_mean", "_std"))
    return (Normaliser(mean, std + RSL_EPSILON, clip=float("inf"), reward_std=1.0),)


def _linear(state: State, name: str, path: Path) -> nn.Linear:
    return linear(state.get(f"{name}.weight"), state.get(f"{name}.bias"), f"{path} has no complete linear layer {name}")


def _layers(
    state: State,
    prefix: str,
    places: Sequence[int],
    heads: Sequence[str],
    apart: tuple[str, ...],
    activation: str,
    path: Path,
) -> list[nn.Module]:
    """Linear layers, each with an activation after it.

    Args:
        state: the actor's tensors.
        prefix: prefix of the layers' names, before their numbers.
        places: possible numbers of the layers.
        heads: names of the actor's other layers.
        apart: prefixes of tensors that are not layers.
        activation: name of the torch activation.
        path: the file, for errors.

    Raises:
        PolicyKDError: the actor has other parts, or gaps in its numbers where a part without tensors may be.
    """
    found = (re.fullmatch(rf"{re.escape(prefix)}(\d+)\.weight", name) for name in state)
    numbers = sorted(int(name[1]) for name in found if name)
    names = [f"{prefix}{number}" for number in numbers]
    tensors = {f"{name}.{part}" for name in (*names, *heads) for part in ("weight", "bias")}
    refuse(path, [name for name in state if name not in tensors and not name.startswith(apart)])
    if numbers != list(places[: len(numbers)]):
        refuse(path, names)
    return [
        part for name in names for part in (_linear(state, name, path), find("activation", activation, ACTIVATIONS)())
    ]


def _mlp(
    state: State,
    prefix: str,
    apart: tuple[str, ...],
    activation: str,
    std: Tensor | None,
    path: Path,
    task: TaskSpaces | None,
    device: torch.device,
) -> Policy:
    """A policy whose mean is an MLP in the task's units; Gaussian if there is a standard deviation."""
    if task is None:
        raise PolicyKDError(f"teacher: {path} does not contain its action bounds: give env=")
    layers = _layers(state, prefix, range(0, 2 * len(state), 2), (), apart, activation, path)
    network = freeze(nn.Sequential(*layers[:-1]).to(device))
    low, high = task.bounds(str(path))
    middle, half = to_unit(low, high, device)
    first, last = layers[0], layers[-2]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    if std is None and last.out_features == 2 * len(low):
        raise PolicyKDError(
            f"teacher: {path} gives two numbers per action of an unknown distribution: give what "
            'runner.export_policy_to_jit(FOLDER) writes: Teacher.load("FOLDER/policy.pt", env, trust=True)'
        )
    noise = None if std is None else std.float().reshape(1, -1).to(device) / half

    def gaussian(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        mean = (network(inputs) - middle) / half
        return mean, None if noise is None else noise.expand_as(mean)

    policy = Policy(str(path), first.in_features, last.out_features, gaussian, network=network)
    return policy if last.out_features != len(low) else policy.changed(low=low, high=high)
