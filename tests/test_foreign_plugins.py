"""Plug-ins in a user's own package, by address: in every family, through kills and Ray, and not from strangers."""

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import forge
import numpy as np
import pytest
import small_federation
import small_run
from kills import killed
from typer.testing import CliRunner

import distens
from distens import registry
from distens.cli.main import app
from distens.config.config import load_config, to_yaml
from distens.errors import BundleError, ConfigError, DistensError, RunError
from distens.evaluate import baselines
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.tasks import task_from_json
from distens.lifecycle.work.distil import Distil
from distens.lifecycle.work.train import Train
from distens.partition.protocol import Partition
from distens.records import Task
from distens.serve import predictor
from distens.storage.journal import Journal
from distens.storage.store import Store

LAB = "plugins.lab:"
MEMBERS = {
    "prior": {"kind": f"{LAB}Prior", "smoothing": {"low": 0.5, "high": 2.0}},
    "net": {
        "kind": "classifier",
        "model": {"kind": f"{LAB}Wide", "width": {"choices": [4, 8]}},
        "objective": f"{LAB}Squared",
        "learning_rate": 0.01,
        "epochs": 5,
    },
}
OWN = {
    "members": MEMBERS,
    "search": {"kind": f"{LAB}Corners", "all_families_before": 0},
    "schedule": {"kind": f"{LAB}Few", "count": 5},
    "select": {"kind": f"{LAB}Pair", "weight": 0.6},
    "combine": f"{LAB}Median",
    "calibrate": "none",
    "distill": f"{LAB}Teach",
    "baselines": ["larger_single"],
}


def own(folder, **changes):
    runtime = {"kind": f"{LAB}Here", "note": str(folder / "note"), "pack": 1}
    changes.setdefault("data", {"source": "sklearn:iris", "task": f"{LAB}Grades"})
    tracking = {"kind": f"{LAB}Diary", "file": str(folder / "diary")}
    return small_run.config(folder / "runs", **{**OWN, "runtime": runtime, "tracking": tracking, **changes})


def tasks_of(path):
    return [
        task_from_json(entry["task"]) for entry in Journal(Store(str(path)), "journal").entries() if "task" in entry
    ]


def predictions_of(path, name):
    return Store(str(path)).read_predictions(Ledger(Store(str(path))).report(name).files["test"])


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A run in which nothing is distens' own that need not be, and its folder."""
    folder = tmp_path_factory.mktemp("own")
    return distens.run(own(folder)), folder


# Every family -------------------------------------------------------------------------------------------------------


def test_a_run_of_nothing_but_ones_own(mine):
    result, folder = mine
    config = load_config(f"{result.path}/config.yaml")
    corners = list(small_run_space(config).corners())
    searched = [task for task in tasks_of(result.path) if task.purpose == "search"]
    assert [task.settings for task in searched] == [corners[i % len(corners)] for i in range(5)]
    assert (folder / "note").read_text().split()[:5] == [task.id for task in searched]
    assert sorted(result.weights.values()) == [0.4, 0.6]
    two = [predictions_of(result.path, name) for name in result.weights]
    combined_NC = distens.load(result.path)._combiner.combine(np.stack(two), None)
    np.testing.assert_allclose(combined_NC, np.median(np.asarray(two, float), axis=0), atol=1e-6)
    assert {"ensemble", "student", "larger_single"} <= set(result.rows) and not result.missing
    told = json.loads((folder / "diary").read_text())
    limits = dict.fromkeys(("members", "seconds", "stop_at"))
    assert told["search"] == {"kind": f"{LAB}Corners", "first": 0, **limits, "all_families_before": 0}
    assert f"finished: written to {folder / 'diary'}" in result.notes
    for family in ("schedule", "select", "combine", "distill", "runtime", "tracking"):
        assert getattr(config, family)["kind"].startswith(LAB) and told[family] == getattr(config, family)
    marker = json.loads(Path(result.path, "final/ensemble/bundle.json").read_text())
    assert marker["combine"] == {"kind": f"{LAB}Median"}
    larger = next(task for task in tasks_of(result.path) if task.purpose == "larger_single")
    assert larger.settings["model"]["kind"] == f"{LAB}Wide" and larger.settings["model"]["width"] >= 8


