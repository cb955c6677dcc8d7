"""Cross-fitting: rows are divided into folds, and each fold is predicted by a model that learned from the others.

rows, fold by fold ─► fold1: held_N · learned_N · rescaling ─► examples on their own scale ─► a model ─► predicts held_N
                      fold2: …

Folds are the run's, not a member's: predictions of all members lie on the same rows. What fixes the width of inputs
(types of columns, levels of categories, indicators of missing values) is found once, on the rows of all folds. What is
a number (medians, means, scales) is measured on the rows that a fold learns from, and lies in the state of its model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens.data.scaling import chunks, one_over
from distens.errors import DataError, shorten_value
from distens.records import Floats, Integers, State
from distens.seeding import generator

_KEYS = ("scale", "shift", "columns", "indicators", "fill")
_PREFIX = "rescaling/"
"""What the names of a rescaling's arrays in a state begin with; no network's weight has a slash in its name."""


@dataclass(frozen=True, eq=False)
class Rescaling:
    """The scale of a fold's own rows, applied to inputs that the run's preprocessing encoded.

    Attributes:
        scale, shift: inputs become `inputs * scale + shift`; float32, of a row's shape or (channels, 1, 1) for images.
        columns_J: the columns in which a value may be missing.
        indicators_J: the column, for each, that is above 0 where it is.
        fill_J: float32; the value, for each, that then replaces it: the fold's own median.
    """

    scale: Floats
    shift: Floats
    columns_J: Integers
    indicators_J: Integers
    fill_J: Floats

    @classmethod
    def fit(cls, inputs: Floats, rows_N: Integers, numbers: int, indicated_J: Integers) -> Rescaling:
        """Return the rescaling to zero mean and unit variance over some rows.

        Args:
            inputs: encoded rows (N, width), or images (N, channels, height, width).
            rows_N: the numbers of the rows to measure.
            numbers: the number of leading columns that hold numbers; each channel of images does.
            indicated_J: those of them with an indicator: the first one's is at column `numbers`, and so on.
        """
        if inputs.ndim == 4:
            return cls._of_images(inputs, rows_N)
        scale, shift = np.ones(inputs.shape[1]), np.zeros(inputs.shape[1])
        fill_J, indicators_J = np.zeros(len(indicated_J)), numbers + np.arange(len(indicated_J))
        places = {int(f): j for j, f in enumerate(indicated_J)}
        for f in range(numbers):
            values_N = inputs[rows_N, f].astype(np.float64)
            missing_N = inputs[rows_N, numbers + places[f]] > 0 if f in places else None
            median = 0.0
            if missing_N is not None:
                median = float(np.median(values_N[~missing_N])) if not missing_N.all() else 0.0
                values_N[missing_N] = median
            scale[f] = one_over(values_N.std()) if values_N.min() < values_N.max() else 0.0
            shift[f] = -values_N.mean() * scale[f]
            if f in places:
                fill_J[places[f]] = median * scale[f] + shift[f]
        return cls(
            scale.astype(np.float32),
            shift.astype(np.float32),
            np.asarray(indicated_J),
            indicators_J,
            fill_J.astype(np.float32),
        )

    @classmethod
    def _of_images(cls, images: Floats, rows_N: Integers) -> Rescaling:
        picked = images[rows_N]
        count, parts = len(rows_N) * images.shape[2] * images.shape[3], list(chunks(picked))
        means_C = np.sum([picked[part].sum((0, 2, 3), dtype=np.float64) for part in parts], axis=0) / count
        centre = means_C[:, None, None]
        squares_C = np.sum([((picked[part] - centre) ** 2).sum((0, 2, 3)) for part in parts], axis=0) / count
        scales_C = np.array([one_over(deviation) if deviation > 0 else 0.0 for deviation in np.sqrt(squares_C)])
        scale, shift = scales_C[:, None, None], (-means_C * scales_C)[:, None, None]
        none_J = np.zeros(0, dtype=np.int64)
        return cls(scale.astype(np.float32), shift.astype(np.float32), none_J, none_J, np.zeros(0, dtype=np.float32))

    def apply(self, inputs: Floats) -> Floats:
        """Return inputs on the fold's scale (float32), a new array."""
        out = np.asarray(inputs, dtype=np.float32) * self.scale
        out += self.shift
        for column, indicator, value in zip(self.columns_J, self.indicators_J, self.fill_J, strict=True):
            out[np.asarray(inputs)[:, indicator] > 0, column] = value
        return out

    @property
    def key(self) -> bytes:
        """Return bytes that equal rescalings share."""
        return b"".join(array.tobytes() for array in (self.scale, self.shift, self.fill_J))

    def add_to(self, state: State) -> State:
        """Return a model's state with the rescaling of its inputs added to it."""
        values = (self.scale, self.shift, self.columns_J, self.indicators_J, self.fill_J)
        return State({**state.arrays, **dict(zip((_PREFIX + key for key in _KEYS), values, strict=True))}, state.meta)


def take_rescaling(state: State, input_shape: tuple[int, ...] | None = None) -> tuple[State, Rescaling | None]:
    """Return a model's own state, and the rescaling that `Rescaling.add_to` added to it; None if there is none.

    Args:
        input_shape: the shape of a row of inputs, which the arrays must fit; None: they are not checked.

    Raises:
        ValueError: they do not fit, or are not all there.
    """
    found = {name.removeprefix(_PREFIX): array for name, array in state.arrays.items() if name.startswith(_PREFIX)}
    if not found:
        return state, None
    if {*found} != {*_KEYS}:
        raise ValueError(f"its rescaling has the arrays {shorten_value(sorted(found))}, not {', '.join(_KEYS)}")
    rescaling = Rescaling(*(np.asarray(found[key]) for key in _KEYS))
    if input_shape is not None:
        _check(rescaling, input_shape)
    own = {name: array for name, array in state.arrays.items() if not name.startswith(_PREFIX)}
    return State(own, state.meta), rescaling


