# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Mirrors and redirectors: frames to and from a chardev's peer."""

from __future__ import annotations

import contextlib
import socket
from itertools import islice
from pathlib import Path

import pytest
from tests.filters.rig import Rig, framed
from tests.wire.boxes import End, frames
from tests.wire.packets import superframe_tcp4

from vmwire.filters import line, redirector
from vmwire.filters.packets import BrokenFraming, Unpacker, pack
from vmwire.wire.frame import Frame, Offload
from vmwire.wire.offload import finish

SUPERFRAME = superframe_tcp4(bytes(3000), 1448)


def headed(frame: Frame) -> bytes:
    """A frame with its virtio header, as QEMU's filters write it."""
    data = frame.offload.packed + b"\0\0" + frame.tobytes()
    return len(data).to_bytes(4, "big") + (12).to_bytes(4, "big") + data


# The framing


def test_plain_frames_are_finished_before_they_are_written() -> None:
    assert pack(Frame.of(b"a" * 60), False) == framed(b"a" * 60)
    parts = [part.tobytes() for part in finish(SUPERFRAME)]
    assert len(parts) == 3
    assert pack(SUPERFRAME, False) == framed(*parts)


def test_superframes_stay_whole_behind_their_header() -> None:
    data = pack(SUPERFRAME, True)
    assert data == headed(SUPERFRAME)
    (frame,) = Unpacker(True).feed(data)
    assert (frame.tobytes(), frame.offload) == (SUPERFRAME.tobytes(), SUPERFRAME.offload)


@pytest.mark.parametrize("size", [1, 3, 7, 64, 1000])
def test_frames_may_come_in_any_pieces(size: int) -> None:
    unpacker, found = Unpacker(False), []
    data = framed(b"a" * 60, b"b" * 1514, b"", b"c")
    for at in range(0, len(data), size):
        found += unpacker.feed(data[at : at + size])
    assert [frame.tobytes() for frame in found] == [b"a" * 60, b"b" * 1514, b"c"]


@pytest.mark.parametrize(
    ("data", "with_header"),
    [
        ("7fffffff", False),
        ("00011000", False),
        ("0000003c 0000000b", True),
        ("00000008 0000000c", True),
        ("ffffffff 00000000", True),
    ],
)
def test_what_is_no_frame_breaks_the_framing(data: str, with_header: bool) -> None:
    with pytest.raises(BrokenFraming):
        Unpacker(with_header).feed(bytes.fromhex(data))


@pytest.mark.parametrize("header", [0, 10, 12])
def test_headers_of_all_lengths_are_understood(header: int) -> None:
    lengths = (header + 60).to_bytes(4, "big") + header.to_bytes(4, "big")
    (frame,) = Unpacker(True).feed(lengths + bytes(header) + b"x" * 60)
    assert (frame.tobytes(), frame.offload) == (b"x" * 60, Offload())


# Mirrors


def test_a_mirror_copies_what_passes(rig: Rig) -> None:
    peer = rig.chardev()
    rig.add("filter-mirror", outdev="c")
    rig.guest.port.send([Frame.of(b"r" * 60)])
    rig.netdev.port.send([Frame.of(b"t" * 61)])
    assert peer.recv(1000) == framed(b"r" * 60, b"t" * 61)
    assert (rig.netdev.data, rig.guest.data) == ([b"r" * 60], [b"t" * 61])
    peer.send(framed(b"what a peer says is not for the wire"))
    rig.turn()
    assert len(rig.guest.got) == 1


def test_a_mirror_copies_one_queue(rig: Rig) -> None:
    peer = rig.chardev()
    rig.add("filter-mirror", outdev="c", queue="rx")
    rig.netdev.port.send(frames(1))
    rig.guest.port.send([Frame.of(b"r" * 60)])
    assert peer.recv(1000) == framed(b"r" * 60)


