"""The section `federated` of a config."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from distens.config.sections import Name, Section, Spec


class FederatedSection(Section):
    """The section `federated`: who the clients are, and how the server trains with them.

    Attributes:
        clients: the number of clients that divide the *train* split; left out where the partition itself gives it, or
            where clients have sources.
        partition: the way in which clients divide the *train* split: one of `distens/partition`.
        sources: client -> the address of its own rows, which the server never opens; instead of a partition.
        rounds: the number of times that the server sends its weights, clients train, and the server merges their
            weights.
        per_round: the number of clients that are drawn for a round; without, all.
        quorum: the least share of a round's clients whose updates must come; else the run stops.
        deadline_seconds: the time limit of a round; clients that are later are left out and named.
        most_norm: an update is refused whose norm is more than this many times the median, over the updates of this
            round and those that the round before accepted.
        resources: the place of `runtime.resources` in older configs, and read as that.
    """

    clients: int | None = Field(None, ge=1, le=100_000)
    partition: Spec | None = None
    sources: dict[Name, str] = Field(default_factory=dict)
    rounds: int = Field(1, ge=1)
    per_round: int | None = Field(None, ge=1)
    quorum: float = Field(0.5, gt=0, le=1)
    deadline_seconds: float | None = Field(None, gt=0)
    most_norm: float = Field(30.0, gt=1)
    resources: dict[Name, dict[str, Any]] = Field(default_factory=dict, exclude=True)
