"""What a node may write: itself, its pods' status, its lease; never labels that steer others' work to it.

Source: the admission plugin NodeRestriction. The same rules hold on the agents' own line, where `master.nodes.reports`
only takes over what a node may say.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from master.apiserver.admission import MIRROR, Plugin, Tree
from master.apiserver.authorization.nodes import LEASE_NAMESPACE, node_of
from master.apiserver.registry import Registry, Served
from master.apiserver.strategy import Context, User
from master.nodes import identity
from master.nodes.interest import needs
from master.nodes.reports import label_allowed
from sampan.api.codec import decode, encode
from sampan.api.errors import ApiError, forbidden_request, not_found
from sampan.api.resources import CONFIGMAPS, LEASES, NODES, PODS, SECRETS
from sampan.api.types import core_v1

_FOREIGN_STATUS = "can only update pod status for pods with spec.nodeName set to itself"


class NodeRestriction(Plugin):
    """Narrows what the node authorizer allows, now that the objects are known."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    async def create(self, served: Served, obj: Tree, context: Context) -> None:
        """Mirror pods, the node's own Node and Lease."""
        node = self._node(served, obj, context)
        if not node:
            return
        match served.resource.key:
            case PODS.key:
                self._mirror_pod(served, obj, node)
            case NODES.key:
                self._own_node(served, obj, node)
                self._labels(served, obj, None, node)
                self._pod_network(served, obj, {}, node)
                known = self._registry.of(CONFIGMAPS).cache.peek(identity.NAMESPACE, identity.NAME)
                if known is not None and node in (known.tree.get("data") or {}):
                    # On its own line the certificate would be looked at, too: an old one must not come back this way.
                    raise _refuse(served, obj, f'node "{node}" has been deleted from the cluster; join again with a '
                                               "new token")
            case LEASES.key:
                meta = obj["metadata"]
                if meta.get("namespace") != LEASE_NAMESPACE:
                    raise _refuse(served, obj, f'can only access leases in the "{LEASE_NAMESPACE}" system namespace')
                if meta.get("name") != node:
                    raise _refuse(served, obj, "can only access node lease with the same name as the requesting node")

    async def update(self, served: Served, new: Tree, old: Tree, context: Context) -> None:
        """The status of the node's pods, the node itself without its spec's taints and owners."""
        node = self._node(served, old, context)
        if not node:
            return
        match served.resource.key:
            case PODS.key:
                if context.subresource != "status":
                    raise _refuse(served, old, f'unexpected operation "UPDATE", node "{node}" can only create and '
                                               "delete mirror pods")
                if (old.get("spec") or {}).get("nodeName") != node:
                    raise _refuse(served, old, f'node "{node}" ' + _FOREIGN_STATUS)
                if _part(new, "labels") != _part(old, "labels"):
                    raise _refuse(served, old, f'node "{node}" cannot update labels through pod status')
            case NODES.key:
                self._own_node(served, old, node)
                if ((new.get("spec") or {}).get("taints") or []) != ((old.get("spec") or {}).get("taints") or []):
                    raise _refuse(served, old, f'node "{node}" is not allowed to modify taints')
                if new["metadata"].get("ownerReferences") != old["metadata"].get("ownerReferences"):
                    raise _refuse(served, old, f'node "{node}" is not allowed to modify ownerReferences')
                self._labels(served, new, _part(old, "labels"), node)
                if not context.subresource:
                    self._pod_network(served, new, old, node)

    async def delete(self, served: Served, old: Tree, context: Context) -> None:
        """The node's own pods; never a Node."""
        node = self._node(served, old, context)
        if not node:
            return
        if served.resource.key == PODS.key and (old.get("spec") or {}).get("nodeName") != node:
            raise _refuse(served, old, f'node "{node}" can only delete pods with spec.nodeName set to itself')
        if served.resource.key == NODES.key:
            self._own_node(served, old, node)

    async def check_token(self, user: User, namespace: str, account: str, ref: Mapping[str, Any]) -> None:
        """A node gets tokens only for pods that are bound to it; ApiError 403. `ref` is what the token is bound to."""
        node, known = node_of(user)
        if not known:
            return

        def refuse(why: str) -> ApiError:
            return forbidden_request("", "serviceaccounts", account, why)

        if ref.get("apiVersion") != "v1" or ref.get("kind") != "Pod" or not ref.get("name"):
            raise refuse("node requested token not bound to a pod")
        if not ref.get("uid"):
            raise refuse("node requested token with a pod binding without a uid")
        entry = await self._registry.of(PODS).cache.get(namespace, ref["name"])
        if entry is None:
            raise not_found("", "pods", ref["name"])
        pod = entry.decode()
        if pod["metadata"].get("uid") != ref["uid"]:
            raise refuse(f"the UID in the bound object reference ({ref['uid']}) does not match the UID in record. The "
                         "object might have been deleted and then recreated")
        if (pod.get("spec") or {}).get("nodeName") != node:
            raise refuse("node requested token bound to a pod scheduled on a different node")

    @staticmethod
    def _node(served: Served, obj: Tree, context: Context) -> str:
        node, known = node_of(context.user)
        if known and not node:
            raise _refuse(served, obj, f'could not determine node from user "{context.user.name}"')
        return node

    @staticmethod
    def _own_node(served: Served, obj: Tree, node: str) -> None:
        name = obj["metadata"].get("name") or ""
        if name != node:
            raise _refuse(served, obj, f'node "{node}" is not allowed to modify node "{name}"')

    @staticmethod
    def _labels(served: Served, new: Tree, before: Mapping[str, str] | None, node: str) -> None:
        after = _part(new, "labels")
        old = before or {}
        changed = sorted(key for key in {*after, *old} if after.get(key) != old.get(key))
        refused = [key for key in changed if not label_allowed(key)]
        if refused:
            names = ", ".join(refused)
            raise _refuse(served, new, f"is not allowed to modify labels: {names}" if before is not None else
                          f'node "{node}" is not allowed to set the following labels: {names}')

    @staticmethod
    def _pod_network(served: Served, new: Tree, old: Tree, node: str) -> None:
        """All other nodes send to a node what goes to its pod CIDR, so that only the master gives these out.

        Upstream lets a node choose.
        """
        after, before = new.get("spec") or {}, old.get("spec") or {}
        if any(after.get(key) != before.get(key) for key in ("podCIDR", "podCIDRs")):
            raise _refuse(served, new, f'node "{node}" is not allowed to modify spec.podCIDRs')

    def _mirror_pod(self, served: Served, obj: Tree, node: str) -> None:
        def refuse(why: str) -> ApiError:
            return _refuse(served, obj, f'node "{node}" {why}')

        if MIRROR not in _part(obj, "annotations"):
            raise _refuse(served, obj, f'pod does not have "{MIRROR}" annotation, node "{node}" can only create mirror '
                                       "pods")
        spec = obj.get("spec") or {}
        if spec.get("nodeName") != node:
            raise refuse("can only create pods with spec.nodeName set to itself")
        owners = obj["metadata"].get("ownerReferences") or []
        if len(owners) > 1:
            raise refuse("can only create pods with a single owner reference set to itself")
        owner = owners[0] if owners else {}
        if (owner.get("apiVersion"), owner.get("kind"), owner.get("name")) != ("v1", "Node", node):
            raise refuse("can only create pods with an owner reference set to itself")
        if not owner.get("controller"):
            raise refuse("can only create pods with a controller owner reference set to itself")
        if owner.get("blockOwnerDeletion"):
            raise refuse("must not set blockOwnerDeletion on an owner reference")
        entry = self._registry.of(NODES).cache.peek("", node)
        if entry is None:
            raise not_found("", "nodes", node)
        uid = entry.tree["metadata"].get("uid")
        if owner.get("uid") != uid:
            raise _refuse(served, obj, f"node {node} UID mismatch: expected {owner.get('uid')} got {uid}")
        if spec.get("serviceAccountName"):
            raise refuse("can not create pods that reference a service account")
        kinds = {key.resource for key in needs(decode(core_v1.Pod, encode(obj)))}
        for resource in (SECRETS, CONFIGMAPS):
            if resource.key in kinds:
                raise refuse(f"can not create pods that reference {resource.plural}")
        if any("persistentVolumeClaim" in volume for volume in spec.get("volumes") or ()):
            raise refuse("can not create pods that reference persistentvolumeclaims")


def _part(obj: Tree, key: str) -> dict[str, str]:
    return obj["metadata"].get(key) or {}


def _refuse(served: Served, obj: Tree, why: str) -> ApiError:
    return forbidden_request(served.resource.group, served.resource.plural, obj["metadata"].get("name") or "", why)
