# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Places for virtio-mmio in the bench."""

from __future__ import annotations

import pytest

from vmwire.attach.bench import BenchCards
from vmwire.bench import mmio
from vmwire.bench.machine import Bench
from vmwire.bench.virtio_mmio import Mmio
from vmwire.bench.virtio_net import VirtioNetDriver
from vmwire.errors import ConfigError
from vmwire.network import Network

REQUEST = bytes.fromhex(
    "ffffffffffff 525400123456 0806 0001080006040001 525400123456 0a00020f 000000000000 0a000202"
).ljust(60, b"\0")


def test_cards_take_the_places_in_turn_and_give_them_back() -> None:
    with Bench(1 << 20) as pc:
        cards = [mmio.plug(pc) for _ in range(mmio.PLACES)]
        assert [card.line for card in cards] == list(range(5, 13))
        assert all(Mmio(pc, card.base).device_id == 1 for card in cards)
        with pytest.raises(ConfigError, match="taken"):
            mmio.plug(pc)
        mmio.remove(pc, cards[3])
        assert pc.readl(cards[3].base) == 0xFFFFFFFF
        assert mmio.plug(pc).base == cards[3].base


def test_the_machines_reset_reaches_them() -> None:
    with Bench(1 << 20) as pc:
        card = mmio.plug(pc)
        transport = Mmio(pc, card.base)
        transport.set_status(3)
        pc.reset_all()
        assert transport.status() == 0


def test_registers_are_read_whole_and_belong_to_a_version() -> None:
    with Bench(1 << 20) as pc:
        old, new = (Mmio(pc, mmio.plug(pc, force_legacy=legacy).base) for legacy in (True, False))
        assert (old.legacy, new.legacy) == (True, False)
        assert pc.readb(old.base) == 0  # a byte of the magic number
        assert [old.read(register) for register in (0x0FC, 0x044, 0x080)] == [0, 0, 0]
        new.write(0x028, 4096)
        assert new.read(0x040) == 0
        assert (new.read(0x00C), pc.readb(new.base + 0x100)) == (0x554D4551, 0x52)


@pytest.mark.parametrize("bare", [False, True])
def test_a_networks_card_sits_in_a_place(bare: bool) -> None:
    with Bench(16 << 20, bare=bare) as pc:
        net = Network(cards=BenchCards(pc))
        net.add_netdev("user", id="u")
        net.add_nic("virtio-net-device", id="n", netdev="u", mac="52:54:00:12:34:56")
        driver = VirtioNetDriver(pc, Mmio(pc, mmio.FIRST)).start()
        driver.send(REQUEST)
        net.loop.turn(0)
        pc.settle()
        ((answer, _),) = driver.receive()
        assert answer[:6] == bytes.fromhex("525400123456") and answer[12:14] == b"\x08\x06"
        net.set_link("n", False)
        assert not driver.status & 1
        net.remove("n")
        assert pc.readl(mmio.FIRST) == 0xFFFFFFFF
        net.close()


def test_without_a_bench_there_is_no_place_for_one() -> None:
    with Network() as net, pytest.raises(ConfigError, match="bench"):
        net.add_nic("virtio-net-device", id="n")
