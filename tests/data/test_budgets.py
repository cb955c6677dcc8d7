"""Files of strangers: what a table would take is counted before it is there, and nothing is waited for."""

import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distens.config.sections import DataSection
from distens.data.load import load_data
from distens.errors import DataError

MAX_BYTES, MAX_SECONDS = 2**30, 5.0

READ = """
    import json, sys, time
    from distens.config.sections import DataSection
    from distens.data.load import load_data
    from distens.errors import DataError
    import pandas, pyarrow.parquet
    began = time.monotonic()
    try:
        load_data(DataSection(source=sys.argv[1], target="y"), 0)
        said = ""
    except DataError as error:
        said = str(error)
    # Not getrusage's: a new program begins there with the peak of the process that started it.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    peak = int(status["VmHWM"].split()[0]) * 1024
    print(json.dumps([said, peak, time.monotonic() - began]))
"""


def read_alone(path):
    """Return the error, the peak of the memory in bytes, and the seconds, of a process that reads a file."""
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(READ), str(path)], capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def one_long_text(path):
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(50_000, np.int32)), pa.array(["x" * 2**20]))
    pq.write_table(pa.table({"a": text, "y": [0, 1] * 25_000}), path)


def long_texts_in_groups(path):
    """Many row groups, each with its own dictionary; none alone is too much."""
    schema = pa.schema([("a", pa.string()), ("y", pa.int64())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for i in range(40):
            writer.write_table(pa.table({"a": [chr(65 + i) * 2**18] * 100, "y": [0, 1] * 50}, schema))


def long_bytes(path):
    value = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array([b"x" * 2**20]))
    pq.write_table(pa.table({"a": value, "y": [0, 1] * 10_000}), path)


def many_rows(path):
    zeros = pa.array(np.zeros(50_000_000, np.int8))
    pq.write_table(pa.table({"a": zeros, "y": zeros}), path)


def many_columns(path):
    pq.write_table(pa.table({f"c{i}": [0, 1] for i in range(30_000)} | {"y": [0, 1]}), path)


def wide_csv(path):
    columns = 1_000_000
    path.write_text(",".join(f"c{i}" for i in range(columns)) + ",y\n" + "0," * columns + "1\n")


def wide_csv_of_semicolons(path):
    path.write_text(";".join(f"c{i}" for i in range(100_000)) + ";y\n" + "0;" * 100_000 + "1\n")


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("t.parquet", one_long_text, "unpack to more than"),
        ("t.parquet", long_texts_in_groups, "unpack to more than"),
        ("t.parquet", long_bytes, "unpack to more than"),
        ("t.parquet", many_rows, "unpack to more than 2000 times"),
        ("t.parquet", many_columns, "30,001 columns, and a table has at most 20,000"),
        ("t.csv", wide_csv, "1,000,001 columns, and a table has at most 20,000"),
        ("t.csv", wide_csv_of_semicolons, "100,001 columns, and a table has at most 20,000"),
    ],
)
def test_a_refusal_costs_little(tmp_path, name, make, words):
    make(tmp_path / name)
    said, peak, seconds = read_alone(tmp_path / name)
    assert words in said and str(tmp_path / name) in said
    assert peak < MAX_BYTES and seconds < MAX_SECONDS


def test_texts_that_repeat_are_read_where_they_are_not_too_many(tmp_path):
    table = pa.table({"a": ["red" * 100, "blue" * 100] * 5000, "y": [0, 0, 1, 1] * 2500})
    pq.write_table(table, tmp_path / "t.parquet")
    loaded = load_data(DataSection(source=str(tmp_path / "t.parquet"), target="y"), 0)
    assert loaded.preprocessing.encoding.categories[0].levels == ("blue" * 100, "red" * 100)


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int64()), pa.struct([("q", pa.int64())]), pa.map_(pa.string(), pa.int64())]
)
def test_nested_values_are_refused_unless_dropped(tmp_path, kind):
    table = pa.table({"a": pa.array([None] * 40, kind), "b": range(40), "y": [0, 1] * 20})
    pq.write_table(table, tmp_path / "t.parquet")
    section = DataSection(source=str(tmp_path / "t.parquet"), target="y")
    with pytest.raises(DataError, match=r"column 'a' holds .*; `data\.drop` leaves it out"):
        load_data(section, 0)
    loaded = load_data(section.model_copy(update={"drop": ("a",)}), 0)
    assert loaded.preprocessing.encoding.columns == ("b",)


def test_a_saved_row_index_is_no_column(tmp_path):
    table = pd.DataFrame({"a": np.arange(60.0), "y": [0, 1] * 30}).iloc[::-1]
    table.to_parquet(tmp_path / "t.parquet")
    loaded = load_data(DataSection(source=str(tmp_path / "t.parquet"), target="y"), 0)
    assert loaded.preprocessing.encoding.columns == ("a",)


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.parquet", "t.npz"])
@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path, name, make):
    make(tmp_path / name)
    for source in (str(tmp_path / name), (tmp_path / name).as_uri()):
        with pytest.raises(DataError, match="neither a file nor a folder"):
            load_data(DataSection(source=source, target=None if "npz" in name else "y"), 0)


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), os.mkdir], ids=["pipe", "device", "folder"]
)
@pytest.mark.parametrize("name", ["train-labels-idx1-ubyte", "train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_a_pipe_among_images_is_refused_at_once(tmp_path, name, make):
    for part in ("train", "t10k"):
        for what in ("images-idx3", "labels-idx1"):
            shape = [2, 2, 2] if what == "images-idx3" else [2]
            head = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
            (tmp_path / f"{part}-{what}-ubyte").write_bytes(head + bytes(int(np.prod(shape))))
    (tmp_path / name).unlink()
    make(tmp_path / name)
    with pytest.raises(DataError, match=f"{name}: cannot be read: expected a file, found a "):
        load_data(DataSection(source=str(tmp_path)), 0)
