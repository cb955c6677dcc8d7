"""The archive that a stored estimator is: a zip of one JSON file, which describes every part, and of arrays (skops).

    bytes ─► entries of a bounded size ─► JSON ─► parts ─► headers of arrays ─► Archive ─► bytes that were written here

Archives are written here, whoever made the estimator: parts and arrays are numbered in order of appearance and entries
have no time, so that equal estimators are equal bytes. What is read is checked first: sizes before anything is
unpacked, and that no two entries, keys or parts have one name, because then two readers could take one each.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens.errors import shorten_value
from distens.storage.encoding import refuse_repeated_keys

SMALL_BYTES, MAX_UNPACK_FACTOR = 64 * 2**20, 100
"""A file may unpack to `SMALL_BYTES`, or to `MAX_UNPACK_FACTOR` its packed bytes if that is more. Real files grow
tenfold."""

SMALL_SCHEMA_BYTES, MAX_SCHEMA_FACTOR = 4 * 2**20, 20
"""The same of the description alone, which holds LightGBM's text, too."""

MARKS_PER_PART, MAX_TEXT_MARKS = 10, 1_000_000
"""The most braces, brackets and commas that describe a part, on average, and that a text may have beyond them (one for
each packed byte); they are counted before JSON is read."""

MAX_ENTRIES = 100_000
MAX_EMPTY_LENGTH = 2**20
"""The most rows or columns of an array without numbers."""

_SCHEMA = "schema.json"
_ENTRY_MARK = b"PK\x01\x02"
_ARRAY_MARK, _ARRAY_MARK_BYTES = b"\x93NUMPY\x01\x00", 8
_KIND = rb"'[<>|][a-zA-Z][0-9]{1,3}'"
_FIELD = rb"\('\w{0,60}', " + _KIND + rb"\)"
_ARRAY_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': (?:" + _KIND + rb"|\[" + _FIELD + rb"(?:, " + _FIELD + rb"){0,60}\]), "
    rb"'fortran_order': (?:True|False), 'shape': \((?:[0-9]{1,19},? ?){0,32}\), \} *\n",
    re.DOTALL,
)
"""Numpy evaluates a header as Python's literals, which may be deeper than its parser's memory allows."""

_VALUES = frozenset(("JsonNode", "TypeNode"))
"""Parts that are values, so that it makes no difference whether two of them are one object."""


@dataclass(frozen=True)
class Archive:
    """The contents of a skops file.

    Attributes:
        schema: the description of the estimator, as skops writes it.
        arrays: name -> bytes of an array, as numpy writes it.
    """

    schema: dict[str, Any]
    arrays: dict[str, bytes]

    def parts(self) -> Iterator[dict[str, Any]]:
        """Yield the description of every part, in order of appearance."""
        left: list[Any] = [self.schema]
        while left:
            value = left.pop()
            if isinstance(value, dict):
                if "__loader__" in value:
                    yield value
                left.extend(reversed(value.values()))
            elif isinstance(value, list):
                left.extend(reversed(value))

    def dump(self, level: int | None = None) -> bytes:
        """Return the bytes of the archive, the same for the same contents.

        Args:
            level: of the compression; None: none.
        """
        schema = json.dumps(self.schema, separators=(",", ":"), allow_nan=False)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as file:
            for name, content in [*self.arrays.items(), (_SCHEMA, schema.encode())]:
                entry = zipfile.ZipInfo(name)  # of the first of January 1980
                entry.create_system = 3
                entry.compress_type = zipfile.ZIP_STORED if level is None else zipfile.ZIP_DEFLATED
                file.writestr(entry, content, compresslevel=level)
        return out.getvalue()


def archive_estimator(fitted: Any) -> Archive:
    """Return a fitted estimator as an archive.

    `skops.io.dumps` writes a description with indentation, which would be read again at once, so its steps are taken
    here, by names that it does not promise (200 extremely randomised trees: 0.54 s in place of 0.74). Where a version
    has other names, `dumps` is called.
    """
    try:
        return _describe_directly(fitted)
    except (ImportError, AttributeError, TypeError):
        import skops.io

        with zipfile.ZipFile(io.BytesIO(skops.io.dumps(fitted))) as file:
            return _number_parts(Archive(json.loads(file.read(_SCHEMA)), _read_arrays(file)))


def _describe_directly(fitted: Any) -> Archive:
    """Return the archive, by the steps of `skops.io.dumps`."""
    import skops.io
    from skops.io import _utils

    with zipfile.ZipFile(io.BytesIO(), "w") as file:
        context = _utils.SaveContext(zip_file=file)  # it keeps parts alive, so that no two have one address
        schema = _utils.get_state(fitted, context)
        schema |= {"protocol": context.protocol, "_skops_version": skops.__version__}
        as_read = json.loads(json.dumps(schema))  # as in `read_archive`: lists for tuples, and no two parts one object
        return _number_parts(Archive(as_read, _read_arrays(file)))


def _read_arrays(file: zipfile.ZipFile) -> dict[str, bytes]:
    return {name: _clear_gaps(file.read(name)) for name in file.namelist() if name != _SCHEMA}


def _clear_gaps(content: bytes) -> bytes:
    """Return an array with zeros between its fields, where numpy writes whatever was in memory."""
    if not content.startswith(_ARRAY_MARK):  # scipy's sparse matrices are archives
        return content
    file = io.BytesIO(content)
    file.seek(_ARRAY_MARK_BYTES)
    _, _, kind = np.lib.format.read_array_header_1_0(file)
    if not kind.fields:
        return content
    used = np.zeros(kind.itemsize, dtype=bool)
    for field in kind.fields.values():
        used[field[1] : field[1] + field[0].itemsize] = True
    start = file.tell()
    rows = np.frombuffer(content, dtype=np.uint8, offset=start).reshape(-1, kind.itemsize)
    return content[:start] + np.where(used, rows, np.uint8(0)).tobytes()


