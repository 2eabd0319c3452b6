"""ConfigMaps, Secrets and ServiceAccounts: data for pods, and who pods are."""

from __future__ import annotations

import base64
import binascii
import json

from master.apiserver.kinds import checks
from master.apiserver.kinds.common import Errors, Tree, drop_unset, immutable, notes, part
from master.apiserver.strategy import Context, Strategy
from sampan.api.errors import FieldError, forbidden, invalid, required, too_long

MAX_BYTES = 1024 * 1024
FROZEN = "field is immutable when `immutable` is set"
ACCOUNT = "kubernetes.io/service-account.name"
MOUNTABLE = "kubernetes.io/enforce-mountable-secrets"
TOKEN_TYPE = "kubernetes.io/service-account-token"  # noqa: S105 - the name of a kind of Secret
_NEEDS = {"kubernetes.io/ssh-auth": ("ssh-privatekey",), "kubernetes.io/tls": ("tls.crt", "tls.key")}
_JSON = {"kubernetes.io/dockercfg": ".dockercfg", "kubernetes.io/dockerconfigjson": ".dockerconfigjson"}


def _frozen(new: Tree, old: Tree, keys: tuple[str, ...]) -> Errors:
    """What an object that has been made immutable refuses."""
    if old.get("immutable") is not True:
        return []
    errors = [] if new.get("immutable") is True else [forbidden("immutable", FROZEN)]
    return errors + [forbidden(key, FROZEN) for key in keys if part(new, key) != part(old, key)]


def _size(text: str) -> int:
    """How many bytes a base64 text stands for."""
    return len(text) * 3 // 4 - text[-2:].count("=")


class ConfigMapStrategy(Strategy):
    """The rules of ConfigMaps."""

    status_field = ""

    def default(self, obj: Tree) -> None:
        """Nothing is filled in; empty maps go."""
        drop_unset(obj, ("binaryData",))

    def validate(self, obj: Tree, context: Context) -> Errors:
        """Keys that can be file names, no key twice, at most 1 MiB."""
        errors: Errors = []
        texts, binaries = part(obj, "data"), part(obj, "binaryData")
        for key in sorted(texts):
            errors += checks.config_key(f"data[{key}]", key)
            if key in binaries:
                errors.append(invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
        for key in sorted(binaries):
            errors += checks.config_key(f"binaryData[{key}]", key)
        size = sum(len(text.encode()) for text in texts.values()) + sum(_size(text) for text in binaries.values())
        return [*errors, too_long("[]", MAX_BYTES)] if size > MAX_BYTES else errors

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """An immutable one stays as it is."""
        return _frozen(new, old, ("data", "binaryData"))


class SecretStrategy(Strategy):
    """The rules of Secrets."""

    status_field = ""

    def default(self, obj: Tree) -> None:
        """The general type; stringData, which only exists to be written, becomes data."""
        if not obj.get("type"):
            obj["type"] = "Opaque"
        texts = obj.pop("stringData", None)
        if texts:
            encoded = {key: base64.b64encode(text.encode()).decode() for key, text in texts.items()}
            obj["data"] = {**part(obj, "data"), **encoded}

    def validate(self, obj: Tree, context: Context) -> Errors:
        """Keys, size, and what the type asks for."""
        errors: Errors = []
        data = part(obj, "data")
        for key in sorted(data):
            errors += checks.config_key(f"data[{key}]", key)
        if sum(_size(text) for text in data.values()) > MAX_BYTES:
            errors.append(too_long("data", MAX_BYTES))
        return errors + _secret_type(obj, data)

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """The type never changes, an immutable one stays as it is."""
        return immutable("type", new.get("type"), old.get("type")) + _frozen(new, old, ("data",))

    def fields(self, obj: Tree) -> dict[str, str]:
        """The type."""
        return {"type": obj.get("type") or ""}


def _secret_type(obj: Tree, data: Tree) -> Errors:
    kind = obj.get("type")
    if kind == TOKEN_TYPE and not notes(obj).get(ACCOUNT):
        return [required(f"metadata.annotations[{ACCOUNT}]")]
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & data.keys():
        return [required("data[username]"), required("data[password]")]
    if kind in _JSON:
        return _json_content(data, _JSON[kind])
    keys = _NEEDS.get(kind or "", ())
    return [required(f"data[{key}]") for key in keys
            if key not in data or (not data[key] and kind == "kubernetes.io/ssh-auth")]


def _json_content(data: Tree, key: str) -> list[FieldError]:
    if key not in data:
        return [required(f"data[{key}]")]
    problem = ""
    try:
        content = json.loads(base64.b64decode(data[key]))
        problem = "" if isinstance(content, dict) else "must be a JSON object"
    except (ValueError, binascii.Error) as error:
        problem = str(error)
    except RecursionError:
        problem = "exceeded max depth"
    return [invalid(f"data[{key}]", "<secret contents redacted>", problem)] if problem else []


class ServiceAccountStrategy(Strategy):
    """The rules of ServiceAccounts: none but those of names."""

    status_field = ""

    def default(self, obj: Tree) -> None:
        """Empty lists go."""
        drop_unset(obj, ("secrets", "imagePullSecrets"))

    def warnings(self, obj: Tree) -> list[str]:
        """An annotation that is going away."""
        if MOUNTABLE not in notes(obj):
            return []
        return [(f"metadata.annotations[{MOUNTABLE}]: deprecated in v1.32+; prefer separate namespaces to isolate "
                 "access to mounted secrets")]

    def update_warnings(self, new: Tree, old: Tree) -> list[str]:
        """The same, to who sets it."""
        return [] if MOUNTABLE in notes(old) else self.warnings(new)

