"""A hub that answers with whatever it likes writes nowhere, learns no token, and ends in one message."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

GOOD = b"the file"
SUM = hashlib.sha256(GOOD).hexdigest()
COMMIT = "0" * 40
LINKED = {"X-Linked-Size": "8", "X-Linked-Etag": f'"{SUM}"'}
#: Name of the repository -> what its answers have in place of the right ones.
ANSWERS = {
    "good": {},
    "etag-up": {"ETag": '"../../../outside"'},
    "etag-absolute": {"ETag": '"{outside}"'},
    "etag-hidden": {"ETag": '".hidden"'},
    "etag-long": {"ETag": f'"{"a" * 4000}"'},
    "etag-empty": {"ETag": '""'},
    "linked-etag-up": {"X-Linked-Etag": '"../../../outside"'},
    "commit-up": {"X-Repo-Commit": "../../../outside"},
    "commit-absolute": {"X-Repo-Commit": "{outside}"},
    "missing-with-commit": {"status": 404, "X-Error-Code": "EntryNotFound", "X-Repo-Commit": "../../out"},
    "size-huge": {"X-Linked-Size": str(1 << 60)},
    "size-negative": {"X-Linked-Size": "-5"},
    "size-none": {"Content-Length": None},
    "to-a-file": {"head": 302, "Location": "file:///etc/hostname", **LINKED},
    "to-ftp": {"head": 302, "Location": "ftp://127.0.0.1/x", **LINKED},
    "get-to-a-file": {"get": 302, "Location": "file:///etc/hostname"},
    "get-to-another-host": {"get": 302, "Location": "{other}/x"},
    "head-to-another-host": {"head": 302, "Location": "{other}/x", **LINKED},
    "in-circles": {"get": 302, "Location": "{here}/made/in-circles/resolve/main/one.bin"},
    "endless": {"body": GOOD + b"x" * 5_000_000},
    "other-bytes": {"body": b"the fiel"},
    "names-up": {"names": ["../../../outside", "one.bin"]},
    "names-absolute": {"names": ["{outside}"]},
    "sha-up": {"sha": "../../../outside", "names": ["one.bin"]},
    "not-json": {"names": None},
}  # fmt: skip
#: Answers after which the file is there all the same, and right.
FINE = {"good", "get-to-another-host", "head-to-another-host", "endless"}

ASK = """
import json, sys
from vader_core.errors import VaderError
from vader_core.weights import WeightFile, fetch
told = {}
for name in json.loads(sys.argv[1]):
    wanted = WeightFile("made/" + name, "" if name.startswith(("names", "sha", "not-json")) else "one.bin")
    try:
        told[name] = ["path", str(fetch(wanted, needed_for="it"))]
    except VaderError as error:
        told[name] = ["error", str(error)]
    except BaseException as error:
        told[name] = ["traceback", repr(error)]
print(json.dumps(told))
"""


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers as the repository's name says."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        server = self.server
        server.tokens.append((server.server_port, self.path, self.headers.get("Authorization")))
        parts = self.path.strip("/").split("/")
        if parts[0] == "x":  # the other host
            return self.send(200, {}, GOOD, body=body)
        if parts[0] == "api":
            return self.api(ANSWERS[parts[3]], body=body)
        odd = dict(ANSWERS[parts[1]])
        status = odd.pop("status", None) or odd.pop("get" if body else "head", 200)
        for word in ("get", "head", "names", "sha"):
            odd.pop(word, None)
        if status == 200:
            odd.pop("Location", None)
        return self.send(status, odd, odd.pop("body", GOOD), body=body)

    def api(self, odd, *, body):
        names = odd.get("names", ["one.bin"])
        if names is None:
            return self.send(200, {}, b"[" * 100_000, body=body)
        listed = [{"rfilename": self.filled(name)} for name in names]
        found = {"id": "made/x", "sha": odd.get("sha", COMMIT), "siblings": listed}
        return self.send(200, {}, json.dumps(found).encode(), body=body)

    def filled(self, text):
        return (
            text.replace("{outside}", self.server.outside)
            .replace("{other}", self.server.other)
            .replace("{here}", self.server.here)
        )

    def send(self, status, odd, content, *, body):
        self.send_response(status)
        size = len(content) if status == 200 else 0
        headers = {"ETag": f'"{SUM}"', "X-Repo-Commit": COMMIT, "Content-Length": str(size)} | odd
        if not body and status == 200 and headers["Content-Length"] is not None:
            headers["Content-Length"] = str(len(GOOD))
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, self.filled(value))
        self.end_headers()
        self.close_connection = True
        if body and status == 200:
            self.wfile.write(content)


@pytest.fixture
def servers(tmp_path):
    made = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) for _ in range(2)]
    tokens = []
    for server, other in zip(made, reversed(made), strict=True):
        server.tokens, server.daemon_threads = tokens, True
        server.outside = str(tmp_path / "outside")
        server.here = f"http://127.0.0.1:{server.server_port}"
        server.other = f"http://localhost:{other.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield made
    for server in made:
        server.shutdown()
        server.server_close()


def test_no_answer_of_a_hub_leads_out_of_its_cache(servers, tmp_path):
    home = tmp_path / "a" / "b" / "c" / "cache"
    environment = os.environ | {
        "HF_ENDPOINT": servers[0].here,
        "HF_HOME": str(home),
        "HF_TOKEN": "hf_" + "s" * 30,
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }
    done = subprocess.run(
        [sys.executable, "-c", ASK, json.dumps(list(ANSWERS))],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    for name, (kind, words) in told.items():
        if name in FINE:
            assert kind == "path", (name, words)
            assert Path(words).read_bytes() == GOOD, name
        else:
            assert kind == "error", (name, words)
            assert words.startswith("it: "), (name, words)
    made = {path.relative_to(tmp_path).parts[:4] for path in tmp_path.rglob("*") if not path.is_dir()}
    assert made <= {("a", "b", "c", "cache")}, made
    hostname = Path("/etc/hostname").read_bytes() if Path("/etc/hostname").is_file() else b"none"
    for path in home.rglob("*"):
        assert path.is_symlink() or path.is_dir() or hostname not in path.read_bytes(), path
        assert not path.is_file() or path.stat().st_size < 1_000_000, path
    assert any(token for port, _, token in servers[0].tokens if port == servers[0].server_port)
    assert not [path for port, path, token in servers[0].tokens if token and port == servers[1].server_port]
