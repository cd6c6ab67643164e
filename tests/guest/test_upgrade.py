# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire upgrade`` under a running guest, with each way in for its card.

A ping every 10 ms tells how long the network stood still for the guest: answers are late while it
does, or missing. The limit for both is a second; some hundredths are usual where nothing else runs.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.daemon.conftest import runtime
from tests.daemon.instance import eventually, is_alive, stats_of, users_of
from tests.daemon.test_upgrade import changed_copy
from tests.guest import provision
from tests.guest.machine import Machine
from tests.guest.peer import HostPeer, free_port
from tests.guest.test_prefix_e1000 import echoes

__all__ = ["runtime"]

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]
PING_EVERY_S = 0.01
MOST_PAUSE_MS = 1000
MOST_LATE_MS = 1000


@dataclass(frozen=True)
class Way:
    """A QEMU and a card in it."""

    qemu: Callable[[], str]
    card: str

    @property
    def kernel_words(self) -> str:
        return "" if self.card.startswith("virtio") else "vmwire.modules=e1000"


VHOST_OLDEST = Way(provision.qemu_oldest, "virtio-net-pci")
VHOST = Way(provision.qemu_newest, "virtio-net-pci")
VFIO = Way(provision.qemu_newest, "e1000")

EACH_WAY = pytest.mark.parametrize(
    "way",
    [
        pytest.param(VHOST_OLDEST, id="qemu7.2-virtio"),
        pytest.param(VHOST, id="qemu11.1-virtio", marks=pytest.mark.long),
        pytest.param(VFIO, id="qemu11.1-e1000"),
    ],
)
BOTH_WAYS_LONG = pytest.mark.parametrize(
    "way",
    [
        pytest.param(VHOST, id="virtio", marks=pytest.mark.long),
        pytest.param(VFIO, id="e1000", marks=pytest.mark.long),
    ],
)


class Upgraded:
    """A guest behind the prefix whose network is upgraded."""

    def __init__(self, guest: Machine, runtime: str, port: int) -> None:
        self.guest = guest
        self.runtime = runtime
        self.folder = os.path.join(runtime, "vmwire", str(guest.pid))
        self.port = port

    def upgrade(self, *, path: str | None = None) -> subprocess.CompletedProcess[str]:
        """By the code in ``path``, else by this checkout's."""
        return subprocess.run(
            [sys.executable, "-m", "vmwire", "upgrade", str(self.guest.pid)],
            capture_output=True,
            text=True,
            timeout=60,
            env={
                **os.environ,
                "XDG_RUNTIME_DIR": self.runtime,
                "PYTHONPATH": path or str(ROOT / "src"),
            },
        )

    def check(self) -> None:
        done = self.upgrade()
        assert (done.returncode, done.stderr) == (0, ""), self.log()

    def pid_of(self, name: str) -> int:
        """Waits: a keeper has another name for a moment while it takes on new code."""

        def found() -> list[int]:
            processes = users_of(os.path.join(self.folder, "lock"))
            return [pid for pid, comm in processes.items() if comm == f"vmwire-{name}"]

        return int(eventually(found, timeout_s=10)[0])

    def workers(self) -> list[int]:
        processes = users_of(os.path.join(self.folder, "lock"))
        return [pid for pid, comm in processes.items() if comm == "vmwire-worker"]

    def log(self) -> str:
        return Path(self.folder, "vmwire.log").read_text()

    def pauses_ms(self) -> list[float]:
        return [float(found) for found in re.findall(r"stood still for ([\d.]+) ms", self.log())]

    @contextlib.contextmanager
    def pinged(self) -> Iterator[None]:
        """Ping from the guest meanwhile; afterwards judge the answers."""
        self.guest.check(
            f"ping -i {PING_EVERY_S} 10.0.2.2 >/tmp/ping 2>&1 & echo $! >/tmp/ping.pid"
        )
        self.guest.check("until grep -q time= /tmp/ping; do sleep 0.05; done")
        yield
        self.guest.check("sleep 0.3; kill -INT $(cat /tmp/ping.pid); sleep 0.2")
        found = self.guest.check("grep -o 'seq=.*' /tmp/ping")
        answers = [(int(seq), float(ms)) for seq, ms in re.findall(r"seq=(\d+).*time=(\S+)", found)]
        missing = max(b[0] - a[0] - 1 for a, b in itertools.pairwise(answers))
        latest = max(ms for _, ms in answers)
        print(f"{len(answers)} answers, at most {missing} missing in a row, latest {latest} ms; "
              f"stood still for {self.pauses_ms()} ms")  # fmt: skip
        assert len(answers) >= 50
        assert missing * PING_EVERY_S * 1000 <= MOST_PAUSE_MS
        assert latest <= MOST_LATE_MS
        assert all(pause <= MOST_PAUSE_MS for pause in self.pauses_ms())

    def link_changes(self) -> int:
        return int(self.guest.check("cat /sys/class/net/eth0/carrier_changes"))


