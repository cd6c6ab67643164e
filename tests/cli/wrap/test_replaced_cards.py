# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Cards that a vfio-user-pci stands for: what is taken, and the words that QEMU gets."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

import pytest

from tests.cli.wrap.fakes import FakeHost, composed, config, decide, qemu_7_2, qemu_11_1, reasons
from vmwire.cli.wrap.explain import explanation, summary

NET = "-netdev user,id=u"
FAMILY = ("e1000", "e1000-82544gc", "e1000-82545em", "e1000e")


def device(line: str) -> dict[str, Any]:
    """The one device that stands for a card."""
    (found,) = devices(line)
    return found


def devices(line: str) -> list[dict[str, Any]]:
    words = composed(line).command
    found = [json.loads(word) for word in words if word.startswith('{"driver":"vfio-user-pci"')]
    for each in found:
        assert each.pop("driver") == "vfio-user-pci"
        each.pop("romfile", None)
        assert each.pop("socket")["type"] == "unix"
    return found


def served(line: str) -> list[Any]:
    found = config(composed(line))["devices"]
    for _, values in found:
        assert values.pop("socket") == f"/run/{values['netdev']}.sock"
    return [[type, values] for type, values in found]


def words_after(line: str) -> str:
    """The rewritten words, without those about RAM."""
    return shlex.join(composed(line).command[1:]).partition("memory-backend=pc.ram ")[2]


# --- the card --------------------------------------------------------------------------------


OLD_MACHINE = {
    "pc-i440fx-6.0": [
        ["e1000", "init-vet", "off"],
        ["e1000e", "init-vet", "off"],
        ["pci-device", "x-pcie-ext-tag", "false"],
        ["rtl8139", "x", "y"],
    ]
}


def on_an_old_machine(line: str) -> list[Any]:
    host = FakeHost(replace(qemu_11_1(), defaults=OLD_MACHINE))
    host.known.machines["pc-i440fx-6.0"] = "pc.ram"
    found = config(composed(f"-M pc-i440fx-6.0 {NET} {line}", host))["devices"]
    return [values for _, values in found]


def test_what_an_old_machine_has_its_cards_have_counts_least() -> None:
    (e1000,) = on_an_old_machine("-device e1000,netdev=u")
    assert e1000["init-vet"] == "off"
    (told,) = on_an_old_machine("-device e1000,netdev=u,init-vet=on")
    assert "init-vet" not in told
    (told,) = on_an_old_machine("-device e1000,netdev=u -global e1000.init-vet=on")
    assert "init-vet" not in told
    (sibling,) = on_an_old_machine("-device e1000-82544gc,netdev=u")
    assert "init-vet" not in sibling


def test_a_global_of_a_type_that_a_card_is_not_made_from_is_not_its_own() -> None:
    line = f"-global e1000-base.init-vet=off {NET} -device {{}},netdev=u"
    ((_, e1000),) = served(line.format("e1000-82544gc"))
    assert e1000["init-vet"] == "off"
    ((_, e1000e),) = served(line.format("e1000e"))
    assert "init-vet" not in e1000e


def test_what_shows_of_the_slot_goes_to_the_card_too() -> None:
    (e1000e,) = on_an_old_machine("-device e1000e,netdev=u")
    assert (e1000e["init-vet"], e1000e["x-pcie-ext-tag"]) == ("off", "off")
    found = device(f"{NET} -device e1000e,netdev=u,x-pcie-err-unc-mask=off")
    assert found == {"x-pcie-err-unc-mask": False}


def test_netdev_goes_and_another_device_takes_the_cards_place() -> None:
    line = "-m 1G -netdev user,id=u,hostfwd=tcp::1-:2 -device e1000,netdev=u -boot c"
    assert words_after(line) == (
        "-nic none -device "
        '\'{"driver":"vfio-user-pci","romfile":"efi-e1000.rom",'
        '"socket":{"type":"unix","path":"/run/u.sock"}}\' -boot c'
    )
    card = {"id": "u.card", "netdev": "u", "mac": "52:54:00:12:34:56", "socket": "/run/u.sock"}
    assert config(composed(line)) == {
        "netdevs": [("user", {"id": "u", "hostfwd": "tcp::1-:2"})],
        "devices": [("e1000", card)],
    }


