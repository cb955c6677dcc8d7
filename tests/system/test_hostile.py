"""Whoever wrote a bundle, a run's folder, a config or a data file: it is refused in words, and does nothing.

Every case is made on disk from a genuine one. None runs code, takes memory or time that its size does not justify, or
touches what lies outside its folder.
"""

import copy
import importlib
import io
import json
import os
import pickle
import resource
import shutil
import struct
import sys

import forge
import numpy as np
import pytest
import torch
from forge import DEEP, FIRST, NET, estimator, put, refit, replace, retext, retree, rezip
from typer.testing import CliRunner

from distens.cli import main as cli
from distens.errors import BundleError, DistensError
from distens.serve import predictor

MOST_GROWTH_KIB = 400 << 10
SECRET = "hunter2"


class Payload:
    """What a pickle would run."""

    def __reduce__(self):
        return exec, ("import os; open(os.environ['CANARY'], 'w')",)


@pytest.fixture(scope="module")
def genuine(tmp_path_factory):
    """Bundles by what their first member is, made when they are first asked for."""
    made = {}

    def get(*settings):
        key = json.dumps(settings)
        if key not in made:
            made[key] = forge.make(tmp_path_factory.mktemp("genuine"), *settings)
            assert predictor.load(str(made[key])).predict_proba(forge.rows()).shape == (150, 3)
        return made[key]

    return get


@pytest.fixture
def folder(genuine, tmp_path):
    """Return a function that copies a bundle, to be changed; of a network and a forest if nothing else is said."""

    def copy(*settings):
        settings = settings or (NET, estimator("extra_trees", n_estimators=2))
        return shutil.copytree(genuine(*settings), tmp_path / "bundle")

    return copy


@pytest.fixture(autouse=True)
def harmless(tmp_path, monkeypatch, request):
    """See that no payload ran, nothing outside was written, and memory stayed in bounds."""
    canary, outside = tmp_path / "canary", tmp_path / "outside"
    monkeypatch.setenv("CANARY", str(canary))
    outside.mkdir()
    (outside / "kept").write_text("as it was")
    if "folder" in request.fixturenames:
        request.getfixturevalue("genuine")(NET)  # what has to be imported and made is not the attack's
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert not canary.exists(), "a payload ran"
    assert {path.name: path.read_text() for path in outside.iterdir() if path.is_file()} == {"kept": "as it was"}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MOST_GROWTH_KIB


def refused(path, *words):
    """See a command refuse a bundle, in one line that says all this."""
    rows = path.parent / "rows.csv"
    forge.rows().to_csv(rows, index=False)
    found = CliRunner().invoke(cli.app, ["predict", str(path), str(rows)])
    assert isinstance(found.exception, BundleError), repr(found.exception)
    text = str(found.exception)
    for word in (str(path), *words):
        assert word in text, text
    assert "\n" not in text and len(text) < 3000


# bundle.json ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["bundle.json is damaged", "EOF"]),
        (DEEP.encode(), ["recursion limit"]),
        (b"[]", ["should be an object"]),
        (b"\xff\xfe\x00{", ["Invalid JSON"]),
        (pickle.dumps({"format": 1}), ["Invalid JSON"]),
        (b'{"format": 1, "name": "\\ud800"}', ["Invalid JSON"]),
        (b'{"format": 1' + b"0" * 5000 + b"}", ["out of range"]),
    ],
)
def test_a_marker_that_is_none(folder, content, words):
    path = folder()
    (path / "bundle.json").write_bytes(content)
    refused(path, *words)


@pytest.mark.parametrize("key", ["name", "kind", "sha256"])
def test_a_key_twice(folder, key):
    """Two readers may take one each."""
    path = folder()
    text = (path / "bundle.json").read_text().replace(f'"{key}":', f'"{key}": "other", "{key}":', 1)
    (path / "bundle.json").write_text(text)
    refused(path, "a key occurs twice", key)


