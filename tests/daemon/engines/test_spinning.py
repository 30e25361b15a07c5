"""Idle threads spin on a quiet machine only, and the second pool that stops them comes and goes."""

from __future__ import annotations

import gc
import threading

from daemon.engines.transformers.spinning import BUSY, CALM, EVERY, STALE, SecondPool, Spinning, Usage, current_usage


class Machine:
    """A clock, and what runs: `pass_time` adds CPU seconds of others and of this process."""

    def __init__(self) -> None:
        self.now = 100.0
        self.usage = Usage(50.0, 10.0)
        self.held = 0

    def hold(self) -> None:
        self.held += 1

    def release(self) -> None:
        self.held = 0

    def pass_time(self, seconds: float, others: float, own: float) -> None:
        self.now += seconds
        self.usage = Usage(self.usage.everything + seconds * (others + own), self.usage.own + seconds * own)


def make(machine: Machine) -> Spinning:
    return Spinning(machine, usage=lambda: machine.usage, clock=lambda: machine.now)


def test_threads_spin_once_the_machine_has_been_quiet_for_a_while() -> None:
    machine = Machine()
    spinning = make(machine)
    spinning.look()
    assert machine.held == 1
    for _ in range(CALM):
        assert not spinning.allowed
        machine.pass_time(EVERY, 0.1, 4.0)
        spinning.look()
    assert spinning.allowed
    assert machine.held == 0


def test_one_busy_look_is_enough_to_sleep() -> None:
    machine = Machine()
    spinning = make(machine)
    for _ in range(CALM + 1):
        spinning.look()
        machine.pass_time(EVERY, 0.0, 4.0)
    spinning.look()
    assert spinning.allowed
    machine.pass_time(EVERY, BUSY * 1.5, 3.0)
    spinning.look()
    assert not spinning.allowed
    assert machine.held == 1


def test_what_happened_long_ago_decides_nothing() -> None:
    machine = Machine()
    spinning = make(machine)
    for _ in range(CALM + 1):
        spinning.look()
        machine.pass_time(EVERY, 0.0, 4.0)
    spinning.look()
    machine.pass_time(STALE * 5, 3.0, 0.0)
    spinning.look()
    assert spinning.allowed


def test_looks_that_follow_at_once_read_nothing() -> None:
    machine = Machine()
    reads = 0

    def usage() -> Usage:
        nonlocal reads
        reads += 1
        return machine.usage

    spinning = Spinning(machine, usage=usage, clock=lambda: machine.now)
    for _ in range(100):
        machine.pass_time(EVERY / 50, 0.0, 1.0)
        spinning.look()
    assert reads <= 4


def test_the_pool_ends_with_what_decides_about_it() -> None:
    holder = SecondPool()
    spinning = Spinning(holder)
    names = [thread.name for thread in threading.enumerate()]
    assert "fcd-idle-pool" in names
    pools = [thread for thread in threading.enumerate() if thread.name == "fcd-idle-pool"]
    del spinning
    gc.collect()
    for thread in pools:
        thread.join(10)
        assert not thread.is_alive()


def test_the_usage_read_from_the_machine_grows_with_work() -> None:
    before = current_usage()
    while current_usage().own < before.own + 0.05:
        sum(range(10_000))
    after = current_usage()
    # The machine's own figures come in hundredths of a second.
    assert after.everything - before.everything > 0.0
