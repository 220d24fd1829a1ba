"""States to calibrate int8 on, and how far int8 is from the learner at states that it was not calibrated on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from policykd.core.errors import PolicyKDError
from policykd.core.seeding import env_seed, stream
from policykd.export.deployed import deploy
from policykd.export.exportable import Exportable, Inputs
from policykd.export.int8 import check_states, quantise
from policykd.export.plain import PlainPolicy
from policykd.export.proof import Act, Check, Difference, apart, as_act, compare, summed_up, whole
from policykd.export.remembering import Episodes, Play, follow
from policykd.tasks.spaces import Choices

STATES = 2_000
"""States that are played where none are given."""
NOISE = 0.1
"""Standard deviation of the noise while playing, in actions scaled to [-1, 1], to meet more than one path."""
TOLERANCE = 0.1
"""Mean distance from the learner, in actions scaled to [-1, 1], above which int8 is not written."""


class Met(NamedTuple):
    """Observations that follow one another."""

    observations: np.ndarray
    """``(n, O)``, as what is written reads them."""
    starts: np.ndarray
    """Whether each is the first of its episode ``(n,)``."""


def visited_states(agent: Exportable, k: int, count: int = STATES) -> np.ndarray:
    """What learner ``k`` reads ``(count, I)`` of the observations that it meets on its task, acting with some noise.

    Where one of several actions is chosen, a share ``NOISE`` of them is random.
    """
    act = as_act(deploy(agent, k))
    return _visit(agent, k, lambda state, start: act(state[None])[0], count)[0]


@torch.no_grad()
def _visit(
    agent: Exportable, k: int, act: Callable[[np.ndarray, bool], np.ndarray], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """What is read ``(count, I)``, and where episodes start ``(count,)``; ``act`` knows the latter, too."""
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
            if isinstance(scale, Choices):
                action = scale.to_env(generator.random(scale.size)) if generator.random() < NOISE else action
            else:
                action = scale.clip(action + NOISE * scale.half_range * generator.standard_normal(scale.size))
            observation, _, terminated, truncated, _ = env.step(action)
            ended = terminated or truncated
    return states, starts


def episodes_met(episodes: Episodes, states: np.ndarray | None) -> tuple[Met, Met]:
    """What a learner with a state meets, to calibrate on and, after it, to measure at.

    Args:
        episodes: the learner.
        states: observations ``(2n, O)`` of one episode in their order, as what is written reads them; None plays the
            task with some noise.

    Raises:
        PolicyKDError: they do not fit.
    """
    agent, part = episodes.agent, episodes.agent.view.part_size
    episodes.check(episodes.play, "the torch module")
    state = [np.zeros((1, *shape), np.float32) for shape in episodes.shapes]
    if states is None:

        def seen(parts: np.ndarray) -> np.ndarray:
            return whole(agent, episodes.inputs, parts[..., -part:])

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
    return Met(states[:middle], starts[:middle]), Met(states[middle:], starts[middle:])


def quantise_along(episodes: Episodes, states: np.ndarray | None) -> tuple[PlainPolicy, Met]:
    """A learner with a state in int8, and where to measure how far it is.

    Args:
        episodes: the learner.
        states: as ``episodes_met``.

    Raises:
        PolicyKDError: they do not fit, or C knows no such networks.
    """
    policy, (calibrated, measured) = episodes.plain(), episodes_met(episodes, states)
    remembered = follow(episodes.play, episodes.shapes, *calibrated)[1:]
    read = remembered[0].reshape(len(remembered[0]), -1) if policy.history > 1 else policy.read(calibrated.observations)
    return quantise(policy, read, remembered[-1] if policy.units is not None else None), measured


def split(
    agent: Exportable, k: int, states: np.ndarray | None, inputs: Inputs = "own"
) -> tuple[np.ndarray, np.ndarray]:
    """What learner ``k`` reads to calibrate on and, apart from it, to measure at, ``(n, I)`` each.

    Args:
        agent: whose learner.
        k: which one.
        states: observations ``(2n, O)``; None plays the task.
        inputs: whether these are what the student reads, or all of the task's.

    Raises:
        PolicyKDError: they do not fit the learner.
    """
    if states is None:
        states = visited_states(agent, k)
    elif inputs == "full":
        states = agent.view(check_states(states, agent.view.size, 3))
    states = check_states(states, agent.observation_space.shape[0], 3)  # each second one calibrates: 2 of them
    return states[::2], states[1::2]


def check_int8(states: np.ndarray) -> Check:
    """A check of int8 at ``states (n, O)``; it refuses what is on average more than ``TOLERANCE`` from the learner."""

    def check(agent: Exportable, k: int, act: Act, what: str) -> Difference:
        return allowed(compare(agent, k, act, states), what)

    return check


def check_along(episodes: Episodes, play: Play, shapes: list[tuple[int, ...]], met: Met, what: str) -> Difference:
    """How far a policy in int8 is from its learner along episodes, each with a state of its own.

    Args:
        episodes: the learner.
        play: the policy.
        shapes: of the parts of its state.
        met: where they are compared.
        what: its name.

    Raises:
        PolicyKDError: as ``check_int8``.
    """
    wanted, actions = follow(episodes.play, episodes.shapes, *met)[0], follow(play, shapes, *met)[0]
    distances = apart(episodes.agent, actions, wanted)
    return allowed(summed_up(distances), what)


def allowed(difference: Difference, what: str) -> Difference:
    """The difference of int8 from its learner, where it is allowed."""
    if not difference.mean <= TOLERANCE:
        raise PolicyKDError(
            f"export: {what} in int8 is on average {difference.mean:.2g} from the learner (allowed {TOLERANCE}): "
            "not written; calibrate on more of the states that it meets, or use float32"
        )
    return difference
