# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""A machine without a disk boots Linux over HTTP, by iPXE's own driver of Intel's cards, and the
kernel that it fetched goes on with the card."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.guest import image
from tests.guest.intel import SIBLINGS_LONG, loads_driver
from tests.guest.machine import KERNEL_WORDS, Machine
from tests.guest.peer import HostPeer
from tests.guest.test_e1000 import newest
from tests.guest.transfers import GATEWAY, MEGABYTE, download
from vmwire.bench.console import GuestError

pytestmark = pytest.mark.guest

BOOT_TIMEOUT_S = 120
CTRL_B = "\x02"


class Diskless(Machine):
    """A machine that has nothing to boot from but its card; its console is the firmware's too."""

    def _fixed(self, cpus: int, kernel_words: str) -> list[str]:
        words = super()._fixed(cpus, kernel_words)
        for given in ("-kernel", "-initrd", "-append"):
            at = words.index(given)
            del words[at : at + 2]
        return [*words, "-machine", "graphics=off"]

    def boot_by(self, script: str) -> None:
        """Stop iPXE before it looks for a server by itself, and have it run a script."""
        self.console.wait_for(b"Ctrl-B for the iPXE command line", BOOT_TIMEOUT_S)
        self._stop_ipxe()
        for letter in f"dhcp net0 && chain {script}\n":  # firmware has no buffer for more
            self.console.type(letter)
            time.sleep(0.02)
        self.console.wait_for(re.compile(rb"Configuring \(net0 [^)]*\)\.+ ok"), BOOT_TIMEOUT_S)
        self.wait_booted(BOOT_TIMEOUT_S)

    def _stop_ipxe(self) -> None:
        """It looks at the key for two seconds, and a busy machine is late now and then."""
        for _ in range(40):
            self.console.type(CTRL_B)
            with suppress(GuestError):
                self.console.wait_for(b"iPXE> ", 0.3)
                return
        raise GuestError(f"iPXE didn't stop\n{self.report()}")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The folder's files over HTTP; where the guest finds them."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
    try:
        yield f"http://{GATEWAY}:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("card", SIBLINGS_LONG)
def test_diskless_machine_boots_over_http(
    card: str, prefix: list[str], host: HostPeer, tmp_path: Path
) -> None:
    qemu = newest()
    (tmp_path / "kernel").symlink_to(image.packed_kernel())
    (tmp_path / "initrd").symlink_to(image.initramfs())
    with served(tmp_path) as url:
        (tmp_path / "script").write_text(
            "#!ipxe\n"
            f"kernel {url}/kernel initrd=initrd {KERNEL_WORDS} {loads_driver(card)}\n"
            f"initrd {url}/initrd\n"
            "boot\n"
        )
        words = ["-netdev", "user,id=u", "-device", f"{card},netdev=u,bootindex=1", "-boot", "n"]
        machine = Diskless(qemu, words, prefix=prefix, memory=("-m", "512"))
        try:
            machine.start()
            machine.boot_by(f"{url}/script")
            assert machine.lease()["ip"] == "10.0.2.15"
            download(machine, host, MEGABYTE)
        finally:
            machine.close()
