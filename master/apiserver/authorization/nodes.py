"""What a node may do: read what its pods refer to, and report on itself and on them.

Source: the "Using Node Authorization" reference, with AuthorizeNodeWithSelectors (on by default since 1.32). What a
node may write is narrowed further by `restriction`, which sees the objects.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import msgspec

from master.apiserver.authorization.attributes import ALLOWED, NO_OPINION, Attributes, Decision
from master.apiserver.authorization.rules import Rule, read_rules
from master.apiserver.entry import Entry
from master.apiserver.registry import Registry
from master.apiserver.strategy import User
from master.nodes.interest import needs
from sampan.api.codec import decode
from sampan.api.resources import CONFIGMAPS, LEASES, NODES, PODS, SECRETS, SERVICEACCOUNTS
from sampan.api.types import core_v1
from sampan.nodeline import GROUP, USER_PREFIX, Key

LEASE_NAMESPACE = "kube-node-lease"
_READ = frozenset(("get", "list", "watch"))
_OWN_LEASE = frozenset(("get", "create", "update", "patch", "delete"))


def node_of(user: User) -> tuple[str, bool]:
    """The node that a user is, and whether it is a node at all (it may be one without a name)."""
    if GROUP not in user.groups:
        return "", False
    name = user.name.removeprefix(USER_PREFIX)
    return (name, True) if name != user.name else ("", False)


class _Spec(msgspec.Struct):
    nodeName: str = ""  # noqa: N815 - the field's name in JSON


class _Bound(msgspec.Struct):
    spec: _Spec


_read_node = msgspec.json.Decoder(_Bound).decode  # skips all else: each change of a pod is looked at


@dataclass(slots=True)
class _Pod:
    """A pod on a node; what it refers to is read when it is first asked for."""

    entry: Entry
    refers_to: frozenset[Key] | None = None

    def references(self) -> frozenset[Key]:
        if self.refers_to is None:
            self.refers_to = needs(decode(core_v1.Pod, self.entry.raw))
        return self.refers_to


class NodePods:
    """The pods of each node, from the cache."""

    def __init__(self) -> None:
        self._pods: defaultdict[str, dict[tuple[str, str], _Pod]] = defaultdict(dict)
        self._places: dict[tuple[str, str], str] = {}

    def follow(self, registry: Registry) -> None:
        """Keep up with the cache; before it runs."""
        registry.of(PODS).cache.listen(self._changed)

    def has(self, node: str, namespace: str, name: str) -> bool:
        """Whether the pod is bound to the node."""
        return self._places.get((namespace, name)) == node

    def refer(self, node: str, key: Key) -> bool:
        """Whether a pod on the node refers to the object."""
        return any(key in pod.references() for (namespace, _), pod in self._pods.get(node, {}).items()
                   if namespace == key.namespace)

    def _changed(self, old: Entry | None, new: Entry | None) -> None:
        one = new or old
        assert one is not None
        place = one.namespace, one.name
        node, after = self._places.get(place, ""), ""
        if new is not None:  # once bound, a pod stays where it is
            after = node if node and old is not None else _read_node(new.raw).spec.nodeName
        if node and after != node:
            del self._places[place]
            del self._pods[node][place]
            if not self._pods[node]:
                del self._pods[node]
        if after and new is not None:
            self._places[place] = after
            self._pods[after][place] = _Pod(new)


class NodeAuthorizer:
    """Decides for users of the group system:nodes; has no opinion on others."""

    def __init__(self, pods: NodePods, rules: list[dict[str, Any]]) -> None:
        """`rules` hold for every node alike; upstream's ClusterRole system:node."""
        self._pods = pods
        self._rules: tuple[Rule, ...] = read_rules(rules)

    def decide(self, user: User, asked: Attributes) -> Decision:
        """Allowed, or no opinion and why."""
        node, known = node_of(user)
        if not known:
            return NO_OPINION
        if not node:
            return Decision(allowed=False, reason=f'unknown node for user "{user.name}"')
        if not asked.path:
            match (asked.group, asked.plural):
                case SECRETS.key | CONFIGMAPS.key:
                    return self._read(node, asked)
                case SERVICEACCOUNTS.key:
                    return self._account(node, asked)
                case LEASES.key:
                    return _lease(node, asked)
                case NODES.key:
                    return _node(node, asked)
                case PODS.key:
                    return self._pod(node, asked)
                case ("", "persistentvolumeclaims" | "persistentvolumes") | (
                        "storage.k8s.io", "volumeattachments" | "csinodes"):
                    # No kind of ours yet. Whoever adds one says here which of its objects concern a node.
                    return _no(f"no relationship found between node '{node}' and this object")
        return ALLOWED if any(rule.allows(asked) for rule in self._rules) else NO_OPINION

    def _read(self, node: str, asked: Attributes) -> Decision:
        if asked.verb not in _READ:
            return _no("can only read resources of this type")
        if asked.subresource:
            return _no("cannot read subresource")
        if not asked.namespace:
            return _no("can only read namespaced object of this type")
        if not asked.name:
            return _no("No Object name found")
        return self._related(node, asked)

    def _account(self, node: str, asked: Attributes) -> Decision:
        if asked.verb != "create" or not asked.name:
            return _no("can only create tokens for individual service accounts")
        if asked.subresource != "token":
            return _no("can only create token subresource of serviceaccount")
        return self._related(node, asked)

    def _related(self, node: str, asked: Attributes) -> Decision:
        if self._pods.refer(node, Key(asked.group, asked.plural, asked.namespace, asked.name)):
            return ALLOWED
        return _no(f"no relationship found between node '{node}' and this object")

    def _pod(self, node: str, asked: Attributes) -> Decision:
        match asked.subresource, asked.verb:
            case "", "get":
                return self._own_pod(node, asked)
            case "", "list" | "watch":
                if asked.selector().exact("spec.nodeName") == node:
                    return ALLOWED
                if asked.name:
                    return self._own_pod(node, asked)
                return _no("can only list/watch pods with spec.nodeName field selector")
            case ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create"):
                return ALLOWED
        return NO_OPINION

    def _own_pod(self, node: str, asked: Attributes) -> Decision:
        if asked.name and self._pods.has(node, asked.namespace, asked.name):
            return ALLOWED
        return _no(f"no relationship found between node '{node}' and this object")


def _node(node: str, asked: Attributes) -> Decision:
    match asked.subresource, asked.verb:
        case ("", "create" | "update" | "patch") | ("status", "update" | "patch"):
            return ALLOWED
        case "", "get" | "list" | "watch":
            if asked.name == node:
                return ALLOWED
            if not asked.name:
                return _no(f"node '{node}' cannot read all nodes, only its own Node object")
            return _no(f"node '{node}' cannot read '{asked.name}', only its own Node object")
    return NO_OPINION


def _lease(node: str, asked: Attributes) -> Decision:
    if asked.verb not in _OWN_LEASE:
        return _no("can only get, create, update, patch, or delete a node lease")
    if asked.namespace != LEASE_NAMESPACE:
        return _no(f'can only access leases in the "{LEASE_NAMESPACE}" system namespace')
    if asked.verb != "create" and asked.name != node:
        return _no("can only access node lease with the same name as the requesting node")
    return ALLOWED


def _no(why: str) -> Decision:
    return Decision(allowed=False, reason=why)
