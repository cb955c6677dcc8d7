"""The command line: `distens run|resume|submit|sweep|predict|report|list`.

A command imports what it needs only when it runs: `--help` loads neither torch nor ray nor mlflow.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from distens import __version__
from distens.cli import output, tables
from distens.cli.output import say
from distens.errors import ConfigError, DataError, DistensError, StorageFailed, report_damage

if TYPE_CHECKING:
    from distens.config.config import Config
    from distens.lifecycle.progress import ProgressEvent
    from distens.lifecycle.results import Result
    from distens.storage.store import Store

USER_ERROR, FAILED, STOPPED = 2, 1, 130
"""Exit codes: the config or the data are wrong; the run failed; the run was stopped and can be resumed."""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help=("Train many models side by side on Ray and turn them into one bundle to deploy."),
)

Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one value, e.g. search.members=64.")
]

StopAt = Annotated[
    str | None,
    typer.Option(
        "--stop-at",
        metavar="METRIC=VALUE",
        help="End the search once the ensemble is as good on the search split, e.g. error=0.05 (search.stop_at).",
    ),
]


def main() -> None:
    """Run a command; a user's mistake gives a message and an exit code, never a traceback."""
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a member's own module lies beside its config, as with `python -m`
    signal.signal(signal.SIGTERM, _interrupt)
    output.escape_output()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()  # here, where an error of the disk can still be told
    except DistensError as error:
        say(output.set_off(f"error: {error}"), err=True, keep="\n")
        sys.exit(USER_ERROR if isinstance(error, ConfigError | DataError) else FAILED)
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT):
            raise
        if error.errno != errno.EPIPE:
            say(f"error: {error}", err=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the exit would try to write the rest again
        sys.exit(FAILED)
    except SystemExit as done:
        if done.code != STOPPED:
            raise
        # Everything is closed. If the interrupt came while a C library ran Python, the interpreter's own exit would end
        # the process by the signal, and the parent process would not see this exit code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(STOPPED)


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        say(f"distens {__version__}")
        raise typer.Exit


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="A YAML file; see configs/.")],
    set_: Set = None,
    stop_at: StopAt = None,
    overwrite: Annotated[bool, typer.Option(help="Delete an earlier run of the same config.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an earlier run of the same config.")] = False,
) -> None:
    """Search, train, combine, evaluate and register one run."""
    from distens.config.config import load_config

    if overwrite and resume:
        raise ConfigError("--overwrite and --resume: one deletes the run that the other resumes; give only one of them")
    checked = load_config(config, _overrides(set_, stop_at))
    _check_kept(checked)
    _silence()
    from distens import coordinator

    with _view() as watch:
        result = coordinator.run(checked, watch, overwrite, resume)
    _show(result)


@app.command()
def resume(
    path: Annotated[str, typer.Argument(help="The folder of a run that was interrupted, or has finished.")],
    set_: Set = None,
    stop_at: StopAt = None,
) -> None:
    """Resume an interrupted run, or go on with a finished one; only what is missing is trained.

    More members (--set search.members=64), or another decision (select, combine, metric, calibrate, distill,
    baselines), give a finished run its next results; the earlier ones stay beside.
    """
    _silence()
    from distens import coordinator

    with _view() as watch:
        result = coordinator.resume(path, watch, _overrides(set_, stop_at))
    _show(result)


def _overrides(set_: Sequence[str] | None, stop_at: str | None) -> list[str]:
    """Return the changes of a config that a command was given."""
    if stop_at is None:
        return [*(set_ or ())]
    name, _, value = stop_at.partition("=")
    try:
        threshold = float(value)
    except ValueError as error:
        raise ConfigError(f"--stop-at {stop_at!r}: expected METRIC=VALUE, such as error=0.05") from error
    return [*(set_ or ()), f"search.stop_at={json.dumps({name: threshold})}"]


@app.command()
def sweep(
    config: Annotated[Path, typer.Argument(help="A YAML file with a `sweep` section; see configs/.")],
    set_: Set = None,
) -> None:
    """Carry out many runs over values of a config; the same command again resumes a sweep that was stopped."""
    from distens.config.config import load_config

    checked = load_config(config, set_ or ())
    _check_kept(checked)
    _silence()
    from distens.tune.sweep import sweep as go

    try:
        result = go(checked, say)
    except KeyboardInterrupt:
        say("stopped.", err=True)
        say(f"Nothing that finished is lost. Resume with:  distens sweep {shlex.quote(str(config))}", err=True)
        sys.exit(STOPPED)
    tables.print_sweep(result)


