"""Subresources that become streams (pods/exec, attach, log, portforward, proxy): who serves them, and how they are
called.

The API server authenticates, authorises, finds the pod, and hands over. The handler answers by itself: a plain or
streamed response, a WebSocket, or another upgraded connection. It may raise ApiError as long as nothing is sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from master.apiserver.request import Query, RequestInfo
from sampan.api.errors import bad_request

Tree = dict[str, Any]

ConnectHandler = Callable[[web.BaseRequest, RequestInfo, Tree], Awaitable[web.StreamResponse]]
"""Called with the request, what it asks for (`info.query` has the parameters) and the object it concerns."""

ConnectHandlers = Mapping[tuple[str, str], ConnectHandler]
"""Handlers by (plural, subresource), such as ``("pods", "exec")``."""

_SCHEMES = ("", "http", "https")
_KINDS = {"pods": "pod", "services": "service", "nodes": "node"}


@dataclass(frozen=True, slots=True)
class Asked:
    """An object's name as it stands in the path of a proxied request: `text`, taken apart."""

    text: str
    name: str
    port: str = ""
    scheme: str = ""


def read_name(plural: str, text: str) -> Asked:
    """NAME, NAME:PORT or SCHEME:NAME:PORT (upstream's SplitSchemeNamePort); ApiError 400 for anything else."""
    parts = text.split(":")
    scheme, name, port = parts if len(parts) == 3 else ("", *parts, "")[:3]
    asked = Asked(text, name, port, scheme)
    if len(parts) > 3 or not asked.name or asked.scheme not in _SCHEMES:
        raise bad_request(f'invalid {_KINDS[plural]} request "{text}"')
    return asked


__all__ = ["Asked", "ConnectHandler", "ConnectHandlers", "Query", "RequestInfo", "Tree", "read_name"]
