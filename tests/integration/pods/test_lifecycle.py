"""Pods' lives on a whole cluster, as users see them: restarts, back-offs, probes, hooks, ends."""

from __future__ import annotations

import subprocess
import time
from typing import Any

import pytest

from tests.support.space import (
    SLEEP,
    Json,
    Space,
    box,
    condition,
    is_ready,
    patience,
    restarts,
    state,
    terminated,
    waiting,
)

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

EXEC = {"periodSeconds": 1, "failureThreshold": 1, "timeoutSeconds": 60}


def script(text: str) -> list[str]:
    """A shell script that ends at once when it is asked to."""
    return ["sh", "-c", f"trap 'exit 0' TERM; {text}"]


def probe(command: str, **fields: Any) -> Json:
    """A probe that runs a command each second and believes its first failure."""
    return {"exec": {"command": ["sh", "-c", command]}, **EXEC, **fields}


def following(space: Space, name: str) -> subprocess.Popen[str]:
    """`kubectl logs -f` of a pod that first says "begun", once it has read that."""
    logs = space.kubectl.popen("-n", space.name, "logs", "-f", name)
    assert logs.stdout is not None
    assert logs.stdout.readline() == "begun\n"
    return logs


def test_an_image_that_is_nowhere(space: Space) -> None:
    space.pod("one", containers=[box("app") | {"image": "127.0.0.1:1/none/such:1"}])
    seen = space.until("one", "cannot pull", lambda pod: waiting(pod) in ("ErrImagePull", "ImagePullBackOff"))
    assert seen["status"]["phase"] == "Pending"
    seen = space.until("one", "backs off", lambda pod: waiting(pod) == "ImagePullBackOff")
    assert 'Back-off pulling image "127.0.0.1:1/none/such:1"' in state(seen)["state"]["waiting"]["message"]
    space.told("Pulling", "one", 'Pulling image "127.0.0.1:1/none/such:1"')
    space.told("Failed", "one", 'Failed to pull image "127.0.0.1:1/none/such:1"')
    space.told("Failed", "one", "Error: ErrImagePull")
    space.told("BackOff", "one", 'Back-off pulling image "127.0.0.1:1/none/such:1"')


def test_never_pulled_and_not_there(space: Space) -> None:
    space.pod("one", containers=[box("app", imagePullPolicy="Never") | {"image": "none/such:1"}])
    space.until("one", "is refused", lambda pod: waiting(pod) == "ErrImageNeverPull")
    space.told("ErrImageNeverPull", "one", 'Container image "none/such:1" is not present with pull policy of Never')


def test_out_of_memory(space: Space) -> None:
    space.pod("one", ["sh", "-c", "head -c 200m /dev/zero | tail -c 190m > /dev/null; exit 1"], restartPolicy="Never",
              app={"resources": {"limits": {"memory": "24Mi"}}})
    # The process of the container itself is what the kernel has to choose.
    space.pod("two", ["tail", "/dev/zero"], restartPolicy="Never", app={"resources": {"limits": {"memory": "24Mi"}}})
    seen = space.phase("two", "Failed")
    assert terminated(seen)["reason"] == "OOMKilled"
    assert terminated(seen)["exitCode"] == 137
    space.phase("one", "Failed")


@pytest.mark.parametrize(("policy", "code", "phase", "restarted"), [
    ("Never", 0, "Succeeded", False), ("Never", 2, "Failed", False),
    ("OnFailure", 0, "Succeeded", False), ("OnFailure", 2, "Running", True), ("Always", 0, "Running", True)])
