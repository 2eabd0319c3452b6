"""A proxier over fakes, whose syncs are made one by one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from agent.link.view import View
from agent.proxy import observer as figures
from agent.proxy.chains import JUMPS, LAST, SERVICES, SHARED, NodeFacts, is_ours, wanted
from agent.proxy.health import ProxyHealth
from agent.proxy.model import concerns
from agent.proxy.observer import Figures
from agent.proxy.plan import in_disorder
from agent.proxy.proxier import Proxier
from netplugin.conntrack import Flow
from netplugin.fake_tables import FakeTables
from netplugin.protocol import NetworkError
from netplugin.tables import ChainId, Edit, Rules
from sampan.api.resources import ENDPOINTSLICES
from sampan.api.resources import SERVICES as SERVICE_KIND
from sampan.api.types.discovery_v1 import EndpointPort, EndpointSlice
from sampan.loop.clock import FakeClock, SystemClock
from tests.support.services import NODE, port, service

FACTS = NodeFacts(NODE, "192.0.2.1", "10.244.0.0/16")
FORWARD = ChainId("filter", "FORWARD")


class FakeFlows:
    """`flows` are there; what is forgotten goes."""

    def __init__(self, *flows: Flow) -> None:
        self.flows = set(flows)
        self.asked = 0
        self.broken = False

    async def forget_udp(self, stale: Callable[[Flow], bool]) -> int:
        self.asked += 1
        if self.broken:
            raise NetworkError("no")
        gone = {flow for flow in self.flows if stale(flow)}
        self.flows -= gone
        return len(gone)


class World:
    """A proxier over fakes, whose syncs are made one by one."""

    def __init__(self, tables: FakeTables | None = None, flows: FakeFlows | None = None) -> None:
        self.view = View()
        self.tables = tables or FakeTables()
        self.flows = flows or FakeFlows()
        self.figures = Figures()
        self.health = ProxyHealth(FakeClock(), "")
        self.proxier = self.new()

    def new(self, **options: Any) -> Proxier:
        """Another process with the same kernel and the same master."""
        self.proxier = Proxier(self.view, self.tables, self.flows, FACTS, SystemClock(), observer=self.figures,
                               health=self.health, **options)
        return self.proxier

    async def sync(self) -> list[Edit]:
        """What one sync writes."""
        self.proxier._subscribe()
        before = len(self.tables.edits)
        kind = figures.PARTIAL_SECONDS if self.proxier._adopted else figures.FULL_SECONDS
        await self.proxier._measured(kind)
        return self.tables.edits[before:]

    def check(self) -> None:
        """The kernel has exactly what the view wants; of shared chains the order does not matter."""
        by_service: dict[tuple[str, str], list[EndpointSlice]] = {}
        for item in self.view.list(ENDPOINTSLICES):
            key = concerns(item)
            assert key is not None
            by_service.setdefault(key, []).append(item)
        want = wanted(self.view.list(SERVICE_KIND), by_service, FACTS)
        have = {chain: rules for chain, rules in self.tables.contents.items() if is_ours(chain)}
        assert have[SERVICES][-1] == LAST
        assert normal(have) == normal(want)
        for chain, rule in JUMPS:
            assert self.tables.contents[chain].count(rule) == 1
        assert not in_disorder(self.tables.contents[FORWARD])


def normal(chains: dict[ChainId, Rules]) -> dict[ChainId, Any]:
    return {chain: Counter(rules) if chain in SHARED else rules for chain, rules in chains.items()}


def damages(contents: dict[ChainId, Rules]) -> list[dict[ChainId, Rules]]:
    """Each chain without its last rule, without all; a jump gone; strangers' chains before ours; a chain too many."""
    result: list[dict[ChainId, Rules]] = []
    for chain, rules in contents.items():
        if rules:
            result += [{**contents, chain: rules[:-1]}, {**contents, chain: ()}]
    result.append({chain: () for chain in contents if not chain.name.startswith("KUBE")})
    docker = ChainId("filter", "DOCKER-USER")
    result.append({**contents, docker: (), FORWARD: ("-j DOCKER-USER", *contents[FORWARD])})
    result.append({**contents, ChainId("nat", "KUBE-SVC-AAAAAAAAAAAAAAAA"): ()})
    return result


UDP = [EndpointPort(name="dns", port=53, protocol="UDP")]


def dns(ip: str = "10.96.0.10", **spec: Any) -> Any:
    return service("dns", ip, port("dns", 53, "UDP", node_port=30053), type="NodePort", external_ips=["192.0.2.7"],
                   **spec)
