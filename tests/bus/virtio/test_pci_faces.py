# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A virtio network card's configuration space is what machines show, byte for byte."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vmwire import catalogue
from vmwire.bus.pci.config import ConfigSpace, Description
from vmwire.nic import virtio

RECORDED = json.loads((Path(__file__).parents[2] / "data" / "pci_config.json").read_text())["cards"]
NAMES = ["virtio-net-pci", "virtio-net-pci-transitional", "virtio-net-pci-non-transitional"]


def described(text: str) -> Description:
    return virtio.describe(catalogue.parse("device", text))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("written", ["reset", "ones"])
def test_configuration_space_is_the_recorded_one(name: str, written: str) -> None:
    config = ConfigSpace(described(name))
    if written == "ones":
        for offset in range(0, 256, 4):
            config.write(offset, 4, 0xFFFFFFFF)
    places = [place for place in RECORDED[name].values() if written in place]
    known = [bytes.fromhex(place[written]) for place in places]
    assert config.image[:256] in known


def bars(text: str) -> dict[int, tuple[str, int]]:
    return {bar.index: (bar.kind, bar.size) for bar in described(text).bars}


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("", {0: ("io", 32), 1: ("memory", 0x1000), 4: ("memory", 0x4000)}),
        ("mq=on,queues=2", {0: ("io", 64), 1: ("memory", 0x1000), 4: ("memory", 0x4000)}),
        ("vectors=0", {0: ("io", 32), 4: ("memory", 0x4000)}),
        ("vectors=200", {0: ("io", 32), 1: ("memory", 0x1000), 4: ("memory", 0x4000)}),
        ("vectors=300", {0: ("io", 32), 1: ("memory", 0x2000), 4: ("memory", 0x4000)}),
        ("vectors=5000", {0: ("io", 32), 4: ("memory", 0x4000)}),
        ("page-per-vq=on", {0: ("io", 32), 1: ("memory", 0x1000), 4: ("memory", 0x800000)}),
        ("disable-modern=on", {0: ("io", 32), 1: ("memory", 0x1000)}),
        ("disable-legacy=on", {1: ("memory", 0x1000), 4: ("memory", 0x4000)}),
        (
            "modern-pio-notify=on",
            {0: ("io", 32), 1: ("memory", 0x1000), 2: ("io", 4), 4: ("memory", 0x4000)},
        ),
    ],
)
def test_options_decide_which_windows_there_are(
    options: str, wanted: dict[int, tuple[str, int]]
) -> None:
    assert bars(f"virtio-net-pci,{options}" if options else "virtio-net-pci") == wanted


def test_a_legacy_card_has_no_structures() -> None:
    config = ConfigSpace(described("virtio-net-pci,disable-modern=on"))
    assert config.image[0x34] == 0x40
    assert config.image[0x40:0x42] == b"\x11\x00"  # MSI-X and nothing else
