"""The command line, as a user types it: in processes of their own."""

import io
import subprocess
import sys

import pytest
from rich.console import Console
from rich.text import Text
from small_run import config

from distens.cli import tables
from distens.cli.live import LiveView
from distens.config.config import to_yaml
from distens.lifecycle.progress import ProgressEvent


def distens(*words, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "distens.cli", *map(str, words)], capture_output=True, text=True, cwd=cwd, timeout=200
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with one finished run, and rows to predict."""
    from sklearn.datasets import load_iris

    home = tmp_path_factory.mktemp("cli")
    student = {"kind": "student", "network": {"kind": "classifier", "epochs": 5}}
    small = config("runs", search={"kind": "random", "members": 3}, baselines=[], distill=student)
    (home / "iris.yaml").write_text(to_yaml(small))
    load_iris(as_frame=True).data.head(7).to_csv(home / "rows.csv", index=False)
    done = distens("run", "iris.yaml", cwd=home)
    assert done.returncode == 0, done.stderr
    (home / "out.txt").write_text(done.stdout)
    return home


def run_folder(folder):
    return next((folder / "runs").iterdir())


def test_help_and_version_load_nothing_heavy():
    code = (
        "import sys, distens, distens.cli.main\n"
        "from typer.testing import CliRunner\n"
        "found = CliRunner().invoke(distens.cli.main.app, ['--help'])\n"
        "assert 'resume' in found.output, found.output\n"
        "print({'torch', 'ray', 'mlflow', 'lightning', 'sklearn', 'pandas', 'pyarrow'} & set(sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert found.stdout.strip() == "set()", found.stdout + found.stderr
    assert distens("--version").stdout.startswith("distens ")


def test_a_run_prints_its_table_and_where_things_are(folder):
    text = (folder / "out.txt").read_text()
    for words in ("[3/3]", "ensemble", "best_single", "accuracy", "report.html"):
        assert words in text, text


def test_report_prints_the_table_and_the_page(folder):
    found = distens("report", run_folder(folder), "--out", folder / "page.html")
    assert found.returncode == 0, found.stderr
    assert "ensemble" in found.stdout
    assert "<html" in (folder / "page.html").read_text()


def test_list_shows_runs(folder):
    found = distens("list", "--storage", folder / "runs")
    assert run_folder(folder).name in found.stdout
    assert "finished" in found.stdout
    assert "no runs" in distens("list", "--storage", folder / "nowhere").stdout


def test_predict_writes_probabilities(folder):
    found = distens("predict", run_folder(folder), folder / "rows.csv", "--out", folder / "p.csv")
    assert found.returncode == 0, found.stderr
    lines = (folder / "p.csv").read_text().splitlines()
    assert lines[0].startswith("prediction,")
    assert len(lines) == 8
    printed = distens("predict", run_folder(folder), folder / "rows.csv", "--student")
    assert printed.returncode == 0, printed.stderr
    assert len(printed.stdout.splitlines()) == 8


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (("run", "nowhere.yaml"), 2, "no such config"),
        (("run", "iris.yaml", "--set", "search.membres=3"), 2, "Did you mean 'members'?"),
        (("run", "iris.yaml", "--set", "data.source=sklearn:irris"), 2, "Did you mean 'iris'?"),
        (("run", "iris.yaml"), 1, "this run has finished"),
        (("run", "iris.yaml", "--set", "sweep={samples: 2, over: {seed: {low: 0, high: 5}}}"), 2, "distens sweep"),
        (("run", "iris.yaml", "--set", "sweep={sample: 2}"), 2, "Did you mean 'samples'?"),
        (("sweep", "iris.yaml"), 2, "sweep: missing"),
        (("resume", "nowhere"), 1, "no run here"),
        (("report", "runs"), 1, "no run here"),
        (("predict", "nowhere", "rows.csv"), 1, "nowhere"),
        (("predict", "{run}/final/ensemble", "rows.csv", "--student"), 1, "no student"),
        (("predict", "{run}", "nowhere.csv"), 2, "nowhere.csv"),
        (("predict", "{run}", "iris.yaml"), 2, "iris.yaml"),
    ],
)
def test_a_mistake_is_a_message_and_an_exit_code(folder, words, code, message):
    found = distens(*(w.replace("{run}", str(run_folder(folder))) for w in words), cwd=folder)
    assert found.returncode == code, found.stdout + found.stderr
    assert message in found.stderr
    assert "Traceback" not in found.stderr


def test_no_number_is_cut_on_a_terminal_of_80_characters(monkeypatch, capsys):
    """The names of a federation's rows are as long as names get; 16 + 8 headings of at most 10, and gaps, are 80."""
    values = {"accuracy": 0.9123, "nll": 0.1234, "brier": 0.0123, "ece": 0.0234, "aurc": 0.0345}
    values |= {"parameters": 24_050, "train_seconds": 25.04, "predict_ms_per_1000": 28.51}
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    tables.print_table({"global": values, "average_ensemble": values}, {}, [])
    lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert max(map(len, lines)) <= 80
    wanted = ["average_ensemble", "0.9123", "0.1234", "0.0123", "0.0234", "0.0345", "24,050", "25.0", "28.5"]
    assert wanted in [line.split() for line in lines]


@pytest.mark.parametrize(
    ("update", "words"),
    [
        (ProgressEvent("search", "", "members", 9, 3, 1, running=2), ["search", "4/9 members, 1 failed", "2 running"]),
        (ProgressEvent("clients", "", "clients", 5, 2, 0, running=3), ["clients", "2/5 clients", "3 running"]),
        (ProgressEvent("rounds", "", "rounds", 30, 7), ["rounds", "7/30 rounds"]),
        (ProgressEvent("finish", "", running=2), ["finish", "2 running"]),
    ],
)
def test_the_live_view_says_how_far_a_run_is(update, words):
    shown = LiveView()
    shown.show(update)
    out = io.StringIO()
    Console(file=out, width=100).print(shown._render())
    assert all(word in out.getvalue() for word in words)
    assert out.getvalue().count("running") == ("running" in " ".join(words))
