"""The image and the compose file, without a container engine: against schemas, installed Ray and MLflow, each other."""

import re
import subprocess
import sys
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from containers import DOCKER, DOCKERFILE, ROOT, UID, config_of_the_job, constraint, mebibytes, read, release, stages
from ruamel.yaml import YAML

COMPOSE = read("compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]


def test_compose_keeps_to_its_schema():
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, str(DOCKER / "compose.yaml")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_confined_and_watched(name: str):
    service = SERVICES[name]
    ours = service["image"].startswith("distens:")
    once = service["restart"] == "no"
    assert re.search(r":v?\d+\.\d+", service["image"])
    assert not ours or service["image"] == f"distens:{release()}-{service['build']['target']}"
    assert ours or service["user"] in (f"{UID}:{UID}", "postgres") or (name == "storage-owner" and once)
    assert service["security_opt"] == ["no-new-privileges:true"] and service["cap_drop"] == ["ALL"]
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory"}
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
    if not once:
        is_ray = ours and service["command"][:2] == ["ray", "start"]
        assert is_ray != ("healthcheck" in service), "the image's check is for Ray's nodes, all others need their own"


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_waits_for_what_it_needs(name: str):
    for other, how in SERVICES[name].get("depends_on", {}).items():
        done = SERVICES[other]["restart"] == "no"
        assert how["condition"] == ("service_completed_successfully" if done else "service_healthy")
        assert name not in SERVICES[other].get("depends_on", {})


def test_credentials_come_from_outside():
    named = set()
    for service in SERVICES.values():
        for name, value in (service.get("environment") or {}).items():
            if re.search(r"SECRET|PASSWORD|ACCESS_KEY|TOKEN(?!_PATH)", name):
                given = re.fullmatch(r"\$\{(\w+):\?.+\}", value)
                assert given is not None, name
                named.add(given[1])
    example = dict(re.findall(r"^(\w+)=(.*)$", (DOCKER / "example.env").read_text(), re.MULTILINE))
    assert example == dict.fromkeys(named, "")
    assert COMPOSE["secrets"] == {"ray_token": {"file": "./ray_token"}}
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"docker/.env", "docker/ray_token"} <= set(ignored)


def test_the_settings_that_may_be_left_out_are_named():
    used = set(re.findall(r"\$\{(\w+):-(\w+)\}", (DOCKER / "compose.yaml").read_text()))
    assert used == set(re.findall(r"^# (\w+)=(\w+)$", (DOCKER / "example.env").read_text(), re.MULTILINE))


