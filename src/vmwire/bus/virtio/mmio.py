# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Virtio over MMIO (virtio 1.2, section 4.2): a page of registers and one interrupt line.

Version 2 is virtio 1.x. Version 1 is the legacy interface (section 4.2.4): rings lie where a page
number and a page size say, and there is no FEATURES_OK.

The line is up while the interrupt status isn't 0; the driver clears what it has seen.
Registers are 32 bits and are only read and written whole; the device's configuration, behind them,
in any size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from vmwire.bus.pci.chip import Slot
from vmwire.bus.virtio.device import ISR_CONFIG, ISR_QUEUE, Function
from vmwire.bus.virtio.registers import VirtioRegisters

SIZE = 0x200
CONFIG = 0x100
MAGIC = 0x74726976  # "virt"
VENDOR_ID = 0x554D4551

MAGIC_VALUE, VERSION, DEVICE_ID, VENDOR = 0x000, 0x004, 0x008, 0x00C
DEVICE_FEATURES, DEVICE_FEATURES_SEL = 0x010, 0x014
DRIVER_FEATURES, DRIVER_FEATURES_SEL = 0x020, 0x024
GUEST_PAGE_SIZE = 0x028
QUEUE_SEL, QUEUE_NUM_MAX, QUEUE_NUM = 0x030, 0x034, 0x038
QUEUE_ALIGN, QUEUE_PFN = 0x03C, 0x040
QUEUE_READY, QUEUE_NOTIFY = 0x044, 0x050
INTERRUPT_STATUS, INTERRUPT_ACK, STATUS = 0x060, 0x064, 0x070
QUEUE_DESC, QUEUE_DRIVER, QUEUE_DEVICE = 0x080, 0x090, 0x0A0
QUEUE_RESET, CONFIG_GENERATION = 0x0C0, 0x0FC

_ADDRESSES = {
    start + shift // 8: (name, shift)
    for start, name in (
        (QUEUE_DESC, "descriptors"),
        (QUEUE_DRIVER, "available"),
        (QUEUE_DEVICE, "used"),
    )
    for shift in (0, 32)
}
_MOST_ALIGNMENT = 1 << 16
_SELECTED = ("_feature_select", "_driver_feature_select", "_queue_select", "_page_size", "_align")


