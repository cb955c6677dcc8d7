"""Rows to predict: what is put right, what is refused and how the refusal reads."""

import numpy as np
import pandas as pd
import pytest

from distens.config.sections import DataSection
from distens.data.preprocessing import Preprocessing
from distens.data.source import rows_from_file
from distens.errors import DataError

ROWS = 60


def table():
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": rng.normal(size=ROWS),
            "hue": rng.choice(["blue", "green", "red"], ROWS),
            "code": rng.choice([3, 10, 200], ROWS),
            "note": ["n"] * ROWS,
            "kind": rng.choice(["a", "b"], ROWS),
        }
    )


SECTION = DataSection(source="x", target="kind", drop=("note",), categorical=("code",))


def fitted(section=SECTION):
    rows = table().drop(columns=["kind", "note"])
    return Preprocessing.fit(rows, np.arange(40), section)


def refused(preprocessing, rows, *texts):
    with pytest.raises(DataError) as error:
        preprocessing.transform(rows)
    for text in texts:
        assert text in str(error.value)


def test_order_target_and_dropped_columns_do_not_matter():
    preprocessing, rows = fitted(), table()
    inputs = preprocessing.transform(rows[["size", "hue", "code"]])
    assert inputs.shape == (ROWS, 7)
    np.testing.assert_array_equal(preprocessing.transform(rows[["kind", "code", "note", "hue", "size"]]), inputs)
    shuffled = rows.sample(frac=1, random_state=0)
    np.testing.assert_array_equal(preprocessing.transform(shuffled), inputs[shuffled.index])


def test_other_dtypes_of_the_same_values_do_not_matter():
    preprocessing, rows = fitted(), table()
    inputs = preprocessing.transform(rows)
    other = rows.assign(
        hue=rows["hue"].astype("category"), code=rows["code"].astype(float), size=rows["size"].map(repr).astype(object)
    )
    np.testing.assert_array_equal(preprocessing.transform(other), inputs)
    np.testing.assert_array_equal(preprocessing.transform(rows.assign(code=rows["code"].astype(str))), inputs)
    np.testing.assert_array_equal(preprocessing.transform(rows.convert_dtypes()), inputs)


def test_a_single_row_is_encoded_as_among_others():
    preprocessing, rows = fitted(), table()
    np.testing.assert_array_equal(preprocessing.transform(rows[7:8]), preprocessing.transform(rows)[7:8])


def test_wrong_columns_are_named():
    preprocessing, rows = fitted(), table()
    refused(preprocessing, rows.drop(columns="hue"), "missing columns: 'hue'", "'size', 'hue', 'code'")
    refused(preprocessing, rows.assign(mass=1, form=2), "unknown columns: 'mass', 'form'")
    refused(preprocessing, rows.rename(columns={"hue": "Hue"}), "missing columns: 'hue'; unknown columns: 'Hue'")
    refused(preprocessing, rows[["size", "hue", "code", "hue"]], "two columns of one name: 'hue'")


def test_unknown_categories():
    preprocessing, rows = fitted(SECTION.model_copy(update={"unseen": "error"})), table()
    rows.loc[[5, 9], "hue"] = "gren"
    refused(
        preprocessing, rows, "column 'hue', row 5 (from 0)", "'gren'", "Did you mean 'green'?", "'blue', 'green', 'red'"
    )
    refused(preprocessing, table().assign(code=11), "column 'code', row 0", "unknown category '11'", "'3', '10', '200'")


def test_unknown_categories_may_count_as_missing():
    """Without missing values in train there is no indicator of one: such a row has no hue at all. With them, an unknown
    level sets the same indicator as a missing one."""
    lenient = fitted()
    unknown, missing = table().assign(hue="grey"), table().assign(hue=None)
    np.testing.assert_array_equal(lenient.transform(unknown), lenient.transform(missing))
    assert lenient.transform(unknown)[:, 1:4].sum() == 0
    rows = pd.DataFrame({"hue": ["red", "red", "red", None]})
    gaps = Preprocessing.fit(rows, np.arange(4), DataSection(source="x"))
    assert gaps.transform(pd.DataFrame({"hue": ["grey", None, "red"]})).tolist() == [[0, 1], [0, 1], [1, 0]]


def test_long_lists_of_allowed_categories_are_shortened():
    rows = pd.DataFrame({"city": [f"city{i:04}" for i in range(500)]})
    section = DataSection(source="x", categorical=("city",), unseen="error")
    preprocessing = Preprocessing.fit(rows, np.arange(400), section)
    with pytest.raises(DataError, match=r"… \(500 in all\)") as error:
        preprocessing.transform(pd.DataFrame({"city": ["Atlantis"]}))
    assert len(str(error.value)) < 400


