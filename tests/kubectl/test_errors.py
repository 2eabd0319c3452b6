"""What users read when something is wrong: the texts that they know, and that they search for."""

from __future__ import annotations

import re

import pytest

from tests.support.cluster import ClusterHandle
from tests.support.kubectl import Kubectl, one_version

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

POD = """
apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  {spec}
"""
DEPLOYMENT = """
apiVersion: apps/v1
kind: Deployment
metadata: {name: d}
spec:
  selector: {matchLabels: {a: b}}
  template: {metadata: {labels: {a: c}}, spec: {containers: [{name: c, image: i}]}}
"""
CREATING = 'Error from server (BadRequest): error when creating "STDIN": '
CONTAINERS = "containers: [{name: c, image: 'sampan-test/box:1'}]"


def refused(kubectl: Kubectl, *arguments: str, stdin: str | None = None) -> str:
    """What kubectl says of a command that fails."""
    result = kubectl.run(*arguments, stdin=stdin)
    assert result.code == 1, result
    return result.err


def pod(spec: str = CONTAINERS, name: str = "p") -> str:
    return POD.format(name=name, spec=spec)


def test_unknown_and_repeated_fields(kubectl: Kubectl) -> None:
    """kubectl leaves this to the server (KEP-2885)."""
    wrong = pod("containerz: []\n  " + CONTAINERS.replace("image", "imagee: x, image"))
    text = refused(kubectl, "create", "-f", "-", stdin=wrong)
    assert text == (f'{CREATING}Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field '
                    '"spec.containers[0].imagee", unknown field "spec.containerz"\n')
    result = kubectl.run("create", "-f", "-", "--validate=warn", "--dry-run=server", stdin=wrong)
    assert (result.code, result.err) == (
        0, 'Warning: unknown field "spec.containers[0].imagee"\nWarning: unknown field "spec.containerz"\n')
    result = kubectl.run("create", "-f", "-", "--validate=ignore", stdin=wrong)
    assert (result.code, result.out, result.err) == (0, "pod/p created\n", "")
    assert "containerz" not in kubectl("get", "pod", "p", "-o", "yaml")


def test_what_is_no_manifest(kubectl: Kubectl) -> None:
    assert refused(kubectl, "create", "-f", "-", stdin="a: b: c") == (
        'error: error parsing STDIN: error converting YAML to JSON: yaml: mapping values are not allowed in this '
        "context\n")
    assert "apiVersion not set" in refused(kubectl, "create", "-f", "-", stdin="kind: Pod\nmetadata: {name: x}\n")
    # With --validate, kubectl asks the server for CustomResourceDefinitions first, which are not served yet.
    assert 'no matches for kind "Nonsense" in version "v1"' in refused(
        kubectl, "create", "--validate=ignore", "-f", "-",
        stdin="kind: Nonsense\napiVersion: v1\nmetadata: {name: x}\n")
    assert 'no matches for kind "Pod" in version "v9"' in refused(
        kubectl, "apply", "--validate=ignore", "-f", "-", stdin="kind: Pod\napiVersion: v9\nmetadata: {name: x}\n")
    assert "the namespace from the provided object" in refused(
        kubectl, "create", "-f", "-", stdin=pod(name="x, namespace: default"))


