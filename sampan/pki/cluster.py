"""The files of a cluster's identity: made at first start, renewed before they end, read by the master's parts.

    ca.crt ca.key                the cluster's authority
    apiserver.crt apiserver.key  the server certificate of :6443 and :6444
    admin.crt admin.key          system:masters, for the administrator's kubeconfig
    sa.key                       signs ServiceAccount tokens
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sampan.pki import ca
from sampan.pki.files import write_atomically

RENEW_WITHIN = timedelta(days=120)
"""A third of a certificate's year: far enough ahead that a cluster switched off for a season comes back."""


class ClusterPki:
    """The directory with the cluster's keys. `names` are what clients call the server."""

    def __init__(self, directory: Path, names: Sequence[str] = (),
                 now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.directory = directory
        self._names = tuple(dict.fromkeys(names))
        self._now = now

    def path(self, name: str) -> Path:
        """A file of ours, such as ``apiserver.crt``."""
        return self.directory / name

    def ensure(self) -> bool:
        """Make what is missing and renew what ends soon or misses a name; tells whether anything was written."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        written = self._ensure_authority()
        authority = self.authority()
        written |= self._ensure_pair(authority, "apiserver", ca.Identity("kube-apiserver"), self._names, "server auth")
        admin = ca.Identity("kubernetes-admin", ("system:masters",))
        written |= self._ensure_pair(authority, "admin", admin, (), "client auth")
        if not self.path("sa.key").exists():
            write_atomically(self.path("sa.key"), ca.new_key())
            written = True
        return written

    def authority(self) -> ca.Authority:
        """The cluster's authority; CertificateError where its files are damaged."""
        try:
            pair = ca.KeyPair(self.path("ca.crt").read_bytes(), self.path("ca.key").read_bytes())
        except OSError as error:
            raise ca.CertificateError(f"the cluster's CA in {self.directory} cannot be read: {error}") from error
        return ca.Authority(pair, self._now)

    def renew(self, name: str) -> datetime:
        """Issue a certificate anew, for whom and for what it was; returns its end."""
        present = self.path(f"{name}.crt").read_bytes()
        issued = self.authority().issue(ca.certificate_identity(present), names=sorted(ca.certificate_names(present)),
                                        usages=ca.certificate_usages(present))
        self._write_pair(name, issued)
        return ca.certificate_expiry(issued.certificate)

    def expiries(self) -> dict[str, datetime]:
        """When each certificate ends, by file name."""
        return {path.name: ca.certificate_expiry(path.read_bytes()) for path in sorted(self.directory.glob("*.crt"))}

    def _ensure_authority(self) -> bool:
        certificate, key = self.path("ca.crt"), self.path("ca.key")
        if certificate.exists() and key.exists():
            return False
        if certificate.exists() or any(self.directory.glob("*.crt")):
            # A new CA would lock every node and kubeconfig out, so a lost key is for a person to decide.
            raise ca.CertificateError(f"{key} or {certificate} is missing while other certificates are there; "
                                      f"restore it from a backup, or remove {self.directory} to start a new cluster")
        pair, _ = ca.Authority.create("sampan-ca", self._now)
        # The key first: a crash between the two leaves no certificate, and the next start makes both anew.
        write_atomically(key, pair.key)
        write_atomically(certificate, pair.certificate, 0o644)
        return True

    def _ensure_pair(self, authority: ca.Authority, name: str, identity: ca.Identity, names: Sequence[str],
                     usage: str) -> bool:
        certificate, key = self.path(f"{name}.crt"), self.path(f"{name}.key")
        if certificate.exists() and key.exists():
            present = certificate.read_bytes()
            fresh = ca.certificate_expiry(present) - self._now() > RENEW_WITHIN
            # A crash between the two writes of a renewal leaves the new key beside the old certificate.
            whole = ca.belong_together(ca.KeyPair(present, key.read_bytes()))
            if fresh and whole and set(names) <= ca.certificate_names(present):
                return False
        self._write_pair(name, authority.issue(identity, names=names, usages=(usage,)))
        return True

    def _write_pair(self, name: str, pair: ca.KeyPair) -> None:
        write_atomically(self.path(f"{name}.key"), pair.key)
        write_atomically(self.path(f"{name}.crt"), pair.certificate, 0o644)
