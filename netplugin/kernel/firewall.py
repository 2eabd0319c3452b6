"""Our iptables rules: put there in one transaction, and looked after."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from netplugin.kernel.command import LOCK_WAIT, Backend, find_backend, run, succeeds
from netplugin.kernel.generation import generation
from netplugin.protocol import NetworkError
from netplugin.rules import JUMPS, Chain, Jump, restore_input

log = logging.getLogger(__name__)


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
            self._backend = await find_backend()
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
        await run(["iptables-restore", "--noflush", "-w", LOCK_WAIT], restore_input(chains))
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
            while await succeeds([*_iptables(jump.table), "-D", jump.chain, *jump.rule]):
                continue
        for chain in chains:
            if await succeeds([*_iptables(chain.table), "-F", chain.name]):
                await succeeds([*_iptables(chain.table), "-X", chain.name])
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
    if await succeeds([*command, "-C", jump.chain, *jump.rule]):
        return False
    if jump.optional and not await succeeds([*command, "-S", jump.chain]):
        return False
    await run([*command, "-I", jump.chain, "1", *jump.rule])
    return True


async def _print(chain: Chain) -> str:
    return await run([*_iptables(chain.table), "-S", chain.name])


def _iptables(table: str) -> list[str]:
    return ["iptables", "-w", LOCK_WAIT, "-t", table]
