"""MLflow's SQLite file, which is made, and upgraded, so that nobody ever sees a half-made one.

MLflow makes its tables in place, statement by statement and without a lock. A process that ends half way, or two of
them at once, leave a file that no MLflow can use again. So nothing may open the file before it is complete:

    missing ──► made in a folder beside it ──► linked into place
    older, or only begun ──► a copy is upgraded ──► written back as one transaction
    neither works ──► named, with the cure; the file stays as it is
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shlex
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from distens.tracking._sender import NeedsRepair

log = logging.getLogger("distens")

LONGEST_WAIT_SECONDS = 60.0
"""The longest wait for another process. Whoever is later than that goes on: making a file twice harms nothing."""

QUIET_SECONDS = 2.0
"""A file whose tables are not complete, and that was changed within this time, is being made by somebody."""

DISK_ERRORS = ("disk is full", "disk I/O error", "unable to open database file")

SIDE_FILES = ("-journal", "-wal", "-shm")


@dataclass(frozen=True)
class Schema:
    """The tables that the installed MLflow needs.

    Attributes:
        revision: the revision that its databases have.
        tables: the names of its tables.
        migrate: makes the tables in a file, or brings them to `revision`, in place.
    """

    revision: str
    tables: frozenset[str]
    migrate: Callable[[Path], None]


def complete_database(path: Path, schema: Schema) -> None:
    """Make sure that a file is a complete database of the installed MLflow.

    Raises:
        NeedsRepair: the file is unfinished, of a newer MLflow or of something else, or cannot be written.
        sqlite3.OperationalError: other processes keep the database locked.
    """
    path = Path(os.path.realpath(path))  # a link would be replaced, and whoever comes by another way has another lock
    try:
        if _is_complete(path, schema):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path, lambda: _is_complete(path, schema)):
            for _ in range(3):  # somebody without our lock may be faster
                _wait_for_others(path, schema)
                if _is_complete(path, schema):
                    return
                (_upgrade if path.exists() else _create)(path, schema)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise
        raise _unwritable(path, str(error)) from error
    except sqlite3.DatabaseError as error:
        raise NeedsRepair(f"{path} is no SQLite database, or is damaged ({error})", _move_away(path)) from error


def _is_complete(path: Path, schema: Schema) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        raise NeedsRepair(f"{path} is not a file", "Set tracking.uri to another one")
    if not (os.access(path, os.W_OK) and os.access(path.parent, os.W_OK)):  # SQLite needs a journal beside its file
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    tables, revision = _look(path)
    return revision == schema.revision and schema.tables <= tables


def _look(path: Path) -> tuple[set[str], str | None]:
    """Return the names of the tables in a file, and the revision that is noted there."""
    with closing(_open(path)) as live:
        tables = {name for (name,) in live.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        found = live.execute("SELECT version_num FROM alembic_version") if "alembic_version" in tables else ()
        return tables, next((str(revision) for (revision,) in found), None)


def _open(path: Path) -> sqlite3.Connection:
    """Open an existing file; `sqlite3` would make it otherwise."""
    return sqlite3.connect(f"file:{quote(str(path))}?mode=rw", uri=True, timeout=20.0, isolation_level=None)


@contextmanager
def _locked(path: Path, is_done: Callable[[], bool]) -> Iterator[None]:
    """Wait until no other process makes the file, or until `is_done`; keep others waiting during the body.

    The lock ends with the process that holds it. Some network filesystems have none: there the body runs at once.
    """
    side, began, said = path.with_name(f".{path.name}.lock"), time.monotonic(), False
    while True:
        handle = os.open(side, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        try:
            if _take(handle, side):
                try:
                    yield
                finally:
                    with suppress(OSError):
                        side.unlink()
                return
        finally:
            os.close(handle)
        if is_done() or time.monotonic() > began + LONGEST_WAIT_SECONDS:
            yield
            return
        if not said:
            log.warning("MLflow: another process is making %s; waiting for it", path)
            said = True
        time.sleep(0.1)


def _take(handle: int, side: Path) -> bool:
    """Return True if the lock is ours now, or if there are no locks here."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(handle), os.stat(side))  # else the one before us has removed it
    return False


