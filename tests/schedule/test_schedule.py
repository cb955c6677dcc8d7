"""Schedules: the family's exam, numbers worked by hand, and whole runs through kills and deepenings."""

import json
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kills import killed

import distens
from distens import registry
from distens.config.config import parse_config
from distens.data.dataset import Examples
from distens.errors import ConfigError
from distens.lifecycle.ledger import Ledger
from distens.lifecycle.work.train import Train
from distens.records import Failure, Finished, History, Report, Task
from distens.roles.ensemble.plan import build_plan
from distens.schedule._rungs import best_of_rung
from distens.schedule.protocol import TrainingLength
from distens.storage import editions
from distens.storage.checkpoint import Checkpoint
from distens.storage.store import Store
from distens.training.context import Context

LENGTHS = {"mlp": TrainingLength((27,), None)}
KINDS = registry.names("schedule")


def planned(kind, **options):
    return registry.make_plugin("schedule", {"kind": kind, **options}, "schedule").planned(LENGTHS)


def noise(member, budget):
    """The metric of a member after so many epochs: better with each, and members differ."""
    rng = np.random.default_rng([len(member), *member.encode()])
    return float(rng.random() + rng.random() / budget)


class Simulation:
    """A schedule at work: what a coordinator does with it, without training anything.

    Args:
        slots: tasks out at once; they come back in a random order.
        members: how many are started at most.
        value: (member, epochs) -> metric; None: the member fails there.
        watch: is shown every decision, with the history that led to it.
    """

    def __init__(self, folder, slots=1, members=40, value=noise, watch=lambda history, decision: None):
        self.ledger, self.asked = Ledger(Store(str(folder))), []
        self._slots, self._members, self._value, self._watch = slots, members, value, watch

    def run(self, schedule, seed=0, whole=lambda member: False):
        rng, running = np.random.default_rng(seed), []
        while True:
            while len(running) < self._slots:
                task = self._next(schedule, whole)
                if task is None:
                    break
                self.asked.append(task.id)
                running += self.ledger.ask([task])
            if not running:
                return self
            self._come_back(running.pop(int(rng.integers(len(running)))))

    def history(self):
        return self.ledger.reports("search", "nll")

    def _next(self, schedule, whole):
        history = self.history()
        decision = schedule.decide(history)
        self._watch(history, decision)
        if decision.promote:
            task, budget = decision.promote[0].entry.task, decision.promote[0].budget
            return replace(task, id=f"{task.member}-{budget}", budget=budget, attempt=1)
        start = decision.start
        if start is None or sum(history.started.values()) == self._members:
            return None
        member = f"{start.bracket}m{history.started.get(start.bracket, 0):04d}"
        budget = None if whole(member) else start.budget
        name = member if budget is None else f"{member}-{budget}"
        settings = {"family": "mlp", "name": member}
        return Task(name, "search", settings, 0, work=Train(), member=member, budget=budget, bracket=start.bracket)

    def _come_back(self, task):
        value = self._value(task.member, task.budget or 81)
        if value is None:
            self.ledger.tell([Failure(task.id, 1, "diverged", "nan", 1.0, "")])
        else:
            self.ledger.tell([Report(task.id, 1, {"nll": value}, 1.0, 1, 1.0, "", {})])


# The family's exam ---------------------------------------------------------------------------------------------------


def failing(member, budget):
    """Every fifth member fails at once, every seventh in its second rung."""
    number = int(member.rpartition("m")[2])
    if number % 5 == 4 or (number % 7 == 6 and budget > 3):
        return None
    return noise(member, budget)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("slots", [1, 4])
