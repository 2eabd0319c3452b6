"""The infra program as an image that `docker load` takes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping
from typing import Any

from agent.engine.infra.elf import executable
from agent.engine.infra.program import Machine
from agent.engine.protocol import Engine, EngineError

VERSION = "1"
"""Raised when the image's content changes; not the program's version, so that upgrades keep pods' infra containers."""

REFERENCE = f"sampan/infra:{VERSION}"

_PLATFORMS: Mapping[str, tuple[Machine, str]] = {
    "x86_64": ("x86_64", "amd64"), "amd64": ("x86_64", "amd64"),
    "aarch64": ("aarch64", "arm64"), "arm64": ("aarch64", "arm64"),
}


async def ensure_infra_image(engine: Engine, other: str = "") -> str:
    """Load the image where it is missing, or pull the `other` that is used in its place; returns the reference."""
    if other:
        if await engine.image(other) is None:
            await engine.pull(other)
        return other
    if await engine.image(REFERENCE) is None:
        await engine.load(infra_archive((await engine.info()).architecture))
    return REFERENCE


def infra_archive(architecture: str) -> bytes:
    """An archive of the image for an architecture as the engine names it; always the same bytes for the same one."""
    if architecture not in _PLATFORMS:
        raise EngineError(f"no built-in infra image for {architecture}: give one with --infra-image")
    machine, platform = _PLATFORMS[architecture]
    layer = _tar({"infra": (executable(machine), 0o755)})
    config = _json({
        "architecture": platform, "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": {"Entrypoint": ["/infra"], "StopSignal": "SIGTERM"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"]},
        "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "sampan"}],
    })
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    manifest = _json([{"Config": config_name, "RepoTags": [REFERENCE], "Layers": ["layer.tar"]}])
    return _tar({config_name: (config, 0o644), "layer.tar": (layer, 0o644), "manifest.json": (manifest, 0o644)})


def _tar(files: Mapping[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, (content, mode) in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), mode
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
