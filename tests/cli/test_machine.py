# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""vmwire in QEMU's place: its command line, and the process as a harness sees it."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.harness import Harness
from vmwire.attach.chardev import Chardev
from vmwire.bench.e1000 import E1000Driver
from vmwire.bench.pci import PciDevice
from vmwire.cli.machine import main, read
from vmwire.errors import ConfigError
from vmwire.netdev.chardev import SocketChardevOptions

VMWIRE = [sys.executable, "-m", "vmwire"]
CARD = "e1000,id=n0,addr=04.0,netdev=n,mac=52:54:00:12:34:56"

SAID = """
-qtest unix:/q.sock -qtest-log /dev/null -chardev socket,path=/m.sock,id=char0
-mon chardev=char0,mode=control -display none -audio none -machine pc -nodefaults
-netdev null,id=n -device e1000,netdev=n -m 64M -name guest=it -accel qtest -smp 2
-vga none -serial none -monitor none -no-reboot -nographic -S
"""

# --- the command line


def test_everything_that_harnesses_say_is_understood() -> None:
    asked = read(SAID.split())
    assert asked.qtest == Chardev("/q.sock")
    assert asked.chardevs == {"char0": SocketChardevOptions(id="char0", path="/m.sock")}
    assert (asked.monitors, asked.qtest_log) == (["char0"], "/dev/null")
    assert (asked.machine, asked.ram_size, asked.stopped) == ("pc", 64 << 20, True)
    assert (asked.netdevs, asked.devices) == (["null,id=n"], ["e1000,netdev=n"])


@pytest.mark.parametrize(("text", "size"), [
    ("128", 128 << 20), ("64M", 64 << 20), ("1g", 1 << 30), ("512k", 512 << 10), ("4096b", 4096),
    ("size=2G", 2 << 30), ("1.5G", 3 << 29),
])  # fmt: skip
def test_ram_has_qemus_suffixes(text: str, size: int) -> None:
    assert read(["-m", text]).ram_size == size


@pytest.mark.parametrize(("text", "chardev"), [
    ("unix:/p", Chardev("/p")),
    ("unix:path=/p", Chardev("/p")),
    ("unix:/p,server=on,wait=off", Chardev("/p", server=True, wait=False)),
    ("unix:/p,server", Chardev("/p", server=True, wait=True)),
    ("unix:/p,server,nowait", Chardev("/p", server=True, wait=False)),
    ("stdio", Chardev()),
    ("chardev:c0", "c0"),
])  # fmt: skip
def test_where_qtest_is_spoken_has_qemus_forms(text: str, chardev: Chardev | str) -> None:
    assert read(["-qtest", text]).qtest == chardev


