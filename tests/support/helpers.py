"""What several tests need to build and compare learners."""

import numpy as np
import torch
from tiny import POINT

from policykd.core.networks import Adam
from policykd.learners import LEARNERS
from policykd.memory.replay import Batch
from policykd.training.dual_student import DualStudent, resolve_config


def make_learner(backbone, learners, observation_size=4, action_size=2, double=True, **changes):
    """Learners with networks of their own, in float64 where rounding must not blur a comparison."""
    config = resolve_config({"net_arch": (16, 12), **changes}, backbone, "any")
    generators = [np.random.default_rng(seed) for seed in range(learners)]
    learner = LEARNERS[backbone](observation_size, action_size, config, generators)
    return to_double(learner) if double else learner


def to_double(owner):
    """Bring every tensor of a learner and of its optimisers to float64."""
    for name, value in vars(owner).items():
        if isinstance(value, torch.Tensor):
            setattr(owner, name, value.double())
        elif isinstance(value, Adam):
            to_double(value)
    return owner


def random_batch(generator, learners, size=32):
    """Transitions of every learner as float64; some ended, some ran out of time."""
    kind = generator.random((learners, size))
    columns = [
        generator.normal(size=(learners, size, 4)),
        generator.uniform(-1, 1, (learners, size, 2)),
        generator.normal(size=(learners, size, 4)),
        generator.normal(size=(learners, size)),
        (kind < 0.2).astype(float),
        (kind > 0.8).astype(float),
    ]
    return Batch(*map(torch.from_numpy, columns))


def sequential(network, row):
    """One row of parameters as the torch modules it stands for."""
    layers, start = [], 0
    for inputs, outputs in network.layers:
        layer = torch.nn.Linear(inputs, outputs, dtype=row.dtype)
        end = start + inputs * outputs
        with torch.no_grad():
            layer.weight.copy_(row[start:end].view(inputs, outputs).T)
            layer.bias.copy_(row[end : end + outputs])
        start = end + outputs
        layers += [layer, torch.nn.ReLU()]
    layers[-1:] = [torch.nn.Tanh()] if network.squash else []
    return torch.nn.Sequential(*layers)


def flat_row(modules):
    """The parameters of torch modules as one row: layer by layer the weight (in, out), then the bias."""
    with torch.no_grad():
        return torch.cat([(p.T if p.ndim == 2 else p).reshape(-1) for p in modules.parameters()])


SMALL_PEERS = {
    "net_arch": (8, 8),
    "batch_size": 16,
    "distill_batch_size": 16,
    "buffer_size": 1_000,
    "learning_starts": 30,
    "eval_freq": 0,
    "n_eval_episodes": 1,
}


def make_peers(method="independent", backbone="sac", config=None, **arguments):
    """Peers on PointReach, small and not compiled."""
    config = SMALL_PEERS | (config or {})
    return DualStudent(POINT, method=method, backbone=backbone, config=config, compile=False, **arguments)
