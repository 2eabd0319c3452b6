"""A cluster inside a virtual machine, used from outside with the real kubectl."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.engine import IMAGE
from tests.support.kubectl import Kubectl
from tests.support.space import Space
from tests.support.vm import ENFORCING, Vm, copy_disk, label, mounted

ADDRESS = "10.0.2.15"
NETWORK = f"""[Match]
Name=e*
[Network]
Address={ADDRESS}/24
Gateway=10.0.2.2
"""
MAKE_IMAGE = f"""set -e; cd $(mktemp -d); mkdir -p bin etc tmp proc sys dev root
cp /usr/bin/busybox bin/busybox; for tool in $(/usr/bin/busybox --list); do ln -sf busybox bin/$tool; done
rm bin/busybox; cp /usr/bin/busybox bin/busybox
echo root:x:0:0:root:/root:/bin/sh > etc/passwd
tar -c . | docker import -c 'CMD ["sh"]' - {IMAGE}"""


@dataclass
class VmCluster:
    """What `tests.support.space.Space` needs of a cluster, with the machine as its node."""

    vm: Vm
    directory: Path

    def prepare(self) -> None:
        """Give the machine an address that outlives a reboot, and an image."""
        self.vm.run(f"printf '{NETWORK}' > /etc/systemd/network/10-all.network")
        self.vm.run("systemctl enable --now systemd-networkd systemd-networkd-wait-online")
        self.vm.run(MAKE_IMAGE)

    def kubectl(self, version: str = "1.32") -> Kubectl:
        """Over the port of this host that leads to the machine's API server."""
        kubeconfig = self.directory / "kubeconfig"
        text = self.vm.run("cat /etc/sampan/admin.kubeconfig").out
        kubeconfig.write_text(re.sub("server: .*", f"server: https://127.0.0.1:{self.vm.api_port}", text))
        return Kubectl(version, kubeconfig, self.directory)

    def docker(self, *arguments: str, check: bool = True) -> str:
        """Run docker in the machine."""
        quoted = " ".join(f"'{argument}'" for argument in arguments)
        return self.vm.run(f"docker {quoted}", check=check).out

    def log(self, name: str) -> str:
        """A unit's journal."""
        return self.vm.run(f"journalctl -b -o cat -u sampan-{name} | tail -n 60").out

    def until(self, command: str, seconds: float = 120) -> str:
        """Run a command in the machine until it succeeds."""
        deadline = time.monotonic() + seconds
        while (result := self.vm.run(command, check=False)).code != 0:
            late = time.monotonic() > deadline
            assert not late, f"not within {seconds:g} s: {command}\n{result.out}\n{self.log('agent')}"
            time.sleep(0.5)
        return result.out


@contextmanager
def one_node(base: Path, disk: Path, *, enforcing: bool = False) -> Iterator[tuple[VmCluster, Space]]:
    """A machine on a copy of the disk, brought up by `sampan up`, and a namespace; `enforcing` is about SELinux."""
    folder = Path(tempfile.mkdtemp(prefix="vm-", dir="/var/tmp"))
    own = folder / "disk.img"
    vm = Vm(base, own, folder, ENFORCING if enforcing else "")
    space = None
    try:
        copy_disk(disk, own)
        if enforcing:
            with mounted(own) as root:
                label(root)
        vm.boot()
        cluster = VmCluster(vm, folder)
        cluster.prepare()
        vm.run("sampan up --node-name vm-1", timeout=200)
        space = Space(cluster, "story")  # type: ignore[arg-type]  # it offers what a Space asks for
        yield cluster, space
    finally:
        if space:
            space.pods.close()
        vm.stop()
        shutil.rmtree(folder)
