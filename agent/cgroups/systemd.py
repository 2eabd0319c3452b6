"""Slices through systemd's D-Bus interface (org.freedesktop.systemd1(5)), spoken with `busctl`, which is part of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence

from agent.cgroups.protocol import CgroupError
from agent.cgroups.values import ACCOUNTING, SLICE_BASICS, Property

Run = Callable[[Sequence[str]], Awaitable[None]]

_MANAGER = ("org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager")
_TIMEOUT = 30.0


async def busctl(arguments: Sequence[str]) -> None:
    """Run it; CgroupError with its words where it fails."""
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec("busctl", "--system", "--quiet", *arguments,
                                                       stdout=asyncio.subprocess.DEVNULL, stderr=pipe)
    except OSError as error:
        raise CgroupError(f"busctl, which the systemd cgroup driver needs: {error}") from error
    try:
        async with asyncio.timeout(_TIMEOUT):
            _, errors = await process.communicate()
    except TimeoutError as error:
        raise CgroupError(f"systemd did not answer within {_TIMEOUT:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode != 0:
        raise CgroupError(f"systemd: {errors.decode(errors='replace').strip()}")


async def set_slice(name: str, properties: Sequence[Property], run: Run = busctl) -> None:
    """Change the slice, or make it with these properties. Transient: nothing of it outlives a reboot or a stop."""
    try:
        await run(["call", *_MANAGER, "SetUnitProperties", "sba(sv)", name, "true", *_encode(properties)])
        await run(["call", *_MANAGER, "StartUnit", "ss", name, "replace"])
    except CgroupError as error:
        if not _is_unknown(error):
            raise
        every = [*SLICE_BASICS, *ACCOUNTING, *properties]
        await run(["call", *_MANAGER, "StartTransientUnit", "ssa(sv)a(sa(sv))", name, "replace", *_encode(every), "0"])


async def stop_slice(name: str, run: Run = busctl) -> None:
    """End the slice (and whatever is in it); one that systemd does not know is fine."""
    try:
        await run(["call", *_MANAGER, "StopUnit", "ss", name, "replace"])
    except CgroupError as error:
        if not _is_unknown(error):
            raise


def _encode(properties: Sequence[Property]) -> list[str]:
    """An array of name and variant, as busctl wants it: its length, then each name, type and value."""
    words = [str(len(properties))]
    for item in properties:
        words += [item.name, item.kind, item.value]
    return words


def _is_unknown(error: CgroupError) -> bool:
    return any(words in str(error) for words in ("not loaded", "not found", "NoSuchUnit"))
