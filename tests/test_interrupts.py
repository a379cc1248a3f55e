"""Ctrl-C beside compiled code."""

import signal
import subprocess
import sys
import threading

import numba
import pytest

from recsys.interrupts import held_back

WITHIN = "signal.raise_signal(signal.SIGINT)\nbeen.append('on')"


def test_compiled_code_is_left_before_an_interrupt_is_raised() -> None:
    """What a frame of numba does is finished first."""
    been: list[str] = []

    def call() -> None:
        exec(compile(WITHIN, numba.__file__, "exec"), {"signal": signal, "been": been})
        been.append("too far")

    with held_back(), pytest.raises(KeyboardInterrupt):
        call()
    assert been == ["on"]


def test_elsewhere_it_is_raised_at_once_and_handlers_come_back() -> None:
    """Outside compiled code nothing is held back."""
    before = signal.getsignal(signal.SIGINT)
    been: list[str] = []
    with held_back(), pytest.raises(KeyboardInterrupt):
        exec(compile(WITHIN, "elsewhere.py", "exec"), {"signal": signal, "been": been})
    assert been == []
    assert signal.getsignal(signal.SIGINT) is before


def test_where_it_is_ignored_it_stays_so() -> None:
    """As under nohup, or behind & in a script."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with held_back():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_off_the_main_thread_nothing_changes() -> None:
    """A thread cannot have handlers, and needs none."""
    seen = []

    def within() -> None:
        with held_back():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=within)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGINT)]


SCRIPT = """
import os, signal, threading, numpy as np
from recsys.interrupts import held_back
from recsys.models import transitions
from recsys.config import TransitionsConfig
from recsys.interactions import Sequences
rng = np.random.default_rng(0)
sequences = Sequences(np.arange(0, 40_001, 8), rng.integers(0, 500, 40_000).astype(np.int32))
for wait in rng.random(15) * 0.2:
    timer = threading.Timer(wait, os.kill, (os.getpid(), signal.SIGINT))
    try:
        with held_back():
            timer.start()
            while True:
                transitions.fit(sequences, 500, TransitionsConfig())
    except KeyboardInterrupt:
        timer.join()
print("well")
"""


def test_a_fit_can_be_interrupted_at_any_moment() -> None:
    """Each of many interrupts comes out as what it is, and the process lives on."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout.strip()) == (0, "well"), done.stderr
