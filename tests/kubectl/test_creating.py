"""Making and changing things: create, dry runs, expose, edit, label, annotate, set, scale, raw writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.support.kubectl import Kubectl, one_version

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

IMAGE = "sampan-test/box:1"
APP = Path(__file__).parent / "app.yaml"
"""A Deployment without replicas, and a ConfigMap."""


def editor(folder: Path, script: str) -> str:
    """An EDITOR that changes the file with sed; what it was shown last is in the file `seen`."""
    path = folder / "editor.sh"
    path.write_text(f"#!/bin/sh\ncp \"$1\" '{folder}/seen'\nsed -i '{script}' \"$1\"\n")
    path.chmod(0o755)
    return str(path)


def test_create_one_of_each_kind(kubectl: Kubectl, tmp_path: Path) -> None:
    """kubectl 1.32 sends these in protobuf, the others in JSON: what is stored is the same."""
    (tmp_path / "note.txt").write_text("hello\n")
    (tmp_path / "bytes").write_bytes(b"\xff\x00\xfe")

    def create(*arguments: str) -> str:
        return kubectl("create", *arguments).strip()

    assert create("deployment", "web", f"--image={IMAGE}", "--replicas=0", "--port=80", "--", "sleep", "9") == (
        "deployment.apps/web created")
    spec = kubectl.json("get", "deployment", "web")["spec"]
    assert (spec["replicas"], spec["strategy"]["type"], spec["selector"]) == (
        0, "RollingUpdate", {"matchLabels": {"app": "web"}})
    container = spec["template"]["spec"]["containers"][0]
    assert (container["image"], container["command"], container["ports"]) == (
        IMAGE, ["sleep", "9"], [{"containerPort": 80, "protocol": "TCP"}])

    assert create("configmap", "cm", "--from-literal=a=1", f"--from-file={tmp_path}/note.txt",
                  f"--from-file={tmp_path}/bytes") == "configmap/cm created"
    made = kubectl.json("get", "configmap", "cm")
    assert (made["data"], made["binaryData"]) == ({"a": "1", "note.txt": "hello\n"}, {"bytes": "/wD+"})
    assert create("secret", "generic", "s", "--from-literal=p=w", "--type=example.org/x") == "secret/s created"
    made = kubectl.json("get", "secret", "s")
    assert (made["data"], made["type"]) == ({"p": "dw=="}, "example.org/x")
    assert create("secret", "docker-registry", "d", "--docker-username=u", "--docker-password=p",
                  "--docker-server=r") == "secret/d created"
    assert kubectl("get", "secret", "d", "-o", "jsonpath={.type}") == "kubernetes.io/dockerconfigjson"
    assert create("serviceaccount", "robot") == "serviceaccount/robot created"
    assert create("service", "clusterip", "c", "--tcp=80:8080") == "service/c created"
    assert create("service", "nodeport", "n", "--tcp=80") == "service/n created"
    assert create("service", "externalname", "e", "--external-name=example.org") == "service/e created"
    rows = {line.split()[0]: line.split()[1:5] for line in kubectl("get", "services", "--no-headers").splitlines()}
    assert (rows["c"][0], rows["n"][0], rows["e"]) == (
        "ClusterIP", "NodePort", ["ExternalName", "<none>", "example.org", "<none>"])
    assert rows["c"][3] == "80/TCP"
    assert re.fullmatch(r"80:3[0-2]\d{3}/TCP", rows["n"][3])


def test_create_a_namespace(kubectl: Kubectl) -> None:
    name = f"{kubectl.namespace}-more"
    assert kubectl("create", "namespace", name) == f"namespace/{name} created\n"
    kubectl("wait", "serviceaccount/default", "-n", name, "--for=jsonpath={.metadata.name}=default")
    assert kubectl("delete", "namespace", name, "--wait=false").endswith(f'namespace "{name}" deleted\n')
    kubectl("wait", f"namespace/{name}", "--for=delete", "--timeout=120s")
    result = kubectl.run("get", "namespace", name)
    assert result.err == f'Error from server (NotFound): namespaces "{name}" not found\n'


def test_create_from_files(kubectl: Kubectl, tmp_path: Path) -> None:
    assert kubectl("create", "-f", str(APP)) == "deployment.apps/app created\nconfigmap/app created\n"
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {generateName: made-}\n"
    made = re.fullmatch(r"configmap/(made-[a-z0-9]{5}) created\n", kubectl("create", "-f", "-", stdin=text))
    assert made
    (tmp_path / "one.yaml").write_text(text.replace("generateName: made-", "name: one"))
    (tmp_path / "two.json").write_text('{"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "two"}}')
    assert kubectl("create", "-f", str(tmp_path)) == "configmap/one created\nconfigmap/two created\n"
    result = kubectl.run("create", "-f", str(APP))
    assert result.code == 1
    assert re.fullmatch(r'Error from server \(AlreadyExists\): error when creating ".+app\.yaml": deployments\.apps '
                        r'"app" already exists\n'
                        r'Error from server \(AlreadyExists\): error when creating ".+app\.yaml": configmaps "app" '
                        r"already exists\n", result.err)


def test_dry_runs_change_nothing(kubectl: Kubectl) -> None:
    assert kubectl("create", "configmap", "cm", "--dry-run=server") == "configmap/cm created (server dry run)\n"
    assert kubectl("create", "configmap", "cm", "--dry-run=client") == "configmap/cm created (dry run)\n"
    made = yaml.safe_load(kubectl("create", "-f", str(APP), "--dry-run=server", "-o", "yaml").split("---")[0])
    deployment = made["items"][0] if made["kind"] == "List" else made
    assert deployment["spec"]["revisionHistoryLimit"] == 10  # the server's default
    assert kubectl("get", "deployments,configmaps", "-o", "name") == "configmap/kube-root-ca.crt\n"


def test_edit(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl("create", "-f", str(APP))
    edited = kubectl.with_environment(EDITOR=editor(tmp_path, "s/colour: blue/colour: red/"))
    assert edited("edit", "configmap", "app") == "configmap/app edited\n"
    assert kubectl("get", "configmap", "app", "-o", "jsonpath={.data.colour}") == "red"
    result = edited.run("edit", "configmap", "app")
    assert "Edit cancelled, no changes made." in result.out + result.err
    wrong = kubectl.with_environment(EDITOR=editor(tmp_path, "s/replicas: 0/replicas: -1/"))
    result = wrong.run("edit", "deployment", "app")
    assert result.code == 1
    assert 'deployments.apps "app" is invalid' in result.err
    assert "# * spec.replicas: Invalid value: -1: must be greater than or equal to 0\n" in (  # the file, opened again
        tmp_path / "seen").read_text()


def test_label_and_annotate(kubectl: Kubectl) -> None:
    kubectl("create", "-f", str(APP))
    assert kubectl("label", "configmap", "app", "a=b", "c=d") == "configmap/app labeled\n"
    result = kubectl.run("label", "configmap", "app", "a=x")
    assert (result.code, result.err) == (1, "error: 'a' already has a value (b), and --overwrite is false\n")
    assert kubectl("label", "configmap", "app", "a=x", "--overwrite") == "configmap/app labeled\n"
    assert kubectl("label", "configmap", "app", "c-") == "configmap/app unlabeled\n"
    assert kubectl("get", "configmaps", "-l", "a=x", "-o", "name") == "configmap/app\n"
    done = "annotate" if kubectl.version == "1.27" else "annotated"
    assert kubectl("annotate", "configmap", "app", "note=some text") == f"configmap/app {done}\n"
    assert kubectl("annotate", "configmap,deployment", "--all", "for=all") == (
        f"configmap/app {done}\nconfigmap/kube-root-ca.crt {done}\ndeployment.apps/app {done}\n")
    kubectl("annotate", "configmap", "app", "note-")
    meta = kubectl.json("get", "configmap", "app")["metadata"]
    assert (meta["labels"], meta["annotations"]) == ({"a": "x"}, {"for": "all"})


@one_version
def test_set(kubectl: Kubectl) -> None:
    kubectl("create", "-f", str(APP))
    kubectl("create", "service", "clusterip", "svc", "--tcp=80")
    assert kubectl("set", "image", "deployment/app", "main=other:2") == "deployment.apps/app image updated\n"
    assert kubectl("set", "env", "deployment/app", "A=b", "C=d") == "deployment.apps/app env updated\n"
    assert kubectl("set", "resources", "deployment/app", "--limits=cpu=200m,memory=64Mi", "--requests=cpu=0.1") == (
        "deployment.apps/app resource requirements updated\n")
    assert kubectl("set", "serviceaccount", "deployment/app", "robot") == "deployment.apps/app serviceaccount updated\n"
    assert kubectl("set", "selector", "service", "svc", "app=app") == "service/svc selector updated\n"
    spec = kubectl.json("get", "deployment", "app")["spec"]["template"]["spec"]
    container = spec["containers"][0]
    assert (container["image"], container["env"], container["resources"], spec["serviceAccountName"]) == (
        "other:2", [{"name": "A", "value": "b"}, {"name": "C", "value": "d"}],
        {"limits": {"cpu": "200m", "memory": "64Mi"}, "requests": {"cpu": "100m"}}, "robot")
    assert kubectl("get", "service", "svc", "-o", "jsonpath={.spec.selector}") == '{"app":"app"}'


def test_expose(kubectl: Kubectl) -> None:
    kubectl("create", "-f", str(APP))
    assert kubectl("expose", "deployment", "app", "--port=80", "--target-port=8080") == "service/app exposed\n"
    assert kubectl("expose", "deployment", "app", "--name=outside", "--port=80", "--type=NodePort") == (
        "service/outside exposed\n")
    spec = kubectl.json("get", "service", "app")["spec"]
    assert (spec["selector"], spec["ports"]) == (
        {"app": "app"}, [{"port": 80, "protocol": "TCP", "targetPort": 8080}])
    result = kubectl.run("expose", "deployment", "app", "--port=80")
    assert (result.code, result.err) == (1, 'Error from server (AlreadyExists): services "app" already exists\n')


@one_version
def test_scale(kubectl: Kubectl) -> None:
    kubectl("create", "-f", str(APP))
    assert kubectl("scale", "deployment/app", "--replicas=2") == "deployment.apps/app scaled\n"
    kubectl("wait", "deployment/app", "--for=jsonpath={.status.readyReplicas}=2", "--timeout=120s")
    assert kubectl("scale", "deployment/app", "--current-replicas=2", "--replicas=0") == "deployment.apps/app scaled\n"
    result = kubectl.run("scale", "deployment/app", "--current-replicas=5", "--replicas=1")
    assert (result.code, result.err) == (1, "error: Expected replicas to be 5, was 0\n")
    kubectl("wait", "pods", "-l", "app=app", "--for=delete", "--timeout=120s")
    assert kubectl("get", "pods", "-o", "name") == ""


@one_version
def test_raw_writes(kubectl: Kubectl) -> None:
    path = f"/api/v1/namespaces/{kubectl.namespace}/configmaps"
    made = json.loads(kubectl("create", "--raw", path, "-f", "-", stdin='{"metadata": {"name": "raw"}}'))
    made["data"] = {"a": "1"}
    kubectl("replace", "--raw", f"{path}/raw", "-f", "-", stdin=json.dumps(made))
    assert kubectl("get", "configmap", "raw", "-o", "jsonpath={.data.a}") == "1"
    assert json.loads(kubectl("delete", "--raw", f"{path}/raw"))["status"] == "Success"
