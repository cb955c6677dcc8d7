"""Fitted estimators written as bytes and read back safely, even if a hostile author wrote the bytes.

    bytes ─► Archive ─► parts, arrays, LightGBM's text ─► bytes written here ─► skops: objects ─► sizes, parameters

No code in the bytes is run, and compiled code can walk what is made of them. skops makes only objects of trusted types,
but checks no more: it calls a trusted type's constructor with any arguments in the file (LightGBM's opens any file).
Trees whose nodes lead in circles or out of the array hang or crash the process when they predict. A text that LightGBM
cannot read crashes it while it is read. So every part is checked here before it is made (`_archive`, `_boosted`), and
the numbers that scikit-learn and LightGBM use as indices and sizes afterwards (`_fitted`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from distens.errors import StorageError, shorten_value
from distens.members import _families
from distens.members._archive import Archive, archive_estimator, read_archive, read_shape
from distens.members._boosted import rewrite_text
from distens.members._families import Family
from distens.members._fitted import check_fitted
from distens.records import State

TYPES_OF_LOADERS: Mapping[str, tuple[str, ...]] = {
    "DefaultDictNode": ("collections.defaultdict",),
    "DictNode": ("builtins.dict",),
    "JsonNode": ("builtins.str",),
    "ListNode": ("builtins.list",),
    "LossNode": ("sklearn._loss.*",),
    "NdArrayNode": ("numpy.ndarray", "numpy.float32", "numpy.float64", "numpy.*int*", "numpy.bool*"),
    "ObjectNode": _families.STORED_TYPES,
    "RandomGeneratorNode": ("numpy.random._generator.Generator",),
    "RandomStateNode": ("numpy.random.mtrand.RandomState",),
    "TreeNode": ("sklearn.tree._tree.Tree",),
    "TupleNode": ("builtins.tuple",),
    "TypeNode": ("builtins.int", "builtins.str", "numpy.int64", "collections.OrderedDict"),
}
"""skops' loader -> patterns of the types that it may make; no loader calls a constructor that the file chooses."""

COMPRESSION_LEVEL = 1


class _Untrusted(ValueError):
    """A part of a type that no stored estimator has."""


def dump(fitted: Any, meta: Mapping[str, int]) -> State:
    """Return an estimator as the bytes of a skops file (a zip of JSON and arrays), compressed; equal ones are equal."""
    content = archive_estimator(fitted).dump(COMPRESSION_LEVEL)
    return State({"skops": np.frombuffer(content, dtype=np.uint8)}, meta)


def load_estimator(state: State, family: Family, options: Mapping[str, Any], outputs: str) -> tuple[Any, int]:
    """Rebuild the estimator from `dump`'s state; return it and its number of outputs (predicted numbers per row).

    Args:
        options: the member's options.
        outputs: the key of the number of outputs in the state's `meta`.

    Raises:
        StorageError: the file is damaged, does not match these settings, or holds a type that this version does not
            trust; nothing in it was run.
    """
    from skops.io.exceptions import UntrustedTypesFoundException

    where = f"estimator {family.name}: the stored state is"
    try:
        content, count = state.arrays["skops"].tobytes(), int(state.meta[outputs])
        return _read(content, family, options, count), count
    except (UntrustedTypesFoundException, _Untrusted) as error:
        raise StorageError(f"{where} not trusted: {error}") from error
    except Exception as error:  # zipfile, zlib, skops, numpy and LightGBM have classes of their own
        raise StorageError(f"{where} damaged, or hostile: {error}") from error


def _read(content: bytes, family: Family, options: Mapping[str, Any], outputs: int) -> Any:
    import skops.io

    archive = read_archive(content, _most_parts(family, options, outputs))
    for part in archive.parts():
        _check_kind(part)
    for part in archive.parts():
        _check_content(part, archive, family)
    fitted = skops.io.loads(archive.dump(), trusted=list(_families.TRUSTED))
    check_fitted(fitted, family, options, outputs)
    return fitted


