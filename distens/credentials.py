"""Credentials in addresses and in texts: refused where they would be kept, hidden where they would be shown.

A text may be anything that a library, a server or a member's own code has said: an address, a header, a line of a
settings file, a line of code. What looks like a credential in one of its usual forms is hidden; the rest is untouched.
"""

from __future__ import annotations

import re

_SCHEME = r"(?P<scheme>[A-Za-z][\w+.-]{0,40}://)"  # lengths are bounded, or long texts would take minutes
_WHOLE = re.compile(rf"^{_SCHEME}[^/?#]*@")
# In the middle of a sentence; the second form is a password with a slash in it, as SQLAlchemy allows.
_AMONG = re.compile(rf"{_SCHEME}(?:[^/\s'\"?#]{{0,500}}@|[^/\s:'\"]{{1,200}}:[^\s'\"]{{0,500}}@)")
_QUERY = re.compile(
    r"(?i)([?&#;][^=&?#;\s]{0,60}(?:pass|pwd|secret|token|credential|auth(?!or)|sig|(?:access|account|api)[_-]?key)"
    r"[^=&?#;\s]{0,60}=)"
    r"[^&\s'\"]+"
)

_CONTAINER_FIRST = ("abfs://", "abfss://", "wasb://", "wasbs://")
"""Schemes whose addresses are `container@account`; only `container:password@account` has a password."""

_SIGNS = (
    *("://", "pass", "pwd", "secret", "token", "credential", "key", "auth", "bearer", "cookie"),
    *(
        "akia",
        "asia",
        "ghp_",
        "gho_",
        "ghu_",
        "ghs_",
        "ghr_",
        "github_pat_",
        "hf_",
        "sk-",
        "xox",
        "glpat-",
        "aiza",
        "eyj",
    ),
)
"""Every credential that is recognised has one of these in it, in lower case; most texts have none."""

# Keys that say by themselves what they are: of AWS, GitHub, Hugging Face, OpenAI, Slack, GitLab, Google; JWT.
_ISSUED = re.compile(
    r"\b(?:(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_\w{16,}|github_pat_\w{16,}|hf_[A-Za-z0-9]{16,}"
    r"|sk-(?=[\w-]{0,200}\d)[\w-]{16,}|xox[abeoprs]-[\w-]{10,}|glpat-[\w-]{16,}|AIza[\w-]{30,}"
    r"|eyJ[\w-]{6,1000}\.[\w-]{6,}(?:\.[\w-]*)?)"
)
_BLOCK = re.compile(r"(-----BEGIN [A-Z ]*PRIVATE KEY-----).*?(?:(-----END [A-Z ]*PRIVATE KEY-----)|\Z)", re.DOTALL)
_SCHEMED = re.compile(r"(?i)\b((?:bearer|basic)\s+)(?=[^\s'\",]*\d|[^\s'\",]{20})[\w.~+/=-]{8,}")
_AFTER_HEADER = r"(?:\\?['\"]?\s*[:=]\s*\\?['\"]?|\\?['\"]\s*,\s*\\?['\"])"
_HEADER = re.compile(
    rf"(?i)\b((?:proxy-)?authorization{_AFTER_HEADER})(?:((?:bearer|basic|digest|token|negotiate|aws4-hmac-sha256)\s+)"
    r"(?!\*\*\*)[^\r\n'\"]+|(?=[^\s'\"]*\d|[^\s'\"]{20})[^\s'\"]+)"
)
_COOKIE = re.compile(rf"(?i)\b((?:set-)?cookie{_AFTER_HEADER})(?=[\w-]+=)[^\r\n'\"]+")

# `password=x`, `"api_key": "x"`, `--token x`, `('X-Api-Key', 'x')`: a name, what lies between, and a value.
_PASSWORD = r"passwords?|passwd|passphrase|pwd"
_LABEL = (
    r"secret(?:[_-]?access)?(?:[_-]?key)?|token(?:[_-]?(?:secret|value))?"
    r"|(?:api|access|account|private|auth)[_-]?key(?:[_-]?id)?"
)
_BETWEEN = r"(?P<between>\\?['\"]?\s*(?:=(?!=)|:)\s*|\\?['\"]\s*,\s*(?=\\?['\"]))"
_QUOTED = r"(?P<quote>b?\\?['\"])(?P<inside>[^'\"\r\n]+?)(?=\\?['\"]|[\r\n]|\Z)"
_BARE = r"[^\s'\"&,;<>(){}\[\]=:*\\][^\s'\"&,;<>(){}\[\]]*"
_LABELLED = re.compile(
    rf"(?i)(?P<label>(?:(?P<password>{_PASSWORD})|{_LABEL})){_BETWEEN}(?:{_QUOTED}|(?P<bare>{_BARE}))"
)
_OPTION = re.compile(rf"(?i)(--[\w-]{{0,60}}(?:{_PASSWORD}|{_LABEL})\s+)(?!-|\*\*\*)\S+")

_NUMBER_OR_CONSTANT = re.compile(r"(?i)[-+]?[\d.,_]+(?:e[-+]?\d+)?%?|none|null|true|false|yes|no|\*+")
_WORD = re.compile(r"[A-Za-z]+\.?")
_SENTENCE = re.compile(r" [a-z(]")
_SHORTEST = {"=": 3, ":": 6}
"""The shortest value that is taken for a secret after `token`, `secret` and `…key`, by what stands between."""


def redact(text: str) -> str:
    """Return the text without the credentials in it: `postgresql://***@host/db`, `Authorization: Bearer ***`."""
    lowered = text.lower()
    if not any(sign in lowered for sign in _SIGNS):  # most texts, and there may be a million
        return text
    if "://" in text:
        text = _AMONG.sub(_hide, _WHOLE.sub(_hide, text))
    if "=" in text:
        text = _QUERY.sub(r"\1***", text)
    if "-----BEGIN" in text:
        text = _BLOCK.sub(lambda found: f"{found[1]}***{found[2] or ''}", text)
    text = _COOKIE.sub(r"\1***", _HEADER.sub(lambda found: f"{found[1]}{found[2] or ''}***", text))
    text = _SCHEMED.sub(r"\1***", _ISSUED.sub("***", text))
    return _OPTION.sub(r"\1***", _LABELLED.sub(_hide_value, text))


def _hide_value(found: re.Match[str]) -> str:
    """Return a name and its value, which is hidden if it looks like a secret, and not like a sentence or a number."""
    value = found["inside"] or found["bare"]
    quote = found["quote"] or ""
    if not found["password"]:
        least = _SHORTEST["=" if "=" in found["between"] else ":"]
        if len(value) < least or _NUMBER_OR_CONSTANT.fullmatch(value):
            return found[0]
    elif value.lower() in ("none", "null", "true", "false"):
        return found[0]
    # `token: expected a number` and `password: missing` are our own sentences, `token: abcdef1` is none.
    if ":" in found["between"] and not quote and _WORD.fullmatch(value):
        rest = found.string[found.end() : found.end() + 2]
        if _SENTENCE.match(rest) or value.rstrip(".") in ("missing", "unknown", "required", "expired", "invalid"):
            return found[0]
    return f"{found['label']}{found['between']}{quote}***"


def _hide(found: re.Match[str]) -> str:
    before = found[0].removeprefix(found["scheme"]).removesuffix("@")
    is_container = found["scheme"].lower() in _CONTAINER_FIRST and not re.search("[:@]", before)
    return found[0] if is_container else f"{found['scheme']}***@"


def has_credentials(text: str) -> bool:
    """Return True if a text is, or has in it, an address with credentials, or credentials in another usual form."""
    return redact(text) != text