def small_run_space(config):
    from distens.space.space import Space

    return Space(config.members)


def test_it_resumes_and_trains_nothing_again(mine):
    result, folder = mine
    before = (folder / "note").read_text()
    Path(result.path, "results.json").unlink()
    again = distens.resume(result.path)
    assert (again.weights, again.rows["ensemble"]["nll"]) == (result.weights, result.rows["ensemble"]["nll"])
    assert (folder / "note").read_text() == before


def test_through_ray_it_is_the_same(mine, tmp_path, ray_here):
    through_ray = {"kind": "ray_actors", "cpus_per_member": 0.5, "pack": 1}
    found = distens.run(own(tmp_path, runtime=through_ray))
    result, _ = mine
    assert Path(found.path).name == Path(result.path).name, "where it runs does not name it"
    assert found.weights == result.weights
    assert found.rows["ensemble"]["nll"] == result.rows["ensemble"]["nll"]


def test_a_federation_of_ones_own(tmp_path):
    """A rule that takes no step leaves the first weights; rows are dealt in turn."""
    federated = {"clients": 3, "partition": f"{LAB}Dealt", "rounds": 2, "per_round": None}
    client = {"model": f"{LAB}Wide"}
    still, moved = (
        distens.run(small_federation.config(tmp_path / name, client=client, federated=federated, merge=merge))
        for name, merge in (("still", {"kind": f"{LAB}Step", "share": 0.0}), ("moved", f"{LAB}Step"))
    )
    rows = Partition.read(Store(still.path))
    assert rows.rule == {"kind": f"{LAB}Dealt"} and rows.rows["c1"][:3].tolist() == [1, 4, 7]
    first, last = (Store(path).read_state(f"rounds-weights/{_last(path)}").arrays for path in (still.path, moved.path))
    assert not np.array_equal(first["weights"], last["weights"])
    settings = tasks_of(still.path)[-1].settings
    begun = registry.build_member(settings)
    begun.begin((8, 8), 10, settings["start"])
    np.testing.assert_array_equal(first["weights"], begun.weights())


def _last(path):
    return Store(path).names("rounds-weights")[-1]


def test_one_shot_with_a_distiller_of_ones_own(tmp_path):
    federated = {"clients": 2, "partition": f"{LAB}Dealt", "rounds": 1, "per_round": None}
    given = {
        "distill": f"{LAB}Echo",
        "baselines": [{"name": "again", "kind": f"{LAB}Echo"}, {"kind": "noise", "epochs": 1}],
    }
    result = distens.run(small_federation.config(tmp_path, federated=federated, **given))
    for name in ("student", "again"):
        np.testing.assert_array_equal(predictions_of(result.path, name), predictions_of(result.path, "c0"))
    assert "noise" in result.rows
    with pytest.raises(ConfigError, match=r"baselines.0.name: letters, .* found 'plugins.lab:Echo'.*add `name`"):
        distens.run(small_federation.config(tmp_path, federated=federated, **{**given, "baselines": [f"{LAB}Echo"]}))
    named = [{"name": "teach", "kind": f"{LAB}Teach"}]
    with pytest.raises(ConfigError, match=r"baselines\.0\.kind: 'plugins\.lab:Teach' needs the clients' rows"):
        distens.run(small_federation.config(tmp_path, federated=federated, **{**given, "baselines": named}))


def test_a_role_of_ones_own(tmp_path):
    """Its section, if it has one, would be named as it is; a list, which imports nothing, cannot know its size."""
    lean = {"role": f"{LAB}Couple", "baselines": [], "distill": None, "runtime": "inline", "tracking": "off"}
    result = distens.run(own(tmp_path, **lean))
    assert json.loads(Path(result.path, "run.json").read_text())["identity"]["role"] == f"{LAB}Couple"
    Path(result.path, "results.json").unlink()
    assert distens.resume(result.path).weights == result.weights
    listed = CliRunner().invoke(app, ["list", "--storage", str(tmp_path / "runs")]).output
    assert "finished" in listed and "?" in listed
    with pytest.raises(
        ConfigError, match=r"role.kind: plugins.lab:Median is no Role \(it lacks plan, data, carry_out, size, unused, "
    ):
        distens.run(own(tmp_path, role=f"{LAB}Median"))


