# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-netdev vhost-user`` in the commands, with back ends of ours at the other end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.attach.vhost_user.served import Served
from tests.cli.harness import Harness
from tests.cli.test_machine import VMWIRE
from tests.cli.test_serve import Start, refused, start
from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually, users_of
from tests.netdev.alone import alone
from vmwire.bench.vhost_user import NetDriver
from vmwire.wire.frame import Frame

__all__ = ["runtime", "start"]

COMMAND = [sys.executable, "-m", "vmwire"]
MakeBackEnd = Callable[[str], Served]


@pytest.fixture
def back_end(tmp_path: Path) -> Iterator[MakeBackEnd]:
    """Makes a back end in a folder of its name; where it listens is its ``path``."""
    made: list[Served] = []

    def make(name: str) -> Served:
        (tmp_path / name).mkdir(exist_ok=True)
        made.append(Served(tmp_path / name))
        return made[-1]

    yield make
    for each in made:
        each.close()


def passes(source: Served, target: Served, data: bytes) -> None:
    """Wait until a frame comes from one back end to the other."""

    def came() -> bool:
        source.deliver(data)
        return target.loop.call(lambda: data in target.end.data)

    eventually(came, 20)


def test_two_back_ends_are_joined_and_stay_so_over_a_crash_and_an_upgrade(
    runtime: str, start: Start, back_end: MakeBackEnd
) -> None:
    one, other = back_end("a"), back_end("b")
    served = start("connect", f"vhost-user,file={one.path}", f"vhost-user,file={other.path}")
    passes(one, other, b"a" * 60)
    passes(other, one, b"b" * 60)
    lock = os.path.join(runtime, "vmwire", str(served.pid), "lock")
    worker = next(pid for pid, comm in users_of(lock).items() if comm == "vmwire-worker")
    os.kill(worker, signal.SIGKILL)
    passes(one, other, b"c" * 60)
    words = [*COMMAND, "upgrade", str(served.pid)]
    upgrade = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert upgrade.returncode == 0, upgrade.stderr
    passes(one, other, b"d" * 60)
    passes(other, one, b"e" * 60)


def test_a_relative_path_is_meant_where_it_was_typed(
    start: Start, back_end: MakeBackEnd, tmp_path: Path
) -> None:
    one, other = back_end("a"), back_end("b")
    chardev = f"socket,id=c,path={os.path.relpath(one.path, tmp_path)},reconnect-ms=50"
    words = ["-chardev", chardev, "vhost-user,chardev=c"]
    start("connect", *words, "vhost-user,file=b/n0.sock", cwd=tmp_path)
    passes(one, other, b"a" * 60)


def test_an_e1000_of_a_machine_without_a_vm_is_joined(
    back_end: MakeBackEnd, tmp_path: Path
) -> None:
    far = back_end("a")
    words = [
        "-chardev", f"socket,id=c,path={far.path},reconnect=1",
        "-netdev", "vhost-user,id=v,chardev=c,vhostforce=on", "-device", "e1000,netdev=v",
    ]  # fmt: skip
    with Harness(VMWIRE, ["-nodefaults", *words], tmp_path) as pc:
        far.wait(lambda: far.end.port.carrier)
        shown = pc.qmp("human-monitor-command", {"command-line": "info network"})
        assert "v: index=0,type=vhost-user,vhost-user0 to c" in shown
        assert pc.qmp("netdev_add", {"type": "vhost-user", "id": "w", "chardev": "c"}) == {
            "error": {"class": "GenericError", "desc": "chardev 'c' is already in use"}
        }


@alone
def test_a_command_in_a_namespace_is_behind_a_back_end(runtime: str, back_end: MakeBackEnd) -> None:
    far = back_end("a")
    words = ["shell", "-netdev", f"vhost-user,file={far.path}", "--address", "10.7.0.1/24"]
    asked = "ping -c1 -W1 10.7.0.2; true"
    subprocess.run([*COMMAND, *words, "--", "sh", "-c", asked], timeout=30, check=True)
    arp = bytes.fromhex("0806 0001 0800 06 04 0001")
    assert any(data[12:22] == arp and data[38:42] == bytes((10, 7, 0, 2)) for data in far.end.data)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("vhost-user,id=x", "vhost-user,id=x: Parameter 'chardev' is missing"),
        ("vhost-user,id=x,chardev=no", 'vhost-user,id=x,chardev=no: chardev "no" not found'),
        ("vhost-user,id=x,chardev=t", 'chardev=t: chardev "t" does not support FD passing'),
        ("vhost-user,id=x,file=/p,queues=2000",
         "queues=2000: vhost-user number of queues must be in range [1, 1024]"),
        ("vhost-user,id=x,file=/p,queues=0", "must be in range [1, 1024]"),
        ("vhost-user,id=x,file=/p,chardev=t", "chardev= and file= are mutually exclusive"),
        ("vhost-user,id=x,file=/nowhere/s",
         "Failed to connect to '/nowhere/s': No such file or directory"),
        ("vhost-user,id=x,chardev=w", "'wait=on' is not served"),
    ],
)  # fmt: skip
def test_what_cant_be_had_is_one_line(words: str, complaint: str) -> None:
    chardevs = ["-chardev", "socket,id=t,host=127.0.0.1,port=1,server=on,wait=off"]
    if "chardev=w" in words:
        chardevs += ["-chardev", "socket,id=w,path=/tmp/never,server=on,wait=on"]
    said = refused(*chardevs, "-netdev", words, "-netdev", "user,id=u")
    assert said.endswith(complaint) or complaint in said
    assert "\n" not in said


def test_a_cards_rings_are_handed_on_again_after_a_crash_and_an_upgrade(
    runtime: str, start: Start, back_end: MakeBackEnd, tmp_path: Path
) -> None:
    far = back_end("a")
    chardev = f"socket,id=c,path={far.path},reconnect-ms=50"
    card = f"virtio-net-pci,netdev=v,socket={tmp_path}/card"
    served = start("-chardev", chardev, "-netdev", "vhost-user,id=v,chardev=c", "-device", card)
    lock = os.path.join(runtime, "vmwire", str(served.pid), "lock")
    with NetDriver(str(tmp_path / "card")) as driver:
        memory = driver.arena.size

        def is_served(data: bytes) -> None:
            """By the far end, and in the machine's own memory."""
            far.wait(lambda: far.end.port.carrier and far.nic.stats()["memory_bytes"] == memory)
            driver.send(data)
            far.wait(lambda: data in far.end.data)
            far.wait(lambda: far.end.port.send([Frame.of(data)]) == 1)
            assert [got for got, _ in driver.receive(10)] == [data]

        is_served(b"a" * 60)
        worker = next(pid for pid, comm in users_of(lock).items() if comm == "vmwire-worker")
        os.kill(worker, signal.SIGKILL)
        far.wait(lambda: far.nic.stats()["connections"] == 2)
        is_served(b"b" * 60)
        words = [*COMMAND, "upgrade", str(served.pid)]
        upgrade = subprocess.run(words, capture_output=True, text=True, timeout=30)
        assert upgrade.returncode == 0, upgrade.stderr
        far.wait(lambda: far.nic.stats()["connections"] == 3)
        is_served(b"c" * 60)
