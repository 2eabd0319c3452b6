"""Which missing fields are complaints, and which get a zero value and are left to the kind's own validation.

OpenAPI's `required` only says that Go writes the field always; upstream's validation then complains about some of
these fields as `Required value`, about others in other words, and about many not at all. Names are those of the
definitions without their packages. Source: k8s.io/kubernetes/pkg/apis/*/validation, v1.32.
"""

from __future__ import annotations

from typing import Final

_QUIET_ENDINGS: Final = ("Status", "Condition", "List", "Review", "TokenRequest", "Rule", "Requirement")
_QUIET_PACKAGES: Final = (".meta.v1.", ".authentication.", ".authorization.", ".pkg.version.")
_QUIET_KINDS: Final = frozenset({
    "AttachedVolume", "ContainerStateTerminated", "ContainerUser", "DaemonEndpoint", "EventSeries", "HostIP", "PodIP",
    "LinuxContainerUser", "NodeAddress", "NodeSystemInfo", "OwnerReference", "PodReadinessGate", "ResourceHealth",
})
_QUIET_FIELDS: Final = frozenset({
    "CertificateSigningRequestSpec.request", "ContainerResizePolicy.resourceName",
    "ContainerResizePolicy.restartPolicy", "Endpoint.addresses", "EndpointSlice.endpoints",
    "HPAScalingPolicy.type", "HTTPHeader.value", "HTTPHeader.name", "HTTPIngressPath.pathType",
    "LimitRangeSpec.limits", "RoleRef.apiGroup", "StatefulSetSpec.serviceName",
    "Sysctl.value", "Taint.key", "TopologySpreadConstraint.whenUnsatisfiable",
})
# Whole numbers and booleans have a zero that validation mostly takes, or refuses as out of range.
_LOUD_NUMBERS: Final = frozenset({"ContainerPort.containerPort"})
_POINTERS: Final = frozenset({
    "DaemonSetSpec.selector", "DeploymentSpec.selector", "ReplicaSetSpec.selector", "StatefulSetSpec.selector",
    "ScaleIOVolumeSource.secretRef", "ScaleIOPersistentVolumeSource.secretRef",
})


def is_reported(definition: str, field: str, kind: str) -> bool:
    """Whether a missing field is `Required value`. `kind` is its JSON type, "object" for a definition's."""
    short = definition.rpartition(".")[2]
    name = f"{short}.{field}"
    if name in _POINTERS:
        return True
    if short.endswith(_QUIET_ENDINGS) or short in _QUIET_KINDS or name in _QUIET_FIELDS:
        return False
    if any(package in definition for package in _QUIET_PACKAGES):
        return False
    if kind in ("integer", "number", "boolean"):
        return name in _LOUD_NUMBERS
    return kind != "object"


def is_pointer(definition: str, field: str) -> bool:
    """Whether a missing object stays missing, because in Go it is a pointer; others exist always, empty."""
    return f"{definition.rpartition('.')[2]}.{field}" in _POINTERS