def test_names_and_hashes(tmp_path):
    """The whole address is the name, wherever there is one; so a run of mine is not one of ours."""
    search = registry.make_plugin("search", {"kind": f"{LAB}Corners", "first": 3}, "search")
    assert registry.plugin_kind(search) == f"{LAB}Corners"
    assert registry.resolve_options(search) == {"kind": f"{LAB}Corners", "first": 3}
    assert registry.plugin_kind(registry.make_plugin("search", "random", "search")) == "random"
    divbo = registry.make_plugin("search", {"kind": "divbo", "pool": {"kind": f"{LAB}Pair", "weight": 0.9}}, "search")
    assert registry.resolve_options(divbo)["pool"] == {"kind": f"{LAB}Pair", "weight": 0.9}
    ours, theirs = own(tmp_path, combine="average"), own(tmp_path)
    assert ours.hash() != theirs.hash() == own(tmp_path, runtime="inline").hash()
    assert baselines.is_network(MEMBERS["net"]) and not baselines.is_network(MEMBERS["prior"])


def test_mlflow_shows_the_address_and_loads_the_model(tmp_path, mlflow_store):
    uri, client = mlflow_store
    tracking = {"kind": "mlflow_runs", "uri": uri}
    lean = {"baselines": [], "distill": None, "runtime": "inline", "members": {"prior": MEMBERS["prior"]}}
    result = distens.run(own(tmp_path, tracking=tracking, **lean))
    assert any("model iris version 1 is champion" in note for note in result.notes), result.notes
    (experiment,) = [e for e in client.search_experiments() if e.name == "iris"]
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in runs if run.info.run_name == Path(result.path).name]
    assert parent.data.params["search.kind"] == f"{LAB}Corners"
    assert parent.data.params["combine.kind"] == f"{LAB}Median"
    (member,) = [run for run in runs if run.data.tags.get("distens.task") == "m0000"]
    assert member.data.params["kind"] == f"{LAB}Prior"


def test_in_ray_tune(tmp_path):
    from ray import tune

    from distens.tune import DivBOSearch, build

    space = {"x": tune.uniform(0.0, 1.0)}
    search = DivBOSearch(space, "loss", "min", search={"kind": f"{LAB}Corners", "first": 1})
    assert search.suggest("a") == {"x": 1.0}
    asks = DivBOSearch(space, "loss", "min", search=f"{LAB}Asks")
    for name in "abcdef":  # which did not report predictions: plain Bayesian optimisation, with Bayes' own options
        assert 0 <= asks.suggest(name)["x"] <= 1
        asks.on_trial_complete(name, {"loss": 0.5})
    assert registry.plugin_kind(build({"kind": f"{LAB}Prior"})) == f"{LAB}Prior"
    with pytest.raises(ConfigError, match="is no Member"):
        build({"kind": f"{LAB}Corners"})


def test_in_a_sweep(tmp_path, ray_here):
    """The sweep's own search, and what is swept over."""
    from distens.tune.sweep import sweep

    over = {"combine": {"choices": ["average", f"{LAB}Median"]}}
    section = {"over": over, "samples": 2, "metric": "ensemble.nll", "search": f"{LAB}Corners"}
    lean = {"baselines": [], "distill": None, "runtime": "inline", "tracking": "off", "sweep": section}
    found = sweep(own(tmp_path, **lean))
    assert [run.values["combine"] for run in found.runs] == ["average", f"{LAB}Median"]
    assert not [run.why for run in found.runs if run.value is None]


# A user's own folder ------------------------------------------------------------------------------------------------

