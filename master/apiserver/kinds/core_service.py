"""Services: defaults, what depends on their type, and their addresses and node ports from the pools."""

from __future__ import annotations

from ipaddress import ip_address

from master.apiserver.kinds import checks, service_update, service_validation
from master.apiserver.kinds.allocator import ClusterIPs, NodePorts, PoolError, ports_of
from master.apiserver.kinds.common import (
    Errors,
    Tree,
    child,
    drop_unset,
    go_strings,
    items,
    keep,
    metadata,
    notes,
    part,
    set_default,
    spec,
    status,
)
from master.apiserver.kinds.service_types import (
    cluster_ips,
    is_external,
    is_headless,
    needs_cluster_ip,
    needs_health_check,
    needs_node_ports,
)
from master.apiserver.strategy import Context, Strategy
from sampan.api.errors import FieldError, internal_error, invalid, invalid_object

CLIENT_IP_SECONDS = 10800
"""How long sessionAffinity ClientIP remembers a client: three hours."""
_OLD_HINTS = "service.kubernetes.io/topology-aware-hints"


class ServiceStrategy(Strategy):
    """The rules of Services."""

    name_rule = "service"
    allow_create_on_update = True

    def __init__(self, addresses: ClusterIPs, ports: NodePorts) -> None:
        self._addresses = addresses
        self._ports = ports

    def default(self, obj: Tree) -> None:
        """pkg/apis/core/v1/defaults.go, SetDefaults_Service."""
        tree = child(obj, "spec")
        drop_unset(tree, ("ports", "selector", "externalIPs", "externalName", "loadBalancerIP",
                          "loadBalancerSourceRanges", "publishNotReadyAddresses", "healthCheckNodePort",
                          "externalTrafficPolicy", "clusterIP", "clusterIPs", "ipFamilies"))
        _default_affinity(tree)
        set_default(tree, "type", "ClusterIP")
        for port in items(tree, "ports"):
            drop_unset(port, ("name", "nodePort"))
            set_default(port, "protocol", "TCP")
            if not port.get("targetPort") and port.get("port"):
                port["targetPort"] = port["port"]
        if is_external(tree):
            set_default(tree, "externalTrafficPolicy", "Cluster")
        if needs_cluster_ip(tree):
            set_default(tree, "internalTrafficPolicy", "Cluster")
        if tree["type"] == "LoadBalancer":
            tree.setdefault("allocateLoadBalancerNodePorts", True)
            for ingress in items(part(status(obj), "loadBalancer"), "ingress"):
                if ingress.get("ip"):
                    ingress.setdefault("ipMode", "VIP")
        child(child(obj, "status"), "loadBalancer")

    def prepare_create(self, obj: Tree, context: Context) -> None:
        """No status yet; clusterIP and clusterIPs say the same; one address family."""
        obj["status"] = {"loadBalancer": {}}
        tree = spec(obj)
        if tree.get("clusterIP") and not tree.get("clusterIPs"):
            tree["clusterIPs"] = [tree["clusterIP"]]
        _default_families(tree)

    def prepare_update(self, new: Tree, old: Tree, context: Context) -> None:
        """Carry over what was allocated; drop what the new type has no use for."""
        if context.subresource == "status":
            keep(new, old, "spec")
            return
        keep(new, old, "status")
        service_update.carry_over(spec(new), spec(old))
        service_update.normalize_addresses(spec(new), spec(old))
        service_update.drop_useless(new, old)
        _default_families(spec(new))

    def validate(self, obj: Tree, context: Context) -> Errors:
        """See service_validation."""
        return [] if context.subresource == "status" else service_validation.service(obj)

    def validate_update(self, new: Tree, old: Tree, context: Context) -> Errors:
        """Addresses stay what they are."""
        if context.subresource == "status":
            return service_validation.load_balancer_status(new)
        return service_validation.update(spec(new), spec(old))

    def warnings(self, obj: Tree) -> list[str]:
        """Fields that will do nothing."""
        tree = spec(obj)
        warnings = [f"annotation {_OLD_HINTS} is deprecated, please use service.kubernetes.io/topology-mode instead"
                    ] if _OLD_HINTS in notes(obj) else []
        for index, address in enumerate(cluster_ips(tree)):
            if address != "None":
                warnings += _address_warning(f"spec.clusterIPs[{index}]", address)
        if is_headless(tree):
            if tree.get("loadBalancerIP"):
                warnings.append("spec.loadBalancerIP is ignored for headless services")
            if items(tree, "externalIPs"):
                warnings.append("spec.externalIPs is ignored for headless services")
            if tree.get("sessionAffinity") not in (None, "", "None"):
                warnings.append("spec.SessionAffinity is ignored for headless services")
        for index, address in enumerate(items(tree, "externalIPs")):
            warnings += _address_warning(f"spec.externalIPs[{index}]", address)
        if tree.get("type") == "ExternalName" and items(tree, "externalIPs"):
            warnings.append('spec.externalIPs is ignored when spec.type is "ExternalName"')
        if tree.get("externalName") and tree.get("type") != "ExternalName":
            warnings.append('spec.externalName is ignored when spec.type is not "ExternalName"')
        return warnings

    def fields(self, obj: Tree) -> dict[str, str]:
        """Type and address."""
        tree = spec(obj)
        return {"spec.clusterIP": tree.get("clusterIP") or "", "spec.type": tree.get("type") or ""}

    async def allocate(self, obj: Tree, context: Context) -> None:
        """Take an address and node ports; on failure give back what was taken already."""
        await self.allocate_update(obj, {"metadata": metadata(obj), "spec": {}}, context)

    async def allocate_update(self, new: Tree, old: Tree, context: Context) -> None:
        """Take what the new type needs beyond what the Service holds; on failure give that back."""
        taken: list[str | int] = []
        before = spec(old)
        try:
            self._take_address(new, before, taken, reserve=not context.dry_run)
            self._take_ports(new, before, taken, reserve=not context.dry_run)
        except PoolError as full:
            self._give_back(taken)
            raise internal_error(str(full)) from full
        except _Refused as refused:
            self._give_back(taken)
            name = metadata(new).get("name") or ""
            raise invalid_object("", "Service", name, [refused.error]) from refused.cause

    async def release(self, obj: Tree, keep: Tree | None = None) -> None:
        """Give back all that the Service holds, but for what `keep` has too."""
        kept = spec(keep or {})
        for address in set(cluster_ips(spec(obj))) - set(cluster_ips(kept)):
            self._addresses.release(address)
        for port in ports_of(spec(obj)) - ports_of(kept):
            self._ports.release(port)

    def _take_address(self, new: Tree, before: Tree, taken: list[str | int], *, reserve: bool) -> None:
        tree = spec(new)
        if not needs_cluster_ip(tree) or is_headless(tree):
            return
        if held := [address for address in cluster_ips(before) if address != "None"]:
            if not cluster_ips(tree):
                tree["clusterIP"], tree["clusterIPs"] = held[0], held
            return
        asked = cluster_ips(tree)
        owner = f"{metadata(new).get('namespace', '')}/{metadata(new).get('name', '')}"
        try:
            address = self._addresses.take(asked[0] if asked else "", owner, reserve=reserve)
        except PoolError as error:
            if not asked:
                raise PoolError(f"failed to allocate a serviceIP: {error}") from error
            raise _Refused(invalid("spec.clusterIPs", go_strings(asked), f"failed to allocate IP {asked[0]}: {error}"),
                           error) from error
        if reserve:
            taken.append(address)
        tree["clusterIP"], tree["clusterIPs"] = address, [address]

    def _take_ports(self, new: Tree, before: Tree, taken: list[str | int], *, reserve: bool) -> None:
        tree = spec(new)
        ports = items(tree, "ports") if needs_node_ports(tree) else []
        held = ports_of(before)
        mine = set(held)  # one number may serve several protocols of the same Service
        optional = tree.get("type") == "LoadBalancer" and not tree.get("allocateLoadBalancerNodePorts")
        # The same port with another protocol (DNS: 53 for TCP and UDP) has the same node port.
        twins = {port.get("port"): port["nodePort"] for port in reversed(ports) if port.get("nodePort")}
        for index, port in enumerate(ports):
            number = port.get("nodePort") or twins.get(port.get("port")) or 0
            if not number and optional:
                continue
            if number not in mine:
                number = self._take_port(f"spec.ports[{index}].nodePort", number, reserve=reserve)
                if reserve:
                    taken.append(number)
            mine.add(number)
            port["nodePort"] = number
            twins.setdefault(port.get("port"), number)
        check = tree.get("healthCheckNodePort") or 0
        if needs_health_check(tree) and (not check or check != before.get("healthCheckNodePort")):
            number = self._take_health_check(check, reserve=reserve)
            tree["healthCheckNodePort"] = number
            if reserve:
                taken.append(number)

    def _take_port(self, path: str, number: int, *, reserve: bool) -> int:
        try:
            return self._ports.take(number, reserve=reserve)
        except PoolError as error:
            if not number:
                raise PoolError(f"failed to allocate a nodePort: {error}") from error
            raise _Refused(invalid(path, number, str(error)), error) from error

    def _take_health_check(self, number: int, *, reserve: bool) -> int:
        try:
            return self._ports.take(number, reserve=reserve)
        except PoolError as error:
            what = f"requested HealthCheck NodePort {number}" if number else "a HealthCheck NodePort"
            raise PoolError(f"failed to allocate {what}: {error}") from error

    def _give_back(self, taken: list[str | int]) -> None:
        for what in taken:
            if isinstance(what, int):
                self._ports.release(what)
            else:
                self._addresses.release(what)


