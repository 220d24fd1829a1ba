"""Checks the readable text of an SB3 zip about its policy: every name must be known, or the zip is refused.

The JSON of a zip holds a pickle beside the text of everything that is not plain. The pickles are never opened; the text
gives the policy's class and the settings it was made with. Tensors alone do not: an activation, a custom feature
extractor or a custom ``_predict`` leave none.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from policykd.core.errors import PolicyKDError
from policykd.tasks.spaces import DiscreteActions
from policykd.teachers.policy import Bounds
from policykd.teachers.sb3_networks import ACTIVATIONS

_SB3 = "stable_baselines3.common.policies"
_RECURRENT = "sb3_contrib.common.recurrent.policies"
POLICIES = {
    (_SB3, "ActorCriticPolicy"): "ActorCriticPolicy",
    (_SB3, "MultiInputActorCriticPolicy"): "ActorCriticPolicy",
    ("stable_baselines3.ppo.policies", "ActorCriticPolicy"): "ActorCriticPolicy",
    ("stable_baselines3.sac.policies", "SACPolicy"): "SACPolicy",
    ("stable_baselines3.sac.policies", "MultiInputPolicy"): "SACPolicy",
    ("stable_baselines3.td3.policies", "TD3Policy"): "TD3Policy",
    ("stable_baselines3.td3.policies", "MultiInputPolicy"): "TD3Policy",
    ("sb3_contrib.tqc.policies", "TQCPolicy"): "TQCPolicy",
    ("sb3_contrib.tqc.policies", "MultiInputPolicy"): "TQCPolicy",
    ("sb3_contrib.crossq.policies", "CrossQPolicy"): "CrossQPolicy",
    ("sb3_contrib.ars.policies", "ARSPolicy"): "ARSPolicy",
    ("sb3_contrib.ars.policies", "ARSLinearPolicy"): "ARSLinearPolicy",
    (_RECURRENT, "RecurrentActorCriticPolicy"): "RecurrentActorCriticPolicy",
    (_RECURRENT, "RecurrentMultiInputActorCriticPolicy"): "RecurrentActorCriticPolicy",
    ("stable_baselines3.dqn.policies", "DQNPolicy"): "DQNPolicy",
    ("stable_baselines3.dqn.policies", "MultiInputPolicy"): "DQNPolicy",
    ("sb3_contrib.qrdqn.policies", "QRDQNPolicy"): "QRDQNPolicy",
    ("sb3_contrib.qrdqn.policies", "MultiInputPolicy"): "QRDQNPolicy",
}
"""Policy classes that can be rebuilt from tensors, by module and name, each with the class it equals without dicts."""
EXTRACTORS = {
    ("stable_baselines3.common.torch_layers", "FlattenExtractor"),
    ("stable_baselines3.common.torch_layers", "CombinedExtractor"),
}
"""Feature extractors that only flatten vectors or dicts of them, and have no tensors."""
MEANING = {"use_sde", "use_expln", "clip_mean", "squash_output", "with_bias", "batch_norm", "batch_norm_eps"}
"""Settings that change the meaning of tensors; they are numbers in the text."""
WITHOUT_MEANING = {
    *("net_arch", "n_critics", "n_quantiles", "full_std", "log_std_init", "ortho_init", "device", "normalize_images"),
    *("optimizer_class", "optimizer_kwargs", "share_features_extractor", "features_extractor_kwargs"),
    *("batch_norm_momentum", "renorm_warmup_steps", "lstm_hidden_size", "n_lstm_layers", "shared_lstm"),
    *("enable_critic_lstm", "activation_fn", "features_extractor_class"),
}
"""Settings that the tensors show, that only training needs, that concern images, or that are checked by name."""
LIVE = "give the loaded model itself (Teacher.load(model)), or a function observation -> action"


class PolicyInfo(NamedTuple):
    """The text of a zip about its policy."""

    policy: str
    """Name of the policy's class, one of the values of ``POLICIES``."""
    activation: str | None
    """Name of torch's hidden activation; None is the policy's default."""
    options: dict[str, Any]
    """Settings that change the meaning of tensors."""
    groups: tuple[str, ...] = ()
    """Names of the groups it reads, in order, if its observations are dicts."""
    axes: tuple[int, ...] = ()
    """The shape of its observations, if the text gives it."""


def read_policy_info(data: dict[str, Any], source: str, activation: str | None = None) -> PolicyInfo:
    """Read and check the text of a zip about its policy.

    Args:
        data: the zip's JSON.
        source: name of the file, for errors.
        activation: given by the user; overrides the text.

    Raises:
        PolicyKDError: names what is unknown, and what to pass instead.
    """
    for name, axes in (("observation_space", "observations"), ("action_space", "actions")):
        check_space(data.get(name), axes, source)
    policy = _policy(data.get("policy_class"), source)
    if "policy_kwargs" not in data:
        raise PolicyKDError(f"teacher: {source} does not contain its policy_kwargs, such as activation_fn; {LIVE}")
    kwargs = data["policy_kwargs"] or {}
    if not isinstance(kwargs, dict):
        raise PolicyKDError(f"teacher: {source} has policy_kwargs that are not settings ({kwargs!r:.60}); {LIVE}")
    kwargs = {name: value for name, value in kwargs.items() if not name.startswith(":")}
    for name, value in kwargs.items():
        if name not in MEANING | WITHOUT_MEANING:
            raise PolicyKDError(f"teacher: {source} has policy_kwargs {name}={value!r:.60}, which is unknown; {LIVE}")
    extractor = kwargs.get("features_extractor_class")
    if extractor is not None and _class(extractor) not in EXTRACTORS:
        raise PolicyKDError(
            f"teacher: {source} has features_extractor_class {extractor!s:.90}, which cannot be seen in its "
            f"tensors; {LIVE}"
        )
    if activation is None and (text := kwargs.get("activation_fn")) is not None:
        activation = _activation(text, source)
    options = {name: _plain(name, kwargs[name], source) for name in MEANING & set(kwargs)}
    seen = data.get("observation_space")
    return PolicyInfo(policy, activation, options, _groups(seen, source), _shape(seen))


