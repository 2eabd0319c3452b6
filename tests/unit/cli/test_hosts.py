"""Joining a host, seen from its parts: what is judged, what is printed, what is put back."""

from __future__ import annotations

import errno
import io
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agent import config as agent_settings
from master import config as master_settings
from netplugin import overlay
from sampan import clusterconfig
from sampan.api.resources import CONFIGMAPS, SECRETS
from sampan.api.times import MicroTime
from sampan.api.types.coordination_v1 import Lease, LeaseSpec
from sampan.api.types.core_v1 import ConfigMap, Node, NodeCondition, NodeStatus, Secret
from sampan.api.types.meta_v1 import ObjectMeta
from sampan.cli import certs, configure, engine, join, preflight, reset, token
from sampan.cli import main as command
from sampan.cli.join import JoinOptions
from sampan.cli.paths import Paths
from sampan.cli.preflight import Facts, Problem
from sampan.cli.progress import CommandError, Progress
from sampan.cli.units import SystemdUnits, UnitStatus
from sampan.client.fake import FakeClient
from sampan.client.kubeconfig import Connection
from sampan.loop.clock import FakeClock
from sampan.pki import ca
from sampan.pki.cluster import ClusterPki
from sampan.pki.tokens import BootstrapToken

NOW = datetime(2026, 5, 1, tzinfo=UTC)
TOKEN = BootstrapToken("abcdef", "0123456789abcdef")
HASH = "sha256:" + "a" * 64
GOOD = Facts(root=True, engine=engine.EngineFacts("24.0.7", "/var/lib/docker"))


def paths(root: Path) -> Paths:
    return Paths(root / "config", root / "data", root / "run", root / "log")


class FakeUnits:
    """An agent that runs or does not."""

    def __init__(self, *running: str) -> None:
        self.running = set(running)

    def status(self, name: str) -> UnitStatus:
        return UnitStatus("running", 7) if name in self.running else UnitStatus("stopped")

    def start(self, name: str, arguments: object) -> bool:
        self.running.add(name)
        return True

    def restart(self, name: str) -> None:
        """As a real one would."""

    def stop(self, name: str) -> bool:
        ran = name in self.running
        self.running.discard(name)
        return ran

    def log_hint(self, name: str) -> str:
        return f"log of {name}"


# Preflight

@pytest.mark.parametrize(("facts", "what", "hint"), [
    (replace(GOOD, root=False), "this needs root", "sudo"),
    (replace(GOOD, engine=engine.EngineFacts("19.03.15", "/x")), "Docker 19.03.15 is too old", "install Docker"),
    (replace(GOOD, engine=engine.EngineFacts("24.0.5", "/var/snap/docker")), "Docker is a snap", "snap remove docker"),
    (replace(GOOD, engine=engine.EngineFacts("4.9.4", "/x", "Podman Engine")), "Podman Engine answers in Docker's",
     "podman-docker"),
    (replace(GOOD, engine=engine.EngineFacts("dev", "/x")), "version cannot be read: 'dev'", "docker version"),
    (replace(GOOD, engine=Problem("Docker does not answer at /s", "start it")), "Docker does not answer", "start it"),
    (replace(GOOD, missing_commands=["iptables"]), "not on this host: iptables", "install iptables"),
    (replace(GOOD, missing_modules=["vxlan"]), "the kernel module vxlan is neither loaded", "modprobe vxlan"),
    (replace(GOOD, busy_ports=[10250]), "port 10250 is in use", "ss -tlnp"),
])
def test_what_keeps_a_host_from_being_a_node(facts: Facts, what: str, hint: str) -> None:
    [found] = preflight.problems(facts)
    assert what in found.what
    assert hint in found.hint


@pytest.mark.parametrize("version", ["20.10.24+dfsg1", "28.5.1", "20.10.0-ce"])
def test_a_good_host(version: str) -> None:
    assert preflight.problems(replace(GOOD, engine=engine.EngineFacts(version, "/var/lib/docker"))) == []


def test_all_complaints_at_once() -> None:
    bad = Facts(root=False, engine=Problem("x", "y"), missing_commands=["iptables"],
                missing_modules=["vxlan", "overlay"], busy_ports=[10250])
    assert len(preflight.problems(bad)) == 6


def test_modules_are_loaded_where_they_can_be(tmp_path: Path) -> None:
    asked = []

    def load(name: str) -> None:
        asked.append(name)
        if name == "loadable":
            (tmp_path / name).touch()

    (tmp_path / "there").touch()
    wanted = {name: tmp_path / name for name in ("there", "loadable", "missing")}
    assert preflight.missing_modules(wanted, load) == ["missing"]
    assert asked == ["loadable", "missing"]


