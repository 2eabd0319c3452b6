"""Checks of a pod's volumes and of how containers mount them (pkg/apis/core/validation upstream)."""

from __future__ import annotations

from collections.abc import Callable

from master.apiserver.kinds import checks
from master.apiserver.kinds.common import Errors, Tree, items, part
from sampan.api.errors import duplicate, forbidden, invalid, not_found_field, not_supported, required

BAD_MODE = "must be a number between 0 and 0777 (octal), both inclusive"
MAX_MODE = 0o777
HOST_PATH_TYPES = ("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket")
MIN_TOKEN_SECONDS = 600

FIELDS_IN_FILES = ("metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid")
FIELDS_IN_ENV = ("metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName",
                 "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs")
RESOURCE_FIELDS = ("limits.cpu", "limits.ephemeral-storage", "limits.memory",
                   "requests.cpu", "requests.ephemeral-storage", "requests.memory")
_HUGE_PAGES = ("limits.hugepages-", "requests.hugepages-")
_BYTE_DIVISORS = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")
_DIVISORS = {"cpu": (("1m", "1"), "cpu"), "memory": (_BYTE_DIVISORS, "memory"),
             "ephemeral-storage": (_BYTE_DIVISORS, "local ephemeral storage")}


def volumes(spec: Tree, path: str) -> tuple[dict[str, Tree], Errors]:
    """The pod's good volumes by name, and what is wrong with the others."""
    errors: Errors = []
    good: dict[str, Tree] = {}
    for index, volume in enumerate(items(spec, "volumes")):
        at = f"{path}[{index}]"
        name = volume.get("name") or ""
        found = _source(volume, at)
        found += checks.dns_label(f"{at}.name", name) if name else [required(f"{at}.name")]
        if name in good:
            found.append(duplicate(f"{at}.name", name))
        if found:
            errors += found
        else:
            good[name] = volume
    return good, errors


def _source(volume: Tree, path: str) -> Errors:
    """What is wrong with the volume's kind; the first is checked, more than one are refused."""
    errors: Errors = []
    kinds = [kind for kind in _ORDER if kind in volume]
    for kind in kinds[:1]:
        check = _CHECKS.get(kind)
        errors += check(volume[kind], f"{path}.{kind}") if check else []
    errors += [forbidden(f"{path}.{kind}", "may not specify more than 1 volume type") for kind in kinds[1:]]
    if not kinds:
        errors.append(required(path, "must specify a volume type"))
    return errors


def _empty_dir(source: Tree, path: str) -> Errors:
    limit = source.get("sizeLimit")
    if limit is not None and checks.amount(limit) < 0:
        return [forbidden(f"{path}.sizeLimit", "SizeLimit field must be a valid resource quantity")]
    return []


def _host_path(source: Tree, path: str) -> Errors:
    if not source.get("path"):
        return [required(f"{path}.path")]
    errors = checks.no_backsteps(f"{path}.path", source["path"])
    if source.get("type", "") not in HOST_PATH_TYPES:
        errors.append(not_supported(f"{path}.type", source["type"], HOST_PATH_TYPES))
    return errors


def _mode(source: Tree, key: str, path: str) -> Errors:
    mode = source.get(key)
    return [] if mode is None or 0 <= mode <= MAX_MODE else [invalid(f"{path}.{key}", mode, BAD_MODE)]


def _keys(source: Tree, path: str) -> Errors:
    errors: Errors = []
    for index, item in enumerate(items(source, "items")):
        at = f"{path}.items[{index}]"
        errors += [required(f"{at}.{key}") for key in ("key", "path") if not item.get(key)]
        errors += checks.local_path(f"{at}.path", item.get("path") or "")
        errors += _mode(item, "mode", at)
    return errors


def _secret(source: Tree, path: str) -> Errors:
    missing = [] if source.get("secretName") else [required(f"{path}.secretName")]
    return missing + _mode(source, "defaultMode", path) + _keys(source, path)


