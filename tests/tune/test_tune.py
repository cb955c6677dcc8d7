"""Our searches in Ray Tune: spaces, suggestions, restores, ensembles from results."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from mlflow import MlflowClient
from mlflow.pyfunc import load_model
from ray import tune
from small_run import blas_threads, config, sklearn_only
from threadpoolctl import threadpool_limits

import distens
import distens.tune
from distens.data.load import load_data
from distens.errors import ConfigError, RunError, StorageError
from distens.lifecycle.work._training import HELD_OUT
from distens.roles.ensemble.plan import build_plan
from distens.search.bayes import Bayes
from distens.space.space import Space
from distens.storage.store import Store
from distens.tune.book import TrialBook
from distens.tune.domains import from_json, members_space, space_to_json
from distens.tune.searcher import DivBOSearch
from distens.tune.spaces import TuneSpace


def activation(x):
    return x


SPACE = {
    "batch": tune.choice([16, 32, activation, None]),
    "u": tune.uniform(1, 10),
    "lu": tune.loguniform(1e-4, 1e-1),
    "i": tune.randint(0, 3),
    "li": tune.lograndint(1, 100),
    "q": tune.quniform(0, 1, 0.1),
    "ql": tune.qloguniform(0.1, 10, 0.1),
    "qi": tune.qrandint(2, 10, 2),
    "qli": tune.qlograndint(4, 64, 4),
    "n": tune.randn(3, 2),
    "qn": tune.qrandn(0, 1, 0.5),
    "optimizer": tune.choice(
        [
            {"kind": "adam", "lr": tune.uniform(0, 1), "deep": {"z": tune.choice([1, 2])}},
            {"kind": "sgd", "momentum": tune.uniform(0.5, 0.9)},
            "none",
        ]
    ),
    "layers": [tune.uniform(0, 1), 3, {"width": tune.randint(1, 5)}],
    "low": {"low": tune.uniform(0, 1), "high": 3},
    "one": tune.randint(4, 5),
    "fixed": activation,
    "tenfold": tune.sample_from(lambda config: config["i"] * 10),
}


def draws(space, count, seed=0):
    rng = np.random.default_rng(seed)
    return [space.config(space.space.draw(rng)) for _ in range(count)]


def test_every_suggestion_lies_in_the_tune_domain_and_reaches_its_ends():
    """Integers: randint(0, 3) is 0, 1, 2 (the upper end is left out); qrandint(2, 10, 2) is 2, 4, 6, 8, 10 (it is in);
    lograndint(1, 100) ends at 99. The multiples of 0.1 from 0 to 1 are eleven."""
    space = TuneSpace(SPACE)
    configs = draws(space, 600)
    for name, domain in SPACE.items():
        if isinstance(domain, tune.search.sample.Domain) and name != "optimizer":
            assert all(domain.is_valid(config[name]) for config in configs), name
    found = {name: {config[name] for config in configs} for name in ("i", "qi", "q", "qli", "batch", "one")}
    assert found["i"] == {0, 1, 2}
    assert found["qi"] == {2, 4, 6, 8, 10}
    assert found["q"] == {round(0.1 * k, 1) for k in range(11)}
    assert found["qli"] <= set(range(4, 65, 4))
    assert {4, 64} <= found["qli"]
    assert found["batch"] == {16, 32, activation, None}
    assert found["one"] == {4}
    whole = [config["li"] for config in configs]
    assert min(whole) == 1
    assert max(whole) in range(90, 100)
    assert all(
        type(config["i"]) is int and type(config["qi"]) is int and type(config["u"]) is float for config in configs
    )
    assert all(math.isclose(config["qn"] / 0.5, round(config["qn"] / 0.5)) for config in configs)
    assert all(config["tenfold"] == 10 * config["i"] for config in configs)
    assert all(
        config["fixed"] is activation and config["low"]["high"] == 3 and config["layers"][1] == 3 for config in configs
    )


def test_suggestions_have_tunes_own_distribution():
    """Means of 2,000 draws against those of Tune's sampler: log-uniform in the logarithm; three standard errors of
    the difference allowed (5% for each of many is too often, 0.3% is not)."""
    space, rng = TuneSpace(SPACE), np.random.default_rng(1)
    configs = draws(space, 2000)
    for name in ("u", "lu", "i", "li", "n", "q"):
        ours = np.array([config[name] for config in configs], dtype=float)
        theirs = np.array(SPACE[name].sample(size=2000, random_state=rng), dtype=float)
        if name in ("lu", "li"):
            ours, theirs = np.log(ours), np.log(theirs)
        error = math.hypot(ours.std(), theirs.std()) / math.sqrt(2000)
        # A log-uniform whole number is rounded here and rounded down there: at most half a unit apart, of 1 at most.
        assert abs(ours.mean() - theirs.mean()) < 3 * error + (0.25 if name == "li" else 0), name


def test_a_conditional_option_brings_its_own_domains_and_configs_are_read_back():
    space = TuneSpace(SPACE)
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(60):
        settings = space.space.draw(rng)
        json.dumps(settings, allow_nan=False)
        config = space.config(settings)
        option = config["optimizer"]
        kinds.add(option if isinstance(option, str) else option["kind"])
        if isinstance(option, dict):
            assert set(option) == ({"kind", "lr", "deep"} if option["kind"] == "adam" else {"kind", "momentum"})
        given = {key: value for key, value in config.items() if key != "tenfold"}
        assert space.settings(given, space.space.draw(rng)) == settings
    assert kinds == {"adam", "sgd", "none"}


def test_a_space_of_json_values_is_saved_with_a_search():
    plain = {key: value for key, value in SPACE.items() if key not in ("batch", "fixed", "tenfold")}
    again = from_json(json.loads(json.dumps(space_to_json(plain))))
    assert draws(TuneSpace(again), 50) == draws(TuneSpace(plain), 50)
    search, other = DivBOSearch(plain, "loss", "max"), DivBOSearch()
    search.suggest("t0")
    other.set_state(json.loads(json.dumps(search.get_state())))
    assert (other.metric, other.mode) == ("loss", "max")
    assert other.suggest("t1") == search.suggest("t1")
    nothing = DivBOSearch()
    nothing.set_state(DivBOSearch({"a": tune.choice([activation])}, "loss", "max").get_state())
    with pytest.raises(ConfigError, match=r"functions or other objects is not saved: give it to tune.Tuner.restore"):
        nothing.suggest("t0")


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (
            {"a": {"b": tune.grid_search([1, 2])}},
            r"param_space.a.b: 'grid_search' cannot be searched.*tune.choice.*Allowed: ",
        ),
        ({"a": tune.choice([{"b": tune.grid_search([1, 2])}])}, r"param_space.a\[0\].b: 'grid_search'"),
        ({"a": {"eval": "1 + 1"}}, "param_space.a: 'eval' cannot be searched"),
        (
            {"a": tune.search.sample.Float(0, None)},
            r"param_space.a: this domain cannot be searched: found Float.*Allowed: ",
        ),
        ({"a": tune.choice([])}, "param_space.a: a choice without options"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_its_place(space, message):
    with pytest.raises(ConfigError, match=message):
        TuneSpace(space)


def test_a_configs_members_go_to_tune_and_come_back(tmp_path):
    """Families stay families, the encoding is as wide, and every config holds settings that the config allows."""
    for name in ("digits", "breast_cancer", "fashion_mnist"):
        members = build_plan(distens.load_config(f"configs/{name}.yaml")).config.members
        ours, theirs = Space(members), TuneSpace(members_space(members))
        assert theirs.space.families == ours.families
        assert theirs.space.width == ours.width
        assert all(ours.contains(config["member"]) for config in draws(theirs, 100))


def test_a_schedule_has_no_effect_in_tune(tmp_path):
    with pytest.raises(ConfigError, match="schedule: has no effect in Ray Tune"):
        distens.tune.param_space(config(tmp_path, schedule={"kind": "halving"}))


def test_points_come_first_and_wrong_ones_are_refused():
    space = {"a": tune.uniform(0, 1), "b": tune.choice(["x", "y"]), "c": {"d": tune.randint(0, 5)}, "e": 7}
    search = DivBOSearch(space, "loss", "min", points_to_evaluate=[{"a": 0.25, "b": "y", "c": {"d": 4}}, {"b": "x"}])
    assert search.suggest("t0") == {"a": 0.25, "b": "y", "c": {"d": 4}, "e": 7}
    assert search.suggest("t1")["b"] == "x"
    for point, message in (
        ({"a": 2.0}, r"points_to_evaluate.a: 2.0 lies outside"),
        ({"b": "z"}, r"points_to_evaluate.b: 'z' is none of \['x', 'y'\]"),
        ({"c": {"f": 1}}, r"points_to_evaluate.c.f: not in the space. Allowed: d"),
        ({"e": 8}, r"points_to_evaluate.e: fixed to 7 in the space, found 8"),
    ):
        with pytest.raises(ConfigError, match=message):
            DivBOSearch(space, "loss", "min", points_to_evaluate=[point]).suggest("t0")


SMALL = {"x": tune.uniform(-1, 1), "kind": tune.choice([{"family": "a", "y": tune.uniform(0, 1)}, {"family": "b"}])}


def fed(search, count, first=0):
    """Run trials that report x^2 by hand, two in flight."""
    before = search.suggest(f"t{first}")
    for i in range(first + 1, first + count):
        config = search.suggest(f"t{i}")
        search.on_trial_complete(f"t{i - 1}", {"loss": before["x"] ** 2, "a/b": 1.0})
        before = config
    return search


QUICK = {"kind": "divbo", "proposals": 100, "local": 4}


@pytest.mark.parametrize("way", ["save", "state", "dir", "journal"])
def test_a_restored_search_suggests_what_it_would_have(tmp_path, way):
    """Also when it was restored half way, with a trial pending; the state is JSON."""
    options = {"space": SMALL, "metric": "loss", "mode": "min", "search": QUICK, "seed": 3}
    journal = str(tmp_path / "journal") if way == "journal" else None
    search = fed(DivBOSearch(storage=journal, **options), 9)
    other = DivBOSearch(storage=journal, **options)
    if way == "state":
        other.set_state(json.loads(json.dumps(search.get_state())))
    elif way == "dir":
        search.save_to_dir(str(tmp_path), "now")
        (file,) = tmp_path.glob("distens-search-now.json")
        assert json.loads(file.read_text())["format"] == 1
        other.restore_from_dir(str(tmp_path))
    else:
        search.save(str(tmp_path / "state"))
        other.restore(str(tmp_path / "state"))
    copy = DivBOSearch(**options)
    copy.set_state(search.get_state())
    assert list(other.book.pending) == ["t8"]
    assert other.suggest("t9") == copy.suggest("t9")
    assert other.suggest("t10") == copy.suggest("t10") != copy.suggest("t9")


def test_a_suggestion_takes_one_thread_beside_the_trials(monkeypatch):
    seen, propose = [], Bayes.propose

    def watched(self, *args):
        seen.append(blas_threads())
        return propose(self, *args)

    monkeypatch.setattr(Bayes, "propose", watched)
    with threadpool_limits(2, "blas"):
        fed(DivBOSearch(space=SMALL, metric="loss", mode="min", search="bayes"), 4)
        assert blas_threads() == {2}
    assert seen == [{1}] * 4


def test_a_search_that_knows_less_than_its_journal(tmp_path):
    """Snapshot after 3 of 6 trials. The finished ones after it stay known; what was pending and forgotten by Tune is
    suggested again, once, before anything new."""
    options = {"space": SMALL, "metric": "loss", "mode": "max", "search": QUICK, "storage": str(tmp_path / "j")}
    search = fed(DivBOSearch(**options), 3)
    search.save(str(tmp_path / "snapshot"))
    fed(search, 4, first=3)
    assert len(search.book.done) == 5  # t0, t1, t3, t4, t5; t2 and t6 are pending
    again = DivBOSearch(**options)
    again.restore(str(tmp_path / "snapshot"))
    assert list(again.book.pending) == ["t2"]
    assert len(again.book.done) == 5
    assert again.suggest("t2") == search.suggest("t2")
    lost = search.suggest("t6")
    assert again.suggest("new") == lost
    assert again.suggest("newer") != lost
    values = [entry.report.metrics["nll"] for entry in again.book.done.values()]
    assert max(values) <= 0  # -x^2 is minimised where x^2 is to be largest

    fresh = DivBOSearch(**options)  # no snapshot at all: nobody works on anything that is pending
    assert fresh.suggest("f0") == search.suggest("t2")
    (tmp_path / "bad").write_text("{}")
    with pytest.raises(StorageError, match="bad: not the state of a DivBOSearch"):
        fresh.restore(str(tmp_path / "bad"))
    with pytest.raises(StorageError, match="does not belong to the experiment to be restored"):
        DivBOSearch(**{**options, "storage": str(tmp_path / "empty")}).restore(str(tmp_path / "snapshot"))
    with pytest.raises(RunError, match="belongs to another space"):
        DivBOSearch(**{**options, "space": {"x": tune.uniform(0, 1)}}).suggest("t0")


def test_failures_and_numbers_that_are_none_are_known_as_failed():
    search = DivBOSearch(SMALL, "loss", "min", search="random")
    for name, result, error in (
        ("a", {"loss": 0.5}, False),
        ("b", None, True),
        ("c", {"loss": float("nan")}, False),
        ("d", {"other": 1.0}, False),
        ("e", None, False),
    ):
        search.suggest(name)
        search.on_trial_complete(name, result, error)
    search.on_trial_complete("a", {"loss": 0.1})  # a second time, after a restore: the first counts
    search.on_trial_complete("b", None, True)
    search.on_trial_complete("e", {"loss": 0.7})  # resumed by Tune, and well this time
    search.on_trial_complete("never asked", {"loss": 0.1})
    history = search.book.history("nll", np.zeros(0, dtype=int), lambda name: np.zeros((0, 2)))
    assert [entry.task.id for entry in history.failed] == ["b", "c", "d"]
    assert [entry.report.metrics for entry in history.finished] == [{"nll": 0.5}, {"nll": 0.7}]
    search.add_evaluated_point({"x": 0.5, "kind": {"family": "b"}}, 0.2)
    assert list(search.book.done.values())[-1].report.metrics == {"nll": 0.2}


def test_objectives():
    with pytest.raises(ConfigError, match="no objective"):
        DivBOSearch(SMALL).suggest("t")
    with pytest.raises(ConfigError, match="no space"):
        DivBOSearch(metric="a", mode="min").suggest("t")
    with pytest.raises(ConfigError, match=r"mode: found 'least'. Allowed: min, max"):
        DivBOSearch(mode="least")
    with pytest.raises(ConfigError, match="Did you mean 'divbo'"):
        DivBOSearch(search="divbp")
    search = DivBOSearch(metric="loss", mode="min")
    with pytest.raises(ConfigError, match=r"given 'loss' and tune.TuneConfig 'error'"):
        search.set_search_properties("error", "min", SMALL)
    assert search.set_search_properties("loss", "min", SMALL)
    assert not search.set_search_properties("loss", "min", SMALL)


def test_without_predictions_it_is_plain_bayesian_optimisation_and_says_so_once(caplog):
    divbo = fed(DivBOSearch(SMALL, "loss", "min", search=QUICK), 12)
    bayes = fed(DivBOSearch(SMALL, "loss", "min", search={**QUICK, "kind": "bayes"}), 12)
    assert [entry.task.settings for entry in divbo.book.done.values()] == [
        entry.task.settings for entry in bayes.book.done.values()
    ]
    assert sum("continuing as plain Bayesian optimisation" in record.message for record in caplog.records) == 1


DRIVER = """
import sys
from pathlib import Path
import ray
from ray import tune
import distens.tune
from small_run import sklearn_only

