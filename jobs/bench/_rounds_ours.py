"""Rounds of distens on Ray: one line of JSON.

python jobs/bench/_rounds_ours.py CONFIG.json
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from _rounds_clock import cpu_seconds

IDLE = '''
"""A client that does nothing: it returns a copy of what it was sent."""

from dataclasses import dataclass

from distens.members.client import Client


@dataclass
class Idle(Client):
    def train(self, start_P, shards, round, device="cpu"):
        from distens.training.local import LocalUpdate

        for place in range(len(shards)):
            yield place, LocalUpdate(start_P.copy(), 1, self.learning_rate, 0.0, 0.0)
'''
"""A member kind: the bench puts it into `distens/members` of a copy of the package, as a developer would."""


def main(path: str) -> None:
    """Carry out all rounds and print the time at which each of them ended."""
    import distens
    from distens.config.config import parse_config
    from distens.lifecycle.progress import ProgressEvent

    ended: list[float] = []
    spent: list[float] = []

    def noted(update: ProgressEvent) -> None:
        if update.phase == "rounds" and update.text:
            ended.append(time.time())
            if len(ended) == 1:
                spent.append(cpu_seconds())

    result = distens.run(parse_config(json.loads(Path(path).read_text())), noted)

    from distens.storage.journal import Journal
    from distens.storage.store import Store

    logs = list(Journal(Store(result.path), "rounds").entries())
    found = {
        "ended": ended,
        "cpu": spent[0],
        "clients": [len(log["shares"]) for log in logs],
        "losses": [log["loss"] for log in logs],
        "versions": {name: version(name) for name in ("distens", "ray", "numpy", "torch")},
        "path": result.path,
        "partition": json.loads(Path(result.path, "results.json").read_text())["partition"],
    }
    print("RESULT " + json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1])
