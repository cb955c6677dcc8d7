"""Submission of a run as a job to a Ray cluster from outside the cluster; the job's log and exit code come back.

    config ─► checked here ─► working directory, settings ─► the cluster's head ─► distens run --resume ─► actors
                                  log, exit code ◄──────────────────┘        └─► storage and MLflow, which all share

A job that was stopped, or whose head died, resumes where it stopped when it is submitted again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distens import __version__, addresses
from distens.cli.sent_files import find_files
from distens.config import raw_values
from distens.config.config import Config, read_text, read_yaml
from distens.credentials import has_credentials
from distens.errors import ConfigError, RunError, shorten_value

PASSED_VARIABLES = (
    "MLFLOW_TRACKING_URI",
    "MLFLOW_S3_ENDPOINT_URL",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_REGION",
    "AWS_DEFAULT_REGION",
)
"""Environment variables that are passed to the job if they are set: the addresses of storage and MLflow. Credentials
for them belong in the nodes' own environment: Ray shows a job's environment to everyone who may see the job."""

SECRET = ("SECRET", "TOKEN", "PASSWORD", "ACCESS_KEY", "CREDENTIAL")

EXCLUDED = (".git", ".venv", "venv", "__pycache__", "mlruns", "mlflow.db*")
"""Files that are not sent to the cluster, besides those that `.gitignore` names."""

FAILED, STOPPED = 1, 130

BRINGING = ("pip", "uv", "conda", "py_modules", "image_uri", "container")
"""The keys of Ray's runtime environment that bring modules to a job."""

ANSWER_SECONDS = 20.0
"""How long a server may take to answer a question."""

AWAY_SECONDS = 120.0
"""How long calls to a head that does not answer, or is not ready, are repeated."""

_PACKAGE = "_ray_pkg_"


@dataclass(frozen=True)
class Job:
    """A job to submit.

    Attributes:
        entrypoint: a shell command, to be run in the working directory.
        runtime_env: Ray's runtime environment, with the working directory in it.
        name: the name of the run or sweep, with which the job's own name begins.
        notes: lines about the files that are sent, and those that stay.
    """

    entrypoint: str
    runtime_env: Mapping[str, Any]
    name: str
    notes: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        config: Config,
        file: Path,
        overrides: Sequence[str] = (),
        working_dir: Path = Path("."),
        variables: Sequence[str] = (),
        more: Path | None = None,
    ) -> Job:
        """Return the job for a config's run, or for its sweep.

        Args:
            config: the config in `file`, with the `overrides`.
            variables: names of environment variables that are passed to the job besides `PASSED_VARIABLES`.
            more: a YAML file with further keys of Ray's runtime environment (`pip`, `env_vars`, `py_modules`, …).

        Raises:
            ConfigError: the job could not carry out the run, or its results would be lost.
        """
        place, root = file.resolve(), working_dir.resolve()
        if not place.is_relative_to(root):
            raise ConfigError(f"{file}: not in the working directory {root}; only that folder is sent to the cluster")
        given = _runtime_env(more)
        name, lines = _check_run(config, [key for key in BRINGING if key in given], more)
        changes = [word for change in overrides for word in ("--set", change)]
        doing = ["run", "--resume"] if config.sweep is None else ["sweep"]
        command = ["python", "-m", "distens.cli", *doing, str(place.relative_to(root)), *changes]
        env_vars = {**_environment(variables), **given.pop("env_vars", {})}
        sent = find_files(root, EXCLUDED, given.pop("excludes", []))
        env = {"working_dir": str(root), "excludes": sent.excludes, "env_vars": env_vars, **given}
        return cls(shlex.join(command), env, name, [*lines, *sent.lines()])


def _check_run(config: Config, brought: Sequence[str], more: Path | None) -> tuple[str, list[str]]:
    """Return the name of the config's run or sweep, and lines for the user, after the checks that can be made here.

    Args:
        brought: the keys of the runtime environment that bring modules; what is not installed here may be there.
        more: the file of the runtime environment, for messages.

    Raises:
        ConfigError: the cluster would refuse the config.
    """
    check_results_kept(config, there=False)
    if config.sweep is not None:
        return f"{config.name}-sweep", []
    from distens import coordinator

    try:
        return coordinator.make_plan(config).config.run_name(), []
    except ConfigError as error:
        if not brought or (missing := addresses.find_missing_module(error)) is None:
            raise
    keys = ", ".join(f"`{key}`" for key in brought)
    line = f"{config.name}: not checked here, as there is no module {missing!r}, which {keys} in {more} may bring"
    return config.name, [f"{line}: the job checks the config as it begins"]


