"""The three machines, as Vagrant itself reads them, and what happens in them once they are up."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
VAGRANT = ROOT / "vagrant"
HERE = Path(__file__).parent

pytestmark = pytest.mark.skipif(shutil.which("vagrant") is None, reason="vagrant is not installed")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A copy of the folder: Vagrant and the triggers write beside the Vagrantfile."""
    shutil.copytree(VAGRANT, tmp_path / "vagrant", ignore=shutil.ignore_patterns(".vagrant", "kubeconfig"))
    tools = tmp_path / "bin"
    tools.mkdir()
    manage = tools / "VBoxManage"  # Vagrant asks it for its version, and for nothing else to validate
    manage.write_text("#!/bin/sh\ncase \"$*\" in *--version*) echo 7.0.14r161095 ;; esac\n")
    manage.chmod(0o755)
    return tmp_path


def validate(place: Path, provider: str, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place), "LC_ALL": "C.UTF-8",
                   "VAGRANT_HOME": str(place / "home"), "VAGRANT_DEFAULT_PROVIDER": provider,
                   "VAGRANT_CHECKPOINT_DISABLE": "1", **settings}
    return subprocess.run(["vagrant", "validate"], cwd=place / "vagrant", env=environment, capture_output=True,
                          text=True, timeout=120, check=False)


@pytest.mark.parametrize("provider", ["virtualbox", "libvirt"])
def test_vagrant_accepts_it(place: Path, provider: str) -> None:
    if provider == "libvirt" and not any(Path("/usr/share/rubygems-integration").glob("*/gems/vagrant-libvirt-*")):
        pytest.skip("vagrant-libvirt is not installed")
    done = validate(place, provider)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Vagrantfile validated successfully." in done.stdout


def test_a_mistake_would_be_seen(place: Path) -> None:
    file = place / "vagrant" / "Vagrantfile"
    file.write_text(file.read_text().replace("box.memory = MEMORY", "box.memry = MEMORY", 1))
    done = validate(place, "virtualbox")
    assert done.returncode != 0
    assert "memry" in done.stdout + done.stderr


def played(place: Path, *joined: str, **settings: str) -> dict[str, dict[str, object]]:
    done = subprocess.run(["ruby", str(HERE / "machines.rb"), str(place / "vagrant" / "Vagrantfile"), *joined],
                          env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", **settings}, capture_output=True,
                          text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    result: dict[str, dict[str, object]] = json.loads(done.stdout)
    return result


TOKEN = "/usr/local/bin/sampan token create --ttl 1h --print-join-command"
JOIN = "/usr/local/bin/sampan join https://192.168.56.10:6443 --token a.b --ca-hash sha256:0 --node-ip 192.168.56."


def test_the_nodes_join_by_the_master_s_line_and_the_kubeconfig_comes_to_the_host(place: Path) -> None:
    found = played(place)
    assert found["said"] == {"master": ["/usr/local/bin/sampan kubeconfig", TOKEN, TOKEN],
                             "node1": [JOIN + "11"], "node2": [JOIN + "12"]}
    lines = ["a warning", "Node … is Ready", "and so on"]
    assert found["shown"] == {"master": [], "node1": lines, "node2": lines}
    kubeconfig = place / "vagrant" / "kubeconfig"
    assert kubeconfig.read_text() == "apiVersion: v1\n"
    assert kubeconfig.stat().st_mode & 0o777 == 0o600
    assert found["provision"]["node2"] == {"path": "provision.sh", "args": ["node", "192.168.56.12"]}
    assert found["networks"]["master"] == {"ip": "192.168.56.10", "netmask": "255.255.255.0"}


def test_what_has_joined_is_left_alone_when_it_comes_up_again(place: Path) -> None:
    assert played(place, "node1")["said"] == {"master": ["/usr/local/bin/sampan kubeconfig", TOKEN],
                                              "node1": [], "node2": [JOIN + "12"]}


def test_count_and_network_can_be_chosen(place: Path) -> None:
    found = played(place, SAMPAN_NODES="4", SAMPAN_NETWORK="192.168.60")
    assert list(found["said"]) == ["master", "node1", "node2", "node3", "node4"]
    assert found["networks"]["node4"] == {"ip": "192.168.60.14", "netmask": "255.255.255.0"}
