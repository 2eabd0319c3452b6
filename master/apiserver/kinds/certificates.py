"""CertificateSigningRequests (certificates.k8s.io): nodes and users ask for certificates, administrators approve."""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from master.apiserver.kinds.common import (
    Errors,
    Shown,
    Tree,
    child,
    drop_unset,
    items,
    keep,
    quoted,
    same,
    spec,
    status,
)
from master.apiserver.strategy import Context, Strategy
from sampan.api import names
from sampan.api.errors import duplicate, forbidden, invalid, not_supported, required, too_long
from sampan.api.times import Time

USAGES = (
    "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign", "data encipherment",
    "decipher only", "digital signature", "email protection", "encipher only", "ipsec end system", "ipsec tunnel",
    "ipsec user", "key agreement", "key encipherment", "microsoft sgc", "netscape sgc", "ocsp signing", "s/mime",
    "server auth", "signing", "timestamping",
)
LEGACY_SIGNER = "kubernetes.io/legacy-unknown"
MIN_SECONDS = 600
MAX_DOMAIN = 253
BANNER = "CERTIFICATE REQUEST"
_UNREADABLE = (ValueError, x509.InvalidVersion, UnsupportedAlgorithm)
"""What the library raises where the bytes are none of what they claim to be, or use what it does not know."""


class CertificateSigningRequestStrategy(Strategy):
    """The rules of CSRs."""

    name_rule = "path"

    def default(self, obj: Tree) -> None:
        """Nothing is filled in."""
        child(obj, "status")
        drop_unset(child(obj, "spec"), ("uid",))

    def prepare_create(self, obj: Tree, context: Context) -> None:
        """Who asks is what the server knows, never what the request says; nothing is approved beforehand."""
        tree = child(obj, "spec")
        for key in ("username", "uid", "groups", "extra"):
            tree.pop(key, None)
        tree["username"] = context.user.name
        if context.user.extra:
            tree["extra"] = {key: list(values) for key, values in context.user.extra}
        if context.user.groups:
            tree["groups"] = list(context.user.groups)
        if context.user.uid:
            tree["uid"] = context.user.uid
        obj["status"] = {}

    def prepare_update(self, new: Tree, old: Tree, context: Context) -> None:
        """The spec never changes; `approval` decides, `status` brings the certificate."""
        keep(new, old, "spec")
        if context.subresource not in ("approval", "status"):
            keep(new, old, "status")
            return
        state = child(new, "status")
        if context.subresource == "approval":
            decided = items(state, "conditions")
            state.clear()
            state.update(status(old))
            if decided:
                state["conditions"] = decided
            else:
                state.pop("conditions", None)
        _stamp(items(state, "conditions"), items(status(old), "conditions"), str(Time.of(context.now)))

    def validate(self, obj: Tree, context: Context) -> Errors:
        """A good request for a known use by a named signer."""
        tree = spec(obj)
        errors = [] if context.subresource else _request(tree.get("request") or "")
        usages = items(tree, "usages")
        if not usages:
            errors.append(required("spec.usages"))
        seen: set[str] = set()
        for index, usage in enumerate(usages):
            if usage not in USAGES:
                errors.append(not_supported(f"spec.usages[{index}]", usage, USAGES))
            if usage in seen:
                errors.append(duplicate(f"spec.usages[{index}]", usage))
            seen.add(usage)
        signer = tree.get("signerName") or ""
        if signer == LEGACY_SIGNER:
            errors.append(invalid("spec.signerName", signer,
                                  "the legacy signerName is not allowed via this API version"))
        else:
            errors += _signer(signer)
        seconds = tree.get("expirationSeconds")
        if seconds is not None and seconds < MIN_SECONDS:
            errors.append(invalid("spec.expirationSeconds", seconds,
                                  "may not specify a duration less than 600 seconds (10 minutes)"))
        return errors + _conditions(items(status(obj), "conditions"))

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """A decision stands; only `approval` makes one, only `status` brings a certificate."""
        errors: Errors = []
        at = "status.conditions"
        for kind in ("Approved", "Denied", "Failed"):
            before, after = (_of_type(obj, kind) for obj in (old, new))
            if len(after) < len(before):
                errors.append(forbidden(at, f'updates may not remove a condition of type "{kind}"'))
            elif context.subresource != "approval" and kind != "Failed":
                if len(after) > len(before):
                    errors.append(forbidden(at, f'updates may not add a condition of type "{kind}"'))
                elif not same(after, before):
                    errors.append(forbidden(at, f'updates may not modify a condition of type "{kind}"'))
        brought, issued = (status(obj).get("certificate") or "" for obj in (new, old))
        return errors if brought == issued else errors + _brought(brought, issued, context.subresource)

    def fields(self, obj: Tree) -> dict[str, str]:
        """Who shall sign."""
        return {"spec.signerName": spec(obj).get("signerName") or ""}