def test_phases(space: Space, policy: str, code: int, phase: str, restarted: bool) -> None:
    space.pod("one", ["sh", "-c", f"exit {code}"], restartPolicy=policy)
    seen = space.until("one", f"is {phase}, restarted: {restarted}", lambda pod: (
        pod["status"]["phase"] == phase and (restarts(pod) > 0) == restarted))
    ended = terminated(seen, last=True) if restarted and "terminated" not in state(seen)["state"] else terminated(seen)
    assert ended["exitCode"] == code
    assert ended["reason"] == ("Error" if code else "Completed")
    if phase == "Succeeded":
        assert condition(seen, "Ready") == "False"
        reasons = {entry["type"]: entry.get("reason") for entry in seen["status"]["conditions"]}
        assert reasons["Ready"] == reasons["ContainersReady"] == "PodCompleted"


def test_a_failure_that_heals(space: Space) -> None:
    """OnFailure with a volume that remembers: fails twice, then succeeds."""
    space.pod("one", ["sh", "-c", "echo x >> /scratch/tries; test $(wc -l < /scratch/tries) -ge 2"],
              restartPolicy="OnFailure", app={"volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]},
              volumes=[{"name": "scratch", "emptyDir": {}}])
    seen = space.phase("one", "Succeeded")
    assert restarts(seen) == 1
    assert terminated(seen)["exitCode"] == 0
    assert terminated(seen, last=True)["exitCode"] == 1


def test_a_liveness_probe_restarts(space: Space) -> None:
    space.pod("one", SLEEP, app={"livenessProbe": probe("test ! -e /tmp/ill")})
    space.ready("one")
    space.run("one", "touch", "/tmp/ill")
    seen = space.until("one", "is restarted", lambda pod: restarts(pod) == 1 and is_ready(pod))
    assert terminated(seen, last=True)["exitCode"] == 0
    space.told("Unhealthy", "one", "Liveness probe failed")
    space.told("Killing", "one", "Container app failed liveness probe, will be restarted")


def test_a_readiness_probe_comes_and_goes(space: Space) -> None:
    space.pod("one", SLEEP, labels={"app": "one"}, app={"readinessProbe": probe("test -e /tmp/well")})
    space("expose", "pod", "one", "--port=80")
    seen = space.until("one", "runs", lambda pod: "running" in state(pod)["state"])
    assert condition(seen, "Ready") == "False"
    space.told("Unhealthy", "one", "Readiness probe failed")
    space.run("one", "touch", "/tmp/well")
    address = space.ready("one")[0]["status"]["podIP"]
    patience("the address is in the Endpoints", lambda: address in space("get", "endpoints", "one"))
    space.run("one", "rm", "/tmp/well")
    space.until("one", "is not ready again", lambda pod: condition(pod, "Ready") == "False")
    patience("it is no longer", lambda: f"{address}:" not in space("get", "endpoints", "one"))
    assert restarts(space.pods.objects["one"]) == 0


def test_a_startup_probe_holds_the_others_back(space: Space) -> None:
    space.pod("one", SLEEP, app={"startupProbe": probe("test -e /tmp/up", failureThreshold=300),
                                 "livenessProbe": probe("test -e /tmp/up")})
    seen = space.until("one", "runs", lambda pod: "running" in state(pod)["state"])
    assert state(seen)["started"] is False
    space.told("Unhealthy", "one", "Startup probe failed")
    space.run("one", "touch", "/tmp/up")
    seen = space.ready("one")[0]
    assert state(seen)["started"] is True
    assert restarts(seen) == 0


def test_a_startup_probe_gives_up(space: Space) -> None:
    space.pod("one", SLEEP, app={"startupProbe": probe("false", failureThreshold=2)})
    space.until("one", "is restarted", lambda pod: restarts(pod) == 1)
    space.told("Killing", "one", "Container app failed startup probe, will be restarted")


def test_http_and_tcp_probes(space: Space) -> None:
    serve = ("mkdir /tmp/www; echo fine > /tmp/www/healthz; httpd -f -p 8080 -h /tmp/www & wait")
    port = {"containerPort": 8080, "name": "web"}
    space.pod("one", containers=[
        box("http", script(serve), ports=[port], readinessProbe={
            "httpGet": {"path": "/healthz", "port": "web"}, "periodSeconds": 1}),
        box("tcp", readinessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1})])
    space.ready("one")
    space.run("one", "rm", "/tmp/www/healthz", container="http")
    space.until("one", "http is not ready", lambda pod: not state(pod, "http")["ready"])
    space.told("Unhealthy", "one", "Readiness probe failed: HTTP probe failed with statuscode: 404")
    assert state(space.pods.objects["one"], "tcp")["ready"]


