"""Generate sampan/pb/ from proto/."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "sampan" / "pb"
INIT = '"""Messages and stubs generated from proto/ by script/generate_pb.py; do not edit."""\n'
METHOD = re.compile(r"^  rpc (\w+)\((stream )?(\w+)\) returns \((stream )?(\w+)\);", re.MULTILINE)
SERVICE = re.compile(r"^service (\w+)", re.MULTILINE)


def stub_types(name: str, source: str) -> str:
    """Types for the generated <name>_pb2_grpc.py, which protoc writes without any."""
    service = SERVICE.findall(source)[0]
    methods = [(method, bool(many), asked, bool(several), answered)
               for method, many, asked, several, answered in METHOD.findall(source)]
    kinds = {(True, True): "StreamStream", (True, False): "StreamUnary", (False, True): "UnaryStream",
             (False, False): "UnaryUnary"}
    lines = ["from typing import Any", "", "import grpc", "import grpc.aio", "", f"from sampan.pb import {name}_pb2",
             "", f"class {service}Stub:", "    def __init__(self, channel: grpc.aio.Channel) -> None: ..."]
    lines += [f"    {method}: grpc.aio.{kinds[many, several]}MultiCallable[{name}_pb2.{asked}, {name}_pb2.{answered}]"
              for method, many, asked, several, answered in methods]
    lines += ["", f"class {service}Servicer:"]
    for method, many, asked, several, answered in methods:
        given = "request_iterator: Any" if many else f"request: {name}_pb2.{asked}"
        context = f"context: grpc.aio.ServicerContext[{name}_pb2.{asked}, {name}_pb2.{answered}]"
        result = "None" if several else f"{name}_pb2.{answered}"
        lines.append(f"    async def {method}(self, {given}, {context}) -> {result}: ...")
    lines += ["", f"def add_{service}Servicer_to_server(servicer: {service}Servicer,",
              f"{' ' * len(f'def add_{service}Servicer_to_server(')}server: grpc.aio.Server) -> None: ..."]
    return "\n".join(lines) + "\n"


def generate() -> dict[str, str]:
    """File name to text of the whole package."""
    well_known = Path(grpc_tools.__file__).parent / "_proto"
    sources = sorted((ROOT / "proto").glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["protoc", f"-Isampan/pb={ROOT / 'proto'}", f"-I{well_known}", f"--python_out={folder}",
                     f"--pyi_out={folder}", f"--grpc_python_out={folder}"]
        if protoc.main([*arguments, *(f"sampan/pb/{path.name}" for path in sources)]) != 0:
            raise SystemExit("protoc failed")
        made = Path(folder, "sampan", "pb")
        result = {path.name: path.read_text("utf-8") for path in made.iterdir() if path.suffix in (".py", ".pyi")}
    for path in sources:
        result[f"{path.stem}_pb2_grpc.pyi"] = stub_types(path.stem, path.read_text("utf-8"))
    result["__init__.py"] = INIT
    return result


def main() -> int:
    """Write the package, or with --check say whether what is committed is what would be written."""
    parser = argparse.ArgumentParser(description="Generate sampan/pb/ from proto/.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if anything would change")
    arguments = parser.parse_args()
    wanted = generate()
    present = {path.name: path.read_text("utf-8") for path in TARGET.glob("*.py*") if path.is_file()}
    if arguments.check:
        names = wanted.keys() | present.keys()
        stale = sorted(name for name in names if wanted.get(name) != present.get(name))
        print(f"stale: {', '.join(stale)}" if stale else "sampan/pb is up to date")
        return 1 if stale else 0
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in present.keys() - wanted.keys():
        (TARGET / name).unlink()
    for name, text in wanted.items():
        (TARGET / name).write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
