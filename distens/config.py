"""The frozen, validated description of one run: YAML 1.2 in, one `Config` out.

This file checks the shape of a config; the options of plug-ins are the plug-ins' own fields and are checked when
`registry.build` makes them, all of them before anything starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from distens.errors import ConfigError, did_you_mean

Spec = dict[str, Any] | str
"""A plug-in: its name, or `{kind: name, option: value, …}`."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


def _without_credentials(address: str) -> str:
    # The config is stored with its run, logged and shown: what opens a store comes from the environment.
    place = urlsplit(address)
    if "@" in place.netloc or "secret" in place.query.lower():
        raise ValueError("an address with credentials in it; give those in the environment")
    return address


Address = Annotated[str, AfterValidator(_without_credentials)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Splits(_Section):
    """Shares of the rows, which sum to one; with `test: given`, for a source with a test part, the other three do.

    In a federation *train* is the clients' (or nobody's, where clients have sources of their own: then it only tells
    how to scale), and *search* and *combine* are the server's own: 0 where it has no such rows.
    """

    train: float = Field(0.5, gt=0, le=1)
    search: float = Field(0.15, ge=0, lt=1)
    combine: float = Field(0.15, ge=0, lt=1)
    test: Annotated[float, Field(gt=0, lt=1)] | Literal["given"] = 0.2

    @model_validator(mode="after")
    def _sums_to_one(self) -> Splits:
        total = self.train + self.search + self.combine + (0 if self.test == "given" else self.test)
        if abs(total - 1) > 1e-6:
            raise ValueError(f"the shares must sum to 1, they sum to {total:g}")
        return self


class DataSection(_Section):
    """Where the rows are and how they are divided.

    Attributes:
        source: `sklearn:NAME`, a `.csv`, `.parquet` or `.npz` file, or a folder of idx files; any pyarrow address.
        target: the column to predict; for tables only.
        numeric: columns that must be numbers; the others are judged by what they hold.
        categorical: columns to treat as categories although they hold numbers.
        drop: columns to leave out.
        rows: use this many rows (a stratified choice) instead of all; a given test part stays whole.
        unseen: what prediction does with a category that no row of the table had: refuse, or treat as missing.
    """

    source: Address
    target: str | None = None
    numeric: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    drop: tuple[str, ...] = ()
    rows: int | None = Field(None, ge=10)
    unseen: Literal["error", "missing"] = "error"
    splits: Splits = Splits()  # pyright: ignore[reportCallIssue]


MEMBERS = 32
"""How many members are started where neither search nor schedule says when to stop."""


class SearchSection(BaseModel):
    """How many members, and which search names their settings. Other keys are options of the search.

    Attributes:
        members: how many are started; without, and without `seconds`, as many as the schedule says, or MEMBERS.
        seconds: nothing is dispatched any more once the search has run so long, over all resumes; what is being
            trained then is finished.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = "divbo"
    members: int | None = Field(None, ge=1, le=1_000_000)
    seconds: float | None = Field(None, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _of_a_name(cls, given: Any) -> Any:
        return {"kind": given} if isinstance(given, str) else given

    def spec(self) -> dict[str, Any]:
        """Return the plug-in's part: kind and options."""
        return {"kind": self.kind, **(self.model_extra or {})}


class SweepSection(_Section):
    """Whole runs over values of the config itself (`distens sweep`), the best chosen on the *combine* split.

    Attributes:
        over: dotted key of the config -> a domain as in `members`: `search.beta: {low: 0.01, high: 0.2}`.
        samples: how many runs.
        metric: a row of the table and what is measured of it, on *combine*: never *test*, which stays unread for the
            choice.
        mode: `min` or `max`; without it whichever is better of that metric.
        concurrency: runs at once; they share the cluster's room.
        search: one of `distens/search`.
    """

    over: dict[str, dict[str, Any]] = Field(min_length=1)
    samples: int = Field(ge=1)
    metric: str = "ensemble.nll"
    mode: Literal["min", "max"] | None = None
    concurrency: int = Field(1, ge=1)
    search: Spec = "random"


class FederatedSection(_Section):
    """Who the clients are, and how they meet.

    Attributes:
        clients: how many divide the *train* split; where the partition says so itself, or they have sources, left out.
        partition: how they divide it: one of `distens/partition`.
        sources: client -> the address of its own rows, which the server never opens; instead of a partition.
        rounds: how often the server sends its weights, clients train, and it merges theirs.
        per_round: how many clients are drawn for a round; all without.
        quorum: the share of them whose updates must come, or the run stops.
        deadline_seconds: of a round; clients that are later are left out and named.
        most_norm: an update that goes further than so many times the round's median is refused.
    """

    clients: int | None = Field(None, ge=1, le=100_000)
    partition: Spec | None = None
    sources: dict[Name, Address] = Field(default_factory=dict)
    rounds: int = Field(1, ge=1)
    per_round: int | None = Field(None, ge=1)
    quorum: float = Field(0.5, gt=0, le=1)
    deadline_seconds: float | None = Field(None, gt=0)
    most_norm: float = Field(30.0, gt=1)


class Config(_Section):
    """One run. Everything that changes its result is in `identity`; storage, runtime and tracking may differ on resume.

    Attributes:
        name: names the run's folder, the MLflow experiment and the registered models.
        seed: the root of all chance.
        metric: what search and selection minimise on the *search* split: `nll` or `error`.
        storage: a folder, or any pyarrow address (`s3://…`), under which runs are kept.
        members: family name -> a member whose values are fixed or domains (see `distens.space`).
        schedule, select, combine, distill, runtime, tracking: plug-ins of those families; `distill: null` makes no
            student.
        calibrate: one temperature, fitted on the *combine* split, for every row of the table alike; or none.
        baselines: trained at the end for comparison. In a federation distillers, by name or as `{name: …, kind: …, …}`.
        federated, merge: for `role: federated` alone: the clients, and the server's rule, one of `distens/merge`.
        sweep: for `distens sweep` alone: runs of this config with other values.
    """

    name: Name
    seed: int = Field(0, ge=0)
    role: Literal["ensemble", "federated"] = "ensemble"
    metric: Literal["nll", "error"] = "nll"
    storage: Address = "runs"
    data: DataSection
    members: dict[Name, dict[str, Any]] = Field(min_length=1)
    search: SearchSection = SearchSection()  # pyright: ignore[reportCallIssue]
    schedule: Spec = "none"
    select: Spec = "greedy"
    combine: Spec = "average"
    calibrate: Literal["temperature", "none"] = "temperature"
    distill: Spec | None = None
    baselines: tuple[Spec, ...] = ()
    federated: FederatedSection | None = None
    merge: Spec | None = None
    runtime: Spec = "ray_actors"
    tracking: Spec = "mlflow_runs"
    sweep: SweepSection | None = None

    @model_validator(mode="after")
    def _fits_its_role(self) -> Config:
        if self.role == "federated":
            if self.federated is None:
                raise ValueError("role: `federated` needs the section `federated`: who the clients are")
            idle = {name: getattr(self, name) for name in ("search", "schedule", "select", "combine", "sweep")}
            for name, value in idle.items():
                if value != Config.model_fields[name].default:
                    raise ValueError(f"{name}: has no effect with role `federated`; leave it out")
            return self
        for name in ("federated", "merge"):
            if getattr(self, name) is not None:
                raise ValueError(f"{name}: has no effect with role `ensemble`; write `role: federated`")
        for name in ("search", "combine"):
            if not getattr(self.data.splits, name):
                raise ValueError(
                    f"data.splits.{name}: must be above 0; only a federation's server may have no such rows"
                )
        return self

    def identity(self) -> dict[str, Any]:
        """Return the part that decides the result: all but where it runs, is stored and is tracked.

        What has no effect unless it is given is left out, so that a run keeps its name when there is more to be given.
        """
        values = self.model_dump(mode="json", exclude={"storage", "runtime", "tracking", "sweep"})
        if values["schedule"] in ("none", {"kind": "none"}):
            del values["schedule"]
        if values["search"]["seconds"] is None:
            del values["search"]["seconds"]
        for name in ("federated", "merge"):
            if values[name] is None:
                del values[name]
        return values

    def hash(self) -> str:
        """Return eight hexadecimal digits that name this run."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]

    def run_name(self) -> str:
        """Return the name of the run's folder."""
        return f"{self.name}-{self.hash()}"


def parse(values: Mapping[str, Any], where: str = "") -> Config:
    """Return the config that a mapping describes.

    Raises:
        ConfigError: one line for every key that is unknown, missing, or out of range.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        prefix = f"{where}: " if where else ""
        raise ConfigError("\n".join(prefix + line for line in _lines(error))) from error


def _lines(error: ValidationError) -> list[str]:
    lines = []
    for item in error.errors(include_url=False):
        place = ".".join(str(step) for step in item["loc"])
        if item["type"] == "extra_forbidden":
            section = _section(item["loc"][:-1])
            lines.append(f"{place}: unknown key. {did_you_mean(str(item['loc'][-1]), section.model_fields)}")
        elif item["type"] == "missing":
            lines.append(f"{place}: missing")
        else:
            found = "" if "credentials" in item["msg"] else f", found {item['input']!r}"
            lines.append(f"{place}: {item['msg'].removeprefix('Value error, ')}{found}")
    return lines


def _section(path: Sequence[int | str]) -> type[BaseModel]:
    section: type[BaseModel] = Config
    for step in path:
        kind = section.model_fields[str(step)].annotation
        section = next(k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, BaseModel))
    return section


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config in a YAML 1.2 file, with `key.key=value` overrides.

    Raises:
        ConfigError: the file is missing or not YAML, or the config is not valid.
    """
    file = Path(path)
    if not file.is_file():
        near = sorted(p.name for p in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        raise ConfigError(f"{file}: no such config. {did_you_mean(file.name, near)}")
    return parse_yaml(file.read_text(encoding="utf-8"), str(file), overrides)


def parse_yaml(text: str, where: str, overrides: Sequence[str] = ()) -> Config:
    """Return the config that a YAML 1.2 text describes, with `key.key=value` overrides.

    Raises:
        ConfigError: the text is not YAML, or the config is not valid.
    """
    values = read_yaml(text, where)
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: a config is a mapping, found {type(values).__name__}")
    for override in overrides:
        _set(values, override)
    return parse(values, where)


def read_yaml(text: str, where: str) -> Any:
    """Return YAML 1.2 as plain values: `1e-3` is a number and `on` is a word."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ConfigError(f"{where}: not YAML: {error}") from error


def to_yaml(config: Config) -> str:
    """Return the resolved config, every default filled in."""
    return write_yaml(config.model_dump(mode="json"))


def write_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML 1.2, in their own order; `read_yaml` reads it back."""
    import io

    from ruamel.yaml import YAML

    out = io.StringIO()
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    yaml.sort_base_mapping_type_on_output = False  # pyright: ignore[reportAttributeAccessIssue]
    yaml.dump(dict(values), out)
    return out.getvalue()


def _set(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override!r}: expected key.key=value")
    put(values, path, read_yaml(text, f"--set {path}"), "--set ")


def put(values: dict[str, Any], path: str, value: Any, where: str = "") -> None:
    """Set one value of a config, as plain values, by its dotted key.

    Raises:
        ConfigError: the key leads through something that is no section.
    """
    *parents, last = path.split(".")
    place: dict[str, Any] = values
    if parents and parents[0] in Config.model_fields and last != "kind":
        usual = Config.model_fields[parents[0]].default
        if isinstance(usual, str):  # `runtime.pack=1` of a config that leaves its runtime out
            values.setdefault(parents[0], usual)
    for step in parents:
        inner: Any = place.setdefault(step, {})
        if isinstance(inner, str):  # `search: divbo` and --set search.beta=0.1
            inner = place[step] = {"kind": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"{where}{path}: {step!r} is not a section, found {inner!r}")
        place = inner
    place[last] = value
