"""The presentation of a federation's clients and of its server's work: figures, the page's tables, tracked clients."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from distens.data.load import LoadedData
from distens.lifecycle.ledger import Ledger
from distens.members.client import read_histogram
from distens.partition.protocol import Partition
from distens.records import Finished, Floats, Integers
from distens.roles.federated import figures
from distens.roles.federated.journal import RoundLog
from distens.roles.federated.purpose import FederatedPurpose
from distens.storage.store import Store
from distens.tracking.protocol import Participant

MAX_CLIENTS_SHOWN = 200
"""The largest number of clients that page and tracker show in full. Of more clients, they show this many with the most
rows, and all that failed or were refused; `results.json` has all clients."""

MAX_SPANS = 6
REASON_LENGTH = 160


@dataclass
class ClientHistory:
    """The part of one client in all rounds, which are counted from 0.

    Attributes:
        asked: the number of rounds for which the client was drawn.
        shares: round -> the share of its update; None under rules that merge number by number.
        wrong: `refused`, `failed`, `retried` -> round -> why. A lost attempt was retried in the same round.
    """

    asked: int = 0
    shares: dict[int, float | None] = field(default_factory=dict)
    wrong: dict[str, dict[int, str]] = field(default_factory=lambda: defaultdict(dict))

    def outcomes(self) -> dict[str, int]:
        """Return the number of rounds for which the client was drawn, and of those with each outcome."""
        wrong = {what: len(self.wrong.get(what, {})) for what in ("refused", "failed")}
        return {"asked": self.asked, "merged": len(self.shares), **wrong}

    def sentences(self) -> list[str]:
        """Return a sentence for each kind of fault: its rounds, and the first reason."""
        return [f"{what} in {_rounds(_spans(whys))}: {next(iter(whys.values()))}" for what, whys in self.wrong.items()]


def parts(names: Sequence[str], logs: Mapping[int, RoundLog]) -> dict[str, ClientHistory]:
    """Return client -> its part in the rounds, for all clients, those included that were never drawn."""
    found = {name: ClientHistory() for name in names}
    for number, log in sorted(logs.items()):
        for client in log.asked:
            found[client].asked += 1
        for client, share in log.shares.items():
            found[client].shares[number] = share
        for what in ("refused", "failed"):
            for client, why in getattr(log, what).items():
                found[client].wrong[what][number] = why
        for text in log.retried:
            client = next((name for name in log.asked if text.startswith(f"{name}: ")), None)
            if client is not None:
                found[client].wrong["retried"].setdefault(number, text.removeprefix(f"{client}: "))
    return found


def degraded(logs: Mapping[int, RoundLog]) -> list[str]:
    """Return a sentence about the rounds that were merged without a client that was drawn; none if there are none."""
    rounds = [log for log in logs.values() if log.degraded]
    if not rounds:
        return []
    without = sorted({client for log in rounds for client in (*log.failed, *log.refused)})
    named = ", ".join(without[:10]) + (", …" if len(without) > 10 else "")
    return [f"{len(rounds)} of {len(logs)} rounds were merged without a client that was drawn: {named}."]


def single(logs: Mapping[int, RoundLog], clients: Sequence[str]) -> list[str]:
    """Return a sentence about a model that one client alone made; none if there is no such model.

    Args:
        logs: round -> its log; empty in one shot.
        clients: in one shot, the clients whose models are used.
    """
    if not logs:
        if len(clients) != 1:
            return []
        return [f"One client alone, {clients[0]}, made what is called global or ensemble here: nothing was federated."]
    makers = [list(log.shares) for log in logs.values()]
    alone = [clients[0] for clients in makers if len(clients) == 1]
    if not alone:
        return []
    if len(alone) == len(logs) and len(set(alone)) == 1:
        return [f"One client alone, {alone[0]}, made the global model in all rounds: nothing was federated."]
    named = ", ".join(sorted(set(alone))[:10])
    return [f"In {len(alone)} of {len(logs)} rounds one client alone made the global weights: {named}."]


def counts(
    loaded: LoadedData, partition: Partition | None, ledger: Ledger, refused: Mapping[str, str]
) -> dict[str, list[int]]:
    """Return client -> its numbers of rows of each class, as far as they are known.

    Clients with data of their own report them in one shot; after rounds they are not known.

    Args:
        loaded: the server's data.
        partition: the division of its *train* split among the clients; None if they have rows of their own.
        ledger: the tasks that left reports.
        refused: client -> the reason why its report cannot be used.
    """
    dataset, classes = loaded.dataset, len(loaded.dataset.classes)
    if partition is not None:
        counts_KC = partition.histograms(dataset.labels["train"], classes)
        return dict(zip(partition.rows, counts_KC.tolist(), strict=True))
    return {
        e.task.work.client: list(read_histogram(e.report.metrics, classes))
        for e in ledger.finished(FederatedPurpose.CLIENT)
        if e.task.work.client not in refused
    }


class ClientOverview:
    """The clients of a federation at its end, as page and tracker show them.

    Args:
        names: the clients' names, in order.
        logs: round -> its log; empty in one shot.
        ledger: the tasks that left reports.
        counts: see `counts`.

    Attributes:
        parts: client -> its part in the rounds.
        failures: every lost attempt at a task; and for each client and kind of fault its rounds, with the first reason.
        chosen: the clients on the page and the tracker (see `MAX_CLIENTS_SHOWN`).
    """

    def __init__(
        self, names: Sequence[str], logs: Mapping[int, RoundLog], ledger: Ledger, counts: Mapping[str, Sequence[int]]
    ) -> None:
        self.names, self.counts, self._rounds = names, counts, bool(logs)
        self.parts = parts(names, logs)
        self.failures = _failures(ledger, self.parts)
        self.chosen = list(names)
        if len(names) > MAX_CLIENTS_SHOWN:
            largest = set(sorted(names, key=lambda name: -sum(counts.get(name, ())))[:MAX_CLIENTS_SHOWN])
            lost = {entry["id"] for entry in self.failures if entry["reason"] != "retried"}
            self.chosen = [name for name in names if name in largest or name in lost]

    def left_out(self) -> dict[str, str]:
        """Return heading -> a sentence about what is left out and why; empty if everything is overview."""
        found = {}
        if len(self.chosen) < len(self.names):
            where = "listed and tracked" if self._rounds else "listed"
            found["clients shown"] = (
                f"{len(self.chosen):,} of {len(self.names):,} clients are {where}: the {MAX_CLIENTS_SHOWN} with the "
                "most "
                "rows, and all that failed or were refused; the run's folder has all clients"
            )
        if len(self.failures) > MAX_CLIENTS_SHOWN:
            found["failures shown"] = (
                f"{MAX_CLIENTS_SHOWN} of {len(self.failures):,} failures are listed; results.json has all"
            )
        return found

    def table(self, weights: Mapping[str, float]) -> list[dict[str, Any]]:
        """Return a line for each client of the page.

        Args:
            weights: client -> weight in one shot's ensemble; empty after rounds.
        """
        wrong: dict[str, list[str]] = defaultdict(list)
        for entry in self.failures:
            when = f" in {_rounds(entry['rounds'])}" if "rounds" in entry else ""
            wrong[entry["id"]].append(f"{entry['reason']}{when}: {_short(entry['message'])}")
        lines = []
        for name in self.chosen:
            part, line = self.parts[name], dict[str, Any](client=name)
            line["rows"] = sum(self.counts[name]) if name in self.counts else None
            if weights:
                line["weight"] = weights.get(name)
            else:
                shares = [share for share in part.shares.values() if share is not None]
                line |= {"rounds asked": part.asked, "merged": len(part.shares)}
                line |= {"mean share": float(np.mean(shares))} if shares else {}
            line |= {"what went wrong": "; ".join(wrong[name])} if name in wrong else {}
            lines.append(line)
        return lines

    def participants(self) -> list[Participant]:
        """Return the clients for the tracker: rows of each class, outcomes, shares over the rounds (from 1), faults."""
        found = []
        for name in self.chosen:
            part = self.parts[name]
            metrics = {f"rounds_{what}": float(count) for what, count in part.outcomes().items()}
            if name in self.counts:
                metrics["rows"] = float(sum(self.counts[name]))
                metrics |= {f"rows_{label}": float(count) for label, count in enumerate(self.counts[name])}
            weights = {number + 1: share for number, share in part.shares.items() if share is not None}
            found.append(Participant("client", name, metrics, {"weight": weights}, tuple(part.sentences())))
        return found


def _failures(ledger: Ledger, found: Mapping[str, ClientHistory]) -> list[dict[str, Any]]:
    lines = ledger.failures()
    for name, part in found.items():
        for what, whys in part.wrong.items():
            first, final = next(iter(whys.values())), what != "retried"
            lines.append({"id": name, "rounds": _spans(whys), "reason": what, "message": first, "final": final})
    return lines


def _rounds(spans: str) -> str:
    return f"round{'' if spans.isdigit() else 's'} {spans}"


def _spans(numbers: Mapping[int, str]) -> str:
    """Return round numbers as text, counted from 1: `1, 3-5`."""
    ordered = sorted(numbers)
    breaks = [i for i, (one, after) in enumerate(pairwise(ordered), 1) if after > one + 1]
    spans = [(ordered[a] + 1, ordered[b - 1] + 1) for a, b in pairwise([0, *breaks, len(ordered)])]
    shown = [str(first) if first == last else f"{first}-{last}" for first, last in spans[:MAX_SPANS]]
    return ", ".join(shown) + (f", … ({len(ordered)} in all)" if len(spans) > MAX_SPANS else "")


def _short(text: str) -> str:
    line = text.strip().splitlines()[-1] if text.strip() else ""
    return line if len(line) <= REASON_LENGTH else f"{line[: REASON_LENGTH - 1]}…"


# Pictures -------------------------------------------------------------------------------------------------------------


def of_rounds(logs: Mapping[int, RoundLog], clients: ClientOverview, metric: str, folder: Path) -> dict[str, Path]:
    """Draw the metrics of the rounds and the shares of the updates; return caption -> file.

    Args:
        logs: round -> its log.
        clients: the clients' parts in the rounds.
        metric: the metric that is drawn first.
        folder: where the files go.
    """
    numbers = sorted(logs)
    shares_KT, outcomes_KT = grids(clients.names, clients.parts, len(numbers))
    measured = dict.fromkeys(name for n in numbers for name in logs[n].metrics)
    order = sorted(measured, key=lambda name: name != metric)
    values = {name: np.array([logs[n].metrics.get(name, np.nan) for n in numbers]) for name in order}
    caption = "The global weights on the server's rows, round by round"
    if not values:
        values, caption = (
            {"loss": np.array([logs[n].loss for n in numbers], dtype=np.float64)},
            "Training, round by round",
        )
    paths = {caption: folder / "rounds.png", "How much each update counted": folder / "shares.png"}
    figures.rounds(values, outcomes_KT, paths[caption])
    figures.shares(shares_KT, outcomes_KT, clients.names, folder / "shares.png")
    return paths


def grids(names: Sequence[str], found: Mapping[str, ClientHistory], rounds: int) -> tuple[Floats, Integers]:
    """Return shares_KT and outcomes_KT, as `distens.roles.federated.figures.shares` takes them."""
    shares_KT = np.full((len(names), rounds), np.nan)
    outcomes_KT = np.full((len(names), rounds), figures.NOT_ASKED)
    for k, name in enumerate(names):
        for number, share in found[name].shares.items():
            outcomes_KT[k, number] = figures.MERGED
            shares_KT[k, number] = np.nan if share is None else share
        for what, code in (("refused", figures.REFUSED), ("failed", figures.FAILED)):
            for number in found[name].wrong.get(what, ()):
                outcomes_KT[k, number] = code
    return shares_KT, outcomes_KT


def of_distillers(
    store: Store, made: Mapping[str, Finished], titles: Mapping[str, str], bounds: tuple[Floats, Floats], folder: Path
) -> Iterator[tuple[str, Path]]:
    """Draw the distillers' curves, and the images that they made up; yield captions and files.

    Args:
        store: the run's folder.
        made: row of the table -> its finished task; tasks that made nothing besides a model are passed over.
        titles: row -> its name in the figures.
        bounds: the numbers drawn black and white (`Dataset.bounds`).
        folder: where the files go.
    """
    low, high = bounds
    curves: dict[str, dict[str, Floats]] = {}
    pools: dict[str, Floats] = {}
    for name, entry in made.items():
        if (address := entry.report.files.get("made")) is not None:
            arrays = store.read_state(address.path, address).arrays
            own = {k.removeprefix("curves/"): v for k, v in arrays.items() if k.startswith("curves/") and len(v)}
            curves |= {titles[name]: own} if own else {}
            if "images" in arrays and arrays["images"].ndim == 4:
                pools[name] = arrays["images"]
    if curves:
        figures.curves(curves, folder / "distillers.png")
        yield "Distillation on the server", folder / "distillers.png"
    for name, images in pools.items():
        figures.pool(images, low, high, folder / f"pool_{name}.png")
        yield f"Images made up by {titles[name]}", folder / f"pool_{name}.png"
