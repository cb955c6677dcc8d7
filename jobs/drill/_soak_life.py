"""A driver that carries out one run after the other, as a service would, and reports its size.

Each line of its input is `{"command": …, "config": …, "overrides": […], "answer": FILE}`.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import psutil


def size() -> dict[str, float]:
    """Return this process's memory, after unused memory was released, its open files and its threads."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    here = psutil.Process()
    return {"mib": here.memory_info().rss / 2**20, "files": here.num_fds(), "threads": here.num_threads()}


def main() -> None:
    """Carry out the runs on standard input, until its end."""
    import distens
    from distens.tune.sweep import sweep

    sys.path.insert(0, os.getcwd())
    for line in sys.stdin:
        asked, code = json.loads(line), 0
        before = size()
        try:
            config = distens.load_config(asked["config"], asked["overrides"])
            (sweep if asked["command"] == "sweep" else distens.run)(config)
        except Exception:  # the next run is carried out whatever happened to this one
            traceback.print_exc()
            code = 1
        answer: dict[str, Any] = {"code": code, "before": before, "after": size()}
        part = Path(asked["answer"] + ".part")
        part.write_text(json.dumps(answer))
        part.rename(asked["answer"])


if __name__ == "__main__":
    main()
