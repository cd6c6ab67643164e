# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The decision table for shared RAM: what the user says of RAM -> what QEMU gets."""

from __future__ import annotations

import pytest

from tests.cli.wrap.fakes import MIB, FakeHost, composed, qemu_11_1, reasons

NET = "-netdev user,id=u -device virtio-net-pci,netdev=u"
AFTER = (
    "-chardev socket,id=vmwire-u,path=/run/u.sock,reconnect-ms=100 "
    "-netdev vhost-user,id=u,chardev=vmwire-u -device virtio-net-pci,netdev=u"
)


def new_ram(size: int, name: str = "pc.ram", kind: str = "memory-backend-memfd") -> str:
    return (
        f"-object {kind},id={name},size={size},share=on,x-use-canonical-path-for-ramblock-id=off "
        f"-machine memory-backend={name}"
    )


def in_folder(folder: str, size: int) -> str:
    return new_ram(size, kind=f"memory-backend-file,mem-path={folder}")


@pytest.mark.parametrize(
    ("typed", "size"),
    [
        ("", 128 * MIB),
        ("-m 0", 128 * MIB),
        ("-m 1024", 1024 * MIB),
        ("-m 1024M", 1024 * MIB),
        ("-m 1G", 1024 * MIB),
        ("-m 1.5g", 1536 * MIB),
        ("-m 2097152k", 2048 * MIB),
        ("-m 1073741824b", 1024 * MIB),
        ("-m size=1G", 1024 * MIB),
        ("-m 512M,slots=2,maxmem=4G", 512 * MIB),
        ("-m slots=2,maxmem=4G", 128 * MIB),
        ("-m 256 -m 512", 512 * MIB),
        ("-m size=256 -m slots=2,maxmem=4G", 256 * MIB),
        ("--m 256", 256 * MIB),
    ],
)
def test_plain_ram_becomes_a_memfd_of_its_size(typed: str, size: int) -> None:
    command = composed(f"{typed} {NET}").command
    words = typed.split()
    assert command[1:] == [*words, *new_ram(size).split(), *AFTER.split()]


CHANGED = {
    "mem-path": (
        "-m 1G -mem-path /dev/hugepages -mem-prealloc",
        f"-m 1G {in_folder('/dev/hugepages', 1024 * MIB)} -mem-prealloc",
    ),
    "mem-path with more than a path": (
        "-m 1G -mem-path /dev/hugepages,prealloc=on,share=on",
        f"-m 1G {in_folder('/dev/hugepages,prealloc=on', 1024 * MIB)}",
    ),
    "mem-path twice": (
        "-mem-path /nowhere -m 1G -mem-path /dev/shm",
        f"{in_folder('/dev/shm', 1024 * MIB)} -m 1G",
    ),
    "memfd by the user": (
        "-m 1G -object memory-backend-memfd,id=m,size=1G -M memory-backend=m",
        "-m 1G -object memory-backend-memfd,id=m,size=1G -M memory-backend=m",
    ),
    "private memfd": (
        "-m 1G -object memory-backend-memfd,id=m,share=off,size=1G -M memory-backend=m",
        "-m 1G -object memory-backend-memfd,id=m,share=on,size=1G -M memory-backend=m",
    ),
    "anonymous RAM": (
        "-m 1G -object memory-backend-ram,id=m,size=1G,prealloc=on -machine q35,memory-backend=m",
        "-m 1G -object memory-backend-memfd,id=m,size=1G,prealloc=on,share=on "
        "-machine q35,memory-backend=m",
    ),
    "anonymous shared RAM, which 7.2 can't hand out": (
        "-m 1G -object memory-backend-ram,id=m,size=1G,share=on -M memory-backend=m",
        "-m 1G -object memory-backend-memfd,id=m,size=1G,share=on -M memory-backend=m",
    ),
    "hugepages": (
        "-m 1G -object memory-backend-file,id=m,size=1G,mem-path=/dev/hugepages "
        "-M memory-backend=m",
        "-m 1G -object memory-backend-file,id=m,size=1G,mem-path=/dev/hugepages,share=on "
        "-M memory-backend=m",
    ),
    "shared file": (
        "-m 1G -object memory-backend-file,id=m,size=1G,mem-path=/ram,share=on -M memory-backend=m",
        "-m 1G -object memory-backend-file,id=m,size=1G,mem-path=/ram,share=on -M memory-backend=m",
    ),
    "POSIX shared memory": (
        "-m 1G -object memory-backend-shm,id=m,size=1G -M memory-backend=m",
        "-m 1G -object memory-backend-shm,id=m,size=1G -M memory-backend=m",
    ),
    "nodes": (
        "-object memory-backend-ram,id=a,size=1G -numa node,memdev=a "
        "-object memory-backend-ram,id=b,size=1G -numa node,memdev=b -m 2G",
        "-object memory-backend-memfd,id=a,size=1G,share=on -numa node,memdev=a "
        "-object memory-backend-memfd,id=b,size=1G,share=on -numa node,memdev=b -m 2G",
    ),
    "an object that is not RAM stays": (
        "-m 1G -object memory-backend-memfd,id=m,size=1G -M memory-backend=m "
        "-object memory-backend-ram,id=spare,size=1G",
        "-m 1G -object memory-backend-memfd,id=m,size=1G -M memory-backend=m "
        "-object memory-backend-ram,id=spare,size=1G",
    ),
    "JSON": (
        """-m 1G -object '{"qom-type":"memory-backend-ram","id":"m","size":1}' """
        "-M memory-backend=m",
        '-m 1G -object {"qom-type":"memory-backend-memfd","id":"m","size":1,"share":true} '
        "-M memory-backend=m",
    ),
}


