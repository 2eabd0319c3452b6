"""Checks of Services (pkg/apis/core/validation, ValidateService upstream)."""

from __future__ import annotations

from master.apiserver.kinds import checks
from master.apiserver.kinds.common import NIL, Errors, Shown, Tree, go_strings, items, part, quoted, spec, status
from master.apiserver.kinds.service_types import is_external, is_headless, needs_cluster_ip, needs_health_check
from sampan.api.errors import IMMUTABLE, duplicate, forbidden, invalid, not_supported, required

TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
AFFINITIES = ("ClientIP", "None")
POLICIES = ("Cluster", "Local")
FAMILIES = ("IPv4", "IPv6")
FAMILY_POLICIES = ("PreferDualStack", "RequireDualStack", "SingleStack")
MAX_AFFINITY_SECONDS = 86400
ONLY_LOAD_BALANCER = "may only be used when `type` is 'LoadBalancer'"


def service(obj: Tree) -> Errors:
    """Everything that is wrong with a Service in itself."""
    tree = spec(obj)
    errors: Errors = []
    kind = tree.get("type") or ""
    ports = items(tree, "ports")
    if not ports and not is_headless(tree) and kind != "ExternalName":
        errors.append(required("spec.ports"))
    if kind in ("LoadBalancer", "NodePort") and is_headless(tree):
        errors.append(invalid("spec.clusterIPs[0]", "None", f"may not be set to 'None' for {kind} services"))
    if kind == "ExternalName":
        errors += _external_name(tree)
    errors += _ports(ports)
    errors += checks.labels("spec.selector", part(tree, "selector"))
    errors += _affinity(tree)
    if kind != "ExternalName":
        errors += _addresses(tree)
    for index, address in enumerate(items(tree, "externalIPs")):
        at = f"spec.externalIPs[{index}]"
        errors += checks.ip(at, address) or checks.non_special_ip(at, address)
    if kind not in TYPES:
        errors.append(not_supported("spec.type", kind, TYPES) if kind else required("spec.type"))
    errors += _node_ports(ports, kind)
    errors += _load_balancer(tree, kind)
    return errors + _policies(tree)


def _external_name(tree: Tree) -> Errors:
    errors = [forbidden(f"spec.{key}", "may not be set for ExternalName services")
              for key in ("clusterIPs", "ipFamilies", "ipFamilyPolicy") if tree.get(key)]
    name = (tree.get("externalName") or "").removesuffix(".")
    return errors + (checks.dns_subdomain("spec.externalName", name) if name else [required("spec.externalName")])


def _ports(ports: list[Tree]) -> Errors:
    errors: Errors = []
    names: set[str] = set()
    for index, port in enumerate(ports):
        at = f"spec.ports[{index}]"
        name = port.get("name") or ""
        if name:
            errors += checks.dns_label(f"{at}.name", name)
            if name in names:
                errors.append(duplicate(f"{at}.name", name))
            names.add(name)
        elif len(ports) > 1:
            errors.append(required(f"{at}.name"))
        errors += checks.port_number(f"{at}.port", port.get("port") or 0)
        errors += checks.protocol(f"{at}.protocol", port.get("protocol") or "")
        errors += checks.port(f"{at}.targetPort", port.get("targetPort") or 0)
        if "appProtocol" in port:
            errors += checks.qualified_name(f"{at}.appProtocol", port["appProtocol"])
    return errors


def _affinity(tree: Tree) -> Errors:
    kind, config = tree.get("sessionAffinity") or "", tree.get("sessionAffinityConfig")
    if kind not in AFFINITIES:
        return [not_supported("spec.sessionAffinity", kind, AFFINITIES) if kind else required("spec.sessionAffinity")]
    if kind == "None":
        return [] if config is None else [forbidden("spec.sessionAffinityConfig",
                                                    "must not be set when session affinity is None")]
    seconds = part(config, "clientIP").get("timeoutSeconds")
    at = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
    if seconds is None:
        return [required(at, "when session affinity type is ClientIP")]
    if 0 < seconds <= MAX_AFFINITY_SECONDS:
        return []
    return [invalid(at, seconds, f"must be greater than 0 and less than {MAX_AFFINITY_SECONDS}")]


