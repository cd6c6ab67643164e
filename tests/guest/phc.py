# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A program for the guest that tells what a card's clock shows: there is none in its image.

It is 64-bit x86 code in an ELF file of one segment: open the clock's file, ``clock_gettime`` of the
clock that belongs to the descriptor (clock_getres(2), "Dynamic clocks"), and write seconds and
nanoseconds, 16 bytes, to the standard output.
"""

from __future__ import annotations

import base64
import struct

from tests.guest.machine import Machine

BASE = 0x400000
HEADERS = 64 + 56
PLACE = "/tmp/phc"

_CODE = b"".join(
    bytes.fromhex(line)
    for line in (
        "488d3d 43000000",  # lea path(%rip), %rdi
        "31f6",  # xor %esi, %esi              O_RDONLY
        "b8 02000000",  # mov $2, %eax         open
        "0f05",
        "f7d0",  # not %eax
        "c1e003",  # shl $3, %eax
        "83c803",  # or $3, %eax               the descriptor's clock
        "4863f8",  # movslq %eax, %rdi
        "4883ec10",  # sub $16, %rsp
        "4889e6",  # mov %rsp, %rsi
        "b8 e4000000",  # mov $228, %eax       clock_gettime
        "0f05",
        "4889e6",  # mov %rsp, %rsi
        "bf 01000000",  # mov $1, %edi
        "ba 10000000",  # mov $16, %edx
        "b8 01000000",  # mov $1, %eax         write
        "0f05",
        "31ff",  # xor %edi, %edi
        "b8 3c000000",  # mov $60, %eax        exit
        "0f05",
    )
)


def program(device: str) -> bytes:
    """The file."""
    path = device.encode() + b"\0"
    code = _CODE.replace(bytes.fromhex("488d3d43000000"), b"\x48\x8d\x3d" + _distance())
    size = HEADERS + len(code) + len(path)
    header = struct.pack(
        "<4s5B7xHHIQQQIHHHHHH",
        *(b"\x7fELF", 2, 1, 1, 0, 0, 2, 62, 1),
        *(BASE + HEADERS, 64, 0, 0, 64, 56, 1, 64, 0, 0),
    )
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, BASE, BASE, size, size, 4096)
    return header + segment + code + path


def _distance() -> bytes:
    """From behind the first instruction to the path behind the code."""
    return struct.pack("<i", len(_CODE) - 7)


def put_into(guest: Machine, device: str = "/dev/ptp0") -> None:
    """Let the guest have the program."""
    text = base64.b64encode(program(device)).decode()
    guest.check(f"echo {text} | base64 -d >{PLACE} && chmod +x {PLACE}")


def read(guest: Machine) -> float:
    """What the clock shows, in seconds."""
    words = guest.check(f"{PLACE} | od -An -v -t d8").split()
    return int(words[0]) + int(words[1]) / 1e9
