"""Questions about access: who am I, may I, may somebody else, whose token is this. Created, answered, never stored.

Source: the authentication.k8s.io and authorization.k8s.io API references; KEP-3325 for SelfSubjectReview.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from master.apiserver.accounts.claims import BadClaims
from master.apiserver.accounts.tokens import API_AUDIENCES, AccountTokens
from master.apiserver.auth import MASTERS, Authentication
from master.apiserver.authorization.attributes import Attributes
from master.apiserver.authorization.nodes import node_of
from master.apiserver.authorization.rules import Rule
from master.apiserver.authorization.union import Access
from master.apiserver.decode import Body, check_kind
from master.apiserver.schema import SchemaRegistry, parse
from master.apiserver.strategy import User
from sampan.api.errors import FieldError, bad_request, invalid, invalid_object
from sampan.api.resources import PartialObjectMetadata, Resource
from sampan.api.times import Time

Tree = dict[str, Any]

AUTHENTICATION, AUTHORIZATION = "authentication.k8s.io", "authorization.k8s.io"


def _review(group: str, kind: str, *, namespaced: bool = False) -> Resource[Any]:
    name = group.partition(".")[0]
    return Resource(group, "v1", kind, kind.lower() + "s", PartialObjectMetadata, namespaced=namespaced,
                    verbs=("create",), definition=f"io.k8s.api.{name}.v1.{kind}")


SELF_SUBJECT_REVIEWS = _review(AUTHENTICATION, "SelfSubjectReview")
TOKEN_REVIEWS = _review(AUTHENTICATION, "TokenReview")
SUBJECT_ACCESS_REVIEWS = _review(AUTHORIZATION, "SubjectAccessReview")
LOCAL_SUBJECT_ACCESS_REVIEWS = _review(AUTHORIZATION, "LocalSubjectAccessReview", namespaced=True)
SELF_SUBJECT_ACCESS_REVIEWS = _review(AUTHORIZATION, "SelfSubjectAccessReview")
SELF_SUBJECT_RULES_REVIEWS = _review(AUTHORIZATION, "SelfSubjectRulesReview")
REVIEWS: tuple[Resource[Any], ...] = (
    SELF_SUBJECT_REVIEWS, TOKEN_REVIEWS, LOCAL_SUBJECT_ACCESS_REVIEWS, SELF_SUBJECT_ACCESS_REVIEWS,
    SELF_SUBJECT_RULES_REVIEWS, SUBJECT_ACCESS_REVIEWS)

_BY_KEY = {(item.group, item.version, item.plural): item for item in REVIEWS}
_TEXTS = ("verb", "path", "group", "resource", "subresource", "namespace", "name")


def find(group: str, version: str, plural: str) -> Resource[Any] | None:
    """The review that a path names."""
    return _BY_KEY.get((group, version, plural))


class Reviews:
    """Answers them."""

    def __init__(self, access: Access, authentication: Authentication, accounts: AccountTokens | None,
                 schemas: SchemaRegistry) -> None:
        self._access = access
        self._authentication = authentication
        self._accounts = accounts
        self._schemas = schemas
        self._answers: Mapping[str, Callable[[Tree, User, str], Awaitable[Tree]]] = {
            TOKEN_REVIEWS.kind: self._token, SELF_SUBJECT_RULES_REVIEWS.kind: self._rules,
            SELF_SUBJECT_ACCESS_REVIEWS.kind: self._own_access, SUBJECT_ACCESS_REVIEWS.kind: self._access_of,
            LOCAL_SUBJECT_ACCESS_REVIEWS.kind: self._local_access}

    async def answer(self, resource: Resource[Any], body: Body, user: User, namespace: str, now: Time) -> Tree:
        """The review with its status; ApiError 400 or 422 for a malformed one."""
        tree = parse(body.data, body.content_type).tree if body.tree is None else body.tree
        check_kind(tree, resource.api_version, resource.version, resource.kind)
        outcome = self._schemas.of(resource.definition).clean(tree)
        head: Tree = {"kind": resource.kind, "apiVersion": resource.api_version}
        if resource is SELF_SUBJECT_REVIEWS:
            return head | {"metadata": {"creationTimestamp": str(now)}, "status": {"userInfo": user_info(user)}}
        if outcome.errors:
            raise invalid_object(resource.group, resource.kind, "", list(outcome.errors))
        given = tree.get("spec")
        spec: Tree = given if isinstance(given, dict) else {}
        status = await self._answers[resource.kind](spec, user, namespace)
        shown = {} if resource is SELF_SUBJECT_RULES_REVIEWS else spec
        return head | {"metadata": {"creationTimestamp": None}, "spec": shown, "status": status}

    async def _token(self, spec: Tree, user: User, namespace: str) -> Tree:
        """TokenReview."""
        token, audiences = spec.get("token") or "", spec.get("audiences") or []
        if not token:
            raise bad_request("token is required for TokenReview in authentication")
        if self._accounts is not None:
            try:
                found, matching = await self._accounts.review(token, audiences)
                return {"authenticated": True, "user": user_info(found), "audiences": list(matching)}
            except BadClaims as error:
                why = str(error)
        else:
            why = "no token authenticator"
        other = await self._authentication.token(token)
        matching = tuple(audience for audience in audiences or API_AUDIENCES if audience in API_AUDIENCES)
        if other is not None and matching:
            return {"authenticated": True, "user": user_info(other), "audiences": list(matching)}
        return {"user": {}, "error": f"[invalid bearer token, {why}]"}

    async def _own_access(self, spec: Tree, user: User, namespace: str) -> Tree:
        """SelfSubjectAccessReview."""
        return self._decided(user, _attributes(spec, SELF_SUBJECT_ACCESS_REVIEWS.kind))

    async def _access_of(self, spec: Tree, user: User, namespace: str) -> Tree:
        """SubjectAccessReview."""
        return self._decided(*_subject(spec, SUBJECT_ACCESS_REVIEWS.kind))

    async def _local_access(self, spec: Tree, user: User, namespace: str) -> Tree:
        """LocalSubjectAccessReview: the same within one namespace, so that it can be granted there."""
        kind = LOCAL_SUBJECT_ACCESS_REVIEWS.kind
        asked = spec.get("resourceAttributes") or {}
        errors: list[FieldError] = []
        if asked and asked.get("namespace", "") != namespace:
            errors.append(invalid("spec.resourceAttributes.namespace", asked.get("namespace", ""),
                                  f"must match metadata.namespace: {namespace}"))
        if spec.get("nonResourceAttributes"):
            errors.append(invalid("spec.nonResourceAttributes", spec["nonResourceAttributes"],
                                  "disallowed on this kind of request"))
        if errors:
            raise invalid_object(AUTHORIZATION, kind, "", errors)
        return self._decided(*_subject(spec, kind))

    def _decided(self, user: User, asked: Attributes) -> Tree:
        decision = self._access.decide(user, asked)
        status: Tree = {"allowed": decision.allowed}
        if decision.denied:
            status["denied"] = True
        return status | ({"reason": decision.reason} if decision.reason else {})

    async def _rules(self, spec: Tree, user: User, namespace: str) -> Tree:
        """SelfSubjectRulesReview: everything that a user may do in a namespace, as `auth can-i --list` shows it."""
        within = spec.get("namespace") or ""
        if not within:
            raise bad_request("no namespace on request")
        rules, missing = self._access.rbac.rules_for(user, within)
        if MASTERS in user.groups:
            every = frozenset("*")
            rules = [Rule(every, every, every), Rule(every, paths=("*",)), *rules]
        about_resources: list[Tree] = []
        about_paths: list[Tree] = []
        for rule in dict.fromkeys(rules):
            tree = rule.tree()
            (about_paths if rule.paths else about_resources).append(tree)
        status: Tree = {"resourceRules": about_resources, "nonResourceRules": about_paths, "incomplete": bool(missing)}
        if node_of(user)[1]:
            status["incomplete"] = True
            missing = ["node authorizer does not support user rule resolution", *missing]
        return status | ({"evaluationError": ", ".join(missing)} if missing else {})


def user_info(user: User) -> Tree:
    """A user as reviews and certificate requests show it."""
    info: Tree = {"username": user.name}
    if user.uid:
        info["uid"] = user.uid
    if user.groups:
        info["groups"] = list(user.groups)
    if user.extra:
        info["extra"] = {key: list(values) for key, values in user.extra}
    return info


def _subject(spec: Tree, kind: str) -> tuple[User, Attributes]:
    """Whom a review is about, and what."""
    asked = _attributes(spec, kind)
    name, groups = spec.get("user") or "", spec.get("groups") or []
    if not name and not groups:
        raise invalid_object(AUTHORIZATION, kind, "", [
            invalid("spec.user", name, "at least one of user or group must be specified")])
    extra = tuple((str(key).lower(), tuple(values or ())) for key, values in (spec.get("extra") or {}).items())
    return User(name, tuple(groups), spec.get("uid") or "", extra), asked


def _attributes(spec: Tree, kind: str) -> Attributes:
    path, resource = spec.get("nonResourceAttributes"), spec.get("resourceAttributes")
    if (path is None) == (resource is None):
        detail = ("cannot be specified in combination with resourceAttributes" if path is not None
                  else "exactly one of nonResourceAttributes or resourceAttributes must be specified")
        field = "spec.nonResourceAttributes" if path is not None else "spec.resourceAttributes"
        raise invalid_object(AUTHORIZATION, kind, "", [invalid(field, path or resource, detail)])
    asked = path if path is not None else resource
    assert isinstance(asked, dict)
    text = {key: asked.get(key) or "" for key in _TEXTS}
    if path is not None:
        return Attributes(text["verb"], path=text["path"] or "/")
    return Attributes(text["verb"], text["group"], text["resource"], text["subresource"], text["namespace"],
                      text["name"], fields=_fields(asked))


def _fields(asked: Tree) -> str:
    """A field selector as requests have it: given raw, or by its exact requirements."""
    selector = asked.get("fieldSelector") or {}
    if selector.get("rawSelector"):
        return str(selector["rawSelector"])
    return ",".join(f"{item['key']}={item['values'][0]}" for item in selector.get("requirements") or ()
                    if item.get("operator") == "In" and len(item.get("values") or ()) == 1 and item.get("key"))


