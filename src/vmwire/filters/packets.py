# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Frames as filters and chardevs exchange them: QEMU's framing, and that with a virtio header.

Each frame stands behind its length, as four bytes, most significant first. With
``vnet_hdr_support`` the length of a virtio net header follows as four more bytes, and then that
header, which belongs to the frame's length; so a superframe passes whole, with what is left to do.
Without, frames are finished before they are written.
"""

from __future__ import annotations

from struct import Struct

from vmwire.wire.frame import MAX_FRAME, NO_OFFLOAD, Frame, Offload
from vmwire.wire.offload import finish

LENGTH = Struct("!I")
LENGTHS = Struct("!II")
NET_HEADER = 12
"""Bytes of the header that we write: ten, and two about buffers that say nothing here."""
NET_HEADERS = (0, 10, NET_HEADER)
"""What may come."""
LONGEST = MAX_FRAME + NET_HEADER


class BrokenFraming(Exception):
    """What came is no frame: whoever sends that has lost its place."""


def pack(frame: Frame, with_header: bool) -> bytes:
    """Return a frame's bytes on the line (none, if it is malformed)."""
    if with_header:
        offload = frame.offload.packed.ljust(NET_HEADER, b"\0")
        lengths = LENGTHS.pack(NET_HEADER + frame.length, NET_HEADER)
        return b"".join((lengths, offload, *frame.views))
    parts = [frame] if frame.offload.plain else finish(frame)
    return b"".join(LENGTH.pack(part.length) + part.tobytes() for part in parts)


class Unpacker:
    """Cuts a stream of bytes into frames.

    >>> [frame.tobytes() for frame in Unpacker(False).feed(b"\\0\\0\\0\\2ab\\0\\0")]
    [b'ab']
    """

    def __init__(self, with_header: bool) -> None:
        self._with_header = with_header
        self._lengths = LENGTHS.size if with_header else LENGTH.size
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that are whole now, with memory of their own; ``BrokenFraming``."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        at = 0
        while len(buffer) - at >= self._lengths:
            size, header = LENGTH.unpack_from(buffer, at)[0], 0
            if self._with_header:
                size, header = LENGTHS.unpack_from(buffer, at)
            if size > LONGEST or header not in NET_HEADERS or header > size:
                raise BrokenFraming(f"a frame of {size} bytes, {header} of them a header")
            start = at + self._lengths
            if len(buffer) - start < size:
                break
            at = start + size
            if size > header:
                frames.append(_frame(bytes(buffer[start:at]), header))
        del buffer[:at]
        return frames


def _frame(data: bytes, header: int) -> Frame:
    if not header:
        return Frame.of(data, NO_OFFLOAD)
    return Frame.of(data[header:], Offload.unpack(data[:10]))
