"""The options of every reward, as pydantic models; no torch in here."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

WEIGHTS = "`pretrained`, a file or folder, hub:OWNER/NAME[/FILE][@REVISION], or `random`"
ARCHITECTURE = "`full` (as published), `tiny` (for tests), a config.json, or a mapping of its entries"


class RewardOptions(BaseModel):
    """What every reward refuses: an option that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelOptions(RewardOptions):
    """Where a reward's model comes from and how large it is."""

    weights: str = Field(default="pretrained", description=f"Weights: {WEIGHTS}.")
    architecture: str | dict[str, Any] = Field(default="full", description=f"Architecture: {ARCHITECTURE}.")


class HeadOptions(ModelOptions):
    """A CLIP ViT-L/14 image tower with a small head on top."""

    head_weights: str | None = Field(
        default=None,
        description=f"The head's weights: {WEIGHTS}; without it `random` where `weights` is `random`, "
        f"else `pretrained`.",
    )


class AestheticOptions(HeadOptions):
    """Options of `aesthetic`."""

    target: float | None = Field(
        default=10.0,
        description="Score to reach: loss = grad_scale * |score - target|; "
        "null maximises: loss = -grad_scale * score.",
    )
    grad_scale: float = Field(default=0.1, gt=0, description="Factor of the loss.")


class WeatherOptions(HeadOptions):
    """Options of `rainy` and `snowy`."""

    target: float | None = Field(
        default=1.0,
        description="Score to reach: loss = grad_scale * |score - target|; "
        "null maximises: loss = -grad_scale * score.",
    )
    grad_scale: float = Field(default=1.0, gt=0, description="Factor of the loss.")


class CompressionOptions(HeadOptions):
    """Options of `compression`."""

    target: float | None = Field(
        default=None,
        description="Size in kB to reach: loss = grad_scale * |size - target|; null minimises the size.",
    )
    grad_scale: float = Field(default=1.0, gt=0, description="Factor of the loss.")
    upstream: bool = Field(
        default=False,
        description="Report the predicted size itself as the score, as the original does: there "
        "higher is worse.",
    )


class HpsOptions(ModelOptions):
    """Options of `hps`."""

    version: Literal["v2.0", "v2.1"] = Field(
        default="v2.1", description="Which HPS v2 weights `pretrained` means."
    )
    upstream: bool = Field(
        default=False,
        description="Pair image i of the flattened batch with prompt i, as the original does: "
        "with one prompt only the first frame counts.",
    )


class AestheticHpsOptions(RewardOptions):
    """Options of `aesthetic_hps`."""

    aesthetic: AestheticOptions = Field(
        default=AestheticOptions(), description="The aesthetic part's options."
    )
    hps: HpsOptions = Field(default=HpsOptions(), description="The HPS part's options.")


class PickScoreOptions(ModelOptions):
    """Options of `pick_score`."""

    upstream: bool = Field(
        default=False, description="Score every video against the batch's first prompt, as the original does."
    )


class ActpredOptions(ModelOptions):
    """Options of `actpred`."""

    label: str | None = Field(
        default=None,
        description="Action to show: a label name or its index. A prompt's metadata `label` comes first; "
        "without either, the longest label name found in the prompt.",
    )
    num_frames: int | None = Field(
        default=None,
        ge=2,
        description="Frames of the clip, evenly spaced over the video; null leaves them to --reward-frames. "
        "The published model was trained on 16.",
    )


class ObjectDetectionOptions(ModelOptions):
    """Options of `object_detection`."""

    detector: Literal["yolos_base", "yolos_tiny", "grounding_dino_base", "grounding_dino_tiny"] = Field(
        default="yolos_base", description="Which detector."
    )
    object: str = Field(
        default="book",
        description="The object, for prompts whose metadata holds no `object`: a class name for "
        "YOLOS, any words for "
        "Grounding DINO.",
    )
    mode: Literal["remove", "encourage"] = Field(
        default="remove",
        description="`remove`: one minus the mean confidence of the detections; `encourage`: the "
        "highest confidence "
        "of the object over all queries, without a threshold: a gradient before anything is detected.",
    )
    threshold: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Least confidence of a detection; null is 0.2 for YOLOS and 0.4 for Grounding DINO.",
    )
    upstream: bool = Field(
        default=False,
        description="A frame without the object wipes the frames before it, as in the original; "
        "`remove` only.",
    )