INVALID = {
    "no containers": (pod("containers: []"), 'The Pod "p" is invalid: spec.containers: Required value\n'),
    "a bad name": (pod(name="Big_Name"), (
        'The Pod "Big_Name" is invalid: metadata.name: Invalid value: "Big_Name": a lowercase RFC 1123 subdomain must '
        "consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric "
        "character (e.g. 'example.com', regex used for validation is "
        "'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')\n")),
    "an unknown value": (pod(CONTAINERS + "\n  restartPolicy: Sometimes"), (
        'The Pod "p" is invalid: spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", '
        '"OnFailure", "Never"\n')),
    "names twice": (pod(
        "containers:\n  - {name: c, image: i, ports: [{name: a, containerPort: 80}, {name: a, containerPort: 81}]}\n"
        "  - {name: c, image: i}"), (
        'The Pod "p" is invalid: \n* spec.containers[0].ports[1].name: Duplicate value: "a"\n'
        '* spec.containers[1].name: Duplicate value: "c"\n')),
    "a bad port": (pod("containers: [{name: c, image: i, ports: [{containerPort: 99999}]}]"), (
        'The Pod "p" is invalid: spec.containers[0].ports[0].containerPort: Invalid value: 99999: must be between 1 '
        "and 65535, inclusive\n")),
    "more requested than allowed": (pod(
        "containers: [{name: c, image: i, resources: {requests: {cpu: 2}, limits: {cpu: 1}}}]"), (
        'The Pod "p" is invalid: spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal '
        "to cpu limit of 1\n")),
    "no such volume": (pod("containers: [{name: c, image: i, volumeMounts: [{name: v, mountPath: /v}]}]"),
                       'The Pod "p" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "v"\n'),
    "a service without ports": ("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {}\n",
                                'The Service "s" is invalid: spec.ports: Required value\n'),
    "another selector": (DEPLOYMENT, (
        'The Deployment "d" is invalid: spec.template.metadata.labels: Invalid value: map[string]string{"a":"c"}: '
        "`selector` does not match template `labels`\n")),
}


@pytest.mark.parametrize(("manifest", "message"), INVALID.values(), ids=INVALID)
@one_version
def test_invalid_objects(kubectl: Kubectl, manifest: str, message: str) -> None:
    assert refused(kubectl, "create", "-f", "-", stdin=manifest) == message
    assert kubectl("get", "pods,services,deployments", "-o", "name") == ""


@one_version
def test_wrong_types(kubectl: Kubectl) -> None:
    text = refused(kubectl, "create", "-f", "-", stdin=pod("containers: nothing"))
    assert text == (f'{CREATING}Pod in version "v1" cannot be handled as a Pod: json: cannot unmarshal string into Go '
                    "struct field PodSpec.spec.containers of type []v1.Container\n")
    text = refused(kubectl, "create", "-f", "-", stdin=pod(
        "containers: [{name: c, image: i, resources: {limits: {memory: lots}}}]"))
    assert "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'" in text


@one_version
def test_immutable_fields(kubectl: Kubectl) -> None:
    kubectl("run", "p", "--image=sampan-test/box:1")
    text = refused(kubectl, "patch", "pod", "p", "-p", '{"spec":{"restartPolicy":"Never"}}')
    assert text.startswith('The Pod "p" is invalid: spec: Forbidden: pod updates may not change fields other than '
                           "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
                           "`spec.tolerations` (only additions to existing tolerations)")
    kubectl("create", "secret", "generic", "s")
    text = refused(kubectl, "patch", "secret", "s", "-p", '{"type":"other"}')
    assert text == ('The Secret "s" is invalid: type: Invalid value: "other": field is immutable\n')
    kubectl("create", "service", "clusterip", "v", "--tcp=80")
    text = refused(kubectl, "patch", "service", "v", "-p", '{"spec":{"clusterIP":"10.96.200.200"}}')
    assert "spec.clusterIPs[0]: Invalid value:" in text
    assert "may not change once set" in text


def test_what_is_not_there(kubectl: Kubectl) -> None:
    assert refused(kubectl, "get", "pod", "none") == 'Error from server (NotFound): pods "none" not found\n'
    assert refused(kubectl, "get", "deploy/none") == 'Error from server (NotFound): deployments.apps "none" not found\n'
    assert refused(kubectl, "get", "nonsense") == (
        'error: the server doesn\'t have a resource type "nonsense"\n')
    result = kubectl.run("get", "pods")
    assert (result.code, result.err) == (0, f"No resources found in {kubectl.namespace} namespace.\n")
    assert refused(kubectl, "create", "configmap", "c", "-n", "nowhere") == (
        'error: failed to create configmap: namespaces "nowhere" not found\n')
    assert 'pods "none" not found' in refused(kubectl, "logs", "none")
    assert refused(kubectl, "exec", "none", "--", "true") == 'Error from server (NotFound): pods "none" not found\n'
    assert refused(kubectl, "delete", "pod", "none") == 'Error from server (NotFound): pods "none" not found\n'
    assert refused(kubectl, "scale", "deployment/none", "--replicas=1").startswith("error: no objects passed to scale")


