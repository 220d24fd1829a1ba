"""Agents of Stable-Baselines3 and sb3-contrib, of any version since 1.0, without SB3's own ``load``.

A zip of SB3 holds weights, and JSON in which everything that is not plain is a pickle beside some readable text. Here
the weights are read with ``weights_only=True``, the shapes of the networks come from them, and of the JSON only the
readable text is used.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from policykd.errors import PolicyKDError, nearest
from policykd.teachers import vecnormalize
from policykd.teachers.policy import Policy, freeze, parse_bounds, to_unit
from policykd.teachers.vecnormalize import Normaliser

Family = Literal["actor_critic", "deterministic", "squashed", "search"]
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("PPO", "A2C", "TRPO"), "actor_critic"),
    **dict.fromkeys(("TD3", "DDPG"), "deterministic"),
    **dict.fromkeys(("SAC", "TQC"), "squashed"),
    "ARS": "search",
}
"""Algorithms by how their networks are built."""
ACTIVATIONS: dict[str, type[nn.Module]] = {
    a.__name__: a for a in (nn.ReLU, nn.Tanh, nn.ELU, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Sigmoid, nn.Softplus)
}
LOG_STD_MIN, LOG_STD_MAX = -20.0, 2.0
"""Bounds of a squashed policy's log standard deviation, as in SB3."""
SDE_EPSILON = 1e-6
"""Added by SB3 to the variance of state-dependent exploration."""


def is_zip(path: Path) -> bool:
    """Whether a zip is an agent of SB3 (a TorchScript file is a zip, too)."""
    return "policy.pth" in zipfile.ZipFile(path).namelist()


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
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
            weights = io.BytesIO(archive.read("policy.pth"))
        state = torch.load(weights, map_location=device, weights_only=not trust)
    except Exception as error:  # torch and zipfile fail in many ways on damaged files, and torch on forbidden pickles
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise PolicyKDError(f"teacher: {path} cannot be read as an agent of SB3: {reason}") from None
    kwargs = data.get("policy_kwargs") or {}
    text = str(kwargs.get("activation_fn", "")) if isinstance(kwargs, dict) else ""
    if activation is None and (found := re.search(r"\.(\w+)'>$", text)):
        activation = found[1]
    if _is_normal(space := data.get("action_space")) is False:
        raise PolicyKDError(f"teacher: {path} has {_kind(space)} actions; policykd needs continuous ones (Box)")
    options = {name: kwargs[name] for name in ("use_expln", "clip_mean", "squash_output") if name in kwargs}
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


def _kind(space: Any) -> str:
    text = str(space.get(":type:", "")) if isinstance(space, dict) else ""
    found = re.search(r"\.(\w+)'>$", text)
    return found[1] if found else "unknown"


def _is_normal(space: Any) -> bool | None:
    kind = _kind(space)
    return None if kind == "unknown" else kind == "Box"


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


