"""What a client may ask about itself: who am I, and what may I do. Created, answered, never stored.

Source: KEP-3325 for SelfSubjectReview; the authorization.k8s.io API reference for the other two.
"""

from __future__ import annotations

from typing import Any

from master.apiserver.auth import AUTHENTICATED, MASTERS, Attributes, Authorizer
from master.apiserver.decode import Body, check_kind
from master.apiserver.schema import parse
from master.apiserver.strategy import User
from sampan.api.errors import FieldError, invalid, invalid_object
from sampan.api.resources import PartialObjectMetadata, Resource
from sampan.api.times import Time

Tree = dict[str, Any]

_CREATE = ("create",)
SELF_SUBJECT_REVIEWS = Resource("authentication.k8s.io", "v1", "SelfSubjectReview", "selfsubjectreviews",
                                PartialObjectMetadata, namespaced=False, verbs=_CREATE,
                                definition="io.k8s.api.authentication.v1.SelfSubjectReview")
SELF_SUBJECT_ACCESS_REVIEWS = Resource("authorization.k8s.io", "v1", "SelfSubjectAccessReview",
                                       "selfsubjectaccessreviews", PartialObjectMetadata, namespaced=False,
                                       verbs=_CREATE, definition="io.k8s.api.authorization.v1.SelfSubjectAccessReview")
SELF_SUBJECT_RULES_REVIEWS = Resource("authorization.k8s.io", "v1", "SelfSubjectRulesReview",
                                      "selfsubjectrulesreviews", PartialObjectMetadata, namespaced=False,
                                      verbs=_CREATE, definition="io.k8s.api.authorization.v1.SelfSubjectRulesReview")
REVIEWS: tuple[Resource[Any], ...] = (SELF_SUBJECT_REVIEWS, SELF_SUBJECT_ACCESS_REVIEWS, SELF_SUBJECT_RULES_REVIEWS)

_BY_KEY = {(item.group, item.version, item.plural): item for item in REVIEWS}
_READ = ["get"]
_DISCOVERY_PATHS = ["/api", "/api/*", "/apis", "/apis/*", "/healthz", "/livez", "/openapi", "/openapi/*", "/readyz",
                    "/version", "/version/"]


def find(group: str, version: str, plural: str) -> Resource[Any] | None:
    """The review that a path names."""
    return _BY_KEY.get((group, version, plural))


def answer(resource: Resource[Any], body: Body, user: User, authorizer: Authorizer, now: Time) -> Tree:
    """The review with its status; ApiError 400 or 422 for a malformed one."""
    tree = parse(body.data, body.content_type).tree if body.tree is None else body.tree
    check_kind(tree, resource.api_version, resource.version, resource.kind)
    meta = {"creationTimestamp": str(now) if resource is SELF_SUBJECT_REVIEWS else None}
    head: Tree = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": meta}
    if resource is SELF_SUBJECT_REVIEWS:
        info: Tree = {"username": user.name, "groups": list(user.groups)}
        return head | {"status": {"userInfo": info | ({"uid": user.uid} if user.uid else {})}}
    given = tree.get("spec")
    spec: Tree = given if isinstance(given, dict) else {}
    if resource is SELF_SUBJECT_RULES_REVIEWS:
        return head | {"spec": {}, "status": rules(user)}
    allowed = authorizer.allows(user, _attributes(spec))
    status: Tree = {"allowed": allowed}
    return head | {"spec": spec, "status": status}


def _attributes(spec: Tree) -> Attributes:
    path, resource = spec.get("nonResourceAttributes"), spec.get("resourceAttributes")
    if bool(path) == bool(resource):
        detail = ("cannot be specified in combination with resourceAttributes" if path
                  else "exactly one of nonResourceAttributes or resourceAttributes must be specified")
        errors: list[FieldError] = [invalid("spec.nonResourceAttributes" if path else "spec.resourceAttributes",
                                            path or resource, detail)]
        raise invalid_object("authorization.k8s.io", "SelfSubjectAccessReview", "", errors)
    asked = path or resource
    if not isinstance(asked, dict) or not all(isinstance(asked.get(key, ""), str) for key in (
            "verb", "path", "group", "resource", "subresource", "namespace", "name")):
        raise invalid_object("authorization.k8s.io", "SelfSubjectAccessReview", "", [
            invalid("spec", asked, "attributes must be strings")])
    if path:
        return Attributes(asked.get("verb", ""), path=asked.get("path", "") or "/")
    return Attributes(asked.get("verb", ""), asked.get("group", ""), asked.get("resource", ""),
                      asked.get("subresource", ""), asked.get("namespace", ""), asked.get("name", ""))


def rules(user: User) -> Tree:
    """Everything that a user may do, as `kubectl auth can-i --list` shows it."""
    if MASTERS in user.groups:
        return {"resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
                "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}], "incomplete": False}
    reviews = [{"verbs": ["create"], "apiGroups": [item.group], "resources": [item.plural]} for item in REVIEWS]
    known = AUTHENTICATED in user.groups
    paths = _DISCOVERY_PATHS if known else ["/healthz", "/livez", "/readyz", "/version"]
    return {"resourceRules": reviews if known else [],
            "nonResourceRules": [{"verbs": _READ, "nonResourceURLs": paths}], "incomplete": False}
