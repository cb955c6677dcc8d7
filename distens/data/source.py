"""Sources by address: scikit-learn's bundled sets, tables, `.npz` files, folders of idx files, data modules.

Also the rows that a fitted model is to predict, from the same kinds of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distens import registry
from distens.addresses import is_address
from distens.config.sections import DataSection, is_data_module
from distens.data import files
from distens.data.column import ReadColumn
from distens.data.columns import read_columns, read_target
from distens.data.csv_files import read_csv
from distens.data.data_modules import read_data_module
from distens.data.parquet_files import read_parquet
from distens.data.preprocessing import Preprocessing
from distens.data.tables import Table
from distens.errors import ConfigError, DataError, did_you_mean
from distens.targets._levels import shortened
from distens.targets.classes import Classes
from distens.targets.protocol import Target, Targets

Rows = Any
"""A pandas DataFrame (a table), or an array: (N, features), (N, height, width) or (N, height, width, channels)."""

SKLEARN = ("breast_cancer", "diabetes", "digits", "iris", "wine")
REGRESSION_SOURCES = ("sklearn:diabetes",)
"""Sources whose target is a number unless `data.task` says otherwise."""

TASKS = {"classification": "classes", "regression": "values"}
"""Task -> the kind of its target."""


def find_target_class(section: DataSection) -> type[Target]:
    """Return the class of the target that a config's `data` section asks for.

    Raises:
        ConfigError: there is no task or target of that name.
    """
    task = section.task or ("regression" if section.source in REGRESSION_SOURCES else "classification")
    if task not in TASKS and not is_address(task) and task not in registry.names("targets"):
        raise ConfigError(
            f"data.task: unknown task {task!r}. {did_you_mean(task, [*TASKS, *registry.names('targets')])}"
        )
    return registry.find_plugin("targets", TASKS.get(task, task), "data.task")


@dataclass(frozen=True)
class RawData:
    """A source as it was read, before splits and preprocessing.

    Attributes:
        rows: all rows except given parts, without the target and the dropped columns.
        targets_N: each row's target, as `target` encodes it.
        target: the kind of the targets.
        test_rows, test_targets_N: the source's own test part; None if it has none.
        held_rows, held_targets_N: the source's own validation part, for *search* and *combine*; None if it has none.
        columns: the columns of a table, as they were read.
    """

    rows: Rows
    targets_N: Targets
    target: Target
    test_rows: Rows | None = None
    test_targets_N: Targets | None = None
    columns: tuple[ReadColumn, ...] | None = None
    held_rows: Rows | None = None
    held_targets_N: Targets | None = None


def read_source(section: DataSection, least_classes: int = 2, as_found: bool = False) -> RawData:
    """Return the rows and targets of the source that a config's `data` section names.

    Args:
        least_classes: the least number of classes that must have rows.
        as_found: True if rows of a table are for a fitted preprocessing: what their texts stand for is not decided.

    Raises:
        DataError: the source is missing or not readable, a column does not exist, a target is missing, there are too
            few classes, or an option has no effect on this kind of source.
    """
    raw = _read(section, as_found)
    if isinstance(raw.target, Classes):
        labels_N, more_N = raw.targets_N, raw.test_targets_N
        present = np.unique(labels_N if more_N is None else np.append(labels_N, more_N))
        if len(present) < least_classes:
            where = section.source + (f", column {section.target!r}" if section.target is not None else "")
            only = raw.target.names[int(present[0])]
            raise DataError(f"{where}: the target has a single class, {only!r}; at least two are needed")
    return raw


def _read(section: DataSection, as_found: bool) -> RawData:
    if is_data_module(section.source):
        return _from_arrays(section, read_data_module(section.source, section.options))
    _refuse_options(section, ("options",), "no LightningDataModule")
    if section.source.startswith("sklearn:"):
        return _read_sklearn(section)
    location = files.locate(section.source)
    if location.is_folder:
        return _from_arrays(section, _idx_arrays(location))
    form = location.form()
    if form == "npz":
        return _from_arrays(section, _npz_arrays(files.read_npz(location), section.source))
    if form == "csv":
        return _from_table(section, read_csv(location, section.csv), as_found)
    if form == "parquet":
        _refuse_options(section, ("csv",), "a Parquet table")
        return _from_table(section, read_parquet(location, section.drop), as_found)
    raise DataError(
        f"data.source {section.source!r}: unknown kind of file. "
        f"Allowed: {', '.join(files.FORMS)}, a folder of idx files, sklearn:NAME, or package.module:DataModule"
    )


def _read_sklearn(section: DataSection) -> RawData:
    name = section.source.removeprefix("sklearn:")
    if name not in SKLEARN:
        raise DataError(f"data.source: unknown scikit-learn data set {name!r}. {did_you_mean(name, SKLEARN)}")
    from sklearn import datasets

    if name == "digits":
        digits: Any = datasets.load_digits()
        return _from_arrays(section, {"x": digits.images, "y": digits.target})
    if section.target is not None:
        raise DataError(f"data.target has no effect on {section.source}, whose target is known")
    bunch: Any = getattr(datasets, f"load_{name}")(as_frame=True)
    _check_columns(section, list(bunch.data.columns))
    column = bunch.target if name == "diabetes" else bunch.target_names[bunch.target.to_numpy()]
    target, targets_N = find_target_class(section).encode(column, section.source)
    _refuse_options(section, ("csv",), "numbers")
    rows, columns = read_columns(_without(bunch.data, section.drop), section)
    return RawData(rows, targets_N, target, columns=columns)


def _from_table(section: DataSection, table: Any, as_found: bool) -> RawData:
    table.columns = [str(name) for name in table.columns]
    columns = list(table.columns)
    if section.target is None:
        raise DataError(f"data.target is missing: which column of {section.source}? {did_you_mean('', columns)}")
    if section.target not in columns:
        hint = did_you_mean(section.target, columns)
        raise DataError(f"data.target: no column {section.target!r} in {section.source}. {hint}")
    _check_columns(section, columns)
    if not len(table):
        raise DataError(f"{section.source}: the table has no rows")
    where = f"{section.source}, column {section.target!r}"
    column = read_target(table[section.target], where, section)
    if section.task is None and _looks_like_numbers(column):
        raise DataError(
            f"{where}: the target has {column.nunique():,} different numbers; say what is to be predicted: "
            "`data.task: regression`, or `data.task: classification`"
        )
    target, targets_N = find_target_class(section).encode(column, where)
    rows, columns = _without(table, [section.target, *section.drop]), None
    if not as_found:
        rows, columns = read_columns(rows, section)
    return RawData(rows, targets_N, target, columns=columns)


def _looks_like_numbers(column: Any) -> bool:
    """Return True if a column holds fractions, and too many different numbers to be classes."""
    if column.dtype.kind != "f":
        return False
    numbers = column.dropna()
    return bool((numbers % 1 != 0).any()) and numbers.nunique() > max(20, len(numbers) // 20)


def _check_columns(section: DataSection, columns: list[str]) -> None:
    named = {option: tuple(getattr(section, option)) for option in ("numeric", "categorical", "drop", "dates")}
    for option, names in named.items():
        for name in names:
            if name == section.target and option == "categorical":
                continue  # its texts are the names of classes, whatever they look like
            if name == section.target:
                raise DataError(f"data.{option}: {name!r} is the target")
            if name not in columns:
                hint = did_you_mean(name, (c for c in columns if c != section.target))
                raise DataError(f"data.{option}: no column {name!r} in {section.source}. {hint}")
    for (one, names), (other, others) in combinations(named.items(), 2):
        for name in names:
            if name in others:
                raise DataError(f"data.{one} and data.{other} both name {name!r}")


def _without(table: Any, names: Iterable[str]) -> Any:
    rest = table.drop(columns=list(names))
    if not len(rest.columns):
        raise DataError("data: no column is left to learn from")
    return rest


def _idx_arrays(folder: files.Location) -> dict[str, NDArray[Any]]:
    arrays = {}
    for part, suffix in (("train", "train"), ("t10k", "test")):
        images, labels = (files.find_idx(folder, part, what) for what in ("images", "labels"))
        if images and labels:
            arrays |= {f"x_{suffix}": files.read_idx(images), f"y_{suffix}": files.read_idx(labels)}
        elif part == "train" or images or labels:
            lacking = f"{part}-labels-idx1-ubyte" if images else f"{part}-images-idx3-ubyte"
            found = shortened(folder.names())
            raise DataError(f"{folder.address}: no file {lacking}[.gz] in this folder. Found: {found}")
    return arrays


def _npz_arrays(archive: Mapping[str, NDArray[Any]], where: str) -> dict[str, NDArray[Any]]:
    arrays = {name.lower(): array for name, array in archive.items()}
    arrays = {name: array for name, array in arrays.items() if name not in ("x_val", "y_val")}  # data modules have them
    if not ({"x_train", "y_train"} <= set(arrays) or {"x", "y"} <= set(arrays)):
        found = shortened(sorted(archive))
        raise DataError(f"{where}: expected arrays x_train and y_train (x_test, y_test), or x and y. Found: {found}")
    if ("x_test" in arrays) != ("y_test" in arrays):
        raise DataError(f"{where}: only one of x_test and y_test is there. Found: {shortened(sorted(archive))}")
    return arrays


def _from_arrays(section: DataSection, arrays: Mapping[str, NDArray[Any]]) -> RawData:
    options = ("target", "numeric", "categorical", "drop", "unseen", "missing", "dates", "csv")
    _refuse_options(section, options, "arrays, not a table")
    where, suffix = section.source, "_train" if "x_train" in arrays else ""
    parts = {"": suffix, **{name: f"_{name}" for name in ("val", "test") if f"x_{name}" in arrays}}
    checked = {name: _checked(arrays["x" + end], arrays["y" + end], f"{where}, x{end}") for name, end in parts.items()}
    (shape, *_), *others = [(rows.shape[1:], name) for name, (rows, _) in checked.items()]
    for other, name in others:
        if other != shape:
            raise DataError(f"{where}: training rows have shape {shape}, {name} rows {other}")
    targets = np.concatenate([one for _, one in checked.values()])
    target, targets_N = find_target_class(section).encode(targets, where, arrays.get("classes"))
    ends = np.cumsum([len(rows) for rows, _ in checked.values()])
    found = {name: (checked[name][0], part) for name, part in zip(checked, np.split(targets_N, ends[:-1]), strict=True)}
    test, held = (found.get(name, (None, None)) for name in ("test", "val"))
    return RawData(*found[""], target, *test, held_rows=held[0], held_targets_N=held[1])


def _refuse_options(section: DataSection, options: Iterable[str], content: str) -> None:
    for option in options:
        value = getattr(section, option)
        written = (option, value) == ("unseen", "error")  # by older versions, into every config
        if value != DataSection.model_fields[option].default and not written:
            raise DataError(f"data.{option} has no effect on {section.source}, which holds {content}")


def _checked(rows: NDArray[Any], targets: NDArray[Any], where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rows (booleans as integers) and targets (with one axis), if both have a shape and dtype to learn from."""
    if rows.dtype.kind not in "buif":
        raise DataError(f"{where}: expected numbers, found {rows.dtype}")
    if rows.ndim not in (2, 3, 4) or 0 in rows.shape:
        raise DataError(
            f"{where}: expected (rows, features), (rows, height, width) or (rows, height, width, channels), "
            f"found shape {rows.shape}"
        )
    if rows.ndim == 4 and rows.shape[3] > 4 >= rows.shape[1]:
        raise DataError(f"{where}: channels come last, (rows, height, width, channels); found shape {rows.shape}")
    if targets.ndim == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if targets.ndim != 1 or len(targets) != len(rows):
        raise DataError(f"{where}: {len(rows)} rows need {len(rows)} labels, found labels of shape {targets.shape}")
    return rows.astype(np.uint8) if rows.dtype.kind == "b" else rows, targets


