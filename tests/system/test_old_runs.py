"""Run folders and bundles that an earlier version wrote are still read, predicted with and resumed.

`tests/assets/old` holds them, and what the code that wrote them said; `tests/assets/make_old_runs.py` made them. What
is only read is compared exactly, and what is computed as well, if this machine computes as that one did
(`old_runs.arithmetic`); elsewhere numbers may differ as roundings do.
"""

import importlib.util
import io
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import distens
from distens.cli.main import app

sys.path.insert(0, str(Path(__file__).parents[1] / "assets"))  # a member of kind `module` has its network there

import old_runs

SAID = {name: old_runs.said(name) for name in old_runs.names()}
RUNS = [name for name in SAID if "table" not in SAID[name]]
KILLED = [name for name in RUNS if "finished" in SAID[name]]
FINISHED = [name for name in RUNS if name not in KILLED]
PREDICTED = [(name, words) for name in FINISHED for words in SAID[name]["predict"]]
BUNDLES = [*((name, "ensemble") for name in ("table", "rungs", "module", "one_shot")), ("table", "student")]
BUNDLES += [("one_shot", "global"), ("one_shot", "student"), ("rounds", "global"), ("placed", "global")]

NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?")
ROUNDED = {"rtol": 1e-4, "atol": 1e-4}
"""How far numbers may be apart that a machine with other vector units computed: they were found to be 1e-7 apart."""


@pytest.fixture
def old(tmp_path, monkeypatch):
    """Return a function that unpacks a run and goes to where it was made, as its data lie there; it returns the run."""

    def unpacked(name):
        folder = old_runs.unpack(name, tmp_path)
        monkeypatch.chdir(folder)
        return folder / "runs" / SAID[name]["run"]

    return unpacked


def distens_(*words):
    """Return what a command prints; it must succeed."""
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def same_machine(name):
    return SAID[name]["arithmetic"] == old_runs.arithmetic()


def table_of(lines):
    frame = pd.read_csv(io.StringIO("\n".join(lines)))
    return frame["prediction"].astype(str).tolist(), frame.drop(columns="prediction")


def check_predictions(found, expected, **tolerance):
    (now, now_NC), (then, then_NC) = table_of(found), table_of(expected)
    assert list(now_NC.columns) == list(then_NC.columns)
    np.testing.assert_allclose(now_NC.to_numpy(), then_NC.to_numpy(), **(tolerance or {"rtol": 0, "atol": 1e-6}))
    if not tolerance:
        assert now == then


def check_results(now, then, **tolerance):
    """Compare values of results.json by their places, to the bit, or as far as roundings go; there may be more now."""
    assert not set(then) - set(now)
    for place, before in then.items():
        after = now[place]
        if tolerance and isinstance(before, str):
            assert NUMBER.sub("0", after) == NUMBER.sub("0", before), place
        elif tolerance and isinstance(before, float):
            np.testing.assert_allclose(after, before, err_msg=place, **tolerance)
        else:
            assert after == before, place


def stamps(*files):
    return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in files}


def everything(run):
    return stamps(*(file for file in run.rglob("*") if file.is_file()))


# What is read ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FINISHED)
def test_report(name, old):
    run = old(name)
    lines = distens_("report", f"runs/{run.name}").splitlines()
    assert lines[-1] == f"report: {run / 'report.html'}"
    assert lines[:-1] == SAID[name]["report"]


@pytest.mark.parametrize(("name", "words"), PREDICTED, ids=lambda given: given.replace(" ", "_"))
def test_predict(name, words, old):
    run = old(name)
    place, options = old_runs.place_and_options(words.split())
    (file,) = Path().glob("rows.*")
    distens_("predict", f"{run}{place}", file, *options, "--out", "predicted.csv")
    check_predictions(Path("predicted.csv").read_text().splitlines(), SAID[name]["predict"][words])


def test_list(old, tmp_path):
    for name in RUNS:
        run = old(name)
        if not name.endswith("late"):  # the same run as that which was killed earlier
            shutil.copytree(run, tmp_path / "all" / run.name)
    found = distens_("list", "--storage", tmp_path / "all").splitlines()
    lines = {cells[0]: cells for line in found if (cells := old_runs.listed(line))}
    shown = {SAID[name]["run"]: SAID[name]["list"] for name in RUNS if not name.endswith("late")}
    shown = {run: ["scheduled" if cell == "None" else cell for cell in cells] for run, cells in shown.items()}
    assert len(shown) == len(RUNS) - 1
    assert {name: lines[name] for name in shown} == shown
    assert {cells[1] for cells in shown.values()} == {"finished", "unfinished"}


