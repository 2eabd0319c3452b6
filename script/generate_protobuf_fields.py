"""Write master/apiserver/protobuf/fields.txt: the field numbers of the API's protobuf form.

    python script/generate_protobuf_fields.py PATH/TO/kubectl

The numbers are in no published schema, but every kubectl (x86-64) up to 1.33 carries them: the descriptors of its
messages, and in Go's type information the tags and kinds of its fields. The latter tell which fields are pointers,
that is, where a zero that was sent differs from nothing, and which are inlined in JSON.
"""

from __future__ import annotations

import argparse
import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

TARGET = Path(__file__).parent.parent / "master/apiserver/protobuf/fields.txt"
GROUPS = ("admissionregistration.v1", "apps.v1", "authentication.v1", "authorization.v1", "autoscaling.v1",
          "autoscaling.v2", "batch.v1", "certificates.v1", "coordination.v1", "core.v1", "discovery.v1", "events.v1",
          "flowcontrol.v1", "networking.v1", "node.v1", "policy.v1", "rbac.v1", "scheduling.v1", "storage.v1")
META = "k8s.io.apimachinery.pkg.apis.meta.v1"
SPECIAL = {
    "k8s.io.apimachinery.pkg.api.resource.Quantity": "quantity", f"{META}.Time": "time",
    f"{META}.MicroTime": "microtime", "k8s.io.apimachinery.pkg.util.intstr.IntOrString": "intstr",
    "k8s.io.apimachinery.pkg.runtime.RawExtension": "raw", f"{META}.FieldsV1": "raw", f"{META}.Duration": "duration",
}
SCALARS = {FieldDescriptorProto.TYPE_STRING: "s", FieldDescriptorProto.TYPE_BYTES: "b",
           FieldDescriptorProto.TYPE_INT32: "i", FieldDescriptorProto.TYPE_INT64: "i",
           FieldDescriptorProto.TYPE_BOOL: "t", FieldDescriptorProto.TYPE_DOUBLE: "d"}
TAG = re.compile(rb'(?:(?:json|patch[A-Z]\w+|list[A-Z]\w+):"[^"\x00]{0,80}" )*'
                 rb'protobuf:"\w+,\d+,(?:\w+,)?name=\w+[^"]*"')
POINTER = 22  # reflect.Pointer
LISTS = ("ExtraValue", "Verbs")
"""Messages that are plain lists in Go and in JSON."""
HEADER = """\
# Written by script/generate_protobuf_fields.py; do not edit. A message a line, then its fields:
#   JSON name (. is inlined, none makes the message a list) = number, then * repeated, % map, ! a zero counts,
#   then s string, b bytes, i integer, t boolean, d double, or : and a message's name.
"""


@dataclass(frozen=True)
class GoField:
    """A field of a Go struct: its JSON name ("" for an inlined one) and whether it is a pointer."""

    json: str
    pointer: bool


class Binary:
    """An ELF executable for x86-64, seen by virtual address."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        (offset,) = struct.unpack_from("<Q", data, 32)
        (count,) = struct.unpack_from("<H", data, 56)
        headers = [struct.unpack_from("<IIQQQQQQ", data, offset + 56 * index) for index in range(count)]
        self.segments = [(header[2], header[3], header[5]) for header in headers if header[0] == 1]

    def address(self, offset: int) -> int:
        """Where a byte of the file lies in memory."""
        return next((address + offset - start for start, address, size in self.segments
                     if start <= offset < start + size), 0)

    def offset(self, address: int) -> int:
        """Where a byte in memory lies in the file."""
        return next((start + address - base for start, base, size in self.segments
                     if base <= address < base + size), 0)


def descriptors(data: bytes) -> dict[str, FileDescriptorProto]:
    """The compressed file descriptors that generated Go code registers, by package."""
    found = {}
    for match in re.finditer(rb"\x1f\x8b\x08\x00", data):
        try:
            raw = zlib.decompressobj(31).decompress(data[match.start():match.start() + 2_000_000])
            file = FileDescriptorProto.FromString(raw)
        except Exception:  # noqa: BLE001 - the four bytes stand elsewhere too
            continue
        if file.package:
            found[file.package] = file
    return found


def tagged_names(binary: Binary) -> dict[int, str]:
    """Go's names of struct fields with a protobuf tag: their addresses and tags."""
    data, names = binary.data, {}
    for match in TAG.finditer(data):
        start = match.start()
        for width in (1, 2):
            head = data[start - width:start]
            length = head[0] if width == 1 else (head[0] & 0x7F) | (head[1] << 7)
            if (head[0] >= 128) == (width == 2) and match.end() - start <= length < match.end() - start + 100:
                break
        else:
            continue
        for size in range(1, 80):
            at = start - width - size - 1
            if data[at] == size and re.fullmatch(rb"\w+", data[at + 1:at + 1 + size]):
                names[binary.address(at - 1)] = data[start:start + length].decode("utf-8", "replace")
                break
    return names


