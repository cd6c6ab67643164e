# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-netdev tap`` and ``-netdev bridge``: real taps, scripts and bridges in a namespace."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.netdev.alone import alone, ip
from tests.netdev.scripts import guest_on, interfaces, script, until

from vmwire import catalogue
from vmwire.errors import ConfigError
from vmwire.netdev import bridge_helper, network_scripts, tap, tun
from vmwire.network import Network

# --- what a person can say ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tap,id=x,fd=abc", "Invalid file descriptor number 'abc'"),
        ("tap,id=x,fds=3:", "Invalid file descriptor number ''"),
        ("tap,id=x,fd=3,fds=4", "queues=, helper=, fds= and fd= are mutual exclusive"),
        ("tap,id=x,queues=0", "queues must be greater than zero"),
        ("tap,id=x,vnet_hdr=maybe", "Parameter 'vnet_hdr' expects 'on' or 'off'"),
        ("tap,id=x,sndbuf=abc", "Parameter 'sndbuf' expects a size value"),
        ("tap,id=x,br=br1", "br= needs helper="),
        ("tap,id=x,helper=/bin/false,ifname=t0",
         "ifname=, script=, downscript=, vnet_hdr= are invalid with fd=/fds=/helper="),
        ("tap,id=x,script=no,fd=3",
         "ifname=, script=, downscript=, vnet_hdr= are invalid with fd=/fds=/helper="),
        ("tap,id=x,vhost=off,vhostfd=7", "vhostfd(s)= is not valid without vhost"),
        ("tap,id=x,vhost=on,vhostfd=abc", "Invalid file descriptor number 'abc'"),
        ("tap,id=x,vhostfds=5:", "Invalid file descriptor number ''"),
        ("tap,id=x,vhostfd=5,vhostfds=6", "vhostfds= and vhostfd= are mutual exclusive"),
        ("tap,id=x,queues=2,vhostfd=5",
         "vhostfd(s)= of 2 queues takes as many descriptors, got 1"),
        ("tap,id=x,vhostfds=5:6", "vhostfd(s)= of 1 queues takes as many descriptors, got 2"),
        ("tap,id=x,fds=3:4,vhostfds=5", "of 2 queues takes as many descriptors, got 1"),
        ("tap,id=x,poll-us=abc", "Parameter 'poll-us' expects"),
        ("tap,id=x,poll-us=4294967296", "Parameter 'poll-us' expects"),
        ("tap,id=x,vhost=maybe", "Parameter 'vhost' expects 'on' or 'off'"),
        ("tap", "Parameter 'id' is missing"),
        ("bridge,id=x,bridge=br0", "Invalid parameter 'bridge'"),
    ],
)  # fmt: skip
def test_contradictions_are_told_in_one_line(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError) as raised:
        catalogue.parse("netdev", text)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("fd", ["99", "0"])
def test_descriptors_that_are_no_taps_are_refused(fd: str) -> None:
    with Network() as net, pytest.raises(ConfigError, match=f"descriptor {fd} is not a tap's"):
        net.add_netdev("tap", id="x", fd=fd)
    if fd == "0":
        assert os.get_inheritable(0)  # what isn't ours stays as it was


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", False), ("vhost=on", True), ("vhost=off", False), ("vhostforce=on", True),
        ("vhost=off,vhostforce=on", False), ("vhostfd=5", True), ("poll-us=50", False),
    ],
)  # fmt: skip
def test_vhost_is_on_where_something_says_so(text: str, wanted: bool) -> None:
    parsed = catalogue.parse("netdev", f"tap,id=x,{text}".rstrip(","))
    assert isinstance(parsed, tap.TapOptions)
    assert parsed.wants_vhost == wanted


# --- scripts ------------------------------------------------------------------------------------


def test_scripts_that_fail_are_quoted(tmp_path: Path) -> None:
    path = script(tmp_path, "echo about to fail >&2; echo no bridge named $1 >&2; exit 3")
    with pytest.raises(ConfigError, match=f"{path} failed with status 3: no bridge named t0"):
        network_scripts.run(path, "t0")


