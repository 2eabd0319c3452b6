"""What is removed with a node's state, where volumes are still mounted in it: nothing of the user's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")

RESET = """
import sys
from pathlib import Path
from sampan.cli.paths import Paths
from sampan.cli.reset import remove_files
root = Path(sys.argv[1])
print(remove_files(Paths(root / "etc", root / "lib", root / "run", root / "log")))
"""


def in_own_mounts(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run a shell script whose mounts the machine does not see."""
    return subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-ec", script, "sh",
                           *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A subPath of a hostPath volume, where the agent mounts it; and a user's file in that."""
    (tmp_path / "users").mkdir()
    (tmp_path / "users/file").write_text("precious")
    (tmp_path / "root/lib/agent/pods/uid/volume-subpaths/data/app/0").mkdir(parents=True)
    return tmp_path


MOUNT = 'mount --bind "$1/users" "$1/root/lib/agent/{}"\n'
RUN = '"$2" -c "$3" "$1/root"\n'


def test_what_pods_had_mounted_is_unmounted_and_not_removed(place: Path) -> None:
    script = MOUNT.format("pods/uid/volume-subpaths/data/app/0") + RUN
    done = in_own_mounts(script, place, sys.executable, RESET)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
    assert (place / "users/file").read_text() == "precious"
    assert not (place / "root/lib/agent").exists()


def test_another_mount_is_in_the_way(place: Path) -> None:
    (place / "root/lib/agent/mine").mkdir()
    done = in_own_mounts(MOUNT.format("mine") + RUN, place, sys.executable, RESET)
    assert done.returncode != 0
    assert "root/lib/agent/mine is still mounted" in done.stderr
    assert (place / "users/file").read_text() == "precious"


def test_a_file_system_that_is_mounted_on_the_folder_is_emptied_and_stays(place: Path) -> None:
    script = ('mount -t tmpfs tmpfs "$1/root/lib/agent"\nmkdir -p "$1/root/lib/agent/pods/uid"\n' + RUN +
              'mountpoint -q "$1/root/lib/agent"\ntest -z "$(ls -A "$1/root/lib/agent")"\n')
    done = in_own_mounts(script, place, sys.executable, RESET)
    assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr


CLEANUP = MOUNT.format("pods/uid/volume-subpaths/data/app/0") + """
cd "$1"
iptables -N SAMPAN-FORWARD && iptables -I FORWARD -m comment --comment sampan -j SAMPAN-FORWARD
iptables -t nat -N KUBE-SVC-XPGD46QRK7WJZT7O
ip link add sampan0 type bridge
"$2" cleanup --node-name n1 --server https://192.0.2.1:6443 --docker-host "unix://$1/none.sock" \
    --root-dir "$1/root/lib/agent" --run-dir "$1/root/run" $3 || echo "exit $?"
iptables-save | grep -cE 'SAMPAN|KUBE' || true
ip link show sampan0 >/dev/null 2>&1 && echo "a bridge" || echo "no bridge"
"""


@pytest.mark.parametrize(("force", "left", "pods"), [("", ["exit 1", "3", "a bridge"], True),
                                                     ("--force", ["exit 1", "0", "no bridge"], False)])
def test_without_docker_all_else_is_taken_away_by_force_only(place: Path, force: str, left: list[str], *,
                                                             pods: bool) -> None:
    agent = shutil.which("sampan-agent", path=Path(sys.executable).parent)
    done = subprocess.run(["unshare", "--net", "--mount", "--propagation", "private", "sh", "-ec", CLEANUP, "sh",
                           str(place), str(agent), force], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.splitlines() == left, done.stderr
    assert "none.sock" in done.stderr
    assert (place / "users/file").read_text() == "precious"
    assert (place / "root/lib/agent/pods/uid").exists() == pods
