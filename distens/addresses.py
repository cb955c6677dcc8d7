"""The address of a class or function in the user's own package, as a config names it: `package.module:Class`."""

from __future__ import annotations

import importlib
import inspect
import keyword
import sysconfig
import traceback
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from distens.errors import ConfigError, did_you_mean, shorten_value

_OURS = __name__.partition(".")[0]
_NOT_USERS = (Path(__file__).parent, Path(sysconfig.get_path("stdlib")))
_INSTALLED = {"site-packages", "dist-packages"}

MAX_TEXT = 500
"""The most characters of another's message: torch names every weight that does not fit."""


@dataclass(frozen=True)
class ImportAddress:
    """A mark of a plug-in's field whose text is, or may be, an address; building the plug-in imports that module.

    Attributes:
        trusting: True if what is loaded besides is not checked; it is then not enough that the module is there.
    """

    trusting: bool = False


def is_address(kind: Any) -> bool:
    """Return True if a kind is written as an address, not as the name of a file."""
    return isinstance(kind, str) and ":" in kind


def module_of(address: str) -> str:
    """Return `package.module` of `package.module:Class`."""
    return address.partition(":")[0]


def is_ours(cls: type) -> bool:
    """Return True if a class is distens' own."""
    return cls.__module__.split(".")[0] == _OURS


@cache
def check_address(address: str, where: str) -> None:
    """Check that an address is well formed, and not of a class that has a shorter name; nothing is imported.

    Raises:
        ConfigError: the address is not of the form `package.module:Class`, or it is in a script, or in distens.
    """
    module, _, name = address.partition(":")
    if not all(part.isidentifier() and not keyword.iskeyword(part) for part in (*module.split("."), name)):
        raise ConfigError(
            f"{where}: expected the name of a file, or package.module:Class, found {shorten_value(address)}"
        )
    if module in ("__main__", "__mp_main__"):
        raise ConfigError(
            f"{where}: other processes cannot find {address!r}; put {name} into a file, such as nets.py, and name "
            f"that: nets:{name}"
        )
    if module.split(".")[0] == _OURS:
        raise _is_our_own(address, module, where)


def find_object(address: str, where: str, noun: str = "class or function") -> Any:
    """Return the object at an address; its module is imported, which runs that module's code.

    Args:
        noun: the sort of object that is wanted, for messages.

    Raises:
        ConfigError: as in `check_address`; or the module cannot be imported, or has nothing of that name.
    """
    check_address(address, where)
    module, name = _import(module_of(address), where), address.partition(":")[2]
    found = vars(module).get(name)  # not getattr: a module may import more when a name is missing
    if found is None:
        sorts = (type,) if noun == "class" else (type, FunctionType)
        offered = vars(module).get("__all__", ())
        objects = [
            key
            for key, value in vars(module).items()
            if isinstance(value, sorts)
            and (value.__module__ == module.__name__ or (isinstance(offered, list | tuple) and key in offered))
        ]
        file = getattr(module, "__file__", None)
        place = f"{module.__name__} ({file})" if file else module.__name__
        raise ConfigError(f"{where}: {place} has no {noun} {name!r}. {did_you_mean(name, objects)}")
    return found


def find_class(address: str, where: str) -> type:
    """Return the class at an address; its module is imported, which runs that module's code.

    Raises:
        ConfigError: as in `find_object`; or it is no class, or the module only imports it from elsewhere, or it is not
            at the top of its module.
    """
    found = find_object(address, where, "class")
    if not isinstance(found, type):
        raise ConfigError(f"{where}: {address} must be a class, found {shorten_value(found)}")
    if is_ours(found):
        raise _is_our_own(address, found.__module__, where)
    if (defined := f"{found.__module__}:{found.__qualname__}") != address:
        hint = "make it a class at the top of its module" if "." in found.__qualname__ else "write that"
        raise ConfigError(f"{where}: a class has one address; {address} is defined as {defined}: {hint}")
    return found


def check_arguments(called: Callable[..., Any], options: Mapping[str, Any], filled: Collection[str] = ()) -> None:
    """Check that a class or function can be called with these options.

    Args:
        filled: the names of further arguments, which distens gives if they are parameters.

    Raises:
        ValueError: an option is no parameter, or is one that distens fills in, or one that is needed is missing.
    """
    takes = {name: p for name, p in inspect.signature(called).parameters.items() if p.kind is not p.VAR_POSITIONAL}
    anything = any(p.kind is p.VAR_KEYWORD for p in takes.values())
    named = {name: p for name, p in takes.items() if p.kind is not p.VAR_KEYWORD}
    for name in options:
        if name in filled:
            raise ValueError(f"options.{name}: cannot be set: it follows from the data")
        if name not in named and not anything:
            raise ValueError(
                f"options.{name}: unknown option of {called.__name__}. {did_you_mean(name, set(named) - set(filled))}"
            )
    missing = [name for name, p in named.items() if p.default is p.empty and name not in (*options, *filled)]
    if missing:
        raise ValueError(f"options: {called.__name__} needs {', '.join(missing)}")


def is_users_file(file: str) -> bool:
    """Return True if a file of code is a user's own: not of Python, of an installed package, or of distens."""
    path = Path(file)
    return path.suffix == ".py" and not _INSTALLED & {*path.parts} and not any(map(path.is_relative_to, _NOT_USERS))


def describe_failure(error: BaseException) -> str:
    """Return `Type: text (FILE, line N)`, in one line; N is the innermost line of a user's own code, if any failed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if is_users_file(frame.filename)]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:MAX_TEXT]}{place}"


def find_missing_module(error: BaseException | None) -> str | None:
    """Return the name of the module for want of which something failed; None if it failed for another reason."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            return error.name
        error = error.__cause__
    return None


def _is_our_own(address: str, module: str, where: str) -> ConfigError:
    folders, _, file = module.rpartition(".")
    hint = f", as {file!r}" if folders.count(".") == 1 and not file.startswith("_") else ""
    return ConfigError(f"{where}: {address!r} lies in distens, whose plug-ins go by the name of their file{hint}")


def _import(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{where}: importing {name!r} failed: {error}. Python looks in the working directory and in the folders of "
            f"PYTHONPATH: put {error.name!r} there, or install it, on every machine that trains or predicts"
        ) from error
    except (Exception, SystemExit) as error:  # a user's module may raise anything when it is imported
        lines = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
        place = f" ({lines[-1].filename}, line {lines[-1].lineno})" if lines else ""
        raise ConfigError(f"{where}: importing {name!r} failed: {type(error).__name__}: {error}{place}") from error
