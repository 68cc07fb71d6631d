"""A server on this machine that speaks OpenAI's chat completions, as far as a captioner needs it."""

from __future__ import annotations

import base64
import io
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from PIL import Image


class Captions:
    """What the server is asked and what it says.

    Args:
        say: ``say(question, pictures) -> str``, or ``(status, body)`` for a failure.
    """

    def __init__(self, say):
        self.say = say
        self.questions, self.pictures, self.headers = [], [], []
        self.url = ""


@contextmanager
def captioner(say):
    """A running server; its address is in ``url``."""
    state = Captions(say)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            content = question["messages"][0]["content"]
            encoded = [part["image_url"]["url"] for part in content if part["type"] == "image_url"]
            pictures = [
                Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/jpeg;base64,"))))
                for url in encoded
            ]
            state.questions.append(question)
            state.pictures.append(pictures)
            state.headers.append(dict(self.headers))
            answer = (
                state.say(question, pictures)
                if self.path == "/v1/chat/completions"
                else (404, "no such page")
            )
            status, body = answer if isinstance(answer, tuple) else (200, spoken(answer))
            data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def spoken(text):
    """An answer in the protocol's form."""
    return {"id": "1", "object": "chat.completion", "choices": [{"index": 0, "message": {"content": text}}]}