@pytest.mark.parametrize("value", [noise, failing])
def test_decisions_lie_within_bounds_and_follow_from_history(kind, slots, value, tmp_path):
    """Whoever is promoted is among the best floor(n / eta) of the n that came back in its rung, was not before, and
    goes to the next number of epochs; nobody is promoted from a failure. The same history, the same decision."""
    schedule = planned(kind)
    numbers = (1, 3, 9, 27)

    def watch(history, decision):
        assert schedule.decide(history) == decision
        assert decision.start is None or decision.start.budget in (None, *numbers)
        goals = [(p.entry.task.member, p.budget) for p in decision.promote]
        assert len(set(goals)) == len(goals)
        for promotion in decision.promote:
            task = promotion.entry.task
            assert promotion.budget == numbers[numbers.index(task.budget) + 1]
            done = history.rungs[task.bracket, task.budget].done
            ahead = sum(
                isinstance(e, Finished) and e.report.metrics["nll"] < promotion.entry.report.metrics["nll"]
                for e in done
            )
            assert ahead < len(done) // 3
            above = history.rungs.get((task.bracket, promotion.budget))
            assert above is None or task.member not in above.asked

    simulation = Simulation(tmp_path, slots, 40 if kind != "hyperband" else 49, value, watch).run(schedule)
    assert len(set(simulation.asked)) == len(simulation.asked)
    assert sum(simulation.history().started.values()) == (49 if kind == "hyperband" else 40)
    standing = schedule.standing(simulation.history())
    assert len({entry.task.member for entry in standing}) == len(standing)
    assert {entry.task.id for entry in standing} <= {e.task.id for e in simulation.ledger.all_finished()}
    assert schedule.decide(Ledger(Store(str(tmp_path))).reports("search", "nll")) == schedule.decide(
        simulation.history()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_member_that_finished_a_rung_counts_once(kind, tmp_path):
    """A member whose promotion failed keeps the rung below; one without any finished rung is what failed."""
    schedule = planned(kind)
    simulation = Simulation(tmp_path, 2, 49, failing).run(schedule)
    standing = {entry.task.member for entry in schedule.standing(simulation.history())}
    finished = {entry.task.member for entry in simulation.ledger.all_finished()}
    failed = {entry.task.member for entry in simulation.history().failed}
    assert standing == finished
    assert failed and failed.isdisjoint(finished)
    assert len(failed) + len(finished) == 49


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "none"])
def test_members_that_cannot_be_trained_in_parts_stay_outside_the_rungs(kind, tmp_path):
    schedule = planned(kind)
    whole = Simulation(tmp_path, 1, 49).run(schedule, whole=lambda member: member[-1] in "02468")
    budgets = Counter(task.budget for task in (e.task for e in whole.ledger.all_finished()))
    assert budgets[None] == sum(name[-1] in "02468" for name in whole.asked if "-" not in name) > 10
    assert budgets[27] >= 1
    assert len(schedule.standing(whole.history())) == 49


def test_a_history_holds_the_highest_rung_of_each_member_and_stays_what_it_was(tmp_path):
    """Also when files were lost: of the highest rung, the one below counts; of one below, nothing changes but that it
    is trained again."""
    simulation = Simulation(tmp_path, members=9, value=lambda member, budget: int(member[1:]))
    simulation.run(planned("halving", maximum=9))
    ledger, before = simulation.ledger, simulation.history()
    ids = ["m0000-9", "m0001-3", "m0002-3", *(f"m000{i}-1" for i in range(3, 9))]
    assert [entry.task.id for entry in before.finished] == ids
    assert len(before.known()) == 9 and dict(before.started) == {"": 9}
    rungs = {e.task.id: e for e in ledger.all_finished()}
    ledger.lose([rungs["m0000-9"], rungs["m0001-1"]])
    for one in (ledger, Ledger(Store(str(tmp_path)))):
        after = one.reports("search", "nll")
        assert {entry.task.id for entry in after.finished} == {"m0000-3", *ids[1:]}
        assert not after.pending and {task.id for task in one.pending("search")} == {"m0000-9", "m0001-1"}
    one.tell([Report("m0001-1", 2, {"nll": 1.0}, 1.0, 1, 1.0, "", {})])
    assert {entry.task.id for entry in one.reports("search", "nll").finished} == {"m0000-3", *ids[1:]}
    assert [entry.task.id for entry in before.finished] == ids


# Numbers worked by hand ----------------------------------------------------------------------------------------------


def test_halving_nine_members_by_hand(tmp_path):
    """eta 3, epochs 1, 3, 9, one slot, members from best to worst. m0 is the best of 3 and goes to 3 epochs. The best
    floor(6 / 3) = 2 of 6 are m0 and m1: m1 goes on. Of 9 the best 3: m2. Now 3 have trained 3 epochs: m0 goes to 9.
    Epochs trained: 9 x 1 + 3 x 2 + 1 x 6 = 21, of 81."""
    schedule = planned("halving", maximum=9)
    found = Simulation(tmp_path, members=9, value=lambda member, budget: int(member[1:])).run(schedule).asked
    words = "0-1 1-1 2-1 0-3 3-1 4-1 5-1 1-3 6-1 7-1 8-1 2-3 0-9"
    assert found == [f"m000{word}" for word in words.split()]


