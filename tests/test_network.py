# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The graph: what may be joined with what, and what is left when something can't be had."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vmwire import configuration
from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.network import Network
from vmwire.nic.null import NullNic, NullNicOptions
from vmwire.wire.frame import Frame
from vmwire.wire.hook import DROP, Direction, Packet

FRAME = bytes(range(60))


@pytest.fixture
def net() -> Iterator[Network]:
    with Network() as network:
        yield network


def pair(net: Network) -> tuple[Any, Any]:
    """A null card joined to a null netdev; returns their boxes."""
    net.add_netdev("null", id="x")
    net.add_nic("null", id="n", netdev="x")
    return net.devices["n"].box, net.netdevs["x"].box


def transmit(net: Network, id: str, data: bytes = FRAME) -> int:
    """Send a frame as if the card's guest did; return whether it was taken."""
    return net.loop.call(lambda: net.devices[id].box.port.send([Frame.of(data)]))


def test_card_and_netdev_are_joined_and_exchange_frames(net: Network) -> None:
    _, netdev = pair(net)
    assert net.links == [["n", "x"]]
    assert transmit(net, "n") == 1
    assert netdev.received == 1


@pytest.mark.parametrize("id", ["", "1x", "a/b", "a b", None, 5])
def test_id_that_is_no_identifier_is_refused(net: Network, id: Any) -> None:
    with pytest.raises(ConfigError, match="Parameter 'id' expects an identifier"):
        net.add_netdev("null", id=id)


def test_duplicate_ids_are_refused(net: Network) -> None:
    pair(net)
    with pytest.raises(ConfigError, match="Duplicate ID 'x' for netdev"):
        net.add_netdev("null", id="x")
    with pytest.raises(ConfigError, match="Duplicate ID 'n' for device"):
        net.add_nic("null", id="n")


def test_netdev_and_device_may_have_the_same_id(net: Network) -> None:
    net.add_netdev("null", id="net0")
    net.add_nic("null", id="net0", netdev="net0")
    assert net.links == [["net0", "net0"]]
    net.remove("net0", kind="device")
    assert list(net.netdevs) == ["net0"]
    assert not net.devices


def test_unknown_types_are_refused(net: Network) -> None:
    with pytest.raises(ConfigError, match="netdev type 'bogus' is not known"):
        net.add_netdev("bogus", id="x")
    with pytest.raises(ConfigError, match="'bogus' is not a valid device model name"):
        net.add_nic("bogus", id="x")


def test_unknown_and_missing_options_are_refused(net: Network) -> None:
    with pytest.raises(ConfigError, match="Invalid parameter 'colour'"):
        net.add_netdev("null", id="x", colour="red")
    with pytest.raises(ConfigError, match="Parameter 'hubid' is missing"):
        net.add_netdev("hubport", id="x")
    assert not net.netdevs


def test_unknown_netdev_is_refused_and_leaves_no_card(net: Network) -> None:
    with pytest.raises(ConfigError, match=r"Property 'null.netdev' can't find value 'nosuch'"):
        net.add_nic("null", id="n", netdev="nosuch")
    assert not net.devices


def test_netdev_in_use_is_refused_and_says_how_to_share(net: Network) -> None:
    pair(net)
    with pytest.raises(
        ConfigError, match=r"Property 'null.netdev' can't take value 'x', it's in use.*hubport"
    ):
        net.add_nic("null", id="m", netdev="x")
    assert list(net.devices) == ["n"]
    assert net.links == [["n", "x"]]


def test_hubports_let_cards_share_a_netdev_and_hear_each_other(net: Network) -> None:
    net.add_netdev("null", id="x")
    net.add_netdev("hubport", id="h0", hubid=0, netdev="x")
    for name in "ab":
        net.add_netdev("hubport", id=f"h{name}", hubid=0)
        net.add_nic("null", id=name, netdev=f"h{name}")
    transmit(net, "a")
    boxes: list[Any] = [net.netdevs["x"].box, net.devices["a"].box, net.devices["b"].box]
    assert [box.received for box in boxes] == [1, 0, 1]


def test_hubport_of_unknown_netdev_leaves_no_hub(net: Network) -> None:
    with pytest.raises(ConfigError, match="netdev 'nosuch' not found"):
        net.add_netdev("hubport", id="h", hubid=3, netdev="nosuch")
    net.add_netdev("null", id="x")
    net.add_nic("null", id="n", netdev="x")
    with pytest.raises(ConfigError, match="in use"):
        net.add_netdev("hubport", id="h", hubid=3, netdev="x")
    assert not net.hubs
    assert list(net.netdevs) == ["x"]


