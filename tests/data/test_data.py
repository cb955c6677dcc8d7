"""Sources, splits, preprocessing and their errors; everything before a member sees a row."""

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from distens.config.sections import DataSection, SplitsSection
from distens.data import source
from distens.data.dataset import SPLITS
from distens.data.load import load_data
from distens.data.preprocessing import Preprocessing
from distens.data.splits import apportion, divide
from distens.errors import DataError
from distens.targets import _levels as levels

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
GIVEN = SplitsSection(train=0.6, search=0.2, combine=0.2, test="given")


def people(rows=200, seed=0):
    """A table with numbers, categories, truth values and missing values."""
    rng = np.random.default_rng(seed)
    age = rng.integers(18, 90, rows).astype(float)
    age[::17] = np.nan
    job = rng.choice(["clerk", "nurse", "smith"], rows).astype(object)
    job[::13] = None
    return pd.DataFrame(
        {
            "age": age,
            "income": rng.normal(30_000, 5_000, rows),
            "job": job,
            "member": rng.random(rows) < 0.5,
            "target": np.where(rng.random(rows) < 0.3, "yes", "no"),
        }
    )


def write_idx(path, array, code=0x08):
    content = bytes([0, 0, code, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_mnist(folder, train=60, test=20):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for part, rows in (("train", train), ("t10k", test)):
        write_idx(folder / f"{part}-images-idx3-ubyte.gz", rng.integers(0, 256, (rows, 5, 4)).astype(np.uint8))
        write_idx(folder / f"{part}-labels-idx1-ubyte", (np.arange(rows) % 3).astype(np.uint8))
    return folder


def refused(section, *texts, seed=0):
    with pytest.raises(DataError) as error:
        load_data(section, seed)
    for text in texts:
        assert text in str(error.value)


# --- sources


def test_bundled_sets():
    digits = source.read_source(DataSection(source="sklearn:digits"))
    assert digits.rows.shape == (1797, 8, 8)
    assert digits.target.column_names == tuple("0123456789")
    cancer = source.read_source(DataSection(source="sklearn:breast_cancer", drop=("mean radius",)))
    assert cancer.rows.shape == (569, 29)
    assert cancer.target.column_names == ("benign", "malignant")  # scikit-learn has malignant first
    assert np.bincount(cancer.targets_N).tolist() == [357, 212]
    assert load_data(DataSection(source="sklearn:wine"), 0).preprocessing.output_shape == (13,)


@pytest.mark.parametrize("name", ["table.csv", "table.csv.gz", "table.parquet"])
def test_tables_of_either_format_give_the_same_inputs(tmp_path, name):
    table = people()
    path = tmp_path / name
    table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
    section = DataSection(source=path.as_uri(), target="target")
    raw = source.read_source(section)
    assert list(raw.rows.columns) == ["age", "income", "job", "member"]
    assert raw.target.column_names == ("no", "yes")
    inputs = Preprocessing.fit(raw.rows, np.arange(100), section).transform(raw.rows)
    rows = table.drop(columns="target")
    np.testing.assert_array_equal(inputs, Preprocessing.fit(rows, np.arange(100), section).transform(rows))


def test_codes_named_categorical_stay_as_written(tmp_path):
    """`007` must not become 7, and a missing value must not turn 7 into 7.0."""
    path = tmp_path / "codes.csv"
    path.write_text("code,target\n" + "007,a\n7,b\n,a\n" * 10)
    section = DataSection(source=str(path), target="target", categorical=("code",))
    raw = source.read_source(section)
    table = Preprocessing.fit(raw.rows, np.arange(30), section).encoding
    assert table.categories[0].levels == ("007", "7")
    whole = pd.DataFrame({"code": [7.0, np.nan, 12.0] * 4})
    encoding = Preprocessing.fit(whole, np.arange(12), section).encoding
    assert encoding.categories[0].levels == ("7", "12")  # numbers in their natural order


def test_arrays_with_and_without_their_own_test_part(tmp_path):
    path = tmp_path / "arrays.npz"
    x, y = np.random.default_rng(0).normal(size=(60, 3)), np.arange(60) % 2 == 0
    np.savez(path, X=x, y=y[:, None])
    raw = source.read_source(DataSection(source=str(path)))
    assert raw.test_rows is None
    assert raw.target.column_names == ("False", "True")
    np.testing.assert_array_equal(raw.targets_N, y)
    np.savez(path, x_train=x, y_train=y.astype(int), x_test=x[:7], y_test=y[:7].astype(int), classes=["odd", "even"])
    loaded = load_data(DataSection(source=str(path), splits=GIVEN), 0)
    assert loaded.dataset.classes == ("odd", "even")
    assert loaded.split_rows["test"].tolist() == list(range(7))
    np.testing.assert_array_equal(loaded.example_rows, x[:5])
    np.testing.assert_array_equal(loaded.dataset.labels["test"], y[:7])


def test_idx_folder_is_read_as_written(tmp_path):
    section = DataSection(source=str(write_mnist(tmp_path / "mnist")), splits=GIVEN)
    raw = source.read_source(section)
    assert raw.rows.shape == (60, 5, 4)
    np.testing.assert_array_equal(raw.rows, np.random.default_rng(0).integers(0, 256, (60, 5, 4)))
    loaded = load_data(section, 0)
    assert loaded.dataset.inputs["train"].shape == (36, 1, 5, 4)
    assert loaded.dataset.inputs["test"].shape == (20, 1, 5, 4)
    write_idx(tmp_path / "wide.idx2-ubyte", np.array([[1, -2]], ">i4"), code=0x0C)
    rows = source.rows_from_file(str(tmp_path / "wide.idx2-ubyte"), loaded.preprocessing)
    np.testing.assert_array_equal(rows, [[1, -2]])


def test_class_names_come_in_their_natural_order():
    assert levels.sort_names(["10", "9", "-1.5"]) == ("-1.5", "9", "10")
    assert levels.sort_names(["10", "9", "a"]) == ("10", "9", "a")
    codes_N, names = levels.encode_levels(pd.Series([2.0, np.nan, 10.0, 2.0]), "here")
    assert (codes_N.tolist(), names) == ([0, -1, 1, 0], ("2", "10"))


# --- splits


def test_apportion_by_hand():
    """Shares 0.5, 0.15, 0.15, 0.2 of 7 rows are 3.5, 1.05, 1.05, 1.4: whole parts 3, 1, 1, 1, and the one row left goes
    to the largest remainder, 0.5, so 4, 1, 1, 1. Of 4 rows they are 2, 0.6, 0.6, 0.8: 2, 0, 0, 0, then the two left go
    to 0.8 and to the first 0.6, so 2, 1, 0, 1; the split without a row takes one from the only one that has two."""
    shares = np.array([0.5, 0.15, 0.15, 0.2])
    assert apportion(7, shares, 1).tolist() == [4, 1, 1, 1]
    assert apportion(4, shares, 1).tolist() == [1, 1, 1, 1]
    assert apportion(20, shares, 1).tolist() == [10, 3, 3, 4]


def test_splits_are_disjoint_stratified_and_fixed_by_the_seed():
    labels = np.repeat([0, 1, 2], [100, 20, 4])
    parts = divide(labels, ("a", "b", "c"), SplitsSection(), 3, None, False)
    assert sorted(np.concatenate(list(parts.values())).tolist()) == list(range(124))
    counts = {split: np.bincount(labels[rows]).tolist() for split, rows in parts.items()}
    assert counts == {"train": [50, 10, 1], "search": [15, 3, 1], "combine": [15, 3, 1], "test": [20, 4, 1]}
    again, other = (divide(labels, ("a", "b", "c"), SplitsSection(), seed, None, False) for seed in (3, 4))
    assert all(np.array_equal(parts[split], again[split]) for split in SPLITS)
    assert not np.array_equal(parts["test"], other["test"])


def test_rows_takes_a_stratified_part():
    """62 of 124 rows: half of each class, 50, 10, 2, but the rare one keeps the four it needs. The two come from
    whichever is most above its share, the first of equals first: 49, 9, 4."""
    labels = np.repeat([0, 1, 2], [100, 20, 4])
    parts = divide(labels, ("a", "b", "c"), SplitsSection(), 0, 62, False)
    assert np.bincount(labels[np.concatenate(list(parts.values()))]).tolist() == [49, 9, 4]


def test_a_given_test_part_stays_whole(tmp_path):
    folder = write_mnist(tmp_path / "mnist")
    loaded = load_data(DataSection(source=str(folder), splits=GIVEN, rows=30), 0)
    assert {split: len(rows) for split, rows in loaded.split_rows.items()} == {
        "train": 18,
        "search": 6,
        "combine": 6,
        "test": 20,
    }


# --- preprocessing


def test_preprocessing_by_hand():
    """Train is rows 0 to 3 of five.

    size: 1, 3, missing, 5: median 3, filled 1, 3, 3, 5: mean 3, variance (4 + 0 + 0 + 4) / 4 = 2. Row 4 holds 7 and
    becomes (7 - 3) / sqrt 2; one indicator, since train has a missing value. same: always 2 in train, so 0 even for 9.
    hue: red three times and blue once in train; blue has fewer than 3 rows, so it shares "other"; green, in row 4
    alone, is not in train and falls to "other" too. The columns are size, same, size missing,
    red, other.
    """
    rows = pd.DataFrame(
        {"size": [1, 3, None, 5, 7], "hue": ["red", "red", "red", "blue", "green"], "same": [2] * 4 + [9]}
    )
    found = Preprocessing.fit(rows, np.arange(4), DataSection(source="x")).transform(rows)
    root = np.sqrt(2)
    expected = [[-root, 0, 0, 1, 0], [0, 0, 0, 1, 0], [0, 0, 1, 1, 0], [root, 0, 0, 0, 1], [2 * root, 0, 0, 0, 1]]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous


def test_images_by_hand():
    """Channel 0 of the training pixels is 0, 2 (mean 1, deviation 1), channel 1 is 10, 30 (mean 20, deviation 10)."""
    rows = np.array([[[[0, 10], [2, 30]]], [[[4, 0], [1, 20]]]], dtype=np.uint8)  # 2 images of 1 x 2, 2 channels
    preprocessing = Preprocessing.fit(rows, np.array([0]), DataSection(source="x"))
    found = preprocessing.transform(rows)
    assert preprocessing.output_shape == found.shape[1:] == (2, 1, 2)
    np.testing.assert_allclose(found[0], [[[-1, 1]], [[-1, 1]]])
    np.testing.assert_allclose(found[1], [[[3, 0]], [[-2, 0]]])


def test_missing_features_of_arrays_are_filled_and_indicated():
    """Column 0 in train: 0, missing, 4: median 2, mean 2, variance 8 / 3; the missing one is 0 and indicated."""
    rows = np.array([[0.0, 1], [np.nan, 1], [4, 1], [np.nan, 5]])
    found = Preprocessing.fit(rows, np.arange(3), DataSection(source="x")).transform(rows)
    np.testing.assert_allclose(found[:, 0], np.array([-2, 0, 2, 0]) / np.sqrt(8 / 3), rtol=1e-6)
    assert found[:, 1:].tolist() == [[0, 0], [0, 1], [0, 0], [0, 1]]


def test_only_the_most_frequent_levels_have_their_own_column():
    names = [f"n{i:03}" for i in range(70)]
    rows = pd.DataFrame({"name": [name for i, name in enumerate(names) for _ in range(3 + i)]})
    table = Preprocessing.fit(rows, np.arange(len(rows)), DataSection(source="x")).encoding
    assert table.categories[0].kept == tuple(names[6:])  # 64 of 70
    assert table.output_shape == (65,)


def test_nothing_but_train_is_measured():
    """Other values outside train leave the encoding of every row of train as it was."""
    rows, train = people().drop(columns="target"), np.arange(0, 200, 2)
    changed = rows.copy()
    changed.loc[1::2, "income"] = 1e9
    changed.loc[1::2, "job"] = "nurse"
    one, other = (Preprocessing.fit(r, train, DataSection(source="x")) for r in (rows, changed))
    assert one.to_json() == other.to_json()


@pytest.mark.parametrize("kind", ["table", "features", "images"])
def test_preprocessing_survives_json(kind):
    rng = np.random.default_rng(0)
    rows = {
        "table": people().drop(columns="target"),
        "features": np.where(rng.random((50, 4)) < 0.1, np.nan, rng.normal(size=(50, 4))),
        "images": rng.integers(0, 256, (50, 6, 5, 3)).astype(np.uint8),
    }[kind]
    preprocessing = Preprocessing.fit(rows, np.arange(30), DataSection(source="x"))
    text = json.dumps(preprocessing.to_json(), allow_nan=False)
    again = Preprocessing.from_json(json.loads(text))
    assert json.loads(text)["kind"] == kind
    np.testing.assert_array_equal(again.transform(rows), preprocessing.transform(rows))
    assert again.to_json() == preprocessing.to_json()
    with pytest.raises(DataError, match="not a preprocessing"):
        Preprocessing.from_json({"kind": "sound"})


def test_loaded_data_are_whole_and_repeatable(tmp_path):
    people().to_parquet(tmp_path / "people.parquet")
    section = DataSection(source=str(tmp_path / "people.parquet"), target="target")
    one, again, other = load_data(section, 1), load_data(section, 1), load_data(section, 2)
    assert one.dataset.fingerprint == again.dataset.fingerprint != other.dataset.fingerprint
    assert len(one.dataset.fingerprint) == 64
    raw = source.read_source(section)
    for split in SPLITS:
        rows = one.split_rows[split]
        np.testing.assert_array_equal(one.dataset.labels[split], raw.targets_N[rows])
        np.testing.assert_array_equal(one.dataset.inputs[split], one.preprocessing.transform(raw.rows.iloc[rows]))
        assert np.isfinite(one.dataset.inputs[split]).all()
        assert not one.dataset.inputs[split].flags.writeable
    pd.testing.assert_frame_equal(one.example_rows, raw.rows.iloc[one.split_rows["test"][:5]].reset_index(drop=True))


# --- what a user can get wrong


def test_missing_and_unknown_sources(tmp_path):
    (tmp_path / "people.csv").write_text("a\n1\n")
    refused(DataSection(source=str(tmp_path / "poeple.csv")), "no such file", "Did you mean 'people.csv'?")
    refused(DataSection(source=str(tmp_path / "no" / "people.csv")), "no folder", "/no")
    refused(DataSection(source="sklearn:digit"), "'digit'", "Did you mean 'digits'?", "breast_cancer")
    (tmp_path / "people.xlsx").write_text("")
    refused(DataSection(source=str(tmp_path / "people.xlsx")), "people.xlsx", "Allowed: .csv", "sklearn:NAME")
    refused(DataSection(source="warp://somewhere/people.csv"), "warp://", "cannot be opened")


def test_wrong_columns(tmp_path):
    path = str(tmp_path / "people.parquet")
    people().to_parquet(path)
    refused(DataSection(source=path), "data.target is missing", "age, income")
    refused(DataSection(source=path, target="tarjet"), "'tarjet'", "Did you mean 'target'?", "age, income")
    for option in ("numeric", "categorical", "drop"):
        section = DataSection.model_validate({"source": path, "target": "target", option: ["jobb"]})
        refused(section, f"data.{option}", "'jobb'", "Did you mean 'job'?")
    section = DataSection(source=path, target="target", numeric=("age",), drop=("age",))
    refused(section, "data.numeric and data.drop both name 'age'")
    refused(DataSection(source=path, target="target", drop=("target",)), "data.drop", "is the target")
    every = ("age", "income", "job", "member")
    refused(DataSection(source=path, target="target", drop=every), "no column is left")
    refused(DataSection(source="sklearn:iris", target="petal"), "data.target has no effect")


def test_options_of_tables_have_no_effect_on_arrays():
    for option, value in {
        "target": "y",
        "numeric": ["a"],
        "categorical": ["a"],
        "drop": ["a"],
        "unseen": "missing",
    }.items():
        section = DataSection.model_validate({"source": "sklearn:digits", option: value})
        refused(section, f"data.{option} has no effect", "arrays")


def test_columns_that_hold_no_numbers(tmp_path):
    table = people()
    path = str(tmp_path / "people.parquet")
    table.to_parquet(path)
    section = DataSection(source=path, target="target", numeric=("job",))
    refused(section, "column 'job', row 1 (from 0)", "expected a finite number", repr(table["job"][1]))
    table.assign(age=np.nan).to_parquet(path)
    refused(DataSection(source=path, target="target", numeric=("age",)), "'age' holds no numbers")
    table.assign(income=np.where(np.arange(200) == 8, np.inf, 1.0)).to_parquet(path)
    refused(DataSection(source=path, target="target"), "column 'income', row 8", "found inf")


def test_text_that_names_numbers_is_numbers_unless_named_categorical():
    """As in a CSV file, where all is text."""
    rows = pd.DataFrame({"size": ["1", "2", "3", None] * 5})
    as_text = Preprocessing.fit(rows, np.arange(20), DataSection(source="x", categorical=("size",)))
    assert as_text.output_shape == (4,)
    for section in (DataSection(source="x"), DataSection(source="x", numeric=("size",))):
        assert Preprocessing.fit(rows, np.arange(20), section).output_shape == (2,)


def test_targets_that_cannot_be_learned(tmp_path):
    path = str(tmp_path / "people.parquet")
    section = DataSection(source=path, target="target")
    table = people()
    table.loc[[3, 50, 51], "target"] = None
    table.to_parquet(path)
    refused(section, "missing in 3 rows", "3, 50, 51", "'target'")
    people().assign(target="no").to_parquet(path)
    refused(section, "single class, 'no'")
    table = people()
    table.loc[:2, "target"] = "perhaps"
    table.to_parquet(path)
    refused(section, "'perhaps' has 3 rows", "at least 4", "merge")
    people()[:0].to_parquet(path)
    refused(section, "no rows")


def test_a_declared_class_without_rows(tmp_path):
    path = str(tmp_path / "arrays.npz")
    np.savez(path, x=np.ones((20, 2)), y=np.arange(20) % 2, classes=np.array(["cat", "dog", "fox"]))
    refused(DataSection(source=path), "'fox' has no rows")
    np.savez(path, x=np.ones((20, 2)), y=np.arange(20) % 2 + 1, classes=np.array(["cat", "dog"]))
    refused(DataSection(source=path), "2 classes", "the label '2'")


def test_splits_that_contradict_the_source(tmp_path):
    folder = str(write_mnist(tmp_path / "mnist"))
    refused(DataSection(source=folder), "data.splits.test is 0.2", "`test: given`")
    refused(DataSection(source="sklearn:iris", splits=GIVEN), "`given`", "no test part")
    refused(DataSection(source="sklearn:iris", rows=151), "data.rows is 151", "150 rows")
    refused(DataSection(source="sklearn:iris", rows=11), "3 classes in 4 splits need at least 12")


def test_damaged_idx_files(tmp_path):
    folder = write_mnist(tmp_path / "mnist")
    section = DataSection(source=str(folder), splits=GIVEN)
    images, labels = folder / "train-images-idx3-ubyte.gz", folder / "train-labels-idx1-ubyte"
    whole, whole_labels = images.read_bytes(), labels.read_bytes()
    images.write_bytes(gzip.compress(gzip.decompress(whole)[:-3]))
    refused(section, "damaged", "(60, 5, 4)", "1216 bytes", "1213")
    images.write_bytes(whole[:-40])
    refused(section, "train-images-idx3-ubyte.gz", "cannot be read")
    images.write_bytes(b"PNG")
    refused(section, "not an idx file", "50 4e 47")
    images.write_bytes(whole)
    labels.write_bytes(whole_labels[:6])
    refused(section, "header ends after 6 of 8 bytes")
    write_idx(labels, np.zeros(59, np.uint8))
    refused(section, "60 rows need 60 labels", "(59,)")
    labels.unlink()
    refused(section, "no file train-labels-idx1-ubyte", "train-images-idx3-ubyte.gz")


def test_arrays_that_are_not_what_they_should_be(tmp_path):
    path = tmp_path / "arrays.npz"
    section = DataSection(source=str(path))
    np.savez(path, x=np.ones((20, 2)), y=np.array(["a", None] * 10, dtype=object))
    refused(section, "array 'y'", "pickled", "never loaded")
    np.savez(path, images=np.ones((20, 2)), y=np.arange(20))
    refused(section, "x_train and y_train", "Found: 'images', 'y'")
    np.savez(path, x=np.array([["a"]] * 20), y=np.arange(20))
    refused(section, "expected numbers", "<U1")
    np.savez(path, x=np.ones((20, 3, 32, 32)), y=np.arange(20) % 2)
    refused(section, "channels come last", "(20, 3, 32, 32)")
    np.savez(path, x=np.ones((20, 2)), y=np.eye(20))
    refused(section, "20 rows need 20 labels", "(20, 20)")
    path.write_text("not a zip file")
    refused(section, "not a readable .npz file")


def test_tables_that_are_not_tables(tmp_path):
    path = tmp_path / "table.csv"
    section = DataSection(source=str(path), target="y")
    for content, texts in {
        "": ("empty",),
        "x,x,y\n1,2,a\n": ("two columns are named 'x'",),
        ",x,y\n0,1,a\n": ("column 0 (from 0) has no name",),
        "x,y\n1,a,b\n2,c,d\n": ("not a comma-separated table",),
        'x,y\n"1,a\n': ("not a comma-separated table",),
    }.items():
        path.write_text(content)
        refused(section, "table.csv", *texts)
    path.write_bytes(b"x,y\n\xff\xfe,a\n")
    refused(section, "not a comma-separated table")
    broken = tmp_path / "table.parquet"
    broken.write_bytes(b"PAR1 and then nothing")
    refused(DataSection(source=str(broken), target="y"), "not a readable Parquet table")


# --- real data


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"the data sets under {SHARED} are not here")
def test_real_files():
    for name, rows, width in (("adult", 48842, 107), ("splice", 3190, 249)):
        path = SHARED / "tabular_classification" / f"{name}.parquet"
        loaded = load_data(DataSection(source=str(path), target="target"), 0)
        assert sum(map(len, loaded.split_rows.values())) == rows
        assert loaded.preprocessing.output_shape == (width,)
        table = pd.read_parquet(path)
        same = loaded.preprocessing.transform(table.iloc[loaded.split_rows["test"]])  # the target is there, and dropped
        np.testing.assert_array_equal(same, loaded.dataset.inputs["test"])
    section = DataSection(source=str(SHARED / "fashion_mnist"), splits=GIVEN, rows=1000)
    loaded = load_data(section, 0)
    assert {split: len(labels) for split, labels in loaded.dataset.labels.items()} == {
        "train": 600,
        "search": 200,
        "combine": 200,
        "test": 10000,
    }
    assert set(Counter(loaded.dataset.labels["train"].tolist()).values()) == {60}
    inputs = loaded.dataset.inputs["train"]
    assert abs(inputs.mean()) < 1e-3
    assert abs(inputs.std() - 1) < 1e-3
