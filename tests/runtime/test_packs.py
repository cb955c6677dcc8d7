"""Members that are trained together: whatever one of them does, the others finish, once, and it is found and named."""

import json
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

import distens
import distens.members
from distens import registry, seeding
from distens.config.config import parse_config
from distens.config.sections import DataSection
from distens.data.load import load_data
from distens.errors import StorageFailed
from distens.lifecycle.progress import LEADERS, Progress
from distens.lifecycle.work.train import Train
from distens.records import WAIT, Failure, Finished, History, Report, Task
from distens.runtime.protocol import RunContext
from distens.search.evolution import Evolution
from distens.storage.store import Store


@pytest.fixture(scope="module")
def dataset():
    return load_data(DataSection(source="sklearn:iris"), 0).dataset.for_members()


@pytest.fixture
def notes(tmp_path):
    (tmp_path / "notes").mkdir()
    return tmp_path / "notes" / "notes.txt"


def tasks_of(notes, *does, **options):
    """Tasks m0, m1, … with seeds 0, 1, … that do as they are told."""
    settings = {"family": "a", "kind": "plugins.members.pretend:Pretend", "notes": str(notes), **options}
    return [
        Task(f"m{i}", "search", {**settings, "rate": 0.5 + i, "does": d}, i, work=Train()) for i, d in enumerate(does)
    ]


def lines(notes):
    return notes.read_text().splitlines()


def trained(notes):
    """The seeds of all members that were trained, as often as they were."""
    return sorted(line.removeprefix("trained ") for line in lines(notes) if line.startswith("trained "))


def outcomes_of(spec, packs, dataset, folder):
    runner = registry.make_plugin("runtime", spec, "runtime")
    if "timeout_seconds" not in spec:  # else what is imported later would be a member's time
        runner.prepare(0, [])
    runner.start(RunContext(Store(str(folder)), dataset))
    try:
        return list(runner.run(iter(packs)))
    finally:
        runner.stop()


def test_a_pack_of_one_kind_is_one_program_and_its_outcomes_come_together(dataset, tmp_path, notes):
    (outcomes,) = outcomes_of("inline", [tasks_of(notes, *["well"] * 3)], dataset, tmp_path / "a")
    assert [o.task_id for o in outcomes] == ["m0", "m1", "m2"]
    assert all(isinstance(o, Report) and o.seconds == 0.5 for o in outcomes)
    assert lines(notes) == ["pack 0 1 2", "trained 0", "trained 1", "trained 2"]
    store = Store(str(tmp_path / "a"))
    alone = outcomes_of("inline", [[task] for task in tasks_of(notes, *["well"] * 3)], dataset, tmp_path / "b")
    for one, (other,) in zip(outcomes, alone, strict=True):
        found, wanted = store.read_predictions(one.files["test"]), Store(str(tmp_path / "b"))
        assert np.array_equal(found, wanted.read_predictions(other.files["test"]))


def test_only_what_differs_in_free_settings_alone_is_one_program(dataset, tmp_path, notes):
    """Widths 1, 2, 1 and a neighbour counter: two of a width together, the third alone, and the other kind."""
    one, two, three = tasks_of(notes, "well", "well", "well")
    two = Task("m1", "search", {**two.settings, "width": 2}, 1, work=Train())
    other = Task(
        "m3", "search", {"family": "k", "kind": "estimator", "estimator": "k_nearest_neighbours"}, 3, work=Train()
    )
    (outcomes,) = outcomes_of("inline", [[one, two, three, other]], dataset, tmp_path)
    assert [o.task_id for o in outcomes] == ["m0", "m1", "m2", "m3"]
    assert all(isinstance(o, Report) for o in outcomes)
    assert lines(notes) == ["pack 0 2", "trained 0", "trained 2", "alone 1", "trained 1"]


def test_a_member_that_raises_is_named_and_the_others_finish(dataset, tmp_path, notes):
    """m0 is finished when m1 raises; m2 is then trained alone, and nothing twice."""
    (outcomes,) = outcomes_of("inline", [tasks_of(notes, "well", "raise", "well")], dataset, tmp_path)
    first, bad, last = outcomes
    assert isinstance(first, Report) and isinstance(last, Report)
    assert isinstance(bad, Failure)
    assert (bad.reason, bad.final) == ("crashed", True)
    assert "this one is broken" in bad.message
    assert lines(notes) == ["pack 0 1 2", "trained 0", "alone 1", "alone 2", "trained 2"]