@contextlib.contextmanager
def machine(way: Way, prefix: list[str], runtime: str, cards: int = 1) -> Iterator[Upgraded]:
    if not prefix:
        pytest.skip("there is nothing to upgrade without the prefix")
    try:
        provision.root_of(provision.GUEST)
        qemu = way.qemu()
    except provision.ProvisionError as error:
        pytest.skip(str(error))
    port = free_port()
    words = ["-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:7"]
    words += ["-device", f"{way.card},netdev=n"]
    if cards > 1:
        words += ["-netdev", "user,id=m", "-device", f"{way.card},netdev=m"]
    with Machine(qemu, words, prefix=prefix, kernel_words=way.kernel_words) as guest:
        yield Upgraded(guest, runtime, port)


@EACH_WAY
def test_ten_upgrades_under_ping_and_load_are_not_noticed(
    way: Way, prefix: list[str], host: HostPeer, runtime: str
) -> None:
    with machine(way, prefix, runtime) as upgraded:
        guest = upgraded.guest
        lease = guest.lease()
        guest.check("socat TCP-LISTEN:7,fork,reuseaddr EXEC:cat,nofork >/dev/null 2>&1 &")
        before = upgraded.link_changes()
        with upgraded.pinged():
            for _ in range(5):
                upgraded.check()
        fetch = f"wget -qO /dev/null http://10.0.2.2:{host.http_port}/{10 << 30}"
        guest.check(f"(while :; do {fetch}; echo $? >>/tmp/ends; done) 2>/dev/null &")
        with upgraded.pinged():
            for count in range(1, 6):
                upgraded.check()
                # each connection is reset, not left to time out, and the next one works
                guest.check(f"until [ $(wc -l </tmp/ends) -ge {count} ]; do sleep 0.1; done", 10)
        assert len(upgraded.pauses_ms()) == 10
        assert upgraded.link_changes() == before
        eventually(lambda: echoes(upgraded.port), timeout_s=10)
        assert guest.lease()["ip"] == lease["ip"]
        stats = stats_of(upgraded.folder)
        assert (stats["upgrades"], stats["restarts"]) == (10, 0)
        assert stats["devices"] and all(d["connections"] == 1 for d in stats["devices"].values())
        assert "Traceback" not in upgraded.log()


@pytest.mark.parametrize("way", [pytest.param(VFIO, id="e1000")])
def test_what_can_not_take_over_leaves_the_old_worker_at_work(
    way: Way, prefix: list[str], host: HostPeer, runtime: str, tmp_path: Path
) -> None:
    """One that can't be imported, one of another state, and deaths in the middle."""
    with machine(way, prefix, runtime) as upgraded:
        upgraded.guest.lease()
        worker, keeper = upgraded.pid_of("worker"), upgraded.pid_of("keeper")
        with upgraded.pinged(), slow_download(upgraded.guest, host):
            for name, change, reason in (
                ("broken", ("network.py", "import no_such_thing\n"), "no_such_thing"),
                ("later", ("attach/vfio_user/kept.py", "\nSTATE_VERSION = 99\n"), "version"),
            ):
                done = upgraded.upgrade(path=changed_copy(str(tmp_path / name), *change))
                assert done.returncode == 1
                assert reason in done.stderr and "the old worker goes on" in done.stderr
                assert len(done.stderr.splitlines()) == 1
            assert upgraded.pid_of("worker") == worker
            kill_in_the_middle(upgraded, "successor")
            assert upgraded.pid_of("worker") == worker
            kill_in_the_middle(upgraded, "keeper")
            eventually(lambda: is_alive(worker) and upgraded.pid_of("keeper") != keeper)
        with upgraded.pinged():
            kill_in_the_middle(upgraded, "worker")
        with upgraded.pinged():
            upgraded.check()
        assert upgraded.pid_of("worker") != worker


