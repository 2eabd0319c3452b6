"""Image references: ``[registry/]name[:tag][@digest]``."""

from __future__ import annotations

import re
from dataclasses import dataclass

_DOMAIN = re.compile(r"^(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?(?:\.[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?)*"
                     r"|\[[a-fA-F0-9:]+\])(?::[0-9]+)?$")
_COMPONENT = re.compile(r"^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$")
_TAG = re.compile(r"^\w[\w.-]{0,127}$", re.ASCII)
_DIGEST = re.compile(r"^[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}$")
HUB = "docker.io"


class InvalidReference(ValueError):
    """The text is no image reference; the message is upstream's."""


@dataclass(frozen=True, slots=True)
class Reference:
    """A parsed reference. `domain` is the registry (docker.io where none is given), `path` the repository in it."""

    text: str
    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def pullable(self) -> str:
        """As it was written, with ``:latest`` where it has neither tag nor digest."""
        return self.text if self.tag or self.digest else f"{self.text}:latest"

    @property
    def default_policy(self) -> str:
        """The pull policy of a container that names none: Always for ``:latest``, else IfNotPresent."""
        return "Always" if not self.digest and self.tag in ("", "latest") else "IfNotPresent"


def parse(text: str) -> Reference:
    """Read a reference; InvalidReference."""
    rest, _, digest = text.partition("@")
    name, tag = rest, ""
    colon = rest.rfind(":")
    if colon > rest.rfind("/"):
        name, tag = rest[:colon], rest[colon + 1:]
        if not _TAG.match(tag):
            raise _invalid(text)
    if "@" in text and not _DIGEST.match(digest):
        raise _invalid(text)
    domain, path = _split(name)
    if not path or not all(_COMPONENT.match(part) for part in path.split("/")) or not _DOMAIN.match(domain):
        if name.lower() != name and path and all(_COMPONENT.match(part) for part in path.lower().split("/")):
            raise InvalidReference(f'couldn\'t parse image name "{text}": invalid reference format: '
                                   "repository name must be lowercase")
        raise _invalid(text)
    return Reference(text, domain, path, tag, digest)


def _split(name: str) -> tuple[str, str]:
    first, slash, rest = name.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost" or first.lower() != first):
        return (HUB if first == "index.docker.io" else first), rest
    return HUB, name if slash else f"library/{name}" if name else ""


def _invalid(text: str) -> InvalidReference:
    return InvalidReference(f'couldn\'t parse image name "{text}": invalid reference format')
