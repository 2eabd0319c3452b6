"""Where objects lie in the store: ``/registry/<group or "core">/<plural>/[<namespace>/]<name>``."""

from __future__ import annotations

from typing import Any

from sampan.api.resources import Resource

ROOT = "/registry/"


def group_prefix(group: str, plural: str) -> str:
    """The prefix of all objects of a kind, with the slash that ends it."""
    return f"{ROOT}{group or 'core'}/{plural}/"


def prefix(resource: Resource[Any], namespace: str = "") -> str:
    """The prefix of a resource's objects, or of those in one namespace."""
    whole = group_prefix(resource.group, resource.plural)
    return f"{whole}{namespace}/" if resource.namespaced and namespace else whole


def key(resource: Resource[Any], namespace: str, name: str) -> str:
    """The key of one object; `namespace` is ignored for kinds that live in none."""
    return prefix(resource, namespace) + name


def split(resource: Resource[Any], key: str) -> tuple[str, str]:
    """A key's namespace ("" for kinds that live in none) and name."""
    rest = key[len(group_prefix(resource.group, resource.plural)):]
    if not resource.namespaced:
        return "", rest
    namespace, _, name = rest.partition("/")
    return namespace, name