def test_scripts_that_hang_are_killed_with_their_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_scripts, "PATIENCE_S", 0.5)
    path = script(tmp_path, f"sleep 1000 & echo $! > {tmp_path}/child; wait")
    with pytest.raises(ConfigError, match=r"did not end within 0\.5 s and was killed"):
        network_scripts.run(path, "t0")
    child = int((tmp_path / "child").read_text())
    until(lambda: not _runs(child))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("text", "mode", "complaint"),
    [
        (None, 0, "No such file or directory"),
        ("#!/bin/sh\n", 0o644, "Permission denied"),
        ("", 0o755, "Exec format error"),
        ("#!/nonexistent\n", 0o755, "No such file or directory"),
    ],
)
def test_scripts_that_cant_be_run_are_told(
    tmp_path: Path, text: str | None, mode: int, complaint: str
) -> None:
    path = tmp_path / "script"
    if text is not None:
        path.write_text(text)
        path.chmod(mode)
    with pytest.raises(
        ConfigError, match=rf"network script {path} can't be run: {complaint} \(script=no runs none"
    ):
        network_scripts.run(str(path), "t0")


@alone
def test_scripts_are_run_for_the_interface_at_both_ends(tmp_path: Path) -> None:
    up = script(tmp_path, f"ip link set $1 up; echo up $1 >> {tmp_path}/log", "up")
    down = script(tmp_path, f"ip link show $1 > /dev/null && echo down $1 >> {tmp_path}/log", "dn")
    with Network() as net:
        net.add_netdev("tap", id="t", ifname="tap7", script=up, downscript=down)
        assert "tap7" in interfaces()
    assert (tmp_path / "log").read_text() == "up tap7\ndown tap7\n"
    assert "tap7" not in interfaces()


@alone
def test_the_last_script_is_run_even_after_a_kill(tmp_path: Path) -> None:
    down = script(tmp_path, f"ip link show $1 > /dev/null && echo down $1 > {tmp_path}/log")
    code = (
        "import time; from vmwire.network import Network\n"
        "with Network() as net:\n"
        f"    net.add_netdev('tap', id='t', ifname='tap7', script='no', downscript='{down}')\n"
        "    print('stands', flush=True); time.sleep(100)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"stands\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    until(lambda: (tmp_path / "log").exists() and (tmp_path / "log").read_text() == "down tap7\n")
    until(lambda: "tap7" not in interfaces())


@alone
def test_a_failing_script_leaves_nothing(tmp_path: Path) -> None:
    down = script(tmp_path, f"touch {tmp_path}/down")
    with Network() as net:
        with pytest.raises(ConfigError, match="failed with status 1"):
            net.add_netdev("tap", id="t", ifname="tap7", script="/bin/false", downscript=down)
        assert "tap7" not in interfaces()
        assert net.netdevs == {}
    assert not (tmp_path / "down").exists()


@alone
def test_default_scripts_are_those_of_qemu(tmp_path: Path) -> None:
    tap.UP_SCRIPT = script(tmp_path, f"echo up $1 >> {tmp_path}/log", "ifup")
    tap.DOWN_SCRIPT = script(tmp_path, f"echo down $1 >> {tmp_path}/log", "ifdown")
    with Network() as net:
        net.add_netdev("tap", id="t")
        assert net.stats()["netdevs"]["t"]["interface"] == "tap0"
    assert (tmp_path / "log").read_text() == "up tap0\ndown tap0\n"


# --- frames -------------------------------------------------------------------------------------


@alone
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"vnet_hdr": False},
        {"queues": 2},
        {"sndbuf": 1 << 20},
        {"ifname": "a_name_of_16_bytes"},
    ],
    ids=str,
)
def test_the_host_is_reached_by_its_tap(options: dict[str, Any]) -> None:
    with Network() as net:
        net.add_netdev("tap", id="t", script="no", downscript="no", **options)
        name = net.stats()["netdevs"]["t"]["interface"]
        assert len(name) <= 15
        ip(f"addr add 10.9.0.1/24 dev {name}")
        ip(f"link set {name} up")
        run = guest_on(net, "t", "10.9.0.2/24")
        assert "3 received" in run("ping", "-c3", "-i0.05", "10.9.0.1")
        _transfer(run)


