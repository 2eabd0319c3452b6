"""Build the example's image from what this host has, where it cannot be pulled: no registry, no compiler.

Usage: python3 build.py [--docker DOCKER] [TAG]

The image holds the host's Python (interpreter, its shared libraries, the modules that the example imports), a shell
and a few tools, so that `kubectl exec` has something to run. It is handed to `docker import` as a tar stream.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOOLS = ("bash", "cat", "date", "env", "false", "head", "hostname", "id", "ls", "mkdir", "ps", "rm", "sleep", "stty",
         "tail", "tar", "touch", "true", "uname", "wc")
SKIPPED = re.compile(r"/(test|tests|idlelib|tkinter|turtledemo|ensurepip|lib2to3|site-packages|dist-packages|"
                     r"__pycache__|config-[^/]*|pydoc_data|distutils)(/|$)")


class Image:
    """Collects files under their host paths, each once, with what they link to."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._seen: set[str] = set()

    def add(self, path: Path, name: str = "") -> None:
        """A file, under its own path or `name`; links are followed."""
        name = (name or str(path)).lstrip("/")
        if name in self._seen:
            return
        self._seen.add(name)
        info = self._archive.gettarinfo(str(path.resolve()), name)
        info.uid = info.gid = 0
        info.uname = info.gname = "root"
        with path.open("rb") as file:
            self._archive.addfile(info, file)

    def program(self, path: Path, name: str = "") -> None:
        """An executable or extension module, and the shared libraries that it loads."""
        self.add(path, name)
        listing = subprocess.run(["ldd", str(path)], capture_output=True, text=True, check=False, timeout=30).stdout
        for library in re.findall(r"(?:=>\s*|^\s*)(/\S+)", listing, re.MULTILINE):
            self.add(Path(library))

    def text(self, name: str, content: str) -> None:
        """A small file of our own."""
        info = tarfile.TarInfo(name)
        info.size = len(content.encode())
        info.mode = 0o644
        self._archive.addfile(info, io.BytesIO(content.encode()))

    def directory(self, name: str, mode: int) -> None:
        """An empty directory."""
        info = tarfile.TarInfo(name)
        info.type, info.mode = tarfile.DIRTYPE, mode
        self._archive.addfile(info)


def fill(image: Image) -> None:
    """Put everything in: Python, a shell, tools, the server."""
    interpreter = Path(sys.executable).resolve()
    image.program(interpreter, "/usr/bin/python3")
    library = Path(sysconfig.get_path("stdlib", vars={"base": sys.base_prefix, "installed_base": sys.base_prefix}))
    # The interpreter finds its library from where it is, so it keeps its place below the same prefix.
    target = f"/usr/{sys.platlibdir}/{library.name}"
    for path in sorted(library.rglob("*")):
        inside = str(path.relative_to(library))
        if path.is_dir() or SKIPPED.search("/" + inside):
            continue
        if path.suffix == ".so":
            image.program(path, f"{target}/{inside}")
        elif path.suffix == ".py":
            image.add(path, f"{target}/{inside}")
    for tool in TOOLS:
        found = shutil.which(tool)
        if found:
            image.program(Path(found), f"/bin/{tool}")
    image.program(Path(shutil.which("bash") or "/bin/bash"), "/bin/sh")
    image.add(HERE / "hello.py", "/hello.py")
    image.text("etc/passwd", "root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")
    image.text("etc/group", "root:x:0:\nnogroup:x:65534:\n")
    image.directory("tmp", 0o1777)


def main() -> int:
    """Build and import the image."""
    parser = argparse.ArgumentParser(description="Build the hello example's image from this host's own files.")
    parser.add_argument("tag", nargs="?", default="sampan.local/hello:1")
    parser.add_argument("--docker", default="docker", help="the docker command (default: docker)")
    arguments = parser.parse_args()
    command = [arguments.docker, "import", "--change", 'CMD ["/usr/bin/python3","-u","/hello.py"]',
               "--change", "ENV PATH=/bin:/usr/bin", "-", arguments.tag]
    with subprocess.Popen(command, stdin=subprocess.PIPE, env=os.environ) as docker:
        assert docker.stdin is not None
        with tarfile.open(fileobj=docker.stdin, mode="w|") as archive:
            fill(Image(archive))
        docker.stdin.close()
        return docker.wait()


if __name__ == "__main__":
    sys.exit(main())
