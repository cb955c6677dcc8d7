"""Loading of the source in a config's `data` section: it is divided into splits and encoded for members."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from distens.config.sections import DataSection, FoldsSection
from distens.data import folds, source, splits
from distens.data.column import ReadColumn
from distens.data.dataset import SPLITS, Dataset
from distens.data.preprocessing import Preprocessing
from distens.data.source import RawData
from distens.data.tables import Table
from distens.errors import DAMAGE_ERRORS, DataError, DistensError, did_you_mean
from distens.records import Floats, Integers, State
from distens.storage.store import Store
from distens.targets.protocol import Targets

EXAMPLE_ROWS = 5

FOLDS = "folds"
"""The key in `split_rows`, beside the splits, of fold_RN: the fold of each row of *train* in each repeat."""

MAX_COLUMNS_SHOWN = 50
"""The number of columns that a log and a page list in any case; at most as many again are listed if there is something
to say about them."""


@dataclass(frozen=True)
class LoadedData:
    """A source that has been divided into splits and encoded.

    Attributes:
        dataset: the data for members and the coordinator.
        preprocessing: the preprocessing, fitted on *train*.
        example_rows: the first EXAMPLE_ROWS rows of *test* as a user would give them: a DataFrame or an array.
        split_rows: split -> row numbers in the source, in the order of `dataset`; in a given part they count from 0.
            With folds, *train* and *search* are the same rows, and FOLDS has their folds.
        columns: the columns of a table, as they were read; empty for arrays.
    """

    dataset: Dataset
    preprocessing: Preprocessing
    example_rows: Any
    split_rows: Mapping[str, Integers]
    columns: tuple[ReadColumn, ...] = ()

    @property
    def fingerprint(self) -> str:
        """Return the hash of the data, which is equal only for equal data."""
        return self.dataset.fingerprint

    @property
    def summary(self) -> str:
        """Return the number of rows in each split and a description of the target, in words."""
        counts = {name: str(len(rows)) for name, rows in self.dataset.targets.items()}
        if self.dataset.folds:
            repeats = 1 + self.dataset.folds[-1].repeat
            times = f" {repeats} times" if repeats > 1 else ""
            del counts["search"]
            counts["train"] += f" (divided{times} into {len(self.dataset.folds) // repeats} folds)"
        shown = ", ".join(f"{name} {count}" for name, count in counts.items())
        return f"rows: {shown}; {self.dataset.target.summary}"

    @property
    def column_details(self) -> dict[str, str]:
        """Return `column NAME` -> what is said of it, for the first columns and those with a note."""
        shown = [c for i, c in enumerate(self.columns) if i < MAX_COLUMNS_SHOWN or c.note][: 2 * MAX_COLUMNS_SHOWN]
        details = {f"column {column.name}": column.summary for column in shown}
        if len(shown) < len(self.columns):
            details["columns"] = f"{len(self.columns):,}, of which {len(shown)} are shown; run.json has all"
        return details

    @property
    def column_lines(self) -> list[str]:
        """Return the lines of a log about the columns."""
        return [f"{name}: {summary}" for name, summary in self.column_details.items()]

    def keep(self, store: Store) -> None:
        """Write the row numbers of each split, and the preprocessing, into a run's folder."""
        store.write_state("splits.safetensors", State(self.split_rows))
        store.write_json("preprocessing.json", self.preprocessing.to_json())


def load_data(section: DataSection, seed: int) -> LoadedData:
    """Read a source, divide it, fit the preprocessing on *train* alone, and encode every split.

    An equal section and seed give equal bits.

    Raises:
        DataError: the source is missing, not readable, or cannot be divided.
    """
    raw = source.read_source(section)
    if section.folds is not None and raw.held_rows is not None:
        raise DataError("data.folds has no effect on a source with its own validation part, which members do not learn")
    given = raw.test_rows is not None
    divided, targets_N = (raw.rows, raw.targets_N) if raw.held_rows is None else (raw.held_rows, raw.held_targets_N)
    assert targets_N is not None
    has_train, names = raw.held_rows is not None, raw.target.column_names
    strata_N = raw.target.strata(targets_N)
    split_rows = splits.divide(strata_N, names, section.splits, seed, section.rows, given, has_train)
    if has_train:
        split_rows["train"] = np.arange(len(raw.targets_N))
    if section.folds is not None:
        split_rows |= _divide_into_folds(section.folds, split_rows, strata_N, seed)
    preprocessing = Preprocessing.fit(raw.rows, split_rows["train"], section, raw.columns)
    if given:
        assert raw.test_targets_N is not None
        split_rows["test"] = np.arange(len(raw.test_targets_N))
    example = _take(raw.test_rows if given else divided, split_rows["test"][:EXAMPLE_ROWS])
    for numbers in split_rows.values():
        numbers.flags.writeable = False
    return LoadedData(_encode(raw, split_rows, preprocessing), preprocessing, example, split_rows, raw.columns or ())


