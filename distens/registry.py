"""Plug-ins by name: `kind: divbo` in a config is the class `DivBO` in `distens/search/divbo.py`.

A class `Mine` in a user's own `my_lab/search.py` is `kind: my_lab.search:Mine`. Some families also take a function or
class that is no plug-in, such as a network or a loss: `model: nets:Net` is `model: {kind: module, path: nets:Net}`.

A plug-in is a dataclass whose fields are its options; there is no other list of names or options. A field annotated
`Annotated[…, Plugin("models")]` is itself a plug-in of that family, given as `{kind: name, option: …}` or, without
options, as its bare name.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import (
    Any,
    ClassVar,
    Generic,
    Literal,
    Protocol,
    TypeGuard,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from distens import addresses
from distens.config import raw_values
from distens.errors import ConfigError, did_you_mean, shorten_value

P = TypeVar("P")


@dataclasses.dataclass(frozen=True)
class Plugin:
    """A mark of a field whose value is a plug-in of the named family."""

    family: str


def names(family: str) -> list[str]:
    """Return the names of a family's plug-ins in distens, without importing them."""
    return list(_listed(tuple(importlib.import_module(f"distens.{family}").__path__)))


@cache
def _listed(folders: tuple[str, ...]) -> tuple[str, ...]:
    found = (module.name for module in pkgutil.iter_modules(folders))
    return tuple(sorted(name for name in found if not name.startswith("_") and name != "protocol"))


@cache
def _load(family: str, kind: str) -> type:
    module = importlib.import_module(f"distens.{family}.{kind}")
    wanted = kind.replace("_", "").lower()
    for value in vars(module).values():
        if isinstance(value, type) and value.__module__ == module.__name__ and value.__name__.lower() == wanted:
            return value
    raise AssertionError(f"{module.__name__} must define a class named {wanted} (in any capitals)")


def find_plugin(family: str, kind: Any, where: str) -> type:
    """Return the class of a plug-in; the module of an address is imported.

    Raises:
        ConfigError: see `check_kind`; or there is no class at an address, or it is no plug-in of the family.
    """
    check_kind(family, kind, where)
    if not addresses.is_address(kind):
        return _load(family, kind)
    found = addresses.find_class(kind, f"{where}.kind")
    if fault := _find_fault(family, found):
        raise ConfigError(f"{where}.kind: {kind} {fault}")
    return found


def check_kind(family: str, kind: Any, where: str) -> None:
    """Check that a kind is the name of a file of the family, or has the form of an address; no user code is imported.

    Raises:
        ConfigError: the kind is neither.
    """
    if addresses.is_address(kind):
        addresses.check_address(kind, f"{where}.kind")
        return
    allowed = names(family)
    if kind not in allowed:
        own = "or a class of your own, package.module:Class"
        raise ConfigError(f"{where}.kind: unknown {family} kind {kind!r}. {did_you_mean(str(kind), allowed)}; {own}")


