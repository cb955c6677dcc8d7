"""A federation that goes on for more rounds."""

import json
from pathlib import Path

import numpy as np
import pytest
import small_federation
from kills import kill_when

import distens
from distens.data.load import load_data
from distens.errors import ConfigError
from distens.roles.federated.journal import RoundsJournal
from distens.storage.store import Store


def told(updates):
    return [
        update.text.split()[1] for update in updates if update.text.startswith("round ") and "clients" in update.text
    ]


def predicted(path):
    return distens.load(str(path)).predict_proba(load_data(small_federation.config(path).data, 0).example_rows)


@pytest.mark.parametrize("rule", ["fedavg", "fedadam", "scaffold"])
def test_more_rounds_end_where_a_fresh_federation_ends(rule, tmp_path):
    """To the bit, with the memory of the rule and the norms of the last round; no earlier round is trained again."""
    run = Path(distens.run(small_federation.config(tmp_path / "grown", merge=rule)).path)
    first, results = predicted(run), (run / "results.json").read_bytes()
    updates = []
    result = distens.resume(str(run), updates.append, ["federated.rounds=6"])
    fresh = distens.run(small_federation.config(tmp_path / "fresh", merge=rule, federated={"rounds": 6}))
    assert told(updates) == ["5", "6"]
    assert len(RoundsJournal(Store(str(run))).logs) == 6
    np.testing.assert_array_equal(predicted(run), predicted(fresh.path))
    assert result.rows["global"]["nll"] == fresh.rows["global"]["nll"]
    assert len(json.loads((run / "results.2.json").read_text())["rounds"]) == 6
    assert (run / "results.json").read_bytes() == results
    np.testing.assert_array_equal(
        distens.load(f"{run}/final/global").predict_proba(load_data(small_federation.config(run).data, 0).example_rows),
        first,
    )


def test_more_rounds_that_are_killed_resume(tmp_path):
    """SIGKILL in the second of three more rounds; and then, once more, there are still more."""
    run = Path(distens.run(small_federation.config(tmp_path / "killed")).path)
    kill_when("round 5 of 7", "resume", str(run), "--set", "federated.rounds=7")
    assert not (run / "results.2.json").exists()
    updates = []
    distens.resume(str(run), updates.append)
    assert told(updates)[-1] == "7" and "4" not in told(updates)
    fresh = distens.run(small_federation.config(tmp_path / "fresh", federated={"rounds": 7}))
    np.testing.assert_array_equal(predicted(run), predicted(fresh.path))
    again = distens.resume(str(run), overrides=["federated.rounds=8"])
    assert len(json.loads((run / "results.3.json").read_text())["rounds"]) == 8 and "global" in again.rows


@pytest.mark.parametrize(
    ("rounds", "given", "words"),
    [
        (4, "federated.rounds=3", r"federated.rounds\): 3 instead of 4. Rounds that were merged cannot be taken back"),
        (1, "federated.rounds=2", r"federated.rounds\): 2 instead of 1. In one shot each client trains once"),
        (4, "federated.quorum=0.1", r"federated.quorum\): 0.1 instead of 0.5. Its clients trained, and their updates"),
        (4, "merge=median", r"merge\): 'median' instead of .* Its clients trained, and their updates were merged"),
        (4, "metric=error", r"metric\): 'error' instead of 'nll'. Its clients trained"),
    ],
)
def test_what_a_federation_cannot_follow_is_refused(rounds, given, words, tmp_path):
    federated = {"rounds": rounds, **({"per_round": None} if rounds == 1 else {})}
    run = distens.run(small_federation.config(tmp_path, federated=federated)).path
    before = Path(run, "run.json").read_bytes()
    with pytest.raises(ConfigError, match=rf"the config was changed since the run started \({words}") as caught:
        distens.resume(run, overrides=[given])
    assert "A federation goes on with more federated.rounds" in str(caught.value)
    assert Path(run, "run.json").read_bytes() == before
