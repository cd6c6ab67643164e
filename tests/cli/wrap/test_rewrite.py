# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The exact words that QEMU gets, and the network's configuration."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.cli.wrap.fakes import FakeHost, composed, config, decide, qemu_7_2, rewritten

RAM = (
    "-object memory-backend-memfd,id=pc.ram,size=1073741824,share=on,"
    "x-use-canonical-path-for-ramblock-id=off -machine memory-backend=pc.ram"
)


def test_a_netdev_is_replaced_where_it_stood() -> None:
    line = (
        "-m 1G -boot c -netdev user,id=u,hostfwd=tcp::5555-:22 -device virtio-net-pci,netdev=u -S"
    )
    assert rewritten(line) == (
        f"-m 1G -boot c {RAM} "
        "-chardev socket,id=vmwire-u,path=/run/u.sock,reconnect-ms=100 "
        "-netdev vhost-user,id=u,chardev=vmwire-u -device virtio-net-pci,netdev=u -S"
    )


def test_seconds_are_the_other_spelling_and_msix_goes() -> None:
    line = "-m 1G -netdev user,id=u -device virtio-net-pci,netdev=u,addr=5"
    assert rewritten(line, FakeHost(qemu_7_2())) == (
        f"-m 1G {RAM} -chardev socket,id=vmwire-u,path=/run/u.sock,reconnect=1 "
        "-netdev vhost-user,id=u,chardev=vmwire-u "
        "-device virtio-net-pci,netdev=u,addr=5,vectors=0"
    )


def test_a_nic_stays_a_nic() -> None:
    line = "-m 1G -nic user,id=x,model=virtio,mac=52:54:00:00:00:01,hostfwd=tcp::1-:2"
    assert rewritten(line) == (
        f"-m 1G {RAM} -chardev socket,id=vmwire-x,path=/run/x.sock,reconnect-ms=100 "
        "-nic vhost-user,chardev=vmwire-x,id=x,model=virtio,mac=52:54:00:00:00:01"
    )


def test_json_cards_get_their_vectors_in_json() -> None:
    line = """-m 1G -netdev user,id=u -device '{"driver":"virtio-net-pci","netdev":"u"}'"""
    assert '{"driver":"virtio-net-pci","netdev":"u","vectors":0}' in rewritten(
        line, FakeHost(qemu_7_2())
    )


def test_what_stays_is_not_touched() -> None:
    line = (
        "-m 1G -netdev user,id=e,net=10.9.0.0/24 -device rtl8139,netdev=e "
        "-netdev user,id=u -device virtio-net-pci,netdev=u"
    )
    assert rewritten(line).startswith(
        f"-m 1G -netdev user,id=e,net=10.9.0.0/24 -device rtl8139,netdev=e {RAM} -chardev"
    )


def test_options_of_a_wrapper_are_not_repeated() -> None:
    line = "-netdev user,id=u -device virtio-net-pci,netdev=u"
    words = rewritten(line, FakeHost(fixed=("-m", "1G", "-enable-kvm")))
    assert words.startswith(RAM) and "-enable-kvm" not in words


def test_a_chardev_id_in_use_is_avoided() -> None:
    line = "-chardev null,id=vmwire-u -netdev user,id=u -device virtio-net-pci,netdev=u"
    assert "chardev=vmwire-u_ " in rewritten(line)


def test_commas_in_a_socket_path_are_doubled() -> None:
    from tests.cli.wrap.fakes import decide
    from vmwire.cli.wrap.plan import compose

    decided = decide("-netdev user,id=u -device virtio-net-pci,netdev=u")
    found = compose(decided, lambda name: f"/a,b/{name}", lambda name: name)
    assert "path=/a,,b/u," in " ".join(found.command)


def test_the_configuration_holds_what_was_typed() -> None:
    line = (
        "-netdev user,id=u,net=10.1.0.0/16,hostfwd=tcp::1-:2,hostfwd=udp::3-:4 "
        "-device virtio-net-pci,netdev=u,id=n,mac=52:54:00:00:00:01,addr=5 "
        """-netdev '{"type":"user","id":"j","restrict":true,"hostfwd":[{"str":"tcp::5-:6"}]}' """
        "-device virtio-net-pci,netdev=j -nic user,model=virtio,mac=52:54:00:00:00:02"
    )
    assert config(composed(line)) == {
        "netdevs": [
            ("user", {"id": "u", "net": "10.1.0.0/255.255.0.0",
                      "hostfwd": ["tcp::1-:2", "udp::3-:4"]}),
            ("user", {"id": "j", "restrict": "on", "hostfwd": "tcp::5-:6"}),
            ("user", {"id": "vmwire-nic0"}),
        ],
        "devices": [
            ("virtio-net-pci", {"id": "n", "netdev": "u", "mac": "52:54:00:00:00:01",
                                "socket": "/run/u.sock"}),
            ("virtio-net-pci", {"id": "j.card", "netdev": "j", "socket": "/run/j.sock"}),
            ("virtio-net-pci", {"id": "vmwire-nic0.card", "netdev": "vmwire-nic0",
                                "mac": "52:54:00:00:00:02", "socket": "/run/vmwire-nic0.sock"}),
        ],
    }  # fmt: skip


