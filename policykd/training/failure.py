"""A task that fails in the middle of a run: say where, keep what was learnt, and say how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from policykd.core.errors import PolicyKDError
from policykd.core.seeding import env_seed
from policykd.learners import PPO
from policykd.tasks.contract import TaskError

if TYPE_CHECKING:
    from policykd.training.agent import Agent


@contextmanager
def saved_on_failure(agent: Agent) -> Iterator[None]:
    """Save the run where its task raises or breaks the interface; its episodes then begin anew.

    Raises:
        PolicyKDError: what the task did, at which step, for which learner, and how to go on.
    """
    try:
        yield
    except TaskError as error:
        raise PolicyKDError(f"{error}{_where(agent, error)}; {_keep(agent)}") from error.__cause__


def _where(agent: Agent, error: TaskError) -> str:
    step = agent.num_timesteps // agent.steps_at_once + 1
    if error.env is None:
        return f" at step {step}"
    k = error.env // agent.n_envs
    seed, peer = agent.learners[k]
    return f" at step {step} of learner {k} (seed {seed}, peer {peer})"


def _keep(agent: Agent) -> str:
    """Begin new episodes and save the run; returns what was kept and how to go on."""
    try:
        _begin_anew(agent)
    except PolicyKDError:  # the task fails from its first step on: there is nothing to go on from
        return "training stopped, earlier checkpoints are untouched"
    if agent.folder is None:
        return "nothing is lost: mend the task and call learn again, which begins new episodes"
    agent.save(agent.folder.checkpoint, include_replay=True)
    return f"saved to {agent.folder.checkpoint}: mend the task and go on with --resume, which begins new episodes"


def _begin_anew(agent: Agent) -> None:
    """New environments in the place of those in an unknown state; a rollout cut short is not learnt from."""
    assert agent.envs is not None
    agent.envs.close()
    agent.envs = agent.make_envs(append=True)
    at = agent.num_timesteps
    seeds = [env_seed(*who, "environment", n, at) for who in agent.learners for n in range(agent.n_envs)]
    agent.last_observations = agent.envs.start(seeds)
    if agent.on_policy:
        agent.rollout_buffer.position = 0
    if isinstance(agent.learner, PPO):
        agent.learner.discounted_rewards.zero_()
    agent.answers = None
