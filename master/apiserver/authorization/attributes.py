"""What an authorizer is asked, what it answers, and how a refusal reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from master.apiserver.request import RequestInfo
from master.apiserver.strategy import User
from sampan.api.errors import ApiError, forbidden_request
from sampan.api.selectors import EVERY_FIELD, FieldSelector, SelectorError, parse_fields

_CONNECTS = frozenset(("exec", "attach", "portforward"))
"""Subresources that act although a WebSocket opens them with GET: whoever may only read may not use them."""
_COLLECTION = frozenset(("list", "watch", "deletecollection"))


@dataclass(frozen=True, slots=True)
class Attributes:
    """A verb on a resource, or on a path that is none. `fields` is what a list is narrowed to."""

    verb: str
    group: str = ""
    plural: str = ""
    subresource: str = ""
    namespace: str = ""
    name: str = ""
    path: str = ""
    fields: str = ""

    @classmethod
    def of(cls, info: RequestInfo) -> Attributes:
        """Of a request. A list of the one object that a field selector names is about that object (RequestInfo)."""
        if not info.is_resource:
            return cls(info.verb, path=info.path)
        verb = "create" if info.verb == "get" and info.subresource in _CONNECTS else info.verb
        asked = cls(verb, info.group, info.plural, info.subresource, info.namespace, info.name)
        fields = info.query.get("fieldSelector") if info.verb in _COLLECTION else ""
        if fields:
            asked = replace(asked, fields=fields)
            asked = replace(asked, name=asked.name or asked.selector().exact("metadata.name") or "")
        return asked

    def selector(self) -> FieldSelector:
        """The field selector, read; one that cannot be read narrows nothing (its request will be refused)."""
        try:
            return parse_fields(self.fields) if self.fields else EVERY_FIELD
        except SelectorError:
            return EVERY_FIELD

    @property
    def resource(self) -> str:
        """``pods`` or ``pods/log``, as rules name it."""
        return f"{self.plural}/{self.subresource}" if self.subresource else self.plural


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether somebody may, and why (or why not); `denied` ends the search, otherwise another may allow it."""

    allowed: bool
    reason: str = ""
    denied: bool = False


NO_OPINION = Decision(allowed=False)
ALLOWED = Decision(allowed=True)


class Authorizer(Protocol):
    """Decides who may do what."""

    def decide(self, user: User, asked: Attributes) -> Decision:
        """From what is known now; never waits."""


def refusal(user: User, asked: Attributes, reason: str = "") -> ApiError:
    """403 in upstream's words (k8s.io/apiserver, responsewriters.Forbidden)."""
    end = f": {reason}" if reason else ""
    if asked.path:
        return ApiError(403, "Forbidden",
                        f'forbidden: User "{user.name}" cannot {asked.verb} path "{asked.path}"{end}')
    where = f'in the namespace "{asked.namespace}"' if asked.namespace else "at the cluster scope"
    return forbidden_request(asked.group, asked.plural, asked.name, f'User "{user.name}" cannot {asked.verb} resource '
                             f'"{asked.resource}" in API group "{asked.group}" {where}{end}')
