"""A scorer behind an HTTP endpoint: what is sent, what may go wrong, and how it is said."""

from __future__ import annotations

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import pytest
import torch
from PIL import Image
from vader_rewards import http
from vader_rewards.options import HttpOptions

from vader_core.errors import MachineError, VaderError
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.registry import load_registry
from vader_core.testing.rewards import check_reward


class Server(ThreadingHTTPServer):
    """Scores a video by the mean red of its first frame, or fails as it is told to."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked, self.failures, self.says = [], [], None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/score"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server: Server = self.server
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.asked.append((asked, dict(self.headers)))
        if server.failures:
            self.send_error(server.failures.pop(0), "busy")
            return
        scores = [red(frames[0]) for frames in asked["videos"]]
        answer = json.dumps({"scores": scores} if server.says is None else server.says).encode()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        """Quiet."""


def red(frame):
    image = Image.open(BytesIO(base64.b64decode(frame)))
    return sum(image.getchannel(0).getdata()) / (255 * image.width * image.height)


@pytest.fixture
def server():
    made = Server()
    thread = threading.Thread(target=made.serve_forever, daemon=True)
    thread.start()
    yield made
    made.shutdown()
    made.server_close()
    thread.join()


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(http, "FIRST_WAIT", 0.0)


def make(server, **options):
    return http.Http(HttpOptions(url=server.url, **options), device=torch.device("cpu"), dtype=torch.float32)


def ask(reward, count=3):
    video = torch.linspace(0, 1, count).view(count, 1, 1, 1, 1).expand(count, 2, 3, 8, 8)
    return reward(video, [Prompt(f"prompt {index}") for index in range(count)], Randomness(0))


def test_videos_are_sent_in_batches_and_scores_come_back_in_order(server):
    found = ask(make(server, batch=2, headers={"Authorization": "Bearer x"}))
    assert found.score.tolist() == pytest.approx([0.0, 128 / 255, 1.0])
    assert torch.equal(found.loss, -found.score)
    assert [asked["prompts"] for asked, _ in server.asked] == [["prompt 0", "prompt 1"], ["prompt 2"]]
    assert all(len(frames) == 2 for asked, _ in server.asked for frames in asked["videos"])
    assert server.asked[0][1]["Authorization"] == "Bearer x"


def test_a_busy_server_is_asked_again(server):
    server.failures = [503, 429]
    assert len(ask(make(server, retries=2)).score) == 3
    assert len(server.asked) == 3


def test_a_refusal_is_not_repeated(server):
    server.failures = [404] * 9
    with pytest.raises(MachineError, match=r"reward 'http' at http://.*404"):
        ask(make(server))
    assert len(server.asked) == 1


def test_a_server_that_stays_away_is_named(server):
    server.failures = [500] * 9
    with pytest.raises(MachineError, match="500"):
        ask(make(server, retries=1))
    assert len(server.asked) == 2
    reward = make(server, retries=0)
    reward.options = HttpOptions(url="http://127.0.0.1:9/score", retries=0)
    with pytest.raises(MachineError, match="Connection refused"):
        ask(reward)


@pytest.mark.parametrize("says", [{"scores": [1.0]}, {"scores": [1.0, "x", 2.0]}, [1.0, 2.0, 3.0], {}])
def test_another_answer_is_shown(server, says):
    server.says = says
    with pytest.raises(MachineError, match="the answer must be"):
        ask(make(server))


def test_an_address_of_another_kind_is_refused():
    with pytest.raises(VaderError, match="url"):
        load_registry().get("reward", "http").make(
            {"url": "file:///etc/passwd"}, device="cpu", dtype=torch.float32
        )


def test_contract(server):
    report = check_reward("http", {"url": server.url, "batch": 64}, raising=False)
    assert {finding.clause.name for finding in report.findings if not finding.passed} == set()
