"""Rows of a user's own LightningDataModule, by its address. Its code is the user's; Lightning is not needed here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distens.addresses import check_arguments, find_class
from distens.errors import DataError

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

LOADERS = {"train_dataloader": "train", "val_dataloader": "val", "test_dataloader": "test"}
"""Method of a data module -> the suffix of its arrays."""

HONOURED = ("prepare_data", "setup", "teardown", *LOADERS)
"""What is called: `prepare_data()`, `setup("fit")`, `setup("test")` if it has test rows, the loaders, `teardown`."""

UNUSED = ("predict_dataloader", "on_exception", "state_dict", "load_state_dict")
"""Parts that do no harm: rows are read once, at the start, and `distens predict` is given its own."""

_BATCHES = "no batch reaches it, as members make batches of the rows themselves; do it in the dataset, or in the "
_BATCHES += "LightningModule that has the same hook"
NOT_ALLOWED = dict.fromkeys(
    ("on_before_batch_transfer", "on_after_batch_transfer", "transfer_batch_to_device"), _BATCHES
)
"""Parts that cannot have their effect, as members make batches of the rows themselves."""

READ_AGAIN = 16
"""The number of rows that are read twice, as rows which differ at each reading cannot be kept."""

ROWS_AT_ONCE = 256

ELSE = "; or save its rows as arrays x_train, y_train (x_test, y_test) by numpy.savez, and name that .npz file"


def read_data_module(source: str, options: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    """Return `x_train`, `y_train`, and the same for `val` and `test` if the data module has such rows.

    The rows are those of the loaders' datasets, in their order, through the loader's `collate_fn`. Images, which torch
    has as (channels, height, width), become (height, width, channels), or (height, width) with a single channel.
    Batch size and shuffling of the loaders do not matter: members have their own. torch's random numbers are equal in
    each reading, so that `random_split` gives the same parts.

    Args:
        source: `package.module:Class`; the module is imported.
        options: arguments of its constructor.

    Raises:
        ConfigError: there is no such class.
        DataError: it is no data module, its own code fails, or its rows are not such as can be kept.
    """
    import torch

    cls = find_class(source, "data.source")
    if not any(base.__name__ == "LightningDataModule" for base in cls.__mro__):
        raise DataError(f"data.source: {source} must be a LightningDataModule, found {cls!r}")
    for name in NOT_ALLOWED:
        if _overrides(cls, name):
            raise DataError(
                f"data.source: {source} has {name}: no batch reaches it, as members make batches of the rows "
                "themselves; do it in the dataset, or in the LightningModule's hook of that name"
            )
    if not _overrides(cls, "train_dataloader"):
        raise DataError(f"data.source: {source} has no train_dataloader")
    try:
        check_arguments(cls, options)
    except ValueError as error:
        raise DataError(f"data.source {source}: data.{error}") from error
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return _read_parts(source, cls, options)


def _read_parts(source: str, cls: type, options: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    made: Any = _call(source, "its constructor", lambda: cls(**options))
    _call(source, "prepare_data", made.prepare_data)
    arrays: dict[str, NDArray[Any]] = {}
    for stage, loaders in (("fit", ("train_dataloader", "val_dataloader")), ("test", ("test_dataloader",))):
        own = [name for name in loaders if _overrides(cls, name)]
        if own:
            _call(source, f"setup({stage!r})", lambda stage=stage: made.setup(stage))
        for name in own:
            loader = _call(source, name, getattr(made, name))
            if name != "train_dataloader" and (loader is None or loader == []):
                continue
            rows, targets = _read(loader, f"data.source {source}: {name}")
            arrays |= {f"x_{LOADERS[name]}": rows, f"y_{LOADERS[name]}": targets}
        if own:
            _call(source, f"teardown({stage!r})", lambda stage=stage: made.teardown(stage))
    return arrays


def _overrides(cls: type, name: str) -> bool:
    """Return True if a class has a method that is not Lightning's own."""
    owner = next((base for base in cls.__mro__ if name in vars(base)), cls)
    return hasattr(cls, name) and not owner.__module__.startswith(("lightning.", "pytorch_lightning."))