def test_halving_promotes_in_the_order_of_arrival_as_the_paper_does(tmp_path):
    """From worst to best, every member from the third on is the best of its rung when it comes: all of these go to 3
    epochs, and from the third of them on (m4) to 9 too: 7 and 5 promotions, where all at once would be 3 and 1."""
    schedule = planned("halving", maximum=9)
    found = Simulation(tmp_path, members=9, value=lambda member, budget: -int(member[1:])).run(schedule).asked
    assert [name for name in found if name.endswith("-3")] == [f"m000{i}-3" for i in range(2, 9)]
    assert [name for name in found if name.endswith("-9")] == [f"m000{i}-9" for i in range(4, 9)]


def test_of_members_that_err_alike_the_surest_go_on_then_the_first_by_name():
    found = {"m3": (0.1, 0.5), "m2": (0.1, 0.2), "m1": (0.1, 0.5), "m0": (0.2, 0.1), "m4": (0.0, 0.9)}
    tasks = [Task(name, "search", {}, 0, work=Train(), member=name) for name in found]
    history = History(metric="error")
    done = [
        Finished(task, Report(task.id, 1, {"error": found[task.id][0], "nll": found[task.id][1]}, 1.0, 1, 1.0, "", {}))
        for task in tasks
    ]
    for count, expected in ((1, "m4"), (2, "m4 m2"), (3, "m4 m2 m1"), (5, "m4 m2 m1 m3 m0")):
        assert [entry.task.member for entry in best_of_rung(done, history, count)] == expected.split()
    assert [entry.task.member for entry in best_of_rung(done, history, 3, {"m2"})] == ["m4", "m1"]


def test_brackets_of_81_epochs_by_hand():
    """s_max = 4; n = ceil(5 x 3^s / (s + 1)): 81, ceil(33.75) = 34, 15, ceil(7.5) = 8, 5."""
    brackets = planned("hyperband", maximum=81)._brackets()
    assert [bracket.members for bracket in brackets] == [81, 34, 15, 8, 5]
    assert [bracket.budgets for bracket in brackets] == [
        (1, 3, 9, 27, 81),
        (3, 9, 27, 81),
        (9, 27, 81),
        (27, 81),
        (81,),
    ]


def test_hyperband_trains_so_many_epochs(tmp_path):
    """Rung by rung, epochs beyond the rung below: b1 81 + 27 x 2 + 9 x 6 + 3 x 18 + 54 = 297, b3 34 x 3 + 11 x 6 +
    3 x 18 + 54 = 276, b9 15 x 9 + 5 x 18 + 54 = 279, b27 8 x 27 + 2 x 54 = 324, b81 5 x 81 = 405: 1581 in 206 tasks,
    whatever order they come back in."""
    schedule = planned("hyperband", maximum=81)
    for slots in (1, 7):
        simulation = Simulation(tmp_path / str(slots), slots, 143).run(schedule)
        below = {1: 0, 3: 1, 9: 3, 27: 9, 81: 27}
        tasks = [entry.task for entry in simulation.ledger.all_finished()]
        first = {task.member: int(task.bracket[1:]) for task in tasks}
        epochs = [t.budget - (0 if t.budget == first[t.member] else below[t.budget]) for t in tasks]
        assert (len(tasks), sum(epochs)) == (206, 1581)
    other = Ledger(Store(str(tmp_path / "1"))).reports("search", "nll")
    assert [e.task.id for e in schedule.standing(simulation.history())] == [e.task.id for e in schedule.standing(other)]


def test_rungs_are_counted_from_above():
    """24 // 3 = 8, 8 // 3 = 2, and 24 // 27 = 0 is below the minimum."""
    from distens.schedule._rungs import rung_epochs

    assert rung_epochs(1, 24, 3) == (2, 8, 24)
    assert rung_epochs(1, 72, 3) == (2, 8, 24, 72)
    assert rung_epochs(3, 81, 3) == (3, 9, 27, 81)
    assert rung_epochs(4, 81, 3) == (9, 27, 81)


@pytest.mark.parametrize(("slots", "seed"), [(1, 0), (5, 1)])
def test_deepening_uses_every_rung_and_ends_as_a_fresh_run(slots, seed, tmp_path):
    """The brackets of 27 epochs hold 27 + 9 + 3 + 1, 12 + 4 + 1, 6 + 2 and 4 tasks: 69. What is trained anew is what a
    fresh run of 81 epochs has and they have not."""
    old, new = planned("hyperband", maximum=27), planned("hyperband", maximum=81)
    deepened = Simulation(tmp_path / "deepened", slots, 143).run(old, seed)
    before = list(deepened.asked)
    assert len(before) == 69
    deepened.run(new, seed)
    fresh = Simulation(tmp_path / "fresh", slots, 143).run(new, seed)
    assert len(fresh.asked) == 206
    assert set(deepened.asked) == set(before) | set(fresh.asked)
    assert len(deepened.asked) == len(set(deepened.asked))
    one, two = new.standing(deepened.history()), new.standing(fresh.history())
    assert [entry.task.id for entry in one] == [entry.task.id for entry in two]
    assert {e.task.id for e in old.standing(deepened.history())} != {e.task.id for e in one}
    assert set(before) - set(fresh.asked), "nothing was discarded: the values do not test it"


