"""iptables' tables in memory, for tests: as strict as the real ones about what may be changed."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping

from netplugin.protocol import NetworkError
from netplugin.tables import BUILT_IN, ChainId, Edit, Rules, target, uses

_TARGETS = frozenset({"", "ACCEPT", "DROP", "REJECT", "RETURN", "MARK", "MASQUERADE", "DNAT"})


class FakeTables:
    """`contents` is what the kernel would have; `edits` what was applied; `broken`: what the next `apply` raises;
    `unknown`: a text that no rule may have, as if the kernel lacked what it names.
    """

    def __init__(self, contents: Mapping[ChainId, Rules] | None = None) -> None:
        self.contents: dict[ChainId, Rules] = {
            ChainId(table, name): () for table, names in (("nat", BUILT_IN - {"FORWARD"}),
                                                          ("filter", ("INPUT", "FORWARD", "OUTPUT")))
            for name in names}
        self.contents.update(contents or {})
        self.edits: list[Edit] = []
        self.broken: NetworkError | None = None
        self.unknown = ""
        self.reads = 0
        self._settled: dict[ChainId, Rules] | None = None

    async def random_fully(self) -> bool:
        """Yes."""
        return True

    async def apply(self, edit: Edit) -> None:
        """All or nothing; NetworkError for what iptables-restore would refuse."""
        if self.broken is not None:
            error, self.broken = self.broken, None
            raise error
        changed = self._changed(edit)
        for chain, rules in changed.items():
            for rule in rules:
                if self.unknown and self.unknown in rule:
                    raise NetworkError(f"line 7 failed: -A {chain.name} {rule}")
                if target(rule) not in _TARGETS and ChainId(chain.table, target(rule)) not in changed:
                    raise NetworkError(f"{chain}: no chain {target(rule)}")
        untouched = self._settled == self.contents
        self.contents = changed
        self.edits.append(edit)
        if untouched:
            self._settled = dict(changed)

    def _changed(self, edit: Edit) -> dict[ChainId, Rules]:
        result = dict(self.contents)
        result.update(dict.fromkeys((*edit.remove, *edit.write), ()))
        for chain, rule in edit.delete:
            rules = list(result[chain])
            if rule not in rules:
                raise NetworkError(f"{chain}: no rule {rule}")
            rules.remove(rule)
            result[chain] = tuple(rules)
        for chain, written in edit.write.items():
            result[chain] += tuple(written)
        for chain, rule in edit.insert:
            result[chain] = (rule, *result[chain])
        counted = uses(result)
        for chain in edit.remove:
            if counted[chain]:
                raise NetworkError(f"{chain} is in use")
        return {chain: rules for chain, rules in result.items() if chain not in edit.remove}

    async def read(self) -> AsyncGenerator[tuple[ChainId, Rules], None]:
        """What is there."""
        self.reads += 1
        for item in list(self.contents.items()):
            yield item

    async def read_one(self, chain: ChainId) -> Rules | None:
        """One."""
        return self.contents.get(chain)

    async def touched(self) -> bool:
        """Whether `contents` were changed other than by `apply`."""
        return self._settled != self.contents

    async def settle(self) -> Mapping[ChainId, int] | None:
        """Count."""
        self._settled = dict(self.contents)
        counted = uses(self.contents)
        return {chain: counted[chain] for chain in self.contents}