class Networks(nn.Module):
    """Actor and critics of an agent of SB3, built from its tensors.

    Args:
        state: the policy's tensors by SB3's names.
        algorithm: one of ``FAMILIES``.
        activation: name of a module of torch; None is SB3's default of the algorithm.
        options: ``policy_kwargs`` that change what the tensors mean.
        source: where they came from, for errors.
    """

    log_std: Tensor | None
    mean: nn.Module
    observation_size: int
    action_size: int

    def __init__(
        self, state: dict[str, Tensor], algorithm: str, activation: str | None, options: dict[str, Any], source: str
    ) -> None:
        super().__init__()
        self.linear = False
        self.algorithm, self.family, self.source, self.options = algorithm, FAMILIES[algorithm], source, options
        name = activation or ("Tanh" if self.family == "actor_critic" else "ReLU")
        if name not in ACTIVATIONS:
            raise PolicyKDError(f"activation: {name!r} is unknown{nearest(name, ACTIVATIONS)}")
        self.activation = ACTIVATIONS[name]
        # Targets are copies; an extractor of vectors has no tensors.
        self.rest = {name: tensor for name, tensor in state.items() if "_target." not in name}
        getattr(self, f"_build_{self.family}")()
        if self.rest:
            raise PolicyKDError(
                f"teacher: {source} has {algorithm} networks with parts that are no MLP ({', '.join(self.rest)[:80]}); "
                "give its predict function as a teacher instead"
            )
        # PPO can squash, too; without, it acts in the task's units, and so does a linear ARS.
        self.squashed = self.family == "squashed" or (self.family == "actor_critic" and self._option("squash_output"))
        self.in_task_units = not self.squashed and (self.family == "actor_critic" or self.linear)

    def _build_actor_critic(self) -> None:
        self.register_buffer("log_std", self.rest.pop("log_std", None))
        shared = self._layers("mlp_extractor.shared_net", end=True)  # SB3 1.x alone
        actor = [*shared, *self._layers("mlp_extractor.policy_net", end=True)]
        critic = [*shared, *self._layers("mlp_extractor.value_net", end=True)]
        self.features, self.mean = nn.Sequential(*actor), self._linear("action_net")
        self.critics = nn.ModuleList([nn.Sequential(*critic, self._linear("value_net"))])
        if self.log_std is None:
            raise PolicyKDError(f"teacher: {self.source} has no log_std: its actions are not continuous")
        self._sizes(*actor, self.mean)

    def _build_deterministic(self) -> None:
        actor = self._layers("actor.mu")
        self.mean = nn.Sequential(*actor, nn.Tanh())
        self._sizes(*actor)
        self._build_q()

    def _build_squashed(self) -> None:
        self.register_buffer("log_std", self.rest.pop("actor.log_std", None))  # a tensor in state-dependent exploration
        actor = self._layers("actor.latent_pi", end=True)
        self.features = nn.Sequential(*actor)
        if self.log_std is None:
            self.mean, self.log_std_net = self._linear("actor.mu"), self._linear("actor.log_std")
        elif clip := float(self.options.get("clip_mean", 2.0)):
            self.mean = nn.Sequential(self._linear("actor.mu.0"), nn.Hardtanh(-clip, clip))
        else:
            self.mean = self._linear("actor.mu")
        self._sizes(*actor, *self.mean.modules())
        self._build_q()

    def _build_search(self) -> None:
        actor = self._layers("action_net")
        self.linear = not self._option("squash_output", actor[0].bias is not None)  # LinearPolicy has no bias
        self.mean = nn.Sequential(*actor, *([] if self.linear else [nn.Tanh()]))
        self._sizes(*actor)

    def _sizes(self, *actor: nn.Module) -> None:
        layers = [layer for layer in actor if isinstance(layer, nn.Linear)]
        self.observation_size, self.action_size = layers[0].in_features, layers[-1].out_features

    def _build_q(self) -> None:
        count = len({name.split(".")[1] for name in self.rest if name.startswith("critic.qf")})
        self.critics = nn.ModuleList([nn.Sequential(*self._layers(f"critic.qf{c}")) for c in range(count)])

    def _option(self, name: str, default: bool = False) -> bool:
        return bool(self.options.get(name, default))

    def _layers(self, prefix: str, end: bool = False) -> list[Any]:
        """The linear layers called ``prefix.<number>``, with activations between (and after) them."""
        numbers = sorted({int(n.split(".")[-2]) for n in self.rest if re.fullmatch(rf"{prefix}\.\d+\.weight", n)})
        layers: list[nn.Module] = []
        for number in numbers:
            layers += [self._linear(f"{prefix}.{number}"), self.activation()]
        return layers if end else layers[:-1]

    def _linear(self, name: str) -> nn.Linear:
        weight, bias = self.rest.pop(f"{name}.weight", None), self.rest.pop(f"{name}.bias", None)
        if weight is None or weight.ndim != 2:
            raise PolicyKDError(f"teacher: {self.source} has no linear layer {name}")
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
        layer.weight = nn.Parameter(weight.float())
        if bias is not None:
            layer.bias = nn.Parameter(bias.float())
        return layer

    def gaussian(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means and standard deviations ``(B, A)``, in SB3's own units, at normalised inputs ``(B, O)``."""
        if self.family in ("deterministic", "search"):
            return self.mean(inputs), None
        features = self.features(inputs)
        mean = self.mean(features)
        if self.log_std is None:
            return mean, self.log_std_net(features).clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        std = _expln(self.log_std) if self._option("use_expln") else self.log_std.exp()
        if std.ndim == 1:
            return mean, std.expand_as(mean)
        # State-dependent exploration (Raffin et al. 2022): the noise is linear in the features.
        return mean, (features.square() @ std.square() + SDE_EPSILON).sqrt().expand_as(mean)

    def value(self, inputs: Tensor) -> Tensor:
        """V(s), or Q(s, pi(s)) of the more careful critic (TQC: the mean of all quantiles), ``(B,)``."""
        if self.family == "actor_critic":
            return self.critics[0](inputs).squeeze(-1)
        mean, _ = self.gaussian(inputs)
        pairs = torch.cat((inputs, mean.tanh() if self.squashed else mean), dim=-1)
        values = torch.stack([critic(pairs) for critic in self.critics])
        return values.mean((0, 2)) if self.algorithm == "TQC" else values.squeeze(-1).amin(0)

    def policy(
        self, normaliser: Normaliser | None, bounds: tuple[np.ndarray, np.ndarray] | None, device: torch.device
    ) -> Policy:
        """The teacher's policy: raw observations in, [-1, 1] out."""
        freeze(self.to(device))
        normaliser = self._checked(normaliser, device)
        scale = None
        if self.in_task_units:
            if bounds is None:
                raise PolicyKDError(f"teacher: {self.source} does not say its action bounds; give its model live")
            scale = to_unit(*bounds, device)

        def gaussian(observations: Tensor) -> tuple[Tensor, Tensor | None]:
            mean, std = self.gaussian(normaliser(observations))
            if scale is None:
                return mean, std
            middle, half = scale
            return (mean - middle) / half, None if std is None else std / half

        def value(observations: Tensor) -> Tensor:
            return self.value(normaliser(observations)) * normaliser.reward_std

        return Policy(
            self.source,
            self.observation_size,
            self.action_size,
            gaussian,
            squashed=self.squashed,
            value=None if self.family == "search" or not len(self.critics) else value,
            low=None if bounds is None else bounds[0],
            high=None if bounds is None else bounds[1],
            network=self,
        )

    def _checked(self, normaliser: Normaliser | None, device: torch.device) -> Normaliser:
        if normaliser is None:
            return Normaliser(None, None, 0.0, 1.0)
        if normaliser.mean is not None and len(normaliser.mean) != self.observation_size:
            raise PolicyKDError(
                f"teacher: {self.source} reads {self.observation_size} observations and its VecNormalize has "
                f"statistics of {len(normaliser.mean)}: they are not of the same run"
            )
        return normaliser.to(device)


def _expln(log_std: Tensor) -> Tensor:
    """SB3's alternative to exp, which grows like a logarithm above 0."""
    return torch.where(log_std <= 0, log_std.exp(), log_std.clamp_min(0).log1p() + 1)