def trained_normalised(data: dict[str, Any]) -> bool | None:
    """Whether the agent's environment was a ``VecNormalize`` when training began; None if the text does not say.

    On-policy agents of SB3 keep ``_last_original_obs`` only then. Off-policy agents always keep it.
    """
    if "replay_buffer_class" in data or "buffer_size" in data or "_last_original_obs" not in data:
        return None
    if data["_last_original_obs"] is not None:
        return True
    return False if data.get("num_timesteps") else None


def parse_actions(space: object) -> Bounds | DiscreteActions | None:
    """Bounds or discrete actions from the text of an action space in SB3's JSON; None if the text is not reliable."""
    if not isinstance(space, dict):
        return None
    if str(space.get(":type:")).endswith(".Discrete'>"):
        numbers = [str(space.get(name, default)) for name, default in (("n", ""), ("start", "0"))]
        fits = all(re.fullmatch(r"-?\d{1,9}", number) for number in numbers) and int(numbers[0]) > 0
        return DiscreteActions(spaces.Discrete(int(numbers[0]), start=int(numbers[1]))) if fits else None
    bounds = []
    for name in ("low", "high"):
        text = str(space.get(name, "")).replace("[", " ").replace("]", " ").replace(",", " ")
        try:
            values = np.array(text.split(), np.float32)
        except ValueError:  # a long array is cut short with dots
            return None
        if not len(values) or not np.isfinite(values).all():
            return None
        bounds.append(values)
    return (bounds[0], bounds[1]) if len(bounds[0]) == len(bounds[1]) else None


def _policy(text: Any, source: str) -> str:
    """The policy's class, from its module and functions as SB3 writes them."""
    parts = text if isinstance(text, dict) else {}
    module, made_by = parts.get("__module__"), re.match(r"<function (\w+)\.__init__ at ", str(parts.get("__init__")))
    if made_by and (str(module), made_by[1]) in POLICIES:
        return POLICIES[str(module), made_by[1]]
    raise PolicyKDError(
        f"teacher: {source} has a custom policy class ({made_by[1] if made_by else 'a class'} of {module}), whose "
        f"code is not in the file; {LIVE}"
    )


def _groups(space: Any, source: str) -> tuple[str, ...]:
    """Names of a dict's groups; empty for a vector."""
    text = str(space.get("spaces", "")) if isinstance(space, dict) else ""
    if "Dict(" in text.replace("OrderedDict(", ""):
        raise PolicyKDError(f"teacher: {source} has nested dicts of observations, which SB3 cannot read; {LIVE}")
    return tuple(re.findall(r"'([^']+)'[:,] (?:Box|Discrete|MultiDiscrete|MultiBinary)\(", text))


def check_space(space: Any, axes: str, source: str) -> None:
    """Refuse spaces that are neither a box of one axis, nor a dict of observations, nor Discrete actions."""
    if not isinstance(space, dict):
        return
    _, kind = _class(space.get(":type:")) or ("", "Box")
    if kind == ("Dict" if axes == "observations" else "Discrete"):
        return
    if kind in ("Dict", "Discrete", "MultiDiscrete", "MultiBinary", "Tuple", "Text", "Sequence", "Graph"):
        needed = "continuous ones (Box) or one choice (Discrete)" if axes == "actions" else "one vector (Box)"
        raise PolicyKDError(f"teacher: {source} has {kind} {axes}; policykd needs {needed}")
    shape = space.get("_shape", space.get("shape"))
    image = str(space.get("dtype")).endswith("uint8") and len(_shape(space)) == 3  # SB3 would scale it
    to_vector = axes == "observations" and len(_shape(space)) > 1 and not image
    if isinstance(shape, list) and len(shape) != 1 and not to_vector:
        raise PolicyKDError(f"teacher: {source} has {axes} of shape {tuple(shape)}; policykd needs vectors; {LIVE}")


def _shape(space: Any) -> tuple[int, ...]:
    """The shape of a space, if the text has one."""
    shape = space.get("_shape", space.get("shape")) if isinstance(space, dict) else None
    plain = isinstance(shape, list) and all(type(length) is int and length > 0 for length in shape)
    return tuple(shape) if isinstance(shape, list) and plain else ()


def _class(text: Any) -> tuple[str, str] | None:
    """Module and name of the text "<class 'torch.nn.modules.activation.ReLU'>"."""
    found = re.fullmatch(r"<class '([\w.]+)\.(\w+)'>", str(text))
    return (found[1], found[2]) if found else None


def _activation(text: Any, source: str) -> str:
    named = _class(text)
    if named is None or named[1] not in ACTIVATIONS or ACTIVATIONS[named[1]].__module__ != named[0]:
        raise PolicyKDError(
            f"teacher: {source} has activation_fn {text!s:.90}, which only its own code can create; {LIVE}, or give "
            'activation="ELU" if it acts like the one of torch with default settings'
        )
    return named[1]


def _plain(name: str, value: Any, source: str) -> Any:
    """A number, bool or None, which the JSON holds as such or as text."""
    literal = {"True": True, "False": False, "None": None}.get(value, value) if isinstance(value, str) else value
    if literal is None or isinstance(literal, bool | int | float):
        return literal
    try:
        return float(str(literal))
    except ValueError:
        raise PolicyKDError(f"teacher: {source} has policy_kwargs {name}={value!r:.60}, not a number; {LIVE}") from None