def _check(found: Rescaling, input_shape: tuple[int, ...]) -> None:
    shape = input_shape if len(input_shape) == 1 else (input_shape[0], 1, 1)
    for name in ("scale", "shift", "fill_J"):
        array = getattr(found, name)
        if array.dtype != np.float32 or not np.isfinite(array).all():
            raise ValueError(f"its rescaling's {name} is no array of finite float32 numbers")
    if not found.scale.shape == found.shift.shape == shape:
        raise ValueError(f"its rescaling has the shape {shorten_value(found.scale.shape)}, not {shape}")
    places = (found.columns_J, found.indicators_J)
    if not all(one.dtype == np.int64 and one.shape == found.fill_J.shape and one.ndim == 1 for one in places):
        raise ValueError("its rescaling's places of missing values contradict each other")
    if any(len(one) and not 0 <= one.min() <= one.max() < input_shape[0] for one in places):
        raise ValueError(f"its rescaling's places of missing values are not among {input_shape[0]} columns")


def restore_model(model: Any, state: State, input_shape: tuple[int, ...] | None = None) -> Any:
    """Load a state into an untrained model, and return the model, which rescales inputs if it learned from a fold.

    Args:
        input_shape: as in `take_rescaling`, which raises the same errors.
    """
    own, rescaling = take_rescaling(state, input_shape)
    model.load(own)
    return model if rescaling is None else Rescaled(model, rescaling)


class Rescaled:
    """A model that predicts from inputs on the scale of the rows that it learned from."""

    def __init__(self, model: Any, rescaling: Rescaling) -> None:
        self.model, self.rescaling = model, rescaling

    def predict(self, inputs: Floats) -> Floats:
        """Return the model's predictions of inputs as the run's preprocessing encodes them."""
        return self.model.predict(self.rescaling.apply(inputs))


@dataclass(frozen=True, eq=False)
class Fold:
    """One fold: the rows that a model learns from, and those that it predicts.

    Attributes:
        name: `fold1`, `fold2`, …; repeats go on counting.
        repeat: the number of the division that the fold is of, from 0.
        held_N: the numbers of the rows, of *train*, that the model predicts, and never sees before.
        learned_N: the numbers of the rows that it learns from, equally many in all folds.
        rescaling: the scale of these rows.
    """

    name: str
    repeat: int
    held_N: Integers
    learned_N: Integers
    rescaling: Rescaling


def divide(strata_N: Integers, folds: int, repeats: int, seed: int) -> Integers:
    """Return fold_RN, the fold of each row in each repeat.

    Every stratum is spread over all folds as evenly as whole rows allow, and the sizes of folds differ by one at most.

    Raises:
        DataError: there are fewer rows than folds need, two for each.
    """
    rows = len(strata_N)
    if rows < 2 * folds:
        raise DataError(f"data.folds: {folds} folds of {rows} rows; at least {2 * folds} rows are needed")
    fold_RN = np.empty((repeats, rows), dtype=np.int64)
    for repeat, fold_N in enumerate(fold_RN):
        order_N = generator(seed, "folds", repeat).permutation(rows)
        order_N = order_N[np.argsort(strata_N[order_N], kind="stable")]
        fold_N[order_N] = np.arange(rows) % folds
    return fold_RN


def make_folds(
    fold_RN: Integers, strata_N: Integers, inputs: Floats, numbers: int, indicated_J: Integers
) -> tuple[Fold, ...]:
    """Return the folds of a division.

    Where folds differ in size, a row of the commonest stratum is left out of what some learn, so that all learn from
    equally many and can be trained as one program.

    Args:
        fold_RN: as `divide` returns it.
        inputs, numbers, indicated_J: see `Rescaling.fit`.
    """
    commonest, made = np.bincount(strata_N).argmax(), list[Fold]()
    for repeat, fold_N in enumerate(fold_RN):
        sizes = np.bincount(fold_N)
        for fold in range(len(sizes)):
            held_N, learned_N = np.flatnonzero(fold_N == fold), np.flatnonzero(fold_N != fold)
            if sizes[fold] < sizes.max():
                learned_N = np.delete(learned_N, np.argsort(strata_N[learned_N] == commonest, kind="stable")[-1])
            rescaling = Rescaling.fit(inputs, learned_N, numbers, indicated_J)
            made.append(Fold(f"fold{len(made) + 1}", repeat, held_N, learned_N, rescaling))
    return tuple(made)


def out_of_fold(predictions: Mapping[str, Floats], folds: tuple[Fold, ...], rows: int) -> list[Floats]:
    """Return predictions_NK of all rows, one array for each repeat, each row's by the fold that never saw it.

    Args:
        predictions: fold's name -> its predictions of the rows that it holds out.
        rows: N.
    """
    width = next(iter(predictions.values())).shape[1]
    out = [np.empty((rows, width), dtype=np.float32) for _ in range(1 + max(fold.repeat for fold in folds))]
    for fold in folds:
        out[fold.repeat][fold.held_N] = predictions[fold.name]
    return out