@one_version
def test_bad_selectors(kubectl: Kubectl) -> None:
    assert refused(kubectl, "get", "pods", "-l", "a in (b") == (
        'Error from server (BadRequest): Unable to find "/v1, Resource=pods" that match label selector "a in (b", '
        "field selector \"\": unable to parse requirement: found '', expected: ',' or ')'\n")
    assert refused(kubectl, "get", "pods", "--field-selector", "spec.bogus=1") == (
        'Error from server (BadRequest): Unable to find "/v1, Resource=pods" that match label selector "", field '
        'selector "spec.bogus=1": field label not supported: spec.bogus\n')
    assert refused(kubectl, "get", "configmaps", "--field-selector", "data.k=v") == (
        'Error from server (BadRequest): Unable to find "/v1, Resource=configmaps" that match label selector "", field '
        'selector "data.k=v": "data.k" is not a known field selector: only "metadata.name", "metadata.namespace"\n')


@one_version
def test_bad_patches(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "c")
    assert refused(kubectl, "patch", "configmap", "c", "-p", "text") == (
        "Error from server (BadRequest): json: cannot unmarshal string into Go value of type map[string]interface {}\n")
    assert refused(kubectl, "patch", "configmap", "c", "-p", '{"metadata":{"resourceVersion":"1"}}') == (
        'Error from server (Conflict): Operation cannot be fulfilled on configmaps "c": the object has been modified; '
        "please apply your changes to the latest version and try again\n")
    assert refused(kubectl, "patch", "configmap", "c", "-p", '{"data":{"k":1}}') == (
        'The request is invalid: patch: Invalid value: "map[data:map[k:1]]": json: cannot unmarshal number into Go '
        "struct field ConfigMap.data of type string\n")


@one_version
def test_a_namespace_that_is_going(kubectl: Kubectl) -> None:
    kubectl("create", "configmap", "c")
    kubectl("patch", "configmap", "c", "-p", '{"metadata":{"finalizers":["example.org/stay"]}}')
    try:
        kubectl("delete", "namespace", kubectl.namespace, "--wait=false")
        assert refused(kubectl, "create", "configmap", "late") == (
            f'error: failed to create configmap: configmaps "late" is forbidden: unable to create new content in '
            f"namespace {kubectl.namespace} because it is being terminated\n")
        assert kubectl("get", "namespace", kubectl.namespace, "--no-headers").split()[1] == "Terminating"
        kubectl("wait", "namespace", kubectl.namespace, "--timeout=120s",
                "--for=condition=NamespaceFinalizersRemaining")
        assert "Some content in the namespace has finalizers remaining: example.org/stay in 1 resource instances" in (
            kubectl("get", "namespace", kubectl.namespace, "-o", "jsonpath={.status.conditions[*].message}"))
    finally:
        kubectl("patch", "configmap", "c", "--type=merge", "-p", '{"metadata":{"finalizers":null}}')


@one_version
def test_protected_namespaces(kubectl: Kubectl) -> None:
    for name in ("default", "kube-system", "kube-public"):
        text = refused(kubectl, "delete", "namespace", name)
        assert text.endswith(f'Error from server (Forbidden): namespaces "{name}" is forbidden: this namespace may not '
                             "be deleted\n")


def test_strangers(kubectl: Kubectl, cluster: ClusterHandle) -> None:
    server = cluster.kubectl(kubectl.version)("config", "view", "--raw", "-o", "jsonpath={.clusters[0].cluster.server}")
    stranger = (f"--server={server}", "--kubeconfig=/dev/null", "--insecure-skip-tls-verify", "--token=nonsense")
    result = kubectl.run("get", "pods", *stranger)
    assert result.code == 1
    assert "error: You must be logged in to the server" in result.err
    trusting_nobody = (*stranger[:2], stranger[3])
    assert "certificate signed by unknown authority" in kubectl.run("get", "pods", *trusting_nobody).err


