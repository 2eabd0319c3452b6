"""Checks of a whole PodSpec, in a pod or in a template (pkg/apis/core/validation, ValidatePodSpec upstream)."""

from __future__ import annotations

import re

from master.apiserver.kinds import checks, pod_apparmor, pod_containers, pod_scheduling, pod_volumes
from master.apiserver.kinds.common import Errors, Tree, go_strings, items, notes, part
from sampan.api.errors import duplicate, forbidden, invalid, not_supported, required

RESTART_POLICIES = ("Always", "OnFailure", "Never")
DNS_POLICIES = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
MAX_NAMESERVERS = 3
MAX_SEARCHES = 32
MAX_SEARCH_CHARACTERS = 2048
MAX_INT32 = 2**31 - 1
MAX_SYSCTL = 253
_SYSCTL_SEGMENT = "[a-z0-9]([-_a-z0-9]*[a-z0-9])?"
_SYSCTL = rf"^({_SYSCTL_SEGMENT}[\./])*{_SYSCTL_SEGMENT}$"
MIRROR = "kubernetes.io/config.mirror"
DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"


def pod(obj: Tree) -> Errors:
    """A pod: its annotations, its spec, and what only pods (not templates) are asked."""
    spec = part(obj, "spec")
    errors = pod_annotations(notes(obj), spec, "metadata.annotations")
    errors += pod_spec(spec, "spec", is_pod=True)
    if not spec.get("serviceAccountName"):
        errors += [
            forbidden(f"spec.volumes[{index}].projected.sources[{number}].serviceAccountToken",
                      "must not be specified when serviceAccountName is not set")
            for index, volume in enumerate(items(spec, "volumes"))
            for number, source in enumerate(items(volume.get("projected"), "sources"))
            if "serviceAccountToken" in source]
    for key in ("containers", "initContainers"):
        for index, container in enumerate(items(spec, key)):
            errors += pod_containers.image_spaces(container, f"spec.{key}[{index}]")
    return errors


def new_pod(obj: Tree) -> Errors:
    """What a pod may not have from the start."""
    spec = part(obj, "spec")
    errors = pod_apparmor.contradictions(notes(obj), spec, "spec")
    if items(spec, "ephemeralContainers"):
        errors.append(forbidden("spec.ephemeralContainers", "cannot be set on create"))
    if spec.get("nodeName") and items(spec, "schedulingGates"):
        errors.append(forbidden("spec.nodeName", "cannot be set until all schedulingGates have been cleared"))
    return errors


def template(tree: Tree, path: str) -> Errors:
    """A pod template."""
    spec = part(tree, "spec")
    meta = part(tree, "metadata")
    errors = checks.labels(f"{path}.labels", part(meta, "labels"))
    errors += checks.annotation_map(f"{path}.annotations", part(meta, "annotations"))
    errors += pod_annotations(part(meta, "annotations"), spec, f"{path}.annotations")
    errors += pod_spec(spec, f"{path}.spec", is_pod=False)
    errors += pod_apparmor.contradictions(part(meta, "annotations"), spec, f"{path}.spec")
    if items(spec, "ephemeralContainers"):
        errors.append(forbidden(f"{path}.spec.ephemeralContainers", "ephemeral containers not allowed in pod template"))
    return errors


def pod_annotations(found: Tree, spec: Tree, path: str) -> Errors:
    """The annotations that mean something to pods."""
    errors: Errors = []
    if MIRROR in found and not spec.get("nodeName"):
        errors.append(invalid(f"{path}[{MIRROR}]", found[MIRROR],
                              "must set spec.nodeName if mirror pod annotation is set"))
    cost = found.get(DELETION_COST)
    whole = cost is not None and re.fullmatch(r"0|-?[1-9][0-9]*|-0", cost)
    if cost is not None and not (whole and -MAX_INT32 - 1 <= int(cost) <= MAX_INT32):
        errors.append(invalid(f"{path}[{DELETION_COST}]", cost, "must be a 32bit integer"))
    return errors + pod_apparmor.wrong_annotations(found, spec, path)


def annotation_update(new: Tree, old: Tree) -> Errors:
    """Of the annotations that mean something, two kinds never change, through whichever door."""
    before, after = notes(old), notes(new)
    errors: Errors = []
    for key in sorted(before.keys() | after.keys()):
        kind = ("AppArmor annotations" if key.startswith(pod_apparmor.PREFIX)
                else "mirror pod annotation" if key == MIRROR else "")
        if kind and before.get(key) != after.get(key):
            what = "remove or update" if key in before else "add"
            errors.append(forbidden(f"metadata.annotations[{key}]", f"may not {what} {kind}"))
    return errors


