"""Runs probes and httpGet hooks for real. Messages follow upstream's, because users search for them."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Sequence

from agent.engine.protocol import Engine, EngineError, EngineTimeout
from agent.probes import http
from agent.probes.protocol import ProbeResult, ProbeTarget
from sampan.api.types import core_v1

OUTPUT_LIMIT = 10 * 1024
"""Bytes of an exec probe's output that are shown."""


class PortError(ValueError):
    """A port name that no port of the container has."""


def port_number(port: int | str, container: core_v1.Container) -> int:
    """A probe's port: a number, or the name of one of the container's ports; PortError."""
    if isinstance(port, int):
        return port
    if port.isdecimal():
        return int(port)
    for candidate in container.ports:
        if candidate.name == port:
            return candidate.container_port
    raise PortError(f"couldn't find port: {port}")


def http_target(action: core_v1.HTTPGetAction, target: ProbeTarget) -> http.Target:
    """Where an httpGet goes: to the pod unless it names a host."""
    path = action.path or "/"
    headers = [(header.name, header.value) for header in action.http_headers]
    return http.Target((action.scheme or "HTTP").lower(), action.host or target.pod_ip,
                       port_number(action.port, target.container),
                       path if path.startswith("/") else f"/{path}", headers)


class HostProber:
    """Asks from the node, through the engine for exec."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def probe(self, target: ProbeTarget, probe: core_v1.Probe) -> ProbeResult:
        """One run of whatever handler the probe has."""
        timeout = float(probe.timeout_seconds or 1)
        try:
            if probe.exec is not None:
                return await self._exec(target, probe.exec.command, timeout)
            if probe.http_get is not None:
                return await self._http(http_target(probe.http_get, target), timeout)
            if probe.tcp_socket is not None:
                port = port_number(probe.tcp_socket.port, target.container)
                return await self._tcp(probe.tcp_socket.host or target.pod_ip, port, timeout)
        except PortError as error:
            return ProbeResult("unknown", str(error))
        return ProbeResult("unknown", "the probe has no handler that this version knows")

    async def _exec(self, target: ProbeTarget, command: Sequence[str], timeout: float) -> ProbeResult:
        try:
            result = await self._engine.run(target.container_id, command, timeout)
        except EngineTimeout:
            return ProbeResult("failure", f"command timed out: \"{' '.join(command)}\" timed out after {timeout:g}s")
        except EngineError as error:
            return ProbeResult("unknown", str(error))
        output = result.output[:OUTPUT_LIMIT].decode("utf-8", "replace")
        return ProbeResult("success") if result.exit_code == 0 else ProbeResult("failure", output)

    async def _http(self, target: http.Target, timeout: float) -> ProbeResult:
        try:
            async with asyncio.timeout(timeout):
                answer = await http.get(target)
        except TimeoutError:
            return ProbeResult("failure", f'Get "{target.url}": context deadline exceeded '
                                          "(Client.Timeout exceeded while awaiting headers)")
        except OSError as error:
            return ProbeResult("failure", f'Get "{target.url}": {_dial(target.host, target.port, error)}')
        except ValueError as error:
            return ProbeResult("failure", f'Get "{target.url}": {error}')
        if 300 <= answer.status < 400:
            body = answer.body.decode("utf-8", "replace")
            return ProbeResult("success", f"Probe terminated redirects, Response body: {body}")
        if 200 <= answer.status < 300:
            return ProbeResult("success")
        return ProbeResult("failure", f"HTTP probe failed with statuscode: {answer.status}")

    async def _tcp(self, host: str, port: int, timeout: float) -> ProbeResult:
        try:
            async with asyncio.timeout(timeout):
                _, writer = await asyncio.open_connection(host, port)
        except TimeoutError:
            return ProbeResult("failure", f"dial tcp {host}:{port}: i/o timeout")
        except OSError as error:
            return ProbeResult("failure", _dial(host, port, error))
        writer.close()
        return ProbeResult("success")


class HostHttpHook:
    """The httpGet of postStart and preStop."""

    async def get(self, target: ProbeTarget, action: core_v1.HTTPGetAction, timeout: float) -> str:
        """Ask once; "" for any answer: like upstream's kubelet it looks at no status."""
        try:
            where = http_target(action, target)
        except PortError as error:
            return str(error)
        try:
            async with asyncio.timeout(timeout):
                await http.get(where)
        except TimeoutError:
            return f"no answer within {timeout:g}s"
        except OSError as error:
            return _dial(where.host, where.port, error)
        except ValueError as error:
            return str(error)
        return ""


def _dial(host: str, port: int, error: OSError) -> str:
    number = error.errno or 0
    text = os.strerror(number).lower() if number in errno.errorcode else str(error)
    return f"dial tcp {host}:{port}: connect: {text}"
