# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Addresses are counted as QEMU counts them (a real QEMU says so in `test_real_replaced`)."""

from __future__ import annotations

import shlex

import pytest

from vmwire.cli.wrap import cmdline, macs
from vmwire.cli.wrap.survey import Survey

START = "52:54:00:12:34:"


def survey(line: str) -> Survey:
    return Survey(cmdline.parse(shlex.split(line)))


@pytest.mark.parametrize(
    ("line", "ends"),
    [
        ("-device e1000 -device usb-net -device virtio-net-pci", {0: "56", 1: "57", 2: "58"}),
        ("-device virtio-rng-pci -device e1000", {1: "56"}),
        ("-device tomorrow,netdev=u", {0: "56"}),
        (f"-device e1000 -device e1000,mac={START}57 -device e1000", {0: "56", 2: "58"}),
        (f"-device e1000 -device e1000,mac={START}56 -device e1000", {0: "56", 2: "57"}),
        ("-device e1000,mac=02:00:00:00:00:56 -device e1000", {1: "56"}),
        ("-device e1000,mac=00:00:00:00:00:00", {0: "56"}),
        ("""-device '{"driver":"e1000"}' -device e1000""", {1: "56", 0: "57"}),
        ("-device e1000 -net nic -nic user -nic none", {2: "56", 1: "57", 0: "58"}),
        (f"-global e1000.mac={START}60 -device e1000 -device rtl8139", {2: "56"}),
        (f"-device e1000,id=n -device e1000 -set device.n.mac={START}56", {1: "57"}),
    ],
)
def test_cards_are_numbered(line: str, ends: dict[int, str]) -> None:
    assert macs.assigned(survey(line)) == {index: START + end for index, end in ends.items()}


def test_without_a_card_the_later_ones_move_up() -> None:
    line = "-device e1000 -device e1000 -device e1000"
    assert macs.assigned(survey(line), without=[0]) == {1: START + "56", 2: START + "57"}


def test_numbers_end() -> None:
    line = " ".join(["-device e1000"] * (len(macs.NUMBERS) + 1))
    assert len(macs.assigned(survey(line))) == len(macs.NUMBERS)
