# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Back ends that lie, are silent, or break the rules of the rings: hung up on, counted, tried
again; the netdev's own state is as before."""

from __future__ import annotations

import gc
import mmap
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.netdev.sockets import Bed
from tests.wire.boxes import End, frames

from vmwire.bus.virtio.features import (
    VHOST_USER_F_PROTOCOL_FEATURES,
    VIRTIO_F_VERSION_1,
    VIRTIO_NET_F_CSUM,
    VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_MRG_RXBUF,
)
from vmwire.bus.virtio.front_end import sensible
from vmwire.bus.virtio.vhost_user import (
    F_REPLY,
    HEADER,
    PROTOCOL_F_MQ,
    PROTOCOL_F_REPLY_ACK,
    U64,
    RegionInfo,
    Request,
    RingAddresses,
    pack_message,
    unpack_regions,
)
from vmwire.netdev import vhost_user_link

OFFERED = VIRTIO_F_VERSION_1 | VHOST_USER_F_PROTOCOL_FEATURES | VIRTIO_NET_F_MRG_RXBUF


class BackEnd:
    """A back end by hand, over a socket that the netdev has connected to.

    ``answers`` replaces what it says to a request (None: nothing).
    """

    def __init__(self, bed: Bed, listener: socket.socket, offered: int = OFFERED) -> None:
        self.bed = bed
        self.listener = listener
        self.offered = offered
        self.protocol = PROTOCOL_F_REPLY_ACK | PROTOCOL_F_MQ
        self.answers: dict[int, bytes | None] = {}
        self.heard: list[int] = []
        self.fds: dict[tuple[int, int], int] = {}
        self.regions: list[RegionInfo] = []
        self.memory: mmap.mmap | None = None
        self.rings: dict[int, RingAddresses] = {}
        self.socket: socket.socket | None = None

    def accept(self) -> None:
        self.bed.until(self._accepted)

    def _accepted(self) -> bool:
        try:
            self.socket, _ = self.listener.accept()
        except BlockingIOError:
            return False
        self.socket.setblocking(False)
        return True

    def serve(self) -> None:
        """Answer what there is to be answered."""
        assert self.socket is not None
        while True:
            try:
                data, fds, _, _ = socket.recv_fds(self.socket, HEADER.size, 8)
            except (BlockingIOError, ConnectionResetError):
                return
            if not data:
                return
            request, flags, size = HEADER.unpack(data)
            self._one(request, bool(flags & 8), self.socket.recv(size) if size else b"", fds)

    def _one(self, request: int, wants_reply: bool, payload: bytes, fds: list[int]) -> None:
        self.heard.append(request)
        for fd in fds:
            self.fds[request, payload[0]] = fd
        if request == Request.SET_MEM_TABLE:
            self.regions = unpack_regions(payload)
            self.memory = mmap.mmap(fds[0], self.regions[0].size)
        if request == Request.SET_VRING_ADDR:
            addresses = RingAddresses.unpack(payload)
            self.rings[addresses.index] = addresses
        own = {
            Request.GET_FEATURES: U64.pack(self.offered),
            Request.GET_PROTOCOL_FEATURES: U64.pack(self.protocol),
            Request.GET_QUEUE_NUM: U64.pack(2),
            Request.GET_VRING_BASE: payload,
        }
        answer = own.get(Request(request), U64.pack(0) if wants_reply else None)
        if request in self.answers:
            answer = self.answers[request]
        if answer is not None:
            self.say(pack_message(request, answer, F_REPLY))

    def say(self, data: bytes) -> None:
        assert self.socket is not None
        self.socket.send(data, socket.MSG_NOSIGNAL)

    def gone(self) -> bool:
        """Whether the netdev has hung up."""
        assert self.socket is not None
        try:
            return not self.socket.recv(1 << 20)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True

    # Rings

    def at(self, address: int) -> int:
        """Where one of the front end's addresses is in the memory."""
        return address - self.regions[0].user_address

    def use(self, index: int, *entries: tuple[int, int], count: int | None = None) -> None:
        """Give back buffers: ids and lengths; ``count`` is the used index, if it is to be wrong."""
        assert self.memory is not None
        used = self.at(self.rings[index].used)
        for place, entry in enumerate(entries):
            struct.pack_into("<II", self.memory, used + 4 + 8 * place, *entry)
        struct.pack_into("<H", self.memory, used + 2, len(entries) if count is None else count)
        os.eventfd_write(self.fds[Request.SET_VRING_CALL, index], 1)

    def buffer(self, index: int, id: int) -> int:
        """Where a descriptor's buffer is."""
        assert self.memory is not None
        table = self.at(self.rings[index].descriptors)
        (address,) = struct.unpack_from("<Q", self.memory, table + 16 * id)
        return int(address) - self.regions[0].guest_address

    def close(self) -> None:
        if self.socket is not None:
            self.socket.close()
        self.close_fds()

    def close_fds(self) -> None:
        if self.memory is not None:
            self.memory.close()
        while self.fds:
            os.close(self.fds.popitem()[1])


