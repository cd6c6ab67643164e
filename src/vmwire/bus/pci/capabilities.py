# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What a card declares in its capability lists: PCI 3.0 section 6.7, PCI Express 4.0 section 7.

A capability is a few bytes of configuration space: what they hold at reset, which bits software
can write, and which bits a written 1 clears. What the bits *do* is told by those who act on
them: ``interrupts`` for MSI and MSI-X, ``function`` for power states and resets.

The order in ``Description.capabilities`` is the order in which the list links them. Which bits are
writable follows recordings of real machines where there are any.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

EXTENDED_SPACE = 0x100


def _dwords(*values: int) -> bytes:
    return b"".join(value.to_bytes(4, "little") for value in values)


@dataclass(frozen=True, kw_only=True)
class Capability(ABC):
    """``offset`` is where it starts. The bytes below begin there; the link is filled in later."""

    ID: ClassVar[int]
    offset: int

    @abstractmethod
    def image(self) -> bytes:
        """Return the bytes at reset. Their number is what the capability takes."""

    def writable(self) -> bytes:
        """Return a mask of the bits that software can write (short: the rest is none)."""
        return b""

    def clearable(self) -> bytes:
        """Return a mask of the bits that a written 1 clears (short: the rest is none)."""
        return b""


@dataclass(frozen=True, kw_only=True)
class ExtendedCapability(Capability):
    """One of PCI Express's own list, which begins at 0x100."""

    version: int = 1


@dataclass(frozen=True, kw_only=True)
class Opaque(Capability):
    """A capability (a vendor's, say) of which the bus knows nothing but its bytes.

    ``body`` follows the identifier and the link; ``mask`` tells its writable bits.
    """

    id: int
    body: bytes
    mask: bytes = b""

    def image(self) -> bytes:
        return bytes((self.id, 0)) + self.body

    def writable(self) -> bytes:
        return bytes(2) + self.mask


@dataclass(frozen=True, kw_only=True)
class BarWindow(Capability):
    """Four bytes of configuration space that show a place in a BAR (virtio 1.2, section 4.1.4.9).

    Software chooses BAR, offset and length; what it then reads or writes at ``data_offset`` is read
    or written there: for firmware that can't place BARs.
    """

    ID = 0x09
    KIND: ClassVar[int] = 5
    DATA: ClassVar[int] = 16

    @property
    def data_offset(self) -> int:
        return self.offset + self.DATA

    def image(self) -> bytes:
        return bytes((self.ID, 0, self.DATA + 4, self.KIND)).ljust(self.DATA + 4, b"\0")

    def writable(self) -> bytes:
        return _dwords(0, 0xFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF)


@dataclass(frozen=True, kw_only=True)
class PowerManagement(Capability):
    """``capabilities`` is PMC; ``control_mask`` the writable part of PMCSR (status 15 clears)."""

    ID = 0x01
    capabilities: int
    control: int = 0
    control_mask: int = 0x1F03
    clear_mask: int = 0

    def image(self) -> bytes:
        return _dwords(self.ID | self.capabilities << 16, self.control)

    def writable(self) -> bytes:
        return _dwords(0, self.control_mask)

    def clearable(self) -> bytes:
        return _dwords(0, self.clear_mask)


@dataclass(frozen=True, kw_only=True)
class Msi(Capability):
    """Message signalled interrupts: a power of two of ``vectors``, up to 32."""

    ID = 0x05
    vectors: int = 1
    wide: bool = True
    maskable: bool = False

    @property
    def data_offset(self) -> int:
        """Where the message's data is, counted from the capability."""
        return 12 if self.wide else 8

    @property
    def mask_offset(self) -> int:
        """Where the mask bits are, if there are any; the pending bits follow."""
        return self.data_offset + 4

    def image(self) -> bytes:
        control = self.wide << 7 | self.maskable << 8 | (self.vectors.bit_length() - 1) << 1
        size = self.data_offset + (12 if self.maskable else 2)
        return _dwords(self.ID | control << 16).ljust(size, b"\0")

    def writable(self) -> bytes:
        exponent = self.vectors.bit_length() - 1  # no more can be enabled than there are
        enabled = {0: 0, 1: 1}.get(exponent, 3 if exponent < 4 else 7)
        head = _dwords((1 | enabled << 4) << 16, 0xFFFFFFFC)
        if self.wide:
            head += _dwords(0xFFFFFFFF)
        head += b"\xff\xff"
        if self.maskable:
            head += bytes(2) + _dwords((1 << self.vectors) - 1)
        return head


