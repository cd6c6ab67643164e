# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``-net`` in front of QEMU, and the network of which nothing is said."""

from __future__ import annotations

import shlex

import pytest

from tests.cli.wrap.fakes import FakeHost, composed, config, decide, qemu_7_2, reasons, rewritten

PAIR = "-net nic,model=virtio -net user"


def test_a_virtio_card_stays_where_it_was() -> None:
    line = "-net nic,model=virtio,macaddr=52:54:00:00:00:01,addr=7,vectors=2,vlan=4,name=n"
    words = shlex.split(rewritten(f"{line} -net user,vlan=4,name=out -vga std"))
    at = words.index("-net")
    assert words[at + 1] == (
        "nic,netdev=out,model=virtio,macaddr=52:54:00:00:00:01,addr=7,vectors=2"
    )
    assert words[words.index("-netdev") + 1] == "vhost-user,id=out,chardev=vmwire-out"
    assert words[-2:] == ["-vga", "std"]


def test_msix_that_isnt_safe_is_taken_from_the_card() -> None:
    assert "nic,netdev=user.0,model=virtio,vectors=0" in rewritten(PAIR, FakeHost(qemu_7_2()))


def test_a_replaced_card_leaves_nothing_of_the_vlan() -> None:
    made = composed("-net user,hostfwd=tcp::5555-:22 -net nic,model=e1000,macaddr=0x7")
    assert "-net" not in made.command
    assert made.command[made.command.index("-nic") + 1] == "none"
    taken = config(made)
    assert taken["netdevs"] == [("user", {"id": "user.0", "hostfwd": "tcp::5555-:22"})]
    ((card, values),) = taken["devices"]
    assert (card, values["mac"]) == ("e1000", "52:54:00:00:00:07")


def test_errors_of_the_network_name_what_was_typed() -> None:
    made = composed("--net user,hostfwd=tcp::5555-:22,vlan=2 -net nic,vlan=2")
    assert made.config["netdevs"][0][0] == "-net user,hostfwd=tcp::5555-:22,vlan=2"
    assert made.config["devices"][0][0] == "-net nic,vlan=2"


def test_several_cards_share_a_hub() -> None:
    taken = config(composed("-net nic -net nic,model=virtio -net user"))
    assert [(kind, values.get("hubid")) for kind, values in taken["netdevs"]] == [
        ("hubport", "0"),
        ("hubport", "0"),
        ("user", None),
        ("hubport", "0"),
    ]
    assert [kind for kind, _ in taken["devices"]] == ["e1000", "virtio-net-pci"]


def test_a_card_behind_a_replaced_one_gets_its_slot_and_address() -> None:
    line = rewritten("-net nic,model=e1000 -net nic,model=virtio,vectors=4 -net user")
    assert (
        "-device virtio-net-pci,netdev=hub0port1,mac=52:54:00:12:34:57,vectors=4,addr=4.0" in line
    )


def test_a_nic_behind_a_replaced_one_gets_its_slot_and_address() -> None:
    line = rewritten("-nic user,model=e1000 -nic user,model=virtio -device rtl8139")
    assert (
        "-netdev vhost-user,id=vmwire-nic1,chardev=vmwire-nic1 "
        "-device virtio-net-pci,netdev=vmwire-nic1,mac=52:54:00:12:34:57,vectors=0,addr=4.0"
    ) in line
    assert "-device rtl8139,addr=5.0,mac=52:54:00:12:34:58" in line


def test_a_dump_goes_with_its_vlan() -> None:
    made = composed(f"{PAIR} -net dump,file=/x.pcap,len=96")
    ((_, text),) = made.config["filters"]
    assert text == "filter-dump,id=dump.0,netdev=user.0,file=/x.pcap,maxlen=96"
    assert "dump" not in " ".join(made.command)


def test_vlans_are_taken_one_by_one() -> None:
    line = "-net nic,vlan=1,model=rtl8139 -net user,vlan=1 -net nic,model=virtio -net user"
    assert reasons(line) == [
        None,
        "the card is rtl8139, only virtio-net and e1000 cards are served",
    ]
    assert "-net nic,vlan=1,model=rtl8139 -net user,vlan=1" in rewritten(line)


