"""Files are whole or absent, damage is noticed, names stay inside the folder, and the journal survives anything."""

import json
import os
import resource
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distens.errors import StorageError, StorageFailed
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.tasks import task_from_json, task_to_json
from distens.lifecycle.work.distil import Distil
from distens.lifecycle.work.train import Train
from distens.records import (
    Address,
    Failure,
    FileAddresses,
    Finished,
    History,
    Report,
    State,
    Task,
    Teacher,
    settings_key,
)
from distens.roles.federated.work.distil_blind import DistilBlind
from distens.roles.federated.work.fill import Fill
from distens.roles.federated.work.train_client import TrainClient
from distens.storage.checkpoint import Checkpoint
from distens.storage.encoding import report_from_json, to_json
from distens.storage.journal import Journal
from distens.storage.store import Store


@pytest.fixture(params=["path", "uri"])
def store(request, tmp_path):
    return Store(str(tmp_path / "run") if request.param == "path" else f"file://{tmp_path}/run")


def test_a_state_comes_back_exactly(store):
    state = State({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([1, 2])}, {"classes": 3})
    address = store.write_state("members/m/1/state.safetensors", state)
    found = store.read_state(address.path, address)
    assert found.meta == {"classes": 3}
    assert all(np.array_equal(found.arrays[k], v) and found.arrays[k].dtype == v.dtype for k, v in state.arrays.items())