def test_halving_goes_on_above_when_the_maximum_rises(tmp_path):
    simulation = Simulation(tmp_path, 1, 81).run(planned("halving", maximum=27))
    before = set(simulation.asked)
    simulation.run(planned("halving", maximum=81))
    more = [name for name in simulation.asked if name not in before]
    assert more and all(name.endswith("-81") for name in more)


# Training in parts ---------------------------------------------------------------------------------------------------

NETWORKS = {
    "constant": {"kind": "classifier", "model": {"kind": "mlp", "hidden": [16], "dropout": 0.2}, "epochs": 9},
    "cosine": {"kind": "classifier", "schedule": "cosine", "optimizer": "sgd", "epochs": 9},
    "looped": {"kind": "classifier", "model": {"kind": "mlp", "hidden": [512, 512]}, "optimizer": "adam", "epochs": 9},
    "bootstrap": {"kind": "classifier", "rows": "bootstrap", "epochs": 9},
    "plain": {"kind": "module", "path": "user_module:Plain", "epochs": 9},
    "lightning": {"kind": "module", "path": "user_module:Scheduled", "epochs": 9},
}


def examples(rows=60):
    rng = np.random.default_rng(0)
    labels_N = rng.integers(0, 3, rows)
    inputs = (rng.normal(size=(3, 6))[labels_N] + rng.normal(size=(rows, 6))).astype(np.float32)
    return Examples(inputs, labels_N, 3)


def trained(settings, checkpoint, budgets, seed=5):
    """Return the last member and the metrics of each part."""
    metrics = []
    for budget in budgets:
        member = registry.build_member({"family": "a", **settings})
        metrics.append(member.fit(examples(), Context(seed, checkpoint, budget=budget)))
    return member, metrics


def same(one, two):
    arrays, others = one.state().arrays, two.state().arrays
    return arrays.keys() == others.keys() and all(np.array_equal(arrays[key], others[key]) for key in arrays)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_member_trained_in_parts_equals_one_trained_in_one_go_bit_for_bit(name, tmp_path):
    """1, 3, 9 epochs train 1, 2 and 6 anew; without the checkpoint of the rung below, all of them, to the same end."""
    settings, store = NETWORKS[name], Store(str(tmp_path))
    whole, (at_once,) = trained(settings, Checkpoint(store, "whole"), [None])
    _, (first,) = trained(settings, Checkpoint(store, "parts"), [1])
    trained_before = Checkpoint(store, "parts").load().meta["seconds"]
    parts, metrics = trained(settings, Checkpoint(store, "parts"), [3, 9])
    metrics = [first, *metrics]
    assert [m["new_epochs"] for m in metrics] == [1, 2, 6]
    assert [m["epochs"] for m in metrics] == [1, 3, 9]
    assert metrics[-1]["train_loss"] == at_once["train_loss"]
    assert metrics[-1]["seconds"] > trained_before > 0
    assert same(whole, parts)
    Checkpoint(store, "parts").clear()
    lost, (again,) = trained(settings, Checkpoint(store, "parts"), [9])
    assert again["new_epochs"] == 9
    assert same(whole, lost)


@pytest.mark.parametrize("name", ["constant", "looped", "plain", "lightning"])
def test_the_seconds_of_a_member_are_those_of_its_training_not_of_saving(name, tmp_path):
    class Slow(Checkpoint):
        def save(self, state):
            began = time.perf_counter()
            time.sleep(0.1)
            super().save(state)
            nonlocal saving
            saving += time.perf_counter() - began

    saving, began = 0.0, time.perf_counter()
    _, (metrics,) = trained(NETWORKS[name], Slow(Store(str(tmp_path)), "m", every_seconds=0), [9])
    assert saving >= 0.2  # more than once
    assert 0 < metrics["seconds"] <= time.perf_counter() - began - saving


