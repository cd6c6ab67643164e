# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A PCI function's configuration space, built from a description (PCI 3.0, section 6).

Three images of equal length say it all: what the bytes hold, which bits can be written, and which
bits a written 1 clears. Sizing a BAR needs nothing more: the address bits below its size
can't be written. Bytes of the first 256 that neither the header nor a capability claims hold what
is written, as the machines that we replace do it.

Who reacts to a change (interrupts, bus mastering) looks at the properties after each write.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Literal, TypeVar

from vmwire.bus.pci.capabilities import (
    EXTENDED_SPACE,
    Capability,
    ExtendedCapability,
    Msi,
    MsiX,
    PciExpress,
    PowerManagement,
)

HEADER_SIZE = 0x40
CONFIG_SIZE = 0x100
EXPRESS_SIZE = 0x1000

COMMAND = 0x04
STATUS = 0x06
CACHE_LINE = 0x0C
MULTIFUNCTION = 0x80
HEADER_TYPE = 0x0E
BAR0 = 0x10
ROM_BAR = 0x30
CAPABILITIES = 0x34
INTERRUPT_LINE = 0x3C

ROM = 6
"""The ROM's number among the BARs, as VFIO counts regions."""
LEAST_ROM = 0x800

IO_ENABLE = 0x0001
MEMORY_ENABLE = 0x0002
BUS_MASTER = 0x0004
SERR_ENABLE = 0x0100
INTX_DISABLE = 0x0400
COMMAND_WRITABLE = IO_ENABLE | MEMORY_ENABLE | BUS_MASTER | SERR_ENABLE | INTX_DISABLE

INTERRUPT_STATUS = 0x0008
CAPABILITY_LIST = 0x0010
STATUS_CLEARABLE = 0xF900

CapabilityType = TypeVar("CapabilityType", bound=Capability)


@dataclass(frozen=True, slots=True)
class Bar:
    """A window of the card. ``wide``: a 64-bit address, which takes the next BAR's place too."""

    index: int
    kind: Literal["memory", "io"]
    size: int
    wide: bool = False
    prefetchable: bool = False

    @property
    def flags(self) -> int:
        """The low bits, which software can't write."""
        return 1 if self.kind == "io" else self.wide << 2 | self.prefetchable << 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """All that makes one function's configuration space. ``interrupt_pin``: 0 none, 1 A.

    ``status`` is what the card holds there besides the capability bit (its timing, say).
    ``capability_pointer`` is for a card whose pointer is set although there is no list.
    """

    vendor: int
    device: int
    revision: int
    class_code: int
    subsystem_vendor: int
    subsystem: int
    interrupt_pin: int
    bars: tuple[Bar, ...]
    rom_size: int = 0
    capabilities: tuple[Capability, ...] = ()
    status: int = 0
    latency: int = 0
    min_grant: int = 0
    max_latency: int = 0
    capability_pointer: int = 0
    multifunction: bool = False

    def capability(self, kind: type[CapabilityType]) -> CapabilityType | None:
        """Return the capability of that kind, if the card has it."""
        return next((found for found in self.capabilities if isinstance(found, kind)), None)

    def with_rom(self, rom: bytes) -> Description:
        """Return the same card with just the ROM BAR that ``rom`` needs (none for no bytes)."""
        return replace(
            self, rom_size=max(LEAST_ROM, 1 << (len(rom) - 1).bit_length()) if rom else 0
        )

    @property
    def config_size(self) -> int:
        """256 bytes, or the 4096 of PCI Express."""
        express = any(isinstance(c, (PciExpress, ExtendedCapability)) for c in self.capabilities)
        return EXPRESS_SIZE if express else CONFIG_SIZE


