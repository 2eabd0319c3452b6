"""Runs the plugins of a network one after the other (the specification's sections 2 to 5)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.network.cni.conf import GC_SINCE, PREVIOUS_SINCE, NetworkConf, request
from netplugin.protocol import NetworkError

_TIMEOUT = 60.0
"""Seconds for one plugin; IPAM that asks a server may take a while."""


@dataclass(frozen=True, slots=True)
class Attached:
    """What the plugins are told of one attachment. `offered`: arguments for capabilities."""

    container: str
    netns: str
    interface: str
    arguments: Mapping[str, str]
    offered: Mapping[str, Any]

    def environment(self, command: str) -> dict[str, str]:
        """The CNI_ variables."""
        arguments = ";".join(f"{key}={value}" for key, value in self.arguments.items())
        return {"CNI_COMMAND": command, "CNI_CONTAINERID": self.container, "CNI_NETNS": self.netns,
                "CNI_IFNAME": self.interface, "CNI_ARGS": arguments}


class Chain:
    """`folders`: where the executables are looked for, in order."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)

    async def add(self, network: NetworkConf, attached: Attached) -> Mapping[str, Any]:
        """The last plugin's result; a failure is the caller's to clean up after, by `delete`."""
        result: Mapping[str, Any] | None = None
        for plugin in network.plugins:
            result = await self._run("ADD", network, plugin, attached, result)
        if result is None:
            raise NetworkError(f"CNI network {network.name}: its plugins gave no result")
        return result

    async def delete(self, network: NetworkConf, attached: Attached, result: Mapping[str, Any] | None) -> None:
        """In reverse order, all of them even if one fails; NetworkError of the first that did."""
        failed: NetworkError | None = None
        for plugin in reversed(network.plugins):
            try:
                await self._run("DEL", network, plugin, attached, result if network.number >= PREVIOUS_SINCE else None)
            except NetworkError as error:
                failed = failed or error
        if failed is not None:
            raise failed

    async def status(self, network: NetworkConf) -> None:
        """NetworkError where a plugin says that it could not ADD now, or is not there."""
        for plugin in network.plugins:
            if network.number >= GC_SINCE:
                await self._run("STATUS", network, plugin, _NOBODY, None)
            else:
                self._find(plugin["type"])

    async def collect(self, network: NetworkConf, valid: Sequence[tuple[str, str]]) -> None:
        """Have the plugins drop whatever is of none of these containers and interfaces; they must know GC."""
        listed = [{"containerID": container, "ifname": interface} for container, interface in valid]
        for plugin in network.plugins:
            await self._run("GC", network, {**plugin, "cni.dev/valid-attachments": listed}, _NOBODY, None)

    async def _run(self, command: str, network: NetworkConf, plugin: Mapping[str, Any], attached: Attached,
                   previous: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        kind = plugin["type"]
        stdin = json.dumps(request(network, plugin, attached.offered, previous))
        environment = {**os.environ, **attached.environment(command),
                       "CNI_PATH": os.pathsep.join(map(str, self._folders))}
        code, printed, errors = await _execute(self._find(kind), environment, stdin)
        try:
            answer = json.loads(printed) if printed.strip() else None
        except ValueError:
            answer = None
        if code != 0:
            raise NetworkError(f'plugin type="{kind}" name="{network.name}" failed ({command.lower()}): '
                               f"{_said(answer) or errors.strip() or printed.strip() or f'exit code {code}'}")
        if command == "ADD" and not isinstance(answer, dict):
            raise NetworkError(f'plugin type="{kind}" name="{network.name}" gave no result: {printed[:200]!r}')
        return answer if isinstance(answer, dict) else None

    def _find(self, kind: str) -> Path:
        for folder in self._folders:
            if os.access(folder / kind, os.X_OK):
                return folder / kind
        raise NetworkError(f'failed to find plugin "{kind}" in path {[str(folder) for folder in self._folders]}')


_NOBODY = Attached("", "", "", {}, {})


def _said(answer: Any) -> str:
    """The error of the specification in one line, "" where it is none."""
    if not isinstance(answer, dict) or not answer.get("msg"):
        return ""
    return "; ".join(str(answer[key]) for key in ("msg", "details") if answer.get(key))


async def _execute(program: Path, environment: Mapping[str, str], stdin: str) -> tuple[int, str, str]:
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(program, stdin=pipe, stdout=pipe, stderr=pipe, env=environment)
    except OSError as error:
        raise NetworkError(f"{program}: {error.strerror}") from error
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, errors = await process.communicate(stdin.encode())
    except TimeoutError as error:
        raise NetworkError(f"{program} did not end within {_TIMEOUT:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace")