def _addresses(tree: Tree) -> Errors:
    errors: Errors = []
    first, several = tree.get("clusterIP") or "", items(tree, "clusterIPs")
    if first and not several:
        errors.append(required("spec.clusterIPs"))
    elif first and several[0] != first:
        errors.append(invalid("spec.clusterIPs", go_strings(several), "first value must match `clusterIP`"))
    elif several and not first:
        errors.append(invalid("spec.clusterIPs", go_strings(several),
                              "must be empty when `clusterIP` is not specified"))
    errors += _families(tree)
    broken = False
    for index, address in enumerate(several):
        if index == 0 and address == "None":
            if len(several) > 1:
                broken = True
                errors.append(invalid("spec.clusterIPs", go_strings(several),
                                      "'None' must be the first and only value"))
            continue
        wrong = checks.ip(f"spec.clusterIPs[{index}]", address)
        broken = broken or bool(wrong)
        errors += wrong
    if len(several) > 2:
        errors.append(invalid("spec.clusterIPs", go_strings(several), "may only hold up to 2 values"))
    if broken:
        return errors
    if len(several) > 1 and len({":" in address for address in several}) == 1:
        errors.append(invalid("spec.clusterIPs", go_strings(several),
                              "may specify no more than one IP for each IP family"))
    if not is_headless(tree):
        for index, (address, family) in enumerate(zip(several, items(tree, "ipFamilies"), strict=False)):
            if (":" in address) != (family == "IPv6"):
                errors.append(invalid(f"spec.clusterIPs[{index}]", address,
                                      f"expected an {family} value as indicated by `ipFamilies[{index}]`"))
    return errors


def _families(tree: Tree) -> Errors:
    """The cluster has IPv4 only; a headless Service without selector may still name what its endpoints are."""
    errors: Errors = []
    free = is_headless(tree) and not tree.get("selector")
    seen: set[str] = set()
    for index, family in enumerate(items(tree, "ipFamilies")):
        at = f"spec.ipFamilies[{index}]"
        if family not in FAMILIES:
            errors.append(not_supported(at, family, FAMILIES))
        elif family == "IPv6" and not free:
            errors.append(invalid(at, family, "not configured on this cluster"))
        if family in seen:
            errors.append(duplicate(at, family))
        seen.add(family)
    policy = tree.get("ipFamilyPolicy")
    if policy is not None and policy not in FAMILY_POLICIES:
        errors.append(not_supported("spec.ipFamilyPolicy", policy, FAMILY_POLICIES))
    elif policy == "SingleStack":
        errors += [invalid("spec.ipFamilyPolicy", policy, "must be 'RequireDualStack' or 'PreferDualStack' when "
                                                          f"multiple {what} are specified")
                   for key, what in (("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families"))
                   if len(items(tree, key)) == 2]
    elif policy == "RequireDualStack" and not free:
        errors.append(invalid("spec.ipFamilyPolicy", policy,
                              "this cluster is not configured for dual-stack services"))
    elif policy == "PreferDualStack" and not is_headless(tree) and len(items(tree, "clusterIPs")) > 1:
        errors.append(invalid("spec.clusterIPs[1]", go_strings(items(tree, "clusterIPs")),
                              "IPv6 is not configured on this cluster"))
    return errors


def _node_ports(ports: list[Tree], kind: str) -> Errors:
    errors: Errors = []
    if kind == "ClusterIP":
        errors += [forbidden(f"spec.ports[{index}].nodePort", "may not be used when `type` is 'ClusterIP'")
                   for index, port in enumerate(ports) if port.get("nodePort")]
    seen: set[tuple[object, object]] = set()
    for index, port in enumerate(ports):
        key = port.get("protocol"), port.get("nodePort")
        if port.get("nodePort"):
            if key in seen:
                errors.append(duplicate(f"spec.ports[{index}].nodePort", port["nodePort"]))
            seen.add(key)
    pairs: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        pair: tuple[str, int] = port.get("protocol") or "", port.get("port") or 0
        if pair in pairs:
            shown = Shown(f'core.ServicePort{{Name:"", Protocol:{quoted(pair[0])}, AppProtocol:(*string)(nil), '
                          f'Port:{pair[1]}, TargetPort:intstr.IntOrString{{Type:0, IntVal:0, StrVal:""}}, NodePort:0}}')
            errors.append(duplicate(f"spec.ports[{index}]", shown))
        pairs.add(pair)
    return errors


def _load_balancer(tree: Tree, kind: str) -> Errors:
    errors: Errors = []
    ranges = items(tree, "loadBalancerSourceRanges")
    if ranges and kind != "LoadBalancer":
        errors.append(forbidden("spec.LoadBalancerSourceRanges", ONLY_LOAD_BALANCER))
    for index, value in enumerate(ranges):
        errors += checks.cidr(f"spec.LoadBalancerSourceRanges[{index}]", value.strip())
    if kind != "LoadBalancer":
        errors += [forbidden(f"spec.{key}", ONLY_LOAD_BALANCER)
                   for key in ("allocateLoadBalancerNodePorts", "loadBalancerClass") if key in tree]
    elif "loadBalancerClass" in tree:
        errors += checks.qualified_name("spec.loadBalancerClass", tree["loadBalancerClass"])
    return errors


