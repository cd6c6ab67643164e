# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""The demo's guest as a real VM: QEMU with vmwire in front, a kernel of this machine, busybox.

The guest's shell is on its serial console, which is QEMU's standard input and output; what the demo
wants is typed there. Everything that is looked for is said in one line if it is missing.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from vmwire.bench import linux_guest
from vmwire.bench.console import READY, Console, GuestError
from vmwire.bench.pattern import pattern_sha256
from vmwire.cli.demo import pcap
from vmwire.cli.demo.background import Background
from vmwire.cli.demo.bed import BULK_SNAP_LENGTH, GUEST_PORT, NETDEV, free_port
from vmwire.cli.demo.helper import HelperError, die_with_parent
from vmwire.cli.demo.stacks import lease_from_names
from vmwire.daemon import rundir
from vmwire.errors import ConfigError

PROGRAM = "qemu-system-x86_64"
KVM = "/dev/kvm"
INSTALL = "apt-get install qemu-system-x86 linux-image-amd64 busybox-static"
MEMORY_MB = 640
LIMIT_BYTES = 100_000_000
"""The guest keeps the download in memory, and sums it up without haste."""
BOOT_S = {"kvm": 30.0, "tcg": 120.0}
END_S = 5.0
KERNEL_WORDS = (
    "console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on tsc=reliable no_timer_check "
    "cryptomgr.notests"
)
"""The kernel's tests of its own ciphers are half of what booting costs without KVM."""

Say = Callable[[str], None]


# --- what is needed ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Parts:
    """What the VM is made of."""

    qemu: str
    kernel: Path
    busybox: Path
    modules: Path | None


def find_parts(given: dict[str, str]) -> Parts:
    """Find all of it, or say in one line what is missing and how to get it."""
    found = {
        "QEMU": shutil.which(given.get("qemu", PROGRAM)),
        "a kernel": given.get("kernel") or newest_kernel(),
        "busybox": given.get("busybox") or shutil.which("busybox"),
    }
    missing = [name for name, place in found.items() if not place]
    if missing:
        raise ConfigError(f"needs {' and '.join(missing)}: {INSTALL}", "demo --vm")
    qemu, kernel, busybox = (str(place) for place in found.values())
    for path in (kernel, busybox):
        if not os.access(path, os.R_OK):
            reason = "can't be read by you" if os.path.exists(path) else "is not there"
            raise ConfigError(f"'{path}' {reason}", "demo --vm")
    modules = given.get("modules")
    if modules is not None and not os.path.isdir(modules):
        raise ConfigError(f"'{modules}' is not a folder", "--modules")
    return Parts(
        qemu, Path(kernel), Path(busybox), Path(modules) if modules else modules_of(Path(kernel))
    )


def newest_kernel(folder: Path = Path("/boot")) -> str | None:
    """The newest kernel that is installed."""
    kernels = sorted(folder.glob("vmlinuz-*"), key=lambda path: _numbers(path.name))
    return str(kernels[-1]) if kernels else None


def _numbers(name: str) -> list[int]:
    """
    >>> _numbers("vmlinuz-6.10.2-1-amd64") > _numbers("vmlinuz-6.9.12-1-amd64")
    True
    """
    return [int(part) for part in re.findall(r"\d+", name)]


def modules_of(kernel: Path) -> Path | None:
    """The folder of a kernel's modules, beside it or where they are installed."""
    release = linux_guest.release_of(kernel.read_bytes()) or kernel.name.partition("-")[2]
    places = (kernel.parent.parent / "lib/modules", Path("/lib/modules"))
    return next((place / release for place in places if (place / release).is_dir()), None)


def accelerators(given: dict[str, str]) -> list[str]:
    """How the VM may run, the best first."""
    if "accel" in given:
        if given["accel"] not in BOOT_S:
            raise ConfigError(f"expects one of {', '.join(BOOT_S)}", f"--accel {given['accel']}")
        return [given["accel"]]
    return ["kvm", "tcg"] if os.access(KVM, os.R_OK | os.W_OK) else ["tcg"]


# --- the VM --------------------------------------------------------------------------------------


