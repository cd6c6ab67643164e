# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Command lines that people have in their scripts, as they are written, with vmwire in front.

Only the names of files are ours. What a machine refuses by itself (KVM where there is none) it
refuses with the prefix in the same words; ``scsi=off``, which 11.1 refuses, goes through with it.
Each line is then run: a machine with nothing to boot from but its network, in a namespace that is
the host.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.wrap.real_qemu import ask, slots, wires
from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually
from tests.guest import image
from tests.guest.intel import loads_driver
from tests.guest.machine import KERNEL_WORDS, Machine
from tests.guest.test_e1000_boot import BOOT_TIMEOUT_S, Diskless
from vmwire.bench.console import GuestError
from vmwire.bench.pattern import pattern, pattern_sha256

__all__ = ["runtime"]

pytestmark = [pytest.mark.guest, pytest.mark.netns]

MAC = "52:54:00:11:22:33"
SIZE = 1 << 20
VM = (
    "-name centos -smp 2,cores=2 -m 1024 -drive file=DISK,media=disk,format=qcow2,if=none,"
    "id=systemdisk -device virtio-blk-pci,scsi=off,bus=pci.0,addr=0x04,drive=systemdisk,"
    "id=systemdiskvirtio,bootindex=0"
)
LINES = {
    "a user network with a forward": f"{VM} -netdev user,id=user1,hostfwd=tcp::5555-:22 "
    "-device e1000,netdev=user1 -boot c",
    "a tap on Open vSwitch": f"{VM} -netdev tap,id=tap1,script=SCRIPTS/ovs-ifup,"
    f"downscript=SCRIPTS/ovs-ifdown -device e1000,netdev=tap1,mac={MAC} -boot c",
    "a DPDK switch and a tap": "-m 1024 -smp 1 -hda DISK -boot c -enable-kvm -no-reboot -net none "
    "-nographic -chardev socket,id=char1,path=PORT -netdev type=vhost-user,id=mynet1,"
    "chardev=char1,vhostforce -device virtio-net-pci,mac=00:00:00:00:00:01,netdev=mynet1 "
    "-object memory-backend-file,id=mem,size=1G,mem-path=HUGE,share=on -numa node,memdev=mem "
    "-mem-prealloc -vnc :1 --enable-kvm -netdev tap,id=tapnet,ifname=vnet0,script=no "
    "-device rtl8139,netdev=tapnet,mac=52:54:00:12:34:58",
}
OLD = (
    "-m 1024 -mem-path HUGE,prealloc=on,share=on -netdev type=vhost-user,id=net0,file=PORT "
    "-device virtio-net-pci,netdev=net0"
)
"""A spelling of before vhost-user was taken up by QEMU, which no released one takes."""
SWITCH = """
export OVS_RUNDIR=HERE OVS_LOGDIR=HERE OVS_DBDIR=HERE OVS_SYSCONFDIR=HERE
ovsdb-tool create HERE/db /usr/share/openvswitch/vswitch.ovsschema
ovsdb-server HERE/db --remote=punix:HERE/db.sock --pidfile --detach --log-file -vconsole:off
ovs-vsctl --no-wait init
ovs-vswitchd unix:HERE/db.sock --pidfile --detach --log-file -vconsole:off
ovs-vsctl add-br br0 -- set bridge br0 datapath_type=netdev
ip addr add 10.9.0.1/24 dev br0; ip link set br0 up
"""
UP = "#!/bin/sh\nswitch='br0'\nip link set $1 up\novs-vsctl add-port ${switch} $1\n"
DOWN = "#!/bin/sh\nswitch='br0'\nip link set $1 down\novs-vsctl del-port ${switch} $1\n"


@dataclass(frozen=True)
class Place:
    """A folder with all files that the lines name, and what starts a command in its namespace."""

    folder: Path
    start: list[str]

    def words(self, name: str, *refused: str) -> list[str]:
        """A line for this place, without the words that can't be had."""
        line = LINES.get(name, name)
        for word in refused:
            assert word in line
            line = line.replace(word, "")
        files = {"DISK": "disk", "SCRIPTS": "", "PORT": "port", "HUGE": "huge"}
        for file, here in files.items():
            line = re.sub(rf"\b{file}\b", str(self.folder / here).rstrip("/"), line)
        return shlex.split(line)

    def ovs(self, *words: str) -> str:
        """Ask the switch."""
        environment = {**os.environ, "OVS_RUNDIR": str(self.folder)}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        return done.stdout


def inside(pid: int) -> list[str]:
    """What starts a command in the namespaces of a process."""
    return ["nsenter", "-t", str(pid), "-U", "--preserve-credentials", "-n", "-m"]


