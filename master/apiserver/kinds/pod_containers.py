"""Checks of containers: names, ports, environment, probes, hooks, resources, security context."""

from __future__ import annotations

from master.apiserver.kinds import checks, pod_volumes
from master.apiserver.kinds.common import Errors, Shown, Tree, items, part
from sampan.api.errors import FieldError, duplicate, forbidden, invalid, not_found_field, not_supported, required, show

PROTOCOLS = ("SCTP", "TCP", "UDP")
PULL_POLICIES = ("Always", "IfNotPresent", "Never")
MESSAGE_POLICIES = ("File", "FallbackToLogsOnError")
STANDARD_RESOURCES = ("cpu", "memory", "ephemeral-storage")
"""What containers may ask for without a domain before the name; and pages of "hugepages-"."""
NOT_OVERCOMMITTED = "Limit must be set for non overcommitable resources"
EPHEMERAL_REFUSED = ("ports", "resources", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle",
                     "resizePolicy", "restartPolicy")
MAX_ID = 2**31 - 1

Volumes = dict[str, Tree]


def containers(spec: Tree, known: Volumes, path: str) -> Errors:
    """The regular containers."""
    found = items(spec, "containers")
    if not found:
        return [required(path)]
    errors: Errors = []
    names: set[str] = set()
    for index, container in enumerate(found):
        at = f"{path}[{index}]"
        errors += _common(container, spec, known, at)
        errors += _unique(container, names, at)
        errors += _hooks_and_probes(container, spec, at)
        if "restartPolicy" in container:
            errors.append(forbidden(f"{at}.restartPolicy", "may not be set for non-init containers"))
    return errors + _host_ports(found, path)


def init_containers(spec: Tree, known: Volumes, path: str) -> Errors:
    """The init containers; those with restartPolicy Always (sidecars) may have probes and hooks."""
    errors: Errors = []
    names = {container.get("name") or "" for container in items(spec, "containers")}
    for index, container in enumerate(items(spec, "initContainers")):
        at = f"{path}[{index}]"
        errors += _common(container, spec, known, at)
        policy = container.get("restartPolicy")
        if policy not in (None, "Always"):
            errors.append(not_supported(f"{at}.restartPolicy", policy, ("Always",)))
        errors += _unique(container, names, at)
        errors += _host_ports([container], path)
        if policy == "Always":
            errors += _hooks_and_probes(container, spec, at)
        else:
            errors += [forbidden(f"{at}.{key}", "may not be set for init containers without restartPolicy=Always")
                       for key in ("lifecycle", "livenessProbe", "readinessProbe", "startupProbe") if key in container]
    return errors


def ephemeral_containers(spec: Tree, known: Volumes, path: str) -> Errors:
    """The containers that `kubectl debug` adds."""
    errors: Errors = []
    others = {container.get("name") or "" for key in ("containers", "initContainers")
              for container in items(spec, key)}
    names = set(others)
    for index, container in enumerate(items(spec, "ephemeralContainers")):
        at = f"{path}[{index}]"
        errors += _common(container, spec, known, at)
        errors += image_spaces(container, at)
        errors += _unique(container, names, at)
        target = container.get("targetContainerName")
        if target and target not in others:
            errors.append(not_found_field(f"{at}.targetContainerName", target))
        errors += [forbidden(f"{at}.{key}", "cannot be set for an Ephemeral Container")
                   for key in EPHEMERAL_REFUSED if container.get(key)]
        for number, mount in enumerate(items(container, "volumeMounts")):
            errors += [forbidden(f"{at}.volumeMounts[{number}].{key}", "cannot be set for an Ephemeral Container")
                       for key in ("subPath", "subPathExpr") if mount.get(key)]
    return errors


def image_spaces(container: Tree, path: str) -> Errors:
    """Templates may hold an image of spaces (some tools fill it in), pods may not."""
    image = container.get("image") or ""
    if image == image.strip():
        return []
    return [invalid(f"{path}.image", image, "must not have leading or trailing whitespace")]


def _unique(container: Tree, names: set[str], path: str) -> Errors:
    name = container.get("name") or ""
    if name in names:
        return [duplicate(f"{path}.name", name)]
    names.add(name)
    return []


