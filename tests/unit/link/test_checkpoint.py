from __future__ import annotations

import asyncio
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.link.checkpoint import Checkpoint, CheckpointTooNew, CheckpointWriter
from agent.link.view import View
from sampan.api import codec
from sampan.api.resources import PODS, SECRETS
from sampan.api.types import core_v1, meta_v1
from sampan.loop.clock import FakeClock
from sampan.nodeline import Key, key_of


def view(*objects: core_v1.Pod | core_v1.Secret) -> View:
    made = View()
    for obj in objects:
        resource = PODS if isinstance(obj, core_v1.Pod) else SECRETS
        made.put(key_of(resource, obj), obj.metadata.uid, obj.metadata.resource_version, codec.encode(obj))
    return made


def pod(name: str = "p", uid: str = "u1", revision: str = "7") -> core_v1.Pod:
    metadata = meta_v1.ObjectMeta(name=name, namespace="default", uid=uid, resource_version=revision)
    return core_v1.Pod(metadata=metadata, spec=core_v1.PodSpec(containers=[core_v1.Container(name="c")]))


SECRET = core_v1.Secret(metadata=meta_v1.ObjectMeta(name="s", namespace="default", uid="u2", resource_version="8"),
                        data={"password": b"correct horse"})


def test_what_was_saved_is_restored(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "n1")
    checkpoint.save(view(pod(), SECRET).entries())
    restored = View()
    assert Checkpoint(tmp_path, "n1").load(restored)
    assert restored.list(PODS) == [pod()]
    assert restored.list(SECRETS) == [SECRET]
    assert {(entry.uid, entry.revision) for entry in restored.entries()} == {("u1", "7"), ("u2", "8")}


def test_the_files_are_private_and_show_no_secret(tmp_path: Path) -> None:
    Checkpoint(tmp_path, "n1").save(view(SECRET).entries())
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    text = (tmp_path / "checkpoint.json").read_text()
    assert "password" not in text
    assert "Y29ycmVjd" not in text


def test_nothing_there_is_nothing_to_go_by(tmp_path: Path) -> None:
    assert not Checkpoint(tmp_path, "n1").load(View())


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "garbage", "node", "key"])
def test_a_damaged_file_is_put_aside_with_a_warning(tmp_path: Path, damage: str,
                                                     caplog: pytest.LogCaptureFixture) -> None:
    checkpoint = Checkpoint(tmp_path, "n1")
    checkpoint.save(view(pod(), SECRET).entries())
    data = checkpoint.path.read_bytes()
    match damage:
        case "truncated":
            checkpoint.path.write_bytes(data[:-100])
        case "flipped":
            middle = len(data) // 2
            checkpoint.path.write_bytes(data[:middle] + bytes((data[middle] ^ 1,)) + data[middle + 1:])
        case "empty":
            checkpoint.path.write_bytes(b"")
        case "garbage":
            checkpoint.path.write_bytes(b"\xff\x00" * 500)
        case "node":
            checkpoint = Checkpoint(tmp_path, "n2")
        case _:
            (tmp_path / "checkpoint.key").unlink()
    restored = View()
    with caplog.at_level(logging.WARNING):
        assert not checkpoint.load(restored)
    assert not list(restored.entries())
    assert "damaged" in caplog.text
    assert (tmp_path / "checkpoint.json.corrupt").exists()
    assert not checkpoint.path.exists()
    checkpoint.save(view(pod()).entries())
    assert checkpoint.load(View())


def test_a_newer_format_is_refused_and_kept(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path, "n1")
    checkpoint.save(view(pod()).entries())
    header, rest = checkpoint.path.read_bytes().split(b"\n", 1)
    newer = json.dumps(json.loads(header) | {"version": 2}).encode()
    checkpoint.path.write_bytes(newer + b"\n" + rest)
    with pytest.raises(CheckpointTooNew, match="newer agent"):
        checkpoint.load(View())
    assert checkpoint.path.read_bytes().startswith(newer)


def test_a_view_tells_of_a_pod_that_was_replaced_as_of_two() -> None:
    made = view(pod(uid="a"))
    heard: list[tuple[str, str]] = []
    made.subscribe(PODS, lambda old, new: heard.append((old.metadata.uid if old else "",
                                                        new.metadata.uid if new else "")))
    again = pod(uid="b", revision="9")
    made.put(key_of(PODS, again), "b", "9", codec.encode(again))
    made.put(key_of(PODS, again), "b", "9", codec.encode(again))
    made.delete(key_of(PODS, again))
    made.delete(key_of(PODS, again))
    assert heard == [("a", ""), ("", "b"), ("b", "")]


def test_a_view_survives_what_it_cannot_read(caplog: pytest.LogCaptureFixture) -> None:
    made = View()
    made.put(Key("", "pods", "default", "p"), "u", "1", b'{"spec": 7}')
    made.put(Key("later", "things", "", "x"), "u", "1", b"{}")
    assert not list(made.entries())
    assert "cannot be read" in caplog.text


async def test_what_is_about_to_be_saved_at_the_end_is_saved(tmp_path: Path) -> None:
    """All threads are busy, and who is cancelled while it waits for one gets none."""
    loop, free = asyncio.get_running_loop(), threading.Event()
    loop.set_default_executor(ThreadPoolExecutor(1))
    loop.run_in_executor(None, free.wait, 60)
    clock, seen = FakeClock(), view(pod())
    task = asyncio.create_task(CheckpointWriter(Checkpoint(tmp_path, "n1"), seen, clock).run())
    await clock.advance(1)
    assert not seen.changed.is_set()
    task.cancel()
    await asyncio.wait([task], timeout=60)
    free.set()
    restored = View()
    assert Checkpoint(tmp_path, "n1").load(restored)
    assert restored.list(PODS) == [pod()]
