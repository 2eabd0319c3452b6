"""Projected and downwardAPI volumes; tokens, and when they are renewed."""

from __future__ import annotations

import asyncio
import os
import stat
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from agent.link.authority import AuthorityError, TokenOrder
from agent.link.authority_fake import FakeAuthority
from agent.link.protocol import ClusterView
from agent.pods.environment import NodeFacts
from agent.volumes import payload
from agent.volumes.host import FRESHEN_SECONDS, HostVolumes
from agent.volumes.protocol import VolumeError
from agent.volumes.tokens import PodTokens, read_held
from sampan.api.resources import Object, Resource
from sampan.api.types import core_v1, meta_v1
from sampan.loop.clock import FakeClock

HOUR = 3607


class Mounter:
    """Remembers what was mounted."""

    def __init__(self) -> None:
        self.mounts: list[Path] = []

    def mounted_below(self, directory: Path) -> list[Path]:
        return [path for path in self.mounts if path == directory or directory in path.parents]

    def tmpfs(self, target: Path, size: int, group: int | None = None) -> None:
        del size, group
        self.mounts.append(target)

    def bind(self, descriptor: int, target: Path) -> None:
        raise AssertionError

    def unmount(self, target: Path) -> None:
        self.mounts.remove(target)


class View:
    """The ConfigMap and the Secret that are there."""

    authoritative = True

    async def loaded(self) -> None: ...
    async def synced(self) -> None: ...

    def get(self, resource: Resource[Any], name: str, namespace: str = "") -> Object | None:
        meta = meta_v1.ObjectMeta(name=name, namespace=namespace)
        match resource.kind, name:
            case "ConfigMap", "kube-root-ca.crt":
                return core_v1.ConfigMap(metadata=meta, data={"ca.crt": "PEM"})
            case "Secret", "keys":
                return core_v1.Secret(metadata=meta, data={"key": b"secret"})
        return None

    def list(self, resource: Resource[Any]) -> list[Any]:
        del resource
        return []

    def subscribe(self, resource: Resource[Any], handler: Any) -> None: ...


VIEW: ClusterView = View()  # type: ignore[assignment] # generic methods, of which this knows two cases
NAMESPACE = core_v1.DownwardAPIVolumeFile(path="namespace", field_ref=core_v1.ObjectFieldSelector(
    field_path="metadata.namespace"))


def access(path: str = "token", *, seconds: int = HOUR, audience: str | None = None) -> core_v1.VolumeProjection:
    return core_v1.VolumeProjection(service_account_token=core_v1.ServiceAccountTokenProjection(
        path=path, expiration_seconds=seconds, audience=audience))


def projected(*sources: core_v1.VolumeProjection, mode: int | None = None) -> core_v1.Volume:
    return core_v1.Volume(name="v", projected=core_v1.ProjectedVolumeSource(sources=list(sources), default_mode=mode))


STANDARD = projected(
    access(), core_v1.VolumeProjection(config_map=core_v1.ConfigMapProjection(name="kube-root-ca.crt", items=[
        core_v1.KeyToPath(key="ca.crt", path="ca.crt")])),
    core_v1.VolumeProjection(downward_api=core_v1.DownwardAPIProjection(items=[NAMESPACE])))


def pod(*volumes: core_v1.Volume, security: core_v1.PodSecurityContext | None = None,
        users: tuple[int | None, ...] = (None,), labels: dict[str, str] | None = None) -> core_v1.Pod:
    containers = [core_v1.Container(name=f"c{number}", resources=core_v1.ResourceRequirements(limits={"cpu": "1500m"}),
                                    security_context=core_v1.SecurityContext(run_as_user=user))
                  for number, user in enumerate(users)]
    meta = meta_v1.ObjectMeta(name="p", namespace="ns", uid="u1", labels=labels or {})
    return core_v1.Pod(metadata=meta, spec=core_v1.PodSpec(containers=containers, volumes=list(volumes),
                                                           service_account_name="bot", security_context=security))


