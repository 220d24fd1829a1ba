"""Data sets as arrays: scikit-learn's digits, and others from local files or through torchvision.

Images are float32 ``(n, channels, height, width)`` of mean 0 and standard deviation 1 over all training pixels;
features are float32 ``(n, F)``, each of mean 0 and standard deviation 1 over the training rows. Labels are int64
``(n,)``, indices into the sorted ``names``. Nothing is downloaded.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

import numpy as np

from policykd.core.archives import RATIO, SPARE, read_npz
from policykd.core.arrays import mean_and_scale
from policykd.core.errors import PolicyKDError, nearest, one_line
from policykd.core.extras import import_extra

DATA_VARIABLE = "POLICYKD_DATA"
"""Environment variable that names the folder of data files."""
TORCHVISION = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"}
NAMES = ("digits", *TORCHVISION)
MOST_CLASSES = 100_000
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""Image formats that Pillow reads by itself; for others, such as EPS, it starts a program."""
GREY = ("L", "I", "I;16", "I;16B", "I;16L", "F")
"""Pillow's single-channel modes, which are kept: conversion to RGB would clip more than 8 bits at 255."""


class Arrays(NamedTuple):
    """Inputs and labels of the same examples."""

    inputs: np.ndarray
    labels: np.ndarray

    def take(self, rows: np.ndarray) -> Arrays:
        """Select rows."""
        return Arrays(self.inputs[rows], self.labels[rows])


class Splits(NamedTuple):
    """A data set for one experiment; use the test data only at its end."""

    train: Arrays
    validation: Arrays
    test: Arrays
    names: tuple[str, ...]
    """Class names, indexed by label."""

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return len(self.names)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input, without the batch dimension."""
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
            ``train_inputs, train_labels, test_inputs, test_labels``, whose labels may be strings or any integers; or
            a folder with subfolders ``train`` and ``test``, each with one folder of images per class.
        folder: folder of the data files; None uses the environment variable POLICYKD_DATA.
        examples: number of training examples to use, including validation; None uses all.
        validation: fraction of these held out for validation.
        seed: seed of the subset and the split.

    Raises:
        PolicyKDError: the name is unknown, files are missing or damaged, there are too few examples, inputs are not
            finite, labels are fractions or all the same, or test data have another width or classes without training
            examples.
    """
    train, test, folders = _read(name, folder)
    _check(name, train, test)
    both = np.concatenate([_whole(name, part.labels) for part in (train, test)])
    words, codes = np.unique(both, return_inverse=True)
    if len(words) < 2:
        raise PolicyKDError(f"data: all labels of {name} are {words[0]}: at least two classes are needed")
    if len(words) > MOST_CLASSES:
        raise PolicyKDError(f"data: {name} has {len(words):,} classes, more than {MOST_CLASSES:,}: are these labels?")
    names = tuple(folders[word] if folders else str(word) for word in words)
    train, test = Arrays(train.inputs, codes[: len(train.labels)]), Arrays(test.inputs, codes[len(train.labels) :])
    check_tested({names[code] for code in train.labels}, {names[code] for code in test.labels}, name)
    n = len(train.labels) if examples is None else examples
    if not 2 <= n <= len(train.labels) or not 0 < validation < 1:
        raise PolicyKDError(
            f"data: {name} has {len(train.labels)} training examples: asked for examples={examples}, "
            f"validation={validation} (a share between 0 and 1)"
        )
    rows = np.random.default_rng(seed).permutation(len(train.labels))[:n]
    held = min(max(1, round(n * validation)), n - 1)
    chosen = train.take(rows)
    scale = _scaler(chosen.inputs[held:])
    parts = (chosen.take(np.arange(held, n)), chosen.take(np.arange(held)), test)
    a, b, c = (Arrays(scale(part.inputs), part.labels.astype(np.int64)) for part in parts)
    return Splits(a, b, c, names)


def check_tested(trained: Collection[str], tested: Collection[str], where: str | Path) -> None:
    """Refuse classes that occur only in test data, since they cannot be learned.

    Raises:
        PolicyKDError: there is such a class; the error suggests the training class with the most similar name.
    """
    for name in sorted({*tested} - {*trained}):
        raise PolicyKDError(
            f"data: the test part of {where} has a class {name!r} that its training part lacks"
            f"{nearest(name, trained)}: rename it to match, or remove it"
        )


