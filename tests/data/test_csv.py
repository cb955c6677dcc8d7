"""CSV files as programs write them: each is read as what it says, or refused with the option that reads it."""

import codecs
import gzip

import numpy as np
import pandas as pd
import pytest

from distens.config.sections import DataSection
from distens.data.load import load_data
from distens.data.source import read_source, rows_from_file
from distens.errors import DataError

PLAIN = "größe,farbe,y\n" + "".join(
    f"{i}.5,{'rot' if i % 3 else 'grün'},{'ja' if i % 2 else 'nein'}\n" for i in range(40)
)
SEMICOLON = PLAIN.replace(",", ";")
GERMAN = SEMICOLON.replace(".", ",")
QUOTED = "größe,farbe,y\n" + "".join(
    f'"{i}.5", "{"rot" if i % 3 else "grün"}","{"ja" if i % 2 else "nein"}"\n' for i in range(40)
)


def lines(text, change):
    first, *rest = text.splitlines()
    return "\n".join([change(first, 0), *(change(line, i) for i, line in enumerate(rest, 1))]) + "\n"


FILES = {
    "plain": PLAIN,
    "no last newline": PLAIN.rstrip("\n"),
    "blank first line": "\n" + PLAIN,
    "several blank lines": " \n\n" + PLAIN.replace("\n", "\n\n") + "\n\n",
    "CR": PLAIN.replace("\n", "\r"),
    "CRLF": PLAIN.replace("\n", "\r\n"),
    "CRLF and a blank line": "\r\n" + PLAIN.replace("\n", "\r\n"),
    "semicolons": SEMICOLON,
    "semicolons and decimal commas": GERMAN,
    "tabs": PLAIN.replace(",", "\t"),
    "bars": PLAIN.replace(",", "|"),
    "blanks after commas": PLAIN.replace(",", ", "),
    "quotes": QUOTED,
    "sep=,": "sep=,\n" + PLAIN,
    "sep=;": "sep=;\r\n" + GERMAN.replace("\n", "\r\n"),
    "quoted sep": '"sep=;"\n' + SEMICOLON,
    "sep=tab": "sep=\t\n" + PLAIN.replace(",", "\t"),
    "comment": "# made by hand, in a hurry\n#\n" + PLAIN,
    "comment before semicolons": "# a, b, c, d\n\n" + SEMICOLON,
    "comments within": PLAIN.replace("\n7.5", "\n# half of it\n7.5") + "# the end\n",
    "commas at the end": PLAIN.replace("\n", ",\n"),
    "commas at the end of rows": lines(PLAIN, lambda line, i: line + "," * bool(i)),
    "commas at the end of the header": lines(PLAIN, lambda line, i: line + "," * (not i)),
    "many semicolons at the end": SEMICOLON.replace("\n", ";;;\n"),
    "form of Excel": "\ufeffsep=;\r\n" + GERMAN.replace("\n", ";\r\n"),
}
ENCODED = {
    "UTF-8 with a mark": codecs.BOM_UTF8 + PLAIN.encode(),
    "UTF-16": PLAIN.encode("utf-16"),
    "UTF-16 big-endian": codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"),
    "UTF-16 without a mark": PLAIN.encode("utf-16-le"),
    "UTF-16 big-endian without a mark": PLAIN.encode("utf-16-be"),
    "UTF-16, tabs and commas": GERMAN.replace(";", "\t").replace("\n", "\r\n").encode("utf-16"),
    "UTF-32": PLAIN.encode("utf-32"),
    "gzip": gzip.compress(PLAIN.encode()),
    **{name: text.encode() for name, text in FILES.items()},
}


def section(path, **options):
    return DataSection.model_validate({"source": str(path), "target": "y", **options})


