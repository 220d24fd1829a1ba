"""Networks of SB3's and sb3-contrib's agents, built from only the names and shapes of their tensors."""

from __future__ import annotations

import re
from typing import Any, Literal

import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.core.networks import one_hot
from policykd.core.registry import find
from policykd.learners.sac import LOG_STD_MAX, LOG_STD_MIN
from policykd.tasks.spaces import DiscreteActions
from policykd.teachers.policy import Bounds, Policy, Scores, freeze, to_unit

Family = Literal["actor_critic", "deterministic", "squashed", "search", "q_values"]
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("PPO", "A2C", "TRPO"), "actor_critic"),
    **dict.fromkeys(("TD3", "DDPG"), "deterministic"),
    **dict.fromkeys(("SAC", "TQC", "CrossQ"), "squashed"),
    "ARS": "search",
    **dict.fromkeys(("DQN", "QRDQN"), "q_values"),
}
"""Family of each algorithm's networks."""
ACTIVATIONS: dict[str, type[nn.Module]] = {
    activation.__name__: activation
    for activation in (
        *(nn.ReLU, nn.Tanh, nn.ELU, nn.SiLU, nn.GELU, nn.LeakyReLU, nn.Sigmoid, nn.Softplus, nn.Mish, nn.SELU),
        *(nn.CELU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.LogSigmoid, nn.Softsign, nn.Tanhshrink),
        *(nn.Softshrink, nn.Hardshrink, nn.Identity),
    )
}
"""Elementwise activations of torch without tensors."""
SDE_EPSILON = 1e-6
"""Added by SB3 to the variance of state-dependent exploration."""
RENORM_EPSILON = 0.001
"""Added by CrossQ's batch renormalisation to the variance, unless ``batch_norm_eps`` is given."""


