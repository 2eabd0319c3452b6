"""What an agent asks of the master for others: may a caller of its port do that, and tokens for its pods.

Both are about the node that asks, whatever it says: who it is, its certificate tells.
"""

from __future__ import annotations

from datetime import datetime

from master.apiserver.accounts.requests import GROUP, KIND, TokenRequests
from master.apiserver.auth import ANONYMOUS, AUTHENTICATED, Authentication
from master.apiserver.authorization.attributes import Attributes, refusal
from master.apiserver.authorization.union import Access
from master.apiserver.decode import Body
from master.apiserver.registry import Registry
from master.apiserver.strategy import User
from master.apiserver.write import Target
from sampan.api.resources import NODES, PODS, SERVICEACCOUNTS
from sampan.nodeline import GROUP as NODE_GROUP
from sampan.nodeline import USER_PREFIX
from sampan.pb import node_pb2

ALLOWED_SECONDS, REFUSED_SECONDS = 60, 10
"""How long an agent may go by an answer: a right that was taken away ends within a minute."""


class NodeAuthority:
    """Answers from what the API server knows."""

    def __init__(self, registry: Registry, authentication: Authentication, access: Access,
                 tokens: TokenRequests) -> None:
        self._registry = registry
        self._authentication = authentication
        self._access = access
        self._tokens = tokens

    async def review(self, node: str, request: node_pb2.ReviewRequest) -> node_pb2.ReviewReply:
        """May the caller? Without a good token or certificate, only what everybody may."""
        user: User | None = ANONYMOUS
        match request.WhichOneof("caller"):
            case "token":
                user = await self._authentication.token(request.token)
            case "certificate":
                user = User(request.certificate.name, (*request.certificate.groups, AUTHENTICATED))
        if user is None:
            return node_pb2.ReviewReply(cache_seconds=REFUSED_SECONDS, reason="Unauthorized")
        if request.path and not request.subresource:
            asked = Attributes(request.verb, path=request.path)
        else:
            asked = Attributes(request.verb, "", NODES.plural, request.subresource, name=node)
        decision = self._access.decide(user, asked)
        return node_pb2.ReviewReply(
            authenticated=decision.allowed or user is not ANONYMOUS, allowed=decision.allowed, user=user.name,
            groups=user.groups, reason=decision.reason if decision.allowed else refusal(
                user, asked, decision.reason).message,
            cache_seconds=ALLOWED_SECONDS if decision.allowed else REFUSED_SECONDS)

    async def issue(self, node: str, request: node_pb2.IssueTokenRequest) -> node_pb2.IssueTokenReply:
        """A token for a pod on the node, by the rules of serviceaccounts/token; ApiError."""
        pod = request.pod
        spec = {"audiences": list(request.audiences), "expirationSeconds": request.expiration_seconds,
                "boundObjectRef": {"apiVersion": "v1", "kind": PODS.kind, "name": pod.name, "uid": pod.uid}}
        target = Target(self._registry.of(SERVICEACCOUNTS), User(USER_PREFIX + node, (NODE_GROUP, AUTHENTICATED)),
                        pod.namespace, request.service_account, "token", validation="Ignore")
        body = Body(tree={"apiVersion": f"{GROUP}/v1", "kind": KIND, "spec": spec})
        made, _ = await self._tokens.create(target, body)
        status = made["status"]
        issued = int(self._registry.clock.now().timestamp())
        expires = int(datetime.fromisoformat(status["expirationTimestamp"]).timestamp())
        return node_pb2.IssueTokenReply(token=status["token"], issued=issued, expires=expires)
