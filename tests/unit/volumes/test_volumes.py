from __future__ import annotations

import asyncio
import errno
import os
import stat
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.volumes import atomic, hostpath
from agent.volumes.atomic import File
from agent.volumes.host import FRESHEN_SECONDS, HostVolumes
from agent.volumes.protocol import PreparedVolume, VolumeError
from sampan.api.resources import Object, Resource
from sampan.api.types import core_v1, meta_v1
from sampan.loop.clock import FakeClock

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
T = TypeVar("T", bound=Object)


class FakeMounter:
    """Remembers mounts; nothing is mounted."""

    def __init__(self) -> None:
        self.mounts: list[tuple[Path, int]] = []
        self.bound: dict[Path, str] = {}

    def mounted_below(self, directory: Path) -> list[Path]:
        return [path for path, _ in self.mounts if path == directory or directory in path.parents]

    def tmpfs(self, target: Path, size: int, group: int | None = None) -> None:
        del group
        assert target.is_dir()
        self.mounts.append((target, size))

    def bind(self, descriptor: int, target: Path) -> None:
        assert target.exists()
        self.mounts.append((target, 0))
        self.bound[target] = str(Path(f"/proc/self/fd/{descriptor}").readlink())

    def unmount(self, target: Path) -> None:
        self.mounts = [(path, size) for path, size in self.mounts if path != target]


class View:
    authoritative = True

    def __init__(self, *objects: core_v1.ConfigMap | core_v1.Secret) -> None:
        self.objects = {(item.kind, item.metadata.name): item for item in objects}

    async def loaded(self) -> None: ...
    async def synced(self) -> None: ...

    def get(self, resource: Resource[T], name: str, namespace: str = "") -> T | None:
        assert namespace == "ns"
        return self.objects.get((resource.kind, name))  # type: ignore[return-value]

    def list(self, resource: Resource[T]) -> Sequence[T]:
        return []

    def subscribe(self, resource: Resource[T], handler: Callable[[T | None, T | None], None]) -> None: ...


def config(name: str = "conf", **data: str) -> core_v1.ConfigMap:
    return core_v1.ConfigMap(metadata=meta_v1.ObjectMeta(name=name, namespace="ns"), data=data)


def secret(**data: bytes) -> core_v1.Secret:
    return core_v1.Secret(metadata=meta_v1.ObjectMeta(name="keys", namespace="ns"), data=data)


def pod(*volumes: core_v1.Volume, fs_group: int | None = None) -> core_v1.Pod:
    security = core_v1.PodSecurityContext(fs_group=fs_group) if fs_group is not None else None
    return core_v1.Pod(metadata=meta_v1.ObjectMeta(name="p", namespace="ns", uid="u1"),
                       spec=core_v1.PodSpec(containers=[], volumes=list(volumes), security_context=security))


@pytest.fixture
def mounter() -> FakeMounter:
    return FakeMounter()


@pytest.fixture
def volumes(tmp_path: Path, mounter: FakeMounter) -> HostVolumes:
    return HostVolumes(tmp_path, mounter, lambda: NOW)


CONFIG = core_v1.Volume(name="c", config_map=core_v1.ConfigMapVolumeSource(name="conf", default_mode=0o640))


async def test_a_config_map_becomes_files_that_change_together(volumes: HostVolumes) -> None:
    item = pod(CONFIG)
    path = Path((await volumes.prepare(item, View(config(a="1", b="2"))))["c"].path)
    assert {entry.name: entry.read_text() for entry in path.iterdir() if entry.is_file()} == {"a": "1", "b": "2"}
    assert stat.S_IMODE((path / "a").stat().st_mode) == 0o640
    before = (path / "..data").readlink()
    await volumes.refresh(item, View(config(a="1", b="2")))
    assert (path / "..data").readlink() == before
    await volumes.refresh(item, View(config(a="9")))
    assert {entry.name: entry.read_text() for entry in path.iterdir() if entry.is_file()} == {"a": "9"}
    assert [entry.name for entry in path.iterdir() if entry.name.startswith("..2")] == [
        str((path / "..data").readlink())]
    await volumes.refresh(item, View())
    assert (path / "a").read_text() == "9", "what is gone keeps its old content"


