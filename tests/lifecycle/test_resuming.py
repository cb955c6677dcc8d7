"""What a run is resumed with: formats, versions, strays, and the modules that its config names, and no others."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import small_run
from typer.testing import CliRunner

import distens
from distens import __version__
from distens.cli import main as cli
from distens.errors import DistensError, RunError, StorageError
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.resuming import FORMAT, find_versions
from distens.lifecycle.session import WRITTEN
from distens.lifecycle.work.distil import Distil
from distens.lifecycle.work.evaluate import Evaluate
from distens.lifecycle.work.train import Train
from distens.records import Address, Failure, Report, Task, Teacher
from distens.roles.federated.work.distil_blind import DistilBlind
from distens.storage.store import Store


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """A run that was stopped before its results were written."""
    members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
    given = {"members": members, "search": {"kind": "random", "members": 2}, "distill": None, "baselines": []}
    path = Path(distens.run(small_run.config(tmp_path_factory.mktemp("runs"), **given)).path)
    (path / "results.json").unlink()
    return path


@pytest.fixture
def run(began, tmp_path):
    return shutil.copytree(began, tmp_path / began.name)


def change(run, **values):
    info = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**info, **values}))
    return info


# Formats and versions -------------------------------------------------------------------------------------------------


def run_again(run):
    config = distens.load_config(run / "config.yaml", [f"storage={run.parent}"])
    distens.run(config, resume=True)


AGAIN = {"resume": lambda run: distens.resume(str(run)), "run": run_again}


@pytest.mark.parametrize("number", [FORMAT + 1, 99])
@pytest.mark.parametrize("again", AGAIN)
def test_a_newer_format_is_refused(number, again, run):
    versions = change(run)["versions"]
    change(run, format=number, versions={**versions, "distens": "9.8.7"})
    before = sorted(str(path) for path in run.rglob("*"))
    with pytest.raises(RunError) as caught:
        AGAIN[again](run)
    for word in (f"a run of format {number}, written by distens '9.8.7'", f"this is distens {__version__}"):
        assert word in str(caught.value)
    assert sorted(str(path) for path in run.rglob("*")) == before


@pytest.mark.parametrize("number", ["1", 0, -1, 1.5, True, None, [1]])
def test_a_format_that_is_none(number, run):
    change(run, format=number)
    with pytest.raises(StorageError, match=r"run\.json is damaged: .*its format is "):
        distens.resume(str(run))


def test_a_run_without_a_format_has_todays(run):
    info = change(run)
    del info["format"]
    (run / "run.json").write_text(json.dumps(info))
    assert distens.resume(str(run)).weights


@pytest.mark.parametrize("name", ["torch", "distens", "python", "numpy"])
def test_other_versions_are_said(name, run):
    change(run, versions={**find_versions(), name: "0.0.1", "extinct": "3"})
    events = []
    result = distens.resume(str(run), events.append)
    (note,) = [note for note in result.notes if "other versions" in note]
    assert note.endswith(f"which may change results: {name} {find_versions()[name]} instead of '0.0.1'")
    assert next(event.text for event in events if event.phase == "data") == note


def test_the_same_versions_go_without_saying(run):
    assert not [note for note in distens.resume(str(run)).notes if "other versions" in note]


@pytest.mark.parametrize("versions", [{"torch": 7}, {"torch": ["x" * 10_000]}, {"torch": "\x1b[2J"}, {}])
def test_versions_of_anything(versions, run):
    change(run, versions=versions)
    notes = distens.resume(str(run)).notes
    assert all(len(note) < 1000 and "\x1b" not in note for note in notes)


def test_a_folder_that_is_no_run(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "file"):
        (tmp_path / "file").touch()
        found = CliRunner().invoke(cli.app, ["resume", str(path)])
        assert isinstance(found.exception, RunError) and "no run here" in str(found.exception)


@pytest.mark.parametrize("stray", [".DS_Store", ".nfs0001", "Thumbs.db", ".00000000.json.swp"])
def test_strays_in_the_journal_stop_no_resume(stray, run):
    for folder in (run, run / "journal", run / "members", run / "members/m0000"):
        (folder / stray).write_bytes(b"\0")
    assert distens.resume(str(run)).weights


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("name", [*WRITTEN, "journal", "config.yaml", "run.json"])
def test_a_folder_with_a_link_that_leads_out(name, begun, run, tmp_path):
    """Nothing is trained, or written outside, whatever of the run is there."""
    if not begun:
        for file in (run / "journal").iterdir():
            file.unlink()
    outside = tmp_path / "outside"
    if (run / name).exists():
        (run / name).rename(outside)
    else:
        outside.mkdir()
    (run / name).symlink_to("../outside")
    before = [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))]
    events = []
    with pytest.raises(StorageError, match=rf"refused: {name} is a link that leads out of the folder"):
        distens.resume(str(run), events.append)
    assert [(path, path.stat().st_mtime_ns) for path in sorted(tmp_path.rglob("*"))] == before
    assert events == []


@pytest.mark.parametrize("name", ["members", "final", "journal"])
def test_a_folder_with_links_that_stay_inside(name, run):
    (run / name).rename(run / "elsewhere")
    (run / name).symlink_to("elsewhere")
    assert distens.resume(str(run)).weights
    assert not (run / name / name).exists() and (run / name).is_symlink()


# Modules --------------------------------------------------------------------------------------------------------------

KNN = {"family": "knn", "kind": "estimator", "estimator": "k_nearest_neighbours"}
NET = {"family": "net", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 1}
TRAP = {"family": "a", "kind": "trap:Net"}
WHERE = Address("members/m/1/state.safetensors", "ab" * 32, 3)


def search(settings):
    return Task("m0099", "search", settings, 0, work=Train())


def student(work, settings=NET):
    return Task("student", "student", settings, 0, work=work)


TASKS = {
    "a kind": search(TRAP),
    "a path": search({"family": "a", "kind": "module", "path": "trap:Net"}),
    "a model": search({**NET, "model": {"kind": "trap:Net"}}),
    "a model by its name alone": search({**NET, "model": "trap:Net"}),
    "an objective": search({**NET, "objective": {"kind": "trap:Net"}}),
    "an option": search({**KNN, "options": {"metric": "trap:Net"}}),
    "an option, deep": search({**KNN, "options": {"a": [{"b": ["trap:Net"]}]}}),
    "a key": search({**KNN, "options": {"trap:Net": 1}}),
    "a family's name": search({**KNN, "family": "trap:Net"}),
    "a list": search(["trap:Net"]),
    "a distiller": student(Distil({"kind": "trap:Net"}, ())),
    "its network": student(Distil({"kind": "student", "network": {"kind": "module", "path": "trap:Net"}}, ())),
    "a student": student(Distil({"kind": "student"}, ()), TRAP),
    "a teacher": student(Distil({"kind": "student"}, (Teacher(KNN, WHERE, 0.5), Teacher(TRAP, WHERE, 0.5)))),
    "a teacher's model": student(
        Distil({"kind": "student"}, (Teacher({**NET, "model": {"kind": "trap:Net"}}, WHERE, 1.0),))
    ),
    "one who is measured": Task("evaluate-a", "evaluate", KNN, 0, work=Evaluate((Teacher(TRAP, WHERE, 1.0),))),
    "a federation's distiller": student(DistilBlind({"kind": "trap:Net"}, ())),
    "a federation's teacher": student(DistilBlind({"kind": "dense"}, (Teacher(TRAP, WHERE, 1.0),))),
    "a module of Python's, imported long ago": search({"family": "a", "kind": "module", "path": "torch.nn:Identity"}),
}


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that can be imported, and that says so."""
    (tmp_path / "trap.py").write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\nclass Net: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path / "sprung"
    sys.modules.pop("trap", None)


