"""The bytes of stored estimators: the same for the same estimator, and read only as far as their size justifies."""

import hashlib
import io
import json
import os
import struct
import subprocess
import sys
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from forge import in_bounds

from distens.data.dataset import Examples
from distens.members._archive import archive_estimator, read_archive, read_shape
from distens.members._families import CLASSIFIERS, REGRESSORS
from distens.members.estimator import Estimator
from distens.members.estimator_regressor import EstimatorRegressor
from distens.records import State
from distens.training.context import Context

FEW = {
    "ada_boost": {"n_estimators": 4, "max_depth": 2},
    "extra_trees": {"n_estimators": 4},
    "histogram_boosting": {"max_iter": 4},
    "lightgbm": {"n_estimators": 4},
    "mlp": {"max_iter": 4},
    "random_forest": {"n_estimators": 4},
}
MEMBERS = [*((Estimator, name) for name in CLASSIFIERS), *((EstimatorRegressor, name) for name in REGRESSORS)]
members = pytest.mark.parametrize(("kind", "name"), MEMBERS, ids=lambda value: getattr(value, "__name__", value))


def trained(kind, name, classes=3):
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(90, 4)).astype(np.float32)
    numbers_N = inputs[:, 0].astype(np.float64) + inputs[:, 1] ** 2
    targets_N = np.digitize(numbers_N, [0.3, 1.2][: classes - 1]) if kind is Estimator else numbers_N
    member = kind(name, FEW.get(name, {}))
    member.fit(Examples(inputs, targets_N, classes if kind is Estimator else 1), Context(seed=1))
    return member, inputs


def skops_of(member):
    return member.state().arrays["skops"].tobytes()


# The same bytes ------------------------------------------------------------------------------------------------------


@members
def test_equal_members_are_equal_bytes(kind, name):
    """Whatever else the process has in memory, and whatever the time is."""
    first = skops_of(trained(kind, name)[0])
    held = [np.zeros(n) for n in range(300)]
    assert skops_of(trained(kind, name)[0]) == first
    assert len(held) == 300
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        names = archive.namelist()
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert names == [*(f"{n}.npy" for n in range(len(names) - 1)), "schema.json"]


@members
def test_what_is_read_back_is_written_as_it_was(kind, name):
    """Except LightGBM's text, which is then without the parameters that it was trained with."""
    member, _ = trained(kind, name)
    back, again = kind(name, FEW.get(name, {})), kind(name, FEW.get(name, {}))
    back.load(member.state())
    again.load(back.state())
    assert skops_of(again) == skops_of(back)
    assert (skops_of(back) == skops_of(member)) == (name != "lightgbm")


@members
def test_the_archive_is_that_of_skops_own_file(kind, name, monkeypatch):
    """With the library's inner names, and, in a version that has others, without."""
    fitted = trained(kind, name)[0]._fitted
    directly = archive_estimator(fitted).dump()
    monkeypatch.delattr("skops.io._utils.SaveContext")
    assert archive_estimator(fitted).dump() == directly


def test_another_process_writes_the_same_bytes():
    script = (
        "import sys; sys.path[:0] = sys.argv[1:]; import test_archive as here, hashlib\n"
        "for kind, name in [(here.Estimator, n) for n in ('extra_trees', 'lightgbm', 'mlp')]:\n"
        "    print(hashlib.sha256(here.skops_of(here.trained(kind, name)[0])).hexdigest())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-c",
        script,
        *map(str, (Path(__file__).parent, Path(__file__).parents[1])),
    ]
    first = subprocess.run(command, env=env, stdout=subprocess.PIPE, check=True, text=True).stdout.split()
    second = [skops_of(trained(Estimator, name)[0]) for name in ("extra_trees", "lightgbm", "mlp")]
    assert first == [hashlib.sha256(content).hexdigest() for content in second]


def test_trees_hold_nothing_of_the_memory_around_them():
    """Each node has seven bytes that belong to no number; they are of whatever was in memory."""
    archive = read_archive(skops_of(trained(Estimator, "random_forest")[0]), 10**6)
    trees = [content for content in archive.arrays.values() if b"left_child" in content]
    assert len(trees) == 4
    for content in trees:
        (nodes,) = read_shape(content)[0]
        rows = np.frombuffer(content[-64 * nodes :], np.uint8).reshape(nodes, 64)
        assert rows[:, :57].any()
        assert not rows[:, 57:].any()


# What is read --------------------------------------------------------------------------------------------------------


def bounded(content, name="logistic_regression"):
    state = State({"skops": np.frombuffer(content, np.uint8)}, {"classes": 3})
    return in_bounds(lambda: Estimator(name).load(state))


@pytest.fixture(scope="module")
def linear():
    return skops_of(trained(Estimator, "logistic_regression")[0])


