"""What members occupy by family, client and kind, and members of several processes; on a Ray that was told of four GPUs
(a number only: nothing here computes on one)."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

import distens
from distens import registry
from distens.config.config import parse_config
from distens.config.sections import DataSection
from distens.data.load import load_data
from distens.errors import ConfigError, RunError
from distens.lifecycle.occupying import explain_unknown_name, occupied_resources, unusual_resources
from distens.lifecycle.tasks import task_from_json, task_to_json
from distens.lifecycle.work.train import Train
from distens.records import Report, Resources, Task
from distens.roles.ensemble.plan import build_plan as check_ensemble
from distens.roles.federated.plan import build_plan as check_federated
from distens.runtime import _sizes, ray_actors
from distens.runtime._placing import Placement
from distens.runtime.protocol import RunContext
from distens.storage.journal import Journal
from distens.storage.store import Store

BOOSTING = {"family": "boosting", "kind": "estimator", "estimator": "lightgbm"}
NET = {"family": "net", "kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 1}
GROUP = {"family": "law", "kind": "module", "path": "user_module:Plain", "batch_size": 50, "processes": 2}


def runner(**options):
    return registry.make_plugin("runtime", {"kind": "ray_actors", "pack": 1, **options}, "runtime")


@dataclass(frozen=True)
class Noted:
    """A work that notes where it was carried out, and takes its time."""

    folder: str
    seconds: float = 0.0
    packable: ClassVar[bool] = False
    divisible: ClassVar[bool] = True
    limit_option: ClassVar[str] = ""

    def group(self, task, context):
        return task.id

    def plugins(self):
        return ()

    def carry_out(self, tasks, context):
        import ray

        (task,) = tasks
        group = ray.util.get_current_placement_group()
        found = {
            "actor": ray.get_runtime_context().get_actor_id(),
            "held": ray.get_runtime_context().get_assigned_resources(),
            "parts": group and group.bundle_specs,
            "threads": context.threads,
        }
        Path(self.folder, task.id).write_text(json.dumps(found))
        time.sleep(self.seconds)
        yield Report(task.id, task.attempt, {}, self.seconds, 0, 0.0, "", {})


def noted(tasks, folder, given, also=None):
    """Carry tasks out, and return what each noted, in order; and the sizes of the actors that were left."""
    given.prepare(0, [])
    given.start(
        RunContext(Store(str(folder)), load_data(DataSection(source="sklearn:iris"), 0).dataset.for_members()),
        also or {},
    )
    try:
        outcomes = [outcome for outcomes in given.run(iter([task] for task in tasks)) for outcome in outcomes]
        assert all(isinstance(outcome, Report) for outcome in outcomes), outcomes
        left = [actor.size for actor in given._spare.idle]
    finally:
        given.stop()
    return [json.loads(Path(folder, task.id).read_text()) for task in tasks], left


def task(name, needs, folder, seconds=0.0):
    return Task(name, "search", NET, 0, needs, Noted(str(folder), seconds))


# What the config says -------------------------------------------------------------------------------------------------


def test_a_family_occupies_what_the_config_says_of_it_and_boosting_no_gpu():
    given = runner(cpus_per_member=2, gpus_per_member=1, resources={"law": {"gpus": 2}, "c1": {"cpus": 3}})
    assert occupied_resources(given, NET) == Resources(2.0, 1.0)
    assert occupied_resources(given, BOOSTING) == Resources(2.0, 0.0)
    assert occupied_resources(given, {**NET, "family": "law"}) == Resources(2.0, 2.0)
    assert occupied_resources(given, {**NET, "family": "law"}, "c1") == Resources(3.0, 1.0), (
        "a client's own comes first"
    )
    assert occupied_resources(registry.make_plugin("runtime", "inline", "runtime"), GROUP) == Resources(1.0)


@pytest.mark.parametrize(
    ("options", "settings", "needs", "part"),
    [
        ({}, {}, Resources(2.0, processes=2), Resources(1.0)),
        ({"cpus_per_member": 8}, {}, Resources(8.0, processes=2), Resources(4.0)),
        ({"gpus_per_member": 2}, {}, Resources(2.0, 2.0, processes=2), Resources(1.0, 1.0)),
        ({"gpus_per_member": 4}, {}, Resources(2.0, 4.0, processes=2), Resources(1.0, 2.0)),
        ({}, {"gpus_per_process": 1}, Resources(2.0, 2.0, processes=2), Resources(1.0, 1.0)),
        (
            {"memory_gib_per_member": 3, "custom_per_member": {"disk": 1}},
            {},
            Resources(2.0, 0.0, 3.0, (("disk", 1.0),), 2),
            Resources(1.0, 0.0, 1.5, (("disk", 0.5),)),
        ),
        ({"gpus_per_member": 1}, {"processes": 1}, Resources(1.0, 1.0), Resources(1.0, 1.0)),
    ],
)
def test_processes_divide_what_a_member_occupies(options, settings, needs, part):
    found = occupied_resources(runner(**options), {**GROUP, **settings})
    assert found == needs and found.part() == part


def test_one_gpu_cannot_be_divided_among_two_processes():
    with pytest.raises(ConfigError, match="runtime: gpus: 1 cannot be divided among 2 processes"):
        occupied_resources(runner(gpus_per_member=1), GROUP)
    with pytest.raises(ConfigError, match=r"runtime.resources.law: gpus: 3 cannot be divided among 2 processes"):
        occupied_resources(runner(resources={"law": {"gpus": 3}}), GROUP)


def test_what_is_not_as_usual_is_known_by_its_key():
    given = runner(gpus_per_member=2, resources={"law": {"cpus": 4}})
    assert unusual_resources(given, [NET, BOOSTING, GROUP]) == {
        "members.boosting": Resources(1.0, 0.0),
        "runtime.resources.law": Resources(4.0, 2.0, processes=2),
    }
    assert explain_unknown_name(given, {"families": ["law"]}) == ""
    assert (
        explain_unknown_name(given, {"families": ["low"]})
        == "runtime.resources: 'law' is not among the families. Families: low"
    )


def ensemble(folder, runtime, **members):
    return parse_config(
        {
            "name": "sized",
            "storage": str(folder),
            "data": {"source": "sklearn:iris"},
            "members": {name: {k: v for k, v in one.items() if k != "family"} for name, one in members.items()},
            "search": {"kind": "random", "members": 6},
            "runtime": {"kind": "ray_actors", **runtime},
            "tracking": "off",
        }
    )


@pytest.mark.parametrize(
    ("runtime", "words"),
    [
        (
            {"resources": {"low": {"cpus": 2}}},
            "runtime.resources: 'low' is not among the families. Families: boosting, net",
        ),
        (
            {"resources": {"boosting": {"gpus": 2}}},
            "runtime.resources.boosting.gpus: 2 have no effect: no member of kind 'estimator' uses one",
        ),
        ({"resources": {"net": {"gpus": 1.5}}}, "runtime.resources.net.gpus: a fraction or a whole number of GPUs"),
        ({"resources": {"net": {"gpu": 1}}}, "runtime.resources.net: unknown key 'gpu'. Did you mean 'gpus'?"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_starts(runtime, words, tmp_path):
    with pytest.raises(ConfigError) as caught:
        check_ensemble(ensemble(tmp_path, runtime, boosting=BOOSTING, net=NET))
    assert words in str(caught.value)


def federation(folder, runtime="ray_actors", **section):
    return parse_config(
        {
            "name": "fed",
            "role": "federated",
            "storage": str(folder),
            "data": {"source": "sklearn:digits", "splits": {"train": 0.4, "search": 0.1, "combine": 0.1, "test": 0.4}},
            "federated": {"clients": 4, **section},
            "members": {"client": {"kind": "client", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 1}},
            "runtime": runtime,
            "tracking": "off",
        }
    )


def test_what_a_federations_section_said_is_read_as_the_runtimes(tmp_path):
    own = {"c1": {"cpus": 2, "gpus": 1}, "client": {"custom": {"disk": 2}}}
    now = federation(tmp_path, {"kind": "ray_actors", "resources": own})
    plan = check_federated(now)
    for older in (federation(tmp_path, resources=own), federation(tmp_path, {"kind": "ray_actors"}, resources=own)):
        assert check_federated(older).config == plan.config and older.hash() == now.hash()
    assert plan.resources(1, "c1") == Resources(2.0, 1.0)
    assert plan.resources(2, "c2") == Resources(custom=(("disk", 2.0),))
    assert parse_config(plan.config.model_dump(mode="json")) == plan.config, "and is read again as it was resolved"
    with pytest.raises(ConfigError, match=r"federated.resources: is read as runtime.resources, which is given too"):
        check_federated(federation(tmp_path, {"kind": "ray_actors", "resources": own}, resources=own))
    assert federation(tmp_path, "inline", resources={}).hash() == federation(tmp_path, "inline").hash()


def test_a_journal_keeps_processes():
    done = Task("m0", "search", GROUP, 1, Resources(2.0, processes=2), work=Train())
    assert task_to_json(done)["resources"] == {"cpus": 2.0, "gpus": 0.0, "processes": 2}
    assert task_from_json(task_to_json(done)) == done


# Room -----------------------------------------------------------------------------------------------------------------


def test_parts_of_one_member_may_be_on_several_nodes():
    """Parts of 2 CPUs and a GPU: two on the first node, one on the second, none on the third."""
    nodes = [{"CPU": 8.0, "GPU": 2.0}, {"CPU": 2.0, "GPU": 4.0}, {"CPU": 8.0}]
    three, four = (Resources(2.0 * count, float(count), processes=count) for count in (3, 4))
    assert [_sizes.count_all(nodes, needs) for needs in (Resources(2.0, 1.0), three, four)] == [3, 1, 0]
    _sizes.check_room(nodes, Resources(), {"members.law": three})
    with pytest.raises(RunError, match=r"members.law: a member of 4 processes needs 2 CPUs and 1 GPUs for each, .* 3"):
        _sizes.check_room(nodes, Resources(), {"members.law": four})
    with pytest.raises(RunError, match=r"members.law.gpus: 5 GPUs for each of a member's 2 processes, but no node has"):
        _sizes.check_room(nodes, Resources(), {"members.law": Resources(2.0, 10.0, processes=2)})


def test_members_without_gpus_go_beside_those_that_have_them(monkeypatch):
    """Four GPUs and 16 CPUs: 4 members of the usual size, 16 of the smallest; never more than `concurrency`."""
    for concurrency, found in ((None, (4, 16)), (6, (4, 6)), (2, (2, 2))):
        places = Placement(Resources(1.0, 1.0), {}, "pack", 0.0, concurrency)
        monkeypatch.setattr(places, "_nodes", lambda: [{"CPU": 16.0, "GPU": 4.0}])
        assert places.max_actors() == places.slots() == found[0]
        places.check({"members.boosting": Resources(1.0)})
        assert (places.slots(), places.max_actors()) == found


# On Ray ---------------------------------------------------------------------------------------------------------------


def test_boosting_occupies_no_gpu_and_is_trained_where_torch_sees_none(tmp_path, ray_here):
    """Networks ask for a GPU each, which is there by number only: they are refused, and named; boosting is trained."""
    members = {"boosting": {**BOOSTING, "options": {"n_estimators": 5}}, "net": NET}
    found = distens.run(ensemble(tmp_path, {"gpus_per_member": 1, "retries": 0}, **members))
    tasks = {e["task"]["id"]: e["task"] for e in Journal(Store(found.path), "journal").entries() if "task" in e}
    gpus = {(one["settings"]["family"], one["resources"]["gpus"]) for one in tasks.values()}
    assert gpus == {("boosting", 0.0), ("net", 1.0)}
    results = json.loads(Path(found.path, "results.json").read_text())
    refused = {name for name, one in tasks.items() if one["settings"]["family"] == "net"}
    assert {one["id"] for one in results["failures"]} == refused
    assert all("torch sees none" in one["message"] for one in results["failures"])


def test_two_clients_of_different_sizes_are_placed_as_told(tmp_path, ray_here):
    resources = {"c0": {"gpus": 3}, "c1": {"cpus": 2, "gpus": 0.5}}
    plan = check_federated(federation(tmp_path, {"kind": "ray_actors", "resources": resources}))
    tasks = [task(f"c{i}", plan.resources(i, f"c{i}"), tmp_path) for i in range(3)]
    found, _ = noted(tasks, tmp_path, plan.runner, plan.also)
    held = [{name: one["held"][name] for name in ("CPU", "GPU") if name in one["held"]} for one in found]
    assert held == [{"CPU": 1.0, "GPU": 3.0}, {"CPU": 2.0, "GPU": 0.5}, {"CPU": 1.0}]
    assert [one["threads"] for one in found] == [1, 2, 1]


def test_a_member_on_two_of_four_gpus_does_not_wait_for_what_idle_actors_hold(tmp_path, ray_here, monkeypatch):
    """Four idle actors hold all four GPUs; two must end, and at once: nobody's patience is tried."""
    monkeypatch.setattr(ray_actors, "PATIENCE_SECONDS", math.inf)
    single, double = Resources(0.25, 1.0), Resources(1.0, 2.0, processes=2)
    tasks = [task(f"m{i}", single, tmp_path, seconds=1.0) for i in range(4)] + [task("m4", double, tmp_path)]
    given = runner(cpus_per_member=0.25, gpus_per_member=1)
    found, left = noted(tasks, tmp_path, given, {"members.law": double})
    assert len({one["actor"] for one in found}) == 5
    assert found[4]["parts"] == [{"CPU": 0.5, "GPU": 1.0}] * 2
    assert not {"CPU", "GPU"} & set(found[4]["held"]), "all that it has is in its reservation"
    assert left.count(double) == 1 and left.count(single) <= 2