def test_what_the_far_side_refuses_is_copied_once(rig: Rig) -> None:
    peer = rig.chardev()
    rig.netdev.room = 1
    rig.add("filter-mirror", id="m", outdev="c")
    assert rig.guest.port.send(frames(3, 60)) == 3
    assert rig.guest.port.send(frames(1)) == 0
    rig.objects.change("m", "status", "off")
    assert rig.guest.port.send(frames(1)) == 0
    rig.netdev.make_room()
    assert rig.guest.heard[-1] == "resume"
    assert [data[0] for data in rig.netdev.data] == [0, 1, 2]
    assert peer.recv(1000) == framed(*(bytes([n]) * 60 for n in range(3)))


def test_a_question_is_copied_before_its_answer(rig: Rig) -> None:
    peer = rig.chardev()
    rig.add("filter-mirror", outdev="c")

    def answer(received: object) -> int:
        rig.netdev.port.send([Frame.of(b"A" * 60)])
        return 1

    rig.netdev.port.receive = answer
    rig.guest.port.send([Frame.of(b"Q" * 60)])
    assert peer.recv(1000) == framed(b"Q" * 60, b"A" * 60)


def test_superframes_go_to_the_peer_with_their_header_if_it_knows_such(rig: Rig) -> None:
    peer = rig.chardev()
    rig.add("filter-mirror", outdev="c", vnet_hdr_support=True)
    rig.guest.port.send([SUPERFRAME])
    assert peer.recv(10000) == headed(SUPERFRAME)
    assert rig.netdev.got[0].length == SUPERFRAME.length


def test_a_mirror_whose_peer_does_not_read_loses_copies_only(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 10_000)
    rig.chardev()
    box = rig.add("filter-mirror", outdev="c")
    for _ in range(1000):
        assert rig.guest.port.send(frames(1, 1500)) == 1
    assert len(rig.netdev.got) == 1000
    outdev = box.stats()["outdev"]
    assert isinstance(outdev, dict)
    assert outdev["peer busy"] > 100