def _config_map(source: Tree, path: str) -> Errors:
    missing = [] if source.get("name") else [required(f"{path}.name")]
    return missing + _mode(source, "defaultMode", path) + _keys(source, path)


def _downward(source: Tree, path: str) -> Errors:
    errors = _mode(source, "defaultMode", path)
    for file in items(source, "items"):
        errors += _downward_file(file, path)
    return errors


def _downward_file(file: Tree, path: str) -> Errors:
    errors = [] if file.get("path") else [required(f"{path}.path")]
    errors += checks.local_path(f"{path}.path", file.get("path") or "")
    if "fieldRef" in file:
        errors += field_ref(file["fieldRef"], f"{path}.fieldRef", FIELDS_IN_FILES)
        if "resourceFieldRef" in file:
            errors.append(invalid(path, "resource",
                                  "fieldRef and resourceFieldRef can not be specified simultaneously"))
    elif "resourceFieldRef" in file:
        errors += resource_ref(file["resourceFieldRef"], f"{path}.resourceFieldRef", in_file=True)
    else:
        errors.append(required(path, "one of fieldRef and resourceFieldRef is required"))
    return errors + _mode(file, "mode", path)


def _projected(source: Tree, path: str) -> Errors:
    errors = _mode(source, "defaultMode", path)
    taken: set[str] = set()

    def take(file: str, shown: str) -> None:
        if file in taken:
            errors.append(invalid(path, shown, "conflicting duplicate paths"))
        elif file:
            taken.add(file)

    for index, entry in enumerate(items(source, "sources")):
        at = f"{path}.sources[{index}]"
        for kind in ("secret", "configMap"):
            if kind in entry:
                name = entry[kind].get("name") or ""
                errors += [] if name else [required(f"{at}.{kind}.name")]
                errors += _keys(entry[kind], f"{at}.{kind}")
                for item in items(entry[kind], "items"):
                    take(item.get("path") or "", name)
        for file in items(entry.get("downwardAPI"), "items"):
            errors += _downward_file(file, f"{at}.downwardAPI")
            take(file.get("path") or "", file.get("path") or "")
        if "serviceAccountToken" in entry:
            errors += _token(entry["serviceAccountToken"], f"{at}.serviceAccountToken", path)
        if len(entry) > 1:
            errors.append(forbidden(at, "may not specify more than 1 volume type per source"))
    return errors


def _token(source: Tree, path: str, volume_path: str) -> Errors:
    errors: Errors = []
    seconds = source.get("expirationSeconds", 0)
    if seconds < MIN_TOKEN_SECONDS:
        errors.append(invalid(f"{path}.expirationSeconds", seconds, "may not specify a duration less than 10 minutes"))
    if seconds > 1 << 32:
        errors.append(invalid(f"{path}.expirationSeconds", seconds,
                              "may not specify a duration larger than 2^32 seconds"))
    if not source.get("path"):
        return [*errors, required(f"{volume_path}.path")]
    return errors + checks.local_path(f"{volume_path}.path", source["path"])


def _needs(*keys: str) -> Callable[[Tree, str], Errors]:
    """A check that members are there: all that we ask of volumes which other systems provide."""
    def check(source: Tree, path: str) -> Errors:
        return [required(f"{path}.{key}") for key in keys if not source.get(key)]
    return check


def _nfs(source: Tree, path: str) -> Errors:
    errors = _needs("server", "path")(source, path)
    if not (source.get("path") or "").startswith("/"):
        errors.append(invalid(f"{path}.path", source.get("path") or "", "must be an absolute path"))
    return errors


def _git(source: Tree, path: str) -> Errors:
    errors = _needs("repository")(source, path)
    return errors + checks.descending_path(f"{path}.directory", source.get("directory") or "")


