"""sb3-contrib's recurrent policies (RecurrentPPO): an LSTM before the networks, whose memory the caller keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.tasks.spaces import Choices
from policykd.teachers.policy import Bounds, Memory, Policy, freeze, remembers
from policykd.teachers.sb3_networks import Networks

PREFIX = "lstm_actor."
KINDS = ("weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l")


def is_recurrent(state: dict[str, Tensor]) -> bool:
    """Whether tensors are those of a recurrent policy."""
    return f"{PREFIX}weight_ih_l0" in state


def from_tensors(
    state: dict[str, Tensor],
    activation: str | None,
    options: dict[str, Any],
    source: str,
    actions: Bounds | Choices | None,
    device: torch.device,
) -> Policy:
    """The policy of a RecurrentPPO; its value is not read.

    Raises:
        PolicyKDError: its LSTM has parts that are not the usual ones.
    """
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    layers = len([name for name in weights if name.startswith(KINDS[0])])
    if set(weights) != {f"{kind}{layer}" for kind in KINDS for layer in range(layers)}:
        raise PolicyKDError(f"teacher: {source} has an unusual LSTM ({', '.join(weights)[:80]}); give a function")
    hidden, size = weights["weight_hh_l0"].shape[1], weights["weight_ih_l0"].shape[1]
    lstm = nn.LSTM(size, hidden, layers)
    lstm.load_state_dict(weights)
    rest = {name: t for name, t in state.items() if not name.startswith((PREFIX, "lstm_critic.", "critic."))}
    networks = Networks(rest, "A2C", activation, options, source, actions)
    head = networks.policy(device)
    network = nn.ModuleList([freeze(lstm.to(device)), networks])

    def step(inputs: Tensor, memory: Memory | None, starts: Tensor) -> tuple[Tensor, Tensor | None, Memory]:
        if memory is None:
            memory = tuple(inputs.new_zeros(layers, len(inputs), hidden) for _ in range(2))
        kept = (1.0 - starts.to(inputs)).view(1, -1, 1)
        outputs, memory = lstm(inputs.unsqueeze(0), tuple(part * kept for part in memory))
        mean, std = head.gaussian(outputs[0])
        return mean, std, memory

    return head.changed(observation_size=size, gaussian=remembers(source), step=step, value=None, network=network)
