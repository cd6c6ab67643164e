# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Two cards in one machine, a cable between them, a driver at each."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.nic.e1000.card import CARDS, KINDS, MAC, Driver
from tests.nic.e1000.test_on_bench_transmit import OPTIONS, tso
from tests.wire.packets import transport_checks
from vmwire.bench import e1000_spec as spec
from vmwire.bench.machine import Bench

OTHER = bytes.fromhex("525400123457")
RECEIVE = spec.RCTL_BAM | spec.RCTL_SECRC

Pair = tuple[Driver, Driver]


@pytest.fixture(params=zip(CARDS, reversed(CARDS), strict=True), ids="-".join)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    with Bench() as pc:
        near = pc.plug(request.param[0], mac=MAC, addr=4)
        far = pc.plug(request.param[1], mac=OTHER, addr=5)
        for nic in (near, far):
            nic.wire.port.disconnect()
        near.function.port.connect(far.function.port)
        one, other = (
            KINDS[name][1](pc, slot, ring=128).start(receive=RECEIVE)
            for name, slot in zip(request.param, (4, 5), strict=True)
        )
        yield one, other


def to(destination: bytes, source: bytes, number: int, length: int = 100) -> bytes:
    return (destination + source + b"\x88\xb5" + number.to_bytes(2, "big")).ljust(length, b"\x5a")


def test_frames_go_both_ways(pair: Pair) -> None:
    near, far = pair
    for turn in range(30):
        out = [to(far.mac, near.mac, n, 60 + 48 * n) for n in range(turn)]
        back = [to(near.mac, far.mac, n, 1514 - n) for n in range(turn)]
        for one, other in zip(out, back, strict=True):
            near.send(one, kick=False)
            far.send(other, kick=False)
        near.kick()
        far.kick()
        assert [got.data for got in far.receive()] == out
        assert [got.data for got in near.receive()] == back
    assert near.statistics()["GPTC"] == far.statistics()["GPRC"] == sum(range(30))


def test_a_superframe_arrives_as_checked_segments(pair: Pair) -> None:
    near, far = pair
    far.write(spec.RXCSUM, spec.RXCSUM_IP | spec.RXCSUM_TCP_UDP)
    frame, context = tso(4, 60_000, 1448)
    near.send_extended(far.mac + frame[6:], context, options=OPTIONS[4], pieces=[54, *[4096] * 14])
    got = far.receive()
    assert b"".join(one.data[54:] for one in got)[:60_000] == frame[54:]
    assert all(transport_checks(one.data) for one in got[:-1])
    assert {one.errors for one in got} == {0}


def test_a_stalled_receiver_holds_the_sender_and_loses_nothing(pair: Pair) -> None:
    near, far = pair
    far.start_receive(RECEIVE, buffers=10)
    sent = [to(far.mac, near.mac, number) for number in range(100)]
    for frame in sent:
        near.send(frame, kick=False)
    near.kick()
    assert near.tx_head < 100
    got: list[bytes] = []
    for _ in range(20):
        got += [one.data for one in far.receive()]
    assert got == sent
    assert near.tx_head == 100


def test_one_end_that_goes_down_takes_the_others_link(pair: Pair) -> None:
    near, far = pair
    bench = near.pc
    assert isinstance(bench, Bench)
    bench.cards["nic1"].function.set_link(False)
    assert not near.read(spec.STATUS) & spec.STATUS_LU
    bench.cards["nic1"].function.set_link(True)
    near.wait(spec.STATUS, spec.STATUS_LU)
    far.wait(spec.STATUS, spec.STATUS_LU)
