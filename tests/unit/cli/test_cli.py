from __future__ import annotations

import contextlib
import io
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.config import NAME_LIMIT
from sampan.api.errors import ApiError
from sampan.api.resources import DEPLOYMENTS, NODES
from sampan.api.types import apps_v1, core_v1, meta_v1
from sampan.cli import main as command
from sampan.cli import objects, status
from sampan.cli.configure import NODE_NAME_LIMIT
from sampan.cli.engine import facts
from sampan.cli.paths import Paths
from sampan.cli.progress import CommandError, Progress
from sampan.cli.units import BackgroundUnits
from sampan.cli.up import (
    UpOptions,
    down,
    refresh_kubeconfig,
    up,
    wait_for_master,
    wait_for_node,
    write_configuration,
)
from sampan.client.fake import FakeClient
from sampan.client.http import HttpClient
from sampan.loop.clock import FakeClock
from sampan.pki import ca, kubeconfig
from sampan.pki.cluster import ClusterPki


def paths(root: Path) -> Paths:
    return Paths(root / "config", root / "data", root / "run", root / "log")


def test_a_step_says_what_came_of_it_and_whether_anything_changed() -> None:
    out = io.StringIO()
    progress = Progress(out, iter([0.0, 1.25, 2.0, 2.0]).__next__)
    with progress.step("One") as outcome:
        outcome.unchanged("is there")
    assert not progress.changed
    with progress.step("Two"):
        pass
    assert progress.changed
    assert out.getvalue() == "One … is there (1.2 s)\nTwo … done (0.0 s)\n"


def test_a_failed_step_is_told_and_raised() -> None:
    out = io.StringIO()
    with pytest.raises(CommandError), Progress(out, iter([0.0, 3.0]).__next__).step("One"):
        raise CommandError("no")
    assert out.getvalue() == "One … failed (3.0 s)\n"


def test_a_table_is_printed_as_kubectl_does() -> None:
    table = {"columnDefinitions": [{"name": "Name"}, {"name": "Ready"}, {"name": "IP", "priority": 1}],
             "rows": [{"cells": ["a", "1/1", "10.0.0.1"], "object": {"metadata": {"namespace": "default"}}},
                      {"cells": ["longer", None, ""], "object": {"metadata": {"namespace": "x"}}}]}
    assert objects.render_table(table, namespaces=True) == (
        "NAMESPACE   NAME     READY\n"
        "default     a        1/1\n"
        "x           longer   <none>")
    assert objects.render_table({"columnDefinitions": [], "rows": []}, namespaces=False) == "No resources found"


@pytest.mark.parametrize("name", ["pods", "pod", "po", "Pod"])
def test_resources_are_found_by_every_name(name: str) -> None:
    assert objects.resource_named(name).kind == "Pod"


def test_an_unknown_resource_lists_the_known_ones() -> None:
    with pytest.raises(CommandError) as caught:
        objects.resource_named("foos")
    assert "configmaps" in caught.value.hint


@pytest.mark.parametrize(("observed", "updated", "available", "ready"), [
    (2, 3, 3, True), (1, 3, 3, False), (2, 1, 3, False), (2, 3, 2, False)])
def test_a_deployment_is_ready_when_all_of_its_newest_pods_are(
        observed: int, updated: int, available: int, ready: bool) -> None:
    deployment = apps_v1.Deployment(
        metadata=meta_v1.ObjectMeta(generation=2),
        spec=apps_v1.DeploymentSpec(replicas=3, selector=meta_v1.LabelSelector(),
                                    template=core_v1.PodTemplateSpec()),
        status=apps_v1.DeploymentStatus(observed_generation=observed, updated_replicas=updated,
                                        available_replicas=available))
    assert objects.is_ready(DEPLOYMENTS, deployment) is ready