def test_a_mirror_without_a_peer_waits_for_the_next_one(rig: Rig, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    rig.objects.add_chardev("socket", {"id": "c", "path": path, "server": True})
    box = rig.add("filter-mirror", outdev="c")
    rig.guest.port.send(frames(1))
    for _ in range(2):
        with socket.socket(socket.AF_UNIX) as peer:
            peer.connect(path)
            rig.until(lambda: box.stats()["outdev"]["connected"])  # type: ignore[index]
            rig.guest.port.send([Frame.of(b"x" * 60)])
            assert peer.recv(1000) == framed(b"x" * 60)
        rig.until(lambda: not box.stats()["outdev"]["connected"])  # type: ignore[index]
    box.close()
    assert not (tmp_path / "s").exists()


# Redirectors


def test_a_redirector_sends_away_what_comes(rig: Rig) -> None:
    peer = rig.chardev()
    rig.add("filter-redirector", outdev="c", queue="rx")
    rig.guest.port.send([Frame.of(b"r" * 60)])
    rig.netdev.port.send([Frame.of(b"t" * 60)])
    assert peer.recv(1000) == framed(b"r" * 60)
    assert (rig.netdev.data, rig.guest.data) == ([], [b"t" * 60])


@pytest.mark.parametrize(("queue", "reached"), [("rx", "n"), ("tx", "g"), ("all", "gn")])
def test_what_a_redirector_is_told_goes_on_from_there(rig: Rig, queue: str, reached: str) -> None:
    peer = rig.chardev()
    rig.add("filter-redirector", indev="c", queue=queue)
    peer.send(framed(b"x" * 60))
    rig.turn()
    ends: dict[str, End] = {"g": rig.guest, "n": rig.netdev}
    assert "".join(name for name, end in ends.items() if end.data == [b"x" * 60]) == reached
    rig.guest.port.send([Frame.of(b"r" * 60)])
    assert rig.netdev.data[-1] == b"r" * 60


def test_a_redirector_that_is_off_is_not_there_and_reads_nothing(rig: Rig) -> None:
    out, into = rig.chardev("o"), rig.chardev("i")
    rig.add("filter-redirector", id="r", indev="i", outdev="o", status="off")
    into.send(framed(b"x" * 60))
    rig.turn()
    rig.guest.port.send([Frame.of(b"r" * 60)])
    assert (rig.netdev.data, rig.guest.data) == ([b"r" * 60], [])
    rig.objects.change("r", "status", "on")
    rig.turn()
    assert (rig.netdev.data, rig.guest.data) == ([b"r" * 60, b"x" * 60], [b"x" * 60])
    rig.guest.port.send([Frame.of(b"R" * 60)])
    assert out.recv(1000) == framed(b"R" * 60)


def test_a_peer_that_does_not_read_makes_the_sender_wait(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 10_000)
    peer = rig.chardev()
    rig.add("filter-redirector", outdev="c", queue="rx")
    count = 0
    while rig.guest.port.send(frames(1, 1500)):
        count += 1
        assert count < 10_000
    peer.setblocking(False)
    got = 0
    while "resume" not in rig.guest.heard:
        try:
            got += len(peer.recv(1 << 20))
        except BlockingIOError:
            pass
        rig.turn()
    assert rig.guest.port.send(frames(1)) == 1
    assert got <= count * 1504


def test_what_the_wire_refuses_waits_within_bounds(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redirector, "MOST_WAITING", 3)
    peer = rig.chardev()
    box = rig.add("filter-redirector", indev="c", queue="rx")
    rig.netdev.room = 1
    for _ in range(2):
        peer.send(framed(*(bytes([n]) * 60 for n in range(3))))
        rig.turn()
    rig.netdev.make_room()
    assert [data[0] for data in rig.netdev.data] == [0, 1, 2, 0]
    assert box.right.drops == {"no room": 2}


def test_broken_framing_ends_the_connection_and_nothing_else(rig: Rig) -> None:
    peer = rig.chardev()
    box = rig.add("filter-redirector", indev="c")
    peer.send(b"\xff" * 100)
    rig.turn()
    assert peer.recv(10) == b""
    assert box.stats()["indev"] == {"connected": False}
    assert rig.guest.port.send(frames(1)) == 1


def test_a_peer_that_leaves_lets_the_waiting_go(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 10_000)
    peer = rig.chardev()
    rig.add("filter-redirector", outdev="c")
    while rig.guest.port.send(frames(1, 1500)):
        pass
    peer.close()
    rig.until(lambda: "resume" in rig.guest.heard)
    assert rig.guest.port.send(frames(1)) == 1


def test_a_peer_that_reads_little_by_little_gets_everything_in_order(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 10_000)
    peer = rig.chardev()
    rig.add("filter-redirector", outdev="c", queue="rx")
    peer.setblocking(False)
    unpacker, got = Unpacker(False), bytearray()
    numbers = iter(range(3000))
    burst = list(islice(numbers, 40))
    for _ in range(2000):
        taken = rig.guest.port.send([Frame.of(n.to_bytes(2, "big") * 700) for n in burst])
        burst = burst[taken:] or list(islice(numbers, 40))
        if taken == 0 and burst:
            rig.guest.heard.clear()
            while "resume" not in rig.guest.heard:
                try:
                    for each in unpacker.feed(peer.recv(5000)):
                        got += each.tobytes()[:2]
                except BlockingIOError:
                    pass
                rig.turn(1)
        if not burst:
            break
    rig.turn()
    with contextlib.suppress(BlockingIOError):
        while data := peer.recv(1 << 20):
            for each in unpacker.feed(data):
                got += each.tobytes()[:2]
            rig.turn(1)
    assert [int.from_bytes(got[at : at + 2], "big") for at in range(0, len(got), 2)] == list(
        range(3000)
    )