_CHECKS: dict[str, Callable[[Tree, str], Errors]] = {
    "emptyDir": _empty_dir, "hostPath": _host_path, "gitRepo": _git, "gcePersistentDisk": _needs("pdName"),
    "awsElasticBlockStore": _needs("volumeID"), "secret": _secret, "nfs": _nfs,
    "iscsi": _needs("targetPortal", "iqn"), "glusterfs": _needs("endpoints", "path"),
    "persistentVolumeClaim": _needs("claimName"), "rbd": _needs("monitors", "image"), "cinder": _needs("volumeID"),
    "cephfs": _needs("monitors"), "quobyte": _needs("registry", "volume"), "downwardAPI": _downward,
    "flexVolume": _needs("driver"), "configMap": _config_map, "azureFile": _needs("secretName", "shareName"),
    "vsphereVolume": _needs("volumePath"), "photonPersistentDisk": _needs("pdID"),
    "azureDisk": _needs("diskName", "diskURI"), "portworxVolume": _needs("volumeID"), "projected": _projected,
    "scaleIO": _needs("gateway", "system", "secretRef", "volumeName"), "csi": _needs("driver"),
    "ephemeral": _needs("volumeClaimTemplate"), "image": _needs("reference"),
}
_ORDER = ("emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs", "iscsi",
          "glusterfs", "flocker", "persistentVolumeClaim", "rbd", "cinder", "cephfs", "quobyte", "downwardAPI", "fc",
          "flexVolume", "configMap", "azureFile", "vsphereVolume", "photonPersistentDisk", "portworxVolume",
          "azureDisk", "storageos", "projected", "scaleIO", "csi", "ephemeral", "image")


def field_ref(ref: Tree, path: str, known: tuple[str, ...]) -> Errors:
    """A reference to a field of the pod; labels and annotations may be asked for one by one."""
    if not ref.get("apiVersion"):
        return [required(f"{path}.apiVersion")]
    field = ref.get("fieldPath") or ""
    if not field:
        return [required(f"{path}.fieldPath")]
    base, bracket, rest = field.partition("['")
    if bracket and rest.endswith("']"):
        key = rest[:-2]
        if base == "metadata.annotations":
            return checks.qualified_name(path, key.lower())
        if base == "metadata.labels":
            return checks.qualified_name(path, key)
        return [invalid(f"{path}.fieldPath", field,
                        f"error converting fieldPath: field label does not support subscript: {field}")]
    if field not in (*FIELDS_IN_ENV, *FIELDS_IN_FILES, "spec.restartPolicy", "spec.schedulerName", "status.phase"):
        return [invalid(f"{path}.fieldPath", field,
                        f'error converting fieldPath: field label not supported: {field}')]
    return [] if field in known else [not_supported(f"{path}.fieldPath", field, known)]


def resource_ref(ref: Tree, path: str, *, in_file: bool) -> Errors:
    """A reference to a container's requests or limits."""
    errors: Errors = []
    resource = ref.get("resource") or ""
    if in_file and not ref.get("containerName"):
        errors.append(required(f"{path}.containerName"))
    elif not resource:
        errors.append(required(f"{path}.resource"))
    elif resource not in RESOURCE_FIELDS and not resource.startswith(_HUGE_PAGES):
        errors.append(not_supported(f"{path}.resource", resource, RESOURCE_FIELDS))
    name = resource.partition(".")[2]
    divisors, called = (_BYTE_DIVISORS, "hugepages") if resource.startswith(_HUGE_PAGES) else _DIVISORS.get(
        name, ((), ""))
    divisor = ref.get("divisor", "0")
    if divisors and divisor != "0" and divisor not in divisors:
        known = " and ".join(divisors) if called == "cpu" else ", ".join(divisors)
        errors.append(invalid(f"{path}.divisor", resource,
                              f"only divisor's values {known} are supported with the {called} resource"))
    return errors