def test_what_is_not_a_number():
    preprocessing, rows = fitted(), table()
    text = rows["size"].astype(object)
    text[3] = "large"
    refused(
        preprocessing, rows.assign(size=text), "column 'size', row 3 (from 0)", "expected a finite number", "'large'"
    )
    refused(preprocessing, rows.assign(size=-np.inf), "column 'size', row 0", "found -inf")
    refused(preprocessing, rows.assign(size=pd.Timestamp("2001-02-03")), "column 'size', row 0", "2001-02-03")
    refused(preprocessing, rows.assign(size=1e300), "column 'size'", "1e+300")
    assert np.isfinite(
        preprocessing.transform(rows.assign(size=None))
    ).all()  # missing is allowed: the median stands in


def test_no_rows_and_no_table():
    preprocessing, rows = fitted(), table()
    refused(preprocessing, rows[:0], "there are none")
    refused(preprocessing, rows.to_numpy(), "DataFrame", "an array without column names")
    refused(preprocessing, [{"size": 1}], "DataFrame", "found list")


def test_an_array_is_taken_for_a_table_of_numbers_alone():
    rows = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 3)), columns=list("abc"))
    preprocessing = Preprocessing.fit(rows, np.arange(20), DataSection(source="x"))
    np.testing.assert_array_equal(preprocessing.transform(rows.to_numpy()), preprocessing.transform(rows))
    refused(preprocessing, rows.to_numpy()[:, :2], "(rows, 3)", "(30, 2)")


def test_wrong_arrays():
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 5)).astype(np.uint8)
    preprocessing = Preprocessing.fit(images, np.arange(20), DataSection(source="x"))
    inputs = preprocessing.transform(images)
    np.testing.assert_array_equal(preprocessing.transform(images.astype(float)), inputs)
    np.testing.assert_array_equal(preprocessing.transform(images.tolist()), inputs)
    refused(preprocessing, images.transpose(0, 2, 1), "(rows, 6, 5)", "found shape (20, 5, 6)")
    refused(preprocessing, images[0], "one row of shape (6, 5)", "rows[None]")
    refused(preprocessing, images.astype(str), "found dtype <U")
    refused(preprocessing, images.astype(object), "found dtype object")
    refused(preprocessing, images / 255, "fraction", "whole numbers (uint8)", "unscaled")
    refused(preprocessing, images[:0], "there are none")
    refused(preprocessing, pd.DataFrame(images[0]), "found a table")
    refused(preprocessing, [[[1, 2], [3]]], "different lengths")
    refused(preprocessing, np.full((2, 6, 5), np.inf, dtype=np.float16), "found inf")
    holes = images.astype(float)
    holes[4, 2, 1] = np.nan
    refused(preprocessing, holes, "row 4 (from 0), position (2, 1)", "found nan")


def test_rows_from_a_file_are_read_as_in_training(tmp_path):
    """Where the training file decided that a column is text, a file whose rows all look like numbers must not decide
    otherwise: `007` stays `007`."""
    rows = pd.DataFrame({"code": ["007", "x"] * 20, "flag": [True, False] * 20, "size": np.arange(40.0)})
    preprocessing = Preprocessing.fit(rows, np.arange(40), DataSection(source="x"))
    expected = preprocessing.transform(rows[:1])
    (tmp_path / "rows.csv").write_text("flag,code,size\nTRUE,007,0\n")
    rows[:1].to_parquet(tmp_path / "rows.parquet")
    for name in ("rows.csv", "rows.parquet"):
        found = rows_from_file(str(tmp_path / name), preprocessing)
        np.testing.assert_array_equal(preprocessing.transform(found), expected)
    np.savez(tmp_path / "rows.npz", x=np.ones((2, 3)))
    with pytest.raises(DataError, match=r"rows\.npz.*table.*\.csv"):
        rows_from_file(str(tmp_path / "rows.npz"), preprocessing)
    with pytest.raises(DataError, match=r"no such file.*'rows\.csv'"):
        rows_from_file(str(tmp_path / "row.csv"), preprocessing)


def test_arrays_from_a_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(9, 3))
    preprocessing = Preprocessing.fit(x, np.arange(9), DataSection(source="x"))
    path = str(tmp_path / "rows.npz")
    for arrays in ({"x_train": x[:1], "x_test": x}, {"X": x, "y": x[:, 0]}, {"whatever": x}):
        np.savez(path, **arrays)
        np.testing.assert_array_equal(rows_from_file(path, preprocessing), x)
    np.savez(path, one=x, two=x)
    with pytest.raises(DataError, match="'one', 'two'"):
        rows_from_file(path, preprocessing)
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,3\n")
    with pytest.raises(DataError, match=r"this model predicts arrays.*\.npz"):
        rows_from_file(str(tmp_path / "rows.csv"), preprocessing)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="t10k-images"):
        rows_from_file(str(tmp_path / "empty"), preprocessing)
