"""What the agent makes sure of between its CNI plugins; tests/integration/network runs real ones."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.network.cni import chain
from agent.network.cni.network import CniNetwork
from netplugin import netns
from netplugin.protocol import Sandbox
from sampan.loop.clock import FakeClock

RESULT = {"cniVersion": "1.1.0", "ips": [{"address": "10.43.5.2/24", "gateway": "10.43.5.1"}]}


class Room:
    """A network of one plugin, whose commands wait for `let` where they are in `held`."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held: set[str] = set()
        self.let = asyncio.Event()
        self.under_way: list[str] = []
        self.together: list[set[str]] = []
        self.valid: list[str] = []
        for name in ("net.d", "bin"):
            (root / name).mkdir()
        (root / "net.d" / "pods.conflist").write_text(
            json.dumps({"cniVersion": "1.1.0", "name": "pods", "plugins": [{"type": "plugin"}]}))
        (root / "bin" / "plugin").touch(0o755)
        monkeypatch.setattr(chain, "_execute", self._execute)
        monkeypatch.setattr(netns, "loopback_up", lambda _: None)
        self.network = CniNetwork(root / "net.d", [root / "bin"], root / "state", FakeClock())

    async def _execute(self, _: Path, environment: Mapping[str, str], stdin: str) -> tuple[int, str, str]:
        command = environment["CNI_COMMAND"]
        self.under_way.append(command)
        self.together.append(set(self.under_way))
        told: dict[str, Any] = json.loads(stdin)
        self.valid += [each["containerID"] for each in told.get("cni.dev/valid-attachments", ())]
        if command in self.held:
            await self.let.wait()
        self.under_way.remove(command)
        return 0, json.dumps(RESULT) if command == "ADD" else "", ""


@pytest.mark.parametrize(("first", "second"), [("GC", "ADD"), ("ADD", "GC"), ("GC", "DEL"), ("DEL", "GC")])
async def test_garbage_is_collected_while_nothing_comes_or_goes(first: str, second: str, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification's section 3, "Lifecycle & Ordering": else the address of a sandbox that is attached meanwhile,
    and so not listed, would be taken from it."""
    room = Room(tmp_path, monkeypatch)
    sandbox = Sandbox("c1", os.getpid(), "default", "web", "u1")
    works = {"ADD": lambda: room.network.attach(sandbox), "DEL": lambda: room.network.detach("c1"),
             "GC": lambda: room.network.reconcile(["c1"])}
    if "DEL" in (first, second):
        await room.network.attach(sandbox)
    room.held.add(first)
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        group.create_task(works[first]())  # type: ignore[arg-type]
        while first not in room.under_way:
            await asyncio.sleep(0.001)
        later = group.create_task(works[second]())  # type: ignore[arg-type]
        for _ in range(20):
            await asyncio.sleep(0)
        assert not later.done()
        room.let.set()
    assert {"GC"} in room.together
    assert not any(len(commands) > 1 for commands in room.together)
    if first == "ADD":
        assert room.valid == ["c1"]
