"""The row of a pod: one word for all that can be the matter with it (printPod upstream)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from master.apiserver.kinds.common import Tree, items, metadata, part, spec, status
from master.apiserver.kinds.print_common import AGE, NAME, NONE, Table, age, name, wide
from master.apiserver.strategy import Age, Column


@dataclass(slots=True)
class _Tally:
    """What is counted while going through the containers' statuses."""

    reason: str
    ready: int = 0
    restarts: int = 0
    last_restart: str = ""  # RFC 3339, so that text order is time order
    running: bool = False

    def count_restarts(self, container: Tree) -> None:
        self.restarts += container.get("restartCount") or 0
        ended = part(part(container, "lastState"), "terminated").get("finishedAt") or ""
        self.last_restart = max(self.last_restart, ended)


def pod_cells(obj: Tree) -> list[Any]:
    """One row."""
    tree, state = spec(obj), status(obj)
    sidecars = {container.get("name") for container in items(tree, "initContainers")
                if container.get("restartPolicy") == "Always"}
    total = len(items(tree, "containers")) + len(sidecars)
    tally = _tally(obj, sidecars)
    restarts: str | Age = str(tally.restarts)
    if tally.restarts and tally.last_restart:
        restarts = Age(tally.last_restart, f"{tally.restarts} ({{}} ago)")
    addresses = items(state, "podIPs")
    address = addresses[0].get("ip") if addresses else state.get("podIP")
    return [name(obj), f"{tally.ready}/{total}", tally.reason, restarts, age(obj), address or NONE,
            tree.get("nodeName") or NONE, state.get("nominatedNodeName") or NONE, _gates(tree, state)]


def _tally(obj: Tree, sidecars: set[str | None]) -> _Tally:
    state = status(obj)
    phase = state.get("phase") or ""
    tally = _Tally(state.get("reason") or phase)
    for condition in items(state, "conditions"):
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "SchedulingGated":
            tally.reason = "SchedulingGated"
    initializing = _init_containers(obj, tally, sidecars)
    if not initializing or _condition(state, "Initialized"):
        tally.restarts, tally.last_restart = 0, ""
        for container in items(state, "initContainerStatuses"):
            if container.get("name") in sidecars:
                tally.count_restarts(container)
        _containers(state, tally)
        if tally.reason == "Completed" and tally.running:
            tally.reason = "Running" if _condition(state, "Ready") else "NotReady"
    if metadata(obj).get("deletionTimestamp"):
        if state.get("reason") == "NodeLost":
            tally.reason = "Unknown"
        elif phase not in ("Failed", "Succeeded"):
            tally.reason = "Terminating"
    return tally


def _init_containers(obj: Tree, tally: _Tally, sidecars: set[str | None]) -> bool:
    """Count the init containers up to the first that is not done; whether there is such a one."""
    for index, container in enumerate(items(status(obj), "initContainerStatuses")):
        tally.count_restarts(container)
        now = part(container, "state")
        ended = now.get("terminated")
        if ended is not None and not ended.get("exitCode"):
            continue
        if container.get("name") in sidecars and container.get("started"):
            tally.ready += 1 if container.get("ready") else 0
            continue
        waiting = part(now, "waiting").get("reason")
        if ended is not None:
            tally.reason = "Init:" + _ended(ended)
        elif waiting and waiting != "PodInitializing":
            tally.reason = f"Init:{waiting}"
        else:
            tally.reason = f"Init:{index}/{len(items(spec(obj), 'initContainers'))}"
        return True
    return False


def _containers(state: Tree, tally: _Tally) -> None:
    """Count the regular containers, last one first: the first one's state is what shows."""
    for container in reversed(items(state, "containerStatuses")):
        tally.count_restarts(container)
        now = part(container, "state")
        if part(now, "waiting").get("reason"):
            tally.reason = now["waiting"]["reason"]
        elif "terminated" in now:
            tally.reason = _ended(now["terminated"])
        elif container.get("ready") and "running" in now:
            tally.running = True
            tally.ready += 1


def _ended(terminated: Tree) -> str:
    if terminated.get("reason"):
        return str(terminated["reason"])
    if terminated.get("signal"):
        return f"Signal:{terminated['signal']}"
    return f"ExitCode:{terminated.get('exitCode') or 0}"


def _condition(state: Tree, kind: str) -> bool:
    return any(condition.get("type") == kind and condition.get("status") == "True"
               for condition in items(state, "conditions"))


def _gates(tree: Tree, state: Tree) -> str:
    gates = items(tree, "readinessGates")
    if not gates:
        return NONE
    passed = sum(_condition(state, gate.get("conditionType") or "") for gate in gates)
    return f"{passed}/{len(gates)}"


PODS = Table((
    NAME,
    Column("Ready", description="The aggregate readiness state of this pod for accepting traffic."),
    Column("Status", description="The aggregate status of the containers in this pod."),
    Column("Restarts", description="The number of times the containers in this pod have been restarted and when the "
                                   "last container in this pod has restarted."),
    AGE, wide("IP"), wide("Node"), wide("Nominated Node"), wide("Readiness Gates"),
), pod_cells)
