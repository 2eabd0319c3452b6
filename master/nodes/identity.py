"""Who an agent is, by its certificate, and whether it still may be that.

A certificate outlives the Node object, so deleting a Node must shut its holder out until it joins anew. For that one
ConfigMap remembers, for each node name, since when its certificates count and which was the newest issued: an agent
whose Node is gone may register only with a certificate that is newer than every one that the deleted Node had.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Protocol

import msgspec
from cryptography import x509
from cryptography.x509.oid import NameOID

from sampan.api.errors import ApiError
from sampan.api.resources import CONFIGMAPS, NODES
from sampan.api.types import core_v1, meta_v1
from sampan.client.protocol import Client
from sampan.nodeline import GROUP, USER_PREFIX

NAMESPACE = "kube-system"
NAME = "node-identities"
_TRIES = 5


class Refused(Exception):
    """The agent may not go on; `code` is the HTTP status that fits best."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class NodeIdentity:
    """A node's name and which of its certificates speaks."""

    node: str
    serial: int
    issued: datetime


class Signer(Protocol):
    """Signs certificates for nodes; the cluster's CA stands behind it."""

    async def sign_node(self, request: bytes, node: str) -> bytes:
        """The certificate (PEM) of system:node:<node> for a PKCS #10 request (PEM); ApiError where it is bad."""

    async def sign_serving(self, request: bytes, node: core_v1.Node, peer: str) -> bytes:
        """The certificate of the node's own port; ApiError where it is asked for other names than the node's.

        `peer` is the IP address that the node asks from.
        """


def read_certificate(pem: bytes) -> NodeIdentity:
    """The node that a client certificate names; Refused where it names none."""
    certificate = x509.load_pem_x509_certificate(pem)
    users = [str(item.value) for item in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    groups = [item.value for item in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
    user = users[0] if users else ""
    name = user.removeprefix(USER_PREFIX)
    if GROUP not in groups or name == user or not name:
        raise Refused(403, f'the certificate is for "{user}", not for a node')
    return NodeIdentity(name, certificate.serial_number, certificate.not_valid_before_utc)


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered of a name: certificates issued before `since` no longer count; `newest` is the last issued."""

    since: datetime
    newest: datetime
    serial: int

    def text(self) -> str:
        """One line of the ConfigMap."""
        return f"{self.since.isoformat()} {self.newest.isoformat()} {self.serial:x}"

    @classmethod
    def read(cls, text: str) -> Known | None:
        """Back from the line; None where it is empty."""
        parts = text.split()
        if len(parts) != 3:
            return None
        return cls(datetime.fromisoformat(parts[0]), datetime.fromisoformat(parts[1]), int(parts[2], 16))


def refusal(who: NodeIdentity, known: Known | None, exists: bool) -> str:
    """Why the agent may not speak for its node; "" where it may."""
    if known is None:
        return ""
    if who.issued < known.since:
        return f'this certificate of node "{who.node}" is from before the node last joined; join again'
    if not exists and (who.issued < known.newest or who.serial == known.serial):
        return f'node "{who.node}" has been deleted from the cluster; join again with a new token'
    return ""


def remember(who: NodeIdentity, known: Known | None, exists: bool) -> Known:
    """What to keep in mind once the agent has been let in."""
    if known is None or not exists:
        return Known(who.issued, who.issued, who.serial)
    if who.issued > known.newest:
        return replace(known, newest=who.issued, serial=who.serial)
    return known


class Identities:
    """Keeps the ConfigMap."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def admit(self, who: NodeIdentity) -> bool:
        """Refused where the agent may not connect; else whether its Node exists. Reads afresh, not from a cache."""
        exists = await self._exists(who.node)
        table = await self._table()
        why = refusal(who, Known.read(table.data.get(who.node, "")) if table else None, exists)
        if why:
            raise Refused(403, why)
        if exists:
            await self.record(who, exists=True)
        return exists

    async def record(self, who: NodeIdentity, *, exists: bool) -> None:
        """Remember a certificate that was accepted or issued; `exists` is False where it is about to register."""
        for _ in range(_TRIES):
            table = await self._table()
            line = table.data.get(who.node, "") if table else ""
            known = Known.read(line)
            why = refusal(who, known, exists)
            if why:
                raise Refused(403, why)
            text = remember(who, known, exists).text()
            if text == line:
                return
            try:
                await self._write(table, who.node, text)
                return
            except ApiError as error:
                if not (error.is_conflict or error.is_already_exists):
                    raise
        raise ApiError(409, "Conflict", f'the identity of node "{who.node}" could not be recorded: too much contention')

    async def _exists(self, node: str) -> bool:
        try:
            await self._client.get(NODES, node)
        except ApiError as error:
            if error.code == 404:
                return False
            raise
        return True

    async def _table(self) -> core_v1.ConfigMap | None:
        try:
            return await self._client.get(CONFIGMAPS, NAME, NAMESPACE)
        except ApiError as error:
            if error.code == 404:
                return None
            raise

    async def _write(self, table: core_v1.ConfigMap | None, node: str, text: str) -> None:
        if table is None:
            metadata = meta_v1.ObjectMeta(name=NAME, namespace=NAMESPACE)
            await self._client.create(CONFIGMAPS, core_v1.ConfigMap(metadata=metadata, data={node: text}))
        else:
            await self._client.update(CONFIGMAPS, msgspec.structs.replace(table, data={**table.data, node: text}))
