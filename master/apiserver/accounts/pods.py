"""Each pod runs as a ServiceAccount, and finds its token where clients look for it.

Source: the admission plugin ServiceAccount; KEP-1205 for the projected volume.
"""

from __future__ import annotations

import random
from typing import Any

from master.apiserver.admission import MIRROR, Plugin, Tree
from master.apiserver.registry import Registry, Served
from master.apiserver.strategy import Context
from sampan.api import names
from sampan.api.errors import ApiError, forbidden_request
from sampan.api.resources import PODS, SERVICEACCOUNTS

MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_SECONDS = 3607
"""An hour and seven seconds: by this odd number the volume that was added is told from others."""
VOLUME_PREFIX = "kube-api-access-"
_DEFAULT = "default"
_LOOKS = 10
"""A namespace's default account comes a moment after the namespace."""


class ServiceAccounts(Plugin):
    """Sets the account, refuses one that is not there, and mounts its token."""

    def __init__(self, registry: Registry, rng: random.Random) -> None:
        self._registry = registry
        self._rng = rng

    async def create(self, served: Served, obj: Tree, context: Context) -> None:
        """Complete a new pod; ApiError 403."""
        if served.resource.key != PODS.key:
            return
        meta, spec = obj["metadata"], obj.setdefault("spec", {})
        if MIRROR in (meta.get("annotations") or {}):
            _check_mirror(obj)
            return
        name = spec.get("serviceAccountName") or spec.get("serviceAccount") or _DEFAULT
        spec["serviceAccountName"] = spec["serviceAccount"] = name
        account = await self._account(meta.get("namespace") or "", name)
        if account is None:
            where = meta.get("namespace") or ""
            raise _refuse(obj, f'error looking up service account {where}/{name}: serviceaccount "{name}" not found')
        if _wants_token(spec, account):
            mount_token(spec, VOLUME_PREFIX + names.random_suffix(self._rng))
        secrets = account.get("imagePullSecrets")
        if secrets and not spec.get("imagePullSecrets"):
            spec["imagePullSecrets"] = [dict(secret) for secret in secrets]

    async def update(self, served: Served, new: Tree, old: Tree, context: Context) -> None:
        """Give a replaced pod the volume that it got at its creation: a manifest does not know of it."""
        if served.resource.key != PODS.key or context.subresource:
            return
        spec = new.setdefault("spec", {})
        present = {volume.get("name") for volume in spec.get("volumes") or ()}
        for volume in (old.get("spec") or {}).get("volumes") or ():
            if volume["name"].startswith(VOLUME_PREFIX) and volume["name"] not in present:
                mount_token(spec, volume["name"])

    async def _account(self, namespace: str, name: str) -> Tree | None:
        cache = self._registry.of(SERVICEACCOUNTS).cache
        entry = cache.peek(namespace, name) or await cache.get(namespace, name)
        for _ in range(_LOOKS if name == _DEFAULT and entry is None else 0):
            await self._registry.clock.sleep(0.1 + 0.1 * self._rng.random())
            entry = cache.peek(namespace, name)
            if entry is not None:
                break
        return entry.tree if entry is not None else None


def _wants_token(spec: Tree, account: Tree) -> bool:
    """The pod decides, else its account, else yes."""
    for tree in (spec, account):
        wanted = tree.get("automountServiceAccountToken")
        if wanted is not None:
            return bool(wanted)
    return True


def mount_token(spec: Tree, volume: str) -> None:
    """Mount the token in each container that has nothing in its place."""
    containers = [container for key in ("initContainers", "containers") for container in spec.get(key) or ()
                  if isinstance(container, dict)]
    needing = [container for container in containers
               if not any(mount.get("mountPath") == MOUNT_PATH for mount in container.get("volumeMounts") or ())]
    if not needing:
        return
    for container in needing:
        mounts = container.get("volumeMounts") or []
        container["volumeMounts"] = [*mounts, {"name": volume, "readOnly": True, "mountPath": MOUNT_PATH}]
    spec["volumes"] = [*(spec.get("volumes") or ()), token_volume(volume)]


def token_volume(name: str) -> Tree:
    """The volume: token, the cluster's CA, and the namespace's name."""
    field: dict[str, Any] = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    return {"name": name, "projected": {"defaultMode": 0o644, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}}]}}


def _check_mirror(obj: Tree) -> None:
    """The mirror of a static pod may not ask for what only the API server could give it."""
    spec = obj.get("spec") or {}
    if spec.get("serviceAccountName"):
        raise _refuse(obj, "a mirror pod may not reference service accounts")
    for volume in spec.get("volumes") or ():
        if "secret" in volume:
            raise _refuse(obj, "a mirror pod may not reference secrets")
        sources = (volume.get("projected") or {}).get("sources") or ()
        if any("serviceAccountToken" in source for source in sources):
            raise _refuse(obj, "a mirror pod may not use ServiceAccountToken volume projections")


def _refuse(obj: Tree, why: str) -> ApiError:
    """Of a pod that has yet to be named, upstream says what its name will begin with: the same at each try."""
    meta = obj["metadata"]
    return forbidden_request("", "pods", meta.get("generateName") or meta.get("name") or "", why)
