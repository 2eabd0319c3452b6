"""Changing things: create, apply, diff, edit, patch, replace, delete, label, annotate, expose, cordon, wait."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.cluster import NODE, NODE_IP
from tests.support.kubectl import Kubectl, one_version
from tests.support.space import patience

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

IMAGE = "sampan-test/box:1"
APP = Path(__file__).parent / "app.yaml"
"""A Deployment without replicas, and a ConfigMap."""


@pytest.fixture
def other(tmp_path: Path) -> str:
    """The manifest of `APP`, with another colour and one replica."""
    changed = tmp_path / "other.yaml"
    changed.write_text(APP.read_text().replace("replicas: 0", "replicas: 1").replace("blue", "green"))
    return str(changed)


def container(name: str) -> str:
    """A patch that names a container."""
    return f'{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"{name}","image":"{IMAGE}"}}]}}}}}}}}'


def editor(folder: Path, script: str) -> str:
    """An EDITOR that changes the file with sed; what it was shown last is in the file `seen`."""
    path = folder / "editor.sh"
    path.write_text(f"#!/bin/sh\ncp \"$1\" '{folder}/seen'\nsed -i '{script}' \"$1\"\n")
    path.chmod(0o755)
    return str(path)


def signing_request(name: str, group: str) -> tuple[bytes, bytes]:
    """A new key, and a request for a certificate for it, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, group),
                         x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return (key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                              serialization.NoEncryption()), request.public_bytes(serialization.Encoding.PEM))


# --- create -----------------------------------------------------------------------------------------------------------


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


# --- apply, diff ------------------------------------------------------------------------------------------------------


def test_apply_and_diff(kubectl: Kubectl, other: str) -> None:
    assert kubectl("apply", "-f", str(APP)) == "deployment.apps/app created\nconfigmap/app created\n"
    assert kubectl("apply", "-f", str(APP)) == "deployment.apps/app unchanged\nconfigmap/app unchanged\n"
    kubectl("label", "configmap", "app", "kept=yes")
    assert kubectl.run("diff", "-f", str(APP)).code == 0
    result = kubectl.run("diff", "-f", other)
    assert result.code == 1
    assert re.search(r"^-  replicas: 0\n\+  replicas: 1$", result.out, re.MULTILINE)
    assert re.search(r"^-  colour: blue\n\+  colour: green$", result.out, re.MULTILINE)
    assert kubectl("apply", "-f", other, "--dry-run=server") == (
        "deployment.apps/app configured (server dry run)\nconfigmap/app configured (server dry run)\n")
    assert kubectl("apply", "-f", other) == "deployment.apps/app configured\nconfigmap/app configured\n"
    made = kubectl.json("get", "configmap", "app")
    assert (made["data"], made["metadata"]["labels"]) == ({"colour": "green"}, {"kept": "yes"})
    assert '"colour":"green"' in kubectl("apply", "view-last-applied", "configmap/app", "-o", "json").replace(" ", "")


@one_version
def test_apply_merges_lists_by_their_keys_and_removes_what_was_applied(kubectl: Kubectl, tmp_path: Path) -> None:
    kubectl("apply", "-f", str(APP))
    kubectl("patch", "deployment", "app", "-p", container("side"))
    changed = tmp_path / "changed.yaml"
    changed.write_text(APP.read_text().replace("        ports: [{containerPort: 80}]\n", "").replace(
        "  labels: {app: app}\nspec", "spec"))
    kubectl("apply", "-f", str(changed))
    made = kubectl.json("get", "deployment", "app")
    assert "labels" not in made["metadata"]
    containers = {one["name"]: one for one in made["spec"]["template"]["spec"]["containers"]}
    assert containers.keys() == {"main", "side"}
    assert "ports" not in containers["main"]


@one_version
def test_apply_takes_over_what_was_created(kubectl: Kubectl) -> None:
    kubectl("create", "-f", str(APP))
    result = kubectl.run("apply", "-f", str(APP))
    assert result.code == 0
    assert "Warning: resource configmaps/app is missing the kubectl.kubernetes.io/last-applied-configuration" in (
        result.err)
    assert "configmap/app configured" in result.out


