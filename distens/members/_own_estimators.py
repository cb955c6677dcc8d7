"""Estimators of the user's own, or of a library, by their import path: a class, or a function that returns one.

Their states are skops files as those of the known families (`_stored`), but nobody can say which types and sizes such
an estimator has. So a state is not checked before it is loaded, and a bundle that has one is loaded only by somebody
who trusts it. skops still loads no pickle, and makes only types of the packages in question.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens import addresses
from distens.errors import ConfigError, Refused, StorageError, shorten_value
from distens.members import _families, _stored
from distens.members._archive import archive_estimator, read_shape
from distens.members._families import Family
from distens.records import Floats, Integers, State
from distens.training.context import Context

SEED = "random_state"
"""The argument that the member's seed fills in, in every part of a pipeline."""

PACKAGES = ("sklearn", "numpy", "scipy", "lightgbm", "collections")
"""The packages of whose types a state may be, besides that of the estimator itself."""

KEYS = ("kind", "estimator", "options", "rows")
"""The keys of a family's template."""

INSPECTED_ROWS = 200

_INSPECTED: set[str] = set()


@dataclass(frozen=True)
class OwnFamily(Family):
    """The estimators at one import path.

    Attributes:
        of_numbers: True for a regressor, False for a classifier.
    """

    of_numbers: bool = False

    @property
    def numbers(self) -> bool:
        """Return True for a regressor."""
        return self.of_numbers

    def load(self) -> Any:
        """Import and return the class or function.

        Raises:
            ValueError: there is none.
        """
        try:
            found = addresses.find_object(self.path, "estimator")
        except ConfigError as error:
            raise ValueError(str(error)) from error
        if not (isinstance(found, type) or inspect.isroutine(found)):
            raise ValueError(f"estimator: {self.path} must be a class or a function, found {shorten_value(found)}")
        return found

    def arguments(self) -> set[str]:
        """Return the names of the class's or function's arguments."""
        return {*inspect.signature(self.load()).parameters} - {SEED}

    def make(self, options: Mapping[str, Any], seed: int = 0, threads: int = 1) -> Any:
        """Return an unfitted estimator; random_state and n_jobs that are left open, in any part, are filled in.

        Raises:
            ValueError: nothing can be made with these options, or it is no estimator.
        """
        found = self.load()
        if SEED in options:
            raise ValueError(f"options.{SEED}: cannot be set: the member sets it")
        seeded = SEED in inspect.signature(found).parameters
        addresses.check_arguments(found, options, [SEED] if seeded else [])
        try:
            made = found(**options, **({SEED: seed} if seeded else {}))
        except Exception as error:  # the user's own code may raise anything
            raise ValueError(f"estimator: {self.path}: {addresses.describe_failure(error)}") from error
        self._check(made)
        open_values = {SEED: seed, "n_jobs": threads}
        parameters = made.get_params(deep=True) if _has_parameters(made) else {}
        left_open = {key: key.rpartition("__")[2] for key, value in parameters.items() if value is None}
        given = {key: open_values[name] for key, name in left_open.items() if name in open_values}
        return made.set_params(**given) if given else made

    def _check(self, made: Any) -> None:
        wanted = "predict" if self.numbers else "predict_proba"
        lacking = [name for name in ("fit", wanted) if not callable(getattr(made, name, None))]
        if not lacking:
            return
        hint = ""
        if lacking == ["predict_proba"] and hasattr(made, "decision_function"):
            known = next((one.name for one in _families.CLASSIFIERS.values() if one.path == self.path), None)
            hint = (
                f"; `estimator: {known}` is the same with calibrated probabilities"
                if known
                else "; return it in sklearn.calibration.CalibratedClassifierCV from a function of your own"
            )
        raise ValueError(f"estimator: {self.path} has no {' and no '.join(lacking)}{hint}")

    def fit(
        self,
        options: Mapping[str, Any],
        inputs: Floats,
        targets_N: Integers | Floats,
        rows_N: Integers,
        context: Context,
    ) -> Any:
        """Return a fitted estimator; the first in a process is stored and loaded on a few rows before.

        Raises:
            Refused: it cannot be stored, or predicts something else once it was loaded. The user's own errors pass.
        """
        if self.path not in _INSPECTED:
            self._inspect(options, inputs, targets_N)
            _INSPECTED.add(self.path)
        made = self.make(options, context.seed, context.threads)
        made.fit(inputs, targets_N)
        return made

    def _inspect(self, options: Mapping[str, Any], inputs: Floats, targets_N: Integers | Floats) -> None:
        order_N = np.argsort(targets_N, kind="stable")  # some rows of every class, or of every size
        rows_R = order_N[np.unique(np.linspace(0, len(order_N) - 1, INSPECTED_ROWS).astype(int))]
        fitted = self.make(options)
        fitted.fit(inputs[rows_R], targets_N[rows_R])
        try:
            loaded, _ = self.restore(self.dump(fitted, {"outputs": 1}), "outputs")
        except StorageError as error:
            raise Refused(f"its state can be stored, but not be loaded: {error}") from error
        wanted, found = (
            np.asarray(one.predict(inputs[rows_R]) if self.numbers else one.predict_proba(inputs[rows_R]))
            for one in (fitted, loaded)
        )
        if not np.array_equal(wanted, found, equal_nan=True):
            raise Refused(
                "loaded from its state, it predicts something else: what does it keep outside its attributes?"
            )

    def describe(self, error: Exception) -> str:
        """Return an error in words, with the line of the user's code."""
        return addresses.describe_failure(error)

    def refusals(self) -> tuple[type[Exception], ...]:
        """Return the errors that refuse settings: all, as the user's own code may raise anything."""
        return (Exception,)

    def count_numbers(self, fitted: Any) -> int:
        """Return the number of values in the arrays that its state has."""
        return max(1, sum(map(_count_values, self._archive(fitted).arrays.values())))

    def dump(self, fitted: Any, meta: Mapping[str, int]) -> State:
        """Return the estimator as the bytes of a skops file.

        Raises:
            Refused: it cannot be stored without a pickle, or consists of types of other packages.
        """
        content = self._archive(fitted).dump(_stored.COMPRESSION_LEVEL)
        if strange := self._strangers(content):
            raise Refused(f"its state cannot be stored: it has {', '.join(strange)} in it, {self._allowed()}")
        return State({"skops": np.frombuffer(content, dtype=np.uint8)}, meta)

    def _archive(self, fitted: Any) -> Any:
        try:
            return archive_estimator(fitted)
        except Exception as error:  # skops, json and numpy have classes of their own
            raise Refused(f"its state cannot be stored without a pickle: {type(error).__name__}: {error}") from error

    def restore(self, state: State, outputs: str) -> tuple[Any, int]:
        """Return the stored estimator and its number of outputs (see `_stored.load_estimator`).

        Raises:
            StorageError: the file is damaged, or has types of other packages.
        """
        import skops.io

        where = f"estimator {self.path}: the stored state is"
        self.load()  # skops finds the types of its module
        try:
            content, count = state.arrays["skops"].tobytes(), int(state.meta[outputs])
            if strange := self._strangers(content):
                raise StorageError(f"{where} not trusted: it has {', '.join(strange)} in it, {self._allowed()}")
            return skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content)), count
        except StorageError:
            raise
        except Exception as error:
            raise StorageError(f"{where} damaged: {error}") from error

    def _strangers(self, content: bytes) -> list[str]:
        """Return the types in a skops file that are of no package in question."""
        import skops.io

        found = skops.io.get_untrusted_types(data=content)
        return [name for name in found if name.partition(".")[0] not in (*PACKAGES, self._package)]

    @property
    def _package(self) -> str:
        return self.path.partition(":")[0].partition(".")[0]

    def _allowed(self) -> str:
        return f"and only types of {', '.join(dict.fromkeys((self._package, *PACKAGES[:-1])))} are allowed"


