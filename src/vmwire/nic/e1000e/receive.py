# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""One receive queue of the 82574: its descriptors' three forms (data sheet, section 7.1).

* *Legacy* (RFCTL.EXSTEN off): as the 8254x's.
* *Extended*: what the card writes back covers the address too: hash kind and queue, the RSS hash
  (RXCSUM.PCSD) or IP identification and packet checksum, status and errors, length, VLAN tag.
* *Packet split* (RCTL.DTYP): 32 bytes with four buffers, PSRCTL tells their sizes. The headers of
  TCP, UDP and fragments go into the first by themselves if they fit; any other frame fills the
  buffers in order. What is longer goes on in the other buffers of the next descriptors.

How a batch of frames becomes a batch of descriptors is the 8254x's (`vmwire.nic.e1000.receive`);
here is what a frame's descriptor says, and how it is written.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from struct import Struct
from zlib import crc32

from vmwire.engine.dma import Dma
from vmwire.nic.e1000.checksums import TCPCS, judge, packet_checksum
from vmwire.nic.e1000.filters import Filters
from vmwire.nic.e1000.receive import DD, EOP, VP, Batch, Receiver, longest, untag
from vmwire.nic.e1000.registers import CTRL_VME, RCTL_SECRC, RXCSUM_IPV6OFL
from vmwire.nic.e1000.statistics import Statistics, group_of
from vmwire.nic.e1000e import headers
from vmwire.nic.e1000e.headers import IPV4, TCP, UDP, Headers
from vmwire.nic.e1000e.interrupts import Causes
from vmwire.nic.e1000e.registers import (
    RFCTL_ACKD_DIS,
    RFCTL_ACKDIS,
    RFCTL_EXSTEN,
    RFCTL_IPFRSP_DIS,
    RFCTL_IPV6_DIS,
    RFCTL_IPV6_EX_DIS,
    RFCTL_IPV6XSUM_DIS,
    RXCSUM_IPPCSE,
    RXCSUM_PCSD,
    TSYNC_ENABLED,
)
from vmwire.nic.e1000e.registers import Registers as R
from vmwire.nic.e1000e.scaling import Scaling
from vmwire.nic.e1000e.timesync import TimeSync
from vmwire.wire.frame import Frame
from vmwire.wire.offload import FINISHED

CTRL = R.CTRL.index
RCTL = R.RCTL.index
RFCTL = R.RFCTL.index
RXCSUM = R.RXCSUM.index
RSRPD = R.RSRPD.index
RAID = R.RAID.index
MRQC = R.MRQC.index
PSRCTL = R.PSRCTL.index
VET = R.VET.index
TSYNCRXCTL = R.TSYNCRXCTL.index

READ = Struct("<QQ")
LEGACY = Struct("<QHHBBH")  # address, length, checksum, status, errors, VLAN tag
EXTENDED = Struct("<IIIHH")  # MRQ, hash or identification and checksum, status, length, VLAN tag
SPLIT_READ = Struct("<QQQQ")
SPLIT = Struct("<IIIHHHHHHQ")  # extended; then header status, the other lengths, reserved
assert READ.size == LEGACY.size == EXTENDED.size == 16
assert SPLIT_READ.size == SPLIT.size == 32

UDPCS = 1 << 4
TST = 1 << 8
IPIDV = 1 << 9
UDPV = 1 << 10
ACKED = 1 << 15
RXE = 1 << 31
ERRORS_SHIFT = 24
HDRSP = 1 << 15
MOST_SPLIT = 0x3FF

_VLAN = b"\x81\x00"
_PLAIN_IPV4 = b"\x08\x00\x45"


@dataclass(slots=True)
class Shared:
    """What all queues' receivers work with."""

    words: list[int]
    dma: Dma
    statistics: Statistics
    filters: Filters
    drops: Counter[str]
    scaling: Scaling
    sync: TimeSync
    causes: Causes


