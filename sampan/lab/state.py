"""Which labs there are: a folder each under /run/sampan-lab, with a state file written before anything is made."""

from __future__ import annotations

import contextlib
import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

from sampan.lab.plan import Lab, LabError, from_state, to_state
from sampan.pki.files import write_atomically

STATES = Path("/run/sampan-lab")
DATA = Path("/var/lib/sampan-lab")
FILE = "lab.json"
MARK = ".sampan-lab"
"""In a folder of hosts' disks: that it is a lab's, and of which. Nothing without it is ever removed."""


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Keep other labs on this machine from being made or taken away meanwhile."""
    STATES.mkdir(parents=True, exist_ok=True)
    with (STATES / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def folder(name: str) -> Path:
    """Where a lab's state is."""
    return STATES / name


def save(lab: Lab) -> None:
    """Write the state file."""
    lab.state.mkdir(parents=True, exist_ok=True)
    write_atomically(lab.state / FILE, (json.dumps(to_state(lab), indent=2) + "\n").encode())


def find(name: str) -> Lab | None:
    """A lab by its name, None where there is none; LabError where its state cannot be read."""
    path = folder(name) / FILE
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise LabError(f"{path} cannot be read: {error}") from error
    return from_state(content, path.parent)


def load(name: str) -> Lab:
    """A lab that must be there; LabError."""
    lab = find(name)
    if lab is None:
        names = ", ".join(other.name for other in everyone())
        raise LabError(f'there is no lab "{name}"',
                       f"there are: {names}" if names else "make one: sudo sampan lab up")
    return lab


def everyone() -> list[Lab]:
    """All labs on this machine whose state can be read."""
    found = []
    for path in sorted(STATES.glob(f"*/{FILE}")):
        with contextlib.suppress(LabError):
            found.append(find(path.parent.name))
    return [lab for lab in found if lab is not None]


def claim(lab: Lab) -> None:
    """Make the folder of the hosts' disks; LabError where there is one that holds somebody else's files."""
    if lab.data.exists() and not is_ours(lab.data, lab.name):
        raise LabError(f"--dir {lab.data}: is not empty", "name a folder that is empty or not there yet")
    lab.data.mkdir(parents=True, exist_ok=True)
    (lab.data / MARK).write_text(f"{lab.name}\n")


def is_ours(path: Path, name: str) -> bool:
    """Whether a folder is this lab's, to be removed with all that is in it."""
    if path in (folder(name), DATA / name) or not any(path.iterdir()):
        return True
    mark = path / MARK
    return mark.is_file() and mark.read_text("utf-8").strip() == name