def _divide_into_folds(
    section: FoldsSection, split_rows: Mapping[str, Integers], strata_N: Integers, seed: int
) -> dict[str, Integers]:
    """Return *train* and *search*, which are the same rows, those of both, fold by fold; and FOLDS, fold_RN."""
    rows_N = np.concatenate([split_rows["train"], split_rows["search"]])
    fold_RN = folds.divide(strata_N[rows_N], section.folds, section.repeats, seed)
    order_N = np.argsort(fold_RN[0], kind="stable")
    return {"train": rows_N[order_N], "search": rows_N[order_N], FOLDS: fold_RN[:, order_N]}


def _encode(raw: RawData, split_rows: Mapping[str, Integers], preprocessing: Preprocessing) -> Dataset:
    rows, targets = {}, {}
    fold_RN = split_rows.get(FOLDS)
    for split in SPLITS if fold_RN is None else ("train", "combine", "test"):
        numbers = split_rows[split]
        if split == "test" and raw.test_targets_N is not None:
            rows[split], targets[split] = raw.test_rows, raw.test_targets_N
        elif split != "train" and raw.held_targets_N is not None:  # a given part that is divided
            rows[split], targets[split] = _take(raw.held_rows, numbers), raw.held_targets_N[numbers]
        else:
            rows[split], targets[split] = _take(raw.rows, numbers), raw.targets_N[numbers]
    shape = preprocessing.output_shape
    inputs = {
        split: preprocessing.transform(own) if len(targets[split]) else np.zeros((0, *shape), dtype=np.float32)
        for split, own in rows.items()
    }
    if fold_RN is not None:
        inputs["search"], targets["search"] = inputs["train"], targets["train"]
    inputs, targets = ({split: values[split] for split in SPLITS} for values in (inputs, targets))
    for array in (*inputs.values(), *targets.values()):
        array.flags.writeable = False  # as in arrays that Ray returns, so that members get the same from every runner
    found = fingerprint(inputs, targets, raw.target.column_names, fold_RN)
    made = Dataset(inputs, targets, raw.target, found)
    if fold_RN is None:
        return made
    strata_N = raw.target.strata(targets["train"])
    return replace(made, folds=folds.make_folds(fold_RN, strata_N, inputs["train"], *preprocessing.numbers))


def has_same_rows(section: DataSection, store: Store, fingerprint: str) -> bool:
    """Return True if the rows of a source, encoded and divided as for a run that began before, are those of that run.

    Args:
        store: the run's folder.
        fingerprint: the run's.
    """
    try:
        preprocessing = Preprocessing.from_json(store.read_json("preprocessing.json"))
        split_rows = store.read_state("splits.safetensors").arrays
        raw = source.read_source(section, as_found=True)
        return _encode(raw, split_rows, preprocessing).fingerprint == fingerprint
    except (DistensError, *DAMAGE_ERRORS):
        return False


def find_other_roles(loaded: LoadedData, store: Store) -> dict[str, str]:
    """Return column -> its role in a run that began before, and the one that it has now, where these differ.

    Args:
        store: the run's folder.
    """
    try:
        stored = Preprocessing.from_json(store.read_json("preprocessing.json")).encoding
    except DistensError:
        return {}
    encoding = loaded.preprocessing.encoding
    if not isinstance(stored, Table) or not isinstance(encoding, Table):
        return {}
    then, now = (
        {**dict.fromkeys(one.ignored, "left out"), **{name: f"a {role}" for name, role in one.roles.items()}}
        for one in (stored, encoding)
    )
    return {name: f"{then[name]} then, {now[name]} now" for name in then if now.get(name, then[name]) != then[name]}


def column(section: DataSection, name: str) -> Any:
    """Return one column of a table, with all its rows; it may be one that `drop` names.

    Raises:
        DataError: the source is no table, or has no such column.
    """
    rows = source.read_source(section.model_copy(update={"drop": ()})).rows
    if not hasattr(rows, "columns"):
        raise DataError(f"{section.source} holds arrays, not a table: it has no column {name!r}")
    if name not in rows.columns:
        raise DataError(f"no column {name!r} in {section.source}. {did_you_mean(name, list(rows.columns))}")
    return rows[name].to_numpy()


def fingerprint(
    inputs: Mapping[str, Floats],
    targets: Mapping[str, Targets],
    columns: tuple[str, ...],
    fold_RN: Integers | None = None,
) -> str:
    """Return the SHA-256, in hexadecimal, of all splits, the names of the prediction columns, and any folds."""
    digest = hashlib.sha256(repr(columns).encode())
    if fold_RN is not None:
        digest.update(f"{fold_RN.shape}".encode() + np.ascontiguousarray(fold_RN).data)
    for split in SPLITS:
        for array in (inputs[split], targets[split]):
            digest.update(f"{split} {array.dtype.str} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _take(rows: Any, numbers: Integers) -> Any:
    if hasattr(rows, "columns"):
        return rows.iloc[numbers].reset_index(drop=True)
    return rows[numbers]
