"""`sampan doctor`: what it reads."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sampan.cli.doctor import checks, findings, looks, parse
from sampan.cli.doctor.facts import Names
from sampan.cli.doctor.gather import Gatherer
from sampan.cli.doctor.site import site
from sampan.cli.paths import Paths
from sampan.cli.preflight import Problem
from sampan.cli.progress import CommandError
from sampan.cli.units import UnitStatus
from sampan.pki import ca, kubeconfig
from tests.support.doctor import AGENT


async def test_the_zone_of_a_node_that_has_moved_is_its_interface_s(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    async def run(*command: str, **_: bool) -> str:
        asked.append(" ".join(command))
        return {"ip": "[]", "firewall-cmd": "running"}[command[0]]

    monkeypatch.setattr(looks, "run", run)
    moved = site(None, {**AGENT, "node-interface": "eth7"})
    await looks.firewalld(moved.node_ip, moved.node_interface)
    assert "firewall-cmd --get-zone-of-interface=eth7" in asked


def test_servers_of_a_resolv_conf() -> None:
    text = "# x\nnameserver 127.0.0.53\n nameserver\t192.0.2.1 # y\n#nameserver 192.0.2.2\nsearch nameserver\n"
    assert parse.nameservers(text) == ["127.0.0.53", "192.0.2.1"]


def test_the_question_is_one_that_the_agent_understands() -> None:
    import dns.message

    asked = dns.message.from_wire(parse.dns_question(7, "kubernetes.default.svc.cluster.local."))
    assert (asked.id, str(asked.question[0])) == (7, "kubernetes.default.svc.cluster.local. IN A")


@pytest.mark.parametrize(("answer", "problem"), [
    (b"", "too short"), (b"\0\7\x81\x80\0\1\0\1\0\0\0\0", ""), (b"\0\7\x81\x83\0\1\0\0\0\1\0\0", "an error (code 3)"),
    (b"\0\7\x81\x80\0\1\0\0\0\0\0\0", "empty"), (b"\0\6\x81\x80\0\1\0\1\0\0\0\0", "no answer to the question"),
    (b"\0\7\x01\0\0\1\0\1\0\0\0\0", "no answer to the question")])
def test_answers_are_judged(answer: bytes, problem: str) -> None:
    found = parse.dns_problem(7, answer)
    assert problem in found
    assert bool(found) == bool(problem)


@pytest.fixture
def echo() -> Iterator[tuple[str, int]]:
    """Answers every question with one record of the same number."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        server.settimeout(60)

        def answer() -> None:
            question, client = server.recvfrom(512)
            server.sendto(question[:2] + b"\x81\x80\0\1\0\1\0\0\0\0" + question[12:], client)

        thread = threading.Thread(target=answer)
        thread.start()
        yield server.getsockname()
        thread.join(60)


async def test_a_server_is_asked(echo: tuple[str, int]) -> None:
    assert await looks.dns(echo, "kubernetes.default.svc.cluster.local") == Names("127.0.0.1")


async def test_nobody_answers() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        address = taken.getsockname()
    assert await looks.dns(address, "x.y") == Names("127.0.0.1", "asked for x.y: no answer: Connection refused")


class FakeUnits:
    """All run."""

    def status(self, name: str) -> UnitStatus:
        return UnitStatus("running", 7)

    def start(self, name: str, arguments: object) -> bool:
        return False

    def restart(self, name: str) -> None:
        """Nobody asks."""

    def stop(self, name: str) -> bool:
        return False

    def log_hint(self, name: str) -> str:
        return ""


def places(root: Path) -> Paths:
    return Paths(root / "config", root / "data", root / "run", root / "log")


async def test_a_host_in_no_cluster_is_looked_at(tmp_path: Path) -> None:
    """This machine, whatever it is: nothing raises, and what cannot be seen without root is told."""
    facts = await Gatherer(places(tmp_path), FakeUnits(), f"unix://{tmp_path}/none.sock").facts()
    assert isinstance(facts.engine, Problem)
    assert facts.site == replace(site(None, None), systemd=False, paths=places(tmp_path),
                                 docker_host=f"unix://{tmp_path}/none.sock")
    found = checks.judge(facts)
    assert any("this host is in no cluster" in item.text for item in found)
    assert findings.faulty(found)


async def test_a_kubeconfig_with_a_spoiled_certificate_spoils_no_other_look(tmp_path: Path) -> None:
    place = places(tmp_path)
    _, authority = ca.Authority.create("c")
    own = authority.issue(ca.Identity("admin"))
    place.config.mkdir()
    place.kubeconfig.write_bytes(kubeconfig.render("https://127.0.0.1:1", authority.certificate, b"spoiled", own.key))
    place.agent_config.write_text("server: https://127.0.0.1:1\nnode-name: n\n")
    facts = await Gatherer(place, FakeUnits(), f"unix://{tmp_path}/none.sock").facts()
    assert "certificates for https://127.0.0.1:1" in facts.unknown["cluster DNS"]
    assert "cannot be read" in facts.unknown["certificates"]
    assert facts.reached


@pytest.mark.parametrize("text", ["node-server: 'a:x'", "{"])
async def test_a_configuration_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/agent.yaml").write_text(text)
    with pytest.raises(CommandError, match="cannot be read"):
        await Gatherer(places(tmp_path), FakeUnits(), "unix:///none").facts()


async def test_commands_that_fail_hang_or_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await looks.run("no-such-command-here") == ""
    assert await looks.run("sh", "-c", "echo x; exit 3", fails=True) == ""
    with pytest.raises(looks.LookError, match="what a pity"):
        await looks.run("sh", "-c", "echo what a pity >&2; exit 3")
    monkeypatch.setattr(looks, "COMMAND_SECONDS", 0.05)
    with pytest.raises(looks.LookError, match="did not end within"):
        await looks.run("sleep", "60")


def test_disks_are_told_once(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    [disk] = looks.disks([str(tmp_path), "", "/no/such/folder", str(tmp_path / "other")])
    assert disk.folder == str(tmp_path)
    assert disk.total >= disk.available > 0