def _most_parts(family: Family, options: Mapping[str, Any], outputs: int) -> int:
    """Return more parts than an estimator of these settings has: a tree is about 100, one of histograms 20."""
    made = _families.make_estimator(family, options)
    if family.name == "histogram_boosting":
        repeated = 50 * made.max_iter * outputs
    elif family.name == "mlp":
        repeated = 5 * made.max_iter  # the loss of each epoch
    elif family.name == "lightgbm":
        repeated = 0  # all trees are one text
    else:
        repeated = 200 * getattr(made, "n_estimators", 0)
    return 2000 + 200 * outputs + repeated


def _kind(part: Mapping[str, Any]) -> str:
    return f"{part['__module__']}.{part['__class__']}"


def _check_kind(part: Mapping[str, Any]) -> None:
    loader, kind = part["__loader__"], _kind(part)
    if loader not in TYPES_OF_LOADERS:
        raise ValueError(f"a part of the kind {shorten_value(loader)} is not allowed: {kind}")
    if not any(fnmatchcase(kind, pattern) for pattern in TYPES_OF_LOADERS[loader]):
        if loader == "ObjectNode":
            raise _Untrusted(shorten_value(kind))
        raise ValueError(f"a part of the kind {loader} is not allowed: {kind}")


def _check_content(part: dict[str, Any], archive: Archive, family: Family) -> None:
    loader, kind = part["__loader__"], _kind(part)
    if loader == "JsonNode":
        _check_value(part["content"])
    elif loader == "DictNode" and len(part["key_types"]["content"]) != len(part["content"]):
        raise ValueError("a dictionary has fewer or more types of keys than keys")
    elif loader == "NdArrayNode":
        shape, _ = read_shape(archive.arrays[part["file"]])
        if part["type"] != "numpy" or (shape and kind != "numpy.ndarray"):
            raise ValueError(f"an array of the shape {shape} is not allowed as {kind}")
    elif loader == "TreeNode":
        _check_tree(part, archive)
    elif loader == "LossNode" and (part["__reduce__"]["args"]["content"] or part["content"]["content"]):
        raise ValueError(f"a {kind} has arguments")
    elif kind == "lightgbm.basic.Booster":
        _rewrite_booster(part, family)


def _check_value(text: Any) -> None:
    """Refuse a value that is more than a text or a number: skops has parts of their own for lists and mappings."""
    if not isinstance(text, str) or text.strip()[:1] in ("", "[", "{"):
        raise ValueError(f"a value is not one of JSON's own: {shorten_value(text)}")


def _check_tree(part: dict[str, Any], archive: Archive) -> None:
    arguments = part["__reduce__"]["args"]
    _, classes, outputs = arguments["content"]
    loaders = [one["__loader__"] for one in (arguments, classes, outputs)]
    if loaders != ["TupleNode", "NdArrayNode", "JsonNode"] or outputs["content"] != "1":
        raise ValueError("a tree has not exactly one output")
    if read_shape(archive.arrays[classes["file"]]) != ((1,), np.dtype(np.int64)):
        raise ValueError("a tree has not one number of classes")
    told = part["content"]["content"]
    nodes, _ = read_shape(archive.arrays[told["nodes"]["file"]])
    if nodes != (int(told["node_count"]["content"]),):
        raise ValueError(f"a tree has nodes of the shape {nodes}, and says {told['node_count']['content']}")


def _rewrite_booster(part: dict[str, Any], family: Family) -> None:
    """Put a text that was written here in the place of LightGBM's text from the file."""
    told = part["content"]
    text = told["content"].get("_handle", {})
    found = (told["__loader__"], text.get("__loader__"))
    if found != ("DictNode", "JsonNode") or "handle" in told["content"]:
        raise ValueError("LightGBM's text is missing, or in another place than LightGBM's own")
    text["content"] = json.dumps(rewrite_text(json.loads(text["content"]), family.numbers))
    told.pop("__id__", None)  # or else skops might take a copy of it from elsewhere
