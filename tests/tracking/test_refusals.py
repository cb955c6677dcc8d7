"""What is refused for good is said at once, with the cure; and a promise is made only where it holds."""

import json
import logging
import re
import shlex
import shutil
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from tracked import run_info, runs_of

from distens.tracking._address import how_to_look
from distens.tracking._sender import NeedsRepair, Sender
from distens.tracking.mlflow_runs import MlflowRuns


def tell(tracker, run, status="finished"):
    tracker.start(run)
    tracker.progress(1, {"best": 0.5})
    began = time.monotonic()
    lines = tracker.finish(None, status)
    return lines, time.monotonic() - began


# The experiment ------------------------------------------------------------------------------------------------------


def test_a_deleted_experiment_is_named_at_once_and_its_cure_holds(tmp_path, mlflow_store, caplog):
    uri, client = mlflow_store
    number = client.create_experiment("toy")
    client.delete_experiment(number)
    with caplog.at_level(logging.WARNING, "distens"):
        lines, seconds = tell(MlflowRuns(uri), run_info(tmp_path))
    assert seconds < 5
    assert lines[0] == (
        "MLflow: 3 records were not sent: the experiment 'toy' was deleted. Restore it "
        f"(`MLFLOW_TRACKING_URI={uri} mlflow experiments restore --experiment-id {number}`), or set "
        f"tracking.experiment to another name. After that, "
        f"`distens resume {tmp_path}/runs/toy-1a2b3c4d` sends what is missing."
    )
    assert [r.getMessage().partition(": the experiment")[0] for r in caplog.records if r.name == "distens"] == [
        "MLflow: nothing can be sent so far"
    ]
    tell(MlflowRuns(uri, experiment="other"), run_info(tmp_path))
    assert runs_of(client, "other")[0][0].data.metrics == {"best": 0.5}
    client.restore_experiment(number)
    tell(MlflowRuns(uri), run_info(tmp_path))
    assert runs_of(client)[0][0].data.metrics == {"best": 0.5}


def test_an_experiment_that_is_deleted_and_restored_during_the_run_loses_nothing(tmp_path, mlflow_store):
    uri, client = mlflow_store
    tracker = MlflowRuns(uri)
    tracker.start(run_info(tmp_path))
    while (found := client.get_experiment_by_name("toy")) is None or not client.search_runs([found.experiment_id]):
        time.sleep(0.05)
    client.delete_experiment(found.experiment_id)
    tracker.progress(1, {"best": 0.5})
    time.sleep(1)
    client.restore_experiment(found.experiment_id)
    assert len(tracker.finish(None, "finished")) == 1
    runs = [run for run in client.search_runs([found.experiment_id]) if run.data.metrics]
    assert [(run.info.status, run.data.metrics) for run in runs] == [("FINISHED", {"best": 0.5})]


def test_an_experiment_whose_files_are_gone_or_cannot_be_written(tmp_path, mlflow_store):
    uri, client = mlflow_store
    tell(MlflowRuns(uri), run_info(tmp_path))
    shutil.rmtree(tmp_path / "mlruns")
    lines, _ = tell(MlflowRuns(uri), run_info(tmp_path))
    assert len(lines) == 1 and list((tmp_path / "mlruns").rglob("config.yaml"))
    client.create_experiment("elsewhere", "/proc/mlruns")
    lines, seconds = tell(MlflowRuns(uri, experiment="elsewhere"), run_info(tmp_path))
    assert seconds < 5 and len(lines) == 2
    assert lines[0].startswith("MLflow did not accept the run's config: ") and "/proc/mlruns" in lines[0]
    assert runs_of(client, "elsewhere")[0][0].data.metrics == {"best": 0.5}


# Servers -------------------------------------------------------------------------------------------------------------


@contextmanager
def answering(status, text, kind="text/html"):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


PERMISSION = json.dumps({"error_code": "PERMISSION_DENIED", "message": "Permission denied"})


