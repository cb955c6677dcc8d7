"""The editions of a run's results: a finished run may be asked for more, and what it had found stays beside.

    results.json    report.html    figures/    final/       the first edition
    results.2.json  report.2.html  figures/2/  final/2/     the second
    config.1.yaml   config.yaml                             what the first was asked for, and what was asked last

An edition is complete once its results are there, which are written last.
"""

from __future__ import annotations

import re

from distens.storage.store import Store

RESULTS = "results.json"

_RESULTS = re.compile(r"results(?:\.([2-9]|[1-9]\d{1,5}))?\.json", re.ASCII)


def file_of(name: str, edition: int) -> str:
    """Return the name of an edition's file: `results.json` and 2 are `results.2.json`."""
    stem, _, suffix = name.rpartition(".")
    return name if edition == 1 else f"{stem}.{edition}.{suffix}"


def folder_of(name: str, edition: int) -> str:
    """Return the name of an edition's folder: `final` and 2 are `final/2`."""
    return name if edition == 1 else f"{name}/{edition}"


def config_of(edition: int) -> str:
    """Return the name under which the config of an edition is kept when the run is asked for more."""
    return f"config.{edition}.yaml"


def find_newest(store: Store) -> int:
    """Return the number of the newest edition that is complete; 0 if there is none."""
    found = filter(None, map(_RESULTS.fullmatch, store.names()))
    numbers = sorted((int(name[1] or 1) for name in found), reverse=True)
    return next((number for number in numbers if store.exists(file_of(RESULTS, number))), 0)
