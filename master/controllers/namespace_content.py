"""What every namespace has from the start: a ServiceAccount named default, and the cluster's CA in a ConfigMap."""

from __future__ import annotations

from master.controllers.base import Controller, Deps, ignore_missing, namespace_terminating
from sampan.api.errors import ApiError
from sampan.api.resources import CONFIGMAPS, NAMESPACES, SERVICEACCOUNTS, Object
from sampan.api.types.core_v1 import ConfigMap, Namespace, ServiceAccount
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.client.informer import either
from sampan.client.protocol import Patch

ROOT_CA = "kube-root-ca.crt"
DESCRIPTION = {"kubernetes.io/description": (
    "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the "
    "internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes "
    "clusters.")}


class NamespaceContentController(Controller[str]):
    """Puts both into each namespace, and puts them back when somebody removes or changes them."""

    def __init__(self, deps: Deps, ca_bundle: str) -> None:
        """`ca_bundle` is PEM; without one there is no ConfigMap."""
        super().__init__("namespace-content", deps)
        self._bundle = ca_bundle
        self._namespaces = deps.informers.get(NAMESPACES)
        self._accounts = deps.informers.get(SERVICEACCOUNTS, field_selector="metadata.name=default")
        self._configs = deps.informers.get(CONFIGMAPS, field_selector=f"metadata.name={ROOT_CA}")
        self._namespaces.add_handler(self._namespace_changed)
        self._accounts.add_handler(self._content_changed)
        self._configs.add_handler(self._content_changed)

    def _namespace_changed(self, old: Namespace | None, new: Namespace | None) -> None:
        if new is not None and old is None:
            self.queue.add(new.metadata.name)

    def _content_changed(self, old: Object | None, new: Object | None) -> None:
        # New ones as well: somebody else may have been faster, with another content.
        self.queue.add(either(old, new).metadata.namespace)

    async def reconcile(self, key: str) -> None:
        """Create or repair what is missing."""
        namespace = self._namespaces.get(key)
        if namespace is None or namespace.metadata.deletion_timestamp is not None:
            return
        try:  # first, since pods that are admitted with the account want to mount it
            await self._publish_ca(key)
        except ApiError as error:
            if not _settled(error):
                raise
        try:
            if self._accounts.get("default", key) is None:
                await self.deps.client.create(SERVICEACCOUNTS, ServiceAccount(
                    metadata=ObjectMeta(name="default", namespace=key)))
        except ApiError as error:
            if not _settled(error):
                raise

    async def _publish_ca(self, namespace: str) -> None:
        if not self._bundle:
            return
        present, data = self._configs.get(ROOT_CA, namespace), {"ca.crt": self._bundle}
        if present is None:
            await self.deps.client.create(CONFIGMAPS, ConfigMap(
                metadata=ObjectMeta(name=ROOT_CA, namespace=namespace, annotations=DESCRIPTION), data=data))
        elif present.data != data:
            extra: dict[str, str | None] = dict.fromkeys(present.data)
            await ignore_missing(self.deps.client.patch(CONFIGMAPS, ROOT_CA, Patch("merge", {"data": extra | data}),
                                                        namespace))


def _settled(error: ApiError) -> bool:
    """Whether somebody else has made it, or nobody may any more."""
    return error.is_already_exists or error.is_not_found or namespace_terminating(error)
