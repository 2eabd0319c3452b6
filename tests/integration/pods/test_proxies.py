"""pods/proxy and services/proxy with kubectl: requests to pods that go through the API server and the node's agent."""

from __future__ import annotations

import json

import pytest

from tests.support.space import Space, patience

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

_ECHO = r"printf '#!/bin/sh\necho; echo $REQUEST_METHOD $QUERY_STRING' > cgi-bin/echo; chmod +x cgi-bin/echo"
SERVER = ["sh", "-c", (f"mkdir -p /tmp/w/cgi-bin; cd /tmp/w; {_ECHO}; echo '<a href=/x>x</a>' > index.html; "
                       "trap 'exit 0' TERM; busybox httpd -f -p 0.0.0.0:8080 -h /tmp/w & wait")]
PROBED = {"readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1}}


@pytest.fixture
def web(space: Space) -> Space:
    """A server and its Service, whose port has a name."""
    space.pod("web", SERVER, labels={"app": "web"}, app={"ports": [{"containerPort": 8080}], **PROBED})
    space.create({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"}, "spec": {
        "selector": {"app": "web"}, "ports": [{"name": "main", "port": 80, "targetPort": 8080}]}})
    space.ready("web")
    return space


def path(space: Space, kind: str, name: str, rest: str = "/") -> str:
    return f"/api/v1/namespaces/{space.name}/{kind}/{name}/proxy{rest}"


def test_requests_reach_pods_and_services(web: Space) -> None:
    for name in ("pods/web", "pods/http:web:8080", "services/front:main", "services/front:80"):
        own = f"/api/v1/namespaces/{web.name}/{name}/proxy"
        patience(f"{name} answers", lambda own=own: web.kubectl.run("get", "--raw", f"{own}/").code == 0)  # type: ignore[misc]
        assert web("get", "--raw", f"{own}/") == f"<a href={own}/x>x</a>\n"
        assert web("get", "--raw", f"{own}/cgi-bin/echo?a=b&c=d") == "GET a=b&c=d\n"
        # kubectl tells no length of what it posts, and this server reads no body without one.
        assert web("create", "--raw", f"{own}/cgi-bin/echo", "-f", "-", stdin="a body") == "POST\n"


@pytest.mark.parametrize(("kind", "name", "message"), [
    ("pods", "web:8081", "error trying to reach service: dial tcp {ip}:8081: connect: connection refused"),
    ("pods", "https:web:8080", "error trying to reach service: tls: WRONG_VERSION_NUMBER"),
    ("pods", "ftp:web:21", 'invalid pod request "ftp:web:21"'),
    ("pods", "none", 'pods "none" not found'),
    ("services", "front:8080", 'no service port 8080 found for service "front"'),
    ("services", "front", 'no endpoints available for service "front"')])
def test_what_cannot_be_reached(web: Space, kind: str, name: str, message: str) -> None:
    ip = web.pods.objects["web"]["status"]["podIP"]
    patience("the Service has its endpoint", lambda: web.kubectl.json(
        "-n", web.name, "get", "endpoints", "front").get("subsets"))
    result = web.kubectl.run("get", "--raw", path(web, kind, name))
    assert result.code == 1
    assert message.format(ip=ip) in result.err


def test_who_may(web: Space) -> None:
    rule = {"apiGroups": [""], "resources": ["pods/proxy"], "verbs": ["get"], "resourceNames": ["web:8080"]}
    group = "rbac.authorization.k8s.io"
    web.create({"apiVersion": f"{group}/v1", "kind": "Role", "metadata": {"name": "reader"}, "rules": [rule]},
               {"apiVersion": f"{group}/v1", "kind": "RoleBinding", "metadata": {"name": "reader"},
                "roleRef": {"apiGroup": group, "kind": "Role", "name": "reader"},
                "subjects": [{"apiGroup": group, "kind": "User", "name": "eve"}]})
    asks = ["--as=eve", "--raw"]
    assert web("get", *asks, path(web, "pods", "web:8080", "/cgi-bin/echo")) == "GET\n"
    refused = web.kubectl.run("get", *asks, path(web, "pods", "web"))
    assert 'cannot get resource "pods/proxy"' in refused.err
    changing = web.kubectl.run("create", *asks, path(web, "pods", "web:8080", "/cgi-bin/echo"), "-f", "-",
                               stdin=json.dumps({}))
    assert 'cannot create resource "pods/proxy"' in changing.err