def test_a_member_that_diverges_or_is_refused_leaves_the_others_alone(dataset, tmp_path, notes):
    (outcomes,) = outcomes_of("inline", [tasks_of(notes, "diverge", "well", "refuse", "well")], dataset, tmp_path)
    reasons = [o.reason if isinstance(o, Failure) else "" for o in outcomes]
    assert reasons == ["diverged", "", "refused", ""]
    assert trained(notes) == ["1", "3"]


def test_a_pack_that_is_too_large_is_halved(dataset, tmp_path, notes):
    """Of 4, none fits together with another: 4, then 2 and 2, then each alone."""
    (outcomes,) = outcomes_of("inline", [tasks_of(notes, *["memory"] * 4)], dataset, tmp_path)
    assert all(isinstance(o, Report) for o in outcomes)
    packs = [line for line in lines(notes) if not line.startswith("trained")]
    assert packs == ["pack 0 1 2 3", "pack 0 1", "alone 0", "alone 1", "pack 2 3", "alone 2", "alone 3"]


def test_a_member_that_kills_its_process_is_found_and_given_up(dataset, tmp_path, notes, ray_here):
    """Six in a pack, the fourth kills. m0 to m2 are finished. Left are m3, m4, m5, then m3 alone: tried `retries` + 1
    times, and given up. m4 and m5 are trained in their own half."""
    spec = {"kind": "ray_actors", "concurrency": 1, "retries": 1}
    pack = tasks_of(notes, "well", "well", "well", "kill", "well", "well")
    found = [o for outcomes in outcomes_of(spec, [pack], dataset, tmp_path) for o in outcomes]
    reports = {o.task_id: o for o in found if isinstance(o, Report)}
    assert sorted(reports) == ["m0", "m1", "m2", "m4", "m5"]
    assert [reports[name].attempt for name in ("m0", "m4")] == [1, 2]
    assert trained(notes) == ["0", "1", "2", "4", "5"]
    lost = [o for o in found if isinstance(o, Failure)]
    assert [(o.task_id, o.attempt, o.final) for o in lost if o.task_id != "m3"] == [("m4", 1, False), ("m5", 1, False)]
    assert "in a pack of 6, with m3, m4, m5 unfinished; they are split and tried again" in lost[0].message
    bad = [(o.attempt, o.reason, o.final) for o in lost if o.task_id == "m3"]
    assert bad == [(1, "crashed", False), (2, "crashed", False), (3, "crashed", True)]


def test_a_pack_whose_actor_is_killed_loses_no_finished_member(dataset, tmp_path, notes, ray_here):
    """SIGKILL from outside while m1 is being trained: m0 is reported as it was, m1 and m2 are tried again."""

    def kill():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if (tmp_path / "members/m0/1/report.json").exists():
                for process in psutil.Process().children(recursive=True):
                    if process.name().startswith("ray::_Actor.exe"):
                        (notes.with_name("go")).touch()
                        process.kill()
                        return
            time.sleep(0.02)

    killer = threading.Thread(target=kill)
    killer.start()
    spec = {"kind": "ray_actors", "concurrency": 1, "retries": 0}  # a lost pack is not a member's own failure
    pack = tasks_of(notes, "well", "wait", "well")
    lists = outcomes_of(spec, [pack], dataset, tmp_path)
    killer.join()
    first = {o.task_id: (type(o), o.attempt) for o in lists[0]}
    assert first == {"m0": (Report, 1), "m1": (Failure, 1), "m2": (Failure, 1)}
    rest = [o for outcomes in lists[1:] for o in outcomes]
    assert {(o.task_id, type(o), o.attempt) for o in rest} == {("m1", Report, 2), ("m2", Report, 2)}
    assert trained(notes).count("0") == 1


def test_what_ran_out_of_memory_is_tried_again_after_a_pause(dataset, tmp_path, notes, ray_here, monkeypatch):
    """Pauses of 1 s and 2 s: there is room again in the second, and others are trained in the first."""
    from distens.runtime import _retries

    monkeypatch.setattr(_retries, "PAUSE_SECONDS", 1.0)
    tasks = tasks_of(notes, "no_room", "well")
    runner = registry.make_plugin("runtime", {"kind": "ray_actors", "concurrency": 1}, "runtime")
    runner.start(RunContext(Store(str(tmp_path / "run")), dataset))
    came, at = [], []
    try:
        for (outcome,) in runner.run(iter([[task] for task in tasks])):
            came.append((outcome.task_id, outcome.attempt, isinstance(outcome, Report)))
            at.append(time.monotonic())
            if came[-1][:2] == ("m0", 2):
                notes.with_name("go").touch()
            if isinstance(outcome, Failure):
                assert (outcome.reason, outcome.final) == ("out_of_memory", False)
    finally:
        runner.stop()
    assert came == [("m0", 1, False), ("m1", 1, True), ("m0", 2, False), ("m0", 3, True)]
    assert at[2] - at[0] >= 1
    assert at[3] - at[2] >= 2


