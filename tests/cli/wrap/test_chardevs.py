# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Filters take their chardevs along, if nobody else may use them."""

from __future__ import annotations

import pytest

from tests.cli.wrap.fakes import composed, reasons

NET = "-netdev user,id=u -device virtio-net-pci,netdev=u"
OUT = "-chardev socket,id=out,host=127.0.0.1,port=9003,server=on,wait=off"
MIRROR = "-object filter-mirror,id=m,netdev=u,queue=rx,outdev=out"
PAIR = (
    "-chardev socket,id=in,path=/x -chardev socket,id=out,path=/y,server=on,wait=off "
    "-object filter-redirector,id=r,netdev=u,indev=in,outdev=out"
)


@pytest.mark.parametrize(
    "more",
    [
        f"{OUT} {MIRROR}",
        f"{MIRROR} {OUT}",
        PAIR,
        f"{OUT} {MIRROR},vnet_hdr_support=on",
        f"{OUT} {MIRROR} -chardev stdio,id=other -serial chardev:other",
        f"{OUT} {MIRROR} -boot order=out -name out",
        f"{OUT} {MIRROR} -device virtio-rng-pci,id=out -netdev user,id=outer",
        f"""{OUT} -object '{{"qom-type":"filter-mirror","id":"m","netdev":"u","outdev":"out"}}'""",
    ],
)
def test_filters_with_chardevs_go_along(more: str) -> None:
    assert reasons(f"{NET} {more}")[0] is None


STAYS = {
    "no such chardev": (MIRROR, "no"),
    "two of that id": (f"{OUT} {OUT} {MIRROR}", "not one -chardev"),
    "one that waits": (f"{OUT.replace(',wait=off', '')} {MIRROR}", "wait=off"),
    "another kind": (f"-chardev file,id=out,path=/x {MIRROR}", "file"),
    "a wrong one": (f"-chardev socket,id=out,colour=red {MIRROR}", "colour"),
    "a serial port": (f"{OUT} {MIRROR} -serial chardev:out", "-serial chardev:out uses"),
    "a monitor": (f"{OUT} {MIRROR} -mon out,mode=control", "-mon out"),
    "a monitor by key": (f"{OUT} {MIRROR} -mon chardev=out", "-mon chardev=out"),
    "a device in JSON": (
        f"""{OUT} {MIRROR} -device '{{"driver":"isa-serial","chardev": "out"}}'""",
        "isa-serial",
    ),
    "another object": (
        f"{OUT} {MIRROR} -object colo-compare,id=c,primary_in=out,secondary_in=x,outdev=y",
        "colo-compare",
    ),
    "a setting": (f"{OUT} {MIRROR} -set chardev.out.port=9004", "-set"),
    "another netdev's filter": (
        f"{OUT} {MIRROR} -netdev user,id=v -object filter-mirror,id=w,netdev=v,outdev=out",
        "uses its chardev",
    ),
}


@pytest.mark.parametrize(("more", "reason"), STAYS.values(), ids=STAYS)
def test_in_every_doubt_all_stays(more: str, reason: str) -> None:
    given = reasons(f"{NET} {more}")[0]
    assert given is not None and reason in given


@pytest.mark.parametrize(
    ("chardev", "text"),
    [
        ("path=/x", "reconnect-ms=100"),
        ("path=/x,reconnect=0", "reconnect-ms=100"),
        ("path=/x,reconnect-ms=7000", "reconnect-ms=7000"),
        ("path=/x,server=on,wait=off", "server=on"),
    ],
)
def test_who_calls_a_peer_that_is_made_later_calls_again(chardev: str, text: str) -> None:
    made = composed(f"{NET} -chardev socket,id=out,{chardev} {MIRROR}")
    ((_, given),) = made.config["chardevs"]
    assert text in given and given.count("reconnect") == ("server" not in chardev)


def test_they_move_from_the_command_to_the_network() -> None:
    made = composed(f"{NET} {OUT} {MIRROR} -chardev stdio,id=other -serial chardev:other")
    (typed, text), *none = made.config["chardevs"]
    assert not none and typed == OUT.removeprefix("-chardev ")
    assert "id=out" in text and "server=on" in text
    assert [typed for typed, _ in made.config["filters"]] == [MIRROR.removeprefix("-object ")]
    words = " ".join(made.command)
    assert "9003" not in words and "filter-mirror" not in words and "stdio" in words
