"""How far a run has come: steps, episodes, evaluations."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from policykd.tasks import Evaluation

KEPT_EPISODES = 100
"""Episodes of each learner whose returns are averaged in the logs, as SB3 does."""


@dataclass
class Progress:
    """Where the training of K learners stands.

    Args:
        learners: (seed, peer) of every learner, in the order of the learner axis.
        steps_at_once: environment steps of one group in one step of all environments.
    """

    learners: list[tuple[int, int]]
    steps_at_once: int
    num_timesteps: int = 0
    """Environment steps of one group, all of its peers together."""
    span: tuple[int, int] = (0, 0)
    """The steps between which the current (or an interrupted) call of ``learn`` runs."""
    pending: bool = False
    """Whether the update after the last step is still to come: a callback saves, or raises, before it."""
    elapsed: float = 0.0
    """Seconds of training, without evaluations and checkpoints."""
    episodes: list[deque[dict[str, float]]] = field(default_factory=list)
    """The latest training episodes of every learner, as Monitor describes them: r, l, t."""
    n_episodes: int = 0
    """Episodes that ended, of all groups together."""
    ended: list[int] = field(default_factory=list)
    """The same of every learner that acted in them."""
    evaluation_steps: list[int] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    evaluation_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin without episodes."""
        self.episodes = self.episodes or [deque(maxlen=KEPT_EPISODES) for _ in self.learners]
        self.ended = self.ended or [0 for _ in self.learners]

    @property
    def fraction(self) -> float:
        """From 0 to 1 over the current call of ``learn``, for schedules."""
        start, end = self.span
        return min(1.0, (self.num_timesteps - start) / max(1, end - start))  # the last step may go beyond the end

    def set_end(self, end: int) -> None:
        """Go on until ``end``; a call that was interrupted keeps the beginning of its schedules."""
        if self.span[1] != end:
            self.span = (self.num_timesteps, end)

    def restart_schedules(self) -> None:
        """Let schedules begin here, and judge by later episodes alone: those so far were of others, or of a teacher."""
        self.span = (self.num_timesteps, self.num_timesteps)
        for episodes in self.episodes:
            episodes.clear()

    def due(self, every: int) -> bool:
        """Whether the last step crossed a multiple of ``every`` (never for 0)."""
        return every > 0 and self.num_timesteps % every < self.steps_at_once

    @property
    def evaluated(self) -> bool:
        """Whether the learners were evaluated after the last step."""
        return self.evaluation_steps[-1:] == [self.num_timesteps]

    def episode_ended(self, learner: int, episode: dict[str, float]) -> None:
        """Note a training episode of a learner, as Monitor describes it."""
        self.episodes[learner].append(episode)
        self.n_episodes += 1
        self.ended[learner] += 1

    def returns(self) -> list[list[float]]:
        """Returns of the latest training episodes of every learner, the latest last."""
        return [[episode["r"] for episode in episodes] for episodes in self.episodes]

    def state(self) -> dict[str, Any]:
        """All of it as plain values and arrays, for a checkpoint."""
        return {
            "num_timesteps": self.num_timesteps,
            "elapsed": self.elapsed,
            "evaluation_steps": self.evaluation_steps,
            "evaluation_seconds": self.evaluation_seconds,
            "evaluations": [{"returns": e.returns, "lengths": e.lengths} for e in self.evaluations],
            "episodes": [list(episodes) for episodes in self.episodes],
            "n_episodes": self.n_episodes,
            "ended": self.ended,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.num_timesteps, self.elapsed = state["num_timesteps"], state["elapsed"]
        self.evaluation_steps = list(state["evaluation_steps"])
        self.evaluation_seconds = list(state["evaluation_seconds"])
        self.evaluations = [Evaluation(e["returns"], e["lengths"]) for e in state["evaluations"]]
        for episodes, saved in zip(self.episodes, state["episodes"], strict=True):
            episodes.extend(saved)
        self.n_episodes = state["n_episodes"]
        learners = len(self.learners)  # older checkpoints do not say whose episodes ended: as many of each
        alike = [(self.n_episodes + k) // learners for k in range(learners)]
        self.ended = list(state.get("ended", alike))
        self.span, self.pending = tuple(state.get("span", self.span)), bool(state.get("pending", False))
