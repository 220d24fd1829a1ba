"""Agents of Stable-Baselines3 and sb3-contrib, of any version since 1.0, without SB3's own ``load``.

A zip of SB3 holds weights, and JSON in which everything that is not plain is a pickle beside some readable text. Here
the weights are rebuilt from their bytes (``weights``), the shapes of the networks follow from them, and of the JSON
only the readable text is used, in which every name must be known (``sb3_text``). A live agent is rebuilt the same way
and checked against its own ``predict`` (``proof``); if that fails, a copy of its policy acts by its own code.
"""

from __future__ import annotations

import inspect
import io
import logging
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor

from policykd.core.archives import Archive
from policykd.core.errors import PolicyKDError, nearest, one_line, type_and_text
from policykd.core.parsing import parse_json
from policykd.tasks.flat import needs_flattening
from policykd.tasks.spaces import DiscreteActions
from policykd.teachers import equivalence, modules, recurrent, sb3_text
from policykd.teachers.policy import Bounds, Policy, freeze, to_unit
from policykd.teachers.sb3_networks import ACTIVATIONS, FAMILIES, Family, Networks
from policykd.teachers.weights import read_tensors

log = logging.getLogger("policykd")
MEMBER = "policy.pth"
"""The member by which a zip is recognised as an SB3 agent."""
OWN_PREDICT = "overrides its policy's predict: give a function, lambda o: model.predict(o, deterministic=True)[0]"


def from_zip(path: Path, device: torch.device, algorithm: str | None, activation: str | None, trust: bool) -> Policy:
    """The policy in a zip of SB3 or sb3-contrib, on the observations its networks read.

    Raises:
        PolicyKDError: the zip is damaged, its policy is not an MLP with vector or Discrete actions, or it names unknown
            code or settings.
    """
    data, state = _read(path, device, trust)
    info = sb3_text.read_policy_info(data, str(path), activation)
    actions = sb3_text.parse_actions(data.get("action_space"))
    policy = _build(state, info, data, algorithm, str(path), actions, device)
    fits = len(info.axes) > 1 and math.prod(info.axes) == policy.observation_size
    space = spaces.Box(-np.inf, np.inf, info.axes) if fits else None
    return policy.changed(groups=info.groups, space=space)


def from_live(source: BaseAlgorithm | BasePolicy, device: torch.device, activation: str | None = None) -> Policy:
    """The policy of a live model, or of a live policy alone, as it is now; the original may go on learning.

    If all its code is known, it is rebuilt from its tensors and checked against its own ``predict``. A policy with
    custom code is copied and acts by its ``predict``, without standard deviation and value.

    Raises:
        PolicyKDError: its actions or observations are not vectors, it samples, or it cannot be copied.
    """
    model = source if isinstance(source, BaseAlgorithm) else None
    live: BasePolicy = source.policy if isinstance(source, BaseAlgorithm) else source
    name = f"a live {type(source).__name__}"
    if model is not None and not equivalence.is_known(model.predict):
        raise PolicyKDError(f"teacher: {name} {OWN_PREDICT}")
    if "action_masks" in inspect.signature(source.predict).parameters:
        raise PolicyKDError(
            f"teacher: {name} needs action_masks, without which it may choose invalid actions; give a function "
            "that computes them from the observation: predict(o, deterministic=True, action_masks=masks_of(o))[0]"
        )
    actions = _check_spaces(live, name)
    predict = equivalence.FlatPredict(source.predict, live.observation_space)
    examples = predict.examples
    state = {key: tensor.detach().clone().to(device) for key, tensor in live.state_dict().items()}
    training = live.training
    named: dict[str, Any] = {"space": predict.space}
    if isinstance(predict.space, spaces.Dict):
        named["groups"] = tuple(predict.space)
    try:
        if not recurrent.is_recurrent(state):
            equivalence.check_deterministic(predict, examples, name)
        try:
            info = _info_of(live, activation)
            policy = _build(state, info, {} if model is None else vars(model), None, name, actions, device)
            if policy.observation_size != examples.shape[1]:
                raise PolicyKDError(f"teacher: {name} has a custom feature extractor")
        except PolicyKDError as error:
            return _by_predict(predict, live, name, str(error), actions, device).changed(**named)
        if not equivalence.same_actions(policy, predict, device):
            reason = f"{name} does not act as {info.policy}'s networks do"
        elif not equivalence.same_outputs(policy, live, predict, device):
            reason = f"{name} has a custom distribution or value"
        else:
            return policy.changed(**named)
        if activation is not None:
            raise PolicyKDError(f"activation: with {activation}, {name} does not act as its own predict does")
        return _by_predict(predict, live, name, reason, actions, device).changed(**named)
    finally:
        live.set_training_mode(training)


