"""Kubeconfig files: what is read from them, and what is said of broken ones."""

from __future__ import annotations

import base64
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from sampan.client.kubeconfig import KubeconfigError, load, load_several
from sampan.pki import ca


def kubeconfig(**more: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Config", "current-context": "one",
            "contexts": [{"name": "one", "context": {"cluster": "c", "user": "u", "namespace": "work"}},
                         {"name": "two", "context": {"cluster": "c", "user": "t"}}],
            "clusters": [{"name": "c", "cluster": {"server": "https://127.0.0.1:6443/"} | more.get("cluster", {})}],
            "users": [{"name": "u", "user": more.get("user", {})}, {"name": "t", "user": {"token": "secret"}}]}


def written(directory: Path, tree: Any) -> Path:
    path = directory / "config"
    path.write_text(yaml.safe_dump(tree))
    return path


def test_inline_certificates(tmp_path: Path) -> None:
    pair, authority = ca.Authority.create("test")
    admin = authority.issue(ca.Identity("admin"))

    def inline(data: bytes) -> str:
        return base64.b64encode(data).decode()

    found = load(written(tmp_path, kubeconfig(
        cluster={"certificate-authority-data": inline(pair.certificate)},
        user={"client-certificate-data": inline(admin.certificate), "client-key-data": inline(admin.key)})))
    assert (found.server, found.namespace) == ("https://127.0.0.1:6443", "work")
    assert (found.ca, found.certificate, found.key) == (pair.certificate, admin.certificate, admin.key)
    context = found.ssl_context()
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert [item["subject"] for item in context.get_ca_certs()] == [((("commonName", "test"),),)]


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").write_bytes(b"PEM")
    found = load(written(tmp_path, kubeconfig(cluster={"certificate-authority": "ca.crt"},
                                              user={"tokenFile": "token"})))
    assert (found.ca, found.token_file) == (b"PEM", tmp_path / "token")


def test_another_context(tmp_path: Path) -> None:
    found = load(written(tmp_path, kubeconfig()), "two")
    assert (found.token, found.namespace, found.certificate) == ("secret", "default", None)


@pytest.mark.parametrize(("tree", "text"), [
    ([], "not a kubeconfig"), ({}, "current-context: missing"),
    ({"current-context": "x"}, "contexts: there is none named 'x'"),
    (kubeconfig(cluster={"server": "127.0.0.1"}), "clusters\\[c\\].server: '127.0.0.1' is not"),
    (kubeconfig(user={"client-key-data": "%%%"}), "client-key-data: not base64"),
    (kubeconfig(user={"client-key": "nowhere"}), "client-key: nowhere: No such file"),
])
def test_what_is_wrong_is_named(tmp_path: Path, tree: Any, text: str) -> None:
    with pytest.raises(KubeconfigError, match=text):
        load(written(tmp_path, tree))


def test_a_missing_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(KubeconfigError, match="No such file"):
        load(tmp_path / "nothing")
    (tmp_path / "config").write_text("{")
    with pytest.raises(KubeconfigError, match="not YAML"):
        load(tmp_path / "config")
    (tmp_path / "config").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(KubeconfigError, match="not YAML"):
        load(tmp_path / "config")


def test_several_files_count_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As kubectl reads $KUBECONFIG: the first to name a thing has it, files stay relative to where they are named."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        Path(name).mkdir()
    first = written(Path("a"), {"contexts": [{"name": "one", "context": {"cluster": "c", "user": "u"}}],
                                "users": [{"name": "u", "user": {"token": "first"}}]})
    second = written(Path("b"), kubeconfig(cluster={"certificate-authority": "ca.crt"}, user={"token": "second"}))
    Path("b/ca.crt").write_bytes(b"PEM")
    found = load_several([Path("nothing"), first, second])
    assert (found.token, found.namespace, found.ca) == ("first", "default", b"PEM")
    assert load_several([second, first]).token == "second"
    assert load_several([Path("nothing"), second]) == load(second)
    with pytest.raises(KubeconfigError, match=r"^x:y: No such file"):
        load_several([Path("x"), Path("y")])
    with pytest.raises(KubeconfigError, match=r"^a/config: current-context: missing"):
        load_several([first, Path("nothing")])


def test_certificates_that_are_none(tmp_path: Path) -> None:
    data = base64.b64encode(b"nonsense").decode()
    with pytest.raises(KubeconfigError, match="certificates for https"):
        load(written(tmp_path, kubeconfig(cluster={"certificate-authority-data": data}))).ssl_context()
