"""What an update of a Service keeps of the old one though the user did not repeat it, and what it forgets."""

from __future__ import annotations

from master.apiserver.kinds.common import Tree, child, items, spec
from master.apiserver.kinds.service_types import is_external, needs_cluster_ip, needs_health_check, needs_node_ports


def carry_over(new: Tree, old: Tree) -> None:
    """Allocated values that the update leaves open stay; so a manifest without them can be applied again."""
    if needs_cluster_ip(old) and needs_cluster_ip(new):
        if not new.get("clusterIP") and not (new.get("clusterIPs") and new["clusterIPs"] != old.get("clusterIPs")):
            _copy(new, old, "clusterIP")
        if not new.get("clusterIPs") and new.get("clusterIP") == old.get("clusterIP"):
            _copy(new, old, "clusterIPs")
        for key in ("ipFamilies", "ipFamilyPolicy"):
            if not new.get(key):
                _copy(new, old, key)
    if needs_node_ports(old) and needs_node_ports(new):
        used = {port.get("nodePort") for port in items(new, "ports") if port.get("nodePort")}
        held = {port.get("name") or "": port.get("nodePort") for port in items(old, "ports")}
        for port in items(new, "ports"):
            number = held.get(port.get("name") or "")
            if not port.get("nodePort") and number and number not in used:
                port["nodePort"] = number
                used.add(number)
    if needs_health_check(old) and needs_health_check(new) and not new.get("healthCheckNodePort"):
        _copy(new, old, "healthCheckNodePort")


def normalize_addresses(new: Tree, old: Tree) -> None:
    """A change of clusterIP alone is meant for clusterIPs too, and the other way round for clearing."""
    single, before = new.get("clusterIP") or "", old.get("clusterIP") or ""
    several, before_several = items(new, "clusterIPs"), items(old, "clusterIPs")
    if not before and single and not several:
        new["clusterIPs"] = [single]
    elif before and not single and several == before_several:
        new.pop("clusterIPs", None)
    elif before and single and before != single and several == before_several:
        new["clusterIPs"] = [single]


def drop_useless(new_service: Tree, old_service: Tree) -> None:
    """A change of type takes away what only the old type had, where the user left it as it was."""
    new, old = spec(new_service), spec(old_service)
    if needs_cluster_ip(old) and not needs_cluster_ip(new):
        if new.get("clusterIP") == old.get("clusterIP") and items(new, "clusterIPs") == items(old, "clusterIPs"):
            _drop(new, "clusterIP", "clusterIPs")
        for key in ("ipFamilies", "ipFamilyPolicy"):
            _drop_same(new, old, key)
    if needs_node_ports(old) and not needs_node_ports(new):
        held = {port.get("nodePort") for port in items(old, "ports")}
        if all(port.get("nodePort") is None or port["nodePort"] in held for port in items(new, "ports")):
            for port in items(new, "ports"):
                port.pop("nodePort", None)
    if is_external(old) and not is_external(new):
        _drop_same(new, old, "externalTrafficPolicy")
    if needs_health_check(old) and not needs_health_check(new):
        _drop_same(new, old, "healthCheckNodePort")
    if old.get("type") == "LoadBalancer" != new.get("type"):
        for key in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            _drop_same(new, old, key)
        child(new_service, "status")["loadBalancer"] = {}


def _copy(new: Tree, old: Tree, key: str) -> None:
    if old.get(key):
        new[key] = old[key]


def _drop(tree: Tree, *keys: str) -> None:
    for key in keys:
        tree.pop(key, None)


def _drop_same(new: Tree, old: Tree, key: str) -> None:
    if new.get(key) == old.get(key):
        new.pop(key, None)
