from __future__ import annotations

import base64
import re
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from distens.evaluate import comparison, figures, report
from distens.evaluate.canvas import COLOURS
from distens.probabilities import softmax
from distens.targets import _class_measures
from distens.targets.classes import Classes

# Four rows: confident and right, confident and wrong, and two less confident that are right.
PROBS_NC = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
LABELS_N = np.array([0, 1, 0, 1])

CLASSES = Classes(("a", "b", "c", "d"))


def _guesses(rows=300, classes=4, skill=2.0, seed=0, labels_N=None):
    rng = np.random.default_rng(seed)
    labels_N = rng.integers(0, classes, rows) if labels_N is None else labels_N
    logits = rng.normal(size=(len(labels_N), classes)) + skill * np.eye(classes)[labels_N]
    return softmax(logits), labels_N


# Metrics.


def test_row_by_hand():
    """Right: rows 1, 3, 4, so accuracy 3/4.
    NLL: -(ln 0.9 + ln 0.2 + ln 0.7 + ln 0.6) / 4 = (0.105361 + 1.609438 + 0.356675 + 0.510826) / 4 = 0.645575.
    Brier: (2 * 0.1^2 + 2 * 0.8^2 + 2 * 0.3^2 + 2 * 0.4^2) / 4 = (0.02 + 1.28 + 0.18 + 0.32) / 4 = 0.45.
    ECE: with fewer rows than bins every row is a bin: (|1 - 0.9| + |0 - 0.8| + |1 - 0.7| + |1 - 0.6|) / 4 = 0.4; the
    confidences lie in four different bins of width 1/15 too.
    AURC: errors among the most confident 1, 2, 3, 4 rows: 0, 1/2, 1/3, 1/4; their mean is 13/48 = 0.270833.
    """
    assert CLASSES.table(PROBS_NC, LABELS_N) == pytest.approx(
        {"accuracy": 0.75, "nll": 0.645575, "brier": 0.45, "ece": 0.4, "ece_width": 0.4, "aurc": 13 / 48}, abs=1e-6
    )


def test_bins_by_hand():
    """Two bins of two rows: confidences 0.6, 0.7, both right; 0.8, 0.9, one right: |1 - 0.65| / 2 + |0.5 - 0.85| / 2
    = 0.35. Two bins of width 1/2: all four rows are in the upper one, and 3/4 right at mean confidence 0.75."""
    mass = _class_measures.mass_bins(PROBS_NC, LABELS_N, bins=2)
    assert [b.count for b in mass] == [2, 2]
    assert _class_measures.calibration_error(mass) == pytest.approx(0.35)
    width = _class_measures.width_bins(PROBS_NC, LABELS_N, bins=2)
    assert [b.count for b in width] == [4]
    assert _class_measures.calibration_error(width) == pytest.approx(0.0)


def test_ties_by_hand():
    """Two rows of equal confidence, one right: the one that comes first is wrong with chance 1/2, so the risks are
    1/2 and 1/2, whichever stands first."""
    probs_NC = np.array([[0.75, 0.25], [0.75, 0.25]])
    for labels_N in ([0, 1], [1, 0]):
        assert _class_measures.risk_coverage_area(probs_NC, np.array(labels_N)) == 0.5


def test_order_of_rows_changes_nothing_even_with_ties():
    probs_NC, labels_N = _guesses()
    probs_NC = softmax(np.round(2 * np.log(probs_NC)))  # many ties
    order = np.random.default_rng(1).permutation(len(labels_N))
    assert len(np.unique(probs_NC.max(axis=1))) < 200
    assert CLASSES.table(probs_NC[order], labels_N[order]) == pytest.approx(
        CLASSES.table(probs_NC, labels_N), abs=1e-12
    )


