from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sampan import mounts
from sampan.api.times import MicroTime
from sampan.api.types import coordination_v1
from sampan.cli import lab as command
from sampan.cli import main, trees
from sampan.cli.progress import CommandError
from sampan.lab import cluster, engine, images, needs, operations, processes, shell, state, status, wires
from sampan.lab.needs import PACKAGES, Machine, missing
from sampan.lab.operations import Tell
from sampan.lab.plan import BLOCKS, Lab, LabError

GOOD = Machine(root=True, commands=[*PACKAGES, "jq", "sampan-master", "sampan-agent"], snap=False, memory=8000,
               wrapper_needed=True)


def made_lab(root: Path, name: str = "lab") -> Lab:
    return Lab(name, BLOCKS[0], 2, root / name, root / "data")


@pytest.mark.parametrize(("machine", "words"), [
    (GOOD, []),
    (replace(GOOD, root=False), ["root: namespaces"]),
    (replace(GOOD, commands=[]), [*(f"the command {name}" for name in PACKAGES), "the command sampan-master",
                                  "the command sampan-agent", "the command jq"]),
    (replace(GOOD, commands=[*PACKAGES, "sampan-master", "sampan-agent"]), ["the command jq"]),
    (replace(GOOD, commands=[*PACKAGES, "sampan-master", "sampan-agent"], wrapper_needed=False), []),
    (replace(GOOD, snap=True), ["a Docker that is no snap"]),
    (replace(GOOD, memory=900), ["memory: 3 nodes take about 1000 MB"]),
])
def test_everything_that_is_missing_is_told_at_once(machine: Machine, words: list[str]) -> None:
    found = missing(machine, 3)
    assert len(found) == len(words)
    assert all(text.startswith(word) for text, word in zip(found, words, strict=True))


def test_a_lab_that_runs_needs_no_more_memory() -> None:
    assert missing(replace(GOOD, memory=100), 0) == []
    assert len(missing(replace(GOOD, memory=100), 1)) == 1


def test_hosts_that_run_have_their_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "STATES", tmp_path)
    one = replace(made_lab(tmp_path), state=tmp_path / "lab")
    assert operations.running("lab") == 0
    state.save(one)
    assert operations.running("lab") == 0
    docker = engine.unit(one.hosts[1], "docker")
    subprocess.run(docker.launch(["sleep", "600"]), check=True, timeout=60)
    try:
        assert operations.running("lab") == 1
    finally:
        docker.kill()
    assert operations.running("lab") == 0


def test_what_this_machine_has_is_seen() -> None:
    seen = needs.look(lambda name: f"/snap/bin/{name}" if name in ("docker", "ip") else None)
    assert seen.snap
    assert seen.commands == ["ip", "docker"]
    assert seen.memory > 0
    assert seen.root == (os.geteuid() == 0)


MOUNTINFO = b"""\
23 1 8:1 / / rw - ext4 /dev/sda1 rw
30 23 0:5 / /run/netns/x rw - nsfs nsfs rw
31 23 0:6 / /var/lib/sampan-lab/a/node1/docker/overlay2/1/merged rw - overlay overlay rw
32 23 0:7 / /var/lib/sampan-lab/a rw - tmpfs tmpfs rw
33 23 0:7 / /var/lib/sampan-lab/ab/x rw - tmpfs tmpfs rw
34 23 0:8 / /var/lib/sampan-lab/a/with\\040space rw - tmpfs tmpfs rw
"""


def test_only_what_is_below_is_unmounted_and_deepest_first() -> None:
    assert trees.within([Path("/var/lib/sampan-lab/a")], mounts.parse(MOUNTINFO)) == [
        Path("/var/lib/sampan-lab/a/node1/docker/overlay2/1/merged"), Path("/var/lib/sampan-lab/a/with space")]


@pytest.mark.parametrize(("seconds", "alive"), [(None, False), (-1, False), (0, False), (1, True)])
def test_a_node_is_alive_by_its_newest_lease(seconds: int | None, alive: bool) -> None:
    since = datetime(2026, 5, 1, tzinfo=UTC)
    told = None if seconds is None else MicroTime.of(since + timedelta(seconds=seconds))
    lease = coordination_v1.Lease(spec=coordination_v1.LeaseSpec(renew_time=told))
    assert cluster.renewed(lease, since) == alive


def test_a_command_here_is_in_no_labs_namespace() -> None:
    assert processes.in_namespace("sampan-nosuch-master") == []


