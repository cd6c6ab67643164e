# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""What is taken, what stays, and why."""

from __future__ import annotations

import pytest

from tests.cli.wrap.fakes import FakeHost, decide, qemu_7_2, qemu_11_1, reasons
from vmwire.cli.wrap.probe import ProbeError
from vmwire.cli.wrap.program import Program, UnknownProgramError

NET = "-netdev user,id=u"
CARD = "-device virtio-net-pci,netdev=u"
PLAIN = f"{NET} {CARD}"

TAKEN = {
    "plain": PLAIN,
    "card first": f"{CARD} {NET}",
    "alias": f"{NET} -device virtio-net,netdev=u",
    "transitional": f"{NET} -device virtio-net-pci-transitional,netdev=u",
    "non-transitional": f"{NET} -device virtio-net-pci-non-transitional,netdev=u",
    "on virtio-mmio": f"{NET} -device virtio-net-device,netdev=u",
    "driver by key": f"{NET} -device driver=virtio-net-pci,netdev=u",
    "type by key": f"-netdev type=user,id=u {CARD}",
    "forwards": f"{NET},hostfwd=tcp::5555-:22,hostfwd=udp::53-:53,restrict=on {CARD}",
    "JSON": """-netdev '{"type":"user","id":"u","hostfwd":[{"str":"tcp::1-:2"}]}' """
    """-device '{"driver":"virtio-net-pci","netdev":"u","mq":true,"vectors":4}'""",
    "nic": "-nic user,model=virtio",
    "nic with a mac": "-nic user,model=virtio-net-pci,mac=52:54:00:12:34:56,hostfwd=tcp::1-:2",
    "features off": f"{NET} {CARD},packed=off,iommu_platform=off,failover=off,rss=off",
    "an MTU": f"{NET} {CARD},host_mtu=9000",
    "harmless globals": f"-global virtio-net-pci.romfile= -global PIIX4_PM.disable_s3=1 {PLAIN}",
    "stopped with QMP": f"-S -qmp unix:/x,server=on,wait=off {PLAIN}",
    "daemon": f"-daemonize -pidfile /x -runas nobody -chroot /tmp -sandbox on {PLAIN}",
    "kvm": f"-enable-kvm -cpu host {PLAIN}",
    "tcg": f"-accel tcg,thread=multi {PLAIN}",
    "snapshot": f"-snapshot disk.img {PLAIN}",
    "instruction count": f"-icount shift=auto {PLAIN}",
    "a dump": f"{PLAIN} -object filter-dump,id=f,netdev=u,file=x",
    "a buffer in JSON": f"{PLAIN} -object "
    """'{"qom-type":"filter-buffer","id":"f","netdev":"u","interval":1000}'""",
    "a tap": f"-netdev tap,id=u,ifname=t0,script=no,downscript=no,vhost=off {CARD}",
    "a tap as a nic": "-nic tap,model=virtio,script=no",
    "a bridge": f"-netdev bridge,id=u,br=lan {CARD}",
    "a socket": f"-netdev socket,id=u,listen=:9000 {CARD}",
    "a stream": f"-netdev stream,id=u,addr.type=unix,addr.path=/x,reconnect-ms=100 {CARD}",
    "none beside": f"-nic none {PLAIN}",
    "the old nic": f"{NET} -net nic,netdev=u,model=virtio",
    "nothing on the old nic's VLAN": f"-net none {PLAIN}",
    "the machine's own card": "-nic user",
    "only the machine's own card": "-nic mac=52:54:00:12:34:57",
    "set on something else": f"-set device.other.addr=3 {PLAIN}",
}


@pytest.mark.parametrize("line", TAKEN.values(), ids=TAKEN.keys())
def test_taken(line: str) -> None:
    assert reasons(line) == [None]


