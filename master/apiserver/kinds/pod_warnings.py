"""What a pod's author should know though it is no error (pkg/api/pod/warnings.go upstream)."""

from __future__ import annotations

from master.apiserver.kinds import checks
from master.apiserver.kinds.common import Tree, items, metadata, notes, part, spec
from sampan.api import names

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


_OLD_NOTES = {
    "scheduler.alpha.kubernetes.io/critical-pod": 'non-functional in v1.16+; use the "priorityClassName" field instead',
    "security.alpha.kubernetes.io/sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
    "security.alpha.kubernetes.io/unsafe-sysctls": 'non-functional in v1.11+; use the "sysctls" field instead',
}
_SECCOMP = 'non-functional in v1.27+; use the "seccompProfile" field instead'
_POD_SECCOMP = "seccomp.security.alpha.kubernetes.io/pod"
_CONTAINER_SECCOMP = "container.seccomp.security.alpha.kubernetes.io/"
_MATCHES_NOTHING = "a null labelSelector results in matching no pod"
MAX_PORTS = 500
"""Ports that are compared, each with each: with tens of thousands that would hold up every other request."""
_REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED = "preferredDuringSchedulingIgnoredDuringExecution"


def pod_warnings(obj: Tree) -> list[str]:
    """Warnings about a pod."""
    warnings = []
    name = metadata(obj).get("name") or ""
    if name and (wrong := names.dns_label(name)):
        warnings.append("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; "
                        f"a DNS label is recommended: [{' '.join(wrong)}]")
    return warnings + spec_warnings(spec(obj), "spec", notes(obj), "metadata.annotations")


def template_warnings(template: Tree, path: str) -> list[str]:
    """Warnings about a pod template."""
    found = part(part(template, "metadata"), "annotations")
    return spec_warnings(part(template, "spec"), f"{path}.spec", found, f"{path}.metadata.annotations")


def spec_warnings(tree: Tree, path: str, found: Tree, notes_path: str) -> list[str]:
    """Warnings about a PodSpec."""
    warnings = _placing(tree, path)
    warnings += [f"{notes_path}[{key}]: {text}" for key, text in _OLD_NOTES.items() if key in found]
    for index, volume in enumerate(items(tree, "volumes")):
        warnings += [f"{path}.volumes[{index}].{kind}: {text}" for kind, text in _OLD_VOLUMES.items() if kind in volume]
    warnings += _duplicates(tree, "hostAliases", "ip", path)
    warnings += _duplicates(tree, "imagePullSecrets", "name", path)
    warnings += [f'{path}.imagePullSecrets[{index}].name: invalid empty name ""'
                 for index, secret in enumerate(items(tree, "imagePullSecrets")) if not secret.get("name")]
    warnings += _fractions(part(tree, "overhead"), f"{path}.overhead")
    if _POD_SECCOMP in found and "seccompProfile" not in part(tree, "securityContext"):
        warnings.append(f"{notes_path}[{_POD_SECCOMP}]: {_SECCOMP}")
    ports: list[tuple[str, Tree]] = []
    for key in ("initContainers", "containers"):
        for index, container in enumerate(items(tree, key)):
            at = f"{path}.{key}[{index}]"
            note = _CONTAINER_SECCOMP + (container.get("name") or "")
            if note in found and "seccompProfile" not in part(container, "securityContext"):
                warnings.append(f"{notes_path}[{note}]: {_SECCOMP}")
            warnings += _container(container, at)
            ports += [(f"{at}.ports[{number}]", port) for number, port in enumerate(items(container, "ports"))]
    warnings += _ports(ports)
    grace = tree.get("terminationGracePeriodSeconds")
    if grace is not None and grace < 0:
        warnings.append(f"{path}.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be "
                        "treated as 1")
    return warnings + _selectors(part(tree, "affinity"), f"{path}.affinity")