def _wait_for_others(path: Path, schema: Schema) -> None:
    """Wait while somebody without our lock, such as `mlflow ui`, makes the tables."""
    until, said = time.monotonic() + LONGEST_WAIT_SECONDS, False
    while time.monotonic() < until and _age_seconds(path) < QUIET_SECONDS and not _is_complete(path, schema):
        if not said:
            log.warning("MLflow: another program is changing %s; waiting for it", path)
            said = True
        time.sleep(0.2)


def _age_seconds(path: Path) -> float:
    """Return the time since a database was changed."""
    changed = [0.0]
    for name in ("", *SIDE_FILES):
        with suppress(FileNotFoundError):
            changed.append(os.stat(f"{path}{name}").st_mtime)
    return time.time() - max(changed)


def _create(path: Path, schema: Schema) -> None:
    with _workplace(path) as folder:
        made = folder / "made.db"
        _migrate(made, path, schema)
        for name in SIDE_FILES:  # left by a database that is gone: SQLite would write its old pages into the new one
            with suppress(FileNotFoundError):
                os.replace(f"{path}{name}", f"{path}{name}.old")
        try:
            os.link(made, path)
        except FileExistsError:
            return
        except OSError:  # a filesystem without links
            if not path.exists():
                os.replace(made, path)
        _sync_folder(path.parent)


def _upgrade(path: Path, schema: Schema) -> None:
    before, _ = _look(path)
    with _workplace(path) as folder, closing(_open(path)) as live:
        copy = folder / "copy.db"
        live.execute("PRAGMA locking_mode = EXCLUSIVE")  # from now on until it is closed, beyond transactions
        live.execute("BEGIN EXCLUSIVE")
        live.execute("COMMIT")
        with closing(sqlite3.connect(copy)) as target:
            live.backup(target)
        kept = None
        if before:
            kept = Path(f"{path}.before-{schema.revision}")
            shutil.copyfile(copy, folder / "kept.db")
        _migrate(copy, path, schema)
        if kept is not None:
            os.replace(folder / "kept.db", kept)
            log.warning("MLflow: %s was made by an older MLflow and is upgraded; as it was, it is in %s", path, kept)
        with closing(sqlite3.connect(copy)) as source:
            source.backup(live)


def _migrate(place: Path, path: Path, schema: Schema) -> None:
    """Make the tables at a place where nobody else looks.

    Raises:
        NeedsRepair: MLflow cannot.
    """
    try:
        schema.migrate(place)
    except Exception as error:  # any of SQLAlchemy, Alembic, SQLite and the disk
        said = " ".join(str(error).partition("[SQL")[0].split())
        if isinstance(error, OSError) or any(words in said for words in DISK_ERRORS):
            raise _unwritable(path, said) from error
        if "Can't locate revision" in said:
            raise NeedsRepair(
                f"{path} was made by a newer MLflow than the one that is installed, or by another program",
                "Install the newer one (`pip install -U mlflow`), or set tracking.uri to another database",
            ) from error
        raise NeedsRepair(
            f"{path} is an unfinished database: a process ended, or two met, while MLflow made its tables, and MLflow "
            f"cannot go on from there ({said[:120]}). {_content(place)}",
            _move_away(path),
        ) from error


def _content(copy: Path) -> str:
    with suppress(sqlite3.Error), closing(_open(copy)) as opened:
        ((count,),) = opened.execute("SELECT count(*) FROM runs")
        if count:
            return f"It holds {count} runs, so if there is a backup of it, put that in its place"
    return "It holds no runs"


def _move_away(path: Path) -> str:
    return f"Move it away: `mv {shlex.quote(str(path))} {shlex.quote(f'{path}.broken')}`"


def _unwritable(path: Path, why: str) -> NeedsRepair:
    cure = "Make room, or let this user write there, or set tracking.uri to another place"
    return NeedsRepair(f"{path} cannot be written ({why})", cure)


@contextmanager
def _workplace(path: Path) -> Iterator[Path]:
    """Give a folder beside a file, on the same filesystem; those of processes that were killed are removed."""
    prefix = f".{path.name}-new-"
    for left in path.parent.glob(f"{prefix}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 10 * LONGEST_WAIT_SECONDS:
                shutil.rmtree(left)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sync_folder(folder: Path) -> None:
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
