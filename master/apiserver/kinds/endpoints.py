"""Endpoints (core) and EndpointSlices (discovery.k8s.io): where a Service's traffic goes."""

from __future__ import annotations

from master.apiserver.kinds import checks
from master.apiserver.kinds.common import Errors, Tree, immutable, items, labels, part, same, set_default
from master.apiserver.strategy import Context, Strategy
from sampan.api.errors import duplicate, invalid, not_supported, required, too_many

ADDRESS_TYPES = ("FQDN", "IPv4", "IPv6")
MAX_ENDPOINTS = 1000
MAX_ADDRESSES = 100
MAX_PORTS = 20000
MAX_ZONES = 8


class EndpointsStrategy(Strategy):
    """The rules of Endpoints."""

    status_field = ""
    allow_create_on_update = True

    def default(self, obj: Tree) -> None:
        """Ports are TCP."""
        for subset in items(obj, "subsets"):
            for port in items(subset, "ports"):
                set_default(port, "protocol", "TCP")

    def validate(self, obj: Tree, context: Context) -> Errors:
        """Addresses and ports of each subset."""
        errors: Errors = []
        for index, subset in enumerate(items(obj, "subsets")):
            at = f"subsets[{index}]"
            if not items(subset, "addresses") and not items(subset, "notReadyAddresses"):
                errors.append(required(at, "must specify `addresses` or `notReadyAddresses`"))
            for key in ("addresses", "notReadyAddresses"):
                for number, address in enumerate(items(subset, key)):
                    errors += _address(address, f"{at}.{key}[{number}]")
            ports = items(subset, "ports")
            for number, port in enumerate(ports):
                errors += _port(port, f"{at}.ports[{number}]", named=len(ports) > 1)
        return errors


def _address(address: Tree, path: str) -> Errors:
    value = address.get("ip") or ""
    errors = checks.ip(f"{path}.ip", value)
    if address.get("hostname"):
        errors += checks.dns_label(f"{path}.hostname", address["hostname"])
    if "nodeName" in address:
        errors += checks.dns_subdomain(f"{path}.nodeName", address["nodeName"])
    return errors + checks.non_special_ip(f"{path}.ip", value)


def _port(port: Tree, path: str, *, named: bool) -> Errors:
    errors: Errors = []
    if port.get("name"):
        errors += checks.dns_label(f"{path}.name", port["name"])
    elif named:
        errors.append(required(f"{path}.name"))
    errors += checks.port_number(f"{path}.port", port.get("port") or 0)
    errors += checks.protocol(f"{path}.protocol", port.get("protocol") or "")
    if "appProtocol" in port:
        errors += checks.qualified_name(f"{path}.appProtocol", port["appProtocol"])
    return errors


class EndpointSliceStrategy(Strategy):
    """The rules of EndpointSlices."""

    status_field = ""
    has_generation = True

    def default(self, obj: Tree) -> None:
        """Ports are TCP and have a name, if an empty one; the list is there."""
        obj.setdefault("endpoints", [])
        for port in items(obj, "ports"):
            port.setdefault("name", "")
            port.setdefault("protocol", "TCP")

    def changes_generation(self, new: Tree, old: Tree) -> bool:
        """Everything but metadata counts, and of that the labels."""
        return labels(new) != labels(old) or any(
            not same(new.get(key), old.get(key)) for key in ("addressType", "endpoints", "ports"))

    def validate(self, obj: Tree, context: Context) -> Errors:
        """Endpoints of one kind of address, and the ports that they share."""
        kind = obj.get("addressType") or ""
        errors: Errors = []
        if kind not in ADDRESS_TYPES:
            errors.append(not_supported("addressType", kind, ADDRESS_TYPES) if kind else required("addressType"))
        endpoints, ports = items(obj, "endpoints"), items(obj, "ports")
        if len(endpoints) > MAX_ENDPOINTS:
            errors.append(too_many("endpoints", len(endpoints), MAX_ENDPOINTS))
        else:
            for index, endpoint in enumerate(endpoints):
                errors += _endpoint(endpoint, kind, f"endpoints[{index}]")
        if len(ports) > MAX_PORTS:
            return [*errors, too_many("ports", len(ports), MAX_PORTS)]
        return errors + _slice_ports(ports)

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """The kind of address is fixed."""
        return immutable("addressType", new.get("addressType"), old.get("addressType"))


def _endpoint(endpoint: Tree, kind: str, path: str) -> Errors:
    errors: Errors = []
    addresses = items(endpoint, "addresses")
    if not addresses:
        errors.append(required(f"{path}.addresses", "must contain at least 1 address"))
    elif len(addresses) > MAX_ADDRESSES:
        errors.append(too_many(f"{path}.addresses", len(addresses), MAX_ADDRESSES))
    for index, address in enumerate(addresses):
        at = f"{path}.addresses[{index}]"
        if kind in ("IPv4", "IPv6"):
            errors += checks.family(at, address, int(kind[-1]))
            errors += checks.non_special_ip(at, address)
        elif kind == "FQDN":
            errors += checks.dns_subdomain(at, address.removesuffix("."))
            if "." not in address.removesuffix("."):
                errors.append(invalid(at, address, "should be a domain with at least two segments separated by dots"))
    if "nodeName" in endpoint:
        errors += checks.dns_subdomain(f"{path}.nodeName", endpoint["nodeName"])
    errors += checks.labels(f"{path}.deprecatedTopology", part(endpoint, "deprecatedTopology"))
    if "hostname" in endpoint:
        errors += checks.dns_label(f"{path}.hostname", endpoint["hostname"])
    zones = items(endpoint.get("hints"), "forZones")
    if len(zones) > MAX_ZONES:
        return [*errors, too_many(f"{path}.hints", len(zones), MAX_ZONES)]
    seen: set[str] = set()
    for index, zone in enumerate(zones):
        at, name = f"{path}.hints.forZones[{index}].name", zone.get("name") or ""
        if name in seen:
            errors.append(duplicate(at, name))
        seen.add(name)
        errors += checks.qualified_name(at, name)
    return errors


def _slice_ports(ports: list[Tree]) -> Errors:
    errors: Errors = []
    seen: set[str] = set()
    for index, port in enumerate(ports):
        at, name = f"ports[{index}]", port.get("name") or ""
        if name:
            errors += checks.dns_label(f"{at}.name", name)
        if name in seen:
            errors.append(duplicate(f"{at}.name", name))
        seen.add(name)
        if "port" in port:
            errors += checks.port_number(f"{at}.port", port["port"])
        errors += checks.protocol(f"{at}.protocol", port.get("protocol") or "")
        if "appProtocol" in port:
            errors += checks.qualified_name(f"{at}.appProtocol", port["appProtocol"])
    return errors
