"""Secrets of the type kubernetes.io/service-account-token: filled with a token that lasts as long as they do.

Nobody gets one unasked any more, but tools that run outside the cluster still ask for one in this way. Source: the
"Manually create a long-lived API token" part of the ServiceAccount reference; pkg/controller/serviceaccount.
"""

from __future__ import annotations

from typing import Protocol

from master.controllers.base import Controller, Deps, Key, ignore_missing
from sampan.api.errors import ApiError
from sampan.api.resources import SECRETS, SERVICEACCOUNTS
from sampan.api.types.core_v1 import Secret, ServiceAccount
from sampan.client.informer import either, key_of
from sampan.client.protocol import DeleteOptions, Patch

TYPE = "kubernetes.io/service-account-token"
NAME, UID = "kubernetes.io/service-account.name", "kubernetes.io/service-account.uid"


class TokenMaker(Protocol):
    """Signs tokens without an end."""

    def legacy_token(self, namespace: str, account: str, uid: str, secret: str) -> str:
        """The token that belongs into a Secret."""


class AccountTokenController(Controller[Key]):
    """Fills such Secrets, and deletes those whose account is gone."""

    def __init__(self, deps: Deps, maker: TokenMaker, ca_bundle: str) -> None:
        super().__init__("serviceaccount-token", deps, workers=1)
        self._maker = maker
        self._bundle = ca_bundle
        self._secrets = deps.informers.get(SECRETS, field_selector=f"type={TYPE}")
        self._accounts = deps.informers.get(SERVICEACCOUNTS)
        self._secrets.add_handler(self._secret_changed)
        self._accounts.add_handler(self._account_changed)

    def _secret_changed(self, old: Secret | None, new: Secret | None) -> None:
        if new is not None:
            self.queue.add(key_of(either(old, new)))

    def _account_changed(self, old: ServiceAccount | None, new: ServiceAccount | None) -> None:
        if old and new and old.metadata.uid == new.metadata.uid:
            return
        meta = either(old, new).metadata
        for secret in self._secrets:
            if secret.metadata.namespace == meta.namespace and secret.metadata.annotations.get(NAME) == meta.name:
                self.queue.add(key_of(secret))

    async def reconcile(self, key: Key) -> None:
        """Fill in what is missing; delete the Secret of an account that is gone."""
        namespace, name = key
        secret = self._secrets.get(name, namespace)
        if secret is None or secret.metadata.deletion_timestamp is not None:
            return
        owner, uid = (secret.metadata.annotations.get(note, "") for note in (NAME, UID))
        account = await self._account(owner, namespace, uid)
        if account is None or (uid and uid != account.metadata.uid):
            await ignore_missing(self.deps.client.delete(SECRETS, name, namespace, DeleteOptions(
                uid=secret.metadata.uid, revision=secret.metadata.resource_version)))
            return
        wanted = {"namespace": namespace}
        if self._bundle:
            wanted["ca.crt"] = self._bundle
        texts = {key: value for key, value in wanted.items() if secret.data.get(key) != value.encode()}
        if not secret.data.get("token"):
            texts["token"] = self._maker.legacy_token(namespace, owner, account.metadata.uid, name)
        if texts or not uid:
            meta = {"annotations": {UID: account.metadata.uid}, "resourceVersion": secret.metadata.resource_version}
            await ignore_missing(self.deps.client.patch(
                SECRETS, name, Patch("merge", {"metadata": meta, "stringData": texts}), namespace))

    async def _account(self, name: str, namespace: str, uid: str) -> ServiceAccount | None:
        """Asked for afresh before a Secret is deleted for want of it, or because it was made anew."""
        account = self._accounts.get(name, namespace)
        if account is not None and uid in ("", account.metadata.uid):
            return account
        try:
            return await self.deps.client.get(SERVICEACCOUNTS, name, namespace)
        except ApiError as error:
            if not error.is_not_found:
                raise
            return None