def test_init_containers_run_one_after_the_other(space: Space) -> None:
    mount = [{"name": "scratch", "mountPath": "/scratch"}]
    space.pod("one", ["sh", "-c", "cat /scratch/log; trap 'exit 0' TERM; sleep 100000 & wait"],
              app={"volumeMounts": mount}, volumes=[{"name": "scratch", "emptyDir": {}}], initContainers=[
        box("first", ["sh", "-c", "sleep 1; echo first >> /scratch/log"], volumeMounts=mount),
        box("second", ["sh", "-c", "echo second >> /scratch/log"], volumeMounts=mount)])
    seen = space.ready("one")[0]
    assert space("logs", "one") == "first\nsecond\n"
    assert condition(seen, "Initialized") == "True"
    assert [entry["state"]["terminated"]["reason"] for entry in seen["status"]["initContainerStatuses"]] == [
        "Completed", "Completed"]
    waits = [item for _, item in space.pods.history if "containerStatuses" in item["status"]
             and waiting(item) == "PodInitializing"]
    assert "False" in [condition(item, "Initialized") for item in waits]
    for item in waits:  # the app container may wait for a moment longer than for these
        ended = ["terminated" in state(item, name)["state"] for name in ("first", "second")]
        assert (condition(item, "Initialized") == "True") == all(ended)


def test_an_init_container_that_fails(space: Space) -> None:
    space.pod("never", initContainers=[box("init", ["false"])], restartPolicy="Never")
    space.pod("again", initContainers=[box("init", ["false"])])
    seen = space.phase("never", "Failed")
    assert space.boxes("never", every=True) == []
    assert terminated(seen, "init")["exitCode"] == 1
    seen = space.until("again", "backs off", lambda pod: waiting(pod, "init") == "CrashLoopBackOff")
    assert seen["status"]["phase"] == "Pending"
    assert waiting(seen) == "PodInitializing"


def test_a_sidecar(space: Space) -> None:
    """An init container that goes on: it starts before, and ends after the others."""
    space.pod("one", ["sh", "-c", "sleep 1"], restartPolicy="Never", initContainers=[
        box("side", restartPolicy="Always", startupProbe=probe("true"))])
    seen = space.phase("one", "Succeeded")
    assert terminated(seen, "side")["startedAt"] <= terminated(seen)["startedAt"]
    assert terminated(seen, "side")["finishedAt"] >= terminated(seen)["finishedAt"]


def test_hooks(space: Space) -> None:
    hook = {"postStart": {"exec": {"command": ["sh", "-c", "echo started > /scratch/post"]}},
            "preStop": {"exec": {"command": ["sh", "-c", "echo stopping > /proc/1/fd/1; sleep 1"]}}}
    space.pod("one", script("echo begun; sleep 100000 & wait"),
              app={"lifecycle": hook, "volumeMounts": [{"name": "scratch", "mountPath": "/scratch"}]},
              volumes=[{"name": "scratch", "emptyDir": {}}], terminationGracePeriodSeconds=10)
    space.ready("one")
    assert space.run("one", "cat", "/scratch/post") == "started\n"
    logs = following(space, "one")
    space("delete", "pod", "one", "--wait=false")
    assert logs.communicate(timeout=60)[0] == "stopping\n"
    space.gone("one")