def _scaler(inputs: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Standardises inputs: features ``(n, F)`` each by its own statistics, images by those of all pixels."""
    mean, std = mean_and_scale(inputs, 0 if inputs.ndim == 2 else None)
    return lambda other: ((other - mean) / std).astype(np.float32)


def _check(name: str, train: Arrays, test: Arrays) -> None:
    """Refuse inputs and labels that do not match, or are not finite."""
    for part, (inputs, labels) in {"training": train, "test": test}.items():
        if inputs.ndim < 2 or labels.ndim != 1 or len(labels) != len(inputs) or not len(labels):
            raise PolicyKDError(
                f"data: the {part} part of {name} has inputs {inputs.shape} and labels {labels.shape}: it needs one "
                "label per input, and some"
            )
        if inputs.dtype.kind not in "buif" or not np.isfinite(inputs).all():
            raise PolicyKDError(f"data: the {part} inputs of {name} ({inputs.dtype}) are not all finite numbers")
    if train.inputs.shape[1:] != test.inputs.shape[1:]:
        shapes = f"{train.inputs.shape[1:]} and {test.inputs.shape[1:]}"
        raise PolicyKDError(f"data: training and test inputs of {name} differ in shape: {shapes}")


def _whole(name: str, labels: np.ndarray) -> np.ndarray:
    """Labels as strings or integers; fractions are refused."""
    if labels.dtype.kind == "f":
        if not (labels == np.round(labels)).all():
            odd = labels[labels != np.round(labels)][0]
            raise PolicyKDError(f"data: {name} has labels such as {odd:g}: scores, not classes")
        return labels.astype(np.int64)
    return labels if labels.dtype.kind in "iu" else labels.astype(str)


Parts = tuple[Arrays, Arrays, tuple[str, ...]]
"""Raw training and test data, and class names if the labels are indices."""


def _read(name: str, folder: str | Path | None) -> Parts:
    if name == "digits":
        return *_digits(), ()
    if name.endswith(".npz"):
        return *_npz(Path(name)), ()
    if Path(name).is_dir():
        return _image_folders(Path(name))
    if name not in TORCHVISION:
        raise PolicyKDError(
            f"data: {name!r} is not a .npz file, a folder of images or one of {', '.join(NAMES)}{nearest(name, NAMES)}"
        )
    where = folder or os.environ.get(DATA_VARIABLE)
    if where is None:
        raise PolicyKDError(f"data: the folder with the files of {name} is unknown: name it, or set {DATA_VARIABLE}")
    files = _idx_files(Path(where), name)
    return *(_torchvision(name, Path(where)) if files is None else files), ()


def _digits() -> tuple[Arrays, Arrays]:
    """scikit-learn's 1,797 digits of 8x8 pixels; every fifth is for testing."""
    inputs, labels = import_extra("sklearn.datasets").load_digits(return_X_y=True)
    inputs, test = inputs.reshape(-1, 1, 8, 8), np.arange(len(labels)) % 5 == 0
    return Arrays(inputs[~test], labels[~test]), Arrays(inputs[test], labels[test])


def _npz(path: Path) -> tuple[Arrays, Arrays]:
    names = [f"{split}_{part}" for split in ("train", "test") for part in ("inputs", "labels")]
    try:
        a, b, c, d = read_npz(path, names)
    except Exception as error:  # damaged files raise errors of many classes
        said = f"data: cannot read {path}, which needs {', '.join(names)}: {one_line(error)}"
        raise PolicyKDError(said) from None
    return Arrays(a, b), Arrays(c, d)


def _idx_files(folder: Path, name: str) -> tuple[Arrays, Arrays] | None:
    """MNIST's own files, plain or gzipped, in the folder or its subfolder; None if missing."""
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
    """Read an IDX file as a uint8 array.

    Raises:
        PolicyKDError: the file is missing, truncated or not of bytes in IDX format.
    """
    try:
        most = SPARE + RATIO * path.stat().st_size
        with gzip.open(path) if path.suffix == ".gz" else open(path, "rb") as file:
            content = file.read(most)
        zero, kind, ranks = struct.unpack(">HBB", content[:4])
        shape = struct.unpack(f">{ranks}I", content[4 : 4 + 4 * ranks])
        if zero or kind != 8:
            raise ValueError("not an IDX file of unsigned bytes")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * ranks).reshape(shape)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise PolicyKDError(f"data: cannot read {path}: {error}") from None


def _torchvision(name: str, folder: Path) -> tuple[Arrays, Arrays]:
    kind = TORCHVISION[name]
    try:
        from torchvision import datasets  # type: ignore[import-not-found, import-untyped, unused-ignore]

        train, test = (getattr(datasets, kind)(str(folder), train=train, download=False) for train in (True, False))
    except ImportError:
        raise PolicyKDError(
            f"data: no IDX files of {name} in {folder}, and no torchvision to read other files"
        ) from None
    except RuntimeError:
        raise PolicyKDError(f"data: neither IDX files nor torchvision's copy of {name} in {folder}") from None
    return _images(train.data, train.targets), _images(test.data, test.targets)


def _image_folders(folder: Path) -> Parts:
    """Images of one size and mode in ``train/CLASS/`` and ``test/CLASS/``; classes sorted by name."""
    names, tested = (sorted(p.name for p in (folder / split).glob("*") if p.is_dir()) for split in ("train", "test"))
    if not names:
        raise PolicyKDError(f"data: {folder} has no folders of images train/CLASS")
    check_tested(names, tested, folder)
    train, test = (_one_folder(folder / split, names) for split in ("train", "test"))
    if train.inputs.dtype != test.inputs.dtype:
        kinds = f"{train.inputs.dtype} and {test.inputs.dtype}"
        raise PolicyKDError(f"data: training and test images of {folder} differ in their numbers: {kinds}")
    return train, test, tuple(names)


def _one_folder(folder: Path, names: list[str]) -> Arrays:
    from PIL import Image

    images, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).glob("*")):
            try:
                with Image.open(path, formats=FORMATS) as image:
                    images.append(np.asarray(image if image.mode in GREY else image.convert("RGB")))
            except Exception as error:  # Pillow's errors on damaged files are of many classes
                raise PolicyKDError(f"data: {path} is not an image: {error}") from None
            labels.append(label)
    kinds = {f"{image.shape} {image.dtype}" for image in images}
    if len(kinds) != 1:
        raise PolicyKDError(
            f"data: {folder} needs images of one size and kind, has {len(images)} of {', '.join(sorted(kinds)[:3])}"
        )
    return _images(np.stack(images), np.array(labels))


def _images(pixels: object, labels: object) -> Arrays:
    """Images ``(n, H, W)`` or ``(n, H, W, channels)``, converted to channels first."""
    array = np.asarray(pixels)
    return Arrays(array[:, None] if array.ndim == 3 else array.transpose(0, 3, 1, 2), np.asarray(labels))