async def test_items_choose_keys_paths_and_modes(volumes: HostVolumes) -> None:
    volume = core_v1.Volume(name="c", config_map=core_v1.ConfigMapVolumeSource(name="conf", items=[
        core_v1.KeyToPath(key="a", path="deep/er/x", mode=0o400)]))
    path = Path((await volumes.prepare(pod(volume), View(config(a="1", b="2"))))["c"].path)
    assert (path / "deep/er/x").read_text() == "1"
    assert stat.S_IMODE((path / "deep/er/x").stat().st_mode) == 0o400
    assert not (path / "b").exists()


@pytest.mark.parametrize(("volume", "message"), [
    (CONFIG, 'configmap "conf" not found'),
    (core_v1.Volume(name="s", secret=core_v1.SecretVolumeSource(secret_name="keys")), 'secret "keys" not found'),
    (core_v1.Volume(name="c", config_map=core_v1.ConfigMapVolumeSource(
        name="other", items=[core_v1.KeyToPath(key="nope", path="x")])),
     "configmap references non-existent config key: nope"),
    (core_v1.Volume(name="c", config_map=core_v1.ConfigMapVolumeSource(
        name="other", items=[core_v1.KeyToPath(key="a", path="../x")])), "leads out of the volume"),
    (core_v1.Volume(name="n", nfs=core_v1.NFSVolumeSource(path="/", server="x")), "volumes of type nfs"),
    (core_v1.Volume(name="h", host_path=core_v1.HostPathVolumeSource(path="/nowhere", type="Directory")),
     "hostPath type check failed: /nowhere is not a directory"),
])
async def test_what_cannot_be_prepared_says_why(volumes: HostVolumes, volume: core_v1.Volume, message: str) -> None:
    with pytest.raises(VolumeError, match=message.replace("(", r"\(")) as caught:
        await volumes.prepare(pod(volume), View(config("other", a="1")))
    assert caught.value.volume == volume.name


