"""The table of field numbers against the API's own definitions: nothing is missing, and all is of the same type."""

from __future__ import annotations

from typing import Any

import pytest

from master.apiserver.protobuf.fields import Field, message, message_of
from master.apiserver.schema import load_definitions
from sampan.api.resources import BUILT_IN

DEFINITIONS = load_definitions()
ROOTS = [(resource.definition, message_of(resource.api_version, resource.kind)) for resource in BUILT_IN] + [
    ("io.k8s.api.autoscaling.v1.Scale", "autoscaling.v1.Scale"), ("io.k8s.api.core.v1.Binding", "core.v1.Binding"),
    ("io.k8s.api.policy.v1.Eviction", "policy.v1.Eviction"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions", "meta.v1.DeleteOptions"),
    ("io.k8s.api.authorization.v1.SelfSubjectAccessReview", "authorization.v1.SelfSubjectAccessReview")]
SPECIAL = {"Quantity": "quantity", "Time": "time", "MicroTime": "microtime", "IntOrString": "intstr",
           "RawExtension": "raw", "FieldsV1": "raw"}
SCALARS = {"string": "s", "integer": "i", "boolean": "t", "number": "d"}


def flat(name: str) -> dict[str, Field]:
    """A message's fields by their JSON names, inlined ones among them."""
    result: dict[str, Field] = {}
    for field in (message(name) or {}).values():
        result |= flat(field.message) if field.name == "." else {field.name: field}
    return result


def compare(schema: dict[str, Any], field: Field) -> tuple[str, str] | None:
    """What is still to be compared: the definition and the message of a nested object."""
    flag = "*" if schema.get("type") == "array" else "%" if "additionalProperties" in schema else ""
    assert field.flag.replace("!", "") == flag
    inner = schema.get("items") or schema.get("additionalProperties") or schema
    reference = inner.get("$ref", "").removeprefix("#/definitions/")
    special = SPECIAL.get(reference.rpartition(".")[2])
    if special or not reference:
        assert (field.message or field.scalar) == (
            special or ("b" if inner.get("format") == "byte" else SCALARS[inner["type"]]))
        return None
    return reference, field.message


def test_every_field_has_its_number_and_type() -> None:
    waiting, seen = list(ROOTS), set()
    while waiting:
        definition, name = waiting.pop()
        if (definition, name) in seen:
            continue
        seen.add((definition, name))
        assert name is not None
        properties = DEFINITIONS[definition]["properties"]
        fields = flat(name)
        assert set(properties) - {"apiVersion", "kind"} <= set(fields) <= set(properties), definition
        for key in fields:
            if fields[key].message.endswith(".ExtraValue"):
                continue  # a list in a message of its own
            nested = compare(properties[key], fields[key])
            waiting += [nested] if nested else []
    assert len(seen) > 200


@pytest.mark.parametrize(("name", "pointers"), [
    ("apps.v1.DeploymentSpec", "replicas selector revisionHistoryLimit progressDeadlineSeconds"),
    ("core.v1.PodSpec", """terminationGracePeriodSeconds activeDeadlineSeconds automountServiceAccountToken priority
                           shareProcessNamespace enableServiceLinks preemptionPolicy hostUsers"""),
    ("core.v1.SecurityContext", """runAsUser runAsGroup runAsNonRoot privileged readOnlyRootFilesystem
                                   allowPrivilegeEscalation"""),
    ("core.v1.PodSecurityContext", "runAsUser runAsGroup runAsNonRoot fsGroup"),
    ("core.v1.ServiceAccount", "automountServiceAccountToken"), ("core.v1.ConfigMap", "immutable"),
    ("core.v1.ConfigMapKeySelector", "optional"), ("core.v1.SecretVolumeSource", "defaultMode optional"),
    ("core.v1.Toleration", "tolerationSeconds"), ("core.v1.Volume", "emptyDir hostPath configMap secret"),
    ("core.v1.ServiceSpec", "allocateLoadBalancerNodePorts internalTrafficPolicy ipFamilyPolicy loadBalancerClass"),
    ("meta.v1.OwnerReference", "controller blockOwnerDeletion"),
    ("meta.v1.DeleteOptions", "gracePeriodSeconds orphanDependents propagationPolicy preconditions"),
    ("discovery.v1.EndpointConditions", "ready serving terminating"),
    ("coordination.v1.LeaseSpec", "holderIdentity leaseDurationSeconds leaseTransitions renewTime"),
])
def test_fields_whose_zero_counts(name: str, pointers: str) -> None:
    assert set(pointers.split()) <= {key for key, field in flat(name).items() if field.flag == "!"}


@pytest.mark.parametrize(("name", "plain"), [
    ("apps.v1.DeploymentSpec", "minReadySeconds paused"), ("core.v1.PodSpec", "nodeName hostNetwork restartPolicy"),
    ("core.v1.Container", "name image workingDir stdin tty imagePullPolicy"), ("autoscaling.v1.ScaleSpec", "replicas"),
    ("core.v1.ServiceSpec", "type clusterIP sessionAffinity publishNotReadyAddresses healthCheckNodePort"),
    ("core.v1.ContainerPort", "hostPort protocol"), ("meta.v1.ObjectMeta", "name namespace uid generation"),
])
def test_fields_whose_zero_is_dropped(name: str, plain: str) -> None:
    assert {flat(name)[key].flag for key in plain.split()} == {""}