def empty_disk(size: int = 64 << 20) -> bytes:
    """A qcow2 image of which nothing was written: header, reference counts, an empty table."""
    cluster = 1 << 16
    header = struct.pack(
        ">4sIQIIQIIQQIIQ", b"QFI\xfb", 2, 0, 0, 16, size, 0, 1, 3 * cluster, cluster, 1, 0, 0
    )
    parts = [header, struct.pack(">Q", 2 * cluster), struct.pack(">4H", 1, 1, 1, 1), b""]
    return b"".join(part.ljust(cluster, b"\0") for part in parts)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A host with a web server, a tap and Open vSwitch, where that is installed."""
    (tmp_path / "disk").write_bytes(empty_disk())
    for name, text in (("ovs-ifup", UP), ("ovs-ifdown", DOWN)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "huge").mkdir()
    (tmp_path / "pattern").write_bytes(b"".join(pattern(SIZE)))
    setup = [
        "ip link set lo up; ip tuntap add vnet0 mode tap; ip link set vnet0 up",
        f"mount -t tmpfs none {tmp_path}/huge",
        f"python3 -m http.server 8000 -d {tmp_path} >/dev/null 2>&1 & echo $! > {tmp_path}/web.pid",
    ]
    if shutil.which("ovs-vswitchd"):
        setup.append(SWITCH.replace("HERE", str(tmp_path)))
    (tmp_path / "host.sh").write_text("\n".join(["set -e", *setup, "echo stands", "exec cat"]))
    host = subprocess.Popen(
        ["unshare", "-rnm", "sh", f"{tmp_path}/host.sh"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert host.stdout is not None and host.stdout.readline() == b"stands\n"
        yield Place(tmp_path, ["env", f"OVS_RUNDIR={tmp_path}", *inside(host.pid)])
    finally:
        host.kill()
        host.communicate()
        for file in tmp_path.glob("*.pid"):
            with contextlib.suppress(ProcessLookupError, ValueError):
                os.kill(int(file.read_text()), signal.SIGTERM)


@contextlib.contextmanager
def dpdk_program(place: Place, *words: str) -> Iterator[Path]:
    """A DPDK program behind the socket; gives what it writes."""
    program = shutil.which("dpdk-testpmd")
    if program is None:
        pytest.skip("needs dpdk-testpmd (Debian: dpdk-dev)")
    port, log = place.folder / "port", place.folder / "testpmd.log"
    command = [
        program, "-l", "0-1", "--no-huge", "-m", "256", "--no-pci", "--no-telemetry",
        f"--file-prefix=vmwire{os.getpid()}", "--vdev", f"net_vhost0,iface={port},queues=1",
        "--", "--forward-mode=rxonly", "--auto-start", "--no-flush-rx", "--total-num-mbufs=4096",
        "--stats-period=1",
    ]  # fmt: skip
    with open(log, "wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=output)
    try:
        eventually(port.is_socket, timeout_s=30)
        yield log
    finally:
        process.terminate()
        process.wait(20)


class Typed(Diskless):
    """A line as it was typed, with a console and a monitor for the test."""

    def _fixed(self, cpus: int, kernel_words: str) -> list[str]:
        words = super()._fixed(cpus, kernel_words)
        for given in ("-nodefaults", "-no-user-config"):
            words.remove(given)
        for given in ("-cpu", "-smp"):
            at = words.index(given)
            del words[at : at + 2]
        return words

    def boot_from(self, address: str, web: str) -> None:
        """Let the firmware fetch Linux by its own driver, and wait for Linux."""
        self.console.wait_for(b"Ctrl-B for the iPXE command line", BOOT_TIMEOUT_S)
        self._stop_ipxe()
        for letter in f"{address} && chain {web}/script\n":
            self.console.type(letter)
            time.sleep(0.02)
        self.wait_booted(BOOT_TIMEOUT_S)


@contextlib.contextmanager
def booted(
    place: Place, name: str, qemu: str, prefix: list[str], address: str, web: str
) -> Iterator[Machine]:
    """A line's machine, after the firmware and Linux have come up through its network."""
    (place.folder / "kernel").symlink_to(image.packed_kernel())
    (place.folder / "initrd").symlink_to(image.initramfs())
    (place.folder / "script").write_text(
        f"#!ipxe\nkernel {web}/kernel initrd=initrd {KERNEL_WORDS} {loads_driver('e1000')}\n"
        f"initrd {web}/initrd\nboot\n"
    )
    refused = () if prefix or qemu.endswith("x86_64") else (",scsi=off",)
    words = place.words(name, *refused)
    machine = Typed(qemu, words, prefix=[*place.start, *prefix], memory=())
    try:
        machine.start()
        machine.boot_from(address, web)
        yield machine
    finally:
        machine.close()


def is_replaced(guest: Machine, prefix: list[str], qemu: str) -> bool:
    """Whether vmwire serves the card; it does where QEMU can stand something in its place."""
    there = "vfio-user-pci" in guest.qmp.hmp("info qtree")
    assert there == bool(prefix and qemu.endswith("11"))
    return there


def download(guest: Machine, web: str) -> None:
    answer = guest.check(f"wget -qO- {web}/pattern | sha256sum", 60)
    assert answer.split()[0] == pattern_sha256(SIZE)


USUALLY_THE_NEWEST = pytest.mark.parametrize(
    "qemu", [pytest.param("qemu7.2", marks=pytest.mark.long), "qemu11.1"], indirect=True
)
QUESTIONS = ("info pci", "info network", "info memory_size_summary", "info qtree")