class ExtendedReceiver(Receiver):
    """A queue with legacy or extended descriptors."""

    def __init__(self, shared: Shared, queue: int) -> None:
        super().__init__(
            shared.words,
            shared.dma,
            shared.causes.queues[queue],
            shared.statistics,
            shared.filters,
            shared.drops,
            queue=queue,
        )
        self._queue_word = queue << 8
        self._scaling = shared.scaling
        self._sync = shared.sync
        self._all_causes = shared.causes

    # What a descriptor says

    def _describe(self, data: bytes, trusted: bool) -> tuple[int, int, int]:
        """Return MRQ, the hash or what is in its place, and the extended status of a frame."""
        words = self._words
        rxcsum, rfctl = words[RXCSUM], words[RFCTL]
        status = self._judge(data, rxcsum, rfctl, trusted)
        mrq = self._queue_word
        if not rfctl & RFCTL_ACKDIS:
            status |= self._acknowledgement(data, rfctl)
        if words[TSYNCRXCTL] & TSYNC_ENABLED and self._sync.stamp_received(data):
            status |= TST
        if rxcsum & RXCSUM_PCSD:
            if not words[MRQC]:
                return mrq, 0, status
            kind, number = self._scaling.hash_of(data)
            return mrq | kind, number, status
        found = headers.parse(data)
        number = self._checksum(data, found, rxcsum) << 16
        if found.version == IPV4:
            at = found.start + 4
            number |= data[at] << 8 | data[at + 1]
            status |= IPIDV
            if found.fragment and self._is_first_of_udp(data, found):
                status |= UDPV
        return mrq, number, status

    @staticmethod
    def _judge(data: bytes, rxcsum: int, rfctl: int, trusted: bool) -> int:
        if rfctl & (RFCTL_IPV6XSUM_DIS | RFCTL_IPV6_DIS):
            rxcsum &= ~RXCSUM_IPV6OFL
        else:
            rxcsum |= RXCSUM_IPV6OFL
        status, errors = judge(data, rxcsum, trusted)
        if status & TCPCS:
            start = 18 if data[12:14] == _VLAN else 14
            if data[start + (9 if data[start] >> 4 == IPV4 else 6)] == UDP:
                status |= UDPCS
        return status | errors << ERRORS_SHIFT

    def _acknowledgement(self, data: bytes, rfctl: int) -> int:
        if data[12:15] == _PLAIN_IPV4 and (data[23] != TCP or data[47] & 0x3F != 0x10):
            return 0  # most of what comes
        found = headers.parse(data)
        if not headers.is_acknowledgement(data, found, not rfctl & RFCTL_ACKD_DIS):
            return 0
        self._all_causes.acknowledged(self._words[RAID])
        return ACKED

    @staticmethod
    def _checksum(data: bytes, found: Headers, rxcsum: int) -> int:
        """The packet checksum, or a fragment's payload's."""
        if rxcsum & RXCSUM_IPPCSE and found.fragment:
            return packet_checksum(data, found.transport)
        start = rxcsum & 0xFF
        return packet_checksum(data, start) if start else 0

    @staticmethod
    def _is_first_of_udp(data: bytes, found: Headers) -> bool:
        start, at = found.start, found.transport
        first = not data[start + 6] & 0x1F and not data[start + 7]
        return first and data[start + 9] == UDP and data[at + 6 : at + 8] not in (b"", b"\0\0")

    # Into a batch

    def _place(self, batch: Batch, data: bytes, size: int, rctl: int, trusted: bool) -> None:
        mrq, number, status = self._describe(data, trusted)
        words, tag = self._words, 0
        if words[CTRL] & CTRL_VME and (data[12] << 8 | data[13]) == words[VET]:
            data, tag = untag(data, not rctl & RCTL_SECRC)
            status |= VP
        elif not rctl & RCTL_SECRC:
            data += crc32(data).to_bytes(4, "little")
        if len(data) <= words[RSRPD]:
            batch.small = True
        self._put(batch, data, size, (mrq, number, status, tag))

    def _put(self, batch: Batch, data: bytes, size: int, says: tuple[int, int, int, int]) -> None:
        """Cut a frame into descriptors of one buffer."""
        mrq, number, status, tag = says
        length = len(data)
        if length <= size:
            batch.parts.append(data)
            batch.writes.append((mrq, number, status | DD | EOP, length, tag))
            return
        view = memoryview(data)
        for at in range(0, length, size):
            part = view[at : at + size]
            batch.parts.append(part)
            if at + size < length:
                batch.writes.append((0, 0, DD, size, 0))
            else:
                batch.writes.append((mrq, number, status | DD | EOP, len(part), tag))

    def _place_alike(
        self, batch: Batch, segments: list[bytearray], rctl: int, room: int
    ) -> list[Frame]:
        mrq, number, status = self._describe(bytes(segments[0]), True)
        fit = segments[:room]
        batch.lengths += [len(segment) for segment in fit]
        batch.groups += [group_of(bytes(segments[0][:6]))] * len(fit)
        if status & IPIDV:
            numbers = [number & 0xFFFF0000 | part[18] << 8 | part[19] for part in fit]
        else:
            numbers = [number] * len(fit)
        if not rctl & RCTL_SECRC:
            for segment in fit:
                segment += crc32(segment).to_bytes(4, "little")
        self._put_alike(batch, fit, numbers, mrq, status | DD | EOP)
        return [Frame.of(segment, FINISHED) for segment in segments[room:]]

    def _put_alike(
        self, batch: Batch, segments: list[bytearray], numbers: list[int], mrq: int, status: int
    ) -> None:
        batch.parts += segments
        batch.writes += [
            (mrq, number, status, len(segment), 0)
            for segment, number in zip(segments, numbers, strict=True)
        ]

    def _are_simple(self, first: bytearray, rctl: int) -> bool:
        words = self._words
        rxcsum = words[RXCSUM]
        kind = first[12] << 8 | first[13]
        ordinary = kind in (0x0800, 0x86DD) and kind != words[VET]
        fits = len(first) + 4 <= self._room(rctl) and len(first) <= longest(rctl)
        untold = (
            (rxcsum & RXCSUM_PCSD or not rxcsum & 0xFF)
            and not words[RSRPD]
            and not words[TSYNCRXCTL] & TSYNC_ENABLED
        )
        return bool(ordinary and fits and untold and self._filters.passes(bytes(first[:6])))

    # Into memory

    def _write(self, batch: Batch, block: bytes) -> bytes:
        addresses = [fields[0] for fields in READ.iter_unpack(block)]
        writes = batch.writes
        for number in self._write_buffers(addresses, batch.parts):
            mrq, value, status, length, tag = writes[number]
            writes[number] = (mrq, value, status | RXE, length, tag)
        if self._words[RFCTL] & RFCTL_EXSTEN:
            pack = EXTENDED.pack
            return b"".join([pack(*write) for write in writes])
        return self._pack_legacy(addresses, writes)

    def _pack_legacy(self, addresses: list[int], writes: list[tuple[int, ...]]) -> bytes:
        sums = not self._words[RXCSUM] & RXCSUM_PCSD
        return b"".join(
            [
                LEGACY.pack(
                    address,
                    length,
                    value >> 16 if sums else 0,
                    status & 0xFF,
                    status >> ERRORS_SHIFT,
                    tag,
                )
                for address, (_, value, status, length, tag) in zip(addresses, writes, strict=True)
            ]
        )