@pytest.mark.parametrize(
    ("status", "text", "words"),
    [
        (401, "You are not authenticated.", "MLFLOW_TRACKING_USERNAME"),
        (403, "Invalid Host header", "Invalid Host header"),
        (403, PERMISSION, "refuses access to experiment 'toy'"),
        (404, "<h1>Not Found</h1>", "no MLflow answers at http://127.0.0.1"),
        (200, "<h1>Welcome to another service</h1>", "no MLflow answers at http://127.0.0.1"),
    ],
)
def test_a_server_that_refuses_for_good(tmp_path, status, text, words):
    with answering(status, text) as uri:
        (line, _), seconds = tell(MlflowRuns(uri), run_info(tmp_path))
    assert seconds < 5
    assert line.startswith("MLflow: 3 records were not sent: ") and words in line and "will send" not in line


def test_a_server_that_is_away_is_waited_for(tmp_path):
    with answering(503, "later") as uri:
        (line, _), seconds = tell(MlflowRuns(uri, wait_seconds=1.5), run_info(tmp_path))
    assert 1.4 < seconds < 5
    assert line.endswith(f"`distens resume {tmp_path}/runs/toy-1a2b3c4d` will send what is missing.")


def test_a_missing_driver_is_named(tmp_path):
    (line, _), seconds = tell(MlflowRuns("mysql+no_such_driver://host/db"), run_info(tmp_path))
    assert seconds < 5 and "no_such_driver" in line


def test_a_sweep_is_not_resumed_by_distens_resume(tmp_path):
    with answering(503, "later") as uri:
        (line, _), _ = tell(MlflowRuns(uri, wait_seconds=0.2), run_info(tmp_path, fingerprint=""))
    assert "distens resume" not in line and "the same `distens sweep`" in line


# The queue -----------------------------------------------------------------------------------------------------------


def test_a_fault_that_was_mended_in_the_meantime_is_none():
    sent, mended, said = [], [], []

    def connect():
        if not mended:
            raise NeedsRepair("broken", "Mend it")
        return sent

    sender = Sender(connect, longest_pause=30, warn=said.append)
    sender.put("1", lambda book: book.append(1))
    time.sleep(2)  # several attempts
    mended.append(True)
    left = sender.close(30)
    assert (sent, left.waiting, [str(fault) for fault in said]) == ([1], 0, ["broken. Mend it"])


def test_a_record_is_not_given_up_while_the_server_is_away():
    """It connects, and is busy when the record comes: five times, where three refusals set a record aside."""
    sent, busy = [], iter(range(5))

    def send(book):
        if next(busy, None) is not None:
            raise TimeoutError("busy")
        book.append(1)

    sender = Sender(lambda: sent, longest_pause=0.01, is_away=lambda error: isinstance(error, TimeoutError))
    sender.put("1", send)
    left = sender.close(30)
    assert (sent, left.waiting, left.refused) == ([1], 0, ())


# Lines to copy -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlflow.db", "a folder/my flow.db", "$HOME/x.db", "it's/x.db", "a;b&c/`x`.db"])
@pytest.mark.parametrize("here", [True, False])
def test_lines_to_copy_mean_what_they_say(tmp_path, monkeypatch, name, here):
    monkeypatch.chdir(tmp_path if here else "/")
    line = how_to_look(f"sqlite:///{tmp_path}/{name}", "1", "abc")
    copied = re.search(r"run `(mlflow ui .*)`(?: in this folder)? and open", line)
    assert copied is not None
    shown = name if here else f"{tmp_path}/{name}"
    assert shlex.split(copied[1]) == ["mlflow", "ui", "--backend-store-uri", f"sqlite:///{shown}"]


def test_a_run_in_a_folder_with_a_space_is_resumed_by_the_line(tmp_path):
    with answering(503, "later") as uri:
        run = run_info(tmp_path, storage=f"{tmp_path}/my runs/toy")
        (line, _), _ = tell(MlflowRuns(uri, wait_seconds=0.2), run)
    copied = re.search(r"`(distens resume .*)`", line)
    assert copied is not None and shlex.split(copied[1]) == ["distens", "resume", f"{tmp_path}/my runs/toy"]