@pytest.mark.parametrize(("error", "text"), [
    (OSError(errno.ENETUNREACH, "x"), "there is no route to it at m:1"),
    (OSError(errno.EHOSTUNREACH, "x"), "there is no route to it at m:1"),
    (OSError(errno.ECONNREFUSED, "x"), "nothing listens for it at m:1"),
    (TimeoutError(), "no answer from it at m:1 within 5 s"),
    (OSError(errno.ECONNRESET, "reset"), "it at m:1 cannot be reached"),
])
def test_what_is_said_of_a_master_out_of_reach(error: Exception, text: str) -> None:
    found = preflight.unreachable("m", 1, "it", error)
    assert text in str(found)
    assert found.hint


# The command line

@pytest.mark.parametrize(("server", "whole"), [
    ("https://10.0.0.1:6443", "https://10.0.0.1:6443"), ("10.0.0.1", "https://10.0.0.1:6443"),
    ("https://m.example:8443/", "https://m.example:8443"), ("https://[fd00::1]", "https://[fd00::1]:6443")])
def test_the_server_s_address_is_made_whole(server: str, whole: str) -> None:
    assert join.check(JoinOptions(server, str(TOKEN), HASH)).server == whole


@pytest.mark.parametrize(("options", "text"), [
    (JoinOptions("http://10.0.0.1", str(TOKEN), HASH), "is not an API server's address"),
    (JoinOptions("https://10.0.0.1:0/", str(TOKEN), HASH), "is not an API server's address"),
    (JoinOptions("https://10.0.0.1:x", str(TOKEN), HASH), "is not an API server's address"),
    (JoinOptions("https://10.0.0.1", "secret", HASH), "--token: a bootstrap token is six"),
    (JoinOptions("https://10.0.0.1", str(TOKEN)), "--ca-hash: needed"),
    (JoinOptions("https://10.0.0.1", str(TOKEN), "sha256:zz"), "--ca-hash: needed"),
])
def test_options_that_cannot_be_meant(options: JoinOptions, text: str) -> None:
    with pytest.raises(CommandError, match=text):
        join.check(options)


async def test_a_printed_join_line_is_understood() -> None:
    """Whatever is needed to reach the master arrives on the node, wherever the line was printed."""
    client = FakeClient(FakeClock(NOW))
    _, authority = ca.Authority.create("c")
    server = Connection("https://192.0.2.1:7443", authority.certificate)
    assert "--node-server" not in await token.join_command(client, TOKEN, server)
    await client.create(CONFIGMAPS, ConfigMap(
        metadata=ObjectMeta(name=clusterconfig.NAME, namespace=clusterconfig.NAMESPACE), data={
            clusterconfig.NODE_PORT: "7444"}))
    line = await token.join_command(client, TOKEN, server)
    arguments = command.parser().parse_args(line.split()[1:])
    options = join.check(JoinOptions(**{name: getattr(arguments, name) for name in JoinOptions.__slots__}))
    assert (options.server, options.token, options.ca_hash) == (
        "https://192.0.2.1:7443", str(TOKEN), ca.public_key_hash(authority.certificate))
    assert options.lines == ("192.0.2.1", 7444)


# The configuration

@pytest.mark.parametrize(("given", "interface"), [("", "eth7"), ("192.0.2.9", "")])
def test_an_address_that_the_user_gave_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: str,
                                                       interface: str) -> None:
    place = paths(tmp_path)
    monkeypatch.setattr(configure, "interface_of", {"192.0.2.2": "eth7"}.get)
    join.write_configuration(JoinOptions("https://m:6443", node_ip=given), "192.0.2.2", place)
    assert yaml.safe_load(place.agent_config.read_text())["node-interface"] == interface


def test_loopback_is_no_interface_to_be_reached_by() -> None:
    assert configure.interface_of("127.0.0.1") == ""


def test_the_agent_s_configuration_keeps_what_is_the_user_s(tmp_path: Path) -> None:
    place = paths(tmp_path)
    place.config.mkdir()
    place.agent_config.write_text("max-pods: 7\nserver: https://old:6443\n")
    join.write_configuration(JoinOptions("https://m:6443", node_name="N2"), "192.0.2.2", place)
    written = yaml.safe_load(place.agent_config.read_text())
    assert (written["max-pods"], written["server"], written["node-name"], written["node-ip"]) == (
        7, "https://m:6443", "n2", "192.0.2.2")
    assert written["node-server"] == "m:6444"
    assert not {"pod-cidr", "network-backend", "cgroup-root"} & set(written), "the cluster tells them"
    assert place.agent_config.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("own", "learned"), [
    ({}, {"pod-cidr": "10.9.0.0/16", "network-backend": "host-gw"}),
    ({"network-backend": "host-gw", "max-pods": 7}, {"pod-cidr": "10.9.0.0/16"}),
    ({"pod-cidr": "10.9.0.0/16", "network-backend": "host-gw"}, {}),
])
def test_the_cluster_s_settings_are_adopted(own: dict[str, object], learned: dict[str, str]) -> None:
    told = {"pod-cidr": "10.9.0.0/16", "network-backend": "host-gw", "node-port-grpc": "6444"}
    assert clusterconfig.adopt(own, told) == learned


