"""Deployments as users roll them out, and pods that are run by hand."""

from __future__ import annotations

import re

import pytest

from tests.support.kubectl import Kubectl, one_version
from tests.support.terminal import Terminal

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

IMAGE = "sampan-test/box:1"
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: app}
spec:
  replicas: 2
  selector: {matchLabels: {app: app}}
  template:
    metadata: {labels: {app: app}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: "sampan-test/box:1", command: [sh, -c, "trap 'exit 0' TERM; sleep 1000 & wait"]}
"""


def revision(kubectl: Kubectl) -> str:
    return kubectl("get", "deployment", "app", "-o",
                   r"jsonpath={.metadata.annotations.deployment\.kubernetes\.io/revision}")


def variable(kubectl: Kubectl) -> str:
    return kubectl("get", "deployment", "app", "-o", "jsonpath={.spec.template.spec.containers[0].env[0].value}")


def test_a_rollout_and_back(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    text = kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    assert text.splitlines()[0].startswith("Waiting for deployment ")
    assert text.endswith('deployment "app" successfully rolled out\n')
    assert re.match(r"app +2/2 +2 +2 ", kubectl("get", "deployment", "app", "--no-headers"))

    kubectl("set", "env", "deployment/app", "A=b")
    kubectl("annotate", "deployment/app", "kubernetes.io/change-cause=set A")
    assert kubectl("rollout", "status", "deployment/app", "--timeout=120s").endswith(
        'deployment "app" successfully rolled out\n')
    assert revision(kubectl) == "2"
    assert kubectl("rollout", "history", "deployment/app").split("\n")[:4] == [
        "deployment.apps/app ", "REVISION  CHANGE-CAUSE", "1         <none>", "2         set A"]
    detail = kubectl("rollout", "history", "deployment/app", "--revision=2")
    assert "deployment.apps/app with revision #2" in detail
    assert re.search(r"A:\tb", detail)

    assert kubectl("rollout", "undo", "deployment/app") == "deployment.apps/app rolled back\n"
    kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    assert variable(kubectl) == ""
    assert revision(kubectl) == "3"
    sets = kubectl("get", "replicasets", "--no-headers").splitlines()
    assert sorted(line.split()[1] for line in sets) == ["0", "2"]  # the first one is used again


@one_version
def test_back_to_a_revision(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT.replace("replicas: 2", "replicas: 1"))
    for value in ("one", "two"):
        kubectl("rollout", "status", "deployment/app", "--timeout=120s")
        kubectl("set", "env", "deployment/app", f"A={value}")
    kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    assert kubectl("rollout", "undo", "deployment/app", "--to-revision=2") == "deployment.apps/app rolled back\n"
    assert variable(kubectl) == "one"
    result = kubectl.run("rollout", "undo", "deployment/app", "--to-revision=9")
    assert (result.code, result.err) == (1, "error: unable to find specified revision 9 in history\n")


@one_version
def test_pause_restart_and_resume(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    before = set(kubectl("get", "pods", "-o", "name").split())
    assert kubectl("rollout", "pause", "deployment/app") == "deployment.apps/app paused\n"
    result = kubectl.run("rollout", "pause", "deployment/app")
    assert (result.code, result.err) == (1, 'error: deployments.apps "app" is already paused\n')
    result = kubectl.run("rollout", "restart", "deployment/app")
    assert (result.code, result.err) == (
        1, 'error: deployments.apps "app" can\'t restart paused deployment (run rollout resume first)\n')
    kubectl("set", "env", "deployment/app", "A=b")
    kubectl("wait", "deployment/app", "--for=jsonpath={.status.observedGeneration}="
            + kubectl("get", "deployment", "app", "-o", "jsonpath={.metadata.generation}"))
    assert set(kubectl("get", "pods", "-o", "name").split()) == before
    assert kubectl("rollout", "resume", "deployment/app") == "deployment.apps/app resumed\n"
    kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    kubectl("wait", "--for=delete", *sorted(before), "--timeout=60s")  # the status does not wait for their end
    assert len(kubectl("get", "pods", "-o", "name").split()) == 2
    assert kubectl("rollout", "restart", "deployment/app") == "deployment.apps/app restarted\n"
    kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    assert "kubectl.kubernetes.io/restartedAt" in kubectl("get", "deployment", "app", "-o", "yaml")
    assert "Progressing    True    NewReplicaSetAvailable" in kubectl("describe", "deployment", "app")


@one_version
def test_a_rollout_that_does_not_end(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    kubectl("patch", "deployment", "app", "-p", '{"spec":{"progressDeadlineSeconds":1}}')
    kubectl("set", "image", "deployment/app", "main=nowhere.invalid/none:1")
    result = kubectl.run("rollout", "status", "deployment/app", "--timeout=120s")
    assert (result.code, result.err) == (1, 'error: deployment "app" exceeded its progress deadline\n')
    assert re.match(r"app +2/2 +1 +2 ", kubectl("get", "deployment", "app", "--no-headers"))  # the old ones serve on


@one_version
def test_a_service_reaches_its_pods(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=DEPLOYMENT)
    kubectl("expose", "deployment", "app", "--port=80", "--target-port=8080")
    kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    kubectl("wait", "endpoints/app", "--for=jsonpath={.subsets[0].addresses[1].ip}", "--timeout=120s")
    addresses = kubectl("get", "endpoints", "app", "-o", "jsonpath={.subsets[0].addresses[*].ip}").split()
    pods = kubectl("get", "pods", "-o", "jsonpath={.items[*].status.podIP}").split()
    assert sorted(addresses) == sorted(pods)
    assert sorted(kubectl("get", "endpointslices", "-l", "kubernetes.io/service-name=app", "-o",
                          "jsonpath={.items[*].endpoints[*].addresses[*]}").split()) == sorted(pods)


# --- run --------------------------------------------------------------------------------------------------------------


def test_run(kubectl: Kubectl) -> None:
    assert kubectl("run", "one", f"--image={IMAGE}", "--restart=Never", "--labels=a=b", "--env=C=d", "--", "sh", "-c",
                   "echo C is $C") == "pod/one created\n"
    kubectl("wait", "pod/one", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
    assert kubectl("logs", "one") == "C is d\n"
    assert kubectl("get", "pod", "one", "--no-headers", "--show-labels").split()[1:4] == ["0/1", "Completed", "0"]
    assert kubectl("get", "pods", "-l", "a=b", "-o", "name") == "pod/one\n"


def test_run_with_input_that_is_removed_afterwards(kubectl: Kubectl) -> None:
    result = kubectl.run("run", "one", f"--image={IMAGE}", "--restart=Never", "-i", "--rm", "--", "sh", "-c",
                         "cat; echo to stderr >&2; exit 3", stdin="line\n")
    assert result.code == 3, result
    assert "line\n" in result.out
    assert 'pod "one" deleted' in result.out
    assert "to stderr" in result.err
    assert f"pod {kubectl.namespace}/one terminated (Error)" in result.err
    assert kubectl("get", "pods", "-o", "name") == ""


def test_run_with_a_terminal(kubectl: Kubectl) -> None:
    command = kubectl.command("run", "shell", f"--image={IMAGE}", "--restart=Never", "-it", "--rm", "--", "sh")
    with Terminal(command, kubectl.env, rows=33, columns=101) as terminal:
        terminal.expect("If you don't see a command prompt, try pressing enter.")
        terminal.type("\n")
        terminal.expect(r"[#$] ")
        terminal.type("stty size; tty; exit 0\n")
        terminal.expect(r"33 101\r\n")
        terminal.expect(r"/dev/(pts/\d|console)")
        assert terminal.wait() == 0
        assert 'pod "shell" deleted' in terminal.screen


# --- logs -------------------------------------------------------------------------------------------------------------


def test_logs(reader: Kubectl) -> None:
    lines = [f"line {number}" for number in range(1, 6)]
    result = reader.run("logs", "web")
    assert result.out.splitlines() == lines
    assert result.err == "Defaulted container \"main\" out of: main, side\n"
    assert reader("logs", "web", "-c", "side") == "from the side\n"
    assert reader("logs", "web", "-c", "main", "--tail=2").splitlines() == lines[-2:]
    assert reader("logs", "web", "-c", "main", "--limit-bytes=6") == "line 1"
    assert reader("logs", "web", "-c", "main", "--since=1h").splitlines() == lines
    stamped = reader("logs", "web", "-c", "main", "--timestamps").splitlines()
    assert all(re.fullmatch(rf"\d{{4}}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z {line}", got)
               for got, line in zip(stamped, lines, strict=True))
    assert reader("logs", "web", "-c", "main", "--since-time=2100-01-01T00:00:00Z") == ""
    assert sorted(reader("logs", "-l", "app=web", "--all-containers", "--prefix").splitlines()) == sorted(
        [f"[pod/web/main] {line}" for line in lines] + ["[pod/web/side] from the side"])
    assert reader("logs", "deployment/shop") == ""
    result = reader.run("logs", "web", "-c", "none")
    assert (result.code, result.err) == (1, "error: container none is not valid for pod web\n")


@one_version
def test_logs_since(kubectl: Kubectl) -> None:
    """The stamp of the first line splits what was written before from what was written after."""
    kubectl("run", "one", f"--image={IMAGE}", "--restart=Never", "--", "sh", "-c", "echo a; sleep 1.5; echo b")
    kubectl("wait", "pod/one", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
    stamp = kubectl("logs", "one", "--timestamps").splitlines()[1].split()[0]
    assert kubectl("logs", "one", f"--since-time={stamp}") == "b\n"
    assert kubectl("logs", "one", "--since=1m") == "a\nb\n"


def test_logs_follow_a_pod_to_its_end(kubectl: Kubectl) -> None:
    kubectl("run", "one", f"--image={IMAGE}", "--restart=Never", "--", "sh", "-c",
            "n=0; until [ -e /go ]; do echo $n; n=$((n + 1)); sleep 0.1; done; echo the end")
    kubectl("wait", "pod/one", "--for=condition=Ready", "--timeout=120s")
    following = kubectl.popen("logs", "-f", "one")
    try:
        assert following.stdout is not None
        for number in range(3):
            assert following.stdout.readline() == f"{number}\n"
        kubectl("exec", "one", "--", "touch", "/go")
        rest, problem = following.communicate(timeout=60)
        assert rest.endswith("the end\n")
        assert problem == ""
        assert following.returncode == 0
    finally:
        following.kill()
        following.wait()


@one_version
def test_logs_follow_several_pods(kubectl: Kubectl) -> None:
    for name in ("one", "two"):
        kubectl("run", name, f"--image={IMAGE}", "--restart=Never", "--labels=set=a", "--", "sh", "-c",
                f"until [ -e /go ]; do sleep 0.1; done; for n in 1 2 3; do echo {name} $n; done")
    kubectl("wait", "pod", "-l", "set=a", "--for=condition=Ready", "--timeout=120s")
    following = kubectl.popen("logs", "-f", "-l", "set=a", "--prefix")
    try:
        for name in ("one", "two"):
            kubectl("exec", name, "--", "touch", "/go")
        out, problem = following.communicate(timeout=60)
    finally:
        following.kill()
        following.wait()
    assert (following.returncode, problem) == (0, "")
    assert sorted(out.splitlines()) == [f"[pod/{name}/{name}] {name} {n}" for name in ("one", "two") for n in (1, 2, 3)]


def test_logs_of_the_one_before(kubectl: Kubectl) -> None:
    kubectl("run", "one", f"--image={IMAGE}", "--", "sh", "-c",
            "cat /proc/sys/kernel/random/uuid; exit 1")
    kubectl("wait", "pod/one", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "--timeout=120s")
    result = kubectl.run("logs", "one", "--previous")
    assert (result.code, result.err) == (0, "")
    assert re.fullmatch(r"[0-9a-f-]{36}\n", result.out)
    kubectl("run", "fresh", f"--image={IMAGE}", "--restart=Never", "--", "sleep", "100")
    kubectl("wait", "pod/fresh", "--for=condition=Ready", "--timeout=120s")
    result = kubectl.run("logs", "fresh", "--previous")
    assert result.code == 1
    assert 'previous terminated container "fresh" in pod "fresh" not found' in result.err


@one_version
def test_a_pod_that_crashes(kubectl: Kubectl) -> None:
    kubectl("run", "one", f"--image={IMAGE}", "--", "sh", "-c", "echo no; exit 3")
    kubectl("wait", "pod/one", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff",
            "--timeout=120s")
    assert re.match(r"one +0/1 +CrashLoopBackOff +[12] \(\d+s ago\) ", kubectl("get", "pod", "one", "--no-headers"))
    text = kubectl("describe", "pod", "one")
    for pattern in (r"State: +Waiting\n +Reason: +CrashLoopBackOff\n", r"Last State: +Terminated\n +Reason: +Error\n",
                    r"Exit Code: +3\n", r"Restart Count: +[12]\n",
                    rf"Warning +BackOff .*Back-off restarting failed container one in pod one_{kubectl.namespace}\("):
        assert re.search(pattern, text), f"{pattern!r} is not in\n{text}"


@one_version
def test_logs_of_what_has_not_started(kubectl: Kubectl) -> None:
    kubectl("run", "one", "--image=none:1", "--image-pull-policy=Never")
    kubectl("wait", "pod/one", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImageNeverPull",
            "--timeout=120s")
    result = kubectl.run("logs", "one")
    assert (result.code, result.err) == (1, (
        'Error from server (BadRequest): container "one" in pod "one" is waiting to start: ErrImageNeverPull\n'))