@pytest.mark.parametrize(("words", "text"), [
    ("disk.img", "disk.img: a machine without a CPU runs no image"),
    ("-enable-kvm", "-enable-kvm: is not served by a machine without a CPU"),
    ("-drive file=x", "-drive: is not served"),
    ("-machine q35", "-machine q35: unsupported machine type (there are: none, pc)"),
    ("-M pc,acpi=off", "'acpi=off' is not served"),
    ("-accel kvm", "-accel kvm: there is no CPU to accelerate"),
    ("-display gtk", "-display gtk: a machine without a CPU knows only 'none' here"),
    ("-m lots", "-m lots: Parameter 'size' expects a size"),
    ("-m 128,slots=4", "'slots' is not served"),
    ("-qtest tcp:1", "expects unix:PATH"),
    ("-qtest", "-qtest: requires an argument"),
    ("-mon chardev=c", "only mode=control is served"),
    ("-chardev pty,id=c", "chardev 'pty' is not served"),
    ("-chardev socket,path=/x", "Parameter 'id' is missing"),
    ("-chardev socket,id=c", "one of host= and port=, path= or fd= is required"),
    ("-chardev socket,id=c,path=/x,mux=on", "'mux' is not served"),
    ("-chardev stdio,id=c -chardev stdio,id=c", "Duplicate ID 'c' for chardev"),
])  # fmt: skip
def test_what_is_not_served_is_refused_by_its_name(words: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        read(words.split())
    assert text in str(error.value)


# --- the process


@pytest.fixture
def wire() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    with ours, theirs:
        yield ours, theirs


def start(folder: Path, *options: str, fd: int) -> Harness:
    netdev = ["-netdev", f"socket,fd={fd},id=n"]
    return Harness(
        VMWIRE, ["-machine", "pc", "-nodefaults", *netdev, *options], folder, pass_fds=[fd]
    )


def take(wire: socket.socket) -> bytes:
    [length] = struct.unpack("!I", wire.recv(4, socket.MSG_WAITALL))
    return wire.recv(length, socket.MSG_WAITALL)


def test_a_driver_behind_qtest_sends_and_receives(
    tmp_path: Path, wire: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = wire
    with start(tmp_path, "-device", CARD, fd=theirs.fileno()) as pc:
        driver = E1000Driver(pc, 4).start()
        frame = bytes.fromhex("ffffffffffff 525400123456 0800") + bytes(range(46))
        driver.send(frame)
        assert take(ours) == frame
        answer = bytes.fromhex("525400123456 525500020202 0800") + bytes(46)
        ours.sendall(struct.pack("!I", len(answer)) + answer)
        [received] = driver.receive()  # without waiting: it is in the ring when qtest answers
        assert received.data[:60] == answer
        assert pc.end() == 0


def test_a_card_is_plugged_in_asked_out_and_ejected(
    tmp_path: Path, wire: tuple[socket.socket, socket.socket]
) -> None:
    with start(tmp_path, fd=wire[1].fileno()) as pc:
        pc.qmp("device_add", {"driver": "e1000", "id": "hot", "netdev": "n", "addr": "06"})
        assert PciDevice(pc, 6).ids == (0x8086, 0x100E)
        assert pc.inl(0xAE00) == 1 << 6
        pc.qmp("device_del", {"id": "hot"})
        assert "already in the process of unplug" in str(pc.qmp("device_del", {"id": "hot"}))
        pc.outl(0xAE08, 1 << 6)
        assert pc.event("DEVICE_DELETED") == {"device": "hot", "path": "/machine/peripheral/hot"}
        assert PciDevice(pc, 6).ids == (0xFFFF, 0xFFFF)
        pc.qmp("device_add", {"driver": "e1000", "id": "hot", "netdev": "n", "addr": "06"})


def test_a_paused_machine_takes_no_frames_until_it_goes_on(
    tmp_path: Path, wire: tuple[socket.socket, socket.socket]
) -> None:
    ours, theirs = wire
    with start(tmp_path, "-device", CARD, fd=theirs.fileno()) as pc:
        driver = E1000Driver(pc, 4).start()
        pc.qmp("stop")
        assert pc.events == ["STOP"]
        ours.sendall(struct.pack("!I", 60) + b"\xff" * 60)
        assert driver.receive() == []
        assert pc.qmp("query-status")["running"] is False
        pc.qmp("cont")
        assert len(driver.receive()) == 1


def test_a_reset_is_told_whoever_asks_for_it(
    tmp_path: Path, wire: tuple[socket.socket, socket.socket]
) -> None:
    with start(tmp_path, "-device", CARD, fd=wire[1].fileno()) as pc:
        pc.qmp("system_reset")
        assert pc.events == ["RESET"] or pc.event("RESET")
        pc.outb(0xCF9, 6)
        assert pc.event("RESET")["guest"] is True


def test_quit_ends_it_with_status_0(
    tmp_path: Path, wire: tuple[socket.socket, socket.socket]
) -> None:
    with start(tmp_path, fd=wire[1].fileno()) as pc:
        assert pc.qmp("quit") == {}
        assert pc.process.wait(10) == 0


def test_it_ends_when_harness_and_monitor_have_left(
    tmp_path: Path, wire: tuple[socket.socket, socket.socket]
) -> None:
    with start(tmp_path, fd=wire[1].fileno()) as pc:
        pc.leave("qtest")
        assert pc.qmp("query-status")["running"] is True
        pc.leave("qmp")
        assert pc.process.wait(10) == 0


def test_a_machine_without_anything_has_no_bus(tmp_path: Path) -> None:
    with Harness(VMWIRE, ["-machine", "none", "-m", "16M"], tmp_path) as pc:
        pc.writel(0x1000, 7)
        assert (pc.readl(0x1000), pc.inl(0xCFC)) == (7, 0xFFFF_FFFF)
        assert pc.qmp("query-pci") == []


@pytest.mark.parametrize(("words", "text"), [
    ("-qtest unix:/nowhere/q", "Failed to connect to '/nowhere/q': No such file"),
    ("-qtest chardev:c", "chardev 'c' not found"),
    ("-machine pc -device e1000,addr=01.0", "PCI: slot 1 function 0 not available for e1000"),
    ("-nic nonsense -machine pc", "Parameter 'type' does not accept value 'nonsense'"),
    ("-nic user,model=rtl8139 -machine pc", "not served by vmwire yet"),
    ("-machine none -device e1000", "No 'PCI' bus found for device 'e1000'"),
    ("-machine pc -device rtl8139", "not served by vmwire yet"),
    ("-machine pc -device e1000,netdev=x", "can't find value 'x'"),
])  # fmt: skip
def test_what_cannot_be_had_is_said_by_its_name(words: str, text: str) -> None:
    with pytest.raises(ConfigError) as error:
        main(words.split())
    assert text in str(error.value)


def test_sigterm_ends_it_though_nobody_reads_its_answers() -> None:
    words = [*VMWIRE, "-machine", "pc", "-qmp", "stdio"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as machine:
        assert machine.stdin is not None and machine.stdout is not None
        assert b"QMP" in machine.stdout.readline()
        os.set_blocking(machine.stdin.fileno(), False)
        asked = b'{"execute": "query-commands"}\n' * 200
        with contextlib.suppress(BlockingIOError):
            for _ in range(1000):
                os.write(machine.stdin.fileno(), asked)
                time.sleep(0.001)
        time.sleep(0.5)  # by now it waits for a reader
        machine.terminate()
        try:
            assert machine.wait(5) == 0
        finally:
            machine.kill()


def test_nic_is_a_netdev_and_a_card(tmp_path: Path) -> None:
    said = ["-nic", "user,id=n,model=e1000-82545em,mac=52:54:00:00:00:07", "-nic", "none"]
    with Harness(VMWIRE, ["-nodefaults", *said], tmp_path) as pc:
        assert PciDevice(pc, 2).ids == (0x8086, 0x100F)
        shown = pc.qmp("human-monitor-command", {"command-line": "info network"})
        assert "52:54:00:00:00:07" in shown
        assert "n: index=0,type=user" in shown


def test_a_list_of_commands_on_standard_input_is_carried_out() -> None:
    ended = subprocess.run(
        [*VMWIRE, "-qtest", "stdio", "-qtest-log", "none", "-machine", "pc"],
        input="outl 0xcf8 0x80000000\ninl 0xcfc\n", capture_output=True, text=True, timeout=20,
    )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (0, "OK\nOK 0x12378086\n")


# --- filters


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(("queue", "heard"), [("tx", True), ("rx", False)])
def test_a_mirror_hears_what_comes_to_the_card(
    tmp_path: Path, queue: str, heard: bool, late: bool
) -> None:
    wire, cards_end = socket.socketpair()
    peer, mirrors_end = socket.socketpair()
    options = [
        *("-netdev", f"socket,id=n,fd={cards_end.fileno()}", "-device", CARD),
        *("-chardev", f"socket,id=c,fd={mirrors_end.fileno()}"),
    ]
    mirror = {"id": "f0", "netdev": "n", "queue": queue, "outdev": "c"}
    if not late:
        text = ",".join(f"{key}={value}" for key, value in mirror.items())
        options += ["-object", f"filter-mirror,{text}"]
    fds = (cards_end.fileno(), mirrors_end.fileno())
    with Harness(VMWIRE, options, tmp_path, pass_fds=fds) as pc:
        if late:
            assert pc.qmp("object-add", {"qom-type": "filter-mirror", **mirror}) == {}
        frame = struct.pack("!I", 60) + b"\xff" * 60
        wire.sendall(frame)
        peer.settimeout(10 if heard else 0.5)
        if heard:
            assert peer.recv(100) == frame
        else:
            with pytest.raises(TimeoutError):
                peer.recv(100)
    for sock in (wire, cards_end, peer, mirrors_end):
        sock.close()


@pytest.mark.parametrize(("words", "message"), [
    ("-object filter-mirror,id=f,netdev=n,outdev=c", "Device 'c' not found"),
    ("-qmp chardev:c -chardev socket,id=c,path=/c -object filter-mirror,id=f,netdev=n,outdev=c",
     "chardev 'c' is already in use"),
    ("-object filter-dump,id=f,netdev=m,file=/f", "expects a network backend id"),
])  # fmt: skip
def test_a_filter_that_can_not_be_had_is_told(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        main(["-netdev", "hubport,id=n,hubid=0", *words.split()])


# --- networks in QEMU's older words


def networks_of(*words: str) -> str:
    """What the monitor of such a machine says of its networks."""
    lines = [
        {"execute": "qmp_capabilities"},
        {"execute": "human-monitor-command", "arguments": {"command-line": "info network"}},
        {"execute": "quit"},
    ]
    done = subprocess.run(
        [*VMWIRE, *words, "-display", "none", "-qmp", "stdio"],
        input="".join(f"{json.dumps(line)}\n" for line in lines),
        capture_output=True,
        text=True,
        timeout=30,
    )
    answers = [json.loads(line).get("return") for line in done.stdout.splitlines()]
    shown = next(answer for answer in answers if isinstance(answer, str))
    return done.stderr + shown.replace("\r", "").strip()


USUAL = """hub 0
 \\ hub0port1: user.0: index=0,type=user,net=10.0.2.0,restrict=off
 \\ hub0port0: e1000.0: index=0,type=nic,model=e1000,macaddr=52:54:00:12:34:56"""


@pytest.mark.parametrize("words", [(), ("-net", "nic", "-net", "user")])
def test_a_pc_has_qemus_usual_network(words: tuple[str, ...]) -> None:
    assert networks_of("-machine", "pc", *words) == USUAL


@pytest.mark.parametrize(
    "words", [("-machine", "none"), ("-nodefaults",), ("-M", "pc", "-net", "none")]
)
def test_a_machine_without_the_usual_network(words: tuple[str, ...]) -> None:
    assert networks_of(*words) == ""


def test_a_vlan_of_cards_alone_is_told() -> None:
    said = networks_of("-M", "pc", "-net", "nic,vlan=1,model=virtio,name=n")
    assert said.splitlines() == [
        "vmwire: warning: hub 1 is not connected to host network",
        "hub 1",
        " \\ hub1port0: n: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:12:34:56",
    ]


def test_a_nic_is_a_pair() -> None:
    said = networks_of(
        "-M", "pc", "-nic", "user,model=e1000e,mac=52:54:00:00:00:01", "-nic", "none"
    )
    assert said.splitlines() == [
        "e1000e.0: index=0,type=nic,model=e1000e,macaddr=52:54:00:00:00:01",
        " \\ nic0: index=0,type=user,net=10.0.2.0,restrict=off",
    ]


def test_the_wrong_old_word_is_named_as_it_was_typed() -> None:
    done = subprocess.run(
        [*VMWIRE, "-M", "pc", "-net", "user,bogus=1"], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (
        1,
        "vmwire: -net user,bogus=1: Invalid parameter 'bogus'\n",
    )


@pytest.mark.parametrize(
    ("words", "title"),
    [
        (("-net", "nic,model=help"), "Available NIC models for this configuration:"),
        (("-nic", "model=?"), "Available NIC models for this configuration:"),
        (("-netdev", "help"), "Available netdev backend types:"),
        (("-device", "help"), "Network devices:"),
    ],
)
def test_help_is_given_instead_of_a_machine(
    words: tuple[str, ...], title: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-M", "pc", *words]) == 0
    assert capsys.readouterr().out.startswith(title)