STAYS = {
    "e1000": (f"{NET} -device rtl8139,netdev=u", "the card is rtl8139"),
    "usb-net": (f"{NET} -device usb-net,netdev=u", "the card is usb-net"),
    "on another transport": (f"{NET} -device virtio-net-ccw,netdev=u", "virtio-net-ccw"),
    "no card": (NET, "no card"),
    "only another's card": (f"{NET} -device virtio-net-pci,netdev=v", "no card"),
    "two cards": (f"{PLAIN} -device virtio-net-pci,netdev=u,id=second", "several cards"),
    "a type of later": (f"-netdev af-xdp,id=u {CARD}", "type 'af-xdp'"),
    "a type not served": (f"-netdev user,id=u,net=abc {CARD}", "netmask"),
    "a filter that is wrong": (f"{PLAIN} -object filter-dump,id=f,netdev=u", "'file' is missing"),
    "a filter that is not served": (
        f"{PLAIN} -object filter-rewriter,id=f,netdev=u",
        "filter-rewriter",
    ),
    "a nic of a machine without": ("-M microvm -nic user", "default model"),
    "nic rtl8139": ("-nic user,model=rtl8139", "the card is rtl8139"),
    "packed": (f"{NET} {CARD},packed=on", "packed=on"),
    "packed as a flag": (f"{NET} {CARD},packed", "packed=on"),
    "iommu": (f"{NET} {CARD},iommu_platform=true", "iommu_platform=true"),
    "ats": (f"{NET} {CARD},ats=on", "ats=on"),
    "rss": (f"{NET} {CARD},rss=on", "rss=on"),
    "in order": (f"{NET} {CARD},in_order=on", "in_order=on"),
    "failover": (f"{NET} {CARD},failover=on", "failover"),
    "failover elsewhere": (f"{PLAIN} -device vfio-pci,failover_pair_id=u", "failover"),
    "a property of tomorrow": (f"{NET} {CARD},tomorrow=on", "'tomorrow'"),
    "global": (f"-global virtio-net-pci.packed=on {PLAIN}", "-global virtio-net-pci.packed"),
    "global of the family": (f"-global virtio-device.iommu_platform=on {PLAIN}", "-global"),
    "global by keys": (
        f"-global driver=virtio-pci,property=ats,value=on {PLAIN}",
        "-global virtio-pci.ats",
    ),
    "set": (f"{NET} {CARD},id=n -set device.n.packed=on", "-set device.n.packed=on"),
    "set on a nic": ("-nic user,id=u,model=virtio -set nic.u.model=rtl8139", "-set nic.u.model"),
    "set on the old nic": (
        f"{NET} -net nic,netdev=u,model=virtio,id=k -set net.k.model=e1000",
        "-set net.k.model",
    ),
    "set on the netdev": (f"{PLAIN} -set netdev.u.net=10.1.0.0/24", "-set netdev.u.net"),
    "an option not served": (f"{NET},tftp=/srv {CARD}", "tftp"),
    "guestfwd": (f"{NET},guestfwd=tcp:10.0.2.9:1-cmd:cat {CARD}", "guestfwd"),
    "IPv6 asked for": (f"{NET},ipv6=on {CARD}", "IPv6"),
    "a wrong option": (f"{NET},colour=red {CARD}", "colour"),
    "a wrong value": (f"{NET},net=abc {CARD}", "netmask"),
    "a bad id": ("-netdev user,id=1u -device virtio-net-pci,netdev=1u", "id"),
    "no id": ("-netdev user", "id"),
    "incoming": (f"-incoming defer {PLAIN}", "-incoming"),
    "loadvm": (f"-loadvm x {PLAIN}", "-loadvm"),
    "readconfig": (f"-readconfig f {PLAIN}", "-readconfig"),
    "preconfig": (f"-preconfig {PLAIN}", "-preconfig"),
    "only-migratable": (f"-only-migratable {PLAIN}", "-only-migratable"),
    "replay": (f"-icount shift=1,rr=record,rrfile=f {PLAIN}", "-icount"),
    "qtest": (f"-accel qtest {PLAIN}", "qtest"),
    "xen": (f"-machine pc,accel=xen {PLAIN}", "xen"),
    "no machine": (f"-M none {PLAIN}", "'none'"),
    "no machine at last": (f"-M pc -machine none {PLAIN}", "'none'"),
    "help": (f"{PLAIN} -device help", "help"),
    "help of a type": (f"{PLAIN} -device e1000,help", "help"),
    "help of a CPU": (f"{PLAIN} -cpu ?", "help"),
    "version": (f"{PLAIN} -version", "help"),
    "an unknown option": (f"{PLAIN} -frobnicate", "-frobnicate"),
    "a missing argument": (f"{PLAIN} -m", "no argument"),
}