KINDS = """
import os
from dataclasses import dataclass, InitVar, field
from pathlib import Path
import numpy as np
from distens.combine.average import Average
from distens.models.mlp import Mlp
from distens.objectives.cross_entropy import CrossEntropy
from distens.records import State
from distens.search.divbo import DivBO
from distens.search.protocol import Search

with open(os.environ["CANARY"], "a") as file:
    file.write(__name__)

number = 3

@dataclass(frozen=True)
class Turns:
    first: int = 0
    def propose(self, history, space, count, rng):
        corners = list(space.corners())
        done = self.first + len(history.finished) + len(history.failed) + len(history.pending)
        return [corners[(done + i) % len(corners)] for i in range(count)]

@dataclass
class Prior:
    smoothing: float = 1.0
    def fit(self, examples, context):
        counts_C = np.bincount(examples.targets, minlength=examples.classes) + self.smoothing
        self._probs_C = (counts_C / counts_C.sum()).astype(np.float32)
        return {"parameters": examples.classes, "seconds": 0.001}
    def predict(self, inputs):
        return np.tile(self._probs_C, (len(inputs), 1))
    def state(self):
        return State({"probs": self._probs_C})
    def load(self, state):
        self._probs_C = state.arrays["probs"]

@dataclass(frozen=True)
class Net(Mlp):
    pass

@dataclass(frozen=True)
class Loss(CrossEntropy):
    pass

@dataclass(frozen=True)
class Mean(Average):
    pass

class Bare:
    def propose(self, history, space, count, rng):
        return []

@dataclass
class Empty:
    pass

@dataclass
class Stub(Search):
    pass

@dataclass(frozen=True)
class Pathlike(Turns):
    file: Path = Path("a")

@dataclass(frozen=True)
class Array(Turns):
    start: np.ndarray = field(default_factory=lambda: np.zeros(2))

@dataclass(frozen=True)
class More(Turns):
    more: InitVar[int] = None
    must: InitVar[int] = field(kw_only=True)

@dataclass(frozen=True)
class Kind(Turns):
    kind: str = "a"

@dataclass(frozen=True)
class Seconds(Turns):
    seconds: int = 3

class Undecorated(Turns):
    extra: int = 3

@dataclass(frozen=True)
class Unreadable(Turns):
    extra: "Nowhere" = 3

@dataclass(frozen=True)
class Strict(Turns):
    def __post_init__(self):
        if self.first < 0:
            raise ValueError(f"first: {self.first} is below 0")
"""
OTHERS = {
    "broken": "\nraise RuntimeError('no licence')",
    "lacking": "import no_such_library",
    "exits": "raise SystemExit(3)",
    "spelt": "class Mine\n",
    "__init__": "def __getattr__(name):\n    from guest.kinds import Turns\n    return Turns\n",
    "borrows": "from guest.kinds import Turns\n",
}


@pytest.fixture
def guest(tmp_path, monkeypatch):
    """A package `guest` in a folder of its own, each import of which leaves a mark; a function that forgets it."""
    folder, canary = tmp_path / "lab" / "guest", tmp_path / "canary"
    folder.mkdir(parents=True)
    for name, text in {**OTHERS, "kinds": KINDS}.items():
        (folder / f"{name}.py").write_text(text)
    monkeypatch.setenv("CANARY", str(canary))
    monkeypatch.syspath_prepend(str(folder.parent))

    class Guest:
        place = folder.parent

        def forget(self):
            for name in [name for name in sys.modules if name.split(".")[0] == "guest"]:
                del sys.modules[name]
            canary.unlink(missing_ok=True)

        @property
        def imported(self):
            return canary.exists() or any(name.startswith("guest.") for name in sys.modules)

    found = Guest()
    found.forget()
    yield found
    found.forget()


