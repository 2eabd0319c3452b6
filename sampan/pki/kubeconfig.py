"""Kubeconfig files as kubectl reads them (client.authentication, v1 Config)."""

from __future__ import annotations

import base64

import yaml


def render(server: str, ca_certificate: bytes, certificate: bytes, key: bytes, *, cluster: str = "sampan",
           user: str = "kubernetes-admin") -> bytes:
    """A self-contained kubeconfig: everything inline, so that the file can be copied elsewhere."""

    def inline(data: bytes) -> str:
        return base64.b64encode(data).decode()

    context = f"{user}@{cluster}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": cluster,
                      "cluster": {"server": server, "certificate-authority-data": inline(ca_certificate)}}],
        "users": [{"name": user,
                   "user": {"client-certificate-data": inline(certificate), "client-key-data": inline(key)}}],
        "contexts": [{"name": context, "context": {"cluster": cluster, "user": user}}],
        "current-context": context,
    }
    return yaml.safe_dump(config, sort_keys=False).encode()