def test_somebody_else(kubectl: Kubectl) -> None:
    assert refused(kubectl, "get", "pods", "--as=bob") == (
        'Error from server (Forbidden): pods is forbidden: User "bob" cannot list resource "pods" in API group "" in '
        f'the namespace "{kubectl.namespace}"\n')
    assert kubectl.run("auth", "can-i", "get", "pods", "--as=bob").out == "no\n"
    assert kubectl.run("auth", "can-i", "get", "pods", "--as=bob", "--as-group=system:masters").out == "yes\n"


@one_version
def test_oneself(kubectl: Kubectl) -> None:
    whoami = kubectl("auth", "whoami").split("\n")
    assert whoami[1].split() == ["Username", "kubernetes-admin"]
    assert re.fullmatch(r"Extra: authentication\.kubernetes\.io/credential-id +\[X509SHA256=[0-9a-f]{64}\]", whoami[3])
    assert "Extra" not in kubectl("auth", "whoami", "--as=bob")


@one_version
def test_what_is_not_served_yet(kubectl: Kubectl) -> None:
    """Clear words, no crash of the client."""
    kubectl("run", "idle", "--image=sampan-test/box:1", "--overrides", '{"spec":{"schedulerName":"nobody"}}')
    assert "error: ephemeral containers are disabled for this cluster" in refused(
        kubectl, "debug", "idle", "--image=sampan-test/box:1", "--profile=general")
    assert "the server could not find the requested resource" in refused(kubectl, "create", "quota", "q")
    assert refused(kubectl, "top", "pods") == "error: Metrics API not available\n"
    assert "server-side apply is not supported by this server yet" in refused(
        kubectl, "apply", "--server-side", "-f", "-", stdin=pod())


@one_version
def test_what_it_says_when_the_image_cannot_be_had(kubectl: Kubectl) -> None:
    kubectl("run", "lost", "--image=nowhere.invalid/none:1")
    kubectl("run", "never", "--image=none:1", "--image-pull-policy=Never")
    kubectl("wait", "pod/never", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ErrImageNeverPull",
            "--timeout=120s")
    assert 'Container image "none:1" is not present with pull policy of Never' in kubectl("describe", "pod", "never")
    upgrade = "error: Internal error occurred: unable to upgrade connection: "
    assert refused(kubectl, "exec", "never", "--", "true") == upgrade + 'container not found ("never")\n'
    assert refused(kubectl, "attach", "never").endswith(
        f"{upgrade}container never not found in pod never_{kubectl.namespace}\n")
    assert refused(kubectl, "logs", "never") == (
        'Error from server (BadRequest): container "never" in pod "never" is waiting to start: ErrImageNeverPull\n')
    assert refused(kubectl, "logs", "never", "--previous") == (
        'Error from server (BadRequest): previous terminated container "never" in pod "never" not found\n')
    assert refused(kubectl, "port-forward", "never", ":80") == (
        "error: unable to forward port because pod is not running. Current status=Pending\n")
    kubectl("wait", "pod/lost", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=ImagePullBackOff",
            "--timeout=120s")
    text = kubectl("describe", "pod", "lost")
    assert 'Pulling image "nowhere.invalid/none:1"' in text
    assert 'Failed to pull image "nowhere.invalid/none:1":' in text
    assert 'Back-off pulling image "nowhere.invalid/none:1"' in text
    assert kubectl("get", "pod", "lost", "--no-headers").split()[1:3] in (
        ["0/1", "ImagePullBackOff"], ["0/1", "ErrImagePull"])


@one_version
def test_what_it_says_when_a_pod_fits_nowhere(kubectl: Kubectl) -> None:
    kubectl("create", "-f", "-", stdin=pod("containers: [{name: c, image: i, resources: {requests: {cpu: 1000}}}]"))
    kubectl("wait", "pod/p", "--for=condition=PodScheduled=false", "--timeout=60s")
    assert refused(kubectl, "exec", "p", "--", "true") == (
        "Error from server (BadRequest): pod p does not have a host assigned\n")
    assert kubectl("logs", "p") == ""
    text = kubectl("describe", "pod", "p")
    assert "FailedScheduling" in text
    assert "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: " in text
