# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Guests in namespaces, with real taps and the real Linux stack on them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vmwire.attach import namespace
from vmwire.attach.namespace import ask_dns_only
from vmwire.errors import ConfigError
from vmwire.network import Network


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("hosts: files dns\n", "hosts: files dns\n"),
        ("hosts:          files mdns4_minimal [NOTFOUND=return] dns", "hosts: files dns"),
        ("hosts: resolve [!UNAVAIL=return] files myhostname\n", "hosts: files dns\n"),
        ("passwd: files\nhosts: mymachines dns\nnetworks: files\n",
         "passwd: files\nhosts: dns\nnetworks: files\n"),
        ("# hosts: resolve\n", "# hosts: resolve\n"),
        ("", ""),
    ],
)  # fmt: skip
def test_hosts_are_asked_of_files_and_dns_only(before: str, after: str) -> None:
    assert ask_dns_only(before) == after


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as network:
        yield network


def add_guest(net: Network, id: str, **options: Any) -> Callable[..., str]:
    """Add a namespace; return a function that runs a command in it."""
    net.add_netns(id=id, **options)
    box: Any = net.devices[id].box

    def run(*command: str, status: int = 0) -> str:
        process = box.start([*command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output: str = process.communicate(timeout=30)[0]
        assert process.returncode == status, output
        return output

    return run


def interface(run: Callable[..., str]) -> dict[str, Any]:
    (found,) = json.loads(run("ip", "-j", "addr", "show", "eth0"))
    assert isinstance(found, dict)
    return found


@pytest.mark.netns
def test_interface_is_configured_as_told(net: Network) -> None:
    run = add_guest(
        net, "g", address="10.0.2.15/24", gateway="10.0.2.2", dns="10.0.2.3", mtu=9000,
        mac="52:54:00:12:34:56",
    )  # fmt: skip
    eth0 = interface(run)
    assert (eth0["mtu"], eth0["address"]) == (9000, "52:54:00:12:34:56")
    v4 = [each for each in eth0["addr_info"] if each["family"] == "inet"]
    assert [(each["local"], each["prefixlen"]) for each in v4] == [("10.0.2.15", 24)]
    assert "default via 10.0.2.2 dev eth0" in run("ip", "route")
    assert run("cat", "/etc/resolv.conf") == "nameserver 10.0.2.3\n"
    assert "LOWER_UP" in run("ip", "link", "show", "lo")


@pytest.mark.netns
def test_the_hosts_own_files_and_links_stay_as_they_are(net: Network) -> None:
    before = Path("/etc/resolv.conf").read_bytes(), sorted(os.listdir("/sys/class/net"))
    add_guest(net, "g", address="10.0.2.15/24", dns="10.0.2.3")
    assert (Path("/etc/resolv.conf").read_bytes(), sorted(os.listdir("/sys/class/net"))) == before


@pytest.mark.netns
@pytest.mark.parametrize("hooked", [False, True])
def test_two_namespaces_talk_over_a_wire(net: Network, hooked: bool) -> None:
    """With a hook on the wire every packet is whole: the kernel segments and sums itself."""
    add_guest(net, "a", address="10.9.0.1/24")
    run = add_guest(net, "b", address="10.9.0.2/24")
    net.connect("a", "b")
    sizes: list[int] = []
    if hooked:
        net.hook("b", lambda packet: sizes.append(len(packet.data)))
    run("ping", "-c2", "-i0.2", "-W5", "10.9.0.1")
    a: Any = net.devices["a"].box
    server = a.start(["socat", "-u", "TCP-LISTEN:7,reuseaddr", "SYSTEM:sha256sum"],
                     stdout=subprocess.PIPE, text=True)  # fmt: skip
    time.sleep(0.5)
    send = "head -c 5000000 /dev/zero | socat -u - TCP:10.9.0.1:7,retry=20,interval=0.1"
    run("sh", "-c", send)
    digest = subprocess.run(
        ["sh", "-c", "head -c 5000000 /dev/zero | sha256sum"], capture_output=True, text=True
    )
    assert server.communicate(timeout=20)[0] == digest.stdout
    told = net.stats()["devices"]["b"]
    assert hooked == (max(sizes, default=65536) <= 1514)
    assert hooked == (told["frames"] > 3000)


@pytest.mark.netns
def test_pulled_cable_is_seen_in_the_namespace(net: Network) -> None:
    net.add_netdev("null", id="x")
    run = add_guest(net, "g", netdev="x", address="10.9.0.2/24")
    assert "LOWER_UP" in interface(run)["flags"]
    net.set_link("x", False)
    assert "NO-CARRIER" in interface(run)["flags"]
    net.set_link("x", True)
    assert "LOWER_UP" in interface(run)["flags"]


@pytest.mark.netns
def test_guest_that_deletes_its_interface_harms_nobody(net: Network) -> None:
    net.add_netdev("null", id="x")
    run = add_guest(net, "g", netdev="x", address="10.9.0.2/24")
    run("ip", "link", "delete", "eth0")
    deadline = time.monotonic() + 5
    while net.stats()["devices"]["g"]["carrier"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    net.inject("x", bytes(60))
    net.remove("g")


@pytest.mark.netns
def test_interface_that_is_down_loses_frames(net: Network) -> None:
    net.add_netdev("null", id="x")
    run = add_guest(net, "g", netdev="x", address="10.9.0.2/24")
    run("ip", "link", "set", "eth0", "down")
    assert net.inject("g", bytes(60))
    assert net.stats()["devices"]["g"]["drops"] == {"interface down": 1}


@pytest.mark.netns
def test_interface_goes_with_its_card(net: Network) -> None:
    run = add_guest(net, "g", address="10.9.0.2/24")
    box: Any = net.devices["g"].box
    waiting = box.start(["sleep", "30"])
    run("ip", "link", "show", "eth0")
    inside = f"/proc/{waiting.pid}/net/dev"
    deadline = time.monotonic() + 10
    while "eth0" not in Path(inside).read_text():  # until it has entered
        assert time.monotonic() < deadline
        time.sleep(0.02)
    net.remove("g")
    while "eth0" in Path(inside).read_text():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    waiting.kill()
    waiting.wait()


@pytest.mark.netns
def test_namespace_of_a_process_can_be_entered(net: Network) -> None:
    own = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    holder = subprocess.Popen(["unshare", *own, "--net", "sleep", "60"])
    try:
        deadline = time.monotonic() + 10
        while os.path.samefile(f"/proc/{holder.pid}/ns/net", "/proc/self/ns/net"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        net.add_netns(id="g", pid=holder.pid, ifname="vm%d", address="10.9.0.2/24")
        assert "vm0" in Path(f"/proc/{holder.pid}/net/dev").read_text()
    finally:
        holder.kill()
        holder.wait()


@pytest.mark.netns
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pid": 1 << 30}, r"the network namespace of process \d+ can't be entered: No such"),
        ({"path": "/nosuch"}, "the network namespace of /nosuch can't be entered: No such file"),
        ({"path": "/dev/null"}, "the network namespace of /dev/null can't be entered: Invalid"),
        ({"pid": 1, "path": "/x"}, "'pid' and 'path' can't be used together"),
        ({"address": "10.0.2.15/24", "gateway": "10.9.9.9"}, "eth0 can't have address"),
        ({"mac": "ff:ff:ff:ff:ff:ff"}, "eth0 can't have address"),
        ({"address": "10.0.2.15"}, "'10.0.2.15' is not an IPv4 address with its network's length"),
        ({"gateway": "nonsense"}, "'nonsense' is not an IPv4 address"),
    ],
)
def test_what_cannot_be_had_is_one_line_and_leaves_nothing(
    net: Network, options: Any, message: str
) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    with pytest.raises(ConfigError, match=message) as caught:
        net.add_netns(id="g", **options)
    assert "\n" not in str(caught.value)
    assert not net.devices
    assert len(os.listdir("/proc/self/fd")) == descriptors


def test_missing_rights_are_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> None:
        raise PermissionError(1, "Operation not permitted", "unshare")

    monkeypatch.setattr(namespace.linux, "unshare", refuse)
    with pytest.raises(ConfigError, match=r"no network namespace can be had .*it takes root, or"):
        namespace.isolate()
    monkeypatch.setattr(namespace, "open_tap", refuse)
    with pytest.raises(ConfigError, match=r"no tap can be had from /dev/net/tun"):
        namespace.make_tap("eth0")