def read_archive(content: bytes, most_parts: int) -> Archive:
    """Return the contents of a skops file from anybody.

    Args:
        most_parts: the most parts that it may describe.

    Raises:
        ValueError: it is larger unpacked than its size justifies, or ambiguous; the message gives the reason.
        Exception: it is no such file; zipfile and zlib have errors of several classes.
    """
    most = max(SMALL_BYTES, MAX_UNPACK_FACTOR * len(content))
    most_marks = MARKS_PER_PART * most_parts + min(len(content), MAX_TEXT_MARKS)
    if content.count(_ENTRY_MARK) > MAX_ENTRIES:
        raise ValueError(f"it has more than {MAX_ENTRIES:,} entries")
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        entries: dict[str, zipfile.ZipInfo] = {}
        for entry in file.infolist():
            if entries.setdefault(entry.filename, entry) is not entry:
                raise ValueError(f"two entries have the name {shorten_value(entry.filename)}")
        _check_size(entries[_SCHEMA].file_size, max(SMALL_SCHEMA_BYTES, MAX_SCHEMA_FACTOR * len(content)))
        archive = Archive(_parse_schema(_unpack(file, entries[_SCHEMA]), most_marks), {})
        parts = list(archive.parts())
        if len(parts) > most_parts:
            raise ValueError(f"it has {len(parts):,} parts, at most {most_parts:,} are allowed by the settings")
        names = [part["file"] for part in parts if "file" in part]
        _check_size(sum(entries[name].file_size for name in names), most)  # skops has a copy for each part
        archive.arrays.update((name, _unpack(file, entries[name])) for name in dict.fromkeys(names))
    _check_numbers(parts)
    return _number_parts(archive)


def _number_parts(archive: Archive) -> Archive:
    """Number parts and arrays in order of appearance: skops names them by their addresses in memory.

    A part that occurs twice keeps one number, unless it is a value: then it depends on the process whether it is one.
    """
    numbers: dict[Any, int] = {}
    names: dict[str, str] = {}
    for place, part in enumerate(archive.parts()):
        if "__id__" in part:
            number = place if part["__loader__"] in _VALUES else ("shared", part["__id__"])
            part["__id__"] = numbers.setdefault(number, len(numbers) + 1)
        if "file" in part:
            part["file"] = names.setdefault(part["file"], f"{len(names)}.npy")
    return Archive(archive.schema, {new: archive.arrays[old] for old, new in names.items()})


def _check_size(found: int, most: int) -> None:
    if found > most:
        raise ValueError(f"it unpacks to {found:,} bytes, at most {most:,} are allowed for its size")


def _unpack(file: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """Return the bytes of an entry; never more than it says, which `ZipFile.read` would unpack first."""
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{shorten_value(entry.filename)} is compressed in another way than deflate")
    with file.open(entry) as opened:
        content = opened.read(entry.file_size)
        if len(content) != entry.file_size:
            raise ValueError(f"{shorten_value(entry.filename)} is shorter than it says")
    return content


def _parse_schema(content: bytes, most_marks: int) -> dict[str, Any]:
    text = content.decode()
    marks = max(sum(map(text.count, "{[,")), MARKS_PER_PART * text.count('"__loader__"'))
    if marks > most_marks:
        raise ValueError(f"its description has {marks:,} entries, at most {most_marks:,} are allowed by the settings")
    schema = json.loads(
        text, object_pairs_hook=refuse_repeated_keys, parse_float=_refuse_number, parse_constant=_refuse_number
    )
    if not isinstance(schema, dict):
        raise ValueError("its description is not an object")
    return schema


def _refuse_number(text: str) -> float:
    raise ValueError(f"its description has the number {shorten_value(text)}, where only whole ones are allowed")


def _check_numbers(parts: Sequence[dict[str, Any]]) -> None:
    """Refuse parts that share a number and differ: skops makes the first one only, so a check of another would be
    void."""
    first: dict[int, dict[str, Any]] = {}
    for part in parts:
        number = part.get("__id__", 0)
        if type(number) is not int:
            raise ValueError(f"a part has the number {shorten_value(number)}")
        other = first.setdefault(number, part) if number else part
        if other is not part and _drop_numbers(other) != _drop_numbers(part):
            raise ValueError(f"two different parts have the id {number}")


def _drop_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_numbers(inner) for key, inner in value.items() if key != "__id__"}
    return list(map(_drop_numbers, value)) if isinstance(value, list) else value


def read_shape(content: bytes) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type of an array of numbers, as numpy wrote it.

    Raises:
        ValueError: it is not one, or its header does not fit its bytes; numpy allocates what a header says.
    """
    if not _ARRAY_HEADER.match(content):
        raise ValueError("an array is not as numpy writes numbers with allow_pickle=False")
    file = io.BytesIO(content)
    file.seek(_ARRAY_MARK_BYTES)
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    if not _holds_numbers(kind):
        raise ValueError(f"an array of {shorten_value(kind)} holds more than numbers (allow_pickle is False)")
    size, found = math.prod(shape), len(content) - file.tell()
    if min(shape, default=0) < 0 or size * kind.itemsize != found or (not size and max(shape) > MAX_EMPTY_LENGTH):
        raise ValueError(f"an array of the shape {shorten_value(shape)} has {found} bytes, which do not fit it")
    return shape, kind


def _holds_numbers(kind: np.dtype[Any]) -> bool:
    if kind.fields:
        return all(_holds_numbers(field[0]) for field in kind.fields.values())
    return kind.kind in "biuf" and kind.isnative and kind.itemsize <= 8
