"""Agents of SBX (JAX), whose policy is a pickle in the zip's JSON; it is read as data, never run (``pickles``)."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError, one_line
from policykd.learners.sac import LOG_STD_MAX, LOG_STD_MIN
from policykd.teachers.pickles import Call, Name, array, load
from policykd.teachers.policy import Policy
from policykd.teachers.sb3_networks import Networks
from policykd.teachers.sb3_text import LIVE, check_space, parse_actions

POLICIES = {
    Name("sbx.sac.policies", "SACPolicy"): "SAC",
    Name("sbx.tqc.policies", "TQCPolicy"): "TQC",
    Name("sbx.td3.policies", "TD3Policy"): "TD3",
    Name("sbx.ppo.policies", "PPOPolicy"): "PPO",
}
"""Policy classes, each with the SB3 class that has the same networks."""
ACTORS = {
    "SAC": Name("sbx.common.policies", "SquashedGaussianActor"),
    "TQC": Name("sbx.common.policies", "SquashedGaussianActor"),
    "TD3": Name("sbx.td3.policies", "Actor"),
    "PPO": Name("sbx.ppo.policies", "Actor"),
}
CRITIC = Name("sbx.ppo.policies", "Critic")
_FUNCTIONS = "jax._src.nn.functions"
ACTIVATIONS = {
    Name(_FUNCTIONS, "relu"): "ReLU",
    Name("jax._src.numpy.ufuncs", "tanh"): "Tanh",
    Name(_FUNCTIONS, "elu"): "ELU",
    Name(_FUNCTIONS, "silu"): "SiLU",
    Name(_FUNCTIONS, "leaky_relu"): "LeakyReLU",
}
"""Activations of JAX that equal torch's with default settings."""


def is_sbx(data: dict[str, Any]) -> bool:
    """Whether the JSON of a zip names a policy of SBX."""
    kind = data.get("policy_class")
    return isinstance(kind, dict) and str(kind.get("__module__", "")).split(".")[0] == "sbx"


def from_zip(path: Path, data: dict[str, Any], device: torch.device, activation: str | None) -> Policy:
    """The policy of a zip of SBX: SAC, TQC, TD3, DDPG and PPO on vectors, with MLPs.

    Args:
        path: the zip, for errors.
        data: its JSON.
        device: where the policy acts.
        activation: given by the user; overrides the pickle.

    Raises:
        PolicyKDError: it is damaged, or has an unknown policy, network or activation; names what to pass instead.
    """
    for name, axes in (("observation_space", "observations"), ("action_space", "actions")):
        check_space(data.get(name), axes, str(path))
    try:
        policy = load(io.BytesIO(base64.b64decode(data["policy"][":serialized:"])), lambda name: None)
        algorithm = POLICIES.get(policy.function)
        actor = policy.state["actor"]
        if algorithm is None or actor.function != ACTORS[algorithm]:
            kind = policy.function if algorithm is None else actor.function
            raise PolicyKDError(f"{kind.name} of {kind.module} is an unknown network; {LIVE}")
        state = _actor(algorithm, actor.state, _dense(policy.state["actor_state"]))
        networks = [actor]
        if algorithm == "PPO":
            networks.append(policy.state["vf"])
            state |= _critic(networks[1], _dense(policy.state["vf_state"]))
        if activation is None:
            activation, *others = {_activation(network.state["activation_fn"]) for network in networks}
            if others:
                raise PolicyKDError(f"its critic has another activation_fn; {LIVE}")
    except PolicyKDError as error:
        raise PolicyKDError(f"teacher: {path} cannot be read as an SBX agent: {error}") from None
    except Exception as error:  # a damaged pickle fails in any way
        raise PolicyKDError(f"teacher: {path} cannot be read as an SBX agent ({one_line(error)}); {LIVE}") from None
    on_device = {name: tensor.to(device) for name, tensor in state.items()}
    actions = parse_actions(data.get("action_space"))
    return Networks(on_device, algorithm, activation, {}, str(path), actions).policy(device)