@pytest.mark.parametrize("name", ["constant", "looped", "lightning"])
def test_a_rung_that_was_trained_but_not_reported_is_not_trained_again(name, tmp_path):
    """And what is beyond the budget is of no use for it: the third part begins at the start."""
    store = Store(str(tmp_path))
    member, metrics = trained(NETWORKS[name], Checkpoint(store, "m"), [3, 3])
    assert metrics[0] == {**metrics[1], "seconds": metrics[0]["seconds"]}
    once, _ = trained(NETWORKS[name], Checkpoint(store, "once"), [3])
    assert same(member, once)
    _, (early,) = trained(NETWORKS[name], Checkpoint(store, "m"), [1])
    assert (early["epochs"], early["new_epochs"]) == (1, 1)


def test_a_rung_that_was_killed_counts_its_epochs_once(tmp_path):
    """Killed after epoch 5 of the rung from 3 to 9: 6 epochs, in two attempts."""
    store = Store(str(tmp_path))

    class Killed(Checkpoint):
        def save(self, state):
            super().save(state)
            if state.meta["epoch"] == 5:
                raise KeyboardInterrupt

    for name in ("constant", "looped", "plain"):
        trained(NETWORKS[name], Checkpoint(store, name, every_seconds=0), [3])
        with pytest.raises(KeyboardInterrupt):
            trained(NETWORKS[name], Killed(store, name, every_seconds=0), [9])
        member, (metrics,) = trained(NETWORKS[name], Checkpoint(store, name), [9])
        assert metrics["new_epochs"] == 6
        assert same(member, trained(NETWORKS[name], Checkpoint(store, "whole"), [9])[0])
        Checkpoint(store, "whole").clear()


def test_rungs_of_one_architecture_are_trained_together(tmp_path):
    """One from the start, one from its first epoch, one that is there already; equal to those alone, to rounding."""
    from distens.members.classifier import Classifier

    store, settings = Store(str(tmp_path)), NETWORKS["constant"]
    for seed, budgets in ((1, [1]), (2, [3])):
        trained(settings, Checkpoint(store, f"m{seed}"), budgets, seed)
    goals = [(0, 1), (1, 3), (2, 3)]
    members = [registry.build_member({"family": "a", **settings}) for _ in goals]
    works = [Context(seed, Checkpoint(store, f"m{seed}"), budget=budget) for seed, budget in goals]
    found = dict(Classifier.fit_pack(members, examples(), works))
    assert [found[i]["new_epochs"] for i in range(3)] == [1, 2, 3]
    for member, (seed, budget) in zip(members, goals, strict=True):
        alone, _ = trained(settings, Checkpoint(store, f"alone{seed}"), [budget], seed)
        probs_NC, alone_NC = member.predict(examples().inputs), alone.predict(examples().inputs)
        assert np.abs(probs_NC - alone_NC).max() < 1e-5


# Configs -------------------------------------------------------------------------------------------------------------


def config(**changes):
    values = {
        "name": "x",
        "data": {"source": "sklearn:iris"},
        "members": {"mlp": {"kind": "classifier", "learning_rate": {"low": 1e-3, "high": 1e-1}, "epochs": 27}},
        "search": {"kind": "random", "members": 40},
        "runtime": "inline",
        "tracking": "off",
    }
    return parse_config({**values, **changes})


KNN = {"kind": "estimator", "estimator": "k_nearest_neighbours"}


def refused(words, **changes):
    with pytest.raises(ConfigError) as caught:
        build_plan(config(**changes))
    for word in words:
        assert word in str(caught.value), str(caught.value)


def network(**changes):
    return {"kind": "classifier", "learning_rate": {"low": 1e-3, "high": 1e-1}, "epochs": 27, **changes}


@pytest.mark.parametrize(
    ("schedule", "changes", "words"),
    [
        ("halvin", {}, ["schedule.kind", "Did you mean 'halving'?"]),
        ({"kind": "halving", "eta": 1}, {}, ["schedule.eta", "found 1"]),
        ({"kind": "halving", "minimum": 30}, {}, ["minimum", "30", "27"]),
        ({"kind": "halving", "minimum": 5, "maximum": 4}, {}, ["minimum: 5", "more than the 4"]),
        ({"kind": "hyperband", "minimum": 10}, {}, ["no effect", "only one rung", "9 or less"]),
        ({"kind": "none", "eta": 3}, {}, ["schedule.eta: unknown option of 'none'"]),
        ("halving", {"members": {"knn": KNN}, "search": {"kind": "random"}}, ["no effect", "trained in parts"]),
        ("halving", {"members": {"a": network(epochs={"low": 3, "high": 9})}}, ["members.a.epochs", "3, 9"]),
        ("halving", {"members": {"a": network(), "b": network(epochs=9)}}, ["maximum: missing", "a 27, b 9"]),
        ({"kind": "halving", "maximum": 81}, {"members": {"a": network(schedule="cosine")}, "search": {"members": 81}},
         ["'a'", "beyond epoch 27", "members.a.epochs"]),
        ({"kind": "halving", "maximum": 81},
         {"members": {"a": {"kind": "module", "path": "user_module:Scheduled", "epochs": 9}}}, ["beyond epoch 9"]),
        ("hyperband", {}, ["search.members: 40 has no effect", "49 members"]),
    ],
)  # fmt: skip
def test_a_schedule_that_cannot_work_or_has_no_effect_is_refused(schedule, changes, words):
    refused(["schedule", *words], schedule=schedule, **changes)


