"""``/healthz``, ``/livez`` and ``/readyz``: all checks, or one of them by its path (API reference, "API health").

The answer is for probes, so it is short when all is well; ``?verbose`` lists the checks, ``?exclude=NAME`` leaves one
out. The names are upstream's where there is such a check, since probes and manifests name them: ``etcd`` is the store,
whichever it is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from master.apiserver.request import Query
from master.apiserver.responses import send

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[str]]
"""Answers what is wrong, "" for nothing."""
PATIENCE = 10.0
"""Seconds that a check may take: a disk under load may let a write wait for some, and nothing is dead then."""
LIVE = ("ping", "etcd")
"""The checks of `livez`: what only a restart would mend. `ping` shows that the event loop turns, by being answered."""
_TEXT = "text/plain; charset=utf-8"


class Health:
    """The checks by name."""

    def __init__(self, checks: Mapping[str, Check]) -> None:
        self._checks = checks

    def names(self, which: str) -> list[str]:
        """The checks of ``healthz``, ``livez`` or ``readyz``."""
        names = ["ping", *self._checks]
        return [name for name in names if name in LIVE] if which == "livez" else names

    async def answer(self, which: str, name: str, query: Query) -> web.Response:
        """The result of all checks, or of the one that is named; it is one of `names`."""
        if name:
            wrong = await self._look(name)
            return send(f"internal server error: {wrong}".encode() if wrong else b"ok", 500 if wrong else 200, _TEXT)
        names, excluded = self.names(which), set(query.all("exclude"))
        asked = [item for item in names if item not in excluded]
        found = dict(zip(asked, await asyncio.gather(*map(self._look, asked)), strict=True))
        good = not any(found.values())
        if good and not query.has("verbose"):
            return send(b"ok", content_type=_TEXT)
        for item, wrong in found.items():
            if wrong:
                log.warning("%s: %s: %s", which, item, wrong)
        lines = [_line(item, found.get(item)) for item in names]
        if unknown := sorted(excluded - set(names)):
            shown = ",".join(f'"{item}"' for item in unknown)
            lines.append(f"warn: some health checks cannot be excluded: no matches for {shown}")
        lines.append(f"{which} check {'passed' if good else 'failed'}")
        return send(("\n".join(lines) + "\n").encode(), 200 if good else 500, _TEXT)

    async def _look(self, name: str) -> str:
        if name == "ping":
            return ""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self._checks[name]()
        except TimeoutError:
            return f"no answer within {PATIENCE:g} s"


def _line(name: str, wrong: str | None) -> str:
    """`wrong` is None where the check was left out. Anybody may read this, so the reason stays in the log."""
    if wrong is None:
        return f"[+]{name} excluded: ok"
    return f"[-]{name} failed: reason withheld" if wrong else f"[+]{name} ok"
