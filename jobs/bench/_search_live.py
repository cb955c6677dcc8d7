"""Searches at work, at equal CPU seconds: distens with several searches, and AutoGluon.

Every contender is a process of its own with one thread, whose clock shows CPU seconds (`_search_clock`), so that other
load on the machine takes no time from it. All have the same rows: distens trains on *train*, selects on *search* and
calibrates on *combine*; AutoGluon gets these three together, as it validates by itself. All are measured on the same
test rows.

    python jobs/bench/_search_live.py CONFIG     one run of distens that prints its result; the bench starts it
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _search_clock import count_cpu_seconds, spent

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
COMBINE = 0.05
AUTOGLUON = "autogluon"


@dataclass(frozen=True)
class Live:
    """One table and repetition.

    Attributes:
        path: the table.
        repetition: with the table's name, the seed of splits and searches.
        seconds: CPU seconds of each search.
        metric: the metric to minimise.
        folder: the folder of the results, and of the runs until they end.
    """

    path: Path
    repetition: int
    seconds: float
    metric: str
    folder: Path

    def file(self, method: str) -> Path:
        """Return the file of a method's result."""
        return self.folder / self.path.stem / f"{method}-{self.repetition}.json"

    def config(self, sections: Mapping[str, Any]) -> Any:
        """Return the config of a run; a method is a config's sections, e.g. `{"search": "divbo", "folds": 5}`."""
        from _search_tables import run_config, shares

        from distens.config.config import parse_config
        from distens.registry import split_spec
        from distens.seeding import derive

        seed, storage = derive(0, self.path.stem, "live", self.repetition), self.folder / "runs"
        config = run_config(self.path, seed, storage, {"kind": "random"}, {"kind": "inline"})
        values = config.model_dump(mode="json")
        parts = shares(_rows(self.path))
        values["data"]["splits"] = {**parts, "combine": COMBINE, "test": 1 - parts["train"] - parts["search"] - COMBINE}
        own = {"metric": self.metric, "select": "greedy", "calibrate": "temperature", **sections}
        values["data"]["folds"] = own.pop("folds", None)
        values |= own
        kind, options = split_spec(values["search"], "search")
        values["search"] = {"kind": kind, **options, "seconds": self.seconds}
        return parse_config(values)

    def distens(self, method: str, sections: Mapping[str, Any]) -> dict[str, Any]:
        """Return the result of one search, which is run now if there is none."""
        file = self.file(method)
        if not file.exists():
            given = file.with_suffix(".config.json")
            given.parent.mkdir(parents=True, exist_ok=True)
            given.write_text(self.config(sections).model_dump_json())
            found = started([sys.executable, __file__, str(given)])
            file.write_text(json.dumps({**found, "method": method, "spec": dict(sections), "asked": self.seconds}))
            given.unlink()
        return json.loads(file.read_text())

    def autogluon(self, python: str, seconds: float, preset: str = "best_quality") -> dict[str, Any]:
        """Return AutoGluon's result, which is made now if there is none.

        Args:
            python: an interpreter that has AutoGluon.
            seconds: the CPU seconds of its fit.
        """
        file, folder = self.file(AUTOGLUON), self.folder / "autogluon"
        if not file.exists():
            shutil.rmtree(folder, ignore_errors=True)
            self._write_rows(folder)
            script = Path(__file__).with_name("_search_autogluon.py")
            found = started([python, str(script), str(folder), str(seconds), preset, self.metric])
            shutil.rmtree(folder)
            file.write_text(json.dumps({**found, "method": AUTOGLUON, "spec": preset, "asked": seconds}))
        return json.loads(file.read_text())

    def _write_rows(self, folder: Path) -> None:
        import numpy as np
        import pandas as pd

        from distens.data.load import load_data

        config = self.config({})
        rows = load_data(config.data, config.seed).split_rows
        table = pd.read_parquet(self.path)
        table["target"] = table["target"].astype(str)
        folder.mkdir(parents=True)
        for name, parts in (("train", ("train", "search", "combine")), ("test", ("test",))):
            numbers = np.concatenate([rows[part] for part in parts])
            table.iloc[numbers].reset_index(drop=True).to_parquet(folder / f"{name}.parquet")


def started(command: Sequence[str]) -> dict[str, Any]:
    """Return the result that a command prints, which has one thread."""
    environment = {**os.environ, **dict.fromkeys(THREADS, "1")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    result = next((line for line in done.stdout.splitlines() if line.startswith("RESULT ")), None)
    if result is None:
        raise SystemExit(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr[-3000:]}")
    return json.loads(result.removeprefix("RESULT "))


def _rows(path: Path) -> int:
    import pyarrow.parquet as pq

    return pq.read_metadata(path).num_rows


def main(given: Path) -> None:
    """Carry out one run and print its result."""
    import distens
    from distens.config.config import parse_config

    config = parse_config(json.loads(given.read_text()))
    count_cpu_seconds()
    before = spent()
    result = distens.run(config, overwrite=True)
    cpu_seconds = spent() - before
    rows = {name: {"error": 1.0 - row["accuracy"], "nll": row["nll"]} for name, row in result.rows.items()}
    members = len(list(Path(result.path, "members").iterdir()))
    shutil.rmtree(result.path)
    found = {**rows["ensemble"], "rows": rows, "cpu_seconds": cpu_seconds, "members": members, "details": ""}
    print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
