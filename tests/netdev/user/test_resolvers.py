# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmwire.netdev.user.dns import Resolver
from vmwire.netdev.user.resolvers import THIS_HOST, ResolvConf, parse_resolv_conf


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "resolv.conf"


def test_name_servers_are_read_in_order() -> None:
    text = "search a.example\nnameserver 192.0.2.1\nnameserver\t2001:db8::1\noptions edns0\n"
    assert parse_resolv_conf(text) == (Resolver("192.0.2.1"), Resolver("2001:db8::1"))


@pytest.mark.parametrize(
    "line",
    [
        "# nameserver 192.0.2.1",
        ";nameserver 192.0.2.1",
        " nameserver 192.0.2.1",
        "nameserver",
        "nameserver example.com",
        "nameserver 192.0.2.300",
        "nameserver 192.0.2.1:53",
        "nameservers 192.0.2.1",
        "nameserver fe80::1",
        "nameserver ::1::2",
        "nameserver fe80::1%",
    ],
)
def test_lines_that_name_no_usable_server_are_skipped(line: str) -> None:
    assert parse_resolv_conf(line + "\nnameserver 192.0.2.9 # comment\n") == (
        Resolver("192.0.2.9"),
    )


def test_scope_is_kept_where_it_is_needed_only() -> None:
    assert parse_resolv_conf("nameserver fe80::1%eth0\nnameserver 2001:db8::1%eth0\n") == (
        Resolver("fe80::1", scope="eth0"),
        Resolver("2001:db8::1"),
    )


def test_three_different_servers_are_used_at_most() -> None:
    text = "".join(f"nameserver 192.0.2.{n}\n" for n in (1, 1, 2, 3, 4))
    assert [r.address for r in parse_resolv_conf(text)] == ["192.0.2.1", "192.0.2.2", "192.0.2.3"]


def test_file_without_servers_means_this_host(path: Path, clock: Clock) -> None:
    path.write_text("search example\n")
    assert ResolvConf(clock, path)() == (THIS_HOST,)
    assert ResolvConf(clock, path.with_name("missing"))() == (THIS_HOST,)


def test_changed_file_is_read_again_after_a_second(path: Path, clock: Clock) -> None:
    path.write_text("nameserver 192.0.2.1\n")
    resolvers = ResolvConf(clock, path)
    assert resolvers() == (Resolver("192.0.2.1"),)
    path.write_text("nameserver 192.0.2.22\n")
    clock.now_s = 0.9
    assert resolvers() == (Resolver("192.0.2.1"),)
    clock.now_s = 1.0
    assert resolvers() == (Resolver("192.0.2.22"),)


def test_file_replaced_by_one_of_the_same_size_and_time_is_noticed(
    path: Path, clock: Clock
) -> None:
    path.write_text("nameserver 192.0.2.1\n")
    os.utime(path, (1, 1))
    resolvers = ResolvConf(clock, path)
    resolvers()
    other = path.with_name("other")
    other.write_text("nameserver 192.0.2.2\n")
    os.utime(other, (1, 1))
    other.rename(path)
    clock.now_s = 5.0
    assert resolvers() == (Resolver("192.0.2.2"),)


def test_file_that_vanishes_leaves_what_was_known(path: Path, clock: Clock) -> None:
    path.write_text("nameserver 192.0.2.1\n")
    resolvers = ResolvConf(clock, path)
    resolvers()
    path.unlink()
    clock.now_s = 2.0
    assert resolvers() == (Resolver("192.0.2.1"),)


def test_first_ipv4_resolver_is_found(path: Path, clock: Clock) -> None:
    path.write_text("nameserver 2001:db8::1\nnameserver 192.0.2.1\n")
    assert ResolvConf(clock, path).first_ipv4() == Resolver("192.0.2.1")
    path.with_name("six").write_text("nameserver 2001:db8::1\n")
    assert ResolvConf(clock, path.with_name("six")).first_ipv4() is None


def test_file_of_odd_bytes_is_survived(path: Path, clock: Clock) -> None:
    path.write_bytes(b"\xff\xfe\x00\n" * 100000 + b"nameserver 192.0.2.1\n")
    assert ResolvConf(clock, path)() == (THIS_HOST,)


@given(st.text(max_size=80))
def test_any_text_is_survived(text: str) -> None:
    parse_resolv_conf("nameserver " + text)
