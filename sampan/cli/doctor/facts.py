"""What `gather` finds on a host, as values. None stands for what could not be looked at; `Facts.unknown` says why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sampan.cli import engine, preflight
from sampan.cli.certs import Certificate
from sampan.cli.doctor.site import Port, Site

Version = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Rules:
    """The filter table of one flavour of iptables: the policy of FORWARD, and each chain's rules in their order."""

    policy: str = "ACCEPT"
    chains: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def used(self) -> bool:
        """Whether anybody wrote anything into it."""
        return self.policy != "ACCEPT" or any(self.chains.values())


@dataclass(frozen=True, slots=True)
class Iptables:
    """`flavour` is nf_tables or legacy; `other` is the table of the one that the command `iptables` is not."""

    version: Version
    flavour: str
    rules: Rules = Rules()
    other: Rules = Rules()


@dataclass(frozen=True, slots=True)
class Firewalld:
    """A running firewalld. `zone` is that of the node's interface; the trusted sources are those of zone `trusted`."""

    zone: str
    ports: Sequence[Port] = ()
    accepts_all: bool = False
    trusted: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Let:
    """A rule of ufw that lets packets in: from `source` ("": from everywhere) to `port` (None: to all)."""

    source: str = ""
    port: Port | None = None


@dataclass(frozen=True, slots=True)
class Ufw:
    """An active ufw: what it does with incoming packets by default (allow, deny, reject), and whom it lets in."""

    incoming: str = "deny"
    let: Sequence[Let] = ()


@dataclass(frozen=True, slots=True)
class Kernel:
    """`absent` are modules that are not loaded, and whether they could be; `settings` are sysctls that are there."""

    absent: Mapping[str, bool]
    settings: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Disk:
    """A file system by a folder on it; bytes, and inodes as counts (0 where it has no fixed number)."""

    folder: str
    total: int
    available: int
    inodes: int = 0
    inodes_free: int = 0


@dataclass(frozen=True, slots=True)
class Reached:
    """A port of the master's: `problem` is None where it answers."""

    what: str
    place: str
    problem: preflight.Problem | None = None


@dataclass(frozen=True, slots=True)
class Names:
    """How the cluster's DNS answered: `problem` "" where it did. `routed`: whether the host has a route to it."""

    address: str
    problem: str = ""
    routed: bool = True


@dataclass(frozen=True, slots=True)
class Resolver:
    """The host's name servers: those in its resolv.conf, and those in systemd-resolved's file behind it."""

    path: str
    servers: Sequence[str] = ()
    behind: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that the checks look at. Times in seconds."""

    site: Site
    now: datetime
    kernel: Kernel | None = None
    missing_commands: Sequence[str] = ()
    iptables: Iptables | None = None
    firewalld: Firewalld | None = None
    ufw: Ufw | None = None
    engine: engine.EngineFacts | preflight.Problem | None = None
    daemon_json: bool = False
    disks: Sequence[Disk] = ()
    certificates: Sequence[Certificate] = ()
    units: Mapping[str, bool] = field(default_factory=dict)
    """Whether the services that this host should have run."""
    reached: Sequence[Reached] = ()
    skew: float | None = None
    """How far this host's clock is ahead of the master's."""
    names: Names | None = None
    resolver: Resolver | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)