class _Layout:
    """The three images of a description at reset."""

    def __init__(self, description: Description) -> None:
        size = description.config_size
        self.image = bytearray(size)
        self.writable = bytearray(size)
        self.clearable = bytearray(size)
        self._claimed: set[int] = set()
        self.writable[HEADER_SIZE:CONFIG_SIZE] = b"\xff" * (CONFIG_SIZE - HEADER_SIZE)
        self._lay_header(description)
        for bar in description.bars:
            self._lay_bar(bar)
        if description.rom_size:
            _check_size(description.rom_size, LEAST_ROM)
            self._put(self.writable, ROM_BAR, -description.rom_size & 0xFFFFFFFF | 1)
        self._lay_capabilities(description)

    @staticmethod
    def _put(image: bytearray, offset: int, value: int, size: int = 4) -> None:
        image[offset : offset + size] = value.to_bytes(size, "little")

    def _claim(self, offset: int, length: int, start: int, end: int) -> None:
        """Take bytes within ``start`` and ``end``; ValueError if they are taken."""
        wanted = range(offset, offset + length)
        if offset % 4 or not start <= offset <= end - length or self._claimed & set(wanted):
            raise ValueError(f"{length} bytes at {offset:#x} don't fit")
        self._claimed |= set(wanted)

    def _lay_header(self, card: Description) -> None:
        put, image = self._put, self.image
        put(image, 0x00, card.vendor | card.device << 16)
        put(image, STATUS, card.status, 2)
        put(image, 0x08, card.revision | card.class_code << 8)
        put(image, CACHE_LINE, card.latency << 8)
        put(image, HEADER_TYPE, MULTIFUNCTION if card.multifunction else 0, 1)
        put(image, 0x2C, card.subsystem_vendor | card.subsystem << 16)
        put(image, CAPABILITIES, card.capability_pointer, 1)
        timing = card.min_grant << 16 | card.max_latency << 24
        put(image, INTERRUPT_LINE, card.interrupt_pin << 8 | timing)
        put(self.writable, COMMAND, COMMAND_WRITABLE, 2)
        put(self.clearable, STATUS, STATUS_CLEARABLE, 2)
        self.writable[CACHE_LINE] = self.writable[INTERRUPT_LINE] = 0xFF

    def _lay_bar(self, bar: Bar) -> None:
        _check_size(bar.size, 4 if bar.kind == "io" else 16)
        offset = BAR0 + 4 * bar.index
        width = 8 if bar.wide else 4
        self._claim(offset, width, BAR0, BAR0 + 24)
        self._put(self.image, offset, bar.flags, width)
        self._put(self.writable, offset, -bar.size & (1 << 8 * width) - 1, width)

    def _lay_capabilities(self, card: Description) -> None:
        plain = [c for c in card.capabilities if not isinstance(c, ExtendedCapability)]
        extended = [c for c in card.capabilities if isinstance(c, ExtendedCapability)]
        if plain:
            self.image[CAPABILITIES] = plain[0].offset
            self.image[STATUS] |= CAPABILITY_LIST
        for capability, follower in _pairs(plain):
            self._lay(capability)
            self.image[capability.offset + 1] = follower
        if extended and extended[0].offset != EXTENDED_SPACE:
            raise ValueError("the list of extended capabilities begins at 0x100")
        for capability, follower in _pairs(extended):
            self._lay(capability)
            self.image[capability.offset + 2] |= follower << 4 & 0xF0
            self.image[capability.offset + 3] = follower >> 4

    def _lay(self, capability: Capability) -> None:
        image = capability.image()
        start, length = capability.offset, len(image)
        if isinstance(capability, ExtendedCapability):
            self._claim(start, length, CONFIG_SIZE, EXPRESS_SIZE)
        else:
            self._claim(start, length, HEADER_SIZE, CONFIG_SIZE)
        self.image[start : start + length] = image
        self.writable[start : start + length] = capability.writable().ljust(length, b"\0")
        self.clearable[start : start + length] = capability.clearable().ljust(length, b"\0")


def _pairs(capabilities: list[Any]) -> Iterator[tuple[Any, int]]:
    """Each one with the offset of the next (0 after the last)."""
    followers = [capability.offset for capability in capabilities[1:]]
    return zip_longest(capabilities, followers, fillvalue=0)


def _check_size(size: int, least: int) -> None:
    if size < least or size & size - 1:
        raise ValueError(f"{size} bytes: a BAR is a power of two, at least {least}")


