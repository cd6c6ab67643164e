# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from vmwire.cli.wrap import cmdline
from vmwire.cli.wrap.edits import Edits


def edits(line: str, replaced: dict[int, list[str]] | None = None) -> Edits:
    return Edits(cmdline.parse(line.split()), replaced)


def test_unchanged_line_is_the_typed_one() -> None:
    assert edits("-S -m 1G disk.img").words() == ["-S", "-m", "1G", "disk.img"]


def test_words_are_replaced_and_put_before_in_the_order_of_the_calls() -> None:
    found = edits("-S -m 1G -snapshot")
    found.replace(1, [])
    found.put_before(1, ["a"])
    found.put_before(1, ["b"])
    assert found.words() == ["-S", "a", "b", "-snapshot"]


def test_first_words_stand_before_everything_that_changes() -> None:
    found = edits("-S -m 1G -snapshot", {2: ["x"]})
    found.put_before(1, ["a"])
    found.put_first(["first"])
    found.put_first([])
    assert found.words() == ["-S", "first", "a", "-m", "1G", "x"]


def test_property_is_added_to_what_stands_there_by_now() -> None:
    found = edits('-device rtl8139 -device {"driver":"e1000"}')
    found.replace(0, ["-x", "y", "-device", "rtl8139,id=n"])
    found.add_property(0, "addr", "3")
    found.add_property(0, "mac", "m")
    found.add_property(1, "mac", "m")
    assert found.words() == [
        "-x", "y", "-device", "rtl8139,id=n,addr=3,mac=m",
        "-device", '{"driver":"e1000","mac":"m"}',
    ]  # fmt: skip
