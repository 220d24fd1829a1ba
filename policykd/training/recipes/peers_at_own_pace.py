"""Off-policy peers with different numbers of gradient steps: those that have made theirs stay unchanged."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from policykd.core.networks import adams_of, state_tensors
from policykd.core.seeding import preserve_generators
from policykd.distillation.critic_step import CriticStep
from policykd.memory.replay import Batch
from policykd.training.recipes.peers_on_replay import PeersOnReplay, Turn


class PeersAtOwnPace(PeersOnReplay):
    """``PeersOnReplay`` with ``config.vary["gradient_steps"]``: each peer learns as it would with that setting alone.

    Every gradient step, of RL or of distillation, is computed for all learners at once. Learners whose own number is
    reached are put back after it, with their optimisers and generators; so are actors whose turn has not come (TD3's
    ``policy_delay``). A learner distils after each own step of its actor, from peers as they are by then. Diagnostics
    are of steps that are put back, too, and so are the critics by which joint coupling weighs states. Arguments:
    ``PeersOnReplay``.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        each = self.config.vary["gradient_steps"]
        self.each = np.tile(np.array(each, int), len(self.sampling) // self.group_size)
        """Gradient steps of every learner at every update, ``(K,)``."""
        self.due = self.moving = np.ones(len(self.each), bool)
        """Whose gradient step the present one is, and whose actors' too, ``(K,)``."""
        for adam in adams_of(self.learner, self.distillation, self.critics):
            adam.count_by_row()
        self._learn = self._masked_learn(self.learn)

    def updates_made(self, number: int) -> np.ndarray:
        """Gradient steps of every learner in the first ``number`` of the busiest peer, ``(K,)``."""
        most = self.each.max()
        made: np.ndarray = number // most * self.each + np.minimum(number % most, self.each)
        return made

    def step(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """One gradient step of the learners that have not made all of theirs."""
        before, after = (self.updates_made(self.n_updates + more) for more in (0, 1))
        self.due = after > before
        self.moving = self._actor_updates(after) > self._actor_updates(before)
        with preserve_generators(self.learner.generators, ~self.due):
            return super().step(progress, diagnose)

    def _actor_updates(self, made: np.ndarray) -> np.ndarray:
        return np.array([self.learner.actor_updates(int(number)) for number in made])

    def flags(self, number: int) -> tuple[bool, bool]:
        """Whether this step updates any learner's actor, and any learner's targets."""
        move = bool(self.moving.any())
        return move, move

    def sample(self, source: Literal["own", "pooled"] = "own") -> Batch:
        """A batch for RL's gradient step; the streams of who is not due stay where they are."""
        with preserve_generators(self.sampling, ~self.due):
            return super().sample(source)

    def turn(self, number: int) -> Turn:
        """Draw who distils from whom: else a learner that moves every other step would always meet the same peer."""
        return super().turn(self._random_turn(number))

    def _random_turn(self, number: int) -> int:
        return random.Random(number).randrange(len(self.peers.turns))

    def _distil_batch(self, number: int) -> Batch:
        with preserve_generators(self.sampling, ~self.moving):
            return super()._distil_batch(self._random_turn(number))

    def compile(self) -> None:
        """From now on compute with ``torch.compile``."""
        super().compile()
        self._learn = self._masked_learn(self._learn)

    def _masked_learn(self, learn: Callable[..., dict[str, Tensor]]) -> Callable[..., dict[str, Tensor]]:
        """RL's gradient step, for critics that are due and actors that move; then distillation's first, for these."""

        def rows(name: str) -> np.ndarray:
            return self.due if name.split(".")[0] in ("critic", "critic_adam") else self.moving

        def masked(batch: Batch, noise: Tensor | None, states: Tensor | None, turn: Turn, *flags: bool) -> Any:
            apart = states if self.method.coupling == "apart" else None
            with self._restore_others(rows):
                info = learn(batch, noise, states if apart is None else None, turn, *flags)
            return info if apart is None else info | self.distil(apart, turn, flags[-1])

        return masked

    def distil(self, states: Tensor, turn: Turn, diagnose: bool) -> dict[str, Tensor]:
        """One gradient step of distillation, for learners whose actors move."""
        with self._restore_others(lambda name: self.moving):
            return super().distil(states, turn, diagnose)

    def copy_critics(self, critics: CriticStep, number: int) -> dict[str, Tensor]:
        """One gradient step of critics towards their peers', for learners whose actors move."""
        with self._restore_others(lambda name: self.moving):
            return super().copy_critics(critics, number)

    @contextmanager
    def _restore_others(self, learners: Callable[[str], np.ndarray]) -> Iterator[None]:
        """Put back what the context changes of others than ``learners(name)``, tensor by tensor."""
        kept = []
        for part in (self.learner, self.distillation, self.critics):
            for name, tensor in () if part is None else state_tensors(part).items():
                others = torch.from_numpy(np.flatnonzero(~learners(name))).to(self.device)
                if len(others) and tensor.ndim and len(tensor) % len(self.each) == 0:
                    rows = tensor.view(len(self.each), -1)
                    kept.append((rows, others, rows[others]))
        yield
        for rows, others, values in kept:
            rows[others] = values
