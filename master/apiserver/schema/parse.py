"""Request bodies to generic trees: JSON and YAML, with what a hostile or careless client may send."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from master.apiserver.schema.yaml_reader import YamlError, read_yaml
from sampan.api.errors import ApiError, bad_request

Tree = dict[str, Any]

MAX_BODY: Final = 3 * 1024 * 1024
"""Bytes; upstream's limit for a request body (the server answers 413 beyond it)."""
MAX_DEPTH: Final = 200
"""Levels of nesting that are read; upstream reads 10,000, but no API type has use for them."""

MAX_DUPLICATES: Final = 100
"""Members that stand twice, of which a client is told; upstream's decoder stops at as many."""

NO_OBJECT: Final = "couldn't get version/kind; json parse error: "
"""How the message begins where a body could not even be read as an object of some kind."""

_TOO_DEEP: Final = f"{NO_OBJECT}exceeded max depth"
_JSON: Final = frozenset({"", "application/json"})
_YAML: Final = frozenset({"application/yaml"})
_WHERE: Final = {
    "object keys must be strings": "looking for beginning of object key string",
    "trailing comma in object": "looking for beginning of object key string",
    "trailing comma in array": "looking for beginning of value",
    "expected ':'": "after object key",
    "expected ',' or '}'": "after object key:value pair",
    "expected ',' or ']'": "after array element",
}
"""What msgspec says of broken JSON, and where Go's parser says that it met the character."""
_INT64: Final = range(-2**63, 2**63)
_LONG_NUMBER: Final = re.compile(rb"[0-9]{19}")
# Where any of these stands in a body, counting colons after quotes does not count its members.
_UNUSUAL: Final = re.compile(rb'"[ \t\r\n]+:|\\u00(?:22|3[aA])')

_decode = msgspec.json.Decoder().decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class Parsed:
    """A body's tree, and the fields that stood in it twice (only looked for when asked).

    A duplicate is a path such as ``spec.replicas``, or for YAML a whole sentence as upstream's parser says it.
    """

    tree: Tree
    duplicates: tuple[str, ...] = ()


def parse(body: bytes, content_type: str = "application/json", *, find_duplicates: bool = False,
          kind: str = "") -> Parsed:
    """Read a JSON or YAML object; ApiError 400 where it is none, 415 for another content type.

    `kind` is the Kind that belongs at the request's path, for the message.
    """
    value, duplicates = _read(body, content_type, find_duplicates, kind)
    if not isinstance(value, dict):
        raise _unrecognised(body, kind, f"{NO_OBJECT}json: cannot unmarshal {go_name(value)} into Go value of type "
                                        "map[string]interface {}")
    return Parsed(value, duplicates)


def parse_value(body: bytes, content_type: str = "application/json") -> tuple[Any, tuple[str, ...]]:
    """Read any JSON or YAML value (a JSON patch is a list), and what stood in it twice; ApiError 400."""
    return _read(body, content_type, True, "")


def go_name(value: object) -> str:
    """A JSON value's type as Go's messages call it."""
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
        case None:
            return "null"
    return "object"


