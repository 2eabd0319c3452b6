"""The command's own small client, for hosts without kubectl: get, apply, wait."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from sampan.api.codec import encode
from sampan.api.errors import ApiError
from sampan.api.resources import BUILT_IN, DEPLOYMENTS, Resource, by_kind
from sampan.cli.progress import CommandError
from sampan.client import kubeconfig
from sampan.client.http import HttpClient

Tree = dict[str, Any]
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


def connect(*paths: Path) -> HttpClient:
    """A client from a kubeconfig, or several that count as one; CommandError where they cannot be read."""
    return HttpClient(connection(*paths))


def connection(*paths: Path) -> kubeconfig.Connection:
    """How to reach the cluster; CommandError."""
    try:
        return kubeconfig.load_several(paths)
    except kubeconfig.KubeconfigError as error:
        raise CommandError(str(error), "is the cluster up? see: sampan status. Run this as root on the master's host, "
                           "or name a kubeconfig with --kubeconfig or $KUBECONFIG") from error


def resource_named(name: str) -> Resource[Any]:
    """A resource by plural, singular, short name or kind; CommandError with those that there are."""
    wanted = name.lower()
    for resource in BUILT_IN:
        if wanted in (resource.plural, resource.kind.lower(), *resource.short_names):
            return resource
    known = ", ".join(sorted(resource.plural for resource in BUILT_IN))
    raise CommandError(f'there is no resource "{name}"', f"known are: {known}")


async def get(client: HttpClient, kind: str, namespace: str, *, selector: str = "", output: str = "table") -> str:
    """What `sampan get` prints: the server's table, JSON, or the pods' addresses (output "ip")."""
    resource = resource_named(kind)
    query = {"labelSelector": selector} if selector else {}
    path = resource.path(namespace)
    if output == "table":
        table = json.loads(await client.request("GET", path, query, accept=TABLE))
        return render_table(table, namespaces=resource.namespaced and not namespace)
    document = json.loads(await client.request("GET", path, query))
    if output == "json":
        return json.dumps(document, indent=2)
    return "\n".join(item["status"]["podIP"] for item in document["items"] if item.get("status", {}).get("podIP"))


def render_table(table: Tree, *, namespaces: bool) -> str:
    """A meta.k8s.io/v1 Table as text, with the columns that kubectl shows by default."""
    columns = [(index, column["name"].upper()) for index, column in enumerate(table["columnDefinitions"])
               if not column.get("priority")]
    rows = [[*(["NAMESPACE"] if namespaces else []), *(name for _, name in columns)]]
    for row in table.get("rows") or []:
        namespace = [row["object"]["metadata"].get("namespace", "")] if namespaces else []
        rows.append(namespace + [_cell(row["cells"][index]) for index, _ in columns])
    if len(rows) == 1:
        return "No resources found"
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in rows)


def _cell(value: object) -> str:
    return "<none>" if value is None or value == "" else str(value)


async def apply(client: HttpClient, path: Path, namespace: str) -> list[str]:
    """Create what the file's documents describe, or merge them into what is there; a line for each."""
    text = sys.stdin.read() if str(path) == "-" else await asyncio.to_thread(_read, path)
    try:
        documents = [document for document in yaml.safe_load_all(text) if document]
    except yaml.YAMLError as error:
        raise CommandError(f"{path} is not YAML: {error}") from error
    for document in documents:
        if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
            raise CommandError(f"{path} holds something that is no object", "it takes apiVersion, kind and metadata")
        if not document["metadata"].get("name"):
            raise CommandError(f"a {document.get('kind')} in {path} has no name", "it takes metadata.name")
    return [await _apply_one(client, document, namespace) for document in documents]


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CommandError(f"{path} is no text: {error}") from error


async def _apply_one(client: HttpClient, document: Tree, namespace: str) -> str:
    resource = by_kind(str(document.get("apiVersion")), str(document.get("kind")))
    if resource is None:
        raise CommandError(f"{document.get('kind')} in {document.get('apiVersion')} is not served")
    meta = document["metadata"]
    where = (meta.get("namespace") or namespace) if resource.namespaced else ""
    name = str(meta["name"])
    label = f"{resource.kind.lower()}{'.' + resource.group if resource.group else ''}/{name}"
    path, query = resource.path(where, quote(name)), {"fieldManager": "sampan", "fieldValidation": "Strict"}
    try:
        before = json.loads(await client.request("GET", path))
    except ApiError as error:
        if not error.is_not_found:
            raise
        await client.request("POST", resource.path(where), query, encode(document))
        return f"{label} created"
    answer = await client.request("PATCH", path, query, encode(document), content="application/merge-patch+json")
    after = json.loads(answer)
    same = before["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]
    return f"{label} {'unchanged' if same else 'configured'}"


async def wait(client: HttpClient, target: str, namespace: str, timeout: float) -> str:
    """Return once a deployment is rolled out, or a pod or node is Ready; CommandError after `timeout` seconds."""
    kind, _, name = target.partition("/")
    resource = resource_named(kind)
    where = namespace if resource.namespaced else ""
    try:
        async with asyncio.timeout(timeout):
            while True:
                page = await client.list(resource, where, field_selector=f"metadata.name={name}")
                if not page.items:
                    raise CommandError(f'{resource.plural} "{name}" not found')
                if is_ready(resource, page.items[0]):
                    return f"{target} is ready"
                async for event in client.watch(resource, where, revision=page.revision,
                                                field_selector=f"metadata.name={name}", timeout_seconds=60):
                    if event.object is not None and is_ready(resource, event.object):
                        return f"{target} is ready"
    except TimeoutError as late:
        raise CommandError(f"{target} is not ready after {timeout:g} s",
                           f"see: sampan get pods -n {where or 'default'}; kubectl describe tells more") from late


def is_ready(resource: Resource[Any], obj: Any) -> bool:
    """Whether the object does what it is there for."""
    if resource is DEPLOYMENTS:
        status, wanted = obj.status, obj.spec.replicas
        return bool((status.observed_generation or 0) >= (obj.metadata.generation or 0)
                    and (status.updated_replicas or 0) == wanted and (status.available_replicas or 0) == wanted)
    conditions: Sequence[Any] = getattr(obj.status, "conditions", ())
    return any(item.type == "Ready" and item.status == "True" for item in conditions)


