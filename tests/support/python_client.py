"""What a user of the official Python client does, as scripts that run on the node.

    python -m tests.support.python_client KUBECONFIG NAMESPACE NAME
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import kubernetes
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

IMAGE = "sampan-test/box:1"


@contextlib.contextmanager
def refused(status: int, words: str) -> Iterator[None]:
    """The server refuses what is done within."""
    try:
        yield
    except ApiException as error:
        message = json.loads(error.body)["message"] if error.body else error.reason
        if error.status != status or words not in message:
            raise
    else:
        raise AssertionError(f"not refused with {status}")


class Scripts:
    """Each public method is one; it ends with an AssertionError where it does not see what it should."""

    def __init__(self, kubeconfig: str, namespace: str) -> None:
        self._client = kubernetes.config.new_client_from_config(kubeconfig)
        self._namespace = namespace
        self._core = kubernetes.client.CoreV1Api(self._client)
        self._apps = kubernetes.client.AppsV1Api(self._client)

    def objects(self) -> None:
        """Create, read, list, patch, replace, delete; typed objects both ways."""
        core, namespace = self._core, self._namespace
        meta = kubernetes.client.V1ObjectMeta(name="cm", labels={"a": "b"})
        made = core.create_namespaced_config_map(namespace, kubernetes.client.V1ConfigMap(metadata=meta,
                                                                                          data={"x": "1"}))
        assert made.metadata.uid
        assert made.metadata.creation_timestamp.tzinfo is not None
        assert core.read_namespaced_config_map("cm", namespace).data == {"x": "1"}
        assert [item.metadata.name for item in core.list_namespaced_config_map(
            namespace, label_selector="a=b", limit=1).items] == ["cm"]
        patched = core.patch_namespaced_config_map("cm", namespace, {"data": {"y": "2"}})
        assert patched.data == {"x": "1", "y": "2"}
        made.data = {"z": "3"}
        with refused(409, "the object has been modified"):
            core.replace_namespaced_config_map("cm", namespace, made)
        made.metadata.resource_version = patched.metadata.resource_version
        assert core.replace_namespaced_config_map("cm", namespace, made).data == {"z": "3"}
        core.delete_namespaced_config_map("cm", namespace)
        with refused(404, 'configmaps "cm" not found'):
            core.read_namespaced_config_map("cm", namespace)

    def deployments(self) -> None:
        """A Deployment is made, scaled, and its progress watched."""
        apps, namespace = self._apps, self._namespace
        template = {"metadata": {"labels": {"app": "web"}}, "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "1000"]}]}}
        apps.create_namespaced_deployment(namespace, {
            "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": template}})
        apps.patch_namespaced_deployment_scale("web", namespace, {"spec": {"replicas": 2}})
        watch = kubernetes.watch.Watch()
        for event in watch.stream(apps.list_namespaced_deployment, namespace, timeout_seconds=120):
            if event["object"].status.available_replicas == 2:
                watch.stop()
                break
        else:
            raise AssertionError("two replicas did not become available")
        assert apps.read_namespaced_deployment_scale("web", namespace).status.replicas == 2
        pods = self._core.list_namespaced_pod(namespace, label_selector="app=web").items
        assert len(pods) == 2
        assert {pod.status.qos_class for pod in pods} == {"BestEffort"}

    def watching(self) -> None:
        """A watch from a list's revision on sees every change, and only changes after it."""
        core, namespace = self._core, self._namespace

        def configured(name: str) -> Any:
            return kubernetes.client.V1ConfigMap(metadata=kubernetes.client.V1ObjectMeta(name=name))

        core.create_namespaced_config_map(namespace, configured("before"))
        since = core.list_namespaced_config_map(namespace).metadata.resource_version
        core.create_namespaced_config_map(namespace, configured("after"))
        core.delete_namespaced_config_map("after", namespace)
        watch, seen = kubernetes.watch.Watch(), []
        for event in watch.stream(core.list_namespaced_config_map, namespace, resource_version=since,
                                  timeout_seconds=60):
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                watch.stop()
        assert seen == [("ADDED", "after"), ("DELETED", "after")], seen

    def executing(self) -> None:
        """Commands in a pod, with input, exit codes and a terminal's size."""
        call, namespace = self._core.connect_get_namespaced_pod_exec, self._namespace
        options = {"container": "main", "stdout": True, "stderr": True, "tty": False}
        assert stream(call, "web", namespace, command=["echo", "hello"], stdin=False, **options) == "hello\n"
        client = stream(call, "web", namespace, command=["sh", "-c", "read x; echo got:$x; echo err >&2; exit 4"],
                        stdin=True, _preload_content=False, **options)
        client.write_stdin("word\n")
        client.run_forever(timeout=60)
        assert (client.read_stdout(), client.read_stderr(), client.returncode) == ("got:word\n", "err\n", 4)
        client.close()

    def logs(self) -> None:
        """Logs at once, and followed to their end."""
        core, namespace = self._core, self._namespace
        assert core.read_namespaced_pod_log("web", namespace, container="main", tail_lines=2) == "line 4\nline 5\n"
        script = "for n in 1 2 3; do echo $n; sleep 0.2; done"
        container = {"name": "c", "image": IMAGE, "command": ["sh", "-c", script]}
        spec = {"restartPolicy": "Never", "containers": [container]}
        core.create_namespaced_pod(namespace, {"metadata": {"name": "logs"}, "spec": spec})
        watch = kubernetes.watch.Watch()
        for event in watch.stream(core.list_namespaced_pod, namespace, field_selector="metadata.name=logs",
                                  timeout_seconds=120):
            if event["object"].status.phase in ("Running", "Succeeded"):
                watch.stop()
        assert list(kubernetes.watch.Watch().stream(core.read_namespaced_pod_log, "logs", namespace)) == ["1", "2", "3"]
        core.delete_namespaced_pod("logs", namespace, grace_period_seconds=0)

    def forwarding(self) -> None:
        """A port of a pod, as a socket."""
        forward = portforward(self._core.connect_get_namespaced_pod_portforward, "web", self._namespace, ports="8080")
        connection = forward.socket(8080)
        connection.settimeout(60)
        connection.sendall(b"GET / HTTP/1.0\r\nHost: web\r\n\r\n")
        answer = b""
        while data := connection.recv(4096):
            answer += data
        assert answer.startswith(b"HTTP/1.1 200 OK"), answer
        assert answer.endswith(b"hello from the pod\n"), answer
        assert forward.error(8080) is None


SCRIPTS = [name for name in vars(Scripts) if not name.startswith("_")]


def main() -> None:
    """Run one script."""
    kubeconfig, namespace, name = sys.argv[1:]
    getattr(Scripts(kubeconfig, namespace), name)()


if __name__ == "__main__":
    main()