folder = Path(sys.argv[1])
ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
config = sklearn_only(folder)
tune.Tuner(
    distens.tune.trainable(config),
    param_space=distens.tune.param_space(config),
    tune_config=tune.TuneConfig(
        search_alg=distens.tune.DivBOSearch.of(config), num_samples=10, max_concurrent_trials=4, reuse_actors=True
    ),
    run_config=tune.RunConfig(name="trials", storage_path=str(folder / "tune"), verbose=0),
).fit()
"""


def told(journal):
    entries = [entry for file in sorted(journal.glob("*.json")) for entry in json.loads(file.read_text())]
    return [entry["report"]["task_id"] for entry in entries if "report" in entry]


def test_four_trials_at_once_killed_restored_and_made_an_ensemble_that_is_registered_and_predicts(tmp_path, ray_here):
    """SIGKILL of the driver after four trials. Tune's last snapshot is older, as it is taken every ten seconds; so it
    has trials run again, and forgets others. What finished stays known and is not trained twice."""
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(tmp_path)], env=env, cwd=Path.cwd())
    experiment = sklearn_only(tmp_path)
    (folder,) = [Path(distens.tune.DivBOSearch.of(experiment)._storage)]
    until = time.monotonic() + 200
    while len(told(folder / "journal")) < 4 and time.monotonic() < until:
        time.sleep(0.05)
        assert driver.poll() is None, "the driver ended by itself"
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    before = told(folder / "journal")
    assert 4 <= len(before) < 10
    reports = {path: path.read_bytes() for path in folder.glob("members/*/*/report.json")}

    trainable = distens.tune.trainable(experiment)
    tuner = tune.Tuner.restore(str(tmp_path / "tune" / "trials"), trainable=trainable)
    results = tuner.fit()
    assert not results.errors
    book = TrialBook(Store(str(folder)))
    after = list(book.done)
    assert after[: len(before)] == before
    assert len(after) >= 10
    assert not book.pending
    assert all(path.read_bytes() == content for path, content in reports.items())
    finished = [path.parent.parent.name for path in folder.glob("members/*/*/report.json")]
    assert len(finished) == len(set(finished)), "a finished member was trained again"
    histories = [entry.task.settings for entry in book.done.values()]
    assert len({json.dumps(settings, sort_keys=True) for settings in histories}) == len(finished)

    result = distens.tune.ensemble(results, experiment, select="top", combine="average")
    assert set(result.rows) == {"ensemble", "best_single"}
    assert result.rows["ensemble"]["accuracy"] > 0.8
    assert len(Store(result.path).read_json("results.json")["members"]) == len(finished)
    rows = load_data(experiment.data, experiment.seed).example_rows
    predicted_NC = distens.load(result.path).predict_proba(rows)
    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    version = client.get_model_version_by_alias("iris", "champion")
    registered_NC = load_model(client.get_model_version_download_uri("iris", version.version)).predict(rows).to_numpy()
    assert np.abs(registered_NC - predicted_NC).max() < 1e-6
    with pytest.raises(RunError, match="there is a run of this config already; pass `overwrite"):
        distens.tune.ensemble(results, experiment, select="top", combine="average")


def test_trials_by_folds_become_an_ensemble(tmp_path, ray_here):
    data = {"source": "sklearn:iris", "folds": 2}
    network = {"kind": "classifier", "model": {"kind": "mlp", "hidden": [8]}, "epochs": 2}
    members = {"mlp": {**network, "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}}
    experiment = config(tmp_path / "runs", data=data, members=members, distill=None, baselines=[])
    tuner = tune.Tuner(
        distens.tune.trainable(experiment),
        param_space=distens.tune.param_space(experiment),
        tune_config=tune.TuneConfig(num_samples=2, max_concurrent_trials=2),
        run_config=tune.RunConfig(name="folds", storage_path=str(tmp_path / "tune"), verbose=0),
    )
    result = distens.tune.ensemble(tuner.fit(), experiment, select={"kind": "top", "size": 2})
    manifest = Store(result.path).read_json("final/ensemble/bundle.json")
    assert [member["parts"] for member in manifest["members"]] == [["fold1", "fold2"]] * 2


def user_trains(settings, dataset):
    """As a user's own trainable: a member of any kind, predictions alone, nothing, or an error."""
    from distens.training.context import Context

    if settings["does"] == "fail":
        raise ValueError("this one is broken")
    if settings["does"] == "plain":
        tune.report({"score": 0.5})
    elif settings["does"] == "predictions":
        probs_NC = np.full((len(dataset.labels["search"]), 3), 1 / 3)
        distens.tune.report({"score": 0.6}, predictions=probs_NC)
    else:
        member = distens.tune.build(settings["member"])
        metrics = member.fit(dataset.examples(), Context(seed=5))
        rows = {split: dataset.inputs[split] for split in ("search", "combine", "test")}
        distens.tune.report(
            {**metrics, "score": 0.9}, member=member, rows=rows, labels=dataset.labels["search"], seed=5
        )


