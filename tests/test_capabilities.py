"""What a plug-in can do besides is a protocol of its family: no public name of a plug-in is in none of them."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, Protocol

import pytest

import distens
from distens import packing, registry
from distens.distill.protocol import Averages, DataFree, Distiller, Refines
from distens.members.protocol import (
    ClientKind,
    LearnsNumbers,
    NormalisesBatches,
    Packable,
    Rehearses,
    Stackable,
    TrainsInRungs,
    UsesNoGpu,
)
from distens.merge.protocol import AssumesPlainSteps, Corrects, Merger, NeedsProxy
from distens.models.protocol import Rebuilds, Widens
from distens.objectives.protocol import SmoothsLabels
from distens.schedule.protocol import trains_in_rungs
from distens.search.protocol import IgnoresOutcomes, Search

ROOT = Path(distens.__file__).parent


def families():
    """Return the packages that have a `protocol.py`: the folders of plug-ins."""
    return sorted(
        found.name for found in pkgutil.iter_modules([str(ROOT)]) if (ROOT / found.name / "protocol.py").exists()
    )


FAMILIES = families()
PLUGINS = [(family, kind) for family in FAMILIES for kind in registry.names(family)]


def protocols(family):
    module = importlib.import_module(f"distens.{family}.protocol")
    return [
        c for c in vars(module).values() if isinstance(c, type) and c.__module__ == module.__name__ and is_protocol(c)
    ]


def is_protocol(cls):
    return getattr(cls, "_is_protocol", False)


def fulfilled(family, cls):
    return [protocol for protocol in protocols(family) if registry.has_names(cls, protocol)]


def public(cls):
    """Return the public names that a class and its bases set, annotated ones included, and no options."""
    names = {n for base in cls.__mro__[:-1] for n in (*vars(base), *vars(base).get("__annotations__", ()))}
    return {name for name in names if not name.startswith("_")} - {f.name for f in dataclasses.fields(cls)}


def unnamed(family, cls):
    """Return the public names of a plug-in that no protocol has which it fulfils; none is as it should be."""
    return public(cls) - {
        name for protocol in fulfilled(family, cls) for name in registry.read_protocol_names(protocol)
    }


# The exam that every plug-in sits.


@pytest.mark.parametrize(("family", "kind"), PLUGINS)
def test_every_public_name_is_one_of_a_protocol_that_is_fulfilled(family, kind):
    cls = registry.find_plugin(family, kind, "here")
    assert fulfilled(family, cls), "it is no plug-in of its family"
    assert unnamed(family, cls) == set()


@pytest.mark.parametrize(("family", "kind"), PLUGINS)
def test_methods_are_called_as_their_protocol_says(family, kind):
    """Of one sort (method, class method, property), with parameters of the same names, order and kinds."""
    cls = registry.find_plugin(family, kind, "here")
    for protocol in fulfilled(family, cls):
        for name in registry.read_protocol_names(protocol):
            wanted, found = (inspect.getattr_static(c, name, None) for c in (protocol, cls))
            if isinstance(wanted, property):  # an option will do
                assert isinstance(found, property) or name in registry.options(cls), name
            elif wanted is not None:
                assert type(found) is type(wanted), name
                assert parameters(cls, name) == parameters(protocol, name), name


def parameters(cls, name):
    return [(p.name, p.kind, p.default) for p in inspect.signature(getattr(cls, name)).parameters.values()]


def test_types_are_those_of_the_protocols(tmp_path):
    """Pyright, on one function for each plug-in and protocol, which returns the one as the other."""
    lines = ["from __future__ import annotations"]
    for number, (family, kind) in enumerate(PLUGINS):
        cls = registry.find_plugin(family, kind, "here")
        lines.append(f"import distens.{family}.protocol, {cls.__module__}")
        for protocol in fulfilled(family, cls):
            name = f"distens.{family}.protocol.{protocol.__name__}"
            lines.append(f"def f{number}_{protocol.__name__}(x: {cls.__module__}.{cls.__name__}) -> {name}: return x")
    toy = ["class Toy:", "    def propose(self, history: int) -> str: return ''"]
    toy += ["def toy(x: Toy) -> distens.search.protocol.Search: return x"]
    (tmp_path / "conforms.py").write_text("\n".join([*lines, *toy]))
    (tmp_path / "pyrightconfig.json").write_text(f'{{"extraPaths": ["{ROOT.parent}"], "pythonVersion": "3.10"}}')
    words = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "-p", str(tmp_path)]
    found = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path).stdout
    assert len(lines) > 2 * len(PLUGINS) > 80
    assert "1 error," in found and '"Toy" is incompatible with protocol "Search"' in found, found


def test_all_families_are_walked():
    assert set(FAMILIES) >= {"combine", "distill", "members", "merge", "models", "objectives", "partition"}
    assert set(FAMILIES) >= {"runtime", "schedule", "search", "select", "tracking"}
    assert all(protocols(family) for family in FAMILIES) and len(PLUGINS) >= 54


@pytest.mark.parametrize("family", FAMILIES)
def test_examples_in_protocols_run(family):
    module = importlib.import_module(f"distens.{family}.protocol")
    assert doctest.testmod(module).failed == 0
    for protocol in protocols(family):
        if not protocol.__name__.startswith("_"):
            assert protocol.__doc__, protocol


def test_no_capability_is_asked_for_by_a_string():
    """Names of the protocols' members, as a string given to `getattr` or `hasattr` anywhere in the package."""
    names = {
        name for family in FAMILIES for protocol in protocols(family) for name in registry.read_protocol_names(protocol)
    }
    asked = [
        f"{path.relative_to(ROOT)}: {word}({name!r})"
        for path in ROOT.rglob("*.py")
        for word, name in strings_asked_for(path.read_text())
        if name in names
    ]
    assert {"blind", "fit_pack", "correct", "average"} <= names and asked == []


