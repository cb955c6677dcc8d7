"""The progress of a search: a run that is resumed counts as it did before, and knows the points of its curves."""

import numpy as np
import pytest

from distens.lifecycle.ledger import Ledger
from distens.lifecycle.progress import Progress
from distens.lifecycle.work.train import Train
from distens.records import Failure, Report, Task
from distens.storage.store import Store

TARGETS_N = np.zeros(4, dtype=int)


class Best:
    """Selects one member, whose seconds the selection takes to be none."""

    def select(self, predictions_MNK, targets_N, metric):
        return np.eye(len(predictions_MNK))[0]


def new_progress():
    return Progress(Best(), "nll", 30)


def run(ledger, tasks, rng):
    """Carry out tasks, and return step -> values as they were at that time, and the progress at the end."""

    def history():
        return ledger.history("search", "nll", TARGETS_N, lambda name: np.tile([[0.5, 0.5]], (4, 1)))

    progress, points = new_progress(), {}
    for task in tasks:
        ledger.ask([task])
        if rng.random() < 0.3:
            outcome = Failure(task.id, 1, "crashed", "", 1.0, "", bool(rng.random() < 0.7))
        else:
            outcome = Report(task.id, 1, {"nll": float(rng.random())}, 1000.0, 1, 1.0, "", {})
        (told,) = ledger.tell([outcome])
        step = progress.add(task, told, history)
        if step is not None:
            points[step] = progress.values()
    return points, progress, history


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rungs", [(None,), (1, 3, 9)])
def test_a_replay_has_the_points_of_then(seed, rungs, tmp_path):
    rng = np.random.default_rng(seed)
    members = [f"m{number:04d}" for number in range(40)]
    tasks = [
        Task(name if budget is None else f"{name}-{budget}", "search", {}, 0, work=Train(), member=name, budget=budget)
        for name in members
        for budget in rungs
    ]
    points, before, history = run(Ledger(Store(str(tmp_path))), tasks, rng)
    after, replayed = new_progress(), Ledger(Store(str(tmp_path)))
    again = dict(after.replay(replayed.concluded("search"), history))
    assert len(points) > 10
    assert again == points
    assert (after.finished, after.failed, after.best) == (before.finished, before.failed, before.best)
    assert (after.finished, after.failed) == (len(history().finished), len(history().failed))


def test_a_member_whose_files_were_lost_is_not_counted(tmp_path):
    ledger = Ledger(Store(str(tmp_path)))
    tasks = [Task(f"m{number}", "search", {}, 0, work=Train()) for number in range(3)]
    ledger.ask(tasks)
    ledger.tell([Report(task.id, 1, {"nll": 0.5}, 1000.0, 1, 1.0, "", {}) for task in tasks])
    ledger.lose(ledger.all_finished()[:1])

    def history():
        return ledger.history("search", "nll", TARGETS_N, lambda name: np.tile([[0.5, 0.5]], (4, 1)))

    points = dict(new_progress().replay(ledger.concluded("search"), history))
    assert [values["finished"] for values in points.values()] == [1, 2]