def test_a_node_is_ready_by_its_condition() -> None:
    def node(value: str) -> core_v1.Node:
        return core_v1.Node(status=core_v1.NodeStatus(conditions=[core_v1.NodeCondition(type="Ready", status=value)]))

    assert objects.is_ready(NODES, node("True"))
    assert not objects.is_ready(NODES, node("Unknown"))


def test_configuration_is_written_once_and_then_the_users(tmp_path: Path) -> None:
    place = paths(tmp_path)
    assert write_configuration(UpOptions(node_name="N1", node_ip="192.0.2.7"), place)
    agent = yaml.safe_load(place.agent_config.read_text())
    assert (agent["node-name"], agent["server"]) == ("n1", "https://192.0.2.7:6443")
    assert stat.S_IMODE(place.agent_config.stat().st_mode) == 0o600
    for written in (place.master_config, place.agent_config):
        assert yaml.safe_load(written.read_text())["network-backend"] == "vxlan"
    place.agent_config.write_text("mine")
    assert not write_configuration(UpOptions(), place)
    assert place.agent_config.read_text() == "mine"


async def test_a_configuration_of_the_user_s_own_may_leave_keys_out(tmp_path: Path) -> None:
    place = paths(tmp_path)
    place.config.mkdir()
    place.master_config.write_text("advertise-address: 192.0.2.7\n")
    ClusterPki(place.pki, ["192.0.2.7"]).ensure()
    assert refresh_kubeconfig(place)
    assert "server: https://192.0.2.7:6443" in place.kubeconfig.read_text()


async def test_up_asks_the_engine_that_the_agent_is_configured_for(tmp_path: Path) -> None:
    place = paths(tmp_path)
    place.config.mkdir()
    place.agent_config.write_text(f"docker-host: unix://{tmp_path}/mine.sock\n")
    with pytest.raises(CommandError, match=f"{tmp_path}/mine.sock"):
        await up(UpOptions(docker_host=f"unix://{tmp_path}/other.sock"), place, BackgroundUnits(place),
                 Progress(io.StringIO()))


@pytest.mark.parametrize(("options", "said"), [
    (UpOptions(node_name="my_host"), '"my_host" cannot be a node\'s name'),
    (UpOptions(node_name="n" * 53), "at most 52"),
    (UpOptions(node_name="n1", node_ip="192.0.2"), "--node-ip: "),
    (UpOptions(node_name="n1", pod_cidr="10.244.0.1/16"), "--pod-cidr: "),
    (UpOptions(node_name="n1", service_cidr="x"), "--service-cidr: "),
    (UpOptions(node_name="n1", secure_port=70000), "--secure-port: "),
])
async def test_options_that_would_keep_master_or_agent_from_starting_are_refused(
        tmp_path: Path, options: UpOptions, said: str) -> None:
    place = paths(tmp_path)
    with pytest.raises(CommandError, match=said):
        await up(options, place, BackgroundUnits(place), Progress(io.StringIO()))
    assert not place.config.exists(), "else they would count from now on"


def test_up_and_agent_know_the_same_limit() -> None:
    assert NODE_NAME_LIMIT == NAME_LIMIT


