from dataclasses import replace

import pytest

from master.apiserver import discovery
from sampan.api import resources
from sampan.api.resources import BUILT_IN


def test_aggregated_core() -> None:
    document = discovery.aggregated(BUILT_IN, core=True)
    assert (document["kind"], document["apiVersion"]) == ("APIGroupDiscoveryList", "apidiscovery.k8s.io/v2")
    assert len(document["items"]) == 1
    group = document["items"][0]
    assert "name" not in group["metadata"]
    version = group["versions"][0]
    assert (version["version"], version["freshness"]) == ("v1", "Current")
    by_name = {entry["resource"]: entry for entry in version["resources"]}
    pods = by_name["pods"]
    assert pods["responseKind"] == {"group": "", "version": "v1", "kind": "Pod"}
    assert (pods["scope"], pods["singularResource"]) == ("Namespaced", "pod")
    assert (pods["shortNames"], pods["categories"]) == (["po"], ["all"])
    assert {"subresource": "eviction", "responseKind": {"group": "policy", "version": "v1", "kind": "Eviction"},
            "verbs": ["create"]} in pods["subresources"]
    assert by_name["nodes"]["scope"] == "Cluster"
    assert by_name["endpoints"]["singularResource"] == "endpoints"
    assert "deletecollection" not in by_name["namespaces"]["verbs"]


def test_aggregated_groups_come_in_upstreams_order() -> None:
    other = replace(resources.DEPLOYMENTS, group="a.example.com")
    beta = replace(resources.DEPLOYMENTS, version="v1beta1")
    document = discovery.aggregated([*BUILT_IN, other, beta], core=False, version="v2beta1")
    assert document["apiVersion"] == "apidiscovery.k8s.io/v2beta1"
    names = [item["metadata"]["name"] for item in document["items"]]
    assert names == ["apps", "certificates.k8s.io", "rbac.authorization.k8s.io", "coordination.k8s.io",
                     "discovery.k8s.io", "a.example.com"]
    assert [entry["version"] for entry in document["items"][0]["versions"]] == ["v1", "v1beta1"]


def test_versions_are_sorted_by_stability() -> None:
    versions = ["foo", "v1alpha1", "v1", "v2beta2", "v2beta10", "v11", "v2"]
    wanted = ["v11", "v2", "v1", "v2beta10", "v2beta2", "v1alpha1", "foo"]
    assert sorted(versions, key=discovery.version_order) == wanted


def test_legacy_documents() -> None:
    assert discovery.api_versions("10.0.0.1:6443") == {
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": "10.0.0.1:6443"}]}
    apps = {"name": "apps", "versions": [{"groupVersion": "apps/v1", "version": "v1"}],
            "preferredVersion": {"groupVersion": "apps/v1", "version": "v1"}}
    assert discovery.group_list(BUILT_IN)["groups"][0] == apps
    assert discovery.group(BUILT_IN, "apps") == {"kind": "APIGroup", "apiVersion": "v1"} | apps
    assert discovery.group(BUILT_IN, "nope") is None
    assert discovery.group(BUILT_IN, "") is None


def test_resource_lists() -> None:
    core = discovery.resource_list(BUILT_IN, "", "v1")
    assert core is not None
    assert core["groupVersion"] == "v1"
    assert "apiVersion" not in core
    by_name = {entry["name"]: entry for entry in core["resources"]}
    assert by_name["pods/log"] == {"name": "pods/log", "singularName": "", "namespaced": True, "kind": "Pod",
                                   "verbs": ["get"]}
    assert by_name["pods/eviction"]["group"] == "policy"
    apps = discovery.resource_list(BUILT_IN, "apps", "v1")
    assert apps is not None
    assert apps["apiVersion"] == "v1"
    assert [entry["name"] for entry in apps["resources"]][:3] == [
        "controllerrevisions", "deployments", "deployments/scale"]
    assert discovery.resource_list(BUILT_IN, "apps", "v2") is None


@pytest.mark.parametrize("resource", BUILT_IN, ids=lambda entry: entry.plural)
def test_every_resource_is_found_both_ways(resource: resources.Resource[object]) -> None:  # type: ignore[type-var]
    document = discovery.aggregated(BUILT_IN, core=not resource.group)
    names = {entry["resource"] for item in document["items"] for version in item["versions"]
             for entry in version["resources"]}
    assert resource.plural in names
    legacy = discovery.resource_list(BUILT_IN, resource.group, resource.version)
    assert legacy is not None
    assert resource.plural in {entry["name"] for entry in legacy["resources"]}
