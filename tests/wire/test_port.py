# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The contract between two boxes, clause by clause."""

from __future__ import annotations

import pytest
from tests.wire.boxes import End, frames
from tests.wire.packets import superframe_tcp4, transport_checks

from vmwire.wire.frame import F_NEEDS_CSUM, GSO_UDP, NO_OFFLOAD, Frame, Gso, Offload
from vmwire.wire.port import EVERYTHING, PACKETS_ONLY, Accepts, stats


def joined(b: End, a: End | None = None) -> tuple[End, End]:
    a = a or End("a")
    a.port.connect(b.port)
    return a, b


SUPERFRAME = superframe_tcp4(bytes(3500), 1448)


# Batches


def test_all_frames_arrive_in_order() -> None:
    a, b = joined(End("b"))
    assert a.port.send(frames(3)) == 3
    assert b.data == [bytes([n]) * 60 for n in range(3)]
    assert stats(a.port) == {"frames": 3, "bytes": 180, "drops": {}}


def test_refused_frames_stay_with_the_sender() -> None:
    a, b = joined(End("b", room=2))
    assert a.port.send(frames(3)) == 2
    assert a.port.send(frames(3)[2:]) == 0
    assert stats(a.port) == {"frames": 2, "bytes": 120, "drops": {}}
    b.make_room()
    assert a.heard[-1] == "resume"


def test_with_nobody_there_frames_are_dropped_and_counted() -> None:
    a = End("a")
    assert a.port.send(frames(2)) == 2
    a, b = joined(End("b"))
    b.port.set_link(False)
    assert a.port.send(frames(3)) == 3
    assert b.got == []
    assert stats(a.port) == {"frames": 0, "bytes": 0, "drops": {"no carrier": 3}}


def test_resume_without_a_peer_is_harmless() -> None:
    End("a").port.resume()


# Joining and the link


def test_both_ends_hear_of_the_carrier() -> None:
    a, b = joined(End("b"))
    b.port.set_link(False)
    a.port.set_link(False)
    b.port.set_link(True)
    assert not a.port.carrier
    a.port.set_link(True)
    assert a.heard == b.heard == ["up", "down", "up"]


def test_parting_takes_the_carrier_from_both() -> None:
    a, b = joined(End("b"))
    b.port.disconnect()
    b.port.disconnect()
    assert a.heard == b.heard == ["up", "down"]
    assert a.port.peer is None
    a.port.connect(b.port)
    assert a.port.carrier


def test_joining_a_port_in_use_is_a_bug() -> None:
    a, b = joined(End("b"))
    for x, y in ((a, End("c")), (End("c"), b)):
        with pytest.raises(ValueError, match="in use"):
            x.port.connect(y.port)
    lone = End("c")
    with pytest.raises(ValueError, match="in use"):
        lone.port.connect(lone.port)


def test_own_state_of_the_peer_is_told_though_the_wire_stays_down() -> None:
    a, b = End("a"), End("b")
    told: list[bool] = []
    a.port.on_peer_link = told.append
    a.port.set_link(False)
    b.port.set_link(False)
    a.port.connect(b.port)
    b.port.set_link(True)
    a.port.disconnect()
    assert told == [False, True, False]


# Abilities


@pytest.mark.parametrize(
    ("accepts", "offload", "takes"),
    [
        (PACKETS_ONLY, NO_OFFLOAD, True),
        (PACKETS_ONLY, Offload(F_NEEDS_CSUM), False),
        (Accepts(checksum=True), Offload(F_NEEDS_CSUM), True),
        (Accepts(checksum=True), SUPERFRAME.offload, False),
        (Accepts(checksum=True, gso=Gso.TCPV6), SUPERFRAME.offload, False),
        (Accepts(checksum=True, gso=Gso.TCPV4), SUPERFRAME.offload, True),
        (Accepts(checksum=False, gso=Gso.TCPV4), SUPERFRAME.offload, False),
        (EVERYTHING, Offload(F_NEEDS_CSUM, GSO_UDP, 0, 1448), False),
    ],
)
def test_what_a_port_takes_as_it_is(accepts: Accepts, offload: Offload, takes: bool) -> None:
    assert accepts.takes(offload) == takes


def test_superframe_stays_whole_for_a_peer_that_takes_it() -> None:
    a, b = joined(End("b"))
    a.port.send([SUPERFRAME])
    assert b.data == [SUPERFRAME.tobytes()]
    assert b.got[0].offload is SUPERFRAME.offload


