"""When a bundle becomes a version of a registered model, and when that version becomes the champion."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from distens.records import Floats, task_of
from distens.tracking._logbook import Logbook, run_key
from distens.tracking.protocol import Final, model_name

CHECKED = "distens.checked"
CHAMPION = "champion"
TOLERANCE = 1e-6

# What a bundle is read and predicted with; pinned in the logged model to what is installed here.
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
    """What is asked of a model registry."""

    def versions(self, model: str) -> Iterable[Version]:
        """Return all versions; none if there is no such model."""
        ...

    def champion(self, model: str) -> Version | None:
        """Return the version with that alias."""
        ...

    def add(self, model: str, run_id: str, bundle: Path, example: Any, tags: Mapping[str, str]) -> Version:
        """Log the bundle as a model of the run and register it."""
        ...

    def predict(self, model: str, version: Version, example: Any) -> Floats:
        """Fetch the version as a user would, and return its probs_NC."""
        ...

    def tag(self, model: str, version: Version, key: str, value: str) -> None:
        """Tag a version."""
        ...

    def promote(self, model: str, version: Version) -> None:
        """Give a version the alias `champion`."""
        ...


def register(registry: Registry, book: Logbook, final: Final, bundle: str) -> str:
    """Register one bundle, check what the registry gives back, and return a line that says what happened.

    A server keeps models that cannot be loaded as if nothing were wrong, so the version is fetched, loaded and asked
    to predict the example before it may become champion. There is no alias `latest` to move: MLflow reserves that
    word and resolves `models:/NAME@latest` to the newest version by itself.
    """
    model = model_name(book.run.name, bundle)
    path = final.bundles[bundle]
    sha256 = hashlib.sha256((path / "bundle.json").read_bytes()).hexdigest()
    tags = {
        "distens.run": run_key(book.run),
        "distens.bundle": sha256,
        "distens.fingerprint": book.run.fingerprint,
        **({"distens.score": repr(float(final.scores[bundle]))} if bundle in final.scores else {}),
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
        moves, why = False, "there are no rows to judge it by"
    if moves:
        registry.promote(model, version)
    verdict = f"champion ({why})" if moves else f"not champion ({why})"
    registry.tag(model, version, CHECKED, verdict)
    return f"{where} is {verdict}"


def compare(score: float, fingerprint: str, champion: Version | None, name: str = "NLL") -> tuple[bool, str]:
    """Return whether a new version becomes champion, and why.

    Scores are of the *combine* split: comparable only on the same data, lower is better.

    Args:
        name: of what was measured.
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


def _difference(probs_NC: Floats, expected_NC: Any) -> str:
    if expected_NC is None:
        return ""
    if np.shape(probs_NC) != np.shape(expected_NC):
        return f"it predicts an array of {np.shape(probs_NC)} where the run had {np.shape(expected_NC)}"
    expected = np.asarray(expected_NC)
    apart = np.abs(np.asarray(probs_NC) - expected) / np.maximum(1.0, np.abs(expected))
    off = float(np.max(apart, initial=0.0))
    return "" if off <= TOLERANCE else f"its probabilities are off by {off:.2g}"


def requirements() -> list[str]:
    """Return the pins of a logged model; MLflow would start a process to guess them."""
    pins = []
    for name in REQUIREMENTS:
        with suppress(PackageNotFoundError):
            pins.append(f"{name}=={version(name).split('+')[0]}")  # `2.9.1+cpu` is not on the package index
    return pins


def plain(example: Any) -> Any:
    """Return rows whose column types MLflow's signatures know: categories are texts to it."""
    if not hasattr(example, "columns"):
        return example
    kinds = {name: object for name, kind in example.dtypes.items() if str(kind) == "category"}
    return example.astype(kinds).reset_index(drop=True)