def test_halving_runs_with_few_members_as_the_paper_does_and_says_which_rungs_stay_empty():
    words = r"too few members for 27 epochs: of 12 members about 12 for 1, 4 for 3, 1 for 9 epochs; with"
    with pytest.warns(UserWarning, match=words):
        plan = build_plan(config(schedule="halving", search={"kind": "random", "members": 12}))
    assert plan.members == 12
    with pytest.warns(UserWarning, match="for 27 epochs: of 2 members about 2 for 1 epochs;"):
        assert build_plan(config(schedule="halving", search={"kind": "random", "members": 2})).members == 2


def test_what_a_schedule_leaves_open_is_filled_in():
    search = {"kind": "random"}
    plan = build_plan(config(schedule="hyperband", search=search))
    assert plan.config.schedule == {"kind": "hyperband", "minimum": 1, "maximum": 27, "eta": 3}
    assert (plan.config.search.members, plan.members) == (None, 49)
    again = build_plan(plan.config)
    assert again.config.hash() == plan.config.hash()
    assert build_plan(config(search=search)).members == 32
    assert build_plan(config(search={**search, "seconds": 5})).members is None
    assert build_plan(config(schedule={"kind": "halving", "maximum": 9}, members={"a": network(schedule="cosine")}))


def test_without_a_schedule_a_run_has_the_name_it_always_had():
    """The identity holds neither key, as that of a run before there were schedules."""
    plain = config().identity()
    assert "schedule" not in plain and "seconds" not in plain["search"]
    assert build_plan(config()).config.hash() == build_plan(config(schedule={"kind": "none"})).config.hash()
    assert build_plan(config(schedule="halving")).config.hash() != build_plan(config()).config.hash()


# Whole runs ----------------------------------------------------------------------------------------------------------


def digits(folder, **changes):
    values = {
        "name": "digits",
        "storage": str(folder),
        "data": {"source": "sklearn:digits", "rows": 400},
        "members": {
            "mlp": {
                "kind": "classifier",
                "model": {"kind": "mlp", "hidden": {"choices": [[4], [8]]}},
                "learning_rate": {"low": 1e-4, "high": 1e-1, "log": True},
                "epochs": 9,
            }
        },
        "search": {"kind": "random", "members": 18},
        "schedule": {"kind": "halving"},
        "runtime": {"kind": "inline", "pack": 1},
        "tracking": "off",
    }
    return parse_config({**values, **changes})


def results(path, edition=1):
    return json.loads(Path(path, editions.file_of("results.json", edition)).read_text())


def journal(path):
    return [entry for file in sorted(Path(path, "journal").glob("*.json")) for entry in json.loads(file.read_text())]


def asked(path):
    return [entry["task"]["id"] for entry in journal(path) if "task" in entry and entry["task"]["purpose"] == "search"]


def test_a_run_halves(tmp_path):
    """18 members, 1 then 3 then 9 epochs: at least 6 and 2 promotions, and in order of arrival a few more."""
    updates = []
    result = distens.run(digits(tmp_path), updates.append)
    names = asked(result.path)
    counts = Counter(name.rpartition("-")[2] for name in names)
    assert counts["1"] == 18 and 6 <= counts["3"] <= 12 and 2 <= counts["9"] <= 6
    written = results(result.path)
    assert len(written["members"]) == 18
    assert written["search_epochs"] == 18 + 2 * counts["3"] + 6 * counts["9"] < 18 * 9
    assert any(name.endswith("-9") for name in result.weights)
    assert [u for u in updates if u.phase == "search"][-1].finished == 18
    reports = [entry["report"] for entry in journal(result.path) if "report" in entry]
    assert all(r["metrics"]["epochs"] == int(r["task_id"].rpartition("-")[2]) for r in reports)