class Node:
    """A node's volumes; `restart` is another process on the same disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = FakeClock()
        self.mounter = Mounter()
        self.authority = FakeAuthority(self.clock.now)
        self.restart()

    def restart(self) -> None:
        self.volumes = HostVolumes(self.root, self.mounter, self.clock.now)
        self.tokens = PodTokens(self.authority, self.clock.now)
        self.volumes.serve(self.tokens, NodeFacts("n1", "192.0.2.1", {"cpu": "4"}))

    async def pass_time(self, **time: float) -> None:
        await self.clock.advance(timedelta(**time).total_seconds())

    async def files(self, item: core_v1.Pod) -> dict[str, str]:
        path = Path((await self.volumes.prepare(item, VIEW))["v"].path)
        return {entry.name: entry.read_text() for entry in path.iterdir() if not entry.name.startswith("..")}


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


async def test_what_clients_in_the_cluster_look_for(node: Node) -> None:
    files = await node.files(pod(STANDARD))
    assert files.keys() == {"token", "ca.crt", "namespace"}
    assert (files["ca.crt"], files["namespace"]) == ("PEM", "ns")
    assert files["token"].startswith("fake.")
    assert node.authority.orders == [TokenOrder("ns", "p", "u1", "bot", (), HOUR)]
    assert node.mounter.mounts == [], "a mount takes longer than all the rest"


async def test_secrets_never_lie_on_the_disk(node: Node) -> None:
    source = core_v1.VolumeProjection(secret=core_v1.SecretProjection(name="keys"))
    assert (await node.files(pod(projected(source, access()))))["key"] == "secret"
    assert len(node.mounter.mounts) == 1


async def test_one_question_serves_until_the_token_is_old(node: Node) -> None:
    item = pod(STANDARD)
    first = (await node.files(item))["token"]
    await node.pass_time(seconds=HOUR * 0.79)
    assert (await node.files(item))["token"] == first
    node.restart()
    assert (await node.files(item))["token"] == first, "a restarted agent finds it on the disk"
    assert len(node.authority.orders) == 1
    await node.pass_time(seconds=HOUR * 0.02)
    assert node.tokens.due("u1")
    second = (await node.files(item))["token"]
    assert second != first
    assert not node.tokens.due("u1")


async def test_after_a_day_at_the_latest(node: Node) -> None:
    item = pod(projected(access(seconds=30 * 24 * 3600)))
    first = (await node.files(item))["token"]
    await node.pass_time(hours=23, minutes=59)
    assert not node.tokens.due("u1")
    await node.pass_time(minutes=2)
    assert node.tokens.due("u1")
    assert (await node.files(item))["token"] != first


async def test_without_the_master_what_is_there_goes_on(node: Node) -> None:
    node.authority.extra = 3600.0
    item = pod(STANDARD)
    first = (await node.files(item))["token"]
    node.authority.failure = AuthorityError("there is no connection to the master")
    await node.pass_time(seconds=HOUR * 0.9)
    for _ in range(2):
        assert (await node.files(item))["token"] == first
        node.restart()
    await node.pass_time(seconds=HOUR * 0.5)  # what was asked for has passed, the token itself has not
    assert (await node.files(item))["token"] == first
    await node.pass_time(seconds=3600)
    with pytest.raises(VolumeError, match="failed to fetch token: there is no connection to the master"):
        await node.files(item)
    await node.volumes.refresh(item, VIEW)  # keeps what is there, and tells the log
    node.authority.failure = None
    assert (await node.files(item))["token"] != first


async def test_a_failed_renewal_is_not_tried_all_the_time(node: Node) -> None:
    item = pod(STANDARD)
    await node.files(item)
    await node.pass_time(seconds=HOUR * 0.9)
    node.authority.failure = AuthorityError("no")
    assert node.tokens.due("u1")
    await node.files(item)
    assert not node.tokens.due("u1")
    await node.pass_time(minutes=1)
    assert node.tokens.due("u1")


async def test_a_pod_that_cannot_have_a_token_says_why(node: Node) -> None:
    node.authority.failure = AuthorityError('serviceaccounts "bot" not found')
    with pytest.raises(VolumeError, match='failed to fetch token: serviceaccounts "bot" not found') as refused:
        await node.files(pod(STANDARD))
    assert refused.value.volume == "v"


async def test_it_is_renewed_while_the_pod_runs(node: Node) -> None:
    item = pod(STANDARD)
    first = (await node.files(item))["token"]
    keeping = asyncio.create_task(node.volumes.keep_fresh(lambda: [item], VIEW, node.clock))
    path = node.root / "pods/u1/volumes/kubernetes.io~projected/v/token"
    try:
        async with asyncio.timeout(60):
            while path.read_text() == first:
                await node.pass_time(seconds=FRESHEN_SECONDS)
                await asyncio.sleep(0.001)
    finally:
        keeping.cancel()
    assert node.clock.monotonic() >= 0.8 * HOUR
    await node.volumes.teardown("u1")
    assert not node.tokens.due("u1")


@pytest.mark.parametrize(("given", "mode", "owner", "group"), [
    (pod(STANDARD), 0o644, None, None),
    (pod(projected(access(), mode=0o640)), 0o640, None, None),
    (pod(STANDARD, users=(1000, 1000)), 0o600, 1000, None),
    (pod(STANDARD, users=(1000, 1001)), 0o644, None, None),
    (pod(STANDARD, users=(1000, None)), 0o644, None, None),
    (pod(STANDARD, users=(1000, None), security=core_v1.PodSecurityContext(run_as_user=1000)), 0o600, 1000, None),
    (pod(STANDARD, users=(None,), security=core_v1.PodSecurityContext(run_as_user=7)), 0o600, 7, None),
    (pod(STANDARD, security=core_v1.PodSecurityContext(fs_group=2000)), 0o640, None, 2000),
    (pod(STANDARD, users=(1000,), security=core_v1.PodSecurityContext(fs_group=2000)), 0o640, 1000, 2000),
])
async def test_whose_file_it_is(node: Node, monkeypatch: pytest.MonkeyPatch, given: core_v1.Pod, mode: int,
                                owner: int | None, group: int | None) -> None:
    owners: dict[str, tuple[int, int]] = {}

    def chown(path: Path, user: int, group: int) -> None:
        before = owners.get(Path(path).name, (-1, -1))
        owners[Path(path).name] = (user if user >= 0 else before[0], group if group >= 0 else before[1])

    monkeypatch.setattr(os, "chown", chown)
    path = Path((await node.volumes.prepare(given, VIEW))["v"].path) / "token"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert owners.get("token", (-1, -1)) == (-1 if owner is None else owner, -1 if group is None else group)


async def test_audiences_and_paths(node: Node) -> None:
    files = await node.files(pod(projected(access("a", audience="vault", seconds=600), access("b"))))
    assert files.keys() == {"a", "b"}
    assert [(order.audiences, order.seconds) for order in node.authority.orders] == [(("vault",), 600), ((), HOUR)]
    with pytest.raises(VolumeError, match="leads out of the volume"):
        await node.files(pod(projected(access("../x"))))


async def test_downward(node: Node) -> None:
    def file(path: str, field: str = "", resource: str = "", divisor: str = "0") -> core_v1.DownwardAPIVolumeFile:
        return core_v1.DownwardAPIVolumeFile(
            path=path, field_ref=core_v1.ObjectFieldSelector(field_path=field) if field else None,
            resource_field_ref=core_v1.ResourceFieldSelector(container_name="c0", resource=resource, divisor=divisor)
            if resource else None)

    items = [file("labels", "metadata.labels"), file("name", "metadata.name"), file("one", "metadata.labels['b']"),
             file("cpu", resource="limits.cpu"), file("milli", resource="limits.cpu", divisor="1m")]
    volume = core_v1.Volume(name="v", downward_api=core_v1.DownwardAPIVolumeSource(items=items))
    item = pod(volume, labels={"b": 'say "hi"', "a": "1"})
    assert await node.files(item) == {"labels": 'a="1"\nb="say \\"hi\\""', "name": "p", "one": 'say "hi"', "cpu": "2",
                                      "milli": "1500"}
    assert payload.tells_labels(item)
    assert not payload.tells_labels(pod(STANDARD))
    assert not node.authority.orders


@pytest.mark.parametrize("text", [b"", b"x", b"a.b.c", b"a.eyJ4.c", b"\xff.\xff.\xff", b"a.W10.c"])
def test_what_is_no_token_is_not_kept(text: bytes) -> None:
    held = read_held(text, HOUR)
    assert held is None or held.ends.year == 1970