def test_a_pause_takes_of_the_time_that_a_member_has_in_all(monkeypatch):
    """100 s, of which the first attempt takes 30 and the pause 5, the second 40 and the pause 10: 15 are left; of those
    the third takes 1 s and would pause for 15. A crash pauses for nothing, and a lost node neither."""
    from dataclasses import replace

    from distens.runtime._retries import PackRetries

    retries = PackRetries(9)
    task = Task("m0", "client", {}, 0, limit_seconds=100.0, work=Train())
    short = Failure("m0", 1, "out_of_memory", "", 1.0, "")
    assert not retries.queue_retry(short, [task], False, 30.0).final
    (later,) = [pack for _, pack in retries._later]
    assert later == [replace(task, attempt=2, limit_seconds=65.0)]
    assert not retries.queue_retry(replace(short, attempt=2), later, False, 40.0).final
    later = retries._later[-1][1]
    assert later == [replace(task, attempt=3, limit_seconds=15.0)]
    assert retries.queue_retry(replace(short, attempt=3), later, False, 1.0).final
    assert not retries.waiting
    assert not retries.queue_retry(replace(short, attempt=3, reason="crashed"), later, False, 1.0).final
    assert not retries.queue_retry(replace(short, attempt=4), [replace(task, attempt=4)], True, 1.0).final
    assert [(task.attempt, task.limit_seconds) for (task,) in retries.waiting] == [(4, 14.0), (5, 99.0)]
    assert len(retries._later) == 2


def test_actors_that_do_not_start_for_want_of_memory_are_waited_for(dataset, tmp_path, notes, ray_here, monkeypatch):
    """Two at once, the first three pairs in vain: three pauses, and no other pack is pulled meanwhile."""
    from distens.runtime import _placing, ray_actors

    starts, usual = tmp_path / "starts", _placing._Actor

    class Short(usual):
        def begin(self, shared):
            with starts.open("a") as out:
                out.write(".")
            if starts.stat().st_size <= 6:
                raise RuntimeError("the node is running low on memory")
            return super().begin(shared)

    monkeypatch.setattr(_placing, "_Actor", Short)
    monkeypatch.setattr(ray_actors, "PAUSE_SECONDS", 0.3)
    pulled = []

    def packs():
        for task in tasks_of(notes, *["well"] * 4):
            pulled.append(starts.stat().st_size if starts.exists() else 0)
            yield [task]

    runner = registry.make_plugin(
        "runtime", {"kind": "ray_actors", "cpus_per_member": 0.5, "concurrency": 2}, "runtime"
    )
    runner.start(RunContext(Store(str(tmp_path / "run")), dataset))
    try:
        outcomes = [outcome for outcomes in runner.run(packs()) for outcome in outcomes]
    finally:
        runner.stop()
    assert sorted(o.task_id for o in outcomes if isinstance(o, Report)) == ["m0", "m1", "m2", "m3"]
    assert 7 <= starts.stat().st_size <= 8  # one of the last two may do it all before the other is up
    assert min(pulled[2:]) > 6


@pytest.mark.timeout(120)
def test_a_pack_whose_actor_waits_for_room_is_carried_out_by_one_that_is_idle(dataset, tmp_path, notes, ray_here):
    """Three are asked for, as if a third node were on its way, or one that is lost were thought to live; there is room
    for two."""
    spec = {"kind": "ray_actors", "concurrency": 3, "wait_seconds": 1}
    lists = outcomes_of(spec, [[task] for task in tasks_of(notes, *["well"] * 5)], dataset, tmp_path)
    found = [o for outcomes in lists for o in outcomes]
    assert sorted((o.task_id, o.attempt) for o in found if isinstance(o, Report)) == [(f"m{i}", 1) for i in range(5)]


