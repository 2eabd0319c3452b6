"""What breaks clusters on hosts, beside firewalls. Each check is a function of the facts; pure."""

from __future__ import annotations

import ipaddress
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from sampan.cli import engine, preflight
from sampan.cli.doctor import firewall
from sampan.cli.doctor.facts import Disk, Facts
from sampan.cli.doctor.findings import Finding, fault, ok, warning
from sampan.cli.preflight import Problem

Check = Callable[[Facts], Iterator[Finding]]

IP_FORWARD, BRIDGE_NF = "net.ipv4.ip_forward", "net.bridge.bridge-nf-call-iptables"
INSTANCES, WATCHES = "fs.inotify.max_user_instances", "fs.inotify.max_user_watches"
SETTINGS: Mapping[str, tuple[int, int]] = {INSTANCES: (512, 8192), WATCHES: (65536, 524288)}
"""The least that is enough for a node, and what systemd/sampan.sysctl.conf sets."""
SYSCTL_FILE, MODULES_FILE = "/etc/sysctl.d/60-sampan.conf", "/etc/modules-load.d/sampan.conf"
DAEMON_JSON = "/etc/docker/daemon.json"
DISK_FAULT, DISK_WARNING, INODE_FAULT = 0.10, 0.15, 0.05
"""Shares that are free: below the first and the last the node has DiskPressure (agent/node/status.py)."""
SKEW_FAULT, SKEW_WARNING = 120.0, 5.0
"""Seconds; beyond the first certificates may not be valid yet (docs/hosts.md)."""
DAYS_WARNING = 30
"""As docs/prometheus/rules.yml: what is renewed in time never gets there."""
RESOLVED_STUB, RESOLVED_FILE = "127.0.0.53", "/run/systemd/resolve/resolv.conf"


def judge(facts: Facts) -> list[Finding]:
    """All findings, in the order in which one thing rests on another; last what could not be looked at."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return found + [warning(name, f"could not be looked at: {why}") for name, why in facts.unknown.items()]


# The kernel

def check_modules(facts: Facts) -> Iterator[Finding]:
    """Bridges, tunnels and connection tracking are modules on most hosts."""
    if facts.kernel is None:
        return
    for name, loadable in facts.kernel.absent.items():
        if loadable:
            yield fault("kernel modules", f"{name} is not loaded", f"modprobe {name}",
                        f"grep -qx {name} {MODULES_FILE} || echo {name} >>{MODULES_FILE}")
        else:
            problem = preflight.module_problem(name)
            yield fault("kernel modules", f"{problem.what}: {problem.hint}")
    if not facts.kernel.absent:
        yield ok("kernel modules", ", ".join(preflight.MODULES))


def check_settings(facts: Facts) -> Iterator[Finding]:
    """What the kernel must do with pods' packets, and how many files may be watched."""
    if facts.kernel is None:
        return
    settings = facts.kernel.settings
    if settings.get(IP_FORWARD) == 0:
        yield fault("sysctl", f"{IP_FORWARD} is 0: no packet gets from one interface to another", *_set(IP_FORWARD, 1))
    if settings.get(BRIDGE_NF) == 0:
        yield fault("sysctl", f"{BRIDGE_NF} is 0: pods of one node do not reach each other by their Services",
                    *_set(BRIDGE_NF, 1))
    for name, (least, ours) in SETTINGS.items():
        if settings.get(name, least) < least:
            yield warning("sysctl", f"{name} is {settings[name]}: too few for several engines, agents and watchers",
                          *_set(name, ours))
    enough = all(settings.get(name, least) >= least for name, (least, _) in SETTINGS.items())
    if enough and settings.get(IP_FORWARD, 1) and settings.get(BRIDGE_NF, 1):
        yield ok("sysctl", "packets are forwarded, pods' pass iptables, enough files can be watched")


def _set(name: str, value: int) -> tuple[str, str]:
    return f"sysctl -w {name}={value}", f"echo '{name} = {value}' >>{SYSCTL_FILE}"


# Docker