def test_perfect_and_useless_predictions():
    labels_N = np.arange(40) % 4
    perfect = CLASSES.table(np.eye(4, dtype=np.float32)[labels_N], labels_N)
    assert perfect == {"accuracy": 1, "nll": 0, "brier": 0, "ece": 0, "ece_width": 0, "aurc": 0}
    uniform = CLASSES.table(np.full((40, 4), 0.25), labels_N)
    assert uniform["nll"] == pytest.approx(np.log(4))
    assert uniform["brier"] == pytest.approx(0.75)
    assert uniform["ece"] == pytest.approx(0)  # a quarter is right, as it says
    assert uniform["aurc"] == pytest.approx(0.75)


def test_paired_difference_by_hand():
    """a is right in rows 1, 2, 3 and b in row 2 of four: differences 1, 0, 1, 0, mean 1/2, s = sqrt(1/3), error
    s / 2 = 0.288675. a gives every label 0.8 or 0.4, b 0.2, 0.8, 0.4, 0.4: log ratios b / a are ln(1/4), 0, ln(1/2), 0;
    mean of the losses' differences -(1.386294 + 0.693147) / 4 = -0.519860; deviations -0.866434, 0.519860, -0.173287,
    0.519860; squares 0.750708 + 0.270254 + 0.030028 + 0.270254 = 1.321245; s = sqrt(0.440415) = 0.663638; error
    s / 2 = 0.331819.
    """
    labels_N = np.array([0, 0, 0, 0])
    a_NC = np.array([[0.8, 0.2], [0.8, 0.2], [0.8, 0.2], [0.4, 0.6]])
    b_NC = np.array([[0.2, 0.8], [0.8, 0.2], [0.4, 0.6], [0.4, 0.6]])
    a, b = CLASSES.losses(a_NC, labels_N), CLASSES.losses(b_NC, labels_N)
    assert comparison.paired_difference(b["error"], a["error"]) == pytest.approx((0.5, 0.288675), abs=1e-6)
    assert comparison.paired_difference(a["nll"], b["nll"]) == pytest.approx((-0.519860, 0.331819), abs=1e-6)
    for measure in ("error", "nll"):
        there, back = (
            comparison.paired_difference(*pair) for pair in ((a[measure], b[measure]), (b[measure], a[measure]))
        )
        assert back == (-there[0], there[1])
    single = [CLASSES.losses(probs_NC[:1], labels_N[:1])["nll"] for probs_NC in (a_NC, b_NC)]
    assert comparison.paired_difference(*single)[1] == np.inf


def _verdict(skills):
    labels_N = _guesses(rows=2000)[1]
    probabilities = {
        name: _guesses(skill=skill, seed=seed, labels_N=labels_N)[0]
        for seed, (name, skill) in enumerate(skills.items(), start=1)
    }
    rows = {name: CLASSES.table(probs_NC, labels_N) for name, probs_NC in probabilities.items()}
    losses = {name: CLASSES.losses(probs_NC, labels_N) for name, probs_NC in probabilities.items()}
    return comparison.verdict(rows, losses, CLASSES.phrases), rows


def test_verdict_says_who_won_and_who_lost():
    lines, rows = _verdict({"ensemble": 3.0, "best_single": 2.0, "larger_single": 5.0, "seed_ensemble": 3.0})
    assert f"Highest accuracy: larger_single ({100 * rows['larger_single']['accuracy']:.2f} %)" in lines[0]
    single, larger, seeds = lines[1:4]
    assert single.startswith("ensemble against best_single: won on accuracy (")
    assert "won on NLL" in single
    assert larger.startswith("ensemble against larger_single: lost on accuracy (")
    assert "lost on NLL" in larger
    assert f"{rows['ensemble']['nll']:.4f} against {rows['larger_single']['nll']:.4f}" in larger
    assert seeds.startswith("ensemble against seed_ensemble: not distinguishable (")
    assert "2000 test rows" in lines[-1]


