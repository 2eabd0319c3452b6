"""What the puller remembers of a node's images."""

from __future__ import annotations

import pytest

from agent.engine.fake import FakeEngine
from agent.images import puller
from agent.images.puller import ImagePuller
from sampan.loop.clock import FakeClock
from tests.support.pods import FakeView


async def test_only_so_many_images_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(puller, "REMEMBERED", 2)
    engine = FakeEngine(images=["a:1", "b:1", "c:1"])
    images = ImagePuller(engine, FakeView(), FakeClock())
    for reference in ("a:1", "b:1", "b:1", "c:1", "b:1", "a:1", "gone:1"):
        found = await images.local(reference)
        assert (found is None) == (reference == "gone:1")
    assert [what for call, what in engine.calls if call == "image"] == ["a:1", "b:1", "c:1", "a:1", "gone:1"]
