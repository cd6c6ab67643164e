# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Programs of the host's: what they may do, and that guests don't wait for them."""

from __future__ import annotations

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tests.engine.store import Store
from tests.netdev.alone import alone
from tests.netdev.scripts import guest_on, interfaces, script, until
from tests.netdev.sockets import Bed

from vmwire.engine.host import Host
from vmwire.errors import ConfigError
from vmwire.monitor.monitor import Monitor
from vmwire.monitor.table import CommandError
from vmwire.netdev import bridge_helper, network_scripts, passt, programs
from vmwire.network import Network

LINGERS = "sleep 1000 & echo $! > {folder}/child"
WAITS = "echo {name} > {folder}/begun; read -r line < {folder}/go"


def descriptors(pid: int) -> set[str]:
    return {os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()}


def run(path: str, patience_s: float = 20) -> tuple[int, list[str]]:
    return programs.run([path], patience_s=patience_s)


# --- what they may do ---------------------------------------------------------------------------


def test_nobody_waits_for_what_a_program_leaves_in_the_background(tmp_path: Path) -> None:
    reading, writing = os.pipe2(0)
    assert run(script(tmp_path, f"echo done; {LINGERS.format(folder=tmp_path)}")) == (0, ["done"])
    child = int((tmp_path / "child").read_text())
    try:
        held = descriptors(child)
        assert "/memfd:vmwire-said (deleted)" in held
        assert os.readlink(f"/proc/self/fd/{writing}") not in held
    finally:
        os.kill(child, signal.SIGKILL)
        os.close(reading)
        os.close(writing)


def test_what_is_left_in_the_background_fills_no_memory(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "go")
    body = f"(read -r line < {tmp_path}/go; echo too late; echo $? > {tmp_path}/status) &"
    assert run(script(tmp_path, body)) == (0, [])
    (tmp_path / "go").write_text("go\n")
    until(lambda: (tmp_path / "status").exists() and (tmp_path / "status").read_text())
    assert (tmp_path / "status").read_text() != "0\n"


def test_a_program_that_says_too_much_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(programs, "MOST_WORDS", 1 << 20)
    path = script(tmp_path, f"echo $$ > {tmp_path}/pid; while :; do head -c 9999 /dev/zero; done")
    with pytest.raises(ConfigError, match=f"{path} says more than 1 MiB and was killed"):
        run(path)
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_of_many_words_the_last_ones_are_kept(tmp_path: Path) -> None:
    status, said = run(script(tmp_path, "head -c 3000000 /dev/zero; echo; echo why >&2; exit 1"))
    assert (status, said[-1]) == (1, "why")


# --- guests don't wait --------------------------------------------------------------------------


def waits(folder: Path, name: str) -> str:
    """A script that says that it has begun, and goes on when it is told to."""
    return script(folder, WAITS.format(name=name, folder=folder), name)


def while_it_waits(folder: Path, done: Future[Any], others: Any) -> None:
    """Have ``others`` do something while a script runs, then let that go on."""
    (folder / "begun").read_text()
    others("ping", "-c3", "-i0.01", "10.0.2.2")
    assert not done.done()
    (folder / "go").write_text("go\n")
    done.result(20)


@alone
def test_guests_go_on_while_a_taps_scripts_run(tmp_path: Path) -> None:
    for name in ("begun", "go"):
        os.mkfifo(tmp_path / name)
    with Network() as net, ThreadPoolExecutor() as pool:
        net.add_netdev("user", id="u")
        others = guest_on(net, "u", "10.0.2.15/24")
        monitor = Monitor(net)
        wanted = {
            "type": "tap", "id": "t", "ifname": "tap7",
            "script": waits(tmp_path, "up"), "downscript": waits(tmp_path, "down"),
        }  # fmt: skip
        added = pool.submit(monitor.execute, "netdev_add", wanted)
        while_it_waits(tmp_path, added, others)
        assert "t" in net.netdevs and "tap7" in interfaces()
        removed = pool.submit(monitor.execute, "netdev_del", {"id": "t"})
        while_it_waits(tmp_path, removed, others)
        assert "t" not in net.netdevs
        until(lambda: "tap7" not in interfaces())


