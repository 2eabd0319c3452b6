"""Image references and registry credentials."""

from __future__ import annotations

import base64
import json

import pytest

from agent.images.credentials import pull_credentials
from agent.images.reference import InvalidReference, parse
from sampan.api import resources
from sampan.api.types import core_v1, meta_v1
from tests.support.pods import FakeView, make_pod

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(("text", "domain", "path", "pullable", "policy"), [
    ("busybox", "docker.io", "library/busybox", "busybox:latest", "Always"),
    ("busybox:1.36", "docker.io", "library/busybox", "busybox:1.36", "IfNotPresent"),
    ("busybox:latest", "docker.io", "library/busybox", "busybox:latest", "Always"),
    ("me/app", "docker.io", "me/app", "me/app:latest", "Always"),
    ("localhost/app:1", "localhost", "app", "localhost/app:1", "IfNotPresent"),
    ("reg.example:5000/a/b:v1", "reg.example:5000", "a/b", "reg.example:5000/a/b:v1", "IfNotPresent"),
    (f"reg.example/a@{DIGEST}", "reg.example", "a", f"reg.example/a@{DIGEST}", "IfNotPresent"),
    (f"a:1@{DIGEST}", "docker.io", "library/a", f"a:1@{DIGEST}", "IfNotPresent")])
def test_references(text: str, domain: str, path: str, pullable: str, policy: str) -> None:
    found = parse(text)
    assert (found.domain, found.path, found.pullable, found.default_policy) == (domain, path, pullable, policy)


@pytest.mark.parametrize("text", ["", "a b", "a:", "-a", "a@sha256:12", "a//b", "a:b:c", "a/", "/a", "x@", "é"])
def test_what_is_none(text: str) -> None:
    with pytest.raises(InvalidReference, match="invalid reference format"):
        parse(text)


def test_upper_case() -> None:
    with pytest.raises(InvalidReference, match="repository name must be lowercase"):
        parse("docker.io/Busybox")


def _secret(auths: dict[str, object]) -> FakeView:
    view = FakeView()
    view.put(resources.SECRETS, core_v1.Secret(
        metadata=meta_v1.ObjectMeta(name="pull", namespace="default"), type="kubernetes.io/dockerconfigjson",
        data={".dockerconfigjson": json.dumps({"auths": auths}).encode()}))
    return view


def test_credentials() -> None:
    encoded = base64.b64encode(b"user:pass:word").decode()
    view = _secret({"reg.example/team": {"auth": encoded}, "https://index.docker.io/v1/": {"username": "hub",
                                                                                        "password": "p"}})
    pod = make_pod(imagePullSecrets=[{"name": "pull"}, {"name": "gone"}])
    found, missing = pull_credentials(pod, parse("reg.example/team/app:1"), view)
    assert [(auth["username"], auth["password"]) for auth in found] == [("user", "pass:word")]
    assert missing == ["gone"]
    assert pull_credentials(pod, parse("reg.example/other/app:1"), view)[0] == []
    assert [auth["username"] for auth in pull_credentials(pod, parse("busybox"), view)[0]] == ["hub"]


@pytest.mark.parametrize(("server", "fits"), [
    ("*.example", True), ("https://*.exa*", True), ("reg.*/team", True), ("*.example/other", False), ("*", False),
    ("*.reg.example", False), ("*.example:5000", False), ("reg.exampl", False)])
def test_a_server_may_be_a_pattern(server: str, fits: bool) -> None:
    view = _secret({server: {"username": "user", "password": "p"}})
    pod = make_pod(imagePullSecrets=[{"name": "pull"}])
    assert bool(pull_credentials(pod, parse("reg.example/team/app:1"), view)[0]) is fits