def test_a_post_start_hook_that_fails(space: Space) -> None:
    space.pod("one", SLEEP, app={"lifecycle": {"postStart": {"exec": {"command": ["false"]}}}})
    space.told("FailedPostStartHook", "one")
    space.until("one", "is restarted", lambda pod: restarts(pod) >= 1)


def test_an_active_deadline(space: Space) -> None:
    space.pod("one", SLEEP, activeDeadlineSeconds=2)
    seen = space.phase("one", "Failed")
    assert seen["status"]["reason"] == "DeadlineExceeded"
    assert seen["status"]["message"] == "Pod was active on the node longer than the specified deadline"
    patience("nothing runs", lambda: space.boxes("one", "") == [])


def test_a_graceful_end(space: Space) -> None:
    """SIGTERM, then time to end; the exit code is the container's own."""
    space.pod("one", ["sh", "-c", "trap 'echo asked; sleep 2; exit 7' TERM; echo begun; sleep 100000 & wait"],
              terminationGracePeriodSeconds=20)
    space.ready("one")
    logs = following(space, "one")
    began = time.monotonic()
    space("delete", "pod", "one")
    assert time.monotonic() - began >= 2
    assert logs.communicate(timeout=60)[0] == "asked\n"
    space.told("Killing", "one", "Stopping container app")
    space.gone("one")  # for us, too
    last = [item for _, item in space.pods.history if item["metadata"]["name"] == "one"][-1]
    assert terminated(last)["exitCode"] == 7


def test_grace_runs_out(space: Space) -> None:
    space.pod("one", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], terminationGracePeriodSeconds=2)
    space.ready("one")
    began = time.monotonic()
    space("delete", "pod", "one")
    assert time.monotonic() - began >= 2
    space.gone("one")  # for us, too
    last = [item for _, item in space.pods.history if item["metadata"]["name"] == "one"][-1]
    assert terminated(last)["exitCode"] == 137


def test_a_deletion_that_is_hurried(space: Space) -> None:
    """A second delete with less grace cuts the first one's short."""
    space.pod("one", ["sh", "-c", "trap '' TERM; while :; do sleep 1; done"], terminationGracePeriodSeconds=300)
    space.ready("one")
    space("delete", "pod", "one", "--wait=false")
    space.until("one", "is asked to go", lambda pod: pod["metadata"]["deletionTimestamp"])
    began = time.monotonic()
    space("delete", "pod", "one", "--grace-period=1")
    assert time.monotonic() - began < 120, "the first grace was waited out"


@pytest.mark.parametrize(("fields", "command", "message"), [
    ({}, "echo -n because > /dev/termination-log; exit 1", "because"),
    ({"terminationMessagePath": "/tmp/why"}, "echo -n other > /tmp/why; exit 1", "other"),
    ({"terminationMessagePolicy": "FallbackToLogsOnError"}, "echo the log; exit 1", "the log\n"),
    ({"terminationMessagePolicy": "FallbackToLogsOnError"}, "echo the log; exit 0", None),
    ({}, "echo the log; exit 1", None)])
def test_termination_messages(space: Space, fields: Json, command: str, message: str | None) -> None:
    space.pod("one", ["sh", "-c", command], restartPolicy="Never", app=fields)
    seen = space.until("one", "has ended", terminated)
    assert terminated(seen).get("message") == message


def test_an_image_that_is_changed(space: Space) -> None:
    """Of a running pod only images can change: that container alone is replaced."""
    space.cluster.docker("tag", "sampan-test/box:1", "sampan-test/box:2")
    space.pod("one", containers=[box("app"), box("side")])
    before = space.ready("one")[0]
    space("set", "image", "pod/one", "app=sampan-test/box:2")
    seen = space.until("one", "is restarted", lambda pod: restarts(pod) == 1 and is_ready(pod))
    assert state(seen, "side") == state(before, "side")
    assert space.box("one")["Config"]["Image"] == "sampan-test/box:2"
    space.told("Killing", "one", "Container app definition changed, will be restarted")
