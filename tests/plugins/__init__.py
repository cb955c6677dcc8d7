"""Member kinds for tests, found as users' own are: by their file."""

from pathlib import Path

import distens.members
from distens.storage import store

FOLDER = str(Path(__file__).parent / "members")


def reach():
    """Let `kind` name the files of this package."""
    if FOLDER not in distens.members.__path__:
        distens.members.__path__ = [*distens.members.__path__, FOLDER]


class Store(store.Store):
    """A run's folder that brings this package with it, into an actor's process too."""

    def __init__(self, url):
        reach()
        super().__init__(url)

    def __reduce__(self):
        return Store, (self.url,)
