# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What becomes of a burst that was read from a tap."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.wire.test_runs import LEFT, datagram, no_identification, texts

from vmwire.netdev.tap_slots import Slots
from vmwire.wire.frame import Frame
from vmwire.wire.offload import finish
from vmwire.wire.runs import IPV4, IPV6, Kind, Run

HEADER = LEFT[IPV4].packed
OTHER = bytes(10) + b"\xff" * 12 + b"\x08\x06" + bytes(46)


def read(burst: Sequence[bytes], slots: Slots | None = None) -> list[Frame]:
    """The frames of a burst, headers in front, that was read with runs wanted."""
    if slots is None:
        slots = Slots(64, header=True)
        slots.joins = True
    for slot, data in zip(slots.wholes, burst, strict=False):
        slot[: len(data)] = data
    return slots.frames([len(data) for data in burst])


def packet(payload: bytes, kind: Kind = IPV4) -> bytes:
    return LEFT[kind].packed + datagram(kind, payload)


def numbered(data: bytes, identification: int) -> bytes:
    """With another identification, and a checksum to it."""
    head = bytearray(data)
    head[28:30] = identification.to_bytes(2, "big")
    head[34:36] = (
        (int.from_bytes(head[34:36], "big") + 0x1234 - identification) % 0xFFFF
    ).to_bytes(2, "big")
    return bytes(head)


@pytest.mark.parametrize("kind", [IPV4, IPV6], ids=["IPv4", "IPv6"])
def test_equal_datagrams_become_one_frame(kind: Kind) -> None:
    (run,) = read([packet(each, kind) for each in texts(64)])
    assert [part.tobytes()[kind.headers :] for part in finish(run)] == texts(64)


def test_the_identification_may_differ() -> None:
    (run,) = read([numbered(packet(each), 7 + at) for at, each in enumerate(texts(5))])
    assert isinstance(run, Run)


def test_datagrams_stay_by_themselves_where_they_must() -> None:
    slots = Slots(64, header=True)
    assert len(read([packet(each) for each in texts(5)], slots)) == 5


def test_one_frame_is_no_run() -> None:
    (frame,) = read([packet(b"alone")])
    assert not isinstance(frame, Run)


IN_COMMON = [*range(10, 28), *range(30, 34), *range(36, 46)]


@pytest.mark.parametrize("at", IN_COMMON)
@pytest.mark.parametrize("number", [1, 4])
def test_a_datagram_that_differs_in_any_other_way_is_not_joined(at: int, number: int) -> None:
    burst = [packet(each) for each in texts(5)]
    odd = bytearray(burst[number])
    odd[at] ^= 1
    burst[number] = bytes(odd)
    frames = read(burst)
    assert len(frames) == 2
    assert sum(frame.length for frame in frames) == 60 + 42 + 4 * 18
    assert bytes(odd[10:]) in [frame.tobytes() for frame in frames]


def test_flows_between_each_other_keep_their_order() -> None:
    a = [packet(each) for each in texts(3)]
    b = [packet(each) for each in texts(3, 20)]
    frames = read([a[0], OTHER, b[0], a[1], b[1], a[2], b[2]])
    assert [frame.length for frame in frames] == [42 + 54, 60, 42 + 60]
    assert frames[0].tobytes()[42:] == b"".join(texts(3))
    assert frames[2].tobytes()[42:] == b"".join(texts(3, 20))


def test_other_frames_are_as_they_came() -> None:
    frames = read([OTHER, OTHER, OTHER])
    assert [frame.tobytes() for frame in frames] == [OTHER[10:]] * 3


def test_a_burst_of_another_size_is_cut_elsewhere() -> None:
    slots = Slots(8, header=True)
    slots.joins = True
    for size in (18, 30, 18):
        (run,) = read([packet(each) for each in texts(4, size)], slots)
        assert run.tobytes()[42:] == b"".join(texts(4, size))


def test_without_headers_frames_are_plain() -> None:
    slots = Slots(4, header=False)
    frames = read([b"one", b"three"], slots)
    assert [frame.tobytes() for frame in frames] == [b"one", b"three"]


def test_a_run_is_what_its_datagrams_were() -> None:
    burst = [numbered(packet(each), 9 + at) for at, each in enumerate(texts(6))]
    (run,) = read(burst)
    expected = [finish(Frame.of(data[10:], LEFT[IPV4]))[0].tobytes() for data in burst]
    found = [part.tobytes() for part in finish(run)]
    assert [no_identification(each) for each in found] == [
        no_identification(each) for each in expected
    ]


def test_bursts_in_which_little_is_alike_are_not_searched_for_a_while() -> None:
    slots = Slots(64, header=True)
    slots.joins = True
    mixed = [packet(bytes(18 + number)) for number in range(6)]
    assert len(read(mixed, slots)) == 6
    joinable = [*[packet(each) for each in texts(5)], OTHER]
    assert [len(read(joinable, slots)) for _ in range(16)] == [6] * 15 + [2]


def test_a_burst_of_one_flow_is_joined_all_the_same() -> None:
    slots = Slots(64, header=True)
    slots.joins = True
    read([packet(bytes(18 + number)) for number in range(6)], slots)
    assert len(read([packet(each) for each in texts(5)], slots)) == 1