def options(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """Return a plug-in's options by name."""
    return {f.name: f for f in dataclasses.fields(cls) if f.init}


def has_capability(plugin: object, capability: type[P]) -> TypeGuard[P]:
    """Return True if a plug-in, or the plug-ins of a class, have every name in a protocol of their family.

        if registry.has_capability(merger, Corrects):
            correction = merger.correct(client, memory, start_P)

    The names come from the protocol, so a misspelt name is an error. An attribute that the protocol annotates
    `Literal[…]` must have one of those values: `blind: ClassVar[bool] = False` counts as missing. If a class is given,
    the caller may use only what needs no instance.
    """
    cls = plugin if isinstance(plugin, type) else type(plugin)
    # Asked of every member, several times: a loop takes a third of the time of `all`.
    for name, values in read_protocol_names(capability).items():
        found = getattr(cls, name, None)
        if found not in values if values else found is None and name not in _field_names(cls):
            return False
    return True


def has_names(cls: type, capability: type) -> bool:
    """Return True if a class of plug-ins has every name in a protocol, whatever the values; options count as names."""
    names = read_protocol_names(capability)
    return all(getattr(cls, name, None) is not None or name in _field_names(cls) for name in names)


@cache
def _field_names(cls: type) -> frozenset[str]:
    return frozenset(f.name for f in dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else frozenset()


@cache
def read_protocol_names(capability: type) -> Mapping[str, tuple[Any, ...]]:
    """Return the public names of a protocol, each with the values that a `Literal[…]` allows; () for any."""
    protocols = [base for base in capability.__mro__ if base not in (object, Protocol, Generic)]
    names = [n for base in protocols for n in (*vars(base), *vars(base).get("__annotations__", ())) if n[0] != "_"]
    return {name: _literal(_hints(capability).get(name)) for name in names}


def _literal(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is ClassVar:
        return _literal(*get_args(hint))
    return get_args(hint) if get_origin(hint) is Literal else ()


def split_spec(spec: Any, where: str) -> tuple[Any, dict[str, Any]]:
    """Return (kind, options) of `name` or `{kind: name, …}`."""
    if isinstance(spec, str):
        return spec, {}
    if not isinstance(spec, Mapping):
        raise ConfigError(f"{where}: expected a kind or a mapping with `kind`, found {spec!r}")
    if "kind" not in spec:
        raise ConfigError(f"{where}: `kind` is missing. Found: {', '.join(map(str, spec)) or 'nothing'}")
    return spec["kind"], {key: value for key, value in spec.items() if key != "kind"}


def _split_adopted(family: str, spec: Any, where: str) -> tuple[Any, dict[str, Any]]:
    """Return (kind, options) of a spec; `nets:Net`, which is no plug-in itself, becomes what the family makes of it.

    A family whose protocol names an `ADOPTER` takes other objects too, such as a user's network: the plug-in of that
    name is made with the address as its `path`.

    Raises:
        ConfigError: as in `split_spec` and `addresses.find_object`.
    """
    kind, given = split_spec(spec, where)
    adopter = getattr(importlib.import_module(f"distens.{family}.protocol"), "ADOPTER", None)
    if adopter is None or not addresses.is_address(kind):
        return kind, given
    found = addresses.find_object(kind, f"{where}.kind")
    if not _load(family, adopter).adopts(found) or (isinstance(found, type) and not _find_fault(family, found)):
        return kind, given
    if "path" in given:
        raise ConfigError(f"{where}.path: has no effect beside `kind: {kind}`")
    return adopter, {"path": kind, **given}


def plugin_family(cls: type, option: str) -> str | None:
    """Return the family of an option that is itself a plug-in, else None."""
    return _find_family(_hints(cls).get(option))


def same_option(cls: type, other: type, name: str) -> bool:
    """Return True if two plug-in classes have an option of this name that takes the same values."""
    return all(name in options(each) for each in (cls, other)) and _hints(cls)[name] == _hints(other)[name]


def _find_family(hint: Any) -> str | None:
    found = next((m.family for m in getattr(hint, "__metadata__", ()) if isinstance(m, Plugin)), None)
    return found or next(filter(None, map(_find_family, get_args(hint))), None)  # `Annotated[…] | None` too


@cache
def _hints(cls: type) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)


@cache
def _adapter(cls: type, option: str) -> TypeAdapter[Any]:
    return TypeAdapter(_hints(cls)[option], config=ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False))


def make_plugin(family: str, spec: Any, where: str, beside: tuple[str, ...] = ()) -> Any:
    """Return the plug-in that `spec` describes, with every option checked.

    Args:
        family: a folder of plug-ins, e.g. `search`.
        spec: `name`, or `{kind: name, option: value, …}`.
        where: the place in the config, for messages.
        beside: other keys allowed in that place of the config, also suggested when an option is unknown.

    Raises:
        ConfigError: unknown kind or option, a missing option, a value out of range, an option without effect.
    """
    kind, given = _split_adopted(family, spec, where)
    cls = find_plugin(family, kind, where)
    known = options(cls)
    if taken := [name for name in known if name in beside]:
        raise ConfigError(
            f"{where}.kind: {kind} has an option {taken[0]!r}, which means something else there: rename it"
        )
    for key in given:
        if key not in known:
            raise ConfigError(f"{where}.{key}: unknown option of {kind!r}. {did_you_mean(str(key), [*known, *beside])}")
    checked = {key: _check(cls, key, value, f"{where}.{key}") for key, value in given.items()}
    missing = [
        name
        for name, f in known.items()
        if name not in checked and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}: {kind!r} needs the option{'s' * (len(missing) > 1)} {', '.join(missing)}")
    try:
        made = cls(**checked)
        if addresses.is_address(kind):
            raw_values.check_json_values(resolve_options(made))  # the options are stored with a run, as JSON
        return made
    except ValueError as error:  # from a plug-in's __post_init__: options contradict each other or have no effect
        raise ConfigError(f"{where}: {error}") from error


def build_member(settings: Mapping[str, Any], where: str = "members") -> Any:
    """Return the untrained member that settings describe; `family` is a name, not an option."""
    spec = {key: value for key, value in settings.items() if key != "family"}
    return make_plugin("members", spec, f"{where}.{settings['family']}" if "family" in settings else where)


def _check(cls: type, option: str, value: Any, where: str) -> Any:
    family = plugin_family(cls, option)
    if family is not None and value is not None:
        return make_plugin(family, value, where)
    try:
        made = _adapter(cls, option).validate_python(value)
    except ValidationError as error:
        raise ConfigError(describe(error, where)) from error
    if isinstance(value, bool | str | list | tuple | dict) and (found := list(raw_values.misread(value, made, where))):
        raise ConfigError("\n".join(found))
    return made


def describe(error: ValidationError, where: str = "") -> str:
    """Return pydantic's errors as one line each: the place, what is wrong, and the value found."""
    lines = []
    for item in error.errors(include_url=False):
        # Steps with "[" in pydantic's path name constraints and tagged unions, not places in a config.
        place = ".".join([where] * bool(where) + [str(step) for step in item["loc"] if "[" not in str(step)])
        text = item["msg"].removeprefix("Value error, ")
        if not place or item["type"] == "missing":  # the input is the whole mapping, too long to show
            lines.append(f"{place}: {text}" if place else text)
        else:
            lines.append(f"{place}: {text[0].lower() + text[1:]}, found {shorten_value(item['input'])}")
    return "\n".join(lines)


def plugin_kind(plugin: Any) -> str:
    """Return the kind of a built plug-in: the name of its file, or the whole address of a class outside distens."""
    cls = type(plugin)
    return cls.__module__.rpartition(".")[2] if addresses.is_ours(cls) else f"{cls.__module__}:{cls.__qualname__}"


def resolve_options(plugin: Any) -> dict[str, Any]:
    """Return a built plug-in as `{kind: name, option: value, …}` with every default filled in (JSON values)."""
    values: dict[str, Any] = {"kind": plugin_kind(plugin)}
    for name in options(type(plugin)):
        value = getattr(plugin, name)
        family = plugin_family(type(plugin), name)
        if family is not None and value is not None:
            value = resolve_options(value)
        values[name] = _plain(value)
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return list(value) if isinstance(value, tuple) else value


def find_unimported(family: str, spec: Any, where: str) -> Iterator[tuple[str, str]]:
    """Yield (place, module) of every module that building a plug-in would import, and that is not imported yet.

    What is loaded for it without checks (see `addresses.ImportAddress`) counts as not imported yet.

    No user code is imported. Modules that a plug-in in such a module would import in turn cannot be known.

    Raises:
        ConfigError: a kind is unknown.
    """
    kind, given = split_spec(spec, where)
    check_kind(family, kind, where)
    if addresses.is_address(kind) and addresses.module_of(kind) not in sys.modules:
        yield where, addresses.module_of(kind)
        return
    kind, given = _split_adopted(family, spec, where)
    cls = find_plugin(family, kind, where)
    for option, value in given.items():
        hint = _hints(cls).get(option)
        if (inner := _find_family(hint)) is not None and value is not None:
            yield from find_unimported(inner, value, f"{where}.{option}")
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, addresses.ImportAddress) and addresses.is_address(value):
                module = addresses.module_of(str(value))
                if mark.trusting or module not in sys.modules:
                    yield where, module