class ConfigSpace:
    """What software finds in a function's configuration space, and what it sets there.

    >>> card = Description(vendor=0x8086, device=0x100E, revision=3, class_code=0x020000,
    ...     subsystem_vendor=0, subsystem=0, interrupt_pin=1, bars=(Bar(0, "memory", 0x20000),))
    >>> config = ConfigSpace(card)
    >>> config.write(BAR0, 4, 0xFFFFFFFF)
    >>> hex(config.read(BAR0, 4))
    '0xfffe0000'
    """

    def __init__(self, description: Description) -> None:
        self.description = description
        self.size = description.config_size
        self.msi = description.capability(Msi)
        self.msix = description.capability(MsiX)
        self._power = description.capability(PowerManagement)
        self._express = description.capability(PciExpress)
        layout = _Layout(description)
        self._reset = bytes(layout.image)
        self._writable = bytes(layout.writable)
        self._clearable = bytes(layout.clearable)
        self._image = layout.image
        self._bars = {bar.index: bar for bar in description.bars}
        self._reset_wanted = False

    @property
    def image(self) -> bytes:
        """All bytes as they are now."""
        return bytes(self._image)

    def __bytes__(self) -> bytes:
        return bytes(self._image)

    def read(self, offset: int, size: int) -> int:
        """Return a little-endian number. What lies outside reads as all ones."""
        if offset < 0:
            return (1 << 8 * size) - 1
        return int.from_bytes(self._image[offset : offset + size].ljust(size, b"\xff"), "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """Write what can be written. What lies outside is lost."""
        if offset < 0:
            return
        size = min(size, self.size - offset)
        if size <= 0:
            return
        span = slice(offset, offset + size)
        value &= (1 << 8 * size) - 1
        writable = int.from_bytes(self._writable[span], "little")
        cleared = int.from_bytes(self._clearable[span], "little") & value
        old = int.from_bytes(self._image[span], "little")
        new = (old & ~writable | value & writable) & ~cleared
        self._image[span] = new.to_bytes(size, "little")
        self._note_reset(offset, size, value)

    def reset(self) -> None:
        """All as it was at power-on."""
        self._image[:] = self._reset
        self._reset_wanted = False

    def save(self) -> dict[str, Any]:
        """Return the state as plain data."""
        return {"image": bytes(self._image)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on what ``save`` gave; what a card can't change stays its own."""
        image = state.get("image")
        if not isinstance(image, bytes) or len(image) != self.size:
            raise ValueError("no configuration space of this card")
        whole = int.from_bytes(self._writable, "little") | int.from_bytes(self._clearable, "little")
        mine = int.from_bytes(self._reset, "little") & ~whole
        theirs = int.from_bytes(image, "little") & whole
        self._image[:] = (mine | theirs).to_bytes(self.size, "little")

    # The command and status registers

    @property
    def command(self) -> int:
        return self.read(COMMAND, 2)

    @property
    def bus_master(self) -> bool:
        """Whether the card may reach memory: it is let to, and it isn't asleep."""
        return bool(self._image[COMMAND] & BUS_MASTER) and not self.power_state

    @property
    def io_enabled(self) -> bool:
        return bool(self._image[COMMAND] & IO_ENABLE)

    @property
    def memory_enabled(self) -> bool:
        return bool(self._image[COMMAND] & MEMORY_ENABLE)

    @property
    def intx_disabled(self) -> bool:
        return bool(self._image[COMMAND + 1] & INTX_DISABLE >> 8)

    def set_interrupt_status(self, up: bool) -> None:
        """Show the pin's level in the status register."""
        rest = self._image[STATUS] & ~INTERRUPT_STATUS
        self._image[STATUS] = rest | (INTERRUPT_STATUS if up else 0)

    def show(self, offset: int, size: int, value: int) -> None:
        """Put something there that only the card can write."""
        self._image[offset : offset + size] = value.to_bytes(size, "little")

    # Addresses

    def bar_address(self, index: int) -> int | None:
        """Return where a BAR answers (6: the ROM); None while it doesn't.

        A BAR at 0 is one that nobody has placed yet, one whose bits are all set is being sized,
        and a card asleep answers in configuration space only.
        """
        if self.power_state:
            return None
        if index == ROM:
            return self._rom_address()
        bar = self._bars.get(index)
        if bar is None or not (self.io_enabled if bar.kind == "io" else self.memory_enabled):
            return None
        width = 8 if bar.wide else 4
        address = self.read(BAR0 + 4 * index, width) & -bar.size
        return address if 0 < address < (1 << 8 * width) - bar.size else None

    def _rom_address(self) -> int | None:
        register = self.read(ROM_BAR, 4)
        if not self.memory_enabled or not register & 1:
            return None
        address = register & -LEAST_ROM
        return address if 0 < address < (1 << 32) - self.description.rom_size else None

    # Power and reset

    @property
    def power_state(self) -> int:
        """0 (working) to 3 (asleep)."""
        return 0 if self._power is None else self._image[self._power.offset + 4] & 3

    def take_reset_request(self) -> bool:
        """Tell once that software asked for a function-level reset."""
        wanted, self._reset_wanted = self._reset_wanted, False
        return wanted

    def _note_reset(self, offset: int, size: int, value: int) -> None:
        express = self._express
        if express is None or not express.device & express.CAN_RESET:
            return
        place = express.offset + 9 - offset  # the control register's high byte
        if 0 <= place < size and value >> 8 * place & express.INITIATE_RESET >> 8:
            self._reset_wanted = True
