"""What the page of an ensemble's run shows."""

from distens.lifecycle.ledger import Ledger
from distens.lifecycle.work.train import Train
from distens.records import Report, Resources, Task
from distens.roles.ensemble import Ensemble, overview
from distens.roles.ensemble.purpose import EnsemblePurpose
from distens.storage.store import Store


def test_the_progress_of_a_search_is_drawn_in_the_order_in_which_members_finished(tmp_path):
    """Selection has them in order of names; m0002 finished first, then m0000."""
    ledger = Ledger(Store(str(tmp_path)))
    settings = {"kind": "estimator", "family": "knn"}
    names = ["m0000", "m0001", "m0002"]
    ledger.ask([Task(name, EnsemblePurpose.SEARCH, settings, 1, Resources(), Train(), name) for name in names])
    for name in ("m0002", "m0000", "m0001"):
        list(ledger.tell([Report(name, 1, {"nll": 1.0}, 1.0, 1, 1.0, "here", {})], None))
    entries = sorted(ledger.finished(EnsemblePurpose.SEARCH), key=lambda entry: entry.task.id)
    assert overview._order_of_arrival(ledger, entries) == [2, 0, 1]


def test_the_size_of_a_run_is_its_members_or_what_decides_their_number():
    assert Ensemble().size({"search": {"members": None}}) == "scheduled"
    assert Ensemble().size({"search": {"members": None, "seconds": 60.0}}) == "60 s"
    assert Ensemble().size({"search": {"members": 24, "seconds": None}}) == "24"
