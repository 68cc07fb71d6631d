"""A command in one of several processes: its words come as one JSON list."""

from __future__ import annotations

import json
import os
import signal
import sys

from vader_core.cli import main
from vader_core.parallel.news import LAUNCHED

_PR_SET_PDEATHSIG = 1


def end_with_the_launcher() -> None:
    """Be asked to stop when the launcher is gone, however it went (Linux alone knows how)."""
    if not sys.platform.startswith("linux"):
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(os.environ.get(LAUNCHED, os.getppid())):  # it went before we could ask
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    end_with_the_launcher()
    main(json.loads(sys.argv[1]))
