"""What a container finds in its environment."""

from __future__ import annotations

from typing import Any

import pytest

from agent.pods.environment import (
    EnvironmentFailure,
    NodeFacts,
    expand,
    make_environment,
    service_variables,
    sub_path,
)
from sampan.api import resources
from sampan.api.codec import from_tree
from sampan.api.types import core_v1, meta_v1
from tests.support.pods import FakeView, make_pod

FACTS = NodeFacts("node-1", "192.0.2.10", {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "5Gi"})


@pytest.mark.parametrize(("text", "expected"), [
    ("$(A)", "1"), ("$(A)$(B)", "12"), ("$(C)", "$(C)"), ("$$(A)", "$(A)"), ("$A", "$A"), ("$$", "$"), ("x$(A", "x$(A"),
    ("$$$(A)", "$1"), ("$()", "$()"), ("", ""),
    ("$(X$(A)", "$(X$(A)"), ("$(X$$A)", "$(X$$A)"), ("$(X A)$(A)", "$(X A)1")])
def test_expand(text: str, expected: str) -> None:
    assert expand(text, {"A": "1", "B": "2"}) == expected


def _variables(container: dict[str, Any], view: FakeView | None = None, ip: str = "10.244.1.2",
               **spec: Any) -> dict[str, str]:
    pod = make_pod(containers=[{"name": "app", "image": "a", **container}], **spec)
    return dict(make_environment(pod, pod.spec.containers[0], FACTS, ip, view or FakeView()))


def _config() -> FakeView:
    view = FakeView()
    meta = meta_v1.ObjectMeta(name="conf", namespace="default")
    view.put(resources.CONFIGMAPS, core_v1.ConfigMap(metadata=meta, data={"a": "1", "b": "2", "9.x": "3"}))
    view.put(resources.SECRETS, core_v1.Secret(metadata=meta, data={"a": b"secret"}))
    return view


def test_order_and_references() -> None:
    env = [{"name": "A", "value": "one"}, {"name": "B", "value": "$(A)-$(LATER)"}, {"name": "LATER", "value": "x"}]
    assert _variables({"env": env}) == {"A": "one", "B": "one-$(LATER)", "LATER": "x"}


def test_env_from_comes_first_and_env_wins() -> None:
    container = {"envFrom": [{"configMapRef": {"name": "conf"}}, {"prefix": "S_", "secretRef": {"name": "conf"}}],
                 "env": [{"name": "b", "value": "$(a)!"}]}
    # A key that no shell can read as a variable is one all the same, since v1.30.
    assert _variables(container, _config()) == {"9.x": "3", "a": "1", "S_a": "secret", "b": "1!"}


@pytest.mark.parametrize(("mount", "expected"), [
    ({"subPath": "$(A)"}, "$(A)"), ({"subPathExpr": "x/$(A)"}, "x/1"), ({"subPathExpr": "$$(A)"}, "$(A)"), ({}, "")])
def test_sub_paths(mount: dict[str, str], expected: str) -> None:
    found = from_tree(core_v1.VolumeMount, {"name": "v", "mountPath": "/v", **mount})
    assert sub_path(found, {"A": "1"}) == expected


def test_a_sub_path_of_variables_without_values_is_refused() -> None:
    """With an empty one the container would see the whole volume."""
    mount = core_v1.VolumeMount(name="v", mount_path="/v", sub_path_expr="$(Z)$(A)$(EMPTY)")
    with pytest.raises(EnvironmentFailure) as caught:
        sub_path(mount, {"A": "1", "EMPTY": ""})
    assert str(caught.value) == "missing value for EMPTY, Z"


@pytest.mark.parametrize(("path", "expected"), [
    ("metadata.name", "web"), ("metadata.namespace", "default"), ("metadata.uid", "uid-web"),
    ("spec.nodeName", "node-1"), ("spec.serviceAccountName", "default"), ("status.hostIP", "192.0.2.10"),
    ("status.podIP", "10.244.1.2"), ("metadata.labels['none']", "")])
