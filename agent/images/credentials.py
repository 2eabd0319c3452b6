"""Registry credentials from imagePullSecrets: the two formats that Secrets carry, and which entry fits an image."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase

from agent.images.reference import HUB, Reference
from agent.link.protocol import ClusterView
from sampan.api import resources
from sampan.api.types import core_v1

Auth = Mapping[str, str]


def pull_credentials(pod: core_v1.Pod, reference: Reference, view: ClusterView) -> tuple[list[Auth], list[str]]:
    """Credentials to try for an image, best first, and the names of pull secrets that are missing or unreadable."""
    found: list[tuple[int, Auth]] = []
    missing: list[str] = []
    for entry in pod.spec.image_pull_secrets:
        secret = view.get(resources.SECRETS, entry.name or "", pod.metadata.namespace)
        try:
            found += list(_matching(secret, reference)) if secret else []
        except (ValueError, AttributeError):
            secret = None
        if secret is None:
            missing.append(entry.name or "")
    return [auth for _, auth in sorted(found, key=lambda pair: -pair[0])], missing


def _matching(secret: core_v1.Secret, reference: Reference) -> Iterator[tuple[int, Auth]]:
    """Entries of one Secret that fit, each with the length of what it fits by."""
    if secret.type == "kubernetes.io/dockerconfigjson":
        table = json.loads(secret.data[".dockerconfigjson"]).get("auths", {})
    elif secret.type == "kubernetes.io/dockercfg":
        table = json.loads(secret.data[".dockercfg"])
    else:
        return
    path = reference.path.split("/")
    for server, entry in table.items():
        host, *folder = _place(server)
        if _same_host(host, reference.domain) and path[:len(folder)] == folder and (auth := _auth(entry, server)):
            yield len(server), auth


def _same_host(pattern: str, host: str) -> bool:
    """Whether a registry is meant: ``*`` may stand in each label of the name, as in ``*.example.com``."""
    (name, _, port), (wanted, _, wanted_port) = pattern.partition(":"), host.partition(":")
    labels, parts = name.split("."), wanted.split(".")
    return port == wanted_port and len(labels) == len(parts) and all(map(fnmatchcase, parts, labels))


def _place(server: str) -> Sequence[str]:
    """A server's address as registry and path: ``https://index.docker.io/v1/`` is docker.io."""
    host, _, path = server.removeprefix("https://").removeprefix("http://").strip("/").partition("/")
    if host in ("index.docker.io", "registry-1.docker.io", HUB):
        return [HUB]
    parts = [part for part in path.split("/") if part and part not in ("v1", "v2")]
    return [host, *parts]


def _auth(entry: Mapping[str, str], server: str) -> Auth | None:
    username, password = entry.get("username", ""), entry.get("password", "")
    if entry.get("auth"):
        try:
            username, _, password = base64.b64decode(entry["auth"]).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
    token = entry.get("identitytoken", "")
    if not username and not token:
        return None
    auth = {"username": username, "password": password, "serveraddress": server}
    return {**auth, "identitytoken": token} if token else auth
