"""A device's worker: reads jobs as JSON lines, does each through ``vader_core.api``, tells how far it is.

Whatever is printed meanwhile goes to the log; the events have a stream of their own.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from importlib import import_module
from pathlib import Path

from vader_core.errors import VaderError
from vader_studio.events import Events

#: Seconds that a training is given to write its checkpoint once the server is gone.
_PATIENCE = 120.0


def main() -> None:
    """Work until there are no more orders."""
    events = Events(os.dup(1))
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    import_module("vader_core.api.sample")  # slow: done before the first order comes
    from vader_studio.tasks import Tasks

    tasks = Tasks(events)
    for line in sys.stdin:
        order = json.loads(line)
        try:
            tasks.do(order)
        except VaderError as error:
            events.send("failed", message=str(error))
        except (KeyboardInterrupt, SystemExit):
            events.send("cancelled")
            return
        except BaseException as error:  # the border between jobs: the next one must be served
            traceback.print_exc()
            events.send("failed", message=_told(error))
            if not isinstance(error, Exception):
                raise


def _end_with(parent: int) -> None:
    """End when the server that started this is gone, however it went: the next one takes the job up again."""
    while os.getppid() == parent:
        time.sleep(0.3)
    os.kill(os.getpid(), signal.SIGINT)  # a training writes its checkpoint first
    time.sleep(_PATIENCE)
    os._exit(1)


def _told(error: BaseException) -> str:
    place = traceback.extract_tb(error.__traceback__)
    where = f" ({Path(place[-1].filename).name}, line {place[-1].lineno})" if place else ""
    return f"{type(error).__name__}: {error}{where}"


if __name__ == "__main__":
    main()
