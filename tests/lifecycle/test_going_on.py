"""A run that goes on: members are added, decisions made anew, earlier results stay, and a kill loses nothing."""

import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import small_run
from kills import kill_when, killed
from typer.testing import CliRunner

import distens
from distens.cli import main as cli
from distens.config.config import load_config, parse_config
from distens.data.load import load_data
from distens.errors import ConfigError, RunError
from distens.lifecycle.going_on import find_changes, resolve
from distens.storage import editions
from distens.storage.store import Store

BARE = {"distill": None, "baselines": [], "runtime": {"kind": "inline", "pack": 1}}


def bare(folder, **changes):
    return small_run.config(folder, **{**BARE, **changes})


@pytest.fixture(scope="module")
def nine(tmp_path_factory):
    """A finished run of nine members, with a student and baselines."""
    return Path(distens.run(small_run.config(tmp_path_factory.mktemp("runs"))).path)


@pytest.fixture
def run(nine, tmp_path):
    return shutil.copytree(nine, tmp_path / nine.name)


def go_on(run, *overrides):
    """Return the result of a run that goes on, and the names of the tasks that were trained for that."""
    updates = []
    result = distens.resume(str(run), updates.append, overrides)
    return result, [update.outcome.task.id for update in updates if update.outcome]


def read(run, name):
    return json.loads(Path(run, name).read_text())


def members(*numbers):
    return [f"m{number:04d}" for number in numbers]


def contents(run, *names):
    """Return file -> its bytes, of files and of all files in folders, except later editions' folders."""
    found = [path for name in names for path in (run / name).rglob("*")] + [run / name for name in names]
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in found
        if path.is_file() and not any(part.isdigit() for part in path.relative_to(run).parts[1:2])
    }


FIRST = ("results.json", "report.html", "final", "figures")


# More members ---------------------------------------------------------------------------------------------------------


def test_members_are_added_to_a_finished_run_and_it_ends_as_a_fresh_one(tmp_path):
    """Bit for bit; only the new ones are trained, and the first results stay as they were."""
    run = Path(distens.run(bare(tmp_path / "grown")).path)
    before, text = contents(run, *FIRST, "members"), (run / "config.yaml").read_text()
    result, trained = go_on(run, "search.members=12")
    fresh = distens.run(bare(tmp_path / "fresh", search={"kind": "divbo", "members": 12, "proposals": 200}))
    assert trained == members(9, 10, 11)
    assert result.path == str(run) and result.weights == fresh.weights
    assert (run / "final/2/ensemble/test.arrow").read_bytes() == Path(
        fresh.path, "final/ensemble/test.arrow"
    ).read_bytes()
    written = read(run, "results.2.json")
    assert written["members"] == read(fresh.path, "results.json")["members"]
    assert written["search_ended"] == "with all 12 members started"
    assert before.items() <= contents(run, *FIRST, "members").items()
    assert contents(run, *FIRST).items() <= before.items()
    assert sorted(path.name for path in (run / "figures/2").iterdir()) == Store(str(run)).names("figures")[1:]
    assert (run / "config.1.yaml").read_text() == text
    assert load_config(run / "config.yaml").search.members == 12
    assert run.name in (run / "report.2.html").read_text()


def test_a_run_of_members_that_other_decisions_found_is_added_to_as_well(tmp_path):
    """Rungs, packs and a blind search: what is finished is not trained again, and new members have new settings."""
    given = {"schedule": {"kind": "halving", "maximum": 8}, "runtime": "inline", "search": "random"}
    mlp = {"mlp": small_run.config(tmp_path).members["mlp"]}
    run = Path(distens.run(bare(tmp_path, members=mlp, **{**given, "search": {"kind": "random", "members": 16}})).path)
    before = read(run, "results.json")["members"]
    _, trained = go_on(run, "search.members=20")
    assert {name.partition("-")[0] for name in trained} >= set(members(16, 17, 18, 19))
    assert not set(trained) & set(before)
    assert len(read(run, "results.2.json")["members"]) == 20


