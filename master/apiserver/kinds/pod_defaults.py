"""What is filled into pods and pod templates: pkg/apis/core/v1/defaults.go upstream.

A template gets what every PodSpec gets; a pod itself gets a little more (requests from limits, host ports of the
host's network), so that the defaults of templates stay the user's own words where possible.
"""

from __future__ import annotations

from collections.abc import Iterator

from master.apiserver.kinds.common import Tree, child, drop_unset, items, part, set_default
from sampan.api.quantity import Quantity, to_milli

FILE_MODE = 0o644
DEFAULT_SCHEDULER = "default-scheduler"

_UNSET_IN_SPEC = ("hostNetwork", "hostPID", "hostIPC", "nodeName", "serviceAccountName", "serviceAccount", "hostname",
                  "subdomain", "priorityClassName", "volumes", "initContainers", "ephemeralContainers", "nodeSelector",
                  "tolerations", "hostAliases", "imagePullSecrets", "readinessGates", "topologySpreadConstraints",
                  "schedulingGates", "resourceClaims")
_UNSET_IN_CONTAINER = ("command", "args", "workingDir", "ports", "env", "envFrom", "volumeMounts", "volumeDevices",
                       "stdin", "stdinOnce", "tty", "resizePolicy", "targetContainerName")
_HANDLERS = ("livenessProbe", "readinessProbe", "startupProbe")


def default_pod(pod: Tree) -> None:
    """Fill in a pod."""
    spec = child(pod, "spec")
    default_spec(spec)
    for container in (*items(spec, "containers"), *items(spec, "initContainers")):
        resources = child(container, "resources")
        if limits := part(resources, "limits"):
            resources["requests"] = {**limits, **part(resources, "requests")}
        if spec.get("hostNetwork"):
            for port in items(container, "ports"):
                if port.get("containerPort"):
                    set_default(port, "hostPort", port["containerPort"])
    if "enableServiceLinks" not in spec:
        spec["enableServiceLinks"] = True
    _same_addresses(part(pod, "status"))


def _same_addresses(status: Tree) -> None:
    """Make podIP the first of podIPs; where they differ podIP counts, as older writers know only that."""
    address, several = status.get("podIP") or "", items(status, "podIPs")
    if address and (not several or several[0].get("ip") != address):
        status["podIPs"] = [{"ip": address}]
    elif several and not address:
        status["podIP"] = several[0].get("ip") or ""


def default_template(template: Tree) -> None:
    """Fill in a pod template."""
    child(template, "metadata")
    default_spec(child(template, "spec"))


def default_spec(spec: Tree) -> None:
    """Fill in a PodSpec, wherever it stands."""
    drop_unset(spec, _UNSET_IN_SPEC)
    set_default(spec, "dnsPolicy", "ClusterFirst")
    set_default(spec, "restartPolicy", "Always")
    child(spec, "securityContext")
    if "terminationGracePeriodSeconds" not in spec:
        spec["terminationGracePeriodSeconds"] = 30
    set_default(spec, "schedulerName", DEFAULT_SCHEDULER)
    if account := spec.get("serviceAccountName") or spec.get("serviceAccount"):
        spec["serviceAccountName"] = spec["serviceAccount"] = account  # the second is the first's old name
    for volume in items(spec, "volumes"):
        _default_volume(volume)
    for toleration in items(spec, "tolerations"):
        drop_unset(toleration, ("key", "operator", "value", "effect"))
    for container in containers(spec):
        _default_container(container)


def containers(spec: Tree) -> Iterator[Tree]:
    """All containers of a PodSpec: regular, init and ephemeral."""
    for key in ("containers", "initContainers", "ephemeralContainers"):
        yield from items(spec, key)


def image_tag(image: str) -> str:
    """The tag of an image's name: "latest" where it has neither tag nor digest, "" where it has only a digest."""
    if not image:
        return ""
    name, at, _digest = image.partition("@")
    _repository, colon, tag = name.rpartition("/")[2].partition(":")
    if colon:
        return tag
    return "" if at else "latest"