@one_version
def test_apply_with_prune(kubectl: Kubectl, tmp_path: Path) -> None:
    text = "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {0}, labels: {{set: a}}}}\n"
    kubectl("apply", "-f", "-", stdin=text.format("one") + "---\n" + text.format("two"))
    only = tmp_path / "one.yaml"
    only.write_text(text.format("one"))
    out = kubectl("apply", "-f", str(only), "--prune", "-l", "set=a", "--prune-allowlist=core/v1/ConfigMap")
    assert out == "configmap/one unchanged\nconfigmap/two pruned\n"


# --- edit, patch, replace, set ----------------------------------------------------------------------------------------


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


def test_three_kinds_of_patch(kubectl: Kubectl) -> None:
    kubectl("create", "-f", str(APP))
    patched, unchanged = "deployment.apps/app patched\n", "deployment.apps/app patched (no change)\n"

    def patch(kind: str, text: str) -> str:
        return kubectl("patch", "deployment", "app", f"--type={kind}", "-p", text)

    def names() -> set[str]:
        path = "jsonpath={.spec.template.spec.containers[*].name}"
        return set(kubectl("get", "deployment", "app", "-o", path).split())

    assert patch("strategic", container("side")) == patched
    # Once the Deployment's controller has nothing to say any more.
    patience("a patch that changes nothing", lambda: patch("strategic", container("side")) == unchanged)
    assert names() == {"main", "side"}
    assert patch("merge", container("only")) == patched
    assert names() == {"only"}
    assert patch("json", '[{"op":"test","path":"/spec/replicas","value":0},'
                         '{"op":"replace","path":"/spec/template/spec/containers/0/name","value":"renamed"},'
                         '{"op":"add","path":"/metadata/annotations","value":{"a":"b"}}]') == patched
    assert names() == {"renamed"}
    assert patch("strategic", "metadata:\n  annotations:\n    a: null\n    c: d\n") == patched  # YAML will do
    assert kubectl.json("get", "deployment", "app")["metadata"]["annotations"].items() >= {"c": "d"}.items()
    result = kubectl.run("patch", "deployment", "app", "--type=json", "-p", '[{"op":"remove","path":"/spec/none"}]')
    assert result.code == 1
    assert "the server rejected our request due to an error in our request" in result.err


@one_version
def test_patch_of_subresources(kubectl: Kubectl) -> None:
    kubectl("create", "-f", str(APP))
    assert kubectl("patch", "deployment", "app", "--subresource=scale", "--type=merge", "-p",
                   '{"spec":{"replicas":1}}') == "scale.autoscaling/app patched\n"
    assert kubectl("get", "deployment", "app", "-o", "jsonpath={.spec.replicas}") == "1"
    kubectl("run", "idle", f"--image={IMAGE}", "--overrides", '{"spec":{"schedulerName":"nobody"}}')
    kubectl("patch", "pod", "idle", "--subresource=status", "-p",
            '{"status":{"message":"set by hand"},"spec":{"activeDeadlineSeconds":5}}')
    pod = kubectl.json("get", "pod", "idle")
    assert pod["status"]["message"] == "set by hand"
    assert "activeDeadlineSeconds" not in pod["spec"]


def test_replace(kubectl: Kubectl, other: str) -> None:
    assert kubectl("create", "-f", str(APP)) == "deployment.apps/app created\nconfigmap/app created\n"
    before = kubectl.json("get", "configmap", "app")["metadata"]
    kubectl("label", "configmap", "app", "lost=yes")
    assert kubectl("replace", "-f", other) == "deployment.apps/app replaced\nconfigmap/app replaced\n"
    after = kubectl.json("get", "configmap", "app")
    assert (after["metadata"]["uid"], after["data"]) == (before["uid"], {"colour": "green"})
    assert "labels" not in after["metadata"]
    forced = kubectl("replace", "--force", "-f", str(APP))
    assert 'configmap "app" deleted' in forced
    assert "configmap/app replaced" in forced
    assert kubectl("get", "configmap", "app", "-o", "jsonpath={.metadata.uid}") != before["uid"]


