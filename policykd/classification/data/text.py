"""Sentences, or pairs of them, with labels: read from local files, tokenised once, batched by length.

A text is one row ``(2, L)`` of a tensor: token ids and segment ids, padded on the right. So texts are arrays like any
other data: the teacher's outputs are kept by row, and every step trims its batch to the longest text in it.
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

from policykd.classification.data.batches import Rows, as_it_is
from policykd.classification.data.sets import check_tested
from policykd.core.errors import PolicyKDError, one_line
from policykd.core.extras import needs
from policykd.core.fields import require

PAIRS = (("sentence1", "sentence2"), ("question", "sentence"), ("question1", "question2"), ("premise", "hypothesis"))
"""Columns of two texts."""
CHUNK = 50
"""Batches whose rows are sorted by length together: enough for batches of like length, few enough for a random mix."""


class Texts(NamedTuple):
    """Labelled texts."""

    first: list[str]
    """Sentences."""
    second: list[str] | None
    """The other sentence of each pair; None where texts are single sentences."""
    labels: np.ndarray
    """Classes ``(n,)`` from 0."""
    names: tuple[str, ...] = ()
    """Of the classes, in the order of their numbers."""

    def take(self, rows: np.ndarray) -> Texts:
        """Some of the texts."""
        second = None if self.second is None else [self.second[row] for row in rows]
        return Texts([self.first[row] for row in rows], second, self.labels[rows], self.names)


class Tokens(NamedTuple):
    """Tokenised texts, short ones first: what ``Distiller`` takes as arrays."""

    inputs: Tensor
    """Token ids and segment ids ``(n, 2, L)`` int64."""
    labels: Tensor
    """``(n,)`` int64."""


def read_texts(folder: str | Path, order: Sequence[str] | None = None) -> tuple[Texts, Texts]:
    """Training texts, and those for testing, from a folder.

    It holds ``train.tsv`` and ``dev.tsv`` as GLUE's tasks come: a header with ``label`` and the columns of ``PAIRS`` or
    ``sentence`` (SST-2, RTE, QNLI), MRPC's header, or CoLA's four columns without one. Or it is what
    ``datasets.DatasetDict.save_to_disk`` wrote, with the splits ``train`` and ``validation`` and such columns. Labels
    are classes in the order of their numbers, or of the alphabet.

    Args:
        folder: where they are.
        order: names of a model's classes, in its order; where the data have the same names, their classes are numbered
            so. Case does not count.

    Raises:
        PolicyKDError: there is no such folder, a file is of another structure, labels are fractions, or a class has
            test texts alone.
    """
    folder = Path(folder)
    if (folder / "dataset_dict.json").is_file():
        datasets = needs("datasets", "transformers")
        try:
            saved = datasets.load_from_disk(str(folder))
        except Exception as error:  # whatever a damaged file makes of it
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
    """Names of the classes: in the order of the model, where it has the same, else of the data set, else sorted."""
    fraction = next((name for name in sorted(names) if _is_fraction(name)), None)
    if fraction is not None:
        raise PolicyKDError(f"data: {folder} has labels such as {fraction}: scores, not classes")
    if len(names) < 2:
        raise PolicyKDError(f"data: all texts of {folder} have the label {names.pop()}: there is nothing to tell apart")
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
    """Columns of a ``datasets.Dataset``; classes that have names there go by their names."""
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
    """Training and validation texts, drawn at random.

    Args:
        texts: all of them.
        examples: how many to use, validation among them; None is all.
        validation: share of these that are held out.
        seed: of the draw.

    Raises:
        PolicyKDError: there are not so many.
    """
    total = len(texts.labels) if examples is None else examples
    if not 2 <= total <= len(texts.labels) or not 0 < validation < 1:
        raise PolicyKDError(f"data: examples={examples} of {len(texts.labels)} texts, validation={validation}")
    rows = np.random.default_rng(seed).permutation(len(texts.labels))[:total]
    held = min(max(1, round(total * validation)), total - 1)
    return texts.take(rows[held:]), texts.take(rows[:held])


def tokenise(tokenizer: Any, texts: Texts, max_length: int = 128) -> Tokens:
    """Token ids and segment ids of texts, cut to ``max_length`` and sorted by length.

    Args:
        tokenizer: of Hugging Face's transformers.
        texts: n texts.
        max_length: tokens kept of a text, special ones included.

    Raises:
        PolicyKDError: special ones leave no room for another.
    """
    special = tokenizer.num_special_tokens_to_add(pair=texts.second is not None)
    beside = f"must be above {special}, the special tokens of a text, or nothing of it is read"
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
    """Training batches of texts of like length, in an order of the seed and the pass alone.

    Args:
        tokens: as ``tokenise`` sorted them.
        batch_size: texts per batch.
        seed: of the order.
        processes: that share the batches.
    """
    batches = LengthBatches(len(tokens.labels), batch_size, seed, processes)
    return DataLoader(Rows(tuple(tokens)), batch_sampler=batches, collate_fn=as_it_is)


class LengthBatches(Sampler[list[int]]):
    """Batches of rows that lie near one another, where rows are sorted by length.

    Rows are shuffled, sorted within chunks of ``CHUNK`` batches, cut into batches, and the batches are shuffled. Where
    processes share them, a short one comes last: accelerate would pass over it elsewhere.
    """

    def __init__(self, rows: int, batch_size: int, seed: int, processes: int = 1) -> None:
        self.rows, self.batch_size, self.seed, self.epoch = rows, batch_size, seed, 0
        self.short_last = processes > 1
        self.drop_last = False

    def set_epoch(self, epoch: int) -> None:
        """Say which pass comes next."""
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
    """GLUE's measures: accuracy, F1 of class 1 (two classes only) and Matthews' correlation."""
    measures = needs("sklearn.metrics")
    result = {
        "accuracy": measures.accuracy_score(labels, predictions),
        "matthews": measures.matthews_corrcoef(labels, predictions),
    }
    if {*labels, *predictions} <= {0, 1}:
        result["f1"] = measures.f1_score(labels, predictions, zero_division=0.0)
    return {name: float(value) for name, value in result.items()}
