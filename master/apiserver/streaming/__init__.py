"""Connect handlers: logs, exec, attach and port-forward of pods, over every protocol that clients use for them; and
requests to pods, Services and nodes.
"""

from __future__ import annotations

from random import Random
from typing import Any

from aiohttp import web

from master.apiserver.connect import ConnectHandlers, read_name
from master.apiserver.request import RequestInfo
from master.apiserver.streaming import logs, places, pods, portforward, proxy, remote
from master.nodes.streams import StreamOpener
from sampan.api.codec import from_tree
from sampan.api.resources import ENDPOINTS, PODS
from sampan.api.types import core_v1
from sampan.client.protocol import Client

Tree = dict[str, Any]


class PodStreams:
    """The handlers; `streams` reaches the nodes, `client` knows a Service's pods.

    Whoever may `create` on exec, attach and portforward may use them, with GET too: a WebSocket handshake is a GET, and
    must not let a mere reader run commands (KEP-4006).
    """

    def __init__(self, streams: StreamOpener, client: Client, rng: Random | None = None) -> None:
        self._streams = streams
        self._client = client
        self._rng = rng or Random()  # noqa: S311 - which pod of a Service is asked

    @property
    def handlers(self) -> ConnectHandlers:
        """By plural and subresource, as the API server takes them."""
        return {("nodes", "proxy"): self.node_proxy, ("pods", "proxy"): self.pod_proxy,
                ("services", "proxy"): self.service_proxy, ("pods", "log"): self.log, ("pods", "exec"): self.exec,
                ("pods", "attach"): self.attach, ("pods", "portforward"): self.port_forward}

    async def log(self, request: web.BaseRequest, info: RequestInfo, pod: Tree) -> web.StreamResponse:
        """GET pods/log; a pod without a node has an empty log."""
        wanted = pods.log_request(pod, info.query)
        node = pod["spec"].get("nodeName")
        if not node:
            return web.Response(status=204)
        return await logs.serve(request, self._streams, node, wanted)

    async def node_proxy(self, request: web.BaseRequest, info: RequestInfo, node: Tree) -> web.StreamResponse:
        """Any method on nodes/proxy; the agent itself only answers questions."""
        place = places.of_node(read_name("nodes", info.name), from_tree(core_v1.Node, node))
        return await proxy.serve(request, self._streams, place)

    async def pod_proxy(self, request: web.BaseRequest, info: RequestInfo, pod: Tree) -> web.StreamResponse:
        """Any method on pods/proxy."""
        place = places.of_pod(read_name("pods", info.name), from_tree(core_v1.Pod, pod))
        return await proxy.serve(request, self._streams, place)

    async def service_proxy(self, request: web.BaseRequest, info: RequestInfo, service: Tree) -> web.StreamResponse:
        """Any method on services/proxy."""
        asked = read_name("services", info.name)
        endpoints = await self._client.get(ENDPOINTS, asked.name, info.namespace)
        place = await places.of_service(asked, from_tree(core_v1.Service, service), endpoints, self._pod, self._rng)
        return await proxy.serve(request, self._streams, place)

    async def _pod(self, name: str, namespace: str) -> core_v1.Pod:
        return await self._client.get(PODS, name, namespace)

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