@pytest.mark.parametrize("name", [*FAMILY, "e1000-82540em"])
def test_each_card_of_the_family_is_served_as_itself(name: str) -> None:
    ((type, _),) = served(f"{NET} -device {name},netdev=u")
    assert type == ("e1000" if name == "e1000-82540em" else name)


def test_what_is_the_slots_goes_there_and_the_rest_is_the_cards() -> None:
    line = (
        f"{NET} -device e1000,netdev=u,id=n,addr=5.1,bus=pci.0,multifunction=on,bootindex=3,"
        "rombar=0,romsize=0x40000,acpi-index=7,mitigation=off,mac=52:54:00:00:00:09"
    )
    assert device(line) == {
        "id": "n", "addr": "5.1", "bus": "pci.0", "multifunction": True, "bootindex": 3,
        "rombar": 0, "romsize": 0x40000, "acpi-index": 7,
    }  # fmt: skip
    assert served(line) == [
        ["e1000", {"id": "n", "netdev": "u", "mac": "52:54:00:00:00:09", "mitigation": "off"}]
    ]


@pytest.mark.parametrize(
    ("settings", "romfile"),
    [("", "efi-e1000.rom"), (",romfile=", ""), (",romfile=/x", "/x"), (",rombar=0", None)],
)
def test_card_has_the_expansion_rom_that_it_would_have(settings: str, romfile: str | None) -> None:
    words = composed(f"{NET} -device e1000,netdev=u{settings}").command
    (word,) = (json.loads(word) for word in words if "vfio-user-pci" in word)
    assert word.get("romfile") == romfile


def test_address_in_json_is_slot_and_function() -> None:
    line = f"""{NET} -device '{{"driver":"e1000","netdev":"u","addr":41}}'"""
    assert device(line) == {"addr": "5.1"}


def test_globals_and_sets_are_translated_in_qemus_order() -> None:
    line = (
        "-global e1000.mitigation=off -global e1000.bootindex=4 -global e1000.mac=52:54:00:00:00:01"
        f" -global e1000-base.autonegotiation=off {NET} -device e1000,netdev=u,id=n,bootindex=5"
        " -set device.n.multifunction=on -set device.n.mac=52:54:00:00:00:02"
    )
    assert device(line) == {"id": "n", "bootindex": 5, "multifunction": True}
    ((_, values),) = served(line)
    assert values == {
        "id": "n", "netdev": "u", "mac": "52:54:00:00:00:02", "mitigation": "off",
        "autonegotiation": "off",
    }  # fmt: skip
    assert "-set" not in words_after(line) and "-global e1000.mitigation=off" in " ".join(
        composed(line).command
    )


STAYS = {
    "a property of tomorrow": (f"{NET} -device e1000,netdev=u,tomorrow=1", "tomorrow"),
    "a property not served": (f"{NET} -device e1000,netdev=u,busnr=1", "busnr"),
    "a wrong value": (f"{NET} -device e1000,netdev=u,mac=zz", "mac"),
    "a global": (f"-global e1000.tomorrow=1 {NET} -device e1000,netdev=u", "tomorrow"),
    "a set": (f"{NET} -device e1000,netdev=u,id=n -set device.n.tomorrow=1", "tomorrow"),
    "a snapshot": (f"-loadvm x {NET} -device e1000,netdev=u", "-loadvm"),
    "two cards": (f"{NET} -device e1000,netdev=u -device e1000,netdev=u", "several cards"),
    "a hub": (
        f"{NET} -device e1000,netdev=u -netdev hubport,id=h,hubid=0,netdev=u",
        "several cards",
    ),
    "9p beside": (f"{NET} -device e1000,netdev=u -virtfs local,path=/", "-virtfs"),
}


