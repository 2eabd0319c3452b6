"""Looking at things: get in all its forms, describe, explain, what the server knows and who one is."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from tests.support.cluster import NODE, NODE_IP
from tests.support.kubectl import Kubectl, one_version

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]


def table(text: str) -> list[list[str]]:
    """The cells of a table; columns are told apart by two spaces or more."""
    return [re.split(r"\s{2,}", line.strip()) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("kind", "header"), [
    ("pods", "NAME READY STATUS RESTARTS AGE IP NODE NOMINATED NODE READINESS GATES"),
    ("deployments", "NAME READY UP-TO-DATE AVAILABLE AGE CONTAINERS IMAGES SELECTOR"),
    ("replicasets", "NAME DESIRED CURRENT READY AGE CONTAINERS IMAGES SELECTOR"),
    ("services", "NAME TYPE CLUSTER-IP EXTERNAL-IP PORT(S) AGE SELECTOR"),
    ("endpoints", "NAME ENDPOINTS AGE"),
    ("endpointslices", "NAME ADDRESSTYPE PORTS ENDPOINTS AGE"),
    ("configmaps", "NAME DATA AGE"),
    ("secrets", "NAME TYPE DATA AGE"),
    ("serviceaccounts", "NAME SECRETS AGE"),
    ("events", "LAST SEEN TYPE REASON OBJECT SUBOBJECT SOURCE MESSAGE FIRST SEEN COUNT NAME"),
    ("leases", "NAME HOLDER AGE"),
    ("controllerrevisions", "NAME CONTROLLER REVISION AGE"),
    ("namespaces", "NAME STATUS AGE"),
    ("nodes", "NAME STATUS ROLES AGE VERSION INTERNAL-IP EXTERNAL-IP OS-IMAGE KERNEL-VERSION CONTAINER-RUNTIME"),
    ("certificatesigningrequests", "NAME AGE SIGNERNAME REQUESTOR REQUESTEDDURATION CONDITION"),
])
@one_version
def test_the_columns_are_those_that_users_know(reader: Kubectl, kind: str, header: str) -> None:
    lines = reader("get", kind, "-o", "wide").splitlines()
    assert " ".join(lines[0].split()) == header
    assert len(lines) > 1


def test_get_as_a_table(reader: Kubectl) -> None:
    header, *rows = table(reader("get", "pods"))
    assert header == ["NAME", "READY", "STATUS", "RESTARTS", "AGE"]
    assert [row[1:4] for row in rows if row[0] == "web"] == [["2/2", "Running", "0"]]
    assert {row[0].partition("-")[0] for row in rows} == {"shop", "web"}
    wide = reader("get", "pod", "web", "-o", "wide", "--no-headers").split()
    assert re.fullmatch(r"10\.244\.0\.\d+", wide[5])
    assert wide[6:] == [NODE, "<none>", "<none>"]
    assert reader("get", "pods", "-l", "app=web", "-L", "tier", "--show-labels", "--no-headers").split()[-2:] == [
        "front", "app=web,tier=front"]


def test_get_all_finds_what_belongs_to_an_application(reader: Kubectl) -> None:
    text = reader("get", "all")
    assert set(re.findall(r"^(\S+)/", text, re.MULTILINE)) == {"pod", "service", "deployment.apps", "replicaset.apps"}
    node = reader("get", f"node/{NODE}", "-o", "wide", "--no-headers")
    assert re.match(rf"{NODE} +Ready +<none> +\S+ +v1\.32\.0\S* +{NODE_IP} +<none> +.+docker://", node)


def test_other_forms_of_output(reader: Kubectl) -> None:
    tree = reader.json("get", "pod", "web")
    assert (tree["apiVersion"], tree["kind"], tree["metadata"]["name"]) == ("v1", "Pod", "web")
    assert yaml.safe_load(reader("get", "pod", "web", "-o", "yaml"))["metadata"] == tree["metadata"]
    assert reader("get", "pod", "web", "-o", "name") == "pod/web\n"
    assert reader("get", "deploy/shop", "svc/web", "-o", "name") == "deployment.apps/shop\nservice/web\n"
    assert reader("get", "pod", "web", "-o", "jsonpath={.spec.containers[*].name}") == "main side"
    assert reader("get", "pods", "-l", "app=web", "-o", "jsonpath={range .items[*]}{.metadata.name}:{.status.phase}"
                  "{'\\n'}{end}") == "web:Running\n"
    assert table(reader("get", "cm", "settings", "-o", "custom-columns=N:.metadata.name,C:.data.colour,X:.none")) == [
        ["N", "C", "X"], ["settings", "blue", "<none>"]]
    assert reader("get", "secret", "password", "-o", "go-template={{.data.password | base64decode}}") == "hunter2"
    many = reader.json("get", "cm,secret")
    assert many["kind"] == "List"
    assert {item["kind"] for item in many["items"]} == {"ConfigMap", "Secret"}


@one_version
def test_get_subresources(reader: Kubectl) -> None:
    scale = reader.json("get", "deployment", "shop", "--subresource=scale")
    assert (scale["kind"], scale["spec"], scale["status"]) == (
        "Scale", {"replicas": 1}, {"replicas": 1, "selector": "app=shop"})
    assert table(reader("get", "deployment", "shop", "--subresource=scale"))[0] == [
        "NAME", "DESIRED", "AVAILABLE", "AGE"]
    assert table(reader("get", "deployment", "shop", "--subresource=scale"))[1][:3] == ["shop", "1", "1"]
    assert reader.json("get", "pod", "web", "--subresource=status")["status"]["phase"] == "Running"


@one_version
def test_selectors(reader: Kubectl) -> None:
    def names(*arguments: str) -> list[str]:
        return reader("get", "pods,cm", "-o", "name", *arguments).split()

    assert names("-l", "app=web") == ["pod/web", "configmap/settings"]
    assert names("-l", "app in (web,other),tier") == ["pod/web"]
    assert "pod/web" not in names("-l", "app!=web")
    assert len(names("-l", "!app")) == 1  # kube-root-ca.crt
    assert names("-l", "app=nothing") == []

    def pods(selector: str) -> set[str]:
        return {name.partition("-")[0] for name in reader("get", "pods", "-o", "name", "--field-selector",
                                                          selector).split()}

    assert pods("metadata.name=web") == {"pod/web"}
    assert pods(f"status.phase=Running,spec.nodeName={NODE}") == {"pod/web", "pod/shop"}
    assert pods("status.phase!=Running") == set()
    events = reader("get", "events", "--field-selector", "involvedObject.name=web,reason=Started", "--no-headers")
    assert sorted(line.split()[-1] for line in events.splitlines()) == ["main", "side"]


@one_version
def test_sorted_and_chunked(reader: Kubectl) -> None:
    by_name = [row[0] for row in table(reader("get", "cm", "--sort-by=.metadata.name", "--no-headers"))]
    by_age = [row[0] for row in table(reader("get", "cm", "--sort-by=.metadata.creationTimestamp", "--no-headers"))]
    assert by_name == sorted(by_name) == ["kube-root-ca.crt", "settings"]
    assert sorted(by_age) == by_name
    whole = [row[:2] for row in table(reader("get", "serviceaccounts", "-A", "--no-headers"))]
    assert [row[:2] for row in table(reader("get", "serviceaccounts", "-A", "--no-headers", "--chunk-size=2"))] == whole
    assert len(whole) > 4
    assert ["kube-system", "default"] in whole


def test_watching(kubectl: Kubectl) -> None:
    watch = kubectl.popen("get", "configmaps", "-w", "--output-watch-events", "--field-selector=metadata.name=cm")
    try:
        assert watch.stdout is not None
        kubectl("create", "configmap", "cm", "--from-literal=a=1")
        assert watch.stdout.readline().split() == ["EVENT", "NAME", "DATA", "AGE"]
        assert watch.stdout.readline().split()[:3] == ["ADDED", "cm", "1"]
        kubectl("patch", "configmap", "cm", "-p", '{"data":{"b":"2"}}')
        assert watch.stdout.readline().split()[:3] == ["MODIFIED", "cm", "2"]
        kubectl("delete", "configmap", "cm")
        assert watch.stdout.readline().split()[:3] == ["DELETED", "cm", "2"]
    finally:
        watch.kill()
        watch.communicate()


@one_version
def test_watching_a_pod_as_json(kubectl: Kubectl) -> None:
    gated = json.dumps({"spec": {"schedulingGates": [{"name": "example.com/wait"}]}})
    kubectl("run", "one", "--image=sampan-test/box:1", "--restart=Never", "--overrides", gated, "--", "true")
    watch = kubectl.popen("get", "pods", "--watch", "-o", "json", "--output-watch-events", "-l", "run=one")
    try:
        assert watch.stdout is not None
        decoder, text, phases = json.JSONDecoder(), "", []
        while "Succeeded" not in phases:
            text += watch.stdout.readline()
            try:
                event, end = decoder.raw_decode(text)
            except json.JSONDecodeError:
                continue
            text = text[end:].lstrip()
            if not phases:  # kubectl watches by now
                kubectl("patch", "pod", "one", "--type=json", "-p", '[{"op":"remove","path":"/spec/schedulingGates"}]')
            phases.append(event["object"]["status"]["phase"])
        assert phases[0] == "Pending"
        assert phases == sorted(phases, key=["Pending", "Running", "Succeeded"].index)
    finally:
        watch.kill()
        watch.communicate()


def test_describe_of_a_pod(reader: Kubectl) -> None:
    text = reader("describe", "pod", "web")
    for pattern in (r"Name: +web\n", r"Service Account: +default\n", rf"Node: +{NODE}/{NODE_IP}\n",
                    r"Status: +Running\n", r"IP: +10\.244\.0\.\d+\n", r"Container ID: +docker://[0-9a-f]{64}\n",
                    r"Image: +sampan-test/box:1\n", r"Port: +8080/TCP( \(http\))?\n", r"State: +Running\n",
                    r"Restart Count: +0\n", r"Limits:\n +memory: +64Mi\n", r"Requests:\n +cpu: +10m\n +memory: +8Mi\n",
                    r"Ready +True", r"QoS Class: +Burstable\n",
                    r"node\.kubernetes\.io/not-ready:NoExecute op=Exists for 300s\n",
                    rf"Scheduled +\S+ +default-scheduler +Successfully assigned {reader.namespace}/web to {NODE}\n",
                    r'Pulled .* Container image "sampan-test/box:1" already present on machine\n',
                    r"Created +\S+.*Created container:? main\n", r"Started +\S+.*Started container main\n"):
        assert re.search(pattern, text), f"{pattern!r} is not in\n{text}"


@pytest.mark.parametrize(("what", "patterns"), [
    ("deployment/shop", [r"Replicas: +1 desired \| 1 updated \| 1 total \| 1 available \| 0 unavailable",
                         r"StrategyType: +RollingUpdate", r"25% max unavailable, 25% max surge",
                         r"Available +True +MinimumReplicasAvailable",
                         r"NewReplicaSet: +shop-\w+ \(1/1 replicas created\)",
                         r"ScalingReplicaSet .*deployment-controller +Scaled up replica set shop-\w+ (from 0 )?to 1"]),
    ("replicaset", [r"Controlled By: +Deployment/shop", r"Replicas: +1 current / 1 desired",
                    r"1 Running / 0 Waiting / 0 Succeeded / 0 Failed",
                    r"SuccessfulCreate .*replicaset-controller +Created pod: shop-\w+-\w+"]),
    ("service/web", [r"Selector: +app=web", r"Type: +ClusterIP", r"IP: +10\.\d+\.\d+\.\d+", r"Port: +http +80/TCP",
                     r"TargetPort: +http/TCP", r"Endpoints: +10\.244\.0\.\d+:8080"]),
    ("endpoints/web", [r"Addresses: +10\.244\.0\.\d+\n", r"NotReadyAddresses: +<none>", r"http +8080 +TCP"]),
    ("endpointslice", [r"AddressType: +IPv4", r"http +8080 +TCP", r"TargetRef: +Pod/web", rf"NodeName: +{NODE}"]),
    ("configmap/settings", [r"Labels: +app=web", r"colour:\n----\nblue\n", r"size:\n----\n7\n"]),
    ("secret/password", [r"Type: +Opaque", r"password: +7 bytes"]),
    ("serviceaccount/robot", [r"Name: +robot", r"Mountable secrets: +<none>"]),
    ("lease/leader", [r"Holder Identity: +somebody", r"Lease Duration Seconds: +15"]),
    ("controllerrevision/first", [r"Revision: +1"]),
    (f"node/{NODE}", [r"Roles: +<none>", r"kubernetes.io/hostname=", r"Unschedulable: +false",
                      rf"HolderIdentity: +{NODE}", r"Ready +True .*KubeletReady +kubelet is posting ready status",
                      r"MemoryPressure +False .*KubeletHasSufficientMemory", rf"InternalIP: +{NODE_IP}",
                      r"cpu: +\d+\n", r"Container Runtime Version: +docker://", r"PodCIDR: +10\.244\.0\.0/24",
                      r"Non-terminated Pods: +\(\d+ in total\)", r" web +10m \(\d+%\) +0 \(0%\) +8Mi \(\d+%\) +64Mi"]),
    ("csr", [r"Requesting User: +system:bootstrap:", r"Signer: +kubernetes.io/kube-apiserver-client-kubelet",
             r"Status: +Approved,Issued", rf"Common Name: +system:node:{NODE}", r"Organization: +system:nodes"]),
    ("namespace/kube-system", [r"Labels: +kubernetes.io/metadata.name=kube-system", r"Status: +Active"]),
    ("event", [r"Involved Object:\n", r"Reason: +ScalingReplicaSet", r"Reporting Component: +kubelet"]),
])
@one_version
def test_describe_of_every_kind(reader: Kubectl, what: str, patterns: list[str]) -> None:
    text = reader("describe", what)
    for pattern in patterns:
        assert re.search(pattern, text), f"{pattern!r} is not in\n{text}"


def test_events(reader: Kubectl) -> None:
    text = reader("events", "--for", "pod/web", "--no-headers")
    rows = [line.split() for line in text.splitlines()]
    assert {row[2] for row in rows} == {"Scheduled", "Pulled", "Created", "Started"}
    assert {row[3] for row in rows} == {"Pod/web"}
    assert reader("events", "--for", "pod/web", "--types=Warning") + reader.run(
        "events", "--for", "pod/web", "--types=Warning").err == (
        f"No events found in {reader.namespace} namespace.\n")


@one_version
def test_watching_events(kubectl: Kubectl) -> None:
    watch = kubectl.popen("events", "--watch", "--for", "pod/one")
    try:
        assert watch.stdout is not None
        kubectl("run", "one", "--image=sampan-test/box:1", "--restart=Never", "--", "true")
        for line in watch.stdout:
            if "Started container one" in line:
                break
        else:
            pytest.fail("the watch ended")
    finally:
        watch.kill()
        watch.communicate()


def test_explain(reader: Kubectl) -> None:
    text = reader("explain", "pod.spec.containers.image")
    assert re.search(r"KIND: +Pod\nVERSION: +v1\n", text)
    assert "FIELD: image <string>" in text
    assert "Container image name." in text
    text = reader("explain", "deployments", "--recursive")
    assert re.search(r"GROUP: +apps\nKIND: +Deployment\nVERSION: +v1\n", text)
    for pattern in (r"\n  spec\t<DeploymentSpec>", r"\n    strategy\t<DeploymentStrategy>",
                    r"\n        containers\t<\[\]Container> -required-", r"\n          imagePullPolicy\t<string>"):
        assert re.search(pattern, text), f"{pattern!r} is not in\n{text}"
    result = reader.run("explain", "pods.spec.nonsense")
    assert (result.code, result.err) == (1, 'error: field "nonsense" does not exist\n')


def test_what_the_server_knows(reader: Kubectl) -> None:
    rows = {tuple(row) for row in table(reader("api-resources", "--no-headers", "--sort-by=name"))}
    assert {("pods", "po", "v1", "true", "Pod"), ("deployments", "deploy", "apps/v1", "true", "Deployment"),
            ("nodes", "no", "v1", "false", "Node"), ("leases", "coordination.k8s.io/v1", "true", "Lease"),
            ("endpointslices", "discovery.k8s.io/v1", "true", "EndpointSlice")} <= rows
    assert reader("api-resources", "--api-group=apps", "-o", "name").split() == [
        "controllerrevisions.apps", "deployments.apps", "replicasets.apps"]
    assert "create,delete,deletecollection,get,list,patch,update,watch" in reader("api-resources", "-o", "wide")
    assert "bindings" not in reader("api-resources", "--verbs=list", "-o", "name").split()
    assert {"v1", "apps/v1", "certificates.k8s.io/v1", "coordination.k8s.io/v1"} <= set(reader("api-versions").split())


def test_version_and_cluster(reader: Kubectl, version: str) -> None:
    versions = reader.json("version")
    assert versions["clientVersion"]["minor"].rstrip("+") == version.partition(".")[2]
    assert (versions["serverVersion"]["major"], versions["serverVersion"]["minor"]) == ("1", "32")
    text = re.sub(r"\x1b\[[0-9;]*m", "", reader("cluster-info"))
    assert f"Kubernetes control plane is running at https://{NODE_IP}:6443\n" in text


def test_raw(reader: Kubectl) -> None:
    assert {reader("get", "--raw", path) for path in ("/healthz", "/livez", "/readyz")} == {"ok"}
    assert json.loads(reader("get", "--raw", "/version"))["minor"] == "32"
    assert json.loads(reader("get", "--raw", f"/api/v1/namespaces/{reader.namespace}/pods/web"))["kind"] == "Pod"
    assert "apiserver_request_total" in reader("get", "--raw", "/metrics")
    result = reader.run("get", "--raw", "/api/v1/nonsense")
    assert "Error from server (NotFound): the server could not find the requested resource" in result.err


def test_who_am_i_and_what_may_i(reader: Kubectl, version: str) -> None:
    can = reader.run("auth", "can-i", "create", "pods")
    assert (can.code, can.out) == (0, "yes\n")
    assert "[*]" in reader("auth", "can-i", "--list")
    if version != "1.27":  # there it is behind a feature
        assert dict(table(reader("auth", "whoami"))[1:])["Username"] == "kubernetes-admin"