FILE = ("files", FIRST)
SETTINGS = ("members", 0, "settings")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["format"], True, ["format", "integer", "True"]),
        (["format"], 0, ["format", "greater than or equal to 1"]),
        (["pickle"], "x", ["pickle", "not permitted"]),
        (["members", 0, "pickle"], "x", ["members.0.pickle", "not permitted"]),
        ([*FILE, "path"], "/etc/passwd", ["path", "not permitted"]),
        (["name"], ["x"], ["name", "string"]),
        (["temperature"], float("nan"), ["temperature", "finite", "nan"]),
        (["temperature"], float("inf"), ["temperature", "finite", "inf"]),
        (["temperature"], True, ["temperature", "number", "True"]),
        (["temperature"], "1", ["temperature", "number", "'1'"]),
        (["temperature"], 0, ["temperature", "greater than 0"]),
        (["temperature"], 1e-320, ["not finite probabilities"]),
        (["members"], [], ["members", "at least 1"]),
        (["members"], {"m0": 1}, ["members", "array"]),
        (["members", 0, "weight"], -1, ["members.0.weight", "greater than 0", "-1"]),
        (["members", 0, "weight"], True, ["members.0.weight", "number"]),
        (["members", 1, "id"], "m0", ["members", "a name occurs twice", "m0"]),
        (["members", 0, "id"], "../../outside/kept", ["members.0.id", "../../outside/kept"]),
        (["members", 0, "id"], "/etc/passwd", ["members.0.id", "/etc/passwd"]),
        (["members", 0, "id"], "m0\0", ["members.0.id", "m0\\x00"]),
        (["members", 0, "id"], "..\\m0", ["members.0.id", "pattern"]),
        (["members", 0, "id"], 7, ["members.0.id", "string", "7"]),
        (["classes"], ["a", "a", "b"], ["classes", "a name occurs twice"]),
        (["classes"], [1, 2, 3], ["classes.0", "string"]),
        (["classes"], "abc", ["classes", "array"]),
        (["classes"], [str(i) for i in range(100_000)], ["m0", "classes", "100000"]),
        ([*FILE, "sha256"], "0" * 64, [FIRST, "damaged", "SHA-256"]),
        ([*FILE, "sha256"], ["x"], ["sha256", "string"]),
        ([*FILE, "size_bytes"], True, ["size_bytes", "integer"]),
        ([*FILE, "size_bytes"], 2**80, [FIRST, "damaged", str(2**80)]),
        ([*FILE, "size_bytes"], -1, ["size_bytes", "greater than or equal to 0"]),
        (["files", "../outside/kept"], {"sha256": "0" * 64, "size_bytes": 9}, ["refused", "../outside/kept"]),
        (["files", "members/m9.safetensors"], {"sha256": "0" * 64, "size_bytes": 9}, ["refused", "m9"]),
        (["metrics"], "x", ["metrics", "object"]),
        ([*SETTINGS], [1], ["settings", "object"]),
        ([*SETTINGS, "kind"], ["classifier"], ["unknown members kind ['classifier']"]),
        ([*SETTINGS, "kind"], "../store", ["unknown members kind '../store'"]),
        ([*SETTINGS, "model", "hidden"], [10**9], ["m0", "do not fit the network"]),
        ([*SETTINGS, "model", "hidden"], [2**70], ["m0", "Overflow"]),
        ([*SETTINGS, "model", "hidden"], [1] * 100_000, ["hidden", "at most 1000"]),
        ([*SETTINGS, "model", "hidden"], [True], ["hidden.0", "a number", "True"]),
        ([*SETTINGS, "model"], {"kind": "resnet", "depth": 10**9}, ["depth", "less than or equal to 200"]),
        (["combine"], ["average"], ["combine"]),
        (["combine"], "stack", ["its combiner", "bias"]),
        (["combine"], {"kind": "stack", "l2": float("inf")}, ["combine.l2", "finite"]),
        (["cascade"], "x", ["cascade", "object"]),
        (["preprocessing"], [1], ["preprocessing", "object"]),
        (["preprocessing", "kind"], ["table"], ["not a preprocessing"]),
        (["preprocessing", "columns"], "abc", ["columns", "'abc'"]),
        (["preprocessing", "numbers"], ["a", "b"], ["columns", "'a'"]),
        (["preprocessing", "unseen"], "run", ["unseen", "'run'"]),
        (["preprocessing", "scaling", "means_F"], [1, 2], ["4, 2, 4 features"]),
        (["preprocessing", "scaling", "means_F"], [float("nan")] * 4, ["finite numbers", "nan"]),
        (["preprocessing", "scaling", "indicated_I"], [99], ["indicated_I", "99"]),
        (["preprocessing", "scaling", "indicated_I"], [0] * 10**6, ["indicated_I"]),
        (["preprocessing", "categories"], [{"name": "q", "levels": [], "kept": ["z"]}], ["not a preprocessing"]),
        (["preprocessing"], {"kind": "images", "shape": [10**9, 10**9]}, ["not a preprocessing", "means_C"]),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_a_marker_must_not_say(folder, path, value, words):
    changed = folder()
    put(changed, *path, value=value)
    refused(changed, *words)