def test_replace_of_what_somebody_changed_in_between_is_refused(kubectl: Kubectl) -> None:
    kubectl("create", "-f", str(APP))
    old = kubectl("get", "configmap", "app", "-o", "yaml")
    kubectl("label", "configmap", "app", "changed=yes")
    result = kubectl.run("replace", "-f", "-", stdin=old)
    assert (result.code, result.err) == (1, (
        'Error from server (Conflict): error when replacing "STDIN": Operation cannot be fulfilled on configmaps '
        '"app": the object has been modified; please apply your changes to the latest version and try again\n'))


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


# --- delete -----------------------------------------------------------------------------------------------------------


def test_delete(kubectl: Kubectl) -> None:
    kubectl("create", "-f", str(APP))
    for name in ("one", "two", "three"):
        kubectl("create", "configmap", name)
    kubectl("label", "configmap", "one", "two", "batch=yes")
    assert kubectl("delete", "-f", str(APP)) == 'deployment.apps "app" deleted\nconfigmap "app" deleted\n'
    assert kubectl("delete", "configmap", "-l", "batch=yes") == 'configmap "one" deleted\nconfigmap "two" deleted\n'
    assert kubectl("delete", "configmap/three", "-o", "name") == "configmap/three\n"
    result = kubectl.run("delete", "configmap", "three")
    assert (result.code, result.err) == (1, 'Error from server (NotFound): configmaps "three" not found\n')
    assert kubectl("delete", "configmap", "three", "--ignore-not-found") == ""
    assert kubectl("delete", "configmap", "--all") == 'configmap "kube-root-ca.crt" deleted\n'
    kubectl("wait", "configmap/kube-root-ca.crt", "--for=jsonpath={.metadata.name}=kube-root-ca.crt")  # made anew


@one_version
def test_grace(kubectl: Kubectl) -> None:
    stubborn = ("--image", IMAGE, "--", "sh", "-c", "trap '' TERM; while true; do sleep 1; done")
    for name in ("now", "short", "forced"):
        kubectl("run", name, *stubborn)
    kubectl("wait", "pod", "--all", "--for=condition=Ready", "--timeout=120s")
    assert kubectl("delete", "pod", "short", "--grace-period=2", "--wait=false") == 'pod "short" deleted\n'
    meta = kubectl.json("get", "pod", "short")["metadata"]
    assert meta["deletionGracePeriodSeconds"] == 2
    assert re.search(r"^short +1/1 +Terminating ", kubectl("get", "pods"), re.MULTILINE)
    forced = kubectl.run("delete", "pod", "forced", "--grace-period=0", "--force")
    assert forced.out == 'pod "forced" force deleted\n'
    assert "Warning: Immediate deletion does not wait for confirmation" in forced.err
    assert kubectl("delete", "pod", "now", "--now") == 'pod "now" deleted\n'
    kubectl("wait", "pod/short", "--for=delete", "--timeout=120s")
    assert kubectl("get", "pods", "-o", "name") == ""


@one_version
def test_cascades(kubectl: Kubectl) -> None:
    def children(kind: str) -> list[str]:
        return kubectl("get", kind, "-o", "name").split()

    kubectl("create", "deployment", "app", f"--image={IMAGE}", "--", "sleep", "1000")
    kubectl("wait", "deployment/app", "--for=condition=Available", "--timeout=120s")
    assert kubectl("delete", "deployment", "app", "--cascade=orphan") == 'deployment.apps "app" deleted\n'
    assert len(children("replicasets")) == 1
    assert "ownerReferences" not in kubectl.json("get", children("replicasets")[0])["metadata"]
    pod = kubectl.json("get", children("pods")[0])
    assert kubectl("delete", "replicaset", "--all", "--cascade=orphan").endswith("deleted\n")
    after = kubectl.json("get", "pod", pod["metadata"]["name"])
    assert after["metadata"]["uid"] == pod["metadata"]["uid"]
    assert "ownerReferences" not in after["metadata"]
    kubectl("delete", "pod", "--all", "--now")

    obedient = "trap 'exit 0' TERM; sleep 1000 & wait"
    kubectl("create", "deployment", "app", f"--image={IMAGE}", "--", "sh", "-c", obedient)
    kubectl("wait", "deployment/app", "--for=condition=Available", "--timeout=120s")
    assert kubectl("delete", "deployment", "app", "--cascade=foreground") == 'deployment.apps "app" deleted\n'
    assert children("deployments,replicasets,pods") == []