def pod_spec(spec: Tree, path: str, *, is_pod: bool) -> Errors:
    """Everything that is wrong with a PodSpec."""
    errors: Errors = []
    known, wrong = pod_volumes.volumes(spec, f"{path}.volumes")
    errors += wrong
    errors += _claims(spec, f"{path}.resourceClaims")
    errors += pod_containers.containers(spec, known, f"{path}.containers")
    errors += pod_containers.init_containers(spec, known, f"{path}.initContainers")
    errors += pod_containers.ephemeral_containers(spec, known, f"{path}.ephemeralContainers")
    errors += _host_network(spec, path, is_pod=is_pod)
    errors += _one_of(spec, "restartPolicy", RESTART_POLICIES, path)
    errors += _one_of(spec, "dnsPolicy", DNS_POLICIES, path)
    errors += checks.labels(f"{path}.nodeSelector", part(spec, "nodeSelector"))
    errors += _security(spec, f"{path}.securityContext")
    errors += pod_scheduling.affinity(spec, f"{path}.affinity")
    errors += _dns_config(spec, f"{path}.dnsConfig")
    errors += _gates(spec, path)
    errors += pod_scheduling.spread(spec, f"{path}.topologySpreadConstraints")
    if spec.get("hostUsers") is False:
        errors += [forbidden(f"{path}.{shown}", "when `pod.Spec.HostUsers` is false")
                   for key, shown in (("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC"))
                   if spec.get(key)]
    errors += _names(spec, path)
    deadline = spec.get("activeDeadlineSeconds")
    if deadline is not None and not 1 <= deadline <= MAX_INT32:
        errors.append(invalid(f"{path}.activeDeadlineSeconds", deadline,
                              f"must be between 1 and {MAX_INT32}, inclusive"))
    errors += pod_scheduling.tolerations(spec, f"{path}.tolerations")
    errors += _host_aliases(spec, f"{path}.hostAliases")
    preemption = spec.get("preemptionPolicy")
    if preemption not in (None, "PreemptLowerPriority", "Never"):
        errors.append(not_supported(f"{path}.preemptionPolicy", preemption, ("PreemptLowerPriority", "Never")))
    if "overhead" in spec:
        errors += pod_containers.resources({"limits": spec["overhead"]}, f"{path}.overhead", spec)
    if "os" in spec:
        name = spec["os"].get("name") or ""
        if not name:
            errors.append(required(f"{path}.os.name", "cannot be empty"))
        elif name not in ("linux", "windows"):
            errors.append(not_supported(f"{path}.os", name, ("linux", "windows")))
    return errors


def _one_of(spec: Tree, key: str, known: tuple[str, ...], path: str) -> Errors:
    value = spec.get(key) or ""
    if value in known:
        return []
    return [not_supported(f"{path}.{key}", value, known) if value else required(f"{path}.{key}")]


