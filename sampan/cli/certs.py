"""`sampan certs`: this host's certificates, until when they are valid and who renews them; and renewing them now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sampan.cli import configure
from sampan.cli.paths import Paths
from sampan.cli.progress import CommandError
from sampan.cli.units import Units
from sampan.cli.up import refresh_kubeconfig
from sampan.client import kubeconfig
from sampan.pki import ca, pair
from sampan.pki.cluster import ClusterPki

BY_MASTER, BY_AGENT, BY_NOBODY = "the running master", "the running agent", "nobody: ends with the cluster"


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate of this host."""

    name: str
    subject: str
    expires: datetime
    renewed_by: str
    path: Path


def collect(paths: Paths) -> list[Certificate]:
    """All that are here; CommandError where there are none."""
    found = [_certificate(path.stem, path.read_bytes(), BY_NOBODY if path.stem == "ca" else BY_MASTER, path)
             for path in sorted(paths.pki.glob("*.crt"))]
    if paths.kubeconfig.exists():
        try:
            certificate = kubeconfig.load(paths.kubeconfig).certificate
        except kubeconfig.KubeconfigError as error:
            raise CommandError(str(error), "write it anew: remove it, then sampan kubeconfig") from error
        if certificate:
            found.append(_certificate("kubeconfig", certificate, "sampan up, sampan kubeconfig", paths.kubeconfig))
    agent = configure.read(paths.agent_config) if paths.agent_config.exists() else {}
    folder = configure.identity_folder(agent, paths)
    if (folder / "node.pem").exists():
        own = pair.split((folder / "node.pem").read_bytes())
        found.append(_certificate("node", own.certificate, BY_AGENT, folder / "node.pem"))
    if not found:
        raise CommandError("there are no certificates on this host", "it is in no cluster: see sampan up, sampan join")
    return found


def _certificate(name: str, pem: bytes, renewed_by: str, path: Path) -> Certificate:
    return Certificate(name, ca.certificate_identity(pem).user, ca.certificate_expiry(pem), renewed_by, path)


def residual(left: float) -> str:
    """Seconds as kubeadm shows what is left: 364d, 23h, 12m."""
    if left <= 0:
        return "<expired>"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if left >= size:
            return f"{int(left // size)}{unit}"
    return f"{int(left)}s"


def render(found: Sequence[Certificate], now: datetime, output: str = "text") -> str:
    """The list as text or JSON."""
    if output == "json":
        return json.dumps([{"name": item.name, "subject": item.subject, "expires": item.expires.isoformat(),
                            "secondsLeft": int((item.expires - now).total_seconds()),
                            "renewedBy": item.renewed_by, "path": str(item.path)} for item in found], indent=2)
    table = [["CERTIFICATE", "SUBJECT", "EXPIRES", "RESIDUAL TIME", "RENEWED BY", "FILE"]]
    table += [[item.name, item.subject, item.expires.strftime("%b %d, %Y %H:%M UTC"),
               residual((item.expires - now).total_seconds()), item.renewed_by, str(item.path)] for item in found]
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
                     for row in table)


def renew(paths: Paths, units: Units, names: Sequence[str]) -> list[str]:
    """Issue anew what the cluster's CA on this host can issue, and have the master use it; what was done, in words."""
    if not (paths.pki / "ca.key").exists():
        raise CommandError("the cluster's CA is not on this host",
                           "a node's certificate is renewed by its running agent; to get another one now: sampan join")
    pki = ClusterPki(paths.pki)
    known = [path.stem for path in sorted(paths.pki.glob("*.crt")) if path.stem != "ca"]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CommandError(f"{unknown[0]} cannot be renewed here", f"those that can: {', '.join(known)}")
    done = [f"{name}: valid until {pki.renew(name):%b %d, %Y %H:%M UTC}" for name in names or known]
    if refresh_kubeconfig(paths):
        done.append(f"{paths.kubeconfig}: written")
    if units.status("master").state == "running":
        units.restart("master")
        done.append("master: restarted to use them; pods go on meanwhile")
    return done
