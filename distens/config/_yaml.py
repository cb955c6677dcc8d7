"""YAML 1.2 into plain values. Sizes and depths are checked while the text is read, before any value is made.

A text of a stranger may be small and stand for any number of values: aliases of aliases, merge keys, keys that are
lists of aliases. So the nodes are counted as they come, each alias as all that it stands for.
"""

from __future__ import annotations

from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from distens.config.raw_values import MAX_DEPTH, MAX_VALUES
from distens.printable import printable

MAX_NODES = 20_000
"""The most values that may be written down. ruamel takes a second for 10,000."""

MAX_DIGITS = 400
"""The most characters of a number; a longer one takes long to convert, and is no option's value."""

MAX_MESSAGE = 200

_MAP, _SEQUENCE, _MERGE = "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:merge"
_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


def read_values(text: str) -> Any:
    """Return the plain values of a YAML 1.2 text; what an alias stands for is copied.

    Raises:
        ValueError: the text is not YAML 1.2, or has too many values, or is nested too deeply.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _BoundedComposer
    try:
        root = yaml.compose(text)
        return None if root is None else _build(root, yaml.constructor, ())
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f" (line {mark.line + 1}, column {mark.column + 1})" if mark else ""
        raise ValueError(_in_one_line(error.context, error.problem) + place) from error
    except YAMLError as error:
        raise ValueError(_in_one_line(str(error))) from error


def _in_one_line(*parts: str | None) -> str:
    text = " ".join(", ".join(part for part in parts if part).split())
    return printable(text if len(text) < MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…")


class _BoundedComposer(Composer):
    """A composer that refuses texts that stand for too many values."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.warn_double_anchors = False  # YAML lets an anchor be set anew
        self._written = self._open = 0
        self._sizes: dict[int, tuple[int, int]] = {}  # id of a node that is whole -> its values, its depth

    def compose_document(self) -> Any:
        version = self.parser.peek_event().version
        if version is not None and tuple(version) != (1, 2):
            raise ValueError(f"%YAML {version[0]}.{version[1]}: a config is YAML 1.2")
        return super().compose_document()

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.parser.peek_event()
        self._written += 1
        if self._written > MAX_NODES:
            raise ValueError(f"more than {MAX_NODES:,} values are written down (line {event.start_mark.line + 1})")
        if self._open > MAX_DEPTH:
            raise ValueError(f"nested too deeply, more than {MAX_DEPTH} deep (line {event.start_mark.line + 1})")
        self._open += 1
        node = super().compose_node(parent, index)
        self._open -= 1
        if isinstance(node, ScalarNode) and str(node.tag) == _MERGE:
            line = event.start_mark.line + 1
            raise ValueError(f"YAML 1.2 has no merge keys (`<<`, line {line}); write the values out")
        if not isinstance(event, AliasEvent):
            sizes = [self._sizes[id(inner)] for inner in _inner(node)]
            self._sizes[id(node)] = (
                1 + sum(size for size, _ in sizes),
                1 + max([depth for _, depth in sizes], default=0),
            )
        elif id(node) not in self._sizes:
            raise ValueError(
                f"the alias *{event.anchor} is inside of what it stands for (line {event.start_mark.line + 1})"
            )
        size, depth = self._sizes[id(node)]
        if size > MAX_VALUES:
            raise ValueError(
                f"more than {MAX_VALUES:,} values, with aliases expanded (line {event.start_mark.line + 1})"
            )
        if depth > MAX_DEPTH + 1:
            raise ValueError(f"nested more than {MAX_DEPTH} deep, with aliases expanded")
        return node


def _inner(node: Node) -> list[Node]:
    if isinstance(node, MappingNode):
        return [inner for pair in node.value for inner in pair]
    return list(node.value) if isinstance(node, SequenceNode) else []


def _build(node: Node, constructor: Any, place: tuple[str, ...]) -> Any:
    where = f"{printable('.'.join(place))}: " if place else ""
    if isinstance(node, ScalarNode):
        if str(node.tag) in _NUMBERS and len(node.value) > MAX_DIGITS:
            raise ValueError(f"{where}a number of {len(node.value)} digits; at most {MAX_DIGITS} are allowed")
        return constructor.construct_object(node)
    if str(node.tag) not in (_MAP, _SEQUENCE):
        raise ValueError(f"{where}the tag {str(node.tag)!r} is not allowed; only plain lists and mappings are")
    if isinstance(node, SequenceNode):
        return [_build(inner, constructor, (*place, str(i))) for i, inner in enumerate(node.value)]
    values: dict[Any, Any] = {}
    for key_node, inner in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, ScalarNode):
            raise ValueError(f"{where}a key that is a list or a mapping (line {line})")
        key = _build(key_node, constructor, place)
        if key in values:
            raise ValueError(f"{where}duplicate key {str(key)[:100]!r} (line {line})")
        values[key] = _build(inner, constructor, (*place, str(key)[:100]))
    return values
