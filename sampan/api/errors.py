"""Errors of the API: what kube-apiserver calls a Status.

Every refusal that a client sees is an ``ApiError``. Its reason, code and message follow upstream's
(k8s.io/apimachinery/pkg/api/errors), because kubectl prints the message and clients branch on the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Cause:
    """One entry of ``details.causes``: a machine-readable reason, a message, and the field it concerns."""

    reason: str
    message: str
    field: str = ""

    def tree(self) -> Tree:
        """The cause as JSON."""
        result = {"reason": self.reason, "message": self.message}
        return result | ({"field": self.field} if self.field else {})


@dataclass(frozen=True, slots=True)
class FieldError:
    """One complaint about one field; `path` as in ``spec.containers[0].name``.

    `reason` is the machine-readable form (FieldValueRequired, FieldValueInvalid, …), `text` what a person reads.
    """

    path: str
    reason: str
    text: str

    def cause(self) -> Cause:
        """The same as a cause of an Invalid status."""
        return Cause(self.reason, self.text, self.path)

    def __str__(self) -> str:
        return f"{self.path}: {self.text}"


def show(value: object) -> str:
    """A value as upstream's messages show it: strings quoted, the rest as JSON-like text."""
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "null"
    if isinstance(value, (dict, list)):
        import msgspec  # noqa: PLC0415 - only complaints about whole objects need it

        return msgspec.json.encode(value).decode()
    return str(value)


def required(path: str, detail: str = "") -> FieldError:
    """The field must be there and is not."""
    return FieldError(path, "FieldValueRequired", f"Required value: {detail}" if detail else "Required value")


def invalid(path: str, value: object, detail: str) -> FieldError:
    """The field's value is malformed."""
    return FieldError(path, "FieldValueInvalid", f"Invalid value: {show(value)}: {detail}")


def duplicate(path: str, value: object) -> FieldError:
    """The value stands twice in a list whose entries must differ."""
    return FieldError(path, "FieldValueDuplicate", f"Duplicate value: {show(value)}")


def forbidden(path: str, detail: str) -> FieldError:
    """The field may not be set, or not be changed, here."""
    return FieldError(path, "FieldValueForbidden", f"Forbidden: {detail}")


def not_supported(path: str, value: object, supported: Sequence[str]) -> FieldError:
    """The value is none of the known ones."""
    known = ", ".join(show(item) for item in supported)
    return FieldError(path, "FieldValueNotSupported", f"Unsupported value: {show(value)}: supported values: {known}")


def not_found_field(path: str, value: object) -> FieldError:
    """The value names something that is not there."""
    return FieldError(path, "FieldValueNotFound", f"Not found: {show(value)}")


def too_long(path: str, limit: int) -> FieldError:
    """The value has more than `limit` bytes."""
    return FieldError(path, "FieldValueTooLong", f"Too long: may not be more than {limit} bytes")


def too_many(path: str, count: int, limit: int) -> FieldError:
    """The list has more than `limit` entries."""
    return FieldError(path, "FieldValueTooMany", f"Too many: {count}: must have at most {limit} items")


IMMUTABLE = "field is immutable"