def test_the_newest_results_are_those_that_are_shown(run):
    rows = load_data(load_config(run / "config.yaml").data, 0).example_rows
    assert go_on(run, "select=top", "distill=null", "baselines=[]")[1] == []
    table = read(run, "results.2.json")
    newest = distens.load(f"{run}/final/2/ensemble").predict_proba(rows)
    np.testing.assert_array_equal(distens.load(str(run)).predict_proba(rows), newest)
    assert np.abs(distens.load(f"{run}/final/ensemble").predict_proba(rows) - newest).max() > 1e-4
    shown = CliRunner().invoke(cli.app, ["report", str(run)]).output
    assert f"{table['ensemble']['nll']:.4f}" in shown and f"report: {run}/report.2.html" in shown
    assert "student" not in shown
    listed = CliRunner().invoke(cli.app, ["list", "--storage", str(run.parent)]).output
    assert "finished" in listed and f"{table['ensemble']['nll']:.4f}" in listed
    out = run.parent / "page.html"
    CliRunner().invoke(cli.app, ["report", str(run), "--out", str(out)])
    assert out.read_bytes() == (run / "report.2.html").read_bytes()
    student = CliRunner().invoke(cli.app, ["predict", str(run), "rows.csv", "--student"])
    assert "no student here" in str(student.exception)


def test_an_unfinished_run_gets_more_members_and_has_one_edition(tmp_path):
    """SIGKILL after the fourth of nine, and then twelve are asked for: there is one set of results, at its usual
    place."""
    run = killed(bare(tmp_path / "killed"), "[4/9]")
    done = {e["report"]["task_id"] for e in journal(run) if "report" in e}
    _, trained = go_on(run, "search.members=12")
    assert not done & set(trained) and done | set(trained) == set(members(*range(12)))
    assert {"results.json", "report.html", "config.yaml"} <= {path.name for path in run.iterdir()}
    assert not list(run.glob("*.[12].*")) and (run / "final/ensemble/bundle.json").exists()
    fresh = distens.run(bare(tmp_path / "fresh", search={"kind": "divbo", "members": 12, "proposals": 200}))
    assert read(run, "results.json")["members"] == read(fresh.path, "results.json")["members"]


def journal(run):
    return [entry for file in sorted((run / "journal").glob("*.json")) for entry in json.loads(file.read_text())]


def test_a_search_of_limited_time_gets_more_of_it(tmp_path):
    run = Path(distens.run(bare(tmp_path, search={"kind": "random", "seconds": 0.5})).path)
    count = len(read(run, "results.json")["members"])
    for given, words in (
        ("search.seconds=0.1", r"search.seconds: the search has run for 1 s; give more than that, found 0.1"),
        ("search.members=1000", "search.members: has no effect, as the search has run for 1 s; search.seconds asks"),
    ):
        with pytest.raises(ConfigError, match=words):
            distens.resume(str(run), overrides=[given])
    go_on(run, "search.seconds=1.5")
    written = read(run, "results.2.json")
    assert len(written["members"]) > count and written["search_ended"].startswith("after 2 s (search.seconds)")
    _, trained = go_on(run, "search.seconds=null", f"search.members={len(written['members']) + 2}")
    assert len(trained) == 2


