"""The changes of its config that a federation can follow: more rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distens.lifecycle.going_on import Change, refuse
from distens.lifecycle.ledger import Ledger
from distens.roles.federated.plan import FederatedPlan

ROUNDS = "federated.rounds"

ALLOWED = f"A federation goes on with more {ROUNDS}. Storage, runtime and tracking may differ."


def follow(
    plan: FederatedPlan, changes: Sequence[Change], ledger: Ledger, results: Mapping[str, Any] | None, path: str
) -> None:
    """Let the rounds go on, from the weights that the last one ended with. See `distens.roles.protocol.GoesOn`."""
    for change in changes:
        if change.key != ROUNDS:
            refuse(path, change, "Its clients trained, and their updates were merged, as it was.", ALLOWED)
        if change.then == 1:
            why = "In one shot each client trains once, and there are no merged weights for a round to go on from."
            refuse(path, change, why, ALLOWED)
        if change.now < change.then:
            refuse(path, change, "Rounds that were merged cannot be taken back.", ALLOWED)
