"""The power goes while the store writes: what was acknowledged is there afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.vm import OUTPUT, Vm, mounted

WRITER = Path(__file__).parent / "store_writer.py"
DATABASE = "var/lib/power/store.db"
ACKNOWLEDGED = 400
SECONDS = 120.0

pytestmark = pytest.mark.vm


def cut_while_writing(vm: Vm, synchronous: str) -> subprocess.CompletedProcess[str]:
    """Boot, write until enough is acknowledged, cut the power, and compare the disk with what was printed."""
    vm.boot()
    vm.run(f"mkdir -p /{Path(DATABASE).parent}; sync")
    vm.send(f"exec /opt/sampan/venv/bin/python /opt/sampan/store_writer.py write /{DATABASE} "
            f"--synchronous {synchronous} > {OUTPUT} 2>&1")
    deadline = time.monotonic() + SECONDS
    while vm.output.read_bytes().count(b"\n") < ACKNOWLEDGED:
        assert time.monotonic() < deadline, vm.output.read_text()[-2000:]
        time.sleep(0.05)
    vm.power_cut()
    with mounted(vm.disk) as root:
        return subprocess.run([sys.executable, str(WRITER), "check", str(root / DATABASE)], capture_output=True,
                              input=vm.output.read_text(), text=True, timeout=60, check=False)


def test_no_acknowledged_write_is_lost(machine: Vm) -> None:
    result = cut_while_writing(machine, "FULL")
    assert result.returncode == 0, result.stdout + result.stderr


def test_without_synchronous_writes_the_same_check_fails(machine: Vm) -> None:
    result = cut_while_writing(machine, "OFF")
    assert result.returncode == 1, "the test cannot tell a lost write: " + result.stdout + result.stderr
