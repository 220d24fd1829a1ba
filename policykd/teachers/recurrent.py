"""Recurrent policies: an LSTM or GRU before the networks, whose state the caller keeps.

Those of sb3-contrib (RecurrentPPO), and the parts of other libraries'.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from policykd.core.errors import PolicyKDError
from policykd.tasks.spaces import DiscreteActions
from policykd.teachers.policy import Bounds, Memory, Policy, freeze, needs_memory
from policykd.teachers.sb3_networks import Networks

PREFIX = "lstm_actor."
KINDS = ("weight_ih_l", "weight_hh_l", "bias_ih_l", "bias_hh_l")


def is_recurrent(state: dict[str, Tensor]) -> bool:
    """Whether a state dict is that of a recurrent policy."""
    return f"{PREFIX}weight_ih_l0" in state


def from_tensors(
    state: dict[str, Tensor],
    activation: str | None,
    options: dict[str, Any],
    source: str,
    actions: Bounds | DiscreteActions | None,
    device: torch.device,
) -> Policy:
    """The policy of a RecurrentPPO; with a value if its critic has no memory, since values are of single states.

    Such a critic has a linear layer in place of the LSTM (``enable_critic_lstm=False``, ``shared_lstm=False``).

    Raises:
        PolicyKDError: its LSTM has unexpected parts.
    """
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in state.items() if name.startswith(PREFIX)}
    lstm = rnn(weights, source)
    rest = {name: t for name, t in state.items() if not name.startswith((PREFIX, "lstm_critic.", "critic."))}
    networks = Networks(rest, "A2C", activation, options, source, actions)
    head = networks.policy(device)
    network = nn.ModuleList([freeze(lstm.to(device)), networks])
    value = None
    if "critic.weight" in state and head.value is not None:
        of_features, weight, bias = head.value, state["critic.weight"].to(device), state["critic.bias"].to(device)

        def value(inputs: Tensor) -> Tensor:
            return of_features(nn.functional.linear(inputs, weight, bias))

    return head.changed(
        observation_size=lstm.input_size,
        gaussian=needs_memory(source),
        step=step(lstm, head.gaussian),
        value=value,
        network=network,
    )


def rnn(weights: dict[str, Tensor], source: str) -> nn.LSTM | nn.GRU:
    """Build the LSTM or GRU of these weights, given by torch's names.

    Raises:
        PolicyKDError: it has unexpected parts.
    """
    layers = len([name for name in weights if name.startswith(KINDS[0])])
    usual = set(weights) == {f"{kind}{layer}" for kind in KINDS for layer in range(layers)}
    hidden = weights["weight_hh_l0"].shape[1] if usual else 0
    kinds: dict[int, type[nn.LSTM | nn.GRU]] = {4 * hidden: nn.LSTM, 3 * hidden: nn.GRU}
    if not usual or len(weights["weight_ih_l0"]) not in kinds:
        raise PolicyKDError(
            f"teacher: {source} has an unusual LSTM or GRU ({', '.join(weights)[:80]}); give an object with "
            "reset() that is called with one observation at a time"
        )
    network = kinds[len(weights["weight_ih_l0"])](weights["weight_ih_l0"].shape[1], hidden, layers)
    network.load_state_dict(weights)
    return network


def step(
    network: nn.LSTM | nn.GRU, head: Callable[[Tensor], tuple[Tensor, Tensor | None]]
) -> Callable[[Tensor, Memory | None, Tensor], tuple[Tensor, Tensor | None, Memory]]:
    """The ``step`` of a policy with this recurrent network before its ``head``."""
    lstm = isinstance(network, nn.LSTM)

    def step(inputs: Tensor, memory: Memory | None, starts: Tensor) -> tuple[Tensor, Tensor | None, Memory]:
        if memory is None:
            zeros = inputs.new_zeros(network.num_layers, len(inputs), network.hidden_size)
            memory = (zeros, zeros) if lstm else (zeros,)
        kept = (1.0 - starts.to(inputs)).view(1, -1, 1)
        before = tuple(part * kept for part in memory)
        outputs, after = network(inputs.unsqueeze(0), before if lstm else before[0])
        mean, std = head(outputs[0])
        return mean, std, after if lstm else (after,)

    return step
