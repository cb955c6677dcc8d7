"""Four disjoint, stratified splits, fixed by the seed."""

from __future__ import annotations

import numpy as np

from distens.config.sections import SplitsSection
from distens.data.dataset import SPLITS
from distens.errors import DataError
from distens.records import Floats, Integers
from distens.seeding import generator


def divide(
    labels_N: Integers,
    classes: tuple[str, ...],
    splits: SplitsSection,
    seed: int,
    rows: int | None,
    has_test: bool,
    has_train: bool = False,
) -> dict[str, Integers]:
    """Return split -> row numbers, shuffled.

    Every class is in every split, as near its share as whole rows allow; a split whose share is 0 is empty.

    Args:
        labels_N: the labels (or strata) of all rows except a given test part.
        classes: names of the classes; for messages.
        splits: the shares.
        seed: the run's root seed.
        rows: the number of rows to use (each class as near its share as possible); None for all.
        has_test: True if the source has its own test part; then *test* is not in the result.
        has_train: True if these are the rows of the source's own validation part, so that *train* is not in the result.

    Raises:
        DataError: a class has too few rows to be in every split, more rows are asked for than there are, or `test`
            contradicts the source.
    """
    if has_test and splits.test != "given":
        raise DataError(
            f"data.splits.test is {splits.test:g}, but the source has its own test part. "
            "Write `test: given` and let the other three shares sum to 1"
        )
    if not has_test and splits.test == "given":
        raise DataError("data.splits.test is `given`, but the source has no test part of its own. Write a share")
    if has_train and splits.train != "given":
        raise DataError(
            f"data.splits.train is {splits.train:g}, but the source has its own validation part. "
            "Write `train: given`, and let the shares of that part sum to 1"
        )
    if not has_train and splits.train == "given":
        raise DataError("data.splits.train is `given`, but the source has no validation part of its own. Write a share")
    if has_train and rows is not None:
        raise DataError(f"data.rows is {rows}, which has no effect on a source with its own validation part")
    shares = {split: share for split in SPLITS if (share := getattr(splits, split)) != "given"}
    none = {split: np.zeros(0, dtype=np.int64) for split, share in shares.items() if not share}
    shares = {split: share for split, share in shares.items() if share}
    counts_C = np.bincount(labels_N, minlength=len(classes))
    _check_classes(counts_C, classes, len(shares))
    taken_C = _take(counts_C, rows, len(shares))
    rng = generator(seed, "splits")
    pieces: dict[str, list[Integers]] = {split: [] for split in shares}
    for label, taken in enumerate(taken_C):
        chosen = rng.permutation(np.flatnonzero(labels_N == label))[:taken]
        sizes = apportion(int(taken), np.array(list(shares.values())), least=1)
        for split, piece in zip(shares, np.split(chosen, np.cumsum(sizes)[:-1]), strict=True):
            pieces[split].append(piece)
    return {**{split: rng.permutation(np.concatenate(parts)) for split, parts in pieces.items()}, **none}


def apportion(total: int, shares_K: Floats, least: int) -> Integers:
    """Return counts_K, whole numbers that sum to `total` and are near the shares, each at least `least`.

    Rows are divided by largest remainder (Hamilton's method; a tie goes to the first). What a count lacks to `least`
    is taken from the count that is most above its share.
    """
    assert total >= least * len(shares_K)
    ideal_K = total * shares_K / shares_K.sum()
    counts_K = np.floor(ideal_K + 1e-9).astype(np.int64)  # 0.15 * 20 must not be 2.9999
    by_remainder = np.argsort(np.round(counts_K - ideal_K, 9), kind="stable")
    counts_K[by_remainder[: total - counts_K.sum()]] += 1
    while counts_K.min() < least:
        surplus_K = np.where(counts_K > least, counts_K - ideal_K, -np.inf)
        counts_K[np.argmax(surplus_K)] -= 1
        counts_K[np.argmin(counts_K)] += 1
    return counts_K


def _take(counts_C: Integers, rows: int | None, least: int) -> Integers:
    total = int(counts_C.sum())
    if rows is None:
        return counts_C
    if rows > total:
        raise DataError(f"data.rows is {rows}, but the source has {total} rows to choose from")
    if rows < least * len(counts_C):
        raise DataError(
            f"data.rows is {rows}, but {len(counts_C)} classes in {least} splits need at least {least * len(counts_C)}"
        )
    return apportion(rows, counts_C.astype(np.float64), least)


def _check_classes(counts_C: Integers, classes: tuple[str, ...], least: int) -> None:
    rare = np.flatnonzero(counts_C < least)
    if not len(rare):
        return
    counts = {int(c): int(counts_C[c]) for c in rare[:5]}
    shown = ", ".join(f"{classes[c]!r} has {n or 'no'} row{'' if n == 1 else 's'}" for c, n in counts.items())
    more = f", and {len(rare) - 5} more classes" if len(rare) > 5 else ""
    raise DataError(
        f"data: class {shown}{more}; at least {least} are needed, one for each of the {least} splits. "
        "Add rows, merge the class with another, or leave it out"
    )
