"""Predictions of a bundle: class probabilities, or numbers, from raw rows.

rows ─► preprocessing ─► members, those of one architecture as one program ─► combiner ─► temperature ─► predictions_NK
                                └─► with a budget: stage by stage, see `distens.serve.cascade`
"""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from distens import packing, registry
from distens.config.sources import describe_edited
from distens.data.folds import Rescaled, restore_model
from distens.data.preprocessing import Preprocessing
from distens.errors import BundleError, ConfigError, DataError, DistensError, did_you_mean, shorten_value
from distens.members.protocol import HasNetwork
from distens.probabilities import apply_temperature
from distens.records import Address, Floats, Integers, State
from distens.serve import bundle
from distens.serve.bundle import Bundle, BundleMember
from distens.serve.cascade import check_budget, predict_in_stages, reachable
from distens.targets.classes import encode_as, target_argument
from distens.targets.protocol import SplitsUncertainty, Target

if TYPE_CHECKING:
    from torch import nn

ROWS_AT_ONCE = 8192
"""The largest number of rows in a batch, to bound memory."""

BYTES_AT_ONCE = 64 * 2**20
"""The most memory that all members' probabilities for a batch may take."""

MAX_TEXT = 1000
"""The most characters of a library's own message: torch names every weight that does not fit."""

Panel = Callable[[Floats], Floats]
"""A function of inputs that returns predictions_MNK (float32) of some members."""


def load(path: str, *, imports: bool = False) -> Predictor:
    """Return the predictor of a bundle, or of a finished run's folder, once every file has been checked.

    Args:
        path: a local path or any pyarrow address.
        imports: whether the bundle may import the modules that it names, in members of kind `module` and in kinds of
            the form `package.module:Class`, which runs their code. If not, these must be imported already.

    Raises:
        BundleError: see `distens.serve.bundle.read_bundle`; or the bundle's preprocessing, combiner or target is
            unknown here, or it names modules and may not import them.
    """
    return Predictor(bundle.read_bundle(str(path)), imports)


