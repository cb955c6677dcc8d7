"""Genuine files to be changed, and what reads them: bundles with one member of each family, predictions, rows."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import _mutations as mutations
import numpy as np
import pandas as pd
from safetensors.numpy import load, save

from distens import registry
from distens.config.sections import DataSection
from distens.data.dataset import Examples
from distens.data.preprocessing import Preprocessing
from distens.data.source import rows_from_file
from distens.members._families import CLASSIFIERS, REGRESSORS
from distens.records import Address
from distens.serve import bundle, predictor
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.targets.values import Values
from distens.training.context import Context

ROWS, COLUMNS = 60, tuple("abcd")
MEMBER, COMBINER, MARKER = "members/m0.safetensors", "combine.safetensors", "bundle.json"
FEW = {
    "ada_boost": {"n_estimators": 3, "max_depth": 2},
    "extra_trees": {"n_estimators": 3},
    "histogram_boosting": {"max_iter": 2, "max_leaf_nodes": 5},
    "k_nearest_neighbours": {"n_neighbors": 3},
    "lightgbm": {"n_estimators": 2, "num_leaves": 5},
    "mlp": {"hidden_layer_sizes": [4], "max_iter": 3},
    "random_forest": {"n_estimators": 3},
}
NETWORK = {"kind": "classifier", "model": {"kind": "mlp", "hidden": [4]}, "epochs": 1}
KINDS = ("text", "description", "array", "archive", "member", "combiner", "marker", "predictions", "rows")


@dataclass(frozen=True)
class Genuine:
    """A genuine bundle: its files, and the settings of its member."""

    name: str
    settings: Mapping[str, Any]
    files: Mapping[str, bytes]


def table() -> pd.DataFrame:
    """Return the rows that all bundles learn from and predict."""
    return pd.DataFrame(np.random.default_rng(0).normal(size=(ROWS, len(COLUMNS))), columns=list(COLUMNS))


def make_all(folder: Path) -> list[Genuine]:
    """Return genuine bundles: of every family, for two and three classes or numbers, and of a network."""
    found = [_make(folder, "network", NETWORK, 3)]
    for name in CLASSIFIERS:
        settings = {"kind": "estimator", "estimator": name, "options": FEW.get(name, {})}
        found += [_make(folder, f"{name} of {classes} classes", settings, classes) for classes in (2, 3)]
    for name in REGRESSORS:
        settings = {"kind": "estimator_regressor", "estimator": name, "options": FEW.get(name, {})}
        found.append(_make(folder, f"{name} of numbers", settings, 1))
    return found


def _make(folder: Path, name: str, settings: Mapping[str, Any], classes: int) -> Genuine:
    rows, store = table(), Store(str(folder / name.replace(" ", "_")))
    preprocessing = Preprocessing.fit(rows, np.arange(ROWS), DataSection.model_validate({"source": "sklearn:iris"}))
    inputs, numbers_N = preprocessing.transform(rows), rows["a"].to_numpy() + rows["b"].to_numpy() ** 2
    targets_N = numbers_N if classes == 1 else np.digitize(numbers_N, np.quantile(numbers_N, [0.3, 0.7][: classes - 1]))
    target = Values() if classes == 1 else Classes(tuple(map(str, range(classes))))
    member = registry.build_member({"family": "fuzzed", **settings})
    member.fit(Examples(inputs, targets_N, classes), Context(seed=0))
    address = store.write_state("m0.safetensors", member.state())
    combiner = registry.make_plugin("combine", "average", "combine")
    predictions_MNK = member.predict(inputs)[None]
    more = {"target": target} if classes == 1 else {}
    bundle.write_bundle(
        store,
        "bundle",
        name=name,
        target=target,
        preprocessing=preprocessing.to_json(),
        members=[bundle.BundleMember("m0", {"family": "fuzzed", **settings}, 1.0, address)],
        combine="average",
        combine_state=combiner.fit(predictions_MNK, targets_N, np.ones(1), **more),
        temperature=1.0,
        metrics={},
    )
    path = folder / name.replace(" ", "_") / "bundle"
    return Genuine(name, settings, {file: (path / file).read_bytes() for file in (MEMBER, COMBINER, MARKER)})


def write_bundle(files: Mapping[str, bytes], folder: Path) -> None:
    """Write a bundle; sizes and checksums are made to fit, as a stranger would, unless the marker cannot be read."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "members").mkdir(parents=True)
    written = dict(files)
    try:
        marker = json.loads(files[MARKER])
        for name in marker["files"].keys() & files.keys():
            content = files[name]
            marker["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size_bytes": len(content)}
        written[MARKER] = json.dumps(marker).encode()
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        pass
    for name, content in written.items():
        (folder / name).write_bytes(content)