# Other decisions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "trained"),
    [
        (["combine=stack"], []),
        (["calibrate=none"], []),
        (["distill=null"], []),
        (["baselines=[larger_single]"], []),
        (["select=quadratic", "distill=null", "baselines=[]"], []),
        (["metric=error", "distill=null", "baselines=[]"], []),
        (["distill={kind: student, copies: 1}"], ["student.2", "student_on_labels-2.2"]),
    ],
    ids=str,
)
def test_decisions_are_made_anew_from_what_is_stored(given, trained, run):
    """No member is trained; a student or a baseline only if it is another one than there is."""
    before = contents(run, *FIRST, "members")
    result, told = go_on(run, *given)
    assert told == trained
    assert before.items() <= contents(run, *FIRST, "members").items()
    written = read(run, "results.2.json")
    assert written["members"].keys() == read(run, "results.json")["members"].keys()
    assert written["search_ended"] == "with all 9 members started"
    config = load_config(run / "config.yaml")
    assert ("student" in result.rows) == (config.distill is not None)
    assert ("seed_ensemble" in result.rows) == ("seed_ensemble" in config.baselines)
    assert not result.missing
    assert (read(run, "final/2/ensemble/bundle.json")["temperature"] == 1) == (config.calibrate == "none")


def test_what_is_decided_anew_is_what_a_fresh_run_decides(tmp_path):
    """The student too, which learns from the new selection: under another name it has the same seed."""
    select = {"kind": "top", "size": 3}
    run = Path(distens.run(small_run.config(tmp_path / "again", runtime=BARE["runtime"])).path)
    result, _ = go_on(run, f"select={json.dumps(select)}")
    fresh = distens.run(small_run.config(tmp_path / "fresh", runtime=BARE["runtime"], select=select))
    assert result.weights == fresh.weights and result.rows.keys() == fresh.rows.keys()
    for row, values in result.rows.items():
        assert values["nll"] == fresh.rows[row]["nll"], row
    again, trained = go_on(run, "select=greedy")  # back again: all that this needs is there
    first = read(run, "results.json")
    assert trained == [] and again.weights == first["weights"]
    assert again.rows["student"]["nll"] == first["student"]["nll"]


def test_a_metric_is_decided_anew_although_the_rungs_would_promote_others(tmp_path):
    """By another metric other members are among the best third; they are not trained further for that."""
    mlp = {"mlp": small_run.config(tmp_path).members["mlp"]}
    given = {"schedule": {"kind": "halving", "maximum": 9}, "search": {"kind": "random", "members": 12}}
    run = Path(distens.run(bare(tmp_path, members=mlp, **given)).path)
    ended = read(run, "results.json")["search_ended"]
    _, trained = go_on(run, "metric=error")
    assert trained == [] and read(run, "results.2.json")["search_ended"] == ended
    _, trained = go_on(run, "search.members=13")
    assert "m0012-1" in trained


def test_a_plain_resume_of_what_went_on_trains_nothing(run):
    first, _ = go_on(run, "select=top")
    again, trained = go_on(run)
    assert trained == [] and again.weights == first.weights and again.rows.keys() == first.rows.keys()
    assert not (run / "results.3.json").exists()
    same, trained = go_on(run, "select=top", "runtime=inline", "calibrate=temperature")  # what it has been asked for
    assert trained == [] and same.weights == first.weights and not (run / "results.3.json").exists()


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            "data.splits={train: 0.4, search: 0.2, combine: 0.2, test: 0.2}",
            "data.splits.train.: 0.4 instead of 0.5. Its",
        ),
        ("data.rows=100", "data.rows.: 100 instead of None. Its members were trained and measured on the rows"),
        ("members.mlp.epochs=9", "members.mlp.epochs.: 9 instead of 8. Its members are of the families and ranges"),
        ("seed=1", "seed.: 1 instead of 0. Its splits, and the settings and seeds of its members, follow"),
        ("name=other", "name.: 'other' instead of 'iris'. The name is that of its folder"),
        ("role=federated", "role.: 'federated' instead of 'ensemble'. A run of role `ensemble` is resumed as it was"),
        ("search.kind=random", "search.kind.: 'random' instead of 'divbo'. Its members were found"),
        ("search.proposals=100", "search.proposals.: 100 instead of 200. Its members were found"),
        ("schedule=halving", "schedule.: .* instead of None. Its members were compared at the rungs as they were"),
    ],
)
def test_what_would_change_the_members_is_refused(given, words, run):
    before = contents(run, *FIRST, "config.yaml", "run.json", "journal")
    with pytest.raises(ConfigError, match=rf"the config was changed since the run started \({words}") as caught:
        distens.resume(str(run), overrides=[given])
    assert "Start a run of its own with the new value (`distens run`)" in str(caught.value)
    assert "torage, runtime and tracking may differ" in str(caught.value)
    assert contents(run, *FIRST, "config.yaml", "run.json", "journal") == before


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("search.members=9.5", "search.members"),
        ("search.members=8", "search.members: 9 members were started already; give more than that, found 8"),
        ("search.seconds=100", r"search.seconds\): 100.0 instead of None. The time of its search was not counted"),
        ("search.stop_at={error: 0.5}", "search.stop_at: has no effect, as all 9 members are trained; search.members"),
        ("metric=rmse", "metric: 'rmse' is not measured for this target"),
        ("select=best", "select.kind: unknown select kind 'best'"),
        ("baselines=[nonsense]", "unknown baseline 'nonsense'"),
    ],
)
def test_what_cannot_be_or_has_no_effect_is_refused(given, words, run):
    before = contents(run, *FIRST, "config.yaml", "run.json", "journal")
    with pytest.raises(ConfigError, match=words):
        distens.resume(str(run), overrides=[given])
    assert contents(run, *FIRST, "config.yaml", "run.json", "journal") == before


