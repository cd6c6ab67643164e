# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Looking at a pcap file that vmwire has written: how much is in it, and of what.

It is read from the file and not from a counter, so what is said of it is what a reader will find.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from vmwire.wire.capture import FILE_HEADER, MAGIC_NANOSECONDS, RECORD

HEAD_BYTES = 64
"""As much of each frame is looked at."""


@dataclass(slots=True)
class Summary:
    """What is in a file."""

    frames: int = 0
    size: int = 0
    protocols: set[str] = field(default_factory=set)


def summary(path: str) -> Summary:
    """Read the file. OSError: it isn't there, or is no pcap file of this machine's."""
    found = Summary()
    with open(path, "rb") as file:
        for head in _heads(file):
            found.frames += 1
            found.protocols.add(protocol(head))
        found.size = os.fstat(file.fileno()).st_size
    return found


def _heads(file: BinaryIO) -> Iterator[bytes]:
    """The beginning of each frame."""
    header = file.read(FILE_HEADER.size)
    if len(header) < FILE_HEADER.size or FILE_HEADER.unpack(header)[0] != MAGIC_NANOSECONDS:
        raise OSError(f"{file.name} is not a pcap file of vmwire's")
    while len(record := file.read(RECORD.size)) == RECORD.size:
        kept = RECORD.unpack(record)[2]
        yield file.read(min(kept, HEAD_BYTES))
        file.seek(max(0, kept - HEAD_BYTES), os.SEEK_CUR)


def shorten(path: str, snap_length: int) -> None:
    """Cut the TCP frames of a file to ``snap_length``, in place; everything else stays whole."""
    with open(path, "r+b") as file:
        header = file.read(FILE_HEADER.size)
        if len(header) < FILE_HEADER.size or FILE_HEADER.unpack(header)[0] != MAGIC_NANOSECONDS:
            raise OSError(f"{path} is not a pcap file of vmwire's")
        write_at = read_at = file.tell()
        while len(record := file.read(RECORD.size)) == RECORD.size:
            seconds, nanoseconds, kept, length = RECORD.unpack(record)
            frame = file.read(kept if kept <= snap_length else max(snap_length, HEAD_BYTES))
            if kept > len(frame) and protocol(frame) != "TCP":
                frame += file.read(kept - len(frame))
            read_at += RECORD.size + kept
            file.seek(write_at)
            write_at += file.write(RECORD.pack(seconds, nanoseconds, len(frame), length) + frame)
            file.seek(read_at)
        file.truncate(write_at)


def protocol(frame: bytes) -> str:
    """What a frame is, as far as the demo wants to know.

    >>> protocol(bytes(12) + bytes.fromhex("0806"))
    'ARP'
    """
    kind = int.from_bytes(frame[12:14], "big")
    if kind != 0x0800 or len(frame) < 38:
        return {0x0806: "ARP", 0x86DD: "IPv6"}.get(kind, "other")
    if frame[23] != 17:
        return {1: "ICMP", 6: "TCP"}.get(frame[23], "IPv4")
    ports = {int.from_bytes(frame[at : at + 2], "big") for at in (34, 36)}
    return "DHCP" if 67 in ports else "DNS" if 53 in ports else "UDP"
