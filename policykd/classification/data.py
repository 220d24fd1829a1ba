"""Data sets as arrays: scikit-learn's digits inside, others from local files or through torchvision.

Images are float32 ``(n, channels, height, width)`` of mean 0 and standard deviation 1 over the training images;
labels are int64 ``(n,)``. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np

from policykd.core.archives import RATIO, SPARE, read_npz
from policykd.core.errors import PolicyKDError, nearest
from policykd.core.extras import needs

DATA_VARIABLE = "POLICYKD_DATA"
"""Environment variable that names the folder of data files."""
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
NAMES = ("digits", *TORCHVISION)
MOST_CLASSES = 100_000
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Formats of images: those that Pillow reads by itself. For others, such as EPS, it starts a program."""


class Arrays(NamedTuple):
    """Inputs and labels of the same examples."""

    inputs: np.ndarray
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> Arrays:
        """Some of the examples."""
        return Arrays(self.inputs[rows], self.labels[rows])


class Splits(NamedTuple):
    """A data set for one experiment; the test data are for its end only."""

    train: Arrays
    validation: Arrays
    test: Arrays

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(max(split.labels.max() for split in self)) + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        return tuple(self.train.inputs.shape[1:])


def load(
    name: str,
    folder: str | Path | None = None,
    *,
    examples: int | None = None,
    validation: float = 0.1,
    seed: int = 0,
) -> Splits:
    """Load a data set and split it.

    Args:
        name: "digits"; "mnist" or "fashion-mnist" (IDX files in ``folder`` or in a subfolder of that name, or
            torchvision's copy there); "cifar10" or "cifar100" (torchvision's copy in ``folder``); a ``.npz`` file with
            ``train_inputs, train_labels, test_inputs, test_labels``; or a folder with ``train`` and ``test`` below it,
            each with one folder of images per class.
        folder: where data files are; None is what the environment variable POLICYKD_DATA says.
        examples: how many of the training examples to use, validation among them; None is all.
        validation: share of these that are kept for validation.
        seed: of the choice and the split.

    Raises:
        PolicyKDError: an unknown name, missing or damaged files, too few examples.
    """
    train, test = _read(name, folder)
    for part in (train, test):
        _check(part, name)
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        shapes = train.inputs.shape[1:], test.inputs.shape[1:]
        raise PolicyKDError(f"data: {name} has training examples of shape {shapes[0]} and test examples of {shapes[1]}")
    n = len(train.labels) if examples is None else examples
    if not 2 <= n <= len(train.labels) or not 0 < validation < 1:
        raise PolicyKDError(
            f"data: {name} has {len(train.labels)} training examples: asked for examples={examples}, "
            f"validation={validation} (a share between 0 and 1)"
        )
    rows = np.random.default_rng(seed).permutation(len(train.labels))[:n]
    held = min(max(1, round(n * validation)), n - 1)
    chosen = train.take(rows)
    mean, std = float(chosen.inputs[held:].mean()), float(chosen.inputs[held:].std())
    splits = [
        Arrays(((part.inputs - mean) / (std or 1.0)).astype(np.float32), part.labels.astype(np.int64))
        for part in (chosen.take(np.arange(held, n)), chosen.take(np.arange(held)), test)
    ]
    return Splits(*splits)


def _read(name: str, folder: str | Path | None) -> tuple[Arrays, Arrays]:
    """Training and test data as they are."""
    if name == "digits":
        return _digits()
    if name.endswith(".npz"):
        return _npz(Path(name))
    if Path(name).is_dir():
        return _image_folders(Path(name))
    if name not in TORCHVISION:
        raise PolicyKDError(
            f"data: {name!r} is neither a .npz file, a folder of images nor one of {', '.join(NAMES)}"
            f"{nearest(name, NAMES)}"
        )
    where = folder or os.environ.get(DATA_VARIABLE)
    if where is None:
        raise PolicyKDError(f"data: say where the files of {name} are: give a folder, or set {DATA_VARIABLE}")
    files = _idx_files(Path(where), name)
    return _torchvision(name, Path(where)) if files is None else files