def test_verdict_compares_only_who_is_there():
    lines, _ = _verdict({"ensemble": 3.0, "student": 2.0, "student_on_labels": 2.0})
    assert [line.split(":")[0] for line in lines[1:-1]] == [
        "student against ensemble",
        "student against student_on_labels",
    ]
    assert "lost on accuracy" in lines[1]
    assert len(_verdict({"ensemble": 3.0})[0]) == 1


def test_verdict_calls_the_same_predictions_level():
    probs_NC, labels_N = _guesses()
    rows = {name: CLASSES.table(probs_NC, labels_N) for name in ("ensemble", "best_single")}
    lines = comparison.verdict(rows, dict.fromkeys(rows, CLASSES.losses(probs_NC, labels_N)), CLASSES.phrases)
    assert "level on accuracy" in lines[1]
    assert "level on NLL" in lines[1]


# Figures.


def _has_colour(path, colour):
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return bool((np.abs(imread(path)[..., :3] - wanted).max(axis=2) < 0.02).any())


@pytest.mark.parametrize("rows", [1, 7, 400])
def test_reliability(tmp_path, rows):
    labels_N = _guesses(rows=rows)[1]
    curves = {
        name: _guesses(seed=s, labels_N=labels_N)[0] for s, name in enumerate(["ensemble", "best_single", "student"])
    }
    path = tmp_path / "new" / "reliability.png"
    figures.reliability(curves, labels_N, path)
    assert all(_has_colour(path, colour) for colour in COLOURS[:3])


def test_reliability_of_certain_predictions(tmp_path):
    labels_N = np.arange(30) % 3
    figures.reliability({"ensemble": np.eye(3)[labels_N]}, labels_N, tmp_path / "r.png")
    assert _has_colour(tmp_path / "r.png", COLOURS[0])


@pytest.mark.parametrize("members", [1, 25, 200])
def test_pictures_of_members(tmp_path, members):
    rng = np.random.default_rng(0)
    values_M = rng.uniform(0.1, 0.5, members)
    weights_M = np.where(np.arange(members) % 3 == 0, rng.random(members), 0)
    weights_M /= weights_M.sum()
    families = [f"family{m % 14}" for m in range(members)]  # more families than markers
    diversity_M = rng.random(members)
    diversity_M[1:2] = np.nan
    values_M[2:3] = 50.0
    figures.draw_diversity(values_M, diversity_M, weights_M, families, "nll", tmp_path / "d.png")
    figures.weights({f"m{m:04d}": w for m, w in enumerate(weights_M) if w}, tmp_path / "w.png")
    ensemble_M = np.where(np.arange(members) % 2 == 0, 0.1, np.nan)
    figures.progress(values_M, ensemble_M, "error", tmp_path / "p.png")
    figures.progress(values_M, np.full(members, np.nan), "nll", tmp_path / "q.png")
    assert _has_colour(tmp_path / "w.png", COLOURS[0])
    assert _has_colour(tmp_path / "p.png", COLOURS[0])
    assert _has_colour(tmp_path / "p.png", COLOURS[1])
    assert not _has_colour(tmp_path / "q.png", COLOURS[0])
    assert imread(tmp_path / "d.png").shape[:2] == (616, 896)


