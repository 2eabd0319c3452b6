"""Manifests and what was there before: apply, diff, patch, replace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