@pytest.mark.parametrize(("own", "text"), [
    ({"pod-cidr": "10.8.0.0/16"}, "pod-cidr: 10.8.0.0/16 on this host, 10.9.0.0/16 in the cluster"),
    ({"network-backend": "host-gw"}, "network-backend: host-gw on this host, vxlan in the cluster"),
])
def test_settings_that_contradict_the_cluster_s_are_refused(own: dict[str, object], text: str) -> None:
    with pytest.raises(clusterconfig.Contradiction, match=f"^{text}$"):
        clusterconfig.adopt(own, {"pod-cidr": "10.9.0.0/16", "network-backend": "vxlan"})


def test_a_cluster_that_tells_nothing_is_not_contradicted() -> None:
    assert clusterconfig.adopt({"pod-cidr": "10.8.0.0/16"}, {}) == {}


def test_master_and_agent_know_the_same_backends() -> None:
    """The walls keep the master from asking netplugin, and no setting of the agent's may be told that it lacks."""
    assert clusterconfig.BACKENDS == overlay.BACKENDS
    told = master_settings.load([], {}).for_nodes()
    assert set(clusterconfig.FOR_NODES) < set(told)
    agent = agent_settings.load(["--server=m", *(f"--{key}={told[key]}" for key in clusterconfig.FOR_NODES)], {})
    assert (agent.pod_cidr, agent.network_backend) == ("10.244.0.0/16", "vxlan")


@pytest.mark.parametrize("ran", [True, False])
def test_a_join_that_fails_leaves_the_host_as_it_was(tmp_path: Path, ran: bool) -> None:
    place, units = paths(tmp_path), FakeUnits(*(["agent"] if ran else []))
    place.config.mkdir()
    place.agent_config.write_text("old")

    def half_way() -> None:
        units.stop("agent")
        place.agent_config.write_text("new")
        join.identity(place).parent.mkdir(parents=True)
        join.identity(place).write_text("half")
        place.bootstrap_token.write_text("secret")
        raise CommandError("the token is wrong")

    with pytest.raises(CommandError), join.undone(place, units):
        half_way()
    assert place.agent_config.read_text() == "old"
    assert not join.identity(place).exists()
    assert not place.bootstrap_token.exists()
    assert (units.status("agent").state == "running") == ran


