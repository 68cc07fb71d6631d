"""Ctrl-C and SIGTERM let the step end."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

#: Seconds in which a second signal is the first one's echo.
ECHO = 1.0


class StoppedError(Exception):
    """The run was asked to stop and has written its checkpoint.

    Args:
        signum: The signal that asked.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum


class Asked:
    """Which signal asked to stop, if one did."""

    signum: int | None = None


@contextmanager
def stop_signals(say: Callable[[str], None]) -> Iterator[Asked]:
    """Within, Ctrl-C and SIGTERM are noted; a second one leaves at once.

    One that follows within :data:`ECHO` seconds is the first one's echo: the terminal and a launcher may both
    hand on the same key press, and a launcher's end reaches its processes once for each of its threads.

    Args:
        say: Tells a person.
    """
    asked = Asked()
    since = 0.0

    def ask(signum: int, frame: FrameType | None) -> None:
        nonlocal since
        if asked.signum is not None:
            if time.monotonic() < since + ECHO:
                return
            raise KeyboardInterrupt
        asked.signum, since = signum, time.monotonic()
        say("stopping after this step …")

    before = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            before[number] = signal.signal(number, ask)
    except ValueError:  # not in the main thread, where signals cannot be taken
        before = {}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
