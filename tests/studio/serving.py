"""A studio on a free port, with components and workers of its own where a test wants no model."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from vader_studio.describer import Describer
from vader_studio.guard import LOOPBACK
from vader_studio.places import Places
from vader_studio.queue import Queue
from vader_studio.server import make_app
from vader_studio.studio import Studio

HERE = Path(__file__).parent
STAND_IN = (sys.executable, str(HERE / "stand_in.py"))


@dataclass
class Answer:
    status: int
    headers: dict
    body: bytes

    @property
    def text(self):
        return self.body.decode(errors="replace")

    @property
    def json(self):
        return json.loads(self.body)


class Served:
    """A running studio, and a client of its own that sends exactly what it is told."""

    def __init__(self, studio, *, hosts=LOOPBACK, token=None):
        self.studio, self.token = studio, token
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        app = make_app(studio, hosts=hosts, token=token)
        self.server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.socket]}, daemon=True)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self):
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.thread.join(20)
        self.socket.close()
        assert not self.thread.is_alive()

    def ask(self, path, *, method="GET", body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        own = {"Host": f"127.0.0.1:{self.port}"}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            method, own["Content-Type"] = "POST", "application/json"
        if method != "GET":
            own["X-Vader-Studio"] = "1"
        with contextlib.closing(connection):
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            for name, value in {**own, **(headers or {})}.items():
                if value is not None:
                    connection.putheader(name, value)
            if body is not None:
                connection.putheader("Content-Length", str(len(body)))
            connection.endheaders(body)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Answer(answer.status, found, answer.read())

    def wait(self, name, *states, seconds=30):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            job = self.studio.queue.get(name)
            if job.state in (states or ("done",)):
                return job
            assert not job.ended, (job.state, job.message)
            time.sleep(0.02)
        raise AssertionError(f"{name} is {self.studio.queue.get(name).state}")


def places_in(folder):
    folder = folder.resolve()
    return Places(
        folder / "runs",
        folder / "clips",
        folder / "state",
        loras=(folder / "loras",),
        data=(folder / "data",),
    )


def make_studio(folder, *, read_only=False, gpus=("",)):
    places = places_in(folder)
    return Studio(
        places,
        Queue(places.state / "jobs", gpus, (*STAND_IN, "work")),
        Describer(places.state / "describer.log", (*STAND_IN, "describe")),
        Describer(places.state / "planner.log", (*STAND_IN, "describe")),
        read_only=read_only,
    )


class Watched:
    """A page with what went wrong on it, and every address that it asked for."""

    def __init__(self, browser, address, *, width=1280, scheme="light"):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.context.set_default_timeout(120_000)  # models take longer than a page
        self.page = self.context.new_page()
        self.address = address
        self.wrong, self.asked = [], []
        self.page.on("console", lambda said: self.wrong.append(said.text))
        self.page.on("pageerror", lambda error: self.wrong.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.wrong.append("dialog"), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path):
        self.page.goto(self.address + path)
        return self.page

    def outside(self):
        own = (self.address, "data:", "blob:", "about:")
        return [url for url in self.asked if not url.startswith(own)]

    def close(self):
        self.context.close()


def until(page, expression, seconds=60):
    """Wait for a truth of the page; the page's own policy allows no script to be waited with."""
    deadline = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, expression
        time.sleep(0.05)
