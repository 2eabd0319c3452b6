"""Which UDP flows lead where nobody is any more; pure.

The kernel sends a flow where it sent its first packet, for as long as packets come. TCP notices that its endpoint is
gone; UDP clients that keep their port (resolvers, statsd) would go on talking to nobody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.proxy.model import Endpoint, ServicePort
from netplugin.conntrack import Flow

Backs = frozenset[str]


class StaleFlows:
    """Collects the UDP ports that have changed, and says which flows to them are to be forgotten.

    A flow stays if a serving endpoint answers it, whatever the traffic policy says now, as TCP's connections do.
    Flows to a Service without endpoints go, too: a client that goes on sending keeps its entry, and would not be
    led to the endpoints that come later.
    """

    def __init__(self) -> None:
        self._addresses: dict[tuple[str, int], Backs] = {}
        self._node_ports: dict[int, Backs] = {}

    def __bool__(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self._addresses or self._node_ports)

    def add(self, port: ServicePort, backs: Iterable[str]) -> None:
        """Flows to this port may only be answered from these addresses."""
        backs = frozenset(backs)
        for ip in port.addresses:
            self._addresses[ip, port.port] = backs
        if port.node_port:
            self._node_ports[port.node_port] = backs

    def __call__(self, flow: Flow) -> bool:
        """Whether to forget the flow."""
        backs = self._addresses.get((flow.destination, flow.port))
        if backs is None:
            backs = self._node_ports.get(flow.port)
        return backs is not None and flow.answered_by not in backs


Fronts = frozenset[tuple[ServicePort, frozenset[str]]]


def fronts(ports: Sequence[tuple[ServicePort, Sequence[Endpoint]]]) -> Fronts:
    """What decides over a Service's UDP flows: if this has not changed, no flow has become stale."""
    return frozenset((port, frozenset(endpoint.ip for endpoint in found if endpoint.serving))
                     for port, found in ports if port.protocol == "udp")
