"""Bootstrap tokens: what a new node shows to get its certificate (upstream's bootstrap-tokens reference)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from sampan.api.times import Time
from sampan.api.types import core_v1, meta_v1

ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
PATTERN = re.compile(r"([a-z0-9]{6})\.([a-z0-9]{16})")
NAMESPACE = "kube-system"
SECRET_TYPE = "bootstrap.kubernetes.io/token"  # noqa: S105 - the name of a type of Secret
EXTRA_GROUP = "system:bootstrappers:sampan:default-node-token"
"""The group that roles for joining nodes are bound to, besides system:bootstrappers."""


@dataclass(frozen=True, slots=True)
class BootstrapToken:
    """``<id>.<secret>``; the id is public and names the Secret, the secret proves it."""

    id: str
    secret: str

    @classmethod
    def parse(cls, text: str) -> BootstrapToken:
        """Read a token; ValueError where it is none."""
        match = PATTERN.fullmatch(text.strip())
        if match is None:
            raise ValueError("a bootstrap token is six and sixteen letters or digits with a dot between them")
        return cls(match[1], match[2])

    @classmethod
    def new(cls, choose: Callable[[str], str] = secrets.choice) -> BootstrapToken:
        """A random token."""
        return cls("".join(choose(ALPHABET) for _ in range(6)), "".join(choose(ALPHABET) for _ in range(16)))

    def __str__(self) -> str:
        return f"{self.id}.{self.secret}"

    def to_secret(self, expires: datetime | None, description: str = "") -> core_v1.Secret:
        """The Secret in kube-system by which the API server knows the token; one without an end lasts for ever."""
        fields = {
            "description": description,
            "token-id": self.id,
            "token-secret": self.secret,
            "expiration": str(Time.of(expires)) if expires else "",
            "usage-bootstrap-authentication": "true",
            "usage-bootstrap-signing": "true",
            "auth-extra-groups": EXTRA_GROUP,
        }
        return core_v1.Secret(
            metadata=meta_v1.ObjectMeta(name=secret_name(self.id), namespace=NAMESPACE), type=SECRET_TYPE,
            data={key: value.encode() for key, value in fields.items() if value})


def secret_name(token_id: str) -> str:
    """The Secret of a token."""
    return f"bootstrap-token-{token_id}"
