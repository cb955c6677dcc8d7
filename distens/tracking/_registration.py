"""Registration of bundles as versions of registered models, and the choice of the champion among versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distens.records import Floats, task_of
from distens.tracking._logbook import EDITION, Logbook, run_key
from distens.tracking.protocol import FinalInfo, model_name

CHECKED = "distens.checked"
CHAMPION = "champion"
TOLERANCE = 1e-6

# The packages that reading and predicting with a bundle need; a logged model pins the versions that are installed here.
REQUIREMENTS = (
    "distens",
    "lightgbm",
    "numpy",
    "pandas",
    "pyarrow",
    "pydantic",
    "safetensors",
    "scikit-learn",
    "scipy",
    "skops",
    "torch",
)


@dataclass(frozen=True)
class Version:
    """One version of a registered model."""

    number: str
    tags: Mapping[str, str]


class Registry(Protocol):
    """A model registry: registered models, their versions, and the alias `champion`.

    Example:
        A bundle is registered, loaded back and promoted::

            version = registry.add("adult", run_id, Path("final/ensemble"), example, {"distens.run": key})
            predictions_NK = registry.predict("adult", version, example)
            registry.tag("adult", version, "distens.checked", "champion (the first)")
            registry.promote("adult", version)
    """

    def versions(self, model: str) -> Iterable[Version]:
        """Return all versions of a model; none if there is no such model."""
        ...

    def champion(self, model: str) -> Version | None:
        """Return the version with the alias `champion`; None if there is none."""
        ...

    def add(self, model: str, run_id: str, bundle: Path, example: Any, tags: Mapping[str, str]) -> Version:
        """Log a bundle as a model of a run, register it, and return the new version."""
        ...

    def predict(self, model: str, version: Version, example: Any) -> Floats:
        """Fetch a version as a user would, and return its predictions_NK for the example's rows."""
        ...

    def tag(self, model: str, version: Version, key: str, value: str) -> None:
        """Set a tag of a version."""
        ...

    def promote(self, model: str, version: Version) -> None:
        """Give a version the alias `champion`."""
        ...


def register(registry: Registry, book: Logbook, final: FinalInfo, bundle: str) -> str:
    """Register one bundle, check its predictions from the registry, and return a line for the user about the result.

    A server stores models that cannot be loaded without an error. So the version is fetched and loaded, and predicts
    the example, before it may become champion. There is no alias `latest` to move: MLflow reserves that word and
    resolves `models:/NAME@latest` to the newest version by itself.
    """
    model = model_name(book.run.name, bundle)
    path = final.bundles[bundle]
    sha256 = hashlib.sha256((path / "bundle.json").read_bytes()).hexdigest()
    tags = {
        "distens.run": run_key(book.run),
        "distens.bundle": sha256,
        "distens.fingerprint": book.run.fingerprint,
        **({"distens.score": repr(float(final.scores[bundle]))} if bundle in final.scores else {}),
        **({EDITION: str(book.run.edition)} if book.run.edition > 1 else {}),
        "distens.members": json.dumps({name: _run_id(book, name) for name in final.weights}),
    }
    same = ("distens.run", "distens.bundle")
    known = (v for v in registry.versions(model) if all(v.tags.get(key) == tags[key] for key in same))
    version = next(known, None) or registry.add(model, book.parent.id, path, final.example, tags)
    where = f"model {model} version {version.number}"
    if CHECKED in version.tags:
        return f"{where} was registered before ({version.tags[CHECKED]})"
    wrong = _difference(registry.predict(model, version, final.example), final.expected.get(bundle))
    if wrong:
        registry.tag(model, version, CHECKED, wrong)
        return f"{where} is registered but gets no alias: {wrong}"
    champion = registry.champion(model)
    if bundle in final.scores:
        moves, why = compare(final.scores[bundle], book.run.fingerprint, champion, final.score_name)
    else:
        moves, why = False, "there are no rows to score it on"
    if moves:
        registry.promote(model, version)
    verdict = f"champion ({why})" if moves else f"not champion ({why})"
    registry.tag(model, version, CHECKED, verdict)
    return f"{where} is {verdict}"