def write_case(kind: str, genuine: Genuine, rng: Random, folder: Path) -> Callable[[], object]:
    """Write a changed file and what belongs to it; return a function that reads it and predicts with it."""
    files = dict(genuine.files)
    if kind == "predictions":
        return _write_predictions(rng, folder)
    if kind == "rows":
        return _write_rows(files, rng, folder)
    if kind == "marker":
        if rng.random() < 0.3:
            files[MARKER] = mutations.change_bytes(files[MARKER], rng)
        else:
            files[MARKER] = json.dumps(mutations.change_json(json.loads(files[MARKER]), rng)).encode()
    elif kind == "combiner":
        files[COMBINER] = mutations.change_bytes(files[COMBINER], rng)
    elif kind == "member" or "estimator" not in genuine.settings:
        files[MEMBER] = mutations.change_bytes(files[MEMBER], rng)
    else:
        files[MEMBER] = _change_estimator(kind, files[MEMBER], rng)
    write_bundle(files, folder)
    return lambda: predictor.load(str(folder)).predict_proba(table())


def _change_estimator(kind: str, content: bytes, rng: Random) -> bytes:
    packed = load(content)["skops"].tobytes()
    names = [0]

    def change(name: str, found: bytes) -> bytes | None:
        if name == "schema.json" and kind in ("text", "description"):
            return json.dumps(_change_description(json.loads(found), kind, rng)).encode()
        if name.endswith(".npy") and kind == "array":
            names[0] += 1
            return mutations.change_array(found, rng) if names[0] == 1 or rng.random() < 0.2 else found
        return found

    packed = mutations.change_bytes(packed, rng) if kind == "archive" else mutations.change_zip(packed, change)
    (length,) = np.frombuffer(content[:8], dtype="<u8")
    meta = json.loads(content[8 : 8 + int(length)])["__metadata__"]
    return save({"skops": np.frombuffer(packed, dtype=np.uint8)}, metadata=meta)


def _change_description(schema: Any, kind: str, rng: Random) -> Any:
    if kind == "description":
        return mutations.change_json(schema, rng)
    left = [schema]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if value.get("__loader__") == "JsonNode" and "tree_sizes" in str(value["content"]):
                value["content"] = json.dumps(mutations.change_text(json.loads(value["content"]), rng))
                return schema
            left += value.values()
        elif isinstance(value, list):
            left += value
    return mutations.change_json(schema, rng)  # another library's estimator has no text


def _write_predictions(rng: Random, folder: Path) -> Callable[[], object]:
    shutil.rmtree(folder, ignore_errors=True)
    store = Store(str(folder))
    store.write_predictions("predictions.arrow", np.full((ROWS, 3), 1 / 3, dtype=np.float32))
    content = mutations.change_bytes((folder / "predictions.arrow").read_bytes(), rng)
    (folder / "predictions.arrow").write_bytes(content)
    address = Address("predictions.arrow", hashlib.sha256(content).hexdigest(), len(content))
    return lambda: np.sum(store.read_predictions(address))


def _write_rows(files: Mapping[str, bytes], rng: Random, folder: Path) -> Callable[[], object]:
    write_bundle(files, folder)
    form = rng.choice(("parquet", "csv", "npz"))
    path = folder / f"rows.{form}"
    if form == "parquet":
        table().to_parquet(path)
    elif form == "csv":
        table().to_csv(path, index=False)
    else:
        np.savez_compressed(path, inputs=table().to_numpy())
    path.write_bytes(mutations.change_bytes(path.read_bytes(), rng))

    def read() -> object:
        found = predictor.load(str(folder))
        return found.predict_proba(rows_from_file(str(path), found.preprocessing))

    return read