STAGES = [
    {"members": [0], "spread": 0.7, "temperature": 1.0},
    {"members": [1], "spread": 0.0, "temperature": 1.0},
]
POINTS = [
    {"window": w, "members": m, "share": 0.5, "accuracy_change": 0.0, "loss_bound": 0.1}
    for w, m in ((0.0, 1.0), (0.5, 1.5))
]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (["stages", 0, "members"], [1], ["every member must be"]),
        (["stages", 0, "members"], [0.0], ["integer"]),
        (["stages", 0, "members"], [-1], ["every member must be"]),
        (["stages", 1, "spread"], 0.5, ["the last must be 0"]),
        (["stages", 0, "spread"], float("nan"), ["finite"]),
        (["stages", 0, "temperature"], 0, ["greater than 0"]),
        (["points"], [], ["windows must grow from zero"]),
        (["points", 0, "window"], 1e400, ["finite"]),
        (["points", 1, "window"], -1.0, ["windows must grow from zero"]),
        (["points", 0, "members"], 2.0, ["one member"]),
    ],
)
def test_numbers_that_make_no_cascade(folder, path, value, words):
    changed = folder()
    put(changed, "cascade", value={"stages": STAGES, "points": POINTS})
    assert predictor.load(str(changed)).predict_and_count(forge.rows(), mean_members=1)[1].max() == 1
    put(changed, "cascade", *path, value=value)
    refused(changed, "cascade", *words)


# Its files -----------------------------------------------------------------------------------------------------------


def linked(name, folder):
    """Move a file or folder of the bundle outside, and leave a link to it."""
    target = folder.parent / "elsewhere"
    shutil.move(folder / name, target)
    (folder / name).symlink_to(target)


def emptied(folder, make):
    (folder / FIRST).unlink()
    make(folder / FIRST)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: linked(FIRST, f), [FIRST, "a link that leads out"]),
        (lambda f: linked("members", f), [FIRST, "a link that leads out"]),
        (lambda f: linked("bundle.json", f), ["bundle.json", "a link that leads out"]),
        (lambda f: emptied(f, lambda p: p.symlink_to("/dev/zero")), [FIRST, "a link that leads out"]),
        (lambda f: emptied(f, lambda p: p.symlink_to(p)), [FIRST, "missing"]),
        (lambda f: emptied(f, os.mkfifo), [FIRST, "missing"]),
        (lambda f: emptied(f, os.mkdir), [FIRST, "missing"]),
        (lambda f: os.truncate(f / FIRST, 100), [FIRST, "damaged", "100 bytes instead of"]),
        (lambda f: os.truncate(f / FIRST, 1 << 40), [FIRST, "damaged", f"{1 << 40} bytes instead of"]),
        (lambda f: os.truncate(f / "bundle.json", 1 << 40), ["bundle.json", "longer than"]),
    ],
)
def test_files_that_are_not_the_bundles_own(folder, change, words):
    changed = folder()
    change(changed)
    refused(changed, *words)


def test_links_inside_of_a_bundle_are_none_of_an_attackers_business(folder):
    """As a mounted volume may have them."""
    changed = folder()
    (changed / FIRST).rename(changed / "first")
    (changed / FIRST).symlink_to("../first")
    assert predictor.load(str(changed)).predict_proba(forge.rows()).shape == (150, 3)