@contextlib.contextmanager
def slow_download(guest: Machine, host: HostPeer) -> Iterator[None]:
    """A connection that must live as long as its worker does."""
    url = f"http://10.0.2.2:{host.http_port}/{1 << 30}"
    guest.check(f"wget -qO - {url} | (head -c 100000; sleep 1000) >/dev/null 2>&1 & sleep 0.5")
    count = "netstat -tn | grep ESTABLISHED | wc -l"
    assert guest.check(count) == "1"
    yield
    assert guest.check(count) == "1"
    guest.check("killall wget sleep")


def kill_in_the_middle(upgraded: Upgraded, whom: str) -> None:
    """Begin an upgrade, and kill someone as soon as there are two workers."""
    worker, keeper = upgraded.pid_of("worker"), upgraded.pid_of("keeper")
    upgrade = threading.Thread(target=upgraded.upgrade)
    upgrade.start()

    def successor() -> int | None:
        fresh = [pid for pid in upgraded.workers() if pid != worker]
        return fresh[0] if fresh else None

    fresh = eventually(successor, timeout_s=20)
    os.kill({"successor": fresh, "keeper": keeper, "worker": worker}[whom], signal.SIGKILL)
    upgrade.join()
    eventually(lambda: stats_of(upgraded.folder)["pid"])


@BOTH_WAYS_LONG
def test_upgrades_while_the_guest_boots(
    way: Way, prefix: list[str], runtime: str, tmp_path: Path
) -> None:
    """Also while the firmware and the driver set the card up."""
    if not prefix:
        pytest.skip("there is nothing to upgrade without the prefix")
    port = free_port()
    words = ["-netdev", f"user,id=n,hostfwd=tcp:127.0.0.1:{port}-:7"]
    words += ["-device", f"{way.card},netdev=n"]
    guest = Machine(way.qemu(), words, prefix=prefix, kernel_words=way.kernel_words)
    try:
        guest.start()
        upgraded = Upgraded(guest, runtime, port)
        booted = threading.Thread(target=guest.wait_booted)
        booted.start()
        count = 0
        while booted.is_alive():
            upgraded.check()
            count += 1
        booted.join()
        print(f"{count} upgrades while it booted")
        assert count > 3
        guest.lease()
        guest.check("ping -c 3 10.0.2.2")
    finally:
        guest.close()


@BOTH_WAYS_LONG
def test_two_cards_of_one_machine_are_taken_over_together(
    way: Way, prefix: list[str], runtime: str
) -> None:
    with machine(way, prefix, runtime, cards=2) as upgraded:
        upgraded.guest.lease("eth0")
        with upgraded.pinged():
            for _ in range(3):
                upgraded.check()
        upgraded.guest.check("ip addr flush dev eth0; ip link set eth0 down")
        upgraded.guest.lease("eth1")
        with upgraded.pinged():
            upgraded.check()


@BOTH_WAYS_LONG
def test_an_udp_stream_goes_on(way: Way, prefix: list[str], runtime: str) -> None:
    """iperf3 fixes its peer's port: the endpoint outside stays the same."""
    iperf = shutil.which("iperf3")
    if iperf is None:
        pytest.skip("no iperf3 on the host")
    port = free_port()
    server = subprocess.Popen([iperf, "-s", "-p", str(port)], stdout=subprocess.DEVNULL)
    try:
        with machine(way, prefix, runtime) as upgraded:
            upgraded.guest.lease()
            upgraded.guest.check(
                f"iperf3 -c 10.0.2.2 -p {port} -u -b 20M -t 12 >/tmp/iperf 2>&1 & sleep 1"
            )
            with upgraded.pinged():
                for _ in range(10):
                    upgraded.check()
                    time.sleep(0.2)
    finally:
        server.terminate()
        server.wait()