async def test_a_host_path_of_no_type_is_made_where_it_is_missing(volumes: HostVolumes, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for path in (tmp_path / "not/there/yet", file):
        volume = core_v1.Volume(name="h", host_path=core_v1.HostPathVolumeSource(path=str(path), type=""))
        assert (await volumes.prepare(pod(volume), View()))["h"].path == str(path)
    assert (tmp_path / "not/there/yet").is_dir()
    assert file.read_text() == "kept"


async def test_optional_sources_may_be_missing(volumes: HostVolumes) -> None:
    volume = core_v1.Volume(name="c", config_map=core_v1.ConfigMapVolumeSource(name="conf", optional=True))
    path = Path((await volumes.prepare(pod(volume), View()))["c"].path)
    assert [entry for entry in path.iterdir() if not entry.name.startswith("..")] == []


async def test_secrets_and_memory_volumes_live_in_tmpfs_and_teardown_leaves_nothing(
        volumes: HostVolumes, mounter: FakeMounter, tmp_path: Path) -> None:
    item = pod(core_v1.Volume(name="s", secret=core_v1.SecretVolumeSource(secret_name="keys")),
               core_v1.Volume(name="m", empty_dir=core_v1.EmptyDirVolumeSource(medium="Memory", size_limit="1Mi")),
               core_v1.Volume(name="d", empty_dir=core_v1.EmptyDirVolumeSource()))
    for _ in range(2):  # repeating changes nothing
        ready = await volumes.prepare(item, View(secret(k=b"\x00\xff")))
    assert (Path(ready["s"].path) / "k").read_bytes() == b"\x00\xff"
    assert sorted((path.name, size) for path, size in mounter.mounts) == [("m", 1 << 20), ("s", 0)]
    assert stat.S_IMODE(Path(ready["d"].path).stat().st_mode) == 0o777
    assert await volumes.known() == {"u1"}
    await volumes.teardown("u1")
    await volumes.teardown("u1")
    assert mounter.mounts == []
    assert await volumes.known() == set()
    assert list((tmp_path / "pods").iterdir()) == []


async def test_teardown_removes_nothing_through_a_mount_that_stays(
        volumes: HostVolumes, mounter: FakeMounter, monkeypatch: pytest.MonkeyPatch) -> None:
    item = pod(core_v1.Volume(name="m", empty_dir=core_v1.EmptyDirVolumeSource(medium="Memory")))
    path = Path((await volumes.prepare(item, View()))["m"].path)
    (path / "precious").touch()
    monkeypatch.setattr(mounter, "unmount", lambda _: None)
    with pytest.raises(VolumeError, match="still mounted"):
        await volumes.teardown("u1")
    assert (path / "precious").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files to another group")
async def test_fs_group_owns_what_is_written(volumes: HostVolumes) -> None:
    item = pod(CONFIG, core_v1.Volume(name="d", empty_dir=core_v1.EmptyDirVolumeSource()), fs_group=1234)
    ready = await volumes.prepare(item, View(config(a="1")))
    assert (Path(ready["c"].path) / "a").stat().st_gid == 1234
    assert Path(ready["d"].path).stat().st_gid == 1234
    assert Path(ready["d"].path).stat().st_mode & stat.S_ISGID


async def test_a_subpath_is_made_and_never_leads_out(
        volumes: HostVolumes, mounter: FakeMounter, tmp_path: Path) -> None:
    root = tmp_path / "vol"
    root.mkdir(mode=0o777)
    volume = PreparedVolume(str(root))

    async def bound(path: str) -> str:
        target = Path(await volumes.subpath("u1", "v/app/0", volume, path))
        assert mounter.mounted_below(tmp_path / "pods/u1") == [target]
        return mounter.bound[target]

    root.chmod(0o2777)  # as a volume with fsGroup: what is made below belongs to the group, too
    assert await bound("a/b") == str(root / "a/b")
    assert [stat.S_IMODE((root / path).stat().st_mode) for path in ("a", "a/b")] == [0o2777, 0o2777]
    (root / "link").symlink_to("/etc")
    (root / "inner").symlink_to("a")
    assert await bound("inner/b") == str(root / "a/b")
    for bad in ("../x", "link/passwd", "/etc", "a/../../x"):
        with pytest.raises(VolumeError, match="leads out"):
            await bound(bad)
    await volumes.teardown("u1")
    assert mounter.mounts == []


async def test_two_containers_make_the_same_directories_at_once(
        volumes: HostVolumes, mounter: FakeMounter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each looks, finds nothing, and makes it: the second finds it made."""
    root = tmp_path / "vol"
    root.mkdir()
    both, mkdir = threading.Barrier(2, timeout=60), os.mkdir

    def together(name: str, mode: int = 0o777, *, dir_fd: int | None = None) -> None:
        if name == "logs":
            both.wait()
        mkdir(name, mode, dir_fd=dir_fd)

    monkeypatch.setattr(os, "mkdir", together)
    targets = await asyncio.gather(*(volumes.subpath("u1", f"v/{name}/0", PreparedVolume(str(root)), "logs")
                                     for name in ("app", "sidecar")))
    assert [mounter.bound[Path(target)] for target in targets] == [str(root / "logs")] * 2
    assert stat.S_IMODE((root / "logs").stat().st_mode) == stat.S_IMODE(root.stat().st_mode)


@pytest.mark.parametrize("kind", ["", "DirectoryOrCreate"])
def test_two_pods_make_the_same_host_path_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path, mkdir = tmp_path / "shared", Path.mkdir

    def late(path: Path, mode: int = 0o777, **rest: bool) -> None:
        mkdir(path)  # the other pod's thread
        mkdir(path, mode, **rest)

    monkeypatch.setattr(Path, "mkdir", late)
    hostpath.check("h", path, kind)
    assert path.is_dir()


def _unresolved(path: str | Path, *, strict: bool = False) -> str:
    del strict
    return str(path)


async def test_a_link_put_in_place_of_a_directory_is_not_followed(
        volumes: HostVolumes, mounter: FakeMounter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a container may do between the look at the path and its mount."""
    root = tmp_path / "vol"
    root.mkdir()
    (root / "a").symlink_to("/etc")
    monkeypatch.setattr(os.path, "realpath", _unresolved)  # it was a directory a moment ago
    for path in ("a", "a/cron.d"):
        with pytest.raises(VolumeError, match="changed while"):
            await volumes.subpath("u1", "v/app/0", PreparedVolume(str(root)), path)
    assert mounter.bound == {}


async def test_files_that_a_crash_left_without_their_names_get_them(volumes: HostVolumes) -> None:
    item = pod(CONFIG)
    path = Path((await volumes.prepare(item, View(config(a="1"))))["c"].path)
    (path / "a").unlink()  # the agent died after the swap, before the names
    (path / "gone").symlink_to("..data/gone")
    (path / "..2025_01_01_00_00_00.left").mkdir()
    await volumes.prepare(item, View(config(a="1")))
    assert (path / "a").read_text() == "1"
    assert sorted(entry.name for entry in path.iterdir()) == sorted(
        ["a", "..data", str((path / "..data").readlink())])


async def test_an_empty_dir_that_was_left_half_made_is_finished(
        volumes: HostVolumes, monkeypatch: pytest.MonkeyPatch) -> None:
    item = pod(core_v1.Volume(name="d", empty_dir=core_v1.EmptyDirVolumeSource()))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "chmod", _broken)
        with pytest.raises(VolumeError):
            await volumes.prepare(item, View())
    path = Path((await volumes.prepare(item, View()))["d"].path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o777
    path.chmod(0o700)  # what the pod makes of it stays
    await volumes.prepare(item, View())
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["d"]


def _broken(*_: object) -> None:
    raise OSError("the disk is full")


async def test_only_root_may_look_into_pods_directories(volumes: HostVolumes, tmp_path: Path) -> None:
    await volumes.prepare(pod(core_v1.Volume(name="s", secret=core_v1.SecretVolumeSource(secret_name="keys"))),
                          View(secret(k=b"1")))
    assert stat.S_IMODE((tmp_path / "pods").stat().st_mode) & 0o007 == 0


@given(st.lists(st.dictionaries(st.sampled_from(["a", "b", "dir/c", "dir/d", "e/f/g"]),
                                st.binary(max_size=4).map(lambda data: File(data, 0o644))), max_size=5))
def test_after_any_writes_exactly_the_last_payload_is_seen(
        tmp_path_factory: pytest.TempPathFactory, payloads: list[dict[str, File]]) -> None:
    target = tmp_path_factory.mktemp("t")
    for payload in payloads:
        atomic.write(target, payload, NOW)
        assert not atomic.write(target, payload, NOW)
        seen = {str(path.relative_to(target)): path.read_bytes()
                for top in target.iterdir() if not top.name.startswith("..")
                for path in (top, *top.rglob("*")) if path.is_file()}
        assert seen == {path: file.data for path, file in payload.items()}
        assert all(entry.exists() for entry in target.iterdir()), "no dangling link"


@given(st.text("abc/.", max_size=8))
def test_a_valid_path_stays_inside(path: str) -> None:
    if atomic.valid_path(path):
        assert os.path.normpath(f"/v/{path}").startswith("/v/")


async def test_a_volume_is_prepared_and_refreshed_in_turn(volumes: HostVolumes) -> None:
    """Two at once would tidy each other's unfinished files away."""
    item = pod(CONFIG)
    for number in range(40):
        view = View(config(**{f"key{count}": str(number) for count in range(20)}))
        await asyncio.gather(volumes.prepare(item, view), volumes.refresh(item, view))
    path = Path((await volumes.prepare(item, view))["c"].path)
    assert len([entry for entry in path.iterdir() if entry.name.startswith("..2")]) == 1


async def test_what_cannot_be_written_is_tried_again(volumes: HostVolumes, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a full disk, say: a new token must not wait in memory until the one in the file has expired."""
    clock, item, view = FakeClock(), pod(CONFIG), View(config(a="2"))
    path = Path((await volumes.prepare(item, View(config(a="1"))))["c"].path) / "a"

    def full(*_payload: object, **_group: object) -> bool:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "write", full)
        await volumes.refresh(item, view)
    assert path.read_text() == "1"
    keeping = asyncio.create_task(volumes.keep_fresh(lambda: [item], view, clock))
    try:
        async with asyncio.timeout(60):
            while path.read_text() == "1":
                await clock.advance(FRESHEN_SECONDS)
                await asyncio.sleep(0.001)
    finally:
        keeping.cancel()
    assert path.read_text() == "2"


async def test_a_refresh_makes_nothing_again_after_a_teardown(volumes: HostVolumes, tmp_path: Path) -> None:
    item = pod(CONFIG)
    await volumes.prepare(item, View(config(a="1")))
    await asyncio.gather(volumes.teardown("u1"), volumes.refresh(item, View(config(a="2"))))
    assert not (tmp_path / "pods/u1").exists()
