"""A config's `data` section in, a data set ready for members out; and the rows that a fitted model is to predict."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens.config import DataSection
from distens.data import files, levels, source, splits
from distens.data.dataset import SPLITS, Dataset
from distens.data.preprocessing import Preprocessing
from distens.data.tables import Table
from distens.errors import DataError
from distens.records import Floats, Integers

EXAMPLE_ROWS = 5


@dataclass(frozen=True)
class Loaded:
    """A source, divided and encoded.

    Attributes:
        dataset: what members and the coordinator see.
        preprocessing: fitted on *train*.
        example_rows: the first rows of *test* as a user would give them: a DataFrame or an array.
        split_rows: split -> row numbers in the source, in the order of `dataset`; those of a given test part count
            from 0 in that part.
    """

    dataset: Dataset
    preprocessing: Preprocessing
    example_rows: Any
    split_rows: Mapping[str, Integers]


def load(section: DataSection, seed: int) -> Loaded:
    """Read, divide, fit on *train* alone, encode. Equal section and seed give equal bits.

    Raises:
        DataError: the source is missing, not readable, or cannot be divided.
    """
    raw = source.read(section)
    given = raw.test_rows is not None
    split_rows = splits.divide(raw.labels_N, raw.classes, section.splits, seed, section.rows, given)
    preprocessing = Preprocessing.fit(raw.rows, split_rows["train"], section)
    rows = {split: _take(raw.rows, numbers) for split, numbers in split_rows.items()}
    labels = {split: raw.labels_N[numbers] for split, numbers in split_rows.items()}
    if given:
        assert raw.test_labels_N is not None
        split_rows["test"] = np.arange(len(raw.test_labels_N))
        rows["test"], labels["test"] = raw.test_rows, raw.test_labels_N
    inputs = {split: preprocessing.transform(rows[split]) for split in SPLITS}
    for array in (*inputs.values(), *labels.values(), *split_rows.values()):
        array.flags.writeable = False  # as Ray would return them, so that both runners meet the same arrays
    dataset = Dataset(inputs, labels, raw.classes, fingerprint(inputs, labels, raw.classes))
    return Loaded(dataset, preprocessing, _take(rows["test"], np.arange(EXAMPLE_ROWS)), split_rows)


def fingerprint(inputs: Mapping[str, Floats], labels: Mapping[str, Integers], classes: tuple[str, ...]) -> str:
    """Return the SHA-256, in hexadecimal, of all splits and the classes' names."""
    digest = hashlib.sha256(repr(classes).encode())
    for split in SPLITS:
        for array in (inputs[split], labels[split]):
            digest.update(f"{split} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _take(rows: Any, numbers: Integers) -> Any:
    if hasattr(rows, "columns"):
        return rows.iloc[numbers[: len(rows)]].reset_index(drop=True)
    return rows[numbers[: len(rows)]]


def rows_from_file(path: str, preprocessing: Preprocessing) -> Any:
    """Return the rows in a file, as `preprocessing.transform` takes them.

    Args:
        path: a CSV or Parquet file for a model of tables; else a `.npz` file (its array `x_test`, `x`, or its only
            one), an idx file, or a folder of idx files (its test part).
        preprocessing: the model's.

    Raises:
        DataError: the file is missing, not readable, or of a kind that this model does not take.
    """
    location = files.locate(path)
    form = "idx" if location.is_folder else location.form()
    if isinstance(preprocessing.encoding, Table):
        if form == "csv":
            return files.read_csv(location, _verbatim(preprocessing.encoding))
        if form == "parquet":
            return files.read_parquet(location)
        raise DataError(f"{path}: this model predicts rows of a table. Allowed: .csv, .csv.gz, .parquet, .pq")
    if form == "npz":
        return _only_array(files.read_npz(location), path)
    if form == "idx":
        images = files.find_idx(location, "t10k", "images") if location.is_folder else location
        if images is None:
            found = levels.shortened(location.names())
            raise DataError(f"{path}: no file t10k-images-idx3-ubyte[.gz] in this folder. Found: {found}")
        return files.read_idx(images)
    raise DataError(f"{path}: this model predicts arrays. Allowed: .npz, an idx file, a folder of idx files")


def _verbatim(table: Table) -> list[str]:
    """Return the categories to read word for word; true and false are left to the reader, as in training."""
    return [category.name for category in table.categories if not set(category.levels) <= {"True", "False"}]


def _only_array(archive: Mapping[str, Any], path: str) -> Any:
    arrays = {name.lower(): array for name, array in archive.items()}
    for name in ("x_test", "x"):
        if name in arrays:
            return arrays[name]
    if len(arrays) != 1:
        raise DataError(f"{path}: expected an array x_test or x, or a single one. Found: {levels.shortened(archive)}")
    return next(iter(arrays.values()))
