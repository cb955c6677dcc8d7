"""Records as the flat names and short texts that tracking servers accept."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from distens.credentials import redact
from distens.metrics.protocol import shown_metrics
from distens.records import LOGGED_PREFIX, Failure, Finished, Task
from distens.storage.encoding import to_json

PARAM_LENGTH = 6000
TAG_LENGTH = 5000
KEY_LENGTH = 250


def redacted(value: Any) -> Any:
    """Return a JSON value in which `redact` was applied to every text."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(inner) for inner in value]
    return value


def safe_key(name: str) -> str:
    """Return the name with every character replaced that not all MLflow stores accept, and cut to KEY_LENGTH.

    Letters, digits, spaces and `_ . -` stay; all else becomes `_`.
    """
    return re.sub(r"[^\w.\- ]", "_", name)[:KEY_LENGTH] or "_"


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested JSON values as dotted names and texts: `{"a": {"b": [1]}}` becomes `{"a.b": "[1]"}`.

    Lists of mappings are numbered (`baselines.0.kind`). Texts are redacted and cut to MLflow's limit.
    """
    flat: dict[str, str] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, list | tuple) and any(isinstance(inner, Mapping) for inner in value):
            value = {str(index): inner for index, inner in enumerate(value)}
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, default=str)
            flat[safe_key(key)] = redact(text)[:PARAM_LENGTH]
    return flat


def finite_entries(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """Return the entries that are finite numbers, with safe names; a chart can show nothing else."""
    return {
        safe_key(f"{prefix}{name}"): float(value)
        for name, value in values.items()
        if hasattr(value, "__float__") and math.isfinite(float(value))
    }


def attempt_of(outcome: Finished | Failure) -> int:
    """Return the number of the attempt that an outcome ends."""
    return outcome.report.attempt if isinstance(outcome, Finished) else outcome.attempt


def digest_outcome(task: Task, outcome: Finished | Failure) -> str:
    """Return a hash of an outcome: the same if it is sent again, another if it is trained again, as seconds differ."""
    record = to_json(outcome.report if isinstance(outcome, Finished) else outcome)
    text = json.dumps([task.id, task.settings, task.seed, record], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def curves(outcome: Finished | Failure) -> dict[str, dict[int, float]]:
    """Return metric -> epoch -> value: what the user's own code logged in one attempt."""
    if isinstance(outcome, Failure):
        return {}
    logged = outcome.report.curves.items()
    return {
        safe_key(f"{LOGGED_PREFIX}{name}"): {epoch: value for epoch, value in values.items() if math.isfinite(value)}
        for name, values in logged
    }


def measures(outcome: Finished | Failure) -> dict[str, float]:
    """Return the metrics and costs of one attempt, and the metrics of its parts; metrics with `curves` are left out."""
    if isinstance(outcome, Failure):
        return finite_entries({"seconds": outcome.seconds})
    report = outcome.report
    costs = {
        "seconds": report.seconds,
        "parameters": report.parameters,
        "predict_ms_per_1000": report.predict_ms_per_1000,
    }
    parts = {f"{part.name}.{key}": value for part in report.parts for key, value in shown_metrics(part.metrics).items()}
    found, drawn = finite_entries({**shown_metrics(report.metrics), **costs, **parts}), curves(outcome)
    return {name: value for name, value in found.items() if name not in drawn}


def labels(task: Task, outcome: Finished | Failure) -> dict[str, str]:
    """Return the tags of one attempt."""
    tags = {
        "distens.kind": "member",
        "distens.task": task.id,
        "distens.attempt": str(attempt_of(outcome)),
        "distens.purpose": task.purpose,
        "distens.record": digest_outcome(task, outcome),
    }
    if isinstance(outcome, Finished):
        tags["distens.node"] = outcome.report.node
    else:
        tags |= {
            "distens.node": outcome.node,
            "distens.reason": outcome.reason,
            "distens.message": redact(outcome.message),
            "distens.final": str(outcome.final).lower(),
        }
    return {key: value[:TAG_LENGTH] for key, value in tags.items()}


def title(task: Task, outcome: Finished | Failure) -> str:
    """Return an attempt's name for display: `m0007 mlp`, `m0007 mlp (attempt 1: crashed)`."""
    family = task.settings.get("family", task.settings.get("kind", ""))
    name = f"{task.id} {family}".strip()
    return f"{name} (attempt {outcome.attempt}: {outcome.reason})" if isinstance(outcome, Failure) else name