def strings_asked_for(text):
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Call(ast.Name("getattr" | "hasattr" as word), [_, ast.Constant(name), *_]):
                yield word, name


# The exam finds what it is there to find.


@dataclass(frozen=True)
class Guess:
    blind: ClassVar[bool] = True

    tries: int = 3

    def propose(self, history, space, count, rng):
        return []


def test_a_misspelt_capability_fails_the_exam():
    @dataclass(frozen=True)
    class Misspelt:
        blnd: ClassVar[bool] = True

        def propose(self, history, space, count, rng):
            return []

    @dataclass(frozen=True)
    class Annotated:
        blnd: ClassVar[bool]

        def propose(self, history, space, count, rng):
            return []

    @dataclass(frozen=True)
    class Plural:
        def proposes(self, history, space, count, rng):
            return []

    assert unnamed("search", Guess) == set() and fulfilled("search", Guess) == [Search, IgnoresOutcomes]
    assert unnamed("search", Misspelt) == {"blnd"} == unnamed("search", Annotated)
    assert unnamed("search", Plural) == {"proposes"} and fulfilled("search", Plural) == []


def test_a_misspelt_method_and_half_a_capability_fail_the_exam():
    @dataclass(frozen=True)
    class Rule:
        def merge(self, round):
            return None

        def corect(self, client, memory, start_P):
            return None

    assert unnamed("merge", Rule) == {"corect"}
    cls = registry.find_plugin("members", "classifier", "here")
    kept = {
        name: value
        for name, value in vars(cls).items()
        if name in (*registry.read_protocol_names(Packable), "__dataclass_fields__")
    }
    half = type("Half", (), {name: value for name, value in kept.items() if name != "pack_advice"})
    assert not registry.has_capability(half, Packable)
    assert unnamed("members", half) == {"varies_in_pack", "fit_pack"}


# Asking.


