"""A disk that fills up while a run writes: the file is named, the exit code is 1, and the run can be resumed."""

import json
import resource
import shutil
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import small_run
from matplotlib import figure

import distens
from distens.config.config import to_yaml
from distens.errors import StorageFailed
from distens.evaluate.canvas import blank, write_picture
from distens.storage.local import LocalFolder


def lean(folder):
    members = {"knn": {"kind": "estimator", "estimator": "k_nearest_neighbours"}}
    return small_run.config(
        folder, members=members, search={"kind": "random", "members": 2}, distill=None, baselines=[]
    )


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    return distens.run(lean(tmp_path_factory.mktemp("calm")))


FILES = [
    "config.yaml",
    "splits.safetensors",
    "preprocessing.json",
    "run.json",
    "journal/00000000",
    "members/m0000/1/state.safetensors",
    "members/m0001/1/report.json",
    "figures/",
    "report.html",
    "final/ensemble/members",
    "final/ensemble/bundle.json",
    "results.json",
    "drawing",
]


@contextmanager
def limited(size):
    """The disk takes so many bytes of a file, then no more (a limit on files' sizes, as full disks need root)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("name", FILES)
def test_whatever_is_written(name, calm, tmp_path, monkeypatch):
    config, write, draw = lean(tmp_path / "runs"), LocalFolder.write, figure.Figure.savefig

    def on_full_disk(folder, path, content, *args):
        with limited(min(50, len(content) - 1)) if path.startswith(name) else nullcontext():
            write(folder, path, content, *args)

    def draw_on_full_disk(*args, **more):
        with limited(50):
            draw(*args, **more)

    if name == "drawing":
        monkeypatch.setattr(figure.Figure, "savefig", draw_on_full_disk)
    else:
        monkeypatch.setattr(LocalFolder, "write", on_full_disk)
    place = r"\.png: cannot be written" if name == "drawing" else f"cannot write {name}"
    with pytest.raises(StorageFailed, match=rf"{place}.*File too large\. No finished task is lost.*distens resume"):
        distens.run(config)
    monkeypatch.undo()
    (run,) = (tmp_path / "runs").iterdir()
    assert not [path for path in run.rglob("*") if path.name.endswith(".part")]
    assert not (run / "results.json").exists()
    begun = (run / "run.json").exists()
    assert begun == (FILES.index(name) > FILES.index("run.json"))
    done = distens.resume(str(run)) if begun else distens.run(config)
    assert done.weights == calm.weights and (run / "results.json").exists()


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
        command = [sys.executable, "-m", "distens.cli", "run", str(tmp_path / "c.yaml")]
        found = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert found.returncode == 1 and "No space left on device" in found.stderr
        assert "Traceback" not in found.stderr and "continues the run" in found.stderr
        (disk / "ballast").unlink()
        done = distens.run(config, resume=True)
        assert json.loads(Path(done.path, "results.json").read_text())["weights"] == dict(calm.weights)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("place", ["/proc/nowhere/a.png", "/dev/null/a.png"])
def test_a_picture_that_cannot_be_written(place, tmp_path):
    with pytest.raises(StorageFailed, match=f"{place}: cannot be written"):
        write_picture(blank((1, 1)), Path(place))


def test_no_room_for_temporary_files(tmp_path, monkeypatch):
    from distens.storage.filesystem import make_temporary_folder

    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StorageFailed, match=r"a temporary folder: cannot be written: .*nowhere"):
        make_temporary_folder()
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 50
