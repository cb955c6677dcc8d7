"""Changes that a stranger or a broken disk might make to a file: of bytes, numbers in texts, JSON and arrays."""

from __future__ import annotations

import io
import json
import re
import struct
import zipfile
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

WORDS = (
    *("0", "-0", "1", "-1", "2", "3", "7", "255", "65536", "2147483647", "-2147483648", "4294967296", "1" + "0" * 18),
    *("9" * 30, "3_0", "+3", "0x3", "03", "3.", ".5", "1.5", "1e9", "1e308", "1e-320", "1e999", "inf", "-inf", "nan"),
    *("", " ", "  3", "3 ", "3\r", "3\0", "\u0663", "NaN", "Infinity", "null", "true", "[]", "{}", '"x"', "a=b", "%n"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 3, 150, 10**6, 10**9, 2**31, 2**32, 2**63, 10**30, -(10**9), 0.5, -1.5, 1e300),
    *("", "x", "0", "3", "../x", "\0", [], {}, [0], [[]], {"a": 1}, "builtins", "numpy", "sklearn.tree._tree", "Tree"),
)
SHAPES = ("()", "(0,)", "(1,)", "(2,)", "(1000000000000,)", "(0, 1000000000)", "(-1,)", "(3, 0)", "(1, 1)", "(2, 2, 2)")
KINDS = ("'<f8'", "'<f4'", "'<i8'", "'<i4'", "'|u1'", "'|O'", "'<U1'", "'|V0'", "'>f8'", "'<c16'", "'|b1'", "'<M8[s]'")
NUMBERS = (0, 1, -1, 2, 3, 127, 255, 65535, 2**31 - 1, -(2**31), 2**40, 2**62)


def change_bytes(content: bytes, rng: Random) -> bytes:
    """Return bytes that are flipped, cut, doubled or inserted at a few places."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not out:
            break
        place = rng.randrange(len(out))
        how = rng.randrange(6)
        if how == 0:
            out[place] ^= 1 << rng.randrange(8)
        elif how == 1:
            out[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
        elif how == 2:
            del out[place : place + rng.choice((1, 4, 64, len(out)))]
        elif how == 3:
            out[place:place] = out[place : place + rng.choice((1, 8, 64))]
        elif how == 4:
            out[place:place] = bytes(rng.randrange(256) for _ in range(rng.choice((1, 2, 8))))
        else:
            out[place : place + 8] = struct.pack("<q", rng.choice(NUMBERS))
    return bytes(out)


def change_text(text: str, rng: Random) -> str:
    """Return LightGBM's text with other numbers, words or lines; its trees may be where it says."""
    lines = text.split("\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(len(lines))
        how = rng.randrange(8)
        key, equals, value = lines[place].partition("=")
        if how <= 3 and equals:
            tokens = value.split(" ")
            tokens[rng.randrange(len(tokens))] = rng.choice((*WORDS, *tokens))
            lines[place] = f"{key}={' '.join(tokens)}"
        elif how == 4:
            lines[place] = re.sub(r"\d+", lambda _: rng.choice(WORDS), lines[place], count=1)
        elif how == 5:
            lines.insert(place, rng.choice(lines))
        elif how == 6:
            del lines[place]
        else:
            other = rng.randrange(len(lines))
            lines[place], lines[other] = lines[other], lines[place]
        lines = lines or [""]
    changed = "\n".join(lines)
    if rng.random() < 0.8:  # the reader would notice little else
        trees = re.split(r"(?=Tree=\d)", changed.partition("end of trees")[0])[1:]
        sizes = " ".join(str(len(tree)) for tree in trees)
        changed = re.sub(r"tree_sizes=.*", f"tree_sizes={sizes}", changed, count=1)
    return changed


def change_json(values: Any, rng: Random) -> Any:
    """Change JSON in place at a few places: other values, keys that are gone or new, parts that are swapped."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(_places(values))
        if not places:
            break
        holder, key = rng.choice(places)
        how = rng.randrange(6)
        if how == 0:
            holder[key] = deepcopy(rng.choice(VALUES))
        elif how == 1:
            other, place = rng.choice(places)
            holder[key] = json.loads(json.dumps(other[place]))
        elif how == 2:
            del holder[key]
        elif how == 3 and isinstance(holder[key], str):
            holder[key] = rng.choice((*WORDS, *_strings(places)))
        elif how == 4 and isinstance(holder[key], int | float):
            holder[key] = rng.choice((holder[key] + 1, holder[key] - 1, -holder[key], *NUMBERS))
        elif isinstance(holder, list):
            holder.insert(key, json.loads(json.dumps(holder[key])))
        else:
            holder[rng.choice(("x", "__id__", "handle", "file", "content"))] = deepcopy(rng.choice(VALUES))
    return values


def _places(values: Any) -> list[tuple[Any, Any]]:
    found, left = [], [values]
    while left:
        value = left.pop()
        if isinstance(value, dict | list):
            keys = value if isinstance(value, dict) else range(len(value))
            found += [(value, key) for key in keys]
            left += value.values() if isinstance(value, dict) else value
    return found


def _strings(places: list[tuple[Any, Any]]) -> list[str]:
    return [holder[key] for holder, key in places if isinstance(holder[key], str) and len(holder[key]) < 100]


def change_array(content: bytes, rng: Random) -> bytes:
    """Return an array's file with another header, or with other numbers under the same one."""
    start = 10 + struct.unpack("<H", content[8:10])[0]
    header, body = content[10:start].decode("latin1"), bytearray(content[start:])
    how = rng.randrange(5)
    if how == 0:
        header = re.sub(r"'shape': \([^)]*\)", f"'shape': {rng.choice(SHAPES)}", header)
    elif how == 1:
        header = re.sub(r"'descr': ('[^']*'|\[.*\])", f"'descr': {rng.choice(KINDS)}", header)
    elif how == 2:
        header = header.replace("False", "True")
    elif body:
        for _ in range(rng.choice((1, 1, 4))):
            place = rng.randrange(0, len(body), 8)
            new = struct.pack("<q", rng.choice(NUMBERS))
            body[place : place + 8] = (new if how == 3 else struct.pack("<d", rng.choice((0.0, -1.0, 1e308))))[
                : len(body) - place
            ]
    packed = header.encode("latin1").ljust(start - 10)
    return content[:8] + struct.pack("<H", len(packed)) + packed + bytes(body)


def change_zip(content: bytes, changes: Callable[[str, bytes], bytes | None]) -> bytes:
    """Return a zip whose entries went through a function of name and bytes; None leaves one out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, False, 1) as new:
        for entry in old.infolist():
            changed = changes(entry.filename, old.read(entry))
            if changed is not None:
                new.writestr(entry.filename, changed)
    return out.getvalue()
