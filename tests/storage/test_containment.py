"""Nothing behind a link that leads out of a folder is read, written, listed or deleted; other links are followed."""

import os
import shutil
import threading

import numpy as np
import pytest

from distens.errors import StorageError
from distens.records import State
from distens.storage.checkpoint import Checkpoint
from distens.storage.journal import Journal
from distens.storage.store import Store

OUT = "is a link that leads out of the folder"


@pytest.fixture
def outside(tmp_path):
    """A folder outside, with everything that is in a member's folder."""
    store = Store(str(tmp_path / "outside"))
    made = {"state": store.write_state("m/state.safetensors", State({"w": np.ones(2)}))}
    for name, rows in (("small", 4), ("large", 4000)):
        made[name] = store.write_predictions(f"m/{name}.arrow", np.ones((rows, 2)))
    store.write_json("m/report.json", {"a": 1})
    return tmp_path / "outside", made


def look(folder):
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


USES = {
    "read": lambda store, made: store.read("members/m/report.json"),
    "read_json": lambda store, made: store.read_json("members/m/report.json"),
    "read_state": lambda store, made: store.read_state("members/m/state.safetensors"),
    "map": lambda store, made: store.read_predictions(made["large"]),
    "read small": lambda store, made: store.read_predictions(made["small"]),
    "verify": lambda store, made: store.verify(made["state"]),
    "exists": lambda store, made: store.exists("members/m/report.json"),
    "size": lambda store, made: store.size_bytes("members/m/report.json"),
    "has": lambda store, made: store.has_file(made["state"]),
    "names": lambda store, made: store.names("members/m"),
    "tree": lambda store, made: store.tree("members"),
    "tree of all": lambda store, made: store.tree(""),
    "path for others": lambda store, made: store.local_folder("members/m", None),
    "write": lambda store, made: store.write("members/m/report.json", b"x"),
    "write new": lambda store, made: store.write("members/m/new/er/file", b"x"),
    "write once": lambda store, made: store.write("members/m/new", b"x", exclusive=True),
    "remove": lambda store, made: store.remove("members/m/report.json"),
    "delete": lambda store, made: store.delete("members/m"),
    "checkpoint": lambda store, made: Checkpoint(store, "m").save(State({"w": np.zeros(1)})),
    "clear": lambda store, made: Checkpoint(store, "m").clear(),
    "journal": lambda store, made: list(Journal(store, "members/m").entries()),
}


def inside(made):
    return {name: type(a)(f"members/{a.path}", a.sha256, a.size_bytes) for name, a in made.items()}


@pytest.mark.parametrize("url", ["{}", "file://{}"])
@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("far", [False, True], ids=["the folder", "above it"])
def test_a_folder_behind_a_link_that_leads_out(use, far, url, outside, tmp_path):
    place, made = outside
    run = tmp_path / "run"
    run.mkdir()
    if far:
        (run / "members").symlink_to(place)
    else:
        (run / "members").mkdir()
        (run / "members/m").symlink_to("../../outside/m")
    before = look(place)
    with pytest.raises(StorageError, match=f"refused: {'members' if far else 'members/m'} {OUT}"):
        USES[use](Store(url.format(run)), inside(made))
    assert look(place) == before


@pytest.mark.parametrize("use", [name for name in USES if name not in ("write new", "write once", "names", "clear")])
def test_a_file_that_is_a_link_that_leads_out(use, outside, tmp_path):
    place, made = outside
    folder = tmp_path / "run/members/m"
    folder.mkdir(parents=True)
    for file in (place / "m").iterdir():
        (folder / file.name).symlink_to(file)
    for name in ("checkpoint.safetensors", "00000000.json"):
        (folder / name).symlink_to("/etc/passwd")
    before = look(place)
    store, here = Store(str(tmp_path / "run")), inside(made)
    if use == "delete":  # only the links go
        USES[use](store, here)
        assert not folder.exists()
    else:
        with pytest.raises(StorageError, match=rf"refused: members/m/[a-z0-9]+\.[a-z]+ {OUT}"):
            USES[use](store, here)
    assert look(place) == before


