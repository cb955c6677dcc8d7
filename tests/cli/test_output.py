"""What strangers named: nothing acts on the terminal, and a file of predictions runs nothing in a spreadsheet."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import distens
from distens.cli import predictions
from distens.cli.output import PrintableFormatter
from distens.config.config import parse_config
from distens.errors import ConfigError, StorageError
from distens.printable import printable

HOSTILE = {
    "clear the screen": "\x1b[2J",
    "clipboard": "\x1b]52;c;aGk=\x07",
    "C1 control": "\x9b2J",
    "carriage return": "\r",
    "line end": "\n",
    "line separator": "\u2028",
    "right to left": "\u202e",
    "isolate": "\u2066",
    "zero width": "\u200b",
    "byte order mark": "\ufeff",
    "delete": "\x7f",
    "tag": "\U000e0041",
}
ACTIVE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\U000e0000-\U000e007f]")


def command(*words, cwd=None, **options):
    return subprocess.run(
        [sys.executable, "-m", "distens.cli", *map(str, words)], capture_output=True, cwd=cwd, timeout=200, **options
    )


def shown(done):
    """What a command wrote, once it is certain that nothing in it acts on a terminal."""
    text = done.stdout.decode() + done.stderr.decode()
    assert not ACTIVE.search(text), repr(text)
    return text


@pytest.mark.parametrize("name", HOSTILE)
def test_whatever_acts_is_shown_as_an_escape(name):
    text = f"a{HOSTILE[name]}b"
    found = printable(text)
    assert found.isprintable() and found.startswith("a\\") and found.endswith("b")
    assert found.encode().decode("unicode_escape") == text


def test_what_is_shown_as_itself_is_left():
    for text in ("", "plain", "größer 東京 العربية 🎉 é", "a\u00a0b\u3000c"):
        assert printable(text) == text
    assert printable("a\nb\tc", "\n") == "a\nb\\tc"
    assert printable("\ud800") == "\\ud800"


def test_lines_of_the_log_are_escaped_and_hold_no_credentials():
    record = logging.LogRecord("distens", logging.WARNING, "", 0, "x\x1b[2J\nerror: %s", ("password=hunter2",), None)
    assert PrintableFormatter("%(message)s").format(record) == "x\\x1b[2J\n  error: password=***"


# A run whose names are all hostile -----------------------------------------------------------------------------------

CLASSES = ["prediction", "=1+2", "\x1b[2Jcleared", "-1", "@SUM(A1)", "two\nlines"]
NEW = 12


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a run that learned classes of such names, and rows to predict."""
    folder = tmp_path_factory.mktemp("hostile")
    rng = np.random.default_rng(0)
    labels_N = np.arange(240) % len(CLASSES)
    frame = pd.DataFrame({"x": labels_N + rng.normal(0, 0.05, 240), "y": [CLASSES[label] for label in labels_N]})
    frame.to_parquet(folder / "rows.parquet")
    frame.head(NEW).drop(columns="y").to_csv(folder / "new.csv", index=False)
    values = {
        "name": "odd",
        "storage": str(folder / "runs"),
        "data": {"source": str(folder / "rows.parquet"), "target": "y"},
        "members": {"trees": {"kind": "estimator", "estimator": "extra_trees"}},
        "search": {"kind": "random", "members": 2},
        "runtime": "inline",
        "tracking": "off",
    }
    distens.run(parse_config(values))
    return folder


def test_classes_of_any_name_are_predicted_and_printed(home):
    (run,) = (home / "runs").iterdir()
    done = command("predict", run, home / "new.csv")
    assert done.returncode == 0, done.stderr
    lines = shown(done).splitlines()
    assert len(lines) == NEW + 1 and lines[0].split(",")[0] == "prediction_"
    assert {"prediction", "\\x1b[2Jcleared", "two\\nlines", "-1", "'=1+2"} < set(lines[0].split(","))


