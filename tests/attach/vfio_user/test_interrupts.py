# SPDX-FileCopyrightText: The vmwire authors
# SPDX-License-Identifier: Apache-2.0
"""Interrupts over vfio-user: wiring, masking, and what is no event descriptor."""

from __future__ import annotations

import errno
import os
import select

import pytest

from tests.attach.vfio_user.copier import (
    IDENT,
    LEVEL,
    NOTIFY,
    SCRATCH,
    Served,
    open_fds,
)
from tests.attach.vfio_user.moves import no_event
from vmwire.attach.vfio_user import signals
from vmwire.bench.vfio_user import Client, RequestError, fired
from vmwire.bus.pci.vfio_user import (
    ACTION_MASK,
    ACTION_TRIGGER,
    ACTION_UNMASK,
    CONFIG,
    DATA_BOOL,
    DATA_EVENTFD,
    DATA_NONE,
    ERR,
    INTX,
    IRQ_SET,
    MSI,
    MSIX,
    REQ,
    Command,
)
from vmwire.wire.frame import Frame

# Interrupts


def test_the_pin_signals_once_until_it_is_unmasked_and_again_if_it_is_still_up(pc: Client) -> None:
    (fd,) = pc.wire(INTX)
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 1
    pc.write(0, LEVEL, 0)
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 0
    pc.unmask()
    pc.read(0, IDENT)
    assert fired(fd) == 1
    pc.write(0, LEVEL, 0)
    pc.unmask()
    pc.read(0, IDENT)
    assert fired(fd) == 0
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 1


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guest has all the time that it wants to its next access."""
    monkeypatch.setattr(signals, "HANDLER_S", 3600.0)
    monkeypatch.setattr(signals, "MOST_HANDLER_S", 3600.0)


def handle(pc: Client, fd: int) -> None:
    """A guest's handler begins: its look at the card lowers the pin, and the machine unmasks."""
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 1
    pc.write(0, LEVEL, 0)
    pc.unmask()


def arrive(served: Served) -> None:
    """A frame raises the pin."""
    served.loop.call(lambda: served.chip.receive([Frame.of(bytes(60))]))


@pytest.mark.usefixtures("patient")
def test_a_pin_that_rises_within_the_handler_waits_for_the_guests_next_access(
    served: Served, pc: Client
) -> None:
    (fd,) = pc.wire(INTX)
    handle(pc, fd)
    arrive(served)
    assert fired(fd) == 0
    pc.read(0, IDENT)
    assert fired(fd) == 1


@pytest.mark.usefixtures("patient")
def test_a_pin_that_is_up_when_the_machine_unmasks_waits_for_the_guests_next_access(
    pc: Client,
) -> None:
    (fd,) = pc.wire(INTX)
    pc.write(0, LEVEL, 1)
    pc.unmask()
    assert fired(fd) == 1
    pc.write(0, SCRATCH, 1)
    assert fired(fd) == 1


@pytest.mark.usefixtures("patient")
def test_a_guest_that_masks_the_card_in_its_handler_is_not_interrupted_for_what_came_before(
    served: Served, pc: Client
) -> None:
    (fd,) = pc.wire(INTX)
    handle(pc, fd)
    arrive(served)
    pc.write(0, LEVEL, 0)
    pc.read(0, IDENT)
    assert fired(fd) == 0
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 1


def test_a_guest_that_makes_no_further_access_is_interrupted_after_a_moment(
    served: Served, pc: Client
) -> None:
    (fd,) = pc.wire(INTX)
    handle(pc, fd)
    arrive(served)
    assert select.select([fd], [], [], 10)[0]


def test_how_long_an_access_is_waited_for_follows_whether_it_comes(
    served: Served, pc: Client
) -> None:
    (fd,) = pc.wire(INTX)
    lines = served.session.signals
    waited = [lines.patience_s]
    for _ in range(2):
        pc.write(0, LEVEL, 1)
        assert fired(fd) == 1
        pc.unmask()
        assert select.select([fd], [], [], 10)[0]  # and no access comes
        waited.append(lines.patience_s)
        fired(fd)
        pc.write(0, LEVEL, 0)
        pc.unmask()
    assert waited[0] > waited[1] >= waited[2] >= signals.LEAST_HANDLER_S
    for _ in range(1000):
        handle(pc, fd)
        pc.read(0, IDENT)
        if lines.patience_s == signals.MOST_HANDLER_S:
            break
    assert lines.patience_s == signals.MOST_HANDLER_S


@pytest.mark.usefixtures("patient")
def test_a_reset_ends_the_wait_for_an_access(served: Served, pc: Client) -> None:
    (fd,) = pc.wire(INTX)
    handle(pc, fd)
    pc.ask(Command.DEVICE_RESET)
    arrive(served)
    assert fired(fd) == 1


