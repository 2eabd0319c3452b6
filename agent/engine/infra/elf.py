"""Writes the smallest Linux executable: an ELF header, one segment, code. Source: elf(5)."""

from __future__ import annotations

import struct

from agent.engine.infra.program import Machine, assemble

_MACHINES: dict[Machine, int] = {"x86_64": 62, "aarch64": 183}  # EM_X86_64, EM_AARCH64
_LOAD_ADDRESS = 0x400000
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")


def executable(machine: Machine) -> bytes:
    """The infra program as a static executable: about 200 bytes."""
    code = assemble(machine)
    start = _HEADER.size + _SEGMENT.size
    size = start + len(code)
    header = _HEADER.pack(
        b"\x7fELF\x02\x01\x01".ljust(16, b"\0"),  # 64 bits, little-endian, version 1
        2,  # ET_EXEC
        _MACHINES[machine],
        1,
        _LOAD_ADDRESS + start,  # where execution begins
        _HEADER.size,  # the segment's entry follows
        0, 0, _HEADER.size, _SEGMENT.size,
        1,  # one segment
        0, 0, 0)  # no sections
    segment = _SEGMENT.pack(
        1,  # PT_LOAD
        5,  # readable and executable
        0, _LOAD_ADDRESS, _LOAD_ADDRESS, size, size,
        0x10000)  # alignment: the largest page that aarch64 uses
    return header + segment + code
