"""Golden runs: small runs of every role in one process, with every kind named, and all their numbers except times.

    python jobs/drill/golden.py --out before.json             # under one version of the code
    python jobs/drill/golden.py --compare before.json         # under another: equal to the bit, or exit code 1

A change that is meant to keep the behaviour leaves these numbers equal to the bit, on one machine and with the same
versions of torch, scikit-learn and LightGBM. Other machines round differently, so the numbers are kept beside the
results (`jobs/results/`) and are compared by hand, not in a test.

The comparison covers `results.json`, every member's state and predictions, and the predictions of every bundle when it
is read back. Arrays are compared by the SHA-256 of their bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

TIMES = ("train_seconds", "predict_ms_per_1000", "search_seconds", "seconds")
CONFIGS = Path(__file__).parents[2] / "configs"

COMMON = ["runtime.kind=inline", "runtime.threads=1", "runtime.pack=auto", "tracking=off", "seed=0"]
ENSEMBLE = [
    "metric=nll",
    "calibrate=temperature",
    "schedule=none",
    "select={kind: greedy, size: 25}",
    "combine=average",
    "baselines=[larger_single, seed_ensemble]",
]
FEDERATED = ["metric=nll", "calibrate=temperature"]

NETWORK = {
    "kind": "classifier",
    "model": {"kind": "mlp", "hidden": {"choices": [[16], [32]]}, "dropout": {"low": 0.0, "high": 0.3}},
    "learning_rate": {"low": 3e-3, "high": 3e-2, "log": True},
    "schedule": "constant",
    "epochs": 9,
}
DIGITS = {"source": "sklearn:digits", "splits": {"train": 0.6, "search": 0.1, "combine": 0.1, "test": 0.2}}
WINE = {"source": "sklearn:wine", "splits": {"train": 0.4, "search": 0.2, "combine": 0.2, "test": 0.2}}
CLIENT = {
    "kind": "client",
    "model": {"kind": "mlp", "hidden": [32]},
    "optimizer": "sgd",
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 0.05,
}

RUNS: dict[str, tuple[str | dict[str, Any], list[str]]] = {
    "digits": ("digits.yaml", [*ENSEMBLE, "search={kind: divbo, members: 24}", "distill={kind: student}"]),
    "breast_cancer": ("breast_cancer.yaml", [*ENSEMBLE, "search={kind: divbo, members: 40}"]),
    "federated_digits": ("federated_digits.yaml", FEDERATED),
    "rounds": (
        {
            "name": "rounds",
            "role": "federated",
            "data": DIGITS,
            "federated": {
                "clients": 8,
                "partition": {"kind": "dirichlet_classes", "alpha": 0.3},
                "rounds": 6,
                "per_round": 5,
            },
            "members": {"client": CLIENT},
            "merge": "fedavg",
        },
        FEDERATED,
    ),
    "corrected_rounds": (
        {
            "name": "corrected_rounds",
            "role": "federated",
            "data": DIGITS,
            "federated": {"clients": 6, "partition": {"kind": "shards", "per_client": 3}, "rounds": 3},
            "members": {"client": CLIENT},
            "merge": "scaffold",
            "distill": {"kind": "fedftg", "width": 4},
        },
        FEDERATED,
    ),
    "rungs": (
        {
            "name": "rungs",
            "data": WINE,
            "members": {"network": NETWORK, "forest": {"kind": "estimator", "estimator": "random_forest"}},
            "search": {"kind": "evolution", "members": 14},
            "schedule": {"kind": "halving", "minimum": 1, "eta": 3},
            "select": {"kind": "quadratic"},
            "combine": {"kind": "stack"},
            "distill": {"kind": "student"},
            "baselines": ["larger_single", "seed_ensemble"],
        },
        ["metric=nll", "calibrate=temperature"],
    ),
}


def numbers(name: str, folder: str) -> dict[str, Any]:
    """Return every number of one run that is not a time, by its path."""
    import distens

    given, overrides = RUNS[name]
    if isinstance(given, str):
        config = distens.load_config(CONFIGS / given, [*COMMON, *overrides, f"storage={folder}"])
    else:
        path = Path(folder) / f"{name}.yaml"
        path.write_text(json.dumps(given))  # JSON is YAML too
        config = distens.load_config(path, [*COMMON, *overrides, f"storage={folder}"])
    run = Path(distens.run(config).path)
    found: dict[str, Any] = {"folder": run.name}
    found |= {f"results/{place}": value for place, value in _leaves(json.loads((run / "results.json").read_text()))}
    for file in sorted((run / "members").rglob("*")):
        if file.suffix in (".safetensors", ".arrow"):
            found |= {f"{file.relative_to(run)}/{array}": digest for array, digest in _arrays(file)}
    rows = _rows(config)
    for bundle in sorted(path.parent for path in (run / "final").glob("*/bundle.json")):
        predicted = distens.load(str(bundle)).predict_proba(rows)
        found[f"final/{bundle.name}/predictions"] = _digest(np.asarray(predicted))
    return found


def _rows(config: Any) -> Any:
    from sklearn import datasets

    bunch: Any = getattr(datasets, f"load_{config.data.source.removeprefix('sklearn:')}")(as_frame=True)
    return bunch["images"][:50] if "images" in bunch else bunch["data"].head(50)


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in TIMES:
                yield from _leaves(inner, f"{place}/{key}" if place else str(key))
    elif isinstance(value, list):
        for i, inner in enumerate(value):
            yield from _leaves(inner, f"{place}/{i}")
    else:
        yield place, value


def _arrays(file: Path) -> Iterator[tuple[str, str]]:
    if file.suffix == ".safetensors":
        from safetensors.numpy import load_file

        for name, array in sorted(load_file(file).items()):
            if name != "skops":  # an archive with addresses in memory; predictions are compared instead
                yield name, _digest(array)
        return
    import pyarrow as pa

    with pa.memory_map(str(file)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
        yield "column", _digest(batch.column(0).flatten().to_numpy())


def _digest(array: np.ndarray[Any, Any]) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def main() -> None:
    """Carry out the runs, then write or compare their numbers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--compare", type=Path)
    parser.add_argument("--only", nargs="*", default=list(RUNS), choices=list(RUNS))
    given = parser.parse_args()
    before = json.loads(given.compare.read_text()) if given.compare else {}
    found: dict[str, Any] = {}
    differing = 0
    for name in given.only:
        with tempfile.TemporaryDirectory() as folder:
            found[name] = numbers(name, folder)
        if given.compare:
            then, now = before[name], found[name]
            apart = [place for place in then if then[place] != now.get(place, "absent")]
            differing += len(apart)
            print(f"{name}: {len(apart)} of {len(then)} differ, {len(now.keys() - then)} are new")
            for place in apart[:10]:
                print(f"  {place}: {then.get(place, 'absent')!r} -> {now.get(place, 'absent')!r}")
        else:
            print(f"{name}: {len(found[name])} numbers")
        if given.out:
            given.out.write_text(json.dumps(found, indent=0, sort_keys=True))
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
