"""YAML bodies to JSON trees: YAML 1.1 as Go's yaml.v2 reads it, so that a manifest means the same to both.

PyYAML's C parser makes the nodes; values are made here, because PyYAML's own constructor turns dates into objects
and 12:30:00 into a number, keeps duplicate keys to itself, and lets a few hundred bytes of aliases grow to gigabytes.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from typing import Any, Final

import yaml
from yaml.events import CollectionEndEvent, CollectionStartEvent, DocumentEndEvent
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

MAX_NODES: Final = 200_000
"""Values that one body may have, each alias counted as often as it is used."""

_TRUE: Final = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE: Final = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_NULL: Final = frozenset({"", "~", "null", "Null", "NULL"})
_NOT_FINITE: Final = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_INT: Final = re.compile(r"[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|[1-9][0-9_]*|0)")
_FLOAT: Final = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_TAG: Final = "tag:yaml.org,2002:"


_PLAIN: Final = "!plain"


class _Loader(yaml.CSafeLoader):
    """Tags every plain scalar the same, so that what it means is decided here alone."""

    yaml_implicit_resolvers = {None: [(_PLAIN, re.compile(""))]}


class YamlError(ValueError):
    """The text is no YAML, or none that has a JSON form; the message says where."""


def read_yaml(body: bytes, max_depth: int) -> tuple[Any, tuple[str, ...]]:
    """The first document's value, and a sentence about keys that were set twice (the last one counts)."""
    loader: Any = None
    try:
        text = body.decode("utf-8")
        _check_depth(text, max_depth)
        loader = _Loader(text)
        node = loader.get_node() if loader.check_node() else None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise YamlError(_where(error)) from error
    finally:
        if loader is not None:
            loader.dispose()
    if node is None:
        return None, ()
    reader = _Reader(max_depth)
    value = reader.value(node, 0)
    if not reader.duplicates:
        return value, ()
    return value, ("yaml: unmarshal errors:" + "".join(f"\n  {text}" for text in reader.duplicates),)


def _check_depth(text: str, max_depth: int) -> None:
    """Refuse what is nested too deeply before nodes are made: PyYAML's C composer recurses until the process dies."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.CSafeLoader):
        if isinstance(event, CollectionStartEvent):
            depth += 1
            if depth > max_depth:
                raise YamlError("exceeded max depth")
        elif isinstance(event, CollectionEndEvent):
            depth -= 1
        elif isinstance(event, DocumentEndEvent):
            return  # only the first document is read


def _where(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    if mark is not None:
        return f"line {mark.line + 1}: {getattr(error, 'problem', None) or 'cannot be read'}"
    if isinstance(error, UnicodeDecodeError):
        return "control characters are not allowed"
    if isinstance(error, RecursionError):
        return "exceeded max depth"
    return str(error).replace("\n", " ")


class _Reader:
    """Turns nodes into values and counts them."""

    def __init__(self, max_depth: int) -> None:
        self._max_depth = max_depth
        self._count = 0
        self.duplicates: list[str] = []

    def value(self, node: Node, depth: int) -> Any:
        self._count += 1
        if depth > self._max_depth:
            raise YamlError("exceeded max depth")
        if self._count > MAX_NODES:
            raise YamlError("document contains excessive aliasing")
        if isinstance(node, ScalarNode):
            return _scalar(node)
        if isinstance(node, SequenceNode):
            return [self.value(child, depth + 1) for child in node.value]
        assert isinstance(node, MappingNode)
        return self._mapping(node, depth)

    def _mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if isinstance(key_node, ScalarNode) and key_node.value == "<<" and key_node.tag == _PLAIN:
                for source in self._merge_sources(value_node, depth):
                    for name, value in source.items():
                        merged.setdefault(name, value)
                continue
            key = _key(key_node)
            if key in result:
                self.duplicates.append(f'line {key_node.start_mark.line + 1}: key "{key}" already set in map')
            result[key] = self.value(value_node, depth + 1)
        return {**merged, **result} if merged else result

    def _merge_sources(self, node: Node, depth: int) -> list[dict[str, Any]]:
        sources = node.value if isinstance(node, SequenceNode) else [node]
        values = [self.value(source, depth + 1) for source in sources]
        if not all(isinstance(value, dict) for value in values):
            raise YamlError("map merge requires map or sequence of maps as the value")
        return values


def _key(node: Node) -> str:
    """Keys become strings, as JSON wants them."""
    if not isinstance(node, ScalarNode):
        raise YamlError(f"line {node.start_mark.line + 1}: invalid map key")
    value = _scalar(node)
    if isinstance(value, bool):
        return "true" if value else "false"
    if value is None:
        raise YamlError(f"line {node.start_mark.line + 1}: invalid map key: null")
    return str(value)


def _scalar(node: ScalarNode) -> Any:
    text: str = node.value
    tag = str(node.tag).removeprefix(_TAG)
    if tag == "str":
        return text
    if tag == _PLAIN or tag in ("int", "float", "bool", "null"):
        return _plain(node, text)
    if tag == "binary":
        try:
            return base64.b64decode("".join(text.split()), validate=True).decode("utf-8")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise YamlError(f"line {node.start_mark.line + 1}: !!binary value contains invalid base64 data") from error
    raise YamlError(f"line {node.start_mark.line + 1}: cannot decode {node.tag} here")


def _plain(node: ScalarNode, text: str) -> Any:
    """An unquoted scalar by Go's rules."""
    if text in _NULL:
        return None
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    if _NOT_FINITE.fullmatch(text):
        raise YamlError(f"line {node.start_mark.line + 1}: {text} has no JSON form")
    if _INT.fullmatch(text) and len(text) < 1000:
        return _integer(text.replace("_", ""))
    if _FLOAT.fullmatch(text):
        number = float(text)
        if math.isinf(number):
            raise YamlError(f"line {node.start_mark.line + 1}: {text} is out of range")
        return number
    return text


def _integer(text: str) -> int:
    sign, digits = (-1, text[1:]) if text[0] == "-" else (1, text.removeprefix("+"))
    if len(digits) > 1 and digits[0] == "0" and digits[1].isdigit():
        return sign * int(digits, 8)
    return sign * int(digits, 0)
