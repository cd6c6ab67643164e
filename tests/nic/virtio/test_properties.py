# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The properties of the card are in force: features, configuration, sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.nic.virtio.card import Card, frame, make
from vmwire.bench.machine import Bench
from vmwire.bench.virtio_pci import LegacyPci, ModernPci
from vmwire.bus.virtio import features as bits

Plug = Callable[..., Card]

RECORDED_LEGACY = 0x79BFFFE7
RECORDED_MODERN = 0x01C00101_30BFFFA7
"""With a back end that takes offloads, but for tunnels."""
NOT_HERE = bits.VIRTIO_NET_F_GUEST_UFO | bits.VIRTIO_NET_F_HOST_UFO | 1 << 6
"""UDP fragmentation, and GSO, which includes it."""


def test_features_are_those_of_machines_but_for_udp_fragments(pc: Bench) -> None:
    card = make(pc, "modern")
    assert card.driver.transport.features() == RECORDED_MODERN & ~NOT_HERE
    assert LegacyPci(pc, 4).features() == RECORDED_LEGACY & ~NOT_HERE


@pytest.mark.parametrize("transport", ["modern", "mmio-2"], indirect=True)
@pytest.mark.parametrize(
    ("options", "gone"),
    [
        ({"ctrl_rx": False}, bits.VIRTIO_NET_F_CTRL_RX),
        ({"ctrl_mac_addr": False}, bits.VIRTIO_NET_F_CTRL_MAC_ADDR),
        ({"ctrl_guest_offloads": False}, bits.VIRTIO_NET_F_CTRL_GUEST_OFFLOADS),
        ({"ctrl_rx_extra": False}, bits.VIRTIO_NET_F_CTRL_RX_EXTRA),
        ({"queue_reset": False}, bits.VIRTIO_F_RING_RESET),
        ({"status": False}, bits.VIRTIO_NET_F_STATUS),
        ({"event_idx": False}, bits.VIRTIO_RING_F_EVENT_IDX),
        ({"host_tso4": False}, bits.VIRTIO_NET_F_HOST_TSO4),
        (
            {"csum": False},
            bits.VIRTIO_NET_F_CSUM | bits.VIRTIO_NET_F_HOST_TSO4 | bits.VIRTIO_NET_F_HOST_TSO6
            | bits.VIRTIO_NET_F_HOST_ECN | bits.VIRTIO_NET_F_HOST_USO,
        ),
    ],
)  # fmt: skip
def test_switches_take_features_away(plug: Plug, options: dict[str, Any], gone: int) -> None:
    everything = RECORDED_MODERN & ~NOT_HERE
    card = plug(**options)
    assert card.driver.features == everything & ~gone
    assert card.gets(frame()) == [frame()]


def test_without_a_control_queue_there_is_nothing_that_needs_it(plug: Plug) -> None:
    card = plug(ctrl_vq=False, mq=True, queues=2)
    gone = bits.VIRTIO_NET_F_CTRL_VQ | bits.VIRTIO_NET_F_CTRL_RX | bits.VIRTIO_NET_F_MQ
    assert not card.driver.features & (gone | bits.VIRTIO_NET_F_GUEST_ANNOUNCE)
    assert card.gets(frame()) == [frame()]
    assert card.driver.transport.queue_size(4) == 0


def test_configuration_ends_where_no_feature_needs_more(plug: Plug) -> None:
    card = plug()
    assert card.driver.transport.config(0, 12) == bytes.fromhex("525400123456 0100 ffffffff")


@pytest.mark.parametrize("transport", ["modern", "legacy", "mmio-2"], indirect=True)
def test_mtu_speed_and_duplex_are_told(plug: Plug, transport: str) -> None:
    card = plug(host_mtu=1400, speed=1000, duplex="full")
    told = bytes.fromhex("525400123456 0100 0100 7805 e803 0000 01")
    assert card.driver.transport.config(0, 17) == told
    assert card.driver.features & bits.VIRTIO_NET_F_MTU
    speed = bool(card.driver.features & bits.VIRTIO_NET_F_SPEED_DUPLEX)
    assert speed is (transport != "legacy")  # bit 63 is out of a legacy driver's reach
    assert card.gets(frame(length=1414)) == [frame(length=1414)]
    assert card.gets(frame(length=1500)) == []


def test_pairs_are_told_when_there_can_be_several(plug: Plug) -> None:
    card = plug(mq=True, queues=3)
    assert card.driver.transport.config(8, 2) == b"\3\0"
    assert card.driver.transport.queue_size(6) == 64


def test_ring_sizes_are_the_options(plug: Plug) -> None:
    card = plug(rx_queue_size=512, tx_queue_size=1024)
    assert [card.driver.transport.queue_size(index) for index in range(4)] == [512, 1024, 64, 0]
    assert card.gets(frame()) == [frame()]


def test_a_page_for_each_queue(pc: Bench) -> None:
    card = make(pc, "modern", page_per_vq=True)
    card.driver.start()
    transport = card.driver.transport
    assert isinstance(transport, ModernPci)
    assert transport.structures[2].multiplier == 4096
    card.driver.send(frame())
    assert card.wire.take() == [frame()]
    assert card.driver.command(0, 0, b"\0") == 0


def test_notifications_by_port(pc: Bench) -> None:
    card = make(pc, "modern", modern_pio_notify=True)
    card.driver.start()
    transport = card.driver.transport
    assert isinstance(transport, ModernPci)
    transport.kick = lambda index: pc.outw(transport.bars[2].address, index)  # type: ignore[method-assign]
    card.driver.send(frame())
    assert card.wire.take() == [frame()]


@pytest.mark.parametrize(
    ("options", "device", "revision", "subsystem"),
    [
        ({}, 0x1000, 0, 1),
        ({"disable_legacy": "on"}, 0x1041, 1, 0x1100),
        ({"disable_modern": True}, 0x1000, 0, 1),
    ],
)
def test_a_card_says_what_it_is(
    pc: Bench, options: dict[str, Any], device: int, revision: int, subsystem: int
) -> None:
    nic = pc.plug("virtio-net-pci", addr=4, **options)
    read = nic.function.config.read
    assert (read(0, 2), read(2, 2), read(8, 1)) == (0x1AF4, device, revision)
    assert (read(0x2C, 2), read(0x2E, 2)) == (0x1AF4, subsystem)