State = dict[str, Tensor]


def _actor(algorithm: str, settings: dict[str, Any], dense: State) -> State:
    """The actor's tensors by SB3's names."""
    if settings.get("features_extractor") is not None:
        raise PolicyKDError(f"it has a features_extractor; {LIVE}")
    widths = len(settings["net_arch"])
    if algorithm == "TD3":
        return _named(dense, [f"actor.mu.{2 * i}" for i in range(widths + 1)])
    if algorithm == "PPO":
        log_std = {"log_std": dense.pop("log_std")} if "log_std" in dense else {}
        hidden = [f"mlp_extractor.policy_net.{2 * i}" for i in range(widths)]
        return log_std | _named(dense, [*hidden, "action_net"])
    if (settings["log_std_min"], settings["log_std_max"]) != (LOG_STD_MIN, LOG_STD_MAX):
        raise PolicyKDError(f"its log_std bounds differ from SB3's {LOG_STD_MIN:g} and {LOG_STD_MAX:g}; {LIVE}")
    return _named(dense, [*(f"actor.latent_pi.{2 * i}" for i in range(widths)), "actor.mu", "actor.log_std"])


def _critic(critic: Call, dense: State) -> State:
    """The tensors of PPO's critic by SB3's names."""
    settings = critic.state
    if critic.function != CRITIC or settings.get("features_extractor") is not None:
        raise PolicyKDError(f"its critic is an unknown network; {LIVE}")
    hidden = [f"mlp_extractor.value_net.{2 * i}" for i in range(len(settings["net_arch"]))]
    return _named(dense, [*hidden, "value_net"])


def _dense(state: Call) -> State:
    """Tensors of a Flax module of dense layers: ``Dense_0.kernel`` (inputs, outputs), ``Dense_0.bias``, ``log_std``."""
    found: State = {}
    for name, parts in state.state["params"]["params"].items():
        each = {f"{name}.{part}": value for part, value in parts.items()} if isinstance(parts, dict) else {name: parts}
        found |= {key: torch.from_numpy(_array(value)) for key, value in each.items()}
    return found


def _named(dense: State, layers: list[str]) -> State:
    """Rename dense layers to SB3's names, given in order; all must be present, and nothing else."""
    if {*dense} != {f"Dense_{i}.{part}" for i in range(len(layers)) for part in ("kernel", "bias")}:
        raise PolicyKDError(f"it has parts ({', '.join(dense)[:80]}) that are not an MLP; {LIVE}")
    weights = {f"{layer}.weight": dense[f"Dense_{i}.kernel"].T.contiguous() for i, layer in enumerate(layers)}
    return weights | {f"{layer}.bias": dense[f"Dense_{i}.bias"] for i, layer in enumerate(layers)}


def _array(value: Call) -> Any:
    """A copy of a JAX array, which holds a NumPy one."""
    if value.function != ("jax._src.array", "_reconstruct_array"):
        raise ValueError("its weights are not JAX arrays")
    made_by, arguments, state, _ = value.arguments
    held = Call(made_by, arguments)
    held.state = state
    return array(held).copy()


def _activation(function: Any) -> str:
    """The name of the torch activation that equals one of JAX.

    A pickle holds JAX functions by module and name, or as code that contains their names.
    """
    name = function
    if isinstance(function, Call) and isinstance(function.state, dict):
        if function.function == ("jax._src.custom_derivatives", "custom_jvp"):
            name = Name(function.state["__module__"], function.state["__name__"])
        elif "function_name" in function.state:
            name = Name(function.state["fun"].arguments[1]["__name__"], function.state["function_name"])
    if not isinstance(name, Name) or name not in ACTIVATIONS:
        said = f"{name.name} of {name.module}" if isinstance(name, Name) else "a function"
        raise PolicyKDError(
            f'its activation_fn is {said}, which is unknown; {LIVE}, or give activation="ELU" if it acts like torch\'s'
        )
    return ACTIVATIONS[name]