@dataclass(eq=False)
class ApiError(Exception):
    """A request's refusal. `code` is the HTTP status, `reason` upstream's StatusReason."""

    code: int
    reason: str
    message: str
    name: str = ""
    group: str = ""
    kind: str = ""
    uid: str = ""
    causes: tuple[Cause, ...] = field(default=())
    retry_after: int = 0  # seconds
    continue_token: str = ""  # where an expired list may go on, if inconsistently

    def __str__(self) -> str:
        return self.message

    def status(self) -> Tree:
        """The v1 Status that the client gets."""
        details: Tree = {key: value for key, value in (
            ("name", self.name), ("group", self.group), ("kind", self.kind), ("uid", self.uid),
            ("causes", [cause.tree() for cause in self.causes]), ("retryAfterSeconds", self.retry_after),
        ) if value}
        metadata = {"continue": self.continue_token} if self.continue_token else {}
        result: Tree = {"kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
                        "message": self.message, "reason": self.reason}
        # Clients take it for granted that a NotFound has details (kubectl debug crashes without), as upstream's have.
        return result | ({"details": details} if details or self.code == 404 else {}) | {"code": self.code}

    @classmethod
    def from_status(cls, status: Tree) -> ApiError:
        """Read a Status that a server answered."""
        details = status.get("details") or {}
        causes = tuple(Cause(item.get("reason", ""), item.get("message", ""), item.get("field", ""))
                       for item in details.get("causes") or ())
        return cls(int(status.get("code") or 500), status.get("reason") or "", status.get("message") or "",
                   details.get("name", ""), details.get("group", ""), details.get("kind", ""),
                   details.get("uid", ""), causes, int(details.get("retryAfterSeconds") or 0),
                   (status.get("metadata") or {}).get("continue", ""))

    @property
    def is_not_found(self) -> bool:
        """404: there is no such object."""
        return self.reason == "NotFound"

    @property
    def is_conflict(self) -> bool:
        """409: the object has changed since it was read."""
        return self.reason == "Conflict"

    @property
    def is_already_exists(self) -> bool:
        """409: the name is taken."""
        return self.reason == "AlreadyExists"

    @property
    def is_expired(self) -> bool:
        """410: the resourceVersion or continue token is too old; list again."""
        return self.reason in ("Expired", "Gone")

    @property
    def is_invalid(self) -> bool:
        """422: the object breaks a rule; `causes` say which."""
        return self.reason == "Invalid"


def _of(group: str, plural: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(group: str, plural: str, name: str) -> ApiError:
    """There is no object of that name."""
    return ApiError(404, "NotFound", f'{_of(group, plural)} "{name}" not found', name, group, plural)


def already_exists(group: str, plural: str, name: str) -> ApiError:
    """Create found the name taken."""
    return ApiError(409, "AlreadyExists", f'{_of(group, plural)} "{name}" already exists', name, group, plural)


def conflict(group: str, plural: str, name: str, why: str = "") -> ApiError:
    """A compare-and-set failed."""
    why = why or ("the object has been modified; please apply your changes to the latest version and try again")
    return ApiError(409, "Conflict", f'Operation cannot be fulfilled on {_of(group, plural)} "{name}": {why}',
                    name, group, plural)


def invalid_object(group: str, kind: str, name: str, errors: Sequence[FieldError]) -> ApiError:
    """The object breaks rules; all of them are told at once. `kind` is the Kind, as upstream writes it here."""
    texts = list(dict.fromkeys(map(str, errors)))  # the causes keep what is said twice, the message does not
    what = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    full = f"{kind}.{group}" if group else kind
    return ApiError(422, "Invalid", f'{full} "{name}" is invalid: {what}', name, group, kind,
                    causes=tuple(error.cause() for error in errors))


def bad_request(message: str) -> ApiError:
    """The request cannot be understood."""
    return ApiError(400, "BadRequest", message)


def expired(message: str) -> ApiError:
    """The resourceVersion or the continue token is too old."""
    return ApiError(410, "Expired", message)


def forbidden_request(group: str, plural: str, name: str, why: str) -> ApiError:
    """The caller may not do that."""
    what = f'{_of(group, plural)} "{name}"' if name else _of(group, plural)
    return ApiError(403, "Forbidden", f"{what} is forbidden: {why}", name, group, plural)


def unauthorized() -> ApiError:
    """Nobody we know."""
    return ApiError(401, "Unauthorized", "Unauthorized")


def method_not_allowed(plural: str, group: str, verb: str) -> ApiError:
    """The resource exists but has no such verb."""
    return ApiError(405, "MethodNotAllowed", f"{verb} is not supported on resources of kind \"{_of(group, plural)}\"",
                    group=group, kind=plural)


def too_many_requests(message: str, retry_after: int) -> ApiError:
    """Try again in `retry_after` seconds."""
    return ApiError(429, "TooManyRequests", message, retry_after=retry_after)


def timeout(message: str) -> ApiError:
    """The server gave up on the request."""
    return ApiError(504, "Timeout", message)


def unavailable(message: str) -> ApiError:
    """A part that is needed for this request is not there now."""
    return ApiError(503, "ServiceUnavailable", message)


def internal_error(message: str) -> ApiError:
    """A fault of ours."""
    return ApiError(500, "InternalError", f"Internal error occurred: {message}",
                    causes=(Cause("", message),))