@app.command()
def submit(
    config: Annotated[Path, typer.Argument(help="A YAML file in the working directory; see configs/.")],
    set_: Set = None,
    address: Annotated[
        str, typer.Option(envvar="RAY_API_SERVER_ADDRESS", help="The cluster's dashboard.", show_default=True)
    ] = "http://127.0.0.1:8265",
    working_dir: Annotated[
        Path, typer.Option(help="The folder that is sent to the cluster, except files that git ignores.")
    ] = Path("."),
    env: Annotated[
        list[str] | None,
        typer.Option(
            help="Pass this environment variable to the job. Ray shows it to everyone who may see the job: no secrets."
        ),
    ] = None,
    runtime_env: Annotated[
        Path | None, typer.Option(help="A YAML file with further keys of Ray's runtime environment.")
    ] = None,
    wait: Annotated[bool, typer.Option(help="Follow the log, and exit with the job's exit code.")] = True,
) -> None:
    """Carry out a run, the rest of a run, or a sweep as a job on a Ray cluster."""
    from distens.cli import submit as jobs
    from distens.config.config import load_config

    checked = load_config(config, set_ or ())
    _silence()
    job = jobs.Job.of(checked, config, set_ or (), working_dir, env or (), runtime_env)
    client = jobs.connect_jobs(address)
    for note in job.notes:
        say(note)
    name = jobs.send(client, job)
    say(f"job {name} at {address}: {job.entrypoint}")
    how = (
        f"The job is left running. To see its log: ray job logs -f {name}; "
        f"to stop it: ray job stop {name} (the run can be resumed)"
    )
    if not wait:
        say(how)
        return
    try:
        code = jobs.follow(client, name, lambda text: say(text, end="", keep="\n\t"))
    except KeyboardInterrupt:
        say(how, err=True)
        sys.exit(STOPPED)
    sys.exit(code)


@app.command()
def predict(
    path: Annotated[str, typer.Argument(help="A run's folder, or a bundle's.")],
    rows: Annotated[str, typer.Argument(help="A .csv, .parquet or .npz file, or a folder of idx files.")],
    out: Annotated[Path | None, typer.Option(help="Write a CSV file instead of printing.")] = None,
    student: Annotated[bool, typer.Option(help="Predict with the run's student.")] = False,
    mean_members: Annotated[
        float | None,
        typer.Option(
            help="The mean number of members that predict a row: few for clear rows, up to all for unclear ones."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            help="Predict with as few members as possible while losing at most this accuracy, e.g. 0.002 (0.2 points)."
        ),
    ] = None,
    imports: Annotated[
        bool, typer.Option(help="Let the bundle import the modules that it names: that runs their code.")
    ] = False,
) -> None:
    """Predict classes and their probabilities, or numbers.

    A class that is itself called `prediction` keeps its column; the predicted classes are then under `prediction_`.
    """
    from distens.cli import predictions
    from distens.data.source import rows_from_file
    from distens.errors import RunError
    from distens.serve.predictor import load
    from distens.storage import editions
    from distens.storage.store import Store

    if out is not None:
        predictions.check_out(out)
    if student:
        store = Store(path)
        folder = f"{editions.folder_of('final', editions.find_newest(store) or 1)}/student"
        if not store.exists(f"{folder}/bundle.json"):
            raise RunError(f"{path}: no student here; a finished run with `distill` in its config has one")
        path = f"{path}/{folder}"
    predictor = load(path, imports=imports)
    raw = rows_from_file(rows, predictor.preprocessing)
    predictions_NK, asked_N = predictor.predict_and_count(raw, mean_members=mean_members, tolerance=tolerance)
    if mean_members is not None or tolerance is not None:
        say(f"mean members per row: {asked_N.mean():.2f} of {len(predictor.members)}", err=True)
    decisions_N = predictor.target.decisions(predictions_NK)
    frame = predictions.frame_of(decisions_N, predictions_NK, predictor.classes)
    if out is None:
        say(predictions.to_text(frame), end="", keep="\n")
        return
    changed = predictions.write_file(frame, out)
    say(f"{len(frame)} predictions: {out}")
    if changed:
        say(
            f"{changed} cells of text begin as a formula does; an apostrophe was put before them, so that no "
            "spreadsheet runs them",
            err=True,
        )


