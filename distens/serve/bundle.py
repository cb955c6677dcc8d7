"""A bundle: one folder from which a finished run predicts, with member states, combiner, preprocessing, and no pickle.

    members/<id>.safetensors   combine.safetensors   then bundle.json, the completion marker

A member's id is its task's, or `<task>/<part>`; a member whose parts are averaged has a file for each part.

`bundle.json` holds everything else, and every file's size and SHA-256. The same run gives the same bytes.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from annotated_types import Ge, Gt, MinLen
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from distens import __version__, registry
from distens.config.sources import hash_sources
from distens.errors import BundleError, ConfigError, StorageError, report_damage, shorten_value
from distens.records import Address, Finished, Settings, State
from distens.serve.cascade import Cascade
from distens.storage import editions
from distens.storage.encoding import refuse_repeated_keys
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.targets.protocol import Target

FORMAT = 2
"""The newest format. Format 1 has neither parts nor targets other than classes; bundles without these are written in
format 1, so that older versions can read them."""

MARKER = "bundle.json"
COMBINER = "combine.safetensors"

DEFAULT_BUNDLES = ("ensemble", "global")
"""The bundles that a run's folder stands for, unless its `results.json` names one."""

MAX_MARKER_BYTES = 64 * 2**20
"""The largest size of the marker; with ten thousand members it takes a tenth of this."""

MAX_FINDINGS = 3

_NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
_ID = f"{_NAME}(?:/{_NAME})?"


@dataclass(frozen=True)
class BundleMember:
    """A selected member of a bundle.

    Attributes:
        id: its task's id, or `<task>/<part>`.
        weight: its weight in the selection, positive.
        state: its file, in the run's folder (to write a bundle) or in the bundle (read from one); None if it has parts.
        parts: name -> file of each part; the member's prediction is the mean of its parts' predictions.
    """

    id: str
    settings: Settings
    weight: float
    state: Address | None
    parts: Mapping[str, Address] = field(default_factory=dict)

    @classmethod
    def of(cls, entry: Finished, weight: float) -> BundleMember:
        """Return the member for a finished task, or for a selectable part of one."""
        task, report = entry.task, entry.report
        if report.averaged:
            return cls(task.id, task.settings, weight, None, {part.name: part.files["state"] for part in report.parts})
        return cls(task.id, task.settings, weight, report.files["state"])

    def states(self) -> Mapping[str, Address]:
        """Return name -> file of the member's models: one, or those whose predictions are averaged."""
        if self.state is not None:
            return {self.id: self.state}
        return {f"{self.id}/{part}": address for part, address in self.parts.items()}


