"""A finished run as one folder that predicts: member states, combiner, preprocessing, and no pickle.

    members/<id>.safetensors   combine.safetensors   then bundle.json, the completion marker

`bundle.json` holds everything else, and every file's size and SHA-256. The same run gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from distens import __version__, registry
from distens.errors import BundleError, StorageError, did_you_mean
from distens.records import Address, Settings, State
from distens.serve.cascade import Cascade
from distens.store import Store

FORMAT = 1
MARKER = "bundle.json"
COMBINER = "combine.safetensors"

_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class BundleMember:
    """One selected member.

    Attributes:
        weight: positive; the selection's.
        state: its file, in the run's folder (to write a bundle) or in the bundle (read from one).
    """

    id: str
    settings: Settings
    weight: float
    state: Address


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds; its files were there and whole when it was read.

    Attributes:
        store: the bundle's folder.
        classes: names, in the order of probabilities' columns.
        preprocessing: JSON of `distens.data.preprocessing.Preprocessing`.
        combine: the combiner's kind and options; `combine_state` its file.
        temperature: applied to the combined probabilities.
        metrics: the run's row of results for this bundle.
        version: of distens, that wrote it.
        cascade: how to ask fewer members than all; None for one member, and in bundles older than cascades.
        extra: whatever else the writer had to say.
    """

    store: Store
    name: str
    classes: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    members: tuple[BundleMember, ...]
    combine: Mapping[str, Any] | str
    combine_state: Address
    temperature: float
    metrics: Mapping[str, Any]
    version: str
    cascade: Cascade | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def write(
    store: Store,
    folder: str,
    *,
    name: str,
    classes: Sequence[str],
    preprocessing: Mapping[str, Any],
    members: Sequence[BundleMember],
    combine: Mapping[str, Any] | str,
    combine_state: State,
    temperature: float,
    metrics: Mapping[str, Any],
    cascade: Cascade | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """Write a bundle into a folder of the run's store.

    Raises:
        StorageError: a member's state is damaged or missing, or the folder cannot be written.
    """
    assert members and len(classes) > 1 and all(m.weight > 0 for m in members), "nothing that could predict"
    assert all(_ID.fullmatch(m.id) for m in members) and len({m.id for m in members}) == len(members)
    files: dict[str, Address] = {}
    for member in members:
        file = _member_file(member.id)
        files[file] = store.write(f"{folder}/{file}", store.read(member.state.path, member.state))
    files[COMBINER] = store.write_state(f"{folder}/{COMBINER}", combine_state)
    store.write_json(
        f"{folder}/{MARKER}",
        {
            "format": FORMAT,
            "distens": __version__,
            "name": name,
            "classes": [str(label) for label in classes],
            "preprocessing": dict(preprocessing),
            "members": [{"id": m.id, "weight": float(m.weight), "settings": dict(m.settings)} for m in members],
            "combine": combine if isinstance(combine, str) else dict(combine),
            "temperature": float(temperature),
            "metrics": dict(metrics),
            "cascade": cascade and cascade.to_json(),
            "extra": dict(extra or {}),
            "files": {file: {"sha256": a.sha256, "size_bytes": a.size_bytes} for file, a in files.items()},
        },
    )


def read(path: str) -> Bundle:
    """Return the bundle in a folder, every file of it checked.

    Args:
        path: a bundle, or a run's folder, whose ensemble is meant (of a federation, what it chose); local or any
            pyarrow address.

    Raises:
        BundleError: there is none, the run has not finished, a file is missing or damaged, or a newer version wrote it.
    """
    store = _open(path)
    try:
        values = json.loads(store.read(MARKER))
    except (StorageError, ValueError) as error:
        raise BundleError(f"{store.url}/{MARKER} is damaged: {error}") from error
    _check_format(values, store.url)
    try:
        bundle = _parse(values, store)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BundleError(f"{store.url}/{MARKER} is damaged: {error!r}") from error
    for _ in store.each(lambda a: _check_file(store, a), [*(m.state for m in bundle.members), bundle.combine_state]):
        pass
    return bundle


def _open(path: str) -> Store:
    path = str(path).rstrip("/") or "/"
    try:
        store = Store(path)
        if store.exists(MARKER):
            return store
        if not store.exists("run.json"):
            raise BundleError(f"{path}: neither a bundle ({MARKER} is missing) nor a run's folder")
        for name in _deployed(store):
            if store.exists(f"final/{name}/{MARKER}"):
                return Store(f"{path}/final/{name}")
    except StorageError as error:
        raise BundleError(f"{path}: cannot be opened: {error}") from error
    raise BundleError(
        f"{path}: this run has not finished, so there is nothing to predict with; `distens resume {path}`"
    )


def _deployed(store: Store) -> list[str]:
    """Return the names of a run's bundles, the one to deploy first: a federation says which that is."""
    chosen = store.read_json("results.json").get("chosen") if store.exists("results.json") else None
    return [*filter(None, [chosen]), "ensemble", "global"]


def _check_format(values: Any, where: str) -> None:
    found = values.get("format") if isinstance(values, dict) else None
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise BundleError(f"{where}/{MARKER} is damaged: its format is {found!r}")
    if found > FORMAT:
        raise BundleError(
            f"{where}: a bundle of format {found}, written by distens {values.get('distens', '?')}; this is distens "
            f"{__version__}, which reads formats up to {FORMAT}. Install the newer version to use it"
        )


def _parse(values: Mapping[str, Any], store: Store) -> Bundle:
    files = {name: Address(name, str(a["sha256"]), int(a["size_bytes"])) for name, a in values["files"].items()}
    for name in files:
        if name != COMBINER and not (name.startswith("members/") and _is_member_file(name)):
            raise BundleError(f"{store.url}/{MARKER}: refused: {name!r} is no name of a bundle's file")
    members = []
    for item in values["members"]:
        _check_kind("members", item["settings"], store.url)
        if not _ID.fullmatch(item["id"]):
            raise BundleError(f"{store.url}/{MARKER}: refused: {item['id']!r} is no member's id")
        file = files[_member_file(item["id"])]
        members.append(BundleMember(item["id"], item["settings"], float(item["weight"]), file))
    _check_kind("combine", values["combine"], store.url)
    classes, temperature = tuple(map(str, values["classes"])), float(values["temperature"])
    weights = [member.weight for member in members]
    if not members or len(classes) < 2 or not all(0 < value < math.inf for value in (temperature, *weights)):
        raise ValueError("no members, fewer than two classes, or a number that is not positive")
    return Bundle(
        store=store,
        name=str(values["name"]),
        classes=classes,
        preprocessing=values["preprocessing"],
        members=tuple(members),
        combine=values["combine"],
        combine_state=files[COMBINER],
        temperature=temperature,
        metrics=values["metrics"],
        version=str(values["distens"]),
        cascade=Cascade.from_json(found, len(members)) if (found := values.get("cascade")) is not None else None,
        extra=values.get("extra", {}),
    )


def _member_file(member_id: str) -> str:
    return f"members/{member_id}.safetensors"


def _is_member_file(name: str) -> bool:
    stem = name.removeprefix("members/").removesuffix(".safetensors")
    return bool(_ID.fullmatch(stem)) and name == _member_file(stem)


def _check_kind(family: str, spec: Any, where: str) -> None:
    kind = spec if isinstance(spec, str) else spec["kind"]
    allowed = registry.names(family)
    if kind not in allowed:
        raise BundleError(f"{where}: unknown {family} kind {kind!r}. {did_you_mean(str(kind), allowed)}")


def _check_file(store: Store, address: Address) -> None:
    try:
        content = store.read(address.path)
    except StorageError as error:
        missing = isinstance(error.__cause__, FileNotFoundError)
        raise BundleError(f"{store.url}: {address.path} is missing" if missing else str(error)) from error
    found = hashlib.sha256(content).hexdigest()
    if found != address.sha256 or len(content) != address.size_bytes:
        raise BundleError(
            f"{store.url}: {address.path} is damaged: {len(content)} bytes with SHA-256 {found} instead of "
            f"{address.size_bytes} bytes with {address.sha256}"
        )
