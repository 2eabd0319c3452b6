"""Keeps the kernel's rules as the cluster's Services want them.

A Service's rules are computed when it or its slices change, and compared with what was written last. The kernel is
read at the start and after somebody else has changed rules; what is right there stays as it is. So a restart of the
agent changes nothing for traffic, and neither does a change of one Service for the others.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import NamedTuple

from agent.link.protocol import ClusterView
from agent.proxy import observer as figures
from agent.proxy.chains import (
    JUMPS,
    MARK_MASQ,
    NodeFacts,
    Rendered,
    fixed,
    is_ours,
    is_service_chain,
    leading_first,
    render,
    shared_chains,
)
from agent.proxy.health import HealthPort, ProxyHealth
from agent.proxy.model import ZONE, Endpoint, ServiceKey, ServicePort, concerns, endpoints, service_ports
from agent.proxy.observer import Figures, Observer
from agent.proxy.plan import (
    NOTHING,
    REMOVALS,
    Changes,
    Entry,
    changed_chains,
    entry,
    expected_uses,
    gone_chains,
    in_disorder,
    repair_shared,
    shared_edit,
)
from agent.proxy.stale import Fronts, StaleFlows, fronts
from netplugin.conntrack import Flows
from netplugin.protocol import NetworkError
from netplugin.tables import BUILT_IN, ChainId, Edit, Rules, Tables
from sampan.api.resources import ENDPOINTSLICES, NODES, SERVICES
from sampan.api.types.core_v1 import Node, Service
from sampan.api.types.discovery_v1 import EndpointSlice
from sampan.loop.backoff import Backoff
from sampan.loop.clock import Clock

log = logging.getLogger(__name__)

LOOK = 2.0
"""Seconds between looks whether somebody else has changed rules."""
PATIENCE = 10.0
"""Seconds that a node without rules waits for its master."""
FORGET = 30.0
"""Seconds after which UDP flows that could not be forgotten are tried again."""
_SETTLE = 0.02
"""Seconds to wait after a change for those that come with it: a Service and its slices, say."""
_REST = 2.0
"""After a change rests the proxy so many times as long as that took, at most a second: others need the processor."""
_CHAIN = re.compile("KUBE-[A-Z]+-[A-Z2-7]{16}")
_FORWARD = ChainId("filter", "FORWARD")
TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"


class Record(NamedTuple):
    """What is kept of a Service."""

    entry: Entry
    udp: Fronts
    health: HealthPort | None


_NONE = Record(NOTHING, frozenset(), None)


class Proxier:
    """One node's Services. `health` answers load balancers and probes; `observer` gets the figures."""

    def __init__(self, view: ClusterView, tables: Tables, flows: Flows, node: NodeFacts, clock: Clock, *,
                 health: ProxyHealth | None = None, observer: Observer | None = None,
                 patience: float = PATIENCE) -> None:
        """`patience`: seconds to wait for the master before the checkpoint counts on a node without rules."""
        self._view = view
        self._tables = tables
        self._flows = flows
        self._node = node
        self._clock = clock
        self._health = health
        self._observer = observer or Figures()
        self._patience = patience
        self._slices: dict[ServiceKey, dict[str, EndpointSlice]] = {}
        self._records: dict[ServiceKey, Record] = {}
        self._dirty: set[ServiceKey] = set()
        self._triggers: list[datetime] = []
        self._news = asyncio.Event()
        self._subscribed = False
        self._refused: set[ServiceKey] = set()
        self._suspect: ServiceKey | None = None
        self._stale = StaleFlows()
        self._forgot = 0.0
        self._looked = 0.0
        self._adopted = False
        self.synced = asyncio.Event()
        """Set once the kernel has all rules."""

    async def run(self) -> None:
        """Until cancelled. Nothing is written before the master has told all, with one exception (`_begin`)."""
        self._subscribe()
        await self._begin()
        failures = 0
        while True:
            try:
                await self._turn()
                failures = 0
            except NetworkError as error:
                self._observer.add(figures.FAILURES)
                log.warning("the rules for Services could not be written: %s", error)
                failures += 1
                self._suspect_one(str(error))
                await self._clock.sleep(Backoff(initial=0.5).delay(failures))

    async def _begin(self) -> None:
        """Wait for the master.

        If it does not come, and the kernel has no rules, the node was restarted without it, or somebody has wiped them:
        then what the checkpoint remembers of Services is better than none.
        """
        while not self._view.authoritative:
            try:
                async with asyncio.timeout(self._patience):
                    await self._view.synced()
            except TimeoutError:
                await self._view.loaded()
                if self._view.list(SERVICES) and not await self._has_rules():
                    log.warning("the master does not answer; Services are led as they were last known")
                    return

    async def _has_rules(self) -> bool:
        """As long as that cannot be told, they are taken to be there: what the checkpoint knows may be old."""
        try:
            return bool(await self._tables.read_one(MARK_MASQ))
        except NetworkError as error:
            log.warning("whether there are rules for Services cannot be told: %s", error)
            return True

    async def _turn(self) -> None:
        """Do what there is to do, or wait for something."""
        if not self._adopted:
            await self._measured(figures.FULL_SECONDS)
            return
        remaining = self._looked + LOOK - self._clock.monotonic()
        if remaining <= 0 or not await self._changed(remaining):
            self._looked = self._clock.monotonic()
            if self._looked - self._forgot >= FORGET:
                await self._forget()
            if await self._disturbed():
                log.warning("the rules for Services were changed by somebody else; writing them again")
                self._observer.add(figures.HEALED)
                self._adopted = False
            return
        await self._clock.sleep(_SETTLE)
        if self._adopted:
            took = await self._measured(figures.PARTIAL_SECONDS)
            await self._clock.sleep(min(1.0, _REST * took))

    async def _changed(self, seconds: float) -> bool:
        """Wait for a change; False after so many seconds."""
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return False
        return True

    def _suspect_one(self, error: str) -> None:
        """Leave out the Service whose rules the kernel does not take (it may lack SCTP, say), when it fails twice.

        It is tried again when it changes, or has changed meanwhile. The others must not wait for it.
        """
        names = set(_CHAIN.findall(error))
        found = next((key for key, record in self._records.items()
                      if any(chain.name in names for chain in record.entry.chains)
                      or any(rule in error for _, rule in record.entry.shared)), None)
        if found is not None and found == self._suspect and found not in self._dirty:
            log.error("Service %s/%s is left out: this node's kernel does not take its rules", *found)
            self._refused.add(found)
            found = None
        self._suspect = found

    async def _measured(self, name: str) -> float:
        """One sync, with its figures; seconds."""
        began = self._clock.monotonic()
        dirty, self._dirty = self._dirty, set()
        triggers, self._triggers = self._triggers, []
        self._news.clear()
        try:
            if name == figures.FULL_SECONDS:
                await self._full()
            else:
                await self._partial(dirty)
        except BaseException:
            self._adopted = False  # nothing is known of what has been done
            raise
        self._suspect = None
        took = self._clock.monotonic() - began
        now = self._clock.now()
        for histogram in (name, figures.SYNC_SECONDS):
            self._observer.observe(histogram, took)
        for trigger in triggers:
            self._observer.observe(figures.PROGRAMMING_SECONDS, max(0.0, (now - trigger).total_seconds()))
        self._observer.set(figures.LAST_SYNC, now.timestamp())
        if self._health:
            self._health.serve(record.health for record in self._records.values() if record.health)
            self._health.synced()
            if self._dirty:  # these have come since it began
                self._health.queued()
        self.synced.set()
        return took

    # -- syncs

    async def _full(self) -> None:
        """Read what is there, and change what is not right."""
        node = self._facts()
        digests: dict[ChainId, int] = {}
        found: dict[ChainId, Rules] = {}
        await self._tables.settle()  # before the look: what somebody changes from now on is seen by the next one
        async with contextlib.aclosing(self._tables.read()) as chains:
            async for chain, rules in chains:
                if is_service_chain(chain):
                    digests[chain] = hash(rules)
                elif is_ours(chain) or chain.name in BUILT_IN:
                    found[chain] = rules
        before, after = self._records, dict[ServiceKey, Record]()

        def groups() -> Iterator[Mapping[ChainId, Rules]]:
            yield {chain: rules for chain, rules in fixed(node).items() if found.get(chain) != rules}
            for service in self._view.list(SERVICES):
                key, record, rendered = self._render(service, node)
                if rendered.shared:
                    after[key] = record
                yield {chain: rules for chain, rules in rendered.chains.items() if digests.get(chain) != hash(rules)}

        def shared() -> Edit:
            return repair_shared(found, shared_chains(_all_shared(after.values())))

        def remove() -> list[ChainId]:
            return leading_first(digests.keys() - {chain for record in after.values() for chain in record.entry.chains})

        self._mark_stale(before.values())
        self._records = after
        await self._apply(Changes(groups(), shared, remove))
        self._adopted = self._facts() == node  # else it has changed meanwhile
        # An endpoint may have gone while nobody was looking, so that all of UDP is looked at.
        self._mark_stale((), after.values())
        await self._forget()
        log.info("the rules for %d Services are in place", len(after))

    async def _partial(self, keys: set[ServiceKey]) -> None:
        """Change what these Services need."""
        node = self._facts()
        before = {key: self._records.get(key, _NONE) for key in keys}
        after: dict[ServiceKey, Record] = {}
        changed: list[ServiceKey] = []

        def groups() -> Iterator[Mapping[ChainId, Rules]]:
            for key in keys:
                service = self._view.get(SERVICES, key.name, key.namespace)
                rendered = Rendered()
                after[key] = _NONE
                if service is not None:
                    _, after[key], rendered = self._render(service, node)
                yield changed_chains(before[key].entry, rendered)

        def shared() -> Edit:
            changed.extend(key for key in keys if after[key].udp != before[key].udp)
            self._mark_stale([before[key] for key in changed], [after[key] for key in changed])
            for key, record in after.items():
                if record == _NONE:
                    self._records.pop(key, None)
                else:
                    self._records[key] = record
            return shared_edit(_all_shared(before.values()), _all_shared(after.values()),
                               lambda: shared_chains(_all_shared(self._records.values())),
                               lambda chain: sum(member == chain for member, _ in _all_shared(self._records.values())))

        def remove() -> list[ChainId]:
            return leading_first(chain for key in keys for chain in gone_chains(before[key].entry, after[key].entry))

        await self._apply(Changes(groups(), shared, remove))
        if changed:
            await self._forget()

    async def _apply(self, changes: Changes) -> None:
        written = 0
        for edit in changes.edits():
            if edit:
                await self._tables.apply(edit)
                written += sum(len(rules) for rules in edit.write.values()) + len(edit.insert)
            else:
                await asyncio.sleep(0)
        self._observer.set(figures.RULES_LAST, written)

    def _mark_stale(self, before: Iterable[Record], after: Iterable[Record] = ()) -> None:
        """UDP flows are to be forgotten that lead where these Services no longer do."""
        for record in before:
            for port, _ in record.udp:
                self._stale.add(port, ())
        for record in after:
            for port, backs in record.udp:
                self._stale.add(port, backs)

    async def _forget(self) -> None:
        """Have the stale UDP flows forgotten; those of a failure stay marked."""
        if not self._stale:
            return
        self._forgot = self._clock.monotonic()
        try:
            count = await self._flows.forget_udp(self._stale)
        except NetworkError as error:
            log.warning("old UDP flows could not be forgotten: %s", error)
            return
        self._stale = StaleFlows()
        self._observer.add(figures.FORGOTTEN, count)

    def _render(self, service: Service, node: NodeFacts) -> tuple[ServiceKey, Record, Rendered]:
        """A Service's rules, and what to keep of them."""
        key = ServiceKey(service.metadata.namespace or "", service.metadata.name or "")
        slices = self._slices.get(key, {}).values()
        ports = [(port, endpoints(slices, port, node.name)) for port in service_ports(service)]
        rendered = Rendered()
        try:
            for port, found in ports if key not in self._refused else ():
                rendered.add(render(port, found, node))
        except ValueError as error:
            log.error("Service %s/%s is left out: %s", *key, error)  # noqa: TRY400 - the text says it all
            rendered = Rendered()
        if not rendered.shared:
            return key, _NONE, rendered
        return key, Record(entry(rendered), fronts(ports), _health_port(key, ports)), rendered

    async def _disturbed(self) -> bool:
        """Whether what the kernel has is not what was written."""
        if not await self._tables.touched():
            return False
        counts = await self._tables.settle()
        if counts is None:
            return True  # there is no telling but by reading
        common = {**fixed(self._facts()), **shared_chains(_all_shared(self._records.values()))}
        expected = expected_uses([record.entry for record in self._records.values()], common)
        if any(counts.get(chain) != count for chain, count in expected.items()):
            return True
        if any(is_service_chain(chain) and chain not in expected for chain in counts):
            return True
        return in_disorder(await self._tables.read_one(_FORWARD) or ())

    # -- what the master tells

    def _facts(self) -> NodeFacts:
        """The node as it is now."""
        node = self._view.get(NODES, self._node.name)
        return replace(self._node, zone=node.metadata.labels.get(ZONE, "") if node else "")

    def _subscribe(self) -> None:
        if self._subscribed:
            return
        self._subscribed = True
        for slice_ in self._view.list(ENDPOINTSLICES):
            self._slice_changed(None, slice_)
        self._view.subscribe(SERVICES, self._service_changed)
        self._view.subscribe(ENDPOINTSLICES, self._slice_changed)
        self._view.subscribe(NODES, self._node_changed)

    def _service_changed(self, old: Service | None, new: Service | None) -> None:
        service = new or old
        if service is not None:
            self._observer.add(figures.SERVICE_CHANGES)
            self._wake(ServiceKey(service.metadata.namespace or "", service.metadata.name or ""))

    def _slice_changed(self, old: EndpointSlice | None, new: EndpointSlice | None) -> None:
        keys = [concerns(slice_) if slice_ else None for slice_ in (old, new)]
        if old and keys[0]:
            members = self._slices.get(keys[0], {})
            members.pop(old.metadata.name or "", None)
            if not members:
                self._slices.pop(keys[0], None)
        if new and keys[1]:
            self._slices.setdefault(keys[1], {})[new.metadata.name or ""] = new
            self._note_trigger(old, new)
        for key in keys:
            if key:
                self._observer.add(figures.ENDPOINT_CHANGES)
                self._wake(key)

    def _note_trigger(self, old: EndpointSlice | None, new: EndpointSlice) -> None:
        text = new.metadata.annotations.get(TRIGGER_TIME, "")
        if self._adopted and text and (old is None or old.metadata.annotations.get(TRIGGER_TIME) != text):
            with contextlib.suppress(ValueError):
                self._triggers.append(datetime.fromisoformat(text))

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        node = new or old
        if node is not None and node.metadata.name == self._node.name:
            zones = [item.metadata.labels.get(ZONE) if item else None for item in (old, new)]
            if zones[0] != zones[1]:
                self._adopted = False  # any Service may choose other endpoints now
                self._news.set()

    def _wake(self, key: ServiceKey) -> None:
        self._refused.discard(key)
        self._dirty.add(key)
        self._news.set()
        if self._health:
            self._health.queued()
        self._observer.set(figures.LAST_QUEUED, self._clock.now().timestamp())