@pytest.mark.parametrize(("line", "reason"), STAYS.values(), ids=STAYS.keys())
def test_stays(line: str, reason: str) -> None:
    given, *_ = reasons(line)
    assert given is not None and reason in given


@pytest.mark.parametrize("option", ["-loadvm x", "-incoming defer"])
def test_no_saved_state_has_such_a_card(option: str) -> None:
    (given,) = (each.reason for each in decide(f"{option} {NET} -device e1000,netdev=u",
                                               resume=True).verdicts)  # fmt: skip
    assert given is not None and "vfio-user" in given


def test_qemu_without_vfio_user_keeps_the_card_and_the_log_warns() -> None:
    line = f"{NET} -device e1000,netdev=u -netdev user,id=v -device virtio-net-pci,netdev=v"
    decided = decide(line, FakeHost(qemu_7_2()))
    first, second = decided.verdicts
    assert "vfio-user-pci" in str(first.reason) and second.taken
    assert [level for level, _ in summary(decided)] == ["warning", "info"]
    assert "-netdev u: stays with QEMU: this QEMU has no vfio-user-pci" in explanation(
        decided, None
    )


def test_qemu_without_vhost_user_can_still_have_such_a_card() -> None:
    known = qemu_11_1()
    known.vhost_user = False
    line = f"{NET} -device e1000,netdev=u -netdev user,id=v -device virtio-net-pci,netdev=v"
    first, second = reasons(line, FakeHost(known))
    assert first is None and second is not None


# --- slots ------------------------------------------------------------------------------------


def test_nothing_is_asked_where_no_slot_can_change() -> None:
    host = FakeHost()
    decide(
        f"-m 1G -device rtl8139 {NET} -device e1000,netdev=u -device virtio-rng-pci,addr=9", host
    )
    decide("-m 1G " + NET + """ -device '{"driver":"e1000","netdev":"u"}'""", host)
    assert "places" not in host.asked


def test_cards_that_are_made_earlier_now_keep_their_slots() -> None:
    line = f"{NET} -device e1000,netdev=u -device virtio-rng-pci -device rtl8139,addr=9"
    assert device(line) == {"addr": "3.0"}
    assert "-device virtio-rng-pci,addr=4.0 -device rtl8139,addr=9" in words_after(line)


def test_machine_that_does_not_start_is_left_to_qemu() -> None:
    line = f"{NET} -device e1000,netdev=u -device virtio-rng-pci -device rtl8139,addr=4"
    (reason,) = reasons(line)
    assert reason is not None and "can't be known" in reason


def test_card_in_plain_words_comes_before_all_cards_in_json() -> None:
    line = f"""-device '{{"driver":"virtio-rng-pci"}}' {NET} -device e1000,netdev=u"""
    first, second = (w for w in composed(line).command if w.startswith('{"driver"'))
    assert "vfio-user-pci" in first and "virtio-rng-pci" in second


def test_virtio_disk_of_a_drive_gets_its_slot_in_words() -> None:
    line = f"{NET} -device e1000,netdev=u -drive file=x,if=virtio -drive if=virtio,file=y,id=d"
    assert device(line) == {"addr": "3.0"}
    assert words_after(line).endswith(
        "-drive file=x,if=none,id=virtio0 -device virtio-blk,drive=virtio0,addr=4.0 "
        "-drive if=none,file=y,id=d -device virtio-blk,drive=d,addr=5.0"
    )


def test_drive_that_says_its_index_keeps_the_card_with_qemu() -> None:
    (reason,) = reasons(f"{NET} -device e1000,netdev=u -drive file=x,if=virtio,index=3")
    assert reason is not None and "slot" in reason


def test_machine_whose_disks_are_virtio_keeps_the_card_with_qemu() -> None:
    (reason,) = reasons(f"-M virt {NET} -device e1000,netdev=u -drive file=x", with_virt())
    assert reason is not None and "-drive" in reason


