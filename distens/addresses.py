"""Addresses (`s3://bucket/runs`, `postgresql://host/db`), and texts with addresses in them, without credentials."""

from __future__ import annotations

import re

# The second form is a password with a slash in it, as SQLAlchemy allows.
_CREDENTIALS = re.compile(r"(?P<scheme>[A-Za-z][\w+.-]*://)(?:[^/\s'\"?#]*@|[^/\s:'\"]+:[^\s'\"]*@)")
_SECRET_QUERY = re.compile(r"(?i)([?&][^=&\s]*(?:password|passwd|secret|token|access_key|sig|pwd)[^=&\s]*=)[^&\s'\"]+")


WITHOUT_QUERY = "leave out `?…`; AWS_ENDPOINT_URL and AWS_REGION in the environment say where an S3 store is"


def redact(text: str) -> str:
    """Return the text without the credentials of any address in it: `postgresql://***@host/db`."""
    return _SECRET_QUERY.sub(r"\1***", _CREDENTIALS.sub(r"\g<scheme>***@", text))


def has_credentials(address: str) -> bool:
    """Return whether an address holds what belongs into the environment: configs and runs are stored and shown."""
    return redact(address) != address
