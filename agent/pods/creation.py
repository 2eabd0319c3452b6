"""Creates a container although its name may be taken, as it often is after a crash or a power cut."""

from __future__ import annotations

import secrets
from dataclasses import replace

from agent.engine.protocol import Container, ContainerSpec, Engine, NameConflict
from agent.pods import labels
from agent.pods.memory import Memory
from agent.pods.observe import Observer

_IDENTITY = (labels.POD_UID, labels.CONTAINER_NAME, labels.RESTART_COUNT, labels.SANDBOX_ID, labels.HASH, labels.NODE)


async def create(engine: Engine, observer: Observer, memory: Memory, spec: ContainerSpec) -> None:
    """Create a container and remember it; EngineError.

    The holder of a taken name is adopted if its labels say that it is the same, removed if it is another of ours, and
    left alone if it is a stranger's: then the new one gets a suffix.
    """
    asked = observer.now()
    try:
        container_id = await engine.create(spec)
    except NameConflict as conflict:
        holder = await observer.look(conflict.holder)
        same = holder and all(holder.labels.get(name) == spec.labels.get(name) for name in _IDENTITY)
        if holder and same and holder.status not in ("removing", "dead"):
            return
        if holder:
            memory.lose(holder.id, observer.now())
            if holder.labels.get(labels.NODE) == spec.labels[labels.NODE]:
                await engine.remove(holder.id)
        container_id = await _again(engine, spec)
    memory.see(Container(container_id, spec.name, spec.image, "", dict(spec.labels), "created", created_at=asked),
               observer.now())  # a list that was asked for before need not have it


async def _again(engine: Engine, spec: ContainerSpec) -> str:
    try:
        return await engine.create(spec)
    except NameConflict:
        return await engine.create(replace(spec, name=f"{spec.name}_{secrets.token_hex(4)}"))
