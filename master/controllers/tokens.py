"""Bootstrap tokens that have expired are deleted."""

from __future__ import annotations

import logging

from master.controllers.base import Controller, Deps, Key, ignore_missing
from sampan.api.resources import SECRETS
from sampan.api.times import Time
from sampan.api.types.core_v1 import Secret
from sampan.client.informer import either, key_of
from sampan.client.protocol import DeleteOptions
from sampan.pki.tokens import NAMESPACE, SECRET_TYPE

log = logging.getLogger(__name__)


class TokenCleaner(Controller[Key]):
    """One timer a token."""

    def __init__(self, deps: Deps) -> None:
        super().__init__("tokens", deps, workers=1)
        self._secrets = deps.informers.get(SECRETS, namespace=NAMESPACE, field_selector=f"type={SECRET_TYPE}")
        self._secrets.add_handler(self._changed)

    def _changed(self, old: Secret | None, new: Secret | None) -> None:
        if new is not None:
            self.queue.add(key_of(either(old, new)))

    async def reconcile(self, key: Key) -> None:
        """Delete the token, or come back when it expires."""
        secret = self._secrets.get(key[1], key[0])
        text = secret.data.get("expiration", b"").decode(errors="replace") if secret is not None else ""
        if secret is None or not text:
            return
        try:
            expires = Time.parse(text)
        except ValueError:
            log.warning("the bootstrap token %s has no readable expiration: %r", key[1], text)
            expires = Time.of(self.deps.clock.now())  # as upstream: what cannot be read is taken for expired
        left = expires.timestamp() - self.deps.clock.now().timestamp()
        if left > 0:
            self.queue.add_after(key, left + 0.1)
            return
        await ignore_missing(self.deps.client.delete(SECRETS, key[1], key[0], DeleteOptions(
            uid=secret.metadata.uid)))
