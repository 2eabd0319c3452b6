"""The node's identity on disk: its key and certificate in one file, and the CA that it trusts."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sampan.pki.files import write_atomically
from sampan.pki.pair import CertificateError, KeyPair, split, validity


@dataclass(frozen=True, slots=True)
class NodeFiles:
    """One directory. Key and certificate are one file, so that no crash can leave a pair that does not match."""

    directory: Path

    @property
    def pair_path(self) -> Path:
        """Key and certificate, PEM, 0600."""
        return self.directory / "node.pem"

    @property
    def ca_path(self) -> Path:
        """The cluster's CA certificate."""
        return self.directory / "ca.crt"

    @property
    def pending_key_path(self) -> Path:
        """The key of a certificate that has been asked for and not come yet."""
        return self.directory / "node.key.pending"

    @property
    def serving_path(self) -> Path:
        """Key and certificate of the node's own port, PEM, 0600; the line before them tells what names it is for."""
        return self.directory / "serving.pem"

    def present(self) -> bool:
        """Whether the node has joined."""
        return self.pair_path.exists() and self.ca_path.exists()

    def pair(self) -> KeyPair:
        """Key and certificate; CertificateError where the file is damaged."""
        try:
            text = self.pair_path.read_bytes()
        except OSError as error:
            raise CertificateError(f"{self.pair_path}: {error.strerror}") from error
        try:
            return split(text)
        except CertificateError as error:
            raise CertificateError(f"{self.pair_path}: {error}") from error

    def authority(self) -> bytes:
        """The CA certificate, PEM; CertificateError where it is not there."""
        try:
            return self.ca_path.read_bytes()
        except OSError as error:
            raise CertificateError(f"{self.ca_path}: {error.strerror}") from error

    def expires(self) -> datetime:
        """When the certificate ends."""
        return validity(self.pair().certificate)[1]

    def store(self, pair: KeyPair, authority: bytes | None = None) -> None:
        """Write a new identity; OSError where the disk refuses."""
        if authority is not None:
            self.serving_path.unlink(missing_ok=True)  # another cluster's
            write_atomically(self.ca_path, authority, 0o644)
        write_atomically(self.pair_path, pair.key + pair.certificate, 0o600)
        self.pending_key_path.unlink(missing_ok=True)

    def pending_key(self) -> bytes:
        """The key to ask a certificate for: made once, so that asking again after a crash is the same request."""
        try:
            return self.pending_key_path.read_bytes()
        except FileNotFoundError:
            from sampan.pki import ca  # noqa: PLC0415 - 8 MB that an agent with an identity does not need

            key = ca.new_key()
            write_atomically(self.pending_key_path, key, 0o600)
            return key
