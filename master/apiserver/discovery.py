"""Discovery documents: what the server serves, made from the table of resources. Pure.

`priorities` orders the groups (kubectl prefers the first group that has a name); groups that it does not name follow
in the order of the table.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sampan.api.resources import Resource

Tree = dict[str, Any]


def aggregated(resources: Sequence[Resource[Any]], *, core: bool, version: str = "v2") -> Tree:
    """APIGroupDiscoveryList of /api (`core`) or /apis in apidiscovery.k8s.io `version` v2 or v2beta1 (same shape)."""
    raise NotImplementedError


def api_versions(server_address: str) -> Tree:
    """Legacy ``GET /api``: APIVersions. `server_address` is host:port as clients reach the server."""
    raise NotImplementedError


def group_list(resources: Sequence[Resource[Any]]) -> Tree:
    """Legacy ``GET /apis``: APIGroupList."""
    raise NotImplementedError


def group(resources: Sequence[Resource[Any]], name: str) -> Tree | None:
    """Legacy ``GET /apis/{name}``: APIGroup; None where there is no such group."""
    raise NotImplementedError


def resource_list(resources: Sequence[Resource[Any]], group_name: str, version: str) -> Tree | None:
    """Legacy ``GET /api/v1`` and ``GET /apis/{group}/{version}``: APIResourceList; None where there is none."""
    raise NotImplementedError
