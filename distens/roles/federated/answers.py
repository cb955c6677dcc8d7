"""Answers, in memory, of the server's tasks in a round; a client's answer is `distens.merge.protocol.ClientUpdate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distens.records import Floats, Record


@dataclass(frozen=True, slots=True)
class Refinement(Record):
    """The weights that the server's distiller made of a round's merged weights: the answer of `Refine`.

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
class ServerScore(Record):
    """The metrics of a round's weights on the server's own *search* rows: the answer of `LabelledRows`."""

    task_id: str
    attempt: int
    metrics: Mapping[str, float]
    round: int
