"""From a pod's spec to what the engine is asked to create: the infra container and the containers that join it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_changes
from typing import Literal

from agent.engine.protocol import ContainerSpec, Image, Limits, Mount
from agent.pods import labels
from agent.pods.environment import expand
from agent.pods.files import own_hostname
from agent.pods.model import is_sidecar, pod_text
from agent.pods.resources import INFRA_OOM_SCORE, container_limits
from netplugin.protocol import HostPort
from sampan.api.types import core_v1

_PROTOCOLS: Mapping[str, Literal["TCP", "UDP", "SCTP"]] = {"TCP": "TCP", "UDP": "UDP", "SCTP": "SCTP"}
_PROPAGATION = {"HostToContainer": "rslave", "Bidirectional": "rshared"}


class ConfigFailure(Exception):
    """The container cannot be made as its spec says; CreateContainerConfigError with this message."""


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What goes into a container beside its spec: resolved mounts, variables, identity, and where it is to run."""

    node: str
    attempt: int
    backoff: float
    sandbox_id: str
    cgroup_parent: str
    memory_capacity: int
    environment: Mapping[str, str] = field(default_factory=dict)
    mounts: Sequence[Mount] = ()
    message_file: str = ""
    oom_floor: int = -1000
    image_user: str = ""


def sandbox_spec(pod: core_v1.Pod, image: str, node: str, attempt: int, cgroup_parent: str,
                 oom_floor: int = -1000, domain: str = "cluster.local") -> ContainerSpec:
    """The infra container: it owns the pod's network, IPC and, if shared, PID namespaces, and does nothing else."""
    spec = pod.spec
    context = spec.security_context or core_v1.PodSecurityContext()
    host = bool(spec.host_network)
    sysctls = {entry.name.replace("/", "."): entry.value for entry in context.sysctls}
    return ContainerSpec(
        name=labels.container_name(pod, labels.INFRA_NAME, attempt), image=image,
        labels=labels.sandbox_labels(pod, node, attempt), hostname="" if host else own_hostname(pod, domain),
        network_mode="host" if host else "none", ipc_mode="host" if spec.host_ipc else "shareable",
        pid_mode="host" if spec.host_pid else "", uts_mode="host" if host else "", cgroup_parent=cgroup_parent,
        limits=Limits(cpu_shares=2, oom_score_adj=max(INFRA_OOM_SCORE, oom_floor)), sysctls=sysctls)


def container_spec(pod: core_v1.Pod, container: core_v1.Container, parts: Ingredients) -> ContainerSpec:
    """An app or init container of the pod."""
    security = container.security_context or core_v1.SecurityContext()
    pod_security = pod.spec.security_context or core_v1.PodSecurityContext()
    capabilities = security.capabilities or core_v1.Capabilities()
    limits = container_limits(pod, container, parts.memory_capacity)
    infra = f"container:{parts.sandbox_id}"
    groups = list(dict.fromkeys([*pod_security.supplemental_groups,
                                 *([pod_security.fs_group] if pod_security.fs_group is not None else [])]))
    return ContainerSpec(
        name=labels.container_name(pod, container.name, parts.attempt), image=container.image or "",
        command=[expand(word, parts.environment) for word in container.command] or None,
        args=[expand(word, parts.environment) for word in container.args] or None,
        env=dict(parts.environment),
        labels=labels.container_labels(pod, container, parts.node, attempt=parts.attempt, backoff=parts.backoff,
                                       sandbox_id=parts.sandbox_id, message_file=parts.message_file),
        mounts=parts.mounts, working_dir=container.working_dir or "",
        user=_user(security, pod_security, parts.image_user), groups=groups,
        network_mode=infra, ipc_mode="host" if pod.spec.host_ipc else infra,
        pid_mode="host" if pod.spec.host_pid else infra if pod.spec.share_process_namespace else "",
        uts_mode="host" if pod.spec.host_network else "", cgroup_parent=parts.cgroup_parent,
        limits=with_changes(limits, oom_score_adj=max(limits.oom_score_adj, parts.oom_floor)),
        tty=bool(container.tty), stdin=bool(container.stdin), stdin_once=bool(container.stdin_once),
        privileged=bool(security.privileged), read_only_root=bool(security.read_only_root_filesystem),
        capabilities_add=tuple(capabilities.add), capabilities_drop=tuple(capabilities.drop),
        security_options=_security_options(security, pod_security))


