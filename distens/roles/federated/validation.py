"""Checks of what a client sent, before any of it is used: a client may send anything.

Types, sizes and finite numbers; the task's own client; rows that are the client's, and sum to its histogram; and steps
and learning rates that its settings allow. Counts become weights of the merge: one client that claims a million times
its rows would be the whole of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np

from distens.errors import shorten_value
from distens.members.client import Client, read_histogram
from distens.merge.protocol import ClientUpdate
from distens.records import Floats

MAX_TIMES_EXPECTED = 100
"""A client may make this many times the steps of its settings, at this many times their learning rate: a kind of client
of one's own may count them in another way."""

MAX_TIMES_MEDIAN = 10_000
"""Where nothing is known of clients' rows, a client may have this many times the median of the others."""


@dataclass(frozen=True)
class KnownClient:
    """What the server knows of a client before it trains.

    Attributes:
        rows: the number of its rows, by the partition or by its first update; None if not known.
        histogram_C: the number of its rows of each class, by the partition; None if not known.
    """

    rows: int | None = None
    histogram_C: Sequence[int] | None = None


def find_fault(
    update: ClientUpdate, client: str, known: KnownClient, start_P: Floats, classes: int, member: Any, round: int
) -> str:
    """Return the reason why an update cannot be merged, in words; empty if it can.

    Args:
        update: the update.
        client: the client of the task that the update answers.
        known: what is known of that client.
        start_P: the weights that the round began with.
        classes: the number of classes.
        member: a client with the settings of all.
        round: the round, from 0.
    """
    if update.client != client:
        return f"it answers for client {str(update.client)[:100]!r}"
    if why := _counts_fault(update.rows, update.histogram_C, known, classes):
        return why
    if not _is_count(update.steps) or update.steps < 1:
        return f"steps: expected a whole number above 0, found {shorten_value(update.steps)}"
    if not _is_finite(update.rate_sum) or update.rate_sum <= 0:
        return f"rate_sum: expected a finite number above 0, found {shorten_value(update.rate_sum)}"
    if update.loss is not None and not _is_finite(update.loss):
        return f"loss: numbers that are not finite, found {shorten_value(update.loss)}"
    if not _is_finite(update.seconds) or update.seconds < 0:
        return f"seconds: expected a finite number of at least 0, found {shorten_value(update.seconds)}"
    return _steps_fault(update, member, round) or _weights_fault(update.weights_P, start_P)


def find_report_fault(metrics: Mapping[str, float], known: KnownClient, classes: int) -> str:
    """Return the reason why the report of a client that trained once cannot be used, in words; empty if it can.

    Args:
        metrics: the report's metrics, which have the counts of an update.
        known: what is known of the client.
        classes: the number of classes.
    """
    needed = ["rows", "steps", *(f"rows_{c}" for c in range(classes))]
    if missing := [name for name in needed if name not in metrics]:
        return f"its report has no {missing[0]!r}"
    if wrong := [name for name in needed if not (_is_finite(metrics[name]) and float(metrics[name]).is_integer())]:
        return f"{wrong[0]}: expected a whole number, found {shorten_value(metrics[wrong[0]])}"
    if metrics["steps"] < 1:
        return f"steps: expected a whole number above 0, found {shorten_value(metrics['steps'])}"
    if not _is_finite(metrics.get("train_loss", 0.0)):
        return f"loss: numbers that are not finite, found {shorten_value(metrics['train_loss'])}"
    return _counts_fault(int(metrics["rows"]), read_histogram(metrics, classes), known, classes)


def find_giants(rows: Mapping[str, int]) -> dict[str, str]:
    """Return client -> the reason why its number of rows cannot be believed beside the others'.

    Args:
        rows: client -> the number of rows that it claims, of clients of which nothing else is known.
    """
    found = {}
    for client, count in rows.items() if len(rows) > 2 else ():
        usual = float(np.median([other for name, other in rows.items() if name != client]))
        if count > MAX_TIMES_MEDIAN * usual:
            found[client] = f"rows: {count:,} are more than {MAX_TIMES_MEDIAN:,} times the others' median {usual:,.0f}"
    return found


def _counts_fault(rows: Any, histogram_C: Any, known: KnownClient, classes: int) -> str:
    if not _is_count(rows) or rows < 1:
        return f"rows: expected a whole number above 0, found {shorten_value(rows)}"
    if known.rows is not None and rows != known.rows:
        return f"rows: it claims {rows:,}, and it has {known.rows:,}"
    if not isinstance(histogram_C, Sequence | np.ndarray) or len(histogram_C) != classes:
        return f"histogram: expected {classes} counts, found {shorten_value(histogram_C)}"
    if not all(_is_count(count) and count >= 0 for count in histogram_C):
        return f"histogram: expected whole numbers of at least 0, found {shorten_value(histogram_C)}"
    if (total := sum(int(count) for count in histogram_C)) != rows:
        return f"histogram: its counts sum to {total:,}, and it has {rows:,} rows"
    if known.histogram_C is not None and list(histogram_C) != list(known.histogram_C):
        return "histogram: its counts are not those of its rows"
    return ""


def _steps_fault(update: ClientUpdate, member: Any, round: int) -> str:
    if not isinstance(member, Client):  # a kind of one's own, whose settings may mean anything
        return ""
    steps = member.steps or (member.epochs or 1) * math.ceil(update.rows / member.batch_size)
    if update.steps > MAX_TIMES_EXPECTED * steps:
        return f"steps: it claims {update.steps:,}, and its settings make {steps:,}"
    rate = member.learning_rate * member.decay**round
    if not rate / MAX_TIMES_EXPECTED <= update.rate_sum / update.steps <= rate * MAX_TIMES_EXPECTED:
        return f"rate_sum: a learning rate of {update.rate_sum / update.steps:.3g}, and its settings make {rate:.3g}"
    return ""


def _weights_fault(weights_P: Any, start_P: Floats) -> str:
    if not isinstance(weights_P, np.ndarray):
        return f"weights: expected an array, found {shorten_value(weights_P)}"
    if weights_P.shape != start_P.shape or weights_P.dtype != start_P.dtype:
        return f"{weights_P.dtype} of shape {weights_P.shape} instead of {start_P.dtype} of shape {start_P.shape}"
    return ""


def _is_count(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _is_finite(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
