"""States of the teacher's own episodes, some of them disturbed, with its answers and its hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from torch import Tensor

from experiments.state_students.spec import HIDDEN, Protocol
from policykd.classification.outputs import FeatureReader
from policykd.core.draws import standard_normal
from policykd.core.errors import PolicyKDError
from policykd.core.seeding import env_seed, stream
from policykd.tasks.spaces import EnvFactory, action_scale, check_spaces, find_task
from policykd.teachers.teacher import Teacher


class Data(NamedTuple):
    """States of S seeds, n each."""

    observations: Tensor
    """Raw ``(S, n, O)``."""
    actions: Tensor
    """The teacher's answers ``(S, n, A)`` in [-1, 1], without noise."""
    features: Tensor
    """Its hidden layer ``(S, n, C)``: principal components over one scale, of mean variance 1."""
    explained: float
    """Share of the hidden layer's variance, each unit in its own standard deviation, that they hold."""


def collect(env: str | gym.Env | EnvFactory, teacher: Teacher, seeds: Sequence[int], protocol: Protocol) -> Data:
    """Play, and ask the teacher at every state; a seed's data do not depend on the other seeds."""
    observations = torch.stack([_states(env, teacher, seed, protocol) for seed in seeds])
    network = teacher.policy.network
    if network is None:
        raise PolicyKDError(f"states: {teacher.source} has no network whose hidden layer could be read")
    answers, hidden = [], []
    with FeatureReader(network, (HIDDEN,), "teacher") as reader:
        for states in observations:
            answers.append(teacher.actions(states))
            hidden.append(reader.take()[0])
    parts, shares = zip(*[components(layer, protocol.components) for layer in hidden], strict=True)
    return Data(observations, torch.stack(answers), torch.stack(parts), float(np.mean(shares)))


def components(layer: Tensor, count: int) -> tuple[Tensor, float]:
    """Principal components of a layer ``(n, H)`` whose units are standardised first.

    Args:
        layer: one row per state; units that are always the same do not count.
        count: how many components C, at most.

    Returns:
        ``(n, C)``, divided by one number so that their mean variance is 1, and their share of the variance.
    """
    centred = (layer - layer.mean(0)).double()
    varied = centred[:, centred.std(0) > 1e-6]
    unit = varied / varied.std(0, correction=0)
    variances, directions = torch.linalg.eigh(unit.T @ unit / len(unit))
    count = min(count, len(variances))
    kept = variances[-count:].flip(0)
    return (unit @ directions[:, -count:].flip(1) / kept.mean().sqrt()).float(), float(kept.sum() / variances.sum())


def _states(env: str | gym.Env | EnvFactory, teacher: Teacher, seed: int, protocol: Protocol) -> Tensor:
    """States ``(n, O)`` of one seed; every second environment is disturbed."""
    task, count = find_task(env), protocol.games
    envs = SyncVectorEnv([task.make] * count, autoreset_mode=AutoresetMode.SAME_STEP)
    try:
        scale = action_scale(check_spaces(envs.envs[0])[1])
        strength = protocol.noise * (np.arange(count)[:, None] % 2)
        generator, seen = stream(seed, 0, "exploration"), []
        current = envs.reset(seed=[env_seed(seed, 0, "environment", number) for number in range(count)])[0]
        for _ in range(protocol.states // count):
            seen.append(current.astype(np.float32))
            acted = teacher.actions(torch.from_numpy(seen[-1])).numpy()
            acted = acted + strength * standard_normal([generator], *acted.shape)[0]
            current = envs.step(scale.to_env(np.clip(acted, -1, 1)))[0]
    finally:
        envs.close()
    return torch.from_numpy(np.concatenate(seen))