def rezipped(content, change=lambda name, found: found, more=(), method=zipfile.ZIP_DEFLATED):
    out = io.BytesIO()
    with (
        warnings.catch_warnings(),
        zipfile.ZipFile(io.BytesIO(content)) as old,
        zipfile.ZipFile(out, "w", method) as new,
    ):
        warnings.simplefilter("ignore")  # two entries of one name
        for entry in old.infolist():
            new.writestr(entry.filename, change(entry.filename, old.read(entry)))
        for name, found in more:
            new.writestr(name, found)
    return out.getvalue()


def described(content, old, new, count=1):
    """Return an archive whose description says something else."""

    def change(name, found):
        if name != "schema.json":
            return found
        assert old in found.decode()
        return found.decode().replace(old, new, count)

    return rezipped(content, change)


def schema_of(text):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("schema.json", text)
    return out.getvalue()


def longer_than_it_says(content):
    """Return an archive whose first array unpacks to two gibibytes, while the archive says that it has 100 bytes."""
    squeezer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = (squeezer.compress(bytes(2**20)) + squeezer.flush(zlib.Z_FULL_FLUSH)) * 2048 + squeezer.flush()
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, packed if entry.filename == "0.npy" else old.read(entry))
    found = out.getvalue()
    sizes = struct.pack("<II", len(packed), len(packed))
    for mark, method, size in ((b"PK\x03\x04", 8, 18), (b"PK\x01\x02", 10, 20)):
        place = found.index(mark)
        assert found[place + size : place + size + 8] == sizes
        found = found[: place + method] + b"\x08\0" + found[place + method + 2 :]
        found = found[: place + size] + struct.pack("<II", len(packed), 100) + found[place + size + 8 :]
    return found


def encrypted(content):
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = content.index(mark) + flags
        content = content[:place] + b"\x01\0" + content[place + 2 :]
    return content


EMPTY = '{"__class__":"list","__module__":"builtins","__loader__":"ListNode","content":[]}'
DEEP_NUMBER = "-" * 9000 + "1"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: rezipped(c, more=[("schema.json", b"{}")]), "two entries have the name 'schema.json'"),
        (lambda c: rezipped(c, more=[("0.npy", b"")]), "two entries have the name '0.npy'"),
        (lambda c: rezipped(c, more=[("0.npy\0x", b"")]), "two entries have the name '0.npy'"),
        (lambda c: rezipped(c, method=zipfile.ZIP_LZMA), "compressed in another way"),
        (lambda c: rezipped(c, method=zipfile.ZIP_BZIP2), "compressed in another way"),
        (encrypted, "encrypted"),
        (longer_than_it_says, "CRC"),
        (lambda c: rezipped(c, lambda n, f: f if n != "schema.json" else f.decode().encode("utf-16")), "utf-8"),
        (lambda c: described(c, '"0.npy"', '"../0.npy"'), "../0.npy"),
        (lambda c: described(c, '"0.npy"', '"0.NPY"'), "0.NPY"),
        (lambda c: described(c, '"0.npy"', '"/etc/passwd"'), "/etc/passwd"),
        (lambda c: described(c, '"0.npy"', '["0.npy"]'), "unhashable"),
        (lambda c: described(c, '"0.npy"', '"schema.json"'), "allow_pickle"),
        (lambda c: described(c, '"protocol"', '"__loader__":"DictNode","protocol"'), "a key occurs twice"),
        (lambda c: described(c, '"file":"0.npy"', '"file":"0.npy","file":"1.npy"'), "a key occurs twice"),
        (lambda c: described(c, '"__id__":1,', '"__id__":NaN,'), "the number 'NaN'"),
        (lambda c: described(c, '"__id__":1,', '"__id__":1.0,'), "the number '1.0'"),
        (lambda c: described(c, '"__id__":1,', '"__id__":1e999,'), "the number '1e999'"),
        (lambda c: described(c, '"__id__":1,', '"__id__":true,'), "the number True"),
        (lambda c: described(c, '"__id__":1,', '"__id__":"1",'), "the number '1'"),
        (lambda c: described(c, '"__id__":1,', '"__id__":' + "1" * 5000 + ","), "digits"),
        (lambda c: described(c, '"protocol":2', '"protocol":99'), "protocol"),
        (lambda c: described(c, '"protocol":2', '"protocol":true'), "protocol"),
        (lambda c: described(c, '"content":"1.0"', '"content":"[1.0]"'), "not one of JSON's own"),
        (lambda c: described(c, '"content":"1.0"', '"content":" [1.0]"'), "not one of JSON's own"),
        (lambda c: described(c, '"content":"1.0"', '"content":""'), "not one of JSON's own"),
        (lambda c: described(c, '"content":"1.0"', '"content":1.0'), "where only whole ones"),
        (lambda c: described(c, '"content":"1.0"', '"content":null'), "not one of JSON's own"),
        (lambda c: described(c, '"type":"numpy"', '"type":"json"'), "is not allowed as"),
        (lambda c: described(c, '"ndarray"', '"void"'), "numpy.void"),
        (lambda c: described(c, '"ndarray"', '"float64"'), "is not allowed as numpy.float64"),
        (lambda c: described(c, '"ndarray"', '"zeros"'), "numpy.zeros"),
        (lambda c: described(c, '"JsonNode"', '"CachedNode"'), "CachedNode"),
        (lambda c: described(c, '"LogisticRegression"', '"Pipeline"'), "not trusted: "),
        (lambda c: described(c, '"LogisticRegression"', '"SGDClassifier"'), "not trusted: "),
        (lambda c: schema_of('{"x":[' + "[]," * 20_000_000 + "[]]}"), "unpacks to"),
        (lambda c: schema_of('{"x":[' + "[]," * 1_300_000 + "[]]}"), "entries, at most"),
        (lambda c: schema_of('{"x":[' + ",".join([EMPTY] * 30_000) + "]}"), "at most"),
        (lambda c: schema_of("[" * 200_000), "entries|recursion"),
        (lambda c: schema_of("7"), "not an object"),
        (lambda c: schema_of("{}"), "damaged"),
        (lambda c: c[:-22], "zip"),
        (lambda c: b"PK\x01\x02" * 100_001 + c, "100,000 entries"),
    ],
)
def test_an_archive_that_two_readers_may_read_differently_or_that_is_none(linear, change, words):
    text = bounded(change(linear))
    assert text.startswith("estimator logistic_regression: the stored state is"), text
    assert any(word in text for word in words.split("|")), text


