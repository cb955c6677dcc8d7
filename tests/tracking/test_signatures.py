"""Registered models take columns of any type that a run takes: as DataFrames, as JSON and as CSV."""

import io
import json
import shutil
import sys
import urllib.request
from decimal import Decimal

import mlflow.pyfunc
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from _services import Process, free_port
from mlflow.models import validate_schema
from mlflow.pyfunc.scoring_server import parse_csv_input
from mlflow.types.schema import DataType
from tracked import run_info

from distens import registry
from distens.config.sections import DataSection
from distens.data.dataset import Examples
from distens.data.preprocessing import Preprocessing
from distens.records import State
from distens.serve import bundle, predictor
from distens.storage.store import Store
from distens.targets.classes import Classes
from distens.tracking import _mlflow, _registration
from distens.tracking.mlflow_runs import MlflowRuns
from distens.tracking.protocol import FinalInfo
from distens.training.context import Context

COUNT = 40


def with_gaps(values, kind):
    """A column of some type as Parquet gives it, with a gap in its third row."""
    return pa.array([None if i == 2 else value for i, value in enumerate(values)], kind)


WHOLE = [i % 7 for i in range(COUNT)]
COLUMNS = {
    "boolean": with_gaps([i % 2 == 0 for i in range(COUNT)], pa.bool_()),
    "whole": with_gaps(WHOLE, pa.int64()),
    "small": with_gaps(WHOLE, pa.uint8()),
    "fraction": with_gaps([i / 8 for i in range(COUNT)], pa.float64()),
    "single": with_gaps([i / 8 for i in range(COUNT)], pa.float32()),
    "decimal": with_gaps([Decimal(i) / 8 for i in range(COUNT)], pa.decimal128(8, 3)),
    "text": with_gaps([f"t{i % 3}" for i in range(COUNT)], pa.string()),
    "dictionary": with_gaps([f"d{i % 3}" for i in range(COUNT)], pa.string()).dictionary_encode(),
    "codes": with_gaps(WHOLE, pa.int32()).dictionary_encode(),
    "rare": pa.array([None] * (COUNT - 8) + WHOLE[-8:], pa.int64()),
}

NULLABLE = {
    pa.bool_(): pd.BooleanDtype(),
    pa.int64(): pd.Int64Dtype(),
    pa.uint8(): pd.UInt8Dtype(),
    pa.float64(): pd.Float64Dtype(),
    pa.float32(): pd.Float32Dtype(),
    pa.string(): pd.StringDtype(),
}


def read(tmp_path, columns, how):
    pq.write_table(pa.table(columns), tmp_path / "rows.parquet")
    table = pq.read_table(tmp_path / "rows.parquet")
    if how == "nullable":
        return table.to_pandas(types_mapper=NULLABLE.get)
    return table.to_pandas(types_mapper=pd.ArrowDtype if how == "arrow" else None)


def registered(tmp_path, uri, rows, **section):
    """A registered model of one member, as MLflow loads it, and what its bundle predicts for the first rows."""
    labels_N = np.arange(COUNT) % 2
    preprocessing = Preprocessing.fit(rows, np.arange(COUNT), DataSection(source="x", **section))
    settings = {"kind": "estimator", "estimator": "k_nearest_neighbours", "options": {"n_neighbors": 3}}
    member = registry.build_member(settings)
    member.fit(Examples(preprocessing.transform(rows), labels_N, 2), Context(seed=0))
    store = Store(str(tmp_path / "run"))
    bundle.write_bundle(
        store,
        "final/ensemble",
        name="toy",
        target=Classes(("no", "yes")),
        preprocessing=preprocessing.to_json(),
        members=[bundle.BundleMember("m0000", settings, 1.0, store.write_state("state", member.state()))],
        combine="average",
        combine_state=State({"weights": np.ones(1)}),
        temperature=1.0,
        metrics={},
    )
    path = tmp_path / "run/final/ensemble"
    expected_NC = predictor.load(str(path)).predict_proba(rows[:6])
    assert register(uri, tmp_path, rows, expected_NC) == "MLflow: model toy version 1 is champion (the first)"
    return mlflow.pyfunc.load_model(next((tmp_path / "mlruns").rglob("MLmodel")).parent), expected_NC


def register(uri, tmp_path, rows, expected_NC):
    """Tell MLflow of the run's end; return its line on the model."""
    path = tmp_path / "run/final/ensemble"
    final = FinalInfo({}, {}, {}, (), None, {"ensemble": path}, {"ensemble": 0.3}, rows[:6], {"ensemble": expected_NC})
    tracker = MlflowRuns(uri)
    tracker.start(run_info(tmp_path))
    return tracker.finish(final, "finished")[0]


@pytest.mark.parametrize("how", ["plain", "nullable", "arrow"])
def test_every_type_of_parquet_is_registered_and_predicts(tmp_path, mlflow_store, how):
    columns = {name: column for name, column in COLUMNS.items() if how == "plain" or "dict" not in str(column.type)}
    rows = read(tmp_path, columns, how)
    model, expected_NC = registered(tmp_path, mlflow_store[0], rows)
    np.testing.assert_allclose(model.predict(rows[:6]), expected_NC, atol=1e-6)
    np.testing.assert_allclose(model.predict(rows[3:6]), expected_NC[3:], atol=1e-6)  # the rows without gaps
    plain = read(tmp_path, columns, "plain")[:6]
    np.testing.assert_allclose(model.predict(plain), expected_NC, atol=1e-6)
    inputs = model.metadata.get_input_schema().input_dict()
    assert list(inputs) == list(columns)
    assert inputs["fraction"].type == DataType.double
    assert (inputs["text"].type == DataType.string) == (how != "arrow")


