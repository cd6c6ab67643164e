# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Private run directories: one folder for each network that runs.

They live below ``$XDG_RUNTIME_DIR/vmwire/``, or ``/tmp/vmwire-<uid>/`` where there is no runtime
directory. A folder is called after its instance (the pid of the command that the user typed, unless
a name was given) and holds what belongs to it: sockets, ``control.sock``, the log, and two files
that say what it is:

* ``lock``: each process of the instance holds one shared ``flock`` on it, by inheritance. A folder
  whose lock can be had is *stale*: everyone who used it is dead, however that came about. No pid
  is ever compared, so a reused pid can't confuse anybody.
* ``instance.json``: mode, pid, command line, and where the sockets are.

Making and clearing folders excludes each other by a lock on the folder above, because a folder
exists for a moment before its lock is held. The folder above is where anyone could try to be first
on a shared ``/tmp``: it is used only if it is a real directory, ours, and closed to everybody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import json
import os
import stat
from collections.abc import Iterator
from typing import Any

from vmwire.daemon.made import remove_made
from vmwire.errors import ConfigError

SOCKET_PATH_MAX = 107
"""Bytes that fit into ``sun_path``, less the terminating zero."""

LOCK = "lock"
INSTANCE = "instance.json"
CONTROL = "control.sock"
LOG = "vmwire.log"

REACHABLE = "/tmp/vmwire-sockets-"
"""How the path of a folder that another user must reach starts."""
MAX_FACTS = 1 << 20


def base_path() -> str:
    """The folder of all of this user's run directories."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime) and os.path.isdir(runtime):
        return os.path.join(runtime, "vmwire")
    return f"/tmp/vmwire-{os.getuid()}"


def check_socket_path(path: str) -> str:
    """Return ``path`` if a socket can have it."""
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_MAX:
        raise ConfigError(
            f"The socket path '{path}' is too long: {size} bytes, {SOCKET_PATH_MAX} are possible"
            " (choose a shorter --socket-dir)"
        )
    return path


class RunDir:
    """One instance's folder, with its lock held as long as ``lock_fd`` is open somewhere.

    >>> run_dir = create("example")  # doctest: +SKIP
    >>> run_dir.socket_path("net0")  # doctest: +SKIP
    '/run/user/1000/vmwire/example/net0.sock'
    """

    def __init__(self, path: str, lock_fd: int, socket_dir: str | None = None) -> None:
        self.path = path
        self.lock_fd = lock_fd
        self.socket_dir = socket_dir or path
        self.owned_sockets: list[str] = []

    @property
    def name(self) -> str:
        return os.path.basename(self.path)

    def file(self, name: str) -> str:
        return os.path.join(self.path, name)

    def socket_path(self, name: str) -> str:
        """Where the socket ``name`` goes: a path that fits and that nothing has yet."""
        return self.claim_socket(os.path.join(self.socket_dir, f"{name}.sock"))

    def claim_socket(self, path: str) -> str:
        """Count ``path`` among the sockets that go with this instance; nothing may be there yet."""
        check_socket_path(path)
        if path not in self.owned_sockets:
            if os.path.lexists(path):
                raise ConfigError(f"The socket '{path}' exists already: is its network running?")
            self.owned_sockets.append(path)
        return path

    def describe(self, facts: dict[str, Any]) -> None:
        """Write ``instance.json`` in one step, so that no reader sees half of it."""
        temporary = self.file(f"{INSTANCE}.new")
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump({**facts, "sockets": self.owned_sockets}, file)
        os.replace(temporary, self.file(INSTANCE))

    def remove(self) -> None:
        """Take the folder away, and sockets of ours that stand elsewhere. Harmless when gone."""
        remove(self.path, self.owned_sockets)


def create(name: str | None = None, socket_dir: str | None = None) -> RunDir:
    """Make the run directory of a new instance and hold its lock.

    ``socket_dir`` is a folder of the user's for the VM's sockets; the rest stays private.
    """
    base = _open_base()
    if socket_dir is not None:
        socket_dir = _checked_socket_dir(socket_dir)
    with _exclusive(base):
        _clear_stale(base)
        path = _make_folder(base, name or str(os.getpid()), exact=name is not None)
        check_socket_path(os.path.join(path, CONTROL))
        lock_fd = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock_fd, fcntl.LOCK_SH)
    return RunDir(path, lock_fd, socket_dir)


def running() -> list[str]:
    """The paths of our run directories in use; clears the stale ones away first."""
    found = []
    for base in _own_bases():
        _check_private(base)
        with _exclusive(base):
            _clear_stale(base)
        found += [os.path.join(base, name) for name in _instances(base)]
    return found


def _own_bases() -> list[str]:
    """Where ours may be: a VM may have been started with another environment than we have."""
    uid = os.getuid()
    bases = {base_path(), f"/run/user/{uid}/vmwire", f"/tmp/vmwire-{uid}"}
    return sorted(base for base in bases if os.path.isdir(base))


def running_of_others() -> list[str]:
    """The paths of other users' run directories in use, for root. Nothing is changed there:
    what stands in them is theirs to say, and must not steer what root does."""
    found = []
    for base in sorted([*glob.glob("/run/user/*/vmwire"), *glob.glob("/tmp/vmwire-*")]):
        readable = os.path.isdir(base) and os.access(base, os.R_OK | os.X_OK)
        if base not in _own_bases() and readable and not os.path.islink(base):
            paths = (os.path.join(base, name) for name in _instances(base))
            found += [path for path in paths if not is_stale(path)]
    return found


def read_facts(path: str) -> dict[str, Any]:
    """What ``instance.json`` of a run directory says; empty if it can't be read."""
    try:
        fd = _open_regular(os.path.join(path, INSTANCE), os.O_RDONLY)
        with open(fd, encoding="utf-8") as file:
            facts = json.loads(file.read(MAX_FACTS))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _open_regular(path: str, flags: int) -> int:
    """Open a file that may be somebody else's: no link, and nothing that would make us wait."""
    fd = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise PermissionError(f"{path} is not a plain file")
    return fd


