"""Running the commands that the lab consists of."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from sampan.lab.plan import LabError

TIMEOUT = 60.0
"""Seconds for one command."""
ADMIN_PATH = "/usr/local/sbin:/usr/sbin:/sbin"
"""Where ip and iptables are, on systems that keep them from ordinary users' PATH."""


class CommandFailed(LabError):
    """A command ended with an error; its own words are in the message."""


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """What commands run in."""
    return {**os.environ, "PATH": f"{os.environ.get('PATH', '/usr/bin:/bin')}:{ADMIN_PATH}", "LC_ALL": "C.UTF-8",
            **(more or {})}


async def run(*command: str, stdin: str = "", more: Mapping[str, str] | None = None, timeout: float = TIMEOUT) -> str:
    """Run a command and return what it prints; CommandFailed where it ends with an error or takes too long."""
    shown = " ".join(command)
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env=environment(more), cwd="/")
    except FileNotFoundError as error:
        raise CommandFailed(f"{command[0]} is not installed") from error
    try:
        async with asyncio.timeout(timeout):
            out, err = await process.communicate(stdin.encode())
    except TimeoutError as error:
        raise CommandFailed(f"{shown}: no end within {timeout:g} s") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        why = (err or out).decode(errors="replace").strip()
        raise CommandFailed(f"{shown}: {why[-2000:] or f'exit code {process.returncode}'}")
    return out.decode(errors="replace")


async def succeeds(*command: str, timeout: float = TIMEOUT) -> bool:
    """Whether a command ends well."""
    try:
        await run(*command, timeout=timeout)
    except CommandFailed:
        return False
    return True


async def ip(namespace: str, *lines: str) -> None:
    """Run lines of the ip command in a namespace ("" for the machine's own), as one process."""
    where = ("-n", namespace) if namespace else ()
    await run("ip", *where, "-batch", "-", stdin="\n".join(lines) + "\n")


def write_setting(path: str, value: str) -> str:
    """The shell line that writes a kernel setting where the kernel has it."""
    return f"if [ -e {path} ]; then echo {value} > {path}; fi"


def read_setting(path: Path) -> str:
    """A kernel setting, "" where the kernel does not have it."""
    try:
        return path.read_text("utf-8").strip()
    except OSError:
        return ""


@contextlib.contextmanager
def first_error() -> Iterator[None]:
    """Of the errors of a task group, raise the first one alone: the others follow from it or say the same."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        raise error from group
