"""Captions by a vision-language model of the transformers library, in batches on this machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from vader_core.errors import MissingDependencyError, VaderError
from vader_core.model_folder import from_folder
from vader_core.paths import entered

from .captions import prompt_text
from .contracts import Captioner, Clip
from .device import chosen_device
from .options import TransformersOptions
from .sampling import at_points


class TransformersCaptioner(Captioner):
    """Any model that ``AutoModelForImageTextToText`` loads, asked by its own chat template."""

    def __init__(self, options: TransformersOptions) -> None:
        self.options = options
        self.batch_size = options.batch_size
        self.prompts = {
            image: prompt_text(prompt, points=options.frames, subject=options.subject)
            for image, prompt in ((False, options.prompt), (True, options.image_prompt))
        }
        self.device = chosen_device(options.device)
        self.processor, self.model = _loaded(options)
        self.model.to(self.device)

    def indices(self, num_frames: int, fps: float) -> list[int]:
        """At the shares of the length that the options name."""
        return at_points(num_frames, tuple(self.options.frames))

    @torch.no_grad()
    def caption(self, clips: Sequence[Clip]) -> list[str | Exception]:
        """One answer per clip, decoded greedily."""
        pictures = [[Image.fromarray(frame) for frame in clip.frames] for clip in clips]
        content: list[dict[str, str]] = [{"type": "image"} for _ in clips[0].frames]
        content.append({"type": "text", "text": self.prompts[clips[0].image]})
        question = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        inputs = self.processor(
            text=[question] * len(clips), images=pictures, return_tensors="pt", padding=True
        ).to(self.device)
        inputs = {
            name: value.to(self.model.dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        tokens = self.model.generate(**inputs, max_new_tokens=self.options.max_tokens, do_sample=False)
        answers = self.processor.batch_decode(
            tokens[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True
        )
        return [" ".join(answer.split()) for answer in answers]


def _loaded(options: TransformersOptions) -> tuple[Any, Any]:
    try:
        from transformers import AutoModelForImageTextToText, AutoProcessor
    except ImportError as error:
        raise MissingDependencyError(
            "transformers", "captioner 'transformers'", "pip install transformers torchvision"
        ) from error
    where = options.weights.removeprefix("hub:")
    if where == options.weights and not entered(where).is_dir():
        raise VaderError(
            f"captioner 'transformers': weights {options.weights!r}: no such folder; give the folder of a "
            "vision-language model, or hub:OWNER/NAME"
        )
    if where == options.weights:
        where = str(entered(where))
    what, dtype = "captioner 'transformers'", getattr(torch, options.dtype)
    processor = from_folder(AutoProcessor, where, what=what)
    model = from_folder(AutoModelForImageTextToText, where, what=what, dtype=dtype)
    processor.tokenizer.padding_side = "left"
    return processor, model.eval().requires_grad_(False)