def round_up(amounts: Tree) -> None:
    """Resources are counted in thousandths at the finest; what is finer is rounded up."""
    for name, text in amounts.items():
        if isinstance(text, str) and text.endswith(("n", "u")):
            amounts[name] = str(Quantity.of_milli(to_milli(text)))


def _default_container(container: Tree) -> None:
    drop_unset(container, _UNSET_IN_CONTAINER)
    image = container.get("image") or ""
    set_default(container, "imagePullPolicy", "Always" if image_tag(image) == "latest" else "IfNotPresent")
    set_default(container, "terminationMessagePath", "/dev/termination-log")
    set_default(container, "terminationMessagePolicy", "File")
    for amounts in child(container, "resources").values():
        if isinstance(amounts, dict):
            round_up(amounts)
    for port in items(container, "ports"):
        drop_unset(port, ("name", "hostPort", "hostIP"))
        set_default(port, "protocol", "TCP")
    for variable in items(container, "env"):
        drop_unset(variable, ("value",))
        _default_source(part(variable, "valueFrom"))
    for source in items(container, "envFrom"):
        drop_unset(source, ("prefix",))
    for mount in items(container, "volumeMounts"):
        drop_unset(mount, ("readOnly", "subPath", "subPathExpr"))
    for key in _HANDLERS:
        if key in container:
            _default_probe(container[key])
    for hook in part(container, "lifecycle").values():
        _default_http(part(hook, "httpGet"))


def _default_probe(probe: Tree) -> None:
    drop_unset(probe, ("initialDelaySeconds",))
    set_default(probe, "timeoutSeconds", 1)
    set_default(probe, "periodSeconds", 10)
    set_default(probe, "successThreshold", 1)
    set_default(probe, "failureThreshold", 3)
    _default_http(part(probe, "httpGet"))
    if "grpc" in probe:
        probe["grpc"].setdefault("service", "")


def _default_http(action: Tree) -> None:
    if action:
        drop_unset(action, ("host", "httpHeaders"))
        set_default(action, "path", "/")
        set_default(action, "scheme", "HTTP")


def _default_source(source: Tree) -> None:
    if "fieldRef" in source:
        set_default(source["fieldRef"], "apiVersion", "v1")
    if "resourceFieldRef" in source:
        source["resourceFieldRef"].setdefault("divisor", "0")


_VOLUME_DEFAULTS: dict[str, dict[str, object]] = {
    "secret": {"defaultMode": FILE_MODE},
    "configMap": {"defaultMode": FILE_MODE},
    "downwardAPI": {"defaultMode": FILE_MODE},
    "projected": {"defaultMode": FILE_MODE},
    "hostPath": {"type": ""},
    "iscsi": {"iscsiInterface": "default"},
    "rbd": {"pool": "rbd", "user": "admin", "keyring": "/etc/ceph/keyring"},
    "azureDisk": {"cachingMode": "ReadWrite", "fsType": "ext4", "readOnly": False, "kind": "Shared"},
    "scaleIO": {"storageMode": "ThinProvisioned", "fsType": "xfs"},
}


def _default_volume(volume: Tree) -> None:
    if not any(key != "name" for key in volume):
        volume["emptyDir"] = {}
    for kind, defaults in _VOLUME_DEFAULTS.items():
        if kind in volume:
            for key, value in defaults.items():
                volume[kind].setdefault(key, value)
    if "emptyDir" in volume:
        drop_unset(volume["emptyDir"], ("medium",))
    if "image" in volume:
        latest = image_tag(volume["image"].get("reference") or "") == "latest"
        set_default(volume["image"], "pullPolicy", "Always" if latest else "IfNotPresent")
    if claim := part(part(volume, "ephemeral"), "volumeClaimTemplate"):
        set_default(child(claim, "spec"), "volumeMode", "Filesystem")
    for file in items(volume.get("downwardAPI"), "items"):
        _default_source(file)
    for source in items(volume.get("projected"), "sources"):
        for file in items(source.get("downwardAPI"), "items"):
            _default_source(file)
        if "serviceAccountToken" in source:
            source["serviceAccountToken"].setdefault("expirationSeconds", 3600)

