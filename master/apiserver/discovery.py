"""Discovery documents: what the server serves, made from the table of resources. Pure.

Sources: KEP-3352 (aggregated discovery); the API reference's APIGroup, APIResourceList, APIVersions.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from sampan.api.resources import Resource, Subresource

Tree = dict[str, Any]

# kubectl takes the first group that has a name; upstream's order of built-in groups, the rest follow by name.
_GROUP_ORDER: Final = (
    "", "apiregistration.k8s.io", "apps", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io",
    "autoscaling", "batch", "certificates.k8s.io", "networking.k8s.io", "policy", "rbac.authorization.k8s.io",
    "storage.k8s.io", "admissionregistration.k8s.io", "apiextensions.k8s.io", "scheduling.k8s.io",
    "coordination.k8s.io", "node.k8s.io", "discovery.k8s.io", "flowcontrol.apiserver.k8s.io",
)
_VERSION: Final = re.compile(r"v(\d+)(?:(alpha|beta)(\d+))?")


def version_order(version: str) -> tuple[int, int, int, str]:
    """Sorts versions as upstream prefers them: v2, v1, v2beta1, v1alpha1, then anything else by name."""
    match = _VERSION.fullmatch(version)
    if match is None:
        return 3, 0, 0, version
    stage = {None: 0, "beta": 1, "alpha": 2}[match[2]]
    return stage, -int(match[1]), -int(match[3] or 0), ""


def group_order(name: str) -> tuple[int, str]:
    """Sorts groups as upstream prefers them."""
    return (_GROUP_ORDER.index(name), "") if name in _GROUP_ORDER else (len(_GROUP_ORDER), name)


def groups(resources: Sequence[Resource[Any]]) -> dict[str, list[str]]:
    """Groups with their versions, both in order of preference."""
    found: dict[str, set[str]] = {}
    for resource in resources:
        found.setdefault(resource.group, set()).add(resource.version)
    return {name: sorted(found[name], key=version_order) for name in sorted(found, key=group_order)}


def aggregated(resources: Sequence[Resource[Any]], *, core: bool, version: str = "v2") -> Tree:
    """APIGroupDiscoveryList of /api (`core`) or /apis in apidiscovery.k8s.io `version` v2 or v2beta1 (same shape)."""
    items = [_group_discovery(resources, name, versions) for name, versions in groups(resources).items()
             if (name == "") == core]
    return {"kind": "APIGroupDiscoveryList", "apiVersion": f"apidiscovery.k8s.io/{version}", "metadata": {},
            "items": items}


def _group_discovery(resources: Sequence[Resource[Any]], name: str, versions: Sequence[str]) -> Tree:
    return {
        "metadata": ({"name": name} if name else {}) | {"creationTimestamp": None},
        "versions": [{"version": version,
                      "resources": [_resource_discovery(entry) for entry in _of(resources, name, version)],
                      "freshness": "Current"} for version in versions],
    }


def _resource_discovery(resource: Resource[Any]) -> Tree:
    result: Tree = {
        "resource": resource.plural,
        "responseKind": {"group": resource.group, "version": resource.version, "kind": resource.kind},
        "scope": "Namespaced" if resource.namespaced else "Cluster",
        "singularResource": singular(resource),
        "verbs": list(resource.verbs),
    }
    if resource.short_names:
        result["shortNames"] = list(resource.short_names)
    if resource.categories:
        result["categories"] = list(resource.categories)
    if resource.subresources:
        result["subresources"] = [_subresource_discovery(entry) for entry in _sorted(resource.subresources)]
    return result


def _subresource_discovery(subresource: Subresource) -> Tree:
    kind = {"group": subresource.group, "version": subresource.version, "kind": subresource.kind}
    return {"subresource": subresource.name, "responseKind": kind, "verbs": list(subresource.verbs)}


def api_versions(server_address: str) -> Tree:
    """Legacy ``GET /api``: APIVersions. `server_address` is host:port as clients reach the server."""
    return {"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": server_address}]}


def group_list(resources: Sequence[Resource[Any]]) -> Tree:
    """Legacy ``GET /apis``: APIGroupList."""
    return {"kind": "APIGroupList", "apiVersion": "v1",
            "groups": [_group(name, versions) for name, versions in groups(resources).items() if name]}


def group(resources: Sequence[Resource[Any]], name: str) -> Tree | None:
    """Legacy ``GET /apis/{name}``: APIGroup; None where there is no such group."""
    versions = groups(resources).get(name) if name else None
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, versions) if versions else None


def _group(name: str, versions: Sequence[str]) -> Tree:
    entries = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": entries, "preferredVersion": entries[0]}


def resource_list(resources: Sequence[Resource[Any]], group_name: str, version: str) -> Tree | None:
    """Legacy ``GET /api/v1`` and ``GET /apis/{group}/{version}``: APIResourceList; None where there is none."""
    entries = _of(resources, group_name, version)
    if not entries:
        return None
    listed: list[Tree] = []
    for entry in entries:
        listed.append(_api_resource(entry))
        listed += [_api_subresource(entry, subresource) for subresource in _sorted(entry.subresources)]
    head = {"kind": "APIResourceList"} | ({"apiVersion": "v1"} if group_name else {})
    return head | {"groupVersion": entries[0].api_version, "resources": listed}


def _api_resource(resource: Resource[Any]) -> Tree:
    result: Tree = {"name": resource.plural, "singularName": singular(resource), "namespaced": resource.namespaced,
                    "kind": resource.kind, "verbs": list(resource.verbs)}
    if resource.short_names:
        result["shortNames"] = list(resource.short_names)
    if resource.categories:
        result["categories"] = list(resource.categories)
    return result


def _api_subresource(resource: Resource[Any], subresource: Subresource) -> Tree:
    result: Tree = {"name": f"{resource.plural}/{subresource.name}", "singularName": "",
                    "namespaced": resource.namespaced}
    if (subresource.group, subresource.version) != (resource.group, resource.version):
        result |= {"group": subresource.group, "version": subresource.version}
    return result | {"kind": subresource.kind, "verbs": list(subresource.verbs)}


def singular(resource: Resource[Any]) -> str:
    """The name for one object of a resource."""
    return resource.singular or resource.kind.lower()


def _of(resources: Sequence[Resource[Any]], group_name: str, version: str) -> list[Resource[Any]]:
    mine = [entry for entry in resources if entry.group == group_name and entry.version == version]
    return sorted(mine, key=lambda entry: entry.plural)


def _sorted(subresources: Sequence[Subresource]) -> list[Subresource]:
    return sorted(subresources, key=lambda entry: entry.name)