@pytest.mark.parametrize("name", RUNS)
def test_a_config_is_still_that_of_its_run(name, old):
    """As it was written down, resolved; and as the user gave it: `distens run` finds the run that is there."""
    run = old(name)
    info = json.loads((run / "run.json").read_text())
    config = distens.load_config(run / "config.yaml")
    assert config.identity() == info["identity"]
    assert (config.hash(), config.run_name()) == (info["hash"], run.name)
    before = everything(run)
    done = CliRunner().invoke(app, ["run", "given.yaml"])
    state = "was not finished" if name in KILLED else "has finished"
    assert f"runs/{run.name}: this run {state}" in str(done.exception)
    assert everything(run) == before
    if name in KILLED:
        assert "has not finished" in str(CliRunner().invoke(app, ["report", str(run)]).exception)


@pytest.mark.parametrize(("name", "bundle"), BUNDLES)
def test_a_bundle_alone(name, bundle, old, tmp_path, monkeypatch):
    """Without its run, by Python."""
    run = old(name)
    alone = shutil.move(run / "final" / bundle, tmp_path / "alone")
    shutil.rmtree(run)
    said = SAID[name]["predict"]
    if name == "module":
        monkeypatch.delitem(sys.modules, "old_user_net", raising=False)  # one that is imported anyway may be used
        with pytest.raises(distens.BundleError, match="imports"):
            distens.load(str(alone))
        lines, predictor = said["--imports"], distens.load(str(alone), imports=True)
    else:
        words = next(words for words in (bundle, f"--{bundle}", "") if words in said)
        lines, predictor = said[words], distens.load(str(alone))
    (file,) = Path().glob("rows.*")
    rows = pd.read_csv(file) if file.suffix == ".csv" else np.load(file)["x"]
    labels, expected_NC = table_of(lines)
    assert list(predictor.classes) == list(expected_NC.columns)
    np.testing.assert_allclose(predictor.predict_proba(rows), expected_NC.to_numpy(), rtol=0, atol=1e-6)
    assert list(predictor.predict(rows)) == labels


def test_an_mlflow_model_that_was_registered_then(old):
    """It holds a copy of the code that loads a bundle, as it was; and a bundle is made an MLflow model by today's."""
    import mlflow.pyfunc

    run = old("registered")
    rows, (_, expected_NC) = pd.read_csv("rows.csv"), table_of(SAID["registered"]["predict"][""])
    mlflow.pyfunc.save_model(
        "anew",
        python_model=importlib.util.find_spec("distens.serve.pyfunc").origin,
        artifacts={"bundle": str(run / "final" / "ensemble")},
        pip_requirements=[],
    )
    for model in ("model", "anew"):
        found = mlflow.pyfunc.load_model(model).predict(rows)
        assert list(found.columns) == list(expected_NC.columns)
        np.testing.assert_allclose(found.to_numpy(), expected_NC.to_numpy(), rtol=0, atol=1e-6)


def test_a_partition_serves_another_run(old, tmp_path):
    run = old("one_shot")
    given = json.loads(Path("given.yaml").read_text())
    given["federated"] = {"partition": {"kind": "stored", "path": str(run)}}
    for name in ("distill", "baselines"):
        del given[name]
    Path("other.yaml").write_text(json.dumps({**given, "storage": str(tmp_path / "other")}))
    made = Path(distens.run(distens.load_config("other.yaml")).path)
    assert old_runs.results(made)["partition"] == old_runs.results(run)["partition"]
    assert {line.split("/")[0] for line in old_runs.members(made)} == {"c0", "c1", "c2", "c3", "global"}


