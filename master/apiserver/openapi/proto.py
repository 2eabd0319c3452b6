"""OpenAPI v2 as protobuf: gnostic's openapi.v2.Document, which kubectl asks for by name.

The encoder is driven by a table of field numbers. Values of extensions are YAML text there; JSON is YAML.
Source: github.com/google/gnostic, openapiv2/OpenAPIv2.proto; the wire format is protobuf's encoding guide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

Tree = Mapping[str, Any]
Encoder = Callable[[Any], bytes]

_VARINT: Final = 0
_LENGTH: Final = 2


def encode_document(document: Tree) -> bytes:
    """The document's protobuf form."""
    return _message("Document", document)


def varint(number: int) -> bytes:
    """A number in base 128, least significant group first."""
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def _field(number: int, data: bytes) -> bytes:
    return varint(number << 3 | _LENGTH) + varint(len(data)) + data


def _text(value: str) -> bytes:
    return value.encode()


def _any(value: Any) -> bytes:
    """Any: the value as YAML text in field 2."""
    return _field(2, msgspec.json.encode(value) + b"\n")


def _named(encoder: Encoder) -> Callable[[Tree], bytes]:
    """A mapping as gnostic has it: repeated pairs of name and value in field 1."""
    return lambda mapping: b"".join(_pair(1, name, encoder(value)) for name, value in mapping.items())


def _pair(number: int, name: str, value: bytes) -> bytes:
    return _field(number, _field(1, _text(name)) + _field(2, value))


def _message(name: str, value: Tree) -> bytes:
    """A message of the table below; fields that it does not know must be extensions."""
    fields, extensions = _MESSAGES[name]
    result = bytearray()
    for key, child in value.items():
        if key.startswith("x-") and key not in fields:
            result += _pair(extensions, key, _any(child))
            continue
        number, encoder, repeated = fields[key]
        if encoder is None:
            result += varint(number << 3 | _VARINT) + b"\x01" if child else b""
        elif repeated:
            for item in child:
                result += _field(number, encoder(item))
        else:
            result += _field(number, encoder(child))
    return bytes(result)


def _of(name: str) -> Encoder:
    return lambda value: _message(name, value)


def _schema(value: Tree) -> bytes:
    return _message("Schema", value)


def _strings(value: list[str] | str) -> bytes:
    """TypeItem and StringArray: strings in field 1."""
    return b"".join(_field(1, _text(item)) for item in ([value] if isinstance(value, str) else value))


def _additional(value: Any) -> bytes:
    """AdditionalPropertiesItem: a schema, or whether any properties may stand there."""
    if isinstance(value, bool):
        return varint(2 << 3 | _VARINT) + varint(int(value))
    return _field(1, _schema(value))


def _parameter(value: Tree) -> bytes:
    """ParametersItem, which wraps a Parameter, which wraps one of several kinds of parameter."""
    if value["in"] == "body":
        return _field(1, _field(1, _message("BodyParameter", value)))
    number = 3 if value["in"] == "query" else 4
    kind = "QueryParameter" if value["in"] == "query" else "PathParameter"
    return _field(1, _field(2, _field(number, _message(kind, value))))


def _paths(value: Tree) -> bytes:
    return b"".join(_pair(2, path, _message("PathItem", item)) for path, item in value.items())


def _response(value: Tree) -> bytes:
    """ResponseValue, which wraps a Response."""
    return _field(1, _message("Response", value))


def _schema_item(value: Tree) -> bytes:
    """SchemaItem and ItemsItem: a schema in field 1."""
    return _field(1, _schema(value))


def _security_definition(value: Tree) -> bytes:
    """SecurityDefinitionsItem: we only have API keys."""
    return _field(2, _message("ApiKeySecurity", value))


_Field = tuple[int, Encoder | None, bool]
_Fields = Mapping[str, _Field]


def _one(number: int, encoder: Encoder = _text) -> _Field:
    return number, encoder, False


def _many(number: int, encoder: Encoder = _text) -> _Field:
    return number, encoder, True


def _flag(number: int) -> _Field:
    """A boolean; False is the same as none."""
    return number, None, False


_OPERATION: Final = _of("Operation")

# Message: its fields by JSON name, and the number of its extensions.
_MESSAGES: Final[Mapping[str, tuple[_Fields, int]]] = {
    "Document": ({"swagger": _one(1), "info": _one(2, _of("Info")), "paths": _one(8, _paths),
                  "definitions": _one(9, _named(_schema)), "security": _many(12, _named(_strings)),
                  "securityDefinitions": _one(13, _named(_security_definition))}, 16),
    "Info": ({"title": _one(1), "version": _one(2), "description": _one(3)}, 7),
    "ApiKeySecurity": ({"type": _one(1), "name": _one(2), "in": _one(3), "description": _one(4)}, 5),
    "PathItem": ({"get": _one(2, _OPERATION), "put": _one(3, _OPERATION), "post": _one(4, _OPERATION),
                  "delete": _one(5, _OPERATION), "patch": _one(8, _OPERATION),
                  "parameters": _many(9, _parameter)}, 10),
    "Operation": ({"tags": _many(1), "summary": _one(2), "description": _one(3), "operationId": _one(5),
                   "produces": _many(6), "consumes": _many(7), "parameters": _many(8, _parameter),
                   "responses": _one(9, _named(_response)), "schemes": _many(10), "deprecated": _flag(11)}, 13),
    "BodyParameter": ({"description": _one(1), "name": _one(2), "in": _one(3), "required": _flag(4),
                       "schema": _one(5, _schema)}, 6),
    "QueryParameter": ({"required": _flag(1), "in": _one(2), "description": _one(3), "name": _one(4), "type": _one(6),
                        "format": _one(7), "uniqueItems": _flag(20)}, 23),
    "PathParameter": ({"required": _flag(1), "in": _one(2), "description": _one(3), "name": _one(4), "type": _one(5),
                       "format": _one(6), "uniqueItems": _flag(19)}, 22),
    "Response": ({"description": _one(1), "schema": _one(2, _schema_item)}, 5),
    "Schema": ({"$ref": _one(1), "format": _one(2), "title": _one(3), "description": _one(4), "default": _one(5, _any),
                "pattern": _one(12), "uniqueItems": _flag(16), "required": _many(19), "enum": _many(20, _any),
                "additionalProperties": _one(21, _additional), "type": _one(22, _strings),
                "items": _one(23, _schema_item), "allOf": _many(24, _schema),
                "properties": _one(25, _named(_schema)), "readOnly": _flag(27), "example": _one(30, _any)}, 31),
}
