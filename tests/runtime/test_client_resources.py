"""Clients that occupy more than others, or less: actors of several sizes in one small Ray, and never one that waits for
another for ever."""

import json
from collections import deque
from pathlib import Path

import pytest

import distens
from distens import registry
from distens.config.config import parse_config
from distens.config.sections import DataSection
from distens.data.load import load_data
from distens.errors import ConfigError, RunError
from distens.lifecycle.work.train import Train
from distens.packing import Planner
from distens.records import Report, Resources, Task
from distens.roles.ensemble.proposals import pack_tasks
from distens.roles.federated.plan import build_plan
from distens.runtime import _sizes, ray_actors
from distens.runtime.protocol import RunContext
from distens.storage.journal import Journal
from distens.storage.store import Store

CLIENT = {"kind": "client", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 1, "batch_size": 64}
WITH_ROWS = {"source": "sklearn:digits", "splits": {"train": 0.4, "search": 0.1, "combine": 0.1, "test": 0.4}}
LIAR = "plugins.members.liar:Liar"
ALONE = {"kind": "ray_actors", "pack": 1}


def config(folder, resources=None, *, rounds=2, runtime=ALONE, client=None, **section):
    federated = {"clients": 4, "rounds": rounds, **section}
    if resources is not None:
        runtime = {"kind": runtime} if isinstance(runtime, str) else runtime
        runtime = {**runtime, "resources": resources}
    return parse_config(
        {
            "name": "fed",
            "role": "federated",
            "storage": str(folder),
            "data": WITH_ROWS,
            "federated": federated,
            "members": {"small": {**CLIENT, **(client or {})}},
            "runtime": runtime,
            "tracking": "off",
        }
    )


def learned(path):
    """Return the bytes of all weights that a run kept."""
    files = [*Path(path).glob("members/*/*/state*"), *Path(path).glob("rounds-weights/*.safetensors")]
    return {str(file.relative_to(path)): file.read_bytes() for file in files}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    """Rounds and one shot without `resources`: how many rounds -> weights."""
    runs = tmp_path_factory.mktemp("calm")
    inline = {"kind": "inline", "pack": 1}
    return {rounds: learned(distens.run(config(runs, rounds=rounds, runtime=inline)).path) for rounds in (1, 2)}


# A federation ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rounds", "large"), [(1, "c3"), (2, "c0")], ids=["one shot, last", "rounds, first"])
def test_a_client_that_has_the_cluster_to_itself_changes_no_weights(rounds, large, calm, tmp_path, ray_here):
    """Nearly all of two CPUs, so that it has one thread like the others: then weights are the same bits."""
    found = distens.run(config(tmp_path, {large: {"cpus": 1.9}}, rounds=rounds))
    assert learned(found.path) == calm[rounds]
    tasks = [e["task"] for e in Journal(Store(found.path), "journal").entries() if "task" in e]
    cpus = {task["id"]: task["resources"]["cpus"] for task in tasks if "client" in task.get("work", {})}
    assert cpus == ({"c0": 1.0, "c1": 1.0, "c2": 1.0, "c3": 1.9} if rounds == 1 else {})


def test_a_clients_actor_has_its_resources_and_the_others_have_the_runtimes(tmp_path, ray_here):
    """Each notes how many threads it has, alone or packed: its actor's CPUs. All of a family, but for a client."""
    notes = {f"c{i}": f"threads {tmp_path / f'c{i}'}" for i in range(4)}
    resources = {"small": {"cpus": 2}, "c1": {"cpus": 0.5}}
    runtime = {"kind": "ray_actors"}
    distens.run(config(tmp_path, resources, client={"kind": LIAR, "does": notes}, rounds=2, runtime=runtime))
    assert [(tmp_path / f"c{i}").read_text() for i in range(4)] == ["2", "1", "2", "2"]


def test_packs_are_of_clients_that_occupy_the_same():
    sizes = [Resources(2.0 if i in (1, 4) else 1.0) for i in range(5)]
    tasks = [Task(f"c{i}", "client", {"family": "a", **CLIENT}, i, size, work=Train()) for i, size in enumerate(sizes)]
    planner = Planner(2, lambda: 1, 0.0, lambda settings: False, (8, 8), 10)
    assert [[task.id for task in pack] for pack in pack_tasks(tasks, planner)] == [["c0", "c2"], ["c3"], ["c1", "c4"]]


