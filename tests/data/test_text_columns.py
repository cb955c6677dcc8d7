"""Columns of plain numbers are parsed at once, and give what looking at each text would give."""

import dataclasses
import random

import numpy as np
import pandas as pd
import pytest

from distens.config.sections import DataSection
from distens.data.preprocessing import Preprocessing
from distens.data.text_columns import TextColumn, read_text_column
from distens.data.texts import parse_numbers, read_plain
from distens.errors import DataError

GAPS = ("", " ", "NA", "nan", "?", "-", "unknown", "N.N.", "#DIV/0!", "x", "true", "007", "+5", "1,5", "1,234", "inf")
ODD = ("1e", "e5", "--5", "1.2.3", ".", "1_000", "0x10", "1\n2", "5\n", " 5", "\u0663", "0\u0663", "1e400", "9" * 25)


def digits(rng, most):
    return "".join(rng.choices("0123456789", k=rng.randint(0, most)))


def number(rng):
    """Return any number of those that programs write, and many that they do not."""
    whole = str(rng.randint(0, 10 ** rng.randint(0, 20)))
    made = rng.choice(
        [
            repr(rng.gauss(0, 1) * 10.0 ** rng.randint(-20, 20)),
            f"{rng.gauss(0, 1):.3f}",
            whole,
            f"{whole}.{digits(rng, 22)}",
            f".{digits(rng, 30)}7",
            f"{whole}{rng.choice(['e', 'E', 'e-', 'E+'])}{rng.randint(0, 280)}",
        ]
    )
    return rng.choice(["", "", "-"]) + made.lstrip("-")


def test_plain_numbers_are_those_of_pandas():
    """Bit by bit, the sign of zero included."""
    rng = random.Random(0)
    texts = [number(rng) for _ in range(200_000)]
    for kind in ("str", "object"):
        values_N, plain_N = read_plain(pd.Series(texts, dtype=kind))
        asked_N = parse_numbers(texts)
        assert plain_N.all() and values_N.dtype == asked_N.dtype == np.float64
        assert values_N.tobytes() == asked_N.tobytes()


def test_whole_numbers_stay_whole():
    texts = ["0", "-0", "-5", str(2**63 - 1), str(-(2**63))]
    values_N, _ = read_plain(pd.Series(texts))
    assert values_N.dtype == np.int64 and values_N.tolist() == [0, 0, -5, 2**63 - 1, -(2**63)]
    values_N[0] = 1  # as other columns, it may be written to
    assert read_plain(pd.Series(["1", str(2**63)])) is None
    values_N, plain_N = read_plain(pd.Series([str(2**53 + 1), None, "3"]))
    assert values_N.dtype == np.float64 and plain_N.tolist() == [True, False, True] and values_N[0] == 2**53


@pytest.mark.parametrize("text", [*GAPS, *ODD[:-2]])
def test_what_is_no_plain_number(text):
    values_N, plain_N = read_plain(pd.Series(["1.5", text]))
    assert plain_N.tolist() == [True, False] and values_N[0] == 1.5 and np.isnan(values_N[1])


def test_a_point_is_not_plain_where_a_comma_comes_before_fractions():
    values_N, plain_N = read_plain(pd.Series(["1.234", "5", "1e3"]), comma=True)
    assert plain_N.tolist() == [False, True, True] and values_N[1:].tolist() == [5, 1000]


def read(function, *arguments):
    """Return a column's values with their bits, and what is said of it; or the error's message."""
    try:
        series, column = function(*arguments)
    except DataError as error:
        return str(error)
    values = series.to_numpy()
    bits = values.tobytes() if values.dtype.kind in "iufb" else [None if pd.isna(one) else one for one in values]
    return str(series.dtype), bits, list(series.index), series.name, dataclasses.asdict(column)


def column_of(rng):
    rows = rng.choice([1, 3, 30, 100, 300])
    make = rng.choice([number, number, lambda rng: str(rng.randint(-9, 99)), lambda rng: f"{rng.randint(0, 999):03}"])
    some, share = rng.choices(GAPS, k=rng.randint(1, 4)), rng.choice([0, 0.01, 0.04, 0.06, 0.3])
    texts = [rng.choice(some) if rng.random() < share else make(rng) for _ in range(rows)]
    if rng.random() < 0.2:
        texts[rng.randrange(rows)] = rng.choice([*ODD, None])
    texts = texts if any(texts) else ["1"]
    return pd.Series(texts, range(5, 5 + len(texts)), dtype=rng.choice(["str", "object"]), name="x")


OPTIONS = [{}, {}, {"csv": {"decimal": ","}}, {"csv": {"decimal": "."}}, {"numeric": ["x"]}, {"categorical": ["x"]}]


def test_a_column_is_the_same_read_at_once_and_text_by_text():
    rng, roles, gaps = random.Random(1), [], 0
    for _ in range(1500):
        section, series = DataSection.model_validate({"source": "t", **rng.choice(OPTIONS)}), column_of(rng)
        asked = read(TextColumn.of(series, "x").read, section)
        assert read(read_text_column, series, "x", section) == asked, series.tolist()
        roles.append("error" if isinstance(asked, str) else asked[-1]["role"])
        gaps += not isinstance(asked, str) and bool(asked[-1]["markers"])
    assert {*roles} == {"number", "category", "left out", "error"} and gaps > 100
    assert roles.count("number") > len(roles) / 3


def test_new_rows_as_text_are_read_as_numbers():
    rng = random.Random(2)
    numbers = pd.DataFrame({"x": [1.5, np.nan, -3.0, 1e-7] * 10, "n": [*range(40)]})
    made = Preprocessing.fit(numbers, np.arange(40), DataSection(source="t"))
    texts = pd.DataFrame({"x": ["1.5", "?", "-3", "1e-7"] * 10, "n": [str(i) for i in range(40)]})
    np.testing.assert_array_equal(made.transform(texts), made.transform(numbers))
    texts.loc[9, "x"], texts.loc[3, "x"] = rng.choice(["huge", "1.2.3"]), " 2 "
    with pytest.raises(DataError, match=r"column 'x', row 9 \(from 0\): expected a finite number"):
        made.transform(texts)
    texts.loc[9, "x"] = "1e39"
    with pytest.raises(DataError, match=r"column 'x', row 9 \(from 0\): expected a finite number, found '1e39'"):
        made.transform(texts)