def test_superframe_is_cut_for_a_peer_that_cannot_take_it() -> None:
    a, b = joined(End("b", PACKETS_ONLY))
    plain = Frame.of(bytes(60))
    assert a.port.send([plain, SUPERFRAME, plain]) == 3
    assert [len(data) for data in b.data] == [60, 1502, 1502, 658, 60]
    assert all(map(transport_checks, b.data[1:4]))
    assert a.port.frames == 3


def test_superframe_taken_in_part_counts_as_taken_and_the_rest_follows() -> None:
    a, b = joined(End("b", PACKETS_ONLY, room=1))
    assert a.port.send([SUPERFRAME, SUPERFRAME]) == 1
    assert a.port.send([SUPERFRAME]) == 0
    b.make_room(1)
    assert "resume" not in a.heard  # the rest of the first goes before anything new
    b.make_room(1)
    assert a.heard[-1] == "resume"
    assert [len(data) for data in b.data] == [1502, 1502, 658]


def test_superframe_refused_whole_stays_with_the_sender() -> None:
    a, b = joined(End("b", PACKETS_ONLY, room=1))
    assert a.port.send([Frame.of(bytes(60)), SUPERFRAME]) == 1
    b.make_room()
    assert a.port.send([SUPERFRAME]) == 1
    assert len(b.got) == 4


def test_kept_rest_is_a_copy() -> None:
    a, b = joined(End("b", PACKETS_ONLY, room=1))
    memory = bytearray(SUPERFRAME.tobytes())
    memory[54:] = b"x" * (len(memory) - 54)
    a.port.send([Frame.of(memory, SUPERFRAME.offload)])
    memory[:] = bytes(len(memory))
    b.make_room()
    assert b.data[2][54:] == b"x" * 604


def test_malformed_superframe_is_dropped_and_counted() -> None:
    a, b = joined(End("b", PACKETS_ONLY))
    assert a.port.send([Frame.of(bytes(100), SUPERFRAME.offload), Frame.of(bytes(60))]) == 2
    assert [len(data) for data in b.data] == [60]
    assert stats(a.port)["drops"] == {"malformed superframe": 1}


def test_frame_too_long_for_the_peer_is_dropped_and_counted_once() -> None:
    a, b = joined(End("b", Accepts(largest=1514), room=0))
    batch = [Frame.of(bytes(1515)), Frame.of(bytes(1514))]
    assert a.port.send(batch) == 1
    assert a.port.send(batch[1:]) == 0
    b.make_room()
    assert a.port.send(batch[1:]) == 1
    assert stats(a.port)["drops"] == {"too long": 1}


def test_change_of_abilities_is_told_once() -> None:
    a, b = joined(End("b"))
    told: list[Accepts] = []
    a.port.on_accepts_changed = lambda: told.append(a.port.peer_accepts)
    b.port.set_accepts(PACKETS_ONLY)
    b.port.set_accepts(PACKETS_ONLY)
    b.port.set_room(None)
    assert told == [PACKETS_ONLY]
    a.port.disconnect()
    assert told == [PACKETS_ONLY, EVERYTHING]


# Reservations


def test_reserved_room_is_written_and_committed() -> None:
    a, b = joined(End("b", memory=2000))
    assert a.port.reserves
    views = a.port.reserve(1000)
    assert views is not None
    assert [len(view) for view in views] == [138, 862]
    views[0][:5] = b"hello"
    a.port.commit(5, SUPERFRAME.offload)
    assert b.committed == [(b"hello", SUPERFRAME.offload)]
    assert stats(a.port) == {"frames": 1, "bytes": 5, "drops": {}}


def test_reservation_can_be_refused_and_given_back() -> None:
    a, b = joined(End("b", memory=2000))
    b.busy = True
    assert a.port.reserve(10) is None
    b.busy = False
    assert a.port.reserve(10) is not None
    a.port.cancel()
    assert b.heard[-1] == "cancel"
    assert a.port.frames == 0


def test_no_reservations_without_room_or_carrier() -> None:
    a, b = joined(End("b"))
    assert not a.port.reserves
    assert a.port.reserve(10) is None
    a, b = joined(End("b", memory=100))
    b.port.set_link(False)
    assert not a.port.reserves
    assert a.port.reserve(10) is None


# Boxes that enter and leave


def test_box_enters_and_leaves_without_the_carrier_going() -> None:
    a, b = joined(End("b"))
    left, right = End("l").port, End("r").port
    a.port.insert(left, right)
    assert (a.port.peer, b.port.peer) == (left, right)
    left.bypass(right)
    assert a.port.peer is b.port
    assert a.heard == b.heard == ["up"]
    assert a.port.send(frames(1)) == 1
    assert len(b.got) == 1