def saved_by_torch():
    out = io.BytesIO()
    torch.save({"weight": torch.ones(2)}, out)
    return out.getvalue()


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (struct.pack("<Q", 2**60) + b"{}", ["header too large"]),
        (b"", ["header too small"]),
        (forge.header(DEEP.encode()), ["invalid JSON in header"]),
        (pickle.dumps(Payload()), ["header too"]),
        (saved_by_torch(), ["header too large"]),
        (forge.header({"a": {**ONE, "shape": [2**40]}}, bytes(4)), ["invalid shape"]),
        (forge.header({"a": {**ONE, "shape": [2**62, 8]}}, bytes(4)), ["overflow"]),
        (forge.header({"a": {**ONE, "dtype": "OBJECT"}}, bytes(4)), ["unknown variant"]),
        (forge.header({"a": {**ONE, "dtype": "F8_E4M3", "shape": [4]}}, bytes(4)), ["damaged", "F8_E4M3"]),
        (forge.header({"a": ONE, "b": {**ONE, "data_offsets": [2, 6]}}, bytes(6)), ["damaged"]),
        (forge.state({"w": np.ones(1)}, DEEP), ["damaged", "RecursionError"]),
        (forge.state({"w": np.ones(1)}, "[1]"), ["must be a mapping"]),
        (forge.state({"w": np.ones(1)}, {}), ["m0", "input_shape"]),
    ],
)
def test_a_state_that_is_none(folder, content, words):
    changed = folder()
    replace(changed, FIRST, content)
    refused(changed, "m0", *words)


@pytest.mark.parametrize(
    ("change", "meta", "words"),
    [
        (lambda a: a.astype(np.int64), {}, ["torch.int64", "torch.float32"]),
        (lambda a: a[:1], {}, ["do not fit"]),
        (lambda a: a * np.nan, {}, ["not finite"]),
        (lambda a: a, {"classes": 10**9}, ["classes", "1000000000"]),
        (lambda a: a, {"classes": "3"}, ["classes", "'3'"]),
        (lambda a: a, {"input_shape": [10**12]}, ["input_shape", "1000000000000"]),
        (lambda a: a, {"input_shape": [-4]}, ["input_shape", "-4"]),
    ],
)
def test_a_state_of_another_network(folder, change, meta, words):
    changed = folder()
    arrays, told = forge.read(changed)
    replace(changed, FIRST, forge.state({name: change(array) for name, array in arrays.items()}, {**told, **meta}))
    refused(changed, *words)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"w": np.ones(1)}, ["weights"]),
        ({"weights": np.ones(5)}, ["longer"]),
        ({"weights": np.ones((2, 2))}, ["ambiguous"]),
        ({"weights": np.full(2, np.nan)}, ["not finite probabilities"]),
        ({"weights": np.array([-1.0, 2.0])}, ["not finite probabilities"]),
    ],
)
def test_a_combiner_that_makes_no_probabilities(folder, arrays, words):
    changed = folder()
    replace(changed, "combine.safetensors", forge.state(arrays, {}))
    refused(changed, "its combiner", *words)


# Stored estimators ---------------------------------------------------------------------------------------------------

