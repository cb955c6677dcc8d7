"""Two undisturbed runs of one config, each in a process and a folder of its own: all files are equal, except times.

    python jobs/drill/twice.py                                      # a search with estimators, and a federation
    python jobs/drill/twice.py CONFIG --set search.members=9        # another config; its data by an absolute path

The processes have different seeds of Python's hashes, so that nothing may depend on the order of a set. Every file that
differs is printed with the first place where it does, and the exit code is 1 then. Not compared are times: in JSON the
keys of TIMES, in `report.html` the table's columns of costs and whatever is said in seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

CONFIGS = Path(__file__).parents[2] / "configs"

RUNS = {
    CONFIGS / "breast_cancer.yaml": ["search.members=16"],
    CONFIGS / "federated_digits.yaml": ["distill.epochs=3"],
}
"""Config -> overrides that make it small."""

COMMON = ["runtime=inline", "tracking=off", "storage=runs"]

TIMES = re.compile(r"(.*_)?seconds|predict_ms_per_1000|started|elapsed|crc32|cascade")
"""Keys of times, and of what is made of them: an entry's checksum, and a cascade, whose members are in order of what
they gain in a second."""

_TABLE = re.compile(r'<table class="numbers">.*?</table>', re.DOTALL)
_COSTS = re.compile(r"(<td[^>]*>[^<]*</td>){2}</tr>")
_SECONDS = re.compile(r"[\d.,]+ s\b")


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out each config twice, print what differs, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", nargs="*", type=Path, help="configs in place of the usual ones")
    parser.add_argument("--set", nargs="*", default=[], help="overrides of these configs")
    options = parser.parse_args(arguments)
    differing = 0
    overridden: list[str] = options.set
    given = [(config, overridden) for config in options.config]
    for config, overrides in given or RUNS.items():
        with tempfile.TemporaryDirectory(prefix="twice-") as folder:
            places = Path(folder) / "first", Path(folder) / "another" / "second"
            one, other = (carry_out(config, overrides, place, seed) for seed, place in enumerate(places, 1))
            count, found = len(names(one)), list(find_differences(one, other))
        print(f"{config.name}: {len(found)} of {count} files differ", *found, sep="\n  ", flush=True)
        differing += len(found)
    return 1 if differing else 0


def carry_out(config: Path, overrides: Sequence[str], place: Path, hash_seed: int) -> Path:
    """Carry out a run in a new folder, and return the run's own folder in it.

    Raises:
        SystemExit: the run failed.
    """
    place.mkdir(parents=True)
    changes = [word for change in (*COMMON, *overrides) for word in ("--set", change)]
    command = [sys.executable, "-m", "distens.cli", "run", str(config.absolute()), *changes]
    environment = {**os.environ, "PYTHONHASHSEED": str(hash_seed)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    (run,) = (place / "runs").iterdir()
    return run


def names(run: Path) -> set[str]:
    """Return the names of all files under a folder."""
    return {path.relative_to(run).as_posix() for path in run.rglob("*") if path.is_file()}


def find_differences(one: Path, other: Path) -> Iterator[str]:
    """Yield a line for each file that differs between two runs' folders."""
    for name in sorted(names(one) | names(other)):
        if not (one / name).exists() or not (other / name).exists():
            yield f"{name}: only in the {'first' if (one / name).exists() else 'second'}"
            continue
        parts = zip_longest(*(read_parts(run / name) for run in (one, other)), fillvalue=("the end", None))
        for (place, value), (other_place, other_value) in parts:
            if (place, value) != (other_place, other_value):
                where = place if place == other_place else f"{place}, {other_place}"
                yield f"{name}: {where}: {value!r:.200}, {other_value!r:.200}"
                break


def read_parts(file: Path) -> Iterator[tuple[str, Any]]:
    """Yield place and value of every part of a file that is no time: JSON's values, lines of texts, bytes of others."""
    if file.suffix == ".json":
        yield from _leaves(json.loads(file.read_text()))
    elif file.suffix in (".html", ".yaml"):
        text = _TABLE.sub(lambda table: _COSTS.sub("</tr>", table[0]), file.read_text())
        for number, line in enumerate(_SECONDS.sub("… s", text).splitlines(), 1):
            yield f"line {number}", line
    else:
        content, start = file.read_bytes(), 0
        if file.suffix == ".safetensors":  # a checkpoint's description says how long its training took
            start = 8 + int.from_bytes(content[:8], "little")
            header = json.loads(content[8:start])
            header |= {"__metadata__": [json.loads(text) for text in header.get("__metadata__", {}).values()]}
            yield from _leaves(header, "header")
        for first in range(start, len(content), 16):
            yield f"byte {first}", content[first : first + 16]


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values of JSON in order, by their place; empty lists and mappings are values, too."""
    if isinstance(value, Mapping | list) and value:
        for key, inner in value.items() if isinstance(value, Mapping) else enumerate(value):
            if not TIMES.fullmatch(str(key)):
                yield from _leaves(inner, f"{place}/{key}")
    else:
        yield place, value


if __name__ == "__main__":
    sys.exit(main())
