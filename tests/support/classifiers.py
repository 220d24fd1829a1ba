"""A small problem and small networks for the tests of the classification mode.

As a program it trains on several CPU processes: python classifiers.py PROCESSES RESULT.json
"""

import json
import sys

import pandas as pd
import torch
from torch import nn

from policykd import Distiller

CLASSES, SIZE = 3, 6
FEATURES = {"student_features": ("body",), "teacher_features": ("body",)}
CONFIGS = {
    "fitnets": FEATURES,
    "rkd": FEATURES,
    "vid": FEATURES,
    "ted": {**FEATURES, "warm_up_epochs": 1, "filter_epochs": 1},
    "disk": {"teacher_features": ("body",), "warm_up_epochs": 1, "student_passes": 1, "guide_passes": 1},
    "rid": {**FEATURES, "filter_warm_up_epochs": 1, "cycle_epochs": 3},
    "reaugkd": {**FEATURES, "projection_epochs": 1},
}
FAST = {"batch_size": 16, "learning_rate": 1e-2, "log_freq": 5}


class Net(nn.Module):
    """One hidden layer with batch normalisation and dropout: all that eval mode changes."""

    def __init__(self, width, dropout=0.2, classes=CLASSES):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(SIZE, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(width, classes)

    def forward(self, inputs):
        return self.head(self.body(inputs))


def net(width, seed=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Net(width, **options)


def problem(examples=96, seed=0):
    """Inputs (n, 6) and labels (n,) of a problem that a linear classifier solves up to some noise."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(examples, SIZE, generator=generator)
    return inputs, (inputs[:, :CLASSES] + 0.3 * torch.randn(examples, CLASSES, generator=generator)).argmax(1)


def trained_teacher():
    teacher = net(16, seed=1, dropout=0.0)
    config = {**FAST, "epochs": 10}
    return Distiller(teacher, None, method="cross_entropy", config=config, device="cpu").fit(problem(seed=1)).student


def make(method, student, teacher, run_dir=None, device="cpu", **changes):
    """A distiller of few passes, with the settings that its method needs."""
    config = {**FAST, "epochs": 4, **CONFIGS.get(method, {}), **changes}
    return Distiller(student, teacher, method=method, config=config, device=device, run_dir=run_dir)


def weights(module):
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def in_a_process(result):
    """Train without batch normalisation, whose statistics are those of a process's own half of the batch."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(SIZE, 4), nn.ReLU(), nn.Linear(4, CLASSES))
    teacher = nn.Sequential(nn.Linear(SIZE, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    sizes = set()

    def adaptor(batch):
        sizes.add(len(batch[0]))
        return batch

    config = {**FAST, "epochs": 3, "keep_best": False, "student_features": ("1",), "teacher_features": ("1",)}
    run = f"{result}.run"
    distiller = Distiller(student, teacher, method="fitnets", config=config, device="cpu", adaptor=adaptor, run_dir=run)
    distiller.fit(problem(), problem(50, seed=2))
    if distiller.accelerator.is_main_process:
        content = {
            "processes": distiller.accelerator.num_processes,
            "smallest_batch": min(sizes),
            "losses": pd.read_csv(f"{run}/progress.csv")["train/loss"].dropna().tolist(),
            "history": distiller.history,
            "weights": [p.tolist() for p in student.parameters()],
        }
        with open(result, "w", encoding="utf-8") as file:
            json.dump(content, file)


if __name__ == "__main__":
    from accelerate import debug_launcher

    debug_launcher(in_a_process, args=(sys.argv[2],), num_processes=int(sys.argv[1]))