def read_text(path: Path) -> dict[str, Any]:
    """A zip's JSON; empty if it cannot be read."""
    try:
        data = parse_json(_part(path, "data").decode())
    except (OSError, KeyError, ValueError, zipfile.BadZipFile):
        return {}
    return data if isinstance(data, dict) else {}


def _build(
    state: dict[str, Tensor],
    info: sb3_text.PolicyInfo,
    data: dict[str, Any],
    algorithm: str | None,
    source: str,
    actions: Bounds | DiscreteActions | None,
    device: torch.device,
) -> Policy:
    """Build the policy from its tensors and what is known about them."""
    options = dict(info.options)
    if info.policy == "ARSLinearPolicy":
        options.setdefault("squash_output", False)
    if recurrent.is_recurrent(state):
        return recurrent.from_tensors(state, info.activation, options, source, actions, device)
    name = _algorithm(state, info.policy, data, algorithm)
    return Networks(state, name, info.activation, options, source, actions).policy(device)


def _info_of(live: BasePolicy, activation: str | None) -> sb3_text.PolicyInfo:
    """What a live policy says about itself; ``proof`` checks it."""
    known = sb3_text.POLICIES.get((type(live).__module__, type(live).__name__))
    own = equivalence.own_code(live)
    if known is None or own is not None:
        raise PolicyKDError(f"teacher: {own or type(live).__name__} has unknown code")
    if activation is None:
        used = getattr(live, "activation_fn", None)
        names = [key for key, kind in ACTIVATIONS.items() if kind is used]
        if used is not None and not names:
            raise PolicyKDError(f"teacher: activation_fn is {used!r}")
        activation = names[0] if names else None
    actor = getattr(live, "actor", None)
    options: dict[str, Any] = {"squash_output": live.squash_output}
    options |= {key: vars(actor)[key] for key in ("use_expln", "clip_mean") if key in getattr(actor, "__dict__", {})}
    options |= {key: value for key, value in (getattr(live, "dist_kwargs", None) or {}).items() if key == "use_expln"}
    renorms = [module.eps for module in live.modules() if type(module).__name__ == "BatchRenorm1d"]
    if renorms:
        options["batch_norm_eps"] = renorms[0]
    return sb3_text.PolicyInfo(known, activation, options)


def _by_predict(
    predict: equivalence.FlatPredict,
    live: BasePolicy,
    name: str,
    reason: str,
    actions: Bounds | DiscreteActions,
    device: torch.device,
) -> Policy:
    """A copy of a live policy that acts by its own ``predict``."""
    if recurrent.is_recurrent(live.state_dict()):
        said = reason.removeprefix("teacher: ")
        raise PolicyKDError(f"teacher: {said}: a recurrent policy with custom code cannot teach")
    try:
        copied = modules.copied(live)
        again = equivalence.FlatPredict(copied.predict, live.observation_space)
        expected = predict(predict.examples, deterministic=True)[0]
        same = np.allclose(again(predict.examples, deterministic=True)[0], expected, equal_nan=True)
    except Exception as error:  # own code may fail in any way
        raise PolicyKDError(
            f"teacher: {name} cannot be copied, so not frozen ({type_and_text(error)}); give a "
            "function observation -> action"
        ) from None
    if not np.isfinite(expected).all():
        raise PolicyKDError(f"teacher: {name} gives actions that are not finite")
    if not same:
        raise PolicyKDError(f"teacher: {name} {OWN_PREDICT}")
    freeze(copied.to(device))
    log.info("teacher %s acts through its own predict(), without standard deviation and value (%s)", name, reason)
    if isinstance(actions, DiscreteActions):

        def scores(inputs: Tensor) -> tuple[Tensor, None]:
            chosen = again(inputs.cpu().numpy(), deterministic=True)[0]
            return torch.from_numpy(actions.one_hot(chosen)).to(device), None

        sizes = predict.examples.shape[1], actions.size
        return Policy(name, *sizes, scores, "choice", first=actions.start, network=copied)
    bounds = actions
    middle, half = to_unit(*bounds, device)

    def gaussian(inputs: Tensor) -> tuple[Tensor, None]:
        actions = again(inputs.cpu().numpy(), deterministic=True)[0]
        return (torch.as_tensor(actions, dtype=torch.float32, device=device) - middle) / half, None

    sizes = predict.examples.shape[1], len(bounds[0])
    return Policy(name, *sizes, gaussian, low=bounds[0], high=bounds[1], network=copied)


