"""What a list is asked for: which revision, and where to go on.

After the API concepts' table for resourceVersion and resourceVersionMatch; texts are kube-apiserver's.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass

import msgspec

from sampan.api.errors import (
    ApiError,
    Cause,
    FieldError,
    bad_request,
    expired,
    forbidden,
    invalid_object,
    not_supported,
)

TOKEN_VERSION = "meta.k8s.io/v1"  # noqa: S105 - the format of continue tokens, which are no secrets
LATEST = -1  # a continue token with this revision goes on with whatever is there by then

_EXPIRED = "The provided continue parameter is too old to display a consistent list result. "
_GO_ON = (
    _EXPIRED + "You can start a new list without the continue parameter, or use the continue token in this response "
    "to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - "
    "objects that were created, modified, or deleted between the time the first chunk was returned and now may show "
    "up in the list.")


class _Token(msgspec.Struct):
    v: str = ""
    rv: int = 0
    start: str = ""


@dataclass(frozen=True, slots=True)
class ListPlan:
    """Which state to show: at exactly `exact` if that is not 0, else one not older than `at_least`.

    `at_least` None means as new as the store. The page begins at the key `start`, relative to the list's prefix.
    """

    exact: int = 0
    at_least: int | None = None
    start: str = ""
    continued: bool = False


def plan_list(revision: str, match: str, limit: int, continue_token: str) -> ListPlan:
    """Read a list's parameters; ApiError 400 or 422."""
    errors = _check_match(revision, match, continue_token)
    if errors:
        raise invalid_object("meta.k8s.io", "ListOptions", "", errors)
    if continue_token:
        if revision not in ("", "0"):
            raise bad_request("specifying resource version is not allowed when using continue")
        start, at = decode_token(continue_token)
        return ListPlan(start=start, continued=True) if at == LATEST else ListPlan(at, None, start, continued=True)
    if not revision:
        return ListPlan()
    number = parse_revision(revision)
    if match == "Exact" or (not match and limit and number):
        return ListPlan(exact=number)
    return ListPlan(at_least=number)


def _check_match(revision: str, match: str, continue_token: str) -> list[FieldError]:
    if not match:
        return []
    path = "resourceVersionMatch"
    errors = []
    if not revision:
        errors.append(forbidden(path, f"{path} is forbidden unless resourceVersion is provided"))
    if continue_token:
        errors.append(forbidden(path, f"{path} is forbidden when continue is provided"))
    if match not in ("Exact", "NotOlderThan"):
        errors.append(not_supported(path, match, ("Exact", "NotOlderThan", "")))
    if match == "Exact" and revision == "0":
        errors.append(forbidden(path, f'{path} "exact" is forbidden for resourceVersion "0"'))
    return errors


def parse_revision(text: str) -> int:
    """A resourceVersion as a number, 0 for ""; ApiError 400."""
    if not text:
        return 0
    known = text.isascii() and text.isdigit()
    digits = text.lstrip("0") or "0"  # measured before it is read: Python refuses to read thousands of them
    if not known or len(digits) > 20 or int(digits) >= 1 << 64:
        problem = "value out of range" if known else "invalid syntax"
        raise bad_request(f'invalid resource version: resourceVersion: Invalid value: "{text}": '
                          f'strconv.ParseUint: parsing "{text}": {problem}')
    return int(digits)


def encode_token(last: str, revision: int) -> str:
    """The token of a page that comes after the key `last`, relative to the list's prefix."""
    return _encode(last + "\0", revision)


def _encode(start: str, revision: int) -> str:
    data = msgspec.json.encode(_Token(TOKEN_VERSION, revision, start))
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode_token(token: str) -> tuple[str, int]:
    """Where the page begins, and at which revision; ApiError 400."""
    refusal = "invalid continue token: continue key is not valid"
    try:
        data = base64.b64decode(token.encode() + b"=" * (-len(token) % 4), altchars=b"-_", validate=True)
        read = msgspec.json.decode(data, type=_Token)
    except (binascii.Error, UnicodeError, msgspec.DecodeError) as error:
        raise bad_request(f"{refusal}: {error}") from error
    if read.v != TOKEN_VERSION:
        raise bad_request(f"{refusal}: server does not recognize this encoded version {read.v}")
    if read.rv == 0 or read.rv < LATEST:
        raise bad_request(f"{refusal}: incorrect encoded start resourceVersion (version {TOKEN_VERSION})")
    if not read.start:
        raise bad_request(f"{refusal}: encoded start key empty (version {TOKEN_VERSION})")
    return read.start, read.rv


def too_old(plan: ListPlan) -> ApiError:
    """The revision that the list asks for has been forgotten; a continued list gets a token to go on with."""
    if not plan.continued:
        return expired("The resourceVersion for the provided list is too old.")
    error = expired(_GO_ON)
    error.continue_token = _encode(plan.start, LATEST)
    return error


def too_large(revision: int, current: int) -> ApiError:
    """The revision has not been reached yet, and waiting for it did not help."""
    text = "Too large resource version"
    return ApiError(504, "Timeout", f"Timeout: {text}: {revision}, current: {current}", retry_after=1,
                    causes=(Cause("ResourceVersionTooLarge", text),))