def _common(container: Tree, spec: Tree, known: Volumes, path: str) -> Errors:
    name = container.get("name") or ""
    errors = checks.dns_label(f"{path}.name", name) if name else [required(f"{path}.name")]
    if not container.get("image"):
        errors.append(required(f"{path}.image"))
    policy = container.get("terminationMessagePolicy") or ""
    if policy not in MESSAGE_POLICIES:
        errors.append(not_supported(f"{path}.terminationMessagePolicy", policy, MESSAGE_POLICIES) if policy
                      else required(f"{path}.terminationMessagePolicy"))
    errors += _ports(container, f"{path}.ports")
    errors += _environment(container, path)
    errors += pod_volumes.mounts(container, known, f"{path}.volumeMounts")
    errors += pod_volumes.devices(container, known, f"{path}.volumeDevices")
    pull = container.get("imagePullPolicy") or ""
    if pull not in PULL_POLICIES:
        errors.append(not_supported(f"{path}.imagePullPolicy", pull, PULL_POLICIES) if pull
                      else required(f"{path}.imagePullPolicy"))
    errors += resources(part(container, "resources"), f"{path}.resources", spec)
    errors += _resize(container, spec, f"{path}.resizePolicy")
    if "securityContext" in container:
        errors += _security(container["securityContext"], f"{path}.securityContext",
                            host_users=spec.get("hostUsers") is not False)
    return errors


def _ports(container: Tree, path: str) -> Errors:
    errors: Errors = []
    names: set[str] = set()
    for index, port in enumerate(items(container, "ports")):
        at = f"{path}[{index}]"
        if name := port.get("name"):
            wrong = checks.port_name(f"{at}.name", name)
            if not wrong and name in names:
                wrong = [duplicate(f"{at}.name", name)]
            errors += wrong
            names.add(name)
        number = port.get("containerPort") or 0
        errors += checks.port_number(f"{at}.containerPort", number) if number else [required(f"{at}.containerPort")]
        if port.get("hostPort"):
            errors += checks.port_number(f"{at}.hostPort", port["hostPort"])
        errors += checks.protocol(f"{at}.protocol", port.get("protocol") or "")
    return errors


def _host_ports(containers: list[Tree], path: str) -> Errors:
    errors: Errors = []
    taken: set[str] = set()
    for index, container in enumerate(containers):
        for number, port in enumerate(items(container, "ports")):
            if not port.get("hostPort"):
                continue
            key = f"{port.get('protocol') or ''}/{port.get('hostIP') or ''}/{port['hostPort']}"
            if key in taken:
                errors.append(duplicate(f"{path}[{index}].ports[{number}].hostPort", key))
            taken.add(key)
    return errors


def _environment(container: Tree, path: str) -> Errors:
    errors: Errors = []
    for index, variable in enumerate(items(container, "env")):
        at = f"{path}.env[{index}]"
        name = variable.get("name") or ""
        errors += checks.env_name(f"{at}.name", name) if name else [required(f"{at}.name")]
        if "valueFrom" in variable:
            errors += _env_source(variable, f"{at}.valueFrom")
    for index, source in enumerate(items(container, "envFrom")):
        at = f"{path}.envFrom[{index}]"
        if source.get("prefix"):
            errors += checks.env_name(f"{at}.prefix", source["prefix"])
        kinds = [kind for kind in ("configMapRef", "secretRef") if kind in source]
        for kind in kinds:
            name = source[kind].get("name") or ""
            errors += checks.dns_subdomain(f"{at}.{kind}.name", name) if name else [required(f"{at}.{kind}.name")]
        if not kinds:
            errors.append(invalid(f"{path}.envFrom", "", "must specify one of: `configMapRef` or `secretRef`"))
        elif len(kinds) > 1:
            errors.append(invalid(f"{path}.envFrom", "", "may not have more than one field specified at a time"))
    return errors