def _check(part: Arrays, name: str) -> None:
    """Refuse what are no examples with classes."""
    inputs, labels = part
    if inputs.ndim < 2 or labels.ndim != 1 or len(labels) != len(inputs) or not len(labels):
        raise PolicyKDError(
            f"data: {name} needs as many labels (n,) as inputs (n, ...), has {labels.shape} and {inputs.shape}"
        )
    whole = labels.dtype.kind in "iu" or (labels.dtype.kind == "f" and (labels == np.floor(labels)).all())
    if not whole or labels.min() < 0 or labels.max() >= MOST_CLASSES:
        raise PolicyKDError(f"data: {name} needs labels 0, 1, ... below {MOST_CLASSES:,}, one per example")


def _digits() -> tuple[Arrays, Arrays]:
    """scikit-learn's 1,797 digits of 8x8; every fifth is for testing."""
    inputs, labels = needs("sklearn.datasets").load_digits(return_X_y=True)
    inputs, test = inputs.reshape(-1, 1, 8, 8), np.arange(len(labels)) % 5 == 0
    return Arrays(inputs[~test], labels[~test]), Arrays(inputs[test], labels[test])


def _npz(path: Path) -> tuple[Arrays, Arrays]:
    names = [f"{split}_{part}" for split in ("train", "test") for part in ("inputs", "labels")]
    try:
        a, b, c, d = read_npz(path, names)
    except Exception as error:  # what a damaged file makes of it has no class in common
        reason = str(error).partition("\n")[0][:200]
        raise PolicyKDError(f"data: cannot read {path}, which needs {', '.join(names)}: {reason}") from None
    return Arrays(a, b), Arrays(c, d)


def _idx_files(folder: Path, name: str) -> tuple[Arrays, Arrays] | None:
    """MNIST's own files, plain or gzipped, in the folder or below it; None where they are not."""
    for where in (folder / name, folder):
        found = [
            next((f for end in ("", ".gz") if (f := where / f"{part}-ubyte{end}").is_file()), None)
            for part in ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
        ]
        if all(found):
            images, labels, test_images, test_labels = (read_idx(file) for file in found if file is not None)
            return Arrays(images[:, None], labels), Arrays(test_images[:, None], test_labels)
    return None


def read_idx(path: Path) -> np.ndarray:
    """The bytes of an IDX file in their shape.

    Raises:
        PolicyKDError: the file is missing, cut short or of another kind.
    """
    try:
        most = SPARE + RATIO * path.stat().st_size
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(most)
        zero, kind, ranks = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{ranks}I", content[4 : 4 + 4 * ranks])
        if zero or kind != 8:
            raise ValueError("no IDX file of unsigned bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * ranks).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise PolicyKDError(f"data: cannot read {path}: {error}") from None


def _torchvision(name: str, folder: Path) -> tuple[Arrays, Arrays]:
    kind = TORCHVISION[name]
    try:
        from torchvision import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]

        train, test = (getattr(datasets, kind)(str(folder), train=train, download=False) for train in (True, False))
    except ImportError:
        raise PolicyKDError(f"data: no IDX files of {name} in {folder}, and no torchvision to read others") from None
    except RuntimeError:
        raise PolicyKDError(f"data: neither IDX files nor torchvision's copy of {name} in {folder}") from None
    return _images(train.data, train.targets), _images(test.data, test.targets)


def _image_folders(folder: Path) -> tuple[Arrays, Arrays]:
    """Images in ``train/CLASS/`` and ``test/CLASS/``, all of one size; classes in the order of their names."""
    names = sorted(path.name for path in (folder / "train").glob("*") if path.is_dir())
    if not names:
        raise PolicyKDError(f"data: {folder} has no folders of images train/CLASS")
    train, test = (_one_folder(folder / split, names) for split in ("train", "test"))
    return train, test


def _one_folder(folder: Path, names: list[str]) -> Arrays:
    from PIL import Image

    images, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).glob("*")):
            try:
                with Image.open(path, formats=FORMATS) as image:
                    images.append(np.asarray(image if image.mode == "L" else image.convert("RGB")))
            except Exception as error:  # Pillow's errors on damaged files have no class in common
                raise PolicyKDError(f"data: {path} is no image: {error}") from None
            labels.append(label)
    shapes = {image.shape for image in images}
    if len(shapes) != 1:
        raise PolicyKDError(
            f"data: {folder} needs images of one size, has {len(images)} of shapes {sorted(shapes)[:3]}"
        )
    return _images(np.stack(images), np.array(labels))


def _images(pixels: object, labels: object) -> Arrays:
    """Images (n, H, W) or (n, H, W, channels) with the channels first."""
    array = np.asarray(pixels)
    return Arrays(array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2), np.asarray(labels))