class _Refused(Exception):
    """The pool does not give what the Service asks for by name."""

    def __init__(self, error: FieldError, cause: Exception) -> None:
        super().__init__(str(error))
        self.error = error
        self.cause = cause


def _default_affinity(tree: Tree) -> None:
    set_default(tree, "sessionAffinity", "None")
    if tree["sessionAffinity"] == "None":
        tree.pop("sessionAffinityConfig", None)
    elif tree["sessionAffinity"] == "ClientIP":
        client = part(part(tree, "sessionAffinityConfig"), "clientIP")
        if "timeoutSeconds" not in client:
            tree["sessionAffinityConfig"] = {"clientIP": {"timeoutSeconds": CLIENT_IP_SECONDS}}


def _default_families(tree: Tree) -> None:
    """The cluster has IPv4 only; what is behind a headless Service without selector nobody here knows: it has both."""
    if not needs_cluster_ip(tree):
        return
    anything = is_headless(tree) and not tree.get("selector")
    set_default(tree, "ipFamilyPolicy", "RequireDualStack" if anything else "SingleStack")
    set_default(tree, "ipFamilies", ["IPv4"])
    families = tree["ipFamilies"]
    if anything and tree["ipFamilyPolicy"] != "SingleStack" and len(families) == 1:
        tree["ipFamilies"] = [*families, "IPv4" if families == ["IPv6"] else "IPv6"]


def _address_warning(path: str, address: str) -> list[str]:
    if ":" not in address or checks.ip(path, address) or str(ip_address(address)) == address:
        return []
    return [(f'{path}: IPv6 address "{address}" is not in RFC 5952 canonical format ("{ip_address(address)}"), which '
             "may cause controller apply-loops")]
