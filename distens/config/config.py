"""The frozen, validated description of one run, read from YAML 1.2.

This file checks the shape of a config; the options of plug-ins are the plug-ins' own fields and are checked when
`registry.make_plugin` makes them, all of them before anything starts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    field_validator,
    model_validator,
)

from distens.config import raw_values
from distens.config.sections import ALL_FAMILIES_BEFORE, DataSection, Name, SearchSection, Section, Spec, SweepSection
from distens.errors import ConfigError, did_you_mean, shorten_value
from distens.printable import printable
from distens.storage.limits import MAX_CONFIG_BYTES
from distens.storage.regular import open_regular

Shape = TypeVar("Shape", bound=Section)


class Config(Section):
    """The description of one run.

    Everything that changes the run's result is in `identity`; storage, runtime and tracking may differ on resume. A
    role's own options are the section that has the role's name (`role: federated`, `federated: {…}`); the role defines
    the section's shape when the plan is made (see `section_of`).

    Attributes:
        name: names the run's folder, the MLflow experiment and the registered models.
        seed: the root seed, from which all others are derived.
        metric: the metric that search and selection minimise on the *search* split: `nll` (if left out) or `error` for
            classes, `rmse` (if left out) or `mae` for numbers; or a function of the user's own, which may also be
            maximised (see `distens.metrics.function`).
        storage: a folder, or any pyarrow address (`s3://…`), under which runs are kept.
        members: family name -> a member whose values are fixed or domains (see `distens.space.space`).
        schedule, select, combine, distill, runtime, tracking: plug-ins of the families of those names; `distill: null`
            makes no student.
        calibrate: `temperature` fits one temperature for each row of the table, on the *combine* split; `none`: none.
        baselines: models trained at the end for comparison. In a federation, distillers, by name or as
            `{name: …, kind: …, …}`.
        merge: the server's rule in a federation, one of `distens/merge`.
        sweep: only for `distens sweep`: runs of this config with other values.
    """

    model_config = ConfigDict(extra="allow")

    name: Name
    seed: int = Field(0, ge=0)
    role: str = "ensemble"
    metric: Spec = "nll"
    storage: str = "runs"
    data: DataSection
    members: dict[Name, dict[str, Any]] = Field(min_length=1)
    search: SearchSection = SearchSection()  # pyright: ignore[reportCallIssue]
    schedule: Spec = "none"
    select: Spec = "greedy"
    combine: Spec = "average"
    calibrate: Literal["temperature", "none"] = "temperature"
    distill: Spec | None = None
    baselines: tuple[Spec, ...] = ()
    merge: Spec | None = None
    runtime: Spec = "ray_actors"
    tracking: Spec = "mlflow_runs"
    sweep: SweepSection | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _of_plain_values(cls, given: Any, validate: ModelWrapValidatorHandler[Config]) -> Config:
        if isinstance(given, Config):
            return validate(given)
        raw_values.check_json_values(given)
        made = validate(given)
        found = list(raw_values.misread(given, made))
        if found:
            raise ValueError("\n".join(found))
        return made

    @field_validator("storage")
    @classmethod
    def _is_a_folder(cls, storage: str) -> str:
        if "://" in storage and "?" in storage:
            raise ValueError("a folder for runs has no `?…`; AWS_ENDPOINT_URL and AWS_REGION say where an S3 store is")
        return storage

    @model_validator(mode="after")
    def _has_no_other_section(self) -> Config:
        given = self.model_extra or {}
        for name in [name for name, value in given.items() if value is None]:
            del given[name]  # older versions wrote `federated: null`
        unknown = [_unknown_key_message(name, value, self.role) for name, value in given.items() if name != self.role]
        if unknown:
            raise ValueError("\n".join(unknown))
        return self

    def identity(self) -> dict[str, Any]:
        """Return the values that decide the result: all except storage, runtime, tracking and sweep.

        An option that has no effect while it is not set is left out until it is set, so that a run keeps its name when
        distens gains such an option.
        """
        values = self.model_dump(mode="json", exclude={"storage", "runtime", "tracking", "sweep"})
        if values["schedule"] in ("none", {"kind": "none"}):
            del values["schedule"]
        for key in ("seconds", "stop_at"):
            if values["search"][key] is None:
                del values["search"][key]
        if values["search"]["all_families_before"] == ALL_FAMILIES_BEFORE:
            del values["search"]["all_families_before"]
        if values["merge"] is None:
            del values["merge"]
        for key in ("task", "missing", "dates", "csv", "options", "folds"):
            if not values["data"][key]:
                del values["data"][key]
        values["data"]["unseen"] = values["data"]["unseen"] or "error"  # older versions' default; their runs keep names
        if self.role in values:
            values[self.role].pop("resources", None)  # older versions had it there; now it is `runtime.resources`
        return values

    def hash(self) -> str:
        """Return eight hexadecimal digits that name this run."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:8]

    def run_name(self) -> str:
        """Return the name of the run's folder."""
        return f"{self.name}-{self.hash()}"


def _unknown_key_message(name: str, value: Any, role: str) -> str:
    """Return the message that refuses a key at the top of a config: misspelt, or a section of another role."""
    hint = did_you_mean(name, [*Config.model_fields, role])
    name = printable(name)
    if isinstance(value, Mapping) and not hint.startswith("Did you mean"):
        return f"{name}: has no effect with role `{role}`; if {name} is the role, write `role: {name}`. {hint}"
    return f"{name}: unknown key. {hint}"