@pytest.mark.parametrize("role", ["Couple", "Steadfast"])
def test_a_role_of_ones_own_follows_changes_if_it_can(role, tmp_path):
    members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
    run = distens.run(
        bare(tmp_path, role=f"plugins.lab:{role}", members=members, search={"kind": "random", "members": 2})
    )
    if role == "Couple":
        assert go_on(run.path, "search.members=3")[1] == ["m0002"]
        return
    words = rf"\(search.members\): 3 instead of 2. A run of role `plugins.lab:{role}` is resumed as it was"
    with pytest.raises(ConfigError, match=words):
        distens.resume(run.path, overrides=["search.members=3"])


# Configs and names ----------------------------------------------------------------------------------------------------


def test_the_config_that_a_run_began_with_finds_it(run):
    config = small_run.config(run.parent)
    go_on(run, "select=top", "distill=null", "baselines=[]", "search.members=10")
    with pytest.raises(RunError) as caught:
        distens.run(config)
    for words in (
        f"{run}: this run has finished, and something else was asked of it since",
        "search.members: 10 instead of 9",
        f"`distens report {run}` shows it.",
    ):
        assert words in str(caught.value)
    again = distens.run(config, resume=True)  # as a job does that is submitted again
    assert again.weights == read(run, "results.2.json")["weights"]
    assert not (run / "results.3.json").exists()


def test_the_changed_config_is_a_run_of_its_own(run):
    go_on(run, "select=top", "distill=null", "baselines=[]")
    config = load_config(run / "config.yaml", [f"storage={run.parent}"])
    assert config.run_name() != run.name
    assert distens.run(config).path == f"{run.parent}/{config.run_name()}"


def test_changes_are_named_by_their_dotted_keys():
    then = {"seed": 0, "data": {"splits": {"train": 0.5}, "rows": None}, "select": {"kind": "top", "size": 3}}
    now = {"seed": 0, "data": {"splits": {"train": 0.4}, "rows": None}, "select": {"kind": "greedy"}, "metric": "nll"}
    found = find_changes(then, now)
    assert [change.key for change in found] == ["data.splits.train", "select", "metric"]
    assert str(found[0]) == "data.splits.train: 0.4 instead of 0.5"
    own = [{"metric": {"kind": "a:f", "mode": mode}} for mode in ("max", "min")]
    assert [change.key for change in find_changes(*own)] == ["metric"]
    assert find_changes({"metric": 1, "role": "a"}, {"metric": 2, "role": "b"})[0].key == "role"


