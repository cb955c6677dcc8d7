"""What the server's tasks of a round answer, in memory; a client's answer is `distens.merge.protocol.Update`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distens.records import Floats, Record


@dataclass(frozen=True, slots=True)
class Refined(Record):
    """What the server's distiller made of merged weights, after a round.

    Attributes:
        metrics: numbers to watch.
        memory: arrays by name, which the distiller is given in the next round.
    """

    task_id: str
    attempt: int
    weights_P: Floats
    metrics: Mapping[str, float]
    memory: Mapping[str, Any]
    seconds: float = 0.0
    node: str = ""


@dataclass(frozen=True, slots=True)
class Scored(Record):
    """What the weights of a round are worth, on the server's own *search* rows."""

    task_id: str
    attempt: int
    metrics: Mapping[str, float]
    round: int