def _transfer(run: Callable[..., str]) -> None:
    """A megabyte from the host, by TCP: superframes where the tap lets them pass."""
    code = (
        "import socket; s = socket.create_connection(('10.9.0.1', 5000), 10); n = 0\n"
        "while d := s.recv(65536): n += len(d)\n"
        "print(n)"
    )
    with socket.create_server(("10.9.0.1", 5000)) as server:

        def serve() -> None:
            peer, _ = server.accept()
            with peer:
                peer.sendall(bytes(1 << 20))

        thread = threading.Thread(target=serve)
        thread.start()
        assert run(sys.executable, "-c", code).strip() == str(1 << 20)
        thread.join()


SIOCETHTOOL = 0x8946
ETHTOOL_GTSO = 0x1E


def cuts_superframes(interface: str) -> bool:
    """Whether the kernel itself cuts what it sends by ``interface`` (ethtool(8), ``tso``)."""
    value = array("I", [ETHTOOL_GTSO, 0])
    request = struct.pack("16sQ16x", interface.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        fcntl.ioctl(sock, SIOCETHTOOL, request)
    return not value[1]


@alone
@pytest.mark.parametrize("whole", [True, False])
def test_offloads_follow_what_the_other_end_takes(whole: bool) -> None:
    with Network() as net:
        net.add_netdev("tap", id="t", script="no", downscript="no", ifname="tap7")
        net.add_netdev("tap", id="o", script="no", downscript="no", vnet_hdr=whole)
        net.connect("t", "o")
        assert cuts_superframes("tap7") is not whole


@alone
def test_a_tap_that_was_there_before_stays() -> None:
    ip("tuntap add dev mine mode tap")
    with Network() as net:
        net.add_netdev("tap", id="t", ifname="mine", script="no", downscript="no")
    assert "mine" in interfaces()


@alone
def test_the_callers_taps_are_used_as_they_are() -> None:
    first, name = tun.open_tap("tap%d", header=False, multi_queue=True)
    second, _ = tun.open_tap(name, header=False, multi_queue=True)
    with Network() as net:
        net.add_netdev("tap", id="t", fds=f"{first}:{second}")
        ip(f"addr add 10.9.0.1/24 dev {name}")
        ip(f"link set {name} up")
        run = guest_on(net, "t", "10.9.0.2/24")
        assert "1 received" in run("ping", "-c1", "10.9.0.1")
        assert net.stats()["netdevs"]["t"]["queues"] == 2
    assert name not in interfaces()


@alone
@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"ifname": "lo"}, r"could not configure /dev/net/tun \(lo\): Invalid argument"),
        ({"queues": 2000, "ifname": "m"}, r"could not configure /dev/net/tun \(m\): Argument list"),
    ],
)
def test_what_the_kernel_refuses_is_told(options: dict[str, Any], complaint: str) -> None:
    with Network() as net, pytest.raises(ConfigError, match=complaint):
        net.add_netdev("tap", id="t", script="no", downscript="no", **options)
    assert interfaces() == ["lo"]


# --- bridges ------------------------------------------------------------------------------------


def bridge_with_a_host(name: str = "br0") -> None:
    ip(f"link add {name} type bridge")
    ip(f"addr add 10.9.0.1/24 dev {name}")
    ip(f"link set {name} up")


def on_bridge(interface: str) -> str:
    (found,) = json.loads(ip(f"-j link show {interface}"))
    return str(found.get("master"))


@alone
@pytest.mark.parametrize("name", ["br0", "lan"])
def test_an_administrator_needs_no_helper(name: str) -> None:
    bridge_with_a_host(name)
    with Network() as net:
        net.add_netdev("bridge", id="b", br=name)
        assert on_bridge(net.stats()["netdevs"]["b"]["interface"]) == name
        run = guest_on(net, "b", "10.9.0.2/24")
        assert "1 received" in run("ping", "-c1", "10.9.0.1")
    assert sorted(interfaces()) == sorted(["lo", name])


@alone
def test_a_bridge_that_is_not_there_is_told() -> None:
    ip("link add notabridge type veth peer other")
    for name in ("br0", "notabridge"):
        with Network() as net, pytest.raises(ConfigError, match=f"there is no bridge '{name}'"):
            net.add_netdev("bridge", id="b", br=name)
    assert sorted(interfaces()) == ["lo", "notabridge", "other"]


