# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from tests.netdev.sockets import Bed, free_port
from tests.wire.boxes import End
from tests.wire.packets import superframe_tcp4

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.netdev.dgram import DgramOptions
from vmwire.netdev.superframes import WORTH_BYTES
from vmwire.options.table import table_of
from vmwire.wire.frame import F_NEEDS_CSUM, NO_OFFLOAD, Frame, Offload
from vmwire.wire.port import EVERYTHING

UDP = socket.SOCK_DGRAM
SIZES = [14, 60, 1514, 9014, 60014]


def inet(local: int, remote: int) -> str:
    return (
        f"local.type=inet,local.host=127.0.0.1,local.port={local},"
        f"remote.type=inet,remote.host=127.0.0.1,remote.port={remote}"
    )


def unix(local: Path, remote: Path) -> str:
    return f"local.type=unix,local.path={local},remote.type=unix,remote.path={remote}"


def udp_pair(sockets: Bed) -> tuple[str, str]:
    here, there = free_port(UDP), free_port(UDP)
    return f"dgram,id=a,{inet(here, there)}", f"dgram,id=b,{inet(there, here)}"


def unix_pair(path: Path) -> tuple[str, str]:
    here, there = path / "a", path / "b"
    return f"dgram,id=a,{unix(here, there)}", f"dgram,id=b,{unix(there, here)}"


@pytest.fixture(params=["udp", "unix", "abstract", "socket,udp"])
def pair(request: pytest.FixtureRequest, sockets: Bed, tmp_path: Path) -> list[tuple[Any, End]]:
    if request.param == "udp":
        texts = udp_pair(sockets)
    elif request.param == "socket,udp":
        here, there = (f"127.0.0.1:{free_port(UDP)}" for _ in range(2))
        texts = (
            f"socket,id=a,udp={here},localaddr={there}",
            f"socket,id=b,udp={there},localaddr={here}",
        )
    else:
        texts = unix_pair(tmp_path)
        if request.param == "abstract":
            texts = (
                f"{texts[0]},local.abstract=on,remote.abstract=on",
                f"{texts[1]},local.abstract=on,remote.abstract=on",
            )
    return [sockets.add(text) for text in texts]


def test_each_frame_is_a_datagram(sockets: Bed, pair: list[tuple[Any, End]]) -> None:
    (_, one), (_, other) = pair
    for size in SIZES:
        data = bytes(range(256)) * 300
        one.port.send([Frame.of(data[:size])])
        other.port.send([Frame.of(data[:size]), Frame.of(b"x" * 60)])
        sockets.until(lambda: len(other.got) == 1 and len(one.got) == 2)
        assert other.data == [data[:size]]
        assert one.data == [data[:size], b"x" * 60]
        one.got.clear()
        other.got.clear()