def check_docker(facts: Facts) -> Iterator[Finding]:
    """Whether pods can run on this engine, and survive its restart."""
    found = facts.engine
    if found is None:
        return
    if isinstance(found, Problem):
        stopped = ["systemctl enable --now docker"] if "does not answer" in found.what else []
        yield fault("Docker", found.what if stopped else f"{found.what}: {found.hint}", *stopped)
        return
    if complaint := engine.problem(found):
        what, hint = complaint
        yield fault("Docker", f"{what}: {hint}", *(["snap remove docker"] if "snap" in what else []))
        return
    yield ok("Docker", found.version)
    if found.live_restore:
        yield ok("Docker", "live-restore is on")
    else:
        yield warning("Docker", "live-restore is off: containers end when Docker is restarted or upgraded",
                      *live_restore_commands(facts.daemon_json))
    if found.log_plugins and "json-file" not in found.log_plugins:
        yield fault("Docker", f"it has no log driver json-file, by which pods log: {engine.INSTALL}")
    else:
        yield ok("Docker", "pods log by json-file" + (
            f"; {found.log_driver}, Docker's own default, is for other containers"
            if found.log_driver not in ("", "json-file") else ""))
    if found.selinux:
        yield fault("Docker", "it confines containers by SELinux, and pods' volumes have no labels with which they "
                    "could be read: take selinux-enabled out where it is set, and restart Docker",
                    "grep -rn selinux-enabled /etc/docker /etc/sysconfig /etc/systemd/system")


def live_restore_commands(file_there: bool) -> list[str]:
    """Docker reads this setting anew without a restart."""
    setting = '{"live-restore": true}'
    if not file_there:
        return [f"mkdir -p /etc/docker && echo '{setting}' >{DAEMON_JSON}", "systemctl reload docker"]
    program = (f"import json; p = '{DAEMON_JSON}'; d = json.load(open(p)) | {{'live-restore': True}}; "
               "json.dump(d, open(p, 'w'), indent=2)")
    return [f"python3 -c {shlex.quote(program)}", "systemctl reload docker"]


# Disks, certificates, services

def check_disks(facts: Facts) -> Iterator[Finding]:
    """A full disk is what stops Docker, the store and the logs at once."""
    for disk in facts.disks:
        room = disk.available / disk.total if disk.total else 1.0
        nodes = disk.inodes_free / disk.inodes if disk.inodes else 1.0
        text = f"{room:.0%} of the file system of {disk.folder} is free"
        if room < DISK_FAULT:
            yield fault("disk", f"{text}: the node takes no pods (DiskPressure)", *_space(disk))
        elif nodes < INODE_FAULT:
            yield fault("disk", f"{nodes:.0%} of its inodes are free ({disk.folder}): the node takes no pods",
                        f"du --inodes -xd 3 {disk.folder} | sort -n | tail")
        elif room < DISK_WARNING:
            yield warning("disk", text, *_space(disk))
        else:
            yield ok("disk", text)


def _space(disk: Disk) -> Sequence[str]:
    return (f"du -xhd 3 {disk.folder} | sort -h | tail   # what takes the room",
            "docker image prune                 # images without a name", "journalctl --vacuum-size=200M")


def check_certificates(facts: Facts) -> Iterator[Finding]:
    """They are renewed while master and agent run; one that is near its end was not."""
    for item in facts.certificates:
        days = (item.expires - facts.now).total_seconds() / 86400
        text = f"{item.name} {'ended' if days <= 0 else 'ends'} on {item.expires:%Y-%m-%d}"
        if days <= 0:
            yield fault("certificates", text, *renewal(item.name, facts, expired=True))
        elif days < DAYS_WARNING:
            yield warning("certificates", f"{text}: it should have been renewed by now",
                          *renewal(item.name, facts, expired=False))
    if facts.certificates and all((item.expires - facts.now).days >= DAYS_WARNING for item in facts.certificates):
        first = min(facts.certificates, key=lambda item: item.expires)
        yield ok("certificates", f"the first to end is {first.name}, on {first.expires:%Y-%m-%d}")


def renewal(name: str, facts: Facts, *, expired: bool) -> list[str]:
    """What gets another certificate of that name. The CA's takes a new cluster."""
    match name:
        case "ca":
            return []
        case "kubeconfig":
            return ["sampan kubeconfig >/dev/null"]
        case "node" if expired and facts.site.server:
            host, port = facts.site.server
            return ["sampan token create --print-join-command   # on the master's host", "sampan reset",
                    f"sampan join https://{host}:{port} --token … --ca-hash …"]
        case "node":
            return [facts.site.restart("agent"), facts.site.log("agent")]
        case _:
            return [f"sampan certs renew {name}"]