def _env_source(variable: Tree, path: str) -> Errors:
    errors: Errors = []
    source = part(variable, "valueFrom")
    if "fieldRef" in source:
        errors += pod_volumes.field_ref(source["fieldRef"], f"{path}.fieldRef", pod_volumes.FIELDS_IN_ENV)
    if "resourceFieldRef" in source:
        errors += pod_volumes.resource_ref(source["resourceFieldRef"], f"{path}.resourceFieldRef", in_file=False)
    for kind in ("configMapKeyRef", "secretKeyRef"):
        if kind in source:
            errors += checks.dns_subdomain(f"{path}.{kind}.name", source[kind].get("name") or "")
            key = source[kind].get("key") or ""
            errors += checks.config_key(f"{path}.{kind}.key", key) if key else [required(f"{path}.{kind}.key")]
    if not source:
        errors.append(invalid(path, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` "
                                        "or `secretKeyRef`"))
    elif variable.get("value"):
        errors.append(invalid(path, "", "may not be specified when `value` is not empty"))
    elif len(source) > 1:
        errors.append(invalid(path, "", "may not have more than one field specified at a time"))
    return errors


def _hooks_and_probes(container: Tree, spec: Tree, path: str) -> Errors:
    errors: Errors = []
    for key in ("postStart", "preStop"):
        hook = part(container, "lifecycle").get(key)
        if hook is not None:
            errors += _handler(hook, ("exec", "httpGet", "tcpSocket", "sleep"), spec, f"{path}.lifecycle.{key}")
    for key in ("livenessProbe", "readinessProbe", "startupProbe"):
        if key in container:
            errors += _probe(container[key], key, spec, f"{path}.{key}")
    return errors


def _probe(probe: Tree, kind: str, spec: Tree, path: str) -> Errors:
    errors = _handler(probe, ("exec", "httpGet", "tcpSocket", "grpc"), spec, path)
    for key in ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"):
        errors += checks.nonnegative(f"{path}.{key}", probe.get(key) or 0)
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and grace <= 0:
        errors.append(invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0"))
    if kind == "readinessProbe":
        if grace is not None:
            errors.append(invalid(f"{path}.terminationGracePeriodSeconds", grace,
                                  "must not be set for readinessProbes"))
    elif probe.get("successThreshold") != 1:
        errors.append(invalid(f"{path}.successThreshold", probe.get("successThreshold") or 0, "must be 1"))
    return errors


def _handler(handler: Tree, kinds: tuple[str, ...], spec: Tree, path: str) -> Errors:
    errors: Errors = []
    chosen = [kind for kind in kinds if kind in handler]
    if not chosen:
        return [required(path, "must specify a handler type")]
    kind, action = chosen[0], handler[chosen[0]]
    at = f"{path}.{kind}"
    if kind == "exec" and not action.get("command"):
        errors.append(required(f"{at}.command"))
    if kind == "httpGet" and not action.get("path"):
        errors.append(required(f"{at}.path"))
    if kind in ("httpGet", "tcpSocket", "grpc"):
        errors += checks.port(f"{at}.port", action.get("port", 0))
    if kind == "httpGet":
        if action.get("scheme") not in ("HTTP", "HTTPS"):
            errors.append(not_supported(f"{at}.scheme", action.get("scheme") or "", ("HTTP", "HTTPS")))
        for header in items(action, "httpHeaders"):
            errors += checks.http_header(f"{at}.httpHeaders", header.get("name") or "")
    if kind == "sleep":
        seconds, grace = action.get("seconds", 0), spec.get("terminationGracePeriodSeconds")
        if grace is not None and not 0 < seconds <= grace:
            errors.append(invalid(at, seconds, "must be greater than 0 and less than terminationGracePeriodSeconds "
                                               f"({grace}). Enable AllowPodLifecycleSleepActionZeroValue feature gate "
                                               "for zero sleep."))
    return errors + [forbidden(f"{path}.{other}", "may not specify more than 1 handler type") for other in chosen[1:]]


def resources(tree: Tree, path: str, spec: Tree) -> Errors:
    """Requests and limits: known names, no negative amounts, requests within limits."""
    errors: Errors = []
    limits, requests = part(tree, "limits"), part(tree, "requests")
    for name, text in sorted(limits.items()):
        errors += _resource(name, text, f"{path}.limits[{name}]")
    for name, text in sorted(requests.items()):
        errors += _resource(name, text, f"{path}.requests[{name}]")
        overcommit = not name.startswith("hugepages-") and ("/" not in name or _native(name))
        if name in limits:
            wanted, limit = checks.amount(text), checks.amount(limits[name])
            if not overcommit and wanted != limit:
                errors.append(invalid(f"{path}.requests", text, f"must be equal to {name} limit of {limits[name]}"))
            elif wanted > limit:
                errors.append(invalid(f"{path}.requests", text,
                                      f"must be less than or equal to {name} limit of {limits[name]}"))
        elif not overcommit:
            errors.append(required(f"{path}.limits", NOT_OVERCOMMITTED))
    named = limits.keys() | requests.keys()
    if any(name.startswith("hugepages-") for name in named) and not named & {"cpu", "memory"}:
        errors.append(forbidden(path, "HugePages require cpu or memory"))
    claims = {claim.get("name") for claim in items(spec, "resourceClaims")}
    for index, claim in enumerate(items(tree, "claims")):
        if claim.get("name") not in claims:
            where = "must be one of the names in pod.spec.resourceClaims" + ("" if claims else " which is empty")
            errors.append(FieldError(f"{path}.claims[{index}]", "FieldValueNotFound",
                                     f"Not found: {show(claim.get('name') or '')}: {where}"))
    return errors


def _native(name: str) -> bool:
    return name.rpartition("/")[0].endswith("kubernetes.io")


def _resource(name: str, text: str, path: str) -> Errors:
    errors = checks.qualified_name(path, name)
    if not errors and "/" not in name and not name.startswith("hugepages-"):
        if name not in (*STANDARD_RESOURCES, "storage", "pods", "services", "replicationcontrollers",
                        "resourcequotas", "secrets", "configmaps", "persistentvolumeclaims"):
            errors.append(invalid(path, name, "must be a standard resource type or fully qualified"))
        if name not in STANDARD_RESOURCES:
            errors.append(invalid(path, name, "must be a standard resource for containers"))
    elif "/" in name and not _native(name) and name.startswith("requests."):
        errors.append(invalid(path, name, "doesn't follow extended resource name standard"))
    amount = checks.amount(text)
    if amount < 0:
        errors.append(invalid(path, text, checks.NEGATIVE))
    whole = ("/" in name and not _native(name)) or name.startswith("hugepages-")
    if whole and amount % 1000:
        errors.append(invalid(path, Shown(text), "must be an integer"))
    return errors


def _resize(container: Tree, spec: Tree, path: str) -> Errors:
    errors: Errors = []
    seen: set[str] = set()
    for index, policy in enumerate(items(container, "resizePolicy")):
        resource, restart = policy.get("resourceName") or "", policy.get("restartPolicy") or ""
        if resource in seen:
            errors.append(duplicate(f"{path}[{index}]", resource))
        seen.add(resource)
        for value, known in ((resource, ("cpu", "memory")), (restart, ("NotRequired", "RestartContainer"))):
            if value not in known:
                errors.append(not_supported(path, value, known) if value else required(path))
        if spec.get("restartPolicy") == "Never" and restart != "NotRequired":
            errors.append(invalid(path, restart, "must be 'NotRequired' when `restartPolicy` is 'Never'"))
    return errors


def identity(context: Tree, path: str, keys: tuple[str, ...]) -> Errors:
    """User and group ids within what Linux has."""
    return [invalid(f"{path}.{key}", context[key], f"must be between 0 and {MAX_ID}, inclusive")
            for key in keys if key in context and not 0 <= context[key] <= MAX_ID]


def seccomp(profile: Tree | None, path: str) -> Errors:
    """A seccompProfile."""
    if profile is None:
        return []
    errors: Errors = []
    kind = profile.get("type") or ""
    known = ("Localhost", "RuntimeDefault", "Unconfined")
    if not kind:
        errors.append(required(f"{path}.type", "type is required when seccompProfile is set"))
    elif kind not in known:
        errors.append(not_supported(f"{path}.type", kind, known))
    if kind == "Localhost":
        if "localhostProfile" not in profile:
            errors.append(required(f"{path}.localhostProfile", "must be set when seccomp type is Localhost"))
        else:
            errors += checks.descending_path(f"{path}.localhostProfile", profile["localhostProfile"])
    elif "localhostProfile" in profile:
        errors.append(invalid(f"{path}.localhostProfile", profile, "can only be set when seccomp type is Localhost"))
    return errors


def app_armor(profile: Tree | None, path: str) -> Errors:
    """An appArmorProfile."""
    if profile is None:
        return []
    kind, local = profile.get("type") or "", profile.get("localhostProfile")
    known = ("Localhost", "RuntimeDefault", "Unconfined")
    if not kind:
        return [required(f"{path}.type", "type is required when appArmorProfile is set")]
    if kind not in known:
        return [not_supported(f"{path}.type", kind, known)]
    if kind == "Localhost":
        if not (local or "").strip():
            return [required(f"{path}.localhostProfile", "must be set when AppArmor type is Localhost")]
        if local != (local or "").strip():
            return [invalid(f"{path}.localhostProfile", local, "must not be padded with whitespace")]
    elif local is not None:
        return [invalid(f"{path}.localhostProfile", local, "can only be set when AppArmor type is Localhost")]
    return []


def _security(context: Tree, path: str, *, host_users: bool) -> Errors:
    errors = identity(context, path, ("runAsUser", "runAsGroup"))
    mount = context.get("procMount")
    if mount is not None:
        if mount not in ("Default", "Unmasked"):
            errors.append(not_supported(f"{path}.procMount", mount, ("Default", "Unmasked")))
        if mount == "Unmasked" and host_users:
            errors.append(invalid(f"{path}.procMount", mount, "`hostUsers` must be false to use `Unmasked`"))
    errors += seccomp(context.get("seccompProfile"), f"{path}.seccompProfile")
    if context.get("allowPrivilegeEscalation") is False:
        if context.get("privileged"):
            errors.append(invalid(path, context,
                                  "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
        if "CAP_SYS_ADMIN" in items(context.get("capabilities"), "add"):
            errors.append(invalid(path, context, "cannot set `allowPrivilegeEscalation` to false and "
                                                 "`capabilities.Add` CAP_SYS_ADMIN"))
    return errors + app_armor(context.get("appArmorProfile"), f"{path}.appArmorProfile")
