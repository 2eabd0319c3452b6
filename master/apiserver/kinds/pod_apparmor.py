"""AppArmor profiles asked for by annotation, as before there was a field for it (KEP-24): they must not be passed over.

Source: applyAppArmorVersionSkew in pkg/registry/core/pod, and pkg/apis/core/validation.
"""

from __future__ import annotations

from collections.abc import Iterator

from master.apiserver.kinds.common import Errors, Tree, child, items, notes, part, same, spec
from sampan.api.errors import forbidden, invalid

PREFIX = "container.apparmor.security.beta.kubernetes.io/"
_LOCAL = "localhost/"
_PLAIN = {"runtime/default": "RuntimeDefault", "unconfined": "Unconfined"}


def adopt(pod: Tree) -> None:
    """Write a new pod's annotations into the fields that they stand for, where those say nothing; in place."""
    for _, container in _containers(spec(pod)):
        profile = _profile(notes(pod).get(PREFIX + (container.get("name") or "")) or "")
        context = part(container, "securityContext")
        if profile and "appArmorProfile" not in context and not same(
                profile, part(spec(pod), "securityContext").get("appArmorProfile")):
            child(container, "securityContext")["appArmorProfile"] = profile


def wrong_annotations(found: Tree, tree: Tree, path: str) -> Errors:
    """Each must be about a container of the pod, and name a profile."""
    names = {container.get("name") for _, container in _containers(tree)}
    errors: Errors = []
    for key in sorted(found):
        if key.startswith(PREFIX):
            if key[len(PREFIX):] not in names:
                errors.append(invalid(f"{path}[{key}]", key[len(PREFIX):], "container not found"))
            if found[key] and found[key] not in _PLAIN and not found[key].startswith(_LOCAL):
                errors.append(invalid(f"{path}[{key}]", found[key], f'invalid AppArmor profile name: "{found[key]}"'))
    return errors


def contradictions(found: Tree, tree: Tree, path: str) -> Errors:
    """Annotations that say something else than the fields."""
    errors: Errors = []
    for at, container in _containers(tree):
        key = PREFIX + (container.get("name") or "")
        field = (part(container, "securityContext").get("appArmorProfile")
                 or part(tree, "securityContext").get("appArmorProfile"))
        if field is None or key not in found:
            continue
        asked, where = _profile(found[key]) or {}, f"{path}.{at}.securityContext.appArmorProfile"
        local = found[key].startswith(_LOCAL)
        if (asked.get("type") or ("Localhost" if local else "")) != field.get("type"):
            errors.append(forbidden(f"{where}.type", "apparmor type in annotation and field must match"))
        elif local and asked.get("localhostProfile") != field.get("localhostProfile"):
            errors.append(forbidden(f"{where}.localhostProfile",
                                    "apparmor profile in annotation and field must match"))
    return errors


def _containers(tree: Tree) -> Iterator[tuple[str, Tree]]:
    """The containers of a PodSpec with their places in it."""
    for kind in ("initContainers", "containers", "ephemeralContainers"):
        for index, container in enumerate(items(tree, kind)):
            yield f"{kind}[{index}]", container


def _profile(annotation: str) -> Tree | None:
    """The field that an annotation stands for, None where it stands for none."""
    if annotation in _PLAIN:
        return {"type": _PLAIN[annotation]}
    name = annotation.removeprefix(_LOCAL)
    if name == annotation or not name or name != name.strip():
        return None
    return {"type": "Localhost", "localhostProfile": name}