@dataclass(frozen=True, kw_only=True)
class MsiX(Capability):
    """MSI-X: ``vectors`` table entries in one BAR, their pending bits in the same or another."""

    ID = 0x11
    ENABLE: ClassVar[int] = 0x8000
    MASK_ALL: ClassVar[int] = 0x4000
    vectors: int
    table_bar: int
    table_offset: int = 0
    pending_bar: int
    pending_offset: int

    @property
    def table_size(self) -> int:
        return 16 * self.vectors

    @property
    def pending_size(self) -> int:
        return -(-self.vectors // 64) * 8

    def image(self) -> bytes:
        return _dwords(
            self.ID | (self.vectors - 1) << 16,
            self.table_offset | self.table_bar,
            self.pending_offset | self.pending_bar,
        )

    def writable(self) -> bytes:
        return _dwords((self.ENABLE | self.MASK_ALL) << 16)


@dataclass(frozen=True, kw_only=True)
class PciExpress(Capability):
    """An endpoint's PCI Express capability, version 1 or 2 (section 7.5.3).

    A link of one lane at 2.5 GT/s unless said otherwise. ``in_root`` makes it an endpoint that is
    integrated in the root complex.
    """

    ID = 0x10
    CAN_RESET: ClassVar[int] = 1 << 28
    INITIATE_RESET: ClassVar[int] = 1 << 15
    version: int = 2
    in_root: bool = False
    device: int = 0x8020
    device2: int = 0
    link: int = 0x411
    link_status: int = 0x11
    control_mask: int = 0
    control2_mask: int = 0

    def image(self) -> bytes:
        flags = self.version | (0x90 if self.in_root else 0)
        head = _dwords(self.ID | flags << 16, self.device, 0, self.link, self.link_status << 16)
        if self.version < 2:
            return head
        return (head + _dwords(0, 0, 0, 0, self.device2)).ljust(0x3C, b"\0")

    def writable(self) -> bytes:
        first = _dwords(0, 0, self.control_mask)
        return first.ljust(0x28, b"\0") + _dwords(self.control2_mask) if self.version > 1 else first

    def clearable(self) -> bytes:
        return _dwords(0, 0, 0xF << 16)  # errors detected


@dataclass(frozen=True, kw_only=True)
class ErrorReporting(ExtendedCapability):
    """Advanced Error Reporting of an endpoint (section 7.8.4)."""

    ID = 0x0001
    UNCORRECTABLE: ClassVar[int] = 0x03FFF030
    CORRECTABLE: ClassVar[int] = 0xF1C1
    version: int = 2
    uncorrectable_mask: int = 0x02400000
    severity: int = 0x00462030
    correctable_mask: int = 0xE000
    control: int = 0xA0

    def image(self) -> bytes:
        head = _dwords(
            self.ID | self.version << 16,
            0,
            self.uncorrectable_mask,
            self.severity,
            0,
            self.correctable_mask,
            self.control,
        )
        return head.ljust(0x2C, b"\0")

    def writable(self) -> bytes:
        some = self.UNCORRECTABLE
        return _dwords(0, 0, some, some, 0, self.CORRECTABLE, (self.control & 0xA0) << 1)

    def clearable(self) -> bytes:
        return _dwords(0, self.UNCORRECTABLE, 0, 0, self.CORRECTABLE)


@dataclass(frozen=True, kw_only=True)
class SerialNumber(ExtendedCapability):
    """Device serial number (section 7.9.3): an EUI-64."""

    ID = 0x0003
    number: int

    def image(self) -> bytes:
        return _dwords(self.ID | self.version << 16) + self.number.to_bytes(8, "little")


@dataclass(frozen=True, kw_only=True)
class AlternativeRouting(ExtendedCapability):
    """ARI (section 7.8.7). ``next_function`` 0: this is the last one."""

    ID = 0x000E
    next_function: int = 0

    def image(self) -> bytes:
        return _dwords(self.ID | self.version << 16, self.next_function << 8)