def _count_values(content: bytes) -> int:
    try:
        return math.prod(read_shape(content)[0])
    except ValueError:  # scipy's sparse matrices are archives
        return len(content) // 8


def _has_parameters(made: Any) -> bool:
    return callable(getattr(made, "get_params", None)) and callable(getattr(made, "set_params", None))


def find(families: Mapping[str, Family], name: str) -> Family:
    """Return the family of a name, of another name that it is known by, or of an import path.

    Raises:
        ValueError: there is none.
    """
    if not addresses.is_address(name):
        return _families.find_family(families, name)
    return OwnFamily(name, name, {}, lambda fitted: 0, of_numbers=families is _families.REGRESSORS)


def default_ranges(families: Mapping[str, Family], template: Mapping[str, Any]) -> dict[str, Any]:
    """Return the template with its family's own name, and with the family's default ranges if it has no `options`.

    Raises:
        ValueError: there is no such family; or an argument of the estimator stands beside `options`, not in them.
    """
    name = template.get("estimator")
    if not isinstance(name, str):
        return dict(template)
    family = find(families, name)
    for key in template:
        if key not in KEYS and key in family.arguments():
            raise ValueError(f"{key}: is an argument of {name}; write it under `options`: {{{key}: …}}")
    return {**template, "estimator": family.name, "options": template.get("options", deepcopy(family.ranges))}


def dump(family: Family, fitted: Any, meta: Mapping[str, int]) -> State:
    """Return a fitted estimator as a state (see `_stored.dump`)."""
    return family.dump(fitted, meta) if isinstance(family, OwnFamily) else _stored.dump(fitted, meta)


def restore(family: Family, state: State, options: Mapping[str, Any], outputs: str) -> tuple[Any, int]:
    """Return a stored estimator and its number of outputs (see `_stored.load_estimator`)."""
    if isinstance(family, OwnFamily):
        return family.restore(state, outputs)
    return _stored.load_estimator(state, family, options, outputs)
