"""Ctrl-C and SIGTERM let the step end."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


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

    Args:
        say: Tells a person.
    """
    asked = Asked()

    def ask(signum: int, frame: FrameType | None) -> None:
        if asked.signum is not None:
            raise KeyboardInterrupt
        asked.signum = signum
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
