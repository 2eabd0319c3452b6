"""The subresource serviceaccounts/token: a token on request, bound to a pod, a Secret or a node if wanted.

Source: the authentication.k8s.io TokenRequest reference; pkg/registry/core/serviceaccount/storage/token.go.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from master.apiserver.accounts.claims import EXTENDED, STANDARD, Claims, Ref
from master.apiserver.accounts.signing import ISSUER, SigningKey
from master.apiserver.accounts.tokens import API_AUDIENCES
from master.apiserver.authorization.restriction import NodeRestriction
from master.apiserver.decode import Body
from master.apiserver.registry import Registry
from master.apiserver.subresources import read_as
from master.apiserver.write import Target
from sampan.api.errors import FieldError, bad_request, conflict, invalid, invalid_object, not_found
from sampan.api.resources import NODES, PODS, SECRETS, Resource
from sampan.api.times import Time

Tree = dict[str, Any]

GROUP = "authentication.k8s.io"
KIND = "TokenRequest"
DEFINITION = "io.k8s.api.authentication.v1.TokenRequest"
DEFAULT_SECONDS = 3600
MIN_SECONDS = 600
MAX_SECONDS = 1 << 32
_BINDABLE: dict[tuple[str, str], Resource[Any]] = {
    ("v1", resource.kind): resource for resource in (PODS, SECRETS, NODES)}


@dataclass(frozen=True, slots=True)
class Bound:
    """What a token is bound to."""

    pod: Ref | None = None
    node: Ref | None = None
    secret: Ref | None = None


class TokenRequests:
    """Answers them."""

    def __init__(self, registry: Registry, key: SigningKey, restriction: NodeRestriction) -> None:
        self._registry = registry
        self._key = key
        self._restriction = restriction

    async def create(self, target: Target, body: Body) -> tuple[Tree, list[str]]:
        """The request with its token in the status, and warnings; ApiError."""
        tree, warnings = read_as(self._registry.schemas, body, target, DEFINITION, f"{GROUP}/v1", KIND)
        entry = await target.served.cache.get(target.namespace, target.name)
        if entry is None:
            raise target.served.not_found(target.name)
        meta = tree["metadata"]
        if meta.get("name") not in (None, "", target.name):
            raise bad_request(f"metadata.name must be {target.name}, the name of the service account")
        spec = tree.setdefault("spec", {})
        seconds = spec.get("expirationSeconds") or DEFAULT_SECONDS
        spec["expirationSeconds"] = seconds
        spec["audiences"] = spec.get("audiences") or list(API_AUDIENCES)
        if errors := _validate(seconds):
            raise invalid_object(GROUP, KIND, "", errors)
        ref = spec.get("boundObjectRef") or {}
        await self._restriction.check_token(target.user, target.namespace, target.name, ref)
        bound = await self._bound(target, ref) if ref else Bound()
        account = Ref(target.name, entry.tree["metadata"]["uid"])
        now = int(self._registry.clock.now().timestamp())
        claims = Claims(target.namespace, account, tuple(spec["audiences"]), now, now + seconds,
                        id=str(uuid.uuid4()), pod=bound.pod, node=bound.node, secret=bound.secret)
        token = "" if target.dry_run else self._key.sign(extended(claims).tree(ISSUER))
        ends = str(Time.of(datetime.fromtimestamp(claims.expires, UTC)))
        meta = {"name": target.name, "namespace": target.namespace, "creationTimestamp": str(Time.of(
            self._registry.clock.now()))}
        return {"kind": KIND, "apiVersion": f"{GROUP}/v1", "metadata": meta, "spec": spec,
                "status": {"token": token, "expirationTimestamp": ends}}, warnings

    async def _bound(self, target: Target, ref: Tree) -> Bound:
        """Look up what the token is to be bound to; ApiError 400, 404 or 409."""
        kind = (ref.get("apiVersion") or "", ref.get("kind") or "")
        resource = _BINDABLE.get(kind)
        if resource is None:
            group, _, version = kind[0].rpartition("/")
            raise bad_request(f"cannot bind token to object of type {group}/{version}, Kind={kind[1]}")
        name, wanted = ref.get("name") or "", ref.get("uid") or ""
        found = await self._registry.of(resource).cache.get(target.namespace if resource.namespaced else "", name)
        if found is None:
            raise not_found("", resource.plural, name)
        obj = found.decode()
        uid = obj["metadata"]["uid"]
        if wanted and wanted != uid:
            raise conflict("", resource.plural, name, f"the UID in the bound object reference ({wanted}) does not "
                           "match the UID in record. The object might have been deleted and then recreated")
        own = Ref(name, uid)
        if resource is SECRETS:
            return Bound(secret=own)
        if resource is NODES:
            return Bound(node=own)
        spec = obj.get("spec") or {}
        if spec.get("serviceAccountName") != target.name:  # a mirror pod has none: nodes make these by themselves
            raise bad_request(f'cannot bind token for serviceaccount "{target.name}" to pod running with different '
                              "serviceaccount name.")
        return Bound(pod=own, node=self._node(spec.get("nodeName") or ""))

    def _node(self, name: str) -> Ref | None:
        """The node that a pod is on; one that was deleted meanwhile has no uid."""
        if not name:
            return None
        entry = self._registry.of(NODES).cache.peek("", name)
        return Ref(name, entry.tree["metadata"]["uid"] if entry else "")


def extended(claims: Claims) -> Claims:
    """A pod's standard token lasts longer than it says, so that old clients go on working (see `EXTENDED`)."""
    if claims.pod is None or claims.expires - claims.issued != STANDARD or set(claims.audiences) != set(API_AUDIENCES):
        return claims
    return replace(claims, expires=claims.issued + EXTENDED, warn_after=claims.expires)


def _validate(seconds: int) -> list[FieldError]:
    if seconds < MIN_SECONDS:
        return [invalid("spec.expirationSeconds", seconds, "may not specify a duration less than 10 minutes")]
    if seconds > MAX_SECONDS:
        return [invalid("spec.expirationSeconds", seconds, "may not specify a duration larger than 2^32 seconds")]
    return []