def compare(score: float, fingerprint: str, champion: Version | None, name: str = "NLL") -> tuple[bool, str]:
    """Return True if a new version becomes champion, and the reason in words.

    Scores are measured on the *combine* split: they are comparable only on the same data, and lower is better. A
    champion that was scored on other data, or not at all, gives way.

    Args:
        score: of the new version.
        fingerprint: of the new version's data.
        champion: the present champion; None if there is none.
        name: the name of the metric that the scores are.
    """
    if champion is None:
        return True, "the first"
    rival = f"version {champion.number}"
    if champion.tags.get("distens.fingerprint") != fingerprint or "distens.score" not in champion.tags:
        return True, f"{rival} was scored on other data"
    best = float(champion.tags["distens.score"])
    if score < best:
        return True, f"{name} {score:.4g}, {rival} has {best:.4g}"
    return False, f"{name} {score:.4g}, {rival} stays with {best:.4g}"


def _run_id(book: Logbook, name: str) -> str:
    task_id = task_of(name)
    return book.members[task_id].id if task_id in book.members else ""


def _difference(predictions_NK: Floats, expected_NK: Any) -> str:
    if expected_NK is None:
        return ""
    if np.shape(predictions_NK) != np.shape(expected_NK):
        return f"it predicts an array of {np.shape(predictions_NK)} where the run had {np.shape(expected_NK)}"
    expected = np.asarray(expected_NK)
    apart = np.abs(np.asarray(predictions_NK) - expected) / np.maximum(1.0, np.abs(expected))
    off = float(np.max(apart, initial=0.0))
    return "" if off <= TOLERANCE else f"its probabilities are off by {off:.2g}"


def requirements() -> list[str]:
    """Return the pinned requirements of a logged model; without them, MLflow would start a process to guess them."""
    pins = []
    for name in REQUIREMENTS:
        with suppress(PackageNotFoundError):
            pins.append(f"{name}=={version(name).split('+')[0]}")  # the package index has no `2.9.1+cpu`
    return pins


def plain_columns(example: Any) -> Any:
    """Return the rows with column types that MLflow's signatures know: categories become their values."""
    if not hasattr(example, "columns"):
        return example
    kinds = {name: object for name, kind in example.dtypes.items() if str(kind) == "category"}
    return example.astype(kinds).reset_index(drop=True)


def column_types(example: Any) -> dict[str, str | None]:
    """Return column -> its type in an MLflow signature, `double` or `string`; None: MLflow is to take any value.

    MLflow compares the types of columns, not values, and refuses whole numbers for `double`, fractions for `long`, and
    gaps for either of `long` and `boolean`. A column of whole numbers has fractions in pandas once there is a gap, so
    that only columns which are seen to hold fractions, or text, get a type. The bundle's own preprocessing checks all.
    """
    import pandas as pd
    from pandas.api import types

    found: dict[str, str | None] = {}
    for name, column in example.items():
        known = column.dropna()
        is_text = column.dtype == object or isinstance(column.dtype, pd.StringDtype)
        if types.is_float_dtype(column.dtype) and _has_fractions(known.to_numpy(dtype=float)):
            found[str(name)] = "double"
        elif is_text and types.infer_dtype(known, skipna=True) == "string":
            found[str(name)] = "string"
        else:
            found[str(name)] = None
    return found


def _has_fractions(values_N: Floats) -> bool:
    finite = values_N[np.isfinite(values_N)]
    return bool((finite != np.floor(finite)).any())


def plain_values(example: Any) -> Any:
    """Return the rows with values that JSON has: decimals become numbers, dates text, and whatever is missing None."""
    if not hasattr(example, "columns"):
        return example
    import pandas as pd

    plain = {}
    for name, column in example.items():
        if isinstance(column.dtype, np.dtype) and column.dtype.kind in "biuf":
            plain[name] = column
        else:
            plain[name] = pd.Series([_plain(value) for value in column], example.index, dtype=object)
    return pd.DataFrame(plain, index=example.index)


def _plain(value: Any) -> Any:
    import pandas as pd

    if pd.api.types.is_scalar(value) and pd.isna(value):
        return None
    if isinstance(value, Decimal):
        return float(value)
    return value if isinstance(value, bool | int | float | str | np.generic) else str(value)