def test_a_value_that_was_written_shorter_and_an_option_that_is_new_are_no_changes():
    then = {
        "select": {"kind": "top", "size": 3},
        "combine": {"kind": "average"},
        "search": {"kind": "divbo", "beta": 1},
    }
    raw = {**then, "select": "top", "search": {"kind": "divbo", "beta": 2}}
    newer = {"select": {"kind": "top", "size": 3}, "combine": {"kind": "average", "new": 0}, "search": raw["search"]}
    assert [change.key for change in resolve(find_changes(then, raw), then, newer)] == ["search.beta"]


def test_editions_by_their_names(tmp_path):
    store = Store(str(tmp_path))
    assert editions.find_newest(store) == 0
    for name in ("results.json", "results.2.json", "results.10.json", "results.11.json.x", "results.01.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "results.12.json").mkdir()
    assert editions.find_newest(store) == 10
    assert editions.file_of("report.html", 1) == "report.html" and editions.file_of("report.html", 3) == "report.3.html"
    assert editions.folder_of("final", 1) == "final" and editions.folder_of("final", 3) == "final/3"


@pytest.mark.parametrize("edition", [0, -1, "2", 1.5, True, None])
def test_an_edition_that_is_none(edition, run):
    info = read(run, "run.json")
    (run / "run.json").write_text(json.dumps({**info, "edition": edition}))
    with pytest.raises(distens.StorageError, match=r"run\.json is damaged: .*its edition is "):
        distens.resume(str(run))


@pytest.mark.parametrize("name", ["results.2.json", "report.2.html", "final/2", "figures/2"])
def test_a_link_that_leads_out_of_the_next_results(name, run, tmp_path):
    (tmp_path / "outside").mkdir()
    (run / name).symlink_to(tmp_path / "outside")
    before = sorted(tmp_path.joinpath("outside").rglob("*"))
    with pytest.raises(distens.StorageError, match="leads out of the folder"):
        distens.resume(str(run), overrides=["select=top", "distill=null", "baselines=[]"])
    assert sorted(tmp_path.joinpath("outside").rglob("*")) == before


# Kills ----------------------------------------------------------------------------------------------------------------

DEADLY = """
import os, sys
import distens
from distens.storage.store import Store

path, name, *overrides = sys.argv[1:]
write = Store.write
def deadly(self, to, *args, **kwargs):
    done = write(self, to, *args, **kwargs)
    if to.startswith(name):
        os.kill(os.getpid(), 9)
    return done
Store.write = deadly
distens.resume(path, overrides=overrides)
"""
"""Resumes a run, and kills itself once a file has been written."""

STEPS = [
    "config.1.yaml",
    "config.yaml",
    "journal/",
    "run.json",
    "figures/2/weights.png",
    "report.2.html",
    "final/2/ensemble/bundle.json",
]


@pytest.mark.parametrize(
    ("step", "again"),
    [
        *((step, []) for step in STEPS[1:]),  # by a plain resume, once the new config is stored
        *((step, ["select=top"]) for step in STEPS[:4]),
    ],
)
def test_a_kill_at_any_step_leaves_the_first_results_and_is_resumed(step, again, began, tmp_path):
    run = shutil.copytree(began[0], tmp_path / began[0].name)
    before = contents(run, *FIRST)
    died = subprocess.run(
        [sys.executable, "-c", DEADLY, str(run), step, "select=top"], capture_output=True, check=False
    )
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert contents(run, *FIRST) == before
    rows = load_data(load_config(run / "config.yaml").data, 0).example_rows
    np.testing.assert_array_equal(distens.load(str(run)).predict_proba(rows), began[1])
    assert "report.html" in CliRunner().invoke(cli.app, ["report", str(run)]).output
    result, trained = go_on(run, *again)
    assert trained == [] and len(set(result.weights.values())) == 1
    assert contents(run, *FIRST) == before
    assert read(run, "results.2.json")["weights"] == result.weights
    assert not (run / "results.3.json").exists() and not (run / "config.2.yaml").exists()
    assert load_config(run / "config.1.yaml").select["kind"] == "greedy"


@pytest.fixture(scope="module")
def began(tmp_path_factory):
    """A finished run of a greedy selection, and what it predicts."""
    members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
    given = {"members": members, "search": {"kind": "random", "members": 4}}
    run = Path(distens.run(bare(tmp_path_factory.mktemp("runs"), **given)).path)
    return run, distens.load(str(run)).predict_proba(load_data(load_config(run / "config.yaml").data, 0).example_rows)


def test_a_driver_killed_while_it_adds_members_resumes_to_the_same_result(tmp_path):
    """SIGKILL after the second of four new ones. The first results are listed until the next are there."""
    run = Path(distens.run(bare(tmp_path / "killed")).path)
    calm = shutil.copytree(run, tmp_path / "calm" / run.name)
    kill_when("[11/13]", "resume", str(run), "--set", "search.members=13")
    assert not (run / "results.2.json").exists()
    listed = CliRunner().invoke(cli.app, ["list", "--storage", str(run.parent)]).output
    assert "going on" in listed and "13" in listed
    assert "more was asked of this run since" in CliRunner().invoke(cli.app, ["report", str(run)]).output
    with pytest.raises(RunError, match=f"as far as it had finished; `distens resume {shlex.quote(str(run))}`"):
        distens.run(bare(tmp_path / "killed"))
    done = {entry["report"]["task_id"] for entry in journal(run) if "report" in entry}
    assert set(members(*range(11))) <= done
    result, trained = go_on(run)
    assert set(trained) == set(members(*range(13))) - done
    other, _ = go_on(calm, "search.members=13")
    assert result.weights == other.weights
    assert (run / "final/2/ensemble/test.arrow").read_bytes() == (calm / "final/2/ensemble/test.arrow").read_bytes()


def test_another_decision_takes_the_place_of_one_that_was_killed(run):
    """It has the same number, and nothing of the killed one is left."""
    kill_when("student.2", "resume", str(run), "--set", "distill={kind: student, copies: 1}")
    (run / "final/2/student").mkdir(parents=True)
    (run / "final/2/student/bundle.json").write_text("{}")
    result, trained = go_on(run, "distill=null", "select=top", "baselines=[]")
    assert trained == [] and "student" not in result.rows
    assert Store(str(run)).names("final/2") == ["ensemble"]
    assert not (run / "results.3.json").exists()


# An early end ---------------------------------------------------------------------------------------------------------


def stopping(folder, **changes):
    """A search whose ensemble has an NLL below 0.04 for the first time with 21 members, and below 0.033 with 23."""
    members = {"mlp": small_run.config(folder).members["mlp"]}
    return bare(folder, members=members, search={"kind": "random", "members": 30, **changes})


def test_a_search_ends_once_the_ensemble_is_good_enough(tmp_path):
    updates = []
    result = distens.run(stopping(tmp_path / "one", stop_at={"nll": 0.04}), updates.append)
    written = read(result.path, "results.json")
    count = len(written["members"])
    assert count == 21
    (said,) = [update.text for update in updates if "search.stop_at" in update.text]
    assert said.startswith(f"ends early, with {count} members started: the ensemble's nll on the search split is 0.03")
    assert said.endswith("at most 0.04 (search.stop_at)") and written["search_ended"] == said.removeprefix("ends ")
    assert "search.stop_at" in Path(result.path, "report.html").read_text()
    assert len(read(distens.run(stopping(tmp_path / "all")).path, "results.json")["members"]) == 30
    fewer = distens.run(stopping(tmp_path / "fewer", members=count - 1, stop_at={"nll": 0.04}))
    assert read(fewer.path, "results.json")["search_ended"] == f"with all {count - 1} members started"


def test_the_early_end_is_journalled_and_a_run_goes_on_after_it(tmp_path):
    run = Path(distens.run(stopping(tmp_path, stop_at={"nll": 0.04})).path)
    count = len(read(run, "results.json")["members"])
    (run / "results.json").unlink()
    assert go_on(run)[1] == []
    assert go_on(run, "search.members=40")[1] == []  # it is as good as was asked, whatever it may train
    assert go_on(run, "select=top")[1] == []
    assert "search.stop_at" in read(run, "results.3.json")["search_ended"]
    _, trained = go_on(run, "search.stop_at=null", f"search.members={count + 3}")
    assert trained == members(count, count + 1, count + 2)
    assert read(run, "results.4.json")["search_ended"] == f"with all {count + 3} members started"


def test_members_in_training_finish_after_an_early_end(tmp_path, ray_here):
    """Two actors: what was dispatched before is in the ensemble, too."""
    runtime = {"kind": "ray_actors", "pack": 1, "concurrency": 2}
    result = distens.run(
        bare(tmp_path, runtime=runtime, search={"kind": "random", "members": 30, "stop_at": {"nll": 2}})
    )
    written = read(result.path, "results.json")
    told = int(written["search_ended"].partition("with ")[2].split()[0])
    assert len(written["members"]) == told < 30


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"accuracy": 0.9}, "search.stop_at: 'accuracy' is not minimised for this target. Allowed: nll, error"),
        ({"rmse": 0.9}, "search.stop_at: 'rmse' is not minimised for this target. Allowed: nll, error"),
        ({"error": 1.0}, "search.stop_at.error: a number between 0 and 1, found 1"),
        ({"error": 0.0}, "search.stop_at.error: a number between 0 and 1, found 0"),
        ({"nll": -0.5}, "search.stop_at.nll: a number between 0 and inf, found -0.5"),
    ],
)
def test_an_early_end_that_cannot_be_is_refused(given, words, tmp_path):
    with pytest.raises(ConfigError) as caught:
        distens.run(stopping(tmp_path, stop_at=given))
    assert words in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"error": 0.1, "nll": 0.1}, {"error": "0.1"}, {"error": float("nan")}, 0.1, "x"])
