"""Nodes: the agent writes their status, the master their pod network, users their taints."""

from __future__ import annotations

from master.apiserver.kinds import checks, pod_scheduling
from master.apiserver.kinds.common import (
    Errors,
    Shown,
    Tree,
    child,
    drop_unset,
    go_strings,
    items,
    keep,
    part,
    quoted,
    set_default,
    spec,
    status,
)
from master.apiserver.strategy import Context, Strategy
from sampan.api.errors import duplicate, forbidden, invalid

ONCE = 'except from "" to valid'
NOT_READY = "node.kubernetes.io/not-ready"


class NodeStrategy(Strategy):
    """The rules of nodes."""

    def default(self, obj: Tree) -> None:
        """Allocatable is capacity unless told otherwise; podCIDR and podCIDRs say the same."""
        tree = child(obj, "spec")
        drop_unset(tree, ("podCIDR", "podCIDRs", "providerID", "taints", "unschedulable", "externalID"))
        if items(tree, "podCIDRs"):
            set_default(tree, "podCIDR", tree["podCIDRs"][0])
        elif tree.get("podCIDR"):
            tree["podCIDRs"] = [tree["podCIDR"]]
        for taint in items(tree, "taints"):
            drop_unset(taint, ("value",))
        state = status(obj)
        if "capacity" in state and "allocatable" not in state:
            state["allocatable"] = dict(state["capacity"])

    def prepare_create(self, obj: Tree, context: Context) -> None:
        """No pod is to come before the node was seen to be ready (upstream's TaintNodesByCondition admission)."""
        taints = child(obj, "spec").setdefault("taints", [])
        if not any(taint.get("key") == NOT_READY and taint.get("effect") == "NoSchedule" for taint in taints):
            taints.append({"key": NOT_READY, "effect": "NoSchedule"})

    def prepare_update(self, new: Tree, old: Tree, context: Context) -> None:
        """The status belongs to its own door; a node may be made together with its status."""
        keep(new, old, "spec" if context.subresource == "status" else "status")

    def validate(self, obj: Tree, context: Context) -> Errors:
        """Taints, networks, amounts."""
        errors: Errors = []
        tree = spec(obj)
        if context.subresource != "status":
            errors += pod_scheduling.taints(items(tree, "taints"), "metadata.taints")
            networks = items(tree, "podCIDRs")
            if networks and tree.get("podCIDR") != networks[0]:
                errors.append(invalid("spec.podCIDR", tree.get("podCIDR") or "", "conversion error: in.PodCIDR("
                                      f"{tree.get('podCIDR') or ''}) != in.PodCIDRs[0]({networks[0]})"))
            for index, network in enumerate(networks):
                errors += checks.cidr(f"spec.podCIDRs[{index}]", network)
            if len(networks) > 1 and len({":" in network for network in networks}) < len(networks):
                errors.append(invalid("spec.podCIDRs", go_strings(networks),
                                      "may specify no more than one CIDR for each IP family"))
        for key in ("capacity", "allocatable"):
            for name, text in sorted(part(status(obj), key).items()):
                if checks.amount(text) < 0:
                    errors.append(invalid(f"status.{key}.{name}", text, checks.NEGATIVE))
        return errors

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """What is set once stays."""
        errors: Errors = []
        seen: set[tuple[str, str]] = set()
        for index, address in enumerate(items(status(new), "addresses")):
            known = address.get("type") or "", address.get("address") or ""
            if known in seen:
                errors.append(duplicate(f"status.addresses[{index}]", _go_address(address)))
            seen.add(known)
        before, after = spec(old), spec(new)
        if items(before, "podCIDRs") and items(before, "podCIDRs") != items(after, "podCIDRs"):
            errors.append(forbidden("spec.podCIDRs", f"node updates may not change podCIDR {ONCE}"))
        if before.get("providerID") and before["providerID"] != after.get("providerID"):
            errors.append(forbidden("spec.providerID", f"node updates may not change providerID {ONCE}"))
        return errors

    def warnings(self, obj: Tree) -> list[str]:
        """Fields that do nothing any more."""
        old = {"externalID": "this field is deprecated, and is unused by Kubernetes",
               "configSource": "the feature is no longer supported"}
        return [f"spec.{key}: {text}" for key, text in old.items() if spec(obj).get(key)]

    def fields(self, obj: Tree) -> dict[str, str]:
        """Whether pods may come."""
        return {"spec.unschedulable": "true" if spec(obj).get("unschedulable") else "false"}


def _go_address(address: Tree) -> Shown:
    kind, value = (quoted(address.get(key) or "") for key in ("type", "address"))
    return Shown(f"core.NodeAddress{{Type:{kind}, Address:{value}}}")