@pytest.mark.parametrize(("line", "reason"), STAYS.values(), ids=STAYS.keys())
def test_stays(line: str, reason: str) -> None:
    (given,) = reasons(line)
    assert given is not None and reason in given


HUB = "-netdev user,id=u -netdev hubport,id=h0,hubid=0,netdev=u"
PORT = "-netdev hubport,id=h{0},hubid=0 -device {1},netdev=h{0}"
VIRTIO = PORT.format(1, "virtio-net-pci")
E1000 = PORT.format(2, "e1000")
OTHER = PORT.format(3, "rtl8139")


def test_a_hub_is_taken_as_a_whole() -> None:
    assert reasons(f"{HUB} {VIRTIO} {E1000}") == [None] * 4


@pytest.mark.parametrize(
    ("line", "host", "reason"),
    [
        (f"{HUB} {VIRTIO} {OTHER}", None, "the card is rtl8139"),
        (f"{HUB} {VIRTIO} {E1000}", FakeHost(qemu_7_2()), "vfio-user-pci"),
        (f"{HUB} {VIRTIO} -net nic", None, "-net puts others on its hub"),
        (f"{HUB} {VIRTIO} -net nic,model=rtl8139 -net user", None, "the card is rtl8139"),
        (
            f"{HUB} {VIRTIO} -netdev hubport,id=h4,hubid=00,netdev=v -netdev af-xdp,id=v",
            None,
            "'v'",
        ),
        (f"{HUB},queue=on {VIRTIO}", None, "queue"),
        (f"{HUB} {CARD} {VIRTIO}", None, "several cards refer to it"),
        (f"{HUB} {VIRTIO} -object filter-rewriter,id=f,netdev=u", None, "rewriter"),
    ],
)
def test_who_stays_keeps_its_hub_with_qemu(line: str, host: FakeHost | None, reason: str) -> None:
    given = reasons(line, host)
    assert all(given)
    assert any(reason in (each or "") for each in given)


def test_hubs_are_judged_one_by_one() -> None:
    other = OTHER.replace("hubid=0", "hubid=1")
    first, second, third, fourth = reasons(f"{HUB} {VIRTIO} {other}")
    assert (first, second, third) == (None, None, None) and fourth is not None


def test_two_netdevs_of_one_id_both_stay() -> None:
    assert all(reasons(f"{PLAIN} -netdev user,id=u"))


def test_json_that_qemu_refuses_is_left_to_qemu() -> None:
    decided = decide(f"{PLAIN} -device '{{broken'")
    assert decided.fault and not decided.taken


def test_each_netdev_is_judged_for_itself() -> None:
    line = f"{PLAIN} -netdev user,id=v -device rtl8139,netdev=v -nic user,model=virtio"
    first, second, third = reasons(line)
    assert (first, third) == (None, None) and second is not None


def test_another_type_beside_stays_alone() -> None:
    line = f"{PLAIN} -netdev af-xdp,id=t -device virtio-net-pci,netdev=t,packed=on"
    first, second = reasons(line)
    assert first is None and second is not None


def test_keep_leaves_a_netdev_to_qemu() -> None:
    line = f"{PLAIN} -netdev user,id=v -device virtio-net-pci,netdev=v"
    assert reasons(line, keep=("v",)) == [None, "--keep"]


@pytest.mark.parametrize("option", ["-loadvm x", "-incoming defer", "-incoming tcp:0:4444"])
def test_a_state_saved_with_vmwires_network_is_loaded_with_it(option: str) -> None:
    assert decide(f"{option} {PLAIN}", resume=True).taken
    assert "--resume" in str(decide(f"{option} {PLAIN}").verdicts[0].reason)


def test_keep_takes_the_cards_id_too() -> None:
    assert reasons(f"{NET} {CARD},id=n", keep=("n",)) == ["--keep"]


def test_a_nic_without_id_can_be_kept_by_the_id_that_it_gets() -> None:
    line = "-nic user,model=virtio -nic user,model=virtio"
    assert reasons(line, keep=("vmwire-nic1",)) == [None, "--keep"]


# --- QEMU and the machine ----------------------------------------------------------------------


def test_qemu_is_not_asked_where_nothing_is_left_to_take() -> None:
    host = FakeHost()
    decide(f"{NET} -device rtl8139,netdev=u", host)
    assert host.asked == []


