"""`sampan token`: the tokens with which hosts join the cluster."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sampan import clusterconfig
from sampan.api.errors import ApiError
from sampan.api.resources import CONFIGMAPS, SECRETS
from sampan.api.times import Time
from sampan.api.types.core_v1 import Secret
from sampan.cli.progress import CommandError
from sampan.client import kubeconfig
from sampan.client.protocol import Client
from sampan.pki import ca
from sampan.pki.tokens import NAMESPACE, SECRET_TYPE, BootstrapToken, secret_name

FIELD_SELECTOR = f"type={SECRET_TYPE}"
NODE_PORT = 6444
LONGEST = timedelta(days=100 * 365)
"""No date beyond the year 9999 can be written; this keeps far from it."""
_SECONDS = {"h": 3600, "m": 60, "s": 1}


def lifetime(text: str) -> timedelta | None:
    """A duration such as ``24h`` or ``1h30m``; None for ``0``, which is for ever. ValueError."""
    if text == "0":
        return None
    parts = re.findall(r"(\d+)([hms])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration such as 24h, 1h30m or 0")
    seconds = sum(int(number) * _SECONDS[unit] for number, unit in parts)
    if not seconds:
        raise ValueError(f"{text!r} is over at once; 0 stands for no end")
    if seconds > LONGEST.total_seconds():
        raise ValueError(f"{text!r} is more than {LONGEST.days // 365} years; 0 stands for no end")
    return timedelta(seconds=seconds)


async def create(client: Client, token: BootstrapToken, ttl: timedelta | None, description: str,
                 now: datetime | None = None) -> None:
    """Store a token; CommandError where its id is taken."""
    expires = (now or datetime.now(UTC)) + ttl if ttl else None
    try:
        await client.create(SECRETS, token.to_secret(expires, description))
    except ApiError as error:
        if error.is_already_exists:
            raise CommandError(f'a token with id "{token.id}" exists already',
                               f"delete it first: sampan token delete {token.id}") from error
        raise


async def tokens(client: Client) -> list[Secret]:
    """The Secrets of all tokens."""
    page = await client.list(SECRETS, NAMESPACE, field_selector=FIELD_SELECTOR)
    return sorted(page.items, key=lambda secret: secret.metadata.name)


async def delete(client: Client, name: str) -> str:
    """Remove a token by its id or the whole of it; what to print."""
    token_id = name.partition(".")[0]
    try:
        await client.delete(SECRETS, secret_name(token_id), NAMESPACE)
    except ApiError as error:
        if error.is_not_found:
            raise CommandError(f'there is no token "{token_id}"', "see: sampan token list") from error
        raise
    return f'bootstrap token "{token_id}" deleted'


@dataclass(frozen=True, slots=True)
class Row:
    """One token as it is listed."""

    token: str
    ttl: str
    expires: str
    usages: Sequence[str]
    description: str
    groups: Sequence[str]

    @classmethod
    def of(cls, secret: Secret, now: datetime) -> Row:
        """Read a Secret, as kubeadm shows it: what cannot be read is <invalid>."""
        data = {key: value.decode("utf-8", "replace") for key, value in secret.data.items()}
        ttl, expires = remaining(data.get("expiration", ""), now)
        usages = [key.removeprefix("usage-bootstrap-") for key, value in sorted(data.items())
                  if key.startswith("usage-bootstrap-") and value == "true"]
        groups = [part for part in data.get("auth-extra-groups", "").split(",") if part]
        return cls(f"{data.get('token-id', '')}.{data.get('token-secret', '')}", ttl, expires, usages,
                   data.get("description", ""), groups)


def remaining(expiration: str, now: datetime) -> tuple[str, str]:
    """How long a token lasts and until when, in words."""
    if not expiration:
        return "<forever>", "<never>"
    try:
        end = Time.parse(expiration)
    except ValueError:
        return "<invalid>", expiration
    left = int(end.timestamp() - now.timestamp())
    if left <= 0:
        return "<expired>", str(end)
    for size, unit in ((3600, "h"), (60, "m")):
        if left >= size:
            return f"{left // size}{unit}", str(end)
    return f"{left}s", str(end)


def render(secrets: Sequence[Secret], now: datetime, output: str = "text") -> str:
    """The list as text or JSON."""
    rows = [Row.of(secret, now) for secret in secrets]
    if output == "json":
        return json.dumps([{"token": row.token, "ttl": row.ttl, "expires": row.expires, "usages": list(row.usages),
                            "description": row.description, "groups": list(row.groups)} for row in rows], indent=2)
    if not rows:
        return "There are no tokens; make one: sampan token create --print-join-command"
    table = [["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS"]]
    table += [[row.token, row.ttl, row.expires, ",".join(row.usages), row.description or "<none>",
               ",".join(row.groups)] for row in rows]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in table)


async def join_command(client: Client, token: BootstrapToken, connection: kubeconfig.Connection) -> str:
    """The line that makes another host a node of this cluster; CommandError.

    Whatever is needed to reach the master stands in it. The host learns the rest from the cluster, once it is a node.
    """
    if connection.ca is None:
        raise CommandError("the kubeconfig names no certificate authority", "take the one of sampan kubeconfig")
    words = ["sampan", "join", connection.server, "--token", str(token), "--ca-hash",
             ca.public_key_hash(connection.ca)]
    port = (await cluster_settings(client)).get(clusterconfig.NODE_PORT, "")
    if port.isdigit() and int(port) not in (0, NODE_PORT):
        host = connection.server.partition("://")[2].rsplit(":", 1)[0]
        words += ["--node-server", f"{host}:{port}"]
    return shlex.join(words)


async def cluster_settings(client: Client) -> Mapping[str, str]:
    """What the cluster tells its nodes (`sampan.clusterconfig`); nothing where it has nothing to tell. ApiError."""
    try:
        return (await client.get(CONFIGMAPS, clusterconfig.NAME, clusterconfig.NAMESPACE)).data
    except ApiError as error:
        if error.is_not_found:
            return {}
        raise