def test_a_search_beside_its_config_is_killed_and_resumes(guest, tmp_path, monkeypatch):
    """Found in the working directory, by the command line and again by `distens resume`."""
    members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
    given = {"members": members, "baselines": [], "distill": None, "runtime": {"kind": "inline", "pack": 1}}
    given["search"] = {"kind": "guest.kinds:Turns", "members": 6}
    monkeypatch.chdir(guest.place)
    folder = killed(small_run.config(tmp_path / "killed", **given), "m0002 ")
    words = [sys.executable, "-m", "distens.cli", "resume", str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    calm = distens.run(small_run.config(tmp_path / "calm", **given))
    assert Path(calm.path).name == folder.name
    assert [task.settings for task in tasks_of(folder) if task.attempt == 1] == [
        t.settings for t in tasks_of(calm.path)
    ]
    assert json.loads((folder / "results.json").read_text())["weights"] == calm.weights
    monkeypatch.chdir(tmp_path)
    Path(folder, "results.json").unlink()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "search.kind: importing 'guest.kinds' failed: No module named 'guest'" in done.stderr


# Bundles and folders of strangers -------------------------------------------------------------------------------------

NET = {"family": "net", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 1}
BUNDLED = {
    "member": (
        {"family": "a", "kind": "guest.kinds:Prior"},
        None,
        "member m0 names a class in the module 'guest.kinds'",
    ),
    "model": ({**NET, "model": {"kind": "guest.kinds:Net", "hidden": [4]}}, None, "member m0.model names a class"),
    "objective": ({**NET, "objective": "guest.kinds:Loss"}, None, "member m0.objective names a class"),
    "combiner": (NET, {"kind": "guest.kinds:Mean"}, "its combiner names a class"),
    "combiner's name": (NET, "guest.kinds:Mean", "its combiner names a class"),
}


@pytest.mark.parametrize("place", BUNDLED)
def test_a_bundle_imports_nothing_unless_it_is_let(place, guest, tmp_path):
    settings, combine, words = BUNDLED[place]
    path = forge.make(tmp_path, settings)
    if combine is not None:
        forge.put(path, "combine", value=combine)
    expected_NC = predictor.load(str(path), imports=True).predict_proba(forge.rows())
    forge.rows().to_csv(tmp_path / "rows.csv", index=False)
    asked = ["predict", str(path), str(tmp_path / "rows.csv")]
    guest.forget()
    with pytest.raises(BundleError) as caught:
        predictor.load(str(path))
    assert all(word in str(caught.value) for word in (words, "refused", "imports=True", "--imports"))
    assert isinstance(CliRunner().invoke(app, asked).exception, DistensError)
    assert not guest.imported
    found_NC = predictor.load(str(path), imports=True).predict_proba(forge.rows())
    np.testing.assert_array_equal(found_NC, expected_NC)
    assert guest.imported
    np.testing.assert_array_equal(predictor.load(str(path)).predict_proba(forge.rows()), expected_NC)  # it is there now
    guest.forget()
    assert CliRunner().invoke(app, [*asked, "--imports"]).exit_code == 0


def test_mlflow_loads_such_a_bundle_as_it_does_one_of_a_module(guest, tmp_path):
    import mlflow.pyfunc

    path = forge.make(tmp_path, BUNDLED["member"][0])
    code = str(predictor.__file__).replace("predictor.py", "pyfunc.py")
    model = str(tmp_path / "model")
    mlflow.pyfunc.save_model(model, python_model=code, artifacts={"bundle": str(path)}, pip_requirements=[])
    guest.forget()
    assert mlflow.pyfunc.load_model(model).predict(forge.rows()).shape == (150, 3)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("antigravity:Net", "refused: member m0 names a class in the module 'antigravity'"),
        ("distens.members.estimator:Estimator", "lies in distens, whose plug-ins go by the name of their file"),
        ("__main__:Prior", "other processes cannot find"),
        ("../guest:Prior", "expected the name of a file, or package.module:Class"),
        ("guest.kinds:Prior:More", "expected the name of a file, or package.module:Class"),
        ("os:system", "os:system must be a class"),
        ("subprocess:Popen", "subprocess:Popen is no Member (it lacks fit, predict, state, load)"),
        ("guest:Lazy", "has no class 'Lazy'"),
    ],
)
def test_a_hostile_address(kind, words, guest, tmp_path):
    path = forge.make(tmp_path, {"family": "a", "kind": "guest.kinds:Prior"})
    forge.put(path, "members", 0, "settings", "kind", value=kind)
    guest.forget()
    importlib.import_module("guest")  # which would import more if it were asked
    with pytest.raises(BundleError) as caught:
        predictor.load(str(path))
    assert words in str(caught.value)
    assert not Path(os.environ["CANARY"]).exists() and "antigravity" not in sys.modules


def test_looking_at_a_run_imports_nothing_and_resuming_it_what_its_config_names(guest, tmp_path):
    members = {"a": {"kind": "guest.kinds:Prior", "smoothing": {"low": 0.5, "high": 1.5}}}
    lean = {"members": members, "baselines": [], "distill": None, "runtime": "inline", "tracking": "off"}
    search = {"kind": "guest.kinds:Turns", "members": 2}
    result = distens.run(small_run.config(tmp_path / "runs", search=search, **lean))
    guest.forget()
    for words in (["report", result.path], ["list", "--storage", str(tmp_path / "runs")]):
        assert CliRunner().invoke(app, words).exit_code == 0
    assert not guest.imported
    with pytest.raises(BundleError, match=r"refused: member m0000 names a class in the module 'guest\.kinds'"):
        distens.load(result.path)
    Path(result.path, "results.json").unlink()
    assert not guest.imported
    assert distens.resume(result.path).weights == result.weights
    assert guest.imported


