"""Clients that send anything: each is refused by name, the others are merged, and nobody weighs more than its rows."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_federation import WITH_ROWS, config

import distens
from distens import registry
from distens.errors import DataError, RunError
from distens.merge.protocol import ClientUpdate
from distens.roles.federated.clients import RemoteClients
from distens.roles.federated.validation import KnownClient, find_fault, find_giants, find_report_fault
from distens.storage.journal import Journal
from distens.storage.store import Store

TAMPERING = "plugins.runtime.tampering:Tampering"
ALL = {"per_round": None, "clients": 6, "rounds": 2}

START_P = np.zeros(4, np.float32)
HONEST = ClientUpdate("r0000-a", 1, "a", np.ones(4, np.float32), 40, 3, 0.15, (30, 10), 0.7, 0.1, "host")
MEMBER = registry.build_member({"family": "c", "kind": "client", "batch_size": 16})
KNOWN = KnownClient(40, [30, 10])


def fault(known=KNOWN, **changes):
    return find_fault(replace(HONEST, **changes), "a", known, START_P, 2, MEMBER, 0)


def test_an_honest_update_has_no_fault():
    assert fault() == "" and fault(KnownClient()) == ""
    assert fault(loss=None) == ""
    numpy_counts = {"rows": np.int64(40), "steps": np.int32(3), "histogram_C": (np.int64(30), np.int64(10))}
    assert fault(**numpy_counts, loss=np.float32(0.7), rate_sum=np.float64(0.15)) == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"client": "b"}, "it answers for client 'b'"),
        ({"client": None}, "it answers for client 'None'"),
        *(({"rows": value}, "rows: ") for value in (0, -5, 10**12, 41, 40.0, True, "40", None, float("nan"), [40])),
        ({"histogram_C": (30, 11)}, "histogram: its counts sum to 41, and it has 40 rows"),
        ({"histogram_C": (50, -10)}, "histogram: expected whole numbers of at least 0"),
        ({"histogram_C": (10, 30)}, "histogram: its counts are not those of its rows"),
        *(({"histogram_C": value}, "histogram: ") for value in ((40,), (30, 10, 0), None, 40, "ab", (30.0, 10.0))),
        *(({"steps": value}, "steps: ") for value in (0, -1, 10**12, 3.0, None, True, "3")),
        *(({"rate_sum": value}, "rate_sum: ") for value in (0, -1.0, float("nan"), float("inf"), 1e-30, 1e30, None)),
        *(({"loss": value}, "loss: ") for value in (float("nan"), float("inf"), -float("inf"), "low", [0.7], True)),
        *(({"seconds": value}, "seconds: ") for value in (float("nan"), -1.0, "1", None)),
        ({"weights_P": [1.0] * 4}, "weights: expected an array"),
        ({"weights_P": None}, "weights: expected an array"),
        ({"weights_P": np.ones(3, np.float32)}, "float32 of shape (3,) instead of float32 of shape (4,)"),
        ({"weights_P": np.ones((4, 1), np.float32)}, "of shape (4, 1)"),
        ({"weights_P": np.ones(4)}, "float64 of shape (4,) instead of float32"),
        ({"weights_P": np.array(["x"] * 4, object)}, "object of shape (4,)"),
    ],
)
def test_every_field_of_an_update_is_checked(changes, words):
    assert words in fault(**changes)


def test_rows_are_those_that_a_client_had_before():
    assert fault(KnownClient(), rows=400, histogram_C=(390, 10), steps=25, rate_sum=1.25) == ""
    assert "it claims 40, and it has 39" in fault(KnownClient(39))


def test_a_kind_of_ones_own_may_count_its_steps_in_its_way():
    assert fault(steps=30, rate_sum=1.5) == ""
    assert find_fault(replace(HONEST, steps=10**6), "a", KNOWN, START_P, 2, object(), 0) == ""


def test_among_clients_of_which_nothing_is_known_none_is_a_giant():
    assert find_giants({"a": 50, "b": 60, "c": 70_000}) == {}
    assert list(find_giants({"a": 50, "b": 60, "c": 10**12})) == ["c"]
    assert find_giants({"a": 50, "b": 10**12}) == {}  # of two, nobody can say which


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rows": 1e12}, "rows: it claims 1,000,000,000,000, and it has 40"),
        ({"rows": 40.5}, "rows: expected a whole number"),
        ({"rows_1": -10.0}, "histogram: "),
        ({"rows_1": float("nan")}, "rows_1: expected a whole number"),
        ({"rows_1": None}, "its report has no 'rows_1'"),
        ({"steps": 0.0}, "steps: "),
        ({"steps": None}, "its report has no 'steps'"),
        ({"train_loss": float("inf")}, "loss: "),
    ],
)
def test_every_count_of_a_report_is_checked(changes, words):
    honest = {"rows": 40.0, "rows_0": 30.0, "rows_1": 10.0, "steps": 3.0, "train_loss": 0.7}
    assert find_report_fault(honest, KNOWN, 2) == find_report_fault(honest, KnownClient(), 2) == ""
    changed = {key: value for key, value in {**honest, **changes}.items() if value is not None}
    assert words in find_report_fault(changed, KNOWN, 2)


# Whole runs ----------------------------------------------------------------------------------------------------------


def logs_of(path):
    entries = Journal(Store(str(path)), "rounds").entries()
    return [entry for entry in entries if "round" in entry]


@pytest.mark.parametrize("merge", ["fedavg", "scaffold", "feddyn"])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("loss", "nan"),
        ("rows", "huge"),
        ("client", '"c1"'),
        ("histogram_C", json.dumps([1] * 10)),
        ("steps", "-1"),
        ("rate_sum", "inf"),
    ],
)
def test_a_run_goes_on_without_the_client(merge, field, value, tmp_path):
    runtime = {"kind": TAMPERING, "field": field, "value": value}
    found = distens.run(config(tmp_path, federated=ALL, merge=merge, runtime=runtime))
    for log in logs_of(found.path):
        assert list(log["refused"]) == ["c3"] and sorted(log["shares"]) == ["c0", "c1", "c2", "c4", "c5"]
        assert np.isfinite(log["loss"])
    assert any("2 of 2 rounds were merged without a client that was drawn: c3." in line for line in found.verdict)


def test_a_loss_that_was_not_measured_is_left_out(tmp_path):
    found = distens.run(config(tmp_path, federated=ALL, runtime={"kind": TAMPERING, "value": "none"}))
    assert all(len(log["shares"]) == 6 and np.isfinite(log["loss"]) for log in logs_of(found.path))


@pytest.mark.parametrize(
    ("field", "value"), [("rows", "huge"), ("rows_3", '"missing"'), ("rows_0", "-1.0"), ("steps", "0.0")]
)
def test_one_shot_goes_on_without_the_client(field, value, tmp_path):
    runtime = {"kind": TAMPERING, "field": field, "value": value}
    found = distens.run(config(tmp_path, federated={"clients": 6, "rounds": 1, "per_round": None}, runtime=runtime))
    assert found.missing["c3"].startswith("refused: ") and {"global", "ensemble"} <= set(found.rows)
    assert "c3" not in json.loads(Path(found.path, "results.json").read_text())["weights"]


def test_below_the_quorum_one_shot_names_the_refused(tmp_path):
    runtime = {"kind": TAMPERING, "field": "rows", "value": "huge"}
    federated = {"clients": 6, "rounds": 1, "per_round": None, "quorum": 1.0}
    with pytest.raises(RunError, match=r"5 of 6 clients finished, and the quorum .* is 6: c3: rows: it claims"):
        distens.run(config(tmp_path, federated=federated, runtime=runtime))


# Clients with rows of their own --------------------------------------------------------------------------------------


def sites(folder, rows):
    rng = np.random.default_rng(5)
    for name, count in {"server": 200, **rows}.items():
        x = rng.normal(size=(count, 8)).astype(np.float32)
        np.savez(folder / f"{name}.npz", x=x, y=(x.sum(axis=1) > 0).astype(int))
    return {name: str(folder / f"{name}.npz") for name in rows}


def with_sources(folder, rows, **changes):
    federated = {"clients": None, "partition": None, "per_round": None, "sources": sites(folder, rows)}
    data = {"source": str(folder / "server.npz"), "splits": {"train": 0.3, "search": 0.2, "combine": 0.2, "test": 0.3}}
    changes = {"federated": {**federated, "rounds": 3}, "data": data, **changes}
    changes["federated"] = {**federated, **changes["federated"]}
    return config(folder / "runs", **changes)


def test_more_rows_than_at_the_start_are_refused(tmp_path):
    """The first round's numbers are noted with the round, so that they hold after a resume, too."""
    made = with_sources(tmp_path, {"a": 40, "b": 60, "c": 50})
    found = distens.run(made)
    logs = logs_of(found.path)
    assert logs[0]["rows"] == {"a": 40, "b": 60, "c": 50}
    last = Path(found.path, "rounds-weights", "0002.safetensors")
    last.write_bytes(b"")  # the last round is to be done again
    Path(found.path, "results.json").unlink()
    sites(tmp_path, {"a": 40, "b": 600, "c": 50})
    again = distens.resume(found.path)
    log = logs_of(again.path)[-1]
    assert log["refused"] == {"b": "rows: it claims 600, and it has 60"}
    assert sorted(log["shares"]) == ["a", "c"]


