"""The small files that a pod gets from the agent: /etc/hosts, /etc/hostname, /etc/resolv.conf, termination messages.

They live under <root>/pods/<uid>/ and are mounted into containers, so a file that exists is written in place.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

from agent.pods.dns import DnsSettings, Resolver
from sampan.api.types import core_v1

MESSAGE_LIMIT = 4096
HOSTS_HEADER = "# Kubernetes-managed hosts file.\n"
HOSTNAME_LIMIT = 64
HOST_NETWORK_HEADER = "# Kubernetes-managed hosts file (host network).\n"


class HostnameFailure(Exception):
    """The pod cannot have the host name that it asks for; the message says why, as upstream does."""


class PodFiles:
    """The pods' directories below `root`; volumes keep theirs beside, in <uid>/volumes."""

    def __init__(self, root: Path, host_hosts: Path = Path("/etc/hosts")) -> None:
        self._root = root
        self._host_hosts = host_hosts

    def directory(self, uid: str) -> Path:
        """A pod's own directory."""
        return self._root / uid

    def write_hosts(self, pod: core_v1.Pod, ip: str, domain: str) -> str:
        """Write the pod's /etc/hosts, with its address once that is known; returns the path."""
        if pod.spec.host_network:
            try:
                text = HOST_NETWORK_HEADER + self._host_hosts.read_text(encoding="utf-8", errors="replace")
            except OSError:
                text = HOST_NETWORK_HEADER
        else:
            text = hosts(pod, ip, domain)
        return self._write(pod, "etc-hosts", text + aliases(pod))

    def write(self, pod: core_v1.Pod, ip: str, dns: DnsSettings) -> dict[str, str]:
        """Write the files; returns where each is to be found in containers, and its path here. HostnameFailure."""
        own = {"/etc/hosts": self.write_hosts(pod, ip, dns.cluster_domain),
               "/etc/resolv.conf": self.write_resolver(pod, dns.resolver(pod))}
        if not pod.spec.host_network:  # newer engines write none for a container whose network they leave alone
            own["/etc/hostname"] = self._write(pod, "hostname", own_hostname(pod, dns.cluster_domain) + "\n")
        return own

    def write_resolver(self, pod: core_v1.Pod, resolver: Resolver) -> str:
        """Write the pod's /etc/resolv.conf; returns the path."""
        return self._write(pod, "resolv.conf", str(resolver))

    def new_message_file(self, pod: core_v1.Pod, container: str) -> str:
        """An empty file for one container's termination message, writable by whatever user it runs as."""
        folder = self.directory(pod.metadata.uid) / "containers" / container
        folder.mkdir(parents=True, exist_ok=True, mode=0o750)
        path = folder / secrets.token_hex(4)
        path.touch()
        path.chmod(0o666)
        return str(path)

    def read_message(self, path: str) -> str:
        """What a container left in its message file, the end of a long one; "" for nothing. Only ours are read."""
        file = Path(path)
        if not path or not file.is_relative_to(self._root):
            return ""
        try:
            with file.open("rb") as handle:
                handle.seek(max(0, handle.seek(0, os.SEEK_END) - MESSAGE_LIMIT))
                return handle.read(MESSAGE_LIMIT).decode(errors="replace")
        except OSError:
            return ""

    def exists(self, uid: str) -> bool:
        """Whether the pod has a directory."""
        return self.directory(uid).is_dir()

    def known(self) -> set[str]:
        """UIDs of all pods that have one."""
        return {entry.name for entry in self._root.iterdir() if entry.is_dir()} if self._root.is_dir() else set()

    def remove(self, uid: str) -> None:
        """Remove what this class wrote, and the directory where that leaves it empty."""
        folder = self.directory(uid)
        for name in ("etc-hosts", "resolv.conf", "hostname"):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / "containers", ignore_errors=True)
        try:
            folder.rmdir()
        except OSError:
            return  # volumes are still there, or nothing is: their own teardown ends it

    def _write(self, pod: core_v1.Pod, name: str, text: str) -> str:
        path = self.directory(pod.metadata.uid) / name
        try:
            if path.read_bytes() == text.encode():  # containers may have written there whatever they like
                return str(path)
        except OSError:
            self._root.mkdir(parents=True, exist_ok=True, mode=0o750)
            path.parent.mkdir(exist_ok=True, mode=0o750)
        with path.open("w", encoding="utf-8") as handle:
            handle.write(text)
        path.chmod(0o644)
        return str(path)


def hostname(pod: core_v1.Pod) -> str:
    """The pod's host name: what it asks for, or its name, cut to what Linux allows."""
    return (pod.spec.hostname or pod.metadata.name)[:63].rstrip("-.")


def own_hostname(pod: core_v1.Pod, domain: str) -> str:
    """What the kernel calls the pod: its host name, or with setHostnameAsFQDN its whole name; HostnameFailure."""
    short = hostname(pod)
    if not (pod.spec.set_hostname_as_fqdn and pod.spec.subdomain):
        return short
    whole = f"{short}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{domain}"
    if len(whole) > HOSTNAME_LIMIT:
        raise HostnameFailure(f"Failed to construct FQDN from Pod hostname and cluster domain, FQDN {whole} is too "
                              f"long ({HOSTNAME_LIMIT} is the max, {len(whole)} characters requested).")
    return whole


def hosts(pod: core_v1.Pod, ip: str, domain: str) -> str:
    """The managed /etc/hosts of a pod with its own network."""
    text = (f"{HOSTS_HEADER}127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n"
            "fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
    if not ip:
        return text
    name = hostname(pod)
    if pod.spec.subdomain:
        return f"{text}{ip}\t{name}.{pod.spec.subdomain}.{pod.metadata.namespace}.svc.{domain}\t{name}\n"
    return f"{text}{ip}\t{name}\n"


def aliases(pod: core_v1.Pod) -> str:
    """The lines of spec.hostAliases."""
    if not pod.spec.host_aliases:
        return ""
    lines = [f"{alias.ip}\t" + "\t".join(alias.hostnames) for alias in pod.spec.host_aliases]
    return "\n# Entries added by HostAliases.\n" + "\n".join(lines) + "\n"
