# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Every rewritten line starts on real QEMUs, and its machine is the one that the user typed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.wrap import real_qemu
from tests.cli.wrap.fakes import config
from tests.cli.wrap.silent_backend import SilentBackends
from tests.guest import provision
from vmwire.cli.wrap.decide import Wishes
from vmwire.cli.wrap.plan import Host, compose, decision

pytestmark = pytest.mark.peer

NET = "-netdev user,id=u"
CARD = "-device virtio-net-pci,netdev=u"
PLAIN = f"{NET} {CARD}"

# Lines of which everything is taken, on every QEMU.
TAKEN = {
    "nothing about RAM": PLAIN,
    "forwards": "-m 128 -netdev user,id=u,hostfwd=tcp:127.0.0.1:0-:22,net=10.1.0.0/16 " + CARD,
    "-m alone": f"-m 96 {PLAIN}",
    "-m with a unit": f"-m 96M {PLAIN}",
    "-m size=": f"-m size=96M {PLAIN}",
    "-m with room for DIMMs": f"-m 96M,slots=2,maxmem=1G {PLAIN}",
    "-m twice": f"-m 96 -m 160 {PLAIN}",
    "-m in two parts": f"-m size=96M -m slots=2,maxmem=1G {PLAIN}",
    "-m 0": f"-m 0 {PLAIN}",
    "-mem-prealloc": f"-m 96 -mem-prealloc {PLAIN}",
    "-mem-path": f"-m 96 -mem-path {{folder}} {PLAIN}",
    "-mem-path, preallocated": f"-m 96 -mem-path {{folder}} -mem-prealloc {PLAIN}",
    "q35": f"-M q35 -m 96 {PLAIN}",
    "machine options twice": f"-machine q35,usb=off -M smm=off,mem-merge=off -m 96 {PLAIN}",
    "own memfd": f"-m 96 -object memory-backend-memfd,id=m,size=96M -M memory-backend=m {PLAIN}",
    "own private memfd": "-m 96 -object memory-backend-memfd,id=m,size=96M,share=off "
    f"-M memory-backend=m {PLAIN}",
    "own RAM object": f"-m 96 -object memory-backend-ram,id=m,size=96M -M memory-backend=m {PLAIN}",
    "own shared RAM object": "-m 96 -object memory-backend-ram,id=m,size=96M,share=on "
    f"-M memory-backend=m {PLAIN}",
    "RAM object with settings": "-m 96 -object memory-backend-ram,id=m,size=96M,merge=off,"
    f"dump=off,prealloc=on,prealloc-threads=2 -M memory-backend=m {PLAIN}",
    "RAM object without swap reserved": "-m 96 -object "
    f"memory-backend-ram,id=m,size=96M,reserve=off -M memory-backend=m {PLAIN}",
    "object in a folder": "-m 96 -object memory-backend-file,id=m,size=96M,mem-path={folder} "
    f"-M memory-backend=m {PLAIN}",
    "NUMA nodes": "-m 128 -smp 2 -object memory-backend-ram,id=a,size=64M "
    "-object memory-backend-memfd,id=b,size=64M -numa node,memdev=a,cpus=0 "
    f"-numa node,memdev=b,cpus=1 {PLAIN}",
    "a DIMM": "-m 96M,slots=2,maxmem=1G -object memory-backend-ram,id=d,size=128M "
    f"-device pc-dimm,memdev=d {PLAIN}",
    "hugepage-sized RAM in JSON": "-m 96 -object "
    '{{"qom-type":"memory-backend-ram","id":"pc.ram","size":100663296}} '
    f"-machine memory-backend=pc.ram {PLAIN}",
    "JSON as from libvirt": '-m 96 -netdev {{"type":"user","id":"u"}} -device '
    '{{"driver":"virtio-net-pci","netdev":"u","id":"net0","mac":"52:54:00:01:02:03",'
    '"bus":"pci.0","addr":"0x5"}}',
    "alias": f"-m 96 {NET} -device virtio-net,netdev=u",
    "transitional": f"-m 96 {NET} -device virtio-net-pci-transitional,netdev=u",
    "non-transitional": f"-m 96 -M q35 {NET} -device virtio-net-pci-non-transitional,netdev=u",
    "card before its netdev": f"-m 96 {CARD} {NET}",
    "card with many settings": f"-m 96 {NET} -device virtio-net-pci,netdev=u,id=n,"
    "mac=52:54:00:01:02:03,addr=7,mq=on,rx_queue_size=1024,mrg_rxbuf=off,csum=off,gso=off,"
    "disable-legacy=on,bootindex=1,romfile=,status=on,speed=1000,duplex=full",
    "-nic": "-m 96 -nic user,model=virtio",
    "-nic with all it takes": "-m 96 -nic "
    "user,id=x,model=virtio-net-pci,mac=52:54:00:01:02:03,hostfwd=tcp:127.0.0.1:0-:22",
    "two -nic between cards": "-m 96 -device virtio-rng-pci -nic user,model=virtio "
    "-device rtl8139 -nic user,model=virtio -device virtio-balloon-pci",
    "two cards among others": f"-m 96 -device virtio-rng-pci {PLAIN} -device usb-ehci "
    "-netdev user,id=v -device virtio-net-pci,netdev=v -device virtio-balloon-pci",
    "sandbox": f"-m 96 -sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny {PLAIN}",
    "two dashes": "--m 96 --netdev user,id=u --device virtio-net-pci,netdev=u",
    "microvm": f"-M microvm -m 96 {NET} -device virtio-net-device,netdev=u",
}