def _brought(certificate: str, issued: str, subresource: str) -> Errors:
    """Complaints about another certificate than there was."""
    at = "status.certificate"
    if subresource != "status":
        return [forbidden(at, "updates may not set certificate content")]
    errors: Errors = [forbidden(at, "updates may not modify existing certificate content")] if issued else []
    data = base64.b64decode(certificate)
    kinds = re.findall(rb"-----BEGIN ([^\n-]+)-----", data)
    others = [kind.decode("utf-8", "replace") for kind in kinds if kind != b"CERTIFICATE"]
    message = ""
    if others:
        message = f"only CERTIFICATE PEM blocks are allowed, found {quoted(others[0])}"
    elif data and not kinds:
        message = "must contain at least one CERTIFICATE PEM block"
    elif data:
        try:
            x509.load_pem_x509_certificates(data)
        except _UNREADABLE as error:
            message = f"x509: {error}"
    return [invalid(at, "<certificate data>", message), *errors] if message else errors


def _of_type(obj: Tree, kind: str) -> list[Tree]:
    return [condition for condition in items(status(obj), "conditions") if condition.get("type") == kind]


def _stamp(new: list[Tree], old: list[Tree], now: str) -> None:
    """Fill in the times that the writer left out."""
    known: dict[tuple[Any, Any], Tree] = {(entry.get("type"), entry.get("status")): entry for entry in old}
    for condition in new:
        before = known.get((condition.get("type"), condition.get("status")))
        condition.setdefault("lastUpdateTime", now)
        condition.setdefault("lastTransitionTime", (before or {}).get("lastTransitionTime") or now)


def _request(text: str) -> Errors:
    try:
        data = base64.b64decode(text)
    except (ValueError, binascii.Error):
        data = b""
    message = ""
    if f"-----BEGIN {BANNER}-----".encode() not in data:
        message = f"PEM block type must be {BANNER}"
    else:
        try:
            if not x509.load_pem_x509_csr(data).is_signature_valid:
                message = "x509: signature verification failed"
        except _UNREADABLE as error:
            message = f"x509: {error}"
    shown = Shown("[]byte{" + ", ".join(f"0x{byte:x}" for byte in data) + "}")
    return [invalid("spec.request", shown, message)] if message else []


def _signer(name: str) -> Errors:
    at = "spec.signerName"
    if not name:
        return [required(at)]
    parts = name.split("/")
    if len(parts) != 2:
        return [invalid(at, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")]
    domain, path = parts
    errors: Errors = [too_long(at, MAX_DOMAIN)] if len(domain) > MAX_DOMAIN else []
    for value, rule in ((domain, names.dns_label), (path, names.dns_subdomain)):
        for label in value.split("."):
            if messages := rule(label):
                errors += [invalid(at, value, f'validating label "{label}": {message}') for message in messages]
                break
        if value is domain and "." not in domain:
            errors.append(invalid(at, domain, "should be a domain with at least two segments separated by dots"))
    return errors


def _conditions(conditions: list[Tree]) -> Errors:
    errors: Errors = []
    seen: set[str] = set()
    for index, condition in enumerate(conditions):
        at = f"status.conditions[{index}]"
        kind, state = condition.get("type") or "", condition.get("status") or ""
        if not kind:
            errors.append(required(f"{at}.type"))
        known = ("True",) if kind in ("Approved", "Denied", "Failed") else ("False", "True", "Unknown")
        if state not in known:
            errors.append(not_supported(f"{at}.status", state, known) if state else required(f"{at}.status"))
        if {"Approved": "Denied", "Denied": "Approved"}.get(kind) in seen:
            errors.append(invalid(f"{at}.type", kind, "Approved and Denied conditions are mutually exclusive"))
        if kind in seen:
            errors.append(duplicate(f"{at}.type", kind))
        seen.add(kind)
    return errors