def test_a_flag_counts_if_it_has_the_value_that_its_protocol_names():
    no = dataclass(frozen=True)(type("No", (Guess,), {"blind": False}))
    assert registry.has_capability(Guess(), IgnoresOutcomes) and registry.has_capability(Guess, IgnoresOutcomes)
    assert not registry.has_capability(no(), IgnoresOutcomes) and not registry.has_capability(no, IgnoresOutcomes)
    assert unnamed("search", no) == set()  # to say that one has it not is no mistake
    assert not registry.has_capability(None, IgnoresOutcomes) and not registry.has_capability(3, IgnoresOutcomes)


def test_an_option_without_default_is_a_name_and_none_is_no_method():
    class Ranged(Protocol):
        @property
        def epochs(self) -> int: ...

        def last_epoch(self) -> int | None: ...

    @dataclass
    class Kind:
        epochs: int

        def last_epoch(self):
            return None

    assert registry.has_capability(Kind, Ranged) and registry.has_capability(Kind(3), Ranged)
    Kind.last_epoch = None
    assert not registry.has_capability(Kind, Ranged) and not registry.has_capability(Kind(3), Ranged)


def test_names_come_from_the_protocol_with_its_bases():
    assert registry.read_protocol_names(IgnoresOutcomes) == {"blind": (True,), "propose": ()}
    assert registry.read_protocol_names(UsesNoGpu)["uses_gpu"] == (False,)
    assert set(registry.read_protocol_names(DataFree)) == {"data_free", "needs_proxy", "distill"}
    assert registry.read_protocol_names(DataFree)["needs_proxy"] == ()
    assert set(registry.read_protocol_names(Averages)) == {"data_free", "needs_proxy", "distill", "average"}

    class Choice(Protocol):
        way: ClassVar[Literal["a", "b"]]
        _private: int

    assert registry.read_protocol_names(Choice) == {"way": ("a", "b")}


@pytest.mark.parametrize(
    ("family", "capability", "able"),
    [
        ("search", IgnoresOutcomes, {"random"}),
        ("merge", Merger, None),
        ("merge", Corrects, {"feddyn", "scaffold"}),
        ("merge", NeedsProxy, {"fedlaw"}),
        ("merge", AssumesPlainSteps, {"scaffold"}),
        ("distill", Distiller, {"student"}),
        ("distill", DataFree, {"coboost", "dense", "feddf", "fedftg", "noise"}),
        ("distill", Refines, {"fedftg"}),
        ("distill", Averages, {"coboost", "dense", "feddf", "noise"}),
        ("members", Packable, {"classifier", "client", "regressor"}),
        ("members", Stackable, {"classifier", "client", "regressor"}),
        ("members", TrainsInRungs, {"classifier", "module", "regressor"}),
        ("members", ClientKind, {"client"}),
        ("members", NormalisesBatches, {"client"}),
        ("members", UsesNoGpu, {"estimator", "estimator_regressor"}),
        ("members", LearnsNumbers, {"estimator_regressor", "regressor"}),
        ("members", Rehearses, {"classifier", "client", "module", "regressor"}),
        ("models", Widens, {"lenet", "mlp", "resnet"}),
        ("models", Rebuilds, {"module"}),
        ("objectives", SmoothsLabels, {"cross_entropy"}),
    ],
)
def test_who_can_what(family, capability, able):
    names = registry.names(family)
    found = {name for name in names if registry.has_capability(registry.find_plugin(family, name, "here"), capability)}
    assert found == (set(names) if able is None else able)


def test_what_follows_from_it():
    classifier, estimator = {"kind": "classifier"}, {"kind": "estimator", "estimator": "lda"}
    assert (
        packing.varying_settings(classifier)[:2] == ("learning_rate", "weight_decay")
        and packing.varying_settings(estimator) == ()
    )
    assert packing.make_pack_key(classifier) is not None is not packing.make_stack_key(classifier)
    assert packing.make_pack_key(estimator) is None is packing.make_stack_key(estimator)
    assert trains_in_rungs(classifier) and not trains_in_rungs(estimator) and not trains_in_rungs({"kind": "client"})
