"""A container's environment: env, envFrom, fieldRef, resourceFieldRef, ``$(VAR)`` and the variables of Services.

Order and precedence are the kubelet's: envFrom first, then env in order (later wins, earlier ones may be referred to),
then Services' variables where the name is still free.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from agent.link.protocol import ClusterView
from sampan.api import resources
from sampan.api.quantity import Quantity
from sampan.api.types import core_v1

V = TypeVar("V")

_SUBSCRIPT = re.compile(r"^metadata\.(annotations|labels)\['([^']*)'\]$")
_REFERENCE = re.compile(r"\$(?:\$|\(([^)]*)\))")
_ADDRESS_FIELDS = ("status.podIP", "status.podIPs")


class EnvironmentFailure(Exception):
    """The environment cannot be made now; the message is the one that CreateContainerConfigError carries."""


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a pod may learn of its node: name, address, and what there is to use (for limits that are not set)."""

    name: str
    ip: str
    allocatable: Mapping[str, str] = field(default_factory=dict)


def needs_address(container: core_v1.Container) -> bool:
    """Whether the environment holds the pod's address, so that the container can only be created once it is known."""
    return any(variable.value_from and variable.value_from.field_ref
               and variable.value_from.field_ref.field_path in _ADDRESS_FIELDS for variable in container.env)


def make_environment(pod: core_v1.Pod, container: core_v1.Container, node: NodeFacts, pod_ip: str,
                     view: ClusterView) -> Mapping[str, str]:
    """All variables of a container, in order; EnvironmentFailure where something it refers to is missing."""
    variables: dict[str, str] = {}
    for source in container.env_from:
        _env_from(source, pod, view, variables)
    services = service_variables(view.list(resources.SERVICES), pod.metadata.namespace,
                                 links=pod.spec.enable_service_links is not False)
    for variable in container.env:
        value = _value(variable, pod, container, node, pod_ip, view, {**services, **variables})
        if value is not None:
            variables.pop(variable.name, None)
            variables[variable.name] = value
    for name, value in services.items():
        variables.setdefault(name, value)
    return variables


def expand(text: str, variables: Mapping[str, str]) -> str:
    """Replace ``$(NAME)`` where the name is known; ``$$`` is a dollar sign, anything else stays as it is."""

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name is None:
            return "$"
        return variables.get(name, match.group(0))

    return _REFERENCE.sub(replace, text)


def sub_path(mount: core_v1.VolumeMount, variables: Mapping[str, str]) -> str:
    """The part of its volume that is mounted, "" for all of it; EnvironmentFailure where a variable has no value.

    Without that an empty variable would open the whole volume to a container that is to see a part of it.
    """
    if not mount.sub_path_expr:
        return mount.sub_path or ""
    used = {match.group(1) for match in _REFERENCE.finditer(mount.sub_path_expr) if match.group(1) is not None}
    missing = sorted(name for name in used if not variables.get(name))
    if missing:
        raise EnvironmentFailure(f"missing value for {', '.join(missing)}")
    return expand(mount.sub_path_expr, variables)


def service_variables(services: Iterable[core_v1.Service], namespace: str, *, links: bool) -> dict[str, str]:
    """Docker-link style variables: of `kubernetes` in default always, of the pod's namespace with `links`.

    What the namespace has itself counts before `kubernetes`.
    """
    variables: dict[str, str] = {}
    for service in sorted(services, key=lambda entry: (entry.metadata.namespace == namespace, entry.metadata.name)):
        master = (service.metadata.namespace, service.metadata.name) == ("default", "kubernetes")
        if master or (links and service.metadata.namespace == namespace):
            _service(service, variables)
    return variables


def _service(service: core_v1.Service, variables: dict[str, str]) -> None:
    ip = service.spec.cluster_ip
    if not ip or ip == "None" or not service.spec.ports:
        return
    host = f"[{ip}]" if ":" in ip else ip
    prefix = re.sub(r"[-.]", "_", service.metadata.name.upper())
    first = service.spec.ports[0]
    variables[f"{prefix}_SERVICE_HOST"] = ip
    variables[f"{prefix}_SERVICE_PORT"] = str(first.port)
    for port in service.spec.ports:
        if port.name:
            variables[f"{prefix}_SERVICE_PORT_{port.name.upper().replace('-', '_')}"] = str(port.port)
    for number, port in enumerate(service.spec.ports):
        protocol = port.protocol or "TCP"
        url = f"{protocol.lower()}://{host}:{port.port}"
        if number == 0:
            variables[f"{prefix}_PORT"] = url
        stem = f"{prefix}_PORT_{port.port}_{protocol}"
        variables[stem] = url
        variables[f"{stem}_PROTO"] = protocol.lower()
        variables[f"{stem}_PORT"] = str(port.port)
        variables[f"{stem}_ADDR"] = ip