def test_what_a_disk_does_not_take_leaves_nothing_there(tmp_path):
    """A limit on the size of files, as full disks need root: the first 1,000 bytes can be written, then no more."""
    store, (soft, hard) = Store(str(tmp_path)), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageFailed, match=r"cannot write members/a: .*too large"):
            store.write("members/a", bytes(5000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list((tmp_path / "members").iterdir()) == []


def test_predictions_come_back_as_float32_read_only(store):
    probs_NC = np.array([[0.25, 0.75], [1.0, 0.0], [0.5, 0.5]])
    found = store.read_predictions(store.write_predictions("p.arrow", probs_NC))
    assert found.dtype == np.float32
    assert np.array_equal(found, probs_NC)
    assert not found.flags.writeable


def test_damage_is_noticed(store, tmp_path):
    address = store.write("a.bin", b"hello")
    (tmp_path / "run" / "a.bin").write_bytes(b"hullo")
    with pytest.raises(StorageError, match=r"a\.bin is damaged"):
        store.read("a.bin", address)
    predictions = store.write_predictions("p.arrow", np.ones((4, 2)))
    (tmp_path / "run" / "p.arrow").write_bytes(b"short")
    with pytest.raises(StorageError, match="damaged: 5 bytes instead of"):
        store.read_predictions(predictions)
    none = store.write_predictions("none.arrow", np.ones((0, 3)))
    assert store.read_predictions(none).shape == (0, 3)
    store.write("s.safetensors", b"\x00" * 40)
    with pytest.raises(StorageError, match="damaged"):
        store.read_state("s.safetensors")


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd"])
def test_names_stay_inside_the_folder(store, name):
    with pytest.raises(StorageError, match="leads out"):
        store.write(name, b"")


def test_an_exclusive_write_never_replaces(store):
    store.write("a", b"1", exclusive=True)
    with pytest.raises(StorageError, match="exists"):
        store.write("a", b"2", exclusive=True)
    assert store.read("a") == b"1"
    assert store.names() == ["a"]  # and leaves nothing beside it


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot write"):
        Store(str(tmp_path / "file")).write("a", b"")
    with pytest.raises(StorageError, match="cannot be opened"):
        Store("nosuchscheme://bucket/x")


def test_records_survive_json():
    address = Address("members/m/1/state.safetensors", "ab" * 32, 3)
    distil = Distil({"kind": "student"}, (Teacher({"family": "a"}, address, 0.5),))
    task = Task("m", "student", {"family": "a", "h": [1]}, 7, work=distil)
    rung = Task("m1-9", "search", {"family": "a"}, 7, work=Train(), member="m1", budget=9, bracket="b0")
    report = Report("m", 2, {"nll": 0.5}, 1.5, 10, 0.1, "node", {"state": address})
    drawn = replace(report, curves={"val_loss": {1: 0.5, 3: 0.25}})
    for one in (task, rung):
        assert task_from_json(json.loads(json.dumps(task_to_json(one)))) == one
    assert "work" not in task_to_json(rung)  # what most tasks do goes without saying
    for one in (report, drawn):
        assert report_from_json(json.loads(json.dumps(to_json(one)))) == one
    assert "curves" not in to_json(report)  # few kinds of members have any
    assert deepcopy([task, report]) == [task, report]  # as they travel


def test_tasks_of_older_versions_are_read():
    """What a task does was not yet a value of its own, and a rung's member was read off its id."""
    old = {"id": "x", "purpose": "x", "settings": {"kind": "client"}, "seed": 1, "distill": None, "teachers": []}
    old |= {"resources": {"cpus": 1.0, "gpus": 0.0}, "attempt": 2}
    teacher = {"settings": {"kind": "k"}, "weight": 0.5, "state": {"path": "p", "sha256": "ab", "size_bytes": 3}}
    read = Teacher({"kind": "k"}, Address("p", "ab", 3), 0.5)
    cases = [
        ({"id": "m3-9", "purpose": "search", "budget": 9, "bracket": "b"}, Train(), "m3", "search"),
        (
            {"id": "student", "purpose": "student", "distill": {"kind": "student"}, "teachers": [teacher]},
            Distil({"kind": "student"}, (read,)),
            "student",
            "student",
        ),
        ({"id": "c1", "purpose": "client", "client": "c1"}, TrainClient("c1"), "c1", "client"),
        ({"id": "global", "purpose": "global"}, Fill(), "global", "global"),
        (
            {"id": "dense", "purpose": "dense", "distill": {"kind": "dense"}, "teachers": [teacher]},
            DistilBlind({"kind": "dense"}, (read,)),
            "dense",
            "baseline",
        ),
    ]
    for values, work, member, purpose in cases:
        task = task_from_json({**old, **values})
        assert (task.work, task.member, task.purpose, task.attempt) == (work, member, purpose, 2)


def test_files_are_their_addresses():
    """Kept as one folder, shared names and 40 bytes a file; equal to the mapping that they were made of."""
    plain = {
        "search": Address("members/m/1/search.arrow", "0f" * 32, 2**40),
        "state": Address("members/m/1/state.safetensors", "a0" * 32, 0),
    }
    files = FileAddresses(plain)
    assert files == plain
    assert list(files) == ["search", "state"]
    assert dict(deepcopy(files)) == plain
    with pytest.raises(KeyError, match="test"):
        files["test"]
    assert FileAddresses({}) == {}


def make_report(task_id, attempt=1, nll=0.5):
    return Report(task_id, attempt, {"nll": nll}, 1.0, 10, 0.1, "node", {})


def test_the_ledger_answers_the_same_after_a_restart(store):
    ledger = Ledger(store)
    ledger.ask([Task(name, "search", {"family": "a"}, 1, work=Train()) for name in ("m0", "m1")])
    ledger.ask([Task(name, "search", {"family": "b"}, 1, work=Train()) for name in ("m2", "m3")])
    ledger.tell([make_report("m1"), Failure("m0", 1, "crashed", "killed", 1.0, "n", final=False)])
    ledger.tell([make_report("m0", 2)])
    assert ledger.tell([make_report("m0", 1)]) == []  # a late double
    ledger.tell([Failure("m3", 1, "diverged", "nan", 1.0, "n")])
    assert len(store.names("journal")) == 5  # one for what is asked at once, and one for every list of outcomes

    again = Ledger(store)
    for one in (ledger, again):
        history = one.history("search", "nll", np.zeros(0, dtype=int), lambda _: np.zeros((0, 0)))
        assert [entry.task.id for entry in history.finished] == ["m1", "m0"]  # in order of arrival
        assert [entry.task.id for entry in history.failed] == ["m3"]
        assert [task.id for task in history.pending] == ["m2"]
        assert one.count("search") == 4
        assert one.done("m3")
        assert not one.done("m2")
        assert [(t.id, isinstance(o, Finished)) for t, o in one.outcomes()] == [
            ("m1", True),
            ("m0", False),
            ("m0", True),
            ("m3", False),
        ]
    assert again.ask([again.task("m2")])[0].attempt == 2  # what was pending gets the next attempt number


def test_two_drivers_cannot_write_one_journal(store):
    one, two = Journal(store), Journal(store)
    one.append({"a": 1})
    with pytest.raises(StorageError, match="another process is running this run"):
        two.append({"b": 2})
    assert list(Journal(store).entries()) == [{"a": 1}]


def test_a_checkpoint_is_kept_replaced_and_cleared(store, tmp_path):
    checkpoint = Checkpoint(store, "m0")
    assert checkpoint.load() is None
    checkpoint.save(State({"w": np.ones(2)}, {"epoch": 1}))
    checkpoint.save(State({"w": np.zeros(2)}, {"epoch": 2}))
    loaded = Checkpoint(store, "m0").load()
    assert loaded is not None
    assert loaded.meta == {"epoch": 2}
    (tmp_path / "run" / "members" / "m0" / "checkpoint.safetensors").write_bytes(b"torn")
    assert checkpoint.load() is None  # a damaged one is no checkpoint: the member starts afresh
    checkpoint.clear()
    assert store.names("members/m0") == []


def ask_and_tell(ledger, names, nll=0.5):
    ledger.ask([Task(name, "search", {"family": "a", "name": name}, 1, work=Train()) for name in names])
    ledger.tell([make_report(name, nll=nll) for name in names])


def history_of(ledger):
    return ledger.history("search", "nll", np.zeros(0, dtype=int), lambda _: np.zeros((0, 0)))


def test_a_history_stays_what_it_was(store):
    """Histories share the ledger's lists, which grow; each ends where they ended when it was made."""
    ledger = Ledger(store)
    ask_and_tell(ledger, ["m0", "m1"])
    before = history_of(ledger)
    ask_and_tell(ledger, ["m2", "m3"], nll=0.25)
    ledger.ask([Task("m4", "search", {"family": "a", "name": "m4"}, 1, work=Train())])
    after = history_of(ledger)
    assert [e.task.id for e in before.finished] == ["m0", "m1"]
    assert (len(before.finished), before.finished[-1].task.id, len(before.finished[1:])) == (2, "m1", 1)
    with pytest.raises(IndexError):
        before.finished[2]
    assert before.values().tolist() == [0.5, 0.5]
    assert after.values().tolist() == [0.5, 0.5, 0.25, 0.25]
    keys = [settings_key({"family": "a", "name": f"m{i}"}) for i in range(5)]
    assert [key in before.known() for key in keys] == [True, True, False, False, False]
    assert set(after.known()) == set(keys)
    assert before.known() | {"x"} == {*keys[:2], "x"}
    by_hand = History(tuple(after.finished), (), tuple(after.pending))
    assert by_hand.known() == after.known()


def test_what_is_about_to_be_pending_is_known(store):
    ledger = Ledger(store)
    ask_and_tell(ledger, ["m0"])
    more = Task("m1", "search", {"family": "b"}, 1, work=Train())
    history = ledger.history("search", "nll", np.zeros(0, dtype=int), lambda _: np.zeros((0, 0)), [more])
    assert history.pending == (more,)
    assert settings_key(more.settings) in history.known()
    assert settings_key(more.settings) not in history_of(ledger).known()
    assert len(history.known()) == 2


def test_what_was_lost_is_pending_again(store):
    ledger = Ledger(store)
    ask_and_tell(ledger, ["m0", "m1"])
    ledger.lose([ledger.finished("search")[0]])
    for one in (ledger, Ledger(store)):
        assert [e.task.id for e in one.finished("search")] == ["m1"]
        assert [(t.id, t.attempt) for t in one.pending("search")] == [("m0", 2)]
        assert (one.done("m0"), one.count("search"), one.running()) == (False, 2, 1)


def test_small_predictions_are_read_and_large_ones_are_mapped(tmp_path):
    """So that thousands of members cost neither file descriptors nor, but for large files, mappings."""
    store = Store(str(tmp_path))
    small = [store.read_predictions(store.write_predictions(f"s{i}.arrow", np.ones((4, 2)))) for i in range(50)]
    large = [store.read_predictions(store.write_predictions(f"l{i}.arrow", np.ones((4000, 2)))) for i in range(50)]
    maps = Path("/proc/self/maps").read_text()
    assert maps.count(f"{tmp_path}/l") == 50
    assert f"{tmp_path}/s" not in maps
    links = [
        os.readlink(f"/proc/self/fd/{n}")
        for n in os.listdir("/proc/self/fd")
        if n.isdigit() and int(n) > 2 and os.path.exists(f"/proc/self/fd/{n}")
    ]
    assert not [link for link in links if link.startswith(str(tmp_path))]
    assert all(not p.flags.writeable for p in (*small, *large))