def test_a_first_claim_beyond_all_others_is_refused(tmp_path):
    runtime = {"kind": TAMPERING, "client": "b", "field": "rows", "value": "huge"}
    found = distens.run(with_sources(tmp_path, {"a": 40, "b": 60, "c": 50}, runtime=runtime))
    assert all(list(log["refused"]) == ["b"] for log in logs_of(found.path))


EMPTY = {
    "array": lambda path: np.savez(path, x=np.zeros((0, 8), np.float32), y=np.zeros(0, int)),
    "no columns": lambda path: np.savez(path, x=np.zeros((0,), np.float32), y=np.zeros(0, int)),
}


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("make", EMPTY)
def test_an_empty_client_is_named_as_such(make, rounds, tmp_path):
    made = with_sources(tmp_path, {"a": 40, "b": 60, "c": 50}, federated={"rounds": rounds})
    EMPTY[make](tmp_path / "b.npz")
    found = distens.run(made)
    text = found.missing["b"] if rounds == 1 else logs_of(found.path)[0]["failed"]["b"]
    assert f"federated.sources.b ({tmp_path / 'b.npz'}): the client has no rows" in text


def test_an_empty_table_is_named_as_such(tmp_path):
    (tmp_path / "a.csv").write_text("x,y\n")
    from distens.config.sections import DataSection

    section = DataSection(source=str(tmp_path / "a.csv"), target="y")
    with pytest.raises(DataError, match=r"federated.sources.a \(.*a.csv\): the client has no rows"):
        RemoteClients({"a": section}, {}, ("0", "1")).examples("a", None)


def test_a_client_that_is_not_there_is_named(tmp_path):
    made = with_sources(tmp_path, {"a": 40, "b": 60, "c": 50})
    (tmp_path / "b.npz").unlink()
    text = logs_of(distens.run(made).path)[0]["failed"]["b"]
    assert "federated.sources.b (" in text and "no such file" in text


@pytest.mark.parametrize("rounds", [1, 2])
def test_a_model_of_one_client_alone_is_called_that(rounds, tmp_path):
    made = with_sources(tmp_path, {"a": 40, "b": 60}, federated={"rounds": rounds})
    (tmp_path / "b.npz").unlink()
    verdict = distens.run(made).verdict
    assert any("One client alone, a, made" in line and "nothing was federated" in line for line in verdict)


def test_a_model_of_several_clients_is_not(tmp_path):
    assert not any("alone" in line for line in distens.run(config(tmp_path, data=WITH_ROWS)).verdict)
