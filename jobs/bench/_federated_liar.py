"""Reaches the member kind of `_federated_members`, as a user's own kind would be."""

from pathlib import Path

import distens.members

FOLDER = str(Path(__file__).parent / "_federated_members")


def reach() -> None:
    """Let `kind: flipped` be found."""
    if FOLDER not in distens.members.__path__:
        distens.members.__path__ = [*distens.members.__path__, FOLDER]
