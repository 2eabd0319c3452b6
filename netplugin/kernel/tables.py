"""The kernel's tables through iptables, of either flavour."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from netplugin.kernel.chains import chain_uses, legacy_size
from netplugin.kernel.command import LOCK_WAIT, TIMEOUT, Backend, execute, find_backend
from netplugin.kernel.generation import generation
from netplugin.protocol import NetworkError
from netplugin.tables import ChainId, Edit, Rules, restore_input

T = TypeVar("T")

TABLES = ("nat", "filter")
_TIMEOUT = 120.0
"""Seconds for one change; a whole table of 10,000 Services on a small machine takes a minute at worst."""

_PIECE = 1 << 16
_TRIES = 5
"""How often chains are counted while somebody keeps changing rules: to read them all takes seconds."""

Stamp = int | tuple[tuple[int, int] | None, ...] | None


class HostTables:
    """Implements Tables for the network namespace that this process is in."""

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self._known: Stamp = None
        self._pool = ThreadPoolExecutor(1, "rules")

    async def backend(self) -> Backend:
        """Looked up once; NetworkError where there is no iptables."""
        if self._backend is None:
            self._backend = await find_backend()
        return self._backend

    async def random_fully(self) -> bool:
        """See Tables."""
        return (await self.backend()).random_fully

    async def apply(self, edit: Edit) -> None:
        """See Tables."""
        await self.backend()
        before, known = self._stamp(), self._known
        self._known = None  # for as long as it is not known how this ends
        text = restore_input(edit)
        code, _, errors = await execute(["iptables-restore", "--noflush", "-w", LOCK_WAIT], text, _TIMEOUT)
        if code != 0:
            raise NetworkError(f"iptables-restore: {errors.strip() or f'exit code {code}'}{_line_of(errors, text)}")
        after = self._stamp()
        if known is not None and before == known and _only_ours(before, after, len(edit.tables)):
            self._known = after

    async def read(self) -> AsyncGenerator[tuple[ChainId, Rules], None]:
        """See Tables. One command for all tables: each reads the whole of nf_tables, whatever it is asked for."""
        await self.backend()
        table = ""
        empty: set[ChainId] = set()
        chain: ChainId | None = None
        rules: list[str] = []
        async with contextlib.aclosing(_lines("iptables-save")) as printed:
            async for line in printed:
                if line.startswith("-A ") and table in TABLES:
                    name, _, rule = line[3:].partition(" ")
                    if chain is None or name != chain.name or table != chain.table:
                        if chain:
                            yield chain, tuple(rules)
                        chain, rules = ChainId(table, name), []
                        empty.discard(chain)
                    rules.append(rule)
                elif line.startswith(":") and table in TABLES:
                    empty.add(ChainId(table, line[1:].partition(" ")[0]))
                elif line.startswith("*"):
                    table = line[1:]
        if chain:
            yield chain, tuple(rules)
        for chain in empty:
            yield chain, ()

    async def read_one(self, chain: ChainId) -> Rules | None:
        """See Tables. Code 1 is how both flavours say that there is no such chain; 4 is that of a lock."""
        await self.backend()
        command = ["iptables", "-w", LOCK_WAIT, "-t", chain.table, "-S", chain.name]
        code, printed, errors = await execute(command)
        if code == 1:
            return None
        if code != 0:
            raise NetworkError(f"{' '.join(command)}: {errors.strip() or f'exit code {code}'}")
        start = f"-A {chain.name} "
        return tuple(line.removeprefix(start) for line in printed.splitlines() if line.startswith(start))

    async def touched(self) -> bool:
        """See Tables."""
        await self.backend()
        now = self._stamp()
        return now is None or now != self._known

    async def settle(self) -> Mapping[ChainId, int] | None:
        """See Tables."""
        backend = await self.backend()
        if not backend.nf_tables:
            self._known = self._stamp()
            return None
        for _ in range(_TRIES):
            self._known = self._stamp()
            counted = await self._blocking(partial(chain_uses, TABLES))
            if counted is not None:
                return counted
        self._known = None
        return None

    async def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _stamp(self) -> Stamp:
        """What changes with every change of rules."""
        if self._backend is not None and self._backend.nf_tables:
            return generation()
        return tuple(legacy_size(table) for table in TABLES)

    async def _blocking(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._pool, function)


def _line_of(errors: str, text: str) -> str:
    """The line that iptables-restore complains of, which it tells by number only."""
    found = re.search(r"line:? (\d+)", errors)
    lines = text.splitlines()
    return f": {lines[int(found[1]) - 1]}" if found and 0 < int(found[1]) <= len(lines) else ""


def _only_ours(before: Stamp, after: Stamp, transactions: int) -> bool:
    """Whether nothing but our own transactions happened; legacy iptables does not count them."""
    if isinstance(before, int) and isinstance(after, int):
        return (after - before) % (1 << 32) == transactions
    return True


async def _lines(*command: str) -> AsyncGenerator[str, None]:
    """What the command prints, line by line: 12 MB at once would stay in the process for good."""
    try:
        process = await asyncio.create_subprocess_exec(*command, stdin=asyncio.subprocess.DEVNULL,
                                                       stdout=asyncio.subprocess.PIPE,
                                                       stderr=asyncio.subprocess.DEVNULL)
    except OSError as error:
        raise NetworkError(f"{command[0]}: {error}") from error
    try:
        assert process.stdout is not None
        begun = b""
        while data := await _in_time(process.stdout.read(_PIECE), command):
            *lines, begun = (begun + data).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace")
        if await _in_time(process.wait(), command) != 0:
            raise NetworkError(f"{' '.join(command)}: exit code {process.returncode}")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


async def _in_time(waiting: Coroutine[Any, Any, T], command: Sequence[str]) -> T:
    try:
        async with asyncio.timeout(TIMEOUT):
            return await waiting
    except TimeoutError as error:
        raise NetworkError(f"{' '.join(command)} printed nothing for {TIMEOUT:g} s") from error