def test_ray_nodes_share_one_token_and_know_storage_and_tracking():
    nodes = {name: service for name, service in SERVICES.items() if service.get("command", [""])[0] == "ray"}
    assert set(nodes) == {"head", "worker", "gpu-worker"}
    for service in nodes.values():
        assert service["environment"] == SERVICES["head"]["environment"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token" and service["secrets"] == ["ray_token"]
        assert service["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        # Else Ray's object store goes to the disk: it takes 30% of the memory.
        assert mebibytes(service["shm_size"]) >= 0.3 * mebibytes(service["deploy"]["resources"]["limits"]["memory"])


def test_mlflow_answers_to_the_names_by_which_it_is_asked():
    mlflow, environment = SERVICES["mlflow"], SERVICES["mlflow"]["environment"]
    allowed = environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert SERVICES["head"]["environment"]["MLFLOW_TRACKING_URI"].removeprefix("http://") in allowed
    published = mlflow["ports"][0].rsplit(":", 1)[0]
    assert published in allowed and published.replace("127.0.0.1", "localhost") in allowed


def test_mlflow_knows_its_settings():
    import mlflow.environment_variables
    from mlflow.cli import server

    known = {option.envvar for option in server.params} | set(vars(mlflow.environment_variables))
    assert {name for name in SERVICES["mlflow"]["environment"] if name.startswith("MLFLOW_")} <= known


def test_ray_knows_its_options():
    from ray.scripts.scripts import start

    for name in ("head", "worker", "gpu-worker"):
        parsed = start.make_context("start", SERVICES[name]["command"][2:]).params
        assert parsed["block"] and parsed["head"] == (name == "head")
    assert start.make_context("start", SERVICES["head"]["command"][2:]).params["num_cpus"] == 0


def test_the_buckets_in_use_are_made():
    script = SERVICES["buckets"]["command"][2]
    compile(script, "buckets", "exec")
    for address in (SERVICES["mlflow"]["environment"]["MLFLOW_ARTIFACTS_DESTINATION"], config_of_the_job().storage):
        assert f'"{address.removeprefix("s3://")}"' in script


class Health(BaseHTTPRequestHandler):
    status = 200

    def do_GET(self) -> None:
        self.send_response(self.status if self.path == self.server.path else 404)  # type: ignore[attr-defined]
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


def image_check() -> list[str]:
    checks = [rest for word, rest in stages()["cpu"] if word == "HEALTHCHECK"]
    assert checks == [rest for word, rest in stages()["cuda"] if word == "HEALTHCHECK"]
    return YAML(typ="safe").load(checks[-1].partition("CMD ")[2])


@pytest.mark.parametrize(
    ("command", "port", "path"),
    [
        (image_check(), "52365", "/api/healthz"),
        (SERVICES["mlflow"]["healthcheck"]["test"][1:], "5000", "/health"),
    ],
)
def test_a_health_check_tells_health_from_illness(command: list[str], port: str, path: str):
    server = HTTPServer(("127.0.0.1", 0), Health)
    server.path = path  # type: ignore[attr-defined]
    threading.Thread(target=server.serve_forever, daemon=True).start()
    assert command[:2] == ["python", "-c"] and f":{port}{path}" in command[2]
    command = [sys.executable, "-c", command[2].replace(port, str(server.server_port))]
    outcomes = []
    for status in (200, 503):
        Health.status = status
        outcomes.append(subprocess.run(command, capture_output=True).returncode)
    server.shutdown()
    server.server_close()
    outcomes.append(subprocess.run(command, capture_output=True).returncode)
    assert outcomes == [0, 1, 1]


def test_ray_answers_there_and_asks_for_no_token():
    import ray
    from ray._private import ray_constants

    assert ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT == 52365
    agent = (Path(ray.__file__).parent / "dashboard/http_server_agent.py").read_text()
    public = re.search(r"PUBLIC_EXACT_PATHS = \[(.*?)\]", agent, re.DOTALL)
    assert public is not None and '"/api/healthz"' in public[1]


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_runs_as_a_user_without_rights(target: str):
    made = stages()[target]
    assert [rest for word, rest in made if word == "USER"] == [f"{UID}:{UID}"]
    assert made[-1] == ("WORKDIR", "/home/distens")
    assert any(f"useradd --uid {UID}" in rest for word, rest in made if word == "RUN")


def test_the_image_has_tested_versions():
    base = dict(rest.split("=") for word, rest in DOCKERFILE if word == "ARG")
    assert re.fullmatch(r"3\.1[0-3]", base["PYTHON_VERSION"])
    outside = [rest.split(" AS ")[0] for word, rest in DOCKERFILE if word == "FROM"][:1]
    assert outside == ["python:${PYTHON_VERSION}-slim-bookworm"]
    installs = [
        part for word, rest in DOCKERFILE if word == "RUN" for part in rest.split("&&") if "pip install" in part
    ]
    assert len(installs) == 5
    assert all(
        "--constraint /requirements/constraints.txt" in command or "/wheel/*.whl" in command for command in installs
    )
    for package in ("torch", "ray", "mlflow", "boto3", "psycopg"):
        assert constraint(package)


def test_what_is_copied_is_there_and_nothing_else_is_sent():
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert patterns[0] == "*"

    def sent(path: str) -> bool:
        """The last pattern that matches a path, or a folder above it, decides."""
        parents = [path, *(str(parent) for parent in Path(path).parents)]
        said = [p for p in patterns if any(fnmatch(one, p.removeprefix("!").removeprefix("**/")) for one in parents)]
        return said[-1].startswith("!")

    for word, rest in DOCKERFILE:
        if word == "COPY":
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists() and sent(source), source
    assert sent("distens/data/files.py") and sent("jobs/seeds.py")
    secret = ("docker/.env", "docker/ray_token", "runs/x", ".git/config")
    ours = ("jobs/bench/bench_x.py", "jobs/drill/soak.py", "jobs/results/README.md")
    assert not any(sent(path) for path in (*secret, *ours))
