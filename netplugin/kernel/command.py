"""Running iptables: which one the host has, and its commands with their time limits."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from netplugin.protocol import NetworkError

log = logging.getLogger(__name__)

TIMEOUT = 30.0
LOCK_WAIT = "5"
"""Seconds to wait for the lock that legacy iptables has; the nf_tables variant takes the option and needs none."""


@dataclass(frozen=True, slots=True)
class Backend:
    """Which iptables the host has."""

    version: tuple[int, int, int]
    nf_tables: bool

    @property
    def random_fully(self) -> bool:
        """Whether MASQUERADE knows --random-fully, which avoids clashes of ports under load (iptables 1.6.2)."""
        return self.version >= (1, 6, 2)

    @property
    def warning(self) -> str:
        """What its users should know; "" for nothing."""
        if (1, 8, 0) <= self.version <= (1, 8, 4):
            return "iptables 1.8.0 to 1.8.4 may write rules twice; a later version is recommended"
        return ""


def parse_version(text: str) -> Backend:
    """What `iptables --version` prints: `iptables v1.8.9 (nf_tables)`."""
    match = re.search(r"v(\d+)\.(\d+)(?:\.(\d+))?(?: \((\w+)\))?", text)
    if match is None:
        raise NetworkError(f"iptables --version printed {text.strip()!r}")
    major, minor, patch, variant = match.groups()
    return Backend((int(major), int(minor), int(patch or 0)), variant == "nf_tables")


async def find_backend() -> Backend:
    """Ask the host; NetworkError where there is no iptables."""
    for tool in ("iptables", "iptables-restore"):
        if shutil.which(tool) is None:
            raise NetworkError(f"{tool} is not installed on this host; install its package (iptables)")
    backend = parse_version(await run(["iptables", "--version"]))
    if backend.warning:
        log.warning("%s", backend.warning)
    return backend


async def succeeds(command: Sequence[str]) -> bool:
    """Whether the command ends well."""
    code, _, _ = await execute(command)
    return code == 0


async def run(command: Sequence[str], stdin: str = "", limit: float = TIMEOUT) -> str:
    """The command's output; NetworkError with what it said where it fails."""
    code, output, errors = await execute(command, stdin, limit)
    if code != 0:
        raise NetworkError(f"{' '.join(command)}: {errors.strip() or f'exit code {code}'}")
    return output


async def execute(command: Sequence[str], stdin: str = "", limit: float = TIMEOUT) -> tuple[int, str, str]:
    """Exit code, output, errors; NetworkError where it cannot be started or takes longer than `limit` seconds."""
    pipe = asyncio.subprocess.PIPE
    try:
        # No pipe where there is nothing to say: a command that has ended already would break it.
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe if stdin else asyncio.subprocess.DEVNULL,
                                                       stdout=pipe, stderr=pipe)
    except OSError as error:
        raise NetworkError(f"{command[0]}: {error}") from error
    try:
        async with asyncio.timeout(limit):
            output, errors = await process.communicate(stdin.encode() if stdin else None)
    except TimeoutError as error:
        raise NetworkError(f"{command[0]} did not end within {limit:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace")
