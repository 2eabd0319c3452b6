"""iptables for those who bring their own chains, as the Services' proxy does: the public face.

Rules are written the way `iptables-save` prints them, without the leading `-A CHAIN`, so that what is wanted and what
the kernel has can be compared as text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})


class ChainId(NamedTuple):
    """A chain: `nat`, `KUBE-SERVICES`."""

    table: str
    name: str


Rules = tuple[str, ...]
Contents = Mapping[ChainId, Rules]


@dataclass(frozen=True, slots=True)
class Edit:
    """Changes that are made together: in one transaction for each table."""

    write: Contents = field(default_factory=dict)
    """Chains, made if they are not there, and all of their rules."""
    delete: Sequence[tuple[ChainId, str]] = ()
    """Rules to take out of chains; one that is not there fails the whole edit."""
    insert: Sequence[tuple[ChainId, str]] = ()
    """Rules to put in front of chains, the last one foremost."""
    remove: Sequence[ChainId] = ()
    """Chains to take away; nothing but what this edit removes may still lead to them."""

    def __bool__(self) -> bool:
        """Whether there is anything to do."""
        return bool(self.write or self.delete or self.insert or self.remove)

    @property
    def tables(self) -> list[str]:
        """Tables that are touched, in the order in which they are written.

        nat comes before filter: a Service that gets its first endpoint is led there before it is no longer rejected,
        so that no packet to its address gets past both.
        """
        touched = {chain.table for chain in (*self.write, *self.remove)}
        touched |= {chain.table for chain, _ in (*self.delete, *self.insert)}
        return sorted(touched, reverse=True)


def restore_input(edit: Edit) -> str:
    """Input for `iptables-restore --noflush`: naming a chain empties it, in the transaction that fills it."""
    lines: list[str] = []
    for table in edit.tables:
        lines.append(f"*{table}")
        lines += [f":{chain.name} - [0:0]" for chain in (*edit.write, *edit.remove) if chain.table == table]
        lines += [f"-D {chain.name} {rule}" for chain, rule in edit.delete if chain.table == table]
        lines += [f"-A {chain.name} {rule}" for chain, rules in edit.write.items() if chain.table == table
                  for rule in rules]
        lines += [f"-I {chain.name} 1 {rule}" for chain, rule in edit.insert if chain.table == table]
        lines += [f"-X {chain.name}" for chain in edit.remove if chain.table == table]
        lines.append("COMMIT")
    return "\n".join(lines) + "\n"


def target(rule: str) -> str:
    """Where the rule leads: a chain of somebody's or a built-in target; "" for nowhere."""
    found = rule.rpartition(" -j ")[2] if " -j " in rule else rule.removeprefix("-j ") if rule[:3] == "-j " else ""
    return found.partition(" ")[0]


def uses(contents: Contents) -> Counter[ChainId]:
    """How the kernel counts a chain's uses: its rules, and the rules that lead to it."""
    counted: Counter[ChainId] = Counter()
    for chain, rules in contents.items():
        counted[chain] += len(rules)
        for rule in rules:
            leads_to = ChainId(chain.table, target(rule))
            if leads_to in contents:
                counted[leads_to] += 1
    return counted


class Tables(Protocol):
    """The kernel's tables `nat` and `filter`, for IPv4. Failures are NetworkErrors."""

    async def random_fully(self) -> bool:
        """Whether MASQUERADE takes --random-fully here; also the way to find out that iptables is missing."""

    async def apply(self, edit: Edit) -> None:
        """Make the changes; after a failure nothing is known of what has been done."""

    def read(self) -> AsyncGenerator[tuple[ChainId, Rules], None]:
        """All chains as they are, built-in ones too; one at a time, since they may be many. To be closed."""

    async def read_one(self, chain: ChainId) -> Rules | None:
        """One chain, None where it is not there; quick however many others there are."""

    async def touched(self) -> bool:
        """Whether anybody else may have changed a rule since the last `settle`; costs microseconds."""

    async def settle(self) -> Mapping[ChainId, int] | None:
        """Take things as they are now; all chains and how often each is used, None where only `read` can tell."""

