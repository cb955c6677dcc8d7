"""Ray Tune's search spaces as ours, and back.

    {"lr": loguniform(1e-4, 1e-1), "net": choice([{"width": randint(8, 65)}, "linear"]), "steps": sample_from(…)}
        ▼ read                                                                                   ▲ config
    settings {"family": …, "kind": "tune", "/lr": 0.003, "/net": {"option": 0, "/width": 32}} ───┘

Settings hold only domains, by their paths: fixed values stay in the space and may be any objects. The setting of a
choice is the index of an option, so that options may be any objects too, together with the domains inside that option.
Values that `sample_from` derives are no settings: they are computed again from the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ray.tune.search import sample
from ray.tune.search.variant_generator import generate_variants

from distens.errors import ConfigError
from distens.records import Settings
from distens.space.space import Space

ALLOWED = (
    "choice, uniform, quniform, loguniform, qloguniform, randn, qrandn, randint, qrandint, lograndint, qlograndint, "
    "sample_from, and mappings and lists of them"
)

KIND = "tune"
"""The kind in a trial's settings; it names no plug-in."""

Path = tuple[Any, ...]


class TuneSpace:
    """A space as users of Tune write it.

    If a choice at the top level is among mappings that each name a different `family`, those are the families of the
    space; else there is one family, named `config`.

    Attributes:
        space: the same space as one of ours; `config` turns its settings into trials' configs.
        param_space: the space as it was given.

    Raises:
        ConfigError: the space has a grid, or a domain that is none of Tune's own.
    """

    def __init__(self, param_space: Mapping[str, Any]) -> None:
        self.param_space = param_space
        self._tree = _Tree(dict(param_space), "param_space")
        self._families, self._choice = self._find_families()
        self.space = Space({name: self._template(place) for place, name in enumerate(self._families)}, "param_space")

    def _find_families(self) -> tuple[tuple[str, ...], str | None]:
        for key, part in self._tree.parts.items():
            if isinstance(part, _Choice) and key.count("/") == 1:
                values = [option.value if isinstance(option.value, dict) else {} for option in part.options]
                names = [value.get("family") for value in values]
                if all(isinstance(name, str) for name in names) and len(set(names)) == len(names):
                    return tuple(map(str, names)), key
        return ("config",), None

    def _template(self, place: int) -> dict[str, Any]:
        taken = {}
        if self._choice is not None:
            choice = self._tree.parts[self._choice]
            assert isinstance(choice, _Choice)
            taken = {self._choice: choice.option(place)}
        return {"kind": KIND, **self._tree.template(), **taken}

    def config(self, settings: Settings) -> dict[str, Any]:
        """Return the config of a trial, including the values that `sample_from` derives."""
        config = self._tree.build(settings)
        if self._tree.derives:
            config = next(iter(generate_variants(config)))[1]
        return config

    def settings(self, config: Mapping[str, Any], drawn: Settings) -> Settings:
        """Return the settings that make a config; values that the config leaves out are those of `drawn`.

        Raises:
            ConfigError: a value lies outside its domain, or its key is not in the space.
        """
        read = self._tree.read(config, drawn, "points_to_evaluate")
        family = self._families[0]
        if self._choice is not None:
            taken = read[self._choice]
            family = self._families[taken["option"] if isinstance(taken, Mapping) else taken]
        return {"family": family, "kind": KIND, **read}


class _Part(Protocol):
    @property
    def template(self) -> Any: ...

    def build(self, setting: Any) -> Any: ...

    def read(self, value: Any, drawn: Any, where: str) -> Any: ...


@dataclass(frozen=True)
class _Number:
    """A range or a normal distribution."""

    template: dict[str, Any]
    whole: bool
    space: Space

    def build(self, setting: Any) -> Any:
        return int(setting) if self.whole else float(setting)

    def read(self, value: Any, drawn: Any, where: str) -> Any:
        found = value.item() if hasattr(value, "item") else value
        if not self.space.contains({"family": "number", "kind": KIND, "value": found}):
            raise ConfigError(f"{where}: {value!r} lies outside {self.template}")
        return self.build(found)


class _Choice:
    """A choice, whose setting is the index of an option."""

    def __init__(self, options: Sequence[Any], where: str) -> None:
        if not options:
            raise ConfigError(f"{where}: a choice without options; give it one or more")
        self.options = [_Tree(option, f"{where}[{place}]") for place, option in enumerate(options)]
        self.template = {"choices": [self.option(place) for place in range(len(options))]}

    def option(self, place: int) -> Any:
        inner = self.options[place].template()
        return {"option": place, **inner} if inner else place

    def build(self, setting: Any) -> Any:
        place = setting["option"] if isinstance(setting, Mapping) else setting
        return self.options[place].build(setting)

    def read(self, value: Any, drawn: Any, where: str) -> Any:
        for place, option in enumerate(self.options):
            # Values that an option leaves out are those of `drawn` only if the same option was drawn.
            same = drawn if isinstance(drawn, Mapping) and drawn["option"] == place else None
            try:
                read = option.read(value, same, where)
            except ConfigError:
                continue
            return {"option": place, **read} if read else place
        raise ConfigError(f"{where}: {value!r} is none of {[option.value for option in self.options]!r}")


