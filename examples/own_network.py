"""Custom networks: a factory of (inputs, outputs), and a class whose parameters are one row per learner.

    python examples/own_network.py
    cd examples; policykd --plugins own_network train --env PolicyKD/PointReach-v0 --network residual --backbone td3

One call computes all learners: rows of parameters (R, P), inputs (R, B, in), outputs (R, B, out).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from policykd import DualStudent
from policykd.core.networks import MLP
from policykd.learners.settings import NETWORKS


@dataclass(frozen=True)
class Residual:
    """A hidden layer, a residual block with LayerNorm, and a linear layer."""

    inputs: int
    outputs: int
    width: int = 32

    @property
    def parts(self) -> list[MLP]:
        """Networks whose rows are concatenated."""
        block = MLP((self.width, self.width, self.width), layer_norm=True)
        return [MLP((self.inputs, self.width)), block, MLP((self.width, self.outputs))]

    @property
    def parameter_count(self) -> int:
        return sum(part.parameter_count for part in self.parts)

    def initialise(self, generator: np.random.Generator) -> Tensor:
        return torch.cat([part.initialise(generator) for part in self.parts])

    def __call__(self, rows: Tensor, inputs: Tensor) -> Tensor:
        first, block, last = self.parts
        own = rows.split([part.parameter_count for part in self.parts], dim=1)
        hidden = first(own[0], inputs).relu()
        return last(own[2], hidden + block(own[1], hidden))


NETWORKS["residual"] = Residual  # a name, for command lines and benchmark files


def main(steps: int = 5_000) -> DualStudent:
    agent = DualStudent(
        "PolicyKD/PointReach-v0",
        backbone="td3",
        config="quick",
        overrides={"network": Residual, "critic_network": lambda i, o: MLP((i, 64, 64, o), activation="elu")},
    )
    agent.learn(steps, progress_bar=True)
    print(f"returns of the two peers: {agent.evaluations[-1].returns.mean(1).round(1)}")
    return agent


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5_000)
    main(parser.parse_args().steps)
