# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-netdev vhost-user`` against vmwire's own back end, the card of ``attach.vhost_user``."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.netdev.sockets import Bed
from tests.wire.boxes import End, frames
from tests.wire.packets import superframe_tcp4

from vmwire.attach.vhost_user import VhostUserNic
from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.netdev import vhost_user_rings
from vmwire.nic.options import VirtioNetPciOptions
from vmwire.wire.frame import Frame
from vmwire.wire.port import EVERYTHING


class Both:
    """The netdev, joined to an end of a wire, and a back end, joined to another."""

    def __init__(self, folder: Path) -> None:
        self.path = str(folder / "s")
        self.bed = Bed()
        self.cards: list[VhostUserNic] = []

    def back_end(self, **options: Any) -> End:
        """Have a back end listen; what it is joined to."""
        card = VhostUserNic(VirtioNetPciOptions(id="n0", socket=self.path, **options))
        end = End("beyond")
        end.port.connect(card.port)
        card.open(Host(self.bed.loop))
        self.cards.append(card)
        return end

    def netdev(self, options: str = "") -> tuple[Any, End]:
        return self.bed.add(f"vhost-user,id=v,file={self.path}{options}")

    def meet(self, options: str = "", **card: Any) -> tuple[Any, End, End]:
        """The netdev, its end, and the end beyond, when both have a carrier."""
        beyond = self.back_end(**card)
        netdev, end = self.netdev(options)
        self.bed.until(lambda: netdev.stats()["rings"] == "own" and beyond.port.carrier)
        return netdev, end, beyond

    def close(self) -> None:
        self.bed.close_boxes()
        for card in self.cards:
            card.close()
        self.bed.loop.close()


@pytest.fixture
def both(tmp_path: Path) -> Iterator[Both]:
    gc.collect()  # what earlier tests have left lying about
    before = len(os.listdir("/proc/self/fd"))
    it = Both(tmp_path)
    yield it
    it.close()
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


def test_frames_go_both_ways(both: Both) -> None:
    netdev, end, beyond = both.meet()
    end.port.send(frames(3))
    beyond.port.send(frames(2, 1514))
    both.bed.until(lambda: len(beyond.got) == 3 and len(end.got) == 2)
    assert beyond.data == [bytes([number]) * 60 for number in range(3)]
    assert end.data == [bytes([number]) * 1514 for number in range(2)]
    assert netdev.stats()["connected"]


def test_superframes_stay_whole_in_several_buffers(both: Both) -> None:
    _, end, beyond = both.meet()
    whole = superframe_tcp4(os.urandom(60000), 1448)
    end.port.send([whole])
    beyond.port.send([whole])
    both.bed.until(lambda: beyond.got and end.got)
    for got in (*beyond.got, *end.got):
        assert got.tobytes() == whole.tobytes()
        assert got.offload == whole.offload


@pytest.mark.parametrize(
    "without", [{"mrg_rxbuf": False}, {"event_idx": False}, {"csum": False, "guest_csum": False}]
)
def test_what_the_back_end_lacks_is_done_without(both: Both, without: dict[str, bool]) -> None:
    netdev, end, beyond = both.meet(**without)
    whole = superframe_tcp4(bytes(20000), 1448)
    end.port.send([whole, *frames(1)])
    beyond.port.send([whole, *frames(1)])
    both.bed.until(lambda: beyond.data[-1:] == end.data[-1:] == [bytes(60)])
    assert (len(end.got) == 2) is (len(beyond.got) == 2) is ("csum" not in without)
    assert netdev.port.accepts == (EVERYTHING if "csum" not in without else netdev.port.accepts)


def test_a_full_ring_refuses_and_resumes(both: Both) -> None:
    _, end, beyond = both.meet()
    beyond.room = 10
    count = 3 * vhost_user_rings.SEND_ENTRIES
    waiting = [Frame.of(number.to_bytes(4, "big") * 15) for number in range(count)]
    del waiting[: end.port.send(waiting)]
    both.bed.turn()
    del waiting[: end.port.send(waiting)]
    assert len(beyond.got) == 10 and waiting
    beyond.make_room()

    def all_there() -> bool:
        if end.heard.count("resume"):
            end.heard.clear()
            del waiting[: end.port.send(waiting)]
        return len(beyond.got) == count

    both.bed.until(all_there)
    assert [int.from_bytes(data[:4], "big") for data in beyond.data] == list(range(count))


