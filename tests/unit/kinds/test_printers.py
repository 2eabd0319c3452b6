from __future__ import annotations

from typing import Any

import pytest

from master.apiserver.kinds import DEFAULT_PRINTER, printers, strategies
from master.apiserver.kinds.allocator import ClusterIPs, NodePorts
from master.apiserver.schema import load_definitions
from master.apiserver.strategy import Age
from sampan.api.resources import BUILT_IN
from tests.support.kinds import DEPLOYMENT, POD, REPLICASET, REPLICATION_CONTROLLER, SERVICE, made, workload

Tree = dict[str, Any]

BORN = "2026-01-01T00:00:00Z"
META = {"name": "n", "creationTimestamp": BORN}


def cells(key: tuple[str, str], obj: Tree) -> dict[str, Any]:
    printer = printers()[key]
    row = printer.cells(obj)
    assert len(row) == len(printer.columns)
    return dict(zip((column.name for column in printer.columns), row, strict=True))


def test_every_kind_has_rules_and_columns_and_prints_what_is_almost_nothing() -> None:
    rules, tables = strategies(ClusterIPs(), NodePorts()), printers()
    assert rules.keys() == tables.keys() == {resource.key for resource in BUILT_IN}
    for printer in tables.values():
        assert len(printer.cells({"metadata": {"name": "n"}})) == len(printer.columns)
        assert [column.name for column in printer.columns].count("Name") == 1


@pytest.mark.parametrize(("key", "columns"), [
    (POD, "Name Ready Status Restarts Age | IP Node Nominated_Node Readiness_Gates"),
    (("", "nodes"),
     "Name Status Roles Age Version | Internal-IP External-IP OS-Image Kernel-Version Container-Runtime"),
    (SERVICE, "Name Type Cluster-IP External-IP Port(s) Age | Selector"),
    (DEPLOYMENT, "Name Ready Up-to-date Available Age | Containers Images Selector"),
    (REPLICASET, "Name Desired Current Ready Age | Containers Images Selector"),
    (REPLICATION_CONTROLLER, "Name Desired Current Ready Age | Containers Images Selector"),
    (("", "events"), "Last_Seen Type Reason Object Message | Subobject Source First_Seen Count Name"),
    (("", "namespaces"), "Name Status Age | "), (("", "secrets"), "Name Type Data Age | "),
    (("coordination.k8s.io", "leases"), "Name Holder Age | "),
    (("discovery.k8s.io", "endpointslices"), "Name AddressType Ports Endpoints Age | "),
    (("certificates.k8s.io", "certificatesigningrequests"),
     "Name Age SignerName Requestor RequestedDuration Condition | "),
    (("apps", "controllerrevisions"), "Name Controller Revision Age | "),
])
def test_columns(key: tuple[str, str], columns: str) -> None:
    found = printers()[key].columns
    narrow, wide = ([column.name.replace(" ", "_") for column in found if bool(column.priority) is shown]
                    for shown in (False, True))
    assert " ".join(narrow) + " | " + " ".join(wide) == columns


def test_only_the_counts_of_those_that_keep_a_number_of_pods_are_declared_as_numbers() -> None:
    """A Deployment's are said to be text, though they are numbers: so upstream has it."""
    numbers = {key: [column.name for column in printer.columns if column.type == "integer"]
               for key, printer in printers().items()}
    assert {key: found for key, found in numbers.items() if found} == {
        key: ["Desired", "Current", "Ready"] for key in (REPLICASET, REPLICATION_CONTROLLER)}


def test_the_default_printer() -> None:
    assert DEFAULT_PRINTER.cells({"metadata": META}) == ["n", BORN]


def waiting(reason: str, **members: Any) -> Tree:
    return {"name": "c", "state": {"waiting": {"reason": reason}}, **members}


def ended(code: int = 0, **members: Any) -> Tree:
    return {"name": "c", "state": {"terminated": {"exitCode": code, **members}}}


RUNNING = {"name": "c", "ready": True, "state": {"running": {}}}
INIT = {"initContainers": [{"name": "i"}, {"name": "j"}]}
SIDECAR = {"initContainers": [{"name": "i", "restartPolicy": "Always"}]}


