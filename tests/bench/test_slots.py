# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Properties of a card that are its slot's: place, functions, ROM, boot order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vmwire.bench.machine import Bench
from vmwire.bench.pci import PciDevice
from vmwire.errors import ConfigError


@pytest.fixture
def pc() -> Iterator[Bench]:
    with Bench(1 << 20) as machine:
        yield machine


@pytest.mark.parametrize(("addr", "devfn"), [
    (4, 0x20), ("4", 0x20), ("04.0", 0x20), ("1f", 0xF8), ("0x6.0x0", 0x30), (None, 0x10),
    ("-1", 0x10), (31, 0xF8),
])  # fmt: skip
def test_a_place_is_said_as_in_qemu(pc: Bench, addr: int | str | None, devfn: int) -> None:
    assert pc.plug("e1000", addr=addr).devfn == devfn


@pytest.mark.parametrize("addr", [32, "20", "4.8", "zz", "", "4.0.0", "-2"])
@pytest.mark.parametrize("driver", ["e1000", "virtio-net-pci"])
def test_a_place_that_is_none_is_refused(pc: Bench, driver: str, addr: int | str) -> None:
    with pytest.raises(ConfigError):
        pc.plug(driver, addr=addr)


def test_a_card_of_several_functions_says_so(pc: Bench) -> None:
    pc.plug("e1000", addr="4.0", multifunction="on", id="a")
    pc.plug("e1000", addr="4.1", id="b")
    assert [PciDevice(pc, 4, function).config_read(0x0E, 1) for function in (0, 1)] == [0x80, 0]
    pc.reset_all()
    assert PciDevice(pc, 4).config_read(0x0E, 1) == 0x80


@pytest.mark.parametrize(("first", "second", "text"), [
    ("4.0", "4.1", "PCI: single function device can't be populated in function 4.1"),
    ("4.1", "4.0", "PCI: 4.0 indicates single function, but 4.1 is already populated."),
    ("3", "3", "PCI: slot 3 function 0 not available for e1000, in use by e1000,id=a"),
    ("2", "0", "PCI: slot 0 function 0 not available for e1000, in use by i440FX,id=(null)"),
])  # fmt: skip
def test_cards_that_do_not_fit_together_are_refused(
    pc: Bench, first: str, second: str, text: str
) -> None:
    pc.plug("e1000", addr=first, id="a")
    with pytest.raises(ConfigError) as error:
        pc.plug("e1000", addr=second, id="b")
    assert text in str(error.value)
    assert set(pc.cards) == {"a"}


def test_another_bus_is_not_found(pc: Bench) -> None:
    with pytest.raises(ConfigError, match=r"Bus 'pci\.1' not found"):
        pc.plug("e1000", bus="pci.1")
    pc.plug("e1000", bus="pci.0")


# --- the ROM


def rom_size(pc: Bench, slot: int) -> int:
    device = PciDevice(pc, slot)
    device.config_write(0x30, 0xFFFF_FFFE)
    return -(device.config_read(0x30) & ~0x7FF) & 0xFFFF_FFFF


def test_a_roms_content_is_a_file(pc: Bench, tmp_path: Path) -> None:
    (tmp_path / "rom").write_bytes(b"\x55\xaa" + b"code" * 600)
    pc.plug("e1000", addr=4, romfile=str(tmp_path / "rom"))
    assert rom_size(pc, 4) == 0x1000
    device = PciDevice(pc, 4)
    device.config_write(0x30, 0xE000_0001)
    device.config_write(4, 2, 2)
    assert pc.read(0xE000_0000, 6) == b"\x55\xaacode"


@pytest.mark.parametrize("properties", [{"romfile": ""}, {"rombar": 0}])
def test_a_card_may_have_no_rom(pc: Bench, properties: dict[str, object]) -> None:
    pc.plug("e1000", addr=4, **properties)
    assert rom_size(pc, 4) == 0


def test_a_rom_may_be_larger_than_its_file(pc: Bench, tmp_path: Path) -> None:
    (tmp_path / "rom").write_bytes(b"\x55\xaa")
    pc.plug("e1000", addr=4, romfile=str(tmp_path / "rom"), romsize=0x8000)
    assert rom_size(pc, 4) == 0x8000


@pytest.mark.parametrize(("romsize", "size", "text"), [
    (3, 1, "ROM size 3 is not a power of two"), (64, 65, "(65 bytes) is too large for ROM size 64"),
    (64, 0, "is empty"), (64, None, "failed to find romfile"),
])  # fmt: skip
def test_a_rom_that_cannot_be_is_refused(
    pc: Bench, tmp_path: Path, romsize: int, size: int | None, text: str
) -> None:
    if size is not None:
        (tmp_path / "rom").write_bytes(bytes(size))
    with pytest.raises(ConfigError) as error:
        pc.plug("e1000", romfile=str(tmp_path / "rom"), romsize=romsize)
    assert text in str(error.value)


# --- the boot order


def boot_order(pc: Bench) -> bytes:
    """The firmware's item ``bootorder``, the first that is named."""
    pc.outw(0x510, 0x19)
    size = int.from_bytes(bytes(pc.inb(0x511) for _ in range(8))[4:], "big")
    pc.outw(0x510, 0x20)
    return bytes(pc.inb(0x511) for _ in range(size))


def test_firmware_finds_the_boot_order(pc: Bench) -> None:
    pc.plug("e1000", addr="4.0", bootindex=2, multifunction="on", id="a")
    pc.plug("e1000", addr="4.1", bootindex=1, id="b")
    pc.plug("e1000", addr="5", id="c")
    assert boot_order(pc) == (
        b"/pci@i0cf8/ethernet@4,1/ethernet-phy@0\n/pci@i0cf8/ethernet@4/ethernet-phy@0\0"
    )
    pc.unseat(pc.cards["b"])
    assert boot_order(pc) == b"/pci@i0cf8/ethernet@4/ethernet-phy@0\0"


def test_a_place_in_the_boot_order_is_given_once(pc: Bench) -> None:
    pc.plug("e1000", bootindex=1, id="a")
    with pytest.raises(ConfigError, match="The bootindex 1 has already been used"):
        pc.plug("e1000", bootindex=1, id="b")
    pc.unseat(pc.cards["a"])
    pc.plug("e1000", bootindex=1, id="b")