def test_a_pin_that_is_up_signals_when_it_is_wired(pc: Client) -> None:
    pc.write(0, LEVEL, 1)
    (fd,) = pc.wire(INTX)
    assert fired(fd) == 1


def test_a_masked_pin_is_silent_and_a_disabled_one_too(pc: Client) -> None:
    (fd,) = pc.wire(INTX)
    pc.set_irqs(INTX, DATA_NONE | ACTION_MASK)
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 0
    pc.set_irqs(INTX, DATA_NONE | ACTION_UNMASK)
    pc.read(0, IDENT)
    assert fired(fd) == 1
    pc.write(CONFIG, 4, 0x0406, 2)
    pc.unmask()
    pc.read(0, IDENT)
    assert fired(fd) == 0
    pc.write(CONFIG, 4, 0x0006, 2)
    assert fired(fd) == 1


def test_the_pin_is_unmasked_by_an_event_of_the_machines(served: Served, pc: Client) -> None:
    (fd,) = pc.wire(INTX)
    resample = os.eventfd(0, os.EFD_NONBLOCK)
    pc.set_irqs(INTX, DATA_EVENTFD | ACTION_UNMASK, fds=[resample])
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 1
    os.eventfd_write(resample, 1)
    served.wait(lambda: served.nic.stats()["signals"] == 2)
    assert fired(fd) == 1
    pc.set_irqs(INTX, DATA_EVENTFD | ACTION_UNMASK)
    os.eventfd_write(resample, 1)
    pc.read(0, IDENT)
    assert fired(fd) == 0
    os.close(resample)


@pytest.mark.parametrize(("index", "offset", "enable"), [(MSI, 0x42, 0x21), (MSIX, 0x62, 0x8000)])
def test_messages_arrive_at_their_own_descriptors(
    pc: Client, index: int, offset: int, enable: int
) -> None:
    fds = pc.wire(index, 0, 3)
    pc.write(CONFIG, offset, enable, 2)
    for vector in (2, 0, 2):
        pc.write(0, NOTIFY, vector)
    assert [fired(fd) for fd in fds] == [1, 0, 2]


@pytest.mark.parametrize("index", [MSI, MSIX])
def test_a_masked_message_is_kept_once(pc: Client, index: int) -> None:
    fds = pc.wire(index, 0, 3)
    pc.write(CONFIG, 0x42 if index == MSI else 0x62, 0x21 if index == MSI else 0x8000, 2)
    pc.set_irqs(index, DATA_BOOL | ACTION_MASK, 0, 3, b"\0\1\0")
    for _ in range(3):
        pc.write(0, NOTIFY, 1)
    pc.write(0, NOTIFY, 2)
    assert [fired(fd) for fd in fds] == [0, 0, 1]
    pc.set_irqs(index, DATA_NONE | ACTION_UNMASK, 0, 3)
    assert [fired(fd) for fd in fds] == [0, 1, 0]


def test_a_message_before_its_descriptor_is_kept_unless_the_kind_is_switched_off(
    pc: Client,
) -> None:
    pc.write(CONFIG, 0x62, 0x8000, 2)
    pc.write(0, NOTIFY, 1)
    fds = pc.wire(MSIX, 0, 3)
    assert [fired(fd) for fd in fds] == [0, 1, 0]
    pc.set_irqs(MSIX, DATA_EVENTFD | ACTION_TRIGGER, 1)
    pc.write(0, NOTIFY, 1)
    pc.set_irqs(MSIX, DATA_NONE | ACTION_TRIGGER, 0, 0)
    pc.write(0, NOTIFY, 0)
    assert [fired(fd) for fd in fds] == [0, 0, 0]


def test_an_interrupt_without_a_descriptor_is_let_go(pc: Client) -> None:
    before = open_fds()
    (fd,) = pc.wire(INTX)
    pc.set_irqs(INTX, DATA_EVENTFD | ACTION_TRIGGER)
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 0
    os.close(fd)
    assert open_fds() == before


@pytest.mark.parametrize("index", [INTX, MSI, MSIX, ERR, REQ])
def test_the_machine_may_trigger_by_itself(pc: Client, index: int) -> None:
    (fd,) = pc.wire(index)
    pc.set_irqs(index, DATA_NONE | ACTION_TRIGGER)
    pc.set_irqs(index, DATA_BOOL | ACTION_TRIGGER, data=b"\1")
    pc.set_irqs(index, DATA_BOOL | ACTION_TRIGGER, data=b"\0")
    assert fired(fd) == 2


