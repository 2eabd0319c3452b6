"""The infra program really runs: here under the host's kernel, for aarch64 under qemu."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import shutil
import signal
import struct
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.engine.fake import FakeEngine
from agent.engine.infra import REFERENCE, ensure_infra_image, infra_archive
from agent.engine.infra.elf import executable
from agent.engine.infra.program import Machine
from agent.engine.protocol import EngineError

MACHINES: list[Machine] = ["x86_64", "aarch64"]


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture(params=MACHINES)
def command(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    path = tmp_path / "infra"
    path.write_bytes(executable(request.param))
    path.chmod(0o755)
    if request.param == platform.machine():
        return [str(path)]
    emulator = shutil.which(f"qemu-{request.param}-static") or shutil.which(f"qemu-{request.param}")
    if emulator is None:
        pytest.skip(f"no qemu-user for {request.param}")
    return [emulator, str(path)]


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_only_by_sigterm_and_sigint(command: list[str], end: signal.Signals) -> None:
    with subprocess.Popen(command) as process:
        until(lambda: waits(process.pid))
        for other in (signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD, signal.SIGALRM):
            process.send_signal(other)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.1)
        process.send_signal(end)
        assert process.wait(60) == 0


def waits(pid: int) -> bool:
    """Whether the program waits for signals. Its emulator blocks all of them for moments, too, before it begins."""
    return signal.SIGUSR1 in blocked(pid) and state(pid) == "S"


def blocked(pid: int) -> set[int]:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("SigBlk"))
    mask = int(line.split()[1], 16)
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_it_reaps_children(command: list[str]) -> None:
    """The shell leaves two children to the program that it becomes; they end with their input."""
    script = 'exec 3<&0; cat <&3 & cat <&3 & exec "$@"'
    with subprocess.Popen(["sh", "-c", script, "sh", *command], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: len(children.read_text().split()) == 2)
        until(lambda: waits(process.pid))
        process.stdin.close()
        until(lambda: not children.read_text().split())  # zombies would still be listed
        process.terminate()
        assert process.wait(60) == 0


@pytest.mark.parametrize("machine", MACHINES)
def test_the_executable_is_small_and_well_formed(machine: Machine) -> None:
    content = executable(machine)
    assert len(content) < 256
    entry, = struct.unpack_from("<Q", content, 24)
    address, size = struct.unpack_from("<Q", content, 64 + 16)[0], struct.unpack_from("<Q", content, 64 + 32)[0]
    assert size == len(content)
    assert address < entry < address + size


def test_the_archive_is_one_image_with_matching_digests() -> None:
    with tarfile.open(fileobj=io.BytesIO(infra_archive("x86_64"))) as tar:
        read = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
    manifest, = json.loads(read["manifest.json"])
    config = json.loads(read[manifest["Config"]])
    layer = read[manifest["Layers"][0]]
    assert manifest["RepoTags"] == [REFERENCE]
    assert config["rootfs"]["diff_ids"] == ["sha256:" + hashlib.sha256(layer).hexdigest()]
    assert manifest["Config"] == hashlib.sha256(read[manifest["Config"]]).hexdigest() + ".json"
    assert infra_archive("x86_64") == infra_archive("amd64") != infra_archive("aarch64")


def test_other_machines_are_told_what_to_do() -> None:
    with pytest.raises(EngineError, match="--infra-image"):
        infra_archive("riscv64")


async def test_it_is_loaded_only_where_missing() -> None:
    engine = FakeEngine(images=[REFERENCE])
    assert await ensure_infra_image(engine) == REFERENCE
    assert "load" not in [call for call, _ in engine.calls]
    empty = FakeEngine()
    await ensure_infra_image(empty)
    assert "load" in [call for call, _ in empty.calls]


async def test_another_image_is_pulled_where_it_is_missing() -> None:
    engine = FakeEngine()
    with pytest.raises(EngineError, match="manifest unknown"):
        await ensure_infra_image(engine, "reg.example/pause:3")
    engine.add_image("reg.example/pause:3", remote=True)
    for _ in range(2):
        assert await ensure_infra_image(engine, "reg.example/pause:3") == "reg.example/pause:3"
    assert [call for call, _ in engine.calls].count("pull") == 2, "one failed, one came, the third found it there"