class Predictor:
    """A predictor that predicts as the run's ensemble (or student) did. Members are loaded when they first predict.

    With a budget, rows on which the first members agree clearly are predicted by these alone. A budget is either
    `mean_members`, the mean number of members that predict a row (at least 1; for a clear row one member, for an
    unclear row up to all), or `tolerance`, the accuracy that may be lost (0.002: 0.2 points) at 95% confidence. Both
    are averages, measured on the *combine* split. If that split has too few rows to bound the loss by `tolerance`, or
    if there is only one member, all members predict every row.

    Attributes:
        bundle: the bundle that was loaded.
        target: the target that is predicted.
        classes: the names of the columns of predictions; for classes, the class names.
        members: the members' ids.
    """

    def __init__(self, source: Bundle, imports: bool = False) -> None:
        self.bundle = source
        self.classes = source.column_names
        self.members = tuple(member.id for member in source.members)
        self._panels: dict[tuple[int, ...], Panel] = {}
        try:
            self.preprocessing = Preprocessing.from_json(dict(source.preprocessing))
            if not imports:
                self._refuse_imports()
            self._combiner = registry.make_plugin("combine", source.combine, "combine")
            self.target: Target = registry.make_plugin("targets", source.target_spec, "target")
            if self.target.column_names != self.classes:
                raise DataError(f"columns: its target has the columns {shorten_value(self.target.column_names)}")
        except (DataError, ConfigError) as error:
            raise BundleError(f"{source.store.url}: {error}") from error
        self._warn_of_edited_code(imports)

    def predict_proba(self, rows: Any, *, mean_members: float | None = None, tolerance: float | None = None) -> Floats:
        """Return predictions_NK (float64) of raw rows: a DataFrame with the columns of training, or an array.

        Raises:
            DataError: the rows are not like those of training.
            BundleError: a member cannot be loaded or predict, or there is a budget and the bundle has no cascade.
            ConfigError: the budget is out of range, or there are two.
        """
        return self.predict_and_count(rows, mean_members=mean_members, tolerance=tolerance)[0]

    def predict(self, rows: Any, *, mean_members: float | None = None, tolerance: float | None = None) -> NDArray[Any]:
        """Return each row's prediction, the name of a class or a number; raises the errors of `predict_proba`."""
        return self.target.decisions(self.predict_proba(rows, mean_members=mean_members, tolerance=tolerance))

    def predict_and_count(
        self, rows: Any, *, mean_members: float | None = None, tolerance: float | None = None
    ) -> tuple[Floats, Integers]:
        """Return the result of `predict_proba`, and members_N, the number of members that predicted each row."""
        window = self._window(mean_members, tolerance)
        inputs = self.preprocessing.transform(rows)
        answers = [self.answer(some, window) for some in self._batches(inputs)]
        return np.concatenate([predictions_NK for predictions_NK, _ in answers]), np.concatenate(
            [asked_N for _, asked_N in answers]
        )

    def predict_members(self, rows: Any) -> Floats:
        """Return predictions_MNK (float32) of each of the `members`, before they are combined.

        Raises the errors of `predict_proba`.
        """
        inputs, everybody = self.preprocessing.transform(rows), tuple(range(len(self.members)))
        with self._blaming_bundle("its members cannot predict these rows"):
            return np.concatenate([self._panel(everybody)(some) for some in self._batches(inputs)], axis=1)

    def uncertainty(self, rows: Any) -> dict[str, Floats]:
        """Return the uncertainty of the members' weighted mean, and its parts, each one number a row.

        For classes, `entropy` (nats) of the mean is the sum of `expected_entropy`, the members' own, and
        `mutual_information`, their disagreement. For numbers, `variance` is that of the members around their mean. All
        are of the members as they are, before the combiner's own rule and the temperature.

        Raises:
            DataError: the rows are not like those of training.
            BundleError: a member cannot be loaded or predict, or the target cannot divide uncertainty.
        """
        if not registry.has_capability(self.target, SplitsUncertainty):
            raise BundleError(
                f"{self.bundle.store.url}: {self.target.summary}: this target has no parts of uncertainty"
            )
        predictions_MNK = self.predict_members(rows).astype(np.float64)
        weights_M = np.array([member.weight for member in self.bundle.members])
        weights_M = weights_M / weights_M.sum() if weights_M.sum() > 0 else np.full(len(weights_M), 1 / len(weights_M))
        return self.target.uncertainty(predictions_MNK, weights_M)

    def evaluate(self, rows: Any, targets: Any) -> dict[str, float]:
        """Return the table's metrics of the predictions of rows whose targets are known.

        Args:
            targets: the rows' targets, classes by name; or the name of a column of `rows` that holds them.

        Raises:
            DataError: a target is missing or unknown, or there are not as many as rows; or as in `predict_proba`.
        """
        if isinstance(targets, str):
            if targets not in getattr(rows, "columns", ()):
                raise DataError(f"targets: the rows have no column {targets!r}")
            targets, rows = rows[targets], rows.drop(columns=targets)
        targets_N = encode_as(self.target, targets, "targets")
        if len(targets_N) != len(rows):
            raise DataError(f"targets: {len(targets_N)} of them for {len(rows)} rows")
        return self.target.table(self.predict_proba(rows), targets_N)

    def module(self, member: str) -> nn.Module:
        """Return a member's network, on the CPU and ready to predict: preprocessed inputs (N, …) -> its outputs.

        Its weights are those of the member's state, a plain file of safetensors, whose address is `bundle.members`'.

        Raises:
            BundleError: there is no such member, or it is no network.
        """
        entry = next((entry for entry in self.bundle.members if entry.id == member), None)
        if entry is None:
            raise BundleError(f"{self.bundle.store.url}: no member {member!r}. {did_you_mean(member, self.members)}")
        (name, address), *others = entry.states().items()
        loaded = self._loaded(entry, name, address)
        if others or not registry.has_capability(loaded, HasNetwork):
            kind = entry.settings.get("kind")
            raise BundleError(f"{self.bundle.store.url}: member {member} is not one network (kind {kind})")
        return loaded.torch_module().eval()

    def __repr__(self) -> str:
        count = f"{len(self.members)} member{'s' * (len(self.members) != 1)}"
        return f"<Predictor of {self.target.summary}, {count}: {self.bundle.store.url}>"

    def _window(self, mean_members: float | None, tolerance: float | None) -> float:
        check_budget(mean_members, tolerance)
        if len(self.members) == 1 or (mean_members is None and tolerance is None):
            return math.inf
        if self.bundle.cascade is None:
            raise BundleError(
                f"{self.bundle.store.url}: a budget needs a cascade, and this bundle has none: distens "
                f"{self.bundle.version} wrote it. Predict without a budget"
            )
        return self.bundle.cascade.window(mean_members, tolerance)

    def answer(self, inputs: Floats, window: float = math.inf) -> tuple[Floats, Integers]:
        """Return the results of `predict_and_count` for preprocessed rows, in one batch, with the cascade's window."""
        with self._blaming_bundle("its members cannot predict these rows"):
            predictions_NK, asked_N = self._answered(inputs, window)
            self.target.check(predictions_NK, len(inputs))
        return predictions_NK, asked_N

    def _answered(self, inputs: Floats, window: float) -> tuple[Floats, Integers]:
        if math.isinf(window):
            everybody = tuple(range(len(self.members)))
            return self._finish(self._panel(everybody)(inputs)), np.full(len(inputs), len(everybody))
        assert self.bundle.cascade is not None
        stages = reachable(self.bundle.cascade.stages, window)
        weights_M = np.array([member.weight for member in self.bundle.members])
        return predict_in_stages(
            stages, window, weights_M, lambda k, some: self._panel(stages[k].members)(some), self._finish, inputs
        )

    @contextmanager
    def _blaming_bundle(self, what: str) -> Iterator[None]:
        """Turn any error into a BundleError: the rows have been checked, but the states may be anybody's files.

        Args:
            what: the part of the message that says what failed.
        """
        try:
            yield
        except BundleError:
            raise
        except Exception as error:
            text = str(error) if isinstance(error, DistensError) else f"{type(error).__name__}: {error}"
            raise BundleError(f"{self.bundle.store.url}: {what}: {' '.join(text.split())[:MAX_TEXT]}") from error

    def _refuse_imports(self) -> None:
        """Raise BundleError, before any user's module is imported, if the bundle would import one."""
        named = [("members", member.settings, f"member {member.id}") for member in self.bundle.members]
        parts = [("combine", self.bundle.combine, "its combiner"), ("targets", self.bundle.target_spec, "its target")]
        for family, spec, what in (*named, *parts):
            for place, module in registry.find_unimported(family, spec, what):
                first = "" if module in sys.modules else f"`import {module}` first, or "
                raise BundleError(
                    f"{self.bundle.store.url}: refused: {place} names a class in the module {module!r}, and importing "
                    f"that runs its code. If you trust it: {first}load(path, imports=True); on the command line "
                    "--imports"
                )

    def _warn_of_edited_code(self, imports: bool) -> None:
        """Warn if a user's own module is not what it was when the bundle was written."""
        specs = [*(member.settings for member in self.bundle.members), {"kind": self.bundle.combine}]
        if edited := describe_edited(specs, self.bundle.extra.get("sources"), imports):
            warnings.warn(
                f"{self.bundle.store.url}: its code was edited since the run, and predictions may differ from its: "
                f"{edited}",
                stacklevel=4,
            )

    def _finish(self, predictions_MNK: Floats) -> Floats:
        with self._blaming_bundle("its combiner cannot combine its members"):
            predictions_NK = self._combiner.combine(
                predictions_MNK, self._combine_state, **target_argument(self.target)
            )
            self.target.check(predictions_NK, np.shape(predictions_MNK)[1])
        return apply_temperature(predictions_NK, self.bundle.temperature)

    def _batches(self, inputs: Floats) -> Iterator[Floats]:
        models = sum(len(member.states()) for member in self.bundle.members)
        bytes_per_row = 4 * models * len(self.classes)
        step = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE // bytes_per_row))
        for start in range(0, len(inputs), step):
            yield inputs[start : start + step]

    @cached_property
    def _combine_state(self) -> State:
        return self.bundle.store.read_state(self.bundle.combine_state.path, self.bundle.combine_state)

    def _panel(self, places: tuple[int, ...]) -> Panel:
        """Return the panel of some members; they are loaded and stacked at the first call, other members never."""
        if places not in self._panels:
            entries = [self.bundle.members[place] for place in places]
            found = [(entry, name, address) for entry in entries for name, address in entry.states().items()]
            models = [self._loaded(entry, name, address) for entry, name, address in found]
            panel = _stacked_panel(models, [packing.make_stack_key(entry.settings) for entry, _, _ in found])
            counts = [len(entry.states()) for entry in entries]
            self._panels[places] = panel if len(models) == len(entries) else _averaged(panel, counts)
        return self._panels[places]

    def _loaded(self, entry: BundleMember, name: str, address: Address) -> Any:
        with self._blaming_bundle(f"member {name} cannot be loaded"):
            state = self.bundle.store.read_state(address.path, address)
            columns = len(self.classes)
            made = {"classes": columns, "outputs": columns, "input_shape": list(self.preprocessing.output_shape)}
            for name in made.keys() & state.meta.keys():  # before anything of these sizes is allocated
                if state.meta[name] != made[name]:
                    raise ValueError(
                        f"its {name} are {shorten_value(state.meta[name])}, those of the bundle {made[name]}"
                    )
            return restore_model(registry.build_member(entry.settings), state, self.preprocessing.output_shape)