def test_storage_that_fails_ends_a_run_once_what_else_ended_is_told(dataset, tmp_path, notes, ray_here):
    """Both have ended when the runner looks: once both are being trained, nothing comes of packs for some seconds."""
    runner = registry.make_plugin(
        "runtime", {"kind": "ray_actors", "cpus_per_member": 0.5, "concurrency": 3}, "runtime"
    )

    def packs():
        yield from ([task] for task in tasks_of(notes, "wait", "full"))
        while any(slot.starting for slot in runner._busy):
            yield WAIT
        notes.with_name("go").touch()
        until = time.monotonic() + 60
        while not {"trained 0", "alone 1"} <= set(lines(notes) if notes.exists() else []) and time.monotonic() < until:
            time.sleep(0.1)
        time.sleep(3)
        yield WAIT

    runner.start(RunContext(Store(str(tmp_path / "run")), dataset))
    came, outcomes = [], runner.run(packs())
    try:
        with pytest.raises(StorageFailed, match="the disk is full"):
            came.extend(outcomes)
    finally:
        runner.stop()
    assert [[(o.task_id, isinstance(o, Report)) for o in together] for together in came] == [[("m0", True)]]


def test_a_pack_has_as_much_time_as_its_members(dataset, tmp_path, notes, ray_here):
    """2 members at 1.5 s: after 3 s the pack is split. The slow one is alone then, and ended for good after 1.5 s."""
    spec = {"kind": "ray_actors", "concurrency": 1, "timeout_seconds": 1.5}
    lists = outcomes_of(spec, [tasks_of(notes, "wait", "well")], dataset, tmp_path)
    found = [o for outcomes in lists for o in outcomes]
    slow = [(o.attempt, o.reason, o.final) for o in found if isinstance(o, Failure) and o.task_id == "m0"]
    assert slow == [(1, "timed_out", False), (2, "timed_out", True)]
    assert any(isinstance(o, Failure) and "still training after 3 s" in o.message for o in found)
    assert [(o.task_id, o.attempt) for o in found if isinstance(o, Report)] == [("m1", 2)]


def test_progress_takes_few_steps_and_few_selections():
    """Steps are the numbers of two digits and zeros: 99 up to 99, then 90 for each further digit, and 10,000: 280. The
    ensemble of the first is the first; 10,000 arrivals at once leave no time for many more selections."""
    selections = []

    class Counting:
        def select(self, probs_MNC, labels_N, metric):
            selections.append(len(probs_MNC))
            time.sleep(0.01)
            return np.eye(len(probs_MNC))[0]

    labels_N = np.zeros(3, dtype=int)
    history = History(targets_N=labels_N, predictions=lambda _: np.tile([[0.5, 0.5]], (3, 1)))
    progress = Progress(Counting(), "nll", 10_000)
    steps = []
    for i in range(10_000):
        report = Report(f"m{i}", 1, {"nll": 2.0 - i / 10_000}, 1.0, 1, 1.0, "", {})
        task = Task(f"m{i}", "search", {}, i, work=Train())
        steps.append(progress.add(task, Finished(task, report), lambda: history))
    assert sum(step is not None for step in steps) == 280
    assert (progress.finished, progress.best, steps[-1]) == (10_000, 2.0 - 0.9999, 10_000)
    assert 1 <= len(selections) < 20
    assert len(progress.curve) == len(selections) and next(iter(progress.curve)) == "m0"
    assert max(selections) <= LEADERS


# Whole runs ----------------------------------------------------------------------------------------------------------


def config(folder, notes, **changes):
    values = {
        "name": "packs",
        "storage": str(folder),
        "data": {"source": "sklearn:iris"},
        "members": {
            "pretend": {
                "kind": "plugins.members.pretend:Pretend",
                "notes": str(notes),
                "rate": {"low": -1.0, "high": 1.0},
                "width": {"choices": [1, 2, 3]},
            }
        },
        "search": {"kind": "evolution", "members": 10},
        "select": "top",
        "runtime": {"kind": "inline", "pack": 4},
        "tracking": "off",
    }
    return parse_config({**values, **changes})


def journal(path):
    return [json.loads(file.read_text()) for file in sorted(Path(path, "journal").glob("*.json"))]


