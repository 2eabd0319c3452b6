"""Which protocol a client wants to go on with, and going on with it."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

from master.apiserver.streaming.connection import SpdyConnection
from master.apiserver.streaming.wires import RawWire
from master.apiserver.websockets import offered, upgrade
from sampan.api.errors import ApiError, bad_request

VERSION_HEADER = "X-Stream-Protocol-Version"


def wants_upgrade(request: web.BaseRequest) -> bool:
    """Whether the request asks for another protocol, whichever."""
    return bool(upgrade(request))


def wants_spdy(request: web.BaseRequest) -> bool:
    """Whether the request asks for SPDY/3.1."""
    return upgrade(request) == "spdy/3.1"


def upgrade_required() -> ApiError:
    """The request is a plain one where only an upgraded connection will do."""
    return bad_request("Upgrade request required")


def choose(request: web.BaseRequest, header: str, known: Sequence[str], default: str | None) -> str:
    """The first of the client's protocols that is known here; `default` (None: 403) where it names none."""
    names = offered(request, header)
    for name in names:
        if name in known:
            return name
    if names or default is None:
        raise ApiError(403, "Forbidden", f"unable to upgrade: unable to negotiate protocol: client supports "
                                         f"[{' '.join(names)}], server accepts [{' '.join(known)}]")
    return default


def open_spdy(request: web.BaseRequest, version: str) -> SpdyConnection:
    """Take the connection over and switch to SPDY/3.1."""
    wire = RawWire(request)
    wire.switch([("Upgrade", "SPDY/3.1"), *([(VERSION_HEADER, version)] if version else [])])
    return SpdyConnection(wire)