@pytest.mark.parametrize("with_gap", [False, True])
def test_csv_with_a_column_of_whole_numbers_is_read_by_the_server(tmp_path, mlflow_store, with_gap):
    """Age has whole numbers in training; the server reads text, of which a gap may be a part."""
    rows = pd.DataFrame(
        {"age": WHOLE, "size": [i / 8 for i in range(COUNT)], "hue": [f"t{i % 3}" for i in range(COUNT)]}
    )
    if with_gap:
        rows.loc[2, "age"] = np.nan
    model, expected_NC = registered(tmp_path, mlflow_store[0], rows)
    for asked in (rows[:6], rows[3:6]):
        read = parse_csv_input(io.StringIO(asked.to_csv(index=False)), model.metadata.get_input_schema())
        np.testing.assert_allclose(model.predict(read), expected_NC[6 - len(asked) :], atol=1e-6)
    whole = rows[3:6].astype({"age": int})
    np.testing.assert_allclose(model.predict(whole), expected_NC[3:], atol=1e-6)
    np.testing.assert_allclose(model.predict(whole.astype({"age": float})), expected_NC[3:], atol=1e-6)


def test_dates_and_other_values_get_a_signature_and_an_example():
    """What MLflow has no type for, or one that differs by precision and gaps, is taken as it is."""
    moment = pd.Timestamp("2026-11-30 12:00")
    rows = pd.DataFrame(
        {
            "moment": [moment, pd.NaT],
            "zoned": [moment.tz_localize("UTC"), pd.NaT],
            "date": [moment.date(), None],
            "time": [moment.time(), None],
            "span": [pd.Timedelta("1h"), pd.NaT],
            "bytes": [b"a", None],
            "mixed": ["a", 1],
            "nothing": [None, None],
            "infinite": [np.inf, 1.0],
        }
    )
    inputs = _mlflow._signature(rows, ["a"]).inputs
    assert inputs.input_names() == list(rows.columns)
    for asked in (rows, rows[:1], rows[1:]):
        validate_schema(asked, inputs)
    plain = json.loads(json.dumps(_registration.plain_values(rows).drop(columns="infinite").to_dict(orient="list")))
    assert plain["date"] == ["2026-11-30", None] and plain["moment"] == ["2026-11-30 12:00:00", None]


def test_a_category_of_codes_and_booleans_are_the_same_in_csv(tmp_path, mlflow_store):
    rows = read(tmp_path, {name: COLUMNS[name] for name in ("boolean", "whole", "codes", "dictionary")}, "plain")
    model, expected_NC = registered(tmp_path, mlflow_store[0], rows, categorical=["whole"])
    text = read(tmp_path, {name: COLUMNS[name] for name in ("boolean", "codes", "dictionary")}, "nullable")
    text.insert(1, "whole", rows["whole"].astype("Int64"))
    asked = parse_csv_input(io.StringIO(text[:6].to_csv(index=False)), model.metadata.get_input_schema())
    np.testing.assert_allclose(model.predict(asked), expected_NC, atol=1e-6)


def test_a_real_server_scores_csv_and_json(tmp_path, mlflow_store):
    rows = pd.DataFrame({"age": WHOLE, "size": [i / 8 for i in range(COUNT)]})
    _, expected_NC = registered(tmp_path, mlflow_store[0], rows)
    folder, port = next((tmp_path / "mlruns").rglob("MLmodel")).parent, free_port()
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(folder), "-p", str(port)]
    command += ["--env-manager", "local", "-h", "127.0.0.1"]

    def ask(content, kind):
        request = urllib.request.Request(f"{address}/invocations", content.encode(), {"Content-Type": kind})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return pd.DataFrame(json.load(answer)["predictions"]).to_numpy()

    with Process(command, lambda: urllib.request.urlopen(f"{address}/ping", timeout=5).close(), tmp_path / "serve.log"):
        np.testing.assert_allclose(ask(rows[:6].to_csv(index=False), "text/csv"), expected_NC, atol=1e-6)
        split = json.dumps({"dataframe_split": rows[:6].to_dict(orient="split")})
        np.testing.assert_allclose(ask(split, "application/json"), expected_NC, atol=1e-6)


def test_a_version_or_a_model_that_was_deleted_is_registered_again(tmp_path, mlflow_store):
    uri, client = mlflow_store
    rows = pd.DataFrame({"age": WHOLE, "size": [i / 8 for i in range(COUNT)]})
    _, expected_NC = registered(tmp_path, uri, rows)
    client.delete_model_version("toy", "1")
    again = register(uri, tmp_path, rows, expected_NC)
    assert again.startswith("MLflow: model toy version ") and again.endswith("is champion (the first)")
    client.delete_registered_model("toy")
    assert register(uri, tmp_path, rows, expected_NC) == "MLflow: model toy version 1 is champion (the first)"
    shutil.rmtree(next((tmp_path / "mlruns").rglob("models")))  # its files are gone: it was checked before
    again = register(uri, tmp_path, rows, expected_NC)
    assert again == "MLflow: model toy version 1 was registered before (champion (the first))"
