"""Connect handlers: logs, exec, attach and port-forward of pods, over every protocol that clients use for them; and
requests to nodes' own ports.
"""

from __future__ import annotations

from typing import Any

from aiohttp import web

from master.apiserver.connect import ConnectHandlers
from master.apiserver.request import RequestInfo
from master.apiserver.streaming import logs, pods, portforward, proxy, remote
from master.nodes.streams import StreamOpener

Tree = dict[str, Any]


class PodStreams:
    """The handlers; `streams` reaches the nodes. Whoever may `create` on exec, attach and portforward may use them,
    with GET too: a WebSocket handshake is a GET, and must not let a mere reader run commands (KEP-4006).
    """

    def __init__(self, streams: StreamOpener) -> None:
        self._streams = streams

    @property
    def handlers(self) -> ConnectHandlers:
        """By plural and subresource, as the API server takes them."""
        return {("nodes", "proxy"): self.node_proxy, ("pods", "log"): self.log, ("pods", "exec"): self.exec,
                ("pods", "attach"): self.attach, ("pods", "portforward"): self.port_forward}

    async def log(self, request: web.BaseRequest, info: RequestInfo, pod: Tree) -> web.StreamResponse:
        """GET pods/log; a pod without a node has an empty log."""
        wanted = pods.log_request(pod, info.query)
        node = pod["spec"].get("nodeName")
        if not node:
            return web.Response(status=204)
        return await logs.serve(request, self._streams, node, wanted)

    async def node_proxy(self, request: web.BaseRequest, info: RequestInfo, node: Tree) -> web.StreamResponse:
        """GET on nodes/proxy; there is nothing on a node that could be changed so."""
        return await proxy.serve(request, self._streams, node["metadata"]["name"], proxy.target(request.raw_path))

    async def exec(self, request: web.BaseRequest, info: RequestInfo, pod: Tree) -> web.StreamResponse:
        """GET or POST pods/exec."""
        wanted = pods.exec_request(pod, info.query)
        return await remote.serve(request, self._streams, pods.node_of(pod), wanted)

    async def attach(self, request: web.BaseRequest, info: RequestInfo, pod: Tree) -> web.StreamResponse:
        """GET or POST pods/attach."""
        wanted = pods.attach_request(pod, info.query)
        return await remote.serve(request, self._streams, pods.node_of(pod), wanted)

    async def port_forward(self, request: web.BaseRequest, info: RequestInfo, pod: Tree) -> web.StreamResponse:
        """GET or POST pods/portforward."""
        target = portforward.Target(self._streams, pods.node_of(pod), pods.reference(pod))
        return await portforward.serve(request, target, info.query)


__all__ = ["PodStreams"]
