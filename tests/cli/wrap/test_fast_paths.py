# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What QEMU moves as fast without us stays with it, unless something asks for vmwire."""

from __future__ import annotations

import pytest

from tests.cli.wrap.fakes import composed, decide, reasons

CARD = "-device virtio-net-pci,netdev=t,id=n"
VHOST = ("vhost=on", "vhost=on,vhostforce=off", "vhostforce=on", "vhostfd=7", "vhostfds=7:8")
PLAIN = ("", "vhost=off", "vhost=off,vhostforce=on", "vhost=off,vhostfd=7", "vhostforce=off")
SWITCH = "-chardev socket,id=c,path=/sw -netdev vhost-user,id=t,chardev=c"


def tap(options: str) -> str:
    return f"-netdev tap,id=t,script=no{options and ',' + options}"


@pytest.mark.parametrize("options", VHOST)
@pytest.mark.parametrize("card", [CARD, "-device virtio-net-device,netdev=t"])
def test_a_virtio_card_on_a_tap_with_vhost_stays(options: str, card: str) -> None:
    (given,) = reasons(f"{tap(options)} {card}")
    assert given is not None and "kernel (vhost)" in given and "--take t" in given


def test_the_card_of_a_nic_does_too() -> None:
    (given,) = reasons("-nic tap,id=t,model=virtio,vhost=on")
    assert given is not None and "kernel (vhost)" in given


@pytest.mark.parametrize("options", PLAIN)
def test_a_tap_that_qemu_itself_would_move_is_taken(options: str) -> None:
    given = reasons(f"{tap(options)} {CARD}")
    assert not any("kernel (vhost)" in (each or "") for each in given)


def test_a_virtio_card_on_a_switch_stays() -> None:
    (given,) = reasons(f"{SWITCH} {CARD}")
    assert given is not None and "--take t" in given


def test_its_chardev_goes_along_when_it_is_taken() -> None:
    made = composed(f"{SWITCH} {CARD}", take=("t",))
    assert [typed for typed, _ in made.config["chardevs"]] == ["socket,id=c,path=/sw"]
    assert "path=/sw" not in " ".join(made.command)


def test_what_qemu_does_not_take_is_served() -> None:
    assert reasons(f"-netdev type=vhost-user,id=t,file=/sw {CARD}") == [None]


ASKING = {
    "a filter": f"{tap('vhost=on')} {CARD} -object filter-dump,id=f,netdev=t,file=x",
    "another card": f"{tap('vhost=on')} -device e1000,netdev=t",
    "the whole card": f"{tap('vhost=on')} {CARD},attach=vfio-user",
    "a hub": f"{tap('vhost=on')} -netdev hubport,id=h0,hubid=1,netdev=t "
    "-netdev hubport,id=h1,hubid=1 -device virtio-net-pci,netdev=h1",
}


@pytest.mark.parametrize("line", ASKING.values(), ids=ASKING)
def test_what_asks_for_vmwire_overrules_speed(line: str) -> None:
    assert not any("kernel (vhost)" in (each or "") for each in reasons(line))


@pytest.mark.parametrize("name", ["t", "n"])
def test_take_overrules_speed_by_either_id(name: str) -> None:
    decided = decide(f"{tap('vhost=on')} {CARD}", take=(name,))
    assert "kernel (vhost)" not in str(decided.verdicts[0].reason)


def test_take_overrules_nothing_else() -> None:
    (given,) = (v.reason for v in decide(f"{tap('')} {CARD},packed=on", take=("t",)).verdicts)
    assert given is not None and "packed" in given
