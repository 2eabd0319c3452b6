"""The two commands on a bare host: script/up brings everything, script/down takes it away."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pytest

from tests.support.host import ROOT, Host, bare_host

pytestmark = [pytest.mark.docker, pytest.mark.net, pytest.mark.timeout(900)]
UP, DOWN = str(ROOT / "script/up"), str(ROOT / "script/down")


def traces(host: Host) -> tuple[str, str]:
    """Interfaces and firewall rules, without what counts packets or tells the time."""
    links = "\n".join(re.findall(r"^\d+: ([^:@]+)", host.run("ip", "-o", "link").stdout, re.MULTILINE))
    rules = "\n".join(line for line in host.run("iptables-save").stdout.splitlines() if line.startswith("-A"))
    return links, rules


@pytest.mark.parametrize(("manager", "expected"), [
    ("apt-get", ["apt-get update -q", "apt-get install -q -y --no-install-recommends iptables",
                 "apt-get install -q -y --no-install-recommends docker.io"]),
    ("dnf", ["dnf install -q -y iptables", "dnf install -q -y docker-ce docker-ce-cli containerd.io"]),
])
def test_from_a_bare_host_and_back(manager: Literal["apt-get", "dnf"], expected: list[str], wheels: Path) -> None:
    with bare_host(manager, wheels) as host:
        before = traces(host)
        first = host.run(UP)
        assert first.returncode == 0, first.stdout + first.stderr
        assert [line for line in host.asked if line in expected] == expected
        assert "going on without it" in first.stdout, "kubectl's repository is out of reach here"
        answers = re.findall(r"^Hello from pod (hello-\S+) on node", first.stdout, re.MULTILINE)
        assert len(set(answers)) == 2, first.stdout
        steps = re.findall(r"^.+ … .+ \(\d+\.\d s\)$", first.stdout, re.MULTILINE)
        assert len(steps) >= 10, "a line a step, with its time"

        if manager == "apt-get":
            asked = host.asked
            second = host.run(UP)
            assert second.returncode == 0, second.stdout + second.stderr
            assert "Nothing had to be changed." in second.stdout
            installed = [line for line in host.asked[len(asked):] if " install " in line]
            assert all("kubectl" in line or "curl" in line for line in installed), "kubectl is looked for again"
            newer_version_takes_over(host)

            down = host.run(DOWN)
            assert down.returncode == 0, down.stdout + down.stderr
            assert host.run("docker", "ps", "-aq").stdout == ""
            assert host.run("test", "-e", "/var/lib/sampan/master/state.db").returncode == 0, "the state stays"
            again = host.run(UP)
            assert again.returncode == 0, again.stdout + again.stderr
            assert "deployment.apps/hello created" not in again.stdout

        for table in ("filter", "nat"):  # a rule that somebody else took away is in nobody's way
            assert host.run("iptables", "-t", table, "-F").returncode == 0
        purge = host.run(DOWN, "--purge")
        assert purge.returncode == 0, purge.stdout + purge.stderr
        assert traces(host) == before
        left = [path for path in ("/opt/sampan", "/etc/sampan", "/var/lib/sampan", "/run/sampan", "/var/log/sampan",
                                  "/usr/local/bin/sampan") if host.run("test", "-e", path).returncode == 0]
        assert left == []


def newer_version_takes_over(host: Host) -> None:
    """Without systemd, too: master and agent are started anew, and no container is."""
    def process(name: str) -> str:
        """What the supervisor of a service keeps running."""
        return host.run("sh", "-c", f"cat /proc/$(cat /run/sampan/{name}.pid)/task/*/children").stdout.strip()

    names = ("master", "agent")
    containers, before = host.run("docker", "ps", "-q").stdout, {name: process(name) for name in names}
    assert host.run("sh", "-c", "echo older >/opt/sampan/source-hash").returncode == 0
    result = host.run(UP)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Sampan and its dependencies … into /opt/sampan" in result.stdout
    assert all(before[name] and process(name) not in ("", before[name]) for name in names)
    assert host.run("docker", "ps", "-q").stdout == containers


def test_a_failure_says_what_to_do(wheels: Path) -> None:
    with bare_host("apt-get", wheels) as host:
        (host.root / "usr/bin/apt-get").write_text("#!/bin/sh\necho 'disk full' >&2\nexit 100\n")
        result = host.run(UP)
        assert result.returncode == 1
        assert "iptables and Python … failed" in result.stdout
        assert "disk full" in result.stderr
        assert "error: iptables and Python failed" in result.stderr


def test_snap_docker_is_refused(wheels: Path) -> None:
    with bare_host("apt-get", wheels) as host:
        snap = host.root / "usr/bin/snap"
        snap.write_text("#!/bin/sh\nexit 0\n")
        snap.chmod(0o755)
        result = host.run(UP)
        assert result.returncode == 1
        assert "remove the snap" in result.stderr
