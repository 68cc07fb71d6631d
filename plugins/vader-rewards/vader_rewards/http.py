"""``http``: any scorer behind an HTTP endpoint; a black box."""

from __future__ import annotations

import base64
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from io import BytesIO
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from vader_core.errors import MachineError
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import ClipReward, FramesNeeded, clip

from .options import HttpOptions

#: Seconds before the first repetition; each further one waits twice as long.
FIRST_WAIT = 0.5


class Http(ClipReward):
    """What a server says of videos and prompts; without a gradient.

    A request is a POST of JSON, {"prompts": [text, …], "videos": [[frame, …], …]}; frames are PNGs in base64.
    The answer is JSON, {"scores": [number, …]}: one per video, higher is better.
    """

    name: ClassVar[str] = "http"
    differentiable: ClassVar[bool] = False

    def __init__(self, options: HttpOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        self.options = options

    @property
    def frames(self) -> FramesNeeded:
        """A clip of ``num_frames`` frames, or of any length."""
        return clip(self.options.num_frames)

    def score(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> Float[Tensor, " b"]:
        """The server's scores, asked for ``batch`` videos at a time.

        Raises:
            MachineError: The server cannot be reached, or answers with something else.
        """
        step, scores = self.options.batch, []
        for start in range(0, len(video), step):
            scores += self._asked(video[start : start + step], prompts[start : start + step])
        return torch.tensor(scores, dtype=torch.float32, device=video.device)

    def _asked(self, video: Tensor, prompts: Sequence[Prompt]) -> list[float]:
        asked = {"prompts": [prompt.text for prompt in prompts], "videos": [encoded(one) for one in video]}
        answer = self._answer(json.dumps(asked).encode())
        scores = answer.get("scores") if isinstance(answer, dict) else None
        numbers = isinstance(scores, list) and all(
            isinstance(one, int | float) and math.isfinite(one) for one in scores
        )
        if not numbers or len(scores or []) != len(video):
            raise MachineError(
                f'{self._where}: the answer must be {{"scores": [{len(video)} numbers]}}, but is '
                f"{json.dumps(answer)[:200]}"
            )
        return [float(one) for one in scores or []]

    @property
    def _where(self) -> str:
        return f"reward 'http' at {self.options.url}"

    def _answer(self, body: bytes) -> Any:
        """The answer to one request, repeated where the server is busy or away."""
        request = urllib.request.Request(
            self.options.url, body, {"Content-Type": "application/json", **self.options.headers}
        )
        wait, problem = FIRST_WAIT, "no attempt was made"
        for attempt in range(self.options.retries + 1):
            if attempt:
                time.sleep(wait)
                wait *= 2
            try:
                with urllib.request.urlopen(request, timeout=self.options.timeout) as answer:
                    return json.loads(answer.read())
            except urllib.error.HTTPError as error:
                problem = f"{error.code} {error.reason}: {error.read(200).decode(errors='replace')}"
                if error.code < 500 and error.code != 429:  # asking again would change nothing
                    break
            except (OSError, ValueError) as error:
                problem = f"{type(error).__name__}: {error}"
        raise MachineError(f"{self._where}: {problem}")


def encoded(video: Float[Tensor, "f 3 H W"]) -> list[str]:
    """The frames as PNG in base64."""
    from PIL import Image

    pixels = (video.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    found = []
    for image in pixels:
        stream = BytesIO()
        Image.fromarray(image).save(stream, format="PNG")
        found.append(base64.b64encode(stream.getvalue()).decode())
    return found
