"""What happens to the node, told as events in the kubelet's words; which of it is decided purely."""

from __future__ import annotations

from msgspec.structs import replace

from agent.link.protocol import Reports
from sampan.api.times import Time
from sampan.api.types import core_v1, meta_v1
from sampan.loop.clock import Clock

COMPONENT = "kubelet"
EVENT_NAMESPACE = "default"  # nodes have none, events must
_STATES = {
    "MemoryPressure": {"True": "NodeHasInsufficientMemory", "False": "NodeHasSufficientMemory"},
    "DiskPressure": {"True": "NodeHasDiskPressure", "False": "NodeHasNoDiskPressure"},
    "PIDPressure": {"True": "NodeHasInsufficientPID", "False": "NodeHasSufficientPID"},
    "Ready": {"True": "NodeReady", "False": "NodeNotReady"},
}


def changes(before: core_v1.Node | None, after: core_v1.Node, *, started: bool) -> list[str]:
    """The reasons of the events that tell how the node's state has changed.

    An agent that has just started tells how the host is; whether it is ready only if that is news.
    """
    old = {item.type: item.status for item in before.status.conditions} if before else {}
    found = []
    for item in after.status.conditions:
        news = old.get(item.type) != item.status or (started and item.type != "Ready")
        if item.type == "Ready" and item.type not in old and item.status != "True":
            news = False  # a node that has only just come is not ready yet: no event
        reason = _STATES.get(item.type, {}).get(item.status)
        if news and reason:
            found.append(reason)
    return found


def rebooted(before: core_v1.Node | None, after: core_v1.Node) -> bool:
    """Whether the host has been booted anew since the master last heard of it."""
    old = before.status.node_info.boot_id if before and before.status.node_info else ""
    new = after.status.node_info.boot_id if after.status.node_info else ""
    return bool(old and new and old != new)


class NodeEvents:
    """Sends events about this node by way of the master; the same event again raises the first one's count."""

    def __init__(self, reports: Reports, node: str, clock: Clock) -> None:
        self._reports = reports
        self._node = node
        self._clock = clock
        self._known: dict[tuple[str, str], core_v1.Event] = {}  # there are only a few reasons

    def state(self, reason: str) -> None:
        """The node's state has changed."""
        self.emit("Normal", reason, f"Node {self._node} status is now: {reason}")

    def emit(self, kind: str, reason: str, message: str) -> None:
        """`kind` is Normal or Warning."""
        now = self._clock.now()
        before = self._known.get((reason, message))
        event = self._first(kind, reason, message, Time.of(now)) if before is None else replace(
            before, count=(before.count or 1) + 1, last_timestamp=Time.of(now))
        self._known[reason, message] = event
        self._reports.event(event)

    def _first(self, kind: str, reason: str, message: str, now: Time) -> core_v1.Event:
        unique = f"{int(self._clock.now().timestamp() * 1_000_000) * 1000 + len(self._known):x}"
        return core_v1.Event(
            metadata=meta_v1.ObjectMeta(name=f"{self._node}.{unique}", namespace=EVENT_NAMESPACE),
            # The node's name instead of its uid, as the kubelet has it: kubectl describe looks for both.
            involved_object=core_v1.ObjectReference(kind="Node", name=self._node, uid=self._node),
            type=kind, reason=reason, message=message, count=1, first_timestamp=now, last_timestamp=now,
            source=core_v1.EventSource(component=COMPONENT, host=self._node), reporting_component=COMPONENT,
            reporting_instance=self._node)
