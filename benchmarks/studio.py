"""How quickly the studio answers, and what it holds, with 100 queued jobs and 200 runs.

    python benchmarks/studio.py RUN

RUN is any run directory; it is copied 200 times. Prints one JSON line: the first, the slowest and the median
answer of each page in seconds, and the server's memory before and after a thousand requests.
"""

from __future__ import annotations

import argparse
import json
import shutil
import socket
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

import psutil
import uvicorn
from vader_studio.describer import Describer
from vader_studio.guard import LOOPBACK
from vader_studio.places import Places
from vader_studio.queue import Queue
from vader_studio.server import make_app
from vader_studio.studio import Studio

RUNS, JOBS, REQUESTS = 200, 100, 1000
#: A worker that never ends its job, so that all others wait.
BUSY = (sys.executable, "-c", "import sys, time\nfor line in sys.stdin:\n    time.sleep(3600)")
PAGES = ("/runs", "/generate", "/batches", "/api/jobs", "/runs/run-000", "/runs/run-000/body")


def served(folder: Path) -> tuple[Studio, uvicorn.Server, str]:
    """The studio on a free port, in a thread."""
    places = Places(folder / "runs", folder / "clips", folder / "state")
    queue = Queue(places.state / "jobs", command=BUSY)
    asked = [Describer(places.state / f"{name}.log") for name in ("describer", "planner")]
    studio = Studio(places, queue, *asked)
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    app = make_app(studio, hosts=LOOPBACK, token=None)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
    while not server.started:
        time.sleep(0.01)
    return studio, server, f"http://127.0.0.1:{listener.getsockname()[1]}"


def seconds(address: str, times: int) -> list[float]:
    """How long each of ``times`` answers took."""
    found = []
    for _ in range(times):
        begun = time.perf_counter()
        urllib.request.urlopen(address).read()
        found.append(time.perf_counter() - begun)
    return found


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("run", type=Path)
    run = parser.parse_args().run
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place).resolve()
        for name in ("runs", "clips", "state"):
            (folder / name).mkdir()
        for number in range(RUNS):
            shutil.copytree(run, folder / "runs" / f"run-{number:03d}")
        studio, server, address = served(folder)
        for number in range(JOBS):
            studio.queue.add(
                "sample", f"prompt {number}", {"prompt": f"prompt {number}"}, lambda name: folder
            )
        measured = {page: seconds(address + page, 20) for page in PAGES}
        before = process.memory_info().rss
        for number in range(REQUESTS):
            seconds(address + PAGES[number % len(PAGES)], 1)
        after = process.memory_info().rss
        server.should_exit = True
    row = {
        "runs": RUNS,
        "jobs": JOBS,
        "first": {page: round(times[0], 3) for page, times in measured.items()},
        "slowest": {page: round(max(times), 3) for page, times in measured.items()},
        "median": {page: round(statistics.median(times), 3) for page, times in measured.items()},
        "mib": [round(before / 2**20, 1), round(after / 2**20, 1)],
        "torch": "torch" in sys.modules,
    }
    print(json.dumps(row))


if __name__ == "__main__":
    main()
