from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from tests.support.kinds import (
    DEPLOYMENT,
    POD,
    context,
    create_errors,
    made,
    pod,
    pod_with,
    strategy,
    template,
    update_errors,
    workload,
)

Tree = dict[str, Any]

NOT_THESE = ("pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,"
             "`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),"
             "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)")
TOLERATION = {"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5}
ON_LINUX = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
    {"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}]}}}


def changed(tree: Tree, **spec: Any) -> Tree:
    result = deepcopy(tree)
    result["spec"].update(spec)
    return result


@pytest.mark.parametrize(("old", "new"), [
    (pod(), pod()),
    (pod(), pod_with(image="nginx:1.28")),
    (pod(), changed(pod(), activeDeadlineSeconds=10)),
    (pod(activeDeadlineSeconds=10), changed(pod(), activeDeadlineSeconds=5)),
    (pod(), changed(pod(), tolerations=[TOLERATION])),
    (pod(tolerations=[TOLERATION]), changed(pod(), tolerations=[TOLERATION | {"tolerationSeconds": 9}])),
    (pod(terminationGracePeriodSeconds=-3), changed(pod(), terminationGracePeriodSeconds=1)),
    (pod(schedulingGates=[{"name": "g"}]), pod()),
    (pod(schedulingGates=[{"name": "g"}]), changed(pod(schedulingGates=[{"name": "g"}]), nodeSelector={"a": "b"})),
    (pod(schedulingGates=[{"name": "g"}]), changed(pod(schedulingGates=[{"name": "g"}]), affinity=ON_LINUX)),
    (pod(), pod(hostNetwork=False, nodeName="", volumes=[])),
])
def test_allowed(old: Tree, new: Tree) -> None:
    assert update_errors(POD, old, new) == []


@pytest.mark.parametrize(("old", "new", "expected"), [
    (pod(), pod(nodeName="n"), [f"spec: Forbidden: {NOT_THESE}\n+ spec.nodeName: \"n\""]),
    (pod(), pod_with(command=["sh"]), [f'spec: Forbidden: {NOT_THESE}\n+ spec.containers[0].command: ["sh"]']),
    (pod(restartPolicy="Never"), pod(),
     [f'spec: Forbidden: {NOT_THESE}\n- spec.restartPolicy: "Never"\n+ spec.restartPolicy: "Always"']),
    (pod(), pod(containers=[{"name": "c", "image": "x"}, {"name": "d", "image": "x"}]),
     ["spec.containers: Forbidden: pod updates may not add or remove containers"]),
    (pod(activeDeadlineSeconds=5), pod(),
     ['spec.activeDeadlineSeconds: Invalid value: "null": must not update from a positive integer to nil value']),
    (pod(activeDeadlineSeconds=5), pod(activeDeadlineSeconds=6),
     ["spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"]),
    (pod(tolerations=[TOLERATION]), pod(),
     ["spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"]),
    (pod(), pod(schedulingGates=[{"name": "g"}]),
     ["spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"]),
    (pod(), pod_with(image=""), ["spec.containers[0].image: Required value"]),
])
def test_refused(old: Tree, new: Tree, expected: list[str]) -> None:
    found = update_errors(POD, old, new)
    assert found[:len(expected)] == expected
    assert len(found) <= len(expected) + 1  # an empty image also changes the pull policy


def test_the_main_door_keeps_the_status() -> None:
    old, new = made(POD, pod()), pod() | {"status": {"phase": "Failed"}}
    strategy(POD).prepare_update(new, old, context())
    assert new["status"] == old["status"]


def test_the_status_door_keeps_the_spec_and_the_owners() -> None:
    old = made(POD, pod())
    new = pod_with(image="other") | {"status": {"phase": "Running"}}
    new["metadata"] = {**new["metadata"], "ownerReferences": [{"name": "x"}]}
    strategy(POD).prepare_update(new, old, context("status"))
    assert new["spec"] == old["spec"]
    assert "ownerReferences" not in new["metadata"]
    assert new["status"] == {"phase": "Running", "qosClass": "BestEffort"}


@pytest.mark.parametrize(("before", "after", "expected"), [
    ({}, {"podIPs": [{"ip": "x"}]},
     ['status.podIPs[0]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)']),
    ({}, {"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.2"}]},
     ['status.hostIPs[0].ip: Invalid value: "10.0.0.2": must be equal to `hostIP`']),
    ({}, {"qosClass": "Guaranteed"}, ['status.qosClass: Invalid value: "Guaranteed": field is immutable']),
    ({"containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 0}}}]},
     {"containerStatuses": [{"name": "c", "state": {"running": {}}}]},
     ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]),
])
def test_a_bad_status_is_refused(before: Tree, after: Tree, expected: list[str]) -> None:
    old = made(POD, pod(restartPolicy="Never"))
    old["status"] |= before
    new = deepcopy(old)
    new["status"] = {"qosClass": "BestEffort", **after}
    found = strategy(POD).validate_update(new, old, context("status"))
    assert [str(error) for error in found] == expected


