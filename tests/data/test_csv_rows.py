"""CSV files read by the fast parser and by Python's give the same tables, and the same errors."""

import csv
import io
import random

import pandas as pd
import pytest

from distens.config.sections import CsvSection
from distens.data.csv_files import read_csv
from distens.data.csv_rows import read_fast
from distens.data.files import locate
from distens.errors import DataError

SEPARATORS = (",", ";", "\t", "|")
WORDS = (
    "1",
    "-2.5",
    "1e5",
    "007",
    "red",
    "x y",
    "größe",
    "日本",
    "",
    "",
    "NA",
    "?",
    "it's",
    "# 7",
    "\u00a0",
    "1,5",
    "p;q",
)
WITHIN = ("\n", "\n\n", "\r\n", "\r", "\n# ", '""', ",", ", ", ";", "\t", "|", " ", '"')
LINES = ("", "  ", "\t", "# a note", "#", "# one, two; three", '# "so', ",", ";;", "only", '""')
ODD = ("\0", "\ufeff", '"', " ", '"x', "x" * 131_072, "x" * 131_073)


def expected(text, separator):
    """Return column -> values as Python's parser alone reads them, or the words of the error."""
    rows = csv.reader(io.StringIO(text, newline=None), delimiter=separator, skipinitialspace=True, strict=True)
    table = []
    try:
        header = [name.strip() for name in next(rows)]
        while not header[-1]:
            header.pop()
        for row in rows:
            blank = not any(value.strip() for value in row)
            if len(row) < len(header) and (blank or row[0].startswith("#")):
                continue
            if len(row) < len(header) or any(value.strip() for value in row[len(header) :]):
                return f"line {rows.line_num} has {len(row)} values and the header {len(header)} (between them"
            table.append(row[: len(header)])
    except csv.Error as error:
        return f"not a comma-separated table with a header: {error}"
    return {name: [row[i] for row in table] for i, name in enumerate(header)}


def found(path, separator):
    """Return column -> values, or the message of the error."""
    try:
        table = read_csv(locate(str(path)), CsvSection(separator=separator))
    except DataError as error:
        return str(error)
    assert isinstance(table.index, pd.RangeIndex) and len(set(table.dtypes)) == 1
    return {name: table[name].tolist() for name in table.columns}


def value(rng, separator, quotes):
    text = rng.choice(WORDS)
    if not quotes:
        return text.replace(separator, "")
    if rng.random() < 0.2:
        text += rng.choice(WITHIN) + rng.choice(WORDS)
    quoted = '"' + text.replace('"', '""') + '"'
    return quoted if rng.random() < 0.5 or {*text} & {separator, "\n", "\r", '"'} else text


def make(rng, separator, mishaps):
    """Return the text of a table; `mishaps` is the chance that something odd is in a row."""
    columns, quotes, end = rng.randint(1, 5), rng.random() < 0.5, rng.choice(["\n", "\n", "\r\n", "\r"])
    blanks = rng.choice([[""], [""], ["", " "], ["", "   "], ["", "\t"]])
    after = rng.choice(["", "", "", separator, separator * 3, separator + " "])
    names = [rng.choice(["c{}", "column {}", '"c{}"', '"a\nb {}"']).format(i) for i in range(columns)]
    lines = [separator.join(names) + rng.choice(["", after])]
    for _ in range(rng.randint(1, 12)):
        if rng.random() < 0.05:
            lines.append(rng.choice(LINES))
        row = separator.join(rng.choice(blanks) + value(rng, separator, quotes) for _ in names) + after
        if rng.random() < mishaps:
            row = rng.choice([row + rng.choice(ODD), rng.choice(ODD) + row, row + separator + "9", "9"])
        lines.append(row)
    return end.join(lines) + rng.choice(["", end, end + end, end + "  " + end])


@pytest.mark.parametrize("mishaps", [0.0, 0.05])
@pytest.mark.parametrize("separator", SEPARATORS)
def test_both_parsers_read_the_same(tmp_path, separator, mishaps):
    rng, path, refused = random.Random(f"{separator} {mishaps}"), tmp_path / "t.csv", 0
    for _ in range(400):
        text = make(rng, separator, mishaps)
        path.write_text(text, encoding="utf-8-sig", newline="")
        asked, read = expected(text, separator), found(path, separator)
        if isinstance(asked, str):
            assert isinstance(read, str) and f"{path}: not a comma-separated" in read and asked in read, text
            refused += 1
        else:
            assert read == asked, text
    assert 0 < refused < 300


HEADER = ["a", "b"]
USUAL = {
    "plain": "1,2\n3,4\n",
    "no last newline": "1,2\n3,4",
    "blanks after separators": "1, 2\n 3,  4\n",
    "separators at the end": "1,2,,\n3,4,,\n",
    "blank lines and comments": "\n1,2\n\n# so\n  \n3,4\n\n",
    "quotes": '"1","x, ""y"""\n3,"two\nlines"\n"",4\n',
    "quotes within": '1,2\n3,4" wide\n'.replace('"', "'"),
    "blanks within quotes": '"Braund, Mr. Owen",2\n"\n ", 4\n'.replace(", 4", ",4"),
}
UNUSUAL = {
    "NUL": "1,2\0\n",
    "a mark within": "\ufeff1,2\n",
    "a quote within": '1,2"\n',
    "text after a quote": '"1"x,2\n',
    "an open quote": '1,"2\n',
    "a quote after a blank": '1, "2"\n',
    "rows of two lengths": "1,2\n3,4,\n",
    "a short row": "1,2\n3\n",
    "a long text": f"1,{'x' * 131_073}\n",
    "no rows": "\n# so\n",
}


@pytest.mark.parametrize("name", USUAL)
def test_usual_files_are_read_fast(name):
    header = "a,b\n"
    columns = read_fast(header + USUAL[name], len(header), HEADER, ",")
    assert columns is not None
    asked = expected(header + USUAL[name], ",")
    assert [column.to_pylist() for column in columns] == [asked["a"], asked["b"]]


@pytest.mark.parametrize("name", UNUSUAL)
def test_what_the_parsers_may_read_differently_is_left_to_one(name):
    assert read_fast("a,b\n" + UNUSUAL[name], 4, HEADER, ",") is None


def test_a_file_of_many_blocks(tmp_path):
    """Values with newlines, and comments, also at the ends of what is parsed at once."""
    rng, path = random.Random(0), tmp_path / "t.csv"
    rows = [f'{i},"{"x" * rng.randint(0, 90)}\n{i}"\n' + "# so\n" * (i % 50 == 0) for i in range(40_000)]
    path.write_text("a,b\n" + "".join(rows), newline="")
    text = path.read_text()
    assert len(text) > 2**21 and read_fast(text, 4, HEADER, ",") is not None
    assert found(path, ",") == expected(text, ",")
