"""An operator's commands: cordon, taint, drain, certificate."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.cluster import NODE, NODE_IP
from tests.support.kubectl import Kubectl, one_version

pytestmark = [pytest.mark.docker, pytest.mark.kubectl]

IMAGE = "sampan-test/box:1"
APP = Path(__file__).parent / "app.yaml"
"""A Deployment without replicas, and a ConfigMap."""


def signing_request(name: str, group: str) -> tuple[bytes, bytes]:
    """A new key, and a request for a certificate for it, both as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, group),
                         x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return (key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
                              serialization.NoEncryption()), request.public_bytes(serialization.Encoding.PEM))


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