@pytest.mark.parametrize("target", ["/etc/passwd", "../outside/m/new"], ids=["a file", "nothing yet"])
def test_a_new_file_in_place_of_a_link_that_leads_out(target, outside, tmp_path):
    place, _ = outside
    run, before = tmp_path / "run", look(place)
    run.mkdir()
    (run / "a").symlink_to(target)
    with pytest.raises(StorageError, match=f"refused: a {OUT}"):
        Store(str(run)).write("a", b"x", exclusive=True)
    assert os.listdir(run) == ["a"] and look(place) == before


def test_a_new_file_in_place_of_a_link_that_stays_inside(tmp_path):
    store = Store(str(tmp_path / "run"))
    store.write("b", b"fine")
    (tmp_path / "run/a").symlink_to("b")
    with pytest.raises(StorageError, match=r"cannot write a: .*exists"):
        store.write("a", b"x", exclusive=True)
    assert store.names() == ["a", "b"] and store.read("b") == b"fine"


@pytest.mark.parametrize("target", ["/nowhere/at/all", "../beside", "/dev/zero", "/"])
def test_wherever_it_leads(target, tmp_path):
    run, store = tmp_path / "run", Store(str(tmp_path / "run"))
    run.mkdir()
    (run / "figures").symlink_to(target)
    for use in (store.read, store.exists, lambda name: store.write(name, b"x"), store.names, store.delete):
        with pytest.raises(StorageError, match=f"figures {OUT}"):
            use("figures")
        with pytest.raises(StorageError, match=f"figures {OUT}"):
            use("figures/a.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_a_neighbour_whose_name_begins_alike_is_outside(tmp_path):
    store = Store(str(tmp_path / "run"))
    Store(str(tmp_path / "run-2")).write("a", b"secret")
    store.write("b", b"")
    (tmp_path / "run/link").symlink_to("../run-2")
    with pytest.raises(StorageError, match=f"link {OUT}"):
        store.read("link/a")


def test_links_through_links(tmp_path):
    """One link that stays inside leads to another, which does not: that one is named."""
    store = Store(str(tmp_path / "run"))
    Store(str(tmp_path)).write("outside/a", b"secret")
    store.write("real/b", b"fine")
    (tmp_path / "run/one").symlink_to("real")
    (tmp_path / "run/real/two").symlink_to(tmp_path / "outside")
    assert store.read("one/b") == b"fine"
    with pytest.raises(StorageError, match=f"one/two {OUT}"):
        store.read("one/two/a")


def test_links_that_stay_inside_are_followed(tmp_path):
    store = Store(str(tmp_path / "run"))
    store.write("disk/m/a", b"1")
    store.write("disk/m/b", b"2")
    (tmp_path / "run/members").symlink_to("disk")
    (tmp_path / "run/disk/m/c").symlink_to(tmp_path / "run/disk/m/a")
    assert store.names("members/m") == ["a", "b", "c"]
    assert store.read("members/m/c") == b"1"
    store.write("members/m/new/d", b"3")
    assert store.read("disk/m/new/d") == b"3"
    store.remove("members/m/c")
    assert store.read("disk/m/a") == b"1"
    store.delete("members")  # of a link only the link
    assert store.tree("") == ["disk/m/a", "disk/m/b", "disk/m/new/d"]


@pytest.mark.parametrize("chain", [1, 2])
def test_the_folder_itself_may_be_a_link(chain, tmp_path):
    """A user put it there, for example to a larger disk; deleting the run keeps the link."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "run1").symlink_to("disk")
    (tmp_path / "run2").symlink_to(tmp_path / "run1")
    store = Store(str(tmp_path / f"run{chain}"))
    (tmp_path / "kept").write_text("kept")
    address = store.write_predictions("members/p.arrow", np.ones((4000, 2)))
    assert store.read_predictions(address).shape == (4000, 2)
    (tmp_path / "disk/away").symlink_to("../kept")
    store.delete()
    assert store.names() == [] and list((tmp_path / "disk").iterdir()) == []
    assert (tmp_path / "kept").read_text() == "kept"
    store.write("a", b"1")
    assert (tmp_path / "disk/a").read_bytes() == b"1"


def test_a_folder_that_moves_is_still_inside_itself(tmp_path):
    store = Store(str(tmp_path / "link"))
    (tmp_path / "one").mkdir()
    (tmp_path / "link").symlink_to("one")
    store.write("a", b"1")
    assert store.read("a") == b"1"
    (tmp_path / "one").rename(tmp_path / "two")
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("two")
    assert store.read("a") == b"1"


def test_deleting_a_tree_follows_no_link(tmp_path):
    store = Store(str(tmp_path / "run"))
    for folder in ("one", "two"):
        Store(str(tmp_path)).write(f"{folder}/kept", b"kept")
    store.write("final/ensemble/a", b"")
    (tmp_path / "run/final/link").symlink_to(tmp_path / "one")
    (tmp_path / "run/final/ensemble/link").symlink_to("../../../two/kept")
    store.delete("final")
    assert store.names() == []
    (tmp_path / "run/members").symlink_to(tmp_path / "one")
    store.delete()
    assert not (tmp_path / "run").exists()
    assert look(tmp_path) == {"one": None, "one/kept": b"kept", "two": None, "two/kept": b"kept"}


def test_a_link_that_comes_and_goes(tmp_path):
    """While files are written and read, somebody else swaps the folder for a link, again and again."""
    store, outside = Store(str(tmp_path / "run")), tmp_path / "outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"secret")
    for name in ("real", "link"):
        (tmp_path / "run" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "run/members").mkdir()
    (tmp_path / "run/members/a").write_bytes(b"fine")
    (tmp_path / "run/link").symlink_to(outside)
    over = threading.Event()

    def swap():
        run = tmp_path / "run"
        while not over.is_set():
            os.rename(run / "members", run / "real")
            put(run / "link", run / "members")
            os.rename(run / "members", run / "link")
            put(run / "real", run / "members")

    def put(source, target):
        try:
            os.rename(source, target)
        except OSError:  # the store made the folder that it did not find
            shutil.rmtree(target, ignore_errors=True)  # which may write in it even now
            put(source, target)

    thread = threading.Thread(target=swap)
    thread.start()
    passed = refused = 0
    try:
        while passed + refused < 2000 or (not passed and refused < 100_000):  # a whole pass between two swaps is rare
            number = passed + refused
            try:
                assert store.read("members/a") == b"fine"
                store.write("members/a", b"fine", durable=False)
                store.write(f"members/b{number}", b"", durable=False)
                store.remove(f"members/b{number}")
                assert "secret" not in store.names("members")
                passed += 1
            except StorageError:
                refused += 1
    finally:
        over.set()
        thread.join()
    assert [path.name for path in outside.iterdir()] == ["a"] and (outside / "a").read_bytes() == b"secret"
    assert passed and refused


def test_what_is_registered_elsewhere_holds_no_foreign_file(tmp_path):
    """A bundle's folder is handed to MLflow, which follows links and waits for pipes."""
    store = Store(str(tmp_path / "run"))
    store.write("final/ensemble/bundle.json", b"{}")
    assert store.local_folder("final/ensemble", tmp_path) == tmp_path / "run/final/ensemble"
    os.mkfifo(tmp_path / "run/final/ensemble/more")
    with pytest.raises(StorageError, match="more is neither a file nor a folder"):
        store.local_folder("final/ensemble", tmp_path)
    (tmp_path / "run/final/ensemble/more").unlink()
    (tmp_path / "run/final/ensemble/more").symlink_to("/etc/passwd")
    with pytest.raises(StorageError, match=f"final/ensemble/more {OUT}"):
        store.local_folder("final/ensemble", tmp_path)
    shutil.rmtree(tmp_path / "run/final")