def _call(source: str, what: str, call: Any) -> Any:
    try:
        return call()
    except Exception as error:  # the user's own code may raise anything
        raise DataError(f"data.source {source}: {what} failed: {type(error).__name__}: {error}") from error


def _read(loader: Any, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return all rows of a loader's dataset, in order, and their targets."""
    from torch.utils.data import BatchSampler, DataLoader, IterableDataset, RandomSampler, SequentialSampler

    if not isinstance(loader, DataLoader):
        raise DataError(f"{where}: expected one torch.utils.data.DataLoader, found {type(loader).__name__}{ELSE}")
    if isinstance(loader.dataset, IterableDataset):
        raise DataError(f"{where}: an IterableDataset has no numbered rows{ELSE}")
    sampler, batches = loader.sampler, type(loader.batch_sampler)
    plain = type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement)
    if not plain or batches not in (BatchSampler, type(None)):
        odd = type(sampler) if not plain else batches
        raise DataError(
            f"{where}: its {odd.__name__} has no effect, as members draw their rows by themselves: leave it out{ELSE}"
        )
    first = range(min(READ_AGAIN, len(loader.dataset)))  # pyright: ignore[reportArgumentType]
    found = [_rows(_loaded(loader, first), where) for _ in range(2)]
    if any(not np.array_equal(one, two, equal_nan=True) for one, two in zip(*found, strict=True)):
        raise DataError(
            f"{where}: its rows differ at each reading, and would be kept as they are read first: leave out what is "
            "random (augmentation belongs in the LightningModule, in training_step or on_after_batch_transfer)"
        )
    rows, targets = _rows(_loaded(loader, range(len(loader.dataset))), where)  # pyright: ignore[reportArgumentType]
    if rows.ndim == 4:
        rows = np.moveaxis(rows, 1, 3)
        rows = rows[..., 0] if rows.shape[3] == 1 else rows
    return rows, targets


def _loaded(loader: DataLoader[Any], numbers: range) -> Any:
    """Return batches of some rows of a loader's dataset, in order."""
    from torch.utils.data import DataLoader, Subset

    collate = loader.collate_fn if loader.batch_size is not None else None  # else the dataset gives whole batches
    return DataLoader(
        Subset(loader.dataset, numbers),
        batch_size=ROWS_AT_ONCE,
        collate_fn=collate,
        num_workers=loader.num_workers if len(numbers) > READ_AGAIN else 0,
    )


def _rows(batches: Any, where: str) -> tuple[NDArray[Any], NDArray[Any]]:
    import torch

    parts: tuple[list[Any], list[Any]] = [], []
    try:
        for batch in batches:
            if not (isinstance(batch, tuple | list) and len(batch) == 2):
                keys = f" with {', '.join(map(str, batch))}" if isinstance(batch, dict) else ""
                found = f"{len(batch)} values" if isinstance(batch, tuple | list) else f"{type(batch).__name__}{keys}"
                raise DataError(f"{where}: a batch must be (inputs, targets), found {found}{ELSE}")
            for part, name, value in zip(parts, ("inputs", "targets"), batch, strict=True):
                if not isinstance(value, torch.Tensor):
                    raise DataError(f"{where}: {name} must be tensors, found {type(value).__name__}{ELSE}")
                part.append((value.float() if value.dtype is torch.bfloat16 else value).detach().cpu().numpy())
        if not parts[0]:
            raise DataError(f"{where}: the dataset has no rows")
        rows, targets = (np.concatenate(part) for part in parts)
    except DataError:
        raise
    except Exception as error:  # the user's own code may raise anything, and rows may differ in shape
        raise DataError(f"{where}: reading its rows failed: {type(error).__name__}: {error}") from error
    return rows, targets