def test_superframes_stay_whole_between_two_of_ours(
    sockets: Bed, pair: list[tuple[Any, End]]
) -> None:
    (netdev, one), (_, other) = pair
    for _ in range(WORTH_BYTES // 1514 + 1):
        one.port.send([Frame.of(bytes(1514))])
        sockets.turn()
    assert netdev.port.accepts == EVERYTHING
    for payload in (20000, 65470):  # the second is longer than a datagram
        other.got.clear()
        whole = superframe_tcp4((bytes(range(251)) * 261)[:payload], 1448)
        one.port.send([whole])
        sockets.until(lambda: other.got)
        assert other.got[0].tobytes() == whole.tobytes()
        assert other.got[0].offload == whole.offload


def test_small_frames_of_a_burst_share_a_datagram_between_two_of_ours(
    sockets: Bed, pair: list[tuple[Any, End]]
) -> None:
    (_, one), (_, other) = pair
    for _ in range(WORTH_BYTES // 1514 + 1):
        one.port.send([Frame.of(bytes(1514))])
        sockets.turn()
    other.got.clear()
    undone = Offload(F_NEEDS_CSUM, checksum_start=34, checksum_offset=6)
    offloads = (undone, NO_OFFLOAD)
    burst = [  # a Unix queue holds ten datagrams
        Frame.of(bytes([n]) * (60 + n), offloads[n % 2]) for n in range(150)
    ]
    assert one.port.send(burst) == 150
    sockets.until(lambda: len(other.got) == 150)
    assert other.data == [frame.tobytes() for frame in burst]
    assert [frame.offload for frame in other.got] == [frame.offload for frame in burst]


def test_pieces_of_superframes_are_joined_across_batches(
    sockets: Bed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("vmwire.netdev.datagram_line.BATCH_FRAMES", 3)
    texts = udp_pair(sockets)
    (_, one), (_, other) = sockets.add(texts[0]), sockets.add(texts[1])
    for _ in range(WORTH_BYTES // 1514 + 1):
        one.port.send([Frame.of(bytes(1514))])
        sockets.turn()
    other.got.clear()
    sent = [superframe_tcp4(bytes([n]) * 65470, 1448) for n in range(4)]
    one.port.send(sent)
    sockets.until(lambda: len(other.got) == 4)
    assert other.data == [frame.tobytes() for frame in sent]


@pytest.mark.parametrize("strangers", ["off", "on"])
def test_a_datagram_of_a_stranger_is_heard_only_if_that_is_wanted(
    sockets: Bed, strangers: str
) -> None:
    here, there = free_port(UDP), free_port(UDP)
    _, end = sockets.add(f"dgram,id=a,{inet(here, there)},strangers={strangers}")
    with socket.socket(type=UDP) as stranger, socket.socket(type=UDP) as peer:
        peer.bind(("127.0.0.1", there))
        stranger.sendto(b"s" * 60, ("127.0.0.1", here))
        peer.sendto(b"p" * 60, ("127.0.0.1", here))
        sockets.until(lambda: b"p" * 60 in end.data)
        assert (b"s" * 60 in end.data) is (strangers == "on")
        end.port.send([Frame.of(b"answer")])
        assert peer.recv(100) == b"answer"


def test_an_empty_datagram_is_counted_and_does_not_stall(sockets: Bed) -> None:
    here, there = free_port(UDP), free_port(UDP)
    netdev, end = sockets.add(f"dgram,id=a,{inet(here, there)}")
    with socket.socket(type=UDP) as peer:
        peer.bind(("127.0.0.1", there))
        for data in (b"", b"x" * 60):
            peer.sendto(data, ("127.0.0.1", here))
        sockets.until(lambda: end.got)
    assert end.data == [b"x" * 60]
    assert netdev.port.drops["empty frame"] == 1


def test_a_udp_peer_may_come_later_and_leave(sockets: Bed) -> None:
    here, there = udp_pair(sockets)
    _, one = sockets.add(here)
    for _ in range(3):
        assert one.port.send([Frame.of(b"nobody")]) == 1
        sockets.turn()
    netdev, other = sockets.add(there)
    one.port.send([Frame.of(b"somebody")])
    sockets.until(lambda: other.got)
    netdev.close()
    for _ in range(3):
        assert one.port.send([Frame.of(b"nobody")]) == 1
        sockets.turn()
    _, again = sockets.add(there)
    one.port.send([Frame.of(b"somebody")])
    sockets.until(lambda: again.got)
    assert again.data == [b"somebody"]


def test_a_unix_peer_may_come_later_and_be_made_anew(
    sockets: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vmwire.netdev.datagram_line.LOOK_AGAIN_S", 0.0)
    here, there = unix_pair(tmp_path)
    netdev, one = sockets.add(here)
    assert one.port.send([Frame.of(b"nobody")]) == 1
    assert netdev.port.drops["no peer"] == 1
    for _ in range(2):
        peer, other = sockets.add(there)
        other.port.send([Frame.of(b"hello")])
        sockets.until(lambda: one.got)
        one.port.send([Frame.of(b"somebody")])
        sockets.until(lambda other=other: other.got)
        one.got.clear()
        peer.close()
        assert not (tmp_path / "b").exists()


def test_a_unix_peers_full_queue_refuses_until_it_has_room(sockets: Bed, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, UDP) as peer:
        peer.bind(str(tmp_path / "b"))
        _, end = sockets.add(unix_pair(tmp_path)[0])
        waiting = [Frame.of(bytes([n]) * 60) for n in range(200)]
        del waiting[: end.port.send(waiting)]
        assert 0 < len(waiting) < 200
        got = []
        while waiting:
            end.heard.clear()
            got.append(peer.recv(100))
            sockets.turn()
            if "resume" in end.heard:
                del waiting[: end.port.send(waiting)]
        while len(got) < 200:
            got.append(peer.recv(100))
        assert [data[0] for data in got] == list(range(200))


def test_a_wire_that_refuses_stops_the_reading_until_it_has_room(
    sockets: Bed, tmp_path: Path
) -> None:
    here, there = unix_pair(tmp_path)
    (_, one), (_, other) = sockets.add(here), sockets.add(there)
    other.room = 2
    one.port.send([Frame.of(bytes([n]) * 60) for n in range(5)])
    sockets.turn()
    assert len(other.got) == 2
    other.make_room()
    sockets.turn()
    assert [data[0] for data in other.data] == list(range(5))


def test_a_group_hears_everybody_but_oneself(sockets: Bed) -> None:
    port = free_port(UDP)
    group = f"remote.type=inet,remote.host=230.0.0.1,remote.port={port}"
    lo = "local.type=inet,local.host=127.0.0.1,local.port=0"
    netdev, one = sockets.add(f"dgram,id=a,{group},{lo}")
    _, other = sockets.add(f"dgram,id=b,{group},{lo}")
    _, third = sockets.add(f"socket,id=c,mcast=230.0.0.1:{port},localaddr=127.0.0.1")
    one.port.send([Frame.of(b"to all" * 10)])
    sockets.until(lambda: other.got and third.got and netdev.port.drops["own frame"])
    assert other.data == third.data == [b"to all" * 10]
    assert one.data == []
    third.port.send([Frame.of(b"as well" * 10)])
    sockets.until(lambda: one.got and other.got)


def test_a_given_socket(sockets: Bed) -> None:
    ours, peer = socket.socketpair(socket.AF_UNIX, UDP)
    _, end = sockets.add(f"dgram,id=a,local.type=fd,local.str={ours.detach()}")
    peer.send(b"a" * 60)
    sockets.until(lambda: end.got)
    end.port.send([Frame.of(b"b" * 60)])
    assert peer.recv(100) == b"b" * 60
    peer.close()
    end.port.send([Frame.of(b"b" * 60)])
    sockets.turn()


def test_what_info_network_says(sockets: Bed, tmp_path: Path) -> None:
    text, _ = unix_pair(tmp_path)
    netdev, _ = sockets.add(text)
    assert netdev.info == f"udp={tmp_path}/a:{tmp_path}/b"
    netdev, _ = sockets.add(f"dgram,id=u,{inet(5001, 5002)}")
    assert netdev.info == "udp=127.0.0.1:5001/127.0.0.1:5002"
    netdev, _ = sockets.add("socket,id=s,udp=127.0.0.1:5003,localaddr=127.0.0.1:5004")
    assert netdev.info == "socket: udp=127.0.0.1:5003"


def test_options_from_json_and_back() -> None:
    text = f"dgram,id=d,{inet(5, 6)},strangers=on"
    place = {"type": "inet", "host": "127.0.0.1"}
    made = catalogue.parse("netdev", json.dumps({
        "type": "dgram", "id": "d", "strangers": True,
        "local": {**place, "port": "5"}, "remote": {**place, "port": "6"},
    }))  # fmt: skip
    assert made == catalogue.parse("netdev", text)
    assert table_of(DgramOptions).to_text(made) == text


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (unix(Path("/nonexistent/a"), Path("/x")), "can't bind unix=/nonexistent/a to socket: No"),
        ("local.type=fd,local.str=99", "can't get socket option SO_TYPE"),
        (inet(0, 1).replace("local.host=127.0.0.1", "local.host=192.0.2.9"), "can't bind ip=192"),
        (inet(1, 2).replace("=2", "=abc"), "port number 'abc' is invalid"),
        ("local.type=fd,local.str=3,remote.type=unix,remote.path=/x", "don't set remote with"),
    ],
)
def test_what_can_not_be_is_one_clear_error(sockets: Bed, text: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        sockets.add(f"dgram,id=d,{text}")
    assert says in caught.value.message