def test_fields(path: str, expected: str) -> None:
    assert _variables({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": path}}}]}) == {"A": expected}


@pytest.mark.parametrize(("resource", "divisor", "expected"), [
    ("limits.cpu", None, "2"), ("limits.cpu", "1m", "1500"), ("requests.cpu", None, "0"),
    ("limits.memory", "1Mi", "8192"), ("requests.memory", "1Ki", "1000"), ("limits.ephemeral-storage", "1Gi", "5")])
def test_resources(resource: str, divisor: str | None, expected: str) -> None:
    selector = {"resource": resource, **({"divisor": divisor} if divisor else {})}
    container = {"resources": {"limits": {"cpu": "1500m", "memory": "0"}, "requests": {"memory": "1000Ki"}},
                 "env": [{"name": "A", "valueFrom": {"resourceFieldRef": selector}}]}
    assert _variables(container) == {"A": expected}


@pytest.mark.parametrize(("source", "message"), [
    ({"configMapKeyRef": {"name": "none", "key": "a"}}, 'configmap "none" not found'),
    ({"secretKeyRef": {"name": "none", "key": "a"}}, 'secret "none" not found'),
    ({"configMapKeyRef": {"name": "conf", "key": "z"}}, "couldn't find key z in ConfigMap default/conf"),
    ({"secretKeyRef": {"name": "conf", "key": "z"}}, "couldn't find key z in Secret default/conf")])
def test_what_is_missing(source: dict[str, Any], message: str) -> None:
    with pytest.raises(EnvironmentFailure) as caught:
        _variables({"env": [{"name": "A", "valueFrom": source}]}, _config())
    assert str(caught.value) == message
    optional = {kind: {**reference, "optional": True} for kind, reference in source.items()}
    assert _variables({"env": [{"name": "A", "valueFrom": optional}]}, _config()) == {}


def test_services() -> None:
    view = FakeView()
    for namespace, name, ip in (("default", "kubernetes", "10.96.0.1"), ("default", "my-db", "10.96.0.9"),
                                ("other", "far", "10.96.0.7"), ("default", "headless", "None")):
        view.put(resources.SERVICES, from_tree(core_v1.Service, {
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"name": "https", "port": 443, "protocol": "TCP"}]}}))
    found = _variables({"env": [{"name": "URL", "value": "$(MY_DB_SERVICE_HOST)"}]}, view)
    assert found["URL"] == "10.96.0.9"
    assert {name: value for name, value in found.items() if name.startswith("MY_DB")} == {
        "MY_DB_SERVICE_HOST": "10.96.0.9", "MY_DB_SERVICE_PORT": "443", "MY_DB_SERVICE_PORT_HTTPS": "443",
        "MY_DB_PORT": "tcp://10.96.0.9:443", "MY_DB_PORT_443_TCP": "tcp://10.96.0.9:443",
        "MY_DB_PORT_443_TCP_PROTO": "tcp", "MY_DB_PORT_443_TCP_PORT": "443", "MY_DB_PORT_443_TCP_ADDR": "10.96.0.9"}
    assert not any(name.startswith(("FAR", "HEADLESS")) for name in found)
    alone = _variables({}, view, enableServiceLinks=False)
    assert set(alone) == {name for name in found if name.startswith("KUBERNETES")}


def test_a_namespaces_own_service_kubernetes_counts_before_the_masters() -> None:
    view = FakeView()
    for namespace, ip in (("app", "10.96.0.7"), ("default", "10.96.0.1"), ("other", "10.96.0.8")):
        view.put(resources.SERVICES, from_tree(core_v1.Service, {
            "metadata": {"name": "kubernetes", "namespace": namespace},
            "spec": {"clusterIP": ip, "ports": [{"port": 443}]}}))
    services = view.list(resources.SERVICES)
    for namespace, links, ip in (("app", True, "10.96.0.7"), ("app", False, "10.96.0.1"), ("web", True, "10.96.0.1")):
        assert service_variables(services, namespace, links=links)["KUBERNETES_SERVICE_HOST"] == ip
