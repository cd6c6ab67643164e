# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The driver's side of virtio over PCI (virtio 1.2, section 4.1): both interfaces of a card.

``ModernPci`` finds its structures by the capabilities, ``LegacyPci`` by BAR 0. Each is a
``vmwire.bench.virtio_net.Transport``.
"""

from __future__ import annotations

from dataclasses import dataclass

from vmwire.bench.pci import CAPABILITIES, Cpu, PciDevice
from vmwire.bus.virtio.driver import DriverRing

VENDOR_CAPABILITY = 0x09
MSIX_CAPABILITY = 0x11
MSIX_ENABLE = 0x8000
COMMON_CFG, NOTIFY_CFG, ISR_CFG, DEVICE_CFG, PCI_CFG = 1, 2, 3, 4, 5

DEVICE_FEATURE_SELECT, DEVICE_FEATURE = 0x00, 0x04
DRIVER_FEATURE_SELECT, DRIVER_FEATURE = 0x08, 0x0C
CONFIG_VECTOR, NUM_QUEUES = 0x10, 0x12
DEVICE_STATUS, CONFIG_GENERATION = 0x14, 0x15
QUEUE_SELECT, QUEUE_SIZE, QUEUE_VECTOR, QUEUE_ENABLE, QUEUE_NOTIFY_OFF = (
    0x16, 0x18, 0x1A, 0x1C, 0x1E,
)  # fmt: skip
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE, QUEUE_RESET = 0x20, 0x28, 0x30, 0x3A

LEGACY_FEATURES, LEGACY_GUEST_FEATURES, LEGACY_PAGE = 0x00, 0x04, 0x08
LEGACY_SIZE, LEGACY_SELECT, LEGACY_NOTIFY, LEGACY_STATUS, LEGACY_ISR = 0x0C, 0x0E, 0x10, 0x12, 0x13
LEGACY_CONFIG_VECTOR, LEGACY_QUEUE_VECTOR = 0x14, 0x16

NO_VECTOR = 0xFFFF


@dataclass(frozen=True, slots=True)
class Structure:
    """Where a capability says that a structure is. ``multiplier`` is the notifications'."""

    bar: int
    offset: int
    length: int
    multiplier: int
    capability: int


def structures(pci: PciDevice) -> dict[int, Structure]:
    """Read the vendor capabilities, by their type."""
    found: dict[int, Structure] = {}
    offset = pci.config_read(CAPABILITIES, 1) & 0xFC
    for _ in range(48):
        if not offset:
            break
        if pci.config_read(offset, 1) == VENDOR_CAPABILITY:
            kind, bar = pci.config_read(offset + 3, 1), pci.config_read(offset + 4, 1)
            length = pci.config_read(offset + 2, 1)
            more = pci.config_read(offset + 16) if length > 16 else 0
            place, size = pci.config_read(offset + 8), pci.config_read(offset + 12)
            found.setdefault(kind, Structure(bar, place, size, more, offset))
        offset = pci.config_read(offset + 1, 1) & 0xFC
    return found


class VirtioPciSlot:
    """What both interfaces share: the slot, and MSI-X."""

    def __init__(self, pc: Cpu, slot: int, *, msix: bool = False) -> None:
        self.pc = pc
        self.pci = PciDevice(pc, slot)
        self.bars = self.pci.enable()
        self.msix = msix
        if msix:
            self.enable_msix()

    def enable_msix(self) -> None:
        """Switch MSI-X on, with every vector unmasked."""
        capability = self.pci.capabilities()[MSIX_CAPABILITY]
        control = self.pci.config_read(capability + 2, 2)
        table = self.bars[self.pci.config_read(capability + 4, 1) & 7].address
        for vector in range((control & 0x7FF) + 1):
            self.pc.writel(table + 16 * vector, 0xFEE0_0000)
            self.pc.writel(table + 16 * vector + 8, vector)
            self.pc.writel(table + 16 * vector + 12, 0)
        self.pci.config_write(capability + 2, control | MSIX_ENABLE, 2)
        self.msix = True

    def vector_of(self, index: int) -> int:
        """The vector that a queue gets: the configuration has the first."""
        return index + 1 if self.msix else NO_VECTOR


