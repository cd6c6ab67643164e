# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import shlex
from xml.etree import ElementTree

from vmwire.cli import recipes
from vmwire.cli.recipes import Card
from vmwire.nic.options import VirtioNetPciOptions
from vmwire.nic.pci_options import E1000Options

MAC = bytes.fromhex("525400123456")


def card(socket: str = "/run/n0.sock", **options: object) -> Card:
    record = VirtioNetPciOptions(netdev="n0", mac=MAC, **options)  # type: ignore[arg-type]
    return Card("n0", socket, "u", record)


def qemu_words(of: Card) -> list[str]:
    return shlex.split(" ".join(recipes.qemu(of)))


def test_qemu_gets_shared_memory_a_chardev_that_reconnects_and_the_card() -> None:
    assert qemu_words(card()) == [
        "-m", "1G", "-object", "memory-backend-memfd,id=mem,size=1G,share=on",
        "-machine", "memory-backend=mem",
        "-chardev", "socket,id=n0,path=/run/n0.sock,reconnect-ms=1000",
        "-netdev", "vhost-user,id=n0,chardev=n0",
        "-device", "virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56",
    ]  # fmt: skip


def test_what_the_user_said_of_the_card_reaches_qemu_but_not_vmwires_own_options() -> None:
    words = qemu_words(card(mq=True, queues=4, host_mtu=9000, socket="/run/n0.sock"))
    assert words[-3] == "vhost-user,id=n0,chardev=n0,queues=4"
    assert words[-1] == "virtio-net-pci,netdev=n0,mac=52:54:00:12:34:56,mq=on,host_mtu=9000"


def test_path_with_odd_characters_survives_shell_options_and_xml() -> None:
    odd = card("/run/a b,c'd&e.sock")
    assert "socket,id=n0,path=/run/a b,,c'd&e.sock,reconnect-ms=1000" in qemu_words(odd)
    xml = ElementTree.fromstring("<d>" + "".join(recipes.libvirt(odd)) + "</d>")
    source = xml.find("interface/source")
    assert source is not None and source.get("path") == "/run/a b,c'd&e.sock"
    words = shlex.split(" ".join(recipes.cloud_hypervisor(odd)))
    assert words[-1].startswith('vhost_user=true,socket="/run/a b,c\'d&e.sock",mac=')


def test_queue_pairs_are_counted_as_each_machine_counts() -> None:
    several = card(mq=True, queues=2)
    assert recipes.cloud_hypervisor(several)[0].endswith("num_queues=4")
    assert "  <driver queues='2'/>" in recipes.libvirt(several)
    assert not any("driver" in line for line in recipes.libvirt(card()))


# --- cards that are served whole ----------------------------------------------------------------


def whole_card(socket: str = "/run/n0.sock", **options: object) -> Card:
    record = E1000Options(netdev="u", mac=MAC, **options)  # type: ignore[arg-type]
    return Card("n0", socket, "u", record)


def test_qemu_gets_shared_memory_and_a_device_in_json_that_stands_for_the_card() -> None:
    words = qemu_words(whole_card(addr="5", bootindex=1, mitigation=False))
    assert words[:-2] == [
        "-m", "1G", "-object", "memory-backend-memfd,id=mem,size=1G,share=on",
        "-machine", "memory-backend=mem",
    ]  # fmt: skip
    assert words[-2] == "-device"
    assert json.loads(words[-1]) == {
        "driver": "vfio-user-pci",
        "id": "n0",
        "addr": "5",
        "bootindex": 1,
        "socket": {"type": "unix", "path": "/run/n0.sock"},
    }


def test_cloud_hypervisor_gets_a_user_device() -> None:
    assert recipes.cloud_hypervisor(whole_card()) == [
        "--memory size=1G,shared=on --user-device socket=/run/n0.sock"
    ]


def test_libvirt_hands_the_device_on_to_qemu() -> None:
    odd = whole_card("/run/a'b&c.sock")
    domain, *lines = recipes.libvirt(odd)
    xml = ElementTree.fromstring("".join([domain, *lines, "</domain>"]))
    space = "{http://libvirt.org/schemas/domain/qemu/1.0}"
    flag, device = (each.get("value") for each in xml.findall(f"{space}commandline/{space}arg"))
    assert flag == "-device" and device is not None
    assert json.loads(device)["socket"]["path"] == "/run/a'b&c.sock"
    assert xml.find("memoryBacking/access") is not None


def test_notes_are_about_the_cards_that_are_there() -> None:
    assert "reconnect-ms" not in recipes.text([whole_card()])
    assert "vfio-user-pci is there since" not in recipes.text([card()])


def test_a_whole_virtio_card_is_reached_as_any_card_over_vfio_user() -> None:
    whole = card(attach="vfio-user", addr="6", disable_legacy="on", socket="/run/n0.sock")
    words = qemu_words(whole)
    assert json.loads(words[-1]) == {
        "driver": "vfio-user-pci",
        "id": "n0",
        "addr": "6",
        "socket": {"type": "unix", "path": "/run/n0.sock"},
    }
    assert "vhost-user" not in " ".join(words)
    assert "efi-virtio.rom" in recipes.text([whole])
