"""A run of a table says how it read each column: in its log, in run.json, on its page; and its bundle reads alike."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from small_run import config
from typer.testing import CliRunner

import distens
from distens.cli.main import app

ROWS = 120


def messy():
    rng = np.random.default_rng(0)
    size = [f"{value:.3f}".replace(".", ",") for value in rng.normal(size=ROWS)]
    size[7] = "?"
    days = pd.date_range("2023-01-01", periods=ROWS, freq="D").strftime("%d.%m.%Y")
    return pd.DataFrame(
        {
            "größe": size,
            "tag": days,
            "farbe": rng.choice(["NA", "blau", "rot"], ROWS),
            "kunde": [f"K-{i:05}" for i in range(ROWS)],
            "klasse": np.where(np.arange(ROWS) > 60, "None", "da"),
        }
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    (folder / "t.csv").write_bytes(("sep=;\r\n" + messy().to_csv(index=False, sep=";")).encode("cp1252"))
    data = {"source": str(folder / "t.csv"), "target": "klasse", "csv": {"encoding": "cp1252"}}
    members = {
        "knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"},
        "lda": {"kind": "estimator", "estimator": "lda"},
    }
    asked = config(
        folder / "runs", data=data, members=members, search={"kind": "random", "members": 3}, distill=None, baselines=[]
    )
    lines = []
    result = distens.run(asked, watch=lambda update: lines.append(update.text))
    return folder, result, lines


def test_log_run_and_page_say_what_was_read(run):
    _, result, lines = run
    info = json.loads((Path(result.path) / "run.json").read_text())
    said = {column["column"]: column for column in info["columns"]}
    kinds = {name: (one["treated as"], one["missing"], one["distinct"]) for name, one in said.items()}
    assert {name: kind[:2] for name, kind in kinds.items()} == {
        "größe": ("number", 1),
        "tag": ("date", 0),
        "farbe": ("category", 0),
        "kunde": ("left out", 0),
    }
    assert said["größe"]["markers"] == {"?": 1} and kinds["kunde"][2] == ROWS
    page = (Path(result.path) / "report.html").read_text()
    for words in ("column größe: number", "column kunde: left out", "column tag: date", "column farbe: category"):
        assert any(words in line for line in lines), lines
        name, _, role = words.partition(": ")
        assert name in page and role in page
    assert any("in 1 rows (the first is row 7, from 0) read as missing" in line for line in lines)


@pytest.mark.parametrize(
    ("form", "name"), [("csv", "größe"), ("csv", "in cp1252"), ("parquet", "größe")], ids=["utf-8", "cp1252", "parquet"]
)
def test_new_rows_are_read_alike(run, form, name):
    """Later days, a new customer, a new colour, a marker: predicted; and as the same rows are as plain numbers."""
    folder, result, _ = run
    new = pd.DataFrame(
        {"größe": ["0,5", "?", "1,25"], "tag": "31.12.2030", "farbe": ["rot", "NA", "neu"], "kunde": "K-9"}
    )
    path = folder / f"new.{form}"
    if form == "parquet":
        new.to_parquet(path)
    else:
        path.write_bytes(new.to_csv(index=False, sep=";").encode("cp1252" if "cp" in name else "utf-8"))
    done = CliRunner().invoke(app, ["predict", result.path, str(path), "--out", str(folder / "out.csv")])
    assert done.exit_code == 0, (done.output, done.exception)
    found = pd.read_csv(folder / "out.csv", keep_default_na=False)
    plain = new.assign(größe=[0.5, None, 1.25], tag=pd.Timestamp("2030-12-31")).drop(columns="kunde")
    expected_NC = distens.load(result.path).predict_proba(plain)
    np.testing.assert_allclose(found[["None", "da"]].to_numpy(), expected_NC, rtol=0, atol=1e-12)
    assert found["prediction"].tolist() == ["None"] * 3


def test_a_new_text_among_numbers_is_refused_in_one_line(run):
    folder, result, _ = run
    (folder / "bad.csv").write_text("größe;tag;farbe\n1,5;01.01.2031;rot\nriesig;01.01.2031;rot\n")
    done = CliRunner().invoke(app, ["predict", result.path, str(folder / "bad.csv")])
    assert done.exit_code != 0
    assert "column 'größe', row 1 (from 0): expected a finite number, found 'riesig'" in str(done.exception)
