"""WebSocket handshakes: whether a request is one, what its client offers, and taking it."""

from __future__ import annotations

import base64

from aiohttp import web

from sampan.api.errors import unauthorized

MAX_MESSAGE = 4 * 1024 * 1024
PROTOCOLS = "Sec-WebSocket-Protocol"
BEARER = "base64url.bearer.authorization.k8s.io."
"""What precedes a token among a handshake's protocols: scripts in a browser can set no header Authorization."""


def upgrade(request: web.BaseRequest) -> str:
    """The protocol that a request asks to go on with, in lower case; "" for a plain request."""
    connection = ",".join(request.headers.getall("Connection", ())).lower()
    return request.headers.get("Upgrade", "").strip().lower() if "upgrade" in connection else ""


def wants_websocket(request: web.BaseRequest) -> bool:
    """Whether the request is a WebSocket handshake."""
    return upgrade(request) == "websocket"


def offered(request: web.BaseRequest, header: str = PROTOCOLS) -> list[str]:
    """The protocols that the client names, best first, without its token; a header may stand several times."""
    return [name for name in _listed(request, header) if not name.startswith(BEARER)]


def authorization(request: web.BaseRequest) -> str:
    """The header Authorization, or what stands for it in a WebSocket handshake; "" for none.

    ApiError 401 for a token that is none, is one of several, or stands alone: the answer to a handshake has to name
    one of the protocols offered, and must not be the token (upstream's websocket.ProtocolAuthenticator).
    """
    header = request.headers.get("Authorization", "")
    if header or not wants_websocket(request):
        return header
    tokens = [name.removeprefix(BEARER) for name in _listed(request, PROTOCOLS) if name.startswith(BEARER)]
    if not tokens:
        return ""
    try:
        token = base64.b64decode(tokens[0] + "=" * (-len(tokens[0]) % 4), b"-_", validate=True).decode()
    except ValueError as error:
        raise unauthorized() from error
    if len(tokens) > 1 or "=" in tokens[0] or not offered(request):
        raise unauthorized()
    return f"Bearer {token}"


async def open_websocket(request: web.BaseRequest, protocol: str) -> web.WebSocketResponse:
    """Answer the handshake; ConnectionResetError where the client has gone."""
    socket = web.WebSocketResponse(protocols=(protocol,) if protocol else (), compress=False,
                                   max_msg_size=MAX_MESSAGE, timeout=2.0)
    await socket.prepare(request)
    return socket


def _listed(request: web.BaseRequest, header: str) -> list[str]:
    return [name.strip() for value in request.headers.getall(header, ()) for name in value.split(",") if name.strip()]
