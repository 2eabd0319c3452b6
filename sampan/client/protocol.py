"""The Client protocol: what schedulers, controllers and the command ask of the API.

Implementations: HTTP (`sampan.client.http`), in-process (`master.apiserver.local`) and a fake
(`sampan.client.fake`); all three pass tests/contract/test_client.py. Every refusal is an
`sampan.api.errors.ApiError`; a lost connection is one with code 503.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Literal, Protocol, TypeVar

from sampan.api.resources import Object, Resource

T = TypeVar("T", bound=Object)
Tree = dict[str, Any]
Propagation = Literal["Background", "Foreground", "Orphan"]
PatchKind = Literal["json", "merge", "strategic"]
EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """The answer to a list: objects, the revision it was read at, and the token for the rest ("" for none)."""

    items: list[T]
    revision: str
    continue_token: str = ""


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[T]):
    """One change. A BOOKMARK carries only `revision`; there `object` is None."""

    type: EventType
    object: T | None
    revision: str


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """How to delete. `grace_period` is in seconds, None for the object's own."""

    grace_period: int | None = None
    propagation: Propagation | None = None
    uid: str = ""
    revision: str = ""


PLAIN_DELETE = DeleteOptions()
"""The object's own grace period, no preconditions, the server's default propagation."""


@dataclass(frozen=True, slots=True)
class Patch:
    """A change to an object: a merge or strategic patch is a mapping, a JSON patch a list of operations."""

    kind: PatchKind
    body: Tree | list[Tree] = field(default_factory=dict)


class Client(Protocol):
    """The API as typed calls. Objects that come back are read-only; make a changed copy with msgspec's `replace`."""

    async def get(self, resource: Resource[T], name: str, namespace: str = "") -> T:
        """One object; ApiError 404 where it is not there."""

    async def list(self, resource: Resource[T], namespace: str = "", *, label_selector: str = "",
                   field_selector: str = "", limit: int = 0, continue_token: str = "", revision: str = "") -> Page[T]:
        """The objects of a namespace, or of all for "". `revision` "0" allows whatever the server has at hand."""

    def watch(self, resource: Resource[T], namespace: str = "", *, revision: str = "", label_selector: str = "",
              field_selector: str = "", timeout_seconds: int = 0) -> AsyncGenerator[WatchEvent[T], None]:
        """Changes after `revision`, until the server ends the watch; ApiError 410 where that is too long ago.

        Bookmarks are asked for. An async generator: use it within `contextlib.aclosing`, which ends the watch.
        """

    async def create(self, resource: Resource[T], obj: T, namespace: str = "", *, dry_run: bool = False) -> T:
        """Store a new object; the namespace defaults to the object's own."""

    async def update(self, resource: Resource[T], obj: T, *, subresource: str = "") -> T:
        """Replace an object; with a resourceVersion in it only if nobody else changed it (ApiError 409 else)."""

    async def patch(self, resource: Resource[T], name: str, patch: Patch, namespace: str = "", *,
                    subresource: str = "") -> T:
        """Change part of an object."""

    async def delete(self, resource: Resource[T], name: str, namespace: str = "",
                     options: DeleteOptions = PLAIN_DELETE) -> None:
        """Delete one object, or begin to; ApiError 404 where it is not there, 409 where uid or revision differ."""

    async def delete_collection(self, resource: Resource[T], namespace: str = "", *, label_selector: str = "",
                                field_selector: str = "",
                                options: DeleteOptions = PLAIN_DELETE) -> None:
        """Delete all that the selectors match."""

    async def post(self, resource: Resource[Any], name: str, subresource: str, body: Tree,
                   namespace: str = "") -> Tree:
        """Create on a subresource that speaks another kind, such as pods/binding or pods/eviction."""

    async def server_resources(self) -> Sequence[Resource[Any]]:
        """Every resource that the server serves now, custom ones included, typed as PartialObjectMetadata."""
