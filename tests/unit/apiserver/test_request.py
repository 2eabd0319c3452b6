import pytest

from master.apiserver.request import Query, parse
from sampan.api.errors import ApiError


@pytest.mark.parametrize(("method", "target", "expected"), [
    ("GET", "/api/v1/pods", ("list", "", "v1", "", "pods", "", "")),
    ("GET", "/api/v1/pods?watch=1", ("watch", "", "v1", "", "pods", "", "")),
    ("GET", "/api/v1/pods?watch=false", ("list", "", "v1", "", "pods", "", "")),
    ("GET", "/api/v1/namespaces/a/pods/b", ("get", "", "v1", "a", "pods", "b", "")),
    ("GET", "/api/v1/namespaces/a/pods/b/log?follow=true", ("get", "", "v1", "a", "pods", "b", "log")),
    ("POST", "/api/v1/namespaces/a/pods/b/binding", ("create", "", "v1", "a", "pods", "b", "binding")),
    ("DELETE", "/apis/apps/v1/namespaces/a/deployments", ("deletecollection", "apps", "v1", "a", "deployments", "",
                                                         "")),
    ("PATCH", "/apis/apps/v1/namespaces/a/deployments/d/scale", ("patch", "apps", "v1", "a", "deployments", "d",
                                                                "scale")),
    ("GET", "/api/v1/namespaces", ("list", "", "v1", "", "namespaces", "", "")),
    ("GET", "/api/v1/namespaces/a", ("get", "", "v1", "a", "namespaces", "a", "")),
    ("PUT", "/api/v1/namespaces/a/finalize", ("update", "", "v1", "a", "namespaces", "a", "finalize")),
    ("PUT", "/api/v1/namespaces/a/status", ("update", "", "v1", "a", "namespaces", "a", "status")),
    ("GET", "/api/v1/watch/namespaces/a/pods", ("watch", "", "v1", "a", "pods", "", "")),
    ("GET", "/api/v1/namespaces/a%20b/pods", ("list", "", "v1", "a b", "pods", "", "")),
    ("TRACE", "/api/v1/pods/x", ("", "", "v1", "", "pods", "x", "")),
])
def test_resource_paths(method: str, target: str, expected: tuple[str, ...]) -> None:
    info = parse(method, target)
    assert info.is_resource
    assert (info.verb, info.group, info.version, info.namespace, info.plural, info.name, info.subresource) == expected


@pytest.mark.parametrize("target", ["/", "/healthz", "/api", "/api/v1", "/apis", "/apis/apps", "/apis/apps/v1",
                                    "/openapi/v3/apis/apps/v1", "/metrics", "//", "/apix/v1/pods"])
def test_other_paths(target: str) -> None:
    info = parse("GET", target)
    assert not info.is_resource
    assert info.verb == "get"


def test_query_keeps_repeated_values_in_order() -> None:
    query = parse("GET", "/api/v1/pods?command=sh&command=-c&command=&watch=").query
    assert query.all("command") == ["sh", "-c", ""]
    assert query.get("command") == "sh"
    assert query.get("missing", "x") == "x"


@pytest.mark.parametrize(("text", "value"), [("a=1", True), ("a=true", True), ("a=", True), ("a", True), ("a=0", False),
                                             ("a=False", False), ("b=1", False)])
def test_flags(text: str, value: bool) -> None:
    assert Query.parse(text).flag("a") is value


def test_integers() -> None:
    assert Query.parse("n=5").integer("n") == 5
    assert Query.parse("n=-5").integer("n") == -5
    assert Query.parse("").integer("n") is None
    for bad in ("x", "1.5", "٣", "99999999999999999999", "--1", "+"):
        with pytest.raises(ApiError) as refused:
            Query({"n": [bad]}).integer("n")
        assert refused.value.code == 400


def test_too_many_parameters_are_refused() -> None:
    with pytest.raises(ApiError) as refused:
        parse("GET", "/api/v1/pods?" + "&".join(f"a{index}=1" for index in range(2000)))
    assert refused.value.code == 400
