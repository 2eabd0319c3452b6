from __future__ import annotations

import base64
from typing import Any

import pytest

from tests.support.kinds import create_errors, made, strategy, update_errors

Tree = dict[str, Any]

CONFIGMAP = ("", "configmaps")
SECRET = ("", "secrets")
META = {"name": "n", "namespace": "default"}
KEY = ("a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME', "
       " or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')")


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def config(**members: Any) -> Tree:
    return {"metadata": dict(META), **members}


@pytest.mark.parametrize(("tree", "expected"), [
    (config(data={"a.conf": "x"}, binaryData={"b": b64("y")}), []), (config(), []),
    (config(data={"a b": "x"}), [f'data[a b]: Invalid value: "a b": {KEY}']),
    (config(binaryData={"..x": ""}), ['binaryData[..x]: Invalid value: "..x": must not start with \'..\'']),
    (config(data={"a": "x"}, binaryData={"a": ""}),
     ['data[a]: Invalid value: "a": duplicate of key present in binaryData']),
    (config(data={"a": "x" * (1024 * 1024)}), []),
    (config(data={"a": "x" * (1024 * 1024)}, binaryData={"b": b64("y")}),
     ["[]: Too long: may not be more than 1048576 bytes"]),
])
def test_config_maps(tree: Tree, expected: list[str]) -> None:
    assert create_errors(CONFIGMAP, tree) == expected


def test_an_immutable_config_map_stays() -> None:
    old = config(data={"a": "x"}, immutable=True)
    frozen = "Forbidden: field is immutable when `immutable` is set"
    assert update_errors(CONFIGMAP, old, old) == []
    assert update_errors(CONFIGMAP, old, config(data={"a": "y"})) == [f"immutable: {frozen}", f"data: {frozen}"]
    assert update_errors(CONFIGMAP, old, config(data={"a": "x"}, binaryData={"b": ""}, immutable=True)) == [
        f"binaryData: {frozen}"]


def test_secret_defaults() -> None:
    stored = made(SECRET, config(data={"a": b64("1"), "b": b64("2")}, stringData={"b": "3"}))
    assert stored["type"] == "Opaque"
    assert "stringData" not in stored
    assert stored["data"] == {"a": b64("1"), "b": b64("3")}
    assert strategy(SECRET).fields(stored) == {"type": "Opaque"}


@pytest.mark.parametrize(("tree", "expected"), [
    (config(), []), (config(type="example.com/own"), []),
    (config(data={"a/b": ""}), [f'data[a/b]: Invalid value: "a/b": {KEY}']),
    (config(data={"a": b64("x" * (1024 * 1024 + 1))}), ["data: Too long: may not be more than 1048576 bytes"]),
    (config(type="kubernetes.io/service-account-token"),
     ["metadata.annotations[kubernetes.io/service-account.name]: Required value"]),
    (config(type="kubernetes.io/tls"), ["data[tls.crt]: Required value", "data[tls.key]: Required value"]),
    (config(type="kubernetes.io/tls", stringData={"tls.crt": "", "tls.key": ""}), []),
    (config(type="kubernetes.io/basic-auth"), ["data[username]: Required value", "data[password]: Required value"]),
    (config(type="kubernetes.io/basic-auth", stringData={"password": "x"}), []),
    (config(type="kubernetes.io/ssh-auth", stringData={"ssh-privatekey": ""}),
     ["data[ssh-privatekey]: Required value"]),
    (config(type="kubernetes.io/dockerconfigjson"), ["data[.dockerconfigjson]: Required value"]),
    (config(type="kubernetes.io/dockerconfigjson", stringData={".dockerconfigjson": "{}"}), []),
    (config(type="kubernetes.io/dockerconfigjson", stringData={".dockerconfigjson": "[" * 100000}),
     ['data[.dockerconfigjson]: Invalid value: "<secret contents redacted>": exceeded max depth']),
])
def test_secrets(tree: Tree, expected: list[str]) -> None:
    assert create_errors(SECRET, tree) == expected


def test_broken_json_in_a_secret_is_not_shown() -> None:
    found = create_errors(SECRET, config(type="kubernetes.io/dockercfg", stringData={".dockercfg": "{secret"}))
    assert len(found) == 1
    assert found[0].startswith('data[.dockercfg]: Invalid value: "<secret contents redacted>": ')
    assert "{secret" not in found[0]


def test_secret_updates() -> None:
    assert update_errors(SECRET, config(), config(type="example.com/x")) == [
        'type: Invalid value: "example.com/x": field is immutable']
    old = config(stringData={"a": "x"}, immutable=True)
    assert update_errors(SECRET, old, config(stringData={"a": "y"}, immutable=True)) == [
        "data: Forbidden: field is immutable when `immutable` is set"]


def test_service_accounts() -> None:
    key = ("", "serviceaccounts")
    assert create_errors(key, config(secrets=[{"name": "a"}])) == []
    noted = config()
    noted["metadata"] = {**META, "annotations": {"kubernetes.io/enforce-mountable-secrets": "true"}}
    assert len(strategy(key).warnings(noted)) == 1
    assert len(strategy(key).update_warnings(noted, config())) == 1
    assert strategy(key).update_warnings(noted, noted) == []
