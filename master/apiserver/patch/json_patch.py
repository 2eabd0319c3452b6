"""JSON patch (RFC 6902)."""

from __future__ import annotations

from typing import Any, cast

import jsonpatch
import msgspec

from master.apiserver.patch.copying import copy_tree
from sampan.api.errors import ApiError, bad_request

Tree = dict[str, Any]

MAX_OPERATIONS = 10_000
MAX_COPIED = 3 * 1024 * 1024
"""Bytes that a patch's copy operations may make together: a list copied into itself doubles each time."""

_NAMES = ("add", "remove", "replace", "move", "copy", "test")


def apply_json_patch(tree: Tree, patch: Any) -> Tree:
    """The patched copy; `patch` is the parsed body, a list of operations. 400, 413 (too many operations) or 422."""
    if not isinstance(patch, list):
        raise bad_request("error decoding patch: a JSON patch is a list of operations")
    if len(patch) > MAX_OPERATIONS:
        raise ApiError(413, "RequestEntityTooLarge",
                       f"Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, "
                       f"got {len(patch)}")
    result: Any = copy_tree(tree)
    copied = 0
    for index, operation in enumerate(copy_tree(patch)):
        _check(operation, index)
        try:
            if operation["op"] == "copy":
                copied += len(msgspec.json.encode(jsonpatch.JsonPointer(operation["from"]).resolve(result)))
                if copied > MAX_COPIED:
                    raise _unapplicable(f"Unable to copy, the accumulated size increase of copy is {copied}, exceeding "
                                        f"the limit {MAX_COPIED}")
            result = jsonpatch.JsonPatch([operation]).apply(result, in_place=True)
        except jsonpatch.JsonPatchTestFailed as error:
            if operation["value"] is not None or not _is_absent(result, operation["path"]):
                raise _unapplicable(f"testing path {operation['path']} value failed") from error
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError, IndexError,
                ValueError) as error:
            raise _unapplicable(f"{operation['op']} operation does not apply: {_why(operation, error)}") from error
    if not isinstance(result, dict):
        raise _unapplicable("the patched document is no object")
    return cast("Tree", result)


def _is_absent(tree: Any, path: str) -> bool:
    """Whether a member is not there though its object is: such a one passes a test for null, as upstream has it."""
    try:
        parent, key = jsonpatch.JsonPointer(path).to_last(tree)
    except jsonpatch.JsonPointerException:
        return False
    return isinstance(parent, dict) and key not in parent


def _why(operation: Tree, error: Exception) -> str:
    """What is wrong, without the whole object, which the libraries quote: it may be a Secret."""
    if isinstance(error, jsonpatch.JsonPatchPathNotFound) or "not found in" in str(error):
        return f'doc is missing path: "{operation["from" if "from" in operation else "path"]}"'
    return str(error)[:200]


def _check(operation: Any, index: int) -> None:
    """Whether an operation has the form that RFC 6902, section 4 asks for."""
    if not isinstance(operation, dict):
        raise bad_request(f"error decoding patch: operation {index} is no object")
    if operation.get("op") not in _NAMES:
        raise bad_request(f"error decoding patch: operation {index} has an unknown op {operation.get('op')!r}")
    pointers = ("path", "from") if operation["op"] in ("move", "copy") else ("path",)
    for name in pointers:
        pointer = operation.get(name)
        if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
            raise bad_request(f"error decoding patch: operation {index} has no valid {name}")
    if operation["op"] in ("add", "replace", "test") and "value" not in operation:
        raise bad_request(f"error decoding patch: operation {index} has no value")


def _unapplicable(why: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {why}")
