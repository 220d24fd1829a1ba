"""States to calibrate int8 on, and the distance of int8 from the learner at held-out states."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from policykd.core.errors import PolicyKDError
from policykd.core.seeding import env_seed, stream
from policykd.export.deployed import deploy
from policykd.export.equivalence import (
    Act,
    Check,
    Difference,
    action_distances,
    as_act,
    compare,
    full_inputs,
    summarise,
)
from policykd.export.exportable import Exportable, Inputs
from policykd.export.int8 import check_states, quantise
from policykd.export.plain import PlainPolicy
from policykd.export.stateful import Episodes, Play, unroll
from policykd.tasks.spaces import DiscreteActions

STATES = 2_000
"""Number of states to collect if none are given."""
NOISE = 0.1
"""Standard deviation of the exploration noise, in actions scaled to [-1, 1], to visit more than one trajectory."""
TOLERANCE = 0.1
"""Maximum mean distance from the learner, in actions scaled to [-1, 1]; beyond it int8 is not written."""


class EpisodeObservations(NamedTuple):
    """Observations of consecutive episodes."""

    observations: np.ndarray
    """``(n, O)``, in the format of the exported policy's input."""
    starts: np.ndarray
    """Whether each is the first of its episode ``(n,)``."""


def visited_states(agent: Exportable, k: int, count: int = STATES) -> np.ndarray:
    """Inputs ``(count, I)`` of learner ``k`` at the observations it visits on its task, acting with some noise.

    Discrete actions are random with probability ``NOISE``.
    """
    act = as_act(deploy(agent, k))
    return _visit(agent, k, lambda state, start: act(state[None])[0], count)[0]


@torch.no_grad()
def _visit(
    agent: Exportable, k: int, act: Callable[[np.ndarray, bool], np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs ``(count, I)``, and where episodes start ``(count,)``, which is also passed to ``act``."""
    scale, generator = agent.action_scale, stream(0, k, "exploration")
    states, episode, ended = np.zeros((count, agent.observation_space.shape[0]), np.float32), 0, True
    starts = np.zeros(count, bool)
    with agent.factory() as env:
        for i in range(count):
            if ended:
                observation, _ = env.reset(seed=env_seed(0, k, "evaluation", episode))
                episode += 1
            states[i], starts[i] = observation, ended
            action = act(states[i], ended)
            if isinstance(scale, DiscreteActions):
                action = scale.to_env(generator.random(scale.size)) if generator.random() < NOISE else action
            else:
                action = scale.clip(action + NOISE * scale.half_range * generator.standard_normal(scale.size))
            observation, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
    return states, starts


def calibration_episodes(
    episodes: Episodes, states: np.ndarray | None
) -> tuple[EpisodeObservations, EpisodeObservations]:
    """Episodes of a learner with memory to calibrate on, and later ones to test on.

    Args:
        episodes: the learner.
        states: observations ``(2n, O)`` of one episode in order, in the format of the exported policy's input; None
            plays the task with some noise.

    Raises:
        PolicyKDError: they do not fit.
    """
    agent, part = episodes.agent, episodes.agent.view.part_size
    episodes.check(episodes.play, "the torch module")
    state = [np.zeros((1, *shape), np.float32) for shape in episodes.shapes]
    if states is None:

        def seen(parts: np.ndarray) -> np.ndarray:
            return full_inputs(agent, episodes.inputs, parts[..., -part:])

        def act(read: np.ndarray, start: bool) -> np.ndarray:
            action, *state[:] = episodes.play(seen(read[None]), np.array([start], np.float32), *state)
            return action[0]

        states, starts = _visit(agent, episodes.k, act, STATES)
        states = seen(states)
    else:
        states = check_states(states, episodes.size, 4)  # the first half calibrates: 2 of them
        starts = np.zeros(len(states), bool)
    middle = len(states) // 2
    starts[[0, middle]] = True
    return EpisodeObservations(states[:middle], starts[:middle]), EpisodeObservations(states[middle:], starts[middle:])


def quantise_stateful(episodes: Episodes, states: np.ndarray | None) -> tuple[PlainPolicy, EpisodeObservations]:
    """A learner with memory in int8, and episodes to test it on.

    Args:
        episodes: the learner.
        states: as for ``calibration_episodes``.

    Raises:
        PolicyKDError: they do not fit, or C does not support its networks.
    """
    policy, (calibrated, measured) = episodes.plain(), calibration_episodes(episodes, states)
    remembered = unroll(episodes.play, episodes.shapes, *calibrated)[1:]
    read = remembered[0].reshape(len(remembered[0]), -1) if policy.history > 1 else policy.read(calibrated.observations)
    return quantise(policy, read, remembered[-1] if policy.units is not None else None), measured


def split(
    agent: Exportable, k: int, states: np.ndarray | None, inputs: Inputs = "own"
) -> tuple[np.ndarray, np.ndarray]:
    """Inputs of learner ``k`` to calibrate on, and others to test on, ``(n, I)`` each.

    Args:
        agent: the agent.
        k: index of the learner.
        states: observations ``(2n, O)``; None plays the task.
        inputs: whether these are the student's own parts, or the task's full observations.

    Raises:
        PolicyKDError: they do not fit the learner.
    """
    if states is None:
        states = visited_states(agent, k)
    elif inputs == "full":
        states = agent.view(check_states(states, agent.view.size, 3))
    states = check_states(states, agent.observation_space.shape[0], 3)  # every second one calibrates: 2 of them
    return states[::2], states[1::2]


def check_int8(states: np.ndarray) -> Check:
    """A check of int8 at ``states (n, O)``, which refuses a mean distance from the learner above ``TOLERANCE``."""

    def check(agent: Exportable, k: int, act: Act, what: str) -> Difference:
        return check_mean(compare(agent, k, act, states), what)

    return check


def check_on_episodes(
    episodes: Episodes, play: Play, shapes: list[tuple[int, ...]], met: EpisodeObservations, what: str
) -> Difference:
    """Distance of an int8 policy from its learner along episodes, in which each keeps its own state.

    Args:
        episodes: the learner.
        play: the policy.
        shapes: of the parts of its state.
        met: the episodes.
        what: name of the policy, for the error.

    Raises:
        PolicyKDError: as for ``check_int8``.
    """
    wanted, actions = unroll(episodes.play, episodes.shapes, *met)[0], unroll(play, shapes, *met)[0]
    distances = action_distances(episodes.agent, actions, wanted)
    return check_mean(summarise(distances), what)


def check_mean(difference: Difference, what: str) -> Difference:
    """Check that the difference of int8 from its learner is within ``TOLERANCE``, and return it."""
    if not difference.mean <= TOLERANCE:
        raise PolicyKDError(
            f"export: {what} in int8 is on average {difference.mean:.2g} from the learner (allowed {TOLERANCE}): "
            "not written; calibrate on more of the states that it meets, or use float32"
        )
    return difference
