"""The section `federated` of a config."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from distens.config.sections import Name, Section, Spec


class FederatedSection(Section):
    """Who the clients are, and how they meet.

    Attributes:
        clients: how many divide the *train* split; where the partition says so itself, or they have sources, left out.
        partition: how they divide it: one of `distens/partition`.
        sources: client -> the address of its own rows, which the server never opens; instead of a partition.
        rounds: how often the server sends its weights, clients train, and it merges theirs.
        per_round: how many clients are drawn for a round; all without.
        quorum: the share of them whose updates must come, or the run stops.
        deadline_seconds: of a round; clients that are later are left out and named.
        most_norm: an update that goes further than so many times the round's median is refused.
        resources: as older configs have it: read as `runtime.resources`.
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
