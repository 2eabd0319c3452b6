from __future__ import annotations

from typing import Any

import pytest

from master.apiserver.kinds.pod_defaults import image_tag
from tests.support.kinds import DEPLOYMENT, POD, made, pod, pod_with, strategy, workload

Tree = dict[str, Any]


def test_a_minimal_pod_gets_everything_upstream_gives_it() -> None:
    assert made(POD, pod()) == {
        "metadata": {"name": "p", "namespace": "default"},
        "spec": {
            "containers": [{
                "name": "c", "image": "nginx:1.27", "imagePullPolicy": "IfNotPresent", "resources": {},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
            "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
            "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": True},
        "status": {"phase": "Pending", "qosClass": "BestEffort"},
    }


def test_what_the_user_says_is_kept() -> None:
    spec = {"dnsPolicy": "Default", "restartPolicy": "Never", "securityContext": {"runAsUser": 0},
            "terminationGracePeriodSeconds": 0, "schedulerName": "mine", "enableServiceLinks": False}
    stored = made(POD, pod(**spec))["spec"]
    assert {key: stored[key] for key in spec} == spec


@pytest.mark.parametrize(("image", "policy"), [
    ("nginx", "Always"), ("nginx:latest", "Always"), ("nginx:1", "IfNotPresent"),
    ("registry:5000/nginx", "Always"), ("registry:5000/nginx:v1", "IfNotPresent"),
    ("nginx@sha256:" + "a" * 64, "IfNotPresent"), ("nginx:latest@sha256:" + "a" * 64, "Always"), ("", "IfNotPresent"),
])
def test_the_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    container = made(POD, pod_with(image=image))["spec"]["containers"][0]
    assert container["imagePullPolicy"] == policy


def test_image_tag_reads_names() -> None:
    assert image_tag("a/b:c") == "c"
    assert image_tag("a:1/b") == "latest"


def test_probes_and_hooks() -> None:
    probe = {"httpGet": {"port": 80}}
    container = made(POD, pod_with(livenessProbe=dict(probe), lifecycle={"preStop": {"httpGet": {"port": 1}}},
                                   startupProbe={"grpc": {"port": 9}}))["spec"]["containers"][0]
    assert container["livenessProbe"] == {
        "httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
        "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    assert container["lifecycle"]["preStop"]["httpGet"] == {"port": 1, "path": "/", "scheme": "HTTP"}
    assert container["startupProbe"]["grpc"] == {"port": 9, "service": ""}


def test_ports_environment_and_unset_members() -> None:
    container = made(POD, pod_with(
        ports=[{"containerPort": 80, "hostPort": 0, "name": ""}], stdin=False, args=[],
        env=[{"name": "A", "value": ""}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
             {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}]))["spec"]["containers"][0]
    assert container["ports"] == [{"containerPort": 80, "protocol": "TCP"}]
    assert "stdin" not in container
    assert "args" not in container
    assert container["env"] == [
        {"name": "A"}, {"name": "B", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.name"}}},
        {"name": "C", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0"}}}]


def test_volumes() -> None:
    volumes = [{"name": "a"}, {"name": "b", "secret": {"secretName": "s"}}, {"name": "c", "configMap": {"name": "m"}},
               {"name": "d", "hostPath": {"path": "/x"}},
               {"name": "e", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
               {"name": "f", "downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "metadata.uid"}}]}}]
    found = made(POD, pod(volumes=volumes))["spec"]["volumes"]
    assert found[0] == {"name": "a", "emptyDir": {}}
    assert found[1]["secret"]["defaultMode"] == found[2]["configMap"]["defaultMode"] == 420
    assert found[3]["hostPath"] == {"path": "/x", "type": ""}
    assert found[4]["projected"] == {
        "defaultMode": 420, "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}]}
    assert found[5]["downwardAPI"]["items"][0]["fieldRef"]["apiVersion"] == "v1"


def test_requests_come_from_limits_in_pods_only() -> None:
    resources = {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}
    stored = made(POD, pod_with(resources=resources))
    assert stored["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}
    assert stored["status"]["qosClass"] == "Burstable"
    tree = workload()
    tree["spec"]["template"]["spec"]["containers"][0]["resources"] = {"limits": {"cpu": "1"}}
    assert "requests" not in made(DEPLOYMENT, tree)["spec"]["template"]["spec"]["containers"][0]["resources"]


@pytest.mark.parametrize(("resources", "expected"), [
    ({}, "BestEffort"), ({"requests": {"cpu": "0"}}, "BestEffort"),
    ({"limits": {"example.com/gpu": "1"}}, "BestEffort"),
    ({"limits": {"cpu": "1", "memory": "1Gi"}}, "Guaranteed"),
    ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1000m", "memory": "1Gi"}}, "Guaranteed"),
    ({"limits": {"cpu": "1"}}, "Burstable"), ({"requests": {"memory": "1Mi"}}, "Burstable"),
    ({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}, "Burstable"),
])
def test_qos_class(resources: Tree, expected: str) -> None:
    assert made(POD, pod_with(resources=resources))["status"]["qosClass"] == expected


def test_amounts_are_rounded_up_to_thousandths() -> None:
    stored = made(POD, pod_with(resources={"requests": {"cpu": "1500u", "memory": "1Gi"}}))
    assert stored["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "2m", "memory": "1Gi"}


def test_an_init_container_without_limits_makes_a_pod_burstable() -> None:
    limits = {"limits": {"cpu": "1", "memory": "1Gi"}}
    tree = pod_with(resources=limits)
    tree["spec"]["initContainers"] = [{"name": "i", "image": "x"}]
    assert made(POD, tree)["status"]["qosClass"] == "Burstable"


def test_ports_of_the_hosts_network_are_host_ports() -> None:
    tree = pod_with(ports=[{"containerPort": 80}])
    tree["spec"]["hostNetwork"] = True
    assert made(POD, tree)["spec"]["containers"][0]["ports"][0]["hostPort"] == 80


def test_both_names_of_the_service_account() -> None:
    assert made(POD, pod(serviceAccountName="a"))["spec"]["serviceAccount"] == "a"
    assert made(POD, pod(serviceAccount="a"))["spec"]["serviceAccountName"] == "a"


def test_a_creator_cannot_set_the_status() -> None:
    tree = pod() | {"status": {"phase": "Running", "podIP": "10.0.0.1"}}
    assert made(POD, tree)["status"] == {"phase": "Pending", "qosClass": "BestEffort"}


def test_a_gated_pod_says_so() -> None:
    conditions = made(POD, pod(schedulingGates=[{"name": "example.com/g"}]))["status"]["conditions"]
    assert [(entry["type"], entry["status"], entry["reason"]) for entry in conditions] == [
        ("PodScheduled", "False", "SchedulingGated")]


@pytest.mark.parametrize(("status", "stored"), [
    ({"podIP": "10.0.0.1"}, {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}),
    ({"podIPs": [{"ip": "10.0.0.1"}]}, {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}]}),
    ({"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.1"}]}, {"podIP": "10.0.0.2", "podIPs": [{"ip": "10.0.0.2"}]}),
    ({"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]},
     {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]}),
    ({}, {}),
])
def test_both_ways_to_say_a_pods_address_agree(status: Tree, stored: Tree) -> None:
    tree = pod() | {"status": status}
    strategy(POD).default(tree)
    assert tree["status"] == stored