def fit(folder, points, dataset, **options):
    search = DivBOSearch(search="random", points_to_evaluate=points, **options)
    member = {"kind": "module", "path": "user_module:Plain", "epochs": 3, "learning_rate": tune.loguniform(1e-3, 1e-1)}
    space = {"does": tune.choice(["train", "predictions", "plain", "fail"]), "member": member}
    tuner = tune.Tuner(
        tune.with_parameters(user_trains, dataset=dataset),
        param_space=space,
        tune_config=tune.TuneConfig(
            search_alg=search, metric="score", mode="max", num_samples=len(points), reuse_actors=True
        ),
        run_config=tune.RunConfig(name="own trials", storage_path=str(folder), verbose=0),
    )
    return tuner.fit(), search


def test_a_users_own_trainable_reports_members_predictions_or_nothing(tmp_path, ray_here):
    """Two members of the user's own torch class make the ensemble; the other trials are named with their reason. What
    is reported without a member leads a search, and is refused as an ensemble in words."""
    data = {"source": "sklearn:iris"}
    dataset = load_data(config(tmp_path, data=data).data, 0).dataset
    points = [{"does": "train"}, {"does": "predictions"}, {"does": "plain"}, {"does": "fail"}, {"does": "train"}]
    results, search = fit(tmp_path, points, dataset, labels=dataset.labels["search"])
    assert len(results.errors) == 1
    trained = [result for result in results if "parameters" in (result.metrics or {})]
    assert len(trained) == 2
    assert all(result.metrics["score"] == 0.9 and 0 < result.metrics["nll"] < 3 for result in trained)
    history = search.book.history("nll", dataset.labels["search"], lambda name: search._predictions(search.book, name))
    values = sorted(entry.report.metrics["nll"] for entry in history.finished)
    assert values == [-0.9, -0.9, -0.6, -0.5]
    with_predictions = [entry for entry in history.finished if "search" in entry.report.files]
    assert {len(history.predictions(entry.task.id)) for entry in with_predictions} == {len(dataset.labels["search"])}
    assert len(with_predictions) == 3

    sections = {"data": data, "storage": str(tmp_path / "runs"), "tracking": "off", "runtime": "inline"}
    result = distens.tune.ensemble(results, select="greedy", combine="average", **sections)
    assert Path(result.path).name.startswith("own_trials-")
    assert set(result.weights) <= {trial.metrics["trial_id"] for trial in trained}
    written = Store(result.path).read_json("results.json")
    reasons = [failure["message"] for failure in written["failures"]]
    assert len(reasons) == 3
    for reason in ("predictions only", "neither a member", "ValueError: this one is broken"):
        assert sum(reason in found for found in reasons) == 1, reasons
    rows = load_data(config(tmp_path, data=data).data, 0).example_rows
    assert distens.load(result.path).predict_proba(rows).shape == (5, 3)

    with pytest.raises(RunError, match=r"its NLL on search was .* the rows differ, or their order"):
        distens.tune.ensemble(results, seed=1, **sections)
    lone, _ = fit(tmp_path / "lone", [{"does": "predictions"}], dataset)
    with pytest.raises(RunError, match=r"no trial reported a member(?s:.*)predictions only"):
        distens.tune.ensemble(lone, **sections)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"member": 1, "predictions": np.ones((2, 2))}, "exclude each other"),
        ({"labels": [1]}, "`rows`, `labels` and `data` have no effect without a `member`"),
        ({"predictions": np.array([[np.nan, 1.0]])}, "predictions are finite predictions_NK"),
        ({"member": 1, "rows": {"search": [[0]]}, "labels": [1]}, "a member needs `rows` for search, combine, test"),
        ({"member": 1, "rows": {split: [[0]] for split in HELD_OUT}, "labels": [1]}, "`parameters` is missing"),
    ],
)
def test_wrong_reports_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        distens.tune.report({}, **options)