def mounts(container: Tree, known: dict[str, Tree], path: str) -> Errors:
    """A container's volumeMounts."""
    errors: Errors = []
    taken: set[str] = set()
    privileged = part(container, "securityContext").get("privileged") is True
    devices = {device.get("name"): device.get("devicePath") for device in items(container, "volumeDevices")}
    device_paths = set(devices.values())
    for index, mount in enumerate(items(container, "volumeMounts")):
        at = f"{path}[{index}]"
        name, target = mount.get("name") or "", mount.get("mountPath") or ""
        if not name:
            errors.append(required(f"{at}.name"))
        if name not in known:
            errors.append(not_found_field(f"{at}.name", name))
        if not target:
            errors.append(required(f"{at}.mountPath"))
        if target in taken:
            errors.append(invalid(f"{at}.mountPath", target, "must be unique"))
        taken.add(target)
        if name in devices:
            errors.append(invalid(f"{at}.name", name, "must not already exist in volumeDevices"))
        if target in device_paths:
            errors.append(invalid(f"{at}.mountPath", target, "must not already exist as a path in volumeDevices"))
        errors += _sub_paths(mount, at, path)
        errors += _propagation(mount, path, privileged=privileged)
    return errors


def _sub_paths(mount: Tree, at: str, path: str) -> Errors:
    """Upstream names the list and not the entry here; so do we."""
    errors: Errors = []
    plain, expression = mount.get("subPath") or "", mount.get("subPathExpr") or ""
    if plain:
        errors += checks.descending_path(f"{path}.subPath", plain)
    if expression:
        if plain:
            errors.append(invalid(f"{at}.subPathExpr", expression, "subPathExpr and subPath are mutually exclusive"))
        errors += checks.descending_path(f"{path}.subPathExpr", expression)
    return errors


def _propagation(mount: Tree, path: str, *, privileged: bool) -> Errors:
    errors: Errors = []
    mode = mount.get("mountPropagation")
    modes = ("Bidirectional", "HostToContainer", "None")
    if mode is not None and mode not in modes:
        errors.append(not_supported(f"{path}.mountPropagation", mode, modes))
    if mode == "Bidirectional" and not privileged:
        errors.append(forbidden(f"{path}.mountPropagation",
                                "Bidirectional mount propagation is available only to privileged containers"))
    recursive = mount.get("recursiveReadOnly")
    if recursive in ("Enabled", "IfPossible"):
        if not mount.get("readOnly"):
            errors.append(forbidden(f"{path}.recursiveReadOnly", "may only be specified when readOnly is true"))
        if mode not in (None, "None"):
            errors.append(forbidden(f"{path}.recursiveReadOnly",
                                    "may only be specified when mountPropagation is None or not specified"))
    elif recursive not in (None, "Disabled"):
        errors.append(not_supported(f"{path}.recursiveReadOnly", recursive, ("Disabled", "Enabled", "IfPossible")))
    return errors


def devices(container: Tree, known: dict[str, Tree], path: str) -> Errors:
    """A container's volumeDevices: raw block devices, which only claims provide."""
    errors: Errors = []
    names: set[str] = set()
    paths: set[str] = set()
    for index, device in enumerate(items(container, "volumeDevices")):
        at = f"{path}[{index}]"
        name, target = device.get("name") or "", device.get("devicePath") or ""
        if not name:
            errors.append(required(f"{at}.name"))
        if name in names:
            errors.append(invalid(f"{at}.name", name, "must be unique"))
        if name not in known:
            errors.append(not_found_field(f"{at}.name", name))
        elif not {"persistentVolumeClaim", "ephemeral"} & known[name].keys():
            errors.append(invalid(f"{at}.name", name, "can only use volume source type of PersistentVolumeClaim "
                                                      "or Ephemeral for block mode"))
        if not target:
            errors.append(required(f"{at}.devicePath"))
        if target in paths:
            errors.append(invalid(f"{at}.devicePath", target, "must be unique"))
        if checks.no_backsteps("", target):
            errors.append(invalid(f"{at}.devicePath", target, "can not contain backsteps ('..')"))
        names.add(name)
        paths.add(target)
    return errors