# --- nodes, wait ------------------------------------------------------------------------------------------------------


@one_version
def test_cordon_and_uncordon(kubectl: Kubectl) -> None:
    assert kubectl("cordon", NODE) == f"node/{NODE} cordoned\n"
    try:
        assert kubectl("cordon", NODE) == f"node/{NODE} already cordoned\n"
        assert kubectl("get", "node", NODE, "--no-headers").split()[1] == "Ready,SchedulingDisabled"
        kubectl("run", "waiting", f"--image={IMAGE}", "--restart=Never", "--", "true")
        kubectl("wait", "pod/waiting", "--for=condition=PodScheduled=false", "--timeout=60s")
        assert "0/1 nodes are available: 1 node(s) were unschedulable." in kubectl("describe", "pod", "waiting")
        assert re.search(r"^waiting +0/1 +Pending ", kubectl("get", "pods"), re.MULTILINE)
    finally:
        assert kubectl("uncordon", NODE) == f"node/{NODE} uncordoned\n"
    kubectl("wait", "pod/waiting", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=120s")
    assert kubectl("uncordon", NODE) == f"node/{NODE} already uncordoned\n"


@one_version
def test_taint(kubectl: Kubectl) -> None:
    assert kubectl("taint", "node", NODE, "who=me:NoSchedule") == f"node/{NODE} tainted\n"
    try:
        kubectl("run", "waiting", f"--image={IMAGE}")
        kubectl("wait", "pod/waiting", "--for=condition=PodScheduled=false", "--timeout=60s")
        assert "1 node(s) had untolerated taint {who: me}" in kubectl("describe", "pod", "waiting")
    finally:
        assert kubectl("taint", "node", NODE, "who-") == f"node/{NODE} untainted\n"


@one_version
def test_drain(kubectl: Kubectl) -> None:
    """Only this test's pods are evicted, since others use the node at the same time."""
    kubectl("create", "-f", str(APP))
    kubectl("scale", "deployment/app", "--replicas=2")
    kubectl("rollout", "status", "deployment/app", "--timeout=120s")
    before = kubectl("get", "pods", "-o", "name").split()
    selected = (f"--pod-selector=app=app,pod-template-hash={before[0].split('-')[1]}", "--timeout=120s")
    assert f"node/{NODE} drained (server dry run)" in kubectl("drain", NODE, *selected, "--dry-run=server")
    try:
        text = kubectl("drain", NODE, *selected)
        assert text.startswith(f"node/{NODE} cordoned\n")
        assert all(f"{pod} evicted\n" in text for pod in before)
        assert text.endswith(f"node/{NODE} drained\n")
        assert {line.split()[2] for line in kubectl("get", "pods", "--no-headers").splitlines()} == {"Pending"}
    finally:
        kubectl("uncordon", NODE)


@one_version
def test_certificates(kubectl: Kubectl) -> None:
    names = [f"{kubectl.namespace}-{name}" for name in ("jane", "joe")]
    key, pem = signing_request("jane", "team")
    for name in names:
        kubectl("create", "-f", "-", stdin=json.dumps({
            "apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest", "metadata": {"name": name},
            "spec": {"request": base64.b64encode(pem).decode(), "signerName": "kubernetes.io/kube-apiserver-client",
                     "usages": ["client auth"], "expirationSeconds": 3600}}))
    try:
        prefix = "certificatesigningrequest.certificates.k8s.io"
        assert kubectl("certificate", "approve", names[0]) == f"{prefix}/{names[0]} approved\n"
        assert kubectl("certificate", "deny", names[1]) == f"{prefix}/{names[1]} denied\n"
        kubectl("wait", "csr", names[0], "--for=jsonpath={.status.certificate}", "--timeout=60s")
        rows = [line.split() for line in kubectl("get", "csr", *names, "--no-headers").splitlines()]
        assert [row[2:] for row in rows] == [
            ["kubernetes.io/kube-apiserver-client", "kubernetes-admin", "60m", "Approved,Issued"],
            ["kubernetes.io/kube-apiserver-client", "kubernetes-admin", "60m", "Denied"]]
        result = kubectl.run("certificate", "approve", names[1])
        assert (result.code, result.err) == (
            1, f'error: certificate signing request "{names[1]}" is already Denied\n')
        certificate = kubectl("get", "csr", names[0], "-o", "jsonpath={.status.certificate}")
        (kubectl.home / "jane.crt").write_bytes(base64.b64decode(certificate))
        (kubectl.home / "jane.key").write_bytes(key)
        authority = kubectl("get", "configmap", "kube-root-ca.crt", "-o", r"jsonpath={.data.ca\.crt}")
        (kubectl.home / "ca.crt").write_text(authority)
        jane = kubectl.run("get", "pods", "--kubeconfig=/dev/null", f"--server=https://{NODE_IP}:6443",
                           f"--certificate-authority={kubectl.home}/ca.crt",
                           f"--client-certificate={kubectl.home}/jane.crt", f"--client-key={kubectl.home}/jane.key")
        assert (jane.code, jane.err) == (1, (
            'Error from server (Forbidden): pods is forbidden: User "jane" cannot list resource "pods" in API group "" '
            f'in the namespace "{kubectl.namespace}"\n'))
    finally:
        kubectl("delete", "csr", *names)


@one_version
def test_raw_writes(kubectl: Kubectl) -> None:
    path = f"/api/v1/namespaces/{kubectl.namespace}/configmaps"
    made = json.loads(kubectl("create", "--raw", path, "-f", "-", stdin='{"metadata": {"name": "raw"}}'))
    made["data"] = {"a": "1"}
    kubectl("replace", "--raw", f"{path}/raw", "-f", "-", stdin=json.dumps(made))
    assert kubectl("get", "configmap", "raw", "-o", "jsonpath={.data.a}") == "1"
    assert json.loads(kubectl("delete", "--raw", f"{path}/raw"))["status"] == "Success"


def test_wait(kubectl: Kubectl) -> None:
    result = kubectl.run("wait", "configmap/late", "--for=delete", "--timeout=5s")
    assert result.code == 0
    kubectl("create", "configmap", "late")
    result = kubectl.run("wait", "configmap/late", "--for=delete", "--timeout=1s")
    assert result.code == 1
    assert result.err.endswith("error: timed out waiting for the condition on configmaps/late\n")
    waiting = kubectl.popen("wait", "configmap/late", "--for=jsonpath={.data.a}=1", "--timeout=120s")
    gone = kubectl.popen("wait", "configmap/late", "--for=delete", "--timeout=120s")
    kubectl("patch", "configmap", "late", "-p", '{"data":{"a":"1"}}')
    assert waiting.communicate(timeout=20) == ("configmap/late condition met\n", "")
    kubectl("delete", "configmap", "late")
    assert gone.communicate(timeout=20) == ("configmap/late condition met\n", "")


@pytest.mark.parametrize("version", ["1.32", "1.33"], indirect=True)
def test_wait_for_creation(kubectl: Kubectl) -> None:
    waiting = kubectl.popen("wait", "configmap/soon", "--for=create", "--timeout=120s")
    kubectl("create", "configmap", "soon")
    assert waiting.communicate(timeout=20) == ("configmap/soon condition met\n", "")