def test_search_fills_packs_with_what_can_be_trained_together(tmp_path, notes):
    """Ten members in packs of four: 4, 4 and 2, each of one width, with the ids and seeds that they have alone."""
    updates = []
    result = distens.run(config(tmp_path, notes), updates.append)
    asked = [[e["task"] for e in entries] for entries in journal(result.path) if "task" in entries[0]]
    assert [len(pack) for pack in asked] == [4, 4, 2]
    assert all(len({task["settings"]["width"] for task in pack}) == 1 for pack in asked)
    rates = [task["settings"]["rate"] for pack in asked for task in pack]
    assert len(set(rates)) == 10
    assert [task["id"] for pack in asked for task in pack] == [f"m{i:04d}" for i in range(10)]
    assert asked[1][2]["seed"] == seeding.derive(0, "member", "m0006")
    assert [len(line.split()) - 1 for line in lines(notes) if line.startswith("pack")] == [4, 4, 2]
    assert [u.finished for u in updates if u.phase == "search" and u.outcome] == list(range(1, 11))


def test_what_a_blind_search_draws_does_not_depend_on_packs(tmp_path, notes):
    """One by one or four at a time, member by member the same settings; packs hold the next member and those soon
    after it that have its width, and nobody is left out."""
    search = {"kind": "random", "members": 10}
    found = {}
    for pack in (1, 4):
        changes = {"search": search, "storage": str(tmp_path / str(pack)), "runtime": {"kind": "inline", "pack": pack}}
        result = distens.run(config(tmp_path, notes, **changes))
        found[pack] = [[e["task"] for e in entries] for entries in journal(result.path) if "task" in entries[0]]
    alone = {task["id"]: task["settings"] for pack in found[1] for task in pack}
    assert list(alone) == [f"m{i:04d}" for i in range(10)]
    assert {task["id"]: task["settings"] for pack in found[4] for task in pack} == alone
    assert all(len({task["settings"]["width"] for task in pack}) == 1 for pack in found[4])
    left = list(alone)
    for pack in found[4]:
        assert pack[0]["id"] == left[0]
        left = [name for name in left if name not in {task["id"] for task in pack}]
    assert max(map(len, found[4])) > 1 and not left


@pytest.mark.parametrize(("members", "pack", "asked_first"), [(10, 1, 4), (3, 1, 3), (20, 4, 4)])
def test_a_search_looks_once_at_what_is_known_for_all_free_slots(
    members, pack, asked_first, tmp_path, ray_here, monkeypatch
):
    """Four actors, on two cores: at the start the search is asked for four settings, or for as many as are left; in
    packs, for what goes with each besides. All of it is journalled as one entry. No settings come twice, and members
    are numbered as they are alone."""
    asked, propose = [], Evolution.propose

    def counted(self, history, space, count, rng):
        asked.append(count)
        return propose(self, history, space, count, rng)

    monkeypatch.setattr(Evolution, "propose", counted)
    changes = {
        "members": {"mlp": {"kind": "classifier", "epochs": 1, "learning_rate": {"low": 1e-4, "high": 1e-2}}},
        "search": {"kind": "evolution", "members": members},
        "runtime": {"kind": "ray_actors", "cpus_per_member": 0.5, "pack": pack},
    }
    result = distens.run(config(tmp_path / "runs", "", **changes))
    tasks = [entry["task"] for entries in journal(result.path) for entry in entries if "task" in entry]
    assert asked[0] == asked_first
    assert len(journal(result.path)[0]) == min(members, asked_first * pack)
    assert sum(asked) >= members  # of four packs' first members, the last may find none left to start
    assert [task["id"] for task in tasks] == [f"m{i:04d}" for i in range(members)]
    assert [task["seed"] for task in tasks] == [seeding.derive(0, "member", task["id"]) for task in tasks]
    assert len({task["settings"]["learning_rate"] for task in tasks}) == members


FAMILIES = [f"family_{letter}" for letter in "abcdef"]


def many_families(folder, notes, **changes):
    """Six families that can be packed, each with a range of its own."""
    pretend = {"kind": "plugins.members.pretend:Pretend", "notes": str(notes), "rate": {"low": -1.0, "high": 1.0}}
    runtime = {"kind": "inline", "pack": 4}
    return config(folder, notes, **{"members": dict.fromkeys(FAMILIES, pretend), "runtime": runtime, **changes})


def dispatched_families(path):
    """The families of a run's members, in order of dispatch."""
    entries = [entry for entries in journal(path) for entry in entries if "task" in entry]
    return [entry["task"]["settings"]["family"] for entry in entries if entry["task"]["attempt"] == 1]