def test_more_than_any_node_has_is_refused_by_name_before_training(tmp_path, ray_here):
    for own, words in (({"cpus": 3}, r"c3\.cpus: 3 CPUs"), ({"gpus": 8}, r"c3\.gpus: 8 GPUs")):
        with pytest.raises(RunError, match=rf"runtime\.resources\.{words}.*no node has more than"):
            distens.run(config(tmp_path, {"c0": {"cpus": 2}, "c3": own}))
    (path,) = tmp_path.iterdir()
    assert (path / "run.json").exists() and not (path / "rounds").exists() and not (path / "members").exists()
    done = distens.resume(str(path), overrides=["runtime.resources.c3.gpus=0", "runtime.resources.c0.cpus=1"])
    assert done.path == str(path)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        (
            {"resources": {"c1": {"cpus": 2}}, "runtime": "inline"},
            "runtime.resources: unknown option of 'inline'",
        ),
        ({"resources": {"c1": {"gpus": 1.5}}}, "runtime.resources.c1.gpus: a fraction or a whole number of GPUs"),
        ({"resources": {"c1": {"cpus": 0}}}, "runtime.resources.c1.cpus"),
        ({"resources": {"c1": {}}}, "runtime.resources.c1: none of cpus, gpus, memory_gib, custom"),
        ({"resources": {"c1": {"cpu": 2}}}, "runtime.resources.c1: unknown key 'cpu'. Did you mean 'cpus'?"),
        (
            {"resources": {"c1": {"cpus": 2}}, "clients": None, "sources": {"a": "a.npz", "b": "b.npz"}},
            "'c1' is not among the clients or families. Clients: a, b. Families: small",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(section, words, tmp_path):
    with pytest.raises(ConfigError) as caught:
        build_plan(config(tmp_path, **section))
    assert words in str(caught.value)


def test_a_client_that_the_partition_does_not_make_is_refused_before_training(tmp_path, ray_here):
    with pytest.raises(
        RunError, match=r"'c9' is not among the clients or families. Clients: c0, .*, c3. Families: small"
    ):
        distens.run(config(tmp_path, {"c9": {"cpus": 2}}))
    (path,) = tmp_path.iterdir()
    assert (path / "run.json").exists() and not (path / "rounds").exists()


def test_what_clients_occupy_does_not_name_the_run(tmp_path):
    named = {config(tmp_path, resources).run_name() for resources in (None, {}, {"c1": {"cpus": 2}})}
    assert len(named) == 1


# A pool of actors -----------------------------------------------------------------------------------------------------

QUICK = {"family": "a", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 1}


def carried_out(sizes, folder):
    """Return what came of tasks of these sizes, and the sizes of the actors that were left."""
    runner = registry.make_plugin("runtime", ALONE, "runtime")
    folder.mkdir(exist_ok=True)
    toy = {"family": "a", "kind": "plugins.members.pretend:Pretend", "notes": str(folder / "notes")}
    tasks = [Task(f"m{i}", "search", toy, i, Resources(cpus), work=Train()) for i, cpus in enumerate(sizes)]
    runner.prepare(0, [])
    runner.start(RunContext(Store(str(folder)), load_data(DataSection(source="sklearn:iris"), 0).dataset.for_members()))
    try:
        found = [outcome for outcomes in runner.run(iter([task] for task in tasks)) for outcome in outcomes]
        return found, sorted(actor.size.cpus for actor in runner._spare.idle)
    finally:
        runner.stop()


def test_actors_of_several_sizes_make_room_for_each_other(tmp_path, ray_here):
    """In two CPUs: none that is idle keeps the room of one that waits, and what fits beside the others stays."""
    found, left = carried_out([0.5, 2, 1, 2, 0.5], tmp_path)
    assert sorted(outcome.task_id for outcome in found if isinstance(outcome, Report)) == [f"m{i}" for i in range(5)]
    assert sum(left) <= 2
    _, left = carried_out([1, 0.5, 1, 0.5], tmp_path / "fits")
    assert set(left) == {0.5, 1} and sum(left) <= 2


def test_an_idle_actor_gives_way_where_others_hold_the_rest(tmp_path, neighbour, monkeypatch):
    """One CPU is somebody else's, so that there is none for the second task beside the first's idle actor; counted
    alone, there are two."""
    monkeypatch.setattr(ray_actors, "PATIENCE_SECONDS", 0.5)
    neighbour(1)
    found, left = carried_out([0.5, 1], tmp_path)
    assert len(found) == 2 and left == [1]


def alone(*sizes):
    return [[Task(f"m{i}", "search", {}, i, resources=size, work=Train())] for i, size in enumerate(sizes)]


def test_what_does_not_fit_waits_while_others_go_first():
    """Room for 2 CPUs, of which 1 is taken: the first pack waits, the second goes; then there is room for no pack of
    the third's size, and the fourth is not pulled, because no more than two wait."""
    small, large = Resources(1.0), Resources(2.0)
    left, waiting = iter(alone(large, small, large, small)), deque()
    assert _sizes.next_that_fits(left, waiting, [small], {"CPU": 2.0}, 2)[0].id == "m1"
    assert _sizes.next_that_fits(left, waiting, [small, small], {"CPU": 2.0}, 2) is None
    assert [pack[0].id for pack in waiting] == ["m0", "m2"] and next(left)[0].id == "m3"
    assert _sizes.next_that_fits(left, waiting, [], {"CPU": 2.0}, 2)[0].id == "m0"
    assert _sizes.next_that_fits(left, waiting, [], {"CPU": 1.0}, 2)[0].id == "m2", "alone, whatever is next"


def test_actors_with_gpus_end_for_want_of_gpus_alone():
    plain, fast = Resources(1.0), Resources(1.0, 1.0)
    room = {"CPU": 4.0, "GPU": 1.0}
    assert _sizes.actors_to_end([fast, plain, plain], [Resources(2.0)], room) == [1]
    assert _sizes.actors_to_end([plain, fast, plain], [Resources(0.5, 0.5)], room) == [1]
    assert _sizes.actors_to_end([plain, fast], [Resources(4.0)], room) == [0, 1]
    assert _sizes.actors_to_end([plain, fast], [plain], room) == []


def test_cpus_and_gpus_must_be_on_one_node():
    nodes = [{"CPU": 8.0}, {"CPU": 2.0, "GPU": 4.0}]
    _sizes.check_room(nodes, Resources(8.0), {"runtime.resources.a": Resources(2.0, 4.0)})
    with pytest.raises(RunError, match=r"runtime.resources.a: no node has both 4 CPUs and 1 GPUs"):
        _sizes.check_room(nodes, Resources(1.0), {"runtime.resources.a": Resources(4.0, 1.0)})


def test_members_that_were_pending_go_on_with_what_the_runtime_says_now(tmp_path):
    """Their journal says what it was when they were dispatched: more than there is now."""
    values = {"name": "s", "storage": str(tmp_path), "data": {"source": "sklearn:iris"}, "tracking": "off"}
    family = {key: value for key, value in QUICK.items() if key != "family"}
    values |= {"members": {"a": family}, "search": {"kind": "random", "members": 2}, "runtime": "inline"}
    path = Path(distens.run(parse_config(values)).path)
    for file in sorted(path.glob("journal/*.json")):
        entries = [e for e in json.loads(file.read_text()) if e.get("report", {}).get("task_id") != "m0001"]
        for entry in entries:
            del entry["crc32"]
            if "task" in entry:
                entry["task"]["resources"]["cpus"] = 64.0
        file.write_text(json.dumps(entries))
    (path / "results.json").unlink()
    distens.resume(str(path))
    tasks = [e["task"] for e in Journal(Store(str(path)), "journal").entries() if "task" in e]
    last = [task for task in tasks if task["id"] == "m0001"][-1]
    assert (last["attempt"], last["resources"]["cpus"]) == (2, 1.0)
