"""Our iptables rules: put there in one transaction, and looked after."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from netplugin.kernel.command import LOCK_WAIT, Backend, execute, find_backend, run, succeeds
from netplugin.kernel.generation import generation
from netplugin.kernel.handles import handles
from netplugin.protocol import NetworkError
from netplugin.rules import JUMPS, Chain, Jump, restore_input

log = logging.getLogger(__name__)

Key = tuple[str, str]
Mark = tuple[int, ...] | str | None


class Firewall:
    """Keeps chains of ours as wanted. What a chain's rules are called in the kernel, or how iptables prints them, is
    remembered from when it was written: a chain that looks otherwise later was changed by somebody else.
    """

    def __init__(self) -> None:
        self._backend: Backend | None = None
        self._written: dict[Key, Chain] = {}
        self._marks: dict[Key, Mark] = {}
        self._found_well: int | None = None  # the kernel's generation of rules at the last look without a find

    async def backend(self) -> Backend:
        """Looked up once; NetworkError where there is no iptables."""
        if self._backend is None:
            self._backend = await find_backend()
        return self._backend

    async def apply(self, chains: Sequence[Chain]) -> None:
        """Write the chains anew, then see to the jumps that lead to them."""
        await self._write(chains)
        await self._lead_there()

    async def update(self, chains: Sequence[Chain]) -> None:
        """Write those chains that are now wanted otherwise than they were written."""
        changed = [chain for chain in chains if self._written.get(chain.key) != chain]
        if changed:
            await self._write(changed)

    async def check(self, chains: Sequence[Chain]) -> bool:
        """Put back what others took away or changed; whether anything had to be.

        Nothing is read as long as the kernel says that nobody changed a rule.
        """
        await self.update(chains)
        now = generation() if (await self.backend()).nf_tables else None
        if now is not None and now == self._found_well:
            return False
        marks = {chain.key: await self._mark(chain.key) for chain in chains}
        if all(mark is not None and mark == self._marks.get(key) for key, mark in marks.items()):
            missing = await self._lead_there()
            self._found_well = None if missing else now
            return missing
        log.warning("firewall rules were changed by somebody else; writing them again")
        await self.apply(chains)
        return True

    async def remove(self, chains: Sequence[Chain]) -> None:
        """Take jumps and chains away."""
        for jump in JUMPS:
            while await _found([*_iptables(jump.table), "-D", jump.chain, *jump.rule]):
                continue
        for chain in chains:
            if await succeeds([*_iptables(chain.table), "-F", chain.name]):
                await succeeds([*_iptables(chain.table), "-X", chain.name])
        self._written.clear()
        self._marks.clear()
        self._found_well = None

    async def _write(self, chains: Sequence[Chain]) -> None:
        await self.backend()
        self._found_well = None
        for chain in chains:
            self._written.pop(chain.key, None)  # for as long as it is not known how this ends
        await run(["iptables-restore", "--noflush", "-w", LOCK_WAIT], restore_input(chains))
        for chain in chains:
            mark = await self._mark(chain.key)
            self._marks[chain.key] = mark if _length(mark) >= len(chain.rules) else None  # else somebody was quick
            self._written[chain.key] = chain

    async def _lead_there(self) -> bool:
        """Have all jumps; whether one was missing. Chains that look as they did before all were found, have them: those
        that somebody changes while they are looked at, look otherwise the next time.
        """
        around = {(jump.table, jump.chain) for jump in JUMPS}
        marks = {key: await self._mark(key) for key in around}
        if all(mark is not None and mark == self._marks.get(key) for key, mark in marks.items()):
            return False
        missing = any([await _ensure(jump) for jump in JUMPS])
        if not missing:
            self._marks |= marks
        return missing

    async def _mark(self, key: Key) -> Mark:
        """What tells a chain from a changed one; None where it is not there, or the kernel is busy changing it."""
        if (await self.backend()).nf_tables:
            return handles(*key)
        try:
            return await run([*_iptables(key[0]), "-S", key[1]])
        except NetworkError:
            return None


def _length(mark: Mark) -> int:
    """How many rules a chain has that looks so."""
    return mark.count("-A ") if isinstance(mark, str) else len(mark or ())


async def _ensure(jump: Jump) -> bool:
    """Have the jump in front; whether it was missing."""
    command = _iptables(jump.table)
    if await _found([*command, "-C", jump.chain, *jump.rule]):
        return False
    if jump.optional and not await succeeds([*command, "-S", jump.chain]):
        return False
    await run([*command, "-I", jump.chain, "1", *jump.rule])
    return True


async def _found(command: Sequence[str]) -> bool:
    """Whether the rule to check or to delete was there; NetworkError where that cannot be told, as without the lock."""
    code, _, errors = await execute(command)
    if code not in (0, 1, 2):  # 2: nor is there the chain that it leads to
        raise NetworkError(f"{' '.join(command)}: {errors.strip() or f'exit code {code}'}")
    return code == 0


def _iptables(table: str) -> list[str]:
    return ["iptables", "-w", LOCK_WAIT, "-t", table]
