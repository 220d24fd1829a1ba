"""States to calibrate int8 on, and how far int8 is from the learner at states that it was not calibrated on."""

from __future__ import annotations

import numpy as np
import torch

from policykd.core.errors import PolicyKDError
from policykd.core.seeding import env_seed, stream
from policykd.export.deployed import deploy
from policykd.export.exportable import Exportable, Inputs
from policykd.export.plain import check_states
from policykd.export.proof import Act, Check, Difference, as_act, compare
from policykd.tasks.spaces import Choices

STATES = 2_000
"""States that are played where none are given."""
NOISE = 0.1
"""Standard deviation of the noise while playing, in actions scaled to [-1, 1], to meet more than one path."""
TOLERANCE = 0.1
"""Mean distance from the learner, in actions scaled to [-1, 1], above which int8 is not written."""


@torch.no_grad()
def visited_states(agent: Exportable, k: int, count: int = STATES, seed: int = 0) -> np.ndarray:
    """What learner ``k`` reads ``(count, I)`` of the observations that it meets on its task, acting with some noise.

    Where one of several actions is chosen, a share ``NOISE`` of them is random.
    """
    act, scale, generator = as_act(deploy(agent, k)), agent.action_scale, stream(seed, k, "exploration")
    states, episode, ended = np.zeros((count, agent.observation_space.shape[0]), np.float32), 0, True
    with agent.factory() as env:
        for i in range(count):
            if ended:
                observation, _ = env.reset(seed=env_seed(seed, k, "evaluation", episode))
                episode += 1
            states[i] = observation
            action = act(states[i : i + 1])[0]
            if isinstance(scale, Choices):
                action = scale.to_env(generator.random(scale.size)) if generator.random() < NOISE else action
            else:
                action = scale.clip(action + NOISE * scale.half_range * generator.standard_normal(scale.size))
            observation, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
    return states


def split(
    agent: Exportable, k: int, states: np.ndarray | None, inputs: Inputs = "own"
) -> tuple[np.ndarray, np.ndarray]:
    """What learner ``k`` reads to calibrate on and, apart from it, to measure at, ``(n, I)`` each.

    Args:
        agent: whose learner.
        k: which one.
        states: observations ``(2n, O)``; None plays the task.
        inputs: whether these are the student's own part, or all of the task's; of a history, what it reads.

    Raises:
        PolicyKDError: they do not fit the learner.
    """
    if states is None:
        states = visited_states(agent, k)
    elif inputs == "full" and agent.view.history == 1:  # else they are histories already
        states = agent.view(check_states(states, agent.view.size))
    states = check_states(states, agent.observation_space.shape[0])
    return states[::2], states[1::2]


def check_int8(states: np.ndarray) -> Check:
    """A check of int8 at ``states (n, O)``; it refuses what is on average more than ``TOLERANCE`` from the learner."""

    def check(agent: Exportable, k: int, act: Act, what: str) -> Difference:
        difference = compare(agent, k, act, states)
        if not difference.mean <= TOLERANCE:
            raise PolicyKDError(
                f"export: {what} in int8 is on average {difference.mean:.2g} from the learner (allowed {TOLERANCE}): "
                "not written; calibrate on more of the states that it meets, or use float32"
            )
        return difference

    return check