@pytest.mark.parametrize(("servers", "own"), [("nameserver 127.0.0.53\n", True), ("nameserver 192.0.2.1\n", False),
                                             ("nameserver 127.0.0.53\nnameserver 192.0.2.1\n", False), ("", False)])
def test_the_engine_is_given_name_servers_where_the_machines_are_on_loopback(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, servers: str, own: bool) -> None:
    (tmp_path / "resolv.conf").write_text(servers)
    (tmp_path / "real").write_text("nameserver 192.0.2.1\n")
    monkeypatch.setattr(engine, "RESOLV_CONF", tmp_path / "resolv.conf")
    monkeypatch.setattr(engine, "REAL_RESOLV_CONF", tmp_path / "real")
    assert engine.own_name_servers_needed() == own
    monkeypatch.setattr(engine, "REAL_RESOLV_CONF", tmp_path / "missing")
    assert not engine.own_name_servers_needed()


PROCESS = {"oomScoreAdj": -998, "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1048576, "soft": 1048576},
                                            {"type": "RLIMIT_CORE", "hard": 5, "soft": 4}],
           "capabilities": {"bounding": ["CAP_CHOWN", "CAP_SYS_RESOURCE"], "ambient": None}}


@pytest.mark.parametrize("which", ["bundle", "process"])
def test_the_wrapper_takes_out_just_what_the_kernel_refuses(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    process = json.loads(json.dumps(PROCESS))
    process["capabilities"].pop("ambient")
    wrapper, runc = tmp_path / "wrapper", tmp_path / "runc"
    wrapper.write_text(engine.WRAPPER)
    runc.write_text('#!/bin/sh\necho "$@"\n')
    for file in (wrapper, runc):
        file.chmod(0o755)
    content = {"process": process, "root": {"path": "x"}} if which == "bundle" else process
    target = tmp_path / ("config.json" if which == "bundle" else "p.json")
    target.write_text(json.dumps(content))
    words = ["--root", "/r", "create", "--bundle", str(tmp_path), "id"] if which == "bundle" else [
        "exec", "--process", str(target), "id", "create"]
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    done = subprocess.run([wrapper, *words], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == words
    clean = json.loads(target.read_text())
    clean = clean["process"] if which == "bundle" else clean
    assert clean == {"oomScoreAdj": 0, "capabilities": {"bounding": ["CAP_CHOWN"]},
                     "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 20000, "soft": 20000}, PROCESS["rlimits"][1]]}  # type: ignore[index]


def test_the_state_is_found_again_and_a_broken_one_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "STATES", tmp_path)
    assert state.find("lab") is None
    assert state.everyone() == []
    one = made_lab(tmp_path)
    with state.alone():
        state.save(one)
    assert state.load("lab") == one
    assert state.everyone() == [one]
    with pytest.raises(LabError, match='no lab "other"') as caught:
        state.load("other")
    assert caught.value.hint == "there are: lab"
    (one.state / state.FILE).write_text("{")
    with pytest.raises(LabError, match="cannot be read"):
        state.load("lab")
    assert state.everyone() == []  # nobody else suffers from it


async def test_two_images_can_be_copied_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab, loaded, saved = made_lab(tmp_path), [], asyncio.Barrier(2)
    lab.data.mkdir()

    async def docker(host: object, *words: str, **_: float) -> str:
        match words:
            case "image", *_, image:
                return image if host is None else ""
            case "save", _, file, image:
                Path(file).write_text(image)
                await saved.wait()
            case _, _, file:
                loaded.append(Path(file).read_text())
        return ""

    monkeypatch.setattr(engine, "docker", docker)
    async with asyncio.timeout(60):
        await asyncio.gather(images.copy(lab, "one"), images.copy(lab, "two"))
    assert sorted(loaded) == ["one", "one", "two", "two"]
    assert not any(lab.data.iterdir())


async def test_cutting_a_cable_keeps_what_others_wrote_meanwhile(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "STATES", tmp_path)
    monkeypatch.setattr(wires, "has_link", no_link)
    read = made_lab(tmp_path)
    state.save(replace(read, forwarding=True))  # what a lab that goes leaves to this one
    cut = await operations.partition(read, read.hosts[1:])
    assert state.load("lab") == cut == replace(read, forwarding=True, partitioned=("node1",))
    shutil.rmtree(read.state)
    with pytest.raises(LabError, match="there is no lab"):
        await operations.partition(read, [])
    assert state.everyone() == []


async def no_link(*_: str) -> bool:
    return False


def test_only_a_labs_own_folder_is_taken_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state, "STATES", tmp_path / "states")
    monkeypatch.setattr(state, "DATA", tmp_path / "disks")
    one = made_lab(tmp_path)
    one.data.mkdir()
    (one.data / "thesis.txt").write_text("mine")
    assert not state.is_ours(one.data, one.name)
    with pytest.raises(LabError, match="is not empty"):
        state.claim(one)
    (one.data / "thesis.txt").unlink()
    state.claim(one)
    (one.data / "image").write_text("the lab's")
    state.claim(one)
    assert state.is_ours(one.data, one.name)
    assert not state.is_ours(one.data, "other")
    for place in (state.folder("lab"), state.DATA / "lab"):
        place.mkdir(parents=True)
        (place / "file").write_text("")
        assert state.is_ours(place, "lab")
        assert not state.is_ours(place, "other")


def test_the_status_of_a_lab_that_is_off(tmp_path: Path) -> None:
    one = replace(made_lab(tmp_path), partitioned=("node1",))
    found = json.loads(status.render(one, "json"))
    assert [node["processes"] for node in found["nodes"]] == [{}, {}]
    assert [node["partitioned"] for node in found["nodes"]] == [False, True]
    assert [node["roles"] for node in found["nodes"]] == [["control-plane"], []]
    text = status.render(one, "text")
    assert "master   192.168.56.10   control-plane   (off) " in text
    assert "(off) (cut off)" in text


async def test_commands_tell_their_errors_and_none_stays_behind(tmp_path: Path) -> None:
    assert await shell.run("cat", stdin="x") == "x"
    assert await shell.succeeds("true")
    assert not await shell.succeeds("false")
    with pytest.raises(shell.CommandFailed, match="sh -c echo no >&2; exit 3: no"):
        await shell.run("sh", "-c", "echo no >&2; exit 3")
    with pytest.raises(shell.CommandFailed, match="exit code 3"):
        await shell.run("sh", "-c", "exit 3")
    with pytest.raises(shell.CommandFailed, match="no-such-command is not installed"):
        await shell.run("no-such-command")
    pidfile = tmp_path / "pid"
    while not (pidfile.exists() and pidfile.read_text()):  # a busy machine may have ended it before it began
        with pytest.raises(shell.CommandFailed, match="no end within 1 s"):
            await shell.run("sh", "-c", f"echo $$ > {pidfile}; exec sleep 60", timeout=1)
    assert not Path(f"/proc/{int(pidfile.read_text())}").exists()


def test_of_many_errors_the_first_is_raised_alone() -> None:
    first = LabError("one")
    with pytest.raises(LabError, match="one"), shell.first_error():
        raise BaseExceptionGroup("", [ExceptionGroup("", [first]), LabError("two")])


def test_progress_has_its_time() -> None:
    out = io.StringIO()
    tell = Tell(out, iter([10.0, 12.34]).__next__)
    tell("done")
    assert out.getvalue() == "   2.3 s  done\n"


def parse(*words: str) -> Callable[[], int]:
    arguments = main.parser().parse_args(["lab", *words])
    return lambda: command.run(arguments)


def test_every_command_has_its_help(capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("up", "status", "env", "list", "exec", "load", "kill", "stop", "start", "restart", "partition",
                 "heal", "down"):
        with pytest.raises(SystemExit) as caught:
            parse(name, "--help")
        assert caught.value.code == 0
        assert f"sampan lab {name}" in capsys.readouterr().out


def test_a_host_that_is_off_runs_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
                                            capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(state, "STATES", tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    state.save(replace(made_lab(tmp_path), name="nonesuch", state=tmp_path / "nonesuch"))
    monkeypatch.setattr(sys, "argv", ["sampan", "lab", "exec", "--name", "nonesuch", "node1", "--", "true"])
    assert main.main() == 1
    assert "error: node1 is off" in capsys.readouterr().err


def test_who_is_not_root_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(CommandError, match="needs root"):
        parse("status")()


def test_the_lab_needs_neither_master_nor_agent() -> None:
    script = ("import sys, sampan.cli.lab, sampan.lab.operations, sampan.lab.images, sampan.lab.status\n"
              "print([name for name in sys.modules if name.split('.')[0] in ('master', 'agent', 'netplugin')])")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
