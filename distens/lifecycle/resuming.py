"""What a run may be resumed with: formats of its folder, and versions of libraries."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Iterator, Mapping
from typing import Any

from distens import __version__
from distens.config.sections import DataSection
from distens.data.load import LoadedData, find_other_roles, has_same_rows
from distens.errors import RunError, shorten_value
from distens.storage.store import Store

FORMAT = 2
"""The newest format of a run's folder. Format 1, which a folder that does not say its own has, has one edition of
results; runs that did not go on are written in it, so that older versions can resume them."""

MAX_COLUMNS_NAMED = 10

VERSIONED = ("distens", "ray", "torch", "lightning", "scikit-learn", "lightgbm", "mlflow", "numpy", "pyarrow")


def check_format(info: Mapping[str, Any], path: str) -> None:
    """Check that this version of distens can resume a run.

    Args:
        info: the content of `run.json`.
        path: the run's folder, for messages.

    Raises:
        RunError: a newer version wrote the folder, in a format that this one does not know.
        TypeError: the content is not that of a `run.json`.
    """
    for key, kind in (("run", str), ("fingerprint", str), ("identity", dict), ("versions", dict)):
        if not isinstance(info[key], kind):
            raise TypeError(f"its {key} is {shorten_value(info[key])}")
    for key in ("format", "edition"):
        if type(found := info.get(key, 1)) is not int or found < 1:
            raise TypeError(f"its {key} is {shorten_value(found)}")
    if (found := info.get("format", 1)) > FORMAT:
        writer = shorten_value(info["versions"].get("distens", "?"))
        raise RunError(
            f"{path}: a run of format {found}, written by distens {writer}; this is distens {__version__}, which "
            f"resumes runs of formats up to {FORMAT}. Install the newer version to resume it"
        )


def find_versions() -> dict[str, str]:
    """Return library -> its version, of those that may change a run's results."""
    found = {"python": platform.python_version()}
    for name in VERSIONED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = __version__ if name == "distens" else "not installed"
    return found


def describe_versions(then: Mapping[str, Any], now: Mapping[str, str]) -> Iterator[str]:
    """Yield a note for a run that is resumed with other versions of libraries than those that it was begun with."""
    changed = [
        f"{name} {now[name]} instead of {shorten_value(then[name])}"
        for name in now
        if name in then and then[name] != now[name]
    ]
    if changed:
        yield f"resumed with other versions, which may change results: {', '.join(changed)}"


def describe_other_reading(how: str, info: Mapping[str, Any]) -> str:
    """Return a message that this version reads the unchanged data of a resumed run otherwise, and what to do.

    Args:
        how: what it does, such as `reads them otherwise`.
        info: the content of `run.json`.
    """
    return (
        f"data.source: the data are those that the run started with, but this version of distens {how}. Start a new "
        f"run, or resume with {_name_writer(info)}"
    )


def describe_other_data(data: LoadedData, section: DataSection, store: Store, info: Mapping[str, Any]) -> str:
    """Return a message why the data are not those that a resumed run's members were trained on, and what to do."""
    others = [f"{name!r} ({which})" for name, which in find_other_roles(data, store).items()]
    more = f"; and {len(others) - MAX_COLUMNS_NAMED} more" if len(others) > MAX_COLUMNS_NAMED else ""
    how = f"reads columns otherwise: {'; '.join(others[:MAX_COLUMNS_NAMED])}{more}" if others else "reads it otherwise"
    if has_same_rows(section, store, info["fingerprint"]):
        return describe_other_reading(how, info)
    prints = f"fingerprint {data.fingerprint[:12]} instead of {shorten_value(info['fingerprint'][:12])}"
    if others or (data.columns and "columns" not in info):  # the first versions did not say how they read a table
        return (
            f"data.source: the data changed since the run started, or this version of distens {how} ({prints}). Start "
            f"a new run; or, if the data are the same, resume with {_name_writer(info)}"
        )
    return (
        f"data.source: the data changed since the run started ({prints}); its members were trained on other rows. "
        "Start a new run"
    )


def _name_writer(info: Mapping[str, Any]) -> str:
    return f"the version that started this one (distens {shorten_value(info['versions'].get('distens', '?'))})"
