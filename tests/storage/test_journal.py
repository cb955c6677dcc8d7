"""The journal knows its own files, misses none, and notices what is not as it was written."""

import json
import os
import shutil

import pytest

from distens.errors import StorageError
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.work.train import Train
from distens.records import Report, Task
from distens.storage import journal as journals
from distens.storage.journal import Journal
from distens.storage.store import Store


@pytest.fixture
def store(tmp_path):
    return Store(str(tmp_path / "run"))


def filled(store, entries=4):
    journal = Journal(store)
    for number in range(entries):
        journal.append({"n": number}, {"text": "ä\n", "value": 0.1 + number, "none": None})
    return store


STRAYS = [
    ".DS_Store",
    "._00000001.json",
    ".nfs000000000012ab340000",
    "Thumbs.db",
    "desktop.ini",
    ".00000001.json.swp",
    "00000001.json~",
    "00000001.json.bak",
    "#00000001.json#",
    "00000001 (1).json",
    "1.json",
    "0000001.json",
    "000000001.json",
    "00000001.json.0a.part",
    "99999999.JSON",
    "lost+found",
]


@pytest.mark.parametrize("stray", STRAYS)
def test_files_of_systems_and_editors_are_not_its_own(stray, store, tmp_path):
    there = list(Journal(filled(store)).entries())
    (tmp_path / "run/journal" / stray).write_bytes(b"\0\1")
    journal = Journal(store)
    assert list(journal.entries()) == there
    journal.append({"n": 9})
    assert list(Journal(store).entries()) == [*there, {"n": 9}]


def test_a_folder_that_a_system_left_is_not_its_own(store, tmp_path):
    (tmp_path / "run/journal/@eaDir/00000000.json").mkdir(parents=True)
    assert list(Journal(store).entries()) == []


@pytest.mark.parametrize(
    ("gone", "words"),
    [((0,), "entry 0 is missing"), ((2,), "entry 2 is missing"), ((1, 2), "entry 1 is missing"), ((3,), None)],
)
def test_a_hole_is_named(gone, words, store, tmp_path):
    filled(store)
    for number in gone:
        (tmp_path / f"run/journal/{number:08d}.json").unlink()
    if words is None:  # the end is no hole: it was never there, as far as anybody can tell
        assert len(list(Journal(store).entries())) == 6
    else:
        with pytest.raises(StorageError, match=rf"run/journal: damaged: {words}.*the last one is 00000003"):
            Journal(store)


def test_a_number_of_nowhere_is_a_hole(store, tmp_path):
    filled(store)
    (tmp_path / "run/journal/99999999999.json").write_text("[]")
    with pytest.raises(StorageError, match="entry 4 is missing"):
        Journal(store)


def test_every_flipped_bit_is_found_or_changes_nothing(store, tmp_path):
    file = tmp_path / "run/journal/00000000.json"
    Journal(store).append({"task": {"id": "m0", "seed": 12, "rate": 1.5e-05}}, {"failure": "ü"})
    whole, there = file.read_bytes(), list(Journal(store).entries())
    missed = 0
    for place in range(len(whole)):
        for bit in range(8):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            found = entries_or_damage(store, "journal/00000000.json is damaged")
            if found is not None:  # a capital E in a number; or the checksum's key, which a ledger does not know
                assert found == there or any(len(entry) > 1 for entry in found)
                missed += found == there
    assert missed < 10


def entries_or_damage(store, words):
    try:
        return list(Journal(store).entries())
    except StorageError as error:
        if words not in str(error):
            raise


def test_a_ledger_takes_no_key_that_it_does_not_know(store, tmp_path):
    Ledger(store).ask([Task("m0", "search", {"family": "a", "kind": "estimator"}, 1, work=Train())])
    file = tmp_path / "run/journal/00000000.json"
    file.write_text(file.read_text().replace('"crc32"', '"crc33"'))
    with pytest.raises(StorageError, match=r"00000000\.json is damaged: .*unknown keys \['crc33'\]"):
        Ledger(store)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"nll": 0.5', '"nll": 0.25'),
        ('"m0"', '"m1"'),
        ('"seconds": 1.0', '"seconds": 1'),
        ('"attempt": 1', '"attempt": 2'),
    ],
)
def test_a_changed_entry_is_named_with_its_file(old, new, store, tmp_path):
    ledger = Ledger(store)
    ledger.ask([Task("m0", "search", {"family": "a", "kind": "estimator"}, 1, work=Train())])
    ledger.tell([Report("m0", 1, {"nll": 0.5}, 1.0, 10, 0.1, "node", {})])
    file = tmp_path / "run/journal/00000001.json"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(StorageError, match=r"00000001\.json is damaged: entry 1 of 1 .* its checksum is wrong"):
        Ledger(store)


def test_entries_of_older_versions_are_read_beside_new_ones(store, tmp_path):
    (tmp_path / "run/journal").mkdir(parents=True)
    (tmp_path / "run/journal/00000000.json").write_text('[{"a": 1}, {"b": [0.1]}]')
    Journal(store).append({"c": 2}, {})
    assert list(Journal(store).entries()) == [{"a": 1}, {"b": [0.1]}, {"c": 2}, {}]
    assert all("crc32" in entry for entry in json.loads((tmp_path / "run/journal/00000001.json").read_text()))


@pytest.mark.parametrize("content", ["{}", "7", "[1]", '["a"]', "null", '{"task": {}}'])
def test_a_file_that_is_no_list_of_entries(content, store, tmp_path):
    (tmp_path / "run/journal").mkdir(parents=True)
    (tmp_path / "run/journal/00000000.json").write_text(content)
    with pytest.raises(StorageError, match=r"00000000\.json is damaged: expected a list of entries"):
        list(Journal(store).entries())


def test_a_journal_that_is_a_file(store, tmp_path):
    (tmp_path / "run").mkdir()
    os.mkfifo(tmp_path / "run/journal")
    with pytest.raises(StorageError, match=r"cannot list journal: .*Not a directory"):
        Journal(store)


def test_large_lists_are_divided_and_too_large_entries_refused(store, tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "MAX_FILE_BYTES", 1000)
    monkeypatch.setattr(journals, "MAX_JSON_BYTES", 5000)
    entries = [{"text": "x" * size} for size in (400, 400, 400, 2000, 10)]
    Journal(store).append(*entries)
    assert len(store.names("journal")) == 4
    assert list(Journal(store).entries()) == entries
    with pytest.raises(StorageError, match=r"an entry of 3,\d+ bytes is too large"):
        Journal(store).append({"text": "x" * 3000})
    assert len(store.names("journal")) == 4


def test_two_drivers_beside_strays(store, tmp_path):
    one, two = Journal(store), Journal(store)
    one.append({"a": 1})
    (tmp_path / "run/journal/.DS_Store").write_bytes(b"")
    with pytest.raises(StorageError, match="another process is running this run"):
        two.append({"b": 2})
    one.append({"c": 3})
    shutil.copy(tmp_path / "run/journal/00000000.json", tmp_path / "run/journal/copy of 00000000.json")
    assert list(Journal(store).entries()) == [{"a": 1}, {"c": 3}]