class SplitBatch(Batch):
    """A batch whose parts go to several buffers of a descriptor."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        super().__init__()
        self.places: list[tuple[int, int]] = []
        """Of each part: its descriptor and its buffer."""


def split_sizes(psrctl: int) -> tuple[int, int, int, int]:
    """Return the sizes of a split descriptor's buffers (10.2.5.3).

    >>> split_sizes(0x00040402)
    (256, 4096, 4096, 0)
    """
    return (
        (psrctl & 0x7F) << 7,
        (psrctl >> 8 & 0x3F) << 10,
        (psrctl >> 16 & 0x3F) << 10,
        (psrctl >> 24 & 0x3F) << 10,
    )


class SplitReceiver(ExtendedReceiver):
    """A queue with packet-split descriptors."""

    UNITS = 2

    def _batch(self) -> Batch:
        return SplitBatch()

    def _room(self, rctl: int) -> int:
        return sum(split_sizes(self._words[PSRCTL])[1:])

    def _needed(self, data: bytes, length: int, size: int) -> int:
        """Count descriptors; a frame that its buffers can't take at all needs more than there
        are."""
        sizes = split_sizes(self._words[PSRCTL])
        left = length - (self._header_length(data, sizes[0]) or sizes[0])
        if left <= size:
            return 1
        return -(-left // size) if size else 1 << 16

    def _header_length(self, data: bytes, most: int) -> int:
        """Return the bytes of headers that get a buffer of their own, or 0."""
        rfctl = self._words[RFCTL]
        found = headers.parse(data, extensions=not rfctl & RFCTL_IPV6_EX_DIS)
        if not found.version or (found.fragment and rfctl & RFCTL_IPFRSP_DIS):
            return 0
        if not found.protocol and not found.fragment:
            return 0
        return found.end if found.end <= min(most, MOST_SPLIT) else 0

    def _put(self, batch: Batch, data: bytes, size: int, says: tuple[int, int, int, int]) -> None:
        sizes = split_sizes(self._words[PSRCTL])
        self._spread(batch, data, self._header_length(data, sizes[0]), sizes, says)

    def _put_alike(
        self, batch: Batch, segments: list[bytearray], numbers: list[int], mrq: int, status: int
    ) -> None:
        sizes = split_sizes(self._words[PSRCTL])
        header = self._header_length(bytes(segments[0]), sizes[0])
        for segment, number in zip(segments, numbers, strict=True):
            self._spread(batch, segment, header, sizes, (mrq, number, status, 0))

    @staticmethod
    def _spread(
        batch: Batch,
        data: Sequence[int],
        header: int,
        sizes: tuple[int, int, int, int],
        says: tuple[int, int, int, int],
    ) -> None:
        """Lay one frame over buffers."""
        assert isinstance(batch, SplitBatch)
        mrq, number, status, tag = says
        view, length = memoryview(bytes(data)), len(data)
        at, first = 0, True
        while at < length or first:
            lengths = [0, 0, 0, 0]
            for buffer in range(0 if first else 1, 4):
                most = header if first and not buffer and header else sizes[buffer]
                part = view[at : at + most]
                if len(part):
                    batch.places.append((len(batch.writes), buffer))
                    batch.parts.append(part)
                    lengths[buffer] = len(part)
                    at += len(part)
            split = HDRSP | header if first and header else 0
            rest = (split, *lengths[1:], 0)
            if at < length:
                batch.writes.append((0, 0, DD, lengths[0], 0, *rest))
            else:
                batch.writes.append((mrq, number, status | DD | EOP, lengths[0], tag, *rest))
            first = False

    def _write(self, batch: Batch, block: bytes) -> bytes:
        assert isinstance(batch, SplitBatch)
        descriptors = list(SPLIT_READ.iter_unpack(block))
        addresses = [descriptors[number][buffer] for number, buffer in batch.places]
        writes = batch.writes
        for part in self._write_buffers(addresses, batch.parts):
            number = batch.places[part][0]
            write = writes[number]
            writes[number] = (*write[:2], write[2] | RXE, *write[3:])
        return b"".join([SPLIT.pack(*write) for write in writes])
