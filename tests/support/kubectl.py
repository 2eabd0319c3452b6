"""The real kubectl, in the versions that Sampan promises to work with."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

VERSIONS = ("1.27", "1.32", "1.33")

one_version = pytest.mark.parametrize("version", ["1.32"], indirect=True)
"""For tests of what does not differ between the versions."""


@lru_cache
def binary(version: str) -> Path:
    """The kubectl of a minor version: ``kubectl.1.32`` or a ``kubectl`` of that version, on PATH or beside it."""
    found = shutil.which("kubectl")
    places = [Path(place) for place in os.environ.get("PATH", "").split(":") if place]
    if found:
        places.append(Path(found).resolve().parent)
    for place in places:
        candidate = place / f"kubectl.{version}"
        if candidate.exists():
            return candidate
    for place in places:
        candidate = place / "kubectl"
        if candidate.exists() and _version(candidate) == version:
            return candidate
    raise FileNotFoundError(f"kubectl {version} is needed: put it on PATH as kubectl.{version}")


def _version(path: Path) -> str:
    text = subprocess.run([path, "version", "--client", "-o", "json"], capture_output=True, text=True, timeout=60,
                          check=True).stdout
    client = json.loads(text)["clientVersion"]
    return f"{client['major']}.{client['minor'].rstrip('+')}"


NOISE = re.compile(r"^E\d{4} .+ websocket\.go:\d+\] Unknown stream id 1, discarding message\n", re.MULTILINE)
"""What kubectl 1.32 and 1.33 print now and then on a busy machine, on any server, when the empty first message comes
before they have made their streams. Nothing is lost with it: what tests compare is the whole output."""


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Kubectl:
    """One kubectl against one cluster."""

    version: str
    kubeconfig: Path
    home: Path
    prefix: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    namespace: str = "default"

    def within(self, namespace: str) -> Kubectl:
        """The same kubectl, for one namespace."""
        return replace(self, options=(*self.options, f"--namespace={namespace}"), namespace=namespace)

    def with_environment(self, **variables: str) -> Kubectl:
        """The same kubectl, with more environment variables."""
        return replace(self, environment={**self.environment, **variables})

    def command(self, *arguments: str) -> list[str]:
        """The full command line; `prefix` may enter a network namespace."""
        return [*self.prefix, str(binary(self.version)), f"--kubeconfig={self.kubeconfig}",
                f"--cache-dir={self.home}/cache", *self.options, *arguments]

    @property
    def env(self) -> dict[str, str]:
        """The environment that commands run in: nothing of the user's own configuration."""
        return {"PATH": os.environ["PATH"], "HOME": str(self.home), **self.environment}

    def run(self, *arguments: str, stdin: str | None = None, timeout: float = 150) -> Result:
        """Run to the end, whatever the exit code."""
        done = subprocess.run(self.command(*arguments), input=stdin, capture_output=True, text=True, timeout=timeout,
                              env=self.env, check=False)
        return Result(done.returncode, done.stdout, NOISE.sub("", done.stderr))

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 150) -> str:
        """Run, and return the output; AssertionError with what kubectl said where it fails."""
        result = self.run(*arguments, stdin=stdin, timeout=timeout)
        assert result.code == 0, f"kubectl {' '.join(arguments)}: exit {result.code}\n{result.err}{result.out}"
        return result.out

    def json(self, *arguments: str, timeout: float = 150) -> Any:
        """Run with -o json, and parse."""
        return json.loads(self(*arguments, "-o", "json", timeout=timeout))

    def popen(self, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start, with pipes for everything; the caller ends it."""
        return subprocess.Popen(self.command(*arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                stderr=subprocess.PIPE, text=True, env=self.env, **options)


@contextmanager
def forwarding(kubectl: Kubectl, *arguments: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """`kubectl port-forward` with a local port of its choice."""
    process = kubectl.popen("port-forward", *arguments)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        match = re.fullmatch(r"Forwarding from 127\.0\.0\.1:(\d+) -> \d+\n", line)
        if match is None:
            process.kill()
            pytest.fail(f"{line}{process.communicate()[1]}")
        yield int(match[1]), process
    finally:
        process.terminate()
        process.communicate()