def check_units(facts: Facts) -> Iterator[Finding]:
    """What this host was made for runs."""
    for name, running in facts.units.items():
        if running:
            yield ok("services", f"the {name} runs")
        else:
            yield fault("services", f"the {name} does not run", facts.site.start(name), facts.site.log(name))
    if not facts.site.master and not facts.site.agent:
        yield ok("services", "this host is in no cluster: see sampan up, sampan join")


# The way to the master, names

def check_master(facts: Facts) -> Iterator[Finding]:
    """Agents dial out to both ports."""
    for item in facts.reached:
        if item.problem is None:
            yield ok("master", f"{item.what} answers at {item.place}")
        else:
            yield fault("master", f"{item.problem.what}: {item.problem.hint}")


def check_clock(facts: Facts) -> Iterator[Finding]:
    """Certificates begin when the master's clock says so."""
    if facts.skew is None:
        return
    seconds = abs(facts.skew)
    if seconds <= SKEW_WARNING:
        yield ok("clock", "as the master's")
        return
    text = f"{seconds:.0f} s {'ahead of' if facts.skew > 0 else 'behind'} the master's"
    commands = ("timedatectl set-ntp true", "timedatectl timesync-status || chronyc tracking")
    yield fault("clock", text, *commands) if seconds > SKEW_FAULT else warning("clock", text, *commands)


def check_dns(facts: Facts) -> Iterator[Finding]:
    """Every agent answers at the cluster's DNS address, for its own host."""
    if (found := facts.names) is None:
        return
    if not found.problem:
        yield ok("cluster DNS", f"answers at {found.address}")
    elif not found.routed:
        yield warning("cluster DNS", f"this host has no route to {found.address}, as it has no default route: its own "
                      "programs and pods with hostNetwork do not reach Services; other pods do",
                      f"ip route add {_services(found.address, facts)} dev {firewall.BRIDGE}")
    elif not facts.units.get("agent", True):
        yield fault("cluster DNS", f"{found.address}: {found.problem}; it is the agent that answers there",
                    facts.site.start("agent"))
    else:
        yield fault("cluster DNS", f"{found.address}: {found.problem}", facts.site.log("agent"),
                    f"iptables-save -t nat | grep {found.address}   # the agent's rules for it")


def _services(address: str, facts: Facts) -> str:
    """The network of the Services' addresses; only the master's host knows it, if it is not the default."""
    network = facts.site.service_cidr
    return network if ipaddress.ip_address(address) in ipaddress.ip_network(network) else address


def check_resolver(facts: Facts) -> Iterator[Finding]:
    """A name server on this host's loopback is out of pods' reach; and systemd-resolved's is a trap for forwarders."""
    if (found := facts.resolver) is None:
        return
    servers = found.servers
    if RESOLVED_STUB in servers:
        servers = found.behind or servers
    far = [server for server in servers if not server.startswith("127.") and server != "::1"]
    if far and RESOLVED_STUB in found.servers:
        yield ok("resolv.conf", f"systemd-resolved's; pods get the servers behind it: {', '.join(far)}")
    elif far:
        yield ok("resolv.conf", f"name servers: {', '.join(far)}")
    elif RESOLVED_STUB in found.servers:
        yield fault("resolv.conf", f"{found.path} names systemd-resolved's {RESOLVED_STUB}, and {RESOLVED_FILE} has no "
                    "servers: names outside of the cluster are not found", "resolvectl status   # which servers it has",
                    "resolvectl dns INTERFACE SERVER    # give it some")
    elif servers:
        yield warning("resolv.conf", f"{found.path} names only this host itself ({', '.join(servers)}): pods with "
                      "dnsPolicy Default find no names; give the agent another file",
                      f"echo 'resolv-conf: /etc/resolv.upstream.conf' >>{facts.site.paths.agent_config}",
                      facts.site.restart("agent"))
    else:
        yield warning("resolv.conf", f"{found.path} names no server: names outside of the cluster are not found")


CHECKS: Sequence[Check] = (
    check_modules, check_settings, firewall.check_iptables, firewall.check_forward, firewall.check_firewalld,
    firewall.check_ufw, check_docker, check_disks, check_units, check_master, check_clock, check_certificates,
    check_dns, check_resolver)
