"""Labelled sentences or sentence pairs: read from local files, tokenised once, batched by length.

A text is one row ``(2, L)`` of a tensor: token ids and segment ids, padded on the right. Texts are therefore arrays
like any other data: the teacher's outputs are cached by row, and every step trims its batch to the longest text.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from policykd.classification.data.batches import Rows, identity
from policykd.classification.data.sets import check_tested
from policykd.core.errors import PolicyKDError, one_line
from policykd.core.extras import import_extra
from policykd.core.fields import require

PAIRS = (("sentence1", "sentence2"), ("question", "sentence"), ("question1", "question2"), ("premise", "hypothesis"))
"""Names of the columns of sentence pairs."""
CHUNK = 50
"""Batches per chunk sorted by length: enough for batches of similar length, few enough to keep the order random."""


class Texts(NamedTuple):
    """Labelled texts."""

    first: list[str]
    """First or only sentences."""
    second: list[str] | None
    """Second sentences; None if texts are single sentences."""
    labels: np.ndarray
    """Class indices ``(n,)``."""
    names: tuple[str, ...] = ()
    """Class names, indexed by label."""

    def take(self, rows: np.ndarray) -> Texts:
        """Select rows."""
        second = None if self.second is None else [self.second[row] for row in rows]
        return Texts([self.first[row] for row in rows], second, self.labels[rows], self.names)


class Tokens(NamedTuple):
    """Tokenised texts sorted by length, shortest first: arrays for ``Distiller``."""

    inputs: Tensor
    """Token ids and segment ids ``(n, 2, L)`` int64."""
    labels: Tensor
    """``(n,)`` int64."""


def read_texts(folder: str | Path, order: Sequence[str] | None = None) -> tuple[Texts, Texts]:
    """Read training and test texts from a folder.

    It holds ``train.tsv`` and ``dev.tsv`` in GLUE's formats: a header with ``label`` and the columns of ``PAIRS`` or
    ``sentence`` (SST-2, RTE, QNLI), MRPC's header, or CoLA's four columns without a header. Or it was written by
    ``datasets.DatasetDict.save_to_disk``, with the splits ``train`` and ``validation`` and the same columns. Classes
    are sorted by number or alphabetically.

    Args:
        folder: folder of the files.
        order: class names of a model, in order; if the data have the same names, labels follow this order. Case is
            ignored.

    Raises:
        PolicyKDError: the folder is missing, a file has another structure, labels are fractions, or a class occurs only
            in test texts.
    """
    folder = Path(folder)
    if (folder / "dataset_dict.json").is_file():
        datasets = import_extra("datasets", "transformers")
        try:
            saved = datasets.load_from_disk(str(folder))
        except Exception as error:  # a damaged file may raise anything
            raise PolicyKDError(f"data: cannot read {folder}: {one_line(error)}") from None
        missing = {"train", "validation"} - set(saved)
        if missing:
            raise PolicyKDError(f"data: {folder} has no split {' and '.join(sorted(missing))}, only {', '.join(saved)}")
        columns = [_saved_columns(saved[split], f"{folder}, {split}") for split in ("train", "validation")]
        named = list(getattr(saved["train"].features["label"], "names", None) or [])
    else:
        named = []
        columns = [_read_tsv(folder / f"{split}.tsv") for split in ("train", "dev")]
    trained, tested = ({str(label) for label in labels} for *_, labels in columns)
    ordered = _class_order(trained | tested, named, order or (), folder)
    check_tested(trained, tested, folder)
    numbers = {name: number for number, name in enumerate(ordered)}
    train, test = (Texts(a, b, np.array([numbers[str(x)] for x in labels]), tuple(ordered)) for a, b, labels in columns)
    return train, test


def _class_order(names: set[str], named: list[str], order: Sequence[str], folder: Path) -> list[str]:
    """Class names in the model's order if it has the same names, else in the data set's, else sorted."""
    fraction = next((name for name in sorted(names) if _is_fraction(name)), None)
    if fraction is not None:
        raise PolicyKDError(f"data: {folder} has labels such as {fraction}: scores, not classes")
    if len(names) < 2:
        raise PolicyKDError(
            f"data: all texts of {folder} have the label {names.pop()}: at least two classes are needed"
        )
    if names <= {*named}:
        ordered = named
    else:
        ordered = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    places = {name.lower(): place for place, name in enumerate(order)}
    if len(places) == len(ordered) and places.keys() == {name.lower() for name in ordered}:
        return sorted(ordered, key=lambda name: places[name.lower()])
    return ordered


Columns = tuple[list[str], list[str] | None, list[Any]]


def _saved_columns(part: Any, where: str) -> Columns:
    """Columns of a ``datasets.Dataset``, with labels replaced by their class names if it has them."""
    first, second, labels = _columns(part.to_dict(), where)
    names = getattr(part.features["label"], "names", None)
    if names is not None and min(labels) < 0:
        raise PolicyKDError(f"data: {where} has texts without a label (-1)")
    return first, second, labels if names is None else [names[label] for label in labels]


def _read_tsv(path: Path) -> Columns:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:  # -sig: MRPC begins with a byte-order mark
            rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise PolicyKDError(f"data: cannot read {path}: {error}") from None
    if not rows:
        raise PolicyKDError(f"data: {path} is empty")
    header, body = rows[0], rows[1:]
    if header[0] == "Quality":  # MRPC
        header = ["label", "id1", "id2", "sentence1", "sentence2"]
    elif "label" not in header and all(len(row) == 4 and row[1] in ("0", "1") for row in rows):  # CoLA
        header, body = ["source", "label", "star", "sentence"], rows
    wrong = next((number for number, row in enumerate(body, 1) if len(row) != len(header)), None)
    if wrong is not None:
        raise PolicyKDError(f"data: row {wrong} of {path} has {len(body[wrong - 1])} columns, not {len(header)}")
    return _columns({name: [row[place] for row in body] for place, name in enumerate(header)}, str(path))


def _columns(table: dict[str, list[Any]], where: str) -> Columns:
    pair = next((names for names in PAIRS if names[0] in table and names[1] in table), ("sentence", ""))
    first = table.get(pair[0])
    if first is not None and "label" in table and not table["label"]:
        raise PolicyKDError(f"data: {where} has no rows, only a header")
    if not first or "label" not in table:
        raise PolicyKDError(
            f"data: {where} needs rows with label and sentence, or sentence1 and sentence2; it has {', '.join(table)}"
        )
    return first, table.get(pair[1]), table["label"]


def _is_fraction(name: str) -> bool:
    try:
        return not float(name).is_integer()
    except (ValueError, OverflowError):
        return False


def split(texts: Texts, examples: int | None, validation: float, seed: int) -> tuple[Texts, Texts]:
    """Split texts at random into training and validation texts.

    Args:
        texts: the texts to split.
        examples: number of texts to use, including validation; None uses all.
        validation: fraction of these held out.
        seed: seed of the split.

    Raises:
        PolicyKDError: there are too few texts.
    """
    total = len(texts.labels) if examples is None else examples
    if not 2 <= total <= len(texts.labels) or not 0 < validation < 1:
        raise PolicyKDError(f"data: examples={examples} of {len(texts.labels)} texts, validation={validation}")
    rows = np.random.default_rng(seed).permutation(len(texts.labels))[:total]
    held = min(max(1, round(total * validation)), total - 1)
    return texts.take(rows[held:]), texts.take(rows[:held])


def tokenise(tokenizer: Any, texts: Texts, max_length: int = 128) -> Tokens:
    """Tokenise texts, truncate them to ``max_length`` and sort them by length.

    Args:
        tokenizer: a tokenizer of Hugging Face's transformers.
        texts: the texts.
        max_length: maximum number of tokens per text, including special tokens.

    Raises:
        PolicyKDError: special tokens leave no room for any other.
    """
    special = tokenizer.num_special_tokens_to_add(pair=texts.second is not None)
    beside = f"must be above {special}, the number of special tokens, to leave room for text"
    require(max_length > special, "max_length", max_length, beside)
    encoded = tokenizer(
        texts.first, texts.second, truncation=True, max_length=max_length, return_token_type_ids=True, padding=False
    )
    ids, segments = encoded["input_ids"], encoded["token_type_ids"]
    order = sorted(range(len(ids)), key=lambda row: len(ids[row]))
    inputs = torch.zeros(len(ids), 2, len(ids[order[-1]]), dtype=torch.long)
    inputs[:, 0] = tokenizer.pad_token_id
    for place, row in enumerate(order):
        inputs[place, 0, : len(ids[row])] = torch.tensor(ids[row])
        inputs[place, 1, : len(ids[row])] = torch.tensor(segments[row])
    return Tokens(inputs, torch.from_numpy(texts.labels[order]).long())


def bucketed(tokens: Tokens, batch_size: int, seed: int, processes: int = 1) -> DataLoader:
    """Training batches of texts of similar length, in an order determined by seed and epoch.

    Args:
        tokens: texts as ``tokenise`` returns them.
        batch_size: texts per batch.
        seed: seed of the shuffling.
        processes: number of processes that share each batch.
    """
    batches = LengthBatches(len(tokens.labels), batch_size, seed, processes)
    return DataLoader(Rows(tuple(tokens)), batch_sampler=batches, collate_fn=identity)


class LengthBatches(Sampler[list[int]]):
    """Batches of rows of similar length, for rows sorted by length.

    Rows are shuffled, sorted within chunks of ``CHUNK`` batches and cut into batches, which are shuffled. With several
    processes a short batch comes last: anywhere else accelerate would drop it.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, processes: int = 1) -> None:
        self.rows, self.batch_size, self.seed, self.epoch = rows, batch_size, seed, 0
        self.short_last = processes > 1
        self.drop_last = False

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration belongs to."""
        self.epoch = epoch

    def __len__(self) -> int:
        return -(-self.rows // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = np.random.default_rng(np.random.SeedSequence((self.seed, self.epoch)))
        order, chunk = generator.permutation(self.rows), CHUNK * self.batch_size
        order = np.concatenate([np.sort(order[start : start + chunk]) for start in range(0, self.rows, chunk)])
        batches = [order[start : start + self.batch_size].tolist() for start in range(0, self.rows, self.batch_size)]
        mixed = [batches[place] for place in generator.permutation(len(batches))]
        yield from sorted(mixed, key=len, reverse=True) if self.short_last else mixed


def class_metrics(predictions: Sequence[int], labels: Sequence[int]) -> dict[str, float]:
    """GLUE's metrics: accuracy, F1 of class 1 (two classes only) and Matthews correlation."""
    measures = import_extra("sklearn.metrics")
    result = {
        "accuracy": measures.accuracy_score(labels, predictions),
        "matthews": measures.matthews_corrcoef(labels, predictions),
    }
    if {*labels, *predictions} <= {0, 1}:
        result["f1"] = measures.f1_score(labels, predictions, zero_division=0.0)
    return {name: float(value) for name, value in result.items()}
