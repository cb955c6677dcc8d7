"""Changed bundles and files of every kind are refused in words, or predict; and the fuzzer sees it when they do not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import fuzz
import numpy as np

from distens.errors import BundleError

PROGRAM = Path(fuzz.__file__)


def test_no_change_ends_a_process_hangs_fills_the_memory_or_raises_what_is_not_ours():
    command = [sys.executable, str(PROGRAM), "--count", "270", "--seed", "5"]
    env = {**os.environ, "PYTHONPATH": str(PROGRAM.parents[2])}
    found = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stdout + found.stderr
    table = {line.split()[0]: line.split()[1:] for line in found.stdout.splitlines()}
    assert set(fuzz.KINDS) < set(table)
    refused, predicted, *wrong = (int(number.replace(",", "")) for number in table["all"])
    assert refused > predicted > 0
    assert refused + predicted == 270
    assert wrong == [0, 0, 0, 0]


def endings(case, seed, genuine, folder):
    """End as the case's number says."""
    signal.setitimer(signal.ITIMER_REAL, fuzz.CASE_SECONDS)
    how = case % 6
    if how == 0:
        os.kill(os.getpid(), signal.SIGSEGV)
    elif how == 1:
        time.sleep(60)
    elif how == 2:
        return fuzz_outcome(lambda: np.ones(2**31))
    elif how == 3:
        return fuzz_outcome(lambda: {}["x"])
    elif how == 4:
        return fuzz_outcome(refuse)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return "predicted", ""


def refuse():
    raise BundleError("no")


def fuzz_outcome(action):
    """Return what the fuzzer makes of an action's end."""
    genuine = [SimpleNamespace(name="lightgbm")]
    before, fuzz.write_case = fuzz.write_case, lambda *_: action
    try:
        return TRY_CASE(5, 0, genuine, Path())
    finally:
        fuzz.write_case = before


TRY_CASE = fuzz.try_case


def test_every_way_to_end_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz, "try_case", endings)
    monkeypatch.setattr(fuzz, "CASE_SECONDS", 0.3)
    tally = fuzz.Tally()
    args = SimpleNamespace(first=0, count=12, jobs=2, seed=0, out=tmp_path)
    fuzz.fuzz(args, [], tally, tmp_path)
    assert fuzz.resume(args) == tally
    counts = {}
    for (_, outcome), count in tally.ended.items():
        counts[outcome] = counts.get(outcome, 0) + count
    assert counts == {"signal": 2, "hang": 2, "memory": 2, "unexpected": 2, "refused": 2, "predicted": 2}
    assert sorted(tally.wrong) == [0, 1, 2, 3, 6, 7, 8, 9]
    assert "SIGSEGV" in tally.wrong[0]
    assert "KeyError" in tally.wrong[3]