@dataclass(frozen=True)
class Bundle:
    """The contents of a bundle, whose files were present and undamaged when it was read.

    Attributes:
        store: the bundle's folder.
        target_spec: the target's kind and options; building it may import a user's module.
        column_names: the names of the columns of predictions; for classes, the class names.
        preprocessing: JSON of `distens.data.preprocessing.Preprocessing`.
        combine: the combiner's kind and options.
        combine_state: the combiner's file.
        temperature: applied to the combined probabilities.
        metrics: the run's row of results for this bundle.
        version: the version of distens that wrote the bundle.
        cascade: the stages for predictions with fewer members than all; None for one member, and in bundles older than
            cascades.
        extra: further values from the writer of the bundle; `sources`: hashes of the user's own modules (see
            `distens.config.sources`), in bundles that need some.
    """

    store: Store
    name: str
    target_spec: Mapping[str, Any]
    column_names: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    members: tuple[BundleMember, ...]
    combine: Mapping[str, Any] | str
    combine_state: Address
    temperature: float
    metrics: Mapping[str, Any]
    version: str
    cascade: Cascade | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def write_bundle(
    store: Store,
    folder: str,
    *,
    name: str,
    target: Target,
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
    assert members and all(m.weight > 0 for m in members), "nothing that could predict"
    states = {name: address for member in members for name, address in member.states().items()}
    assert all(re.fullmatch(_ID, name) for name in [*states, *(m.id for m in members)]), list(states)
    assert len(states) == sum(len(m.states()) for m in members) and len({m.id for m in members}) == len(members)
    files: dict[str, Address] = {}
    for model, address in states.items():
        file = _member_file(model)
        files[file] = store.write(f"{folder}/{file}", store.read(address.path, address))
    files[COMBINER] = store.write_state(f"{folder}/{COMBINER}", combine_state)
    store.write_json(
        f"{folder}/{MARKER}",
        {
            "format": FORMAT if any("/" in model for model in states) or type(target) is not Classes else 1,
            "distens": __version__,
            "name": name,
            **_target_to_json(target),
            "preprocessing": dict(preprocessing),
            "members": [_member_to_json(member) for member in members],
            "combine": combine if isinstance(combine, str) else dict(combine),
            "temperature": float(temperature),
            "metrics": dict(metrics),
            "cascade": cascade and cascade.to_json(),
            "extra": {**_sources(members, combine), **dict(extra or {})},
            "files": {file: {"sha256": a.sha256, "size_bytes": a.size_bytes} for file, a in files.items()},
        },
    )


def _sources(members: Sequence[BundleMember], combine: Mapping[str, Any] | str) -> dict[str, Any]:
    found = hash_sources([*(member.settings for member in members), {"kind": combine}])
    return {"sources": found} if found else {}


def read_bundle(path: str) -> Bundle:
    """Return the bundle in a folder, once every file has been checked. Nothing in it is trusted, whoever wrote it.

    Args:
        path: a bundle, or a run's folder, which stands for the bundle of its ensemble (or for the one that a federation
            chose); a local path or any pyarrow address.

    Raises:
        BundleError: there is no bundle, the run has not finished, a file is missing, damaged or outside the folder, or
            a newer version wrote the bundle.
    """
    try:
        store = _open(str(path).rstrip("/") or "/")
        return _read(store)
    except (StorageError, OSError) as error:
        raise BundleError(str(error)) from error


def _open(path: str) -> Store:
    store = Store(path)
    if store.exists(MARKER):
        return store
    if not store.exists("run.json"):
        raise BundleError(f"{path}: neither a bundle ({MARKER} is missing) nor a run's folder")
    edition = editions.find_newest(store)
    final = editions.folder_of("final", edition or 1)
    for name in _deployed(store, edition):
        if store.exists(f"{final}/{name}/{MARKER}"):
            return Store(f"{path}/{final}/{name}")
    raise BundleError(
        f"{path}: this run has not finished, so it has no bundle to predict with; resume it with `distens resume "
        f"{shlex.quote(path)}`"
    )


def _deployed(store: Store, edition: int) -> list[str]:
    """Return the possible names of a run's bundle, the chosen one first if the edition's results name it."""
    if not edition:
        return list(DEFAULT_BUNDLES)
    results = editions.file_of(editions.RESULTS, edition)
    with report_damage(f"{store.url}/{results}"):
        chosen = store.read_json(results).get("chosen")
    if chosen is not None and (not isinstance(chosen, str) or re.fullmatch(_ID, chosen) is None):
        raise BundleError(
            f"{store.url}/{results} is damaged: refused: {shorten_value(chosen)} is not the name of a bundle"
        )
    return [*filter(None, [chosen]), *DEFAULT_BUNDLES]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False, extra="forbid")


class _Head(_Strict, extra="ignore"):
    """The keys of `bundle.json` that every version writes and reads."""

    format: Annotated[int, Ge(1)]
    distens: str = "?"


class _File(_Strict):
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size_bytes: Annotated[int, Ge(0)]


class _Member(_Strict):
    id: Annotated[str, Field(pattern=f"^{_ID}$")]
    weight: Annotated[float, Gt(0)]
    settings: dict[str, Any]
    parts: tuple[Annotated[str, Field(pattern=f"^{_NAME}$")], ...] = ()

    def states(self) -> list[str]:
        """Return the names of the member's models."""
        return [f"{self.id}/{part}" for part in self.parts] or [self.id]

    @model_validator(mode="after")
    def _is_one_thing(self) -> _Member:
        if self.parts and "/" in self.id:
            raise ValueError(f"parts: {shorten_value(self.id)} is a part itself, and has none")
        return self