@pytest.mark.parametrize("kind", registry.names("search"))
def test_few_members_try_every_family_though_packs_fill_up_with_one(kind, tmp_path, notes):
    """Six members of six families in packs of four: one of each; with 12, packs are filled once all are tried."""
    six = distens.run(many_families(tmp_path / "6", notes, search={"kind": kind, "members": 6}))
    assert sorted(dispatched_families(six.path)) == FAMILIES
    twelve = distens.run(many_families(tmp_path / "12", notes, search={"kind": kind, "members": 12}))
    found = dispatched_families(twelve.path)
    assert sorted(found[:6]) == FAMILIES and len(found) == 12
    assert "never tried" not in Path(twelve.path, "report.html").read_text()


@pytest.mark.parametrize("kind", ["random", "evolution"])
@pytest.mark.parametrize("before", [3, 5])
def test_no_family_has_its_nth_member_before_each_has_one(kind, before, tmp_path, notes):
    search = {"kind": kind, "members": 6 * before, "all_families_before": before}
    found = dispatched_families(distens.run(many_families(tmp_path, notes, search=search)).path)
    last_first = max(map(found.index, FAMILIES))
    assert max(found[:last_first].count(family) for family in FAMILIES) < before


def test_families_that_were_never_tried_are_named(tmp_path, notes):
    updates = []
    result = distens.run(many_families(tmp_path, notes, search={"kind": "random", "members": 4}), updates.append)
    tried = set(dispatched_families(result.path))
    untried = ", ".join(family for family in FAMILIES if family not in tried)
    assert len(tried) == 4
    assert f"families never tried: {untried}" in [update.text for update in updates]
    page = Path(result.path, "report.html").read_text()
    assert "families never tried" in page and untried in page


@pytest.mark.parametrize("kind", ["random", "evolution"])
def test_a_resumed_run_covers_families_as_one_that_was_not_cut(kind, tmp_path, notes):
    """The journal is cut after the second pack came back, while families are untried."""
    changes = {"search": {"kind": kind, "members": 9}}
    whole = distens.run(many_families(tmp_path / "whole", notes, **changes)).path
    path = distens.run(many_families(tmp_path / "cut", notes, **changes)).path
    Path(path, "results.json").unlink()
    for file in sorted(Path(path, "journal").glob("*.json"))[4:]:
        file.unlink()
    distens.resume(path)
    asked, again = ([e for e in journal(run) if "task" in e[0]] for run in (whole, path))
    assert len(asked) > 4 and again == asked


def test_what_was_pending_is_packed_again(tmp_path, notes):
    """A driver that died after it had handed out the second pack: its four go out again, together, as attempt 2."""
    whole = distens.run(config(tmp_path / "whole", notes))
    path = distens.run(config(tmp_path / "cut", notes)).path
    Path(path, "results.json").unlink()
    for number in (3, 4, 5):  # all after: asked 4, told 4, asked 4
        Path(path, "journal", f"{number:08d}.json").unlink()
    for i in range(4, 10):
        distens.storage.store.Store(path).delete(f"members/m{i:04d}")
    notes.unlink()
    again = distens.resume(path)
    asked = [[e["task"] for e in entries] for entries in journal(path) if "task" in entries[0]]
    assert [[(t["id"], t["attempt"]) for t in pack] for pack in asked[2:]] == [
        [(f"m{i:04d}", 2) for i in range(4, 8)],
        [("m0008", 1), ("m0009", 1)],
    ]
    assert len(trained(notes)) == 6
    assert again.rows["ensemble"]["nll"] == whole.rows["ensemble"]["nll"]


def test_what_did_not_survive_the_machine_is_trained_again(tmp_path, notes):
    """A member's files are not waited for: two that are journalled as finished, but torn or gone, are made again."""
    path = distens.run(config(tmp_path, notes)).path
    Path(path, "results.json").unlink()
    Path(path, "members", "m0003", "1", "state.safetensors").write_bytes(b"")
    Path(path, "members", "m0005", "1", "test.arrow").unlink()
    notes.unlink()
    result = distens.resume(path)
    assert len(trained(notes)) == 2
    failures = json.loads(Path(path, "results.json").read_text())["failures"]
    assert [(f["id"], f["final"]) for f in failures] == [("m0003", False), ("m0005", False)]
    assert len(result.weights) == 10
    assert {p.name for p in Path(path, "members", "m0003").iterdir()} == {"1", "3"}  # 2 may still have a late writer