# What is resumed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", KILLED)
def test_an_interrupted_run_goes_on(name, old):
    """What had finished is not done again, and the run ends as it did under the code that began it."""
    said, run = old_runs.reworded(SAID[name]), old(name)
    kept = stamps(*(run / "journal").glob("*.json"), *(run / "rounds").glob("*.json"))
    for member in said["finished"]:
        kept |= stamps(*(run / "members" / member).glob("*/*"))
    done_before = set(old_runs.members(run))
    assert {line.split("/")[0] for line in done_before} == set(said["finished"])
    if name.startswith("rounds"):  # by the other command that goes on
        distens_("run", "given.yaml", "--resume")
    else:
        distens_("resume", run)
    assert stamps(*kept) == kept
    assert done_before <= set(old_runs.members(run))
    found = json.loads((run / "results.json").read_text())
    assert [log["seconds"] for log in found.get("rounds", [])[: len(said["rounds"])]] == said["rounds"]
    if same_machine(name):
        assert old_runs.members(run) == said["members"]
        check_results(old_runs.results(run), said["results"])
        assert old_runs.bits(run) == said["bits"]
        tolerance = {}
    else:
        check_results(old_runs.results(run), said["results"], **ROUNDED)
        tolerance = ROUNDED
    distens_("predict", run, *Path().glob("rows.*"), "--out", "predicted.csv")
    check_predictions(Path("predicted.csv").read_text().splitlines(), said["predict"][""], **tolerance)


def test_a_half_trained_member_goes_on_from_its_checkpoint(old):
    """The checkpoint is made to say that it took an hour to get there; the member's report then says so too."""
    run = old("killed")
    (file,) = run.glob("members/*/checkpoint.safetensors")
    member = file.parent
    assert not list(member.glob("*/report.json"))
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    meta = json.loads(header["__metadata__"]["distens"])
    assert meta["seconds"] < 1000
    header["__metadata__"]["distens"] = json.dumps({**meta, "seconds": 3600.0})
    changed = json.dumps(header).encode()
    changed += b" " * (-len(changed) % 8)
    file.write_bytes(len(changed).to_bytes(8, "little") + changed + content[end:])
    distens_("resume", run)
    (report,) = member.glob("*/report.json")
    assert 3600 < json.loads(report.read_text())["seconds"] < 5400
    assert not file.exists()


@pytest.mark.parametrize("name", FINISHED)
def test_a_finished_run_is_delivered_anew_and_nothing_else(name, old):
    said, run = old_runs.reworded(SAID[name]), old(name)
    words = []
    if name == "placed":  # those resources are not here
        words = ["--set", "federated.resources={}", "--set", "runtime=inline"]
    if name == "registered":
        words = ["--set", "tracking=off"]
    before, bits, results = everything(run), old_runs.bits(run), json.loads((run / "results.json").read_text())
    distens_("resume", run, *words)
    after = everything(run)
    assert set(before) < set(after)
    assert {file.relative_to(run).parts[0] for file in set(after) - set(before)} == {"figures", "report.html"}
    for file in before:
        place = file.relative_to(run).parts[0]
        assert place in ("final", "results.json") or after[file] == before[file], file
    if same_machine(name):
        check_results(old_runs.results(run), said["results"])
        assert old_runs.bits(run) == bits
    else:
        check_results(old_runs.results(run), said["results"], **ROUNDED)
    anew = json.loads((run / "results.json").read_text())
    row = "ensemble" if "ensemble" in results else "global"
    assert anew[row]["train_seconds"] == results[row]["train_seconds"]  # those of then


def test_a_finished_run_is_trained_deeper(old):
    said, run = old_runs.reworded(SAID["rungs"]["deeper"]), old("rungs")
    done = [file for file in run.glob("final/**/*") if file.is_file()]
    kept, first = stamps(*run.glob("members/*/*/*")), stamps(*done, run / "results.json")
    distens_("resume", run, "--set", said["set"])
    assert stamps(*kept) == kept and stamps(*first) == first
    results = old_runs.results(run, "results.2.json")  # older versions had them in the first ones' place
    if same_machine("rungs"):
        assert old_runs.members(run) == said["members"]
        check_results(results, said["results"])
        found = {
            place: digest for place, digest in old_runs.bits(run).items() if not place.startswith("final/ensemble")
        }
        assert {place.replace("final/2/", "final/"): digest for place, digest in found.items()} == said["bits"]
    else:
        check_results(results, said["results"], **ROUNDED)


def test_a_sweep_that_was_done(old, ray_here):
    """The table says the same, and no run of it is done again."""
    sweep = old("swept")
    before = everything(sweep)
    found = distens_("sweep", "given.yaml").splitlines()
    assert old_runs.without_places(found) == old_runs.reworded(SAID["swept"]["table"])
    after = everything(sweep)
    assert {file: after[file] for file in before if file.name != "sweep.yaml"} == {
        file: stamp for file, stamp in before.items() if file.name != "sweep.yaml"
    }