@pytest.mark.parametrize("schedule", ["halving", "hyperband"])
def test_a_driver_killed_between_rungs_resumes_to_the_same_result(schedule, tmp_path):
    """SIGKILL after the twelfth task; what finished is not trained again."""
    changes = {"schedule": schedule, "search": {"kind": "random", **({"members": 18} if schedule == "halving" else {})}}
    folder = killed(digits(tmp_path / "killed", **changes), " mlp: nll ", times=12)
    told = sum("report" in entry for entry in journal(folder))
    updates = []
    result = distens.resume(str(folder), updates.append)
    calm = distens.run(digits(tmp_path / "calm", **changes))
    names = asked(calm.path)
    assert 12 <= told < len(names)
    assert sum(u.phase == "search" and u.outcome is not None for u in updates) == len(names) - told
    assert list(dict.fromkeys(asked(result.path))) == names
    assert result.weights == calm.weights
    assert bits(result.path) == bits(calm.path)


def bits(path, edition=1):
    return Path(path, editions.folder_of("final", edition), "ensemble", "test.arrow").read_bytes()


def test_a_deepened_run_ends_as_a_fresh_one(tmp_path):
    """Of 3 to 9 epochs, hyperband: b1 3 + 1 and b3 2 members, 6 tasks, become b1 9 + 3 + 1, b3 5 + 1 and b9 3: 22. The
    ensemble is the same to the bit, and so is all that is made from it."""
    changes = {
        "search": {"kind": "random"},
        "baselines": ["seed_ensemble"],
        "distill": {"kind": "student", "copies": 1},
    }
    small = digits(tmp_path / "deepened", schedule={"kind": "hyperband", "maximum": 3}, **changes)
    first = distens.run(small)
    before = asked(first.path)
    assert len(before) == 6
    with pytest.raises(ConfigError, match=r"schedule.maximum: 3 may rise to 9, 27, 81, …, .*found 6"):
        distens.resume(first.path, overrides=["schedule.maximum=6"])
    with pytest.raises(ConfigError, match=r"changed since the run started \(schedule.eta\): 2 instead of 3"):
        distens.resume(first.path, overrides=["schedule.maximum=9", "schedule.eta=2"])
    updates = []
    deepened = distens.resume(first.path, updates.append, ["schedule.maximum=9"])
    fresh = distens.run(digits(tmp_path / "fresh", schedule={"kind": "hyperband", "maximum": 9}, **changes))
    names = asked(fresh.path)
    assert len(names) == 22
    anew = [name for name in asked(deepened.path) if name not in before]
    assert sorted(anew) == sorted(set(names) - set(before))
    assert sum(u.phase == "search" and u.outcome is not None for u in updates) == len(anew)
    assert deepened.path == first.path
    assert deepened.weights == fresh.weights
    assert bits(deepened.path, 2) == bits(fresh.path)
    one, two = results(deepened.path, 2), results(fresh.path)
    for row in ("ensemble", "best_single", "student", "seed_ensemble"):
        columns = ("accuracy", "nll", "parameters")
        assert [one[row][column] for column in columns] == [two[row][column] for column in columns], row
    assert one["members"] == two["members"]
    assert one["run"] == Path(first.path).name
    again = distens.resume(deepened.path)  # as any other run, once it was deepened
    assert again.weights == fresh.weights


@pytest.mark.parametrize("packs", [("auto", 1), (1, "auto"), (3, "auto")])
def test_a_deepened_run_has_the_members_of_a_fresh_one_whatever_their_packs(packs, tmp_path):
    """Settings follow from a member's number alone. (Trained together, a member differs by rounding, so what is
    promoted can differ where two are as good as equal; here none are.)"""
    first, second = ({"kind": "inline", "pack": pack} for pack in packs)
    given = {"search": {"kind": "random"}, "distill": None, "runtime": first}
    grown = distens.run(digits(tmp_path / "grown", schedule={"kind": "hyperband", "maximum": 3}, **given))
    grown = distens.resume(grown.path, overrides=["schedule.maximum=9"])
    fresh = digits(tmp_path / "fresh", schedule={"kind": "hyperband", "maximum": 9}, **{**given, "runtime": second})
    fresh = distens.run(fresh)
    settings = [
        {entry["task"]["id"]: entry["task"]["settings"] for entry in journal(run.path) if "task" in entry}
        for run in (grown, fresh)
    ]
    assert {name: settings[0][name] for name in settings[1]} == settings[1]
    assert grown.weights == pytest.approx(fresh.weights)
    assert grown.rows["ensemble"]["nll"] == pytest.approx(fresh.rows["ensemble"]["nll"], abs=1e-4)


