"""A tracking server's address: made absolute, and shown without its credentials."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from distens.credentials import redact
from distens.tracking._records import safe_key

_SQLITE = re.compile(r"(sqlite[\w+]*:///)([^?]+)(\?.*)?")


def is_store(address: str) -> bool:
    """Return True for the address of a server or a database: MLflow no longer keeps runs in plain folders."""
    return address.startswith("databricks") or ("://" in address and not address.startswith("file:"))


def is_server(address: str) -> bool:
    """Return True for the address of a server, False for that of a database."""
    return address.startswith(("http://", "https://", "databricks"))


def pinned(address: str) -> str:
    """Return an address that means the same after a change of directory: a SQLite file's path made absolute."""
    found, path = _SQLITE.fullmatch(address), database_file(address)
    if found is None or path is None:
        return address
    return f"{as_address(path, found[1])}{found[3] or ''}"


def as_address(path: Path, scheme: str = "sqlite:///") -> str:
    """Return the address of a SQLite file."""
    text = str(path)
    if _path_in("sqlite:///%25") == "%":  # SQLAlchemy 2.1 and later
        text = text.replace("%", "%25").replace("?", "%3F")
    return f"{scheme}{text}"


def database_file(address: str) -> Path | None:
    """Return the absolute path of a SQLite database's file; None for any other address, or a database in memory."""
    if _SQLITE.fullmatch(address) is None:
        return None
    path = _path_in(address)
    return None if path.startswith((":memory:", "file:")) else Path(path).absolute()


def _path_in(address: str) -> str:
    # Whether `%20` is a space depends on the release: MLflow opens what SQLAlchemy reads.
    from sqlalchemy.engine import make_url

    return make_url(address).database or ":memory:"


def artifacts_beside(address: str, experiment: str) -> str | None:
    """Return the folder for a new experiment's files, in `mlruns` beside a SQLite file; None: the server chooses it."""
    path = database_file(address)
    return str(path.parent / "mlruns" / safe_key(experiment)) if path else None


def how_to_look(address: str, experiment_id: str, run_id: str) -> str:
    """Return a line for the user on how to open a run's page."""
    page = f"/#/experiments/{experiment_id}/runs/{run_id}" if run_id else ""
    shown = redact(address)
    if shown.startswith(("http://", "https://")):
        return f"MLflow: {shown.rstrip('/')}{page}"
    if shown.startswith("databricks"):
        return f"MLflow: {shown}, run {run_id}"
    here = shown.replace(f"{as_address(Path.cwd())}/", "sqlite:///")
    folder = " in this folder" if here != shown else ""
    return (
        f"MLflow: run `mlflow ui --backend-store-uri {shlex.quote(here)}`{folder} and open http://127.0.0.1:5000{page}"
    )