def remove(path: str, sockets: list[str] | None = None) -> None:
    """Remove a run directory, and what its instance had and made elsewhere."""
    for socket_path in sockets if sockets is not None else read_facts(path).get("sockets", []):
        if not socket_path.startswith(path + os.sep):
            _unlink_socket(socket_path)
            _remove_reachable_dir(os.path.dirname(socket_path))
    remove_made(path)
    try:
        names = os.listdir(path)
    except OSError:
        return
    with contextlib.suppress(OSError):  # flat by design: what can't be unlinked isn't ours
        for name in sorted(names, key=lambda name: name == LOCK):  # the lock goes last
            os.unlink(os.path.join(path, name))
        os.rmdir(path)


def make_reachable_dir() -> str:
    """A folder for sockets that another user must be able to reach (QEMU after ``-runas``).

    Anyone may look a name up in it, nobody may list it, and each socket's owner and mode say who
    connects. It goes with the last of its sockets.
    """
    path = f"{REACHABLE}{os.urandom(6).hex()}"
    os.mkdir(path, 0o700)
    os.chmod(path, 0o711)
    return path


def _remove_reachable_dir(path: str) -> None:
    if path.startswith(REACHABLE):
        with contextlib.suppress(OSError):  # not empty yet, or gone
            os.rmdir(path)


def _unlink_socket(path: str) -> None:
    """Only ever a socket: the path may have become somebody's file since."""
    with contextlib.suppress(OSError):
        if stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)


def _checked_socket_dir(path: str) -> str:
    path = os.path.abspath(path)
    if not os.path.isdir(path):
        raise ConfigError(f"--socket-dir: '{path}' is not a directory")
    if not os.access(path, os.W_OK | os.X_OK):
        raise ConfigError(f"--socket-dir: no permission to make sockets in '{path}'")
    return path


def _open_base() -> str:
    base = base_path()
    try:
        os.mkdir(base, 0o700)
    except FileExistsError:
        pass
    except OSError as error:
        raise ConfigError(f"Can't make the run directory '{base}': {error.strerror}") from error
    _check_private(base)
    return base


def _check_private(path: str) -> None:
    """Refuse a folder that somebody else made, reads, or points elsewhere."""
    status = os.lstat(path)
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError(f"The run directory '{path}' is not a directory")
    if status.st_uid != os.getuid():
        owner = f"uid {status.st_uid}"
        raise ConfigError(f"The run directory '{path}' belongs to somebody else ({owner})")
    if status.st_mode & 0o077:
        raise ConfigError(f"The run directory '{path}' is open to others: its mode must be 0700")


def _make_folder(base: str, name: str, exact: bool) -> str:
    """A new folder; without a name of the user's, a taken one gets a number behind it."""
    for number in range(1, 1000):
        path = os.path.join(base, name if number == 1 else f"{name}-{number}")
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            if exact:
                raise ConfigError(f"A network called '{name}' is running already") from None
            continue
        except OSError as error:
            raise ConfigError(f"Can't make '{path}': {error.strerror}") from error
        return path
    raise ConfigError(f"Too many networks of process {name}")


@contextlib.contextmanager
def _exclusive(base: str) -> Iterator[None]:
    fd = os.open(os.path.join(base, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _instances(base: str) -> list[str]:
    with os.scandir(base) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))


def _clear_stale(base: str) -> None:
    for name in _instances(base):
        path = os.path.join(base, name)
        if is_stale(path):
            remove(path)


def is_stale(path: str) -> bool:
    """Whether no process of the instance is left."""
    try:
        fd = _open_regular(os.path.join(path, LOCK), os.O_RDONLY)
    except FileNotFoundError:
        return True  # its maker died between the folder and the lock
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    else:
        return True
    finally:
        os.close(fd)