@pytest.mark.parametrize(
    ("name", "fate"),
    [
        *((name, "pending") for name in TASKS),
        *(("a path", fate) for fate in ("failed", "finished", "replaced", "lost")),
    ],
)
def test_a_module_that_only_the_journal_names(name, fate, run, trap):
    """Whatever became of the task: also where a later entry replaced its settings by harmless ones."""
    ledger, task = Ledger(Store(str(run))), TASKS[name]
    ledger.ask([task])
    if fate in ("failed", "lost"):
        ledger.tell([Failure(task.id, 1, "crashed", "", 0.0, "", fate == "failed")])
    if fate == "finished":
        ledger.tell([Report(task.id, 1, {"nll": 0.5, "error": 0.1}, 1.0, 10, 0.1, "", {})])
    if fate == "replaced":
        ledger.ask([Task(task.id, task.purpose, KNN, 0, work=Train())])
    words = rf"refused: {task.id}.* in the journal names a class in the module '(trap|torch\.nn)'"
    with pytest.raises(RunError, match=words):
        distens.resume(str(run))
    assert not trap.exists() and "trap" not in sys.modules


def test_a_class_beside_the_one_that_the_config_names(run, tmp_path, monkeypatch):
    """The module is imported, as the config names it; that does not let the journal take another class of it."""
    (tmp_path / "nets.py").write_text(
        "from torch import nn\n"
        "class One(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 3)\n"
        "class Other(One):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    members = {"mine": {"kind": "module", "path": "nets:One", "epochs": 1}}
    given = {"members": members, "search": {"kind": "random", "members": 2}, "distill": None, "baselines": []}
    path = Path(distens.run(small_run.config(tmp_path / "runs", **given)).path)
    (path / "results.json").unlink()
    settings = {"family": "mine", **members["mine"]}
    Ledger(Store(str(path))).ask([search({**settings, "path": "nets:Other"})])
    with pytest.raises(RunError, match=r"m0099 in the journal names .*config\.yaml does not name 'nets:Other'"):
        distens.resume(str(path))
    sorted((path / "journal").iterdir())[-1].unlink()
    assert distens.resume(str(path)).weights
    sys.modules.pop("nets", None)


@pytest.mark.parametrize(
    "kind", ["ensemble.train", "federated", "ensemble.", ".train", "protocol.x", "roles.train", 7, None]
)
def test_work_of_no_kind(kind, run):
    file = sorted((run / "journal").iterdir())[0]
    entries = json.loads(file.read_text())
    for entry in entries:
        entry.pop("crc32")
        entry["task"]["work"] = {"kind": kind}
    file.write_text(json.dumps(entries))
    with pytest.raises(DistensError, match=r"00000000\.json is damaged"):
        distens.resume(str(run))
