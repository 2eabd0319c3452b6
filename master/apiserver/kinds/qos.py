"""The quality of service class, which says who is put out first when a node runs out of memory.

Guaranteed: every container has CPU and memory limits equal to its requests. BestEffort: nobody asks for anything.
Burstable: the rest.
"""

from __future__ import annotations

from master.apiserver.kinds import checks
from master.apiserver.kinds.common import Tree, items, part


def qos_class(spec: Tree) -> str:
    """The class of a pod with this spec."""
    requests: dict[str, int] = {}
    limits: dict[str, int] = {}
    guaranteed = True
    for container in (*items(spec, "containers"), *items(spec, "initContainers")):
        resources = part(container, "resources")
        _add(requests, part(resources, "requests"))
        limited = _add(limits, part(resources, "limits"))
        if limited != {"cpu", "memory"}:
            guaranteed = False
    if not requests and not limits:
        return "BestEffort"
    return "Guaranteed" if guaranteed and requests == limits else "Burstable"


def _add(total: dict[str, int], amounts: Tree) -> set[str]:
    """Add CPU and memory to the totals; which of them were given (zero counts as not given)."""
    given = set()
    for name in ("cpu", "memory"):
        amount = checks.amount(amounts.get(name, "0"))
        if amount > 0:
            total[name] = total.get(name, 0) + amount
            given.add(name)
    return given
