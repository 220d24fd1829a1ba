"""The update of all learners: a gradient step of reinforcement learning, then one of distillation."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import types
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from policykd import native
from policykd.core.errors import PolicyKDError
from policykd.distillation.methods import Method
from policykd.distillation.peer_step import DistillationStep
from policykd.distillation.schedules import SCHEDULES
from policykd.learners import OffPolicyLearner
from policykd.learners.config import OffPolicyConfig
from policykd.memory.replay import Batch, SharedReplay
from policykd.native import build

CACHE = "TORCHINDUCTOR_CACHE_DIR"
"""The variable that says where torch keeps what it compiled."""


class Peers:
    """Who copies whom. In a group of N, the peer of a learner turns through the N - 1 others, step by step.

    Args:
        learners: number of learners K.
        peers: learners per group N.
        source: "peer", "first" (only copies of each group's first learner count) or None.
        device: where the index tensors live.
    """

    def __init__(self, learners: int, peers: int, source: str | None, device: torch.device) -> None:
        index = np.arange(learners)
        first, place = index // peers * peers, index % peers
        self.peer_of = [first + (place + 1 + shift) % peers for shift in range(max(1, peers - 1))]
        self.turns = []
        for peer_of in self.peer_of:
            taught = np.ones(learners) if source == "peer" else (peer_of == first) & (index != first)
            self.turns.append(
                (
                    torch.from_numpy(peer_of).to(device),
                    torch.from_numpy(np.argsort(peer_of)).to(device),
                    torch.from_numpy(taught.astype(np.float32)).to(device),
                )
            )


class Update:
    """Samples batches and improves all learners by one step each.

    Args:
        learner: the learners.
        method: what they learn from one another.
        config: settings.
        replay: where their transitions are.
        generators: one per learner, for sampling.
        peers: learners per group.
        compiled: compile the step with ``torch.compile``.
    """

    def __init__(
        self,
        learner: OffPolicyLearner,
        method: Method,
        config: OffPolicyConfig,
        replay: SharedReplay,
        generators: list[np.random.Generator],
        peers: int,
        compiled: bool,
    ) -> None:
        self.learner, self.method, self.config = learner, method, config
        self.replay, self.generators, self.compiled = replay, generators, compiled
        self.peers = Peers(len(generators), peers, method.source, learner.actor.device)
        self.distillation = DistillationStep(method, config, learner) if method.source and peers > 1 else None
        if self.distillation is not None:
            self.schedule = SCHEDULES[config.distill_schedule]
        self.distill_learning_rate = torch.zeros((), device=learner.actor.device)
        self.n_updates = 0
        self._step = compile_step(self._learn, learner.actor.device) if compiled else self._learn

    def step(self, progress: float, diagnose: bool) -> dict[str, Tensor]:
        """One gradient step of every learner and, after each step of the policies, one of distillation.

        Args:
            progress: from 0 to 1 over the run, for schedules.
            diagnose: also return what is only logged.

        Returns:
            diagnostics by log key, ``(K,)``.
        """
        self.n_updates += 1
        config, learner = self.config, self.learner
        update_actor, update_targets = learner.updates_actor(self.n_updates), learner.updates_targets(self.n_updates)
        batch = self.replay.sample(config.batch_size, self.generators, self.method.replay)
        noise = learner.draw_noise(config.batch_size)
        states, turn = None, 0
        if self.distillation is not None and update_actor:
            turn = learner.actor_updates(self.n_updates) % len(self.peers.turns)
            peer_of = self.peers.peer_of[turn]
            states = self.replay.sample(
                config.distill_batch_size,
                self.generators,
                "peer" if self.method.states == "peer" else "own",
                peer_of=peer_of,
                recent=config.distill_recent,
            ).observations
            self.distill_learning_rate.fill_(config.distill_learning_rate * self.schedule(progress))
        # A compiled step has one graph with all diagnostics in it: they cost it next to nothing.
        flags = update_actor, update_targets, diagnose or self.compiled
        with torch.no_grad():
            return self._step(batch, noise, states, self.peers.turns[turn], *flags)

    def _learn(
        self,
        batch: Batch,
        noise: Tensor | None,
        states: Tensor | None,
        turn: tuple[Tensor, Tensor, Tensor],
        update_actor: bool,
        update_targets: bool,
        diagnose: bool,
    ) -> dict[str, Tensor]:
        info = self.learner.update(batch, noise, update_actor, update_targets)
        if self.distillation is not None and states is not None:
            info |= self.distillation.update(states, *turn, self.distill_learning_rate, diagnose)
        return info


def can_compile(device: torch.device) -> bool:
    """Whether this machine has what ``torch.compile`` needs: a GPU, or a C++ compiler for the CPU."""
    return device.type == "cuda" or any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++")))


def compile_step(method: Callable[..., Any], device: torch.device) -> Any:
    """``torch.compile`` of a method as it serves small networks best; what is compiled is kept for later runs.

    Args:
        method: a bound method whose object stays as it is: tensors are changed in place, and nothing else at all.
        device: where it computes.

    Raises:
        PolicyKDError: there is no C++ compiler.
    """
    if not can_compile(device):
        raise PolicyKDError(
            "compile: torch.compile needs a C++ compiler (g++ or clang++): install one, or compile=False"
        )
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir  # here: it imports Dynamo

    native.prepare_to_compile()
    if os.environ.get(CACHE) in (None, default_cache_dir()):  # nobody chose one: torch's own is lost at every start
        with contextlib.suppress(build.Unavailable):
            os.environ[CACHE] = str(build.cache_folder() / "torchinductor")
    assert isinstance(method, types.MethodType)
    code = method.__func__.__code__.replace()  # torch keeps graphs with the code: one of its own for every agent
    function = types.FunctionType(code, method.__func__.__globals__)
    own = types.MethodType(functools.wraps(method.__func__)(function), method.__self__)
    options: dict[str, Any] = {"guard_filter_fn": _guards_of_arguments}
    if device.type == "cuda":  # CUDA graphs replay the whole step with one call
        options["triton.cudagraphs"] = True
    else:  # calls from C++ instead of Python: at these sizes a quarter of the time
        options["cpp_wrapper"] = True
    return torch.compile(own, fullgraph=True, dynamic=False, options=options)


def _guards_of_arguments(guards: Sequence[Any]) -> list[bool]:
    """Check only the arguments at every call, not the hundreds of tensors and settings behind ``self``."""
    return [not guard.name.startswith("L['self']") and not guard.is_global for guard in guards]
