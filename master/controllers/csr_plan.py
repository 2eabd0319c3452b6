"""Certificate signing requests, decided: who may have which certificate (upstream's signers and kubelet approver)."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from master.controllers.pods import find, is_true
from sampan.api.types import core_v1
from sampan.api.types.certificates_v1 import CertificateSigningRequest
from sampan.pki import ca

NODE_CLIENT = "kubernetes.io/kube-apiserver-client-kubelet"
NODE_SERVING = "kubernetes.io/kubelet-serving"
CLIENT = "kubernetes.io/kube-apiserver-client"
SIGNERS = frozenset({NODE_CLIENT, NODE_SERVING, CLIENT})
NODES_GROUP = "system:nodes"
NODE_PREFIX = "system:node:"
BOOTSTRAP_PREFIX = "system:bootstrap:"
BOOTSTRAP_GROUP = "system:bootstrappers"

_CLIENT_USAGES = ({"digital signature", "key encipherment", "client auth"}, {"digital signature", "client auth"})
_SERVING_USAGES = ({"digital signature", "key encipherment", "server auth"}, {"digital signature", "server auth"})

APPROVED_KEPT = timedelta(hours=1)
DENIED_KEPT = timedelta(hours=1)
PENDING_KEPT = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a request asks for."""

    identity: ca.Identity
    names: tuple[str, ...] = ()
    """Subject alternative names, whatever their form."""
    only_hosts: bool = True
    """Whether they are all DNS names or IP addresses."""


def read(request: bytes) -> Wish:
    """Read the PEM; ca.CertificateError where it is malformed."""
    identity, names = ca.request_identity(request), ca.request_alternatives(request)
    if names is None:
        return Wish(identity)
    return Wish(identity, tuple(str(name.value) for name in names),
                all(isinstance(name, (x509.DNSName, x509.IPAddress)) for name in names))


def is_decided(csr: CertificateSigningRequest) -> bool:
    """Whether somebody has approved or denied it."""
    return any(item.type in ("Approved", "Denied") for item in csr.status.conditions)


def is_to_sign(csr: CertificateSigningRequest) -> bool:
    """Whether it has been approved, and waits for its certificate."""
    kinds = {item.type for item in csr.status.conditions}
    return ("Approved" in kinds and not {"Denied", "Failed"} & kinds and not csr.status.certificate
            and csr.spec.signer_name in SIGNERS)


def approval(csr: CertificateSigningRequest, wish: Wish, node: core_v1.Node | None = None,
             reserved: Collection[str] = ()) -> str:
    """The message with which the request is approved, "" where a person has to decide.

    `node` is the one that the request is about, where it is there: upstream leaves serving certificates to an
    administrator, because it does not know which names are a node's; here the Node tells. A node says by itself what
    its addresses are, so that those of the API server are `reserved`.
    """
    signer = csr.spec.signer_name
    if signer not in (NODE_CLIENT, NODE_SERVING) or complaint(signer, csr.spec.usages, wish):
        return ""
    asker = csr.spec.username or ""
    if signer == NODE_SERVING:
        own = (asker == wish.identity.user and node is not None and not strange_names(wish, node)
               and not reserved_names(wish, reserved))
        return "Auto approving self kubelet serving certificate for the node's own names and addresses." if own else ""
    if asker == wish.identity.user:
        return "Auto approving self kubelet client certificate after SubjectAccessReview."
    if asker.startswith(BOOTSTRAP_PREFIX) and BOOTSTRAP_GROUP in csr.spec.groups:
        return "Auto approving kubelet client certificate after SubjectAccessReview."
    return ""


def denial(csr: CertificateSigningRequest, node: core_v1.Node | None) -> str:
    """Why the request is denied at once, "" where it is not: a token makes no second host of a node that is alive.

    kubeadm asks the same before it joins, and leaves it to the joining host to be honest.
    """
    token = (csr.spec.username or "").startswith(BOOTSTRAP_PREFIX)
    if not token or csr.spec.signer_name != NODE_CLIENT or node is None or not is_true(node.status.conditions, "Ready"):
        return ""
    return (f'a Node with name "{node.metadata.name}" and status "Ready" already exists in the cluster. You must '
            "delete the existing Node or change the name of this new joining Node")


def strange_names(wish: Wish, node: core_v1.Node) -> list[str]:
    """What a serving certificate is asked for that is no name and no address of the node."""
    own = {node.metadata.name, *(item.address for item in node.status.addresses)}
    return sorted(set(wish.names) - own)


def reserved_names(wish: Wish, reserved: Collection[str]) -> list[str]:
    """The names that are in `reserved`, however they are written, and wildcards, which may stand for one of them."""
    taken = {_canonical(name) for name in reserved}
    return sorted(name for name in wish.names if "*" in name or _canonical(name) in taken)


def _canonical(name: str) -> str:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return name.lower().rstrip(".")
    return str(address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else str(address)


def complaint(signer: str, usages: Sequence[str], wish: Wish) -> str:
    """What keeps a signer from signing, "" for nothing."""
    user, groups = wish.identity.user, wish.identity.groups
    if signer in (NODE_CLIENT, NODE_SERVING):
        if groups != (NODES_GROUP,):
            return f"subject organization is not {NODES_GROUP}"
        if not user.startswith(NODE_PREFIX) or user == NODE_PREFIX:
            return "subject common name does not begin with system:node:"
    if signer == NODE_CLIENT:
        if wish.names:
            return "DNS, IP, email and URI SANs are not allowed"
        if set(usages) not in _CLIENT_USAGES:
            return "usages did not match [digital signature, key encipherment, client auth]"
    elif signer == NODE_SERVING:
        if not wish.names:
            return "DNS or IP subjectAltName is required"
        if not wish.only_hosts:
            return "email and URI SANs are not allowed"
        if set(usages) not in _SERVING_USAGES:
            return "usages did not match [digital signature, key encipherment, server auth]"
    else:
        if "client auth" not in usages or not set(usages) <= _CLIENT_USAGES[0]:
            return "usages did not match [client auth] with optional [digital signature, key encipherment]"
        if "system:masters" in groups:
            return "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"
        if groups == (NODES_GROUP,) or user.startswith(NODE_PREFIX):
            return f"a node's certificate is signed by {NODE_CLIENT}"
    return ""


def lifetime(csr: CertificateSigningRequest, longest: timedelta) -> timedelta:
    """As long as asked for, within reason (KEP-2784)."""
    asked = csr.spec.expiration_seconds
    return longest if asked is None else min(longest, max(timedelta(minutes=10), timedelta(seconds=asked)))


def delete_at(csr: CertificateSigningRequest) -> datetime | None:
    """When the request is of no more use; its certificate stays valid."""
    created = csr.metadata.creation_timestamp
    for kind, kept in (("Failed", DENIED_KEPT), ("Denied", DENIED_KEPT), ("Approved", APPROVED_KEPT)):
        condition = find(csr.status.conditions, kind)
        if condition is not None:
            since = condition.last_update_time or condition.last_transition_time or created
            return since + kept if since is not None else None
    return created + PENDING_KEPT if created is not None else None