def in_package() -> bool:
    """Return True if this process belongs to a job, in the folder that Ray unpacked for it."""
    return _PACKAGE in str(Path.cwd())


def check_results_kept(config: Config, there: bool = True) -> None:
    """Refuse a job whose results would lie in its own folder, which Ray deletes and other nodes do not see.

    Args:
        there: whether this is the cluster, whose environment may have the address of MLflow.

    Raises:
        ConfigError: storage or tracking is a path relative to that folder.
    """
    if "://" not in config.storage and not Path(config.storage).is_absolute():
        raise ConfigError(
            f"storage: {config.storage!r} would lie in the job's own folder, which Ray deletes. Name a folder that all "
            "nodes share: --set storage=s3://bucket/runs, or an absolute path"
        )
    kind, uri = _tracking(config)
    if kind != "mlflow_runs":
        return
    address = uri or os.environ.get("MLFLOW_TRACKING_URI", "")
    if not address and there:
        raise ConfigError(
            "tracking: without a server, MLflow's file would lie in the job's own folder, which Ray deletes. Name "
            "one: --set tracking.uri=http://host:5000, or MLFLOW_TRACKING_URI in the environment; or --set tracking=off"
        )
    if address.startswith("sqlite") and ":////" not in address:
        raise ConfigError(
            f"tracking: {address!r} would lie in the job's own folder, which Ray deletes; name a server, or an "
            "absolute path (sqlite:////four/slashes)"
        )


def _tracking(config: Config) -> tuple[str, str | None]:
    spec = config.tracking
    return (spec, None) if isinstance(spec, str) else (spec["kind"], spec.get("uri"))


def _environment(variables: Sequence[str]) -> dict[str, str]:
    missing = [name for name in variables if name not in os.environ]
    if missing:
        raise ConfigError(f"--env {missing[0]}: this variable is not set here")
    secret = [name for name in variables if any(word in name.upper() for word in SECRET)]
    if secret:
        raise ConfigError(
            f"--env {secret[0]}: looks like a secret, and Ray shows a job's environment to everyone who may see the "
            "job. "
            "Set it in the nodes' own environment"
        )
    found = {name: os.environ[name] for name in (*PASSED_VARIABLES, *variables) if name in os.environ}
    for name, value in found.items():
        if has_credentials(value):
            raise ConfigError(
                f"{name}: this address holds credentials, and Ray shows a job's environment to everyone who may see "
                "the "
                "job. Set it in the nodes' own environment"
            )
    return found


def _runtime_env(more: Path | None) -> dict[str, Any]:
    if more is None:
        return {}
    where = f"--runtime-env {more}"
    values = read_yaml(read_text(more, where), where)
    try:
        raw_values.check_json_values(values)
    except ValueError as error:
        raise ConfigError(f"--runtime-env {more}: {error}") from error
    if not isinstance(values, dict) or "working_dir" in values:
        raise ConfigError(f"--runtime-env {more}: expected keys of Ray's runtime environment, without `working_dir`")
    for key, kind in (("env_vars", dict), ("excludes", list)):
        if not isinstance(values.get(key, kind()), kind):
            raise ConfigError(
                f"--runtime-env {more}: {key}: expected a {kind.__name__}, found {shorten_value(values[key])}"
            )
    return values


# The cluster ----------------------------------------------------------------------------------------------------------