def open_vm_bed(given: dict[str, str], pcap_path: str, say: Say) -> tuple[VmBed, str]:
    """Boot the VM; and a remark if it doesn't run as it should."""
    parts, remark = find_parts(given), ""
    ways = accelerators(given)
    for accel in ways:
        try:
            return VmBed(parts, accel, pcap_path, say), remark
        except GuestError as error:
            if accel == ways[-1]:
                raise ConfigError(f"the VM did not start: {error}") from None
            remark = f"{KVM} is there, but a VM does not start with it here"
    raise AssertionError("there is always one way")


class VmBed:
    """A VM with vmwire's network. GuestError: it didn't come up."""

    limit: int | None = LIMIT_BYTES

    def __init__(self, parts: Parts, accel: str, pcap_path: str, say: Say) -> None:
        self.forward_port = free_port()
        forward = f"tcp:127.0.0.1:{self.forward_port}-:{GUEST_PORT}"
        self.netdev = f"-netdev user,id={NETDEV},hostfwd={forward}"
        self._pcap = pcap_path
        self._size = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._resources = ExitStack()
        try:
            say("making the guest's image ...")
            self._folder = Path(tempfile.mkdtemp(prefix="vmwire-demo-"))
            files = self._resources.enter_context(ExitStack())
            files.callback(shutil.rmtree, self._folder, ignore_errors=True)
            self._start(self._command(parts, accel))
            self._wait_booted(BOOT_S[accel], f"the guest is booting ({accel})", say)
            files.close()  # QEMU has read them
        except BaseException:
            self.close()
            raise
        self.guest = self._describe(parts, accel)

    def _command(self, parts: Parts, accel: str) -> list[str]:
        image = linux_guest.basic_image(parts.busybox)
        linux_guest.add_libraries(image, parts.busybox)
        if parts.modules is not None:
            linux_guest.add_modules(image, parts.modules, linux_guest.NET_MODULES)
        initrd = self._folder / "initrd"
        initrd.write_bytes(image.pack())
        kernel = parts.kernel if accel == "kvm" else self._unpacked(parts.kernel)
        return [
            *(sys.executable, "-P", "-m", "vmwire", "--capture", f"{NETDEV}={self._pcap}"),
            *(parts.qemu, "-nodefaults", "-no-user-config", "-display", "none"),
            *("-accel", accel, "-cpu", "host" if accel == "kvm" else "max", "-m", str(MEMORY_MB)),
            *("-kernel", str(kernel), "-initrd", str(initrd), "-append", KERNEL_WORDS),
            *("-serial", "stdio", *self.netdev.split()),
            *("-device", f"virtio-net-pci,netdev={NETDEV}"),
        ]

    def _unpacked(self, kernel: Path) -> Path:
        data = linux_guest.unpacked_kernel(kernel.read_bytes())
        if data is None:
            return kernel
        place = self._folder / "vmlinux"
        place.write_bytes(data)
        return place

    def _start(self, command: list[str]) -> None:
        ours, qemus = socket.socketpair()
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 (closed in close())
        self._resources.callback(self._errors.close)
        self._console = Console(ours, self._last_words)
        self._resources.callback(self._console.close)
        with qemus:
            self._process = subprocess.Popen(
                command,
                stdin=qemus.fileno(),
                stdout=qemus.fileno(),
                stderr=self._errors,
                start_new_session=True,  # Ctrl-C is for us, and we end it
                preexec_fn=die_with_parent,
            )

    def _last_words(self) -> str:
        """The last line that vmwire or QEMU wrote to standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""

    def _wait_booted(self, timeout_s: float, what: str, say: Say) -> None:
        begin = time.monotonic()
        boot = Background(lambda: self._console.wait_for(READY, timeout_s))
        while boot.running(0.2):
            say(f"{what} ... {time.monotonic() - begin:.0f} s")
        boot.result()

    def _describe(self, parts: Parts, accel: str) -> str:
        release = self._run("uname -r")
        name = os.path.basename(parts.qemu)
        return f"Linux {release} in {name} ({accel}), vmwire in front"

    # What the guest does

    def ask(self, timeout_s: float, do: str, **arguments: Any) -> dict[str, Any]:
        """Have the guest do something."""
        answer: dict[str, Any] = _ORDERS[do](self, timeout_s, **arguments)
        return answer

    def _run(self, command: str, timeout_s: float = 10.0, *, may_fail: bool = False) -> str:
        try:
            result = self._console.run(command, timeout_s)
        except GuestError as error:
            raise HelperError(" ".join(str(error).split())) from None
        output = result.output.strip()
        if result.status and not may_fail:
            last = output.splitlines()[-1:] or [f"status {result.status}"]
            raise HelperError(f"in the guest: {last[0]}")
        return output

    def _lease(self, timeout_s: float) -> dict[str, Any]:
        begin = time.monotonic()
        self._run("udhcpc -i eth0 -n -q -t 5 -T 1 -O mtu", timeout_s)
        took = time.monotonic() - begin
        lines = self._run("cat /run/lease.eth0").splitlines()
        found = lease_from_names(dict(line.partition("=")[::2] for line in lines))
        if found is None:
            raise HelperError("the lease names no address")
        return asdict(found) | {"by": "by udhcpc", "took": took}

    def _ping(self, timeout_s: float, address: str, count: int) -> dict[str, Any]:
        output = self._run(f"ping -c {count} -i 0.1 -W 2 {address}", timeout_s, may_fail=True)
        times = [float(text) / 1000 for text in re.findall(r"time=([\d.]+) ms", output)]
        return {"times": times}

    def _resolve(self, timeout_s: float, name: str, server: str) -> dict[str, Any]:
        begin = time.monotonic()
        output = self._run(f"nslookup -type=a {name} {server}", timeout_s, may_fail=True)
        return read_nslookup(output) | {"took": time.monotonic() - begin}

    def _download(self, timeout_s: float, address: str, port: int, path: str) -> dict[str, Any]:
        self._run(f"wget -q -O /tmp/pattern 'http://{address}:{port}{path}'", timeout_s)
        self._size = int(self._run("wc -c < /tmp/pattern"))
        checksum = self._run("sha256sum < /tmp/pattern", 60.0).split()[0]
        return {"bytes": self._size, "intact": checksum == pattern_sha256(self._size)}

    def _upload(self, timeout_s: float, address: str, port: int, seconds: float) -> dict[str, Any]:
        """What was downloaded goes back: nothing in the guest makes bytes faster than that."""
        if not self._size:
            raise HelperError("there was no download that could be sent back")
        self._run(f"nc {address} {port} -e cat /tmp/pattern", timeout_s + 60.0)
        return {"bytes": self._size}

    def _listen(self, timeout_s: float, port: int) -> dict[str, Any]:
        self._run(f"echo hello from the guest | nc -l -p {port} > /tmp/heard &")
        self._run(f"until netstat -ltn | grep -q ':{port} '; do sleep 0.1; done", timeout_s)
        return {}

    def _greet(self, timeout_s: float) -> dict[str, Any]:
        return {"heard": self._run("wait; cat /tmp/heard", timeout_s)}

    # The rest

    def bulk(self) -> contextlib.AbstractContextManager[None]:
        """Everything is recorded whole, and cut at the end."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """End QEMU, and wait until its network has gone too."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            try:
                process.wait(END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(END_S)
            _wait_gone(os.path.join(rundir.base_path(), str(process.pid)))
            with contextlib.suppress(OSError):  # it may not have come to recording
                pcap.shorten(self._pcap, BULK_SNAP_LENGTH)
        self._resources.close()


_ORDERS: dict[str, Callable[..., dict[str, Any]]] = {
    "lease": VmBed._lease,
    "ping": VmBed._ping,
    "resolve": VmBed._resolve,
    "download": VmBed._download,
    "upload": VmBed._upload,
    "listen": VmBed._listen,
    "greet": VmBed._greet,
}


def read_nslookup(output: str) -> dict[str, Any]:
    """The answer's code and addresses, from what busybox prints.

    >>> read_nslookup("Server: 10.0.2.3\\n\\n** server can't find x: NXDOMAIN")["code"]
    'NXDOMAIN'
    """
    _, _, answer = output.partition("\n\n")
    failure = re.search(r"can't find [^:]*: (\w+)", output)
    if failure is None and "Server:" not in output:
        raise HelperError("nslookup had no answer")
    return {
        "code": failure[1] if failure else "NOERROR",
        "addresses": re.findall(r"^Address[ \d]*: ([\d.]+)", answer, re.MULTILINE),
    }


def _wait_gone(path: str) -> None:
    """Wait until a run directory has been removed, which is the network's last act."""
    deadline = time.monotonic() + END_S
    while os.path.exists(path) and time.monotonic() < deadline:
        time.sleep(0.02)