def test_a_halved_run_goes_deeper_with_more_members(tmp_path):
    """27 members make sure of one with 27 epochs. Of 18 it is luck: here members that came early were promoted beside
    better ones. Then 9 more start."""
    first = distens.run(digits(tmp_path))
    before = asked(first.path)
    with pytest.warns(UserWarning, match=r"too few members for 27 epochs: of 18 members about 18 .* 2 for 9 epochs;"):
        one = distens.resume(first.path, overrides=["schedule.maximum=27"])
    assert asked(one.path) == [
        *before,
        "m0007-27",
    ]  # the best of three at 9 epochs; a third of 18 would leave two there
    with pytest.raises(ConfigError, match=r"search.members: 18 members were started already"):
        distens.resume(first.path, overrides=["search.members=17"])
    deeper = distens.resume(first.path, overrides=["schedule.maximum=27", "search.members=27"])
    more = asked(deeper.path)[len(before) :]
    assert len(set(before) | set(more)) == len(before) + len(more)
    assert sum(name.endswith("-1") for name in more) == 9
    assert sum(name.endswith("-9") for name in more) > 0
    assert len(results(deeper.path, 3)["members"]) == 27


def test_several_slots_wait_for_what_is_pending(tmp_path, ray_here):
    """Two actors: while the last of a rung is out there is nothing to do, and then there is again."""
    changes = {"schedule": "hyperband", "search": {"kind": "random"}, "runtime": {"kind": "ray_actors", "pack": 1}}
    through_ray = distens.run(digits(tmp_path / "ray", **changes))
    inline = distens.run(digits(tmp_path / "inline", **{**changes, "runtime": {"kind": "inline", "pack": 1}}))
    assert set(asked(through_ray.path)) == set(asked(inline.path))
    assert through_ray.weights == inline.weights
    assert bits(through_ray.path) == bits(inline.path)


def test_members_that_cannot_be_trained_in_parts_take_part(tmp_path):
    members = {"mlp": network(epochs=9, model={"kind": "mlp", "hidden": [8]}), "knn": KNN}
    result = distens.run(digits(tmp_path, members=members, runtime="inline"))
    names = asked(result.path)
    whole = [name for name in names if "-" not in name]
    assert 0 < len(whole) < 18
    assert any(name.endswith("-3") for name in names)
    assert len(results(result.path)["members"]) == 18


def test_rungs_that_fail_leave_their_members_with_what_they_have(tmp_path, monkeypatch):
    """Members diverge at their third epoch, if at all: they keep their first rung, and the report names them."""
    members = {
        "stepwise": {
            "kind": "plugins.members.stepwise:Stepwise",
            "rate": {"low": 0.0, "high": 1.0},
            "fails_at": {"choices": [3, 99]},
            "epochs": 9,
        }
    }
    result = distens.run(digits(tmp_path, members=members))
    written = results(result.path)
    assert len(written["members"]) == 18
    failed = [failure for failure in written["failures"] if failure["final"]]
    assert failed
    assert all(f["id"].endswith("-3") and f["keeps"] == f["id"].replace("-3", "-1") for f in failed)
    assert {f["keeps"] for f in failed} <= set(written["members"])


def test_a_resume_agrees_that_the_time_is_over(tmp_path):
    """What is journalled decides: time that passes between an outcome and the next question is not lost by a resume."""
    slow = distens.run(
        digits(tmp_path, search={"kind": "random", "seconds": 3}),
        lambda update: time.sleep(3.1 if update.outcome else 0),
    )
    assert len(results(slow.path)["members"]) == 2
    Path(slow.path, "results.json").unlink()
    distens.resume(slow.path)
    assert len(asked(slow.path)) == 2


def test_a_search_ends_when_its_time_is_over(tmp_path):
    """The time is counted over resumes; what was asked for when it ran out is trained, and nothing more is."""
    search = {"kind": "random", "seconds": 1.0}
    result = distens.run(digits(tmp_path, search=search))
    written, count = results(result.path), len(asked(result.path))
    elapsed = [entry["elapsed"] for entry in journal(result.path) if "elapsed" in entry]
    assert elapsed == sorted(elapsed) and elapsed[-1] >= 1.0 > elapsed[-2]
    assert written["search_ended"].startswith("after 1 s (search.seconds)")
    Path(result.path, "results.json").unlink()
    distens.resume(result.path)
    assert len(asked(result.path)) == count
    enough = distens.run(digits(tmp_path, search={"kind": "random", "seconds": 1000, "members": 9}))
    assert results(enough.path)["search_ended"] == "with all 9 members started"