def swept(folder, over, **section):
    return sklearn_only(
        folder,
        search={"kind": "random", "members": 3},
        runtime={"kind": "ray_actors", "cpus_per_member": 1},
        tracking={"kind": "mlflow_runs", "register": False},  # ./mlflow.db, wherever a run is carried out
        sweep={"over": over, "samples": 2, **section},
    )


def test_a_sweep_is_judged_on_combine_nested_in_mlflow_and_goes_on(tmp_path, ray_here, monkeypatch):
    """One run, then one more by the same sweep with two samples: what finished is not done again. The metric is the
    negative log-likelihood on *combine*, worked out here from the members' predictions and their weights."""
    from distens import probabilities
    from distens.lifecycle.ledger import Ledger
    from distens.tune.sweep import sweep

    monkeypatch.chdir(tmp_path)
    over = {"select.size": {"choices": [1, 5]}, "seed": {"low": 0, "high": 3}}
    lines = []
    first = sweep(swept(tmp_path, over, samples=1), lines.append)
    assert len(first.runs) == 1
    marks = {run.path: Path(run.path, "results.json").stat().st_mtime_ns for run in first.runs}
    again = sweep(swept(tmp_path, over), lines.append)
    assert again.path == first.path
    assert again.runs[:1] == first.runs
    assert [line[:5] for line in lines] == ["[1/1]", "[2/2]"]
    assert all(Path(path, "results.json").stat().st_mtime_ns == mark for path, mark in marks.items())
    assert again.best.value == min(run.value for run in again.runs)
    assert len({run.path for run in again.runs}) == 2
    assert any("seed: changes the split of the rows" in note for note in again.notes)

    run = again.runs[1]
    values = distens.config.config.parse_yaml(Path(run.path, "config.yaml").read_text(), "")
    assert values.seed == run.values["seed"]
    assert values.select["size"] == run.values["select.size"]
    store, results = Store(run.path), json.loads(Path(run.path, "results.json").read_text())
    ledger = Ledger(store)
    members_MNC = [store.read_predictions(ledger.report(name).files["combine"]) for name in results["weights"]]
    mixed_NC = probabilities.mix(members_MNC, np.array(list(results["weights"].values())))
    labels_N = load_data(values.data, values.seed).dataset.labels["combine"]
    calm_NC = probabilities.apply_temperature(mixed_NC, results["ensemble"]["temperature"])
    assert run.value == pytest.approx(probabilities.negative_log_likelihood(calm_NC, labels_N), abs=1e-6)
    assert run.value != pytest.approx(results["ensemble"]["nll"], abs=1e-6)  # that is of test

    client = MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "iris"]
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in found if run.info.run_name == Path(first.path).name]
    nested = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.info.run_name for run in nested} == {Path(run.path).name for run in again.runs}
    assert parent.info.status == "FINISHED"
    assert parent.data.metrics["best.combine_nll"] == pytest.approx(again.best.value)


