"""The changes of its config that a federation can follow: more rounds."""

from __future__ import annotations

from collections.abc import Sequence

from distens.lifecycle.going_on import Change, refuse

ROUNDS = "federated.rounds"

ALLOWED = f"A federation goes on with more {ROUNDS}. Storage, runtime and tracking may differ."


def check_changes(changes: Sequence[Change], path: str) -> None:
    """Check that the only change is that there are more rounds, which go on from the weights of the last."""
    for change in changes:
        if change.key != ROUNDS:
            refuse(path, change, "Its clients trained, and their updates were merged, as it was.", ALLOWED)
        if change.then == 1:
            why = "In one shot each client trains once, and there are no merged weights for a round to go on from."
            refuse(path, change, why, ALLOWED)
        if type(change.now) is not int or change.now < change.then:
            refuse(path, change, "Rounds that were merged cannot be taken back.", ALLOWED)
