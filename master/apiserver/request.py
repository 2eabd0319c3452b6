"""What a request asks for, read from its method, path and query, as kube-apiserver's RequestInfo has it.

Paths are ``/api/v1/...`` for the core group and ``/apis/GROUP/VERSION/...`` for the others; all else (``/healthz``,
discovery) is no resource request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qs, unquote

from sampan.api.errors import bad_request

_METHOD_VERBS = {"POST": "create", "GET": "get", "HEAD": "get", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_INTEGER = re.compile(r"([+-]?)0*([0-9]{1,19})")
_NAMESPACE_SUBRESOURCES = frozenset(("status", "finalize"))


@dataclass(frozen=True, slots=True)
class Query:
    """The query's parameters; a name may stand there several times (``command=sh&command=-c``)."""

    values: Mapping[str, list[str]] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Query:
        """Read a query string; what is not UTF-8 is replaced, never refused."""
        if not text:
            return _NO_QUERY
        try:
            return cls(parse_qs(text, keep_blank_values=True, max_num_fields=1000))
        except ValueError as error:  # too many fields
            raise bad_request(f"invalid query: {error}") from error

    def get(self, name: str, default: str = "") -> str:
        """The first value of a parameter."""
        values = self.values.get(name)
        return values[0] if values else default

    def all(self, name: str) -> list[str]:
        """Every value of a parameter, in order."""
        return list(self.values.get(name, ()))

    def has(self, name: str) -> bool:
        """Whether the parameter stands there, empty or not."""
        return name in self.values

    def flag(self, name: str) -> bool:
        """A boolean as upstream reads it: there and neither ``false`` nor ``0``."""
        return name in self.values and self.get(name).lower() not in ("false", "0")

    def integer(self, name: str) -> int | None:
        """A whole number, None where it is not given; 400 for anything else."""
        text = self.get(name)
        if not text:
            return None
        match = _INTEGER.fullmatch(text)
        if match is None or not -(1 << 63) <= int(match[1] + match[2]) < (1 << 63):
            raise bad_request(f'strconv.ParseInt: parsing "{text}": invalid syntax')
        return int(match[1] + match[2])


_NO_QUERY = Query()


@dataclass(frozen=True, slots=True)
class RequestInfo:
    """One request. `verb` is "" for methods that no resource has, such as TRACE.

    For paths that name no resource, `is_resource` is false and `verb` is the method in lower case.
    """

    verb: str
    path: str
    is_resource: bool = False
    group: str = ""
    version: str = ""
    namespace: str = ""
    plural: str = ""
    name: str = ""
    subresource: str = ""
    parts: tuple[str, ...] = ()
    """The path's parts from the plural on; a fourth part (proxy) is found here."""
    query: Query = _NO_QUERY


def parse(method: str, target: str) -> RequestInfo:
    """Read a request's method and target (``/api/v1/pods?watch=1``); ApiError 400 where the query cannot be read."""
    raw_path, _, raw_query = target.partition("?")
    path = unquote(raw_path) if "%" in raw_path else raw_path
    query = Query.parse(raw_query)
    parts = [part for part in path.split("/") if part]
    plain = RequestInfo(method.lower(), path, query=query)
    if not parts or parts[0] not in ("api", "apis"):
        return plain
    head = 2 if parts[0] == "api" else 3
    if len(parts) <= head:
        return plain  # discovery
    group, version = ("", parts[1]) if parts[0] == "api" else (parts[1], parts[2])
    rest = parts[head:]
    verb = _METHOD_VERBS.get(method, "")
    if rest[0] == "watch" and len(rest) > 1:  # the deprecated form of watches: /api/v1/watch/pods
        verb, rest = "watch", rest[1:]
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    plural, name, subresource = (*rest[:3], "", "", "")[:3]
    return RequestInfo(_verb(verb, name, query), path, True, group, version, namespace, plural, name, subresource,
                       tuple(rest), query)


def _verb(verb: str, name: str, query: Query) -> str:
    if name:
        return verb
    if verb == "get":
        return "watch" if query.flag("watch") else "list"
    return "deletecollection" if verb == "delete" else verb
