"""Whether the Docker Engine of this host is one that pods can run on; asked over its socket, without any library."""

from __future__ import annotations

import asyncio
import json
import re
from dataclasses import dataclass
from typing import Any

from sampan.cli.progress import CommandError

Tree = dict[str, Any]

OLDEST = (20, 10)
"""The oldest engine that the agent is tested with."""
SNAP = "/var/snap/"
TIMEOUT = 20.0
"""Seconds for one question; `docker info` takes long on a busy host."""
INSTALL = "install Docker from the distribution (apt-get install docker.io) or from https://docs.docker.com/engine/install"


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """What an engine says of itself."""

    version: str
    root_dir: str
    product: str = ""
    live_restore: bool = False
    """Whether containers go on while Docker is restarted."""
    log_driver: str = ""
    log_plugins: tuple[str, ...] = ()
    selinux: bool = False
    """Whether it gives its containers labels of SELinux."""


def problem(facts: EngineFacts) -> tuple[str, str] | None:
    """What is wrong with this engine, and what to do about it."""
    if facts.root_dir.startswith(SNAP):
        return ("Docker is a snap here: it cannot mount pods' volumes", f"remove it (snap remove docker) and {INSTALL}")
    if "podman" in facts.product.lower():
        return (f"{facts.product} answers in Docker's place: it has neither Docker's events nor its cgroups",
                f"remove podman-docker and {INSTALL}")
    numbers = re.match(r"(\d+)\.(\d+)", facts.version)
    if numbers is None:
        return f"Docker's version cannot be read: {facts.version!r}", "see: docker version"
    if (int(numbers[1]), int(numbers[2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return f"Docker {facts.version} is too old: {oldest} is the oldest that works", f"{INSTALL}, and restart it"
    return None


async def facts(host: str) -> EngineFacts:
    """Ask the engine at a ``unix://`` address; CommandError where it does not answer."""
    version, info = await ask(host, "/version"), await ask(host, "/info")
    components = version.get("Components") or [{}]
    return EngineFacts(str(version.get("Version", "")), str(info.get("DockerRootDir", "")),
                       str(components[0].get("Name", "")), bool(info.get("LiveRestoreEnabled")),
                       str(info.get("LoggingDriver", "")), tuple((info.get("Plugins") or {}).get("Log") or ()),
                       "name=selinux" in (info.get("SecurityOptions") or ()))


async def ask(host: str, path: str) -> Tree:
    """The answer to one GET; CommandError with what to do."""
    place = host.removeprefix("unix://")
    try:
        async with asyncio.timeout(TIMEOUT):
            reader, writer = await asyncio.open_unix_connection(place)
            try:
                writer.write(f"GET {path} HTTP/1.0\r\nHost: docker\r\n\r\n".encode())
                answer = await reader.read()
            finally:
                writer.close()
    except FileNotFoundError as error:
        raise CommandError(f"Docker is not there: there is no {place}",
                           f"{INSTALL}, and start it: systemctl start docker") from error
    except (OSError, TimeoutError) as error:
        raise CommandError(f"Docker does not answer at {place}", "start it: systemctl start docker") from error
    head, _, body = answer.partition(b"\r\n\r\n")
    try:
        tree = json.loads(body)
    except ValueError:
        tree = None
    if b" 200 " not in head.split(b"\r\n", 1)[0] or not isinstance(tree, dict):
        text = answer.decode("latin-1").strip()[:200]
        raise CommandError(f"Docker at {place} answers: {text}", "see: docker version")
    return tree
