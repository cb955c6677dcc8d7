"""Domains that exist only where other options have certain values: `degree: {low: 2, high: 5, when: {kernel: poly}}`.

Everything is drawn, changed and encoded as if all conditions held, and then what has no condition that holds is left
out, or encoded as what does not exist.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from distens.errors import ConfigError, did_you_mean
from distens.records import Floats
from distens.space._choices import Choice, Composite
from distens.space._domains import Constant, Node

Path = tuple[str, ...]

TRIES = 100
"""A change that concerns only what does not exist is none; it is drawn again, this often at most."""

_ABSENT = object()


@dataclass(frozen=True)
class Rule:
    """A condition of one domain.

    Attributes:
        path: the place of the domain in the mapping.
        node: the domain.
        when: the place of an option, and the values of which it must have one; all must hold.
    """

    path: Path
    node: Node
    when: tuple[tuple[Path, tuple[Any, ...]], ...]

    def holds(self, value: Any) -> bool:
        """Return True if the domain exists in a mapping; an option that does not exist has no value."""
        return all(_is_one_of(_at(value, path), wanted) for path, wanted in self.when)

    def reads(self, other: Rule) -> bool:
        """Return True if the condition depends on another rule's domain."""
        return any(path[: len(other.path)] == other.path for path, _ in self.when)


@dataclass(frozen=True)
class Conditional:
    """A mapping in which some domains exist only under conditions.

    Attributes:
        node: the mapping with all domains, or a narrowed part of it.
        whole: the mapping with all domains.
        rules: the conditions, each after those that it depends on.
    """

    node: Node
    whole: Node
    rules: tuple[Rule, ...]

    @property
    def width(self) -> int:
        return self.whole.width

    def draw(self, rng: np.random.Generator) -> Any:
        return self.prune(self.node.draw(rng))

    def contains(self, value: Any) -> bool:
        if not isinstance(value, Mapping):
            return False
        filled = self.fill_up(value, next(self.node.corners()))
        return self.prune(filled) == value and self.node.contains(filled)

    def fill(self, values: Sequence[Any], out: Floats) -> None:
        other = next(self.whole.corners())
        self.whole.fill([self.fill_up(value, other) for value in values], out)
        for rule in self.rules:
            rows = [row for row, value in enumerate(values) if _at(value, rule.path) is _ABSENT]
            absent: list[float] = []
            rule.node.skip(absent)
            start = _offset(self.whole, rule.path)
            out[rows, start : start + rule.node.width] = absent

    def skip(self, out: list[float]) -> None:
        self.whole.skip(out)

    def neighbour(self, value: Any, rng: np.random.Generator) -> Any:
        filled = self.fill_up(value, self.node.draw(rng))
        for _ in range(TRIES):
            if (other := self.prune(self.node.neighbour(filled, rng))) != value:
                return other
        return value

    def domains(self, value: Any) -> int:
        filled = self.fill_up(value, next(self.node.corners()))
        found = self.node.domains(filled)
        for rule in self.rules:
            depth, node = _deepest(self.node, rule.path)
            if _at(value, rule.path) is _ABSENT and depth == len(rule.path):  # else it is fixed
                found -= node.domains(_at(filled, rule.path))
        return found

    def corners(self) -> Iterator[Any]:
        seen = set[str]()
        for corner in map(self.prune, self._all_corners()):
            key = json.dumps(corner, sort_keys=True)
            if key not in seen:
                seen.add(key)
                yield corner

    def _all_corners(self) -> Iterator[Any]:
        yield from self.node.corners()
        first = next(self.node.corners())
        for rule in self.rules:
            for number in range(max(len(wanted) for _, wanted in rule.when)):
                there = self._with_rule(first, rule, number)
                yield from (_put(there, rule.path, corner) for corner in rule.node.corners())

    def _with_rule(self, value: Any, rule: Rule, number: int) -> Any:
        """Return a mapping changed so that a rule holds, by its wanted values of that number."""
        for path, wanted in rule.when:
            for other in self.rules:
                if path[: len(other.path)] == other.path:
                    value = self._with_rule(value, other, number)
            one = wanted[min(number, len(wanted) - 1)]
            depth, node = _deepest(self.whole, path)
            fits = (corner for corner in node.corners() if _at(corner, path[depth:]) == one)
            value = _put(value, path[:depth], one if depth == len(path) else next(fits))
        return value

    def count(self) -> float:
        return self.node.count()  # an upper bound

    def prune(self, value: Any) -> Any:
        """Return a mapping without the domains whose conditions do not hold."""
        for rule in self.rules:
            if not rule.holds(value):
                value = _drop(value, rule.path)
        return value

    def fill_up(self, value: Any, full: Any) -> Any:
        """Return a mapping with a value, from a full one, for every domain that it lacks."""
        for rule in self.rules:
            if _at(value, rule.path) is _ABSENT:
                value = _put(value, rule.path, _at(full, rule.path))
        return value


