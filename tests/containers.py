"""The container files as data."""

import re
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from distens.config.config import Config, load_config

ROOT = Path(__file__).parents[1]
DOCKER = ROOT / "docker"
UID = 10001


def read(name: str) -> Any:
    return YAML(typ="safe").load((DOCKER / name).read_text())


def instructions(text: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions: (word, the rest as one line)."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", " ", "\n".join(lines))
    return [(word, rest) for word, _, rest in (line.partition(" ") for line in joined.splitlines() if line.strip())]


DOCKERFILE = instructions((DOCKER / "Dockerfile").read_text())


def stages() -> dict[str, list[tuple[str, str]]]:
    """Return what makes each stage, from its base on."""
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in DOCKERFILE:
        if word == "FROM":
            base, name = rest.split(" AS ")
            found[name] = list(found.get(base, []))
        elif found:
            list(found.values())[-1].append((word, rest))
    return found


def constraint(package: str) -> str:
    pinned = re.search(rf"^{package}==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned is not None, package
    return pinned[1]


def release() -> str:
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    return version[1]


def mebibytes(text: str) -> float:
    """Return `4g`, `2Gi`, or the default of `${WORKER_MEMORY:-8g}`."""
    number, unit = re.fullmatch(r"(?:\$\{\w+:-)?(\d+)\s*(\w)\w*\}?", text).groups()  # type: ignore[union-attr]
    return int(number) * {"m": 1, "g": 1024}[unit.lower()]


def config_of_the_job() -> Config:
    """Return the config that the RayJob's entry point would run; its files are in the image."""
    python, script, config, *rest = read("rayjob.yaml")["spec"]["entrypoint"].split()
    copied = [rest.split()[-1] for word, rest in stages()["cpu"] if word == "COPY"]
    assert python == "python" and str(Path(script).parent) in copied and str(Path(config).parent) in copied
    assert rest[::2] == ["--set"] * (len(rest) // 2)
    return load_config(ROOT / "configs" / Path(config).name, rest[1::2])
