"""Each refusal with its path and words, as kube-apiserver 1.32 gives them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.kinds import POD, create_errors, pod, pod_with

Tree = dict[str, Any]

LABEL = ("a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end "
         "with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
         "'[a-z0-9]([-a-z0-9]*[a-z0-9])?')")


def volumes(*sources: Tree, mounts: list[Tree] | None = None) -> Tree:
    tree = pod_with(volumeMounts=mounts or [])
    tree["spec"]["volumes"] = [{"name": f"v{index}", **source} for index, source in enumerate(sources)]
    return tree


GOOD: list[Tree] = [
    pod(),
    pod_with(command=["sh"], env=[{"name": "my.env-name", "value": "x"}, {"name": "1st", "value": "x"}],
             ports=[{"name": "http", "containerPort": 80}, {"containerPort": 53, "protocol": "UDP"}]),
    pod_with(resources={"limits": {"cpu": "1", "memory": "1Gi", "example.com/gpu": "2", "ephemeral-storage": "1Gi"}}),
    pod_with(resources={"limits": {"hugepages-2Mi": "4Mi", "memory": "1Gi"}}),
    volumes({"emptyDir": {"medium": "Memory", "sizeLimit": "1Gi"}}, {"hostPath": {"path": "/x", "type": "Directory"}},
            {"secret": {"secretName": "s", "items": [{"key": "a", "path": "b/c", "mode": 0o400}]}},
            mounts=[{"name": "v0", "mountPath": "/a"}, {"name": "v1", "mountPath": "/b", "subPath": "x/y"}]),
    pod_with(livenessProbe={"exec": {"command": ["true"]}}, readinessProbe={"tcpSocket": {"port": "http"}},
             lifecycle={"preStop": {"sleep": {"seconds": 5}}}),
    pod(tolerations=[{"operator": "Exists"}, {"key": "a", "value": "b", "effect": "NoSchedule"}],
        nodeSelector={"disk": "ssd"}, hostAliases=[{"ip": "10.0.0.1", "hostnames": ["a.b"]}],
        dnsPolicy="None", dnsConfig={"nameservers": ["1.1.1.1"], "searches": ["a.b."]}),
    pod(initContainers=[{"name": "side", "image": "x", "restartPolicy": "Always",
                         "readinessProbe": {"exec": {"command": ["true"]}}}]),
    pod(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
        {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}],
         "matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}},
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "x"}}}]}}),
    pod_with(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                  {"name": "B", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
                  {"name": "C", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
             envFrom=[{"configMapRef": {"name": "m"}}]),
]


@pytest.mark.parametrize("tree", GOOD)
def test_accepted(tree: Tree) -> None:
    assert create_errors(POD, tree) == []


CONTAINERS: list[tuple[Tree, list[str]]] = [
    ({"metadata": {"name": "p"}, "spec": {}}, ["spec.containers: Required value"]),
    (pod(containers=[{}]), ["spec.containers[0].name: Required value", "spec.containers[0].image: Required value"]),
    (pod_with(name="A_b"), [f'spec.containers[0].name: Invalid value: "A_b": {LABEL}']),
    (pod_with(name="a.b"), ['spec.containers[0].name: Invalid value: "a.b": must not contain dots']),
    (pod(containers=[{"name": "c", "image": "x"}] * 2), ['spec.containers[1].name: Duplicate value: "c"']),
    (pod(initContainers=[{"name": "c", "image": "x"}]), ['spec.initContainers[0].name: Duplicate value: "c"']),
    (pod_with(image=" x"),
     ['spec.containers[0].image: Invalid value: " x": must not have leading or trailing whitespace']),
    (pod_with(imagePullPolicy="Sometimes"),
     [('spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes": supported values: "Always", '
      '"IfNotPresent", "Never"')]),
    (pod_with(terminationMessagePolicy="x"),
     [('spec.containers[0].terminationMessagePolicy: Unsupported value: "x": supported values: "File", '
      '"FallbackToLogsOnError"')]),
    (pod_with(restartPolicy="Always"),
     ["spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"]),
    (pod(initContainers=[{"name": "i", "image": "x", "lifecycle": {"preStop": {"exec": {"command": ["a"]}}}}]),
     [("spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without "
      "restartPolicy=Always")]),
    (pod(initContainers=[{"name": "i", "image": "x", "restartPolicy": "Never"}]),
     ['spec.initContainers[0].restartPolicy: Unsupported value: "Never": supported values: "Always"']),
    (pod(ephemeralContainers=[{"name": "d", "image": "x"}]),
     ["spec.ephemeralContainers: Forbidden: cannot be set on create"]),
]

PORTS: list[tuple[Tree, list[str]]] = [
    (pod_with(ports=[{}]), ["spec.containers[0].ports[0].containerPort: Required value"]),
    (pod_with(ports=[{"containerPort": 70000}]),
     ["spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive"]),
    (pod_with(ports=[{"containerPort": 1, "name": "a"}, {"containerPort": 2, "name": "a"}]),
     ['spec.containers[0].ports[1].name: Duplicate value: "a"']),
    (pod_with(ports=[{"containerPort": 1, "name": "sixteencharacter"}]),
     ['spec.containers[0].ports[0].name: Invalid value: "sixteencharacter": must be no more than 15 characters']),
    (pod_with(ports=[{"containerPort": 1, "protocol": "ICMP"}]),
     ['spec.containers[0].ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"']),
    (pod_with(ports=[{"containerPort": 1, "hostPort": 8080}, {"containerPort": 2, "hostPort": 8080}]),
     ['spec.containers[0].ports[1].hostPort: Duplicate value: "TCP//8080"']),
    (pod_with(ports=[{"containerPort": 1, "hostPort": -1}]),
     ["spec.containers[0].ports[0].hostPort: Invalid value: -1: must be between 1 and 65535, inclusive"]),
    (pod(hostNetwork=True, containers=[{"name": "c", "image": "x", "ports": [{"containerPort": 1, "hostPort": 2}]}]),
     [("spec.containers[0].ports[0].hostPort: Invalid value: 2: must match `containerPort` when `hostNetwork` is "
      "true")]),
]

ENVIRONMENT: list[tuple[Tree, list[str]]] = [
    (pod_with(env=[{"value": "x"}]), ["spec.containers[0].env[0].name: Required value"]),
    (pod_with(env=[{"name": "a=b"}]),
     [('spec.containers[0].env[0].name: Invalid value: "a=b": a valid environment variable name must consist only of '
      "printable ASCII characters other than '='")]),
    (pod_with(env=[{"name": "A", "valueFrom": {}}]),
     [('spec.containers[0].env[0].valueFrom: Invalid value: "": must specify one of: `fieldRef`, `resourceFieldRef`, '
      "`configMapKeyRef` or `secretKeyRef`")]),
    (pod_with(env=[{"name": "A", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
     ['spec.containers[0].env[0].valueFrom: Invalid value: "": may not be specified when `value` is not empty']),
    (pod_with(env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m"}}}]),
     ["spec.containers[0].env[0].valueFrom.configMapKeyRef.key: Required value"]),
    (pod_with(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nope"}}}]),
     [('spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: "spec.nope": error converting '
      "fieldPath: field label not supported: spec.nope")]),
    (pod_with(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name['a']"}}}]),
     [("spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Invalid value: \"metadata.name['a']\": error "
       "converting fieldPath: field label does not support subscript: metadata.name['a']")]),
    (pod_with(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}}]),
     [('spec.containers[0].env[0].valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase": supported values: '
      '"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", '
      '"status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"')]),
    (pod_with(env=[{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2"}}}]),
     [('spec.containers[0].env[0].valueFrom.resourceFieldRef.divisor: Invalid value: "limits.cpu": only divisor\'s '
      "values 1m and 1 are supported with the cpu resource")]),
    (pod_with(envFrom=[{}]),
     ['spec.containers[0].envFrom: Invalid value: "": must specify one of: `configMapRef` or `secretRef`']),
    (pod_with(envFrom=[{"secretRef": {}}]), ["spec.containers[0].envFrom[0].secretRef.name: Required value"]),
]

RESOURCES: list[tuple[Tree, list[str]]] = [
    (pod_with(resources={"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
     ['spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1']),
    (pod_with(resources={"requests": {"memory": "-1"}}),
     ['spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0']),
    (pod_with(resources={"requests": {"disk": "1"}}),
     [('spec.containers[0].resources.requests[disk]: Invalid value: "disk": must be a standard resource type or fully '
      "qualified"),
      ('spec.containers[0].resources.requests[disk]: Invalid value: "disk": must be a standard resource for '
       "containers")]),
    (pod_with(resources={"requests": {"hugepages-2Mi": "2Mi", "memory": "1Gi"}}),
     ["spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources"]),
    (pod_with(resources={"requests": {"example.com/gpu": "1"}}),
     ["spec.containers[0].resources.limits: Required value: Limit must be set for non overcommitable resources"]),
    (pod_with(resources={"limits": {"example.com/gpu": "2"}, "requests": {"example.com/gpu": "1"}}),
     ['spec.containers[0].resources.requests: Invalid value: "1": must be equal to example.com/gpu limit of 2']),
    (pod_with(resources={"limits": {"example.com/gpu": "1500m"}}),
     ["spec.containers[0].resources.limits[example.com/gpu]: Invalid value: 1500m: must be an integer",
      "spec.containers[0].resources.requests[example.com/gpu]: Invalid value: 1500m: must be an integer"]),
    (pod_with(resources={"limits": {"hugepages-2Mi": "2Mi"}}),
     ["spec.containers[0].resources: Forbidden: HugePages require cpu or memory"]),
]

VOLUMES: list[tuple[Tree, list[str]]] = [
    (volumes({"emptyDir": {}, "hostPath": {"path": "/x"}}),
     ["spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type"]),
    (pod(volumes=[{"name": "v", "emptyDir": {}}] * 2), ['spec.volumes[1].name: Duplicate value: "v"']),
    (pod(volumes=[{"emptyDir": {}}]), ["spec.volumes[0].name: Required value"]),
    (volumes({"hostPath": {"path": "/a/../b"}}),
     ['spec.volumes[0].hostPath.path: Invalid value: "/a/../b": must not contain \'..\'']),
    (volumes({"hostPath": {"path": "/a", "type": "Dir"}}),
     [('spec.volumes[0].hostPath.type: Unsupported value: "Dir": supported values: "", "BlockDevice", "CharDevice", '
      '"Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"')]),
    (volumes({"secret": {"defaultMode": 512}}),
     ["spec.volumes[0].secret.secretName: Required value",
      ("spec.volumes[0].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both "
      "inclusive")]),
    (volumes({"configMap": {"name": "m", "items": [{"key": "k", "path": "/abs"}]}}),
     ['spec.volumes[0].configMap.items[0].path: Invalid value: "/abs": must be a relative path']),
    (volumes({"configMap": {"name": "m", "items": [{"key": "k", "path": "..data"}]}}),
     ['spec.volumes[0].configMap.items[0].path: Invalid value: "..data": must not start with \'..\'']),
    (volumes({"projected": {"sources": [{"secret": {"name": "s", "items": [{"key": "a", "path": "x"}]}},
                                        {"configMap": {"name": "m", "items": [{"key": "a", "path": "x"}]}}]}}),
     ['spec.volumes[0].projected: Invalid value: "m": conflicting duplicate paths']),
    (pod_with(volumeMounts=[{"name": "nope", "mountPath": "/x"}]),
     ['spec.containers[0].volumeMounts[0].name: Not found: "nope"']),
    (volumes({"emptyDir": {}}, mounts=[{"name": "v0", "mountPath": "/a"}, {"name": "v0", "mountPath": "/a"}]),
     ['spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique']),
    (volumes({"emptyDir": {}}, mounts=[{"name": "v0"}]),
     ["spec.containers[0].volumeMounts[0].mountPath: Required value"]),
    (volumes({"emptyDir": {}}, mounts=[{"name": "v0", "mountPath": "/a", "subPath": "../x"}]),
     ['spec.containers[0].volumeMounts.subPath: Invalid value: "../x": must not contain \'..\'']),
    (volumes({"emptyDir": {}}, mounts=[{"name": "v0", "mountPath": "/a", "mountPropagation": "Bidirectional"}]),
     [("spec.containers[0].volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available "
      "only to privileged containers")]),
]

PROBES: list[tuple[Tree, list[str]]] = [
    (pod_with(livenessProbe={}), ["spec.containers[0].livenessProbe: Required value: must specify a handler type"]),
    (pod_with(livenessProbe={"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}),
     ["spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type"]),
    (pod_with(livenessProbe={"exec": {"command": ["a"]}, "successThreshold": 2}),
     ["spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"]),
    (pod_with(readinessProbe={"exec": {}, "periodSeconds": -1}),
     ["spec.containers[0].readinessProbe.exec.command: Required value",
      "spec.containers[0].readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0"]),
    (pod_with(startupProbe={"httpGet": {"port": "nope-nope-nope-nope", "scheme": "FTP"}}),
     [('spec.containers[0].startupProbe.httpGet.port: Invalid value: "nope-nope-nope-nope": must be no more than 15 '
      "characters"),
      'spec.containers[0].startupProbe.httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS"']),
    (pod_with(lifecycle={"postStart": {}}),
     ["spec.containers[0].lifecycle.postStart: Required value: must specify a handler type"]),
    (pod_with(lifecycle={"preStop": {"sleep": {"seconds": 60}}}),
     [("spec.containers[0].lifecycle.preStop.sleep: Invalid value: 60: must be greater than 0 and less than "
      "terminationGracePeriodSeconds (30). Enable AllowPodLifecycleSleepActionZeroValue feature gate for zero "
      "sleep.")]),
]

REST: list[tuple[Tree, list[str]]] = [
    (pod(restartPolicy="Sometimes"),
     ['spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"']),
    (pod(dnsPolicy="x"),
     [('spec.dnsPolicy: Unsupported value: "x": supported values: "ClusterFirstWithHostNet", "ClusterFirst", '
      '"Default", "None"')]),
    (pod(dnsPolicy="None"), ["spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"]),
    (pod(activeDeadlineSeconds=0),
     ["spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive"]),
    (pod(nodeSelector={"a b": "x"}), [("spec.nodeSelector: Invalid value: \"a b\": name part must consist of "
                                      "alphanumeric characters, '-', '_' or '.', and must start and end with an "
                                      "alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex "
                                      "used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')")]),
    (pod(tolerations=[{"value": "x"}]),
     [('spec.tolerations[0].operator: Invalid value: "": operator must be Exists when `key` is empty, which means '
      '"match all values and all keys"')]),
    (pod(tolerations=[{"key": "a", "operator": "Exists", "value": "b"}]),
     ['spec.tolerations[0].operator: Invalid value: "b": value must be empty when `operator` is \'Exists\'']),
    (pod(tolerations=[{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]),
     [("spec.tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when "
      "`tolerationSeconds` is set")]),
    (pod(tolerations=[{"key": "a", "effect": "Never"}]),
     [('spec.tolerations[0].effect: Unsupported value: "Never": supported values: "NoSchedule", "PreferNoSchedule", '
      '"NoExecute"')]),
    (pod(securityContext={"runAsUser": -1}),
     ["spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive"]),
    (pod(hostPID=True, shareProcessNamespace=True),
     [("spec.securityContext.shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot "
      "both be enabled")]),
    (pod(securityContext={"sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}]}, hostNetwork=True),
     [("spec.securityContext.sysctls[0].name: Invalid value: \"net.ipv4.ip_forward\": may not be specified when "
      "'hostNetwork' is true")]),
    (pod_with(securityContext={"seccompProfile": {"type": "Localhost"}}),
     [("spec.containers[0].securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp "
      "type is Localhost")]),
    (pod(hostAliases=[{"ip": "x", "hostnames": ["a"]}]),
     ['spec.hostAliases[0].ip: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)']),
    (pod_with(volumeMounts=[{"mountPath": "/a"}]),
     ["spec.containers[0].volumeMounts[0].name: Required value",
      'spec.containers[0].volumeMounts[0].name: Not found: ""']),
    ({**pod(), "metadata": {**pod()["metadata"], "annotations": {"kubernetes.io/config.mirror": "x"}}},
     [('metadata.annotations[kubernetes.io/config.mirror]: Invalid value: "x": must set spec.nodeName if mirror pod '
      "annotation is set")]),
    (pod(overhead={"cpu": "-1"}),
     ['spec.overhead.limits[cpu]: Invalid value: "-1": must be greater than or equal to 0']),
    (pod(hostname="a.b"), ['spec.hostname: Invalid value: "a.b": must not contain dots']),
    (pod(nodeName="n", schedulingGates=[{"name": "g"}]),
     ["spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"]),
    (pod(affinity={"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}),
     [("spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: "
      "must have at least one node selector term")]),
    (pod(affinity={"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
        {"weight": 101, "podAffinityTerm": {"topologyKey": "zone"}}]}}),
     [("spec.affinity.podAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must "
      "be in the range 1-100")]),
    (pod(topologySpreadConstraints=[{"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "No"}]),
     ["spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
      ('spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "No": supported values: '
      '"DoNotSchedule", "ScheduleAnyway"')]),
    (pod(serviceAccountName="a", volumes=[{"name": "t", "projected": {"sources": [
        {"serviceAccountToken": {"path": "t", "expirationSeconds": 0}}]}}]),
     [("spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 0: may not specify "
       "a duration less than 10 minutes")]),
    (pod(volumes=[{"name": "t", "projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}}]),
     [("spec.volumes[0].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when "
      "serviceAccountName is not set")]),
    (pod() | {"metadata": {"name": "p", "annotations": {"controller.kubernetes.io/pod-deletion-cost": "+1"}}},
     [('metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+1": must be a 32bit '
      "integer")]),
]


@pytest.mark.parametrize(("tree", "expected"), CONTAINERS + PORTS + ENVIRONMENT + RESOURCES + VOLUMES + PROBES + REST)
def test_refused(tree: Tree, expected: list[str]) -> None:
    assert create_errors(POD, tree) == expected
