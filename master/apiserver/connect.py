"""Subresources that become streams (pods/exec, attach, log, portforward): who serves them, and how they are called.

The API server authenticates, authorises, finds the pod, and hands over. The handler answers by itself: a plain or
streamed response, a WebSocket, or another upgraded connection. It may raise ApiError as long as nothing is sent.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from master.apiserver.request import Query, RequestInfo

Tree = dict[str, Any]

ConnectHandler = Callable[[web.BaseRequest, RequestInfo, Tree], Awaitable[web.StreamResponse]]
"""Called with the request, what it asks for (`info.query` has the parameters) and the object it concerns."""

ConnectHandlers = Mapping[tuple[str, str], ConnectHandler]
"""Handlers by (plural, subresource), such as ``("pods", "exec")``."""

__all__ = ["ConnectHandler", "ConnectHandlers", "Query", "RequestInfo", "Tree"]