class _Tree:
    """A value with the domains in it, each by its path: `/net/width`, `/layers/0`; `/` if it is a domain itself."""

    def __init__(self, value: Any, where: str) -> None:
        self.value = value
        self.parts: dict[str, _Part] = {}
        self.derives = False
        self._paths: dict[str, Path] = {}
        for path, domain in _domains(value, (), where):
            place = ".".join([where, *map(str, path)])
            if isinstance(domain, sample.Function):
                self.derives = True
                continue
            part = _part(domain, place)
            if isinstance(part, _Choice):
                self.derives |= any(option.derives for option in part.options)
            key = "/" + "/".join(map(str, path))
            self.parts[key], self._paths[key] = part, path

    def template(self) -> dict[str, Any]:
        return {key: part.template for key, part in self.parts.items()}

    def build(self, settings: Any) -> Any:
        # Only numbers and choices are copied: fixed values may be large, or addresses in Ray's object store.
        found = {path: self.parts[key].build(settings[key]) for key, path in self._paths.items()}
        return _placed(self.value, (), found)

    def read(self, value: Any, drawn: Settings | None, where: str) -> dict[str, Any]:
        _check_keys(self.value, value, where)
        found: dict[str, Any] = {}
        for key, path in self._paths.items():
            place = ".".join([where, *map(str, path)])
            given, inner = _at(value, path)
            before = None if drawn is None else drawn[key]
            if given:
                found[key] = self.parts[key].read(inner, before, place)
            elif before is not None:
                found[key] = before
            else:
                raise ConfigError(f"{place}: missing")
        return found


def _domains(value: Any, path: Path, where: str) -> Iterator[tuple[Path, sample.Domain]]:
    if isinstance(value, sample.Domain):
        yield path, value
    elif isinstance(value, Mapping):
        for form in ("grid_search", "eval"):
            if set(value) == {form}:
                place = ".".join([where, *map(str, path)])
                hint = " A search asks for one config at a time: use tune.choice" if form == "grid_search" else ""
                raise ConfigError(f"{place}: {form!r} cannot be searched.{hint}. Allowed: {ALLOWED}")
        for key, inner in value.items():
            yield from _domains(inner, (*path, key), where)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            yield from _domains(inner, (*path, place), where)


def _part(domain: sample.Domain, where: str) -> _Part:
    sampler, step = domain.get_sampler(), None
    if isinstance(sampler, sample.Quantized):
        sampler, step = sampler.get_sampler(), sampler.q
    log = isinstance(sampler, sample.LogUniform)
    if isinstance(domain, sample.Categorical) and isinstance(sampler, sample.Uniform):
        return _Choice(domain.categories, where)
    if isinstance(domain, sample.Float) and isinstance(sampler, sample.Normal):
        step = {} if step is None else {"step": float(step)}
        return _number({"mean": float(sampler.mean), "sd": float(sampler.sd), **step}, False, where)
    if log or isinstance(sampler, sample.Uniform):
        if isinstance(domain, sample.Float) and math.isfinite(domain.lower) and math.isfinite(domain.upper):
            return _range(float(domain.lower), float(domain.upper), log, step, where)
        if isinstance(domain, sample.Integer):
            # Tune excludes the upper end, except with a quantum other than 1.
            upper = int(domain.upper) - (step in (None, 1))
            return _range(int(domain.lower), upper, log, None if step == 1 else step, where)
    found = f"{type(domain).__name__} sampled by {type(sampler).__name__}, {domain.domain_str}"
    raise ConfigError(f"{where}: this domain cannot be searched: found {found}. Allowed: {ALLOWED}")


def template_of(domain: sample.Domain) -> Any:
    """Return a range or a normal distribution of Tune as a template of ours (see `distens.space.space`).

    A range of a single number is returned as that number.
    """
    part = _part(domain, "param_space")
    return part.options[0].value if isinstance(part, _Choice) else part.template


def _range(low: float, high: float, log: bool, step: float | None, where: str) -> _Part:
    whole = isinstance(low, int)
    if step is not None:
        multiples = (math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9))
        if multiples[0] >= multiples[1]:
            low = high = multiples[1] * step
    if low == high:
        return _Choice([low], where)
    template: dict[str, Any] = {"low": low, "high": high, "log": log}
    if step is not None:
        template["step"] = int(step) if whole else float(step)
    return _number(template, whole, where)


def _number(template: dict[str, Any], whole: bool, where: str) -> _Number:
    return _Number(template, whole, Space({"number": {"kind": KIND, "value": template}}, where))


def _placed(value: Any, path: Path, found: Mapping[Path, Any]) -> Any:
    if path in found:
        return found[path]
    if isinstance(value, dict):
        return {key: _placed(inner, (*path, key), found) for key, inner in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_placed(inner, (*path, place), found) for place, inner in enumerate(value))
    return value


def _at(value: Any, path: Path) -> tuple[bool, Any]:
    """Return (True, the value at a path), or (False, None) if there is no value."""
    for step in path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            return False, None
    return True, value


def _check_keys(template: Any, value: Any, where: str) -> None:
    """Refuse a config with a key that is not in the space, or with another value than a fixed one.

    Raises:
        ConfigError: it has such a key or value.
    """
    if isinstance(template, sample.Domain):
        return
    if isinstance(template, Mapping) and isinstance(value, Mapping):
        for key, inner in value.items():
            if key not in template:
                raise ConfigError(f"{where}.{key}: not in the space. Allowed: {', '.join(map(str, template))}")
            _check_keys(template[key], inner, f"{where}.{key}")
    elif isinstance(template, list | tuple) and isinstance(value, list | tuple) and len(template) == len(value):
        for place, (one, other) in enumerate(zip(template, value, strict=True)):
            _check_keys(one, other, f"{where}.{place}")
    elif not _same(template, value):
        raise ConfigError(f"{where}: fixed to {template!r} in the space, found {value!r}")


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or (type(one) is type(other) and bool(one == other))
    except ValueError:  # arrays
        return False
