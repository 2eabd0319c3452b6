"""Joining over the real API server: the token, the CA's hash, the certificate, and every way in which it fails."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agent.link import bootstrap
from agent.link.bootstrap import JoinError, JoinRequest, Unreachable, join
from agent.link.files import NodeFiles
from agent.link.link import Link
from master import config as settings
from master.main import Master
from sampan.api.resources import CERTIFICATESIGNINGREQUESTS, NODES, SECRETS
from sampan.api.types import core_v1, meta_v1
from sampan.client import kubeconfig as config_files
from sampan.client.http import HttpClient
from sampan.loop.clock import FakeClock, SystemClock
from sampan.loop.notify import Notifier
from sampan.pki import ca, kubeconfig
from sampan.pki.tokens import BootstrapToken
from tests.support import nodeline


class Cluster:
    """A whole master on loopback."""

    def __init__(self, master: Master, config: settings.Config, client: HttpClient, token: BootstrapToken) -> None:
        assert master.server is not None
        self.client = client
        self.token = token
        self.server = f"127.0.0.1:{master.server.port}"
        self.lines = f"127.0.0.1:{config.node_port_grpc}"
        self.ca_hash = ca.public_key_hash((config.pki_dir / "ca.crt").read_bytes())

    @property
    def request(self) -> JoinRequest:
        return JoinRequest(self.server, self.token, self.ca_hash, "n1")


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = settings.resolve({
        "data_dir": str(tmp_path / "data"), "bind_address": "127.0.0.1", "advertise_address": "127.0.0.1",
        "secure_port": "0", "node_port_grpc": str(port), "components": "apiserver,controllers,nodes"}, {})
    master = Master(config, SystemClock(), Notifier({}))
    task = asyncio.create_task(master.run())
    try:
        async with asyncio.timeout(60):
            await master.ready.wait()
        assert master.server is not None
        pair = ca.Authority(ca.KeyPair((config.pki_dir / "ca.crt").read_bytes(),
                                       (config.pki_dir / "ca.key").read_bytes())).issue(
            ca.Identity("admin", ("system:masters",)))
        path = tmp_path / "kubeconfig"
        path.write_bytes(kubeconfig.render(f"https://127.0.0.1:{master.server.port}",
                                           (config.pki_dir / "ca.crt").read_bytes(), pair.certificate, pair.key))
        async with HttpClient(config_files.load(path)) as client:
            token = BootstrapToken.new()
            await client.create(SECRETS, token.to_secret(SystemClock().now() + timedelta(hours=1), "test"))
            yield Cluster(master, config, client, token)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_host_with_a_token_becomes_a_node(cluster: Cluster, tmp_path: Path) -> None:
    files = NodeFiles(tmp_path / "node")
    async with asyncio.timeout(60):
        await join(cluster.request, files, SystemClock())
    assert files.present()
    assert files.pair_path.stat().st_mode & 0o777 == 0o600
    assert ca.certificate_identity(files.pair().certificate) == ca.Identity("system:node:n1", ("system:nodes",))
    assert not files.pending_key_path.exists()
    link = Link("n1", [cluster.lines], files, SystemClock(), backoff=nodeline.FAST)
    async with nodeline.running(link):
        link.reports.node(core_v1.Node(metadata=meta_v1.ObjectMeta(name="n1")))
        await nodeline.until(lambda: link.view.get(NODES, "n1"))
    before = files.pair()
    await join(cluster.request, files, SystemClock())  # a second time nothing happens
    assert files.pair() == before


async def test_joining_goes_on_where_it_was_interrupted(cluster: Cluster, tmp_path: Path,
                                                        monkeypatch: pytest.MonkeyPatch) -> None:
    files = NodeFiles(tmp_path / "node")

    async def killed(*_: object) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bootstrap, "_wait", killed)
        with pytest.raises(KeyboardInterrupt):
            await join(cluster.request, files, SystemClock())
    key = files.pending_key()
    await join(cluster.request, files, SystemClock())
    assert files.pair().key == key
    assert len((await cluster.client.list(CERTIFICATESIGNINGREQUESTS)).items) == 1


async def test_another_cluster_s_hash_is_refused_before_the_token_is_shown(cluster: Cluster, tmp_path: Path) -> None:
    wrong = replace(cluster.request, ca_hash="sha256:" + "0" * 64)
    with pytest.raises(JoinError, match="another cluster, or somebody stands between"):
        await join(wrong, NodeFiles(tmp_path / "node"), SystemClock())
    assert not (await cluster.client.list(CERTIFICATESIGNINGREQUESTS)).items


async def test_a_wrong_token(cluster: Cluster, tmp_path: Path) -> None:
    wrong = replace(cluster.request, token=BootstrapToken.new())
    with pytest.raises(JoinError, match="refuses the token"):
        await join(wrong, NodeFiles(tmp_path / "node"), SystemClock())


async def test_a_clock_that_is_wrong(cluster: Cluster, tmp_path: Path) -> None:
    clock = FakeClock(SystemClock().now() - timedelta(hours=3))
    with pytest.raises(JoinError, match=r"clock is 10\d+ s behind the master's"):
        await join(cluster.request, NodeFiles(tmp_path / "node"), clock)


@pytest.mark.parametrize(("error", "text"), [
    ("certificate verify failed: Hostname mismatch, certificate is not valid for 'x'", "not for that name"),
    ("certificate verify failed: IP address mismatch, certificate is not valid for '10.0.0.9'", "not for that name"),
    ("certificate verify failed: certificate is not yet valid", "clock is behind"),
    ("certificate verify failed: certificate has expired", "has expired, or this host's clock is ahead"),
    ("certificate verify failed: unable to get local issuer certificate", "no certificate of the cluster's CA"),
])
def test_what_is_said_of_certificates(error: str, text: str) -> None:
    assert text in bootstrap.untrusted("https://m:6443", ValueError(error))


async def test_nobody_there(tmp_path: Path) -> None:
    _, authority = ca.Authority.create("ca")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    request = JoinRequest(f"127.0.0.1:{port}", BootstrapToken.new(), ca.public_key_hash(authority.certificate), "n1")
    with pytest.raises(Unreachable, match="Connection refused; is the master running"):
        await join(request, NodeFiles(tmp_path / "node"), SystemClock())