class Rig:
    def __init__(self, folder: Path) -> None:
        self.bed = Bed()
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(folder / "s"))
        self.listener.listen()
        self.listener.setblocking(False)
        self.back = BackEnd(self.bed, self.listener)
        self.netdev: Any = None
        self.end: End = End("none")
        self.path = folder / "s"

    def connect(self, options: str = "") -> None:
        self.netdev, self.end = self.bed.add(f"vhost-user,id=v,file={self.path}{options}")
        self.back.accept()

    def until(self, there: Any) -> None:
        def look() -> bool:
            if not there():
                self.back.serve()
            return bool(there())

        self.bed.until(look)

    def run(self, options: str = "") -> None:
        """Go on until rings are served."""
        self.connect(options)
        self.until(lambda: self.netdev.stats()["rings"] == "own")

    def is_hung_up_on(self) -> None:
        """The netdev gives up this connection, and makes another one."""
        self.bed.until(lambda: not self.netdev.stats()["connected"] and self.netdev._link is None)
        assert not self.end.port.carrier
        self.bed.until(self.back.gone)
        self.bed.until(self.back._accepted)

    def close(self) -> None:
        self.bed.close()
        self.back.close()
        self.listener.close()


@pytest.fixture
def rig(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    monkeypatch.setattr("vmwire.netdev.vhost_user.RECONNECT_MS", 20)
    gc.collect()  # what earlier tests have left lying about
    before = len(os.listdir("/proc/self/fd"))
    it = Rig(tmp_path)
    yield it
    it.close()
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"


def test_the_usual_one_is_served(rig: Rig) -> None:
    rig.run()
    rig.end.port.send(frames(1))
    memory = rig.back.memory
    assert memory is not None
    at = rig.back.buffer(1, 0)
    assert memory[at : at + 72] == bytes(12) + bytes(60)
    at = rig.back.buffer(0, 0)
    memory[at : at + 72] = bytes(10) + b"\1\0" + b"f" * 60
    rig.back.use(0, (0, 72))
    rig.bed.until(lambda: rig.end.got)
    assert rig.end.data == [b"f" * 60]


@pytest.mark.parametrize(
    "request_",
    [Request.GET_FEATURES, Request.GET_PROTOCOL_FEATURES, Request.GET_QUEUE_NUM,
     Request.SET_FEATURES, Request.SET_MEM_TABLE, Request.SET_VRING_KICK],
    ids=lambda request: request.name,
)  # fmt: skip
@pytest.mark.parametrize("size", [None, 0, 4, 12])
def test_answers_that_dont_come_or_have_another_size(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, request_: Request, size: int | None
) -> None:
    monkeypatch.setattr(vhost_user_link, "LIMIT_S", 0.3)
    rig.back.answers[request_] = None if size is None else bytes(size)
    rig.connect()
    rig.until(lambda: request_ in rig.back.heard)
    rig.is_hung_up_on()


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        pack_message(Request.GET_FEATURES, U64.pack(0)),
        pack_message(Request.GET_VRING_BASE, U64.pack(0), F_REPLY),
        pack_message(Request.GET_FEATURES, bytes(4000), F_REPLY),
        HEADER.pack(Request.GET_FEATURES, 2 | F_REPLY, 8) + bytes(8),
        HEADER.pack(Request.GET_FEATURES, 1 | F_REPLY, 0xFFFFFFFF),
        pack_message(Request.GET_FEATURES, U64.pack(OFFERED), F_REPLY) * 2,
        os.urandom(64),
    ],
    ids=range(8),
)
def test_nonsense_instead_of_an_answer(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(vhost_user_link, "LIMIT_S", 0.3)
    rig.connect()
    rig.back.say(data)
    rig.is_hung_up_on()


def test_one_that_speaks_without_being_asked(rig: Rig) -> None:
    rig.run()
    rig.back.say(b"hello")
    rig.is_hung_up_on()


@pytest.mark.parametrize("request_", [Request.SET_FEATURES, Request.SET_VRING_ADDR])
def test_one_that_refuses_what_it_offered(rig: Rig, request_: Request) -> None:
    rig.back.answers[request_] = U64.pack(1)
    rig.connect()
    rig.until(lambda: request_ in rig.back.heard)
    rig.is_hung_up_on()


def test_one_that_takes_nothing_from_its_socket_holds_nobody_up(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vhost_user_link, "LIMIT_S", 0.3)
    rig.back.protocol = PROTOCOL_F_MQ
    rig.back.answers[Request.GET_QUEUE_NUM] = U64.pack(128)
    rig.connect(",queues=128")
    rig.until(lambda: Request.SET_MEM_TABLE in rig.back.heard)
    rig.is_hung_up_on()


FAULTS = {
    "an id outside of the ring": [(5000, 72)],
    "an id twice": [(0, 72), (0, 72)],
    "more than a buffer holds": [(0, 5000)],
    "less than a header": [(0, 11)],
}


@pytest.mark.parametrize("entries", FAULTS.values(), ids=FAULTS)
def test_used_buffers_that_cant_be(rig: Rig, entries: list[tuple[int, int]]) -> None:
    rig.run()
    rig.back.use(0, *entries)
    rig.is_hung_up_on()
    assert rig.netdev.stats()["faults"] == 1
    assert not rig.end.got


def test_an_index_that_went_too_far(rig: Rig) -> None:
    rig.run()
    rig.back.use(0, count=1500)
    rig.is_hung_up_on()
    assert rig.netdev.stats()["faults"] == 1


@pytest.mark.parametrize("buffers", [0, 2, 1000, 65535])
def test_a_frame_in_buffers_that_didnt_come(rig: Rig, buffers: int) -> None:
    rig.run()
    memory = rig.back.memory
    assert memory is not None
    at = rig.back.buffer(0, 0)
    memory[at : at + 12] = bytes(10) + buffers.to_bytes(2, "little")
    rig.back.use(0, (0, 72))
    rig.is_hung_up_on()
    assert rig.netdev.stats()["faults"] == 1


def test_a_sent_buffer_that_comes_back_twice(rig: Rig) -> None:
    rig.run()
    rig.end.port.send(frames(2))
    rig.back.use(1, (1, 0), (1, 0))
    for _ in range(200):  # it is found out when room is needed
        rig.end.port.send(frames(10))
    rig.is_hung_up_on()
    assert rig.netdev.stats()["faults"] == 1


def test_frames_that_make_no_sense_are_dropped_and_their_buffers_lent_again(rig: Rig) -> None:
    rig.run()
    memory = rig.back.memory
    assert memory is not None
    headers = [
        struct.pack("<BBHHHHH", 1, 0, 0, 0, 5000, 16, 1),  # a checksum outside of the frame
        struct.pack("<BBHHHHH", 1, 1, 0, 0, 34, 16, 1),  # segments of no bytes
        struct.pack("<BBHHHHH", 1, 77, 54, 1448, 34, 16, 1),  # an unknown kind
    ]
    for id, header in enumerate(headers):
        at = rig.back.buffer(0, id)
        memory[at : at + 14] = header + b"\0\0"
    at = rig.back.buffer(0, 3)
    memory[at : at + 12] = bytes(10) + b"\1\0"
    rig.back.use(0, *[(id, 72) for id in range(3)], (3, 20))
    rig.bed.until(lambda: rig.netdev.stats()["drops"] == {"malformed frame": 4})
    assert rig.netdev.stats()["rings"] == "own" and not rig.end.got
    available = rig.back.at(rig.back.rings[0].available)
    assert struct.unpack_from("<H", memory, available + 2) == (1028,)


def test_features_that_make_no_sense_together_are_not_taken() -> None:
    assert sensible(VIRTIO_NET_F_HOST_TSO4) == 0
    both = VIRTIO_NET_F_HOST_TSO4 | VIRTIO_NET_F_CSUM
    assert sensible(both) == both


def test_one_without_protocol_features_is_served_too(rig: Rig) -> None:
    rig.back.offered = VIRTIO_F_VERSION_1
    rig.run()
    assert Request.SET_VRING_ENABLE not in rig.back.heard
    assert Request.GET_PROTOCOL_FEATURES not in rig.back.heard


def test_an_old_one_has_a_shorter_header(rig: Rig) -> None:
    rig.back.offered = 0
    rig.run()
    rig.end.port.send(frames(1))
    memory = rig.back.memory
    assert memory is not None
    at = rig.back.buffer(1, 0)
    assert memory[at : at + 70] == bytes(10) + bytes(60)


def test_a_new_connection_has_new_memory(rig: Rig) -> None:
    rig.run()
    first = os.fstat(rig.back.fds[Request.SET_MEM_TABLE, 1]).st_ino
    rig.back.say(b"x")
    rig.is_hung_up_on()
    rig.back.close_fds()
    rig.until(lambda: rig.netdev.stats()["rings"] == "own")
    assert os.fstat(rig.back.fds[Request.SET_MEM_TABLE, 1]).st_ino != first
