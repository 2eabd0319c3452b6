"""The functions of script/lib.sh and script/host.sh that no bare host with Debian's or CentOS' tools comes by."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from sampan.cli.background import Supervised

ROOT = Path(__file__).parents[3]
LACKING = """
command() {
    case $2 in apt-get | dnf | iptables-restore | dockerd | kubectl) return 1 ;; esac
    builtin command "$@"
}
"""
"""A host with neither package manager, and without what the scripts install."""


def shell(code: str, *files: str) -> subprocess.CompletedProcess[str]:
    sources = "\n".join(f'. "$ROOT/script/{file}"' for file in files)
    return subprocess.run(["bash", "-c", f'set -euo pipefail\nROOT="{ROOT}"\n{sources}\n{code}'],
                          capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("step", ["install_tools", "install_docker"])
def test_a_host_without_a_package_manager_that_we_know_is_told(step: str) -> None:
    done = shell(f'{LACKING}step "This" {step}', "lib.sh", "host.sh")
    assert done.returncode == 1
    assert "This … failed" in done.stdout
    assert "neither apt-get nor dnf is here" in done.stderr


def test_kubectl_is_not_said_to_be_installed_where_nothing_could_install_it() -> None:
    functions = "eval \"$(sed -n '/^KUBECTL_MINOR/,/^build_example/p' \"$ROOT/script/up\" | sed '$d')\"\n"
    done = shell(f'{LACKING}kubectl() {{ return 126; }}\n{functions}step kubectl install_kubectl', "lib.sh", "host.sh")
    assert done.returncode == 0, "a cluster without kubectl is of use too"
    assert "kubectl … none from 1.27 on" in done.stdout


@pytest.mark.parametrize(("pip", "made"), [("exit 0", ""), ("exit 1", "-m venv --clear")])
def test_an_environment_that_is_half_made_is_made_anew(tmp_path: Path, pip: str, made: str) -> None:
    own, base = tmp_path / "venv/bin/python", tmp_path / "python"
    own.parent.mkdir(parents=True)
    own.write_text(f"#!/bin/sh\n{pip}\n")
    base.write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/made\n')
    for program in (own, base):
        program.chmod(0o755)
    done = shell(f'make_environment "{tmp_path}/venv" "{base}"', "lib.sh")
    assert done.returncode == 0, done.stderr
    record = tmp_path / "made"
    assert (record.read_text().strip() if record.exists() else "") == (f"{made} {tmp_path}/venv" if made else "")


def child(unit: Supervised) -> int:
    """What the supervisor runs, once it has started that."""
    deadline = time.monotonic() + 60
    while not (found := unit.child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_services_that_run_take_the_new_version_without_systemd_too(tmp_path: Path) -> None:
    unit = Supervised(tmp_path / "agent.pid", tmp_path / "agent.log")
    subprocess.run(unit.launch(["sleep", "600"]), check=True, timeout=60)
    try:
        before = child(unit)
        done = shell(f'has_systemd() {{ return 1; }}\nSAMPAN_RUN_DIR="{tmp_path}"\nrestart_services', "lib.sh",
                     "host.sh")
        assert done.returncode == 0, done.stderr
        assert not Path(f"/proc/{before}").exists(), "the old process has ended when the step does"
        assert child(unit) != before
    finally:
        unit.kill()
