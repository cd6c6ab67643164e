# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The properties of the virtio-net card."""

from __future__ import annotations

import pytest

from vmwire import catalogue
from vmwire.bus.virtio import features as bits
from vmwire.errors import ConfigError
from vmwire.nic import virtio_net
from vmwire.nic.options import (
    MAX_QUEUE_PAIRS,
    VirtioNetOptions,
    VirtioNetPciModernOptions,
    VirtioNetPciOptions,
    VirtioNetPciTransitionalOptions,
    qemu_properties,
)
from vmwire.nic.virtio_card import CARD_FEATURES
from vmwire.options.table import table_of


def card(text: str = "") -> VirtioNetOptions:
    got = catalogue.parse("device", f"virtio-net-pci,{text}")
    assert isinstance(got, VirtioNetOptions)
    return got


@pytest.mark.parametrize(
    ("switch", "feature"),
    [
        ("csum", bits.VIRTIO_NET_F_CSUM),
        ("guest_csum", bits.VIRTIO_NET_F_GUEST_CSUM),
        ("guest_tso4", bits.VIRTIO_NET_F_GUEST_TSO4),
        ("host_tso6", bits.VIRTIO_NET_F_HOST_TSO6),
        ("mrg_rxbuf", bits.VIRTIO_NET_F_MRG_RXBUF),
        ("indirect_desc", bits.VIRTIO_RING_F_INDIRECT_DESC),
        ("event_idx", bits.VIRTIO_RING_F_EVENT_IDX),
    ],
)
def test_switch_takes_its_feature_away(switch: str, feature: int) -> None:
    offered = virtio_net.FEATURES
    assert offered & feature
    assert card(f"mq=on,{switch}=off").features(offered) == offered & ~feature


def test_multiple_queues_are_offered_when_asked_for() -> None:
    assert card().features(bits.VIRTIO_NET_F_MQ) == 0
    assert card().queue_pairs == 1
    assert card("mq=on,queues=4").features(bits.VIRTIO_NET_F_MQ) == bits.VIRTIO_NET_F_MQ
    assert card("mq=on,queues=4").queue_pairs == 4


def test_every_feature_switch_is_one_that_the_card_offers() -> None:
    for key, entry in table_of(VirtioNetPciOptions).entries.items():
        assert entry.option.feature & ~CARD_FEATURES == 0, key


def test_as_many_pairs_as_help_says_can_be_asked_for() -> None:
    assert card(f"mq=on,queues={MAX_QUEUE_PAIRS}").queue_pairs == MAX_QUEUE_PAIRS


@pytest.mark.parametrize("text", ["queues=0,mq=on", "queues=2", f"mq,queues={MAX_QUEUE_PAIRS + 1}"])
def test_impossible_queues_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="queues"):
        card(text)


@pytest.mark.parametrize("path", ["", "/" + "x" * 107, "/" + "é" * 54])
def test_socket_path_that_no_socket_can_have_is_refused(path: str) -> None:
    with pytest.raises(ConfigError, match="socket path"):
        card(f"socket={path}")


def test_machines_own_properties_are_handed_on_and_ours_are_not() -> None:
    text = (
        "virtio-net-pci,id=n0,netdev=u,mac=52:54:00:12:34:56,csum=off,mq=on,bootindex=1,"
        "host_mtu=9000,addr=05.0,vectors=10,disable-legacy=on"
    )
    given = catalogue.parse("device", text + ",queues=4,socket=/run/n0.sock")
    assert str(qemu_properties(given)) == text


def test_alias_is_written_with_the_cards_own_name() -> None:
    assert str(qemu_properties(catalogue.parse("device", "virtio-net,id=n"))) == (
        "virtio-net-pci,id=n"
    )


@pytest.mark.parametrize(
    ("name", "record_type"),
    [
        ("virtio-net", VirtioNetPciOptions),
        ("virtio-net-pci", VirtioNetPciOptions),
        ("virtio-net-pci-transitional", VirtioNetPciTransitionalOptions),
        ("virtio-net-pci-non-transitional", VirtioNetPciModernOptions),
    ],
)
def test_generations_share_their_properties(name: str, record_type: type) -> None:
    got = catalogue.parse("device", f'{{"driver":"{name}","mac":"52:54:00:00:00:01","mq":true}}')
    assert type(got) is record_type
    assert got.mac == bytes.fromhex("525400000001")


@pytest.mark.parametrize(
    "text", ["rx_queue_size=0", "rx_queue_size=300", "speed=-2", "duplex=Half", "packed=on"]
)
def test_properties_are_checked_by_qemus_rules(text: str) -> None:
    with pytest.raises(ConfigError):
        card(text)