class VjepaOptions(ModelOptions):
    """Options of `vjepa`."""

    num_frames: int | None = Field(
        default=None,
        ge=2,
        description="Frames of the clip, evenly spaced over the video; null leaves them to --reward-frames. "
        "What fills no whole tubelet of 2 at the end is not seen.",
    )
    loss_exponent: float = Field(default=1.0, gt=0, description="p in mean |prediction - target|^p / p.")


class ViclipOptions(ModelOptions):
    """Options of `viclip`."""

    num_frames: int = Field(
        default=8, ge=1, description="Frames that the model sees, taken at an even stride."
    )


class JpegSizeOptions(RewardOptions):
    """Options of `jpeg_size`."""

    quality: int = Field(default=95, ge=1, le=100, description="JPEG quality.")


class ClipScoreOptions(ModelOptions):
    """Options of `clip_score`."""

    #: Every video is compared with its own prompt.
    upstream: ClassVar[bool] = False


class SubjectConsistencyOptions(ModelOptions):
    """Options of `subject_consistency`."""


class BackgroundConsistencyOptions(ModelOptions):
    """Options of `background_consistency`."""


class FlickeringOptions(RewardOptions):
    """Options of `temporal_flickering`: none."""


class DynamicDegreeOptions(RewardOptions):
    """Options of `dynamic_degree`."""

    weights: str = Field(default="pretrained", description=f"Weights: {WEIGHTS}.")
    fps: float = Field(
        default=8.0, gt=0, description="Frames per second of what it sees; below 8 the threshold rises."
    )
    upstream: bool = Field(
        default=False, description="Score 1 where VBench says that the video moves, else 0."
    )


class HttpOptions(RewardOptions):
    """Options of `http`."""

    url: str = Field(
        pattern=r"^https?://", description="Where to POST to, such as http://localhost:8000/score."
    )
    num_frames: int | None = Field(
        default=None,
        ge=1,
        description="Frames of each video that are sent; all that were decoded by default.",
    )
    batch: int = Field(default=8, ge=1, description="Videos per request.")
    timeout: float = Field(default=60.0, gt=0, description="Seconds until a request is given up.")
    retries: int = Field(
        default=3,
        ge=0,
        description="Repetitions after a failure, the first after half a second, then twice as long.",
    )
    headers: dict[str, str] = Field(default_factory=dict, description="Further headers of every request.")


class VqaYesOptions(ModelOptions):
    """Options of `vqa_yes`."""

    question: str = Field(
        default='Does this video show "{prompt}"? Answer Yes or No.',
        description="What is asked; {prompt} stands for the prompt's text.",
    )
    num_frames: int | None = Field(
        default=None, ge=1, description="Frames that it sees; all that were decoded by default."
    )
    min_pixels: int = Field(default=4 * 28 * 28, ge=28 * 28, description="Fewest pixels of a resized frame.")
    max_pixels: int = Field(
        default=256 * 28 * 28, ge=28 * 28, description="Most pixels of a resized frame; 784 are a token."
    )


class ImageRewardOptions(ModelOptions):
    """Options of `image_reward`."""

    vocabulary: str | None = Field(
        default=None, description="BERT's vocab.txt; by default the one beside the weights."
    )


class ScorerOptions(ModelOptions):
    """A tuned Qwen2-VL, and the words of the model that it was tuned from."""

    tokeniser: str | None = Field(
        default=None, description="Qwen2-VL's tokenizer.json, or its folder; by default that of the hub."
    )


class VideoRewardOptions(ScorerOptions):
    """Options of `video_reward`."""

    vq: float = Field(default=1.0, description="How often visual quality counts.")
    mq: float = Field(default=1.0, description="How often motion quality counts.")
    ta: float = Field(default=1.0, description="How often text alignment counts.")
    num_frames: int | None = Field(
        default=4,
        ge=2,
        description="Frames of the clip, evenly spaced over the video; null leaves them to --reward-frames. "
        "The original takes 2 a second, and 4 at least.",
    )


class HpsV3Options(ScorerOptions):
    """Options of `hps_v3`."""


class MpsOptions(ModelOptions):
    """Options of `mps`."""

    condition: str = Field(
        default="light, color, clarity, tone, style, ambiance, artistry, shape, face, hair, hands, limbs, "
        "structure, instance, texture, quantity, attributes, position, number, location, word, things.",
        description="What is judged, in words; the default is what the authors call overall.",
    )
    threshold: float = Field(
        default=0.01,
        ge=0,
        lt=1,
        description="Words of a prompt whose nearness to the condition, as a share of the nearest's, is not "
        "above it are not seen.",
    )