def connect_jobs(address: str) -> Any:
    """Return Ray's client for jobs.

    Raises:
        RunError: there is no dashboard at the address, or it refuses the connection.
    """
    from ray.job_submission import JobSubmissionClient

    for name in ("ray", "ray.dashboard.modules.job.sdk", "ray.dashboard.modules.dashboard_sdk"):
        logging.getLogger(name).setLevel(logging.ERROR)  # hides their messages about packing

    class Client(JobSubmissionClient):
        """Ray's client, whose requests otherwise wait for ever."""

        def _do_request(self, method: str, endpoint: str, **options: Any) -> Any:
            seconds = ANSWER_SECONDS if method == "GET" else AWAY_SECONDS  # a job is answered when it has begun
            return super()._do_request(method, endpoint, timeout=seconds, **options)

    connected: Future[Any] = Future()

    def connect() -> None:
        try:
            connected.set_result(Client(address))
        except BaseException as error:  # raised below
            connected.set_exception(error)

    # In a thread: a timeout of requests is one for each part of an answer, and the parts may come one by one for ever.
    threading.Thread(target=connect, daemon=True).start()
    try:
        return connected.result(ANSWER_SECONDS)
    except FutureTimeout as error:
        raise RunError(
            f"--address {address}: no answer within {ANSWER_SECONDS:g} s. It is to be the address of Ray's dashboard, "
            "http://HEAD:8265, and nothing between here and there may hold its answers back"
        ) from error
    except Exception as error:  # Ray raises errors of `requests`, and its own RuntimeError and ConnectionError
        hint = (
            ". A cluster with token authentication needs RAY_AUTH_MODE=token set here, too; and, unless the token is "
            "in Ray's own file (~/.ray/auth_token), RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
        )
        why = str(error)
        told = hint if any(word in why.lower() for word in ("auth", "token")) else ""
        raise RunError(f"--address {address}: no connection to Ray's dashboard: {why}{told}") from error


def send(client: Any, job: Job) -> str:
    """Submit a job; return its name.

    Raises:
        RunError: the cluster does not accept the job, for instance because the working directory is too large.
    """
    name = f"{job.name}-{uuid.uuid4().hex[:6]}"  # Ray accepts a name once, but the same run may need several jobs
    deadline = time.monotonic() + AWAY_SECONDS
    while True:
        try:
            return client.submit_job(
                entrypoint=job.entrypoint,
                runtime_env=dict(job.runtime_env),
                submission_id=name,
                metadata={"distens": __version__, "run": job.name},
            )
        except (RuntimeError, ValueError, OSError) as error:
            # A head that has just come up answers, but cannot start a job for a while.
            if "No available agent" not in str(error) or time.monotonic() > deadline:
                raise RunError(f"the cluster did not accept the job: {error}") from error
        time.sleep(1)


async def _watched(client: Any, name: str) -> AsyncIterator[str]:
    """Yield the parts of a job's log; while none comes, ask whether the head is still there, and yield an empty part.

    Raises:
        OSError, RuntimeError: it is not.
    """
    log = client.tail_job_logs(name).__aiter__()
    while True:
        part = asyncio.ensure_future(log.__anext__())
        while not (await asyncio.wait({part}, timeout=ANSWER_SECONDS))[0]:
            if (await asyncio.to_thread(client.get_job_info, name)).status.is_terminal():
                part.cancel()
                return
            yield ""
        try:
            yield part.result()
        except StopAsyncIteration:
            return


def follow(client: Any, name: str, say: Callable[[str], None]) -> int:
    """Pass on a job's log until it ends; return its exit code, 130 if it was stopped.

    Raises:
        RunError: the head has not answered for two minutes.
    """
    from ray.job_submission import JobStatus

    said, heard = 0, time.monotonic()

    async def pass_on() -> None:
        nonlocal said, heard
        before = said  # after a break, the log is sent from its beginning
        async for text in _watched(client, name):
            heard = time.monotonic()
            new, before = text[before:], max(0, before - len(text))
            if new:
                say(new)
                said += len(new)

    while True:
        try:
            asyncio.run(pass_on())
            info = client.get_job_info(name)
            heard = time.monotonic()
        except (RuntimeError, OSError) as error:
            if time.monotonic() - heard > AWAY_SECONDS:
                raise RunError(
                    f"the head has not answered for {AWAY_SECONDS:g} s: {error}. Submit the run again to resume it"
                ) from error
            time.sleep(1)
            continue
        if info.status.is_terminal():
            break
        time.sleep(0.2)
    if info.status == JobStatus.STOPPED:
        return STOPPED
    if info.driver_exit_code is None:  # the job never ran, or died with its node
        say(f"{info.message}\n")
        return 0 if info.status == JobStatus.SUCCEEDED else FAILED
    return int(info.driver_exit_code)