async def cleanup(tables: Tables) -> None:
    """Take all rules of ours away; what is not ours stays."""
    ours: list[ChainId] = []
    jumps: list[tuple[ChainId, str]] = []
    async with contextlib.aclosing(tables.read()) as chains:
        async for chain, rules in chains:
            if is_ours(chain):
                ours.append(chain)
            jumps += [(chain, rule) for rule in rules if (chain, rule) in JUMPS]
    if jumps:
        await tables.apply(Edit(delete=jumps))
    # Emptied first: a chain that another one leads to cannot go.
    for start in range(0, len(ours), REMOVALS):
        await tables.apply(Edit(write=dict.fromkeys(ours[start:start + REMOVALS], ())))
    for start in range(0, len(ours), REMOVALS):
        await tables.apply(Edit(remove=ours[start:start + REMOVALS]))


def _all_shared(records: Iterable[Record]) -> Iterator[tuple[ChainId, str]]:
    for record in records:
        yield from record.entry.shared


def _health_port(key: ServiceKey, ports: Sequence[tuple[ServicePort, Sequence[Endpoint]]]) -> HealthPort | None:
    number = next((port.health_check_port for port, _ in ports if port.health_check_port), 0)
    here = {endpoint.ip for _, found in ports for endpoint in found if endpoint.local and endpoint.ready}
    return HealthPort(number, key, len(here)) if number else None