@pytest.mark.parametrize(("spec", "status", "requested", "seconds"), [
    ({}, {}, None, 0), ({"nodeName": "n"}, {}, None, 30), ({"nodeName": "n"}, {}, 5, 5), ({"nodeName": "n"}, {}, 0, 0),
    ({"nodeName": "n"}, {"phase": "Succeeded"}, 5, 0), ({"nodeName": "n"}, {}, -1, 1),
    ({"nodeName": "n", "terminationGracePeriodSeconds": -5}, {}, None, 1),
])
def test_grace_period(spec: Tree, status: Tree, requested: int | None, seconds: int) -> None:
    tree = made(POD, pod(**spec))
    tree["status"] |= status
    assert strategy(POD).grace_period(tree, requested) == seconds


def test_fields() -> None:
    tree = made(POD, pod(nodeName="n", serviceAccountName="sa"))
    tree["status"] |= {"podIP": "10.1.0.5"}
    assert strategy(POD).fields(tree) == {
        "spec.nodeName": "n", "spec.restartPolicy": "Always", "spec.schedulerName": "default-scheduler",
        "spec.serviceAccountName": "sa", "spec.hostNetwork": "false", "status.phase": "Pending",
        "status.podIP": "10.1.0.5", "status.nominatedNodeName": ""}


def test_warnings() -> None:
    tree = pod_with(env=[{"name": "A"}, {"name": "A"}], resources={"requests": {"memory": "100m"}},
                    ports=[{"containerPort": 1}, {"containerPort": 1}])
    tree["spec"] |= {"nodeSelector": {"beta.kubernetes.io/os": "linux"}, "terminationGracePeriodSeconds": -1}
    tree["metadata"]["name"] = "a.b"
    assert strategy(POD).warnings(made(POD, tree)) == [
        ("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is "
        "recommended: [must not contain dots]"),
        'spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead',
        'spec.containers[0].resources.requests[memory]: fractional byte value "100m" is invalid, must be an integer',
        'spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply',
        "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
        "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1"]


PORT = "spec.containers[1].ports[0]: "
FIRST = "port definition with spec.containers[0].ports[0]"
NO_POD = "labelSelector: a null labelSelector results in matching no pod"


def with_ports(*ports: Tree) -> Tree:
    """A pod with a container for each port."""
    return pod(containers=[{"name": f"c{index}", "image": "nginx:1", "ports": [{"containerPort": 80, **port}]}
                           for index, port in enumerate(ports)])


