"""Where things are on a host. Each directory can be moved by an environment variable, for a second cluster."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Paths:
    """The directories of one installation."""

    config: Path
    data: Path
    run: Path
    log: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] = os.environ) -> Paths:
        """The standard places, or those that SAMPAN_{CONFIG,DATA,RUN,LOG}_DIR name."""
        return cls(Path(environ.get("SAMPAN_CONFIG_DIR", "/etc/sampan")),
                   Path(environ.get("SAMPAN_DATA_DIR", "/var/lib/sampan")),
                   Path(environ.get("SAMPAN_RUN_DIR", "/run/sampan")),
                   Path(environ.get("SAMPAN_LOG_DIR", "/var/log/sampan")))

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig, readable by root alone."""
        return self.config / "admin.kubeconfig"

    def kubeconfigs(self, given: Path | None = None, environ: Mapping[str, str] = os.environ) -> list[Path]:
        """How to reach the cluster, as kubectl finds it: the file given, else those of $KUBECONFIG, else our own."""
        named = [Path(part) for part in environ.get("KUBECONFIG", "").split(os.pathsep) if part]
        return [given] if given else named or [self.kubeconfig]

    @property
    def master_config(self) -> Path:
        """The master's configuration file."""
        return self.config / "master.yaml"

    @property
    def agent_config(self) -> Path:
        """The agent's configuration file."""
        return self.config / "agent.yaml"

    @property
    def pki(self) -> Path:
        """The cluster's keys and certificates."""
        return self.data / "master" / "pki"

    @property
    def pods(self) -> Path:
        """The pods' folders, in which their volumes are mounted."""
        return self.data / "agent" / "pods"

    @property
    def bootstrap_token(self) -> Path:
        """The token by which this host's agent joins; removed once it has."""
        return self.config / "bootstrap-token"

    @property
    def standard(self) -> bool:
        """Whether this is the host's one installation, which systemd's units serve."""
        return self == Paths.from_environment({})


def program(name: str) -> str:
    """The full path of one of our commands: beside this Python, else on PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name) or name
