"""Images from a folder: what is loaded when, and what is left alone."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.engine.fake import FakeEngine
from agent.engine.infra.image import REFERENCE, infra_archive
from agent.engine.protocol import EngineError, EngineUnavailable, Image
from agent.images.folder import REST, Archive, Content, ImageFolder, content, due, look
from sampan.loop.clock import FakeClock

NOW = datetime(2026, 5, 1, tzinfo=UTC)
T = NOW.timestamp()


def test_only_archives_are_looked_at(tmp_path: Path) -> None:
    assert look(tmp_path / "missing") == []
    for name in ("b.tar", "a.tar.gz", "c.tgz", "notes.txt", "d.tar.part"):
        (tmp_path / name).write_text(name)
    (tmp_path / "folder.tar").mkdir()
    assert [archive.path.name for archive in look(tmp_path)] == ["a.tar.gz", "b.tar", "c.tgz"]


@pytest.mark.parametrize(("size", "changed", "now", "expected"), [
    (5, T - 100, T, []),  # loaded already
    (6, T - 100, T, ["x"]),  # larger than it was
    (5, T - 50, T, ["x"]),  # written anew
    (6, T - REST + 0.5, T, []),  # still being copied
    (6, T - REST, T, ["x"]),
    (6, T + 500, T, ["x"]),  # from a host whose clock is ahead
])
def test_what_is_new_and_at_rest_is_due(size: int, changed: float, now: float, expected: list[str]) -> None:
    done = [Archive(Path("x"), 5, T - 100)]
    assert [archive.path.name for archive in due([Archive(Path("x"), size, changed)], done, now)] == expected


@given(st.lists(st.builds(Archive, st.sampled_from([Path("a"), Path("b")]), st.integers(0, 3), st.floats(0, 1e9))))
def test_what_was_loaded_is_never_due(archives: list[Archive]) -> None:
    assert due(archives, archives, T) == []


def test_an_archive_s_manifest_tells_its_images(tmp_path: Path) -> None:
    archive = tmp_path / "infra.tar"
    archive.write_bytes(infra_archive("amd64"))
    [found] = content(archive)
    assert found.names == (REFERENCE,)
    assert found.id.startswith("sha256:")
    assert len(found.id) == 71
    archive.write_bytes(b"no tar at all")
    assert content(archive) == []
    assert content(tmp_path / "gone.tar") == []
    assert content(tmp_path / "packed.tar.gz") == []


def put(folder: Path, name: str, data: bytes, age: float = 60) -> Path:
    path = folder / name
    path.write_bytes(data)
    os.utime(path, (T - age, T - age))
    return path


def loads(engine: FakeEngine) -> list[str]:
    return [what for call, what in engine.calls if call == "load"]


async def test_each_is_loaded_once_and_again_when_it_changes(tmp_path: Path) -> None:
    engine = FakeEngine()
    folder = ImageFolder(tmp_path, engine, FakeClock(NOW))
    put(tmp_path, "a.tar", b"one")
    await folder.reconcile()
    await folder.reconcile()
    assert loads(engine) == ["a.tar"]
    put(tmp_path, "b.tgz", b"two")
    await folder.reconcile()
    put(tmp_path, "a.tar", b"three!")
    await folder.reconcile()
    assert loads(engine) == ["a.tar", "b.tgz", "a.tar"]


async def test_what_the_engine_has_is_not_loaded_after_a_restart(tmp_path: Path) -> None:
    archive = put(tmp_path, "infra.tar", infra_archive("amd64"))
    [image] = content(archive)
    engine = FakeEngine()
    engine.add_image(REFERENCE)
    await ImageFolder(tmp_path, engine, FakeClock(NOW)).reconcile()
    assert loads(engine) == ["infra.tar"], "that name is another image's"
    again = HasImage(image)
    await ImageFolder(tmp_path, again, FakeClock(NOW)).reconcile()
    assert loads(again) == []


class HasImage(FakeEngine):
    """An engine that has one image."""

    def __init__(self, there: Content) -> None:
        super().__init__()
        self._there = there

    async def image(self, reference: str) -> Image | None:
        return Image(id=self._there.id) if reference in self._there.names else None


async def test_an_archive_that_is_refused_holds_nothing_up(tmp_path: Path) -> None:
    engine = FakeEngine()
    put(tmp_path, "a.tar", b"broken")
    put(tmp_path, "b.tar", b"good")
    engine.fail("load", EngineError("invalid tar header"))
    folder = ImageFolder(tmp_path, engine, FakeClock(NOW))
    await folder.reconcile()
    await folder.reconcile()
    assert loads(engine) == ["a.tar", "b.tar"]


async def test_an_engine_that_is_away_is_waited_for(tmp_path: Path) -> None:
    engine = FakeEngine()
    put(tmp_path, "a.tar", b"x")
    engine.fail("load", EngineUnavailable("no answer"))
    folder = ImageFolder(tmp_path, engine, FakeClock(NOW))
    await folder.reconcile()
    await folder.reconcile()
    assert loads(engine) == ["a.tar", "a.tar"]
