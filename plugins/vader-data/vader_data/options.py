"""Options of the built-in detectors, scorers, captioners and embedders, with the origin of each default."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Options(BaseModel):
    """Refuses what it does not know."""

    model_config = ConfigDict(extra="forbid")


# -- scene detectors ---------------------------------------------------------------------------------------


class CascadeOptions(Options):
    """Of ``cascade``."""

    thresholds: list[float] = Field([10.0, 20.0, 30.0], description="Content threshold of each pass.")
    frame_skips: list[int] = Field([0, 1, 2], description="Frames left out after each one, per pass.")
    min_scene_len: int = Field(10, ge=1, description="Fewest frames between two cuts of a pass.")
    merge_short_scenes: bool = Field(
        False,
        description="As upstream: a scene shorter than min_scene_len becomes part of the next one, whose "
        "clip then holds a hard cut. Off: it is a clip of its own, too short to be kept.",
    )
    keep_slivers: bool = Field(
        False,
        description="As upstream: the same cut, found by several passes one or two frames apart, counts each "
        "time, and a clip may begin one or two frames late.",
    )

    @model_validator(mode="after")
    def _as_many(self) -> CascadeOptions:
        if len(self.thresholds) != len(self.frame_skips) or not self.thresholds:
            raise ValueError("give as many thresholds as frame_skips, one of each at least")
        if min(self.frame_skips) < 0:
            raise ValueError("frame_skips are 0 or more")
        return self


class ContentOptions(Options):
    """Of ``content``."""

    threshold: float = Field(27.0, gt=0, description="Content change that makes a cut.")
    min_scene_len: int = Field(15, ge=1, description="Fewest frames between two cuts.")
    merge_short_scenes: bool = Field(False, description="As upstream: shorter scenes join the next one.")


class AdaptiveOptions(Options):
    """Of ``adaptive``."""

    threshold: float = Field(3.0, gt=0, description="How many times the content change around it a cut is.")
    min_scene_len: int = Field(15, ge=1, description="Fewest frames between two cuts.")
    window: int = Field(2, ge=1, description="Frames on either side that the change is compared with.")
    min_content: float = Field(15.0, ge=0, description="Least content change of a cut.")
    merge_short_scenes: bool = Field(
        False,
        description="As upstream: a scene shorter than min_scene_len becomes part of the next one, whose "
        "clip then holds a hard cut.",
    )


# -- scorers -----------------------------------------------------------------------------------------------


class FarnebackOptions(Options):
    """Of ``farneback``."""

    per_second: float = Field(2.0, gt=0, description="Frames per second between which flow is measured.")
    native_pixels: bool = Field(
        False,
        description="As upstream: pixels of the clip's own size, so that the score grows with the "
        "resolution. Off: pixels of a frame whose shorter side is reference_side.",
    )
    reference_side: int = Field(720, ge=1, description="Shorter side in whose pixels the score is told.")


class RaftOptions(Options):
    """Of ``raft``."""

    weights: str = Field(..., description="torchvision's raft_small or raft_large state dict, or `random`.")
    size: Literal["small", "large"] = Field("large", description="Which of the two networks.")
    per_second: float = Field(2.0, gt=0, description="Frames per second between which flow is measured.")
    side: int = Field(
        256, ge=128, description="Shorter side at which the network sees the frames, in pixels."
    )
    native_pixels: bool = Field(False, description="Pixels of the clip's own size.")
    reference_side: int = Field(720, ge=1, description="Shorter side in whose pixels the score is told.")
    iterations: int = Field(12, ge=1, description="Updates of the flow (torchvision's default: 12).")
    device: str | None = Field(None, description="cpu or cuda; left out, the GPU where there is one.")


class TextAreaOptions(Options):
    """Of ``text_area``."""

    frames: int = Field(
        1, ge=1, description="The middle frame, or so many evenly spaced ones; the mean counts."
    )
    ignore_over: float = Field(
        0.5, gt=0, description="A box over a larger share of the frame is the picture, not a line of text."
    )
    require_text: bool = Field(True, description="A box counts where something can be read in it.")
    box_threshold: float = Field(
        0.5, ge=0, le=1, description="Least confidence of a box (rapidocr's default)."
    )


class TextBoxesOptions(Options):
    """Of ``text_boxes``."""

    frame: int = Field(10, ge=0, description="Which frame; the last where the clip is shorter.")
    box_threshold: float = Field(0.3, ge=0, le=1, description="Least confidence of a box (Open-Sora's).")


class RewardOptions(Options):
    """Of ``reward``: any reward of the installed plugins."""

    reward: str = Field(..., description="Name of the reward, as `vader plugins` lists it.")
    options: dict[str, Any] = Field(default_factory=dict, description="The reward's own options.")
    frames: Literal["uniform", "points", "middle", "all"] = Field(
        "uniform",
        description="Which frames an image reward sees: evenly spaced (EasyAnimate), at 10, 50 and 90 % "
        "(Open-Sora), the middle one, or every one. A clip reward says itself how many, evenly spread.",
    )
    count: int = Field(4, ge=1, description="How many, with uniform.")
    batch_size: int = Field(8, ge=1, description="Clips of one size that are scored together.")
    device: str | None = Field(None, description="cpu or cuda; left out, the GPU where there is one.")


# -- captioners --------------------------------------------------------------------------------------------


class OpenAIOptions(Options):
    """Of ``openai``: any server that speaks OpenAI's chat completions."""

    url: str = Field(
        ..., description="Base address, e.g. http://localhost:8000/v1; /chat/completions is added."
    )
    model: str = Field(..., description="As the server names it.")
    key_variable: str = Field(
        "OPENAI_API_KEY", description="Environment variable that holds the key, if any."
    )
    prompt: str = Field("three_frames", description="Name of a prompt of ours, or the prompt itself.")
    image_prompt: str = Field("image", description="The same for images.")
    subject: str = Field("", description="A word for the style that the answer shall not name, e.g. `lego`.")
    frames: list[float] = Field(
        [0.1, 0.5, 0.9], description="Shares of the length at which frames are taken."
    )
    max_tokens: int = Field(300, ge=1, description="Longest answer.")
    longest_side: int = Field(
        1024, ge=16, description="Frames are made smaller to this before they are sent."
    )
    concurrency: int = Field(8, ge=1, description="Questions under way at a time.")
    retries: int = Field(5, ge=0, description="How often a question is repeated when the server is busy.")
    timeout: float = Field(60.0, gt=0, description="Seconds to wait for an answer.")


