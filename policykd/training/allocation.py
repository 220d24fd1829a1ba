"""Ranks peers by their training episodes, and allocates most environment steps of a group to its best peer."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from policykd.training.progress import Progress


class Standings:
    """Ranks the peers of every group by the mean return of their latest training episodes, without evaluations.

    Args:
        run: the run's progress, which counts the episodes.
        peers: learners N per group.
        episodes: latest training episodes of a peer by which it is judged.
    """

    def __init__(self, run: Progress, peers: int, episodes: int) -> None:
        self.run, self.peers, self.episodes = run, peers, episodes
        self._best: tuple[int, np.ndarray] | None = None

    def means(self) -> np.ndarray:
        """Mean return of every peer ``(G, N)``; NaN before it has an episode."""
        returns = [r[-self.episodes :] for r in self.run.returns()]
        return np.array([np.mean(r) if r else np.nan for r in returns]).reshape(-1, self.peers)

    def forget(self, learners: np.ndarray) -> None:
        """Judge these by later episodes alone."""
        for learner in learners:
            self.run.episodes[learner].clear()
        self._best = None

    def best(self) -> np.ndarray:
        """Index of each group's best learner ``(G,)``; -1 while one of its peers has no episode."""
        if self._best is None or self._best[0] != self.run.n_episodes:
            means = self.means()
            first = np.arange(len(means)) * self.peers
            known = ~np.isnan(means).any(1)
            self._best = self.run.n_episodes, np.where(known, first + np.nan_to_num(means).argmax(1), -1)
        return self._best[1]


class Allocation:
    """Deals out the episodes of every group to its peers.

    A group has one environment per peer. When an episode begins there, the peer with the largest credit acts in it.
    Every environment step of a group adds to each peer's credit its share and takes 1 from the peer that acted, so
    that steps follow shares whatever the lengths of episodes. A part ``floor`` of the steps is shared alike; the rest
    is the best peer's: the one whose latest training episodes returned most. Until every peer of the group has that
    many episodes, all share alike. Nothing is drawn at random.

    Args:
        groups: number of groups G.
        peers: learners N per group.
        floor: part of the steps that is shared alike, from 0 to 1.
        episodes: latest training episodes of a peer by which it is judged.
    """

    def __init__(self, groups: int, peers: int, floor: float, episodes: int) -> None:
        self.floor, self.episodes = floor, episodes
        self.acting = np.tile(np.arange(peers), (groups, 1))
        """The peer that acts in each environment of a group ``(G, N)``."""
        self.credit = np.zeros((groups, peers))
        self.returns = [[deque[float](maxlen=episodes) for _ in range(peers)] for _ in range(groups)]
        self.steps = np.zeros((groups, peers), np.int64)
        """Environment steps that each peer has taken ``(G, N)``."""
        self._due: np.ndarray | None = None
        """Credit of every step ``(G, N)`` until the returns change, which they do with episodes only."""

    def actor_in(self, environment: int) -> int:
        """The learner that acts in an environment."""
        group, place = divmod(environment, self.acting.shape[1])
        return int(environment - place + self.acting[group, place])

    def best(self, group: int) -> int | None:
        """The best peer of a group by its latest training episodes; None while some peer has too few."""
        returns = self.returns[group]
        if any(len(latest) < self.episodes for latest in returns):
            return None
        return int(np.argmax([np.mean(latest) for latest in returns]))

    def stepped(self, dones: np.ndarray, episode_returns: dict[int, float]) -> None:
        """Count a step of all environments, and deal out the episodes that begin now.

        Args:
            dones: where an episode ended, ``(G * N,)``.
            episode_returns: the return of each episode that ended, by environment.
        """
        peers = self.acting.shape[1]
        taken = (self.acting[:, :, None] == np.arange(peers)).sum(1)
        self.steps += taken
        self.credit -= taken
        if self._due is None:
            self._due = peers * self.shares()
        self.credit += self._due
        if dones.any():
            self._due = None
        for e in np.flatnonzero(dones):
            group, place = divmod(int(e), peers)
            self.returns[group][self.acting[group, place]].append(episode_returns[int(e)])
        for e in np.flatnonzero(dones):
            group, place = divmod(int(e), peers)
            self.acting[group, place] = self._next(group, place)

    def forget(self, learner: int) -> None:
        """Judge a learner by later episodes alone."""
        group, peer = divmod(learner, self.acting.shape[1])
        self.returns[group][peer].clear()
        self._due = None

    def shares(self) -> np.ndarray:
        """The part of its group's steps that each peer is due, ``(G, N)``; rows sum to 1."""
        groups, peers = self.acting.shape
        shares = np.full((groups, peers), 1.0 / peers)
        for group in range(groups):
            if (best := self.best(group)) is not None:
                shares[group] = self.floor / peers
                shares[group, best] += 1.0 - self.floor
        return shares

    def _next(self, group: int, place: int) -> int:
        """The peer with the largest credit; the one whose environment it is where several are alike."""
        credit = self.credit[group].copy()
        credit[place] += 1e-9
        return int(np.argmax(credit))

    def state(self) -> dict[str, Any]:
        """All of it as plain values and arrays, for a checkpoint."""
        return {
            "acting": self.acting,
            "credit": self.credit,
            "steps": self.steps,
            "returns": [[list(latest) for latest in group] for group in self.returns],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        for name in ("acting", "credit", "steps"):
            getattr(self, name)[:] = np.asarray(state[name])
        for group, saved in zip(self.returns, state["returns"], strict=True):
            for latest, values in zip(group, saved, strict=True):
                latest.clear()
                latest.extend(values)
        self._due = None