def test_a_switch_is_what_its_first_port_made_it(net: Network) -> None:
    net.add_netdev("hubport", id="h0", hubid=0, switch=True)
    net.add_netdev("hubport", id="h1", hubid=0)
    with pytest.raises(ConfigError, match="'switch' expects 'on'"):
        net.add_netdev("hubport", id="h2", hubid=0, switch=False)
    assert list(net.netdevs) == ["h0", "h1"]
    assert net.stats()["hubs"]["hub0"]["switch"] == {"addresses": {"h0": 0, "h1": 0}}
    net.remove("h0")
    net.remove("h1")
    net.add_netdev("hubport", id="h2", hubid=0, switch=False)
    assert "switch" not in net.stats()["hubs"]["hub0"]


def test_hubs_cannot_be_joined_to_a_circle(net: Network) -> None:
    net.add_netdev("hubport", id="a1", hubid=1)
    net.add_netdev("hubport", id="b1", hubid=2, netdev="a1")
    net.add_netdev("hubport", id="b2", hubid=2)
    net.add_netdev("hubport", id="c1", hubid=3, netdev="b2")
    net.add_netdev("hubport", id="a2", hubid=1)
    with pytest.raises(ConfigError, match="frames would circle"):
        net.add_netdev("hubport", id="c2", hubid=3, netdev="a2")
    with pytest.raises(ConfigError, match="frames would circle"):
        net.add_netdev("hubport", id="a3", hubid=1, netdev="a2")
    assert "c2" not in net.netdevs