@pytest.mark.parametrize(
    ("line", "host", "reason"),
    [
        ("-net nic,model=rtl8139 -net user", None, "the card is rtl8139"),
        ("-net nic,model=rtl8139 -net nic -net user", None, "the card is rtl8139"),
        ("-net nic -net user", FakeHost(qemu_7_2()), "vfio-user-pci"),
        ("-net nic,model=virtio -net user,smb=/x", None, "smb"),
        ("-net nic", None, "nothing of the host's"),
        ("-net user", None, "no card"),
        (PAIR, FakeHost(fixed=("-net", "dump")), "the program itself"),
        (f"{PAIR} -loadvm x", None, "-loadvm"),
        (f"{PAIR},id=u -set net.u.restrict=on", None, "-set net.u.restrict=on"),
        (f"{PAIR} -netdev hubport,id=h,hubid=0 -device rtl8139,netdev=h", None, "rtl8139"),
        ("-net nic -net user -M isapc", FakeHost(models={"isapc": "ne2k_isa"}), "ne2k_isa"),
        ("-net nic -net user -M unheard", None, "default model"),
    ],
)
def test_a_vlan_stays_as_a_whole(line: str, host: FakeHost | None, reason: str) -> None:
    decided = decide(line, host)
    assert not decided.taken
    assert any(reason in (verdict.reason or "") for verdict in decided.verdicts)


@pytest.mark.parametrize(
    ("line", "warning"),
    [
        ("-net nic,vlan=1,model=virtio", "hub 1 is not connected to host network"),
        ("-net user,name=out", "hub 0 with no nics"),
        ("-net dump -net nic", "hub 0 is not connected to host network"),
    ],
)
def test_a_vlan_that_leads_nowhere_is_served_if_its_words_are_old(line: str, warning: str) -> None:
    decided = decide(line)
    assert decided.taken and decided.warnings == [warning]
    assert not {"vlan", "name", "dump"} & set(rewritten(line).replace(",", " ").split())


def test_a_taps_vhost_is_no_reason_since_qemu_has_it_on_a_hub() -> None:
    assert reasons("-net nic,model=virtio -net tap,vhost=on") == [None]


def test_keep_knows_the_name() -> None:
    assert reasons(PAIR, keep=("user.0",)) == ["--keep"]


def test_what_qemu_refuses_is_left_to_qemu() -> None:
    decided = decide("-net nic,colour=red -net user")
    assert not decided.taken and decided.command[1:] == ["-net", "nic,colour=red", "-net", "user"]


def test_a_hub_of_new_and_old_words_is_one() -> None:
    line = f"{PAIR} -netdev hubport,id=h,hubid=0 -device e1000,netdev=h"
    assert reasons(line) == [None] * 4


# --- nothing is said ----------------------------------------------------------------------------


def test_the_usual_network_is_taken() -> None:
    host = FakeHost()
    assert reasons("-hda disk", host) == [None]
    assert "-machine pc-i440fx-11.1 -net nic -net user" in host.asked
    taken = config(composed("-hda disk"))
    assert [kind for kind, _ in taken["netdevs"] + taken["devices"]] == ["user", "e1000"]


@pytest.mark.parametrize(
    "line", ["-nodefaults", "-net none", "-nic none", "-netdev user,id=u", "-net nic"]
)
def test_there_is_no_usual_network(line: str) -> None:
    assert not decide(line).taken


def test_a_scripts_words_count() -> None:
    assert not decide("-hda disk", FakeHost(fixed=("-nodefaults",))).taken


def test_a_usual_network_that_stays_leaves_the_command_alone() -> None:
    decided = decide("-hda disk", FakeHost(qemu_7_2()))
    (verdict,) = decided.verdicts
    assert decided.command[1:] == ["-hda", "disk"] and "vfio-user-pci" in str(verdict.reason)