def structs(binary: Binary) -> Iterator[dict[tuple[int, str], GoField]]:
    """Every struct with protobuf tags: its fields by number and protobuf name."""
    names = tagged_names(binary)
    records = {}
    for offset, address, size in binary.segments:
        words = struct.unpack_from(f"<{size // 8}Q", binary.data, offset)
        for index, word in enumerate(words[:-1]):
            if word in names:
                records[address + 8 * index] = (names[word], words[index + 1])
    while records:
        at = min(records)
        fields = {}
        while at in records:
            tag, kind = records.pop(at)
            match = re.search(r'protobuf:"\w+,(\d+),(?:\w+,)?name=(\w+)', tag)
            name = re.search(r'json:"([^",]*)', tag)
            assert match is not None
            pointer = binary.data[binary.offset(kind) + 23] & 31 == POINTER
            fields[int(match[1]), match[2]] = GoField(name[1] if name else match[2], pointer)
            at += 24
        yield fields


def main(path: Path) -> None:
    """Join both and write the table."""
    binary = Binary(path.read_bytes())
    files = descriptors(binary.data)
    known = list(structs(binary))
    wanted = [f"k8s.io.api.{group}" for group in GROUPS] + [META]
    lines = []
    for package in wanted:
        for message in files[package].message_type:
            full = f"{package}.{message.name}"
            if full not in SPECIAL:
                lines.append(line(full, message, known))
    TARGET.write_text(HEADER + "\n".join(sorted(lines)) + "\n", encoding="utf-8")


def line(full: str, message: DescriptorProto, known: list[dict[tuple[int, str], GoField]]) -> str:
    """One message: ``core.v1.Container name=1s ports=6*:core.v1.ContainerPort …``."""
    fields = {(field.number, field.name): field for field in message.field}
    fields_of = merged([item for item in known if set(item) == set(fields)])
    if message.name in LISTS:
        fields_of = {}
    elif message.name == "EphemeralContainer":  # its tags are formed in another way
        names = {"ephemeralContainerCommon": ""}
        fields_of = {key: GoField(names.get(key[1], key[1]), pointer=False) for key in fields}
    elif fields and not fields_of:
        raise SystemExit(f"{full}: no Go struct has its fields")
    maps = {f".{full}.{entry.name}": entry for entry in message.nested_type if entry.options.map_entry}
    parts = [short(full)]
    for key, field in fields.items():
        go = fields_of.get(key, GoField("", pointer=False))
        repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
        entry = maps.get(field.type_name)
        flags = "%" if entry else "*" if repeated else "!" if go.pointer else ""
        value = next(item for item in entry.field if item.number == 2) if entry else field
        parts.append(f"{'' if message.name in LISTS else go.json or '.'}={field.number}{flags}{kind(value)}")
    return " ".join(parts)


def merged(candidates: list[dict[tuple[int, str], GoField]]) -> dict[tuple[int, str], GoField]:
    """Several structs may have the same fields; where one says pointer, a zero is kept: the schema takes it."""
    result: dict[tuple[int, str], GoField] = {}
    for candidate in candidates:
        for key, field in candidate.items():
            before = result.get(key, field)
            result[key] = GoField(before.json, before.pointer or field.pointer)
    return result


def kind(field: FieldDescriptorProto) -> str:
    """A letter for a scalar, a colon and the name of a message else."""
    if field.type != FieldDescriptorProto.TYPE_MESSAGE:
        return SCALARS[field.type]
    full = field.type_name.lstrip(".")
    return ":" + SPECIAL.get(full, short(full))


def short(full: str) -> str:
    """``core.v1.Pod``, ``meta.v1.ObjectMeta``."""
    return full.replace(META, "meta.v1").removeprefix("k8s.io.api.").removeprefix("k8s.io.")


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Write the field numbers of the API's protobuf form.")
    arguments.add_argument("kubectl", type=Path, help="the executable itself, x86-64; the table is of 1.32")
    main(arguments.parse_args().kubectl)