@pytest.mark.parametrize(("tree", "expected"), [
    (with_ports({}, {}), [PORT + "duplicate " + FIRST]),
    (with_ports({}, {"protocol": "UDP"}), []),
    (with_ports({}, {"hostPort": 8080}), [PORT + "overlapping " + FIRST]),
    (with_ports({"hostPort": 8080}, {"hostPort": 8081}), []),
    (with_ports({"hostPort": 8080}, {"hostPort": 8080, "hostIP": "10.0.0.1"}),
     [PORT + "dangerously ambiguous " + FIRST]),
    (with_ports({"hostIP": "10.0.0.1"}),
     [("spec.containers[0].ports[0]: hostIP set without hostPort: {Name: HostPort:0 ContainerPort:80 Protocol:TCP "
       "HostIP:10.0.0.1}")]),
    (pod_with(env=[{"name": "PATH", "value": "/bin"}, {"name": "PATH", "value": "/opt/bin:$(PATH)"}]), []),
    (pod_with(env=[{"name": "A", "value": "a"}, {"name": "A", "value": "$(A)"}]),
     ['spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply']),
    (pod(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "beta.kubernetes.io/arch", "operator": "Exists"}]}]}}}),
     [("spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]."
       'matchExpressions[0].key: beta.kubernetes.io/arch is deprecated since v1.14; use "kubernetes.io/arch" '
       "instead")]),
    (pod(topologySpreadConstraints=[{"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway"}]),
     [f"spec.topologySpreadConstraints[0].{NO_POD}"]),
    (pod(affinity={"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 1, "podAffinityTerm": {"topologyKey": "zone"}}]}}),
     [f"spec.affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.{NO_POD}"]),
])
def test_more_warnings(tree: Tree, expected: list[str]) -> None:
    assert create_errors(POD, tree) == []
    assert strategy(POD).warnings(made(POD, tree)) == expected


def test_only_who_makes_a_pod_is_warned() -> None:
    old = made(POD, pod(terminationGracePeriodSeconds=-1))
    assert len(strategy(POD).warnings(old)) == 1
    assert strategy(POD).update_warnings(deepcopy(old), old) == []


def test_a_workloads_warnings_come_with_a_change_of_its_spec() -> None:
    old = made(DEPLOYMENT, workload(template=template(terminationGracePeriodSeconds=-1)))
    old["metadata"]["generation"] = 1
    new = deepcopy(old)
    assert strategy(DEPLOYMENT).update_warnings(new, old) == []
    new["metadata"]["generation"] = 2
    assert strategy(DEPLOYMENT).update_warnings(new, old) == [
        ("spec.template.spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be "
        "treated as 1")]


TERMS = "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms"
ZONE: Tree = {"key": "zone", "operator": "Exists"}
DISK: Tree = {"key": "disk", "operator": "In", "values": ["ssd"]}


def gated(*terms: Tree, **spec: Any) -> Tree:
    """A pod behind a gate, which asks its node for one of the terms."""
    if terms:
        spec["affinity"] = {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
            "nodeSelectorTerms": list(terms)}}}
    return pod(schedulingGates=[{"name": "example.com/wait"}], **spec)


@pytest.mark.parametrize(("old", "new", "expected"), [
    (gated(), gated({"matchExpressions": [ZONE]}), []),
    (gated({"matchExpressions": [ZONE]}), gated({"matchExpressions": [ZONE, DISK]}), []),
    (gated({"matchExpressions": [ZONE]}), gated({"matchExpressions": [ZONE]}, nodeSelector={"a": "b"}), []),
    (gated({"matchExpressions": [ZONE]}), gated({"matchExpressions": [DISK]}),
     [(TERMS + '[0]: Invalid value: {"matchExpressions":[{"key":"disk","operator":"In","values":["ssd"]}]}: only '
       "additions are allowed (no mutations or deletions)")]),
    (gated({"matchExpressions": [ZONE]}), gated(),
     [TERMS + ": Invalid value: []: no additions/deletions to non-empty NodeSelectorTerms list are allowed"]),
    (gated(nodeSelector={"a": "b"}), gated(nodeSelector={"a": "c"}),
     [('spec.nodeSelector: Invalid value: map[string]string{"a":"c"}: only additions to spec.nodeSelector are allowed '
       "(no mutations or deletions)")]),
])
def test_a_gated_pod_may_only_be_narrowed(old: Tree, new: Tree, expected: list[str]) -> None:
    assert update_errors(POD, old, new) == expected


