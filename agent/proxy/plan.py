"""From what was written to what is wanted, in few and small changes; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent.proxy.chains import FORWARD, JUMPS, LAST, MARK_MASQ, SERVICES, SHARED, Rendered
from netplugin.tables import ChainId, Contents, Edit, Rules, target, uses

LINES = 1500
"""Lines of one `iptables-restore`, about. Its time grows with the square of the chains in it (measured with 5,000
Services of 5 endpoints: 19 s for all at once, 2 s in batches of this size)."""
REMOVALS = 500
_FEW = 64
"""Up to so many rules are changed one by one in a chain of any length; else it is written anew."""

BLOCKING = frozenset({"SAMPAN-FORWARD", "DOCKER-USER", "DOCKER-FORWARD"})
"""Chains that accept pods' traffic: in FORWARD our jumps must stand before them, or nothing would be rejected."""


class Written(NamedTuple):
    """A chain as it was written: a hash of its rules, and how often it is used (see `netplugin.tables.uses`)."""

    digest: int
    uses: int


class Entry(NamedTuple):
    """What was written for one Service. Rules of its own chains are not kept: they are most of the memory."""

    chains: Mapping[ChainId, Written]
    shared: Sequence[tuple[ChainId, str]]
    masquerades: int
    """How many of its rules lead to KUBE-MARK-MASQ."""


NOTHING = Entry({}, (), 0)


def entry(rendered: Rendered) -> Entry:
    """What to remember of it."""
    if not rendered.chains and not rendered.shared:
        return NOTHING
    leads_to = Counter(target(rule) for rules in rendered.chains.values() for rule in rules)
    leads_to.update(target(rule) for _, rule in rendered.shared)
    chains = {chain: Written(hash(rules), len(rules) + leads_to[chain.name])
              for chain, rules in rendered.chains.items()}
    return Entry(chains, tuple(rendered.shared), leads_to[MARK_MASQ.name])


@dataclass(slots=True)
class Changes:
    """What is to be done.

    `groups` are the chains of one Service each, which stay together. `shared` and `remove` are asked for once all
    groups have been taken, so that these may be made one after another.
    """

    groups: Iterable[Mapping[ChainId, Rules]]
    shared: Callable[[], Edit]
    remove: Callable[[], Sequence[ChainId]]

    def edits(self, lines: int = LINES) -> Iterator[Edit]:
        """Few changes in one; many in batches: chains that nothing leads to yet, then what leads there, then the rest.

        Each Service goes from its old rules to the new ones at once, and no traffic is without rules in between.
        An empty edit now and then lets others have a turn while nothing is found to be changed.
        """
        pending: dict[ChainId, Rules] = {}
        size = 0
        staged = False
        for group in self.groups:
            pending.update(group)
            size += sum(1 + len(rules) for rules in group.values())
            if size >= lines:
                yield Edit(write=pending)
                pending, size, staged = {}, 0, True
            elif not group:
                yield Edit()
        shared, remove = self.shared(), self.remove()
        write = {**pending, **shared.write}
        if not staged and len(remove) < REMOVALS:
            yield Edit(write, shared.delete, shared.insert, remove)
            return
        yield Edit(write, shared.delete, shared.insert)
        for start in range(0, len(remove), REMOVALS):
            yield Edit(remove=remove[start:start + REMOVALS])


def changed_chains(before: Entry, after: Rendered) -> dict[ChainId, Rules]:
    """The chains to write for a Service that has changed."""
    return {chain: rules for chain, rules in after.chains.items()
            if chain not in before.chains or before.chains[chain].digest != hash(rules)}


def gone_chains(before: Entry, after: Entry) -> list[ChainId]:
    """The chains that it no longer needs."""
    return [chain for chain in before.chains if chain not in after.chains]


def shared_edit(before: Iterable[tuple[ChainId, str]], after: Iterable[tuple[ChainId, str]],
                whole: Callable[[], Contents], sizes: Callable[[ChainId], int]) -> Edit:
    """The change of the shared chains when some Services' rules in them change; `whole` gives them as they will be.

    The order of rules does not matter but for the last one, so new ones go in front.
    """
    old, new = dict.fromkeys(before), dict.fromkeys(after)
    delete = [item for item in old if item not in new]
    insert = [item for item in new if item not in old]
    count = Counter(chain for chain, _ in (*delete, *insert))
    anew = {chain for chain, changes in count.items() if changes > max(_FEW, sizes(chain) // 8)}
    if not anew:
        return Edit(delete=delete, insert=insert)
    contents = whole()
    return Edit({chain: contents[chain] for chain in SHARED if chain in anew},
                [item for item in delete if item[0] not in anew], [item for item in insert if item[0] not in anew])


def repair_shared(found: Contents, wanted: Contents) -> Edit:
    """What brings chains that are not one Service's from what was found to what is wanted, and the jumps to them."""
    write = {chain: rules for chain, rules in wanted.items() if not _same(chain, found.get(chain), rules)}
    delete: list[tuple[ChainId, str]] = []
    insert: list[tuple[ChainId, str]] = []
    disorder = in_disorder(found.get(ChainId(FORWARD.table, "FORWARD"), ()))
    for chain, rule in JUMPS:
        present = found.get(chain, ()).count(rule)
        again = not present or (disorder and chain.name == "FORWARD")
        delete += [(chain, rule)] * (present if again else present - 1)
        if again:
            insert.append((chain, rule))
    return Edit(write, delete, insert)


def in_disorder(forward: Sequence[str]) -> bool:
    """Whether in FORWARD something accepts pods' traffic before our chains have seen it."""
    ours = [index for index, rule in enumerate(forward) if (ChainId("filter", "FORWARD"), rule) in JUMPS]
    others = [index for index, rule in enumerate(forward) if target(rule) in BLOCKING]
    return bool(ours and others) and max(ours) > min(others)


def expected_uses(entries: Collection[Entry], common: Contents) -> dict[ChainId, int]:
    """How often the kernel should say that each of our chains is used. `common`: all but the Services' own chains."""
    jumps: dict[ChainId, Rules] = {}
    for chain, rule in JUMPS:
        jumps[chain] = (*jumps.get(chain, ()), rule)
    counted = uses({**common, **jumps})
    result = {chain: counted[chain] for chain in common}
    result[MARK_MASQ] += sum(item.masquerades for item in entries)
    for item in entries:
        result.update({chain: written.uses for chain, written in item.chains.items()})
    return result


def _same(chain: ChainId, found: Rules | None, wanted: Rules) -> bool:
    if found is None or chain not in SHARED:
        return found == wanted
    if chain == SERVICES and found[-1:] != (LAST,):
        return False
    return Counter(found) == Counter(wanted)