def _read(body: bytes, content_type: str, find_duplicates: bool, kind: str) -> tuple[Any, tuple[str, ...]]:
    media = content_type.partition(";")[0].strip().lower()
    duplicates: tuple[str, ...] = ()
    try:
        if media in _JSON or (media in _YAML and body.lstrip()[:1] == b"{" and _is_json(body)):
            value = _decode(body)
            if find_duplicates and _may_repeat(body, value):
                duplicates = _json_duplicates(body)
        elif media in _YAML:
            value, duplicates = read_yaml(body, MAX_DEPTH)
            duplicates = duplicates if find_duplicates else ()
        else:
            raise ApiError(415, "UnsupportedMediaType", "the body of the request was in an unknown format - accepted "
                                                        "media types include: application/json, application/yaml, "
                                                        "application/vnd.kubernetes.protobuf")
    except RecursionError:
        raise _unrecognised(body, kind, _TOO_DEEP) from None
    except YamlError as error:
        raise _unrecognised(body, kind, f"{NO_OBJECT}yaml: {error}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, ValueError) as error:
        raise _unrecognised(body, kind, f"{NO_OBJECT}{_syntax(body, error)}") from error
    if body.count(b"{") + body.count(b"[") > MAX_DEPTH and _deeper(value, MAX_DEPTH):
        raise _unrecognised(body, kind, _TOO_DEEP)
    return (_bounded(value) if _LONG_NUMBER.search(body) else value), duplicates


def _is_json(body: bytes) -> bool:
    """Whether a body that says it is YAML can be read by the faster JSON parser."""
    try:
        _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _unrecognised(body: bytes, kind: str, why: str) -> ApiError:
    """400 for a body that is no object; quotes its beginning, as upstream does."""
    if not kind:
        return bad_request(why)
    if not body:
        summary = "<empty>"
    elif body[:1] == b"{":
        text = body.decode("utf-8", "replace")
        summary = text if len(text) <= 30 else text[:30] + " ..."
    else:
        summary = body[:30].hex() + (" ..." if len(body) > 30 else "")
    return bad_request(f"the object provided is unrecognized (must be of type {kind}): {why} ({summary})")


def _syntax(body: bytes, error: Exception) -> str:
    """What is wrong with the text, in the words of Go's JSON parser."""
    if isinstance(error, UnicodeDecodeError):
        return f"invalid UTF-8 at byte {error.start}"
    text = str(error)
    match = re.search(r"\(byte (\d+)\)", text)
    if match is not None and "trailing characters" in text:
        return f"invalid character {chr(body[int(match[1]) - 1])!r} after top-level value"
    if match is not None and int(match[1]) < len(body):
        where = next((words for problem, words in _WHERE.items() if problem in text), f"at byte {match[1]}")
        return f"invalid character {chr(body[int(match[1])])!r} {where}"
    return "unexpected end of JSON input" if "truncated" in text else text


def _deeper(value: object, limit: int) -> bool:
    """Whether lists and objects nest deeper than the limit; without recursion."""
    level: list[Any] = [value]
    for _ in range(limit + 1):
        level = [child for node in level if isinstance(node, (dict, list))
                 for child in (node.values() if isinstance(node, dict) else node) if isinstance(child, (dict, list))]
        if not level:
            return False
    return True


def _bounded(value: Any) -> Any:
    """Whole numbers that do not fit 64 bits as floats, as Go reads them into untyped trees."""
    if isinstance(value, dict):
        return {key: _bounded(child) for key, child in value.items()}
    if isinstance(value, list):
        return [_bounded(child) for child in value]
    if isinstance(value, int) and value not in _INT64:
        return float(value)
    return value


def _may_repeat(body: bytes, value: object) -> bool:
    """Whether a member may stand twice in a body: False is sure, True has to be looked at.

    Every member has one colon behind a quote, and quotes within strings are escaped alike in both texts; a repeated
    member is not in the tree, so the body then has more of them than the tree written anew.
    """
    return _UNUSUAL.search(body) is not None or body.count(b'":') != _encode(value).count(b'":')


class _Marked(dict[str, Any]):
    """An object that had members twice."""

    twice: frozenset[str] = frozenset()


def _mark(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    marked = _Marked(result)
    seen: set[str] = set()
    marked.twice = frozenset(
        key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
    return marked


def _json_duplicates(body: bytes) -> tuple[str, ...]:
    """Paths of members that stand twice in one object."""
    found: list[str] = []

    def visit(node: Any, path: str) -> None:
        if isinstance(node, list):
            for index, child in enumerate(node):
                visit(child, f"{path}[{index}]")
        elif isinstance(node, dict):
            twice = node.twice if isinstance(node, _Marked) else frozenset()
            for key, child in node.items():
                place = f"{path}.{key}" if path else key
                if key in twice and len(found) < MAX_DUPLICATES:
                    found.append(place)
                visit(child, place)

    visit(json.loads(body, object_pairs_hook=_mark), "")
    return tuple(found)
