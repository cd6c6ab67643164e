# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""``vmwire shell`` from outside: the command is as without it, but for its network."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.daemon.instance import eventually, is_alive, users_of
from vmwire.daemon import rundir

COMMAND = (sys.executable, "-m", "vmwire", "shell")
SYSTEM_PYTHON = "/usr/bin/python3"


def shell(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run ``vmwire shell ARGUMENTS`` to its end."""
    return subprocess.run(
        [*COMMAND, *arguments], capture_output=True, text=True, timeout=30, **options
    )


def output(*arguments: str) -> str:
    done = shell(*arguments)
    assert done.returncode == 0, done
    return done.stdout


def processes(runtime: str) -> dict[int, str]:
    """The keepers and workers of the networks under ``runtime``."""
    locks = Path(runtime).glob(f"vmwire/*/{rundir.LOCK}")
    return {pid: name for lock in locks for pid, name in users_of(str(lock)).items()}


def nothing_left(runtime: str) -> bool:
    return not [path for path in Path(runtime).glob("vmwire/*") if path.is_dir()]


class Page(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"a page of the host")

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    """An HTTP server on the host's loopback; gives its port."""
    made = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    thread = threading.Thread(target=made.serve_forever)
    thread.start()
    yield made.server_port
    made.shutdown()
    thread.join()
    made.server_close()


@contextlib.contextmanager
def running(runtime: str, *arguments: str, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """``vmwire shell`` whose network stands; everything of it is gone at the end."""
    process = subprocess.Popen([*COMMAND, *arguments], text=True, **options)
    try:
        eventually(lambda: "vmwire-worker" in processes(runtime).values(), 10)
        yield process
    finally:
        left = processes(runtime)
        process.kill()
        process.wait()
        with contextlib.suppress(AssertionError):
            eventually(lambda: not any(map(is_alive, left)))
        for pid in filter(is_alive, left):
            os.kill(pid, signal.SIGKILL)


# The command's own


@pytest.mark.netns
@pytest.mark.parametrize("status", [0, 3, 255])
def test_exit_status_is_the_commands(runtime: str, status: int) -> None:
    assert shell("--", "sh", "-c", f"exit {status}").returncode == status
    eventually(lambda: nothing_left(runtime))


@pytest.mark.netns
def test_death_by_a_signal_is_the_commands(runtime: str) -> None:
    assert shell("--", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    done = subprocess.run(["sh", "-c", f"{' '.join(COMMAND)} -- sh -c 'kill -KILL $$'; echo $?"],
                          capture_output=True, text=True, timeout=30)  # fmt: skip
    assert done.stdout == "137\n"


@pytest.mark.netns
def test_command_is_this_very_process(runtime: str) -> None:
    code = "echo $$; cat; pwd"
    process = subprocess.Popen([*COMMAND, "sh", "-c", code], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, cwd="/usr")  # fmt: skip
    assert process.communicate("typed\n", timeout=30)[0] == f"{process.pid}\ntyped\n/usr\n"


@pytest.mark.netns
def test_signals_are_as_the_command_would_have_them(runtime: str) -> None:
    """Python ignores SIGPIPE for itself; a command that inherits that goes on writing."""
    code = "grep SigIgn /proc/self/status"
    without = subprocess.run(["sh", "-c", code], capture_output=True, text=True).stdout
    assert output("sh", "-c", code) == without


@pytest.mark.netns
def test_default_command_is_the_users_shell(runtime: str) -> None:
    done = shell(input="echo from $0", env={**os.environ, "SHELL": "/bin/sh"})
    assert done.stdout == "from /bin/sh\n"


@pytest.mark.netns
def test_terminal_is_the_commands_and_ctrl_c_reaches_it(runtime: str) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(COMMAND[0], [*COMMAND, "--", "sh", "-c", "tty && echo ready && exec sleep 60"])
    seen = b""
    deadline = time.monotonic() + 20
    while b"ready" not in seen and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.2)[0]:
            seen += os.read(terminal, 1000)
    assert b"/dev/pts/" in seen
    assert os.tcgetpgrp(terminal) == pid
    os.write(terminal, b"\x03")
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.WTERMSIG(status) == signal.SIGINT
    eventually(lambda: nothing_left(runtime))


@pytest.mark.netns
@pytest.mark.parametrize(
    ("command", "status", "reason"),
    [("/nosuch", 127, "No such file or directory"), ("/etc/passwd", 126, "Permission denied")],
)
def test_command_that_cannot_be_run(runtime: str, command: str, status: int, reason: str) -> None:
    done = shell("--", command)
    assert (done.returncode, done.stderr) == (status, f"vmwire: {command}: {reason}\n")
    eventually(lambda: nothing_left(runtime))


# Its network


@pytest.mark.netns
def test_address_route_resolver_and_mtu_are_what_dhcp_would_say(runtime: str) -> None:
    code = "ip -4 -j addr show eth0; ip route show default; cat /etc/resolv.conf"
    netdev = "user,net=192.168.7.0/24,mtu=1400,domainname=dom.example,dnssearch=a.example"
    address, route, *resolver = output("-netdev", netdev, "--", "sh", "-c", code).splitlines()
    (eth0,) = json.loads(address)
    (given,) = eth0["addr_info"]
    assert (eth0["mtu"], given["local"], given["prefixlen"]) == (1400, "192.168.7.15", 24)
    assert route.startswith("default via 192.168.7.2 dev eth0")
    assert resolver == ["nameserver 192.168.7.3", "search dom.example a.example"]


@pytest.mark.netns
def test_address_and_mtu_can_be_given(runtime: str) -> None:
    code = "ip -4 -j addr show eth0"
    (eth0,) = json.loads(output("--address", "10.0.2.77/25", "--mtu=65520", "sh", "-c", code))
    (given,) = eth0["addr_info"]
    assert (eth0["mtu"], given["local"], given["prefixlen"]) == (65520, "10.0.2.77", 25)


@pytest.mark.netns
def test_restricted_network_has_no_way_out(runtime: str, server: int) -> None:
    code = f"ip route show default; ip route add default via 10.0.2.2; {fetch(server)} || echo no"
    assert output("-netdev", "user,restrict=on", "--", "sh", "-c", code) == "no\n"


def fetch(port: int, host: str = "10.0.2.2") -> str:
    """Shell code that fetches the page."""
    url = f"http://{host}:{port}/"
    code = f"import urllib.request as u; print(u.urlopen('{url}', timeout=3).read())"
    return f'{sys.executable} -c "{code}" 2>/dev/null'


@pytest.mark.netns
def test_command_reaches_the_hosts_servers(runtime: str, server: int) -> None:
    assert output("--", "sh", "-c", fetch(server)) == "b'a page of the host'\n"


@pytest.mark.netns
def test_host_reaches_the_command_by_a_forward(runtime: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code = (
        "import socket; s = socket.create_server(('', 80)); c = s.accept()[0];"
        " c.sendall(c.recv(99).upper())"
    )
    netdev = f"user,id=u,hostfwd=tcp:127.0.0.1:{port}-:80"
    with running(runtime, "-netdev", netdev, "--", sys.executable, "-c", code) as process:

        def answer() -> bytes:
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", port), timeout=5) as client,
            ):
                client.sendall(b"hello")
                return client.recv(99)
            return b""

        assert eventually(answer) == b"HELLO"
        assert process.wait(10) == 0


@pytest.mark.netns
def test_traffic_can_be_captured(runtime: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pcap"
    output("--capture", str(path), "--", "ping", "-c1", "-W5", "10.0.2.2")
    eventually(lambda: nothing_left(runtime))
    assert path.read_bytes().count(bytes([10, 0, 2, 15, 10, 0, 2, 2])) >= 1


# Its end


@pytest.mark.netns
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGHUP])
def test_killed_command_leaves_nothing(runtime: str, number: int) -> None:
    with running(runtime, "--", "sleep", "60") as process:
        ours = processes(runtime)
        assert sorted(ours.values())[-2:] == ["vmwire-keeper", "vmwire-worker"]
        process.send_signal(number)
        assert process.wait(10) == -number
        eventually(lambda: nothing_left(runtime) and not any(map(is_alive, ours)))


@pytest.mark.netns
def test_network_stays_for_children_that_outlive_the_command(
    runtime: str, server: int, tmp_path: Path
) -> None:
    page = tmp_path / "page"
    code = f"(sleep 1; {fetch(server)} > {page}) > /dev/null 2>&1 &"
    assert shell("--", "sh", "-c", code).returncode == 0
    eventually(lambda: page.exists() and page.read_text() == "b'a page of the host'\n", 10)
    eventually(lambda: nothing_left(runtime))


@pytest.mark.netns
@pytest.mark.parametrize("victim", ["worker", "keeper"])
def test_killed_process_of_the_network_is_replaced(runtime: str, server: int, victim: str) -> None:
    def victims() -> set[int]:
        return {pid for pid, name in processes(runtime).items() if name == f"vmwire-{victim}"}

    tries = f"for i in 1 2 3 4 5; do {fetch(server)} && exit 0; done; exit 1"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with running(runtime, "--", "sh", "-c", f"echo up; read x; {tries}", **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        (before,) = victims()
        os.kill(before, signal.SIGKILL)
        eventually(lambda: victims() - {before})
        out, _ = process.communicate("go\n", timeout=30)
        assert (process.returncode, out) == (0, "b'a page of the host'\n")


# Behind other networks


@pytest.mark.netns
def test_two_shells_reach_each_other_over_a_socket_and_the_host_besides(
    runtime: str, tmp_path: Path, server: int
) -> None:
    wire = "stream,addr.type=unix,addr.path=wire"  # in the folder where the commands run
    with running(
        runtime, "-netdev", f"{wire},server=on", "-netdev", "user", "--address", "10.9.0.1/24",
        "sh", "-c", "read x; cat /proc/net/dev", cwd=tmp_path, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as first:  # fmt: skip
        script = f"ping -c2 -i0.2 10.9.0.1 && {fetch(server)}"
        eventually((tmp_path / "wire").exists)
        second = shell("-netdev", wire, "-netdev", "user", "--address", "10.9.0.2/24",
                       "sh", "-c", script, cwd=tmp_path)  # fmt: skip
        assert " 0% packet loss" in second.stdout, second
        assert "a page of the host" in second.stdout
        out, _ = first.communicate("\n", timeout=20)
        assert "eth0" in out
        assert "eth1" in out
    assert not (tmp_path / "wire").exists()


@pytest.mark.netns
def test_a_socket_of_the_callers_is_handed_to_the_network_and_not_to_the_command(
    runtime: str,
) -> None:
    ours, theirs = socket.socketpair()
    fd = theirs.fileno()
    with running(
        runtime, "-netdev", f"socket,fd={fd}", "--address", "10.9.0.1/24", "sh", "-c",
        f"ls /proc/self/fd/{fd} 2>&1; ping -c1 -W1 10.9.0.2", pass_fds=[fd], stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        theirs.close()
        ours.settimeout(10)
        data = b""
        while bytes.fromhex("08060001080006040001") not in data:  # the question for 10.9.0.2
            data += ours.recv(4096)
        out, _ = process.communicate(timeout=20)
        assert "No such file" in out
        while ours.recv(4096):  # until its end: nobody has it any more
            pass


# What can't be had


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nosuch"], "--nosuch: invalid option (vmwire shell --help shows what there is)"),
        (["--mtu"], "--mtu: requires an argument"),
        (["--mtu", "1", "--", "id"], "--mtu 1: expects a number from 68 to 65520"),
        (["--mtu", "x", "--", "id"], "--mtu x: expects a number from 68 to 65520"),
        (["--mtu=1400", "--mtu=1500"], "--mtu=1500: may be given once"),
        (["--address", "10.0.2.15", "id"], "--address: '10.0.2.15' is not an IPv4 address with "
         "its network's length (10.0.2.15/24)"),
        (["-netdev", "user,id=u,bogus=1"], "-netdev user,id=u,bogus=1: Invalid parameter 'bogus'"),
        (["-netdev", "af-xdp"], "-netdev af-xdp,id=net0: netdev 'af-xdp' is not served by vmwire: "
         "leave it to QEMU, or bridge a tap with the interface"),
        (["-netdev", "user,id=u", "-netdev", "hubport,hubid=0,netdev=u"], "no netdev is left for "
         "the namespace: give it a hubport of its own"),
        (["-netdev", "stream"], "-netdev stream,id=net0: Parameter 'addr' is missing"),
        (["--address=10.0.2.1/24", "--address=10.0.2.2/24"], "--address: more addresses than "
         "interfaces"),
        (["-netdev", "user,ipv4=off"], "-netdev user,id=net0,ipv4=off: the namespace takes IPv4, "
         "which is off"),
        (["-netdev", "user,net=10.0.0.0/255.0.255.0"], "a namespace's network can't have a mask "
         "with holes; --address sets one"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_line(runtime: str, arguments: list[str], message: str) -> None:
    done = shell(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"vmwire: {message}\n")
    assert nothing_left(runtime)


@pytest.mark.netns
def test_port_in_use_is_one_line_and_leaves_nothing(runtime: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = shell("-netdev", f"user,hostfwd=tcp:127.0.0.1:{port}-:80", "--", "true")
    assert done.returncode == 1
    assert str(port) in done.stderr
    assert done.stderr.count("\n") == 1
    eventually(lambda: nothing_left(runtime))


# Without root

PRIVATE_TUN = """
mkdir "$1/dev" && mknod "$1/dev/tun" c 10 200 && chmod 666 "$1/dev/tun"
mount --bind "$1/dev/tun" /dev/net/tun
shift
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"""


def unprivileged(runtime: str, with_tun: bool, *command: str) -> subprocess.CompletedProcess[str]:
    """Run ``vmwire shell COMMAND`` as nobody, with or without a tap for everybody."""
    if not os.access(SYSTEM_PYTHON, os.X_OK):
        pytest.skip(f"needs a python that everybody may run, as {SYSTEM_PYTHON}")
    os.chmod(runtime, 0o711)
    own = Path(runtime) / "nobody"
    own.mkdir(mode=0o700)
    os.chown(own, 65534, 65534)
    root = Path(__file__).parents[2]
    path = f"{root / 'src'}:{sysconfig.get_paths()['purelib']}"
    env = {**os.environ, "XDG_RUNTIME_DIR": str(own), "PYTHONPATH": path, "HOME": "/"}
    code = PRIVATE_TUN if with_tun else PRIVATE_TUN.replace("chmod 666", "chmod 600")
    return subprocess.run(
        ["unshare", "--mount", "sh", "-ec", code, "sh", runtime, SYSTEM_PYTHON, "-B", "-m",
         "vmwire", "shell", "--", *command],
        capture_output=True, text=True, timeout=30, env=env, cwd="/",
    )  # fmt: skip


@pytest.mark.root
@pytest.mark.netns
def test_nobody_gets_a_namespace_too(runtime: str, server: int) -> None:
    code = f"id -u; cat /etc/resolv.conf; ping -c1 -W5 10.0.2.2 >&2 && exec 2>&1; {fetch(server)}"
    done = unprivileged(runtime, True, "sh", "-c", code.replace(sys.executable, SYSTEM_PYTHON))
    assert done.stdout == "0\nnameserver 10.0.2.3\nb'a page of the host'\n", done.stderr
    eventually(lambda: nothing_left(f"{runtime}/nobody"))


@pytest.mark.root
@pytest.mark.netns
def test_nobody_without_a_tap_hears_why(runtime: str) -> None:
    done = unprivileged(runtime, False, "true")
    assert done.returncode == 1
    assert done.stderr.startswith("vmwire: no tap can be had from /dev/net/tun (Permission denied)")
    assert done.stderr.count("\n") == 1
    assert nothing_left(f"{runtime}/nobody")


def test_old_words_put_each_vlan_behind_an_interface(runtime: str) -> None:
    shown = output(
        *("-net", "user,vlan=2", "-net", "user,net=10.7.0.0/24"),
        *("-net", "socket,vlan=2,listen=127.0.0.1:0", "--address", "10.0.2.9/24"),
        *("--", SYSTEM_PYTHON, "-c", "import socket; print(socket.if_nameindex())"),
    )
    assert "eth0" in shown and "eth1" in shown and "eth2" not in shown


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("nic", "-net nic: a namespace has an interface on each VLAN"),
        ("dump,file=x", "-net dump,file=x: a namespace has an interface on each VLAN"),
        ("user,bogus=1", "-net user,bogus=1: Invalid parameter 'bogus'"),
        ("none", "no netdev is left for the namespace"),
    ],
)
def test_old_words_that_a_namespace_has_no_use_for(runtime: str, word: str, said: str) -> None:
    done = shell("-net", word, "--", "true")
    assert done.returncode == 1 and done.stderr.startswith(f"vmwire: {said}")
