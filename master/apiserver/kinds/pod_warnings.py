"""What a pod's author should know though it is no error (pkg/api/pod/warnings.go upstream)."""

from __future__ import annotations

from collections.abc import Sequence

from master.apiserver.kinds import checks
from master.apiserver.kinds.common import Tree, items, metadata, notes, part, spec

_OLD_LABELS = {
    "beta.kubernetes.io/arch": 'deprecated since v1.14; use "kubernetes.io/arch" instead',
    "beta.kubernetes.io/os": 'deprecated since v1.14; use "kubernetes.io/os" instead',
    "beta.kubernetes.io/instance-type": 'deprecated since v1.17; use "node.kubernetes.io/instance-type" instead',
    "failure-domain.beta.kubernetes.io/region": 'deprecated since v1.17; use "topology.kubernetes.io/region" instead',
    "failure-domain.beta.kubernetes.io/zone": 'deprecated since v1.17; use "topology.kubernetes.io/zone" instead',
}
_OLD_VOLUMES = {
    "gitRepo": "deprecated in v1.11",
    "glusterfs": "deprecated in v1.25, non-functional in v1.26+",
    "cephfs": "deprecated in v1.28, non-functional in v1.31+",
    "rbd": "deprecated in v1.28, non-functional in v1.31+",
    "photonPersistentDisk": "deprecated in v1.11, non-functional in v1.16+",
    "scaleIO": "deprecated in v1.16, non-functional in v1.22+",
    "flocker": "deprecated in v1.22, non-functional in v1.25+",
    "storageos": "deprecated in v1.22, non-functional in v1.25+",
    "quobyte": "deprecated in v1.22, non-functional in v1.25+",
}


def pod_warnings(obj: Tree) -> list[str]:
    """Warnings about a pod."""
    warnings = []
    name = metadata(obj).get("name") or ""
    if name and (wrong := checks.dns_label("", name)):
        reasons = ", ".join(error.text.partition(": ")[2].partition(": ")[2] for error in wrong)
        warnings.append("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; "
                        f"a DNS label is recommended: [{reasons}]")
    return warnings + spec_warnings(spec(obj), "spec", notes(obj), "metadata.annotations")


def template_warnings(template: Tree, path: str) -> list[str]:
    """Warnings about a pod template."""
    found = part(part(template, "metadata"), "annotations")
    return spec_warnings(part(template, "spec"), f"{path}.spec", found, f"{path}.metadata.annotations")


def spec_warnings(tree: Tree, path: str, found: Tree, notes_path: str) -> list[str]:
    """Warnings about a PodSpec."""
    warnings = [f"{path}.nodeSelector[{key}]: {text}" for key, text in _OLD_LABELS.items()
                if key in part(tree, "nodeSelector")]
    warnings += _duplicates(tree, "hostAliases", "ip", path)
    warnings += _duplicates(tree, "imagePullSecrets", "name", path)
    warnings += [f'{path}.imagePullSecrets[{index}].name: invalid empty name ""'
                 for index, secret in enumerate(items(tree, "imagePullSecrets")) if not secret.get("name")]
    for index, volume in enumerate(items(tree, "volumes")):
        warnings += [f"{path}.volumes[{index}].{kind}: {text}" for kind, text in _OLD_VOLUMES.items() if kind in volume]
        limit = part(volume, "emptyDir").get("sizeLimit")
        if limit is not None and checks.amount(limit) % 1000:
            warnings.append(f"{path}.volumes[{index}].emptyDir.sizeLimit: fractional byte value \"{limit}\" is "
                            "invalid, must be an integer")
    for key in ("initContainers", "containers"):
        for index, container in enumerate(items(tree, key)):
            warnings += _container(container, f"{path}.{key}[{index}]")
    grace = tree.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 0:
        warnings.append(f"{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be "
                        "treated as 1")
    if "seccomp.security.alpha.kubernetes.io/pod" in found:
        warnings.append(f"{notes_path}[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "
                        '"seccompProfile" field instead')
    return warnings


def _duplicates(tree: Tree, key: str, member: str, path: str) -> list[str]:
    seen: set[str] = set()
    warnings = []
    for index, entry in enumerate(items(tree, key)):
        value = entry.get(member) or ""
        if value and value in seen:
            warnings.append(f'{path}.{key}[{index}].{member}: duplicate {member} "{value}"')
        seen.add(value)
    return warnings


def _container(container: Tree, path: str) -> list[str]:
    warnings = []
    names: set[str] = set()
    for index, variable in enumerate(items(container, "env")):
        name = variable.get("name") or ""
        if name in names:
            warnings.append(f'{path}.env[{index}]: hides previous definition of "{name}", which may be dropped when '
                            "using apply")
        names.add(name)
    for kind in ("limits", "requests"):
        for name in ("memory", "ephemeral-storage"):
            text = part(part(container, "resources"), kind).get(name)
            if text is not None and checks.amount(text) % 1000:
                warnings.append(f"{path}.resources.{kind}[{name}]: fractional byte value \"{text}\" is invalid, must "
                                "be an integer")
    return warnings + _ports(items(container, "ports"), path)


def _ports(ports: Sequence[Tree], path: str) -> list[str]:
    seen: dict[tuple[object, ...], int] = {}
    warnings = []
    for index, port in enumerate(ports):
        key = tuple(port.get(name) for name in ("protocol", "containerPort", "hostPort", "hostIP"))
        if key in seen:
            warnings.append(f"{path}.ports[{index}]: duplicate port definition with {path}.ports[{seen[key]}]")
        seen.setdefault(key, index)
    return warnings