def test_a_qemu_without_vhost_user_keeps_its_network() -> None:
    known = qemu_11_1()
    known.vhost_user = False
    (given,) = reasons(PLAIN, FakeHost(known))
    assert given is not None and "vhost-user" in given


def test_a_big_endian_target_keeps_its_network() -> None:
    known = qemu_11_1()
    known.target = "s390x"
    (given,) = reasons(PLAIN, FakeHost(known))
    assert given is not None and "s390x" in given


def test_a_program_in_doubt_keeps_its_network() -> None:
    class Doubtful(FakeHost):
        def find(self, word: str) -> Program:
            raise UnknownProgramError("it is a riddle")

    assert reasons(PLAIN, Doubtful()) == ["it is a riddle"]


def test_a_qemu_that_does_not_answer_keeps_its_network() -> None:
    class Silent(FakeHost):
        def default_ram_size(self, *_: object) -> int:
            raise ProbeError("it is silent")

    (given,) = reasons(PLAIN, Silent())
    assert given is not None and "it is silent" in given


@pytest.mark.parametrize(
    ("config", "taken"),
    [("", True), ('[device "x"]\n driver = "e1000"\n', False), ("[spice]\nport = 1\n", True)],
)
def test_qemus_configuration_file_counts(config: str, taken: bool) -> None:
    assert (reasons(PLAIN, FakeHost(config=config)) == [None]) is taken
    assert reasons(f"{PLAIN} -no-user-config", FakeHost(config=config)) == [None]


def test_what_a_wrapper_adds_counts_and_stays_as_it_is() -> None:
    fixed = ("-m", "2G", "-netdev", "user,id=w", "-device", "virtio-net-pci,netdev=w")
    decided = decide(PLAIN, FakeHost(fixed=fixed))
    assert [(each.id, each.reason) for each in decided.verdicts] == [
        ("w", "the program itself sets it"),
        ("u", None),
    ]
    assert "size=2147483648" in " ".join(decided.sharing.words)


def test_a_wrapper_that_loads_a_state_keeps_its_network() -> None:
    assert reasons(PLAIN, FakeHost(fixed=("-loadvm", "x"))) != [None]


# --- MSI-X of 7.2 ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "kvm", "needed"),
    [
        (PLAIN, False, True),
        (PLAIN, True, True),
        (f"-enable-kvm {PLAIN}", True, False),
        (f"-enable-kvm {PLAIN}", False, True),
        (f"-accel kvm {PLAIN}", True, False),
        (f"-accel tcg -accel kvm {PLAIN}", True, True),
        (f"-machine pc,accel=kvm:tcg {PLAIN}", True, False),
        (f"-machine accel=tcg:kvm {PLAIN}", True, True),
        (f"-machine pc,accel=kvm,kernel-irqchip=off {PLAIN}", True, True),
        (f"-accel kvm,kernel-irqchip=off {PLAIN}", True, True),
    ],
)
def test_msix_is_taken_away_only_without_kernel_interrupts(
    line: str, kvm: bool, needed: bool
) -> None:
    decided = decide(line, FakeHost(qemu_7_2(), kvm=kvm))
    assert decided.taken and bool(decided.without_msix) is needed


def test_msix_stays_where_qemu_is_sound() -> None:
    assert decide(PLAIN).without_msix == {}


@pytest.mark.parametrize(
    "line",
    [
        f"{NET} {CARD},vectors=4",
        f"-global virtio-net-pci.vectors=4 {PLAIN}",
    ],
)
def test_a_card_that_must_keep_msix_stays_with_an_unsound_qemu(line: str) -> None:
    (given,) = reasons(line, FakeHost(qemu_7_2()))
    assert given is not None and "MSI-X" in given
    assert reasons(line) == [None]


def test_a_card_on_mmio_needs_no_vectors() -> None:
    decided = decide(f"-M microvm {NET} -device virtio-net-device,netdev=u", FakeHost(qemu_7_2()))
    assert decided.taken and decided.without_msix == {}


def test_the_card_of_a_nic_has_no_msix_anyway() -> None:
    decided = decide("-nic user,model=virtio", FakeHost(qemu_7_2()))
    assert decided.taken and decided.without_msix == {}
