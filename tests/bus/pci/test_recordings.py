# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Configuration space is what the machines show whose cards we replace, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.bus.pci.cards import describe

from vmwire.bus.pci.config import ConfigSpace

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "pci_config.json").read_text())["cards"]
ALL = [(name, place) for name, places in RECORDED.items() for place in places]
WRITTEN = [(name, place) for name, place in ALL if "ones" in RECORDED[name][place]]
EXTENDED = [(name, place) for name, place in ALL if "extended" in RECORDED[name][place]]

KNOWN_EXTENDED = {"igb": 0x50}
"""How many of the extended bytes are compared, where a capability isn't declared: igb's SR-IOV."""


def dwords(image: bytes) -> dict[str, str]:
    """For a failure that can be read."""
    return {f"{at:#05x}": image[at : at + 4][::-1].hex() for at in range(0, len(image), 4)}


def recorded(name: str, place: str, what: str) -> dict[str, str]:
    return dwords(bytes.fromhex(RECORDED[name][place][what]))


def write_all(config: ConfigSpace, value: int) -> None:
    for offset in range(0, 256, 4):
        config.write(offset, 4, value)


@pytest.mark.parametrize(("name", "place"), ALL)
def test_reset_image_is_the_recorded_one(name: str, place: str) -> None:
    config = ConfigSpace(describe(name, place))
    assert dwords(config.image[:256]) == recorded(name, place, "reset")


@pytest.mark.parametrize(("name", "place"), WRITTEN)
def test_writing_ones_sets_the_recorded_bits(name: str, place: str) -> None:
    config = ConfigSpace(describe(name, place))
    write_all(config, 0xFFFFFFFF)
    assert dwords(config.image[:256]) == recorded(name, place, "ones")


@pytest.mark.parametrize(("name", "place"), WRITTEN)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_writing_zeros_clears_the_recorded_bits(name: str, place: str, size: int) -> None:
    config = ConfigSpace(describe(name, place))
    write_all(config, 0xFFFFFFFF)
    for offset in range(0, 256, size):
        config.write(offset, size, 0)
    assert dwords(config.image[:256]) == recorded(name, place, "zeros")


@pytest.mark.parametrize(("name", "place"), EXTENDED)
def test_extended_bytes_are_the_recorded_ones(name: str, place: str) -> None:
    config = ConfigSpace(describe(name, place))
    wanted = bytes.fromhex(RECORDED[name][place]["extended"])[: KNOWN_EXTENDED.get(name)]
    assert len(config.image) == 4096
    assert dwords(config.image[256 : 256 + len(wanted)]) == dwords(wanted)


def test_every_recorded_card_is_compared() -> None:
    assert len(RECORDED) == 27
    assert len(WRITTEN) == 27
    assert len(EXTENDED) == 6
