"""JSON patch (RFC 6902), with indexes below zero, which count from a list's end, as upstream's library has them."""

from __future__ import annotations

import re
from typing import Any, cast

import jsonpatch
import msgspec

from master.apiserver.patch.copying import copy_tree
from sampan.api.errors import ApiError, bad_request

Tree = dict[str, Any]

MAX_OPERATIONS = 10_000
MAX_COPIED = 3 * 1024 * 1024
"""Bytes that a patch's copy operations may make together: a list copied into itself doubles each time."""

_FROM_THE_END = re.compile(r"-[1-9][0-9]{0,6}")
_NAMES = ("add", "remove", "replace", "move", "copy", "test")


def apply_json_patch(tree: Tree, patch: Any) -> Tree:
    """The patched copy; `patch` is the parsed body, a list of operations. 400, 413 (too many operations) or 422."""
    if not isinstance(patch, list):
        raise bad_request(f"error decoding patch: json: cannot unmarshal {_json_kind(patch)} into Go value of type "
                          "[]interface {}")
    if len(patch) > MAX_OPERATIONS:
        raise ApiError(413, "RequestEntityTooLarge",
                       f"Request entity too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, "
                       f"got {len(patch)}")
    result: Any = copy_tree(tree)
    copied = 0
    for index, operation in enumerate(copy_tree(patch)):
        _check(operation, index)
        try:
            if operation["op"] in ("move", "copy"):
                operation["from"] = _from_the_front(operation["from"], result)
            if operation["op"] == "copy":
                copied += len(msgspec.json.encode(jsonpatch.JsonPointer(operation["from"]).resolve(result)))
                if copied > MAX_COPIED:
                    raise _unapplicable(f"Unable to copy, the accumulated size increase of copy is {copied}, exceeding "
                                        f"the limit {MAX_COPIED}")
            result = _applied(result, operation)
        except jsonpatch.JsonPatchTestFailed as error:
            if operation["value"] is not None or not _is_absent(
                    result, _from_the_front(operation["path"], result)):
                raise _unapplicable(f"testing value {operation['path']} failed: test failed") from error
        except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError, KeyError, IndexError,
                ValueError) as error:
            raise _unapplicable(f"{operation['op']} operation does not apply: {_why(operation, error)}") from error
    if not isinstance(result, dict):
        raise _unapplicable("the patched document is no object")
    return cast("Tree", result)


def _applied(tree: Any, operation: Tree) -> Any:
    if operation["op"] == "move":  # its target's indexes count once the value is gone from where it was
        value = jsonpatch.JsonPointer(operation["from"]).resolve(tree)
        tree = jsonpatch.JsonPatch([{"op": "remove", "path": operation["from"]}]).apply(tree, in_place=True)
        operation = {"op": "add", "path": operation["path"], "value": value}
    path = _from_the_front(operation["path"], tree, grows=operation["op"] in ("add", "copy"))
    return jsonpatch.JsonPatch([{**operation, "path": path}]).apply(tree, in_place=True)


def _from_the_front(pointer: str, tree: Any, *, grows: bool = False) -> str:
    """The pointer with indexes below zero as plain ones; where its list `grows`, -1 is the place after the last item.

    IndexError for one before the first item.
    """
    parts = pointer.split("/")
    for number in range(1, len(parts)):
        if isinstance(tree, list) and _FROM_THE_END.fullmatch(parts[number]):
            index = int(parts[number]) + len(tree) + (grows and number == len(parts) - 1)
            if index < 0:
                raise IndexError(f"Unable to access invalid index: {parts[number]}")
            parts[number] = str(index)
        tree = _child(tree, parts[number])  # None where there is none: what is wrong, the pointer's use will tell
    return "/".join(parts)


def _child(tree: Any, part: str) -> Any:
    if isinstance(tree, dict):
        return tree.get(part.replace("~1", "/").replace("~0", "~"))
    if isinstance(tree, list) and re.fullmatch("[0-9]{1,7}", part) and int(part) < len(tree):
        return tree[int(part)]
    return None


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
        return f'doc is missing path: "{operation["from" if "from" in operation else "path"]}": missing value'
    return str(error)[:200]


def _check(operation: Any, index: int) -> None:
    """Whether an operation has the form that RFC 6902, section 4 asks for."""
    if not isinstance(operation, dict):
        raise bad_request(f"json: cannot unmarshal {_json_kind(operation)} into Go value of type jsonpatch.Operation")
    op = operation.get("op", "unknown")
    if op not in _NAMES:
        raise _unapplicable(f"Unexpected kind: {op}")
    for name in ("from", "path") if op in ("move", "copy") else ("path",):
        pointer = operation.get(name)
        if not isinstance(pointer, str):
            raise _unapplicable(f"{op} operation failed to decode {name}: operation {index} is missing {name} field")
        if pointer and not pointer.startswith("/"):
            raise _unapplicable(f'{op} operation does not apply: doc is missing {name}: "{pointer}": missing value')
    if op in ("add", "replace", "test") and "value" not in operation:
        raise _unapplicable(f"{op} operation failed: operation {index} is missing value field")


def _json_kind(value: Any) -> str:
    """A value's type as Go's decoder names it."""
    kinds = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}
    return kinds.get(type(value), "null")


def _unapplicable(why: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {why}")
