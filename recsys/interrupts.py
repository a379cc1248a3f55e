"""Interrupts: Ctrl-C, held back while compiled code is entered or left.

An exception from a signal handler in the middle of it comes out as a SystemError, or ends the
process: numba and LLVM do not expect one where they call back into Python.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

# Folders of the compilers; they are not imported here, as that takes a second.
FRAGILE = tuple(
    str(Path(spec.origin).parent)
    for spec in map(find_spec, ("numba", "llvmlite"))
    if spec is not None and spec.origin is not None
)


@contextmanager
def held_back() -> Iterator[None]:
    """Within, SIGINT raises KeyboardInterrupt where no frame of compiled code is on the stack.

    Where one is, as soon as it has returned. Off the main thread, which alone is interrupted, and
    where SIGINT is ignored, it changes nothing.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(_signal: int, frame: FrameType | None) -> None:
    caller = _caller_of_compiled(frame)
    if caller is None:
        raise KeyboardInterrupt
    # The next line of whoever called compiled code raises: a timer would go off in the compiled
    # code of a loop again and again, as that is where the time is spent.
    caller.f_trace = _raise
    sys.settrace(lambda *_event: None)


def _caller_of_compiled(frame: FrameType | None) -> FrameType | None:
    """The frame that called the outermost of compiled code on the stack, None without any."""
    caller = None
    while frame is not None:
        if frame.f_code.co_filename.startswith(FRAGILE):
            caller = frame.f_back
        frame = frame.f_back
    return caller


def _raise(frame: FrameType, _event: str, _value: Any) -> None:
    sys.settrace(None)
    frame.f_trace = None
    raise KeyboardInterrupt
