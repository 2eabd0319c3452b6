"""Looks at what a pod's containers are: those that an event named, all after a failure; and at how they ended."""

from __future__ import annotations

import asyncio
from datetime import datetime

from agent.engine.protocol import Container, EngineError, NotFound
from agent.pods import labels
from agent.pods.memory import Memory
from agent.pods.model import Attempt
from agent.pods.rooms import Rooms

LOG_LINES = 80
LOG_BYTES = 2048
LOG_SECONDS = 10.0
"""How long the end of a log may take: it is only a message, and the pod waits for it."""


class Observer:
    """One pod's view of the engine."""

    def __init__(self, rooms: Rooms, memory: Memory, uid: str) -> None:
        self._rooms = rooms
        self._memory = memory
        self._uid = uid

    def now(self) -> datetime:
        """The time to note beside an answer: taken before the question."""
        return self._rooms.clock.now()

    async def look(self, container_id: str) -> Container | None:
        """Ask the engine for one container, and remember the answer."""
        asked = self.now()
        try:
            box = await self._rooms.engine.inspect(container_id)
        except NotFound:
            self._memory.lose(container_id, asked)
            return None
        self._memory.see(box, asked)
        return box

    async def learn(self) -> None:
        """Bring the memory up to date; EngineError."""
        memory = self._memory
        if memory.stale:
            asked, memory.stale = self.now(), False  # what fails from now on is not in the answer
            found = await self._rooms.engine.list({**labels.owned_by(self._rooms.node.name), labels.POD_UID: self._uid})
            memory.see_all(found, asked)
        for container_id in memory.unclear():
            await self.look(container_id)
        for box in memory.containers():
            if box.labels.get(labels.TYPE) != labels.CONTAINER:
                continue
            if Attempt.of(box).state == "exited" and box.id not in memory.messages:
                memory.messages[box.id] = await self._message(box)
            if box.image_id and box.image_id not in memory.image_ids:
                memory.image_ids[box.image_id] = await self._rooms.images.status_id(box.image_id)

    async def _message(self, box: Container) -> str:
        """The termination message: the file's content, or the end of the log where the container asks for that."""
        text = self._rooms.files.read_message(box.labels.get(labels.MESSAGE_FILE, ""))
        fallback = box.labels.get(labels.MESSAGE_POLICY) == "FallbackToLogsOnError"
        if text or not fallback or not box.exit_code:
            return text
        output = b""
        try:
            async with asyncio.timeout(LOG_SECONDS):
                async for line in self._rooms.engine.logs(box.id, tail=LOG_LINES):
                    output += line.data
        except (EngineError, TimeoutError) as error:
            return f"Error reading the container's log: {str(error) or 'it takes too long'}"
        return output[-LOG_BYTES:].decode(errors="replace")
