"""What a submission sends, what stays here, and servers that do not answer. (Real clusters: tests/system.)"""

import os
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest

from distens.cli import submit
from distens.cli.sent_files import find_files
from distens.config.config import load_config
from distens.errors import RunError

CONFIG = """
name: iris
data: {source: sklearn:iris}
members: {forest: {kind: estimator, estimator: random_forest}}
search: {kind: random, members: 3}
tracking: off
storage: /tmp/runs
"""
KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl\n-----END OPENSSH PRIVATE KEY-----\n"

SECRETS = [
    ".env",
    ".env.production",
    ".aws/credentials",
    ".ssh/id_ed25519",
    ".netrc",
    "id_rsa",
    "id_rsa.pub",
    "a/tls.pem",
]
SECRETS += ["b/server.key", "credentials", "credentials.json", "my-credentials-key", "box.p12", ".git-credentials"]
CODE = ["nets.py", "credentials.py", "secrets.py", "a/keys.py", "rows.csv", "environment.yaml", "cert.txt", "monkey"]


@pytest.fixture
def folder(tmp_path):
    for name in [*SECRETS, *CODE, "ignored.bin", ".gitignore", "iris.yaml"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x" * 10)
    (tmp_path / "my-credentials-key").write_text(KEY)
    (tmp_path / ".gitignore").write_text("ignored.bin\n")
    (tmp_path / "iris.yaml").write_text(CONFIG)
    (tmp_path / "rows.csv").write_text("x" * 2_500_000)
    os.mkfifo(tmp_path / "pipe [1]")
    (tmp_path / "nowhere").symlink_to("gone")
    return tmp_path


def test_secrets_stay_and_are_named_and_code_goes(folder):
    sent = find_files(folder, submit.EXCLUDED, [])
    assert set(sent.sizes) == {*CODE, ".gitignore", "iris.yaml"}
    top = {name if not name.startswith((".aws", ".ssh")) else name.split("/")[0] for name in SECRETS}
    assert set(sent.secrets) == top
    lines = sent.lines()
    assert lines[0].startswith("10 files, 2.5 MB, go to the cluster; the largest: rows.csv (2.5 MB), iris.yaml (")
    assert all(name in lines[1] for name in top)
    assert lines[2] == "These stay here, since they are no files: pipe [1]"


@pytest.mark.parametrize(("given", "name"), [("!tls.pem", "a/tls.pem"), ("!my-credentials-key", "my-credentials-key")])
def test_a_user_may_send_one_all_the_same(given, name, folder):
    sent = find_files(folder, submit.EXCLUDED, [given])
    assert name not in sent.secrets
    assert ".env" in sent.secrets


def test_what_ray_sends_is_what_is_listed(folder, tmp_path_factory):
    """Ray packs the folder by itself, by the excludes of the job."""
    import zipfile

    from ray._private.runtime_env.packaging import create_package

    job = submit.Job.of(load_config(folder / "iris.yaml"), folder / "iris.yaml", working_dir=folder)
    packed = tmp_path_factory.mktemp("packed") / "x.zip"
    create_package(str(folder), packed, include_gitignore=True, excludes=list(job.runtime_env["excludes"]))
    names = {name for name in zipfile.ZipFile(packed).namelist() if not name.endswith("/")}
    assert names == set(find_files(folder, submit.EXCLUDED, []).sizes)
    assert job.notes[0].startswith("10 files") and "id_rsa" in job.notes[1]


def test_a_folder_without_secrets_says_nothing_of_them(tmp_path):
    (tmp_path / "a.py").write_text("x")
    assert find_files(tmp_path, [], []).lines() == ["1 files, 1 B, go to the cluster; the largest: a.py (1 B)"]


class Silent:
    """A server that accepts, and then answers with nothing, or with one byte after another."""

    def __init__(self, drips):
        self.server, self.kept = socket.create_server(("127.0.0.1", 0)), []
        self.address = f"http://127.0.0.1:{self.server.getsockname()[1]}"
        threading.Thread(target=self.live, args=(drips,), daemon=True).start()

    def live(self, drips):
        while True:
            connection, _ = self.server.accept()
            self.kept.append(connection)
            if drips:
                threading.Thread(target=self.drip, args=(connection,), daemon=True).start()

    @staticmethod
    def drip(connection):
        with suppress(OSError):  # until the other side hangs up
            connection.sendall(b"HTTP/1.1 200 OK\r\n")
            for i in range(1000):
                connection.sendall(f"X-{i}: y\r\n".encode())
                time.sleep(0.2)


@pytest.mark.parametrize("drips", [False, True])
def test_a_server_that_never_answers_is_given_up_in_words(drips, monkeypatch):
    monkeypatch.setattr(submit, "ANSWER_SECONDS", 1.5)
    began = time.monotonic()
    with pytest.raises(
        RunError, match=r"--address http://127.0.0.1:\d+: no (answer within 1.5 s|connection)"
    ) as refused:
        submit.connect_jobs(Silent(drips).address)
    assert time.monotonic() - began < 8 and "token" not in str(refused.value).lower()


@pytest.mark.parametrize("address", ["http://127.0.0.1:9", "http://no-such-host.invalid:8265"])
def test_nobody_there_is_no_matter_of_tokens(address):
    with pytest.raises(RunError, match="no connection to Ray's dashboard") as refused:
        submit.connect_jobs(address)
    assert "token" not in str(refused.value).lower() and len(str(refused.value).splitlines()) == 1


def test_the_time_to_answer_is_twenty_seconds():
    assert submit.ANSWER_SECONDS == 20


class Head:
    """Ray's client of a head that falls silent in the middle of a log, and of one whose job has ended meanwhile."""

    def __init__(self, status):
        self.status, self.begun = status, False

    async def tail_job_logs(self, name):
        import asyncio

        if not self.begun:
            self.begun = True
            yield "one line\n"
        await asyncio.sleep(1000)

    def get_job_info(self, name):
        from types import SimpleNamespace

        if self.status is None:
            raise OSError("silent")
        return SimpleNamespace(status=self.status, driver_exit_code=0, message="")


def test_a_log_that_falls_silent_is_not_waited_for_for_ever(monkeypatch):
    from ray.job_submission import JobStatus

    monkeypatch.setattr(submit, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(submit, "AWAY_SECONDS", 1.0)
    said = []
    assert submit.follow(Head(JobStatus.SUCCEEDED), "x", said.append) == 0
    assert said == ["one line\n"]
    with pytest.raises(RunError, match="the head has not answered for 1 s"):
        submit.follow(Head(None), "x", said.append)


def test_paths_are_the_folders_own(folder):
    assert all(not Path(name).is_absolute() for name in find_files(folder, [], []).sizes)
