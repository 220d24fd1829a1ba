"""Runs ``policykd cooperate`` with parsed options."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd

from policykd.classification.data.sets import load
from policykd.cli.cooperate import CooperateOptions
from policykd.cli.output import next_run, say
from policykd.cooperation.cooperative import CooperativeDistillation
from policykd.cooperation.learners import make_learners
from policykd.cooperation.picture import teaching_graph
from policykd.cooperation.tables import Dataset
from policykd.core.errors import PolicyKDError, nearest
from policykd.core.fields import require
from policykd.core.files import OPTIONS, versions, write_text
from policykd.core.lock import locked
from policykd.training.resume import command_folder, save_options
from policykd.training.run_folder import is_empty_folder

RESULT, RECEIVED = "teaching.png", "received"
MOST_WORDS = 1_000
"""Maximum number of one-hot columns that a categorical column may become."""
Tables = tuple[list[pd.DataFrame], list[pd.DataFrame]]
"""Training rows and validation rows of every learner."""


def run(options: CooperateOptions) -> None:
    """Let all learners teach one another, and write the results."""
    _check(options)
    learners = make_learners(options.learners)
    (own, held), label = _read(options), "label" if not options.data else options.label
    if len(learners) != len(own):
        raise PolicyKDError(f"learners: {len(own)} data files need one kind each, got {' '.join(options.learners)}")
    own, held, one_hot = _encode(own, held, label)
    cooperation = CooperativeDistillation(
        learners,
        rounds=options.rounds,
        one_hot=one_hot,
        n_jobs=options.jobs,
        random_state=options.seed,
        progress_bar=True,
        **dataclasses.asdict(options.search),
    )
    folder = command_folder(options.run_dir, options.resume, next_run("cooperate"))
    with _removed_if_empty(folder), locked(folder):
        save_options(folder, "cooperate", options)
        if (folder / RESULT).exists():
            say(f"run folder {folder}: already finished")
            return
        say(f"policykd cooperate: {', '.join(f'{n} ({len(t):,} rows)' for n, t in zip(learners, own, strict=True))}")
        try:
            cooperation.fit([_dataset(table, label) for table in own], [_dataset(table, label) for table in held])
        except PolicyKDError:  # nothing was computed: a refused run leaves nothing behind
            (folder / OPTIONS).unlink()
            raise
        except KeyboardInterrupt:
            say("\ninterrupted: nothing is saved before the end; --resume starts over")
            raise
        _write(cooperation, folder)
    lessons = cooperation.lessons_[["round", "teacher", "student", "qualified", "sent", "learned"]]
    say(lessons.to_string(index=False))
    say(_accuracy_table(cooperation).to_string())
    say(f"run folder {folder}: lessons.csv, accuracy.csv, teaching.png, received/NAME.csv")


@contextmanager
def _removed_if_empty(folder: Path) -> Iterator[None]:
    """Remove the folder on exit if it is empty."""
    try:
        yield
    finally:
        if is_empty_folder(folder):
            shutil.rmtree(folder, ignore_errors=True)


def _check(options: CooperateOptions) -> None:
    """Refuse options that cannot work or would have no effect."""
    require(options.seed >= 0, "seed", options.seed, "must not be negative")
    require(options.rounds >= 1, "rounds", options.rounds, "must be at least 1")
    require(options.jobs != 0, "jobs", options.jobs, "must not be 0")
    for name in () if options.data else ("label", "validation", "held_out"):
        if getattr(options, name) != getattr(CooperateOptions, name):
            raise PolicyKDError(
                f"cooperate: --{name.replace('_', '-')} applies to files only: name them with --data, or leave it out"
            )


def _read(options: CooperateOptions) -> Tables:
    """Read the files, or make the digits."""
    if not options.data:
        return _digit_halves(options.seed)
    if not 0 < options.held_out < 1:
        raise PolicyKDError(f"cooperate: held_out={options.held_out} must lie between 0 and 1")
    tables = [_read_csv(path, options.label) for path in options.data]
    if options.validation:
        if len(options.validation) not in (1, len(tables)):
            raise PolicyKDError(f"cooperate: validation needs one file, or one for each of {len(tables)} learners")
        held = [_read_csv(path, options.label) for path in options.validation]
        return tables, held * len(tables) if len(held) == 1 else held
    own, held = [], []
    for place, (path, table) in enumerate(zip(options.data, tables, strict=True)):
        order = np.random.default_rng((options.seed, place)).permutation(len(table))
        count = max(1, round(options.held_out * len(table)))
        if count == len(table):
            raise PolicyKDError(
                f"cooperate: held_out={options.held_out} leaves none of the {count} rows of {path}: lower it"
            )
        own.append(table.iloc[np.sort(order[count:])])
        held.append(table.iloc[np.sort(order[:count])])
    return own, held


def _read_csv(path: Path, label: str) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, skipinitialspace=True).rename(columns=str.strip)
        header = pd.read_csv(path, skipinitialspace=True, header=None, nrows=1, dtype=str).iloc[0].str.strip()
    except (OSError, ValueError) as error:  # pandas' own errors are ValueErrors
        raise PolicyKDError(f"data: cannot read {path}: {error}") from None
    if not isinstance(table.index, pd.RangeIndex):  # the first columns became the index, and all others moved
        raise PolicyKDError(f"data: {path} has more values per row than names in its header: make their numbers equal")
    if header.isna().any():
        place = int(header.isna().argmax())
        raise PolicyKDError(
            f"data: column {place + 1} of {path} has no name: name it, or leave it out if it is only the row index "
            "(index=False of pandas' to_csv)"
        )
    if header.duplicated().any():  # pandas would call the second one otherwise
        raise PolicyKDError(f"data: {path} has two columns {header[header.duplicated()].iloc[0]!r}: rename one")
    if label not in table:
        raise PolicyKDError(
            f"data: {path} has no column {label!r}{nearest(label, map(str, table))}: name it with --label"
        )
    if len(table) < 2:
        raise PolicyKDError(f"data: {path} has {len(table)} rows")
    return table


def _digit_halves(seed: int) -> Tables:
    """Columns 0 to 5 of the images without digits 0, 1, 2; columns 2 to 7 without digits 7, 8, 9."""
    splits = load("digits", seed=seed)
    pixels = [f"row{row}_column{column}" for row in range(8) for column in range(8)]
    train, held = (
        pd.DataFrame(part.inputs.reshape(-1, 64), columns=pixels).assign(label=part.labels)
        for part in (splits.train, splits.validation)
    )
    own, measured = [], []
    for columns, missing in ((range(6), (0, 1, 2)), (range(2, 8), (7, 8, 9))):
        names = [name for name in pixels if int(name[-1]) in columns] + ["label"]
        own.append(train.loc[~train["label"].isin(missing), names])
        measured.append(held[names])
    return own, measured


def _encode(
    own: list[pd.DataFrame], held: list[pd.DataFrame], label: str
) -> tuple[list[pd.DataFrame], list[pd.DataFrame], list[list[str]]]:
    """Encode categorical columns as one-hot over the values of all files; also return the groups of columns.

    A column with text in one file is categorical in all of them, as is the label column.
    """
    tables, groups = [*own, *held], []
    words = dict.fromkeys(name for table in tables for name in table if not pd.api.types.is_numeric_dtype(table[name]))
    tables = [_columns_as_text(table, list(words)) for table in tables]
    for name in [name for name in words if name != label]:
        values = sorted({value for table in tables if name in table for value in table[name].dropna()})
        if len(values) > MOST_WORDS:
            raise PolicyKDError(
                f"data: column {name!r} has {len(values):,} different strings, which need a column each: leave it out"
            )
        groups.append([f"{name}={value}" for value in values])
        tables = [_one_hot(table, str(name), values) if name in table else table for table in tables]
    return tables[: len(own)], tables[len(own) :], groups


NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?")
"""Spelling of a number in a categorical column."""


def _columns_as_text(table: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    return table.assign(
        **{name: table[name].map(_value_as_text, na_action="ignore") for name in names if name in table}
    )


def _value_as_text(value: object) -> str:
    """A value as text that is the same in every file: stripped, and 1 for 1.0."""
    text = str(value).strip()
    if not NUMBER.fullmatch(text):  # 007 and 1e2 are text
        return text
    return text.rstrip("0").rstrip(".") if "." in text else text


def _one_hot(table: pd.DataFrame, name: str, values: Sequence[str]) -> pd.DataFrame:
    if table[name].isna().any():
        raise PolicyKDError(f"data: column {name!r} has missing values: fill them in before")
    coded = pd.DataFrame(
        {f"{name}={value}": (table[name] == value).astype(float) for value in values}, index=table.index
    )
    return pd.concat([table.drop(columns=name), coded], axis=1)


def _dataset(table: pd.DataFrame, label: str) -> Dataset:
    return Dataset(table.drop(columns=label), table[label].to_numpy())


def _write(cooperation: CooperativeDistillation, folder: Path) -> None:
    """Write all results of a run; the plot comes last."""
    (folder / RECEIVED).mkdir(exist_ok=True)
    write_text(folder / "versions.json", json.dumps(versions(), indent=2) + "\n")
    write_text(folder / "lessons.csv", cooperation.lessons_.to_csv(index=False))
    write_text(folder / "accuracy.csv", cooperation.accuracy_.to_csv(index=False))
    for name, table in cooperation.received_.items():
        write_text(folder / RECEIVED / f"{name}.csv", table.to_csv(index=False))
    teaching_graph(cooperation.lessons_, cooperation.accuracy_, folder / RESULT)


def _accuracy_table(cooperation: CooperativeDistillation) -> pd.DataFrame:
    """Accuracy on the validation data by learner (rows) and round."""
    table = cooperation.accuracy_.pivot(index="learner", columns="round", values="validation")
    return table.rename_axis(columns="validation accuracy after round").round(4)
