"""Agents of Stable-Baselines3 and sb3-contrib, of any version since 1.0, without SB3's own ``load``.

A zip of SB3 holds weights, and JSON in which everything that is not plain is a pickle beside some readable text. Here
the weights are rebuilt from their bytes (``weights``), the shapes of the networks come from them, and of the JSON only
the readable text is used.
"""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from policykd.core.archives import Archive
from policykd.core.errors import PolicyKDError, nearest
from policykd.teachers import vecnormalize
from policykd.teachers.policy import Policy, parse_bounds
from policykd.teachers.sb3_networks import FAMILIES, Family, Networks
from policykd.teachers.vecnormalize import Normaliser
from policykd.teachers.weights import read_tensors

MEMBER = "policy.pth"
"""The part of a zip by which it is known as an agent of SB3."""
JSON_BYTES = 32_000_000
"""Of a zip's JSON; most of it are pickles that are not opened."""
READABLE = ("activation_fn", "use_expln", "clip_mean", "squash_output")
"""``policy_kwargs`` that change what tensors mean; they are plain text or numbers in the JSON."""


def from_zip(
    path: Path,
    normaliser: Normaliser | None,
    device: torch.device,
    algorithm: str | None = None,
    activation: str | None = None,
    trust: bool = False,
) -> Policy:
    """The policy in a zip of SB3 or sb3-contrib.

    Raises:
        PolicyKDError: the zip is damaged, or holds a policy that is no MLP for continuous actions.
    """
    data, state = _read(path, device, trust)
    kwargs, space = data.get("policy_kwargs"), data.get("action_space")
    options = {name: kwargs[name] for name in READABLE if name in kwargs} if isinstance(kwargs, dict) else {}
    if (kind := _last_name(space.get(":type:") if isinstance(space, dict) else None)) not in (None, "Box"):
        raise PolicyKDError(f"teacher: {path} has {kind} actions; policykd needs continuous ones (Box)")
    activation = activation or _last_name(options.pop("activation_fn", None))
    networks = Networks(state, _algorithm(state, data, algorithm), activation, options, str(path))
    return networks.policy(normaliser, parse_bounds(space, networks.action_size), device)


def from_model(model: BaseAlgorithm, device: torch.device, activation: str | None = None) -> Policy:
    """The policy of a live model as it is now; that model may go on learning.

    Raises:
        PolicyKDError: its policy is no MLP for continuous actions.
    """
    source = f"a live {type(model).__name__}"
    state = {name: tensor.detach().clone().to(device) for name, tensor in model.policy.state_dict().items()}
    kwargs = model.policy_kwargs or {}
    activation = activation or getattr(getattr(model.policy, "activation_fn", None), "__name__", None)
    networks = Networks(state, _algorithm(state, vars(model), None), activation, kwargs, source)
    wrapper, space = model.get_vec_normalize_env(), model.action_space
    normaliser = None if wrapper is None else vecnormalize.from_object(wrapper, source)
    bounds = np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)  # type: ignore[attr-defined]
    return networks.policy(normaliser, bounds, device)


def _read(path: Path, device: torch.device, trust: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A zip's JSON and its policy's tensors."""
    try:
        with Archive(path) as archive:
            data = json.loads(archive.read("data", JSON_BYTES))
            weights = archive.read(MEMBER)
        if trust:
            state = torch.load(io.BytesIO(weights), map_location=device, weights_only=False)
        else:
            state = {name: tensor.to(device) for name, tensor in read_tensors(weights).items()}
        if not isinstance(data, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise ValueError("its parts are not what SB3 writes")
    except Exception as error:  # zipfile, json and torch fail in many ways on damaged files
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise PolicyKDError(f"teacher: {path} cannot be read as an agent of SB3: {reason}") from None
    return data, state


def _last_name(text: Any) -> str | None:
    """``ReLU`` of the text "<class 'torch.nn.modules.activation.ReLU'>"."""
    found = re.search(r"(\w+)'>$", str(text))
    return found[1] if found else None


def _family(state: dict[str, Tensor]) -> Family | None:
    """How the networks are built, by the names of their tensors."""
    if "actor.log_std.weight" in state or "actor.log_std" in state:
        return "squashed"
    if "actor.mu.0.weight" in state:
        return "deterministic"
    if "action_net.weight" in state and "value_net.weight" in state:
        return "actor_critic"
    return "search" if "action_net.0.weight" in state else None


def _algorithm(state: dict[str, Tensor], data: dict[str, Any], asked: str | None) -> str:
    """The algorithm's name, by the tensors and by the settings that only it has."""
    family = _family(state)
    if asked is not None:
        asked = asked.upper()
        if asked not in FAMILIES:
            raise PolicyKDError(f"algorithm: {asked!r} is unknown{nearest(asked, FAMILIES)}; {', '.join(FAMILIES)}")
        if family != FAMILIES[asked]:
            raise PolicyKDError(f"algorithm: the tensors are not those of {asked}, but of {family or 'none known'}")
        return asked
    if family == "squashed":
        return "TQC" if "top_quantiles_to_drop_per_net" in data else "SAC"
    if family == "deterministic":
        return "TD3" if any(name.startswith("critic.qf1.") for name in state) else "DDPG"
    if family == "actor_critic":
        return "PPO" if "clip_range" in data else "TRPO" if "cg_max_steps" in data else "A2C"
    if family == "search":
        return "ARS"
    raise PolicyKDError(
        f"teacher: no policy of {', '.join(FAMILIES)} has tensors like {', '.join(list(state)[:3])}; "
        "a function observation -> action can be a teacher, too"
    )