# Lines of which some netdev stays, beside one that is taken.
PARTLY = {
    "a card of another kind": f"-m 96 {PLAIN} -netdev user,id=v -device rtl8139,netdev=v",
    "an unused netdev": f"-m 96 {PLAIN} -netdev user,id=v",
    "a hub": f"-m 96 {PLAIN} -netdev user,id=v -netdev hubport,hubid=0,id=h,netdev=v "
    "-netdev hubport,hubid=0,id=k -device rtl8139,netdev=k",
    "a filter": f"-m 96 {PLAIN} -netdev user,id=v -device virtio-net-pci,netdev=v "
    "-chardev null,id=c -object filter-mirror,id=f,netdev=v,outdev=c",
    "a packed ring": f"-m 96 {PLAIN} -netdev user,id=v -device virtio-net-pci,netdev=v,packed=on",
    "an IOMMU": f"-m 96 -M q35 {PLAIN} -netdev user,id=v "
    "-device virtio-net-pci,netdev=v,disable-legacy=on,iommu_platform=on",
    "an unserved option": f"-m 96 {PLAIN} -netdev user,id=v,tftp=/tmp "
    "-device virtio-net-pci,netdev=v",
    "a -nic of another kind": f"-m 96 {PLAIN} -nic user,model=rtl8139",
    "the old spelling": f"-m 96 {PLAIN} -net nic,model=rtl8139 -net user",
}


@pytest.fixture(params=["oldest", "newest"])
def qemu(request: pytest.FixtureRequest) -> str:
    try:
        find = {"oldest": provision.qemu_oldest, "newest": provision.qemu_newest}[request.param]
        return find()
    except provision.ProvisionError as error:
        pytest.skip(str(error))


def _compare(qemu: str, line: str, tmp_path: Path) -> tuple[list[str], list[str]]:
    """Run both commands; the composed one's ids of taken netdevs, and of those that stay."""
    typed = [qemu, *(word.format(folder=tmp_path) for word in line.split())]
    decided = decision(typed, Wishes(), Host())
    composed = compose(
        decided, lambda name: str(tmp_path / f"{name}.sock"), lambda name: str(tmp_path / name)
    )
    sockets = [Path(str(card["socket"])) for _, card in config(composed)["devices"]]
    before = real_qemu.ask(typed)
    assert before.status == 0, before.stderr
    with SilentBackends(sockets) as backends:
        after = real_qemu.ask(composed.command)
    assert after.status == 0, after.stderr
    assert all(backends.accepted.values())
    with_msix = not decided.without_msix
    assert real_qemu.devices(after, with_msix) == real_qemu.devices(before, with_msix)
    assert real_qemu.slots(after, with_msix) == real_qemu.slots(before, with_msix)
    assert real_qemu.wires(after) == real_qemu.wires(before)
    assert real_qemu.ram(after) == real_qemu.ram(before)
    assert real_qemu.ram_is_shared(after)
    assert after.stderr == before.stderr
    served = after.answers["info network"].count("type=vhost-user")
    assert served == len(decided.taken)
    left = [verdict.id for verdict in decided.verdicts if not verdict.taken]
    return [verdict.id for verdict in decided.taken], left


@pytest.mark.parametrize("line", TAKEN.values(), ids=TAKEN.keys())
def test_the_machine_stays_the_same(qemu: str, line: str, tmp_path: Path) -> None:
    taken, left = _compare(qemu, line, tmp_path)
    assert taken and not left


@pytest.mark.parametrize("line", PARTLY.values(), ids=PARTLY.keys())
def test_what_stays_works_beside_what_is_taken(qemu: str, line: str, tmp_path: Path) -> None:
    taken, left = _compare(qemu, line, tmp_path)
    assert taken == ["u"]
    assert "u" not in left


def test_numa_nodes_by_size_of_old_machines(tmp_path: Path) -> None:
    line = f"-M pc-i440fx-4.2 -m 128 -numa node,mem=64M -numa node,mem=64M {PLAIN}"
    taken, left = _compare(provision.qemu_oldest(), line, tmp_path)
    assert taken and not left