APPARMOR = "container.apparmor.security.beta.kubernetes.io/c"


@pytest.mark.parametrize(("annotation", "profile"), [
    ("unconfined", {"type": "Unconfined"}), ("runtime/default", {"type": "RuntimeDefault"}),
    ("localhost/mine", {"type": "Localhost", "localhostProfile": "mine"}), ("localhost/", None), ("", None),
])
def test_an_apparmor_annotation_counts_as_the_field(annotation: str, profile: Tree | None) -> None:
    tree = pod()
    tree["metadata"]["annotations"] = {APPARMOR: annotation}
    assert create_errors(POD, tree) == []
    container = made(POD, tree)["spec"]["containers"][0]
    assert container.get("securityContext", {}).get("appArmorProfile") == profile


@pytest.mark.parametrize(("annotation", "field", "expected"), [
    ("unconfined", {"type": "Unconfined"}, []),
    ("unconfined", {"type": "RuntimeDefault"},
     [("spec.containers[0].securityContext.appArmorProfile.type: Forbidden: apparmor type in annotation and field must "
      "match")]),
    ("localhost/a", {"type": "Localhost", "localhostProfile": "b"},
     [("spec.containers[0].securityContext.appArmorProfile.localhostProfile: Forbidden: apparmor profile in annotation "
      "and field must match")]),
    ("none", None, [f'metadata.annotations[{APPARMOR}]: Invalid value: "none": invalid AppArmor profile name: "none"']),
])
def test_an_apparmor_annotation_and_the_field_agree(annotation: str, field: Tree | None, expected: list[str]) -> None:
    tree = pod_with(**({"securityContext": {"appArmorProfile": field}} if field else {}))
    tree["metadata"]["annotations"] = {APPARMOR: annotation}
    assert create_errors(POD, tree) == expected


@pytest.mark.parametrize("subresource", ["", "status"])
def test_annotations_that_never_change(subresource: str) -> None:
    old, new = pod(), pod()
    old["metadata"]["annotations"] = {APPARMOR: "unconfined"}
    new["metadata"]["annotations"] = {"kubernetes.io/config.mirror": "x"}
    assert [text for text in update_errors(POD, old, new, subresource) if ": Forbidden: may not" in text] == [
        f"metadata.annotations[{APPARMOR}]: Forbidden: may not remove or update AppArmor annotations",
        "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation"]


def test_a_status_that_is_taken_away_keeps_the_class() -> None:
    old = made(POD, pod())
    new = pod()
    strategy(POD).prepare_update(new, old, context("status"))
    assert new["status"] == {"qosClass": "BestEffort"}
    assert strategy(POD).validate_update(new, old, context("status")) == []


def test_annotations_that_do_nothing_any_more() -> None:
    tree = pod_with(securityContext={"seccompProfile": {"type": "Unconfined"}})
    tree["metadata"]["annotations"] = {
        "seccomp.security.alpha.kubernetes.io/pod": "unconfined",
        "container.seccomp.security.alpha.kubernetes.io/c": "unconfined",
        "scheduler.alpha.kubernetes.io/critical-pod": ""}
    assert strategy(POD).warnings(made(POD, tree)) == [
        ('metadata.annotations[scheduler.alpha.kubernetes.io/critical-pod]: non-functional in v1.16+; use the '
         '"priorityClassName" field instead'),
        ('metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the '
         '"seccompProfile" field instead')]


def test_ephemeral_containers_are_only_added() -> None:
    old = made(POD, pod())
    old["spec"]["ephemeralContainers"] = [{"name": "d", "image": "x"}]
    new = deepcopy(old)
    new["spec"]["ephemeralContainers"] = [{"name": "e", "image": "x"}]
    rules = strategy(POD)
    rules.prepare_update(new, old, context("ephemeralcontainers"))
    found = rules.validate_update(new, old, context("ephemeralcontainers"))
    assert [error.text for error in found] == ['Forbidden: existing ephemeral containers "d" may not be removed\n']