async def test_a_node_that_was_ready_before_does_not_count_until_its_agent_is_heard(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last word stands for 40 s after its agent has gone."""
    client, begun = FakeClient(FakeClock()), datetime.now(UTC)

    @asynccontextmanager
    async def as_node(*_: object) -> AsyncIterator[FakeClient]:
        yield client

    def heard(at: datetime) -> Lease:
        return Lease(metadata=ObjectMeta(name="n1", namespace="kube-node-lease"),
                     spec=LeaseSpec(renew_time=MicroTime.of(at)))

    monkeypatch.setattr(join, "as_node", as_node)
    options = JoinOptions("https://m:6443", node_name="n1", timeout=0.3)
    ready = NodeStatus(conditions=[NodeCondition(type="Ready", status="True")])
    client.put(Node(metadata=ObjectMeta(name="n1"), status=ready))
    for lease in (None, heard(begun - timedelta(seconds=5))):
        if lease is not None:
            client.put(lease)
        with pytest.raises(CommandError, match="its agent has not been heard"):
            await join.wait_until_ready(options, paths(tmp_path), "less log", begun)
    client.put(heard(begun + timedelta(seconds=1)))
    await join.wait_until_ready(options, paths(tmp_path), "less log", begun)


def test_reset_spares_images_and_foreign_files(tmp_path: Path) -> None:
    place = paths(tmp_path)
    for name in ("config/agent.yaml", "config/mine", "data/agent/x/y", "data/images/a.tar", "run/agent.lock",
                 "log/agent.log", "log/agent.log.1"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    place.agent_config.unlink()  # without it no agent is called to clean up
    units = FakeUnits("agent")
    out = io.StringIO()
    reset.reset(place, units, Progress(out))
    assert units.status("agent").state == "stopped"
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "config/mine", "data/images/a.tar"]
    assert "kubectl delete node" not in out.getvalue()


# Tokens

@pytest.mark.parametrize(("text", "expected"), [
    ("24h", timedelta(hours=24)), ("1h30m", timedelta(minutes=90)), ("45s", timedelta(seconds=45)), ("0", None)])
def test_how_long_a_token_lasts(text: str, expected: timedelta | None) -> None:
    assert token.lifetime(text) == expected


@pytest.mark.parametrize("text", ["", "1d", "h", "1 h", "-1h", "0s", "1hx", "9999999h", f"{10**12}h"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="is "):
        token.lifetime(text)


@given(st.integers(1, 10**6))
def test_any_number_of_seconds_is_a_duration(seconds: int) -> None:
    hours, minutes = seconds // 3600, seconds % 3600 // 60
    assert token.lifetime(f"{hours}h{minutes}m{seconds % 60}s") == timedelta(seconds=seconds)


async def test_tokens_are_created_listed_and_deleted() -> None:
    client = FakeClient(FakeClock(NOW))
    await token.create(client, TOKEN, timedelta(hours=2), "for n2", NOW)
    await token.create(client, BootstrapToken("zzzzzz", "0" * 16), None, "", NOW)
    secret = await client.get(SECRETS, "bootstrap-token-abcdef", "kube-system")
    assert {key: value.decode() for key, value in secret.data.items()} == {
        "token-id": "abcdef", "token-secret": TOKEN.secret, "expiration": "2026-05-01T02:00:00Z",
        "usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true", "description": "for n2",
        "auth-extra-groups": "system:bootstrappers:sampan:default-node-token"}
    with pytest.raises(CommandError, match="exists already"):
        await token.create(client, TOKEN, None, "", NOW)
    shown = token.render((await client.list(SECRETS)).items, NOW).splitlines()
    assert shown[0].split() == ["TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA", "GROUPS"]
    assert shown[1].split()[:4] == [str(TOKEN), "2h", "2026-05-01T02:00:00Z", "authentication,signing"]
    assert shown[2].split()[1:3] == ["<forever>", "<never>"]
    assert await token.delete(client, str(TOKEN)) == 'bootstrap token "abcdef" deleted'
    with pytest.raises(CommandError, match="there is no token"):
        await token.delete(client, "abcdef")


@pytest.mark.parametrize(("expiration", "ttl"), [
    ("2026-05-01T00:00:30Z", "30s"), ("2026-05-01T00:59:00Z", "59m"), ("2026-05-02T00:00:00Z", "24h"),
    ("2026-04-30T00:00:00Z", "<expired>"), ("soon", "<invalid>"), ("", "<forever>")])
def test_what_is_left_of_a_token(expiration: str, ttl: str) -> None:
    assert token.remaining(expiration, NOW)[0] == ttl


def test_a_secret_that_is_no_whole_token_is_listed_too() -> None:
    assert "<invalid>" in token.render([Secret(data={"token-id": b"\xff", "expiration": b"x"})], NOW)


# Certificates

def test_certificates_are_listed_and_renewed(tmp_path: Path) -> None:
    place = paths(tmp_path)
    with pytest.raises(CommandError, match="no certificates on this host"):
        certs.collect(place)
    instant = [NOW]
    pki = ClusterPki(place.pki, ["192.0.2.1", "m"], lambda: instant[0])
    pki.ensure()
    found = {item.name: item for item in certs.collect(place)}
    assert set(found) == {"admin", "apiserver", "ca"}
    assert found["admin"].renewed_by == certs.BY_MASTER
    shown = certs.render(list(found.values()), NOW + timedelta(days=1))
    assert "May 01, 2027 00:00 UTC   364d" in shown
    assert "<expired>" in certs.render(list(found.values()), NOW + timedelta(days=366))
    before = (place.pki / "apiserver.crt").read_bytes()
    instant[0] = NOW + timedelta(days=10)
    assert pki.renew("apiserver") == NOW + timedelta(days=375)
    after = (place.pki / "apiserver.crt").read_bytes()
    assert ca.certificate_names(after) == ca.certificate_names(before)
    assert ca.certificate_identity(after) == ca.certificate_identity(before)
    assert ca.belong_together(ca.KeyPair(after, (place.pki / "apiserver.key").read_bytes()))


def test_a_node_cannot_renew_the_cluster_s(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="CA is not on this host"):
        certs.renew(paths(tmp_path), FakeUnits(), [])


def test_a_systemctl_that_hangs_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **_: object) -> None:
        raise subprocess.TimeoutExpired(command, 150)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(CommandError, match=r"systemctl enable --now sampan-agent.service takes more than 150 s"):
        SystemdUnits()._checked("enable", "--now", "sampan-agent.service")