@pytest.mark.parametrize(
    ("argsz", "flags", "index", "start", "count", "data", "fds"),
    [
        (3, 33, INTX, 0, 1, b"", 0),
        (20, 33, 5, 0, 0, b"", 0),
        (20, 8 | 16, MSIX, 0, 0, b"", 0),
        (20, 8 | 1 | 2, MSIX, 0, 1, b"\1", 0),
        (20, 33 | 64, MSIX, 0, 1, b"", 0),
        (20, 8 | 1, MSIX, 2, 2, b"", 0),
        (20, 8 | 1, MSIX, 4, 0, b"", 0),
        (20, 32 | 4, MSIX, 1, 0xFFFFFFFF, b"", 0),
        (20, 8 | 1, ERR, 0, 1, b"", 0),
        (20, 16 | 1, REQ, 0, 1, b"", 0),
        (20, 32 | 1, ERR, 0, 2, b"", 0),
        (20, 32 | 1, MSIX, 1, 0, b"", 0),
        (20, 8 | 1, MSIX, 0, 0, b"", 0),
        (20, 32 | 2, MSIX, 0, 0, b"", 0),
        (21, 32 | 2, MSIX, 0, 1, b"\0", 1),
        (20, 32 | 1, MSIX, 0, 1, b"", 1),
        (20, 32 | 4, MSIX, 0, 2, b"", 1),
        (20, 32 | 4, MSIX, 0, 1, b"", 2),
        (21, 32 | 2, MSIX, 0, 2, b"\1", 0),
        (23, 32 | 2, MSIX, 0, 2, b"\1\1\1", 0),
        (20, 32 | 1, MSIX, 0, 1, b"x", 0),
    ],
)
def test_wiring_that_makes_no_sense_is_refused_and_its_descriptors_are_closed(
    pc: Client, argsz: int, flags: int, index: int, start: int, count: int, data: bytes, fds: int
) -> None:
    before = open_fds()
    events = [os.eventfd(0) for _ in range(fds)]
    payload = IRQ_SET.pack(argsz, flags, index, start, count) + data
    with pytest.raises(RequestError) as error:
        pc.ask(Command.DEVICE_SET_IRQS, payload, events)
    assert error.value.errno == errno.EINVAL
    for fd in events:
        os.close(fd)
    pc.read(0, IDENT)
    assert open_fds() == before


def test_a_descriptor_that_is_full_holds_nobody_up(pc: Client) -> None:
    fd = os.eventfd(2**64 - 2 & 0x7FFFFFFF)
    os.eventfd_write(fd, 2**63)
    os.eventfd_write(fd, 2**63 - 2**31 - 1)
    pc.set_irqs(REQ, DATA_EVENTFD | ACTION_TRIGGER, fds=[fd])
    pc.set_irqs(REQ, DATA_NONE | ACTION_TRIGGER)
    assert pc.read(0, IDENT) == 0xC0B1E5
    os.close(fd)


@pytest.mark.parametrize("action", [ACTION_TRIGGER, ACTION_MASK, ACTION_UNMASK])
@pytest.mark.parametrize("kind", ["file", "path", "pipe", "socket", "terminal"])
def test_what_is_no_event_descriptor_is_refused_and_closed(
    pc: Client, kind: str, action: int
) -> None:
    before = open_fds()
    with no_event(kind) as fd:
        held = open_fds()
        with pytest.raises(RequestError) as error:
            pc.set_irqs(INTX, DATA_EVENTFD | action, fds=[fd])
        assert error.value.errno == errno.EINVAL
        assert open_fds() == held
    assert open_fds() == before
    assert pc.read(0, IDENT) == 0xC0B1E5


def test_wrong_descriptors_behind_right_ones_change_nothing(pc: Client) -> None:
    (fd,) = pc.wire(MSIX)
    good, bad = os.eventfd(0), os.memfd_create("file")
    with pytest.raises(RequestError):
        pc.set_irqs(MSIX, DATA_EVENTFD | ACTION_TRIGGER, 0, 2, fds=[good, bad])
    pc.set_irqs(MSIX, DATA_NONE | ACTION_TRIGGER)
    assert fired(fd) == 1
    os.close(good)
    os.close(bad)


def test_a_descriptor_that_counts_down_by_ones_unmasks_once_for_each_write(
    served: Served, pc: Client
) -> None:
    (fd,) = pc.wire(INTX)
    resample = os.eventfd(1000, os.EFD_SEMAPHORE)
    pc.write(0, LEVEL, 1)
    assert fired(fd) == 1
    pc.set_irqs(INTX, DATA_EVENTFD | ACTION_UNMASK, fds=[resample])
    served.wait(lambda: served.nic.stats()["signals"] == 2)
    for _ in range(20):
        pc.read(0, IDENT)
    assert served.stats()["signals"] == 2
    os.eventfd_write(resample, 1)
    served.wait(lambda: served.nic.stats()["signals"] == 3)
    os.close(resample)
