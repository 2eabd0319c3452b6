"""Names in the paths of proxied requests, and the places that they mean."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from master.apiserver.connect import Asked, read_name
from master.apiserver.streaming.places import Place, of_node, of_pod, of_service
from sampan.api.codec import from_tree
from sampan.api.errors import ApiError, not_found
from sampan.api.types import core_v1

CHANCE = Random(1)


@pytest.mark.parametrize(("text", "wanted"), [
    ("web", ("", "web", "")), ("web:80", ("", "web", "80")), ("web:http", ("", "web", "http")),
    ("https:web:443", ("https", "web", "443")), ("http:web:", ("http", "web", "")), (":web:80", ("", "web", "80")),
    ("web:", ("", "web", ""))])
def test_names(text: str, wanted: tuple[str, str, str]) -> None:
    asked = read_name("pods", text)
    assert (asked.scheme, asked.name, asked.port) == wanted
    assert asked.text == text


@pytest.mark.parametrize("text", ["", ":80", "ftp:web:21", "http::80", "a:b:c:d", "http:web:80:"])
def test_no_names(text: str) -> None:
    with pytest.raises(ApiError) as caught:
        read_name("services", text)
    assert (caught.value.code, caught.value.message) == (400, f'invalid service request "{text}"')


def pod(name: str = "web", ip: str = "10.244.0.5", node: str = "n1", *ports: int) -> core_v1.Pod:
    containers = [{"name": "none"}, {"name": "app", "ports": [{"containerPort": port} for port in ports]}]
    return from_tree(core_v1.Pod, {
        "metadata": {"name": name, "namespace": "default"}, "spec": {"nodeName": node, "containers": containers},
        "status": {"podIP": ip, "podIPs": [{"ip": ip}]}})


@pytest.mark.parametrize(("text", "ports", "wanted"), [
    ("web", (), Place("n1", "10.244.0.5:80")), ("web", (8080, 9090), Place("n1", "10.244.0.5:8080")),
    ("web:9090", (8080,), Place("n1", "10.244.0.5:9090")), ("https:web:", (), Place("n1", "10.244.0.5:443", tls=True)),
    ("https:web:8443", (), Place("n1", "10.244.0.5:8443", tls=True))])
def test_pods(text: str, ports: tuple[int, ...], wanted: Place) -> None:
    assert of_pod(read_name("pods", text), pod("web", "10.244.0.5", "n1", *ports)) == wanted


@pytest.mark.parametrize("ip", ["", "127.0.0.1", "169.254.169.254", "0.0.0.0", "224.0.0.1", "255.255.255.255", "web"])
def test_addresses_that_are_no_pods(ip: str) -> None:
    with pytest.raises(ApiError) as caught:
        of_pod(Asked("web", "web"), pod(ip=ip))
    assert (caught.value.code, caught.value.message) == (400, "address not allowed")


def test_nodes() -> None:
    node = from_tree(core_v1.Node, {"metadata": {"name": "n1"}, "status": {"addresses": [
        {"type": "Hostname", "address": "n1"}, {"type": "InternalIP", "address": "192.0.2.1"}]}})
    for text, wanted in (("n1", Place("n1")), ("n1:10250", Place("n1")), ("https:n1:", Place("n1")),
                         ("http:n1:9100", Place("n1", "192.0.2.1:9100"))):
        assert of_node(read_name("nodes", text), node) == wanted


def test_the_agents_port_is_what_its_node_says() -> None:
    node = from_tree(core_v1.Node, {"metadata": {"name": "n1"}, "status": {
        "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 12250}}}})
    assert of_node(read_name("nodes", "n1:12250"), node) == Place("n1")
    assert of_node(read_name("nodes", "n1:10250"), node) == Place("n1", "192.0.2.1:10250")


SERVICE = from_tree(core_v1.Service, {
    "metadata": {"name": "web", "namespace": "default"},
    "spec": {"ports": [{"name": "main", "port": 80, "targetPort": 8080}, {"name": "more", "port": 81}]}})


def address(ip: str, name: str = "web", kind: str = "Pod") -> dict[str, Any]:
    return {"ip": ip, "targetRef": {"kind": kind, "name": name}}


def endpoints(*addresses: dict[str, Any]) -> core_v1.Endpoints:
    ports = [{"name": "main", "port": 8080}, {"name": "more", "port": 9090}]
    subsets = [{"notReadyAddresses": [address("10.244.0.9")], "ports": ports},
               {"addresses": list(addresses), "ports": ports}] if addresses else []
    return from_tree(core_v1.Endpoints, {"metadata": {"name": "web"}, "subsets": subsets})


async def get_pod(name: str, namespace: str) -> core_v1.Pod:
    assert namespace == "default"
    if name == "gone":
        raise not_found("", "pods", name)
    return pod(name, {"web": "10.244.0.5", "other": "10.244.1.6"}[name], {"web": "n1", "other": "n2"}[name])


@pytest.mark.parametrize(("text", "wanted"), [
    ("web:80", Place("n1", "10.244.0.5:8080")), ("web:main", Place("n1", "10.244.0.5:8080")),
    ("https:web:more", Place("n1", "10.244.0.5:9090", tls=True)), ("web:81", Place("n1", "10.244.0.5:9090"))])
async def test_services(text: str, wanted: Place) -> None:
    found = endpoints(address("10.244.0.5"))
    assert await of_service(read_name("services", text), SERVICE, found, get_pod, CHANCE) == wanted


async def test_all_pods_of_a_service_are_asked_in_time() -> None:
    found = endpoints(address("10.244.0.5"), address("10.244.1.6", "other"))
    seen = {(await of_service(Asked("web:80", "web", "80"), SERVICE, found, get_pod, CHANCE)).node for _ in range(50)}
    assert seen == {"n1", "n2"}


@pytest.mark.parametrize(("text", "addresses", "message"), [
    ("web:80", [], 'no endpoints available for service "web"'),
    ("web:82", [address("10.244.0.5")], 'no service port 82 found for service "web"'),
    ("web", [address("10.244.0.5")], 'no endpoints available for service "web"'),  # its ports have names
    ("web:other", [address("10.244.0.5")], 'no endpoints available for service "web:other"'),
    ("web:80", [address("10.244.0.5", "gone")], 'no endpoints available for service "web:80"'),
    ("web:80", [address("192.0.2.7"), {"ip": "192.0.2.8"}, address("10.244.0.5", kind="Node")],
     'no endpoints available for service "web:80"')])
async def test_services_that_nobody_serves(text: str, addresses: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ApiError) as caught:
        await of_service(read_name("services", text), SERVICE, endpoints(*addresses), get_pod, CHANCE)
    assert (caught.value.code, caught.value.reason, caught.value.message) == (503, "ServiceUnavailable", message)