@pytest.mark.parametrize(("spec", "status", "ready", "shown"), [
    ({}, {"phase": "Pending"}, "0/1", "Pending"),
    ({}, {"phase": "Running", "containerStatuses": [RUNNING]}, "1/1", "Running"),
    ({}, {"phase": "Failed", "reason": "Evicted"}, "0/1", "Evicted"),
    ({}, {"phase": "Pending", "containerStatuses": [waiting("ImagePullBackOff")]}, "0/1", "ImagePullBackOff"),
    ({}, {"phase": "Running", "containerStatuses": [waiting("CrashLoopBackOff")]}, "0/1", "CrashLoopBackOff"),
    ({}, {"phase": "Succeeded", "containerStatuses": [ended(reason="Completed")]}, "0/1", "Completed"),
    ({}, {"phase": "Failed", "containerStatuses": [ended(1, reason="Error")]}, "0/1", "Error"),
    ({}, {"phase": "Failed", "containerStatuses": [ended(3)]}, "0/1", "ExitCode:3"),
    ({}, {"phase": "Failed", "containerStatuses": [ended(137, signal=9)]}, "0/1", "Signal:9"),
    ({"containers": [{}, {}]},
     {"phase": "Running", "containerStatuses": [ended(reason="Completed"), RUNNING],
      "conditions": [{"type": "Ready", "status": "True"}]}, "1/2", "Running"),
    ({"containers": [{}, {}]}, {"phase": "Running", "containerStatuses": [ended(reason="Completed"), RUNNING]},
     "1/2", "NotReady"),
    (INIT, {"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]},
     "0/1", "Init:0/2"),
    (INIT, {"phase": "Pending", "initContainerStatuses": [
        {"name": "i", "state": {"terminated": {"exitCode": 0}}}, waiting("PodInitializing")]}, "0/1", "Init:1/2"),
    (INIT, {"phase": "Pending", "initContainerStatuses": [waiting("CrashLoopBackOff")]},
     "0/1", "Init:CrashLoopBackOff"),
    (INIT, {"phase": "Pending", "initContainerStatuses": [ended(1, reason="Error")]}, "0/1", "Init:Error"),
    (INIT, {"phase": "Pending", "initContainerStatuses": [ended(2)]}, "0/1", "Init:ExitCode:2"),
    (SIDECAR, {"phase": "Running", "containerStatuses": [RUNNING], "initContainerStatuses": [
        {"name": "i", "started": True, "ready": True, "state": {"running": {}}}]}, "2/2", "Running"),
    ({}, {"phase": "Pending", "conditions": [{"type": "PodScheduled", "reason": "SchedulingGated"}]},
     "0/1", "SchedulingGated"),
])
def test_what_a_pod_looks_like(spec: Tree, status: Tree, ready: str, shown: str) -> None:
    row = cells(POD, {"metadata": META, "spec": {"containers": [{}], **spec}, "status": status})
    assert (row["Ready"], row["Status"]) == (ready, shown)


@pytest.mark.parametrize(("status", "shown"), [
    ({"phase": "Running"}, "Terminating"), ({"phase": "Running", "reason": "NodeLost"}, "Unknown"),
    ({"phase": "Succeeded"}, "Succeeded")])
def test_a_pod_on_its_way_out(status: Tree, shown: str) -> None:
    metadata = {**META, "deletionTimestamp": BORN}
    assert cells(POD, {"metadata": metadata, "spec": {}, "status": status})["Status"] == shown


def test_a_pods_restarts_and_wide_columns() -> None:
    died = "2026-01-01T00:01:00Z"
    status = {"phase": "Running", "podIP": "10.1.0.2", "podIPs": [{"ip": "10.1.0.2"}], "containerStatuses": [
        {**RUNNING, "restartCount": 2, "lastState": {"terminated": {"finishedAt": died}}},
        {**RUNNING, "restartCount": 1, "lastState": {"terminated": {"finishedAt": BORN}}}],
        "conditions": [{"type": "g/a", "status": "True"}]}
    spec = {"containers": [{}, {}], "nodeName": "node",
            "readinessGates": [{"conditionType": "g/a"}, {"conditionType": "g/b"}]}
    assert cells(POD, {"metadata": META, "spec": spec, "status": status}) == {
        "Name": "n", "Ready": "2/2", "Status": "Running", "Restarts": Age(died, "3 ({} ago)"), "Age": Age(BORN),
        "IP": "10.1.0.2", "Node": "node", "Nominated Node": "<none>", "Readiness Gates": "1/2"}
    bare = cells(POD, {"metadata": META, "spec": {"containers": [{}]}, "status": {"phase": "Pending"}})
    assert bare["Restarts"] == "0"
    assert (bare["IP"], bare["Node"], bare["Readiness Gates"]) == ("<none>", "<none>", "<none>")


def test_nodes() -> None:
    row = cells(("", "nodes"), {
        "metadata": {**META, "labels": {"node-role.kubernetes.io/worker": "", "kubernetes.io/role": "extra",
                                        "node-role.kubernetes.io/control-plane": ""}},
        "spec": {"unschedulable": True},
        "status": {"conditions": [{"type": "Ready", "status": "True"}],
                   "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                   "nodeInfo": {"kubeletVersion": "v1.32.0", "osImage": "Debian"}}})
    assert row == {"Name": "n", "Status": "Ready,SchedulingDisabled", "Roles": "control-plane,extra,worker",
                   "Age": Age(BORN), "Version": "v1.32.0", "Internal-IP": "192.0.2.1", "External-IP": "<none>",
                   "OS-Image": "Debian", "Kernel-Version": "<unknown>", "Container-Runtime": "<unknown>"}
    assert cells(("", "nodes"), {"metadata": META})["Status"] == "Unknown"


@pytest.mark.parametrize(("spec", "status", "shown"), [
    ({"type": "ClusterIP", "clusterIP": "10.96.0.1", "ports": [{"port": 443, "protocol": "TCP"}]}, {},
     ["ClusterIP", "10.96.0.1", "<none>", "443/TCP", "<none>"]),
    ({"type": "NodePort", "clusterIP": "10.96.0.2", "selector": {"b": "2", "a": "1"},
      "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}, {},
     ["NodePort", "10.96.0.2", "<none>", "80:30080/TCP,53/UDP", "a=1,b=2"]),
    ({"type": "LoadBalancer", "clusterIP": "10.96.0.3"}, {},
     ["LoadBalancer", "10.96.0.3", "<pending>", "<none>", "<none>"]),
    ({"type": "LoadBalancer", "clusterIP": "10.96.0.3"}, {"loadBalancer": {"ingress": [{"ip": "192.0.2.9"}]}},
     ["LoadBalancer", "10.96.0.3", "192.0.2.9", "<none>", "<none>"]),
    ({"type": "ExternalName", "externalName": "example.com"}, {},
     ["ExternalName", "<none>", "example.com", "<none>", "<none>"]),
    ({"type": "ClusterIP", "clusterIP": "None", "externalIPs": ["192.0.2.1", "192.0.2.2"]}, {},
     ["ClusterIP", "None", "192.0.2.1,192.0.2.2", "<none>", "<none>"]),
])
def test_services(spec: Tree, status: Tree, shown: list[str]) -> None:
    row = cells(SERVICE, {"metadata": META, "spec": spec, "status": status})
    assert [row[key] for key in ("Type", "Cluster-IP", "External-IP", "Port(s)", "Selector")] == shown


def test_workloads() -> None:
    tree = made(DEPLOYMENT, workload(replicas=3))
    tree["metadata"] = META
    tree["status"] = {"replicas": 3, "readyReplicas": 2, "updatedReplicas": 1, "availableReplicas": 2}
    assert cells(DEPLOYMENT, tree) == {
        "Name": "n", "Ready": "2/3", "Up-to-date": 1, "Available": 2, "Age": Age(BORN), "Containers": "c",
        "Images": "nginx:1.27", "Selector": "app=web"}
    assert list(cells(REPLICASET, tree).values())[1:4] == [3, 3, 2]
    tree["spec"]["selector"] = {"matchLabels": "2", "a": "1"}  # a plain map, in which no name means anything
    assert list(cells(REPLICATION_CONTROLLER, tree).values())[1:4] == [3, 3, 2]
    assert cells(REPLICATION_CONTROLLER, tree)["Selector"] == "a=1,matchLabels=2"


def test_endpoints() -> None:
    key = ("", "endpoints")
    assert cells(key, {"metadata": META})["Endpoints"] == "<none>"
    subset = {"addresses": [{"ip": f"10.0.0.{number}"} for number in range(1, 6)], "ports": [{"port": 80}]}
    assert cells(key, {"metadata": META, "subsets": [subset]})["Endpoints"] == (
        "10.0.0.1:80,10.0.0.2:80,10.0.0.3:80 + 2 more...")
    bare = {"addresses": [{"ip": "10.0.0.1"}]}
    assert cells(key, {"metadata": META, "subsets": [bare]})["Endpoints"] == "10.0.0.1"


def test_endpoint_slices() -> None:
    row = cells(("discovery.k8s.io", "endpointslices"), {
        "metadata": META, "addressType": "IPv4", "ports": [{"port": 80}, {"name": "x"}],
        "endpoints": [{"addresses": [f"10.0.0.{number}"]} for number in range(1, 5)]})
    assert (row["Ports"], row["Endpoints"]) == ("80,x", "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...")
    empty = cells(("discovery.k8s.io", "endpointslices"), {"metadata": META, "addressType": "IPv4"})
    assert (empty["Ports"], empty["Endpoints"]) == ("<unset>", "<unset>")


def test_events() -> None:
    key = ("", "events")
    old = {"metadata": META, "type": "Warning", "reason": "BackOff", "message": " wait \n", "count": 4,
           "firstTimestamp": BORN, "lastTimestamp": "2026-01-02T00:00:00Z", "source": {"component": "kubelet",
                                                                                      "host": "node"},
           "involvedObject": {"kind": "Pod", "name": "p", "fieldPath": "spec.containers{c}"}}
    assert cells(key, old) == {
        "Last Seen": Age("2026-01-02T00:00:00Z"), "Type": "Warning", "Reason": "BackOff", "Object": "pod/p",
        "Subobject": "spec.containers{c}", "Source": "kubelet, node", "Message": "wait", "First Seen": Age(BORN),
        "Count": 4, "Name": "n"}
    new = {"metadata": META, "eventTime": BORN, "reportingComponent": "scheduler", "involvedObject": {"kind": "Node"},
           "series": {"count": 7, "lastObservedTime": "2026-01-03T00:00:00.000000Z"}}
    row = cells(key, new)
    assert (row["Last Seen"], row["First Seen"], row["Count"]) == (
        Age("2026-01-03T00:00:00.000000Z"), Age(BORN), 7)
    assert (row["Object"], row["Source"]) == ("node", "scheduler")


@pytest.mark.parametrize(("conditions", "certificate", "shown"), [
    ([], "", "Pending"), (["Approved"], "", "Approved"), (["Approved"], "eA==", "Approved,Issued"),
    (["Denied"], "", "Denied"), (["Approved", "Failed"], "", "Approved,Failed")])
def test_csrs(conditions: list[str], certificate: str, shown: str) -> None:
    row = cells(("certificates.k8s.io", "certificatesigningrequests"), {
        "metadata": META, "spec": {"username": "alice", "signerName": "a.b/c", "expirationSeconds": 86400},
        "status": {"conditions": [{"type": kind} for kind in conditions], "certificate": certificate}})
    assert list(row.values()) == ["n", Age(BORN), "a.b/c", "alice", "24h", shown]


def test_small_kinds() -> None:
    assert cells(("", "configmaps"), {"metadata": META, "data": {"a": ""}, "binaryData": {"b": ""}})["Data"] == 2
    assert cells(("", "secrets"), {"metadata": META, "type": "Opaque", "data": {"a": ""}})["Data"] == 1
    assert cells(("", "serviceaccounts"), {"metadata": META})["Secrets"] == 0
    lease = {"metadata": META, "spec": {"holderIdentity": "h"}}
    assert cells(("coordination.k8s.io", "leases"), lease)["Holder"] == "h"
    owned = {"metadata": {**META, "ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "controller": True}]}, "revision": 2}
    assert list(cells(("apps", "controllerrevisions"), owned).values())[1:3] == ["daemonset.apps/d", 2]


def test_every_column_is_described() -> None:
    for key, printer in printers(load_definitions()).items():
        for column in printer.columns:
            assert len(column.description) > 10, (key, column.name)
            assert not column.description.startswith("io.k8s."), (key, column.name)