def test_a_reservation_is_used_again_and_ends_with_the_run(tmp_path, ray_here):
    double = Resources(1.0, 4.0, processes=2)
    found, left = noted(
        [task(f"m{i}", double, tmp_path) for i in range(3)], tmp_path, runner(), {"runtime.resources.law": double}
    )
    assert len({one["actor"] for one in found}) == 1 and left == [double]
    states = {one["state"] for one in ray_here.util.placement_group_table().values()}
    assert states <= {"REMOVED"}


MODULE = """
import os, pathlib, torch
class Frail(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(4, 3)
        flag = pathlib.Path(__file__).with_name("died")
        if os.environ.get("RANK") == "1" and not flag.exists():
            flag.touch()
            os._exit(1)
    def forward(self, x):
        return self.net(x)
"""


def test_two_processes_of_a_member_need_two_cpus_and_one_that_dies_is_no_loss(tmp_path, ray_here, monkeypatch):
    """The member's own actor needs none beside theirs: there are two in all."""
    (tmp_path / "frail.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    law = {"kind": "module", "path": "frail:Frail", "batch_size": 50, "processes": 2, "epochs": 3}
    config = ensemble(tmp_path, {}, law=law).model_dump(mode="json")
    config["search"] = {"kind": "random", "members": 1}
    found = distens.run(parse_config(config))
    (asked,) = [e["task"] for e in Journal(Store(found.path), "journal").entries() if "task" in e]
    assert asked["resources"] == {"cpus": 2.0, "gpus": 0.0, "processes": 2} and (tmp_path / "died").exists()
    (lost,) = json.loads(Path(found.path, "results.json").read_text())["failures"]
    assert (lost["attempt"], lost["final"], lost["reason"]) == (1, False, "crashed")
