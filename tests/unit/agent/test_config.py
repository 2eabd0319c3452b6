"""The agent's settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import ConfigError, load

SERVER = ["--server", "https://192.0.2.1:6443"]


def test_defaults() -> None:
    config = load([*SERVER, "--node-name", "n1"], {})
    assert (config.server, config.node_server, config.node_name) == ("192.0.2.1:6443", ("192.0.2.1:6444",), "n1")
    assert config.certificates == Path("/var/lib/sampan/agent/pki")
    assert config.max_pods == 110


def test_a_flag_counts_before_the_environment_and_that_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("node-name: from-file\nmax-pods: 5\nserver: https://192.0.2.9\nnode-server: [a:1, b]\n")
    config = load(["--config", str(file), "--node-name", "from-flag"],
                  {"SAMPAN_AGENT_NODE_NAME": "from-env", "SAMPAN_AGENT_MAX_PODS": "7"})
    assert (config.node_name, config.max_pods, config.node_server) == ("from-flag", 7, ("a:1", "b:6444"))


def test_a_switch_is_written_in_the_file_as_in_a_flag(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("accept-forwarded: off\nvxlan-checksum-offload: on\n")
    config = load([*SERVER, "--config", str(file), "--node-name", "n1"], {})
    assert (config.accept_forwarded, config.vxlan_checksum_offload) == (False, True)
    file.write_text("accept-forwarded: 'off'\nvxlan-checksum-offload: 'on'\n")
    assert load([*SERVER, "--config", str(file), "--node-name", "n1"], {}) == config


@pytest.mark.parametrize(("arguments", "message"), [
    (["--node-name", "Big"], "node-name: must be a DNS name"),
    (["--node-ip", "x"], "node-ip: must be an IPv4 address"),
    (["--node-interface", "192.0.2.0/24"], "node-interface: must be the name of an interface"),
    (["--server", "http://a"], "server: must be the API server's address"),
    (["--root-dir", "rel"], "root-dir: must be an absolute path, not 'rel' \\(from --root-dir\\)"),
    (["--docker-host", "tcp://a:1"], "docker-host: must be a socket"),
    (["--max-pods", "0"], "max-pods: must be a whole number of at least 1"),
    (["--pod-cidr", "10.0.0.1/8"], "pod-cidr: must be a network"),
    (["--cgroup-root", "x"], "cgroup-root: must be a path"),
    (["--log-level", "loud"], "log-level: must be one of")])
def test_errors_name_the_key(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load([*SERVER, "--node-name", "n1", *arguments], {})


def test_a_master_is_needed() -> None:
    with pytest.raises(ConfigError, match="server: the master's address is needed"):
        load(["--node-name", "n1"], {})


def test_unknown_settings(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("nodename: x\n")
    with pytest.raises(ConfigError, match="nodename: there is no such setting"):
        load([*SERVER, "--config", str(file)], {})
    with pytest.raises(ConfigError, match="SAMPAN_AGENT_NODENAME: there is no such setting"):
        load(SERVER, {"SAMPAN_AGENT_NODENAME": "x"})