def rows_from_file(path: str, preprocessing: Preprocessing) -> Any:
    """Return the rows in a file, as `preprocessing.transform` takes them.

    Args:
        path: a CSV or Parquet file for a model of tables; else a `.npz` file (its array `x_test`, `x`, or its only
            one), an idx file, or a folder of idx files (its test part).
        preprocessing: the model's preprocessing.

    Raises:
        DataError: the file is missing, not readable, or of a kind that this model cannot predict.
    """
    location = files.locate(path)
    form = "idx" if location.is_folder else location.form()
    if isinstance(preprocessing.encoding, Table):
        if form == "csv":
            return read_csv(location, preprocessing.encoding.csv)
        if form == "parquet":
            return read_parquet(location, preprocessing.encoding.ignored)
        raise DataError(f"{path}: this model predicts rows of a table. Allowed: .csv, .csv.gz, .parquet, .pq")
    if form == "npz":
        return _only_array(files.read_npz(location), path)
    if form == "idx":
        images = files.find_idx(location, "t10k", "images") if location.is_folder else location
        if images is None:
            found = shortened(location.names())
            raise DataError(f"{path}: no file t10k-images-idx3-ubyte[.gz] in this folder. Found: {found}")
        return files.read_idx(images)
    raise DataError(f"{path}: this model predicts arrays. Allowed: .npz, an idx file, a folder of idx files")


def _only_array(archive: Mapping[str, Any], path: str) -> Any:
    arrays = {name.lower(): array for name, array in archive.items()}
    for name in ("x_test", "x"):
        if name in arrays:
            return arrays[name]
    if len(arrays) != 1:
        raise DataError(f"{path}: expected an array x_test or x, or a single one. Found: {shortened(archive)}")
    return next(iter(arrays.values()))
