"""Our iptables rules: put there in one transaction, and looked after."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from netplugin.kernel.generation import generation
from netplugin.protocol import NetworkError
from netplugin.rules import JUMPS, Chain, Jump, restore_input

log = logging.getLogger(__name__)

_TIMEOUT = 30.0
_LOCK_WAIT = "5"  # seconds for the lock that legacy iptables has; the nf_tables variant takes it and needs none


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


class Firewall:
    """Keeps chains of ours as wanted. What iptables printed of them after they were written is remembered: a
    chain that prints otherwise later was changed by somebody else.
    """

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self._applied: dict[tuple[str, str], str] = {}
        self._found_well: int | None = None  # the kernel's generation of rules at the last look without a find

    async def backend(self) -> Backend:
        """Looked up once; NetworkError where there is no iptables."""
        if self._backend is None:
            for tool in ("iptables", "iptables-restore"):
                if shutil.which(tool) is None:
                    raise NetworkError(f"{tool} is not installed on this host; install its package (iptables)")
            self._backend = parse_version(await _run(["iptables", "--version"]))
            if self._backend.warning:
                log.warning("%s", self._backend.warning)
        return self._backend

    async def apply(self, chains: Sequence[Chain]) -> None:
        """Write the chains anew, then see to the jumps that lead to them."""
        await self.write(chains)
        for jump in JUMPS:
            await _ensure(jump)

    async def write(self, chains: Sequence[Chain]) -> None:
        """Write only these chains anew."""
        await self.backend()
        self._found_well = None
        await _run(["iptables-restore", "--noflush", "-w", _LOCK_WAIT], restore_input(chains))
        for chain in chains:
            self._applied[chain.table, chain.name] = await _print(chain)

    async def check(self, chains: Sequence[Chain]) -> bool:
        """Put back what others took away or changed; whether anything had to be.

        Nothing is read as long as the kernel says that nobody changed a rule.
        """
        now = generation() if (await self.backend()).nf_tables else None
        if now is not None and now == self._found_well:
            return False
        if await self._untouched(chains):
            missing = any([await _ensure(jump) for jump in JUMPS])
            self._found_well = None if missing else now
            return missing
        log.warning("firewall rules were changed by somebody else; writing them again")
        await self.apply(chains)
        return True

    async def remove(self, chains: Sequence[Chain]) -> None:
        """Take jumps and chains away."""
        for jump in JUMPS:
            while await _succeeds([*_iptables(jump.table), "-D", jump.chain, *jump.rule]):
                continue
        for chain in chains:
            if await _succeeds([*_iptables(chain.table), "-F", chain.name]):
                await _succeeds([*_iptables(chain.table), "-X", chain.name])
        self._applied.clear()
        self._found_well = None

    async def _untouched(self, chains: Sequence[Chain]) -> bool:
        for chain in chains:
            try:
                now = await _print(chain)
            except NetworkError:
                return False
            if now != self._applied.get((chain.table, chain.name)):
                return False
        return True


async def _ensure(jump: Jump) -> bool:
    """Have the jump in front; whether it was missing."""
    command = _iptables(jump.table)
    if await _succeeds([*command, "-C", jump.chain, *jump.rule]):
        return False
    if jump.optional and not await _succeeds([*command, "-S", jump.chain]):
        return False
    await _run([*command, "-I", jump.chain, "1", *jump.rule])
    return True


async def _print(chain: Chain) -> str:
    return await _run([*_iptables(chain.table), "-S", chain.name])


def _iptables(table: str) -> list[str]:
    return ["iptables", "-w", _LOCK_WAIT, "-t", table]


async def _succeeds(command: Sequence[str]) -> bool:
    code, _, _ = await _execute(command)
    return code == 0


async def _run(command: Sequence[str], stdin: str = "") -> str:
    code, output, errors = await _execute(command, stdin)
    if code != 0:
        raise NetworkError(f"{' '.join(command)}: {errors.strip() or f'exit code {code}'}")
    return output


async def _execute(command: Sequence[str], stdin: str = "",
                   environment: Mapping[str, str] | None = None) -> tuple[int, str, str]:
    pipe = asyncio.subprocess.PIPE
    try:
        # No pipe where there is nothing to say: a command that has ended already would break it.
        process = await asyncio.create_subprocess_exec(*command, stdin=pipe if stdin else asyncio.subprocess.DEVNULL,
                                                       stdout=pipe, stderr=pipe, env=environment)
    except OSError as error:
        raise NetworkError(f"{command[0]}: {error}") from error
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, errors = await process.communicate(stdin.encode() if stdin else None)
    except TimeoutError as error:
        raise NetworkError(f"{command[0]} did not end within {_TIMEOUT:g} s") from error
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    return process.returncode or 0, output.decode(errors="replace"), errors.decode(errors="replace")
