"""Certificate signing requests, carried out: approved where that is safe, signed, and cleaned up."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Protocol

from msgspec.structs import replace

from master.controllers import csr_plan as plans
from master.controllers.base import Controller, Deps, ignore_missing
from sampan.api.errors import ApiError
from sampan.api.resources import CERTIFICATESIGNINGREQUESTS as CSRS
from sampan.api.resources import NODES
from sampan.api.times import Time
from sampan.api.types.certificates_v1 import CertificateSigningRequest as Csr
from sampan.api.types.certificates_v1 import CertificateSigningRequestCondition as Condition
from sampan.api.types.core_v1 import Node
from sampan.client.informer import either
from sampan.client.protocol import DeleteOptions
from sampan.pki.ca import CertificateError

log = logging.getLogger(__name__)

LONGEST = timedelta(days=365)


class Signer(Protocol):
    """Issues certificates; `sampan.pki.ca.Authority` is one."""

    def sign(self, request: bytes, usages: Sequence[str], lifetime: timedelta) -> bytes:
        """The PEM certificate for a PEM request; CertificateError."""


class CsrController(Controller[str]):
    """Approves nodes' certificates, signs what is approved, and deletes old requests."""

    def __init__(self, deps: Deps, signer: Signer, *, longest: timedelta = LONGEST,
                 reserved: Collection[str] = ()) -> None:
        """`reserved` are names and addresses that no node gets a server's certificate for unasked."""
        super().__init__("csr", deps)
        self._signer = signer
        self._reserved = reserved
        self._longest = longest
        self._requests = deps.informers.get(CSRS)
        self._nodes = deps.informers.get(NODES)
        self._requests.add_handler(self._changed)
        self._nodes.add_handler(self._node_changed)

    def _changed(self, old: Csr | None, new: Csr | None) -> None:
        if new is not None:
            self.queue.add(either(old, new).metadata.name)

    def _node_changed(self, old: Node | None, new: Node | None) -> None:
        """Addresses that were unknown, or others', may be what a node's request waits for."""
        if new is None or (old is not None and old.status.addresses == new.status.addresses):
            return
        for csr in self._requests:
            if csr.spec.username == plans.NODE_PREFIX + new.metadata.name and not plans.is_decided(csr):
                self.queue.add(csr.metadata.name)

    async def reconcile(self, key: str) -> None:
        """The next step in a request's life; the change that it makes brings the one after."""
        csr = self._requests.get(key)
        if csr is None or csr.metadata.deletion_timestamp is not None:
            return
        if not plans.is_decided(csr):
            await self._approve(csr)
        elif plans.is_to_sign(csr):
            await self._sign(csr)
        due = plans.delete_at(csr)
        if due is None:
            return
        left = (due - self.deps.clock.now()).total_seconds()
        if left > 0:
            self.queue.add_after(key, left)
        else:
            await ignore_missing(self.deps.client.delete(CSRS, key, options=DeleteOptions(uid=csr.metadata.uid)))

    async def _approve(self, csr: Csr) -> None:
        if csr.spec.signer_name not in (plans.NODE_CLIENT, plans.NODE_SERVING):
            return
        try:
            wish = plans.read(csr.spec.request)
            node = self._nodes.get(wish.identity.user.removeprefix(plans.NODE_PREFIX))
            denial, message = plans.denial(csr, node), plans.approval(csr, wish, node, self._reserved)
        except CertificateError as error:
            log.info("certificate request %s: %s", csr.metadata.name, error)
            return
        if denial:
            await self._write(csr, self._condition("Denied", "NodeNameTaken", denial), "approval")
        elif message:
            await self._write(csr, self._condition("Approved", "AutoApproved", message), "approval")

    async def _sign(self, csr: Csr) -> None:
        spec, certificate = csr.spec, b""
        try:
            complaint = plans.complaint(spec.signer_name, spec.usages, plans.read(spec.request))
            if not complaint:
                certificate = self._signer.sign(spec.request, spec.usages, plans.lifetime(csr, self._longest))
        except CertificateError as error:
            complaint = str(error)
        if complaint:
            await self._write(csr, self._condition("Failed", "SignerValidationFailure", complaint), "status")
            return
        status = replace(csr.status, certificate=certificate)
        await ignore_missing(self.deps.client.update(CSRS, replace(csr, status=status), subresource="status"))

    async def _write(self, csr: Csr, condition: Condition, subresource: str) -> None:
        status = replace(csr.status, conditions=[*csr.status.conditions, condition])
        try:
            await self.deps.client.update(CSRS, replace(csr, status=status), subresource=subresource)
        except ApiError as error:
            if not error.is_not_found:
                raise

    def _condition(self, kind: str, reason: str, message: str) -> Condition:
        now = Time.of(self.deps.clock.now())
        return Condition(type=kind, status="True", reason=reason, message=message, last_update_time=now,
                         last_transition_time=now)