HELPER = """
import array, fcntl, os, socket, struct, subprocess, sys
words = dict(word.lstrip("-").partition("=")[::2] for word in sys.argv[1:])
tap = os.open("/dev/net/tun", os.O_RDWR)
flags = 0x1002 | (0x4000 if "use-vnet" in words else 0)
fcntl.ioctl(tap, 0x400454CA, struct.pack("16sH22x", b"helped", flags))
subprocess.run(["ip", "link", "set", "helped", "master", words["br"], "up"], check=True)
with socket.socket(fileno=int(words["fd"])) as channel:
    fds = array.array("i", [tap])
    channel.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
sys.exit(STATUS)
"""


def helper(folder: Path, *, status: int = 0) -> str:
    code = HELPER.replace("STATUS", str(status))
    (folder / "helper.py").write_text(code)
    return script(folder, f'exec {sys.executable} {folder}/helper.py "$@"', "helper")


@alone
@pytest.mark.parametrize("type", ["bridge", "tap"])
@pytest.mark.parametrize("words", ["", " --verbose=yes"])
def test_helpers_make_the_tap(tmp_path: Path, type: str, words: str) -> None:
    bridge_with_a_host()
    with Network() as net:
        net.add_netdev(type, id="b", br="br0", helper=helper(tmp_path) + words)
        assert on_bridge("helped") == "br0"
        run = guest_on(net, "b", "10.9.0.2/24")
        assert "1 received" in run("ping", "-c1", "10.9.0.1")
    assert "helped" not in interfaces()


@pytest.mark.parametrize(
    ("body", "complaint"),
    [
        ("exit 3", "ended with status 3"),
        ("exit 0", "passed no descriptor"),
        ("echo access denied by acl file >&2; exit 1", "access denied by acl file"),
    ],
)
def test_helpers_that_fail_are_told(tmp_path: Path, body: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=f"bridge helper failed: .*{complaint}"):
        bridge_helper.tap_by_helper(script(tmp_path, body), "br0")


def test_helpers_that_hang_are_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_helper, "PATIENCE_S", 0.3)
    with pytest.raises(ConfigError, match=r"did not answer within 0\.3 s"):
        bridge_helper.tap_by_helper(script(tmp_path, "exec sleep 1000"), "br0")


@alone
def test_a_helper_that_fails_after_all_leaves_nothing(tmp_path: Path) -> None:
    bridge_with_a_host()
    with Network() as net, pytest.raises(ConfigError, match="ended with status 9"):
        net.add_netdev("bridge", id="b", helper=helper(tmp_path, status=9))
    assert "helped" not in interfaces()


def test_helpers_that_are_not_there_are_told() -> None:
    with Network() as net, pytest.raises(ConfigError, match="/nonexistent: No such file"):
        net.add_netdev("bridge", id="b", helper="/nonexistent")


@alone
@pytest.mark.parametrize(
    ("lie", "complaint"),
    [
        ("[0]", "what .*liar passed is not a tap's: "),
        ("[]", ".*liar passed no descriptor"),
        ("[tap, tap]", ".*liar passed 2 descriptors"),
    ],
)
def test_a_helper_may_lie_about_what_it_passes(tmp_path: Path, lie: str, complaint: str) -> None:
    liar = HELPER.replace("[tap]", lie).replace("STATUS", "0")
    (tmp_path / "liar.py").write_text(liar)
    path = script(tmp_path, f'exec {sys.executable} {tmp_path}/liar.py "$@"', "liar")
    bridge_with_a_host()
    before = len(os.listdir("/proc/self/fd"))
    with Network() as net:
        running = len(os.listdir("/proc/self/fd"))
        with pytest.raises(ConfigError, match=f"bridge helper failed: {complaint}") as told:
            net.add_netdev("tap", id="b", helper=path)
        assert "\n" not in told.value.message
        assert len(os.listdir("/proc/self/fd")) == running
    assert len(os.listdir("/proc/self/fd")) == before
    assert "helped" not in interfaces()
