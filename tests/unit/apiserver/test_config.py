from pathlib import Path

import pytest

from master import config
from master.config import ConfigError, load


def test_defaults() -> None:
    settings = load([], {})
    assert settings.data_dir == Path("/var/lib/sampan/master")
    assert settings.pki_dir == Path("/var/lib/sampan/master/pki")
    assert (settings.secure_port, settings.node_port_grpc) == (6443, 6444)
    assert settings.components == config.COMPONENTS
    assert settings.service_ip == "10.96.0.1"
    assert (settings.service_node_port_range, settings.node_cidr_mask_size) == ((30000, 32767), 24)
    assert {"localhost", "127.0.0.1", "10.96.0.1", "kubernetes.default.svc"} <= set(settings.server_names())


def test_flags_count_before_environment_before_file(tmp_path: Path) -> None:
    file = tmp_path / "master.yaml"
    file.write_text("secure-port: 1\nnode-port-grpc: 2\nlog-level: debug\ncomponents: [apiserver, scheduler]\n")
    environ = {"SAMPAN_MASTER_SECURE_PORT": "3", "SAMPAN_MASTER_NODE_PORT_GRPC": "4"}
    settings = load(["--config", str(file), "--secure-port", "5"], environ)
    assert (settings.secure_port, settings.node_port_grpc, settings.log_level) == (5, 4, "debug")
    assert settings.components == ("apiserver", "scheduler")


@pytest.mark.parametrize(("arguments", "environ", "words"), [
    (["--secure-port", "x"], {}, "secure-port: must be a port number between 0 and 65535, not 'x' (from --s"),
    ([], {"SAMPAN_MASTER_POD_CIDR": "10.0.0.1/8"}, "pod-cidr: must be a network"),
    ([], {"SAMPAN_MASTER_TYPO": "1"}, "SAMPAN_MASTER_TYPO: there is no such setting"),
    (["--service-cidr", "10.0.0.0/31"], {}, "service-cidr: must have between"),
    (["--pod-cidr", "10.96.0.0/16"], {}, "service-cidr: 10.96.0.0/12 overlaps pod-cidr 10.96.0.0/16"),
    (["--service-node-port-range", "5-4"], {}, "service-node-port-range: must be two port numbers"),
    (["--node-cidr-mask-size", "15"], {}, "node-cidr-mask-size: 15 must be between 16 and 32"),
    (["--secure-port", "7", "--node-port-grpc", "7"], {}, "node-port-grpc: 7 is secure-port too"),
    (["--components", "apiserver,kubelet"], {}, "components: must be some of"),
    (["--components", "scheduler"], {}, "kubeconfig: needed when apiserver is not among the components"),
    (["--data-dir", "relative"], {}, "data-dir: must be an absolute path"),
    (["--log-level", "loud"], {}, "log-level: must be one of"),
    (["--advertise-address", "host"], {}, "advertise-address: must be an IP address"),
    (["--token-auth-file", "/does/not/exist"], {}, "token-auth-file: there is no such file"),
    (["--config", "/does/not/exist"], {}, "config: /does/not/exist cannot be read"),
])
def test_errors_name_the_key(arguments: list[str], environ: dict[str, str], words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        load(arguments, environ)
    assert words in str(refused.value)


@pytest.mark.parametrize(("text", "words"), [
    ("nonsense: 1\n", "nonsense: there is no such setting"), ("- a\n", "must hold keys and values"),
    ("a: [\n", "is no YAML"),
])
def test_files_are_checked(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "master.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load(["--config", str(file)], {})
    assert words in str(refused.value)


def test_help_names_every_setting() -> None:
    text = config.SETTINGS.parser().format_help()
    for key in ("--data-dir", "--pki-dir", "--secure-port", "--node-port-grpc", "--service-cidr", "--components"):
        assert key in text