@alone
def test_a_script_that_hangs_ends_a_command_at_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(network_scripts, "PATIENCE_S", 0.3)
    hangs = script(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 1000")
    with Network() as net:
        wanted = {"type": "tap", "id": "t", "ifname": "tap7", "script": hangs, "downscript": "no"}
        with pytest.raises(CommandError, match=r"did not end within 0\.3 s and was killed$"):
            Monitor(net).execute("netdev_add", wanted)
        assert net.netdevs == {} and "tap7" not in interfaces()
        assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


@alone
def test_an_id_that_is_taken_runs_no_script(tmp_path: Path) -> None:
    with Network() as net:
        net.add_netdev("user", id="t")
        with pytest.raises(ConfigError, match="Duplicate ID 't'"):
            net.add_netdev("tap", id="t", script=script(tmp_path, f"touch {tmp_path}/ran"))
    assert not (tmp_path / "ran").exists()


@alone
def test_what_was_made_for_a_netdev_that_cant_be_added_is_gone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "go")
    with Network() as net, ThreadPoolExecutor() as pool:
        up = waits(tmp_path, "up")
        add = {"id": "t", "ifname": "tap7", "script": up, "downscript": "no"}
        added = pool.submit(net.add_netdev, "tap", **add)
        (tmp_path / "begun").read_text()
        net.add_netdev("user", id="t")  # somebody else was faster
        (tmp_path / "go").write_text("go\n")
        with pytest.raises(ConfigError, match="Duplicate ID 't'"):
            added.result(20)
        assert "tap7" not in interfaces()


@alone
def test_guests_go_on_while_a_helper_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bridge_helper, "PATIENCE_S", 1.0)
    os.mkfifo(tmp_path / "begun")
    hangs = script(tmp_path, f"echo > {tmp_path}/begun; exec sleep 1000")
    with Network() as net, ThreadPoolExecutor() as pool:
        added = pool.submit(net.add_netdev, "bridge", id="b", helper=hangs)
        (tmp_path / "begun").read_text()
        assert net.stats()["netdevs"] == {} and not added.done()
        with pytest.raises(ConfigError, match="did not answer within 1 s"):
            added.result(20)


# --- another passt ------------------------------------------------------------------------------


def test_a_worker_that_follows_another_doesnt_wait_for_passt(sockets: Bed, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "go")
    store, crashed = Store(), Bed()
    for bed in (crashed, sockets):
        bed.host = Host(bed.loop, store)
    crashed.add(f"passt,id=p,path={script(tmp_path, 'exit 0', 'passt')}")
    netdev, end = sockets.add(f"passt,id=p,path={waits(tmp_path, 'passt')}")
    assert netdev.waiting == "passt is started again"
    (tmp_path / "begun").read_text()
    sockets.turn()
    assert not end.heard
    (tmp_path / "go").write_text("go\n")
    sockets.until(lambda: end.heard)
    crashed.close()


def test_a_passt_that_comes_too_late_is_let_go(
    sockets: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passt, "RESTART_S", 0.01)
    os.mkfifo(tmp_path / "begun")
    os.mkfifo(tmp_path / "go")
    netdev, _ = sockets.add(f"passt,id=p,path={script(tmp_path, 'exit 0', 'passt')}")
    waits(tmp_path, "passt")
    sockets.until(lambda: netdev.waiting)  # the stand-in has left, its socket with it
    with ThreadPoolExecutor() as pool:
        begun = pool.submit((tmp_path / "begun").read_text)
        sockets.until(begun.done)
    netdev.close()
    before = len(os.listdir("/proc/self/fd"))
    (tmp_path / "go").write_text("go\n")
    sockets.until(lambda: len(os.listdir("/proc/self/fd")) < before)