class TransformersOptions(Options):
    """Of ``transformers``: a vision-language model of the transformers library."""

    weights: str = Field(..., description="A folder, or hub:OWNER/NAME.")
    prompt: str = Field("three_frames", description="Name of a prompt of ours, or the prompt itself.")
    image_prompt: str = Field("image", description="The same for images.")
    subject: str = Field("", description="A word for the style that the answer shall not name, e.g. `lego`.")
    frames: list[float] = Field(
        [0.1, 0.5, 0.9], description="Shares of the length at which frames are taken."
    )
    max_tokens: int = Field(300, ge=1, description="Longest answer.")
    batch_size: int = Field(4, ge=1, description="Clips asked about together.")
    device: str | None = Field(None, description="cpu or cuda; left out, the GPU where there is one.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="Of the weights.")


# -- embedders ---------------------------------------------------------------------------------------------


class ThumbnailOptions(Options):
    """Of ``thumbnail``: no weights."""

    side: int = Field(12, ge=2, description="Frames are shrunk to side x side.")


class ClipEmbedderOptions(Options):
    """Of ``clip``: image features of a transformers model."""

    weights: Path = Field(..., description="Folder of a CLIP, SigLIP or DINOv2 model.")
    batch_size: int = Field(16, ge=1, description="Clips embedded together.")
    device: str | None = Field(None, description="cpu or cuda; left out, the GPU where there is one.")