@pytest.mark.parametrize(("typed", "expected"), CHANGED.values(), ids=CHANGED.keys())
def test_memory_options_are_changed_in_place(typed: str, expected: str) -> None:
    command = composed(f"{typed} {NET}").command
    assert " ".join(command[1:]) == f"{expected} {AFTER}"


def test_dimms_are_shared_besides_the_main_ram() -> None:
    typed = (
        "-m 1G,slots=2,maxmem=4G -object memory-backend-ram,id=d,size=1G -device pc-dimm,memdev=d"
    )
    command = " ".join(composed(f"{typed} {NET}").command)
    assert "-object memory-backend-memfd,id=d,size=1G,share=on" in command
    assert new_ram(1024 * MIB) in command


def test_nodes_of_old_machines_by_size_count_as_plain_ram() -> None:
    typed = "-M pc -m 1G -numa node,mem=512M -numa node,mem=512M"
    assert new_ram(1024 * MIB) in " ".join(composed(f"{typed} {NET}").command)


def test_a_taken_name_is_not_given_again() -> None:
    typed = "-m 1G -object memory-backend-ram,id=pc.ram,size=1G"
    assert new_ram(1024 * MIB, "vmwire-ram") in " ".join(composed(f"{typed} {NET}").command)


def test_only_a_machine_without_m_is_asked_for_its_ram() -> None:
    host = FakeHost()
    composed(f"-m 1G {NET}", host)
    assert "RAM of pc-i440fx-11.1" not in host.asked
    composed(f"-M q35 {NET}", host)
    assert "RAM of q35" in host.asked


IMPOSSIBLE = {
    "a file": (
        "-object memory-backend-file,id=m,size=1G,mem-path=/disk.img -M memory-backend=m",
        "the guest would write to it",
    ),
    "a DIMM in a file": (
        "-m 1G,slots=1,maxmem=4G -object memory-backend-file,id=n,size=1G,mem-path=/pmem.img "
        "-device nvdimm,memdev=n",
        "the guest would write to it",
    ),
    "read-only": (
        "-object memory-backend-file,id=m,size=1G,mem-path=/dev/shm,readonly=on "
        "-M memory-backend=m",
        "readonly=on",
    ),
    "no such object": ("-M memory-backend=m", "'m' is not on the command line"),
    "an enclave": (
        "-object memory-backend-epc,id=m,size=1G -M memory-backend=m",
        "can't be shared",
    ),
    "a confidential guest": ("-M q35,confidential-guest-support=sev0", "keeps guest memory"),
    "an encrypted guest": ("-M q35,memory-encryption=sev0", "keeps guest memory"),
    "RAM by machine property": ("-M q35,memory.size=1G", "vmwire can't read"),
    "global": ("-global memory-backend-memfd.share=off", "-global"),
    "a strange size": ("-m 0x400", "'0x400'"),
    "a broken size": ("-m 100K", "not whole MiB"),
    "no folder": ("-m 1G -mem-path /nowhere", "not a folder"),
    "a folder with what is not known": ("-m 1G -mem-path /dev/shm,x=y", "not a folder"),
    "no such property": ("-M xenpvh", "takes no memory-backend"),
}


@pytest.mark.parametrize(("typed", "reason"), IMPOSSIBLE.values(), ids=IMPOSSIBLE.keys())
def test_ram_that_cannot_be_shared_leaves_the_netdev(typed: str, reason: str) -> None:
    (given,) = reasons(f"{typed} {NET}")
    assert given is not None and "RAM can't be shared" in given and reason in given


def test_a_qemu_without_memfd_leaves_plain_ram() -> None:
    known = qemu_11_1()
    known.memfd = False
    (given,) = reasons(f"-m 1G {NET}", FakeHost(known))
    assert given is not None and "memory-backend-memfd" in given


def test_a_file_size_limit_holds_for_ram_too() -> None:
    assert reasons(f"-m 1G {NET}", FakeHost(limit=1024 * MIB)) == [None]
    (given,) = reasons(f"-m 1G {NET}", FakeHost(limit=1024 * MIB - 1))
    assert given is not None and "ulimit" in given
