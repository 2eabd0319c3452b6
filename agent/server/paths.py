"""What the node's port serves: the kubelet's read endpoints."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from prometheus_client import generate_latest
from prometheus_client.core import Metric

from agent.server.http import Request, Response
from sampan.api import codec
from sampan.api.types import core_v1

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Families = Callable[[], Awaitable[Iterable[Metric]]]
Tree = dict[str, Any]


class _Given:
    """Metrics that have been collected already, in the shape that the exposition takes."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        return self._families


async def render(families: Iterable[Metric]) -> Response:
    """Prometheus' text. Written in a thread: thousands of lines would hold up whatever else the agent does."""
    text = await asyncio.to_thread(generate_latest, _Given(list(families)))
    return Response(200, text, METRICS_TYPE)


class Paths:
    """Answers by path. `metrics` are the sources by path, `pods` the pods of this node with their newest status."""

    def __init__(self, metrics: Mapping[str, Families], pods: Callable[[], Sequence[core_v1.Pod]],
                 summary: Callable[[bool], Awaitable[Tree]], config: Mapping[str, Any]) -> None:
        self._metrics = metrics
        self._pods = pods
        self._summary = summary
        self._config = config

    def label(self, path: str) -> str:
        """The path as metrics name it: one that is served, or "other", so that nobody can invent labels."""
        known = path.rstrip("/") or "/"
        return known if known in self._metrics or known in _OTHERS else "other"

    async def handle(self, request: Request) -> Response:
        """Answer one request of somebody who may ask it."""
        path = request.path.rstrip("/") or "/"
        source = self._metrics.get(path)
        if source is not None:
            return await render(await source())
        match path:
            case "/healthz" | "/healthz/ping" | "/healthz/log" | "/healthz/syncloop":
                return Response.text(200, "ok")
            case "/pods":
                return pod_list(self._pods())
            case "/runningpods":
                return pod_list([pod for pod in self._pods() if pod.status.phase == "Running"])
            case "/stats/summary":
                brief = request.query.get("only_cpu_and_memory", [""])[0].lower() in ("true", "1", "t")
                return Response.json(await self._summary(brief))
            case "/configz":
                return Response.json({"kubeletconfig": dict(self._config)})
        return Response.text(404, "404 page not found\n")


_OTHERS = frozenset(("/healthz", "/pods", "/runningpods", "/stats/summary", "/configz"))


def pod_list(pods: Sequence[core_v1.Pod]) -> Response:
    """A PodList."""
    head = msgspec.json.encode({"kind": "PodList", "apiVersion": "v1", "metadata": {}})
    body = head[:-1] + b',"items":[' + b",".join(codec.encode(pod) for pod in pods) + b"]}\n"
    return Response(200, body, "application/json")
