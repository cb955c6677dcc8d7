"""The files of a working directory that go to a cluster, and those that stay because they look like secrets."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distens.errors import ConfigError
from distens.printable import printable

SECRET_FILES = (
    *(".env", ".env.*", ".envrc", ".netrc", ".pgpass", ".pypirc", ".npmrc", ".git-credentials", ".htpasswd"),
    *(".aws", ".azure", ".ssh", ".gnupg", ".kube", ".docker", "kubeconfig*"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx", "*.ppk"),
    *(
        "id_rsa*",
        "id_dsa*",
        "id_ecdsa*",
        "id_ed25519*",
        "credentials*",
        "service-account*.json",
        "service_account*.json",
    ),
    *("secrets.*", ".secrets*", "!credentials*.py", "!secrets.py"),
)
"""Names of files and folders that stay here, as a `.gitignore` would give them; code of such a name goes."""

MAX_LISTED = 3
MAX_KEY_BYTES = 64 * 1024
_KEY = re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----")


@dataclass(frozen=True)
class SentFiles:
    """The files that go, and those that stay.

    Attributes:
        sizes: file that goes -> its bytes.
        secrets: files and folders that look like secrets; they stay.
        others: pipes, sockets and devices; they stay, since packing them might never end.
        excludes: the patterns that keep all these here.
    """

    sizes: dict[str, int]
    secrets: list[str]
    others: list[str]
    excludes: list[str]

    def lines(self) -> list[str]:
        """Return the number and size of the files that go, with the largest, and the names of those that stay."""
        largest = sorted(self.sizes.items(), key=lambda item: (-item[1], item[0]))[:MAX_LISTED]
        named = ", ".join(f"{printable(name)} ({_in_words(size)})" for name, size in largest)
        found = [
            f"{len(self.sizes):,} files, {_in_words(sum(self.sizes.values()))}, go to the cluster; the largest: {named}"
        ]
        if self.secrets:
            found.append(
                f"These stay here, since they look like secrets: {', '.join(map(printable, self.secrets))}. "
                "`excludes: ['!NAME']` in a --runtime-env sends one all the same"
            )
        if self.others:
            found.append(f"These stay here, since they are no files: {', '.join(map(printable, self.others))}")
        return found


def find_files(root: Path, excludes: Sequence[str], given: Sequence[str]) -> SentFiles:
    """Return the files of a folder that Ray would send, and those that look like secrets.

    Args:
        root: the folder.
        excludes: patterns of files that never go.
        given: the user's own patterns; `!NAME` sends a file that looks like a secret.

    Raises:
        ConfigError: something in the folder cannot be read.
    """
    from ray._private.runtime_env import packaging

    usual = packaging._get_excludes(root, [*excludes, *given])
    named = packaging._get_excludes(root, [*excludes, *SECRET_FILES, *given])
    sizes: dict[str, int] = {}
    secrets: list[str] = []
    others: list[str] = []
    keys: list[str] = []

    def note(path: Path) -> None:
        name = str(path.relative_to(root))
        if path == root or any(name.startswith(f"{secret}/") for secret in secrets):
            return
        if named(path):
            secrets.append(name)
        elif path.is_file():
            if _is_key(path):
                keys.append(f"/{_escaped(name)}")
                secrets.append(name)
            else:
                sizes[name] = path.stat().st_size
        elif path.exists() and not path.is_dir():
            others.append(name)

    options: dict[str, Any] = {"include_gitignore": os.environ.get("RAY_RUNTIME_ENV_IGNORE_GITIGNORE", "0") != "1"}
    if "include_gitignore" not in inspect.signature(packaging._dir_travel).parameters:  # older versions always do
        options = {}
    try:
        packaging._dir_travel(root, [usual], note, **options)
    except OSError as error:
        raise ConfigError(f"--working-dir {root}: cannot be read: {error}") from error
    sent = packaging._get_excludes(root, [*keys, *given])
    secrets = [name for name in secrets if named(root / name) or sent(root / name)]
    never = [f"/{_escaped(name)}" for name in others]
    return SentFiles(sizes, sorted(secrets), sorted(others), [*excludes, *SECRET_FILES, *keys, *given, *never])


def _is_key(path: Path) -> bool:
    if path.stat().st_size > MAX_KEY_BYTES:
        return False
    try:
        with path.open("rb") as opened:
            return _KEY.match(opened.read(100).lstrip()) is not None
    except OSError:  # Ray will say that it cannot be read
        return False


def _escaped(name: str) -> str:
    return re.sub(r"([\\*?\[\]!# ])", r"\\\1", name)


def _in_words(size: int) -> str:
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= one:
            return f"{size / one:.1f} {unit}"
    return f"{size} B"
