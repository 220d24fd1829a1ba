"""Distil a classifier into a smaller one, and compare it with the same student trained on labels only.

    python scripts/train_classifier.py --method hinton
    python scripts/train_classifier.py --data fashion-mnist --data-dir FOLDER --epochs 20

Several GPUs or processes: accelerate launch scripts/train_classifier.py
"""

from pathlib import Path

import torch
import tyro

from policykd import Distiller
from policykd.classification.data.sets import load
from policykd.classification.models import MLP
from policykd.cli import guarded


def main(
    data: str = "digits",
    data_dir: Path | None = None,
    method: str = "hinton",
    epochs: int = 30,
    seed: int = 0,
) -> None:
    splits = load(data, data_dir, seed=seed)  # train, validation, test
    inputs = splits.shape[0] * splits.shape[1] * splits.shape[2]
    config = {"epochs": epochs, "batch_size": 64, "seed": seed}

    torch.manual_seed(seed)
    teacher = MLP(inputs, (256, 256), splits.classes)  # any torch module that returns logits
    students = []
    for way, its_teacher in (("cross_entropy", None), (method, teacher)):
        torch.manual_seed(seed)  # both students have the same initial weights
        student = MLP(inputs, (16,), splits.classes)
        students.append(Distiller(student, its_teacher, method=way, config=config))
        students[-1].check(splits.train)  # refuses anything invalid before training

    Distiller(teacher, None, method="cross_entropy", config=config).fit(splits.train, splits.validation)
    for distiller in students:
        distiller.fit(splits.train, splits.validation, progress_bar=True)  # keeps the best epoch on validation data
        print(f"{distiller.method_name}: test accuracy {distiller.evaluate(splits.test)['accuracy']:.3f}")


if __name__ == "__main__":
    guarded(lambda: tyro.cli(main, description=__doc__))