def _placing(tree: Tree, path: str) -> list[str]:
    """Old names of nodes' labels, and constraints that count no pod."""
    warnings = [f"{path}.nodeSelector[{key}]: {text}" for key, text in _OLD_LABELS.items()
                if key in part(tree, "nodeSelector")]
    affinity, at = part(part(tree, "affinity"), "nodeAffinity"), f"{path}.affinity.nodeAffinity"
    terms = [(f"{at}.{_REQUIRED}.nodeSelectorTerms[{index}]", term)
             for index, term in enumerate(items(part(affinity, _REQUIRED), "nodeSelectorTerms"))]
    terms += [(f"{at}.{_PREFERRED}[{index}].preference", part(term, "preference"))
              for index, term in enumerate(items(affinity, _PREFERRED))]
    warnings += [f"{where}.matchExpressions[{index}].key: {entry['key']} is {_OLD_LABELS[entry['key']]}"
                 for where, term in terms for index, entry in enumerate(items(term, "matchExpressions"))
                 if entry.get("key") in _OLD_LABELS]
    for index, constraint in enumerate(items(tree, "topologySpreadConstraints")):
        here, key = f"{path}.topologySpreadConstraints[{index}]", constraint.get("topologyKey")
        if key in _OLD_LABELS:
            warnings.append(f"{here}.topologyKey: {key} is {_OLD_LABELS[key]}")
        if "labelSelector" not in constraint:
            warnings.append(f"{here}.labelSelector: {_MATCHES_NOTHING}")
    return warnings


def _selectors(affinity: Tree, path: str) -> list[str]:
    """Terms of affinity to pods that no pod fulfils."""
    terms = [(f"{path}.{kind}.{_REQUIRED}[{index}]", term) for kind in ("podAffinity", "podAntiAffinity")
             for index, term in enumerate(items(part(affinity, kind), _REQUIRED))]
    terms += [(f"{path}.{kind}.{_PREFERRED}[{index}].podAffinityTerm", part(term, "podAffinityTerm"))
              for kind in ("podAffinity", "podAntiAffinity")
              for index, term in enumerate(items(part(affinity, kind), _PREFERRED))]
    return [f"{at}.labelSelector: {_MATCHES_NOTHING}" for at, term in terms if "labelSelector" not in term]


def _duplicates(tree: Tree, key: str, member: str, path: str) -> list[str]:
    seen: set[str] = set()
    warnings = []
    for index, entry in enumerate(items(tree, key)):
        value = entry.get(member) or ""
        if value in seen:
            warnings.append(f'{path}.{key}[{index}].{member}: duplicate {member} "{value}"')
        seen.add(value)
    return warnings


def _fractions(amounts: Tree, path: str) -> list[str]:
    """Bytes are whole."""
    return [f'{path}[{name}]: fractional byte value "{amounts[name]}" is invalid, must be an integer'
            for name in ("memory", "ephemeral-storage")
            if name in amounts and checks.amount(amounts[name]) % 1000]


def _container(container: Tree, path: str) -> list[str]:
    resources = part(container, "resources")
    warnings = [text for kind in ("limits", "requests")
                for text in _fractions(part(resources, kind), f"{path}.resources.{kind}")]
    seen: set[str] = set()
    for index, variable in enumerate(items(container, "env")):
        name, value = variable.get("name") or "", variable.get("value") or ""
        reference = f"$({name})"
        # A value that contains the former one is meant so: PATH=/opt/bin:$(PATH).
        if name in seen and ("valueFrom" in variable or value == reference or reference not in value):
            warnings.append(f'{path}.env[{index}]: hides previous definition of "{name}", which may be dropped when '
                            "using apply")
        seen.add(name)
    return warnings


def _ports(ports: list[tuple[str, Tree]]) -> list[str]:
    """Ports that clash with one another, in one container or in several: they share one network."""
    warnings = []
    for index, (path, port) in enumerate(ports[:MAX_PORTS]):
        protocol, address, host = port.get("protocol"), port.get("hostIP") or "", port.get("hostPort") or 0
        if address and not host:
            warnings.append(f"{path}: hostIP set without hostPort: {{Name:{port.get('name') or ''} HostPort:0 "
                            f"ContainerPort:{port.get('containerPort')} Protocol:{protocol} HostIP:{address}}}")
        for earlier, other in ports[:index]:
            if (other.get("protocol"), other.get("containerPort")) != (protocol, port.get("containerPort")):
                continue
            its_address, its_host = other.get("hostIP") or "", other.get("hostPort") or 0
            if (its_address, its_host) == (address, host):
                warnings.append(f"{path}: duplicate port definition with {earlier}")
            elif not host or not its_host:
                warnings.append(f"{path}: overlapping port definition with {earlier}")
            elif host == its_host and bool(address) != bool(its_address):
                warnings.append(f"{path}: dangerously ambiguous port definition with {earlier}")
    return warnings