def _claims(spec: Tree, path: str) -> Errors:
    errors: Errors = []
    seen: set[str] = set()
    for index, claim in enumerate(items(spec, "resourceClaims")):
        at, name = f"{path}[{index}]", claim.get("name") or ""
        if not name:
            errors.append(required(f"{at}.name"))
        elif name in seen:
            errors.append(duplicate(f"{at}.name", name))
        else:
            errors += checks.dns_label(f"{at}.name", name)
        seen.add(name)
        given = {"resourceClaimName", "resourceClaimTemplateName"} & claim.keys()
        if len(given) > 1:
            errors.append(invalid(at, claim, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may "
                                             "be specified"))
        if not given:
            errors.append(invalid(at, claim, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
    return errors


def _host_network(spec: Tree, path: str, *, is_pod: bool) -> Errors:
    if not spec.get("hostNetwork"):
        return []
    return [
        invalid(f"{path}.containers[{index}].ports[{number}].hostPort", port.get("hostPort") or 0,
                "must match `containerPort` when `hostNetwork` is true")
        for index, container in enumerate(items(spec, "containers"))
        for number, port in enumerate(items(container, "ports"))
        if (is_pod or port.get("hostPort")) and port.get("hostPort") != port.get("containerPort")]


def _names(spec: Tree, path: str) -> Errors:
    errors: Errors = []
    for key in ("serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"):
        if spec.get(key):
            errors += checks.dns_subdomain(f"{path}.{key}", spec[key])
    for key in ("hostname", "subdomain"):
        if spec.get(key):
            errors += checks.dns_label(f"{path}.{key}", spec[key])
    return errors


def _security(spec: Tree, path: str) -> Errors:
    context = part(spec, "securityContext")
    errors = pod_containers.identity(context, path, ("fsGroup", "runAsUser", "runAsGroup"))
    for index, group in enumerate(items(context, "supplementalGroups")):
        if not 0 <= group <= MAX_INT32:
            errors.append(invalid(f"{path}.supplementalGroups[{index}]", group,
                                  f"must be between 0 and {MAX_INT32}, inclusive"))
    if spec.get("shareProcessNamespace") and spec.get("hostPID"):
        errors.append(invalid(f"{path}.shareProcessNamespace", value=True,
                              detail="ShareProcessNamespace and HostPID cannot both be enabled"))
    errors += _sysctls(spec, context, f"{path}.sysctls")
    for key, known in (("fsGroupChangePolicy", ("Always", "OnRootMismatch")),
                       ("supplementalGroupsPolicy", ("Merge", "Strict")),
                       ("seLinuxChangePolicy", ("MountOption", "Recursive"))):
        if key in context and context[key] not in known:
            errors.append(not_supported(f"{path}.{key}", context[key], known))
    errors += pod_containers.seccomp(context.get("seccompProfile"), f"{path}.seccompProfile")
    return errors + pod_containers.app_armor(context.get("appArmorProfile"), f"{path}.appArmorProfile")


def _sysctls(spec: Tree, context: Tree, path: str) -> Errors:
    errors: Errors = []
    seen: set[str] = set()
    for index, entry in enumerate(items(context, "sysctls")):
        at, name = f"{path}[{index}].name", entry.get("name") or ""
        if not name:
            errors.append(required(at))
        elif len(name) > MAX_SYSCTL or not re.fullmatch(_SYSCTL, name):
            errors.append(invalid(at, name, f"must have at most {MAX_SYSCTL} characters and match regex {_SYSCTL}"))
        elif name in seen:
            errors.append(duplicate(at, name))
        seen.add(name)
        dotted = name.replace("/", ".")
        if spec.get("hostNetwork") and dotted.startswith("net."):
            errors.append(invalid(at, name, "may not be specified when 'hostNetwork' is true"))
        elif spec.get("hostIPC") and dotted.startswith(("kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue.")):
            errors.append(invalid(at, name, "may not be specified when 'hostIPC' is true"))
    return errors


def _dns_config(spec: Tree, path: str) -> Errors:
    config = spec.get("dnsConfig")
    if spec.get("dnsPolicy") == "None":
        if config is None:
            return [required(path, "must provide `dnsConfig` when `dnsPolicy` is None")]
        if not config.get("nameservers"):
            return [required(f"{path}.nameservers",
                             "must provide at least one DNS nameserver when `dnsPolicy` is None")]
    errors: Errors = []
    servers, searches = items(config, "nameservers"), items(config, "searches")
    if len(servers) > MAX_NAMESERVERS:
        errors.append(invalid(f"{path}.nameservers", go_strings(servers),
                              f"must not have more than {MAX_NAMESERVERS} nameservers"))
    for index, server in enumerate(servers):
        errors += checks.ip(f"{path}.nameservers[{index}]", server)
    if len(searches) > MAX_SEARCHES:
        errors.append(invalid(f"{path}.searches", go_strings(searches),
                              f"must not have more than {MAX_SEARCHES} search paths"))
    if len(" ".join(searches)) > MAX_SEARCH_CHARACTERS:
        errors.append(invalid(f"{path}.searches", go_strings(searches),
                              f"must not have more than {MAX_SEARCH_CHARACTERS} characters (including spaces) in the "
                              "search list"))
    for index, search in enumerate(searches):
        errors += checks.dns_subdomain(f"{path}.searches[{index}]", search.removesuffix("."))
    return errors + [required(f"{path}.options[{index}]", "must not be empty")
                     for index, option in enumerate(items(config, "options")) if not option.get("name")]


def _gates(spec: Tree, path: str) -> Errors:
    errors: Errors = []
    for index, gate in enumerate(items(spec, "readinessGates")):
        errors += checks.qualified_name(f"{path}.readinessGates[{index}].conditionType",
                                        gate.get("conditionType") or "")
    seen: set[str] = set()
    for index, gate in enumerate(items(spec, "schedulingGates")):
        at, name = f"{path}.schedulingGates[{index}]", gate.get("name") or ""
        errors += checks.qualified_name(at, name)
        if name in seen:
            errors.append(duplicate(at, name))
        seen.add(name)
    return errors


def _host_aliases(spec: Tree, path: str) -> Errors:
    errors: Errors = []
    for index, alias in enumerate(items(spec, "hostAliases")):
        errors += checks.ip(f"{path}[{index}].ip", alias.get("ip") or "")
        for number, name in enumerate(items(alias, "hostnames")):
            errors += checks.dns_subdomain(f"{path}[{index}].hostnames[{number}]", name)
    return errors


UPDATABLE = ("`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
             "`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` "
             "(allow it to be set to 1 if it was previously negative)")
"""What a running pod lets change, in upstream's words."""

