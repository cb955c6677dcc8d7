"""What a column holds: read alike from every file, told in words, and new rows are read as those of training."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distens.config.config import parse_config
from distens.config.sections import DataSection
from distens.data.load import load_data
from distens.data.preprocessing import Preprocessing
from distens.data.source import read_source, rows_from_file
from distens.errors import ConfigError, DataError

ROWS = 1000


def numbers(rows=ROWS, seed=0):
    return np.random.default_rng(seed).normal(size=rows).round(6)


def table_of(column, target=None):
    target = ["no" if i % 2 else "yes" for i in range(len(column))] if target is None else target
    return pd.DataFrame({"x": column, "other": numbers(len(column), 1), "y": target})


def save(table, tmp_path, form, name="table"):
    path = tmp_path / f"{name}.{form}"
    table.to_parquet(path) if form == "parquet" else table.to_csv(path, index=False)
    return str(path)


def section(path, **options):
    return DataSection.model_validate({"source": path, "target": "y", **options})


def column_of(loaded, name="x"):
    (column,) = (one for one in loaded.columns if one.name == name)
    return column


def again(preprocessing):
    """Return a preprocessing as a bundle has it."""
    return Preprocessing.from_json(json.loads(json.dumps(preprocessing.to_json())))


def inputs_of(loaded, path):
    preprocessing = again(loaded.preprocessing)
    return preprocessing.transform(rows_from_file(path, preprocessing))


# --- numbers with strays

STRAYS = ["?", "-", "unknown", ".", "#DIV/0!", "n/a", "NA", "1e", "Missing", "--", "N.N.", " ", "1.2.3", "abc", "none"]


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("stray", STRAYS)
def test_a_stray_text_among_numbers_is_a_missing_number(tmp_path, stray, form):
    column = [repr(value) for value in numbers().tolist()]
    column[7] = stray
    path = save(table_of(column), tmp_path, form)
    loaded = load_data(section(path), 0)
    found = column_of(loaded)
    assert (found.role, found.missing) == ("number", 1)
    if stray.strip():
        assert found.markers == {stray: 1}
        assert f"{stray!r} in 1 rows (the first is row 7, from 0) read as missing" in found.note
        assert found.note in "\n".join(loaded.column_lines)
    assert again(loaded.preprocessing).encoding.numbers == ("x", "other")
    new = table_of(["0.25", stray, "1000000.5"]).drop(columns="y")
    encoded = inputs_of(loaded, save(new, tmp_path, form, "new"))
    gap = loaded.preprocessing.transform(new.assign(x=[0.25, None, 1000000.5]))
    np.testing.assert_array_equal(encoded, gap)


def test_many_rows_of_a_usual_marker_and_few_of_another():
    """`?` is what programs write for nothing, however often; `odd` is not, and may stand in fewer than 5 % of rows."""
    column = [repr(value) for value in numbers().tolist()]
    column[::3] = ["?"] * len(column[::3])
    kind = DataSection(source="x")
    assert Preprocessing.fit(pd.DataFrame({"x": column}), np.arange(500), kind).encoding.numbers == ("x",)
    column[1:140:3] = ["odd"] * 47
    with pytest.raises(DataError, match=r"column 'x'.*row 1 \(from 0\) has 'odd'.*data.missing: \['odd', …\]"):
        Preprocessing.fit(pd.DataFrame({"x": column}), np.arange(500), kind)
    for options in ({"missing": ["odd"]}, {"categorical": ["x"]}):
        asked = DataSection.model_validate({"source": "x", **options})
        made = Preprocessing.fit(pd.DataFrame({"x": column}), np.arange(500), asked).encoding
        assert made.numbers == (() if "categorical" in options else ("x",))


def test_four_different_strays_are_too_many():
    column = [repr(value) for value in numbers().tolist()]
    column[:4] = ["a", "b", "c", "d"]
    with pytest.raises(DataError, match="column 'x': numbers in 996 rows, and other texts in 4: 'a', 'b', 'c', 'd'"):
        Preprocessing.fit(pd.DataFrame({"x": column}), np.arange(500), DataSection(source="x"))


def test_few_numbers_among_texts_are_categories_and_it_is_said(tmp_path):
    path = save(table_of(["1", "2", "3", "4+"] * 50), tmp_path, "csv")
    found = column_of(load_data(section(path), 0))
    assert found.role == "category" and "numbers and other texts ('4+')" in found.note


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize(
    ("texts", "values", "words"),
    [
        (["1,234", "5", "2.5"], [1234, 5, 2.5], "'1,234' (row 0, from 0) read as 1234"),
        (["1,234,567.5", "-12,000", "7"], [1234567.5, -12000, 7], "read as"),
        (["1,5", "2", "-0,25"], [1.5, 2, -0.25], "decimal comma"),
        (["1.234,5", "2.000", "7"], [1234.5, 2000, 7], "decimal comma"),
        (["0,126", "-1,250", "7"], [0.126, -1.25, 7], "decimal comma"),
    ],
)
def test_commas_in_numbers(tmp_path, texts, values, words, form):
    path = save(table_of(texts * 20), tmp_path, form)
    loaded = load_data(section(path), 0)
    assert words in column_of(loaded).note
    assert read_source(section(path)).rows["x"][:3].tolist() == values
    new = save(table_of(texts).drop(columns="y"), tmp_path, form, "new")
    expected = loaded.preprocessing.transform(table_of(np.array(values, float)).drop(columns="y"))
    np.testing.assert_array_equal(inputs_of(loaded, new), expected)


def test_one_column_with_commas_before_fractions_decides_for_all():
    rows = pd.DataFrame({"a": ["1,5", "2,25"] * 10, "b": ["1,234", "3"] * 10})
    made = Preprocessing.fit(rows, np.arange(20), DataSection(source="x")).encoding
    assert made.commas == ("a", "b") and made.scaling.means_F.tolist() == [1.875, 2.117]


def test_an_unknown_text_among_new_numbers_is_refused_by_name(tmp_path):
    loaded = load_data(section(save(table_of([*map(repr, numbers().tolist()[1:]), "?!x"]), tmp_path, "csv")), 0)
    new = table_of(["1", "2", "huge"]).drop(columns="y")
    with pytest.raises(DataError, match=r"column 'x', row 2 \(from 0\).*found 'huge'.*takes '\?!x' for missing"):
        loaded.preprocessing.transform(new)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_markers_of_the_user_are_missing_in_every_column(tmp_path, form):
    x = numbers()
    x[::5] = -999
    table = table_of(x).assign(hue=["red", "blue", "-999", "absent"] * 250)
    loaded = load_data(section(save(table, tmp_path, form), missing=[-999, "absent"]), 0)
    assert column_of(loaded).missing == 200 and column_of(loaded, "hue").missing == 500
    assert "200 rows read as missing (data.missing)" in column_of(loaded).note
    (hue,) = loaded.preprocessing.encoding.categories
    assert hue.levels == ("blue", "red")
    gaps = table.assign(x=table["x"].replace(-999, np.nan), hue=table["hue"].replace({"-999": None, "absent": None}))
    np.testing.assert_array_equal(
        inputs_of(loaded, save(table[:9], tmp_path, form, "new")), loaded.preprocessing.transform(gaps[:9])
    )


# --- dates

DAYS = pd.date_range("2021-01-30", periods=400, freq="17h").floor("D")
MOMENTS = pd.date_range("2021-01-30", periods=400, freq="17h")


def forms_of(moments):
    """Return the same days, or moments, as the files may have them."""
    texts = {
        "iso": "%Y-%m-%d",
        "slashes": "%Y/%m/%d",
        "points": "%d.%m.%Y",
        "american": "%m/%d/%Y",
        "words": "%d %b %Y",
    }
    time = " %H:%M:%S" if any(moments != moments.floor("D")) else ""
    found = {name: pd.Series(moments.strftime(form + time).astype(object)) for name, form in texts.items()}
    found["T"] = pd.Series(moments.strftime("%Y-%m-%dT%H:%M:%SZ").astype(object))
    found["timestamp"] = pd.Series(moments)
    found["zone"] = pd.Series(moments.tz_localize("UTC").tz_convert("Asia/Tokyo"))
    if not time:
        found["date32"] = pd.Series(list(moments.date))
    return found


@pytest.mark.parametrize("moments", [DAYS, MOMENTS], ids=["days", "moments"])
def test_dates_are_the_same_in_every_form_and_file(tmp_path, moments):
    encoded, width = {}, 6 if moments is MOMENTS else 5
    for name, column in forms_of(moments).items():
        for form in ("csv", "parquet"):
            path = save(table_of(column), tmp_path, form, name)
            loaded = load_data(section(path), 0)
            assert column_of(loaded).role == "date" and loaded.preprocessing.output_shape == (width,), name
            encoded[name, form] = loaded.fingerprint
    assert len(set(encoded.values())) == 1, encoded


@pytest.mark.parametrize("dtype", ["str", "object"])
def test_new_rows_may_have_no_date_at_all(dtype):
    rows = pd.DataFrame({"at": ["2024-02-29", "2024-03-01"] * 10})
    made = Preprocessing.fit(rows, np.arange(20), DataSection(source="x"))
    new = pd.DataFrame({"at": pd.Series([None, None], dtype=dtype)})
    assert np.isnan(made.encoding._matrix(new)).all() and made.transform(new).shape == (2, 4)


def test_a_date_by_hand_and_a_later_one():
    """2024-02-29 18:30 UTC was a Thursday, 19,782.770833 days after 1970 began (54 years with 14 leap days: 19,724 - 1
    + 60 = 19,782 days before that day)."""
    rows = pd.DataFrame({"at": ["2024-02-29 18:30:00", "2024-03-01 00:00:00"] * 10})
    encoding = Preprocessing.fit(rows, np.arange(20), DataSection(source="x")).encoding
    found = encoding._matrix(pd.DataFrame({"at": ["2024-02-29T18:30:00Z", "2031-12-31", None]}))
    np.testing.assert_allclose(found[0], [19782 + 18.5 / 24, 2024, 2, 3, 18])
    assert found[1, 1:].tolist() == [2031, 12, 2, 0] and np.isnan(found[2]).all()


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_later_day_is_predicted(tmp_path, form):
    loaded = load_data(section(save(table_of(pd.Series(list(DAYS.date))), tmp_path, form)), 0)
    new = save(table_of(["2035-06-01", "2035-06-02"]).drop(columns="y"), tmp_path, "csv", "new")
    first, second = inputs_of(loaded, new)
    assert first[1] < second[1] and first[1] > loaded.dataset.inputs["train"][:, 1].max()


def test_times_of_day_and_durations(tmp_path):
    minutes = [i * 7 % 1440 for i in range(200)]
    texts = [f"{m // 60:02}:{m % 60:02}" for m in minutes]
    kinds = {
        "text": pa.array(texts),
        "time": pa.array([pd.Timestamp(2000, 1, 1, m // 60, m % 60).time() for m in minutes]),
    }
    for name, column in kinds.items():
        table = pa.table({"x": column, "y": ["a", "b"] * 100})
        pq.write_table(table, tmp_path / f"{name}.parquet")
        loaded = load_data(section(str(tmp_path / f"{name}.parquet")), 0)
        assert column_of(loaded).role == "date" and loaded.preprocessing.output_shape == (1,)
        (value,) = loaded.preprocessing.encoding._matrix(pd.DataFrame({"x": ["18:30:00"]}))[0]
        assert value == pytest.approx(18.5)
    lengths = table_of(pd.to_timedelta(minutes, unit="min"))
    pq.write_table(pa.Table.from_pandas(lengths), tmp_path / "long.parquet")
    assert column_of(load_data(section(str(tmp_path / "long.parquet")), 0)).role == "number"


def test_a_date_that_can_be_read_in_two_ways_is_asked_about(tmp_path):
    path = save(table_of(["05/01/2024", "03/04/2024"] * 50), tmp_path, "csv")
    with pytest.raises(
        DataError, match=r"column 'x', row 0 \(from 0\): the date '05/01/2024'.*data.dates: \{x: \"%d/%m"
    ):
        load_data(section(path), 0)
    day = load_data(section(path, dates={"x": "%d/%m/%Y"}), 0).preprocessing.encoding
    month = load_data(section(path, dates={"x": "%m/%d/%Y"}), 0).preprocessing.encoding
    assert day._matrix(pd.DataFrame({"x": ["01/02/2024"], "other": 0.0}))[0, 3] == 2
    assert month._matrix(pd.DataFrame({"x": ["01/02/2024"], "other": 0.0}))[0, 3] == 1
    clear = save(table_of(["05/01/2024", "31/04/2024", "31/03/2024"] * 50), tmp_path, "csv", "clear")
    with pytest.raises(DataError, match="expected a date of the form %d/%m/%Y, found '31/04/2024'"):
        load_data(section(clear, dates={"x": "%d/%m/%Y"}), 0)


def test_whole_numbers_are_dates_where_the_config_says_so(tmp_path):
    path = save(table_of([20240105, 20240229] * 50), tmp_path, "parquet")
    assert column_of(load_data(section(path), 0)).role == "number"
    encoding = load_data(section(path, dates={"x": "%Y%m%d"}), 0).preprocessing.encoding
    assert encoding._matrix(pd.DataFrame({"x": ["20240229"], "other": [0.0]}))[0, 2:].tolist() == [2024, 2, 3]
    with pytest.raises(DataError, match=r"data\.dates: '%Y%Q' is no form of dates"):
        load_data(section(path, dates={"x": "%Y%Q"}), 0)
    with pytest.raises(DataError, match=r"data\.dates: no column 'z'"):
        load_data(section(path, dates={"z": "%Y"}), 0)


def test_a_gap_and_a_marker_among_dates(tmp_path):
    texts = [str(day.date()) for day in DAYS]
    texts[3], texts[5] = "", "unknown"
    found = column_of(load_data(section(save(table_of(texts), tmp_path, "csv")), 0))
    assert (found.role, found.missing, found.markers) == ("date", 2, {"unknown": 1})
    assert "'unknown' in 1 rows (the first is row 5, from 0) read as missing" in found.note


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ([f"{i}.5 %" for i in range(100)], r"has '0\.5 %', a number in a form that is not read"),
        ([f"${i},000" for i in range(100)], r"has '\$0,000', a number in a form"),
        ([f"-$ {i}.20" for i in range(100)], r"has '-\$ 0\.20', a number in a form"),
        ([f"{i} 000,5" for i in range(100)], "has '0 000,5', a number in a form"),
        ([f"{i}'000" for i in range(100)], 'has "0\'000", a number in a form'),
        ([f"({i}.25)" for i in range(100)], r"has '\(0\.25\)', a number in a form"),
        ([f"−{i}.25" for i in range(100)], r"has '−0\.25', a number in a form"),
        ([f"{i}.5 kg" for i in range(100)], r"has '0\.5 kg', a number with the unit 'kg'"),
        ([f"{i}°C" for i in range(100)], "has '0°C', a number with the unit '°C'"),
        (
            [str(day.date()) if i % 2 else day.strftime("%d.%m.%Y") for i, day in enumerate(DAYS)],
            r"has '30\.01\.2021', a date",
        ),
    ],
)
def test_what_looks_like_numbers_or_dates_is_no_category_in_silence(texts, words):
    rows = pd.DataFrame({"x": texts * 3})
    with pytest.raises(DataError, match=rf"column 'x', row 0 \(from 0\) {words}.*data\.drop: \[x\]"):
        Preprocessing.fit(rows, np.arange(len(rows)), DataSection(source="x"))
    few = pd.DataFrame({"x": texts[:4] * 30})
    assert Preprocessing.fit(few, np.arange(120), DataSection(source="x")).output_shape == (4,)


def test_numbers_of_which_half_are_written_in_another_way_are_asked_about():
    """As accounts write them: (0.25) is minus 0.25."""
    rows = pd.DataFrame({"x": [f"({i}.25)" if i % 2 else f"{i}.25" for i in range(100)] * 3})
    with pytest.raises(DataError, match=r"column 'x': numbers in 150 rows, and other texts in 150: '\(1.25\)'"):
        Preprocessing.fit(rows, np.arange(len(rows)), DataSection(source="x"))


def test_codes_of_a_number_and_any_letter_are_categories():
    rows = pd.DataFrame({"x": [f"{i}{'ABC'[i % 3]}" for i in range(90)] * 3})
    assert Preprocessing.fit(rows, np.arange(len(rows)), DataSection(source="x")).output_shape[0] > 1


# --- one value, one name

SAME = {
    "text NA": ["NA", "b", "None", "null", "nan", "c"],
    "text with gaps": ["a", None, "NA", "a", "", "b"],
    "truth": [True, False, True, True, False, False],
    "truth with gaps": [True, None, False, True, False, None],
    "truth in capitals": ["TRUE", "false", "True", "TRUE", "FALSE", "true"],
    "truth and NA": ["True", "NA", "False", "?", "true", ""],
    "whole numbers": [1, 2, 3, 1, 2, 3],
    "whole numbers with gaps": [1.0, None, 3.0, 1.0, None, 3.0],
    "codes": ["007", "7", "070", "0012", "12", "007"],
    "blanks around": [" a", "b ", "a", "b", " a ", "c"],
}


@pytest.mark.parametrize("options", [{}, {"categorical": ["x"]}], ids=["", "categorical"])
@pytest.mark.parametrize("name", SAME)
def test_the_same_rows_are_the_same_in_every_file(tmp_path, name, options):
    table = table_of(SAME[name] * 30)
    paths = {form: save(table, tmp_path, form) for form in ("csv", "parquet")}
    loaded = {form: load_data(section(path, **options), 0) for form, path in paths.items()}
    assert loaded["csv"].fingerprint == loaded["parquet"].fingerprint
    for trained in loaded.values():
        found = [inputs_of(trained, path) for path in paths.values()]
        np.testing.assert_array_equal(*found)
        if len(set(map(str, SAME[name]))) > 1:
            assert len(np.unique(found[0][:, :-1], axis=0)) > 1


def test_nothing_among_truth_values_is_missing():
    rows = pd.DataFrame({"x": ["True", "NA", "False", "true", "?"] * 12})
    made = Preprocessing.fit(rows, np.arange(60), DataSection(source="x", unseen="error"))
    assert made.encoding.categories[0].levels == ("False", "True") and made.encoding.markers == ("NA", "?")
    found = again(made).transform(pd.DataFrame({"x": ["?", "TRUE", None, "false", "NA"]}))
    assert found.argmax(axis=1).tolist() == [2, 1, 2, 0, 2]


def test_large_whole_numbers_with_gaps_keep_their_last_digit(tmp_path):
    codes = [2**53 + 1, None, 2**53 + 2, 2**53 + 3] * 20
    table = pa.table({"x": pa.array(codes, pa.int64()), "y": ["a", "b"] * 40})
    pq.write_table(table, tmp_path / "t.parquet")
    pd.DataFrame({"x": [str(c or "") for c in codes], "y": ["a", "b"] * 40}).to_csv(tmp_path / "t.csv", index=False)
    made = {
        f: load_data(section(str(tmp_path / f"t.{f}"), categorical=["x"]), 0).preprocessing.encoding
        for f in ("csv", "parquet")
    }
    for encoding in made.values():
        assert encoding.categories[0].levels == tuple(str(2**53 + i) for i in (1, 2, 3))


def test_rows_whose_whole_numbers_became_fractions(tmp_path):
    """A column of whole numbers with a gap is one of floats in pandas, which writes 7.0 into a CSV file."""
    loaded = load_data(section(save(table_of([7, 12, 7, 3] * 20), tmp_path, "parquet"), categorical=["x"]), 0)
    (tmp_path / "new.csv").write_text("x,other\n7.0,0\n12,0\n,0\n")
    found = inputs_of(loaded, str(tmp_path / "new.csv"))
    expected = loaded.preprocessing.transform(pd.DataFrame({"x": [7, 12, None], "other": 0}))
    np.testing.assert_array_equal(found, expected)
    assert found[0, -3:].tolist() == [0, 1, 0]


def test_text_that_a_program_may_have_meant_as_missing_is_said(tmp_path):
    found = column_of(load_data(section(save(table_of(["NA", "US", "FR"] * 30), tmp_path, "csv")), 0))
    assert found.distinct == 3 and "'NA' is a category; `data.missing: [NA]` reads it as missing" in found.note


def test_zeros_in_front_are_kept_and_it_is_said(tmp_path):
    codes = ["01067", "10115", "20095", "04109"] * 30
    path = save(table_of(codes), tmp_path, "csv")
    found = column_of(load_data(section(path), 0))
    assert found.role == "category" and "'01067'" in found.note and "data.numeric: [x]" in found.note
    assert column_of(load_data(section(path, numeric=["x"]), 0)).role == "number"


# --- classes


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("name", ["None", "NA", "null", "nan", "N/A", "NaN"])
def test_a_class_may_have_the_name_of_nothing(tmp_path, name, form):
    path = save(table_of(numbers(90), [name, "some", "many"] * 30), tmp_path, form)
    assert set(load_data(section(path), 0).dataset.classes) == {name, "some", "many"}
    with pytest.raises(DataError, match="the target is missing in 30 rows, from 0: 0, 3, 6"):
        load_data(section(path, missing=[name]), 0)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_nothing_among_classes_that_are_numbers_is_asked_about(tmp_path, form):
    path = save(table_of(numbers(90), ["0", "1", "1", "0", "1", "None"] * 15), tmp_path, form)
    with pytest.raises(
        DataError, match=r"'None' stands among numbers, in 15 rows \(the first is 5.*categorical: \[y\]"
    ):
        load_data(section(path), 0)
    assert load_data(section(path, categorical=["y"]), 0).dataset.classes == ("0", "1", "None")


def test_a_missing_class_is_still_refused(tmp_path):
    for form in ("csv", "parquet"):
        path = save(table_of(numbers(90), ["a", "b", ""] * 30), tmp_path, form)
        with pytest.raises(DataError, match="the target is missing in 30 rows, from 0: 2, 5"):
            load_data(section(path), 0)


# --- names of rows


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_text_for_every_row_is_left_out_with_a_word(tmp_path, form):
    ids = [f"user-{i * 7919 % 100003}" for i in range(5000)]
    loaded = load_data(section(save(table_of(ids), tmp_path, form)), 0)
    assert column_of(loaded).role == "left out" and "nearly every row" in column_of(loaded).note
    text = json.dumps(loaded.preprocessing.to_json())
    assert "user-" not in text and len(text) < 2000
    new = table_of(["user-new", "user-7919"])
    with_ids, without = (save(new.drop(columns=c), tmp_path, form, c[0]) for c in (["y"], ["x", "y"]))
    np.testing.assert_array_equal(inputs_of(loaded, with_ids), inputs_of(loaded, without))
    alone = save(table_of(ids).drop(columns="other"), tmp_path, form, "alone")
    with pytest.raises(DataError, match="no column is left to learn from; 'x': nearly every row has a text of its own"):
        load_data(section(alone), 0)


def test_levels_are_those_of_train(tmp_path):
    """`rare` is in one row; where that row is not in train, no bundle has its name, and it is as new as any other."""
    hues = ["red", "blue", None] * 100
    hues[7] = "rare"
    path = save(table_of(hues), tmp_path, "csv")
    kinds = set()
    for seed in range(4):
        loaded = load_data(section(path), seed)
        (hue,) = loaded.preprocessing.encoding.categories
        assert hue.levels == ("blue", "red") and hue.other == (7 in loaded.split_rows["train"])
        kinds.add(hue.other)
        new, rare, gap = loaded.preprocessing.transform(pd.DataFrame({"x": ["new", "rare", None], "other": 0.0}))
        assert (new == rare).all() and (new == gap).all() == (not hue.other)
    assert kinds == {True, False}


def test_an_empty_text_is_missing_and_no_rare_level(tmp_path):
    rows = pd.DataFrame({"x": ["a", "b", "a", "b", None, "rare"] * 2 + ["a", "b"] * 9})
    made = Preprocessing.fit(rows.replace("rare", "Rare"), np.arange(30), DataSection(source="x"))
    assert made.encoding.categories[0].other and made.encoding.categories[0].missing
    (tmp_path / "new.csv").write_text('x\n""\n" "\nrare\nRare\na\n')
    assert made.transform(rows_from_file(str(tmp_path / "new.csv"), made)).argmax(axis=1).tolist() == [3, 3, 2, 2, 0]


def test_a_bundle_has_few_names_of_many():
    names = [f"n{i}" for i in range(20_000) for _ in range(2)]
    rows = pd.DataFrame({"name": names, "x": 1.0})
    made = Preprocessing.fit(rows, np.arange(40_000), DataSection(source="x"))
    assert len(json.dumps(made.to_json())) < 2000
    with pytest.raises(
        DataError, match=r"'name': 20,000 different values, and `data\.unseen: error` takes at most 10,000"
    ):
        Preprocessing.fit(rows, np.arange(40_000), DataSection(source="x", unseen="error"))


# --- the config


def test_new_settings_at_their_defaults_change_no_run():
    config = {"name": "a", "data": {"source": "a.csv", "target": "y"}, "members": {"m": {"kind": "classifier"}}}
    plain = parse_config(config).identity()["data"]
    assert not {"missing", "dates", "csv", "options"} & set(plain) and plain["unseen"] == "error"
    for option, value in {
        "missing": ["?"],
        "dates": {"x": "%Y"},
        "csv": {"separator": ";"},
        "unseen": "missing",
    }.items():
        changed = parse_config({**config, "data": {**config["data"], option: value}})
        assert changed.identity()["data"] != plain
        assert parse_config(changed.model_dump(mode="json")).hash() == changed.hash()
    for csv in ({"separator": "ab"}, {"decimal": "x"}, {"encoding": "utf-9"}, {"sep": ";"}):
        with pytest.raises(ConfigError, match=r"data\.csv"):
            parse_config({**config, "data": {**config["data"], "csv": csv}})


def test_an_encoding_of_an_older_version(tmp_path):
    """It has no list of texts for missing values; what a CSV file said then, it says now."""
    rows = pd.DataFrame({"hue": ["red", "blue", None] * 20, "size": np.arange(60.0), "on": [True, False, True] * 20})
    made = Preprocessing.fit(rows, np.arange(60), DataSection(source="x", unseen="error"))
    values = made.to_json()
    for key in ("dates", "missing", "markers", "commas", "csv"):
        del values[key]
    old = Preprocessing.from_json(values)
    (tmp_path / "rows.csv").write_text("hue,size,on\nNA,NA,TRUE\nred,3.0,false\n,,True\n")
    found = old.transform(rows_from_file(str(tmp_path / "rows.csv"), old))
    given = pd.DataFrame({"hue": [None, "red", None], "size": [None, 3, None], "on": [True, False, True]})
    np.testing.assert_array_equal(found, made.transform(given))
