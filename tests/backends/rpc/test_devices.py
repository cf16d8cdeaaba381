from __future__ import annotations

import pytest

from backends.rpc.devices import LONGEST_PAUSE_S, DeviceBook, Standing


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def book(clock):
    return DeviceBook(clock)


def test_a_device_proves_itself_first_and_again_after_a_failure(book):
    assert book.standing("a:1") is Standing.UNPROVEN
    book.proved("a:1")
    assert (book.standing("a:1"), book.ready) == (Standing.READY, 1)
    book.failed("a:1", "gone")
    assert (book.standing("a:1"), book.ready) == (Standing.UNPROVEN, 0)
    assert book.troubles == "a:1: gone"
    book.proved("a:1")
    assert (book.standing("a:1"), book.troubles) == (Standing.READY, "")


def test_a_device_that_fails_again_and_again_rests_longer_and_longer(book, clock, caplog):
    pauses = []
    for _ in range(10):
        book.failed("a:1", "no space left")
        began = clock.now
        while book.standing("a:1") is Standing.ASIDE:
            clock.now += 0.5
        pauses.append(clock.now - began)
    assert pauses[:5] == [0.0, 1.0, 2.0, 4.0, 8.0]
    assert pauses[-1] == LONGEST_PAUSE_S
    assert "Device a:1 is set aside for 1 s: no space left." in caplog.messages
    book.proved("a:1")
    assert caplog.messages[-1] == "Device a:1 works again."
    book.failed("a:1", "no space left")
    assert book.standing("a:1") is Standing.UNPROVEN


def test_what_a_candidate_has_done_does_not_count_against_a_device(book):
    book.failed("a:1", "lost")
    book.failed("a:1", "lost")
    book.forgive("a:1")
    assert book.standing("a:1") is Standing.UNPROVEN


def test_devices_are_judged_each_for_itself(book):
    book.proved("b:1")
    book.failed("a:1", "lost")
    assert (book.standing("b:1"), book.ready) == (Standing.READY, 1)