# Checks of a user's own class -----------------------------------------------------------------------------------------


@cache
def _find_fault(family: str, cls: type) -> str:
    """Return the fault of a user's class as a plug-in of a family, as the rest of a sentence; "" if there is none."""
    main = importlib.import_module(f"distens.{family}.protocol").PLUGINS
    lacking = {asked.__name__: _lacking(cls, asked) for asked in main}
    if all(lacking.values()):
        kinds = " and ".join(f"no {name} (it lacks {', '.join(missing)})" for name, missing in lacking.items())
        return f"is {kinds}; see distens/{family}/protocol.py"
    if not dataclasses.is_dataclass(cls):
        return "must be a dataclass, whose fields are its options: write @dataclass above it"
    known = options(cls)
    for name, hint in inspect.get_annotations(cls).items():
        if name not in cls.__dataclass_fields__ and "ClassVar" not in str(hint):
            return f"has {name!r}, which is no option: write @dataclass above the class, not only above its base"
    for name, needed in inspect.signature(cls).parameters.items():
        several = needed.kind in (needed.VAR_POSITIONAL, needed.VAR_KEYWORD)
        if name not in known and needed.default is needed.empty and not several:
            return f"cannot be made of its options: its constructor also needs {name!r}"
    for name in ("kind", "family"):
        if name in known:
            return f"has an option {name!r}, which means something else in a config: rename it"
    try:
        for name in known:
            _adapter(cls, name)
    except Exception as error:  # errors of pydantic and Python, of a dozen types
        return f"has options whose types cannot be checked: {' '.join(str(error).split())}"
    return ""


def _lacking(cls: type, asked: type) -> list[str]:
    """Return the names in a protocol that a class lacks; a stub inherited from the protocol counts as lacking."""
    fields, lacking = getattr(cls, "__dataclass_fields__", {}), []
    for name, values in read_protocol_names(asked).items():
        found = getattr(cls, name, None)
        missing = found is None and name not in fields
        if missing or (found is not None and found is getattr(asked, name, None)) or (values and found not in values):
            lacking.append(name)
    return lacking