class VirtioMmio(VirtioRegisters):
    """A virtio device's registers in a page of memory. ``slot.interrupts`` has its line."""

    def __init__(self, slot: Slot, function: Function, *, version: int = 2) -> None:
        if version not in (1, 2):
            raise ValueError(f"version {version} of virtio-mmio")
        super().__init__(slot, function)
        self.device.transport = self
        self.legacy = version == 1
        self._page_size = self._align = 0
        version1 = {GUEST_PAGE_SIZE, QUEUE_ALIGN, QUEUE_PFN}
        version2 = {QUEUE_READY, QUEUE_RESET, CONFIG_GENERATION, *_ADDRESSES}
        self._absent = version2 if self.legacy else version1

    # Accesses

    def load(self, offset: int, size: int) -> int:
        """Read a register, or configuration. Nothing else reads as anything but 0."""
        if offset >= CONFIG:
            return self._load_config(offset - CONFIG, size)
        reader = _READERS.get(offset)
        if size != 4 or reader is None or offset in self._absent:
            return 0
        return reader(self)

    def store(self, offset: int, size: int, value: int) -> None:
        """Write a register, or configuration."""
        if offset >= CONFIG:
            self._store_config(offset - CONFIG, size, value)
            return
        if size != 4 or offset in self._absent:
            return
        if offset in _ADDRESSES:
            self._set_ring_address(*_ADDRESSES[offset], value)
            return
        writer = _WRITERS.get(offset)
        if writer is not None:
            writer(self, value)

    # Interrupts

    def queue_interrupt(self, vector: int) -> None:
        """Wake the driver for a queue."""
        self._interrupt(ISR_QUEUE)

    def config_interrupt(self, vector: int) -> None:
        """Wake the driver for the configuration."""
        self._interrupt(ISR_CONFIG)

    def _interrupt(self, cause: int) -> None:
        if cause & ~self.device.isr:
            self.device.isr |= cause
            self._line.set_level(True)

    # The whole

    def reset(self) -> None:
        """Power on, or the machine's reset."""
        for name in _SELECTED:
            setattr(self, name, 0)
        self.device.reset()
        self._line.set_level(False)

    def save(self) -> dict[str, Any]:
        """Return the whole state as plain data."""
        return self.device.save() | {"selected": [getattr(self, name) for name in _SELECTED]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take on a state that ``save`` gave. ValueError if it isn't one."""
        selected = state.get("selected")
        if not isinstance(selected, list | tuple) or len(selected) != len(_SELECTED):
            raise ValueError("no state of a virtio-mmio device")
        self.device.restore(state)
        for name, value in zip(_SELECTED, selected, strict=True):
            setattr(self, name, int(value))
        self._line.set_level(bool(self.device.isr))

    # What reads and writes mean

    def _set_features(self, value: int) -> None:
        if not self.legacy:
            self._choose_half(value)
        elif not self._driver_feature_select:
            self.device.choose_features(value, True)

    def _acknowledge(self, value: int) -> None:
        self.device.isr &= ~value
        self._line.set_level(bool(self.device.isr))

    def _set_ready(self, value: int) -> None:
        ring = self._ring
        if ring is None or value not in (0, 1):
            return
        if not value and ring.enabled:
            self.device.disable(ring)
        elif value and not ring.enabled:
            self.device.enable(ring)

    def _get_page(self) -> int:
        ring = self._ring
        if ring is None or not ring.enabled or not self._page_size:
            return 0
        return ring.descriptors // self._page_size & 0xFFFFFFFF

    def _set_page(self, value: int) -> None:
        """A legacy ring's page is its address and its switch."""
        ring = self._ring
        if ring is None:
            return
        if ring.enabled:
            self.device.disable(ring)
        align = self._align
        if value and self._page_size and 0 < align <= _MOST_ALIGNMENT and not align & (align - 1):
            ring.place_legacy(value * self._page_size, align)
            self.device.enable(ring)

    def _set(self, name: str, value: int) -> None:
        self.device.revision += 1
        setattr(self, name, value)

    def _kick(self, value: int) -> None:
        self.device.kick(value, legacy=self.legacy)


def _setter(name: str) -> Callable[[VirtioMmio, int], None]:
    return lambda place, value: place._set(name, value)


_READERS: dict[int, Callable[[VirtioMmio], int]] = {
    MAGIC_VALUE: lambda place: MAGIC,
    VERSION: lambda place: 1 if place.legacy else 2,
    DEVICE_ID: lambda place: place._function.device_id,
    VENDOR: lambda place: VENDOR_ID,
    DEVICE_FEATURES: lambda place: place._offered_half(place.legacy),
    QUEUE_NUM_MAX: lambda place: place._ring_number("most"),
    QUEUE_PFN: VirtioMmio._get_page,
    QUEUE_READY: lambda place: place._ring_number("enabled"),
    INTERRUPT_STATUS: lambda place: place.device.isr,
    STATUS: lambda place: place.device.status,
    CONFIG_GENERATION: lambda place: place.device.generation,
}
_WRITERS: dict[int, Callable[[VirtioMmio, int], None]] = {
    DEVICE_FEATURES_SEL: _setter("_feature_select"),
    DRIVER_FEATURES: VirtioMmio._set_features,
    DRIVER_FEATURES_SEL: _setter("_driver_feature_select"),
    GUEST_PAGE_SIZE: _setter("_page_size"),
    QUEUE_SEL: _setter("_queue_select"),
    QUEUE_NUM: VirtioMmio._set_ring_size,
    QUEUE_ALIGN: _setter("_align"),
    QUEUE_PFN: VirtioMmio._set_page,
    QUEUE_READY: VirtioMmio._set_ready,
    QUEUE_NOTIFY: VirtioMmio._kick,
    INTERRUPT_ACK: VirtioMmio._acknowledge,
    STATUS: lambda place, value: place._set_status(value & 0xFF, place.legacy),
    QUEUE_RESET: VirtioMmio._reset_ring,
}