def test_a_file_keeps_names_except_where_a_spreadsheet_would_run_them(home):
    (run,) = (home / "runs").iterdir()
    done = command("predict", run, home / "new.csv", "--out", home / "p.csv")
    assert done.returncode == 0 and "6 cells of text begin as a formula does" in shown(done), done.stderr
    found = pd.read_csv(home / "p.csv")
    names = {"prediction", "'=1+2", "\x1b[2Jcleared", "-1", "'@SUM(A1)", "two\nlines"}
    assert set(found.columns) == {"prediction_", *names} and set(found["prediction_"].astype(str)) == names
    assert found[list(names)].to_numpy().dtype == np.float64
    np.testing.assert_allclose(found[list(names)].sum(axis=1), 1)


@pytest.mark.parametrize(
    "words", [["list", "--storage", "{runs}"], ["report", "{run}"], ["predict", "{run}", "{rows}"]]
)
@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "tag"])
def test_folders_of_any_name_are_shown_escaped(words, name, home, tmp_path):
    (run,) = (home / "runs").iterdir()
    runs = tmp_path / f"runs{HOSTILE[name]}"
    shutil.copytree(run, runs / f"odd{HOSTILE[name]}")
    (runs / f"odd{HOSTILE[name]}" / "members").rename(tmp_path / "members")  # nothing of them is needed to say no
    words = [w.format(runs=runs, run=runs / f"odd{HOSTILE[name]}", rows=f"none{HOSTILE[name]}.csv") for w in words]
    assert printable(f"odd{HOSTILE[name]}" if words[0] != "predict" else f"{HOSTILE[name]}").strip() in shown(
        command(*words)
    ).replace("\n  ", "\\n")


def test_names_in_results_are_shown_escaped(home, tmp_path):
    (run,) = (home / "runs").iterdir()
    copied = Path(shutil.copytree(run, tmp_path / "run"))
    results = json.loads((copied / "results.json").read_text())
    results["m\x1b[2J\nerror: x"] = results["ensemble"]
    results["missing"] = {"a\x1b]0;t\x07": "b\u202ec\nverdict: good"}
    results["verdict"] = ["d\x9b2J\n- e"]
    (copied / "results.json").write_text(json.dumps(results))
    done = command("report", copied)
    text = shown(done)
    assert done.returncode == 0
    for words in ("m\\x1b[2J\\nerror: x", "a\\x1b]0;t\\x07: b\\u202ec\\nverdict: good", "- d\\x9b2J\\n- e"):
        assert words in text


@pytest.mark.parametrize(
    "words",
    [
        ["run", "c\x1b[2J.yaml"],
        ["run", "c.yaml", "ex\x1b[2Jtra"],
        ["run", "c.yaml", "--opt\x1b[2Jion"],
        ["run", "odd.yaml"],
        ["run", "c.yaml", "--set", "sea\x1b[2Jrch=1"],
        ["run", "c.yaml", "--set", "search.kind=ra\x1b[2Jndom"],
        ["submit", "c.yaml", "--address", "http://127.0.0.1:9/\x1b[2J", "--set", "storage=/tmp/x"],
    ],
    ids=range(7),
)
def test_messages_show_what_they_quote_escaped(words, tmp_path):
    config = {"name": "x", "data": {"source": "sklearn:iris"}, "members": {"a": {"kind": "classifier", "epochs": 1}}}
    (tmp_path / "c.yaml").write_text(json.dumps({**config, "search": "random", "tracking": "off"}))
    (tmp_path / "odd.yaml").write_text(json.dumps({**config, "k\x1b[2J\nerror: fake": 1, "d\u202e": {"e\x1b": 2}}))
    done = command(*words, cwd=tmp_path)
    text = shown(done)
    assert done.returncode and re.search("x0*1b", text) and "Traceback" not in text
    assert not any(line.startswith("error: fake") for line in text.splitlines())


def test_a_warning_and_a_traceback_are_escaped(tmp_path):
    code = "import warnings\nwarnings.warn('w\\x1b[2J')\nraise KeyError('k\\x1b[2J password=hunter2')\n"
    (tmp_path / "mine.py").write_text(code)
    code = "import sys; from distens.cli import main\ndef broken(): import mine\nmain.app = broken; main.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, cwd=tmp_path)
    text = shown(done)
    assert done.returncode == 1 and "w\\x1b[2J" in text and "k\\x1b[2J password=***" in text and "Traceback" in text