def with_virt() -> FakeHost:
    known = qemu_11_1()
    known.machines["virt"] = "virt.ram"
    return FakeHost(known)


def test_the_card_of_a_nic_gets_the_slot_that_it_would_have() -> None:
    line = "-nic user,model=e1000,mac=52:54:00:00:00:01 -device virtio-rng-pci"
    assert device(line) == {"addr": "3.0"}
    assert "-device virtio-rng-pci,addr=4.0" in words_after(line)
    assert "-nic user" not in words_after(line) and "-nic none" in words_after(line)


# --- addresses --------------------------------------------------------------------------------


def test_addresses_are_counted_as_qemu_counts_and_stay() -> None:
    line = (
        "-device e1000 -device rtl8139,mac=52:54:00:12:34:58 "
        f"{NET} -device e1000,netdev=u,addr=5 -device rtl8139,addr=6 "
        "-netdev user,id=v -device virtio-net-pci,netdev=v,addr=7"
    )
    macs = {values["id"]: values.get("mac") for _, values in served(line)}
    assert macs == {"u.card": "52:54:00:12:34:57", "v.card": None}
    words = words_after(line)
    assert "-device rtl8139,addr=6,mac=52:54:00:12:34:59" in words
    assert "virtio-net-pci,netdev=v,addr=7,mac=52:54:00:12:34:5a" in words


def test_cards_in_json_are_numbered_last() -> None:
    line = f"""-device '{{"driver":"rtl8139"}}' {NET} -device e1000,netdev=u"""
    ((_, values),) = served(line)
    assert values["mac"] == "52:54:00:12:34:56"
    assert '{"driver":"rtl8139","mac":"52:54:00:12:34:57"}' in words_after(line)


def test_nics_are_numbered_first_and_get_their_address_in_words() -> None:
    line = "-nic user,model=virtio -nic user,model=e1000 -device rtl8139,addr=9"
    assert "model=virtio " in words_after(line)
    assert "rtl8139,addr=9,mac=52:54:00:12:34:58" in words_after(line)


def test_card_of_a_nic_stays_where_a_later_nic_would_take_its_slot() -> None:
    first, second = reasons("-nic user,model=e1000 -nic user,model=rtl8139")
    assert first is not None and "slot" in first and second is not None


def test_address_that_a_wrapper_would_lose_keeps_the_card_with_qemu() -> None:
    fixed = ("-device", '{"driver":"rtl8139"}')
    (reason,) = reasons(f"{NET} -device e1000,netdev=u", FakeHost(fixed=fixed))
    assert reason is not None and "MAC" in reason


@pytest.mark.parametrize("card", ["virtio-net-pci", "virtio-net", "virtio-net-pci-transitional"])
def test_a_virtio_card_is_replaced_where_it_asks_for_that(card: str) -> None:
    line = f"{NET} -device {card},netdev=u,attach=vfio-user,romfile=,ctrl_rx=off"
    assert reasons(line) == [None]
    assert device(line) == {}
    ((type, values),) = served(line)
    assert type == ("virtio-net-pci" if card == "virtio-net" else card)
    assert (values["attach"], values["ctrl_rx"]) == ("vfio-user", "off")


def test_a_virtio_card_that_asks_for_nothing_is_kept() -> None:
    assert devices(f"{NET} -device virtio-net-pci,netdev=u") == []
    ((reason,),) = [reasons(f"{NET} -device virtio-net-pci,netdev=u,attach=vfio-user,packed=on")]
    assert reason is not None and "packed" in reason


@pytest.mark.parametrize(("face", "id"), [("", 0x1000), (",disable-legacy=on", 0x1041)])
def test_the_rom_is_made_out_to_the_virtio_cards_face(face: str, id: int) -> None:
    from vmwire import catalogue

    options = catalogue.parse("device", f"virtio-net-pci,attach=vfio-user{face}")
    assert options.ROM_FILE == "efi-virtio.rom"
    assert id == options.ROM_DEVICE