def _policies(tree: Tree) -> Errors:
    errors: Errors = []
    external = tree.get("externalTrafficPolicy") or ""
    if not is_external(tree):
        if external:
            errors.append(invalid("spec.externalTrafficPolicy", external,
                                  "may only be set for externally-accessible services"))
    elif external not in POLICIES:
        errors.append(not_supported("spec.externalTrafficPolicy", external, POLICIES) if external
                      else required("spec.externalTrafficPolicy"))
    check = tree.get("healthCheckNodePort") or 0
    if check and not needs_health_check(tree):
        errors.append(invalid("spec.healthCheckNodePort", check, "may only be set when `type` is 'LoadBalancer' and "
                                                                 "`externalTrafficPolicy` is 'Local'"))
    elif check:
        errors += checks.port_number("spec.healthCheckNodePort", check)
    internal = tree.get("internalTrafficPolicy")
    if internal is None:
        if needs_cluster_ip(tree):
            errors.append(required("spec.internalTrafficPolicy"))
    elif internal not in POLICIES:
        errors.append(not_supported("spec.internalTrafficPolicy", internal, POLICIES))
    distribution = tree.get("trafficDistribution")
    if distribution not in (None, "PreferClose"):
        errors.append(not_supported("spec.trafficDistribution", distribution, ("PreferClose",)))
    return errors


def update(new: Tree, old: Tree) -> Errors:
    """What may not change: the addresses, the load balancer's class, the health check's port."""
    errors: Errors = []
    if "ExternalName" not in (new.get("type"), old.get("type")) and not (is_headless(new) and is_headless(old)):
        errors += _address_update(items(new, "clusterIPs"), items(old, "clusterIPs"))
    if needs_cluster_ip(new) and needs_cluster_ip(old):
        before, after = items(old, "ipFamilies"), items(new, "ipFamilies")
        if before and after and before[0] != after[0]:
            errors.append(invalid("spec.ipFamilies[0]", go_strings(after), "may not change once set"))
    if (old.get("type") == new.get("type") == "LoadBalancer"
            and new.get("loadBalancerClass") != old.get("loadBalancerClass")):
        errors.append(invalid("spec.loadBalancerClass", new.get("loadBalancerClass", NIL), "may not change once set"))
    if (needs_health_check(new) and needs_health_check(old)
            and (new.get("healthCheckNodePort") or 0) != (old.get("healthCheckNodePort") or 0)):
        errors.append(forbidden("spec.healthCheckNodePort", IMMUTABLE))
    return errors


def _address_update(new: list[str], old: list[str]) -> Errors:
    at, shown = "spec.clusterIPs[0]", go_strings(new or None)
    if len(new) == len(old):
        return [invalid(f"spec.clusterIPs[{index}]", shown, "may not change once set")
                for index, (after, before) in enumerate(zip(new, old, strict=True)) if after != before]
    if not new:
        return [invalid(at, shown, "primary clusterIP can not be unset")]
    return [invalid(at, shown, "may not change once set")] if old and new[0] != old[0] else []


def load_balancer_status(obj: Tree) -> Errors:
    """What a load balancer's controller reports."""
    errors: Errors = []
    at = "status.loadBalancer.ingress"
    ingresses = items(part(status(obj), "loadBalancer"), "ingress")
    if ingresses and spec(obj).get("type") != "LoadBalancer":
        return [forbidden(at, "may only be used when `spec.type` is 'LoadBalancer'")]
    for index, ingress in enumerate(ingresses):
        address, mode, host = (ingress.get(key) or "" for key in ("ip", "ipMode", "hostname"))
        if address:
            errors += checks.ip(f"{at}[{index}].ip", address)
            if not mode:
                errors.append(required(f"{at}[{index}].ipMode", "must be specified when `ip` is set"))
        elif mode:
            errors.append(forbidden(f"{at}[{index}].ipMode", "may not be specified when `ip` is not set"))
        if mode not in ("", "Proxy", "VIP"):
            errors.append(not_supported(f"{at}[{index}].ipMode", mode, ("Proxy", "VIP")))
        if host:
            errors += checks.dns_subdomain(f"{at}[{index}].hostname", host)
            if not checks.ip("", host):
                errors.append(invalid(f"{at}[{index}].hostname", host, "must be a DNS name, not an IP address"))
    return errors