def test_same_data_same_file_and_no_global_state():
    code = (
        "import pathlib, sys, tempfile\n"
        "from distens.evaluate import figures\n"
        "from distens.roles.federated import figures as rounds, partition_figure\n"
        "assert 'matplotlib' not in sys.modules\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "for name in ('a.png', 'b.png'): figures.weights({'m1': 0.7, 'm2': 0.3}, folder / name)\n"
        "assert (folder / 'a.png').read_bytes() == (folder / 'b.png').read_bytes()\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# Report.

ROWS = {
    "ensemble": {"accuracy": 0.98125, "nll": 0.07, "brier": 0.03, "ece": 0.01, "aurc": 0.001}
    | {"parameters": 123456.0, "train_seconds": 75.25, "predict_ms_per_1000": 8.125},
    "best_single": {"accuracy": 0.97, "nll": 0.06, "brier": 0.03, "ece": 0.02, "aurc": 0.002}
    | {"parameters": 23456.0, "train_seconds": 5.25, "predict_ms_per_1000": float("nan")},
}
MISSING = {"student": "the config has no distill section"}


def test_table_lines():
    lines = report.table_lines(ROWS, MISSING)
    assert lines[0][:3] == ["", "accuracy", "NLL (nats)"]
    assert lines[0][-1] == "note"
    assert lines[1] == ["ensemble", "0.9812", "0.0700", "0.0300", "0.0100", "0.0010", "123,456", "75.2", "8.12", ""]
    assert lines[2][-2:] == ["–", ""]
    assert lines[3] == ["student", *["–"] * 8, "the config has no distill section"]
    assert len({len(line) for line in lines}) == 1
    assert "note" not in report.table_lines(ROWS, {})[0]


def test_best_of_each_column():
    """Higher accuracy, lower everything else; Brier is level, so both; a number that is not there is not best."""
    assert report.best_cells(ROWS) == {
        *[("ensemble", key) for key in ("accuracy", "brier", "ece", "aurc", "predict_ms_per_1000")],
        *[("best_single", key) for key in ("nll", "brier", "parameters", "train_seconds")],
    }
    assert report.best_cells({"ensemble": ROWS["ensemble"]}) == set()


@pytest.fixture
def page(tmp_path):
    hostile = "<script>alert('x')</script>"
    figures.weights({"m0001": 1.0}, tmp_path / "weights.png")
    data = report.ReportData(
        run_name=f"digits-{hostile}",
        rows=ROWS,
        missing=MISSING | {"larger_single": f"crashed: {hostile}"},
        verdict=["ensemble against best_single: won on accuracy, lost on NLL."],
        members=[
            {"id": "m0001", "weight": 0.625, "settings": {"family": "net", "learning_rate": 0.00123456}},
            {"id": "m0002", "weight": 0.375, "diversity": 0.25, "settings": {"family": hostile}},
        ],
        failures=[{"id": "m0003", "attempt": 2, "reason": "crashed", "message": hostile}],
        figures={f"Weights {hostile}": tmp_path / "weights.png"},
        config_yaml=f"name: digits\nsource: {hostile}\n",
        details={"storage": "s3://bucket/runs"},
    )
    report.write_page(tmp_path / "report" / "report.html", data)
    return (tmp_path / "report" / "report.html").read_text(encoding="utf-8"), (tmp_path / "weights.png").read_bytes()


def test_page_escapes_what_users_named(page):
    text, _ = page
    assert "<script" not in text
    assert text.count("&lt;script&gt;") >= 6  # title, heading, missing row, member, failure, caption, config


def test_page_holds_table_members_and_failures(page):
    text, _ = page
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "ensemble 0.9812 0.0700 0.0300 0.0100 0.0010 123,456 75.2 8.12" in words
    assert "student missing: the config has no distill section" in words
    assert "won on accuracy, lost on NLL." in words
    assert "m0001 0.625 family: net, learning_rate: 0.001235 –" in words
    assert "m0003 2 crashed" in words
    assert "storage s3://bucket/runs" in words
    assert re.search(r'<td class="best">0\.9812</td>', text)
    assert re.search(r"<td>0\.9700</td>", text)


def test_page_is_self_contained(page):
    text, png = page
    embedded = re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    assert [base64.b64decode(content) for content in embedded] == [png]
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"<link|@import|url\(|src=\"(?!data:)", text)


def test_page_of_a_run_with_nothing_to_tell(tmp_path):
    report.write_page(tmp_path / "r.html", report.ReportData("empty", {"ensemble": ROWS["ensemble"]}))
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No attempt failed." in text
    assert "Selected members" not in text
    assert 'class="best"' not in text
