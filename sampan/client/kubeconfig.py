"""Reading a kubeconfig: where the server is, whom to trust, and who we are."""

from __future__ import annotations

import base64
import binascii
import errno
import os
import ssl
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

Tree = dict[str, Any]

_SECTIONS = ("clusters", "users", "contexts")
_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")


class KubeconfigError(Exception):
    """The file cannot be used; the message names the file and the key."""


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach an API server. Certificates and keys are PEM; `ca` None means the system's trust store."""

    server: str
    ca: bytes | None = None
    certificate: bytes | None = None
    key: bytes | None = None
    token: str = ""
    token_file: Path | None = None
    namespace: str = "default"
    tls_server_name: str = ""
    insecure: bool = False

    def ssl_context(self) -> ssl.SSLContext:
        """A client's context with these certificates; KubeconfigError where they cannot be read."""
        try:
            context = ssl.create_default_context(cadata=self.ca.decode() if self.ca else None)
            if self.insecure:
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
            if self.certificate and self.key:
                _load_pair(context, self.certificate, self.key)
        except (ssl.SSLError, ValueError) as error:
            raise KubeconfigError(f"certificates for {self.server}: {error}") from error
        return context


def load(path: Path, context: str = "") -> Connection:
    """Read a kubeconfig file and choose a context, the current one by default; KubeconfigError."""
    return parse(_read(path), context, path)


def load_several(paths: Sequence[Path], context: str = "") -> Connection:
    """Read several as one, as kubectl does with $KUBECONFIG: what an earlier one says counts, missing ones are skipped.

    KubeconfigError, also where none is there.
    """
    present = [path for path in paths if not _missing(path)]
    if len(paths) == 1 or len(present) == 1:
        return load((present or paths)[0], context)
    whole: Tree = {section: [] for section in _SECTIONS}
    for path in present:
        tree = _read(path)
        whole["current-context"] = whole.get("current-context") or tree.get("current-context")
        for section in _SECTIONS:  # of those with one name, the first is found
            whole[section] += [_anchored(item, path.parent.absolute()) for item in tree.get(section) or ()]
    named = Path(":".join(map(str, paths)))
    if not present:
        raise KubeconfigError(f"{named}: {os.strerror(errno.ENOENT)}")
    return parse(whole, context, named)


def _missing(path: Path) -> bool:
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        pass  # reading it will tell
    return False


def _anchored(item: Any, folder: Path) -> Any:
    """An entry of a list whose file names no longer depend on the folder that it stands in."""
    if not isinstance(item, dict):
        return item
    return {key: {name: str(folder / text) if name in _FILES and text else text for name, text in value.items()}
            if isinstance(value, dict) else value for key, value in item.items()}


def _read(path: Path) -> Tree:
    import yaml  # noqa: PLC0415 - most of our processes read no YAML

    try:
        text = path.read_bytes()
    except OSError as error:
        raise KubeconfigError(f"{path}: {error.strerror}") from error
    try:
        tree = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe
    except yaml.YAMLError as error:
        raise KubeconfigError(f"{path}: not YAML: {error}") from error
    if not isinstance(tree, dict):
        raise KubeconfigError(f"{path}: not a kubeconfig")
    return tree


def parse(tree: Tree, context: str = "", path: Path = Path("kubeconfig")) -> Connection:
    """Choose a context from a kubeconfig that has been read; files in it are relative to `path`'s folder."""
    name = context or tree.get("current-context") or ""
    if not name:
        raise KubeconfigError(f"{path}: current-context: missing")
    chosen = _entry(tree, "contexts", "context", name, path)
    cluster = _entry(tree, "clusters", "cluster", chosen.get("cluster") or "", path)
    user = _entry(tree, "users", "user", chosen["user"], path) if chosen.get("user") else {}
    server = cluster.get("server") or ""
    if urlsplit(server).scheme not in ("http", "https"):
        raise KubeconfigError(f"{path}: clusters[{chosen['cluster']}].server: {server!r} is not an http(s) address")
    token_file = user.get("tokenFile")
    return Connection(
        server=server.rstrip("/"), ca=_material(cluster, "certificate-authority", path),
        certificate=_material(user, "client-certificate", path), key=_material(user, "client-key", path),
        token=user.get("token") or "", token_file=path.parent / token_file if token_file else None,
        namespace=chosen.get("namespace") or "default", tls_server_name=cluster.get("tls-server-name") or "",
        insecure=bool(cluster.get("insecure-skip-tls-verify")))


def _entry(tree: Tree, section: str, key: str, name: str, path: Path) -> Tree:
    for item in tree.get(section) or ():
        if isinstance(item, dict) and item.get("name") == name and isinstance(item.get(key), dict):
            return dict(item[key])
    raise KubeconfigError(f"{path}: {section}: there is none named {name!r}")


def _material(entry: Tree, name: str, path: Path) -> bytes | None:
    """PEM given inline (``name-data``, base64) or as a file."""
    inline = entry.get(f"{name}-data")
    if inline:
        try:
            return base64.b64decode(inline, validate=True)
        except (binascii.Error, ValueError) as error:
            raise KubeconfigError(f"{path}: {name}-data: not base64") from error
    if entry.get(name):
        try:
            return Path(path.parent, str(entry[name])).read_bytes()
        except OSError as error:
            raise KubeconfigError(f"{path}: {name}: {entry[name]}: {error.strerror}") from error
    return None


def _load_pair(context: ssl.SSLContext, certificate: bytes, key: bytes) -> None:
    """Python's ssl reads key pairs from files only; this one is private and gone at once."""
    with tempfile.NamedTemporaryFile(prefix="sampan-") as file:
        file.write(certificate.rstrip() + b"\n" + key)
        file.flush()
        context.load_cert_chain(file.name)