class ModernPci(VirtioPciSlot):
    """The registers of virtio 1.x."""

    legacy = False

    def __init__(self, pc: Cpu, slot: int, *, msix: bool = False) -> None:
        super().__init__(pc, slot, msix=msix)
        self.structures = structures(self.pci)
        self.common = self.place(COMMON_CFG)
        self.device = self.place(DEVICE_CFG)
        self.isr = self.place(ISR_CFG)
        self._notify: dict[int, int] = {}

    def place(self, kind: int) -> int:
        """The address of a structure."""
        structure = self.structures[kind]
        return self.bars[structure.bar].address + structure.offset

    def read(self, register: int, size: int) -> int:
        """Read a register of the common configuration."""
        return int.from_bytes(self.pc.read(self.common + register, size), "little")

    def write(self, register: int, size: int, value: int) -> None:
        """Write one."""
        self.pc.write(self.common + register, value.to_bytes(size, "little"))

    def status(self) -> int:
        return self.read(DEVICE_STATUS, 1)

    def set_status(self, value: int) -> None:
        self.write(DEVICE_STATUS, 1, value)
        if value == 0 and self.msix:
            self.write(CONFIG_VECTOR, 2, 0)

    def features(self) -> int:
        found = 0
        for half in (0, 1):
            self.write(DEVICE_FEATURE_SELECT, 4, half)
            found |= self.read(DEVICE_FEATURE, 4) << 32 * half
        return found

    def choose(self, features: int) -> None:
        for half in (0, 1):
            self.write(DRIVER_FEATURE_SELECT, 4, half)
            self.write(DRIVER_FEATURE, 4, features >> 32 * half & 0xFFFFFFFF)

    def queue_size(self, index: int) -> int:
        self.write(QUEUE_SELECT, 2, index)
        return self.read(QUEUE_SIZE, 2)

    def set_up(self, index: int, ring: DriverRing) -> None:
        self.write(QUEUE_SELECT, 2, index)
        self.write(QUEUE_SIZE, 2, ring.size)
        self.write(QUEUE_VECTOR, 2, self.vector_of(index))
        for register, address in (
            (QUEUE_DESC, ring.descriptors),
            (QUEUE_DRIVER, ring.available),
            (QUEUE_DEVICE, ring.used_ring),
        ):
            self.write(register, 4, address & 0xFFFFFFFF)
            self.write(register + 4, 4, address >> 32)
        notify = self.structures[NOTIFY_CFG]
        step = notify.multiplier * self.read(QUEUE_NOTIFY_OFF, 2)
        self._notify[index] = self.place(NOTIFY_CFG) + step
        self.write(QUEUE_ENABLE, 2, 1)

    def reset_queue(self, index: int) -> None:
        """Take a ring back."""
        self.write(QUEUE_SELECT, 2, index)
        self.write(QUEUE_RESET, 2, 1)

    def kick(self, index: int) -> None:
        self.pc.write(self._notify[index], index.to_bytes(2, "little"))

    def interrupt_status(self) -> int:
        return self.pc.read(self.isr, 1)[0]

    def config(self, offset: int, size: int) -> bytes:
        return self.pc.read(self.device + offset, size)

    def set_config(self, offset: int, data: bytes) -> None:
        self.pc.write(self.device + offset, data)


class LegacyPci(VirtioPciSlot):
    """The registers of virtio 0.9.5, in ports."""

    legacy = True

    def __init__(self, pc: Cpu, slot: int, *, msix: bool = False) -> None:
        super().__init__(pc, slot, msix=msix)
        self.base = self.bars[0].address

    @property
    def _config(self) -> int:
        return self.base + (0x18 if self.msix else 0x14)

    def status(self) -> int:
        return self.pc.inb(self.base + LEGACY_STATUS)

    def set_status(self, value: int) -> None:
        self.pc.outb(self.base + LEGACY_STATUS, value)
        if value == 0 and self.msix:
            self.pc.outw(self.base + LEGACY_CONFIG_VECTOR, 0)

    def features(self) -> int:
        return self.pc.inl(self.base + LEGACY_FEATURES)

    def choose(self, features: int) -> None:
        self.pc.outl(self.base + LEGACY_GUEST_FEATURES, features)

    def queue_size(self, index: int) -> int:
        self.pc.outw(self.base + LEGACY_SELECT, index)
        return self.pc.inw(self.base + LEGACY_SIZE)

    def set_up(self, index: int, ring: DriverRing) -> None:
        self.pc.outw(self.base + LEGACY_SELECT, index)
        if self.msix:
            self.pc.outw(self.base + LEGACY_QUEUE_VECTOR, self.vector_of(index))
        self.pc.outl(self.base + LEGACY_PAGE, ring.descriptors >> 12)

    def kick(self, index: int) -> None:
        self.pc.outw(self.base + LEGACY_NOTIFY, index)

    def interrupt_status(self) -> int:
        return self.pc.inb(self.base + LEGACY_ISR)

    def config(self, offset: int, size: int) -> bytes:
        return bytes(self.pc.inb(self._config + offset + at) for at in range(size))

    def set_config(self, offset: int, data: bytes) -> None:
        for at, byte in enumerate(data):
            self.pc.outb(self._config + offset + at, byte)
