"""A run that is resumed on data that are not those of its members: they changed, or only their reading did."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import small_run

import distens
from distens.errors import DataError, RunError


def table(gaps=1):
    rng, rows = np.random.default_rng(0), 120
    days = pd.to_datetime("2024-01-01") + pd.to_timedelta(rng.integers(0, 30, rows), unit="D")
    sizes = np.char.mod("%.2f", rng.normal(size=rows)).astype(object)
    sizes[3 : 3 + gaps] = ["?", "x", "y", "z", "u"][:gaps]
    return pd.DataFrame(
        {
            "day": days.strftime("%Y-%m-%d"),
            "size": sizes,
            "hue": rng.choice(["red", "blue"], rows),
            "kind": rng.choice(["a", "b"], rows),
        }
    )


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Return a function that leaves a run as a version would that reads some columns as categories.

    What that version wrote besides is left out of `run.json`, as the first versions had it.
    """
    monkeypatch.chdir(tmp_path)

    def made(categorical, gaps=1):
        table(gaps).to_csv("table.csv", index=False)
        members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
        data = {"source": "table.csv", "target": "kind", "categorical": categorical}
        given = {"members": members, "search": {"kind": "random", "members": 2}, "distill": None, "baselines": []}
        run = Path(distens.run(small_run.config(tmp_path / "runs", data=data, **given)).path)
        (run / "results.json").unlink()
        config, info = (run / "config.yaml").read_text(), json.loads((run / "run.json").read_text())
        for name in categorical:
            assert f"\n  - {name}\n" in config
            config = config.replace(f"\n  - {name}\n", "\n", 1)
        (run / "config.yaml").write_text(config.replace("categorical:\n", "categorical: []\n"))
        info["identity"]["data"]["categorical"] = []
        del info["columns"]
        (run / "run.json").write_text(json.dumps(info))
        return run

    return made


def message(run):
    with pytest.raises(RunError) as caught:
        distens.resume(str(run))
    return str(caught.value)


def test_the_same_data_that_are_read_otherwise(begin):
    said = message(begin(["day", "size"]))
    assert said.startswith(
        "data.source: the data are those that the run started with, but this version of distens reads"
    )
    assert "'day' (a category then, a date now); 'size' (a category then, a number now). Start a new run" in said
    assert said.endswith(f"or resume with the version that started this one (distens '{distens.__version__}')")


def test_the_same_data_that_are_no_longer_read(begin):
    """Four such texts among more than 64 numbers: the first versions took all of them for categories."""
    said = message(begin(["size"], gaps=5))
    assert said.startswith(
        "data.source: the data are those that the run started with, but this version of distens does"
    )
    assert "does not read them so: column 'size': numbers in 115 rows, and other texts in 4" in said


def test_other_data_that_are_no_longer_read(begin):
    run = begin(["size"])
    table(5)[1:].to_csv("table.csv", index=False)
    with pytest.raises(DataError, match=r"column .size.: numbers in 114 rows"):
        distens.resume(str(run))


def test_other_data_that_may_be_read_otherwise_too(begin):
    run = begin(["day"])
    table()[1:].to_csv("table.csv", index=False)
    said = message(run)
    assert (
        "the data changed since the run started, or this version of distens reads columns otherwise: 'day' (a" in said
    )
    assert said.endswith(
        f"if the data are the same, resume with the version that started this one (distens '{distens.__version__}')"
    )


@pytest.mark.parametrize("damaged", ["preprocessing.json", "splits.safetensors"])
def test_a_run_that_cannot_say_how_it_read_its_data(damaged, begin):
    run = begin(["day"])
    (run / damaged).write_bytes(b"{}")
    assert "the data changed since the run started, or this version" in message(run)


def test_an_old_run_on_other_data_of_the_same_kinds(begin):
    run = begin([])
    table()[1:].to_csv("table.csv", index=False)
    assert (
        "the data changed since the run started, or this version of distens reads it otherwise (fingerprint"
        in message(run)
    )


def test_other_data(begin):
    run = begin([])
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, "columns": []}))
    assert distens.resume(str(run)).weights
    table()[1:].to_csv("table.csv", index=False)
    assert "the data changed since the run started (fingerprint" in message(run)
