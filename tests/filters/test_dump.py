# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
import os
import stat
import struct
import time
from pathlib import Path

import pytest
from tests.filters.rig import Rig
from tests.wire.boxes import frames

from vmwire.wire.frame import Frame

HEADER = bytes.fromhex("d4c3b2a1020004000000000000000000")


def records(path: Path) -> list[tuple[int, int, bytes]]:
    """Microseconds, length on the wire, and bytes."""
    data, at, found = path.read_bytes(), 24, []
    while at < len(data):
        seconds, parts, kept, length = struct.unpack_from("<IIII", data, at)
        found.append((seconds * 10**6 + parts, length, data[at + 16 : at + 16 + kept]))
        at += 16 + kept
    return found


@pytest.mark.parametrize(
    ("maxlen", "size"), [(65536, "00000100"), (64, "40000000"), (1, "01000000")]
)
def test_the_files_bytes_are_qemus(rig: Rig, tmp_path: Path, maxlen: int, size: str) -> None:
    path = tmp_path / "d.pcap"
    rig.add("filter-dump", file=str(path), maxlen=maxlen)
    whole = HEADER + bytes.fromhex(size) + bytes.fromhex("01000000")
    assert path.read_bytes() == whole
    now = time.time() * 1e6
    sizes = [60, 20, 1514, 9014, 42]
    rig.guest.port.send([Frame.of(bytes([size & 255]) * size) for size in sizes])
    rig.netdev.port.send([Frame.of(b"t" * 64)])
    rig.pass_time(1)
    found = records(path)
    assert [length for _, length, _ in found] == [*sizes, 64]
    assert [len(data) for *_, data in found] == [min(each, maxlen) for each in [*sizes, 64]]
    assert all(abs(moment - now) < 60e6 for moment, *_ in found)


@pytest.mark.parametrize(("queue", "expected"), [("rx", [b"r" * 60]), ("tx", [b"t" * 60])])
def test_queues_are_named_from_the_netdevs_side(
    rig: Rig, tmp_path: Path, queue: str, expected: list[bytes]
) -> None:
    path = tmp_path / "d.pcap"
    rig.add("filter-dump", file=str(path), queue=queue)
    rig.guest.port.send([Frame.of(b"r" * 60)])
    rig.netdev.port.send([Frame.of(b"t" * 60)])
    rig.pass_time(1)
    assert [data for *_, data in records(path)] == expected
    assert (rig.netdev.data, rig.guest.data) == ([b"r" * 60], [b"t" * 60])


def test_a_dump_that_is_off_has_a_header_and_nothing_else_until_it_is_on(
    rig: Rig, tmp_path: Path
) -> None:
    path = tmp_path / "d.pcap"
    rig.add("filter-dump", id="d", file=str(path), status="off")
    rig.guest.port.send(frames(3))
    rig.objects.change("d", "status", "on")
    rig.guest.port.send([Frame.of(b"heard" * 12)])
    rig.pass_time(1)
    assert [data for *_, data in records(path)] == [b"heard" * 12]


def test_records_are_cut_anew_but_are_no_longer_than_the_file_says(
    rig: Rig, tmp_path: Path
) -> None:
    path = tmp_path / "d.pcap"
    rig.add("filter-dump", id="d", file=str(path), maxlen=40)
    for maxlen in (20, 50):
        rig.objects.change("d", "maxlen", maxlen)
        rig.guest.port.send([Frame.of(bytes(60))])
    rig.pass_time(1)
    assert [len(data) for *_, data in records(path)] == [20, 40]


def test_an_old_file_is_emptied_and_a_new_one_is_its_owners_alone(rig: Rig, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"x" * 100)
    rig.add("filter-dump", file=str(old))
    rig.add("filter-dump", file=str(new))
    assert old.stat().st_size == 24
    assert stat.S_IMODE(new.stat().st_mode) == 0o600


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_disk_ends_the_dump_with_one_line_and_not_the_traffic(
    rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        rig.add("filter-dump", id="d", file="/dev/full")
        for _ in range(3):
            rig.guest.port.send(frames(2))
            rig.pass_time(1)
    assert [record.getMessage() for record in caplog.records] == [
        "d: the capture ends: [Errno 28] No space left on device"
    ]
    assert len(rig.netdev.got) == 6


def test_a_dump_leaves_reservations_and_records_them(tmp_path: Path) -> None:
    rig = Rig(memory=2000)
    path = tmp_path / "d.pcap"
    rig.add("filter-dump", file=str(path), queue="tx")
    assert rig.netdev.port.reserves
    views = rig.netdev.port.reserve(60)
    assert views is not None
    views[0][:] = b"z" * 60
    rig.netdev.port.commit(60)
    rig.pass_time(1)
    assert [data for *_, data in records(path)] == [b"z" * 60]
    rig.close()
