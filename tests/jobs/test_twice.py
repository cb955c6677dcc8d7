"""Two undisturbed runs leave the same bytes, except times; and the drill that says so sees what differs."""

import json

import numpy as np
import pytest
import twice

from distens.records import State
from distens.storage.store import Store

CONFIG = {
    "name": "twice",
    "data": {"source": "sklearn:iris"},
    "members": {
        name: {"kind": "estimator", "estimator": name, "options": options}
        for name, options in {
            "random_forest": {"n_estimators": 5},
            "lightgbm": {"n_estimators": 5},
            "histogram_boosting": {"max_iter": 5},
            "k_nearest_neighbours": {},
        }.items()
    },
    "search": {"kind": "divbo", "members": 6},
    "distill": None,
    "baselines": [],
}


def test_two_runs_with_estimators(tmp_path, capsys):
    (tmp_path / "twice.yaml").write_text(json.dumps(CONFIG))
    assert twice.main([str(tmp_path / "twice.yaml")]) == 0
    assert "twice.yaml: 0 of " in capsys.readouterr().out


PAGE = '<table class="numbers"><tr><td>a</td><td>{}</td><td class="best">{}</td><td>{}</td></tr></table><dd>{} s</dd>'


@pytest.mark.parametrize(
    ("name", "one", "other", "found"),
    [
        ("run.json", '{"started": 1.5, "a": [1, {}]}', '{"started": 2.5, "a": [1, {}]}', None),
        ("run.json", '{"train_seconds": 1, "elapsed": 3}', '{"train_seconds": 2}', None),
        ("run.json", '{"a": {"b": [1, 2]}}', '{"a": {"b": [1, 3]}}', "run.json: /a/b/1: 2, 3"),
        ("run.json", '{"a": 1, "b": 2}', '{"b": 2, "a": 1}', "run.json: /a, /b: 1, 2"),
        ("run.json", '{"a": 1}', '{"a": 1, "b": []}', "run.json: the end, /b: None, []"),
        ("report.html", PAGE.format(1, 2, 3, 4), PAGE.format(1, 3, 4, 5.5), None),
        ("report.html", PAGE.format(1, 2, 3, 4), PAGE.format(2, 2, 3, 4), "report.html: line 1: "),
        ("test.arrow", "0" * 40, "0" * 39 + "1", "test.arrow: byte 32: b'00000000', b'00000001'"),
        ("test.arrow", "0" * 16, "0" * 17, "test.arrow: the end, byte 16: None, b'0'"),
    ],
)
def test_what_differs_is_named(name, one, other, found, tmp_path):
    for folder, content in (("one", one), ("other", other)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_text(content)
    lines = list(twice.find_differences(tmp_path / "one", tmp_path / "other"))
    assert lines == [] if found is None else (len(lines) == 1 and lines[0].startswith(found)), lines


@pytest.mark.parametrize(
    ("state", "found"),
    [
        (State({"w": np.ones(3)}, {"epoch": 3, "seconds": 1.25}), None),
        (State({"w": np.ones(3)}, {"epoch": 4, "seconds": 1.0}), "header/__metadata__/0/epoch: 3, 4"),
        (State({"w": np.array([1.0, 1.0, 2.0])}, {"epoch": 3, "seconds": 1.0}), "byte "),
    ],
)
def test_a_checkpoint_s_time_is_no_difference(state, found, tmp_path):
    Store(str(tmp_path / "one")).write_state("c.safetensors", State({"w": np.ones(3)}, {"epoch": 3, "seconds": 1.0}))
    Store(str(tmp_path / "other")).write_state("c.safetensors", state)
    lines = list(twice.find_differences(tmp_path / "one", tmp_path / "other"))
    assert lines == [] if found is None else lines[0].startswith(f"c.safetensors: {found}"), lines


def test_files_of_one_run_alone_are_named(tmp_path):
    for folder, name in (("one", "a"), ("other", "b")):
        (tmp_path / folder / "final").mkdir(parents=True)
        (tmp_path / folder / "final" / name).touch()
    lines = list(twice.find_differences(tmp_path / "one", tmp_path / "other"))
    assert lines == ["final/a: only in the first", "final/b: only in the second"]


def test_a_run_that_fails_ends_the_drill(tmp_path):
    (tmp_path / "broken.yaml").write_text("name: broken")
    with pytest.raises(SystemExit, match=r"(?s)broken\.yaml .*exit code 2.*error: "):
        twice.main([str(tmp_path / "broken.yaml")])
