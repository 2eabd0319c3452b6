"""How the schema's findings are told to the client."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sampan.api.errors import ApiError, FieldError, bad_request


def cannot_handle(version: str, kind: str, why: str) -> ApiError:
    """400: the body does not fit the kind's Go type; `version` without the group, as upstream writes it."""
    return bad_request(f'{kind} in version "{version}" cannot be handled as a {kind}: {why}')


def strict_problems(unknown: Iterable[str], duplicates: Iterable[str]) -> list[str]:
    """One text per finding, as Warning headers carry them. `duplicates` may be whole texts (YAML has its own).

    An unknown field that stands there twice is told once.
    """
    paths = list(dict.fromkeys(unknown))
    twice = [path for path in dict.fromkeys(duplicates)
             if not any(path == known or path.startswith((known + ".", known + "[")) for known in paths)]
    return [f'unknown field "{path}"' for path in paths] + [
        path if path.startswith("yaml: ") else f'duplicate field "{path}"' for path in twice]


def strict_error(version: str, kind: str, problems: Sequence[str]) -> ApiError:
    """400 for fieldValidation=Strict; `problems` come from `strict_problems` and there is at least one."""
    return cannot_handle(version, kind, "strict decoding error: " + ", ".join(problems))


def join_errors(strategy: Sequence[FieldError], schema: Sequence[FieldError]) -> list[FieldError]:
    """The schema's findings first, but where the kind's own validation speaks of the same field, its word counts."""
    told = {error.path for error in strategy}
    return [error for error in schema if error.path not in told] + list(strategy)