@pytest.mark.parametrize(
    "name", [pytest.param(each, marks=pytest.mark.long if "DPDK" in each else ()) for each in LINES]
)
def test_the_line_starts_or_is_refused_as_without_the_prefix(
    name: str, qemu: str, prefix: list[str], place: Place, runtime: str
) -> None:
    with dpdk_program(place) if "DPDK" in name else contextlib.nullcontext():
        plain = ask([*place.start, qemu, *place.words(name)], QUESTIONS)
        served = ask([*place.start, *prefix, qemu, *place.words(name)], QUESTIONS)
    if prefix and "scsi' not found" in plain.stderr:  # what it says is all that there is
        assert (plain.status, served.status) == (1, 0)
        plain = ask([*place.start, qemu, *place.words(name, ",scsi=off")], QUESTIONS)
    assert served.status == plain.status
    if plain.status:
        assert served.stderr == plain.stderr
        return
    assert slots(served, True) == slots(plain, True)
    if "vfio-user-pci" not in served.answers["info qtree"]:
        assert wires(served) == wires(plain)
    assert served.answers["info memory_size_summary"] == plain.answers["info memory_size_summary"]


@pytest.mark.long
def test_a_guest_behind_the_user_network_is_reached_by_its_forward(
    qemu: str, prefix: list[str], place: Place, runtime: str
) -> None:
    web = "http://10.0.2.2:8000"
    name = "a user network with a forward"
    with booted(place, name, qemu, prefix, "dhcp net0", web) as guest:
        is_replaced(guest, prefix, qemu)
        assert guest.lease()["ip"] == "10.0.2.15"
        download(guest, web)
        guest.check("socat TCP-LISTEN:22,fork,reuseaddr EXEC:cat,nofork >/dev/null 2>&1 &")
        echo = [*place.start, "sh", "-c", "echo hello | socat -t 3 - TCP:127.0.0.1:5555"]
        eventually(lambda: _output(echo) == "hello\n", timeout_s=20)


def _output(words: list[str]) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=20, check=False).stdout


@USUALLY_THE_NEWEST
def test_scripts_put_a_guest_on_open_vswitch_and_take_it_off(
    qemu: str, prefix: list[str], place: Place, runtime: str
) -> None:
    if not shutil.which("ovs-vswitchd"):
        pytest.skip("needs ovs-vswitchd (Debian: openvswitch-switch)")
    web = "http://10.9.0.1:8000"
    address = "ifopen net0 && set net0/ip 10.9.0.2 && set net0/netmask 255.255.255.0"
    with booted(place, "a tap on Open vSwitch", qemu, prefix, address, web) as guest:
        is_replaced(guest, prefix, qemu)
        guest.check("ip addr add 10.9.0.2/24 dev eth0 && ip link set eth0 up")
        guest.check("until ping -c 1 -W 1 10.9.0.1; do :; done", 20)
        download(guest, web)
        assert "tap0" in place.ovs("ovs-vsctl", "list-ports", "br0")
        assert MAC in place.ovs("ovs-appctl", "fdb/show", "br0")
    eventually(lambda: "tap0" not in place.ovs("ovs-vsctl", "list-ports", "br0"), timeout_s=20)


@pytest.mark.long
def test_the_card_on_a_dpdk_switch_and_the_one_on_a_tap_stay_as_they_are(
    qemu: str, prefix: list[str], place: Place, runtime: str
) -> None:
    with dpdk_program(place) as log:
        words = place.words("a DPDK switch and a tap", " -enable-kvm", " --enable-kvm")
        machine = Typed(qemu, words, prefix=[*place.start, *prefix], memory=())
        try:
            machine.start()
            assert "vhost-user" in machine.qmp.hmp("info network")
            assert "rtl8139" in machine.qmp.hmp("info network")
            machine.console.wait_for(b"Configuring (net0", BOOT_TIMEOUT_S)
            eventually(lambda: received(log) > 0, timeout_s=20)
        except (AssertionError, GuestError) as error:
            raise AssertionError(f"{machine.report()}\n{log.read_text()[-2000:]}") from error
        finally:
            machine.close()


@USUALLY_THE_NEWEST
def test_a_switch_by_its_oldest_spelling_is_reached_through_vmwire_alone(
    qemu: str, prefix: list[str], place: Place, runtime: str
) -> None:
    if not prefix:
        pytest.skip("this is about the prefix")
    words = place.words(OLD)
    assert ask([*place.start, qemu, *words], QUESTIONS).status == 1
    with dpdk_program(place) as log:
        machine = Typed(qemu, words, prefix=[*place.start, *prefix], memory=())
        try:
            machine.start()
            machine.console.wait_for(b"Configuring (net0", BOOT_TIMEOUT_S)
            eventually(lambda: received(log) > 0, timeout_s=20)
        except (AssertionError, GuestError) as error:
            raise AssertionError(f"{machine.report()}\n{log.read_text()[-2000:]}") from error
        finally:
            machine.close()


def received(log: Path) -> int:
    """Frames that testpmd had from the firmware by now."""
    return max(
        map(int, re.findall(r"RX-packets: (\d+)", log.read_text(errors="replace"))), default=0
    )
