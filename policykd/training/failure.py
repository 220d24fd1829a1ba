"""A task that fails in the middle of a run: say where, keep what was learnt, and say how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from policykd.core.errors import PolicyKDError
from policykd.core.seeding import env_seed
from policykd.learners import PPO
from policykd.tasks.contract import TaskError
from policykd.tasks.vector import LearnerEnvs
from policykd.training.collector import Collector
from policykd.training.progress import Progress
from policykd.training.run_folder import RunFolder


class Trained(Protocol):
    """An agent in training."""

    run: Progress
    collector: Collector
    envs: LearnerEnvs | None
    folder: RunFolder | None
    learner: Any
    memories: dict[str, Any]

    @property
    def n_envs(self) -> int:
        """Training environments of each learner."""

    def make_envs(self, append: bool) -> LearnerEnvs:
        """New training environments."""

    def save(self, path: Path, include_replay: bool) -> None:
        """Write a checkpoint."""


@contextmanager
def saved_on_failure(agent: Trained) -> Iterator[None]:
    """Save the run where its task raises or breaks the interface; its episodes then begin anew.

    Raises:
        PolicyKDError: what the task did, at which step, for which learner, and how to go on.
    """
    try:
        yield
    except TaskError as error:
        raise PolicyKDError(f"{error}{_where(agent, error)}; {_keep(agent)}") from error.__cause__


def _where(agent: Trained, error: TaskError) -> str:
    run = agent.run
    step = run.num_timesteps // run.steps_at_once + 1
    if error.env is None:
        return f" at step {step}"
    k = error.env // agent.n_envs
    seed, peer = run.learners[k]
    return f" at step {step} of learner {k} (seed {seed}, peer {peer})"


def _keep(agent: Trained) -> str:
    """Begin new episodes and save the run; returns what was kept and how to go on."""
    try:
        _begin_anew(agent)
    except PolicyKDError:  # the task fails from its first step on: there is nothing to go on from
        return "training stopped, earlier checkpoints are untouched"
    if agent.folder is None:
        return "nothing is lost: mend the task and call learn again, which begins new episodes"
    agent.save(agent.folder.checkpoint, include_replay=True)
    return f"saved to {agent.folder.checkpoint}: mend the task and go on with --resume, which begins new episodes"


def _begin_anew(agent: Trained) -> None:
    """New environments in the place of those in an unknown state; a rollout cut short is not learnt from."""
    assert agent.envs is not None
    agent.envs.close()
    agent.envs = agent.make_envs(append=True)
    at = agent.run.num_timesteps
    seeds = [env_seed(*who, "environment", n, at) for who in agent.run.learners for n in range(agent.n_envs)]
    agent.collector.attach(agent.envs, agent.envs.start(seeds))
    if "rollout" in agent.memories:
        agent.memories["rollout"].position = 0
    if isinstance(agent.learner, PPO):
        agent.learner.discounted_rewards.zero_()