LINEAR, KNN = estimator("logistic_regression"), estimator("k_nearest_neighbours")
FOREST, BOOSTED = estimator("extra_trees", n_estimators=2), estimator("histogram_boosting", max_iter=2)
LIGHT, SUPPORT = estimator("lightgbm", n_estimators=2), estimator("svm")
ADA = estimator("ada_boost", n_estimators=2)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: forge.put_skops(f, pickle.dumps(Payload())), ["not a zip"]),
        (lambda f: forge.put_skops(f, forge.bomb("schema.json", 200)), ["unpacks to", "bytes"]),
        (lambda f: forge.many_times(f, 1000), ["unpacks to", "bytes"]),
        (lambda f: rezip(f, files={"schema.json": DEEP.encode()}), ["recursion depth"]),
        (lambda f: rezip(f, files={".npy": pickle.dumps(Payload())}), ["allow_pickle"]),
        (lambda f: rezip(f, files={".npy": forge.npy("(2,)", "'O'")}), ["allow_pickle"]),
        (lambda f: rezip(f, files={".npy": forge.npy("(10**12,)")}), ["damaged"]),
        (lambda f: rezip(f, files={".npy": forge.npy("(1000000000000,)")}), ["shape (1000000000000,)", "do not fit"]),
        (lambda f: rezip(f, forge.part("posix", "system", "FunctionNode")), ["FunctionNode", "posix.system"]),
        (lambda f: rezip(f, forge.part("subprocess", "Popen", "ObjectNode")), ["not trusted", "subprocess.Popen"]),
        (
            lambda f: rezip(
                f,
                forge.part(
                    "lightgbm.basic",
                    "Booster",
                    "ConstructorFromReduceNode",
                    content=forge.arguments(None, None, str(f.parent / "outside" / "kept")),
                ),
            ),
            ["ConstructorFromReduceNode", "Booster"],
        ),
        (
            lambda f: rezip(
                f, forge.part("operator", "methodcaller", "OperatorFuncNode", attrs=forge.arguments("system", "id"))
            ),
            ["OperatorFuncNode"],
        ),
        (lambda f: refit(f, lambda e: setattr(e, "classes_", np.array([0, 1, 10**9]))), ["classes", "1000000000"]),
        (lambda f: refit(f, lambda e: setattr(e, "coef_", np.ones((3, 9)))), ["coef_", "(3, 9)"]),
        (lambda f: put(f, *SETTINGS, "estimator", value="lda"), ["is a LogisticRegression, not a Linear"]),
        (lambda f: forge.put_skops(f, forge.skops_bytes(f), {"classes": 10**12}), ["classes", "1000000000000"]),
    ],
)
def test_an_estimator_that_is_more_than_numbers(folder, change, words):
    changed = folder(LINEAR)
    change(changed)
    refused(changed, "m0", *words)


def in_circles(nodes):
    nodes["left_child"][0] = nodes["right_child"][0] = 0


def out_of_itself(nodes):
    nodes["left_child"][0] = nodes["right_child"][0] = 10**12


def of_another_feature(nodes):
    nodes["feature"][0] = 10**12


def boosted(key, value):
    def change(fitted):
        for step in fitted._predictors:
            for tree in step:
                tree.nodes[key][0] = value

    return change


def support(key, value):
    return lambda fitted: setattr(fitted.calibrated_classifiers_[0].estimator, key, value)


@pytest.mark.parametrize(
    ("settings", "change", "words"),
    [
        (FOREST, retree(in_circles), ["leads in circles"]),
        (FOREST, retree(out_of_itself), ["out of itself"]),
        (FOREST, retree(of_another_feature), ["missing features"]),
        (FOREST, lambda e: setattr(e, "n_jobs", 100_000), ["n_jobs", "100000"]),
        (FOREST, lambda e: e.estimators_.__setitem__(0, copy.deepcopy(e)), ["ExtraTreesClassifier among"]),
        (ADA, retree(in_circles), ["leads in circles"]),
        (BOOSTED, boosted("left", 0), ["leads in circles"]),
        (BOOSTED, boosted("right", 2**31), ["out of itself"]),
        (BOOSTED, boosted("feature_idx", 2**40), ["missing features"]),
        (BOOSTED, boosted("is_categorical", 1), ["splits on categorical features"]),
        (KNN, lambda e: setattr(e, "_y", np.full(150, 10**12)), ["do not fit together"]),
        (KNN, lambda e: setattr(e, "n_neighbors", 10**9), ["n_neighbors", "1000000000"]),
        (SUPPORT, support("_n_support", np.array([10**8, -(10**8), 0], dtype=np.int32)), ["do not add up"]),
        (SUPPORT, support("_dual_coef_", np.ones((2, 1))), ["_dual_coef_", "(2, 1)"]),
        (SUPPORT, support("kernel", "precomputed"), ["kernel", "precomputed"]),
        (LIGHT, lambda e: setattr(e, "n_jobs", 100_000), ["n_jobs", "100000"]),
        (LIGHT, lambda e: e._other_params.update(predict_disable_shape_check=True), ["predict_disable_shape_check"]),
    ],
)
def test_numbers_that_compiled_code_would_follow_anywhere(folder, settings, change, words):
    """Each of these hangs or kills a process that predicts with it, or takes all its threads and memory."""
    changed = folder(settings)
    refit(changed, change)
    refused(changed, "m0", *words)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (r"_child=-?\d+", "_child=0", ["leads in circles"]),
        (r"_child=-?\d+", "_child=100000000", ["out of itself"]),
        (r"_child=-?\d+", "_child=-100000000", ["out of itself"]),
        (r"split_feature=\d+", "split_feature=1000000", ["a split on a missing feature"]),
        (r"decision_type=\d+", "decision_type=1", ["a split on a missing feature"]),
        (r"num_leaves=\d+", "num_leaves=2000000000", ["whole numbers", "2000000000"]),
        (r"left_child=\d", "left_child=1.5", ["whole numbers"]),
        (r"num_cat=0", "num_cat=1", ["of categories"]),
        (r"is_linear=0", "is_linear=1", ["of linear models"]),
        (r"shrinkage=", "leaf_const=", ["'leaf_const' is unknown"]),
        (r"shrinkage=1", "shrinkage=1\rnum_leaves=99", ["characters"]),
        (r"shrinkage=1", "shrinkage=1\0", ["characters"]),
        (r"num_class=3", "num_class=1", ["contradict each other"]),
        (r"num_class:3", "num_class:1000000000", ["contradict each other"]),
        (r"max_feature_idx=3", "max_feature_idx=1000000000", ["whole numbers", "1000000000"]),
        (r"end of trees", "end of threes", ["unknown"]),
    ],
)
def test_a_text_that_lightgbm_would_choke_on(folder, old, new, words):
    changed = folder(LIGHT)
    retext(changed, old, new)
    refused(changed, "m0", "LightGBM's text", *words)


