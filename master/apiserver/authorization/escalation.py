"""Nobody gives away what they do not have: checks on writes of roles, bindings and certificate requests.

Source: pkg/registry/rbac (escalation_check.go and the policy-based stores); the admission plugins CertificateApproval,
CertificateSigning and CertificateSubjectRestriction.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

from master.apiserver.admission import Plugin, Tree
from master.apiserver.auth import MASTERS
from master.apiserver.authorization.attributes import Attributes
from master.apiserver.authorization.rbac import GROUP
from master.apiserver.authorization.rules import Rule, TooManyParts, compact, go_list, read_rules, uncovered
from master.apiserver.authorization.union import Access
from master.apiserver.registry import Served
from master.apiserver.strategy import Context, User
from sampan.api.errors import ApiError, forbidden_request
from sampan.api.resources import CERTIFICATESIGNINGREQUESTS, CLUSTERROLEBINDINGS, CLUSTERROLES, ROLEBINDINGS, ROLES

_ROLES = (ROLES.key, CLUSTERROLES.key)
_BINDINGS = (ROLEBINDINGS.key, CLUSTERROLEBINDINGS.key)
_EVERYTHING = (Rule(frozenset("*"), frozenset("*"), frozenset("*")), Rule(frozenset("*"), paths=("*",)))
_CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client"
_COLLECTED = frozenset(("ownerReferences", "finalizers", "managedFields", "resourceVersion"))
"""Metadata by which the garbage collector takes an object away; upstream's IsOnlyMutatingGCFields."""


class Escalation(Plugin):
    """The checks on roles and bindings."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def create(self, served: Served, obj: Tree, context: Context) -> None:
        """See `_check`."""
        await self._settled_check(served, obj, obj, context.user)

    async def update(self, served: Served, new: Tree, old: Tree, context: Context) -> None:
        """See `_check`. A label counts too: it may have a role's rules gathered into another role."""
        if served.resource.key in (*_ROLES, *_BINDINGS) and _content(new) != _content(old):
            await self._settled_check(served, new, old, context.user)

    async def _settled_check(self, served: Served, obj: Tree, old: Tree, user: User) -> None:
        try:
            self._check(served, obj, old, user)
        except ApiError:  # a role, or a right, that was made just before counts
            await self._access.catch_up()
            self._check(served, obj, old, user)

    def _check(self, served: Served, obj: Tree, old: Tree, user: User) -> None:
        key = served.resource.key
        if (key not in _ROLES and key not in _BINDINGS) or MASTERS in user.groups:
            return
        meta = obj["metadata"]
        namespace, name = meta.get("namespace") or "", meta.get("name") or ""
        plural = served.resource.plural
        if key in _ROLES:
            if self._may(user, "escalate", plural, namespace, name):
                return
            rules = read_rules(obj.get("rules"))
        else:
            ref = obj.get("roleRef") or {}
            kind, role = ref.get("kind") or "", ref.get("name") or ""
            bound = "clusterroles" if kind == "ClusterRole" else "roles"
            if kind not in ("Role", "ClusterRole") or not role:
                return  # validation will say what is wrong
            if self._may(user, "bind", bound, namespace, role):
                return
            rules = self._access.rbac.role(kind, role, namespace)
        why = self._lacking(user, namespace, rules)
        if not why and (_gathers(obj) or _gathers(old)) and self._lacking(user, namespace, _EVERYTHING):
            why = "must have cluster-admin privileges to use the aggregationRule"
        if why:
            raise forbidden_request(GROUP, plural, name, why)

    def _may(self, user: User, verb: str, plural: str, namespace: str, name: str) -> bool:
        return self._access.allows(user, Attributes(verb, GROUP, plural, "", namespace, name))

    def _lacking(self, user: User, namespace: str, wanted: Sequence[Rule]) -> str:
        """What the user would give away without having it, in upstream's words; "" for nothing."""
        owned, missing_roles = self._access.rbac.rules_for(user, namespace)
        try:
            lacking = compact(uncovered(owned, wanted))
        except TooManyParts as error:
            return str(error)
        if not lacking:
            return ""
        text = (f'user "{user.name}" (groups={go_list(user.groups)}) is attempting to grant RBAC permissions not '
                "currently held:\n" + "\n".join(sorted({str(rule) for rule in lacking})))
        return text + (f"; resolution errors: [{', '.join(missing_roles)}]" if missing_roles else "")


class Certificates(Plugin):
    """Who may approve and sign certificate requests, by signer."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def create(self, served: Served, obj: Tree, context: Context) -> None:
        """Nobody becomes an administrator of the cluster by way of a certificate for users."""
        if served.resource.key != CERTIFICATESIGNINGREQUESTS.key:
            return
        spec = obj.get("spec") or {}
        if spec.get("signerName") == _CLIENT_SIGNER and MASTERS in _organisations(spec.get("request") or ""):
            raise self._refuse(obj, f"use of {_CLIENT_SIGNER} signer with {MASTERS} group is not allowed")

    async def update(self, served: Served, new: Tree, old: Tree, context: Context) -> None:
        """Approving takes the verb ``approve`` on the signer; a certificate, or saying that it failed, ``sign``."""
        if served.resource.key != CERTIFICATESIGNINGREQUESTS.key:
            return
        signer = (old.get("spec") or {}).get("signerName") or ""
        before, after = old.get("status") or {}, new.get("status") or {}
        if context.subresource == "approval" and not self._may(context.user, "approve", signer):
            raise self._refuse(old, f'user not permitted to approve requests with signerName "{signer}"')
        signs = context.subresource == "status" and any(
            before.get(key) != after.get(key) for key in ("certificate", "conditions"))
        if signs and not self._may(context.user, "sign", signer):
            raise self._refuse(old, f'user not permitted to sign requests with signerName "{signer}"')

    def _may(self, user: User, verb: str, signer: str) -> bool:
        names = (signer, signer.partition("/")[0] + "/*")
        return any(self._access.allows(user, Attributes(verb, "certificates.k8s.io", "signers", name=name))
                   for name in names)

    @staticmethod
    def _refuse(obj: Tree, why: str) -> ApiError:
        return forbidden_request(*CERTIFICATESIGNINGREQUESTS.key, obj["metadata"].get("name") or "", why)


def _content(obj: Tree) -> Tree:
    return obj | {"metadata": {key: value for key, value in obj["metadata"].items() if key not in _COLLECTED}}


def _gathers(role: Tree) -> bool:
    return bool((role.get("aggregationRule") or {}).get("clusterRoleSelectors"))


def _organisations(request: str) -> Sequence[str]:
    from sampan.pki import ca  # noqa: PLC0415 - only new requests need it

    try:
        return ca.request_identity(base64.b64decode(request)).groups
    except (ca.CertificateError, binascii.Error, ValueError):
        return ()  # validation will say what is wrong
