"""The sizes that files of a run may have: what claims more is refused before it is read."""

from __future__ import annotations

import os
import re
from typing import BinaryIO

MAX_JSON_BYTES = 64 << 20
"""The largest JSON file that is read: a hundred times what large runs write."""

MAX_CONFIG_BYTES = 2**19

MAX_BYTES = {"config.yaml": MAX_CONFIG_BYTES, "results.json": 256 << 20}
"""The largest sizes of files by name, without an edition's number, where they differ from those of their kind."""

MAX_HEADER_BYTES = 100_000_000
"""The largest header of a safetensors file, as its own reader has it."""

LARGE_BYTES = 64 << 20
"""The size from which the header of a safetensors file is looked at before the file is read."""


def find_max_bytes(name: str) -> int:
    """Return the largest size that a file of that name may have: at most what fits into this machine's memory."""
    usual = MAX_JSON_BYTES if name.endswith(".json") else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return MAX_BYTES.get(re.sub(r"\.\d+(?=\.\w+$)", "", name.rpartition("/")[2]), usual)


def is_hollow(name: str, source: BinaryIO, size: int) -> bool:
    """Return True if a large safetensors file has no header, such as one that is one hole; the file is rewound."""
    if not name.endswith(".safetensors") or size < LARGE_BYTES:
        return False
    first = source.read(9)
    source.seek(0)
    return first[8:] != b"{" or int.from_bytes(first[:8], "little") > min(MAX_HEADER_BYTES, size - 8)