MANY_TREES = estimator("lightgbm", n_estimators=10, num_leaves=3)


@pytest.mark.parametrize(
    "thirty", ["30", "3_0", "+30", "030", "30 ", " 30", "0x1e", "3e1", "30.0", "3\u0660", "\uff13\uff10", "3 0"]
)
@pytest.mark.parametrize("keys", ["num_class|num_tree_per_iteration", "num_class", "num_tree_per_iteration", ""])
def test_a_number_that_lightgbm_reads_otherwise(folder, thirty, keys):
    """Three outputs a row are allocated, and thirty would be written: thirty trees are thirty of one iteration, too."""
    changed = folder(MANY_TREES)

    def say(found):
        return f"num_class:{thirty}" if found[0].startswith("num_class:") else f"{found[1]}={thirty}"

    retext(changed, rf"(?m)^({keys or 'none'})=3$|num_class:3", say, everywhere=True)
    text = forge.in_bounds(lambda: predictor.load(str(changed)).predict_proba(forge.rows()))
    assert "m0 cannot be loaded" in text
    agrees = thirty == "30" and "|" in keys  # then it is a model, though of thirty classes
    refused(changed, "m0", "another number of features or classes" if agrees else "LightGBM's text")


def first(values, **wanted):
    """Return the first part of a description that says all this."""
    return next(part for part in forge.parts(values) if wanted.items() <= part.items())


def before(values, twin):
    """Put a part before all others: skops takes the first part of a number for every one that has it."""
    values["content"]["content"] = {"twin": twin, **values["content"]["content"]}


def many_outputs(values):
    first(values, __loader__="TreeNode")["__reduce__"]["args"]["content"][2] = forge.json_node(10**9)


def many_outputs_elsewhere(values):
    arguments = first(values, __loader__="TreeNode")["__reduce__"]["args"]
    before(values, {**arguments, **forge.arguments(4, 3, 10**9)})


def many_outputs_of_a_loss(values):
    first(values, __loader__="TreeNode")["__loader__"] = "LossNode"


def no_text(values):
    first(values, __class__="Booster")["content"]["content"]["_handle"] = forge.json_node(None)


def another_text(values):
    booster = first(values, __class__="Booster")
    booster["content"]["content"]["handle"] = forge.json_node("tree\r")


def another_text_elsewhere(values):
    handle = first(values, __class__="Booster")["content"]["content"]["_handle"]
    before(values, {**handle, **forge.json_node("tree\r")})


def a_text_that_is_a_list(values):
    content = first(values, __class__="Booster")["content"]
    content.update({"__class__": "defaultdict", "__module__": "collections", "__loader__": "DefaultDictNode"})