@pytest.mark.parametrize(
    "task",
    [
        Task("m0099", "search", {"family": "a", "kind": "guest.kinds:Prior"}, 0, work=Train()),
        Task("m0099", "search", {"family": "a", "kind": "module", "path": "guest.kinds:Prior"}, 0, work=Train()),
        Task("m0099", "search", {**NET, "objective": "guest.kinds:Loss"}, 0, work=Train()),
        Task("student", "student", NET, 0, work=Distil({"kind": "guest.kinds:Teach"}, ())),
        Task(
            "student", "student", NET, 0, work=Distil({"kind": "student", "network": {"kind": "guest.kinds:Prior"}}, ())
        ),
    ],
    ids=["kind", "path", "nested", "distiller", "its network"],
)
def test_a_journal_imports_nothing_that_the_config_does_not_name(task, guest, tmp_path):
    members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
    lean = {"members": members, "baselines": [], "distill": None, "search": {"kind": "random", "members": 2}}
    result = distens.run(small_run.config(tmp_path, **lean))
    Path(result.path, "results.json").unlink()
    Ledger(Store(result.path)).ask([task])
    with pytest.raises(
        RunError, match=r"refused: (m0099|student).* in the journal names a class in the module 'guest.kinds'"
    ):
        distens.resume(result.path)
    assert not guest.imported


# Refusals -------------------------------------------------------------------------------------------------------------

