"""Copying images into every node's engine."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from sampan.lab import engine, shell
from sampan.lab.plan import Host, Lab, LabError


async def load(lab: Lab, images: Sequence[str], tell: Callable[[str], None]) -> None:
    """Copy tar files, and images that the machine's own engine or one of the nodes has, to where they are not."""
    for image in images:
        if file := tar_file(image):
            await load_file(lab.hosts, file)
            tell(f"{image}: loaded into {len(lab.hosts)} nodes")
        else:
            copied = await copy(lab, image)
            tell(f"{image}: copied to {copied} nodes" if copied else f"{image}: every node has it")


async def copy(lab: Lab, image: str) -> int:
    """Copy one image to the nodes that have another one of its name, or none; tells to how many. LabError."""
    holders = {host: await image_id(host, image) for host in (None, *lab.hosts)}
    source = next((host for host, found in holders.items() if found), None)
    if not holders[source]:
        raise LabError(f"there is no image {image} in this machine's engine or on any node of lab {lab.name}",
                       "pull or build it first, or give a tar file that docker save wrote")
    lacking = [host for host in lab.hosts if holders[host] != holders[source]]
    if lacking:
        with tempfile.TemporaryDirectory(prefix="images-", dir=lab.data) as folder:
            file = Path(folder) / "image.tar"
            await engine.docker(source, "save", "--output", str(file), image)
            await load_file(lacking, file)
    return len(lacking)


def tar_file(image: str) -> Path | None:
    """The file of that name, if it is one."""
    return Path(image).absolute() if Path(image).is_file() else None


async def image_id(host: Host | None, image: str) -> str:
    """The id of an image on a host (None: the machine's own engine), "" where it is not there."""
    with contextlib.suppress(shell.CommandFailed):
        return (await engine.docker(host, "image", "inspect", "--format", "{{.Id}}", image, timeout=30)).strip()
    return ""


async def load_file(hosts: Sequence[Host], file: Path) -> None:
    """Load what `docker save` wrote into these hosts' engines, side by side."""
    with shell.first_error():
        async with asyncio.TaskGroup() as group:
            for host in hosts:
                group.create_task(engine.docker(host, "load", "--input", str(file)))