def test_of_a_repeated_option_the_last_value_counts() -> None:
    line = "-netdev user,id=u,restrict=on,restrict=off -device virtio-net-pci,netdev=u"
    assert config(composed(line))["netdevs"] == [("user", {"id": "u"})]


HUB = (
    "-m 1G -netdev user,id=u -netdev hubport,id=h0,hubid=0,netdev=u "
    "-netdev hubport,id=h1,hubid=0 -device virtio-net-pci,netdev=h1 "
    "-netdev hubport,id=h2,hubid=0 -device e1000,netdev=h2"
)


def test_a_hub_goes_as_a_whole() -> None:
    assert rewritten(HUB) == (
        f"-m 1G {RAM} -nic none "
        "-chardev socket,id=vmwire-h1,path=/run/h1.sock,reconnect-ms=100 "
        "-netdev vhost-user,id=h1,chardev=vmwire-h1 -device virtio-net-pci,netdev=h1 -device "
        """'{"driver":"vfio-user-pci","romfile":"efi-e1000.rom","""
        """"socket":{"type":"unix","path":"/run/h2.sock"}}'"""
    )
    assert config(composed(HUB))["netdevs"] == [
        ("user", {"id": "u"}),
        ("hubport", {"id": "h0", "hubid": "0", "netdev": "u"}),
        ("hubport", {"id": "h1", "hubid": "0"}),
        ("hubport", {"id": "h2", "hubid": "0"}),
    ]


def test_filters_go_with_their_netdev(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    line = (
        "-m 1G -object filter-dump,id=f,netdev=u,file=x.pcap -netdev user,id=u "
        "-object filter-buffer,id=g,netdev=u,interval=1000,position=id=f,insert=before "
        "-device virtio-net-pci,netdev=u"
    )
    found = composed(line)
    assert "filter" not in " ".join(found.command)
    assert [text for _, text in found.config["filters"]] == [
        f"filter-dump,id=f,netdev=u,file={tmp_path}/x.pcap",
        "filter-buffer,id=g,netdev=u,position=id=f,insert=before,interval=1000",
    ]


def test_descriptors_go_to_the_network_under_names() -> None:
    first, second = socket.socketpair()
    with first, second:
        line = f"-netdev stream,id=s,addr.type=fd,addr.str={first.fileno()} -nic none"
        found = composed(f"{line} -device virtio-net-pci,netdev=s")
        assert found.fds == {"s.fd": first.fileno()}
        assert config(found)["netdevs"][0][1]["addr.str"] == "s.fd"


def test_paths_are_those_of_the_folder_where_the_command_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    line = "-netdev tap,id=t,script=./up,downscript=no -device e1000,netdev=t"
    ((_, values),) = config(composed(line))["netdevs"]
    assert values == {"id": "t", "script": f"{tmp_path}/up", "downscript": "no"}


DISK = "-device virtio-blk-pci,scsi=off,drive=d,addr=4"
CARD = "-netdev user,id=u -device virtio-net-pci,netdev=u"


@pytest.mark.parametrize("card", [CARD, "-netdev user,id=u -device e1000,netdev=u"])
def test_what_newer_qemus_refuse_and_do_anyway_is_left_out(card: str) -> None:
    assert "-device virtio-blk-pci,drive=d,addr=4" in rewritten(f"{DISK} {card}")
    for kept in (DISK.replace("off", "on"), "-device virtio-rng-pci,scsi=off"):
        assert kept in rewritten(f"{kept} {card}")


def test_older_qemus_and_untouched_commands_keep_their_words() -> None:
    assert DISK in rewritten(f"{DISK} {CARD}", FakeHost(qemu_7_2()))
    assert not decide(f"{DISK} -netdev user,id=u -device rtl8139,netdev=u").empty_words