@pytest.mark.parametrize("name", ENCODED)
def test_a_file_is_read_as_what_it_says(tmp_path, name):
    (tmp_path / "plain.csv").write_text(PLAIN, encoding="utf-8")
    expected = load_data(section(tmp_path / "plain.csv"), 0)
    path = tmp_path / "t.csv"
    path.write_bytes(ENCODED[name])
    assert list(read_source(section(path)).rows.columns) == ["größe", "farbe"]
    loaded = load_data(section(path), 0)
    assert loaded.fingerprint == expected.fingerprint
    rows = rows_from_file(str(path), loaded.preprocessing)  # with the target, as it is
    np.testing.assert_array_equal(
        loaded.preprocessing.transform(rows)[loaded.split_rows["test"]], expected.dataset.inputs["test"]
    )


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
@pytest.mark.parametrize("text", [PLAIN, GERMAN, QUOTED])
def test_another_encoding_is_asked_about_and_read_with_the_option(tmp_path, text, encoding):
    path = tmp_path / "t.csv"
    path.write_bytes(text.encode(encoding))
    with pytest.raises(
        DataError, match=r"t\.csv: .*line 1 has the byte 0xf6.*cp1252.*'größe.*data.csv: {encoding: cp1252}"
    ):
        load_data(section(path), 0)
    loaded = load_data(section(path, csv={"encoding": encoding}), 0)
    (tmp_path / "u.csv").write_text(text, encoding="utf-8")
    found = [
        loaded.preprocessing.transform(rows_from_file(str(tmp_path / n), loaded.preprocessing))
        for n in ("t.csv", "u.csv")
    ]
    np.testing.assert_array_equal(*found)
    assert loaded.fingerprint == load_data(section(tmp_path / "u.csv"), 0).fingerprint


def test_options_say_what_cannot_be_found_out(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a~b~y\n" + "1.234~x~0\n2.000~z~1\n" * 20)
    with pytest.raises(DataError, match=r"Did you mean|no column 'y'"):
        load_data(section(path), 0)
    assert read_source(section(path, csv={"separator": "~"})).rows["a"].tolist()[:2] == [1.234, 2.0]
    options = {"separator": "~", "decimal": ","}
    loaded = load_data(section(path, csv=options), 0)
    assert read_source(section(path, csv=options)).rows["a"].tolist()[:2] == [1234, 2000]
    rows = rows_from_file(str(path), loaded.preprocessing)
    np.testing.assert_array_equal(
        loaded.preprocessing.transform(rows)[loaded.split_rows["train"]], loaded.dataset.inputs["train"]
    )


def test_options_of_csv_files_have_no_effect_on_others(tmp_path):
    pd.DataFrame({"a": range(40), "y": [0, 1] * 20}).to_parquet(tmp_path / "t.parquet")
    for source in (tmp_path / "t.parquet", "sklearn:wine", "sklearn:digits"):
        target = "y" if source == tmp_path / "t.parquet" else None
        with pytest.raises(DataError, match=r"data\.csv has no effect"):
            load_data(DataSection.model_validate({"source": str(source), "target": target, "csv": {"decimal": ","}}), 0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "the file is empty"),
        ("\n\n  \n", "the file is empty"),
        ("# nothing\n# at all\n", "the file is empty"),
        ("sep=;\n", "the file is empty"),
        ("a,b,y\n1,2,0\n1,2\n", "line 3 has 2 values and the header 3"),
        ("a,b,y\n1,2,0\n1,2,0,9\n", "line 3 has 4 values and the header 3"),
        ("\n# so\na;b;y\n1;2;0\n\n1;2;0;9\n", "line 6 has 4 values and the header 3"),
        ("a,b,y\n1,2,0\nTotal: 7\n", "line 3 has 1 values"),
        ("a,,y\n1,2,0\n", r"column 1 \(from 0\) has no name"),
        ('a,y\n1,"0\n2,1\n', "not a comma-separated table with a header"),
        ("a,a,y\n1,2,0\n", "two columns are named 'a'"),
    ],
)
def test_what_is_no_table_is_refused_by_line(tmp_path, text, words):
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=words) as error:
        load_data(section(path), 0)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_a_header_that_begins_with_a_hash_is_one(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("#id,y\n" + "1,0\n2,1\n" * 20)
    assert list(read_source(section(path)).rows.columns) == ["#id"]
    path.write_text("# one,two,three,four\n#id,y\n" + "1,0\n2,1\n" * 20)
    assert list(read_source(section(path)).rows.columns) == ["#id"]


def test_texts_with_separators_and_lines_in_quotes(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,y\n" + '"x, y; z","two\nlines",0\n"p ""q""",,1\n' * 20)
    rows = read_source(section(path)).rows
    assert rows["a"].tolist()[:2] == ["x, y; z", 'p "q"'] and rows["b"][0] == "two\nlines" and pd.isna(rows["b"][1])