# Files that are written ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["predict", "{run}", "{new}"], ["report", "{run}"]])
@pytest.mark.parametrize(
    ("out", "words_said", "code"),
    [
        ("{tmp}/missing/p.csv", "the folder {tmp}/missing is missing", 2),
        ("{tmp}", "expected a file, found a folder", 2),
        ("{tmp}/file/p.csv", "is missing", 2),
        ("/proc/p.csv", "cannot be written", 2),
        ("/dev/full", "could not be written whole: No space left on device", 1),
        ("{tmp}/" + "x" * 300, "cannot be written", 2),
    ],
)
def test_a_place_for_a_file_is_checked(words, out, words_said, code, home, tmp_path):
    (run,) = (home / "runs").iterdir()
    (tmp_path / "file").write_text("x")
    words = [word.format(run=run, new=home / "new.csv") for word in words]
    done = command(*words, "--out", out.format(tmp=tmp_path))
    assert done.returncode == code, done.stderr
    assert words_said.format(tmp=tmp_path) in done.stderr.decode() and b"Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1 and (code == 1 or not done.stdout)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


def test_a_place_is_refused_before_the_work(tmp_path):
    """There is no run at all, and yet the place is what is spoken of."""
    done = command("predict", tmp_path / "nowhere", "rows.csv", "--out", tmp_path)
    assert done.returncode == 2 and b"found a folder" in done.stderr


def test_a_check_leaves_what_is_there_as_it_is(tmp_path):
    (tmp_path / "p.csv").write_text("kept")
    predictions.check_out(tmp_path / "p.csv")
    predictions.check_out(tmp_path / "new.csv")
    assert (tmp_path / "p.csv").read_text() == "kept" and not (tmp_path / "new.csv").exists()
    with pytest.raises(ConfigError, match="cannot be written"):
        predictions.check_out(tmp_path / "a\0b")
    with pytest.raises(StorageError, match="No space left"):
        predictions.write_out(Path("/dev/full"), b"x" * 10)


@pytest.mark.parametrize("words", [["--help"], ["list", "--storage", "{runs}"], ["predict", "{run}", "{new}"]])
def test_an_output_that_is_full_is_said_in_words(words, home):
    (run,) = (home / "runs").iterdir()
    words = [word.format(runs=home / "runs", run=run, new=home / "new.csv") for word in words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "distens.cli", *words], stdout=full, stderr=subprocess.PIPE, text=True, timeout=200
        )
    assert done.returncode == 1 and done.stderr.strip() == "error: [Errno 28] No space left on device"


def test_a_reader_that_leaves_is_no_error(home):
    line = f"{sys.executable} -m distens.cli list --storage {home / 'runs'} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, env={**os.environ})
    assert done.returncode in (0, 1) and done.stderr == ""


# Headings and formulas -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "heading"),
    [
        (["a", "b"], "prediction"),
        (["prediction", "b"], "prediction_"),
        (["prediction", "prediction_", "b"], "prediction__"),
        (["prediction"], "prediction"),
    ],
)
def test_our_heading_gives_way(names, heading):
    frame = predictions.frame_of(["a"], np.ones((1, len(names))), names)
    assert list(frame.columns) == [heading, *(names if len(names) > 1 else [])]


@pytest.mark.parametrize(
    "text", ["=1", "+cmd", "-x", "@a", "\t=1", "\r=1", "\n=1", "=", "-", "+1+1", "-1-1", "＝1", "1e5"]
)
def test_formulas_get_an_apostrophe_and_numbers_do_not(text, tmp_path):
    frame = predictions.frame_of([text, "-1", "+2.5e3"], np.full((3, 2), -0.5), [text, "other"])
    count = predictions.write_file(frame, tmp_path / "p.csv")
    found = pd.read_csv(tmp_path / "p.csv", dtype=str)
    safe = text if text == "1e5" else f"'{text}"
    assert list(found.columns)[1] == safe and list(found["prediction"]) == [safe, "-1", "+2.5e3"]
    assert set(found["other"]) == {"-0.5"} and count == 2 * (text != "1e5")
