"""The table of resources: everything that the API serves, and what routes, discovery and clients need to know of it.

A kind's own rules (defaults, validation, columns) are added to it by the API server, keyed by `Resource.key`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar, cast

from msgspec import Struct, field

from sampan.api.types import apps_v1, certificates_v1, coordination_v1, core_v1, discovery_v1, meta_v1, rbac_v1

ALL_VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


class Object(Protocol):
    """What every top-level API type has."""

    @property
    def api_version(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def metadata(self) -> meta_v1.ObjectMeta: ...


T = TypeVar("T", bound=Object)


class PartialObjectMetadata(Struct, frozen=True, kw_only=True, omit_defaults=True,
                            rename={"api_version": "apiVersion"}):
    """Any object, seen by its metadata alone (meta.k8s.io/v1)."""

    api_version: str = ""
    kind: str = ""
    metadata: meta_v1.ObjectMeta = field(default_factory=meta_v1.ObjectMeta)


@dataclass(frozen=True, slots=True)
class Subresource:
    """A path below an object, such as ``status``; `group`, `version` and `kind` name what it speaks."""

    name: str
    group: str
    version: str
    kind: str
    verbs: tuple[str, ...] = ("get", "patch", "update")


@dataclass(frozen=True, slots=True)
class Resource(Generic[T]):
    """One kind of object: its names, its scope, and the Python type of a typed view of it."""

    group: str
    version: str
    kind: str
    plural: str
    type: type[T]
    namespaced: bool = True
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[Subresource, ...] = ()
    verbs: tuple[str, ...] = ALL_VERBS
    definition: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """Group and plural: what a request's path says, versions apart."""
        return self.group, self.plural

    @property
    def api_version(self) -> str:
        """``v1`` or ``apps/v1``."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def prefix(self) -> str:
        """The path of the group and version: ``/api/v1`` or ``/apis/apps/v1``."""
        return f"/apis/{self.group}/{self.version}" if self.group else f"/api/{self.version}"

    def path(self, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The HTTP path of the collection, of one object, or of a subresource of it."""
        parts = [self.prefix]
        if self.namespaced and namespace:
            parts += ["namespaces", namespace]
        parts.append(self.plural)
        parts += [part for part in (name, subresource) if part]
        return "/".join(parts)

    def metadata_only(self) -> Resource[PartialObjectMetadata]:
        """The same resource with a typed view of the metadata alone."""
        return cast("Resource[PartialObjectMetadata]", replace(cast("Resource[Any]", self), type=PartialObjectMetadata))


def _status(group: str, version: str, kind: str) -> Subresource:
    return Subresource("status", group, version, kind)


_SCALE = Subresource("scale", "autoscaling", "v1", "Scale")
_CORE = "io.k8s.api.core.v1."
_CONNECT = ("create", "get")
_PROXY = ("create", "delete", "get", "patch", "update")

NAMESPACES = Resource("", "v1", "Namespace", "namespaces", core_v1.Namespace, namespaced=False, short_names=("ns",),
                      verbs=tuple(verb for verb in ALL_VERBS if verb != "deletecollection"),
                      subresources=(_status("", "v1", "Namespace"),
                                    Subresource("finalize", "", "v1", "Namespace", ("update",))),
                      definition=_CORE + "Namespace")
NODES = Resource("", "v1", "Node", "nodes", core_v1.Node, namespaced=False, short_names=("no",),
                 subresources=(_status("", "v1", "Node"),
                               Subresource("proxy", "", "v1", "NodeProxyOptions", _PROXY)),
                 definition=_CORE + "Node")
PODS = Resource("", "v1", "Pod", "pods", core_v1.Pod, short_names=("po",), categories=("all",),
                subresources=(_status("", "v1", "Pod"),
                              Subresource("attach", "", "v1", "PodAttachOptions", _CONNECT),
                              Subresource("binding", "", "v1", "Binding", ("create",)),
                              Subresource("eviction", "policy", "v1", "Eviction", ("create",)),
                              Subresource("exec", "", "v1", "PodExecOptions", _CONNECT),
                              Subresource("log", "", "v1", "Pod", ("get",)),
                              Subresource("portforward", "", "v1", "PodPortForwardOptions", _CONNECT),
                              Subresource("proxy", "", "v1", "PodProxyOptions", _PROXY)),
                definition=_CORE + "Pod")
SERVICES = Resource("", "v1", "Service", "services", core_v1.Service, short_names=("svc",), categories=("all",),
                    subresources=(_status("", "v1", "Service"),
                                  Subresource("proxy", "", "v1", "ServiceProxyOptions", _PROXY)),
                    definition=_CORE + "Service")
