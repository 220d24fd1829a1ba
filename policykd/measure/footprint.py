"""Deployment cost of a policy: parameters, bytes, FLOPs and latency."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from policykd.core.compute import one_thread
from policykd.export.deployed import deploy
from policykd.export.stateful import Episodes
from policykd.training.agent import Agent


@dataclass(frozen=True)
class Footprint:
    """Deployment cost of a policy, including its normaliser and action scale."""

    parameters: int
    """Weights and biases."""
    bytes: int
    """Bytes of weights, biases, normaliser and bounds as stored."""
    flops: int
    """Floating-point operations of the linear layers for one observation; a multiply-add counts as two."""
    latency_p50: float
    """Median microseconds from one observation to its action, on one thread."""
    latency_p99: float
    """99th percentile of the same, in microseconds."""


def footprint(agent: Agent, learner: int, calls: int = 2_000) -> Footprint:
    """Measure a learner as TorchScript, as C++ and Python programs without policykd run it.

    Args:
        agent: any agent.
        learner: index of the learner.
        calls: number of timed calls, after a tenth as many for warm-up.
    """
    policy: nn.Module
    if agent.network is not None:  # a module with state
        module = Episodes(agent, learner, "own")
        policy, examples = module.module, module.examples(batch=1)
    else:
        policy, examples = deploy(agent, learner), (torch.zeros(1, agent.observation_space.shape[0]),)
    latencies = latency(policy, examples, calls)
    matrices = [parameter for parameter in policy.parameters() if parameter.ndim == 2]
    tensors = [*policy.parameters(), *policy.buffers()]
    return Footprint(
        parameters=sum(parameter.numel() for parameter in policy.parameters()),
        bytes=sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        flops=sum(2 * matrix.numel() for matrix in matrices),
        latency_p50=float(np.percentile(latencies, 50)),
        latency_p99=float(np.percentile(latencies, 99)),
    )


def latency(policy: nn.Module, examples: tuple[Tensor, ...], calls: int) -> np.ndarray:
    """Latency in microseconds of each of ``calls`` calls with one observation, on one thread: ``(calls,)``."""
    times = np.empty(calls)
    with one_thread(), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # TorchScript is deprecated in torch
        program, (first, *state) = torch.jit.freeze(torch.jit.trace(policy, examples)), examples
        observations = torch.randn(calls, *first.shape)
        for i in range(calls // 10):
            program(observations[i], *state)
        for i in range(calls):
            start = time.perf_counter_ns()
            program(observations[i], *state)
            times[i] = (time.perf_counter_ns() - start) / 1e3
    return times
