# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""iperf3 in an unmodified Linux guest (TCG), both ways: vmwire, QEMU's user network and passt, all
with the same QEMU 11.1. Each measurement boots a fresh guest. virtio-net is served by vmwire in
both ways, over vhost-user ("vmwire") and register by register. With another card than virtio-net,
vmwire's is behind vfio-user, the others' is QEMU's own; passt has its stream socket only.

    .venv/bin/python -m benchmarks.vm_iperf [--card e1000] [--rounds 5] [--seconds 4] [--only …]
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.guest import provision
from tests.guest.machine import Machine
from tests.guest.peer import free_port

from benchmarks import pairs

ROOT = Path(__file__).parent.parent
VIRTIO = "virtio-net-pci"
GATEWAY = "10.0.2.2"
MEMORY = ("-m", "512")
SHARED = (
    *("-object", "memory-backend-memfd,id=mem,size=512M,share=on"),
    *("-machine", "memory-backend=mem"),
)


@contextlib.contextmanager
def iperf_server(address: str = "127.0.0.1") -> Iterator[int]:
    port = free_port()
    command = ["iperf3", "-s", "-B", address, "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.3)
        yield port
    finally:
        server.kill()
        server.wait(10)


def megabits(
    guest: Machine, port: int, seconds: float, *words: str, gateway: str = GATEWAY
) -> float:
    command = f"iperf3 -c {gateway} -p {port} -t {seconds:g} -i 0 -J {' '.join(words)}"
    result = json.loads(guest.check(command, seconds + 30))
    return float(result["end"]["sum_received"]["bits_per_second"]) / 1e6


def in_guest(guest: Machine, port: int, seconds: float) -> pairs.Figures:
    guest.lease()
    return {
        "up Mbit/s": megabits(guest, port, seconds),
        "down Mbit/s": megabits(guest, port, seconds, "-R"),
    }


@contextlib.contextmanager
def passt(*options: str) -> Iterator[str]:
    """passt with QEMU's addresses; the path of its socket."""
    folder = tempfile.mkdtemp(prefix="vmwire-passt-")
    Path(folder).chmod(0o777)  # as root it becomes nobody
    path = f"{folder}/passt.sock"
    command = [provision.passt_program("passt"), "--foreground", "--quiet", "--ipv4-only"]
    command += ["--socket", path, "--address", "10.0.2.15", "--netmask", "24"]
    command += ["--gateway", GATEWAY, "--map-host-loopback", GATEWAY, *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(100):
            if Path(path).exists():
                break
            time.sleep(0.05)
        yield path
    finally:
        process.kill()
        process.wait(10)
        shutil.rmtree(folder)


def kernel_words(card: str) -> str:
    """What tells the guest to load the card's driver."""
    return "" if card == VIRTIO else f"vmwire.modules={card.partition('-')[0]}"


def is_taken(guest: Machine) -> bool:
    """Whether somebody outside of QEMU serves the card or its frames."""
    devices = guest.qmp.hmp("info network") + guest.qmp.hmp("info qtree")
    return "vhost-user" in devices or "vfio-user-pci" in devices


def contestants(qemu: str, port: int, seconds: float, card: str) -> dict[str, pairs.Measure]:
    device = ["-device", f"{card},netdev=n"]
    user = ["-netdev", "user,id=n", *device]
    driver = kernel_words(card)

    def boot(network: list[str], *, prefix: bool = False, shared: bool = False) -> pairs.Figures:
        words = [str(ROOT / "vmwire")] if prefix else []
        memory = (*MEMORY, *(SHARED if shared else ()))
        with Machine(qemu, network, prefix=words, memory=memory, kernel_words=driver) as guest:
            assert prefix == (is_taken(guest) and not shared), "not what was to be measured"
            return in_guest(guest, port, seconds)

    def passt_stream() -> pairs.Figures:
        with passt() as path:
            stream = f"stream,id=n,server=off,addr.type=unix,addr.path={path}"
            return boot(["-netdev", stream, *device])

    def passt_vhost_user() -> pairs.Figures:
        with passt("--vhost-user") as path:
            netdev = ["-netdev", "vhost-user,id=n,chardev=c", *device]
            return boot(["-chardev", f"socket,id=c,path={path}", *netdev], shared=True)

    measures: dict[str, Callable[[], pairs.Figures]] = {
        "vmwire": lambda: boot(user, prefix=True),
        "qemu-user": lambda: boot(user),
        "passt-stream": passt_stream,
    }
    if card == VIRTIO:
        whole = ["-netdev", "user,id=n", "-device", f"{card},attach=vfio-user,netdev=n"]
        measures["vmwire-vfio-user"] = lambda: boot(whole, prefix=True)
        measures["passt-vhost-user"] = passt_vhost_user
    return measures


def main() -> None:
    parser = pairs.arguments(str(__doc__).split("\n\n")[0], seconds=4)
    parser.add_argument("--card", default=VIRTIO)
    options = parser.parse_args()
    qemu = provision.qemu_newest()
    with iperf_server() as port:
        measures = pairs.chosen(
            contestants(qemu, port, options.seconds, options.card), options.only
        )
        title = f"iperf3 in a Linux 6.1 guest under TCG, QEMU 11.1, {options.card}"
        comparison = pairs.compare(title, measures, options.rounds)
    pairs.finish(comparison, options.output)


if __name__ == "__main__":
    main()
