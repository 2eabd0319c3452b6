"""The watch cache: all objects of one resource in memory, fed by the store, serving every read and watch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from master.apiserver.entry import CacheEvent, Entry, Fields, Listing, Match
from master.store.protocol import Store
from sampan.api.resources import Resource
from sampan.loop.clock import Clock


class CacheWatch:
    """A running watch: `async for events in watch`, each time all events that are there. Close with `aclosing`.

    Ends by itself when the reader is too slow, or the cache had to start anew: the client then resumes from the last
    revision that it saw.
    """

    def __aiter__(self) -> CacheWatch:
        """Itself."""
        return self

    async def __anext__(self) -> Sequence[CacheEvent]:
        """The next events; waits for them. Write their `data` joined."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Stop watching."""


class ResourceCache:
    """All objects of one resource. `run` must be running; the other calls wait until the cache is filled.

    Revisions come as the client wrote them ("" for unset); what they mean is upstream's (API concepts, "Resource
    versions"). A missing namespace means all.
    """

    def __init__(self, resource: Resource[Any], store: Store, clock: Clock, *, fields: Fields | None = None,
                 window: int = 4096, bookmark_interval: float = 60.0) -> None:
        """`fields` gives what field selectors may ask for; `window` is how many past events are kept."""

    @property
    def revision(self) -> int:
        """The cache shows everything up to this revision; -1 before it is filled."""
        raise NotImplementedError

    async def run(self) -> None:
        """Follow the store until cancelled."""

    def peek(self, namespace: str, name: str) -> Entry | None:
        """The object as the cache has it now, which may be a moment old."""
        raise NotImplementedError

    async def get(self, namespace: str, name: str, *, revision: str = "") -> Entry | None:
        """The object, as new as the store ("") or not older than `revision` ("0": whatever is there)."""
        raise NotImplementedError

    async def list(self, namespace: str = "", *, match: Match | None = None, limit: int = 0,
                   continue_token: str = "", revision: str = "", revision_match: str = "") -> Listing:
        """Objects in key order. ApiError 400 for a malformed token or revision, 410 for one that is too old (with a
        token in it to go on with), 422 for a bad resourceVersionMatch, 504 for a revision yet to come.
        """
        raise NotImplementedError

    async def wait_for(self, revision: int) -> None:
        """Return when the cache shows `revision`: read-after-write. ApiError 504 after three seconds."""

    async def watch(self, revision: str = "", namespace: str = "", *, match: Match | None = None,
                    bookmarks: bool = False, initial_end: bool = False) -> CacheWatch:
        """Events after `revision`; "" and "0" begin with an ADDED for everything that is there.

        Objects that enter or leave `match` appear as ADDED or DELETED. ApiError 410 where the window does not reach
        back (upstream sends that as an ERROR event of a 200 answer, not as a 410 answer), 400 for a malformed
        revision. `initial_end` marks the end of the first ADDEDs with an annotated bookmark.
        """
        raise NotImplementedError
