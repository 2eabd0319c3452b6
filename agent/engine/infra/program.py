"""The infra container's program, as a commented table of instructions for x86-64 and aarch64.

In a higher language it is:

    block all signals
    forever:
        signal = wait for SIGINT, SIGTERM or SIGCHLD
        if signal is SIGCHLD: reap all children that have ended
        elif it is no error: exit with 0

It blocks signals instead of handling them: as process 1 of a PID namespace it would not even be sent those without a
handler, unless they are blocked. Reaping matters where the pod's containers share the PID namespace: orphans become
children of process 1. Linux system calls: registers and numbers from syscall(2) and the kernel's unistd tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Machine = Literal["x86_64", "aarch64"]


@dataclass(frozen=True, slots=True)
class Instruction:
    """Machine code in hexadecimal. With a `target` its displacement, counted from `base`, is filled in."""

    code: str
    meaning: str
    target: str = ""


@dataclass(frozen=True, slots=True)
class Label:
    """A place that instructions jump to."""

    name: str


I, L = Instruction, Label  # noqa: E741 - short, so that the tables read as tables

X86_64: Sequence[Instruction | Label] = (
    I("6a ff",          "push -1            the set of all signals, on the stack"),
    I("6a 02",          "push 2             SIG_SETMASK"),
    I("5f",             "pop rdi"),
    I("48 89 e6",       "mov rsi, rsp       the set"),
    I("31 d2",          "xor edx, edx       the old set is not wanted"),
    I("6a 08",          "push 8             bytes in a set"),
    I("41 5a",          "pop r10"),
    I("6a 0e",          "push 14            rt_sigprocmask"),
    I("58",             "pop rax"),
    I("0f 05",          "syscall"),
    I("68 02 40 01 00", "push 0x14002       the set of SIGINT (bit 1), SIGTERM (bit 14) and SIGCHLD (bit 16)"),
    L("wait"),
    I("48 89 e7",       "mov rdi, rsp       the set"),
    I("31 f6",          "xor esi, esi       no details of the signal"),
    I("31 d2",          "xor edx, edx       no time limit"),
    I("6a 08",          "push 8             bytes in a set"),
    I("41 5a",          "pop r10"),
    I("b8 80 00 00 00", "mov eax, 128       rt_sigtimedwait: answers with the signal's number"),
    I("0f 05",          "syscall"),
    I("3c 11",          "cmp al, 17         SIGCHLD"),
    I("74",             "je reap", "reap"),
    I("85 c0",          "test eax, eax      below 0: interrupted"),
    I("78",             "js wait", "wait"),
    I("31 ff",          "xor edi, edi       the exit code"),
    I("b8 e7 00 00 00", "mov eax, 231       exit_group"),
    I("0f 05",          "syscall"),
    L("reap"),
    I("6a ff",          "push -1            any child"),
    I("5f",             "pop rdi"),
    I("31 f6",          "xor esi, esi       its status is not wanted"),
    I("6a 01",          "push 1             WNOHANG"),
    I("5a",             "pop rdx"),
    I("45 31 d2",       "xor r10d, r10d     nor what it used"),
    I("6a 3d",          "push 61            wait4: answers with the child's id"),
    I("58",             "pop rax"),
    I("0f 05",          "syscall"),
    I("85 c0",          "test eax, eax"),
    I("7f",             "jg reap            one was reaped: there may be more", "reap"),
    I("eb",             "jmp wait", "wait"),
)

AARCH64: Sequence[Instruction | Label] = (
    I("92800000", "mov x0, #-1         the set of all signals"),
    I("f81f0fe0", "str x0, [sp, #-16]! on the stack"),
    I("d2800040", "mov x0, #2          SIG_SETMASK"),
    I("910003e1", "mov x1, sp          the set"),
    I("d2800002", "mov x2, #0          the old set is not wanted"),
    I("d2800103", "mov x3, #8          bytes in a set"),
    I("d28010e8", "mov x8, #135        rt_sigprocmask"),
    I("d4000001", "svc #0"),
    I("d2880040", "mov x0, #0x4002     the set of SIGINT (bit 1), SIGTERM (bit 14)"),
    I("f2a00020", "movk x0, #1, lsl 16 and SIGCHLD (bit 16)"),
    I("f90003e0", "str x0, [sp]"),
    L("wait"),
    I("910003e0", "mov x0, sp          the set"),
    I("d2800001", "mov x1, #0          no details of the signal"),
    I("d2800002", "mov x2, #0          no time limit"),
    I("d2800103", "mov x3, #8          bytes in a set"),
    I("d2801128", "mov x8, #137        rt_sigtimedwait: answers with the signal's number"),
    I("d4000001", "svc #0"),
    I("7100441f", "cmp w0, #17         SIGCHLD"),
    I("54000000", "b.eq reap", "reap"),
    I("37f80000", "tbnz w0, #31, wait  below 0: interrupted", "wait"),
    I("d2800000", "mov x0, #0          the exit code"),
    I("d2800bc8", "mov x8, #94         exit_group"),
    I("d4000001", "svc #0"),
    L("reap"),
    I("92800000", "mov x0, #-1         any child"),
    I("d2800001", "mov x1, #0          its status is not wanted"),
    I("d2800022", "mov x2, #1          WNOHANG"),
    I("d2800003", "mov x3, #0          nor what it used"),
    I("d2802088", "mov x8, #260        wait4: answers with the child's id"),
    I("d4000001", "svc #0"),
    I("7100001f", "cmp w0, #0"),
    I("5400000c", "b.gt reap           one was reaped: there may be more", "reap"),
    I("14000000", "b wait", "wait"),
)


def assemble(machine: Machine) -> bytes:
    """The machine code, with its jumps filled in."""
    if machine == "x86_64":
        return _assemble_x86_64(X86_64)
    return _assemble_aarch64(AARCH64)


def _assemble_x86_64(program: Sequence[Instruction | Label]) -> bytes:
    """A jump's displacement is one signed byte behind its opcode, counted from the next instruction."""
    places: dict[str, int] = {}
    position = 0
    for item in program:
        if isinstance(item, Label):
            places[item.name] = position
        else:
            position += len(bytes.fromhex(item.code)) + bool(item.target)
    code = bytearray()
    for item in program:
        if isinstance(item, Label):
            continue
        code += bytes.fromhex(item.code)
        if item.target:
            code += (places[item.target] - (len(code) + 1)).to_bytes(1, "little", signed=True)
    return bytes(code)


def _assemble_aarch64(program: Sequence[Instruction | Label]) -> bytes:
    """Every instruction is one word; a branch's displacement is in words, counted from the branch itself."""
    places: dict[str, int] = {}
    words: list[Instruction] = []
    for item in program:
        if isinstance(item, Label):
            places[item.name] = len(words)
        else:
            words.append(item)
    code = bytearray()
    for number, item in enumerate(words):
        word = int(item.code, 16)
        if item.target:
            word |= _branch_field(word, places[item.target] - number)
        code += word.to_bytes(4, "little")
    return bytes(code)


def _branch_field(word: int, distance: int) -> int:
    """Where the displacement lies and how wide it is depends on the kind of branch."""
    if word >> 26 == 0b000101:  # b
        width, shift = 26, 0
    elif word >> 24 == 0b01010100:  # b.cond
        width, shift = 19, 5
    else:  # tbnz
        width, shift = 14, 5
    return (distance & ((1 << width) - 1)) << shift