def test_an_early_end_of_another_form_is_refused(given, tmp_path):
    with pytest.raises(ConfigError, match=r"search\.stop_at"):
        stopping(tmp_path, stop_at=given)


def test_the_command_line_has_a_word_for_it(tmp_path):
    (tmp_path / "c.yaml").write_text(json.dumps(stopping(tmp_path / "runs").model_dump(mode="json")))
    said = CliRunner().invoke(cli.app, ["run", str(tmp_path / "c.yaml"), "--stop-at", "nll=0.04"])
    assert said.exit_code == 0 and "ends early" in said.output
    (folder,) = (tmp_path / "runs").iterdir()
    said = CliRunner().invoke(cli.app, ["resume", str(folder), "--stop-at", "nll=0.033"])
    assert said.exit_code == 0, said.output
    assert [len(read(folder, f"results.{edition}json")["members"]) for edition in ("", "2.")] == [21, 23]
    for wrong in ("nll", "nll=low", "=0.1", "nll=0.1}"):
        refused = CliRunner().invoke(cli.app, ["resume", str(folder), "--stop-at", wrong])
        assert isinstance(refused.exception, ConfigError), wrong


def test_an_option_that_is_not_given_changes_no_runs_name(tmp_path):
    config = stopping(tmp_path)
    assert "stop_at" not in config.identity()["search"]
    assert parse_config({**config.model_dump(mode="json")}).hash() == config.hash()
    assert stopping(tmp_path, stop_at={"nll": 0.1}).hash() != config.hash()
    assert "all_families_before" not in config.identity()["search"]
    other = [stopping(tmp_path, all_families_before=number).hash() for number in (0, 3)]
    assert len({*other, config.hash()}) == 3
    with pytest.raises(ConfigError, match=r"search.all_families_before: .*give 2 or more, or 0"):
        stopping(tmp_path, all_families_before=1)
