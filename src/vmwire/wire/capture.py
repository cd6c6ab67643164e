# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A capture box: what passes is written to a pcap file (draft-ietf-opsawg-pcap, section 4).

Timestamps are nanoseconds (magic 0xa1b23c4d), or microseconds (0xa1b2c3d4) for who can't read
those, written in this machine's byte order, link type 1 (Ethernet). A record is what the far side
took, in the order in which it took it: refused frames are recorded when they are offered again and
taken.

The capture doesn't change what passes. So a superframe of TCP is one record of up to 64 KiB, and a
checksum that is still to be done by a later box is recorded as it stands, with the pseudo-header
sum in its place; analysers call it a bad checksum (Wireshark: "validate checksum if possible" is
off by default for that reason). Their number is in ``stats``. A superframe of UDP is recorded as
the datagrams that it stands for: as one, it would be a longer datagram that nobody sent.

Records are gathered and written in large pieces, the last ones after ``FLUSH_AFTER_S``. A file
that can't be written ends the capture, not the traffic.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from struct import Struct
from typing import BinaryIO

from vmwire.wire.frame import F_NEEDS_CSUM, Frame, Gso, Offload, View
from vmwire.wire.offload import finish
from vmwire.wire.port import Port
from vmwire.wire.runs import Run
from vmwire.wire.through import Through

log = logging.getLogger(__name__)

FILE_HEADER = Struct("=IHHiIII")  # magic, version (2), zone, accuracy, snap length, link type
RECORD = Struct("=IIII")  # seconds, parts of one, bytes recorded, bytes on the wire
assert (FILE_HEADER.size, RECORD.size) == (24, 16)

NANOSECONDS, MICROSECONDS = 1, 1000
"""Units of timestamps, in nanoseconds."""
MAGIC_NANOSECONDS = 0xA1B23C4D
MAGIC = {NANOSECONDS: MAGIC_NANOSECONDS, MICROSECONDS: 0xA1B2C3D4}
VERSION = (2, 4)
LINKTYPE_ETHERNET = 1
DEFAULT_SNAP_LENGTH = 262144
BUFFER_BYTES = 256 * 1024
FLUSH_AFTER_S = 0.2
UDP_WHOLE = int(Gso.UDP_L4)


class Capture(Through):
    """Writes what passes to ``file``, which belongs to the capture and is closed with it.

    ``clock`` gives nanoseconds of wall-clock time. ``flush_later(delay_s, callback)`` is a timer
    (``Loop.call_later``). Records of frames longer than ``snap_length`` are cut to it. ``further``:
    the file has been begun already, by another process.
    """

    def __init__(
        self,
        name: str,
        file: BinaryIO,
        clock: Callable[[], int],
        flush_later: Callable[[float, Callable[[], None]], object],
        snap_length: int = DEFAULT_SNAP_LENGTH,
        further: bool = False,
        unit: int = NANOSECONDS,
    ) -> None:
        super().__init__(name)
        self._unit = unit
        self.snap_length = snap_length
        self.records = 0
        self.unfinished_checksums = 0
        self.error = ""
        self._file: BinaryIO | None = file
        self._clock = clock
        self._flush_later = flush_later
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._depth = 0
        self._flush_is_set = False
        self._reserved: Sequence[View] = ()
        if further:
            return
        self._gather(
            [FILE_HEADER.pack(MAGIC[unit], *VERSION, 0, 0, snap_length, LINKTYPE_ETHERNET)], 0
        )
        self.flush()

    def sees(self, out: Port) -> bool:
        """Whether what leaves by ``out`` is to be recorded."""
        return self._file is not None

    def carry(self, out: Port, frames: Sequence[Frame]) -> int:
        """Pass ``frames`` on and record those that were taken.

        The far side may answer before ``send`` returns; the question's records are put in front
        of what its answers left here.
        """
        if not self.sees(out):
            return out.send(frames)
        moment, place = self._clock(), len(self._pieces)
        self._depth += 1
        taken = out.send(frames)
        self._depth -= 1
        if taken:
            self._gather([self._record(moment, frame) for frame in frames[:taken]], place)
        return taken

    def reserve(self, out: Port, length: int) -> Sequence[View] | None:
        self._reserved = out.reserve(length) or ()
        return self._reserved or None

    def commit(self, out: Port, length: int, offload: Offload) -> None:
        """Record what was read into the far side's memory, while it can still be seen."""
        views, self._reserved = self._reserved, ()
        if self.sees(out):
            frame = Frame(views, length, offload)
            self._gather([self._record(self._clock(), frame)], len(self._pieces))
        out.commit(length, offload)

    def cancel(self, out: Port) -> None:
        self._reserved = ()
        out.cancel()

    def flush(self) -> None:
        """Write what was gathered."""
        self._flush_is_set = False
        if self._file is None or not self._pieces or self._depth:
            return
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        try:
            self._file.write(data)
            self._file.flush()
        except OSError as error:
            self._give_up(error)

    def hand_over(self) -> None:
        """Write the rest: the next process goes on in the same file."""
        self.flush()

    def go_on(self) -> None:
        """Nothing was given away."""

    def close(self) -> None:
        """Write the rest, close the file, and leave the line."""
        self.flush()
        if self._file is not None:
            self._file.close()
            self._file = None
        super().close()

    def stats(self) -> dict[str, object]:
        return super().stats() | {
            "records": self.records,
            "unfinished checksums": self.unfinished_checksums,
            "error": self.error,
        }

    def _record(self, moment: int, frame: Frame) -> bytes:
        if frame.offload.needs & UDP_WHOLE:
            whole = frame if isinstance(frame, Run) else _cut_to_length(frame)
            return b"".join([self._record_of(moment, part) for part in finish(whole) or [frame]])
        return self._record_of(moment, frame)

    def _record_of(self, moment: int, frame: Frame) -> bytes:
        length = frame.length
        kept = min(length, self.snap_length)
        self.records += 1
        if frame.offload.flags & F_NEEDS_CSUM:
            self.unfinished_checksums += 1
        seconds, nanoseconds = divmod(moment, 1_000_000_000)
        header = RECORD.pack(seconds, nanoseconds // self._unit, kept, length)
        views = frame.payload(0, kept)  # a reservation's views may go on behind the frame
        return b"".join((header, *views))

    def _gather(self, pieces: list[bytes], place: int) -> None:
        self._pieces[place:place] = pieces
        self._buffered += sum(map(len, pieces))
        if self._buffered >= BUFFER_BYTES and not self._depth:
            self.flush()
        elif not self._flush_is_set:
            self._flush_is_set = True
            self._flush_later(FLUSH_AFTER_S, self.flush)

    def _give_up(self, error: OSError) -> None:
        log.error("%s: the capture ends: %s", self.name, error)
        self.error = error.strerror or str(error)
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                file.close()


def _cut_to_length(frame: Frame) -> Frame:
    """The same frame without what views go on with behind it."""
    return Frame(frame.payload(0, frame.length), frame.length, frame.offload)
