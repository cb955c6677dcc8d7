"""A disk that fills up while a run writes: the file is named, the exit code is 1, and the run can be resumed."""

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import small_run

import distens
from distens.config.config import to_yaml
from distens.errors import StorageFailed
from distens.evaluate.canvas import blank, write_picture

LIMITED = """
import resource, sys
from distens.lifecycle import delivery, session
from distens.storage.store import Store

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

name, size = sys.argv.pop(1), int(sys.argv.pop(1))
write = Store.write
def limited(self, path, content, *args, **more):
    if path.startswith(name):
        limit(min(size, len(content) - 1))
    return write(self, path, content, *args, **more)
Store.write = limited
if name == "drawing":
    drawn = delivery.make_temporary_folder
    def full():
        limit(size)
        return drawn()
    delivery.make_temporary_folder = full
from distens.cli.main import main
main()
"""


def lean(folder):
    members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
    return small_run.config(
        folder, members=members, search={"kind": "random", "members": 2}, distill=None, baselines=[]
    )


def distens_(*words):
    return subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False, timeout=120)


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return distens.run(lean(tmp_path_factory.mktemp("calm")))


FILES = [
    "config.yaml",
    "run.json",
    "splits.safetensors",
    "preprocessing.json",
    "journal/00000000",
    "journal/00000001",
    "members/m0000/1/state.safetensors",
    "members/m0001/1/search.arrow",
    "members/m0001/1/report.json",
    "figures/",
    "report.html",
    "final/ensemble/members",
    "final/ensemble/bundle.json",
    "final/ensemble/test.arrow",
    "results.json",
    "drawing",
]


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_written(name, calm, tmp_path):
    """The disk takes a little of the file, then no more (a limit on the size of files, as full disks need root)."""
    config = lean(tmp_path / "runs")
    (tmp_path / "c.yaml").write_text(to_yaml(config))
    (tmp_path / "limited.py").write_text(LIMITED)
    found = distens_(tmp_path / "limited.py", name, 50, "run", tmp_path / "c.yaml")
    assert found.returncode == 1, found.stderr
    assert "Traceback" not in found.stderr and "File too large" in found.stderr
    assert (".png: cannot be written" if name == "drawing" else f"cannot write {name}") in found.stderr
    run = tmp_path / "runs" / config.run_name()
    assert not [path for path in run.rglob("*") if path.name.endswith(".part")]
    assert not (run / "results.json").exists()
    again = ("run", tmp_path / "c.yaml", "--resume") if name in FILES[:2] else ("resume", run)
    done = distens_("-m", "distens.cli", *again)
    assert done.returncode == 0, done.stderr
    assert json.loads((run / "results.json").read_text())["weights"] == dict(calm.weights)


def test_a_disk_that_is_really_full(calm, tmp_path):
    """The same on a small disk of its own, where this machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    options = ["-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    mounted = (
        shutil.which("mount") and not subprocess.run(["mount", *options], check=False, capture_output=True).returncode
    )
    if not mounted:  # then the full device of the system stands for it
        (tmp_path / "a.png").symlink_to("/dev/full")
        with pytest.raises(StorageFailed, match=r"a\.png: cannot be written: .*No space left on device"):
            write_picture(blank((1, 1)), tmp_path / "a.png")
        return
    try:
        config = lean(disk / "runs")
        (tmp_path / "c.yaml").write_text(to_yaml(config))
        (disk / "ballast").write_bytes(bytes(900 << 10))
        found = distens_("-m", "distens.cli", "run", tmp_path / "c.yaml")
        assert found.returncode == 1 and "No space left on device" in found.stderr
        assert "Traceback" not in found.stderr and "continues the run" in found.stderr
        (disk / "ballast").unlink()
        done = distens_("-m", "distens.cli", "run", tmp_path / "c.yaml", "--resume")
        assert done.returncode == 0, done.stderr
        run = Path(disk, "runs", config.run_name())
        assert json.loads((run / "results.json").read_text())["weights"] == dict(calm.weights)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("place", ["/dev/full", "/proc/nowhere/a.png", "/dev/null/a.png"])
def test_a_picture_that_cannot_be_written(place, tmp_path):
    with pytest.raises(StorageFailed, match=f"{place}: cannot be written"):
        write_picture(blank((1, 1)), Path(place))
    assert os.path.exists("/dev/full")


def test_no_room_for_temporary_files(tmp_path, monkeypatch):
    from distens.storage.filesystem import make_temporary_folder

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StorageFailed, match=r"a temporary folder: cannot be written: .*nowhere"):
        make_temporary_folder()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 50