@app.command()
def report(
    path: Annotated[str, typer.Argument(help="The folder of a finished run.")],
    out: Annotated[Path | None, typer.Option(help="Also write the page here.")] = None,
) -> None:
    """Print a finished run's table of results, and the address of its page."""
    from distens.cli import predictions
    from distens.errors import RunError
    from distens.evaluate.report import rows_of
    from distens.storage import editions
    from distens.storage.store import Store

    if out is not None:
        predictions.check_out(out)
    store = Store(path)
    if not store.exists("run.json"):
        raise RunError(f"{path}: no run here (run.json is missing)")
    again = f"`distens resume {shlex.quote(path)}` resumes it"
    if not (edition := editions.find_newest(store)):
        raise RunError(f"{path}: this run has not finished; {again}")
    name, page = (editions.file_of(file, edition) for file in (editions.RESULTS, "report.html"))
    with report_damage(f"{store.url}/{name}"):
        results = store.read_json(name)
        tables.print_table(rows_of(results), results["missing"], results["verdict"])
    with report_damage(f"{store.url}/run.json"):
        if store.read_json("run.json").get("edition", 1) > edition:
            say(f"more was asked of this run since, and is not finished; {again}")
    if out is not None:
        predictions.write_out(out, store.read(page))
    say(f"report: {out or (store.path(page) if store.local else f'{store.url}/{page}')}")


@app.command("list")
def list_(
    storage: Annotated[str, typer.Option(help="Where runs are kept.")] = "runs",
) -> None:
    """List runs with their state, and the first two measures of the bundles that they deploy, on the test split."""
    from distens.storage.store import Store

    store = Store(storage)
    runs: list[dict[str, str]] = []
    for name in store.names():
        try:
            one = Store(f"{storage.rstrip('/')}/{name}")  # of its own, as a run's folder may be a link
            with report_damage(one.url):
                if one.exists("run.json"):
                    runs.append({"run": name, **_describe_run(one)})
        except StorageFailed:  # the other runs are still listed
            runs.append({"run": name, "state": "cannot be read"})
        except (DistensError, OSError):
            runs.append({"run": name, "state": "damaged"})
    if not runs:
        say(f"no runs in {storage}")
        return
    headings = list(dict.fromkeys(["run", "started", "state", "members", *(key for run in runs for key in run)]))
    tables.print_lines([headings, *([run.get(heading, "") for heading in headings] for run in runs)])


def _describe_run(store: Store) -> dict[str, str]:
    """Return heading -> cell of a run: start, state, members, and the measures of the bundle that it deploys."""
    from datetime import datetime

    from distens.evaluate.report import columns_of
    from distens.storage import editions

    info = store.read_json("run.json")
    started = datetime.fromtimestamp(info["started"]).strftime("%Y-%m-%d %H:%M")
    members = _size(info["identity"])
    if not (edition := editions.find_newest(store)):
        return {"started": started, "state": "unfinished", "members": members}
    state = "going on" if info.get("edition", 1) > edition else "finished"
    results = store.read_json(editions.file_of(editions.RESULTS, edition))
    row = results[results.get("chosen") or ("ensemble" if "ensemble" in results else "global")]
    measures = list(columns_of({"": row}).headings.items())[:2]
    cells = {heading: f"{row[key]:.4f}" for key, heading in measures if key in row}
    return {"started": started, "state": state, "members": members, **cells}


def _size(identity: dict[str, Any]) -> str:
    """Return the size of a run for the list (members, clients, …); `?` if its role is unknown."""
    from distens import registry

    role = identity.get("role", "ensemble")
    return registry.find_plugin("roles", role, "role")().size(identity) if role in registry.names("roles") else "?"


def _check_kept(config: Config) -> None:
    from distens.cli import submit as jobs

    if jobs.in_package():
        jobs.check_results_kept(config)


def _silence() -> None:
    """Keep libraries from writing over the live view; their errors and our own messages are still shown."""
    import logging
    import warnings

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(output.PrintableFormatter("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.captureWarnings(True)  # they quote names, too
    for name in ("mlflow", "alembic", "lightning", "lightning.pytorch", "ray"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray 2.60 warns about its coming default


@contextmanager
def _view() -> Iterator[Any]:
    """Yield a function that shows updates: in a live view on a terminal, as plain lines elsewhere.

    If the run is stopped, print how to resume it, and exit.
    """
    from distens.cli.live import LiveView, print_line

    path: list[str] = []
    live = LiveView() if sys.stdout.isatty() else None

    def watch(update: ProgressEvent) -> None:
        if update.path:
            path[:] = [update.path]
        live.show(update) if live else print_line(update)

    try:
        with live or _nothing():
            yield watch
    except KeyboardInterrupt:
        say("stopped.", err=True)
        if path:
            say(f"Nothing that finished is lost. Resume with:  distens resume {shlex.quote(path[0])}", err=True)
        sys.exit(STOPPED)


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _show(result: Result) -> None:
    tables.print_table(result.rows, result.missing, result.verdict)
    for note in result.notes:
        say(output.set_off(note), keep="\n")