def split_conditions(
    value: Mapping[str, Any], where: str, is_domain: Callable[[Any], bool]
) -> tuple[Any, dict[Path, Any]]:
    """Return a mapping without the conditions in it, and the conditions by place; domains are not looked into.

    Raises:
        ConfigError: a condition stands at something else than a domain, or is no mapping.
    """
    found: dict[Path, Any] = {}

    def split(inner: Any, path: Path) -> Any:
        if not isinstance(inner, Mapping):
            return inner
        place = ".".join((where, *path))
        when = inner.get("when")
        if is_domain(inner):
            if "when" not in inner:
                return inner
            if not isinstance(when, Mapping) or not when:
                raise ConfigError(
                    f"{place}.when: a condition is {{option: value, or a list of values}}, found {when!r}"
                )
            found[path] = when
            return {key: part for key, part in inner.items() if key != "when"}
        if isinstance(when, Mapping):
            raise ConfigError(
                f"{place}.when: a condition belongs to a range or a choice; for one value write "
                "{choices: [value], when: …}"
            )
        return {key: split(part, (*path, str(key))) for key, part in inner.items()}

    return split(value, ()), found


def make_conditional(node: Node, conditions: Mapping[Path, Any], where: str) -> Node:
    """Return a mapping's node with conditions.

    A condition names an option of the mapping in which its domain stands, or, dotted, one from the outermost mapping.

    Raises:
        ConfigError: an option is unknown, or never has such a value, or always has; or conditions lead in a circle.
    """
    if not conditions:
        return node
    rules = [_rule(node, path, when, where) for path, when in conditions.items()]
    ordered: list[Rule] = []
    while rules:
        free = [rule for rule in rules if not any(rule.reads(other) for other in rules)]
        if not free:
            circle = ", ".join(".".join(rule.path) for rule in rules)
            raise ConfigError(f"{where}: the conditions (`when`) of {circle} depend on each other in a circle")
        ordered += free
        rules = [rule for rule in rules if rule not in free]
    return Conditional(node, node, tuple(ordered))


def _rule(node: Node, path: Path, when: Mapping[str, Any], where: str) -> Rule:
    found: list[tuple[Path, tuple[Any, ...]]] = []
    for name, value in when.items():
        place, steps = ".".join((where, *path, "when", str(name))), tuple(str(name).split("."))
        wanted = tuple(value) if isinstance(value, list | tuple) else (value,)
        asked = next((one for one in ((*path[:-1], *steps), steps) if one != path and _takes(node, one)), None)
        if asked is None:
            siblings = _names(_deepest(node, path[:-1])[1]) - {path[-1]}
            raise ConfigError(f"{place}: unknown option. {did_you_mean(str(name), siblings)}")
        depth, inner = _deepest(node, asked)
        never = [one for one in wanted if not _takes(inner, asked[depth:], one)]
        if never or not wanted:
            raise ConfigError(f"{place}: never has the value {never[0]!r}" if never else f"{place}: no value is given")
        if depth == len(asked) and isinstance(inner, Constant):
            raise ConfigError(f"{place}: always has the value {inner.value!r}: leave the condition out")
        found.append((asked, wanted))
    return Rule(path, _deepest(node, path)[1], tuple(found))


def _parts(node: Node) -> Mapping[str, Node]:
    """Return the parts of a mapping's node by key; none of another node."""
    if not isinstance(node, Composite) or node.keys is None:
        return {}
    return dict(zip(node.keys, node.parts, strict=True))


def _options(node: Node) -> Sequence[Node]:
    return node.options if isinstance(node, Choice) else ()


def _names(node: Node) -> set[str]:
    return {*_parts(node)}.union(*map(_names, _options(node)))


def _takes(node: Node, path: Path, value: Any = _ABSENT) -> bool:
    """Return True if there may be something at a path below a node, and if it may have a value, if one is given."""
    if isinstance(node, Conditional):
        node = node.whole
    if any(_takes(option, path, value) for option in _options(node)):
        return True
    if not path:
        return value is _ABSENT or node.contains(value)
    return path[0] in _parts(node) and _takes(_parts(node)[path[0]], path[1:], value)


def _deepest(node: Node, path: Path) -> tuple[int, Node]:
    """Return how far a path leads through mappings alone, and the node there."""
    for depth, step in enumerate(path):
        if step not in _parts(node):
            return depth, node
        node = _parts(node)[step]
    return len(path), node


def _offset(node: Node, path: Path) -> int:
    """Return the first column of the node at a path."""
    start = 0
    for step in path:
        for key, part in _parts(node).items():
            if key == step:
                node = part
                break
            start += part.width
    return start


def _at(value: Any, path: Path) -> Any:
    for step in path:
        if not isinstance(value, Mapping) or step not in value:
            return _ABSENT
        value = value[step]
    return value


def _is_one_of(value: Any, wanted: Sequence[Any]) -> bool:
    return any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in wanted)


def _put(value: Any, path: Path, inner: Any) -> Any:
    if not path or not isinstance(value, Mapping):
        return inner if not path else value
    return {**value, path[0]: _put(value.get(path[0], {}), path[1:], inner)}


def _drop(value: Any, path: Path) -> Any:
    if _at(value, path) is _ABSENT:
        return value
    if len(path) == 1:
        return {key: inner for key, inner in value.items() if key != path[0]}
    return {**value, path[0]: _drop(value[path[0]], path[1:])}