class _Marker(_Strict):
    """The contents of `bundle.json`. A further key, except in `extra`, needs another FORMAT.

    A target other than classes needs format 2.
    """

    format: int
    distens: str
    name: str
    classes: Annotated[tuple[str, ...], MinLen(2)] | None = None
    target: dict[str, Any] | None = None
    columns: tuple[str, ...] = ()
    preprocessing: dict[str, Any]
    members: Annotated[tuple[_Member, ...], MinLen(1)]
    combine: dict[str, Any] | str
    temperature: Annotated[float, Gt(0)]
    metrics: dict[str, Any]
    cascade: Cascade | None = None
    extra: dict[str, Any] = {}
    files: dict[str, _File]

    @model_validator(mode="after")
    def _agrees(self) -> _Marker:
        ids = [member.id for member in self.members]
        if (self.classes is None) == (self.target is None):
            raise ValueError(
                "classes: missing"
                if self.target is None
                else "target: the marker has classes, too; only one of them is allowed"
            )
        for what, names in (("classes", self.classes or ()), ("members", ids)):
            if len(set(names)) < len(names):
                raise ValueError(f"{what}: a name occurs twice among {shorten_value(names)}")
        states = [name for member in self.members for name in member.states()]
        if len(set(states)) < len(states):
            raise ValueError(f"members: a part occurs twice among {shorten_value(states)}")
        if self.format == 1 and any("/" in name for name in states):
            raise ValueError("members: a bundle of format 1 has no parts")
        if self.format == 1 and self.target is not None:
            raise ValueError("target: a bundle of format 1 must have classes")
        expected = {*map(_member_file, states), COMBINER}
        for name in expected - self.files.keys():
            raise ValueError(f"files: {name!r} is missing")
        for name in self.files.keys() - expected:
            raise ValueError(f"files: {shorten_value(name)} is not the name of a file of a bundle")
        if self.cascade is not None:
            self.cascade.check(len(ids))
        return self


def _read(store: Store) -> Bundle:
    where = f"{store.url}/{MARKER}"
    _refuse_links(store, MARKER)
    if (store.size_bytes(MARKER) or 0) > MAX_MARKER_BYTES:
        raise BundleError(f"{where} is damaged: refused: it is longer than {MAX_MARKER_BYTES:,} bytes")
    content = store.read(MARKER)
    try:
        head = _Head.model_validate_json(content)
        if head.format > FORMAT:
            raise BundleError(
                f"{store.url}: a bundle of format {head.format}, written by distens {shorten_value(head.distens)}; "
                f"this is distens {__version__}, which reads formats up to {FORMAT}. Install the newer version to "
                "use it"
            )
        marker = _Marker.model_validate_json(content)
        json.loads(content, object_pairs_hook=refuse_repeated_keys)
    except ValidationError as error:
        findings = registry.describe(error).splitlines()
        raise BundleError(f"{where} is damaged: refused: {'; '.join(findings[:MAX_FINDINGS])}") from error
    except ValueError as error:
        raise BundleError(f"{where} is damaged: refused: {error}") from error
    _check_kind("combine", marker.combine, where)
    if marker.target is not None:
        _check_kind("targets", marker.target, where)
    for member in marker.members:
        _check_kind("members", member.settings, where)
    files = {name: Address(name, file.sha256, file.size_bytes) for name, file in marker.files.items()}
    for name in files:
        _refuse_links(store, name)
    for _ in store.each(store.verify, files.values()):
        pass
    return Bundle(
        store=store,
        name=marker.name,
        target_spec=marker.target or {"kind": "classes", "names": marker.classes},
        column_names=marker.classes or marker.columns,
        preprocessing=marker.preprocessing,
        members=tuple(_member_from_json(member, files) for member in marker.members),
        combine=marker.combine,
        combine_state=files[COMBINER],
        temperature=marker.temperature,
        metrics=marker.metrics,
        version=marker.distens,
        cascade=marker.cascade,
        extra=marker.extra,
    )


def _member_file(name: str) -> str:
    return f"members/{name}.safetensors"


def _member_to_json(member: BundleMember) -> dict[str, Any]:
    values = {"id": member.id, "weight": float(member.weight), "settings": dict(member.settings)}
    return {**values, "parts": list(member.parts)} if member.parts else values


def _member_from_json(member: _Member, files: Mapping[str, Address]) -> BundleMember:
    if not member.parts:
        return BundleMember(member.id, member.settings, member.weight, files[_member_file(member.id)])
    parts = {part: files[_member_file(f"{member.id}/{part}")] for part in member.parts}
    return BundleMember(member.id, member.settings, member.weight, None, parts)


def _refuse_links(store: Store, name: str) -> None:
    if store.leads_out(name):
        raise BundleError(f"{store.url}: refused: {name} is a link that leads out of the bundle's folder")


def _target_to_json(target: Target) -> dict[str, Any]:
    """Return the marker's entries for a target; for classes only their names, as in format 1."""
    if type(target) is Classes:
        return {"classes": list(target.names)}
    return {"target": registry.resolve_options(target), "columns": list(target.column_names)}


def _check_kind(family: str, spec: Mapping[str, Any] | str, where: str) -> None:
    try:
        registry.check_kind(family, registry.split_spec(spec, family)[0], family)
    except ConfigError as error:
        raise BundleError(f"{where} is damaged: refused: {error}") from error