def test_card_that_cannot_be_opened_leaves_its_netdev_free(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[NullNic] = []

    def fail(self: NullNic, host: Host) -> None:
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(NullNic, "open", fail)
    monkeypatch.setattr(NullNic, "close", lambda self: closed.append(self))
    net.add_netdev("null", id="x")
    with pytest.raises(OSError, match="in use"):
        net.add_nic("null", id="n", netdev="x")
    assert len(closed) == 1
    assert not net.devices
    assert net.links == []
    assert not net.netdevs["x"].box.port.carrier


def test_removing_a_card_frees_its_netdev(net: Network) -> None:
    pair(net)
    net.remove("n")
    assert net.links == []
    assert not net.netdevs["x"].box.port.carrier
    net.add_nic("null", id="n", netdev="x")
    assert net.links == [["n", "x"]]


def test_removing_what_is_not_there_says_so(net: Network) -> None:
    with pytest.raises(ConfigError, match="netdev, device or filter 'x' not found"):
        net.remove("x")


def test_members_can_be_joined_and_parted_later(net: Network) -> None:
    net.add_netdev("null", id="x")
    net.add_nic("null", id="n")
    net.connect("n", "x")
    assert net.links == [["n", "x"]]
    with pytest.raises(ConfigError, match="'n' is in use"):
        net.connect("n", "x")
    net.disconnect("n")
    assert net.links == []
    with pytest.raises(ConfigError, match="itself"):
        net.connect("n", "n")


def test_pulled_cable_is_seen_at_the_other_end(net: Network) -> None:
    nic, netdev = pair(net)
    net.set_link("x", False)
    assert not nic.port.carrier
    transmit(net, "n")
    assert netdev.received == 0
    net.set_link("x", True)
    assert nic.port.carrier


def test_filters_stand_in_the_line_and_leave_it(net: Network) -> None:
    nic, netdev = pair(net)
    changes: list[bool] = []
    nic.port.on_link_changed = changes.append
    seen: list[Packet] = []
    first = net.hook("x", lambda packet: seen.append(packet))
    second = net.hook("x", lambda packet: packet.data + b"!")
    third = net.hook("n", lambda packet: None, name="mine")
    assert net.links == [["n", third, second, first, "x"]]
    transmit(net, "n")
    assert [packet.data for packet in seen] == [FRAME + b"!"]
    assert seen[0].direction is Direction.TX
    net.remove(second)
    net.remove(third)
    net.remove(first)
    assert net.links == [["n", "x"]]
    transmit(net, "n")
    assert netdev.received_bytes == 61 + 60
    assert changes == []


def test_direction_is_the_guests_at_either_end(net: Network) -> None:
    pair(net)
    seen: list[Direction] = []
    net.hook("n", lambda packet: seen.append(packet.direction))
    net.hook("x", lambda packet: seen.append(packet.direction))
    net.inject("n", FRAME)
    transmit(net, "n")
    assert seen == [Direction.TX, Direction.TX]  # what is injected comes in behind the filters
    net.loop.call(lambda: net.netdevs["x"].box.port.send([Frame.of(FRAME)]))
    assert seen[2:] == [Direction.RX, Direction.RX]


def test_filter_waits_for_the_wire_and_survives_it(net: Network) -> None:
    net.add_netdev("null", id="x")
    seen: list[Packet] = []
    net.hook("x", lambda packet: seen.append(packet) or DROP)
    net.add_nic("null", id="n", netdev="x")
    transmit(net, "n")
    net.remove("n")
    net.add_nic("null", id="n2", netdev="x")
    transmit(net, "n2")
    assert len(seen) == 2
    box: Any = net.netdevs["x"].box
    assert box.received == 0


def test_capture_records_to_a_private_file(net: Network, tmp_path: Path) -> None:
    pair(net)
    path = tmp_path / "x.pcap"
    capture = net.capture("x", path)
    transmit(net, "n")
    net.remove(capture)
    assert path.read_bytes()[24 + 16 :] == FRAME
    assert path.stat().st_mode & 0o777 == 0o600


def test_capture_to_an_impossible_place_says_so(net: Network, tmp_path: Path) -> None:
    pair(net)
    with pytest.raises(ConfigError, match=r"Could not open .*: No such file"):
        net.capture("x", tmp_path / "no" / "x.pcap")
    assert net.links == [["n", "x"]]


def test_injected_frame_arrives_at_the_member(net: Network) -> None:
    nic, netdev = pair(net)
    assert net.inject("n", FRAME)
    assert net.inject("x", FRAME)
    assert (nic.received, netdev.received) == (1, 1)
    net.remove("n")
    with pytest.raises(ConfigError, match="joined to nothing"):
        net.inject("x", FRAME)


CONFIG: dict[str, Any] = {
    "netdevs": [["null", {"id": "x"}], ["null", {"id": "y"}]],
    "devices": [["null", {"id": "n", "netdev": "x"}, {}], ["null", {"netdev": "y"}]],
}


def test_config_builds_everything(net: Network) -> None:
    configuration.build(net, CONFIG)
    assert net.links == [["n", "x"], ["null.1", "y"]]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["null", {"id": "m", "netdev": "x"}], r"-device null,id=m,netdev=x: Property .* in use"),
        (["null", {"id": "m", "netdev": "z"}], r"-device null,id=m,netdev=z: .*can't find value"),
        (["null", {"id": "n"}], r"-device null,id=n: Duplicate ID"),
        (["nosuch", {"id": "m"}], r"-device nosuch,id=m: 'nosuch' is not"),
    ],
)
def test_config_with_a_fault_builds_nothing(net: Network, extra: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configuration.build(net, CONFIG | {"devices": [*CONFIG["devices"], extra]})
    assert re.match(message, str(caught.value))
    assert not net.netdevs
    assert not net.devices
    assert net.links == []


def test_netdev_without_id_in_a_config_is_refused(net: Network) -> None:
    with pytest.raises(ConfigError, match="-netdev null: Parameter 'id' is missing"):
        configuration.build(net, {"netdevs": [["null", {}]]})


def test_stats_are_plain_data(net: Network) -> None:
    pair(net)
    net.capture("x", "/dev/null")
    transmit(net, "n")
    told = json.loads(json.dumps(net.stats()))
    assert told["netdevs"]["x"]["received"] == 1
    assert told["devices"]["n"]["frames"] == 1
    assert told["filters"]["capture0"]["records"] == 1
    assert told["links"] == [["n", "capture0", "x"]]


def test_methods_may_be_called_from_many_threads(net: Network) -> None:
    def work(number: int) -> None:
        for turn in range(20):
            net.add_netdev("null", id=f"x{number}-{turn}")
            net.add_nic("null", id=f"n{number}-{turn}", netdev=f"x{number}-{turn}")
            net.remove(f"n{number}-{turn}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(net.netdevs) == 80
    assert net.links == []


def test_bug_in_the_engine_comes_out_of_wait() -> None:
    def fail() -> None:
        raise ZeroDivisionError("a bug")

    with Network() as net:
        net.loop.post(fail)
        with pytest.raises(ZeroDivisionError, match="a bug"):
            net.wait(5)


def test_close_closes_everything_and_may_come_twice(tmp_path: Path) -> None:
    net = Network()
    net.start()
    nic, _ = pair(net)
    net.capture("x", tmp_path / "x.pcap")
    net.close()
    net.close()
    assert not nic.port.carrier
    assert net.wait(0)


def test_null_card_needs_no_network() -> None:
    nic = NullNic(NullNicOptions(id="n"))
    assert nic.receive([Frame.of(FRAME)]) == 1
    assert nic.stats()["received bytes"] == 60


def test_importing_the_network_is_cheap() -> None:
    code = (
        "import sys, vmwire.network\n"
        "heavy = 'asyncio', 'pyroute2', 'vmwire.netdev.user', 'vmwire.attach.', 'vmwire.cli'\n"
        "print([m for m in sys.modules if m.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
