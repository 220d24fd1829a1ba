"""A custom peer method: a row of choices, with a custom weight and divergence.

    python examples/own_method.py
    cd examples; policykd --plugins own_method train --env PolicyKD/PointReach-v0 --method curious --backbone sac

A weight is the importance of each state, a divergence the distance of two policies there. Both take and return tensors
for all learners at once: K learners, B states, A action dimensions.
"""

from __future__ import annotations

import argparse
from typing import Any

from torch import Tensor

from policykd import DualStudent
from policykd.core.networks import PolicyOutput
from policykd.distillation.divergences import DIVERGENCES
from policykd.distillation.methods import PEER_METHODS, PeerMethod
from policykd.distillation.weights import Comparison


def unsure(seen: Comparison, config: Any) -> Tensor:
    """Weights ``(K, B)`` with mean 1, larger where the two values differ more, whichever is higher."""
    gap = (seen.source_value - seen.own_value).abs()
    return gap / gap.mean(1, keepdim=True).clamp_min(1e-6)


def absolute(own: PolicyOutput, target: PolicyOutput) -> Tensor:
    """Sum of absolute differences of the actions, ``(K, B)``."""
    return (own.actions - target.actions).abs().sum(-1)


CURIOUS = PeerMethod("curious", "Copy the peer where the values differ most", weight=unsure, replay="pooled")
PEER_METHODS["curious"], DIVERGENCES["absolute"] = CURIOUS, absolute  # names, for command lines and benchmark files


def main(steps: int = 5_000) -> DualStudent:
    agent = DualStudent(
        "PolicyKD/PointReach-v0",
        method=CURIOUS,
        backbone="sac",
        seeds=(0, 1),
        config="quick",
        overrides={"divergence": absolute},
    )
    agent.learn(steps, progress_bar=True)
    print(f"returns of both groups: {agent.evaluations[-1].returns.mean(1).round(1)}")
    return agent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5_000)
    main(parser.parse_args().steps)