REPLICATIONCONTROLLERS = Resource("", "v1", "ReplicationController", "replicationcontrollers",
                                  core_v1.ReplicationController, short_names=("rc",), categories=("all",),
                                  subresources=(_status("", "v1", "ReplicationController"), _SCALE),
                                  definition=_CORE + "ReplicationController")
ENDPOINTS = Resource("", "v1", "Endpoints", "endpoints", core_v1.Endpoints, singular="endpoints",
                     short_names=("ep",), definition=_CORE + "Endpoints")
CONFIGMAPS = Resource("", "v1", "ConfigMap", "configmaps", core_v1.ConfigMap, short_names=("cm",),
                      definition=_CORE + "ConfigMap")
SECRETS = Resource("", "v1", "Secret", "secrets", core_v1.Secret, definition=_CORE + "Secret")
SERVICEACCOUNTS = Resource("", "v1", "ServiceAccount", "serviceaccounts", core_v1.ServiceAccount,
                           short_names=("sa",), definition=_CORE + "ServiceAccount",
                           subresources=(Subresource("token", "authentication.k8s.io", "v1", "TokenRequest",
                                                     ("create",)),))
EVENTS = Resource("", "v1", "Event", "events", core_v1.Event, short_names=("ev",), definition=_CORE + "Event")
LEASES = Resource("coordination.k8s.io", "v1", "Lease", "leases", coordination_v1.Lease,
                  definition="io.k8s.api.coordination.v1.Lease")
DEPLOYMENTS = Resource("apps", "v1", "Deployment", "deployments", apps_v1.Deployment, short_names=("deploy",),
                       categories=("all",), subresources=(_status("apps", "v1", "Deployment"), _SCALE),
                       definition="io.k8s.api.apps.v1.Deployment")
REPLICASETS = Resource("apps", "v1", "ReplicaSet", "replicasets", apps_v1.ReplicaSet, short_names=("rs",),
                       categories=("all",), subresources=(_status("apps", "v1", "ReplicaSet"), _SCALE),
                       definition="io.k8s.api.apps.v1.ReplicaSet")
CONTROLLERREVISIONS = Resource("apps", "v1", "ControllerRevision", "controllerrevisions",
                               apps_v1.ControllerRevision, definition="io.k8s.api.apps.v1.ControllerRevision")
ENDPOINTSLICES = Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", discovery_v1.EndpointSlice,
                          definition="io.k8s.api.discovery.v1.EndpointSlice")
CERTIFICATESIGNINGREQUESTS = Resource(
    "certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests",
    certificates_v1.CertificateSigningRequest, namespaced=False, short_names=("csr",),
    subresources=(_status("certificates.k8s.io", "v1", "CertificateSigningRequest"),
                  Subresource("approval", "certificates.k8s.io", "v1", "CertificateSigningRequest")),
    definition="io.k8s.api.certificates.v1.CertificateSigningRequest")
_RBAC = "rbac.authorization.k8s.io"
ROLES = Resource(_RBAC, "v1", "Role", "roles", rbac_v1.Role, definition="io.k8s.api.rbac.v1.Role")
CLUSTERROLES = Resource(_RBAC, "v1", "ClusterRole", "clusterroles", rbac_v1.ClusterRole, namespaced=False,
                        definition="io.k8s.api.rbac.v1.ClusterRole")
ROLEBINDINGS = Resource(_RBAC, "v1", "RoleBinding", "rolebindings", rbac_v1.RoleBinding,
                        definition="io.k8s.api.rbac.v1.RoleBinding")
CLUSTERROLEBINDINGS = Resource(_RBAC, "v1", "ClusterRoleBinding", "clusterrolebindings", rbac_v1.ClusterRoleBinding,
                               namespaced=False, definition="io.k8s.api.rbac.v1.ClusterRoleBinding")

BUILT_IN: tuple[Resource[Any], ...] = (
    NAMESPACES, NODES, PODS, SERVICES, REPLICATIONCONTROLLERS, ENDPOINTS, CONFIGMAPS, SECRETS, SERVICEACCOUNTS, EVENTS,
    LEASES,
    DEPLOYMENTS, REPLICASETS, CONTROLLERREVISIONS, ENDPOINTSLICES, CERTIFICATESIGNINGREQUESTS,
    ROLES, CLUSTERROLES, ROLEBINDINGS, CLUSTERROLEBINDINGS,
)


def by_kind(api_version: str, kind: str, table: Iterable[Resource[Any]] = BUILT_IN) -> Resource[Any] | None:
    """The resource of an object's apiVersion and kind, None where it is not served."""
    return next((entry for entry in table if entry.kind == kind and entry.api_version == api_version), None)


def of_type(kind: type[T], table: Iterable[Resource[Any]] = BUILT_IN) -> Resource[T]:
    """The resource of a Python type; KeyError where it is none of ours."""
    for entry in table:
        if entry.type is kind:
            return entry
    raise KeyError(kind.__name__)
