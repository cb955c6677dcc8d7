"""Addresses with a password or a key in them: refused where they would be kept, hidden where they would be shown."""

from __future__ import annotations

import re

_SCHEME = r"(?P<scheme>[A-Za-z][\w+.-]*://)"
_WHOLE = re.compile(rf"^{_SCHEME}[^/?#]*@")
# In the middle of a sentence; the second form is a password with a slash in it, as SQLAlchemy allows.
_AMONG = re.compile(rf"{_SCHEME}(?:[^/\s'\"?#]*@|[^/\s:'\"]+:[^\s'\"]*@)")
_QUERY = re.compile(
    r"(?i)([?&#;][^=&\s]*(?:pass|pwd|secret|token|credential|auth(?!or)|sig|(?:access|account|api)[_-]?key)[^=&\s]*=)"
    r"[^&\s'\"]+"
)

_CONTAINER_FIRST = ("abfs://", "abfss://", "wasb://", "wasbs://")
"""Schemes whose addresses are `container@account`; only `container:password@account` has a password."""


def redact(text: str) -> str:
    """Return the text without the credentials of any address in it: `postgresql://***@host/db`."""
    if "://" in text:  # most texts have no address in them, and there may be a million
        text = _AMONG.sub(_hide, _WHOLE.sub(_hide, text))
    return _QUERY.sub(r"\1***", text) if "=" in text else text


def _hide(found: re.Match[str]) -> str:
    before = found[0].removeprefix(found["scheme"]).removesuffix("@")
    is_container = found["scheme"].lower() in _CONTAINER_FIRST and not re.search("[:@]", before)
    return found[0] if is_container else f"{found['scheme']}***@"


def has_credentials(text: str) -> bool:
    """Return True if a text is, or has in it, an address with credentials."""
    return redact(text) != text
