# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The driver's side of virtio over MMIO (virtio 1.2, section 4.2), of both versions.

A ``vmwire.bench.virtio_net.Transport``.
"""

from __future__ import annotations

from vmwire.bench.pci import Cpu
from vmwire.bus.virtio.driver import DriverRing

MAGIC_VALUE, VERSION, DEVICE_ID = 0x000, 0x004, 0x008
DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0x010, 0x014
DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x020, 0x024
GUEST_PAGE_SIZE = 0x028
QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM, QUEUE_ALIGN, QUEUE_PFN = 0x030, 0x034, 0x038, 0x03C, 0x040
QUEUE_READY, QUEUE_NOTIFY = 0x044, 0x050
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x060, 0x064, 0x070
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE, QUEUE_RESET = 0x080, 0x090, 0x0A0, 0x0C0
CONFIG_GENERATION, CONFIG = 0x0FC, 0x100

MAGIC = int.from_bytes(b"virt", "little")
PAGE = 4096


class Mmio:
    """The registers at ``base``. The version is the device's."""

    def __init__(self, pc: Cpu, base: int) -> None:
        self.pc = pc
        self.base = base
        if self.read(MAGIC_VALUE) != MAGIC:
            raise ValueError(f"no virtio device at {base:#x}")
        self.legacy = self.read(VERSION) == 1
        self.device_id = self.read(DEVICE_ID)

    def read(self, register: int) -> int:
        """Read a register."""
        return self.pc.readl(self.base + register)

    def write(self, register: int, value: int) -> None:
        """Write one."""
        self.pc.writel(self.base + register, value)

    def status(self) -> int:
        return self.read(STATUS)

    def set_status(self, value: int) -> None:
        self.write(STATUS, value)
        if self.legacy and value == 0:
            self.write(GUEST_PAGE_SIZE, PAGE)

    def features(self) -> int:
        found = 0
        for half in (0,) if self.legacy else (0, 1):
            self.write(DEVICE_FEATURES_SEL, half)
            found |= self.read(DEVICE_FEATURES) << 32 * half
        return found

    def choose(self, features: int) -> None:
        for half in (0,) if self.legacy else (0, 1):
            self.write(DRIVER_FEATURES_SEL, half)
            self.write(DRIVER_FEATURES, features >> 32 * half & 0xFFFFFFFF)

    def queue_size(self, index: int) -> int:
        self.write(QUEUE_SEL, index)
        return self.read(QUEUE_NUM_MAX)

    def set_up(self, index: int, ring: DriverRing) -> None:
        self.write(QUEUE_SEL, index)
        self.write(QUEUE_NUM, ring.size)
        if self.legacy:
            self.write(QUEUE_ALIGN, PAGE)
            self.write(QUEUE_PFN, ring.descriptors // PAGE)
            return
        for register, address in (
            (QUEUE_DESC, ring.descriptors),
            (QUEUE_DRIVER, ring.available),
            (QUEUE_DEVICE, ring.used_ring),
        ):
            self.write(register, address & 0xFFFFFFFF)
            self.write(register + 4, address >> 32)
        self.write(QUEUE_READY, 1)

    def reset_queue(self, index: int) -> None:
        """Take a ring back."""
        self.write(QUEUE_SEL, index)
        self.write(QUEUE_RESET, 1)

    def kick(self, index: int) -> None:
        self.write(QUEUE_NOTIFY, index)

    def interrupt_status(self) -> int:
        found = self.read(INTERRUPT_STATUS)
        self.write(INTERRUPT_ACK, found)
        return found

    def config(self, offset: int, size: int) -> bytes:
        return self.pc.read(self.base + CONFIG + offset, size)

    def set_config(self, offset: int, data: bytes) -> None:
        self.pc.write(self.base + CONFIG + offset, data)
