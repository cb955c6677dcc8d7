"""Works: what a task does is a value, found again by its kind; what must be tried to be judged is judged by a task."""

import json

import numpy as np
import pytest
import small_run

import distens
from distens import coordinator, probabilities, registry
from distens.errors import RunError
from distens.lifecycle import tasks
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.session import Session, silent
from distens.lifecycle.work.evaluate import Evaluate
from distens.lifecycle.work.train import Train
from distens.records import Address, Task, Teacher
from distens.roles.federated.work.client_round import ClientRound
from distens.runtime.protocol import RunContext
from distens.storage.store import Store

WORKS = [("lifecycle.work", name) for name in registry.names("lifecycle.work")]
WORKS += [("roles.federated.work", name) for name in registry.names("roles.federated.work")]
MEMBERS = {
    "near": {"kind": "estimator", "estimator": "k_nearest_neighbours", "options": {"n_neighbors": 1}},
    "far": {"kind": "estimator", "estimator": "k_nearest_neighbours", "options": {"n_neighbors": 9}},
}


@pytest.mark.parametrize(("family", "name"), WORKS)
def test_every_work_is_found_again_by_its_kind(family, name):
    values = {
        "client": "c1",
        "round": 3,
        "distiller": {"kind": "student"},
        "teachers": (Teacher({"kind": "k"}, Address("p", "ab", 3), 0.5),),
    }
    values["members"] = values["teachers"]
    cls = registry.find_plugin(family, name, "work")
    work = cls(**{option: values[option] for option in registry.options(cls)})
    task = Task("t", "purpose", {"family": "a"}, 1, work=work)
    again = tasks.task_from_json(json.loads(json.dumps(tasks.task_to_json(task))))
    assert again == task and type(again.work) is cls
    kind = tasks.work_kind(work)
    assert kind == (name if family == "lifecycle.work" else f"federated.{name}")
    assert tasks.find_work(kind) is cls


def test_a_kind_that_is_not_there_is_refused():
    assert tasks.work_kind(ClientRound("c", 0)) == "federated.client_round"
    for kind, words in {
        "trian": "unknown kind 'trian'. Did you mean 'train'",
        "federated.judgement": "unknown kind 'federated.judgement'. Did you mean 'judge'",
        "os.system": "'os.system' belongs to an unknown role",
        "os:system": "'os:system' is not a work in a module that the config names",
        "subprocess:Popen": "'subprocess:Popen' is not a work in a module",
        "nowhere:Work": "'nowhere:Work' is not a work in a module",
    }.items():
        with pytest.raises(ValueError, match=words.replace(".", r"\.")):
            tasks.find_work(kind)


def test_candidates_are_measured_on_common_rows(tmp_path):
    """The mean of two members, as it is measured by a task, is the mean of their stored predictions; and the loss of
    each row is -log of what that gives its label."""
    members = {name: {**one} for name, one in MEMBERS.items()}
    search = {"kind": "random", "members": 4}
    config = small_run.config(tmp_path, members=members, search=search, baselines=[], distill=None, select="top")
    store = Store(distens.run(config).path)
    plan, ledger = coordinator.make_plan(config), Ledger(store)
    entries = ledger.finished("search")[:2]
    given = [Teacher(e.task.settings, e.report.files["state"], w) for e, w in zip(entries, (0.25, 0.75), strict=True)]
    role = coordinator.role_of(config)
    with Session(plan, store, silent, store.read_json("run.json"), lambda: role.data(plan)) as session:
        loaded = session.open()
        session.start(RunContext(store, loaded.dataset.for_members()))
        found = session.evaluate({"both": given, "one": [Teacher(given[0].settings, given[0].state, 1.0)]})
        broken = Teacher(given[0].settings, Address("members/none", "ab" * 32, 3), 1.0)
        with pytest.raises(RunError, match="evaluate-gone: crashed"):
            session.evaluate({"gone": [broken]})
    labels_N = loaded.dataset.labels["search"]
    stored = [store.read_predictions(entry.report.files["search"]) for entry in entries]
    mixed_NC = probabilities.mix(stored, np.array([0.25, 0.75]))
    assert found["both"]["nll"].mean() == pytest.approx(probabilities.negative_log_likelihood(mixed_NC, labels_N))
    assert found["one"]["error"].mean() == pytest.approx(entries[0].report.metrics["error"])
    assert Evaluate(tuple(given)).plugins() == [("members", member.settings) for member in given]
    assert Train().plugins() == ()