@pytest.mark.parametrize(
    ("over", "section", "message"),
    [
        ({"search.beta": {"low": 0.01, "high": 0.1}}, {}, "sweep.over: with search.beta .*unknown option of 'random'"),
        ({"select.size": {"low": 0, "high": 5}}, {}, r"sweep.over: with select.size 0: select.size: .*greater than"),
        ({"tracking": {"choices": ["off", "memory"]}}, {}, "sweep.over.tracking: has no effect"),
        ({"seed": {"lo": 1}}, {}, "sweep.over.seed: a domain is needed"),
        ({"distill.copies": {"low": 1, "high": 3}}, {}, "distill.copies: 'distill' is not a section, found None"),
        ({"seed": {"choices": [0]}}, {}, "sweep.samples: 2 runs, but `over` holds 1 different"),
        ({"seed": {"choices": [0, 1]}}, {"metric": "student.nll"}, "sweep.metric: found 'student.nll'"),
        (
            {"seed": {"choices": [0, 1]}},
            {"metric": "ensemble.loss"},
            "sweep.metric: found 'ensemble.loss'. Allowed: .*accuracy",
        ),
        ({"seed": {"choices": [0, 1]}}, {"mode": "max"}, "sweep.mode: would choose the worst run by nll"),
        ({"seed": {"choices": [0, 1]}}, {"search": "dibvo"}, r"sweep.search.kind: unknown search kind 'dibvo'"),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_before_anything_starts(tmp_path, over, section, message):
    from distens.tune.sweep import sweep

    with pytest.raises(ConfigError, match=message):
        sweep(swept(tmp_path, over, **section))
    assert not (tmp_path / "runs").exists()


def test_a_run_of_a_sweep_whose_process_dies_goes_on_in_another(tmp_path, ray_here):
    from distens.tune.sweep import sweep

    killed = []

    def kill():
        until = time.monotonic() + 120
        while not list(tmp_path.glob("runs/*/*/run.json")) and time.monotonic() < until:
            time.sleep(0.005)
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess, IndexError):
                if process.cmdline()[0].startswith("ray::ImplicitFunc"):
                    process.kill()
                    killed.append(process.pid)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    over = {"select.size": {"choices": [1, 5]}}
    found = sweep(swept(tmp_path, over, concurrency=1).model_copy(update={"tracking": "off"}))
    thread.join()
    assert killed
    assert sorted(run.values["select.size"] for run in found.runs) == [1, 5]
    assert not [run.why for run in found.runs if run.value is None]


def test_a_run_of_a_sweep_whose_storage_fails_goes_on(tmp_path, ray_here):
    """Each run has members of its own, of which the very first ends its run."""
    from distens.tune.sweep import sweep

    over = {"select.size": {"choices": [1, 5]}}
    toy = {"kind": "plugins.members.pretend:Pretend", "notes": str(tmp_path / "notes"), "does": "full once"}
    found = sweep(swept(tmp_path, over, concurrency=1).model_copy(update={"tracking": "off", "members": {"toy": toy}}))
    assert (tmp_path / "go").exists()
    assert sorted(run.values["select.size"] for run in found.runs) == [1, 5]
    assert not [run.why for run in found.runs if run.value is None]
    assert not list(tmp_path.glob("runs/*/*/failure.txt"))


def test_a_run_of_a_sweep_that_fails_is_named_and_the_others_go_on(tmp_path, ray_here):
    from distens.tune.sweep import sweep

    over = {"data.source": {"choices": ["sklearn:iris", "nowhere.npz"]}}
    found = sweep(swept(tmp_path, over, metric="best_single.accuracy").model_copy(update={"tracking": "off"}))
    failed = next(run for run in found.runs if run.value is None)
    assert failed.values == {"data.source": "nowhere.npz"}
    assert "nowhere.npz" in failed.why
    assert found.best.values == {"data.source": "sklearn:iris"}
    assert found.best.value > 0.8