def array(shape="(2,)", kind="'<f8'", order="False", body=bytes(16), version=1):
    head = f"{{'descr': {kind}, 'fortran_order': {order}, 'shape': {shape}, }}".encode()
    head += b" " * (63 - (len(head) + 10) % 64) + b"\n"
    length = struct.pack("<H" if version == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + length + head + body


ARRAYS = [
    array("(3,)"),
    array("(1,)"),
    array("()"),
    array("(1000000000000,)"),
    array("(4294967296, 4294967296)"),
    array("(9223372036854775807, 2)"),
    array("(-1, -2)"),
    array("(-2,)"),
    array("(0, 1000000000000)", body=b""),
    array("(1000000000000, 0)", body=b""),
    array("2"),
    array("'2'"),
    array("(2.0,)"),
    array("(2,) * 3"),
    array("(" + "1, " * 65 + ")", body=bytes(8)),
    array(kind="'|O'"),
    array(kind="'<U2'"),
    array(kind="'|V8'"),
    array(kind="'|V0'", body=b""),
    array(kind="'|S0'", body=b""),
    array(kind="'>f8'"),
    array(kind="'<c16'", shape="(1,)"),
    array(kind="'<M8[s]'"),
    array(kind="'<f16'", shape="(1,)"),
    array(kind="[('a', '<f8'), ('b', '|O')]", shape="(1,)"),
    array(kind="[('a', '|V8')]"),
    array(kind="[('a', '<f8', (1000000000,))]", shape="(1,)"),
    array(kind="[]", body=b""),
    array(kind="__import__('os')"),
    array(kind=DEEP_NUMBER),
    array(kind="(" * 3000),
    array(order="None"),
    array(version=2),
    array(version=3),
    array()[:40],
    array() + b"\0",
    b"\x93NUMPY\x01\x00\xff\xff",
    b"",
    b"\x80\x04N.",
]


@pytest.mark.parametrize("content", ARRAYS, ids=lambda content: ascii(content[10:60]))
def test_an_array_whose_header_does_not_fit(linear, content):
    text = bounded(rezipped(linear, lambda name, found: content if name == "1.npy" else found))
    assert text.startswith("estimator logistic_regression: the stored state is damaged, or hostile: "), text


def test_arrays_in_another_order_are_the_same(linear):
    def turned(name, found):
        values = np.load(io.BytesIO(found), allow_pickle=False)
        out = io.BytesIO()
        np.save(out, np.asfortranarray(values), allow_pickle=False)
        return out.getvalue()

    turned_state = rezipped(linear, lambda name, found: turned(name, found) if name.endswith(".npy") else found)
    member, inputs = trained(Estimator, "logistic_regression")
    back = Estimator("logistic_regression")
    back.load(State({"skops": np.frombuffer(turned_state, np.uint8)}, {"classes": 3}))
    np.testing.assert_allclose(back.predict(inputs), member.predict(inputs), rtol=1e-6)
    assert read_shape(array())[0] == (2,)


@members
def test_states_of_older_versions_are_read(kind, name):
    """As skops writes them itself: parts by their addresses, entries with times."""
    import skops.io

    member, inputs = trained(kind, name)
    content = skops.io.dumps(member._fitted, compression=zipfile.ZIP_DEFLATED, compresslevel=1)
    back = kind(name, FEW.get(name, {}))
    back.load(State({"skops": np.frombuffer(content, np.uint8)}, member.state().meta))
    np.testing.assert_array_equal(back.predict(inputs), member.predict(inputs), strict=True)
    assert json.dumps(read_archive(content, 10**6).schema) == json.dumps(read_archive(skops_of(member), 10**6).schema)