def volume_mount(mount: core_v1.VolumeMount, source: str, *, read_only: bool) -> Mount:
    """One volumeMount with its volume's (or subPath's) place on the host."""
    return Mount(source, mount.mount_path, read_only or bool(mount.read_only),
                 _PROPAGATION.get(mount.mount_propagation or "", ""))


def host_ports(pod: core_v1.Pod) -> list[HostPort]:
    """Ports of the node that lead to the pod; none for one that uses the node's network itself.

    Containers that end before the pod's own begin have none, as upstream's kubelet has it.
    """
    if pod.spec.host_network:
        return []
    return [HostPort(port.host_port, port.container_port, _PROTOCOLS[port.protocol or "TCP"], port.host_ip or "")
            for container in (*filter(is_sidecar, pod.spec.init_containers), *pod.spec.containers)
            for port in container.ports if port.host_port and (port.protocol or "TCP") in _PROTOCOLS]


def check_non_root(pod: core_v1.Pod, container: core_v1.Container, image: Image) -> None:
    """Enforce runAsNonRoot; ConfigFailure in upstream's words."""
    security = container.security_context or core_v1.SecurityContext()
    pod_security = pod.spec.security_context or core_v1.PodSecurityContext()
    wanted = security.run_as_non_root if security.run_as_non_root is not None else pod_security.run_as_non_root
    if not wanted:
        return
    user = security.run_as_user if security.run_as_user is not None else pod_security.run_as_user
    where = f'(pod: "{pod_text(pod)}", container: {container.name})'
    if user is not None:
        if user == 0:
            raise ConfigFailure(f"container's runAsUser breaks non-root policy {where}")
        return
    name = image.user.partition(":")[0]
    if not name.strip("0"):  # no user is root, and so are 0 and 00
        raise ConfigFailure(f"container has runAsNonRoot and image will run as root {where}")
    if not (name.isascii() and name.isdigit()):
        raise ConfigFailure(f"container has runAsNonRoot and image has non-numeric user ({name}), "
                            f"cannot verify user is non-root {where}")


def needs_image_user(pod: core_v1.Pod, container: core_v1.Container) -> bool:
    """Whether the image's user matters: runAsNonRoot looks at it, and a group alone goes with it."""
    contexts = [context for context in (container.security_context, pod.spec.security_context) if context]
    return any(context.run_as_non_root or context.run_as_group is not None for context in contexts)


def _user(security: core_v1.SecurityContext, pod_security: core_v1.PodSecurityContext, image_user: str) -> str:
    user = security.run_as_user if security.run_as_user is not None else pod_security.run_as_user
    group = security.run_as_group if security.run_as_group is not None else pod_security.run_as_group
    name = image_user.partition(":")[0] or "0"
    if group is None:
        return "" if user is None else str(user)
    return f"{name if user is None else user}:{group}"


def _security_options(security: core_v1.SecurityContext, pod_security: core_v1.PodSecurityContext) -> tuple[str, ...]:
    """no-new-privileges, seccomp, AppArmor, SELinux. Without a seccomp profile Docker's default one holds."""
    options = []
    if security.allow_privilege_escalation is False:
        options.append("no-new-privileges")
    seccomp = security.seccomp_profile or pod_security.seccomp_profile
    if seccomp and seccomp.type == "Localhost":
        raise ConfigFailure("seccomp profiles of type Localhost are not supported")
    if seccomp and seccomp.type == "Unconfined":
        options.append("seccomp=unconfined")
    apparmor = security.app_armor_profile or pod_security.app_armor_profile
    if apparmor and apparmor.type == "Unconfined":
        options.append("apparmor=unconfined")
    elif apparmor and apparmor.type == "Localhost":
        options.append(f"apparmor={apparmor.localhost_profile}")
    selinux = security.se_linux_options or pod_security.se_linux_options
    if selinux:
        parts = {"user": selinux.user, "role": selinux.role, "type": selinux.type, "level": selinux.level}
        options += [f"label={name}:{value}" for name, value in parts.items() if value]
    return tuple(options)