def parse_config(values: Mapping[str, Any], where: str = "") -> Config:
    """Return the config that a mapping describes.

    Raises:
        ConfigError: one line for every key that is unknown, missing, or out of range.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        prefix = f"{where}: " if where else ""
        raise ConfigError("\n".join(prefix + line for line in _lines(error))) from error


def section_of(config: Config, shape: type[Shape], needed_for: str) -> Shape:
    """Return the section of a config's role, validated as the role's own `shape`.

    Args:
        needed_for: the content of the section in words, for the message if the section is missing.

    Raises:
        ConfigError: the section is missing, or a key of it is unknown, missing, or out of range.
    """
    given = (config.model_extra or {}).get(config.role)
    if given is None:
        raise ConfigError(f"role: `{config.role}` needs the section `{config.role}`: {needed_for}")
    try:
        made = shape.model_validate(given)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{config.role}.{line}" for line in _lines(error, shape))) from error
    found = list(raw_values.misread(given, made, config.role))
    if found:
        raise ConfigError("\n".join(found))
    return made


def _lines(error: ValidationError, root: type[BaseModel] = Config) -> list[str]:
    lines = []
    for item in error.errors(include_url=False):
        place = ".".join(printable(str(step)) for step in item["loc"])
        if item["type"] == "extra_forbidden":
            section = _section(item["loc"][:-1], root)
            lines.append(f"{place}: unknown key. {did_you_mean(str(item['loc'][-1]), section.model_fields)}")
        elif item["type"] == "missing":
            lines.append(f"{place}: missing")
        elif not place:  # an error of the config as a whole, whose message names the keys
            lines += item["msg"].removeprefix("Value error, ").splitlines()
        else:
            lines.append(f"{place}: {item['msg'].removeprefix('Value error, ')}, found {shorten_value(item['input'])}")
    return lines


def _section(path: Sequence[int | str], root: type[BaseModel]) -> type[BaseModel]:
    section = root
    for step in path:
        if step not in section.model_fields:
            continue  # a key of a mapping, whose values have the shape of `section`
        kind = section.model_fields[str(step)].annotation
        section = next(k for k in (kind, *get_args(kind)) if isinstance(k, type) and issubclass(k, BaseModel))
    return section


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Return the config in a YAML 1.2 file, with `key.key=value` overrides.

    Raises:
        ConfigError: the file is missing or not YAML, or the config is not valid.
    """
    return _parse(_read_file(Path(path)), str(path), overrides)


def read_config_values(config: Config | Mapping[str, Any] | str | Path) -> dict[str, Any]:
    """Return the plain values of a config that is given as a config, a mapping, or the path of a YAML file.

    Raises:
        ConfigError: the file is missing or not YAML.
    """
    if isinstance(config, Config):
        return config.model_dump(mode="json")
    return dict(config) if isinstance(config, Mapping) else _read_file(Path(config))


def _read_file(file: Path) -> dict[str, Any]:
    if not file.exists() or file.is_dir():
        near = sorted(p.name for p in file.parent.glob("*.yaml")) if file.parent.is_dir() else []
        raise ConfigError(f"{file}: no such config. {did_you_mean(file.name, near)}")
    return _read_mapping(read_text(file, str(file)), str(file))


def read_text(file: Path, where: str) -> str:
    """Return the text of a YAML file that a user names.

    Raises:
        ConfigError: it is not a file, is larger than MAX_CONFIG_BYTES, or is not UTF-8.
    """
    try:
        with open_regular(file, MAX_CONFIG_BYTES) as source:
            return source.read().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{where}: cannot be read as text: {error}") from error


def parse_yaml(text: str, where: str, overrides: Sequence[str] = ()) -> Config:
    """Return the config that a YAML 1.2 text describes, with `key.key=value` overrides.

    Raises:
        ConfigError: the text is not YAML, or the config is not valid.
    """
    return _parse(_read_mapping(text, where), where, overrides)


def _read_mapping(text: str, where: str) -> dict[str, Any]:
    values = read_yaml(text, where)
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: a config is a mapping, found {type(values).__name__}")
    return values


def _parse(values: dict[str, Any], where: str, overrides: Sequence[str]) -> Config:
    for override in overrides:
        _set(values, override)
    return parse_config(values, where)


def read_yaml(text: str, where: str) -> Any:
    """Return YAML 1.2 as plain values: `1e-3` is a number and `on` is a word.

    Raises:
        ConfigError: the text is not YAML, or stands for too many values.
    """
    from distens.config import _yaml

    if len(text) > MAX_CONFIG_BYTES:
        raise ConfigError(f"{where}: a config has at most {MAX_CONFIG_BYTES:,} bytes, and this one has more")
    try:
        return _yaml.read_values(text)
    except ValueError as error:
        raise ConfigError(f"{where}: not YAML: {error}") from error


def to_yaml(config: Config) -> str:
    """Return the resolved config as YAML, with every default filled in."""
    return write_yaml(config.model_dump(mode="json"))


def write_yaml(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML 1.2, in their own order; `read_yaml` reads them back."""
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
    """Set one of a config's plain values by its dotted key.

    Raises:
        ConfigError: the key leads through a value that is not a section.
    """
    *parents, last = path.split(".")
    place: dict[str, Any] = values
    if parents and parents[0] in Config.model_fields and last != "kind":
        usual = Config.model_fields[parents[0]].default
        if isinstance(usual, str):  # `runtime.pack=1` for a config that leaves its runtime out
            values.setdefault(parents[0], usual)
    for step in parents:
        inner: Any = place.setdefault(step, {})
        if isinstance(inner, str):  # `search: divbo` and --set search.beta=0.1
            inner = place[step] = {"kind": inner}
        if not isinstance(inner, dict):
            raise ConfigError(f"{where}{path}: {step!r} is not a section, found {inner!r}")
        place = inner
    place[last] = value
