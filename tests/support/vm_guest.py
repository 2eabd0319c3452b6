"""Runs inside the virtual machine: carries out the commands that arrive over a virtio port, one JSON line each.

Standard library only; started by systemd once the machine is up.
"""

import json
import subprocess
from pathlib import Path

PORT = Path("/dev/virtio-ports/sampan.test")


def main() -> None:
    """Say hello, then serve for ever."""
    with PORT.open("rb+", buffering=0) as port:
        port.write(b'{"hello": true}\n')
        pending = b""
        while True:
            data = port.read(65536)
            pending += data or b""
            while b"\n" in pending:
                line, pending = pending.split(b"\n", 1)
                port.write(json.dumps(carry_out(json.loads(line))).encode() + b"\n")


def carry_out(request: dict) -> dict:
    """Run one shell command."""
    try:
        done = subprocess.run(["/bin/bash", "-c", request["command"]], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=request["timeout"], check=False)
    except subprocess.TimeoutExpired as late:
        return {"id": request["id"], "code": 124, "out": (late.stdout or b"").decode("utf-8", "replace")}
    return {"id": request["id"], "code": done.returncode, "out": done.stdout.decode("utf-8", "replace")}


if __name__ == "__main__":
    main()
