"""``actpred``: whether a video shows an action, by VideoMAE fine-tuned on Kinetics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from vader_core.errors import VaderError
from vader_core.prompts import Prompt
from vader_core.randomness import Randomness
from vader_core.reward import FramesNeeded, Reward, RewardOutput, clip

from .labels import label_in_text, label_index, labels_of
from .loading import load_model, published_architecture
from .options import ActpredOptions
from .precision import differentiated
from .preprocessing import imagenet_pixels
from .weight_files import ACTPRED, ACTPRED_CONFIG

#: VideoMAE base on Kinetics-400; its label names come with the weights.
PRESETS: dict[str, dict[str, Any]] = {
    "full": {"num_labels": 400},
    "tiny": {
        "patch_size": 32,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "id2label": {"0": "jogging", "1": "playing piano", "2": "riding a bike", "3": "surfing water"},
    },
}


def build_videomae(layout: Mapping[str, Any]) -> Any:
    """The classifier. Its keys have no bias, which some versions of transformers give them."""
    from transformers import VideoMAEConfig, VideoMAEForVideoClassification

    model = VideoMAEForVideoClassification(VideoMAEConfig(**layout))
    for name, part in model.named_modules():
        if name.endswith(".attention.key"):
            part.bias = None
    return model


def current_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The published file's keys as today's transformers has them: the biases belong to their layers."""
    renamed = {".q_bias": ".query.bias", ".v_bias": ".value.bias"}
    result = {}
    for name, value in tensors.items():
        for old, new in renamed.items():
            name = name.replace(old, new) if name.endswith(old) else name
        result[name] = value
    return result


def position_table(count: int, width: int) -> Float[Tensor, "1 n d"]:
    """VideoMAE's fixed sine and cosine positions: base 10000, even columns sine, odd columns cosine."""
    columns = torch.arange(width, dtype=torch.float64)
    rates = torch.pow(10000.0, -2.0 * torch.div(columns, 2, rounding_mode="floor") / width)
    angles = torch.arange(count, dtype=torch.float64)[:, None] * rates
    return torch.where(columns.long() % 2 == 0, angles.sin(), angles.cos()).float()[None]


class Actpred(Reward):
    """The probability that a video shows the wanted action, 0 to 1; the loss is the cross entropy.

    The position table is computed, so a clip may have any even number of frames; an odd last frame is not
    seen.
    """

    name: ClassVar[str] = "actpred"
    families: ClassVar[tuple[str, ...]] = ("videomae",)

    def __init__(self, options: ActpredOptions, *, device: torch.device, dtype: torch.dtype) -> None:
        what = "reward 'actpred'"
        layout = published_architecture(
            options.architecture, options.weights, PRESETS, ACTPRED_CONFIG, needed_for=what
        )
        self.model: Any = load_model(
            lambda: build_videomae(layout),
            options.weights,
            ACTPRED,
            device=device,
            dtype=dtype,
            needed_for=what,
            option="-o reward.actpred.weights=PATH",
            convert=current_names,
        )
        self.device, self.dtype = device, dtype
        self.labels = labels_of(self.model.config)
        self.label = (
            None if options.label is None else label_index(options.label, self.labels, needed_for=what)
        )
        self.num_frames = options.num_frames

    @property
    def frames(self) -> FramesNeeded:
        """The option ``num_frames``, at least one tubelet."""
        return clip(self.num_frames, minimum=int(self.model.config.tubelet_size))

    def target(self, prompt: Prompt) -> int:
        """The class a prompt asks for: metadata ``label``, the option, or the longest label name in the text.

        Raises:
            VaderError: None of them says.
        """
        if "label" in prompt.metadata:
            return label_index(
                prompt.metadata["label"], self.labels, needed_for="reward 'actpred', metadata `label`"
            )
        if self.label is not None:
            return self.label
        found = label_in_text(prompt.text, self.labels)
        if found is None:
            some = ", ".join(list(self.labels.values())[:5])
            raise VaderError(
                f"reward 'actpred': prompt {prompt.text!r} names none of the {len(self.labels)} actions "
                f"({some}, …); put the action's name into the prompt, give it as metadata `label`, or set "
                "-o reward.actpred.label=NAME"
            )
        return found

    def pixels(self, video: Float[Tensor, "b f 3 H W"]) -> Float[Tensor, "b f 3 h w"]:
        """A video as the model wants it."""
        size = int(self.model.config.image_size)
        flat = rearrange(video.to(self.device), "b f c H W -> (b f) c H W")
        return rearrange(imagenet_pixels(flat, (size, size)), "(b f) c h w -> b f c h w", b=len(video))

    def logits(self, pixels: Float[Tensor, "b f 3 h w"]) -> Float[Tensor, "b classes"]:
        """One logit an action."""
        config = self.model.config
        if pixels.shape[1] < config.tubelet_size:
            raise VaderError(
                f"reward 'actpred' needs at least {config.tubelet_size} frames, not {pixels.shape[1]}; use "
                "--reward-frames all or a longer video"
            )
        per_frame = (int(config.image_size) // int(config.patch_size)) ** 2
        count = pixels.shape[1] // int(config.tubelet_size) * per_frame
        embeddings = self.model.videomae.embeddings
        if (
            embeddings.position_embeddings.shape[1] != count
            or embeddings.position_embeddings.device != pixels.device
        ):
            embeddings.position_embeddings = position_table(count, int(config.hidden_size)).to(pixels.device)
        return differentiated(
            lambda inputs: self.model(pixel_values=inputs).logits,
            pixels,
            device=self.device,
            dtype=self.dtype,
        )

    def classify(self, video: Float[Tensor, "b f 3 H W"], targets: Int[Tensor, " b"]) -> RewardOutput:
        """Score and loss of each video for its class."""
        logits = self.logits(self.pixels(video))
        loss = F.cross_entropy(logits, targets, reduction="none")
        return RewardOutput(score=logits.softmax(dim=-1).gather(1, targets[:, None]).squeeze(1), loss=loss)

    def __call__(
        self, video: Float[Tensor, "b f 3 H W"], prompts: Sequence[Prompt], rng: Randomness
    ) -> RewardOutput:
        """Score and loss of each video for its prompt's action."""
        targets = torch.tensor([self.target(prompt) for prompt in prompts], device=self.device)
        return self.classify(video, targets)