def _stacked_panel(members: Sequence[Any], keys: Sequence[str | None]) -> Panel:
    """Return one panel of all members: those with the same key are stacked, those without a key predict one by one.

    Only members of one fold, whose inputs have one scale, are stacked.
    """
    packs: dict[Hashable, list[int]] = {}
    for place, (member, key) in enumerate(zip(members, keys, strict=True)):
        scale = member.rescaling.key if isinstance(member, Rescaled) else None
        packs.setdefault(place if key is None else (key, scale), []).append(place)
    packed = list(packs.values())
    asks = [_stacked([members[place] for place in places]) for places in packed]
    if packed == [list(range(len(members)))]:
        return asks[0]

    def panel(inputs: Floats) -> Floats:
        predictions: dict[int, Floats] = {}
        for places, ask in zip(packed, asks, strict=True):
            predictions |= zip(places, ask(inputs), strict=True)
        return np.stack([predictions[place] for place in range(len(members))])

    return panel


def _averaged(panel: Panel, counts: Sequence[int]) -> Panel:
    """Return a panel of members, each of which predicts the mean of its models.

    Args:
        panel: of all models, in the members' order.
        counts: the number of models of each member.
    """
    ends = np.cumsum(counts)[:-1]

    def averaged(inputs: Floats) -> Floats:
        return np.stack([own.mean(axis=0) for own in np.split(panel(inputs), ends)])

    return averaged


def _stacked(members: Sequence[Any]) -> Panel:
    first = members[0]
    if len(members) > 1 and isinstance(first, Rescaled):
        panel = _stacked([member.model for member in members])
        return lambda inputs: panel(first.rescaling.apply(inputs))
    if len(members) > 1:
        return type(first).stack(members)
    return lambda inputs: members[0].predict(inputs)[None]