def from_a_file(values):
    module, name, arguments = "lightgbm.basic", "Booster", forge.arguments(None, None, "/etc/passwd")
    content = {"content": forge.json_node(None), "__reduce__": {"args": arguments}}
    forge.part(module, name, "LossNode", **content)(values)


@pytest.mark.parametrize(
    ("settings", "schema", "words"),
    [
        (FOREST, many_outputs, ["one output"]),
        (FOREST, many_outputs_elsewhere, ["two different parts have the id"]),
        (FOREST, many_outputs_of_a_loss, ["LossNode", "Tree"]),
        (LIGHT, no_text, ["text"]),
        (LIGHT, another_text, ["text"]),
        (LIGHT, another_text_elsewhere, ["two different parts have the id"]),
        (LIGHT, a_text_that_is_a_list, ["text"]),
        (LIGHT, from_a_file, ["LossNode", "Booster"]),
        (FOREST, from_a_file, ["LossNode", "Booster"]),
    ],
)
def test_parts_that_are_not_made_as_they_look(folder, settings, schema, words):
    """What is looked at must be what is made: each of these takes another way round the checks."""
    changed = folder(settings)
    rezip(changed, schema)
    refused(changed, "m0", *words)


def test_trees_that_are_not_where_lightgbm_would_read_them(folder):
    changed = folder(LIGHT)
    retext(changed, r"tree_sizes=\d", "tree_sizes=9", everywhere=True)
    refused(changed, "LightGBM's text")


# Modules -------------------------------------------------------------------------------------------------------------

MODULE = {"family": "mine", "kind": "module", "path": "user_module:Plain", "options": {"dropout": 0.0}, "epochs": 1}


@pytest.fixture
def trap(tmp_path, monkeypatch):
    """A module that is importable and nobody asked for."""
    (tmp_path / "trap.py").write_text(
        "import os, torch\nopen(os.environ['CANARY'], 'w')\nclass Net(torch.nn.Module):\n    pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("trap:Net", ["refused", "m0", "'trap'", "imports=True", "--imports"]),
        ("antigravity:Net", ["refused", "'antigravity'"]),
        (".trap:Net", ["refused"]),
        ("os:system", ["os:system must be a subclass of torch.nn.Module"]),
        ("subprocess:Popen", ["must be a subclass of torch.nn.Module"]),
        ("", ["package.module:Class"]),
    ],
)
@pytest.mark.usefixtures("trap")
def test_a_class_that_nobody_imported(folder, path, words):
    changed = folder()
    put(changed, *SETTINGS, value={"kind": "module", "path": path})
    refused(changed, *words)
    found = CliRunner().invoke(cli.app, ["predict", str(changed), "rows.csv"])
    assert isinstance(found.exception, DistensError)


@pytest.fixture
def forgotten(monkeypatch):
    """Return a function that makes this process forget a user's module, for the rest of the test."""
    return lambda: monkeypatch.delitem(sys.modules, "user_module", raising=False)


def test_leave_to_import_is_given_by_importing_or_by_saying_so(folder, forgotten, tmp_path):
    path = folder(MODULE)
    forge.rows().to_csv(tmp_path / "rows.csv", index=False)
    words = ["predict", str(path), str(tmp_path / "rows.csv")]
    forgotten()
    refused(path, "'user_module'")
    assert "refused" in str(CliRunner().invoke(cli.app, words).exception)
    assert "user_module" not in sys.modules
    importlib.import_module("user_module")
    assert predictor.load(str(path)).predict_proba(forge.rows()).shape == (150, 3)
    forgotten()
    assert predictor.load(str(path), imports=True).predict_proba(forge.rows()).shape == (150, 3)
    forgotten()
    assert CliRunner().invoke(cli.app, [*words, "--imports"]).exit_code == 0


def test_mlflow_asks_no_questions(folder, forgotten, tmp_path):
    """Loading an MLflow model runs its code; ours of a user's own module goes on as before."""
    import mlflow.pyfunc

    mlflow.pyfunc.save_model(
        str(tmp_path / "model"),
        python_model=str(predictor.__file__).replace("predictor.py", "pyfunc.py"),
        artifacts={"bundle": str(folder(MODULE))},
        pip_requirements=[],
    )
    forgotten()
    assert mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(forge.rows()).shape == (150, 3)
