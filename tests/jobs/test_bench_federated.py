"""The federation's benchmark: what its report says where there is nothing to report."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "jobs" / "bench" / "bench_federated.py"


@pytest.mark.parametrize("folder", ["missing", "empty"])
def test_a_report_of_nothing_says_what_is_missing(folder, tmp_path):
    (tmp_path / "empty" / "rounds").mkdir(parents=True)
    command = [sys.executable, str(SCRIPT), "report", "--out", str(tmp_path / folder)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert found.returncode == 1
    assert f"no results in {tmp_path / folder}" in found.stderr