class _Renorm(nn.Module):
    """Batch renormalisation (CrossQ) in evaluation mode: fixed statistics ``(F,)``."""

    slope: Tensor
    mean: Tensor
    bias: Tensor

    def __init__(self, epsilon: float, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> None:
        super().__init__()
        slope = scale.float() / (variance.float() + epsilon).sqrt()
        self.register_buffer("slope", slope)
        self.register_buffer("mean", mean.float())
        self.register_buffer("bias", bias.float())

    def forward(self, inputs: Tensor) -> Tensor:
        return self.slope * (inputs - self.mean) + self.bias


class Networks(nn.Module):
    """Actor and critics of an SB3 agent, built from its tensors; with ``scores`` if its actions are discrete.

    Args:
        state: the policy's tensors by SB3's names.
        algorithm: one of ``FAMILIES``.
        activation: name of a torch module; None is SB3's default for the algorithm.
        options: ``policy_kwargs`` that change the meaning of the tensors.
        source: name of the file or object, for errors.
        actions: bounds, or discrete actions; None if unknown.
    """

    log_std: Tensor | None
    mean: nn.Module
    observation_size: int
    action_size: int

    def __init__(
        self,
        state: dict[str, Tensor],
        algorithm: str,
        activation: str | None,
        options: dict[str, Any],
        source: str,
        actions: Bounds | DiscreteActions | None,
    ) -> None:
        super().__init__()
        self.linear, self.actions = False, actions
        self.scores: Scores | None = None
        self.algorithm, self.family, self.source, self.options = algorithm, FAMILIES[algorithm], source, options
        name = activation or ("Tanh" if self.family == "actor_critic" else "ReLU")
        self.activation = find("activation", name, ACTIVATIONS)
        # Targets are copies; an extractor of vectors has no tensors.
        self.rest = {name: tensor for name, tensor in state.items() if "_target." not in name}
        getattr(self, f"_build_{self.family}")()
        if self.rest:
            raise PolicyKDError(
                f"teacher: {source} has {algorithm} networks with parts that are no MLP ({', '.join(self.rest)[:80]}): "
                "give the loaded model itself (Teacher.load(model)), or a function observation -> action"
            )
        self._check_choices()
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
            self.scores = "logits"
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
        elif (clip := float(self.options.get("clip_mean", 2.0))) > 0:
            self.mean = nn.Sequential(self._linear("actor.mu.0"), nn.Hardtanh(-clip, clip))
        else:
            self.mean = self._linear("actor.mu")
        self._sizes(*actor, *self.mean.modules())
        self._build_q()

    def _build_search(self) -> None:
        # sb3-contrib 1.x has one layer and no Sequential around it where a linear policy is not squashed.
        alone = "action_net.weight" in self.rest
        actor = [self._linear("action_net")] if alone else self._layers("action_net")
        self.linear = not self._option("squash_output", not alone)
        self.mean = nn.Sequential(*actor, *([] if self.linear else [nn.Tanh()]))
        self.scores = "choice" if isinstance(self.actions, DiscreteActions) else None
        self._sizes(*actor)

    def _build_q_values(self) -> None:
        name = "q_net" if self.algorithm == "DQN" else "quantile_net"
        layers = self._layers(f"{name}.{name}")
        self.mean, self.critics, self.scores, self.log_std = nn.Sequential(*layers), nn.ModuleList(), "q_values", None
        self._sizes(*layers)
        if isinstance(self.actions, DiscreteActions) and self.algorithm == "QRDQN":
            self.quantiles, rest = divmod(self.action_size, self.actions.size)
            self.action_size = self.action_size if rest else self.actions.size

    def _check_choices(self) -> None:
        """Refuse an agent whose text and tensors disagree about its actions."""
        found = self.actions.size if isinstance(self.actions, DiscreteActions) else None
        if (self.scores is not None and found != self.action_size) or (self.scores is None and found is not None):
            said = "not discrete" if found is None else f"a choice of one of {found} actions"
            raise PolicyKDError(f"teacher: {self.source} declares its actions as {said}, but its tensors do not match")

    def _sizes(self, *actor: nn.Module) -> None:
        layers = [layer for layer in actor if isinstance(layer, nn.Linear)]
        if not layers:
            raise PolicyKDError(f"teacher: {self.source} has no linear layers that lead to its actions")
        self.observation_size, self.action_size = layers[0].in_features, layers[-1].out_features

    def _build_q(self) -> None:
        count = len({name.split(".")[1] for name in self.rest if name.startswith("critic.qf")})
        self.critics = nn.ModuleList([nn.Sequential(*self._layers(f"critic.qf{c}")) for c in range(count)])

    def _option(self, name: str, default: bool = False) -> bool:
        return bool(self.options.get(name, default))

    def _layers(self, prefix: str, end: bool = False) -> list[Any]:
        """The layers called ``prefix.<number>``, with activations between (and after) the linear ones."""
        found = (re.fullmatch(rf"{prefix}\.(\d+)\.(weight|ra_mean)", name) for name in self.rest)
        kinds = sorted({(int(name[1]), name[2]) for name in found if name})
        layers: list[nn.Module] = []
        for number, kind in kinds:
            name = f"{prefix}.{number}"
            layers += [self._linear(name), self.activation()] if kind == "weight" else [self._renorm(name)]
        return layers if end or not layers else layers[:-1]

    def _renorm(self, name: str) -> nn.Module:
        self.rest.pop(f"{name}.steps", None)
        parts = [self.rest.pop(f"{name}.{part}") for part in ("scale", "bias", "ra_mean", "ra_var")]
        return _Renorm(float(self.options.get("batch_norm_eps", RENORM_EPSILON)), *parts)

    def _linear(self, name: str) -> nn.Linear:
        weight, bias = self.rest.pop(f"{name}.weight", None), self.rest.pop(f"{name}.bias", None)
        return linear(
            weight, bias, f"{self.source} has no complete linear layer {name}", needs_bias=self.family != "search"
        )

    def gaussian(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Means and standard deviations ``(B, A)``, in SB3's own units, or scores, at normalised inputs ``(B, O)``."""
        if self.family == "q_values":
            q = self.mean(inputs)
            return (q if self.algorithm == "DQN" else q.view(len(q), self.quantiles, -1).mean(1)), None
        if self.family in ("deterministic", "search"):
            return (one_hot(self.mean(inputs)) if self.scores else self.mean(inputs)), None
        features = self.features(inputs)
        mean = self.mean(features)
        if self.scores is not None:
            return mean, None
        if self.log_std is None:
            return mean, self.log_std_net(features).clamp(LOG_STD_MIN, LOG_STD_MAX).exp()
        std = _expln(self.log_std) if self._option("use_expln") else self.log_std.exp()
        if std.ndim == 1:
            return mean, std.expand_as(mean)
        # State-dependent exploration (Raffin et al. 2022): the noise is linear in the features.
        return mean, (features.square() @ std.square() + SDE_EPSILON).sqrt().expand_as(mean)

    def value(self, inputs: Tensor) -> Tensor:
        """V(s), or min over the critics of Q(s, pi(s)) (TQC, QRDQN: the mean of all quantiles), ``(B,)``."""
        if self.family == "q_values":
            return self.gaussian(inputs)[0].amax(-1)
        if self.family == "actor_critic":
            return self.critics[0](inputs).squeeze(-1)
        mean, _ = self.gaussian(inputs)
        pairs = torch.cat((inputs, mean.tanh() if self.squashed else mean), dim=-1)
        values = torch.stack([critic(pairs) for critic in self.critics])
        return values.mean((0, 2)) if self.algorithm == "TQC" else values.squeeze(-1).amin(0)

    def policy(self, device: torch.device) -> Policy:
        """The teacher's policy, from network inputs to actions in [-1, 1] or scores."""
        freeze(self.to(device))
        valued = self.family == "q_values" or (self.family != "search" and len(self.critics) > 0)
        value = self.value if valued else None
        sizes = self.observation_size, self.action_size
        if isinstance(self.actions, DiscreteActions):
            first, scores = self.actions.start, self.scores
            return Policy(self.source, *sizes, self.gaussian, scores, value=value, first=first, network=self)
        bounds = self.actions if self.actions is not None and len(self.actions[0]) == self.action_size else None
        scale = None
        if self.in_task_units:
            if bounds is None:
                raise PolicyKDError(f"teacher: {self.source} does not contain its action bounds; give the live model")
            scale = to_unit(*bounds, device)

        def gaussian(inputs: Tensor) -> tuple[Tensor, Tensor | None]:
            mean, std = self.gaussian(inputs)
            if scale is None:
                return mean, std
            middle, half = scale
            return (mean - middle) / half, None if std is None else std / half

        return Policy(
            self.source,
            *sizes,
            gaussian,
            squashed=self.squashed,
            value=value,
            low=None if bounds is None else bounds[0],
            high=None if bounds is None else bounds[1],
            network=self,
        )


def _expln(log_std: Tensor) -> Tensor:
    """SB3's alternative to exp, which grows like a logarithm above 0."""
    return torch.where(log_std <= 0, log_std.exp(), log_std.clamp_min(0).log1p() + 1)


def linear(weight: Tensor | None, bias: Tensor | None, missing: str, needs_bias: bool = True) -> nn.Linear:
    """Build a linear layer from its tensors.

    Raises:
        PolicyKDError: they do not form a layer; ``missing`` names it.
    """
    whole = weight is not None and weight.ndim == 2 and (bias is not None or not needs_bias)
    parts = [part for part in (weight, bias) if part is not None]
    plain = all(part.layout == torch.strided and part.is_floating_point() and not part.is_meta for part in parts)
    if weight is None or not whole or not plain or (bias is not None and bias.shape != weight.shape[:1]):
        raise PolicyKDError(f"teacher: {missing}")
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.float())
    if bias is not None:
        layer.bias = nn.Parameter(bias.float())
    return layer