def _env_from(source: core_v1.EnvFromSource, pod: core_v1.Pod, view: ClusterView, variables: dict[str, str]) -> None:
    """Every key is taken, whether or not a shell can read it as a variable (KEP-4369)."""
    namespace = pod.metadata.namespace
    if source.config_map_ref:
        reference = source.config_map_ref
        config = view.get(resources.CONFIGMAPS, reference.name or "", namespace)
        data = dict(config.data) if config else None
        what = "configmap"
    elif source.secret_ref:
        secret_reference = source.secret_ref
        secret = view.get(resources.SECRETS, secret_reference.name or "", namespace)
        data = {key: _text(value) for key, value in secret.data.items()} if secret else None
        what, reference = "secret", core_v1.ConfigMapEnvSource(name=secret_reference.name,
                                                               optional=secret_reference.optional)
    else:
        return
    if data is None:
        if reference.optional:
            return
        raise EnvironmentFailure(f'{what} "{reference.name}" not found')
    for key, value in sorted(data.items()):
        variables[(source.prefix or "") + key] = value


def _value(variable: core_v1.EnvVar, pod: core_v1.Pod, container: core_v1.Container, node: NodeFacts, pod_ip: str,
           view: ClusterView, known: Mapping[str, str]) -> str | None:
    """A variable's value; None leaves it out."""
    source = variable.value_from
    if source is None:
        return expand(variable.value or "", known)
    if source.field_ref:
        return field_value(source.field_ref.field_path, pod, node, pod_ip)
    if source.resource_field_ref:
        return resource_value(source.resource_field_ref, pod, container, node)
    if source.config_map_key_ref:
        ref = source.config_map_key_ref
        config = view.get(resources.CONFIGMAPS, ref.name or "", pod.metadata.namespace)
        return _from_key("ConfigMap", ref.name, ref.key, ref.optional, pod, config.data if config else None)
    if source.secret_key_ref:
        secret_ref = source.secret_key_ref
        secret = view.get(resources.SECRETS, secret_ref.name or "", pod.metadata.namespace)
        held = _from_key("Secret", secret_ref.name, secret_ref.key, secret_ref.optional, pod,
                         secret.data if secret else None)
        return None if held is None else _text(held)
    return ""


def _from_key(kind: str, name: str | None, key: str, optional: bool | None, pod: core_v1.Pod,
              data: Mapping[str, V] | None) -> V | None:
    if data is not None and key in data:
        return data[key]
    if optional:
        return None
    if data is None:
        raise EnvironmentFailure(f'{kind.lower()} "{name}" not found')
    raise EnvironmentFailure(f"couldn't find key {key} in {kind} {pod.metadata.namespace}/{name}")


def field_value(path: str, pod: core_v1.Pod, node: NodeFacts, pod_ip: str) -> str:
    """What a fieldRef says of the pod; EnvironmentFailure for a path that is not supported."""
    meta = pod.metadata
    subscript = _SUBSCRIPT.match(path)
    if subscript:
        table = meta.annotations if subscript.group(1) == "annotations" else meta.labels
        return table.get(subscript.group(2), "")
    values = {
        "metadata.name": meta.name,
        "metadata.namespace": meta.namespace,
        "metadata.uid": meta.uid,
        "spec.nodeName": pod.spec.node_name or node.name,
        "spec.serviceAccountName": pod.spec.service_account_name or "default",
        "status.hostIP": node.ip,
        "status.hostIPs": node.ip,
        "status.podIP": pod_ip,
        "status.podIPs": pod_ip,
    }
    if path not in values:
        raise EnvironmentFailure(f"unsupported fieldPath: {path}")
    return values[path]


def resource_value(selector: core_v1.ResourceFieldSelector, pod: core_v1.Pod, container: core_v1.Container,
                   node: NodeFacts) -> str:
    """What a resourceFieldRef says, in units of its divisor and rounded up; the node's own for a limit not set."""
    if selector.container_name:
        everyone = (*pod.spec.containers, *pod.spec.init_containers)
        named = next((entry for entry in everyone if entry.name == selector.container_name), None)
        if named is None:
            raise EnvironmentFailure(f"container {selector.container_name} not found")
        container = named
    kind, _, name = selector.resource.partition(".")
    if kind not in ("limits", "requests") or not name:
        raise EnvironmentFailure(f"unsupported container resource : {selector.resource}")
    limits = container.resources.limits if container.resources else {}
    requests = container.resources.requests if container.resources else {}
    limit = limits.get(name, "0")
    if not Quantity.parse(limit):  # none, or one of zero, which limits nothing
        limit = node.allocatable.get(name, "0")
    text = limit if kind == "limits" else requests.get(name, "0")
    divisor = Quantity.parse(selector.divisor or "1")
    amount = Quantity.parse(text)
    if name == "cpu":
        unit = divisor.milli or 1000
        return str(-(-amount.milli // unit))
    return str(-(-amount.value // (divisor.value or 1)))


def _text(value: bytes) -> str:
    return value.decode(errors="surrogateescape")
