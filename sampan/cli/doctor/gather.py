"""Looks at the host: every look has its time limit, and one that fails is told and spoils no other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from sampan.api.errors import ApiError
from sampan.api.resources import SERVICES
from sampan.cli import certs, configure, engine, join, objects, preflight
from sampan.cli.certs import Certificate
from sampan.cli.doctor import looks
from sampan.cli.doctor.facts import Facts, Names
from sampan.cli.doctor.looks import LookError
from sampan.cli.doctor.site import Settings, Site, site
from sampan.cli.paths import Paths
from sampan.cli.progress import CommandError
from sampan.cli.units import Name, SystemdUnits, Units
from sampan.client.http import HttpClient
from sampan.client.kubeconfig import KubeconfigError
from sampan.clusterdns import DEFAULT_DOMAIN, NAME, NAMESPACE, PORT, cluster_domain, cluster_ips
from sampan.pki.ca import CertificateError

T = TypeVar("T")


class Gatherer:
    """Collects the facts of one host at one moment."""

    def __init__(self, paths: Paths, units: Units, docker_host: str) -> None:
        self._paths = paths
        self._units = units
        self._docker_host = docker_host
        self._unknown: dict[str, str] = {}

    async def facts(self) -> Facts:
        """Everything, looked at side by side. CommandError where a configuration file cannot be read."""
        here = self._site()
        async with asyncio.TaskGroup() as group:
            kernel = group.create_task(self._try("kernel", asyncio.to_thread(looks.kernel)))
            tables = group.create_task(self._try("iptables", looks.iptables()))
            daemon = group.create_task(self._try("firewalld", looks.firewalld(here.node_ip, here.node_interface)))
            simple = group.create_task(self._try("ufw", looks.ufw()))
            docker = group.create_task(looks.docker(here.docker_host))
            reached = group.create_task(looks.master(here))
            skew = group.create_task(self._try("clock", looks.clock(here.server)) if here.server else _nothing())
            names = group.create_task(self._try("cluster DNS", self._names(here)) if here.agent else _nothing())
            running = group.create_task(self._try("services", asyncio.to_thread(self._services, here)))
            certificates = group.create_task(self._try("certificates", asyncio.to_thread(self._certificates, here)))
        found = docker.result()
        data = found.root_dir if isinstance(found, engine.EngineFacts) else ""
        return Facts(
            here, datetime.now(UTC), kernel.result(), preflight.missing_commands(), tables.result(), daemon.result(),
            simple.result(), found, looks.daemon_json(), looks.disks([data, *here.folders]),
            certificates.result() or (), running.result() or {}, reached.result(), skew.result(), names.result(),
            looks.resolver(here.resolv_conf), self._unknown)

    async def _try(self, name: str, look: Awaitable[T]) -> T | None:
        """What is found; None where it cannot be, and why is kept."""
        try:
            return await look
        except (LookError, CommandError, ApiError, KubeconfigError, OSError, ValueError) as error:
            self._unknown[name] = str(error)
            return None

    def _site(self) -> Site:
        try:
            return site(_settings(self._paths.master_config), _settings(self._paths.agent_config), self._paths,
                        systemd=isinstance(self._units, SystemdUnits), docker_host=self._docker_host)
        except ValueError as error:
            raise CommandError(f"the configuration in {self._paths.config} cannot be read: {error}") from error

    def _services(self, here: Site) -> dict[str, bool]:
        wanted: dict[Name, bool] = {"master": here.master, "agent": here.agent}
        return {name: self._units.status(name).state == "running" for name, needed in wanted.items() if needed}

    def _certificates(self, here: Site) -> Sequence[Certificate]:
        try:
            return certs.collect(self._paths) if here.master or here.agent else ()
        except CertificateError as error:
            raise LookError(str(error)) from error

    async def _names(self, here: Site) -> Names:
        """Ask the master where the cluster's DNS is, then ask that for the API's own name."""
        address, domain = here.cluster_dns, DEFAULT_DOMAIN
        try:
            async with asyncio.timeout(looks.ANSWER_SECONDS), self._client(here) as client:
                service = await client.get(SERVICES, NAME, NAMESPACE)
            address, domain = next(iter(cluster_ips(service)), address), cluster_domain(service)
        except (ApiError, CommandError, KubeconfigError, TimeoutError) as error:
            if not address:
                raise LookError(f"the master does not tell its address: {error}") from error
        return await looks.dns((address, PORT), f"kubernetes.default.svc.{domain}")

    @contextlib.asynccontextmanager
    async def _client(self, here: Site) -> AsyncIterator[HttpClient]:
        if self._paths.kubeconfig.exists():
            async with objects.connect(self._paths.kubeconfig) as client:
                yield client
        else:
            host, port = here.server or ("", 0)
            async with join.as_node(join.JoinOptions(f"https://{host}:{port}"), self._paths) as client:
                yield client


def _settings(path: Path) -> Settings | None:
    return configure.read(path) if path.exists() else None


async def _nothing() -> None:
    """There is nothing to look at."""