REFUSED = {
    "nowhere.search:Mine": "importing 'nowhere.search' failed: No module named 'nowhere'. Python looks in the working "
    "directory and in the folders of PYTHONPATH: put 'nowhere' there, or install it, on every machine that trains",
    "guest.nowhere:Mine": "importing 'guest.nowhere' failed: No module named 'guest.nowhere'",
    "guest.lacking:Mine": "importing 'guest.lacking' failed: No module named 'no_such_library'",
    "guest.broken:Mine": "importing 'guest.broken' failed: RuntimeError: no licence (",
    "guest.exits:Mine": "importing 'guest.exits' failed: SystemExit: 3 (",
    "guest.spelt:Mine": "importing 'guest.spelt' failed: SyntaxError: expected ':' (spelt.py, line 1)",
    "guest.kinds:Trns": "kinds.py) has no class 'Trns'. Did you mean 'Turns'?",
    "guest.kinds:number": "guest.kinds:number must be a class, found 3",
    "guest.kinds:Empty": "guest.kinds:Empty is no Search (it lacks propose); see distens/search/protocol.py",
    "guest.kinds:Stub": "guest.kinds:Stub is no Search (it lacks propose)",
    "guest.kinds:Bare": "guest.kinds:Bare must be a dataclass, whose fields are its options: write @dataclass above it",
    "guest.kinds:Undecorated": "guest.kinds:Undecorated has 'extra', which is no option: write @dataclass above the",
    "guest.kinds:More": "guest.kinds:More cannot be made of its options: its constructor also needs 'must'",
    "guest.kinds:Kind": "guest.kinds:Kind has an option 'kind', which means something else in a config: rename it",
    "guest.kinds:Seconds": "guest.kinds:Seconds has an option 'seconds', which means something else there: rename it",
    "guest.kinds:Unreadable": "guest.kinds:Unreadable has options whose types cannot be checked: name 'Nowhere'",
    "guest.kinds:Pathlike": "search: file: expected text, a number, a list or a mapping, found PosixPath('a')",
    "guest.kinds:Array": "search: start: expected text, a number, a list or a mapping, found array([0., 0.])",
    "guest.kinds:DivBO": "'guest.kinds:DivBO' lies in distens, whose plug-ins go by the name of their file, as 'divbo'",
    "guest.borrows:Turns": "a class has one address; guest.borrows:Turns is defined as guest.kinds:Turns: write that",
    "guest:Lazy": "has no class 'Lazy'",
    "distens.search.divbo:DivBO": "plug-ins go by the name of their file, as 'divbo'",
    "distens.search._rounds:Budget": "plug-ins go by the name of their file",
    "__main__:Mine": "other processes cannot find '__main__:Mine'; put Mine into a file, such as nets.py, and",
    "guest.kinds:": "expected the name of a file, or package.module:Class, found 'guest.kinds:'",
    ":Mine": "expected the name of a file, or package.module:Class",
    ".guest:Mine": "expected the name of a file, or package.module:Class",
    "guest..kinds:Mine": "expected the name of a file, or package.module:Class",
    "guest.class:Mine": "expected the name of a file, or package.module:Class",
    "guest kinds:Mine": "expected the name of a file, or package.module:Class",
    "turns": "unknown search kind 'turns'. Allowed: bayes, ",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_no_plugin_is_refused_before_anything_starts(kind, guest, tmp_path):
    with pytest.raises(ConfigError) as caught:
        distens.run(small_run.config(tmp_path / "runs", search={"kind": kind, "members": 2}))
    assert REFUSED[kind] in str(caught.value)
    assert str(caught.value).startswith("search")
    assert not (tmp_path / "runs").exists()


def test_options_are_checked_as_those_of_ours(guest):
    for given, words in (
        ({"frist": 1}, "search.frist: unknown option of 'guest.kinds:Turns'. Did you mean 'first'?"),
        ({"first": "x"}, "search.first: input should be a valid integer"),
        ({"first": -1, "kind": "guest.kinds:Strict"}, "search: first: -1 is below 0"),
    ):
        with pytest.raises(ConfigError) as caught:
            registry.make_plugin("search", {"kind": "guest.kinds:Turns", **given}, "search")
        assert words in str(caught.value)


def test_a_distiller_is_one_of_two(guest):
    with pytest.raises(ConfigError) as caught:
        registry.make_plugin("distill", "guest.kinds:Empty", "distill")
    for words in ("no Distiller (it lacks growth, distill)", "no DataFree (it lacks distill, data_free, needs_proxy)"):
        assert words in str(caught.value)


def test_the_command_line_says_it_in_a_line(guest, tmp_path):
    given = small_run.config(tmp_path / "runs", search={"kind": "guest.kinds:Empty", "members": 2})
    (tmp_path / "given.yaml").write_text(to_yaml(given))
    words = [sys.executable, "-m", "distens.cli", "run", str(tmp_path / "given.yaml")]
    done = subprocess.run(words, cwd=guest.place, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: search.kind: guest.kinds:Empty is no Search (it lacks propose)")


def test_a_deeper_schedule_is_ours_alone(tmp_path):
    """What `maximum` means in somebody's own schedule, nobody here knows: such a run is resumed as it was."""
    result = distens.run(own(tmp_path, runtime="inline", tracking="off", baselines=[], distill=None))
    with pytest.raises(ConfigError, match=r"the config was changed since the run started \(schedule.count\)"):
        distens.resume(result.path, overrides=["schedule.count=6"])


# Ours, by the same measure ------------------------------------------------------------------------------------------

ROOT = Path(distens.__file__).parent
FAMILIES = [m.name for m in pkgutil.iter_modules([str(ROOT)]) if (ROOT / m.name / "protocol.py").exists()]


@pytest.mark.parametrize("family", FAMILIES)
def test_ours_are_plugins_by_the_same_measure_and_go_by_one_name(family):
    """So what is refused of a user's class would be refused of ours."""
    for kind in registry.names(family):
        cls = registry.find_plugin(family, kind, family)
        assert registry._find_fault(family, cls) == ""
        with pytest.raises(ConfigError, match=f"plug-ins go by the name of their file, as '{kind}'"):
            registry.find_plugin(family, f"{cls.__module__}:{cls.__name__}", family)


def test_the_lab_has_one_of_each_family():
    lab = importlib.import_module("plugins.lab")
    found = [cls for cls in vars(lab).values() if isinstance(cls, type) and cls.__module__ == "plugins.lab"]
    for family in FAMILIES:
        assert any(registry._find_fault(family, cls) == "" for cls in found), family