def test_with_docker_gone_a_cluster_is_purged_by_force(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, agent = paths(tmp_path / "host"), tmp_path / "sampan-agent"
    agent.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/asked\necho "no Docker" >&2\nexit 1\n')
    agent.chmod(0o755)
    monkeypatch.setattr("sampan.cli.up.program", lambda name: str(tmp_path / name))
    write_configuration(UpOptions(node_ip="192.0.2.7"), place)
    out = io.StringIO()
    with pytest.raises(CommandError, match="no Docker") as caught:
        down(place, BackgroundUnits(place), Progress(out), purge=True)
    assert "--force" in caught.value.hint
    assert place.config.exists()
    down(place, BackgroundUnits(place), Progress(out), purge=True, force=True)
    assert not place.config.exists()
    assert "not all of it: sampan-agent cleanup: no Docker" in out.getvalue()
    common = f"cleanup --config {place.agent_config}"
    assert (tmp_path / "asked").read_text().splitlines() == [common, f"{common} --force"]


async def test_a_certificate_in_the_middle_of_its_renewal_is_waited_for(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = paths(tmp_path)
    ClusterPki(place.pki, ["127.0.0.1"]).ensure()
    _, authority = ca.Authority.create("c")
    (place.pki / "admin.key").write_bytes(authority.issue(ca.Identity("admin")).key)
    monkeypatch.setattr("sampan.cli.up.READY_SECONDS", 0.1)
    with pytest.raises(CommandError, match="the master is not ready"):
        await wait_for_master(place, BackgroundUnits(place), 1)


async def test_two_that_wait_for_the_master_do_not_disturb_one_another(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ready(*_: object) -> bytes:
        return b"ok"

    def write_and_lose(*_: object) -> None:
        """As another `sampan up` may remove what this one has just written."""

    place = paths(tmp_path)
    ClusterPki(place.pki, ["192.0.2.7"]).ensure()
    monkeypatch.setattr(HttpClient, "request", ready)
    monkeypatch.setattr("sampan.cli.up.write_atomically", write_and_lose)
    await wait_for_master(place, BackgroundUnits(place), 6443)


async def test_up_leaves_a_node_of_another_cluster_alone(tmp_path: Path) -> None:
    place = paths(tmp_path)
    (place.data / "agent/pki").mkdir(parents=True)
    (place.data / "agent/pki/node.pem").touch()
    place.config.mkdir()
    place.agent_config.write_text("node-name: n1\nserver: https://192.0.2.7:6443\n")
    with pytest.raises(CommandError, match=r'this host is node "n1" of https://192\.0\.2\.7:6443 already') as caught:
        await up(UpOptions(docker_host="unix:///nowhere"), place, BackgroundUnits(place), Progress(io.StringIO()))
    assert "sampan reset" in caught.value.hint
    assert not place.master_config.exists()


async def test_a_missing_engine_is_told_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="Docker is not there") as caught:
        await facts(f"unix://{tmp_path}/docker.sock")
    assert "systemctl start docker" in caught.value.hint


def test_status_names_what_is_wrong() -> None:
    found = {"kubeconfig": "/k", "services": {"master": {"state": "running", "pid": 7, "manager": "systemd",
                                                         "log": "journalctl"},
                                              "agent": {"state": "stopped", "pid": 0, "manager": "", "log": ""}},
             "nodes": [{"name": "n1", "ready": False}], "pods": {"Running": 2, "Pending": 1}}
    text = status.render(found, "text")
    assert "master   running  pid 7, systemd; log: journalctl" in text
    assert "node     NotReady n1" in text
    assert "pods     1 Pending, 2 Running" in text
    assert not status.healthy(found)


async def test_the_status_of_a_node_of_another_cluster_knows_no_master(tmp_path: Path) -> None:
    place = paths(tmp_path)
    place.config.mkdir()
    place.agent_config.write_text("node-name: n1\nserver: https://127.0.0.1:1\n")
    found = await status.collect(place, BackgroundUnits(place))
    assert list(found["services"]) == ["agent"]
    assert "the node's identity" in found["error"]
    _, authority = ca.Authority.create("c")
    own = authority.issue(ca.Identity("system:node:n1"))
    folder = place.data / "agent/pki"
    folder.mkdir(parents=True)
    (folder / "node.pem").write_bytes(own.key + own.certificate)
    (folder / "ca.crt").write_bytes(authority.certificate)
    found = await status.collect(place, BackgroundUnits(place))
    assert "https://127.0.0.1:1/api/v1/nodes/n1" in found["error"]
    assert not status.healthy(found)


def test_the_command_prints_one_clear_error(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SAMPAN_CONFIG_DIR", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["sampan", "kubeconfig"])
    assert command.main() == 1
    assert capsys.readouterr().err == (f"error: there is no {tmp_path}/admin.kubeconfig\n"
                                       "       bring the cluster up first: sudo sampan up\n")


def test_a_configuration_that_is_no_yaml_is_told(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("SAMPAN_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("SAMPAN_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    (tmp_path / "agent.yaml").write_text("node-name: [\n")
    for arguments in (["up"], ["certs"], ["reset"], ["doctor"]):
        monkeypatch.setattr(sys, "argv", ["sampan", *arguments])
        assert command.main() == 1
        assert f"error: {tmp_path}/agent.yaml cannot be read: while parsing" in capsys.readouterr().err


@pytest.mark.parametrize(("text", "said"), [
    (b"some words", "holds something that is no object"),
    (b"kind: Pod\napiVersion: v1\nmetadata: words", "holds something that is no object"),
    (b"kind: Pod\napiVersion: v1\nmetadata: {generateName: x}", "a Pod in "),
    (b"a: [", "is not YAML"),
    (b"\xff\xfe", "is no text"),
])
def test_a_file_that_cannot_be_applied_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes, said: str,
                                               capsys: pytest.CaptureFixture[str]) -> None:
    _, authority = ca.Authority.create("c")
    own = authority.issue(ca.Identity("admin"))
    place = tmp_path / "config"
    place.write_bytes(kubeconfig.render("https://127.0.0.1:1", authority.certificate, own.certificate, own.key))
    (tmp_path / "file").write_bytes(text)
    monkeypatch.setattr(sys, "argv", ["sampan", "apply", "--kubeconfig", str(place), "-f", str(tmp_path / "file")])
    assert command.main() == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ")
    assert said in told


@pytest.mark.parametrize(("given", "environ", "expected"), [
    (None, {}, ["/c/admin.kubeconfig"]),
    (None, {"KUBECONFIG": ""}, ["/c/admin.kubeconfig"]),
    (None, {"KUBECONFIG": "/a::b"}, ["/a", "b"]),
    ("/x", {"KUBECONFIG": "/a"}, ["/x"]),
])
def test_the_kubeconfig_is_found_as_kubectl_finds_it(given: str | None, environ: dict[str, str],
                                                     expected: list[str]) -> None:
    found = paths(Path("/")).kubeconfigs(Path(given) if given else None, environ)
    assert [str(path).replace("/config/", "/c/") for path in found] == expected


@pytest.mark.parametrize("arguments", [["token", "list"], ["get", "pods"], ["apply", "-f", "x"], ["wait", "pod/x"]])
def test_kubeconfig_is_honoured_and_a_missing_one_told(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    monkeypatch.setenv("KUBECONFIG", "/nowhere/config")
    monkeypatch.setattr(sys, "argv", ["sampan", *arguments])
    assert command.main() == 1
    said = capsys.readouterr().err
    assert said.startswith("error: /nowhere/config: No such file or directory\n")
    assert "--kubeconfig or $KUBECONFIG" in said


def test_a_kubeconfig_with_a_spoiled_certificate_is_told(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    _, authority = ca.Authority.create("c")
    own = authority.issue(ca.Identity("admin"))
    place = tmp_path / "config"
    place.write_bytes(kubeconfig.render("https://127.0.0.1:1", authority.certificate, b"spoiled", own.key))
    monkeypatch.setattr(sys, "argv", ["sampan", "get", "pods", "--kubeconfig", str(place)])
    assert command.main() == 1
    assert capsys.readouterr().err.startswith("error: certificates for https://127.0.0.1:1: ")


def wait_for(condition: object, seconds: float = 60) -> None:
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_supervisor_restarts_what_ends_and_stops_when_told(tmp_path: Path) -> None:
    marks, pidfile, log = tmp_path / "marks", tmp_path / "x.pid", tmp_path / "x.log"
    script = f"echo started >> {marks}; if [ $(wc -l < {marks}) -lt 2 ]; then exit 3; fi; exec sleep 600"
    subprocess.run([sys.executable, "-m", "sampan.cli.supervisor", "--pidfile", str(pidfile), "--log", str(log),
                    "--", "/bin/sh", "-c", script], check=True, timeout=60)
    wait_for(lambda: marks.exists() and marks.read_text().count("\n") == 2)
    assert "ended with code 3; again in 0.5 s" in log.read_text()
    os.kill(int(pidfile.read_text()), signal.SIGTERM)
    wait_for(lambda: not pidfile.exists())


def test_background_units_start_restart_and_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = paths(tmp_path)
    fake = tmp_path / "sampan-master"
    fake.write_text("#!/bin/sh\necho \"run $*\"\nexec sleep 600\n")
    fake.chmod(0o755)
    monkeypatch.setattr("sampan.cli.units.program", lambda name: str(tmp_path / name))
    units = BackgroundUnits(place)
    assert units.status("master").state == "stopped"
    assert units.start("master", ["--config", "x"])
    assert not units.start("master", ["--config", "x"])
    pid = units.status("master").pid
    wait_for(lambda: (place.log / "master.log").exists() and "run --config x" in (place.log / "master.log").read_text())
    units.restart("master")
    wait_for(lambda: (place.log / "master.log").read_text().count("run --config x") == 2)
    assert units.status("master").pid == pid
    assert units.stop("master")
    assert not units.stop("master")
    with contextlib.suppress(OSError):  # nobody has that number any more
        assert Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"


def test_a_supervisor_that_takes_too_long_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sampan.cli.units.START_SECONDS", 0.1)
    monkeypatch.setattr("sampan.cli.background.Supervised.launch", lambda *_: ["sleep", "600"])
    with pytest.raises(CommandError, match=r"the master's supervisor is not up within 0\.1 s"):
        BackgroundUnits(paths(tmp_path)).start("master", [])


async def test_a_master_that_is_busy_for_a_moment_does_not_end_the_wait_for_the_node(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Busy(FakeClient):
        refusals = 1

        async def list(self, *words: Any, **more: Any) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise ApiError(504, "Timeout", "Timeout: Too large resource version: 2, current: 1")
            return await super().list(*words, **more)

    @contextlib.asynccontextmanager
    async def connect(*_: Path) -> AsyncIterator[FakeClient]:
        yield client

    monkeypatch.setattr(objects, "connect", connect)
    client, units = Busy(FakeClock()), BackgroundUnits(paths(tmp_path))
    ready = core_v1.NodeStatus(conditions=[core_v1.NodeCondition(type="Ready", status="True")])
    client.put(core_v1.Node(metadata=meta_v1.ObjectMeta(name="n1"), status=ready))
    await wait_for_node(paths(tmp_path), units, "n1", None)
    client.refusals = 1000
    monkeypatch.setattr("sampan.cli.up.READY_SECONDS", 1)
    with pytest.raises(CommandError, match="not Ready after 1 s: Timeout: Too large resource version"):
        await wait_for_node(paths(tmp_path), units, "n1", None)


def test_a_pid_that_belongs_to_somebody_else_is_not_ours(tmp_path: Path) -> None:
    place = paths(tmp_path)
    place.run.mkdir()
    (place.run / "agent.pid").write_text(f"{os.getpid()}\n")
    assert BackgroundUnits(place).status("agent").state == "stopped"


def test_the_kubeconfig_follows_the_certificates(tmp_path: Path) -> None:
    place = paths(tmp_path)
    assert not refresh_kubeconfig(place)
    write_configuration(UpOptions(node_ip="192.0.2.7"), place)
    ClusterPki(place.pki, ["192.0.2.7"]).ensure()
    assert refresh_kubeconfig(place)
    assert not refresh_kubeconfig(place)
    before = place.kubeconfig.read_text()
    (place.pki / "admin.crt").unlink()
    ClusterPki(place.pki, ["192.0.2.7"]).ensure()
    assert refresh_kubeconfig(place)
    assert place.kubeconfig.read_text() != before
    assert "server: https://192.0.2.7:6443" in before
