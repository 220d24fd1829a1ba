"""Settings of each learner: one number for all, or one per peer of a group, or a function of what remains of a run."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd.core.errors import PolicyKDError, reraise
from policykd.core.fields import require, value_at
from policykd.core.memory import require_memory
from policykd.core.networks import MLP, Network
from policykd.core.recurrent import GRU
from policykd.core.registry import find
from policykd.learners.config import OffPolicyConfig


class Settings:
    """Hyperparameters of K learners: a float if all are equal, else a tensor ``(K, 1)``.

    Args:
        config: settings; ``config.vary`` gives some of them one value per peer.
        learners: number of learners K, group by group.
        device: where rows live.
    """

    def __init__(self, config: OffPolicyConfig, learners: int, device: torch.device | str) -> None:
        self.config, self.learners, self.device = config, learners, device
        rate = config.learning_rate
        self.scheduled = rate if callable(rate) else None
        self.rate = torch.tensor(1.0, device=device) if callable(rate) else None

    def get(self, name: str) -> float | Tensor:
        """A setting as one number, or one per learner ``(K, 1)``."""
        if name == "learning_rate" and self.rate is not None:
            return self.rate
        values = self.config.vary.get(name)
        return getattr(self.config, name) if values is None else self.per_learner(values)

    def per_learner(self, values: Sequence[float]) -> Tensor:
        """One value per peer as one per learner, ``(K, 1)``."""
        return (
            torch.tensor([float(value) for value in values], device=self.device)
            .repeat(self.learners // len(values))
            .unsqueeze(1)
        )

    def rows(self, setting: float | Tensor) -> Tensor:
        """A setting as a number of every learner ``(K,)``, for logs."""
        return torch.as_tensor(setting, device=self.device).expand(self.learners, 1).squeeze(1).clone()

    def advance(self, progress: float) -> None:
        """Set the learning rate where it is ``scheduled``: a function of what remains, as SB3's."""
        assert self.scheduled is not None and self.rate is not None
        self.rate.fill_(value_at("learning_rate", self.scheduled, 1.0 - progress))


VARIED_ROWS = {
    "learning_rate": ("learning_rate", "critic_learning_rate"),
    "gamma": ("gamma",),
    "tau": ("tau", "critic_tau"),
    "action_noise_std": ("noise_std",),
    "target_policy_noise": ("target_noise_std",),
    "target_entropy": ("target_entropy",),
}
"""Where a learner keeps a varied setting, one row per learner; then, one per critic."""


def critic_rows(setting: float | Tensor, critics: int) -> float | Tensor:
    """A setting per learner as one per critic, ``(K * C, 1)``."""
    return setting.repeat_interleave(critics, dim=0) if isinstance(setting, Tensor) and setting.ndim > 1 else setting


def per_action(setting: float | Tensor) -> float | Tensor:
    """A setting per learner beside actions ``(K, B, A)``."""
    return setting.unsqueeze(-1) if isinstance(setting, Tensor) else setting


COPIES = 4
"""Numbers in training per parameter at least: itself, its gradient and Adam's two moments."""

NETWORKS: dict[str, Callable[[int, int], Network]] = {}
"""Makers of networks by name, for command lines and benchmark files; rows may be added."""


def make_networks(
    config: Any, sizes: tuple[int, int, int], learners: int, critics: int, device: torch.device | str
) -> tuple[Network, Network]:
    """Actor and critic network of these settings: MLPs, or what ``config.network`` and ``config.critic_network`` make.

    With ``config.gru`` the actor begins with gated recurrent units.

    Args:
        config: settings of any backbone.
        sizes: width of the actor's input and of its output, and of the critic's input; its output is one number.
        learners: number of learners K that will have them.
        critics: critics of each learner.
        device: where they will live.

    Raises:
        PolicyKDError: they cannot be trained in this machine's memory, or an own maker makes something else.
    """
    inputs, outputs, critic_inputs = sizes

    def mlp(inputs: int, outputs: int) -> MLP:
        return MLP((inputs, *config.net_arch, outputs), activation=config.activation_fn, layer_norm=config.layer_norm)

    actor: Callable[[int, int], Network] = mlp if config.network is None else find("network", config.network, NETWORKS)
    critic = actor if config.critic_network is None else find("critic_network", config.critic_network, NETWORKS)
    first, judge = (
        _make_network("network", actor, inputs, outputs),
        _make_network("critic_network", critic, critic_inputs, 1),
    )
    if (width := getattr(config, "gru", None)) is not None:
        require(config.network is None, "gru", width, "makes the actor, as does network: give one of the two")
        first = GRU(inputs, width, mlp(width + inputs, outputs))
    numbers = learners * (first.parameter_count + critics * judge.parameter_count)
    what = f"networks of {learners} learners with hidden layers {' x '.join(map(str, config.net_arch))}"
    require_memory(4 * COPIES * numbers, what, "net_arch, or train fewer seeds at once", device)
    if config.network is not None:
        _try_out("network", first, (config.batch_size, inputs), outputs, device)
    if config.network is not None or config.critic_network is not None:
        _try_out("critic_network", judge, (config.batch_size, critic_inputs), 1, device)
    return first, judge


PARTS = "parameter_count", "initialise", "__call__"
"""What a network has."""
SEE = "docs/extending/network.md has an example"


def _make_network(what: str, maker: Callable[[int, int], Network], inputs: int, outputs: int) -> Network:
    """A network of a maker, which may be a user's own."""
    with reraise(f"{what}: called with ({inputs}, {outputs}), it raised ", f": {SEE}"):
        network = maker(inputs, outputs)
    if missing := [part for part in PARTS if not hasattr(network, part)]:
        raise PolicyKDError(f"{what}: returned a {type(network).__name__}, which has no {', '.join(missing)}: {SEE}")
    return network


def _try_out(what: str, network: Network, shape: tuple[int, int], outputs: int, device: torch.device | str) -> None:
    """Initialise and ask a copy of a user's own network once: what it answers must have the right shape."""
    asked = f"on inputs {(1, *shape)}"
    drawn = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(device)
    # A user's own random numbers stay as they were.
    with reraise(f"{what}: {asked} raised ", f": {SEE}"), torch.no_grad(), torch.random.fork_rng():
        copied = copy.deepcopy(network)
        row = copied.initialise(np.random.default_rng(0)).to(device)
        answer = copied(row.unsqueeze(0), drawn)
        shapes = tuple(row.shape), tuple(answer.shape)
    wanted = (network.parameter_count,), (1, shape[0], outputs)
    for call, found, right in zip(("initialise", asked), shapes, wanted, strict=True):
        if found != right:
            raise PolicyKDError(f"{what}: {call} must return {right}, and returned {found}: {SEE}")