def _check_spaces(live: BasePolicy, name: str) -> Bounds | DiscreteActions:
    """Action bounds of a live policy, or its discrete actions.

    Raises:
        PolicyKDError: its actions are neither a box of one axis nor Discrete, or its observations are an image, or
            neither a box nor a dict.
    """
    for space, axes in ((live.action_space, "actions"), (live.observation_space, "observations")):
        if isinstance(space, spaces.Discrete) if axes == "actions" else needs_flattening(space):
            continue
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            needed = "continuous ones (Box) or one choice (Discrete)" if axes == "actions" else "one vector (Box)"
            kind = f"{type(space).__name__} {axes}" + (
                f" of shape {space.shape}" if isinstance(space, spaces.Box) else ""
            )
            raise PolicyKDError(f"teacher: {name} has {kind}; policykd needs {needed}")
    space = live.action_space
    if isinstance(space, spaces.Discrete):
        return DiscreteActions(space)
    assert isinstance(space, spaces.Box)
    if not (np.isfinite(space.low).all() and np.isfinite(space.high).all()):
        raise PolicyKDError(
            f"teacher: {name} has unbounded actions; give a function whose actions are in the task's units"
        )
    return np.asarray(space.low, np.float32), np.asarray(space.high, np.float32)


def _read(path: Path, device: torch.device, trust: bool) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """A zip's JSON and its policy's tensors."""
    try:
        data = parse_json(_part(path, "data").decode())
        content = _part(path, MEMBER)
        if trust:
            state = torch.load(io.BytesIO(content), map_location=device, weights_only=False)
        else:
            state = {name: tensor.to(device) for name, tensor in read_tensors(content).items()}
        if not isinstance(data, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
            raise ValueError("its parts are not what SB3 writes")
    except Exception as error:  # torch and zipfile fail in many ways on damaged files, and torch on forbidden pickles
        raise PolicyKDError(f"teacher: {path} cannot be read as an agent of SB3: {one_line(error)}") from None
    return data, state


def _part(path: Path, name: str) -> bytes:
    """A member of an agent's zip, or of the folder it was unpacked into."""
    if path.is_dir():
        return (path / name).read_bytes()
    with Archive(path) as archive:
        return archive.read(name)


def _family(state: dict[str, Tensor]) -> Family | None:
    """The family of networks, recognised by the names of their tensors."""
    if "actor.log_std.weight" in state or "actor.log_std" in state:
        return "squashed"
    if "actor.mu.0.weight" in state:  # one layer for each hidden layer, and the last
        return "deterministic"
    if "action_net.weight" in state and "value_net.weight" in state:
        return "actor_critic"
    if {"action_net.weight", "action_net.0.weight"} & set(state):
        return "search"
    return "q_values" if any(name.startswith(("q_net.", "quantile_net.")) for name in state) else None


def _algorithm(state: dict[str, Tensor], policy: str, data: dict[str, Any], chosen: str | None) -> str:
    """The algorithm's name, recognised by the tensors, the policy's class and the settings that only it has."""
    family = _family(state)
    if chosen is not None:
        names = {name.upper(): name for name in FAMILIES}
        if chosen.upper() not in names:
            raise PolicyKDError(
                f"algorithm: {chosen.upper()!r} is unknown{nearest(chosen.upper(), FAMILIES)}; {', '.join(FAMILIES)}"
            )
        name = names[chosen.upper()]
        if family != FAMILIES[name]:
            raise PolicyKDError(f"algorithm: the tensors are those of {family or 'no known algorithm'}, not of {name}")
        return name
    if family == "squashed":
        return {"TQCPolicy": "TQC", "CrossQPolicy": "CrossQ"}.get(policy, "SAC")
    if family == "deterministic":
        return "TD3" if any(name.startswith("critic.qf1.") for name in state) else "DDPG"
    if family == "actor_critic":
        return "PPO" if "clip_range" in data else "TRPO" if "cg_max_steps" in data else "A2C"
    if family == "search":
        return "ARS"
    if family == "q_values":
        return "QRDQN" if any(name.startswith("quantile_net.") for name in state) else "DQN"
    raise PolicyKDError(
        f"teacher: no policy of {', '.join(FAMILIES)} has tensors like {', '.join(list(state)[:3])}; "
        "a function observation -> action can be a teacher, too"
    )
