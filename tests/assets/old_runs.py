"""Runs that an earlier version of the code left behind: how they are packed, and what is compared of them.

Beside each `<name>.tar.xz` lies `<name>.json`: what the code that wrote the run said of it. A run is hundreds of files
of a few hundred bytes, which are much alike: packed they are a tenth, and no tool changes one of them by the way.

Nothing of the package is imported here, and nothing but the documented layout of a run's folder is known: these
functions serve every version of the code.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent / "old"

TIMES = ("train_seconds", "predict_ms_per_1000", "search_seconds", "seconds")
"""Keys of results.json that another run of the same computation changes."""

REWORDED = {
    "less than two count as not distinguishable. What other seeds would have trained is not in them.": (
        "a difference of less than two counts as not distinguishable. The effect of other seeds is not included."
    ),
    "The best is chosen on the combine split; what its test split says is in its own table:": (
        "The best run is chosen on the combine split; its own table has its results on the test split:"
    ),
}
"""Sentences of the code that wrote the runs, as today's code words them when it writes them anew."""

LIBRARIES = ("torch", "scikit-learn", "lightgbm", "numpy", "scipy")


def names() -> list[str]:
    return sorted(file.stem for file in HERE.glob("*.json"))


def said(name: str) -> dict[str, Any]:
    """Return what the code that wrote a run said of it."""
    return json.loads((HERE / f"{name}.json").read_text())


def reworded(value: Any) -> Any:
    """Return what a run's code said, in today's words."""
    text = json.dumps(value)
    for old, new in REWORDED.items():
        text = text.replace(old, new)
    return json.loads(text)


def unpack(name: str, folder: Path) -> Path:
    """Unpack one run's storage, its config and its data; return the folder where they lie."""
    with tarfile.open(HERE / f"{name}.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder / name


def leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all values of results.json that are no times, by their place."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in TIMES:
                yield from leaves(inner, f"{place}/{key}" if place else str(key))
    elif isinstance(value, list):
        yield f"{place}/#", len(value)
        for i, inner in enumerate(value):
            yield from leaves(inner, f"{place}/{i}")
    else:
        yield place, value


def results(run: Path, file: str = "results.json") -> dict[str, Any]:
    return dict(leaves(json.loads((run / file).read_text())))


def bits(run: Path) -> dict[str, str]:
    """Return the SHA-256 of all weights and predictions of a run, by file and array.

    Attempts are left out of the names: which one finished is no part of the result. Of an estimator's archive nothing
    is taken: it holds the hour; what it predicts is there.
    """
    found = {}
    for file in sorted(path for path in run.rglob("*") if path.is_file()):
        folder, *rest = file.relative_to(run).parts
        if folder not in ("members", "final", "rounds-weights"):
            continue
        place = "/".join([folder, rest[0], rest[-1]] if folder == "members" else [folder, *rest])
        for array, digest in _arrays(file):
            found[f"{place}/{array}"] = digest
    return found


def _arrays(file: Path) -> Iterator[tuple[str, str]]:
    if file.suffix == ".safetensors":
        from safetensors.numpy import load_file

        for name, array in sorted(load_file(file).items()):
            if name != "skops":
                yield name, _digest(array)
    elif file.suffix == ".arrow":
        import pyarrow as pa

        with pa.OSFile(str(file)) as source:
            yield "column", _digest(pa.ipc.open_file(source).get_batch(0).column(0).flatten().to_numpy())


def _digest(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def journal(run: Path, folder: str = "journal") -> list[dict[str, Any]]:
    """Return all entries of a journal, in order."""
    return [entry for file in sorted((run / folder).glob("*.json")) for entry in json.loads(file.read_text())]


def finished(run: Path) -> list[str]:
    """Return the ids of the tasks that a journal of old says have finished."""
    return [entry["report"]["task_id"] for entry in journal(run) if "report" in entry]


def pending(run: Path) -> set[str]:
    """Return the ids of the tasks that a journal of old says were dispatched, and nothing more."""
    told = {entry["failure"]["task_id"] for entry in journal(run) if "failure" in entry}
    return {entry["task"]["id"] for entry in journal(run) if "task" in entry} - {*finished(run), *told}


def members(run: Path) -> list[str]:
    """Return `<id>/<attempt>` of all that finished, by the files that finishing leaves."""
    return sorted("/".join(file.parts[-3:-1]) for file in run.glob("members/*/*/report.json"))


def listed(line: str) -> list[str]:
    """Return the cells of a line of `distens list`, without the hour, which is of a time zone."""
    return re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d", "", line).split()


def without_places(lines: Sequence[str]) -> list[str]:
    """Return what `distens sweep` prints, without the line that says where a run lies."""
    return [line for line in lines if not line.startswith("distens report ")]


def place_and_options(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return where the bundle lies that a first word without a dash names, and the words that are options."""
    if words and not words[0].startswith("-"):
        return f"/final/{words[0]}", list(words[1:])
    return "", list(words)


@cache
def arithmetic() -> dict[str, str]:
    """Return what tells whether this machine computes to the bit as another: versions, and what some sums come to."""
    versions = {name: importlib.metadata.version(name).partition("+")[0] for name in LIBRARIES}
    return {**versions, "sums": _digest(_sums())}


def _sums() -> np.ndarray[Any, Any]:
    """Return the weights of small trainings: products, convolutions and exponentials, in float32 and in float64."""
    import torch
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    rows, labels = rng.normal(size=(160, 64)), rng.integers(0, 3, 160)
    linear = LogisticRegression(C=3.0, max_iter=1000).fit(rows, labels)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = torch.nn.Sequential(
                torch.nn.Unflatten(1, (1, 8, 8)),
                torch.nn.Conv2d(1, 4, 3),
                torch.nn.BatchNorm2d(4),
                torch.nn.ReLU(),
                torch.nn.Flatten(),
                torch.nn.Linear(144, 9),
                torch.nn.Tanh(),
                torch.nn.Linear(9, 3),
            )
            optimizer = torch.optim.AdamW(network.parameters(), 0.01)
            inputs, targets = torch.tensor(rows, dtype=torch.float32), torch.tensor(labels)
            for start in range(0, 160, 5):
                optimizer.zero_grad()
                some = slice(start, start + 13)
                torch.nn.functional.cross_entropy(network(inputs[some]), targets[some]).backward()
                optimizer.step()
    finally:
        torch.set_num_threads(threads)
    flat = [parameter.detach().numpy().ravel().astype(np.float64) for parameter in network.parameters()]
    return np.concatenate([linear.coef_.ravel(), *flat])