def test_what_the_wire_refuses_waits_in_the_ring(both: Both) -> None:
    _, end, beyond = both.meet()
    end.room = 5
    count = 3000
    sent = 0
    for _ in range(200):
        batch = [Frame.of((sent + n).to_bytes(4, "big") * 15) for n in range(min(64, count - sent))]
        sent += beyond.port.send(batch) if batch else 0
        both.bed.turn()
    assert len(end.got) == 5
    assert sent < count, "the back end was not held up"
    end.make_room()

    def all_there() -> bool:
        nonlocal sent
        batch = [Frame.of((sent + n).to_bytes(4, "big") * 15) for n in range(min(64, count - sent))]
        sent += beyond.port.send(batch) if batch else 0
        return len(end.got) == count

    both.bed.until(all_there)
    assert [int.from_bytes(data[:4], "big") for data in end.data] == list(range(count))


def test_flows_are_spread_over_several_pairs_and_stay_in_order(both: Both) -> None:
    _netdev, end, beyond = both.meet(",queues=3", mq=True, queues=3)
    assert both.cards[0].stats()["queues"] == dict.fromkeys(range(6), "on")
    flows = [
        Frame.of(bytes(12) + b"\x08\x00" + bytes(12) + bytes([number % 7]) * 12 + bytes([number]))
        for number in range(200)
    ]
    end.port.send(flows)
    both.bed.until(lambda: len(beyond.got) == 200)
    for flow in range(7):
        own = [data[-1] for data in beyond.data if data[26] == flow]
        assert own == sorted(own) and len(own) > 20


def test_more_queues_than_the_back_end_has_are_not_served(both: Both) -> None:
    both.back_end()
    netdev, end = both.netdev(",queues=2")
    both.bed.until(lambda: netdev.connections and not netdev._link)
    assert not end.port.carrier


def test_the_link_is_down_until_a_back_end_is_there_and_after_it_has_left(both: Both) -> None:
    both.back_end()
    netdev, end = both.netdev()
    assert not end.port.carrier
    both.bed.until(lambda: end.port.carrier)
    assert netdev.info == f"vhost-user0 to {both.path}"
    connected = {"netdev-id": "v", "chardev-id": "v"}
    assert both.bed.events == [("NETDEV_VHOST_USER_CONNECTED", connected)]
    both.cards.pop().close()
    both.bed.until(lambda: not end.port.carrier)
    assert netdev.stats()["rings"] == "none"
    assert both.bed.events[1:] == [("NETDEV_VHOST_USER_DISCONNECTED", {"netdev-id": "v"})]


def test_a_client_comes_back_to_a_new_back_end_under_traffic(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmwire.netdev.vhost_user.RECONNECT_MS", 20)
    netdev, end, _first = both.meet()
    for number in range(3):
        for _ in range(5):
            end.port.send(frames(20))
            both.bed.loop.turn(0)
        both.cards.pop().close()
        both.bed.until(lambda: not end.port.carrier)
        beyond = both.back_end()
        both.bed.until(lambda: netdev.stats()["rings"] == "own")
        end.port.send(frames(4))
        both.bed.until(lambda: len(beyond.got) == 4)  # noqa: B023
        assert netdev.connections == number + 2


def test_no_back_end_at_the_start_is_an_error_as_in_qemu(both: Both) -> None:
    with pytest.raises(ConfigError, match=r"Failed to connect to '.*/s': No such file"):
        both.netdev()


def test_a_hand_over_hangs_up_and_going_on_connects_again(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmwire.netdev.vhost_user.RECONNECT_MS", 20)
    netdev, _end, _beyond = both.meet()
    netdev.hand_over()
    both.bed.until(lambda: not both.cards[0].stats()["connected"])
    netdev.go_on()
    both.bed.until(lambda: netdev.stats()["rings"] == "own")


def test_a_pulled_cable_stays_pulled_over_a_new_connection(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmwire.netdev.vhost_user.RECONNECT_MS", 20)
    netdev, end, _ = both.meet()
    netdev.set_link(False)
    assert not end.port.carrier
    both.cards.pop().close()
    both.bed.until(lambda: netdev.stats()["rings"] == "none")
    both.back_end()
    both.bed.until(lambda: netdev.stats()["rings"] == "own")
    assert not end.port.carrier
    netdev.set_link(True)
    assert end.port.carrier


def test_the_memory_that_is_shared_cant_be_shrunk(both: Both) -> None:
    both.meet()
    assert both.cards[0].stats()["memory_sealed"]
