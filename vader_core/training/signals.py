"""Ctrl-C and SIGTERM let the step end."""

from __future__ import annotations

import signal


class StoppedError(Exception):
    """The run was asked to stop and has written its checkpoint.

    Args:
        signum: The signal that asked.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"stopped by {signal.Signals(signum).name}")
        self.signum = signum
