"""Captions by any server that speaks OpenAI's chat completions."""

from __future__ import annotations

import base64
import io
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from vader_core.errors import MachineError, VaderError

from .captions import prompt_text
from .contracts import Captioner, Clip
from .errors import ClipError
from .options import OpenAIOptions
from .sampling import at_points

#: The server is busy or has failed: the same question may be answered later.
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
#: No question will be answered until somebody changes something.
_NEVER = {401, 402, 403, 404, 405}
#: Seconds before the first repetition; doubled each time, 30 at most.
_PAUSE = 0.5


class OpenAICaptioner(Captioner):
    """Asks a server, several questions at a time."""

    def __init__(self, options: OpenAIOptions) -> None:
        self.options = options
        self.batch_size = options.concurrency
        self.prompts = {
            image: prompt_text(prompt, points=options.frames, subject=options.subject)
            for image, prompt in ((False, options.prompt), (True, options.image_prompt))
        }
        self._key = os.environ.get(options.key_variable, "")

    def indices(self, num_frames: int, fps: float) -> list[int]:
        """At the shares of the length that the options name."""
        return at_points(num_frames, tuple(self.options.frames))

    def caption(self, clips: Sequence[Clip]) -> list[str | Exception]:
        """One answer per clip.

        Raises:
            VaderError: The server refuses every question (no key, no such model).
            MachineError: It cannot be reached.
        """
        with ThreadPoolExecutor(self.options.concurrency) as pool:
            return list(pool.map(self._one, clips))

    def _one(self, clip: Clip) -> str | Exception:
        try:
            return self._ask(clip)
        except ClipError as error:
            return error

    def _ask(self, clip: Clip) -> str:
        pictures = [
            {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{self._encoded(frame)}"}}
            for frame in clip.frames
        ]
        text = self.prompts[clip.image]
        question = {
            "model": self.options.model,
            "messages": [{"role": "user", "content": [{"type": "text", "text": text}, *pictures]}],
            "max_tokens": self.options.max_tokens,
        }
        answer = self._send(json.dumps(question).encode())
        try:
            content = answer["choices"][0]["message"]["content"]
        except (KeyError, IndexError, TypeError) as error:
            raise ClipError("the captioner's answer has no choices[0].message.content") from error
        if not isinstance(content, str):
            raise ClipError("the captioner gave no text")
        return content.replace("\n", " ")

    def _encoded(self, frame: np.ndarray) -> str:
        picture = Image.fromarray(frame)
        longest = self.options.longest_side
        if max(picture.size) > longest:
            picture.thumbnail((longest, longest), Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        picture.save(buffer, format="JPEG", quality=90)
        return base64.b64encode(buffer.getvalue()).decode()

    def _send(self, body: bytes) -> Any:
        address = f"{self.options.url.rstrip('/')}/chat/completions"
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        problem = ""
        for attempt in range(self.options.retries + 1):
            if attempt:
                time.sleep(min(_PAUSE * 2 ** (attempt - 1), 30.0))
            request = urllib.request.Request(address, data=body, headers=headers)
            try:
                with urllib.request.urlopen(request, timeout=self.options.timeout) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                problem = f"HTTP {error.code}: {_message(error)}"
                if error.code in _NEVER:
                    raise VaderError(self._refused(address, problem)) from error
                if error.code not in _AGAIN:
                    raise ClipError(f"the captioner refused: {problem}") from error
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                problem = str(getattr(error, "reason", error))
            except json.JSONDecodeError as error:
                problem = f"the answer is not JSON: {error.msg}"
        raise MachineError(
            f"captioner {address} gave no answer in {self.options.retries + 1} tries ({problem}); start "
            "the server and run the same command again: finished shards are kept"
        )

    def _refused(self, address: str, problem: str) -> str:
        key = (
            f"the key in {self.options.key_variable} was sent"
            if self._key
            else (f"no key was sent: {self.options.key_variable} is not set")
        )
        return (
            f"captioner {address}: {problem} (model {self.options.model!r}, {key}); set "
            "captions.options.url, .model or .key_variable"
        )


def _message(error: urllib.error.HTTPError) -> str:
    text = error.read(2000).decode("utf-8", "replace")
    try:
        return str(json.loads(text)["error"]["message"])[:200]
    except (ValueError, KeyError, TypeError):
        return " ".join(text.split())[:200] or str(error.reason)
