# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""QEMUs, a guest kernel and peer programs, fetched into ~/.cache/vmwire without installing a thing.

Each *root* is a folder with Debian packages unpacked in it: a private apt state (empty package
list, own sources) resolves and downloads the whole closure, `dpkg-deb` unpacks it. No root
rights, no chroot and no maintainer scripts are needed, and the machine's own packages don't matter.
Programs of a root run in place through the root's own loader, so sockets, files and descriptors are
shared with the host; `bin/` has a wrapper script for each.

A root is built beside its place and renamed when complete, so an interrupted run leaves nothing
half-made; a lock lets concurrent runs wait for each other. `python3 -m tests.guest.provision`
fetches everything.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO


def mirrors() -> tuple[str, str]:
    """Where this machine's apt gets Debian and its security updates from.

    ``VMWIRE_DEBIAN_MIRROR`` and ``VMWIRE_DEBIAN_SECURITY_MIRROR`` say otherwise, and must on a
    machine that has no apt. A machine without a security mirror gets none.
    """
    try:
        targets = subprocess.run(
            ["apt-get", "indextargets", "--format", "$(SITE)"],
            capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        targets = []
    sites = sorted({site.rstrip("/") for site in targets})
    plain = [site for site in sites if site.endswith("/debian")]
    security = [site for site in sites if "security" in site]
    return (
        os.environ.get("VMWIRE_DEBIAN_MIRROR", plain[0] if plain else ""),
        os.environ.get("VMWIRE_DEBIAN_SECURITY_MIRROR", security[0] if security else ""),
    )


MIRROR, SECURITY_MIRROR = mirrors()
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ARCH_LIB = "usr/lib/x86_64-linux-gnu"
DOWNLOAD_TIMEOUT_S = 900

# Parts of packages that no guest and no peer reads.
UNUSED = (
    *("usr/share/doc", "usr/share/man", "usr/share/locale", "usr/share/icons"),
    *(f"lib/modules/*/kernel/{part}" for part in ("sound", "drivers/gpu", "drivers/media")),
)


class ProvisionError(Exception):
    """What is missing on this machine, in one line."""


@dataclass(frozen=True)
class Recipe:
    """One root: where its packages come from and which they are."""

    name: str
    suites: tuple[str, ...]
    packages: tuple[str, ...]
    target: str | None = None

    @property
    def stamp(self) -> str:
        return "\n".join([*self.suites, *self.packages, str(self.target), *UNUSED])


BOOKWORM = (
    f"{MIRROR} bookworm main",
    *((f"{SECURITY_MIRROR} bookworm-security main",) if SECURITY_MIRROR else ()),
)
TRIXIE = (f"{MIRROR} trixie main", f"{MIRROR} trixie-backports main")

# What runs inside the guest: the unmodified kernel and a few programs.
GUEST = Recipe(
    "guest",
    BOOKWORM,
    ("linux-image-amd64", "busybox-static", "iperf3", "socat", "ethtool", "iproute2"),
)
# The newest QEMU (vfio-user-pci, reconnect-ms) and the passt of its time. The module packages
# matter: without them QEMU would find the host's modules, of another version, and abort.
NEWEST = Recipe(
    "trixie",
    TRIXIE,
    (
        "qemu-system-x86",
        "qemu-system-gui",
        "qemu-system-modules-opengl",
        "qemu-system-modules-spice",
        "passt",
    ),
    target="trixie-backports",
)
# Debian 12's QEMU, only for a machine that has not installed it.
OLDEST = Recipe("qemu72", BOOKWORM, ("qemu-system-x86", "qemu-system-gui"))


def cache_dir() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(base) / "vmwire"


def say(text: str) -> None:
    print(f"provision: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def cache_lock(name: str) -> Iterator[None]:
    cache_dir().mkdir(parents=True, exist_ok=True)
    with open(cache_dir() / f".{name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def root_of(recipe: Recipe) -> Path:
    """The recipe's root, built first if it is missing or of another recipe."""
    place = cache_dir() / recipe.name
    if _is_current(place, recipe):
        return place
    with cache_lock(recipe.name):
        if not _is_current(place, recipe):
            _require_tools()
            say(f"fetching {recipe.name} ({', '.join(recipe.packages)})")
            _build(recipe, place)
    return place


def _is_current(place: Path, recipe: Recipe) -> bool:
    try:
        return (place / ".recipe").read_text() == recipe.stamp
    except OSError:
        return False


def _require_tools() -> None:
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise ProvisionError(f"{tool} is missing: guests are fetched on Debian machines only")
    if not os.path.exists(KEYRING):
        raise ProvisionError(f"{KEYRING} is missing: install debian-archive-keyring")
    if not MIRROR:
        raise ProvisionError("apt names no Debian mirror: set VMWIRE_DEBIAN_MIRROR")


def _build(recipe: Recipe, place: Path) -> None:
    with tempfile.TemporaryDirectory(dir=cache_dir(), prefix=f".{recipe.name}-") as scratch:
        fresh = Path(scratch) / "root"
        for merged in ("bin", "sbin", "lib", "lib64"):  # older packages still name both places
            (fresh / "usr" / merged).mkdir(parents=True)
            (fresh / merged).symlink_to(f"usr/{merged}")
        archives = _download(recipe, Path(scratch) / "apt")
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(lambda archive: _unpack(archive, fresh), archives))
        (fresh / ".recipe").write_text(recipe.stamp)
        if place.exists():
            place.rename(Path(scratch) / "old")
        fresh.rename(place)


def _download(recipe: Recipe, apt: Path) -> list[Path]:
    """Every package of the recipe's closure, by an apt that knows of no installed package."""
    for folder in ("lists/partial", "archives/partial"):
        (apt / folder).mkdir(parents=True)
    (apt / "status").touch()
    sources = apt / "sources.list"
    sources.write_text("".join(f"deb [signed-by={KEYRING}] {suite}\n" for suite in recipe.suites))
    settings = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": apt,
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt,
        "Dir::Cache::archives": apt / "archives",
        "APT::Sandbox::User": "root",
        "APT::Install-Recommends": "0",
        "Acquire::Retries": "3",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    target = ["-t", recipe.target] if recipe.target else []
    _command("apt-get", *options, "-qq", "update")
    fetch = ("-qq", "-y", *target, "--download-only", "install")
    _command("apt-get", *options, *fetch, *recipe.packages)
    return sorted((apt / "archives").glob("*.deb"))


def _unpack(archive: Path, root: Path) -> None:
    """As `dpkg-deb -x` would, but through the merged folders, and without set-uid bits: nothing
    here is run by them, so no such file should lie in a home folder."""
    keep = ("--keep-directory-symlink", "--no-same-owner", "--no-same-permissions", "--wildcards")
    excluded = [f"--exclude=./{path}" for path in UNUSED]
    opener = ["dpkg-deb", "--fsys-tarfile", str(archive)]
    with subprocess.Popen(opener, stdout=subprocess.PIPE) as opened:
        _command("tar", "-x", "-C", str(root), *keep, *excluded, stdin=opened.stdout)
    if opened.returncode:
        raise ProvisionError(f"{archive.name} could not be unpacked")


def _command(*argv: str, stdin: IO[bytes] | int | None = subprocess.DEVNULL) -> str:
    done = subprocess.run(
        argv,
        stdin=stdin,
        capture_output=True,
        text=True,
        timeout=DOWNLOAD_TIMEOUT_S,
        env=dict(os.environ, LC_ALL="C", DEBIAN_FRONTEND="noninteractive"),
    )
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:]
        raise ProvisionError(f"{argv[0]} failed: {' '.join(last)}")
    return done.stdout


# --- programs of a root ------------------------------------------------------------------------


def run_in_root(root: Path, program: str, argv0: str | None = None) -> list[str]:
    """The words that run a root's program in place, through the root's own loader."""
    library = root / ARCH_LIB
    return [
        str(library / "ld-linux-x86-64.so.2"),
        *(["--argv0", argv0] if argv0 else []),
        "--library-path",
        f"{library}:{library}/pulseaudio",
        str(root / program),
    ]


def _wrapper(name: str, root: Path, words: list[str]) -> Path:
    """`bin/name`, a script that execs the words; rewritten only when the root changed."""
    script = cache_dir() / "bin" / name
    quoted = " ".join(f"'{word}'" for word in words)
    text = f'#!/bin/sh\nexec {quoted} "$@"\n'
    if script.exists() and script.read_text() == text and script.stat().st_mtime > _age(root):
        return script
    script.parent.mkdir(exist_ok=True)
    draft = script.with_name(f".{name}.{os.getpid()}")
    draft.write_text(text)
    draft.chmod(0o755)
    draft.rename(script)
    return script


def _age(root: Path) -> float:
    return (root / ".recipe").stat().st_mtime


def _qemu_wrapper(name: str, root: Path) -> Path:
    modules = f"QEMU_MODULE_DIR={root / ARCH_LIB / 'qemu'}"
    data = [f"{root}/usr/{part}" for part in ("share/qemu", "share/seabios", "lib/ipxe/qemu")]
    folders = [word for path in data for word in ("-L", path)]
    loader = run_in_root(root, "usr/bin/qemu-system-x86_64", "qemu-system-x86_64")
    return _wrapper(name, root, ["env", modules, *loader, *folders])


def qemu_newest() -> str:
    """QEMU 11.1 from Debian 13's backports."""
    return str(_qemu_wrapper("qemu-system-x86_64-11", root_of(NEWEST)))


def qemu_oldest() -> str:
    """QEMU 7.2: the machine's own if it is that one, else fetched."""
    installed = shutil.which("qemu-system-x86_64")
    if installed and " 7.2" in _command(installed, "--version").splitlines()[0]:
        return installed
    return str(_qemu_wrapper("qemu-system-x86_64-7", root_of(OLDEST)))


def passt_program(name: str) -> str:
    """`passt` or `pasta` of the newest root, in its AVX2 build where the machine can run that."""
    root = root_of(NEWEST)
    fast = "avx2" in Path("/proc/cpuinfo").read_text()
    program = f"usr/bin/{name}.avx2" if fast else f"usr/bin/{name}"
    return str(_wrapper(name, root, run_in_root(root, program, name)))


def main() -> None:
    # Imported here: the guest image is built from what this module fetched.
    from tests.guest import image

    try:
        for path in (qemu_newest(), qemu_oldest(), passt_program("passt"), passt_program("pasta")):
            print(path)
        print(image.kernel())
        print(image.initramfs())
    except ProvisionError as error:
        sys.exit(f"provision: {error}")


if __name__ == "__main__":
    main()
